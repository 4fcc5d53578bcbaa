/* Sixteen output channels at once: AVX-512 with VNNI. */

enum { TILE = 8, BLOCKS = 2, TAPS_AT_ONCE = 1 };

typedef __m512i block_t;
typedef __m512i weights_t;
typedef __m512i fours_t;
typedef __m512i four_t;

static inline block_t block_load(const int32_t *from) { return _mm512_loadu_si512(from); }

static inline fours_t block_weights(const int8_t *w) { return _mm512_loadu_si512(w); }

static inline four_t block_four(const uint8_t *x) {
    int32_t four;
    memcpy(&four, x, sizeof four);
    return _mm512_set1_epi32(four);
}

static inline block_t block_dot(block_t sums, four_t x, fours_t w) { return _mm512_dpbusd_epi32(sums, x, w); }

static inline weights_t tap_weights(const int8_t *w, const int8_t *next) {
    (void)next;
    return _mm512_cvtepi8_epi32(_mm_loadu_si128((const __m128i *)(const void *)w));
}

/* Of the four codes that are multiplied, three are nothing. */
static inline block_t block_tap(block_t sums, const uint8_t *x, const uint8_t *next, weights_t w) {
    (void)next;
    return _mm512_dpbusd_epi32(sums, _mm512_cvtepu8_epi32(_mm_loadu_si128((const __m128i *)(const void *)x)), w);
}

static inline void block_finish(block_t sums, const float *factors, limits_t to, uint8_t *out) {
    __m512 steps = _mm512_mul_ps(_mm512_cvtepi32_ps(sums), _mm512_loadu_ps(factors));
    steps = _mm512_min_ps(_mm512_max_ps(steps, _mm512_set1_ps(to.low)), _mm512_set1_ps(to.high));
    __m512i codes = _mm512_add_epi32(_mm512_cvtps_epi32(steps), _mm512_set1_epi32(to.zero));
    _mm_storeu_si128((__m128i *)(void *)out, _mm512_cvtepi32_epi8(codes));
}
