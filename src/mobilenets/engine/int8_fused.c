/* Up to three convolutions as one, row by row: a convolution or none, a depthwise one, a 1x1 convolution or none.

   The depthwise convolution reads a ring: for every channel and column a word with the codes of the last four rows, the
   newest in the top byte. A new row is shifted in; so a column of the window is one group of four terms, as the
   products of bytes want it, and nothing is ever rearranged. Windows of more than four rows have a second word for the
   four rows before.

   Defined on the command line: NAME; HEIGHT, WIDTH of the depthwise convolution's source; SOURCE_ROW, SOURCE_PIXEL in
   bytes; FIRST_TERMS (0: none), FIRST_ROWS,
   FIRST_STRIDE, FIRST_VECTORS, FIRST_PIXELS, FIRST_AFTER; INNER, its vectors;
   KERNEL, STRIDE, TOP, LEFT, DEPTH_PIXELS, DEPTH_AFTER; OUT_WIDTH,
   OUT_ROW, OUT_PIXEL; LAST (its vectors, 0: none),
   LAST_TERMS, LAST_VECTORS, LAST_PIXELS, LAST_AFTER, ROWS at a time; ADD, ADD_AFTER, OTHER_PIXEL; PACKED
   (pixels at a time; 0: not); STACK (1: what is kept is small enough for it). */
#include "int8.h"

#define WORDS ((KERNEL + 3) / 4)
#define REACH ((OUT_WIDTH - 1) * STRIDE + KERNEL - LEFT)
#define COLUMNS (LEFT + (REACH > WIDTH ? REACH : WIDTH))
#define RING_BYTES ((size_t)INNER * COLUMNS * WORDS * sizeof(ints))
#define BETWEEN_BYTES (LAST ? (size_t)ROWS * OUT_WIDTH * INNER * LANES : 0)
#define BLOCK (RING_BYTES + BETWEEN_BYTES)
#define CHUNK 4 /* vectors of channels that go on together */

void *halide_malloc(void *context, size_t size);
void halide_free(void *context, void *memory);

typedef struct {
    layer_t first, depth, last;
    const uint8_t *source, *other;
    addition_t addition;
    ints *ring;
    ints fill; /* four codes of zero */
} job_t;

INLINE void shifted_in(ints *cell, ints codes) {
    UNROLLED for (int word = WORDS - 1; word > 0; word--)
        cell[word] = (ints)((words)cell[word] >> 8) | (cell[word - 1] << 24);
    cell[0] = (ints)((words)cell[0] >> 8) | (codes << 24);
}

INLINE ints *cells(const job_t *job, int vector, int column) {
    return job->ring + ((ptrdiff_t)vector * COLUMNS + column) * WORDS;
}

#if FIRST_TERMS
INLINE void first_tile(const job_t *job, const uint8_t *from, int vector, const int vectors, int x, const int pixels) {
    ints sums[64];
    summed(sums, job->first, from + (ptrdiff_t)x * FIRST_STRIDE * SOURCE_PIXEL, FIRST_STRIDE * SOURCE_PIXEL, FIRST_ROWS,
           SOURCE_ROW, FIRST_TERMS, vector, vectors, pixels);
    UNROLLED for (int v = 0; v < vectors; v++) {
        floats by = factor(job->first, vector + v);
        ints *cell = cells(job, vector + v, LEFT + x);
        UNROLLED for (int p = 0; p < pixels; p++) {
            floats steps = real(sums[p * vectors + v]) * by;
            shifted_in(cell + p * WORDS, coded(steps, job->first.coding, FIRST_AFTER, job->first.table));
        }
    }
}

INLINE void first_vectors(const job_t *job, const uint8_t *from, int vector, const int vectors) {
#define TILE(x, pixels) first_tile(job, from, vector, vectors, x, pixels)
    IN_PIECES(x_at, WIDTH, FIRST_PIXELS, TILE)
#undef TILE
}
#endif

/* Shift row y of some channels of the depthwise convolution's source into the ring. */
INLINE void next_row(const job_t *job, int y, int vector, const int vectors) {
    if (y >= HEIGHT) {
        for (int v = 0; v < vectors; v++)
            for (int x = 0; x < COLUMNS; x++) shifted_in(cells(job, vector + v, x), job->fill & 255);
        return;
    }
#if FIRST_TERMS
    const uint8_t *from = job->source + (ptrdiff_t)y * FIRST_STRIDE * SOURCE_ROW;
#define VECTORS(at, count) first_vectors(job, from, vector + (at), count)
    IN_PIECES(vector_at, vectors, FIRST_VECTORS, VECTORS)
#undef VECTORS
#else
    const uint8_t *from = job->source + (ptrdiff_t)y * SOURCE_ROW + vector * LANES;
    for (int x = 0; x < WIDTH; x++)
        for (int v = 0; v < vectors; v++)
            shifted_in(cells(job, vector + v, LEFT + x), widened(from + x * SOURCE_PIXEL + v * LANES));
#endif
}

/* The sums of a vector of channels of the depthwise convolution, for some pixels. */
INLINE void depth_sums(const job_t *job, ints *sums, int vector, int x, const int pixels) {
    const ints *cell = cells(job, vector, x * STRIDE);
    const ints *weights = job->depth.weights + (ptrdiff_t)vector * KERNEL * WORDS;
    ints off = {0};
    UNROLLED for (int p = 0; p < pixels; p++) sums[p] = job->depth.scales[2 * vector];
    UNROLLED for (int t = 0; t < KERNEL * WORDS; t++) {
        off = less(off, weights[t]);
        UNROLLED for (int p = 0; p < pixels; p++) sums[p] = dot(sums[p], cell[p * STRIDE * WORDS + t], weights[t]);
    }
    UNROLLED for (int p = 0; p < pixels; p++) sums[p] = made_up(sums[p], off);
}

INLINE void depth_tile(const job_t *job, uint8_t *to, ptrdiff_t step, int vector, int x, const int pixels) {
    ints sums[16];
    depth_sums(job, sums, vector, x, pixels);
    floats by = factor(job->depth, vector);
    UNROLLED for (int p = 0; p < pixels; p++)
        narrowed(to + (x + p) * step + vector * LANES,
                 coded(real(sums[p]) * by, job->depth.coding, DEPTH_AFTER, job->depth.table));
}

#if PACKED
/* The same for four vectors, whose codes are clipped where they are packed: their groups of four channels in turn. */
INLINE void packed_tile(const job_t *job, uint8_t *to, ptrdiff_t step, int vector, int x, const int pixels) {
    ints codes[CHUNK][16];
    UNROLLED for (int v = 0; v < CHUNK; v++) {
        ints sums[16];
        depth_sums(job, sums, vector + v, x, pixels);
        floats by = factor(job->depth, vector + v);
        UNROLLED for (int p = 0; p < pixels; p++) {
            codes[v][p] = nearest(real(sums[p]) * by);
            if (DEPTH_AFTER != NOTHING) codes[v][p] += job->depth.coding.zero;
        }
    }
    UNROLLED for (int p = 0; p < pixels; p++)
        packed(to + (x + p) * step + vector * LANES, codes[0][p], codes[1][p], codes[2][p], codes[3][p]);
}
#endif

/* Everything up to `count` rows of the depthwise convolution, from y on, for some channels; source rows from `next` on
   are new. */
INLINE void depth_rows(const job_t *job, uint8_t *to, ptrdiff_t step, int y, int count, int next, int vector,
                       const int vectors) {
    for (int row = 0; row < count; row++, to += OUT_WIDTH * step) {
        for (; next < (y + row) * STRIDE - TOP + KERNEL; next++) next_row(job, next, vector, vectors);
#if PACKED
        if (vectors == CHUNK) {
#define TILE(x, pixels) packed_tile(job, to, step, vector, x, pixels)
            IN_PIECES(x_at, OUT_WIDTH, PACKED, TILE)
#undef TILE
            continue;
        }
#endif
        for (int v = vector; v < vector + vectors; v++) {
#define TILE(x, pixels) depth_tile(job, to, step, v, x, pixels)
            IN_PIECES(x_at, OUT_WIDTH, DEPTH_PIXELS, TILE)
#undef TILE
        }
    }
}

#if LAST
INLINE void last_tile(const job_t *job, const uint8_t *row, uint8_t *to, const uint8_t *other, int vector,
                      const int vectors, int x, const int pixels) {
    ints sums[64];
    summed(sums, job->last, row + (ptrdiff_t)x * INNER * LANES, INNER * LANES, 1, 0, LAST_TERMS, vector, vectors,
           pixels);
    UNROLLED for (int v = 0; v < vectors; v++) {
        floats by = factor(job->last, vector + v);
        int channel = (vector + v) * LANES;
        UNROLLED for (int p = 0; p < pixels; p++) {
            floats steps = real(sums[p * vectors + v]) * by;
#if ADD
            ints first = nearest(clipped(steps, job->last.coding.low, job->last.coding.high));
            ints second = widened(other + (x + p) * OTHER_PIXEL + channel);
            ints codes = added(first, second, job->addition, ADD_AFTER, NULL);
#else
            ints codes = coded(steps, job->last.coding, LAST_AFTER, job->last.table);
#endif
            narrowed(to + (x + p) * OUT_PIXEL + channel, codes);
        }
    }
}

/* So many vectors of channels of `count` pixels. Where pixels are left, the last tile begins earlier. */
INLINE void last_vectors(const job_t *job, const uint8_t *row, uint8_t *to, const uint8_t *other, int count, int vector,
                         const int vectors) {
    const int left = ROWS * OUT_WIDTH % LAST_PIXELS;
    int x = 0;
    if (count < LAST_PIXELS) {
        for (; LAST_PIXELS > OUT_WIDTH && x < count; x += OUT_WIDTH)
            last_tile(job, row, to, other, vector, vectors, x, OUT_WIDTH < LAST_PIXELS ? OUT_WIDTH : 1);
        return;
    }
    for (; x + LAST_PIXELS <= count; x += LAST_PIXELS) last_tile(job, row, to, other, vector, vectors, x, LAST_PIXELS);
    if (x == count) return;
    if (left && count - x == left) last_tile(job, row, to, other, vector, vectors, x, left ? left : 1);
    else last_tile(job, row, to, other, vector, vectors, count - LAST_PIXELS, LAST_PIXELS);
}

#endif

INLINE void run(job_t *job, const buffer_t *out, void *block) {
    int start = out->dim[2].min, end = start + out->dim[2].extent, next = start * STRIDE - TOP;
    if (next < 0) next = 0;
    job->ring = block;
    uint8_t *between = LAST ? (uint8_t *)block + RING_BYTES : NULL;
    for (int at = 0; at < INNER * COLUMNS * WORDS; at++) job->ring[at] = job->fill;
    for (int y = start; y < end; y += ROWS) {
        int count = end - y < ROWS ? end - y : ROWS;
        uint8_t *to = out->host + (ptrdiff_t)(y - start) * OUT_ROW;
#define VECTORS(vector, vectors) \
    depth_rows(job, LAST ? between : to, LAST ? INNER * LANES : OUT_PIXEL, y, count, next, vector, vectors)
        IN_PIECES(vector_at, INNER, CHUNK, VECTORS)
#undef VECTORS
        int after = (y + count - 1) * STRIDE - TOP + KERNEL;
        if (after > next) next = after;
#if LAST
        const uint8_t *other = job->other + (ptrdiff_t)y * OUT_WIDTH * OTHER_PIXEL;
#define VECTORS(vector, vectors) last_vectors(job, between, to, other, count * OUT_WIDTH, vector, vectors)
        IN_PIECES(vector_at, LAST, LAST_VECTORS, VECTORS)
#undef VECTORS
#endif
    }
}

int NAME(void **arguments) {
    void *context = *(void **)arguments[0];
    const buffer_t **next = (const buffer_t **)arguments + 1;
    job_t job = {.source = (*next++)->host};
#define TAKE(which) which = layer(next[0]->host, next[1]->host, next[2]->host), next += 3
#if FIRST_TERMS
    TAKE(job.first);
#endif
    TAKE(job.depth);
    job.fill = all(job.depth.coding.fill * 0x01010101);
#if LAST
    TAKE(job.last);
#endif
#if ADD
    job.other = (*next++)->host;
    job.addition = *(const addition_t *)(*next++)->host;
#endif
#if STACK
    ints block[(BLOCK + sizeof(ints) - 1) / sizeof(ints)];
    (void)context;
    run(&job, *next, block);
#else
    void *block = halide_malloc(context, BLOCK);
    if (!block) return -1;
    run(&job, *next, block);
    halide_free(context, block);
#endif
    return 0;
}
