/* A 1x1 convolution and an inverted residual in float32 or, with -DBFLOAT16=1, in bfloat16, by the same loops.

   Compiled by benchmarks/engine_bfloat16.py. Maps are (height, width, channels). Channels come in vectors of 16, and of
   bfloat16 in pairs: a product of two pairs is added to a float32 in one instruction (vdpbf16ps). */
#include <immintrin.h>
#include <stdint.h>
#include <string.h>

#define INLINE static inline __attribute__((always_inline))
#define UNROLLED _Pragma("clang loop unroll(full)")
#define LANES 16
typedef __m512 floats;

#if BFLOAT16
typedef uint16_t number;
#define PAIR 2
INLINE floats widened(const number *at) {
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(_mm256_loadu_si256((const void *)at)), 16));
}
INLINE void store(number *at, floats value) { _mm256_storeu_si256((void *)at, (__m256i)_mm512_cvtneps_pbh(value)); }
INLINE floats product(floats sum, const number *pair, const number *weights) {
    int32_t both;
    memcpy(&both, pair, sizeof both);
    return _mm512_dpbf16_ps(sum, (__m512bh)_mm512_set1_epi32(both), (__m512bh)_mm512_loadu_si512(weights));
}
#else
typedef float number;
#define PAIR 1
INLINE floats widened(const number *at) { return _mm512_loadu_ps(at); }
INLINE void store(number *at, floats value) { _mm512_storeu_ps(at, value); }
INLINE floats product(floats sum, const number *one, const number *weights) {
    return _mm512_fmadd_ps(_mm512_set1_ps(*one), _mm512_loadu_ps(weights), sum);
}
#endif

INLINE floats clipped(floats value) {
    return _mm512_min_ps(_mm512_max_ps(value, _mm512_setzero_ps()), _mm512_set1_ps(6));
}

/* So many vectors of channels of so many pixels; weights are (vectors, terms / PAIR, LANES, PAIR). */
INLINE void tile(const number *from, int terms, const number *weights, const float *bias, number *to, int step,
                 const number *other, const int clips, const int vectors, const int pixels) {
    floats sums[32];
    UNROLLED for (int p = 0; p < pixels; p++)
        UNROLLED for (int v = 0; v < vectors; v++) sums[p * vectors + v] = _mm512_loadu_ps(bias + v * LANES);
    for (int t = 0; t < terms; t += PAIR)
        UNROLLED for (int p = 0; p < pixels; p++)
            UNROLLED for (int v = 0; v < vectors; v++)
                sums[p * vectors + v] =
                    product(sums[p * vectors + v], from + p * terms + t, weights + ((long)v * terms + t) * LANES);
    UNROLLED for (int p = 0; p < pixels; p++)
        UNROLLED for (int v = 0; v < vectors; v++) {
            floats value = sums[p * vectors + v];
            if (other) value = _mm512_add_ps(value, widened(other + p * step + v * LANES));
            store(to + p * step + v * LANES, clips ? clipped(value) : value);
        }
}

/* A 1x1 convolution of pixels in a row; what is left behind whole tiles is computed with what is before it. */
INLINE void pixelwise(const number *from, int pixels, int terms, int channels, const number *weights, const float *bias,
                      number *to, int step, const number *other, const int clips, const int vectors, const int each) {
    for (int c = 0; c < channels; c += vectors * LANES)
        for (int x = 0; x < pixels; x += each) {
            int at = x + each > pixels ? pixels - each : x;
            tile(from + (long)at * terms, terms, weights + (long)c * terms, bias + c, to + (long)at * step + c, step,
                 other ? other + (long)at * step + c : 0, clips, vectors, each);
        }
}

/* Products and sums in registers that do not wait for one another: what no kernel goes faster than. */
void products(long steps, const number *numbers, float *out) {
    floats sums[24];
    UNROLLED for (int i = 0; i < 24; i++) sums[i] = _mm512_set1_ps((float)i);
    for (long step = 0; step < steps; step++) {
        UNROLLED for (int i = 0; i < 24; i++) sums[i] = product(sums[i], numbers, numbers);
        __asm__ volatile("" : "+v"(sums[0]));
    }
    UNROLLED for (int i = 1; i < 24; i++) sums[0] = _mm512_add_ps(sums[0], sums[i]);
    _mm512_storeu_ps(out, sums[0]);
}

#define EACH 7 /* pixels at a time: all widths of the network divide by it */

void convolution(const number *from, int pixels, int terms, int channels, const number *weights, const float *bias,
                 number *to) {
    if (channels % (3 * LANES) == 0)
        pixelwise(from, pixels, terms, channels, weights, bias, to, channels, 0, 1, 3, EACH);
    else pixelwise(from, pixels, terms, channels, weights, bias, to, channels, 0, 1, 2, EACH);
}

/* Expansion, 3x3 depthwise convolution, projection and shortcut, row by row; `ring` has three rows of side + 2 pixels of
   zeros, `row` is as long as one of the depthwise convolution. Weights of that are (inner / LANES, 9, LANES), float32. */
void block(const number *from, int side, int terms, int inner, int channels, const number *expand,
           const float *expand_bias, const float *depth, const float *depth_bias, const number *project,
           const float *project_bias, number *ring, number *row, number *to) {
    long line = (long)(side + 2) * inner;
    memset(ring, 0, 3 * line * sizeof *ring);
    for (int y = -1; y < side; y++) {
        number *next = ring + (y + 4) % 3 * line;
        if (y + 1 < side)
            pixelwise(from + (long)(y + 1) * side * terms, side, terms, inner, expand, expand_bias, next + inner, inner,
                      0, 1, 3, EACH);
        else memset(next, 0, line * sizeof *next);
        if (y < 0) continue;
        for (int c = 0; c < inner; c += LANES) {
            floats weights[9], bias = _mm512_loadu_ps(depth_bias + c);
            UNROLLED for (int t = 0; t < 9; t++) weights[t] = _mm512_loadu_ps(depth + c * 9 + t * LANES);
            for (int x = 0; x < side; x++) {
                floats sum = bias;
                UNROLLED for (int t = 0; t < 9; t++) {
                    const number *at = ring + (y + 2 + t / 3) % 3 * line + (long)(x + t % 3) * inner + c;
                    sum = _mm512_fmadd_ps(widened(at), weights[t], sum);
                }
                store(row + (long)x * inner + c, clipped(sum));
            }
        }
        long at = (long)y * side * channels;
        pixelwise(row, side, inner, channels, project, project_bias, to + at, channels, from + at, 0, 2, EACH);
    }
}
