/* A 1x1 convolution of pixels in a row, float32.

   Where weights are many and pixels few, weights come from memory while nothing is computed, and then everything is
   computed while no weights come: so the next block's are asked for, line by line, while this one's are in use. Behind
   the last block lies what the next kernel reads.

   Defined on the command line: NAME; PIXELS, CHANNELS of the source; OUT, channels of the output, whole vectors;
   TILE_VECTORS, TILE_PIXELS; ACTIVATION; ADD: another map is added; MEAN: the output is its mean over all pixels. */
#include "float32.h"

#define BLOCK (TILE_VECTORS * LANES)
#define LEFT (OUT % BLOCK / LANES) /* vectors of the last block, where there are fewer */
#define AHEAD ((STEPS * BLOCK * 4 * TILE_PIXELS + LINE * PIXELS - 1) / (LINE * PIXELS)) /* lines at a time */

typedef struct {
    const float *source, *weights, *bias, *other;
    float *out;
} job_t;

/* Sums of a tile from pixel x on; returns how far weights were asked for. */
INLINE const char *tile(const job_t *job, floats *total, int x, int block, const char *ahead, const int vectors,
                        const int pixels) {
    const float *from = job->source + (ptrdiff_t)x * CHANNELS;
    const float *weights = job->weights + (ptrdiff_t)block * CHANNELS * BLOCK;
    floats sums[TILE_VECTORS * TILE_PIXELS];
    UNROLLED for (int p = 0; p < pixels; p++)
        UNROLLED for (int v = 0; v < vectors; v++) sums[p * vectors + v] = at(job->bias + block * BLOCK + v * LANES);
    ahead = summed_up(sums, from, CHANNELS, weights, CHANNELS, BLOCK, vectors, pixels, ahead, AHEAD);
    UNROLLED for (int p = 0; p < pixels; p++)
        UNROLLED for (int v = 0; v < vectors; v++) {
            floats value = activated(sums[p * vectors + v], ACTIVATION);
            ptrdiff_t place = (ptrdiff_t)(x + p) * OUT + block * BLOCK + v * LANES;
            if (MEAN) total[v] += value;
            else {
                if (ADD) value += at(job->other + place);
                put(job->out + place, value);
            }
        }
    return ahead;
}

/* A block of channels, for pixels [x, end). Where pixels are left, the last tile begins earlier. */
INLINE void pixels_of(const job_t *job, floats *total, int x, int end, int block, const int vectors) {
    const char *ahead = (const char *)(job->weights + (ptrdiff_t)(block + 1) * CHANNELS * BLOCK);
    for (; x + TILE_PIXELS <= end; x += TILE_PIXELS) ahead = tile(job, total, x, block, ahead, vectors, TILE_PIXELS);
    if (x < end) tile(job, total, end - TILE_PIXELS, block, ahead, vectors, TILE_PIXELS);
}

int NAME(void **arguments) {
    const buffer_t **next = (const buffer_t **)arguments + 1;
    job_t job = {0};
    job.source = (const float *)(*next++)->host;
    job.weights = (const float *)(*next++)->host;
    job.bias = (const float *)(*next++)->host;
    if (ADD) job.other = (const float *)(*next++)->host;
    const buffer_t *out = *next;
    int first = out->dim[1].min, end = first + out->dim[1].extent;
#if MEAN
    for (int block = first; block < end; block++) {
        floats total[TILE_VECTORS] = {{0}};
        pixels_of(&job, total, 0, PIXELS, block, TILE_VECTORS);
        UNROLLED for (int v = 0; v < TILE_VECTORS; v++) total[v] *= 1.0f / PIXELS;
        memcpy(out->host + (ptrdiff_t)(block - first) * sizeof total, total, sizeof total);
    }
#else
    job.out = (float *)out->host - (ptrdiff_t)first * OUT;
    for (int block = 0; block < OUT / BLOCK; block++) pixels_of(&job, NULL, first, end, block, TILE_VECTORS);
#if LEFT
    pixels_of(&job, NULL, first, end, OUT / BLOCK, LEFT);
#endif
#endif
    return 0;
}
