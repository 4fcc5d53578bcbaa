/* Sixteen output channels at once: 64-bit ARM, with its dot products or, on older ones, without. */

#if defined(LEVEL_DOTPROD)
/* These are of signed bytes: codes are taken less 128, and 128 times the weights is added in the end. */
static const int32_t NOTHING[SPAN] = {0};
enum { TILE = 5, BLOCKS = 1, TAPS_AT_ONCE = 1 };
#else
enum { TILE = 3, BLOCKS = 1, TAPS_AT_ONCE = 1 };
#endif

typedef struct {
    int32x4_t v[4];
} block_t;

static inline block_t block_load(const int32_t *from) {
    block_t block = {{vld1q_s32(from), vld1q_s32(from + 4), vld1q_s32(from + 8), vld1q_s32(from + 12)}};
    return block;
}

#if defined(LEVEL_DOTPROD)
typedef struct {
    int8x16_t v[4];
} fours_t;

typedef int8x16_t four_t;

static inline fours_t block_weights(const int8_t *w) {
    fours_t weights = {{vld1q_s8(w), vld1q_s8(w + 16), vld1q_s8(w + 32), vld1q_s8(w + 48)}};
    return weights;
}

static inline four_t block_four(const uint8_t *x) {
    uint32_t four;
    memcpy(&four, x, sizeof four);
    return vreinterpretq_s8_u32(vdupq_n_u32(four ^ 0x80808080u));
}

static inline block_t block_dot(block_t sums, four_t x, fours_t w) {
    sums.v[0] = vdotq_s32(sums.v[0], w.v[0], x);
    sums.v[1] = vdotq_s32(sums.v[1], w.v[1], x);
    sums.v[2] = vdotq_s32(sums.v[2], w.v[2], x);
    sums.v[3] = vdotq_s32(sums.v[3], w.v[3], x);
    return sums;
}
#else
typedef struct {
    int16x8_t low[4], high[4];
} fours_t;

typedef int16x4_t four_t;

static inline fours_t block_weights(const int8_t *w) {
    int8x16x4_t apart = vld4q_s8(w);
    fours_t weights;
#define WIDEN(k)                                                  \
    weights.low[k] = vmovl_s8(vget_low_s8(apart.val[k]));         \
    weights.high[k] = vmovl_s8(vget_high_s8(apart.val[k]));
    WIDEN(0)
    WIDEN(1)
    WIDEN(2)
    WIDEN(3)
#undef WIDEN
    return weights;
}

static inline four_t block_four(const uint8_t *x) {
    uint32_t four;
    memcpy(&four, x, sizeof four);
    return vreinterpret_s16_u16(vget_low_u16(vmovl_u8(vreinterpret_u8_u32(vdup_n_u32(four)))));
}

#define ONE_OF_FOUR(k)                                                            \
    sums.v[0] = vmlal_lane_s16(sums.v[0], vget_low_s16(w.low[k]), x, k);  \
    sums.v[1] = vmlal_lane_s16(sums.v[1], vget_high_s16(w.low[k]), x, k); \
    sums.v[2] = vmlal_lane_s16(sums.v[2], vget_low_s16(w.high[k]), x, k); \
    sums.v[3] = vmlal_lane_s16(sums.v[3], vget_high_s16(w.high[k]), x, k);

static inline block_t block_dot(block_t sums, four_t x, fours_t w) {
    ONE_OF_FOUR(0)
    ONE_OF_FOUR(1)
    ONE_OF_FOUR(2)
    ONE_OF_FOUR(3)
    return sums;
}
#undef ONE_OF_FOUR
#endif

typedef struct {
    int16x8_t low, high;
} weights_t;

static inline weights_t tap_weights(const int8_t *w, const int8_t *next) {
    (void)next;
    int8x16_t all = vld1q_s8(w);
    weights_t weights = {vmovl_s8(vget_low_s8(all)), vmovl_s8(vget_high_s8(all))};
    return weights;
}

static inline block_t block_tap(block_t sums, const uint8_t *x, const uint8_t *next, weights_t w) {
    (void)next;
    uint8x16_t all = vld1q_u8(x);
    int16x8_t low = vreinterpretq_s16_u16(vmovl_u8(vget_low_u8(all)));
    int16x8_t high = vreinterpretq_s16_u16(vmovl_u8(vget_high_u8(all)));
    sums.v[0] = vmlal_s16(sums.v[0], vget_low_s16(low), vget_low_s16(w.low));
    sums.v[1] = vmlal_s16(sums.v[1], vget_high_s16(low), vget_high_s16(w.low));
    sums.v[2] = vmlal_s16(sums.v[2], vget_low_s16(high), vget_low_s16(w.high));
    sums.v[3] = vmlal_s16(sums.v[3], vget_high_s16(high), vget_high_s16(w.high));
    return sums;
}

#if defined(LEVEL_DOTPROD)
static inline block_t block_shifted(block_t sums, block_t weights) {
    sums.v[0] = vaddq_s32(sums.v[0], vshlq_n_s32(weights.v[0], 7));
    sums.v[1] = vaddq_s32(sums.v[1], vshlq_n_s32(weights.v[1], 7));
    sums.v[2] = vaddq_s32(sums.v[2], vshlq_n_s32(weights.v[2], 7));
    sums.v[3] = vaddq_s32(sums.v[3], vshlq_n_s32(weights.v[3], 7));
    return sums;
}
#endif

static inline uint16x4_t quarter(int32x4_t sums, const float *factors, limits_t to) {
    float32x4_t steps = vmulq_f32(vcvtq_f32_s32(sums), vld1q_f32(factors));
    steps = vminq_f32(vmaxq_f32(steps, vdupq_n_f32(to.low)), vdupq_n_f32(to.high));
    return vqmovun_s32(vaddq_s32(vcvtnq_s32_f32(steps), vdupq_n_s32(to.zero)));
}

static inline void block_finish(block_t sums, const float *factors, limits_t to, uint8_t *out) {
    uint16x8_t low = vcombine_u16(quarter(sums.v[0], factors, to), quarter(sums.v[1], factors + 4, to));
    uint16x8_t high = vcombine_u16(quarter(sums.v[2], factors + 8, to), quarter(sums.v[3], factors + 12, to));
    vst1q_u8(out, vcombine_u8(vqmovn_u16(low), vqmovn_u16(high)));
}
