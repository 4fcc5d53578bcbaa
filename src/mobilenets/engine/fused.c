/* A 1x1 convolution, a depthwise one, and another 1x1 one or none, float32.

   Rows of the first convolution are in a ring, a block of channels after the other, and what the depthwise convolution
   makes of them are the rows that the last convolution reads. Without a last one, a block of channels goes through the
   whole map in the nearest cache, and the next block's weights are asked for meanwhile.

   Sums of the last convolution are in halves: a vector has eight channels, each twice, for even terms and for odd ones,
   and is multiplied by a pair of terms, which comes in one load. So eight channels are no more than half of a vector's
   work, and there are half as many loads.

   Defined on the command line: NAME; SOURCE, its channels; HEIGHT, WIDTH; INNER, the channels of the depthwise
   convolution; BLOCK_VECTORS; FIRST_PIXELS, FIRST_ACTIVATION; KERNEL, STRIDE, TOP, LEFT, CASES of its weights,
   the first CASES_TOP and the last CASES_BOTTOM of one row each; DEPTH_PIXELS, DEPTH_ACTIVATION; OUT_HEIGHT, OUT_WIDTH;
   LAST (its channels, 0: none), LAST_HALVES, LAST_PIXELS, LAST_ACTIVATION, ROWS at a time; ADD; STACK (1: what is kept is
   small enough for it). */
#include "float32.h"

#define BLOCK (BLOCK_VECTORS * LANES)
#define BLOCKS (INNER / BLOCK)
#define RING (KERNEL < HEIGHT ? KERNEL : HEIGHT)
#define ROW ((ptrdiff_t)WIDTH * BLOCK)
#define RINGS ((LAST ? BLOCKS : 1) * RING * ROW)
#define BETWEEN (LAST ? (ptrdiff_t)OUT_WIDTH * INNER : 0) /* of a row */
#define KEPT (RINGS + ROWS * BETWEEN)
#define ENDING (OUT_WIDTH % DEPTH_PIXELS ? OUT_WIDTH % DEPTH_PIXELS : DEPTH_PIXELS) /* pixels of a row's last tile */
#define NEAR (DEPTH_PIXELS * STRIDE >= LEFT && (OUT_WIDTH - ENDING - 1) * STRIDE - LEFT + KERNEL <= WIDTH)
#define TILES ((WIDTH + FIRST_PIXELS - 1) / FIRST_PIXELS * HEIGHT)
#define AHEAD (LAST ? 0 : (STEPS * BLOCK * 4 + LINE * TILES - 1) / (LINE * TILES)) /* lines at a time */

void *halide_malloc(void *context, size_t size);
void halide_free(void *context, void *memory);

typedef struct {
    const float *source, *first, *first_bias, *depth, *depth_bias, *last, *last_bias, *other;
    float *out, *ring, *between;
    const char *ahead; /* the next block's weights */
} job_t;

INLINE void first_tile(job_t *job, int y, int x, int block, float *to, const int pixels) {
    const float *weights = job->first + (ptrdiff_t)block * SOURCE * BLOCK;
    floats sums[BLOCK_VECTORS * FIRST_PIXELS];
    UNROLLED for (int p = 0; p < pixels; p++)
        UNROLLED for (int v = 0; v < BLOCK_VECTORS; v++)
            sums[p * BLOCK_VECTORS + v] = at(job->first_bias + block * BLOCK + v * LANES);
    const float *from = job->source + ((ptrdiff_t)y * WIDTH + x) * SOURCE;
    job->ahead = summed_up(sums, from, SOURCE, weights, SOURCE, BLOCK, BLOCK_VECTORS, pixels, job->ahead, AHEAD);
    UNROLLED for (int p = 0; p < pixels; p++)
        UNROLLED for (int v = 0; v < BLOCK_VECTORS; v++)
            put(to + p * BLOCK + v * LANES, activated(sums[p * BLOCK_VECTORS + v], FIRST_ACTIVATION));
}

/* A row of the first convolution, into a block's ring. Where pixels are left, the last tile begins earlier. */
INLINE void first_row(job_t *job, float *ring, int y, int block) {
    float *to = ring + y % RING * ROW;
    int x = 0;
    for (; x + FIRST_PIXELS <= WIDTH; x += FIRST_PIXELS) first_tile(job, y, x, block, to + x * BLOCK, FIRST_PIXELS);
    if (x < WIDTH) first_tile(job, y, WIDTH - FIRST_PIXELS, block, to + (WIDTH - FIRST_PIXELS) * BLOCK, FIRST_PIXELS);
}

/* Which tiles read columns beside the map: none, the first, the last, the only one; or that is seen as it goes. */
enum { INSIDE, FIRST_TILE, LAST_TILE, ONLY_TILE, ANYWHERE };

/* A vector of channels of some pixels, from x on. Every column is loaded once, for all sums that it is part of. */
INLINE void depth_tile(const float *const *rows, int x, const float *weights, floats bias, float *to, const int pixels,
                       const int where) {
    const int last = (OUT_WIDTH - pixels) * STRIDE - LEFT;
    floats sums[DEPTH_PIXELS];
    UNROLLED for (int p = 0; p < pixels; p++) sums[p] = bias;
    UNROLLED for (int k = 0; k < KERNEL; k++) {
        floats held[KERNEL];
        UNROLLED for (int column = 0; column < KERNEL; column++)
            held[column] = at(weights + (k * KERNEL + column) * BLOCK);
        UNROLLED for (int there = 0; there < (pixels - 1) * STRIDE + KERNEL; there++) {
            if ((where == FIRST_TILE || where == ONLY_TILE) && there < LEFT) continue;
            if ((where == LAST_TILE || where == ONLY_TILE) && last + there >= WIDTH) continue;
            int here = x * STRIDE - LEFT + there;
            if (where == ANYWHERE && (here < 0 || here >= WIDTH)) continue;
            floats value = at(rows[k] + (ptrdiff_t)here * BLOCK);
            UNROLLED for (int column = 0; column < KERNEL; column++) {
                int from = there - column;
                if (from >= 0 && from % STRIDE == 0 && from / STRIDE < pixels) sums[from / STRIDE] += value * held[column];
            }
        }
    }
    UNROLLED for (int p = 0; p < pixels; p++) put(to + p * INNER, activated(sums[p], DEPTH_ACTIVATION));
}

/* A row of the depthwise convolution. Rows outside of the map are one inside, times zero. */
INLINE void depth_row(const job_t *job, const float *ring, int y, int block, float *to) {
    int which = y < CASES_TOP ? y : CASES_TOP;
    if (y >= OUT_HEIGHT - CASES_BOTTOM) which = CASES - (OUT_HEIGHT - y);
    for (int v = 0; v < BLOCK_VECTORS; v++) {
        const float *weights = job->depth + ((ptrdiff_t)block * CASES + which) * KERNEL * KERNEL * BLOCK + v * LANES;
        floats bias = at(job->depth_bias + block * BLOCK + v * LANES);
        const float *rows[KERNEL];
        UNROLLED for (int k = 0; k < KERNEL; k++) {
            int row = y * STRIDE - TOP + k;
            row = row < 0 ? 0 : row < HEIGHT ? row : HEIGHT - 1;
            rows[k] = ring + row % RING * ROW + v * LANES;
        }
        float *here = to + v * LANES;
        if (DEPTH_PIXELS == OUT_WIDTH) {
            depth_tile(rows, 0, weights, bias, here, OUT_WIDTH, ONLY_TILE);
            continue;
        }
        depth_tile(rows, 0, weights, bias, here, DEPTH_PIXELS, NEAR ? FIRST_TILE : ANYWHERE);
        int x = DEPTH_PIXELS;
        for (; x < OUT_WIDTH - ENDING; x += DEPTH_PIXELS)
            depth_tile(rows, x, weights, bias, here + x * INNER, DEPTH_PIXELS, NEAR ? INSIDE : ANYWHERE);
        depth_tile(rows, x, weights, bias, here + x * INNER, ENDING, NEAR ? LAST_TILE : ANYWHERE);
    }
}

#if LAST
#define WIDE (LAST_HALVES * LANES / 2) /* channels of a tile */
#define OVER (LAST % WIDE)             /* and of the last one, where there are fewer */

/* Two vectors of halves as a vector of sums. */
INLINE floats united(floats one, floats other) {
    __m512 even = _mm512_shuffle_ps((__m512)one, (__m512)other, 0x88);
    return (floats)_mm512_add_ps(even, _mm512_shuffle_ps((__m512)one, (__m512)other, 0xdd));
}

/* One vector of halves, of channels in another order, as eight sums. */
INLINE __m256 alone(floats one) {
    __m512 sums = _mm512_add_ps((__m512)one, _mm512_permute_ps((__m512)one, 0xb1));
    const __m512i even = _mm512_set_epi32(0, 0, 0, 0, 0, 0, 0, 0, 14, 12, 10, 8, 6, 4, 2, 0);
    return _mm512_castps512_ps256(_mm512_permutexvar_ps(even, sums));
}

/* Sums of `channels` channels, all in one tile, of some pixels. */
INLINE void last_tile(const job_t *job, const float *from, ptrdiff_t place, int tile, const int channels,
                      const int pixels) {
    const float *weights = job->last + (ptrdiff_t)tile * WIDE * INNER;
    const int halves = (channels + LANES / 2 - 1) / (LANES / 2);
    floats sums[LAST_HALVES * LAST_PIXELS];
    UNROLLED for (int at = 0; at < halves * pixels; at++) sums[at] = (floats){0};
    for (int k = 0; k < INNER; k += 2, weights += 2 * WIDE) {
        floats held[LAST_HALVES];
        UNROLLED for (int h = 0; h < halves; h++) held[h] = at(weights + h * LANES);
        UNROLLED for (int p = 0; p < pixels; p++) {
            double pair;
            memcpy(&pair, from + (ptrdiff_t)p * INNER + k, sizeof pair);
            floats both = (floats)_mm512_set1_pd(pair);
            UNROLLED for (int h = 0; h < halves; h++) sums[p * halves + h] += both * held[h];
        }
    }
    const float *bias = job->last_bias + tile * WIDE;
    UNROLLED for (int p = 0; p < pixels; p++)
        UNROLLED for (int h = 0; h < halves; h += 2) {
            const int first = h * LANES / 2, count = channels - first < LANES ? channels - first : LANES;
            const __mmask16 there = (__mmask16)((1u << count) - 1);
            const floats *half = sums + p * halves + h;
            ptrdiff_t here = place + p * LAST + first;
            floats value = h + 1 < halves ? united(half[0], half[1]) : (floats)_mm512_castps256_ps512(alone(half[0]));
            value = activated(value + (floats)_mm512_maskz_loadu_ps(there, bias + first), LAST_ACTIVATION);
            if (ADD) value += (floats)_mm512_maskz_loadu_ps(there, job->other + here);
            _mm512_mask_storeu_ps(job->out + here, there, (__m512)value);
        }
}

/* So many rows of the output, all of them with a tile's weights before it is the next tile's turn. */
INLINE void last_rows(const job_t *job, int y, int count) {
    const float *between;
    ptrdiff_t place;
#define TILE(x, pixels) last_tile(job, between + (x)*INNER, place + (x)*LAST, tile, WIDE, pixels)
    for (int tile = 0; tile < LAST / WIDE; tile++) {
        between = job->between;
        place = (ptrdiff_t)y * OUT_WIDTH * LAST + tile * WIDE;
        for (int row = 0; row < count; row++, between += BETWEEN, place += OUT_WIDTH * LAST) {
            IN_PIECES(x_at, OUT_WIDTH, LAST_PIXELS, TILE)
        }
    }
#undef TILE
#if OVER
#define TILE(x, pixels) last_tile(job, between + (x)*INNER, place + (x)*LAST, LAST / WIDE, OVER, pixels)
    between = job->between;
    place = (ptrdiff_t)y * OUT_WIDTH * LAST + LAST - OVER;
    for (int row = 0; row < count; row++, between += BETWEEN, place += OUT_WIDTH * LAST) {
        IN_PIECES(x_at, OUT_WIDTH, LAST_PIXELS, TILE)
    }
#undef TILE
#endif
}
#endif

/* So many rows of the depthwise convolution, from y on, for a block; rows of the first one from `next` on are new. */
INLINE void block_rows(job_t *job, int y, int count, int next, int block) {
    float *ring = job->ring + (LAST ? block * RING * ROW : 0);
    float *to = LAST ? job->between + block * BLOCK : job->out + (ptrdiff_t)y * OUT_WIDTH * INNER;
    for (int row = y; row < y + count; row++, to += (ptrdiff_t)OUT_WIDTH * INNER) {
        for (; next < row * STRIDE - TOP + KERNEL && next < HEIGHT; next++) first_row(job, ring, next, block);
        depth_row(job, ring, row, block, to);
    }
}

INLINE void run(job_t *job, const buffer_t *out, float *kept) {
    job->ring = kept;
    job->between = kept + RINGS;
#if LAST
    int start = out->dim[2].min, end = start + out->dim[2].extent, next = start * STRIDE - TOP;
    if (next < 0) next = 0;
    job->out = (float *)out->host - (ptrdiff_t)start * OUT_WIDTH * LAST;
    for (int y = start; y < end; y += ROWS) {
        int count = end - y < ROWS ? end - y : ROWS, after = (y + count - 1) * STRIDE - TOP + KERNEL;
        for (int block = 0; block < BLOCKS; block++) block_rows(job, y, count, next, block);
        last_rows(job, y, count);
        if (after > next) next = after;
    }
#else
    int start = out->dim[1].min, end = start + out->dim[1].extent;
    for (int block = start; block < end; block++) {
        job->out = (float *)out->host + (ptrdiff_t)(block - start) * BLOCK;
        job->ahead = (const char *)(job->first + (ptrdiff_t)(block + 1) * SOURCE * BLOCK);
        block_rows(job, 0, OUT_HEIGHT, 0, block);
    }
#endif
}

int NAME(void **arguments) {
    void *context = *(void **)arguments[0];
    const buffer_t **next = (const buffer_t **)arguments + 1;
    job_t job = {0};
#define TAKE(which) job.which = (const float *)(*next++)->host
    TAKE(source);
    TAKE(first);
    TAKE(first_bias);
    TAKE(depth);
    TAKE(depth_bias);
#if LAST
    TAKE(last);
    TAKE(last_bias);
#endif
#if ADD
    TAKE(other);
#endif
#if STACK
    floats kept[KEPT / LANES + 1];
    (void)context;
    run(&job, *next, (float *)kept);
#else
    float *kept = halide_malloc(context, KEPT * sizeof *kept);
    if (!kept) return -1;
    run(&job, *next, kept);
    halide_free(context, kept);
#endif
    return 0;
}
