/* A convolution over all channels, of pixels in a row or with a window; a fully connected layer is one of one pixel.

   Defined on the command line: NAME; SOURCE_ROW, SOURCE_PIXEL in bytes; TERMS, ROWS and STRIDE of the window (it lies
   within the source, which has codes of zero around it); WIDTH (pixels of a row, or all of them: one row); VECTORS,
   TILE_VECTORS, TILE_PIXELS, AFTER; ADD, ADD_AFTER, OTHER_PIXEL; MEAN, MEAN_AFTER: pixels are added up instead, each
   rounded first; OUT_ROW, OUT_PIXEL; FLAT: threads share the pixels of the only row, not rows. */
#include "int8.h"

typedef struct {
    layer_t layer, mean;
    const uint8_t *source, *other;
    addition_t addition;
} job_t;

INLINE void tile(const job_t *job, const uint8_t *from, uint8_t *to, const uint8_t *other, ints *total, int vector,
                 const int vectors, const int pixels) {
    ints sums[64];
    summed(sums, job->layer, from, SOURCE_PIXEL * STRIDE, ROWS, SOURCE_ROW, TERMS, vector, vectors, pixels);
    UNROLLED for (int v = 0; v < vectors; v++) {
        floats by = factor(job->layer, vector + v);
        UNROLLED for (int p = 0; p < pixels; p++) {
            floats steps = real(sums[p * vectors + v]) * by;
#if ADD
            ints first = nearest(clipped(steps, job->layer.coding.low, job->layer.coding.high));
            ints second = widened(other + p * OTHER_PIXEL + (vector + v) * LANES);
            ints codes = added(first, second, job->addition, ADD_AFTER, NULL);
#else
            ints codes = coded(steps, job->layer.coding, AFTER, job->layer.table);
#endif
#if MEAN
            total[v] += codes;
#else
            narrowed(to + p * OUT_PIXEL + v * LANES, codes);
#endif
        }
    }
    (void)other, (void)total, (void)to;
}

INLINE void pixels(const job_t *job, const uint8_t *from, uint8_t *to, const uint8_t *other, int count, int vector,
                   const int vectors) {
    ints total[16] = {{0}};
    int x = 0;
    for (; x + TILE_PIXELS <= count; x += TILE_PIXELS)
        tile(job, from + (ptrdiff_t)x * STRIDE * SOURCE_PIXEL, to + (ptrdiff_t)x * OUT_PIXEL,
             other + (ptrdiff_t)x * OTHER_PIXEL, total, vector, vectors, TILE_PIXELS);
#if WIDTH % TILE_PIXELS
    if (x < count)
        tile(job, from + (ptrdiff_t)x * STRIDE * SOURCE_PIXEL, to + (ptrdiff_t)x * OUT_PIXEL,
             other + (ptrdiff_t)x * OTHER_PIXEL, total, vector, vectors, WIDTH % TILE_PIXELS);
#endif
#if MEAN
    for (int v = 0; v < vectors; v++) {
        floats steps = real(total[v] + job->mean.scales[2 * (vector + v)]) * factor(job->mean, vector + v);
        narrowed(to + v * LANES, coded(steps, job->mean.coding, MEAN_AFTER, job->mean.table));
    }
#endif
}

int NAME(void **arguments) {
    const buffer_t **next = (const buffer_t **)arguments + 1;
    job_t job = {.source = (*next++)->host};
    job.layer = layer(next[0]->host, next[1]->host, next[2]->host), next += 3;
#if MEAN
    job.mean = layer(next[0]->host, next[1]->host, NULL), next += 2;
#endif
#if ADD
    job.other = (*next++)->host;
    job.addition = *(const addition_t *)(*next++)->host;
#endif
    const buffer_t *out = *next;
    int vector = out->dim[0].min / LANES, end = vector + out->dim[0].extent / LANES;
    int x = FLAT && !MEAN ? out->dim[1].min : 0, count = FLAT && !MEAN ? out->dim[1].extent : WIDTH;
    int first = FLAT ? 0 : out->dim[2].min, rows = FLAT ? 1 : out->dim[2].extent;
    for (int y = 0; y < rows; y++) {
        const uint8_t *row = job.source + (ptrdiff_t)(first + y) * STRIDE * SOURCE_ROW;
        const uint8_t *from = row + (ptrdiff_t)x * STRIDE * SOURCE_PIXEL;
        const uint8_t *other = job.other + ((ptrdiff_t)(first + y) * WIDTH + x) * OTHER_PIXEL;
        uint8_t *to = out->host + (ptrdiff_t)y * OUT_ROW;
        int at = vector;
        for (; at + TILE_VECTORS <= end; at += TILE_VECTORS)
            pixels(&job, from, to + (at - vector) * LANES, other, count, at, TILE_VECTORS);
#if VECTORS % TILE_VECTORS
        if (at < end) pixels(&job, from, to + (at - vector) * LANES, other, count, at, VECTORS % TILE_VECTORS);
#endif
    }
    return 0;
}
