/* Sixteen output channels at once, where a processor adds products of pairs of 16-bit numbers: AVX2, SSE2, WebAssembly.
   (Products of bytes added in 16 bits would saturate.) */

#if defined(LEVEL_AVX2)
#define WIDE(instruction) _mm256_##instruction
typedef __m256i whole_t;
typedef __m256 real_t;
#else
#define WIDE(instruction) _mm_##instruction
#if defined(__wasm_simd128__)
typedef v128_t whole_t;
typedef v128_t real_t;
#define _mm_add_epi32 wasm_i32x4_add
#define _mm_madd_epi16 wasm_i32x4_dot_i16x8
#define _mm_slli_epi16 wasm_i16x8_shl
#define _mm_srai_epi16 wasm_i16x8_shr
#define _mm_srli_epi16 wasm_u16x8_shr
#define _mm_and_si128 wasm_v128_and
#define _mm_set1_epi32 wasm_i32x4_splat
#define _mm_set1_ps wasm_f32x4_splat
#define _mm_loadu_ps wasm_v128_load
#define _mm_cvtepi32_ps wasm_f32x4_convert_i32x4
#define _mm_cvtps_epi32(x) wasm_i32x4_trunc_sat_f32x4(wasm_f32x4_nearest(x))
#define _mm_mul_ps wasm_f32x4_mul
#define _mm_min_ps wasm_f32x4_pmin
#define _mm_max_ps wasm_f32x4_pmax
#else
typedef __m128i whole_t;
typedef __m128 real_t;
#endif
#endif

enum { LANES = sizeof(whole_t) / 4, PARTS = SPAN / LANES };
enum { TILE = LANES / 2, BLOCKS = 1, TAPS_AT_ONCE = 2 };

/* Written out for each part, so that compilers keep all of them in registers. */
#define PART(what) what(0) what(1) FURTHER(what)
#if defined(LEVEL_AVX2)
#define FURTHER(what)
#else
#define FURTHER(what) what(2) what(3)
#endif

typedef struct {
    whole_t v[PARTS];
} block_t;

/* The first and third, and the second and fourth of every four. */
typedef struct {
    whole_t even[PARTS], odd[PARTS];
} weights_t;

typedef weights_t fours_t;

typedef struct {
    whole_t even, odd;
} four_t;

static inline whole_t whole(const void *from) {
    whole_t value;
    memcpy(&value, from, sizeof value);
    return value;
}

static inline block_t block_load(const int32_t *from) {
    block_t block;
#define LOAD(i) block.v[i] = whole(from + i * LANES);
    PART(LOAD)
#undef LOAD
    return block;
}

static inline fours_t block_weights(const int8_t *w) {
    fours_t weights;
#define SPLIT(i)                                                                                \
    weights.even[i] = WIDE(srai_epi16)(WIDE(slli_epi16)(whole(w + i * LANES * 4), 8), 8);       \
    weights.odd[i] = WIDE(srai_epi16)(whole(w + i * LANES * 4), 8);
    PART(SPLIT)
#undef SPLIT
    return weights;
}

static inline four_t block_four(const uint8_t *x) {
    int32_t number;
    memcpy(&number, x, sizeof number);
    whole_t both = WIDE(set1_epi32)(number), low = WIDE(set1_epi32)(0x00ff00ff);
#if defined(LEVEL_AVX2)
    four_t four = {_mm256_and_si256(both, low), _mm256_srli_epi16(both, 8)};
#else
    four_t four = {_mm_and_si128(both, low), _mm_srli_epi16(both, 8)};
#endif
    return four;
}

static inline block_t block_dot(block_t sums, four_t x, fours_t w) {
#define ADD_UP(i)                                                                    \
    sums.v[i] = WIDE(add_epi32)(sums.v[i], WIDE(madd_epi16)(x.even, w.even[i]));     \
    sums.v[i] = WIDE(add_epi32)(sums.v[i], WIDE(madd_epi16)(x.odd, w.odd[i]));
    PART(ADD_UP)
#undef ADD_UP
    return sums;
}

/* Sixteen bytes of each of two, side by side, each become 16 bits. */
#if defined(LEVEL_AVX2)
static inline void side_by_side(whole_t *out, const void *one, const void *other, int with_sign) {
    __m128i first = _mm_loadu_si128((const __m128i *)one), second = _mm_loadu_si128((const __m128i *)other);
    __m128i low = _mm_unpacklo_epi8(first, second), high = _mm_unpackhi_epi8(first, second);
    out[0] = with_sign ? _mm256_cvtepi8_epi16(low) : _mm256_cvtepu8_epi16(low);
    out[1] = with_sign ? _mm256_cvtepi8_epi16(high) : _mm256_cvtepu8_epi16(high);
}
#elif defined(__wasm_simd128__)
static inline void side_by_side(whole_t *out, const void *one, const void *other, int with_sign) {
    v128_t a = whole(one), b = whole(other);
    v128_t low = wasm_i8x16_shuffle(a, b, 0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23);
    v128_t high = wasm_i8x16_shuffle(a, b, 8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31);
    out[0] = with_sign ? wasm_i16x8_extend_low_i8x16(low) : wasm_u16x8_extend_low_u8x16(low);
    out[1] = with_sign ? wasm_i16x8_extend_high_i8x16(low) : wasm_u16x8_extend_high_u8x16(low);
    out[2] = with_sign ? wasm_i16x8_extend_low_i8x16(high) : wasm_u16x8_extend_low_u8x16(high);
    out[3] = with_sign ? wasm_i16x8_extend_high_i8x16(high) : wasm_u16x8_extend_high_u8x16(high);
}
#else
static inline void side_by_side(whole_t *out, const void *one, const void *other, int with_sign) {
    __m128i a = whole(one), b = whole(other), nothing = _mm_setzero_si128();
    __m128i low = _mm_unpacklo_epi8(a, b), high = _mm_unpackhi_epi8(a, b);
    out[0] = _mm_unpacklo_epi8(nothing, low);
    out[1] = _mm_unpackhi_epi8(nothing, low);
    out[2] = _mm_unpacklo_epi8(nothing, high);
    out[3] = _mm_unpackhi_epi8(nothing, high);
#define DOWN(i) out[i] = with_sign ? _mm_srai_epi16(out[i], 8) : _mm_srli_epi16(out[i], 8);
    PART(DOWN)
#undef DOWN
}
#endif

static inline weights_t tap_weights(const int8_t *w, const int8_t *next) {
    weights_t weights;
    side_by_side(weights.even, w, next, 1);
    return weights;
}

static inline block_t block_tap(block_t sums, const uint8_t *x, const uint8_t *next, weights_t w) {
    whole_t pairs[PARTS];
    side_by_side(pairs, x, next, 0);
#define ADD_UP(i) sums.v[i] = WIDE(add_epi32)(sums.v[i], WIDE(madd_epi16)(pairs[i], w.even[i]));
    PART(ADD_UP)
#undef ADD_UP
    return sums;
}

static inline void block_finish(block_t sums, const float *factors, limits_t to, uint8_t *out) {
#define FINISH(i)                                                                                       \
    {                                                                                                   \
        real_t steps = WIDE(mul_ps)(WIDE(cvtepi32_ps)(sums.v[i]), WIDE(loadu_ps)(factors + i * LANES)); \
        steps = WIDE(min_ps)(WIDE(max_ps)(steps, WIDE(set1_ps)(to.low)), WIDE(set1_ps)(to.high));           \
        sums.v[i] = WIDE(add_epi32)(WIDE(cvtps_epi32)(steps), WIDE(set1_epi32)(to.zero));               \
    }
    PART(FINISH)
#undef FINISH
#if defined(LEVEL_AVX2)
    __m256i codes = _mm256_permute4x64_epi64(_mm256_packs_epi32(sums.v[0], sums.v[1]), 0xd8);
    __m128i bytes = _mm_packus_epi16(_mm256_castsi256_si128(codes), _mm256_extracti128_si256(codes, 1));
#elif defined(__wasm_simd128__)
    v128_t low = wasm_i16x8_narrow_i32x4(sums.v[0], sums.v[1]), high = wasm_i16x8_narrow_i32x4(sums.v[2], sums.v[3]);
    v128_t bytes = wasm_u8x16_narrow_i16x8(low, high);
#else
    __m128i low = _mm_packs_epi32(sums.v[0], sums.v[1]), high = _mm_packs_epi32(sums.v[2], sums.v[3]);
    __m128i bytes = _mm_packus_epi16(low, high);
#endif
    memcpy(out, &bytes, SPAN);
}

#undef WIDE
#undef PART
#undef FURTHER
