/* Up to three convolutions as one, row by row: a convolution or none, a depthwise one, a 1x1 convolution or none.

   The depthwise convolution reads a ring: for every channel and column a word with the codes of the last four rows, the
   newest in the top byte. A new row is shifted in; so a column of the window is one group of four terms, as the
   products of bytes want it, and nothing is ever rearranged. Windows of more than four rows have a second word for the
   four rows before.

   Defined on the command line: NAME; HEIGHT, WIDTH of the depthwise convolution's source; SOURCE_ROW, SOURCE_PIXEL in
   bytes; FIRST_TERMS (0: none), FIRST_ROWS,
   FIRST_STRIDE, FIRST_VECTORS, FIRST_PIXELS, FIRST_AFTER; INNER, its vectors;
   KERNEL, STRIDE, TOP, LEFT, DEPTH_PIXELS, DEPTH_AFTER; OUT_WIDTH, OUT_ROW, OUT_PIXEL; LAST (its vectors, 0: none),
   LAST_TERMS, LAST_VECTORS, LAST_PIXELS, LAST_AFTER; ADD, ADD_AFTER, OTHER_ROW, OTHER_PIXEL; STACK (1: what is kept is small enough for it). */
#include "int8.h"

#define WORDS ((KERNEL + 3) / 4)
#define REACH ((OUT_WIDTH - 1) * STRIDE + KERNEL - LEFT)
#define COLUMNS (LEFT + (REACH > WIDTH ? REACH : WIDTH))
#define RING_BYTES ((size_t)INNER * COLUMNS * WORDS * sizeof(ints))
#define ROW_BYTES (LAST ? (size_t)OUT_WIDTH * INNER * LANES : 0)
#define BLOCK (RING_BYTES + ROW_BYTES)

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

INLINE void first_tile(const job_t *job, const uint8_t *from, int vector, const int vectors, int x, const int pixels) {
    ints sums[64];
    summed(sums, job->first, from + (ptrdiff_t)x * FIRST_STRIDE * SOURCE_PIXEL, FIRST_STRIDE * SOURCE_PIXEL, FIRST_ROWS,
           SOURCE_ROW, FIRST_TERMS, vector, vectors, pixels);
    UNROLLED for (int v = 0; v < vectors; v++) {
        floats by = factor(job->first, vector + v);
        ints *cell = cells(job, vector + v, LEFT + x);
        UNROLLED for (int p = 0; p < pixels; p++)
            shifted_in(cell + p * WORDS, coded(real(sums[p * vectors + v]) * by, job->first.coding, FIRST_AFTER, job->first.table));
    }
}

/* Shift row y of some channels of the depthwise convolution's source into the ring. */
INLINE void next_row(const job_t *job, int y, int vector, const int vectors) {
    if (y >= HEIGHT) {
        for (int v = 0; v < vectors; v++)
            for (int x = 0; x < COLUMNS; x++) shifted_in(cells(job, vector + v, x), job->fill & 255);
        return;
    }
#if FIRST_TERMS
    const uint8_t *from = job->source + (ptrdiff_t)y * FIRST_STRIDE * SOURCE_ROW;
#define TILE(x, pixels) first_tile(job, from, vector, vectors, x, pixels)
    IN_PIECES(x_at, WIDTH, FIRST_PIXELS, TILE)
#undef TILE
#else
    const uint8_t *from = job->source + (ptrdiff_t)y * SOURCE_ROW + vector * LANES;
    for (int x = 0; x < WIDTH; x++)
        for (int v = 0; v < vectors; v++)
            shifted_in(cells(job, vector + v, LEFT + x), widened(from + x * SOURCE_PIXEL + v * LANES));
#endif
}

INLINE void depth_tile(const job_t *job, uint8_t *to, ptrdiff_t step, int vector, int x, const int pixels) {
    ints sums[64];
    const ints *cell = cells(job, vector, x * STRIDE), *weights = job->depth.weights + (ptrdiff_t)vector * KERNEL * WORDS;
    UNROLLED for (int p = 0; p < pixels; p++) sums[p] = job->depth.scales[2 * vector];
    UNROLLED for (int t = 0; t < KERNEL * WORDS; t++)
        UNROLLED for (int p = 0; p < pixels; p++) sums[p] = dot(sums[p], cell[p * STRIDE * WORDS + t], weights[t]);
    floats by = factor(job->depth, vector);
    UNROLLED for (int p = 0; p < pixels; p++)
        narrowed(to + (x + p) * step + vector * LANES,
                 coded(real(sums[p]) * by, job->depth.coding, DEPTH_AFTER, job->depth.table));
}

/* Everything up to a row of the depthwise convolution, for some channels; rows from `next` to `end` are new. */
INLINE void depth_row(const job_t *job, uint8_t *to, ptrdiff_t step, int next, int end, int vector, const int vectors) {
    for (int y = next; y < end; y++) next_row(job, y, vector, vectors);
    for (int v = vector; v < vector + vectors; v++) {
#define TILE(x, pixels) depth_tile(job, to, step, v, x, pixels)
        IN_PIECES(x_at, OUT_WIDTH, DEPTH_PIXELS, TILE)
#undef TILE
    }
}

INLINE void last_tile(const job_t *job, const uint8_t *row, uint8_t *to, const uint8_t *other, int vector,
                      const int vectors, int x, const int pixels) {
    ints sums[64];
    summed(sums, job->last, row + (ptrdiff_t)x * INNER * LANES, INNER * LANES, 1, 0, LAST_TERMS, vector, vectors, pixels);
    UNROLLED for (int v = 0; v < vectors; v++) {
        floats by = factor(job->last, vector + v);
        int channel = (vector + v) * LANES;
        UNROLLED for (int p = 0; p < pixels; p++) {
#if ADD
            ints first = nearest(clipped(real(sums[p * vectors + v]) * by, job->last.coding.low, job->last.coding.high));
            ints second = widened(other + (x + p) * OTHER_PIXEL + channel);
            ints codes = added(first, second, job->addition, ADD_AFTER, NULL);
#else
            ints codes = coded(real(sums[p * vectors + v]) * by, job->last.coding, LAST_AFTER, job->last.table);
#endif
            narrowed(to + (x + p) * OUT_PIXEL + channel, codes);
        }
    }
}

INLINE void last_vectors(const job_t *job, const uint8_t *row, uint8_t *to, const uint8_t *other, int vector,
                         const int vectors) {
#define TILE(x, pixels) last_tile(job, row, to, other, vector, vectors, x, pixels)
    IN_PIECES(x_at, OUT_WIDTH, LAST_PIXELS, TILE)
#undef TILE
}

INLINE void rows(job_t *job, const buffer_t *out, void *block) {
    int start = out->dim[2].min, next = start * STRIDE - TOP;
    if (next < 0) next = 0;
    job->ring = block;
    uint8_t *row = (uint8_t *)block + RING_BYTES;
    (void)row;
    for (int at = 0; at < INNER * COLUMNS * WORDS; at++) job->ring[at] = job->fill;
    for (int y = start; y < start + out->dim[2].extent; y++) {
        uint8_t *to = out->host + (ptrdiff_t)(y - start) * OUT_ROW;
        int end = y * STRIDE - TOP + KERNEL;
#define VECTORS(vector, count) depth_row(job, LAST ? row : to, LAST ? INNER * LANES : OUT_PIXEL, next, end, vector, count)
        IN_PIECES(vector_at, INNER, FIRST_VECTORS, VECTORS)
#undef VECTORS
        if (end > next) next = end;
#if LAST
#define VECTORS(vector, count) last_vectors(job, row, to, job->other + (ptrdiff_t)y * OTHER_ROW, vector, count)
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
    rows(&job, *next, block);
#else
    void *block = halide_malloc(context, BLOCK);
    if (!block) return -1;
    rows(&job, *next, block);
    halide_free(context, block);
#endif
    return 0;
}
