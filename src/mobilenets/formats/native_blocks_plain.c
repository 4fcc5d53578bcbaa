/* Sixteen output channels at once, in plain C: what the versions of this for kinds of processors mean. */

enum { TILE = 4, BLOCKS = 1, TAPS_AT_ONCE = 1 };

typedef struct {
    int32_t v[SPAN];
} block_t;

typedef struct {
    const int8_t *v;
} weights_t;

typedef weights_t fours_t;

typedef struct {
    int v[4];
} four_t;

static inline block_t block_load(const int32_t *from) {
    block_t block;
    memcpy(block.v, from, sizeof block.v);
    return block;
}

static inline fours_t block_weights(const int8_t *w) {
    weights_t weights = {w};
    return weights;
}

static inline four_t block_four(const uint8_t *x) {
    four_t four = {{x[0], x[1], x[2], x[3]}};
    return four;
}

/* Add products of four input channels: weights lie as SPAN output channels by four. */
static inline block_t block_dot(block_t sums, four_t x, fours_t w) {
    for (int j = 0; j < SPAN; j++)
        sums.v[j] += x.v[0] * w.v[4 * j] + x.v[1] * w.v[4 * j + 1] + x.v[2] * w.v[4 * j + 2] + x.v[3] * w.v[4 * j + 3];
    return sums;
}

/* Add what each channel's weight makes of its own code. */
static inline weights_t tap_weights(const int8_t *w, const int8_t *next) {
    (void)next;
    return block_weights(w);
}

static inline block_t block_tap(block_t sums, const uint8_t *x, const uint8_t *next, weights_t w) {
    (void)next;
    for (int j = 0; j < SPAN; j++) sums.v[j] += (int16_t)(x[j] * w.v[j]);
    return sums;
}

static inline void block_finish(block_t sums, const float *factors, limits_t to, uint8_t *out) {
    for (int j = 0; j < SPAN; j++) out[j] = steps_of(sums.v[j], factors[j], to);
}
