/* What float32 kernels in C are made of: sums of a tile in registers, activations, vectors that are not whole. */
#include "int8.h"

#define STEPS 4 /* between two times that weights are asked for */
#define LINE 64 /* bytes */

enum { NO_ACTIVATION, RELU, RELU6, HARD_SWISH };

INLINE floats activated(floats value, const int activation) {
    if (activation == RELU) return clipped(value, 0, __builtin_inff());
    if (activation == RELU6) return clipped(value, 0, 6);
    if (activation == HARD_SWISH) return value * (clipped(value + 3, 0, 6) * (1.0f / 6));
    return value;
}

INLINE floats at(const float *from) {
    floats vector;
    memcpy(&vector, from, sizeof vector);
    return vector;
}

INLINE void put(float *to, floats vector) { memcpy(to, &vector, sizeof vector); }

/* One term of the sums: `pixel` is how far pixels of the source are from one another. */
INLINE void step(floats *sums, const float *from, ptrdiff_t pixel, const float *weights, const int vectors,
                 const int pixels) {
    floats held[16];
    UNROLLED for (int v = 0; v < vectors; v++) held[v] = at(weights + v * LANES);
    UNROLLED for (int p = 0; p < pixels; p++)
        UNROLLED for (int v = 0; v < vectors; v++) sums[p * vectors + v] += from[p * pixel] * held[v];
}

/* All terms, one beside the other; of other weights so many lines are asked for in between. Returns how far. */
INLINE const char *summed_up(floats *sums, const float *from, ptrdiff_t pixel, const float *weights, const int terms,
                             const int block, const int vectors, const int pixels, const char *ahead,
                             const int lines) {
    for (int k = 0; k < terms / STEPS; k++) {
        UNROLLED for (int line = 0; line < lines; line++) __builtin_prefetch(ahead + line * LINE, 0, 2);
        ahead += lines * LINE;
        UNROLLED for (int each = 0; each < STEPS; each++)
            step(sums, from + each, pixel, weights + each * block, vectors, pixels);
        from += STEPS;
        weights += STEPS * block;
    }
    UNROLLED for (int each = 0; each < terms % STEPS; each++)
        step(sums, from + each, pixel, weights + each * block, vectors, pixels);
    return ahead;
}
