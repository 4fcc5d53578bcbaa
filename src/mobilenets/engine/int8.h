/* What int8 kernels are made of: vectors, products of bytes, and sums brought back to codes.

   Codes are unsigned bytes, weights signed ones, sums 32 bits wide. Maps are (height, width, channels), the channels of
   a pixel filled up to whole vectors. Zero points of sources are in the biases already; where a window leaves the map,
   it reads codes of zero. Nothing here may be contracted or reassociated: results are exact to the bit. */
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#if defined(__x86_64__)
#include <immintrin.h>
#elif defined(__aarch64__)
#include <arm_neon.h>
#endif

#define INLINE static inline __attribute__((always_inline))
#if defined(__clang__)
#define UNROLLED _Pragma("clang loop unroll(full)")
#else
#define UNROLLED _Pragma("GCC unroll 64")
#endif

#if defined(__AVX512BW__) && defined(__AVX512VL__)
#define LANES 16
#elif defined(__AVX2__)
#define LANES 8
#else
#define LANES 4
#endif

typedef int32_t ints __attribute__((vector_size(4 * LANES)));
typedef uint32_t words __attribute__((vector_size(4 * LANES)));
typedef int16_t shorts __attribute__((vector_size(4 * LANES)));
typedef float floats __attribute__((vector_size(4 * LANES)));
typedef uint8_t bytes __attribute__((vector_size(LANES)));

/* Halide's halide_buffer_t, as far as it is used. `host` is where what is written begins. */
typedef struct {
    int32_t min, extent, stride;
    uint32_t flags;
} dimension_t;

typedef struct {
    uint64_t device;
    const void *interface;
    uint8_t *host;
    uint64_t flags;
    uint32_t type;
    int32_t dimensions;
    const dimension_t *dim;
    void *padding;
} buffer_t;

/* How sums become codes: clipped in steps of the output's scale, rounded, and moved by the zero point. `fill` is the
   code of zero that a window reads outside of its source. */
typedef struct {
    float low, high;
    int32_t zero, fill;
} coding_t;

/* How a sum of two maps becomes codes; each is multiplied by its scale in steps of the sum's. */
typedef struct {
    float first, second;
    int32_t first_zero, second_zero;
    coding_t coding;
} addition_t;

INLINE ints all(int32_t value) { return (ints){0} + value; }
INLINE floats every(float value) {
    floats filled;
    UNROLLED for (int lane = 0; lane < LANES; lane++) filled[lane] = value;
    return filled;
}

INLINE ints four_bytes(const uint8_t *at) {
    int32_t value;
    memcpy(&value, at, sizeof value);
    return all(value);
}

INLINE ints widened(const uint8_t *at) {
    bytes narrow;
    memcpy(&narrow, at, sizeof narrow);
    return __builtin_convertvector(narrow, ints);
}

INLINE void narrowed(uint8_t *at, ints codes) {
    bytes narrow = __builtin_convertvector((words)codes, bytes);
    memcpy(at, &narrow, sizeof narrow);
}

#if LANES == 16
/* Codes of four vectors, clipped to bytes: of each, four lanes in turn. */
INLINE void packed(uint8_t *at, ints first, ints second, ints third, ints fourth) {
    __m512i low = _mm512_packs_epi32((__m512i)first, (__m512i)second);
    __m512i high = _mm512_packs_epi32((__m512i)third, (__m512i)fourth);
    _mm512_storeu_si512(at, _mm512_packus_epi16(low, high));
}
#endif

/* ARM's first products of bytes are of signed ones: codes are taken less 128 there, which `less` adds up for all pixels
   that are multiplied by the same weights, and `made_up` takes off the sums again. Nothing to do elsewhere. */
#if defined(__ARM_FEATURE_DOTPROD) && !defined(__ARM_FEATURE_MATMUL_INT8)
#define SIGNED 1
INLINE ints less(ints total, ints weights) {
    return (ints)vdotq_s32((int32x4_t)total, vdupq_n_s8(-128), (int8x16_t)weights);
}
INLINE ints made_up(ints sums, ints total) { return sums - total; }
#else
#define SIGNED 0
INLINE ints less(ints total, ints weights) { return (void)weights, total; }
INLINE ints made_up(ints sums, ints total) { return (void)total, sums; }
#endif

/* Four products of an unsigned and a signed byte in every lane, added to a sum; see `made_up` for what is left to do. */
INLINE ints dot(ints sums, ints codes, ints weights) {
#if LANES == 16 && defined(__AVX512VNNI__)
    return (ints)_mm512_dpbusd_epi32((__m512i)sums, (__m512i)codes, (__m512i)weights);
#elif LANES == 8 && defined(__AVXVNNI__)
    return (ints)_mm256_dpbusd_avx_epi32((__m256i)sums, (__m256i)codes, (__m256i)weights);
#elif LANES == 4 && defined(__ARM_FEATURE_MATMUL_INT8)
    return (ints)vusdotq_s32((int32x4_t)sums, (uint8x16_t)codes, (int8x16_t)weights);
#elif LANES == 4 && SIGNED
    return (ints)vdotq_s32((int32x4_t)sums, (int8x16_t)(codes ^ (int32_t)0x80808080), (int8x16_t)weights);
#else
    ints even_codes = codes & 0x00ff00ff, odd_codes = (ints)((words)codes >> 8) & 0x00ff00ff;
    shorts even = ((shorts)weights << 8) >> 8, odd = (shorts)weights >> 8;
#if LANES == 16
    ints low = (ints)_mm512_madd_epi16((__m512i)even_codes, (__m512i)even);
    return sums + low + (ints)_mm512_madd_epi16((__m512i)odd_codes, (__m512i)odd);
#elif LANES == 8
    ints low = (ints)_mm256_madd_epi16((__m256i)even_codes, (__m256i)even);
    return sums + low + (ints)_mm256_madd_epi16((__m256i)odd_codes, (__m256i)odd);
#elif defined(__x86_64__)
    ints low = (ints)_mm_madd_epi16((__m128i)even_codes, (__m128i)even);
    return sums + low + (ints)_mm_madd_epi16((__m128i)odd_codes, (__m128i)odd);
#elif defined(__aarch64__)
    /* A product of two bytes fits into 16 bits, the sum of two does not. */
    sums = (ints)vpadalq_s16((int32x4_t)sums, vmulq_s16((int16x8_t)even_codes, (int16x8_t)even));
    return (ints)vpadalq_s16((int32x4_t)sums, vmulq_s16((int16x8_t)odd_codes, (int16x8_t)odd));
#else
    ints first = (even_codes & 0xffff) * (((ints)even << 16) >> 16) + (even_codes >> 16) * ((ints)even >> 16);
    ints second = (odd_codes & 0xffff) * (((ints)odd << 16) >> 16) + (odd_codes >> 16) * ((ints)odd >> 16);
    return sums + first + second;
#endif
#endif
}

INLINE floats chosen(ints mask, floats yes, floats no) { return (floats)(((ints)yes & mask) | ((ints)no & ~mask)); }

INLINE floats clipped(floats value, float low, float high) {
#if LANES == 16
    return (floats)_mm512_min_ps(_mm512_max_ps((__m512)value, (__m512)every(low)), (__m512)every(high));
#elif LANES == 8
    return (floats)_mm256_min_ps(_mm256_max_ps((__m256)value, (__m256)every(low)), (__m256)every(high));
#elif defined(__aarch64__)
    return (floats)vminq_f32(vmaxq_f32((float32x4_t)value, vdupq_n_f32(low)), vdupq_n_f32(high));
#else
    value = chosen(value > low, value, every(low));
    return chosen(value < high, value, every(high));
#endif
}

/* The nearest integers, halves to even, of what is less than 2^22. */
INLINE ints nearest(floats value) {
#if LANES == 16
    return (ints)_mm512_cvtps_epi32((__m512)value);
#elif LANES == 8
    return (ints)_mm256_cvtps_epi32((__m256)value);
#elif defined(__aarch64__)
    return (ints)vcvtnq_s32_f32((float32x4_t)value);
#else
    return (ints)(value + 12582912.0f) - 0x4b400000;
#endif
}

INLINE floats real(ints value) { return __builtin_convertvector(value, floats); }

INLINE ints looked_up(ints codes, const uint8_t *table) {
#if LANES == 16 && defined(__AVX512VBMI__)
    const __m512i *quarter = (const __m512i *)table, at = (__m512i)codes;
    __m512i low = _mm512_permutex2var_epi8(quarter[0], at, quarter[1]);
    __m512i high = _mm512_permutex2var_epi8(quarter[2], at, quarter[3]);
    return (ints)_mm512_mask_blend_epi8(_mm512_movepi8_mask(at), low, high) & 255;
#else
    ints found;
    for (int lane = 0; lane < LANES; lane++) found[lane] = table[codes[lane]];
    return found;
#endif
}

/* What is done to rounded steps. */
enum { NOTHING, MOVED, TABLED }; /* the zero point is 0; it is added; and then a table says what the activation makes */

/* Codes 0..255 of values in steps of the output's scale. */
INLINE ints coded(floats steps, coding_t coding, const int after, const uint8_t *table) {
    ints codes = nearest(clipped(steps, coding.low, coding.high));
    if (after != NOTHING) codes += coding.zero;
    return after == TABLED ? looked_up(codes, table) : codes;
}

/* Codes of the sum of two maps; of the first one come steps from its zero, of the second one codes. */
INLINE ints added(ints first, ints second, addition_t by, const int after, const uint8_t *table) {
    floats one = real(first) * by.first, other = real(second - by.second_zero) * by.second;
    return coded(one + other, by.coding, after, table);
}

/* A layer as it lies packed: a bias and a factor for every channel, a vector of each in turn; the weights of a vector
   of channels, one group of four terms after another; how its sums become codes, and the table behind that. */
typedef struct {
    const ints *scales, *weights;
    coding_t coding;
    const uint8_t *table;
} layer_t;

INLINE layer_t layer(const void *scales, const void *coding, const void *weights) {
    layer_t it = {scales, weights, *(const coding_t *)coding, (const uint8_t *)coding + 64};
    return it;
}

INLINE floats factor(layer_t it, int vector) { return (floats)it.scales[2 * vector + 1]; }

/* The sums of `vectors` vectors of channels, from `vector` on, for `pixels` pixels, `step` bytes apart. What is summed
   up are `rows` pieces of `terms` groups of four bytes, `row` bytes apart. */
INLINE void summed(ints *sums, layer_t it, const uint8_t *from, ptrdiff_t step, int rows, ptrdiff_t row, int terms,
                   int vector, const int vectors, const int pixels) {
    const ints *weights = it.weights + (ptrdiff_t)vector * rows * terms;
    ints off[16] = {{0}};
    UNROLLED for (int p = 0; p < pixels; p++)
        UNROLLED for (int v = 0; v < vectors; v++) sums[p * vectors + v] = it.scales[2 * (vector + v)];
    for (int r = 0; r < rows; r++)
        for (int t = 0; t < terms; t++) {
            ints held[16];
            UNROLLED for (int v = 0; v < vectors; v++) {
                held[v] = weights[(v * rows + r) * terms + t];
                off[v] = less(off[v], held[v]);
            }
            UNROLLED for (int p = 0; p < pixels; p++) {
                ints codes = four_bytes(from + p * step + r * row + 4 * t);
                UNROLLED for (int v = 0; v < vectors; v++)
                    sums[p * vectors + v] = dot(sums[p * vectors + v], codes, held[v]);
            }
        }
    UNROLLED for (int p = 0; p < pixels; p++)
        UNROLLED for (int v = 0; v < vectors; v++) sums[p * vectors + v] = made_up(sums[p * vectors + v], off[v]);
}

/* Call `MACRO(AT, count)` for AT in 0..all in pieces of `count`, the last one with what is left; both are constants. */
#define IN_PIECES(AT, all, piece, MACRO)                                              \
    for (int AT = 0; AT + (piece) <= (all); AT += (piece)) { MACRO(AT, (piece)); }    \
    if ((all) % (piece)) { MACRO((all) / (piece) * (piece), (all) % (piece)); }
