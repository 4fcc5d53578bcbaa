/* How pixels are computed. For some processors this is compiled several times, under names of their own. */

#ifdef INT8
/* Written out for each pixel of a tile: compilers keep in registers what is called by constants, not what loops name. */
#define EACH(what) what(0) what(1) what(2) what(3) what(4) what(5) what(6) what(7)

/* Four codes, of which only so many belong to the pixel. */
static UNROLLED four_t some(const uint8_t *x, int count) {
    uint8_t rest[4] = {0, 0, 0, 0};
    for (int i = 0; i < count; i++) rest[i] = x[i];
    return block_four(rest);
}

/* Write the codes of SPAN output channels, or of as many as there are. */
static UNROLLED void leave(block_t sums, const float *factors, limits_t to, uint8_t *out, int count) {
    if (count < SPAN) {
        uint8_t codes[SPAN];
        block_finish(sums, factors, to, codes);
        memcpy(out, codes, (size_t)count);
    } else
        block_finish(sums, factors, to, out);
}

/* Pixels over the input channels, for one or two blocks of SPAN output channels; the last may have fewer. */
static UNROLLED void tile(value_t *const *out, value_t *const *x, const int pixels, const int blocks, int inputs,
                          const int8_t *w, const int32_t *bias, const float *factors, limits_t to, int count) {
    const size_t step = (size_t)(inputs + 3) / 4 * 4 * SPAN;
    const uint8_t *from[8];
    block_t sums[8], others[8];
#ifdef LEVEL_DOTPROD
    const uint8_t less[4] = {129, 129, 129, 129};
    block_t all = block_load(NOTHING);
#define ALL all = block_dot(all, block_four(less), weights);
#else
#define ALL
#endif
#define BEGIN(p)                                                \
    if (p < pixels) {                                           \
        from[p] = x[p];                                         \
        sums[p] = block_load(bias);                             \
        if (blocks > 1) others[p] = block_load(bias + SPAN);    \
    }
#define MORE(p)                                                         \
    if (p < pixels) {                                                   \
        const four_t four = FOUR(from[p] + k);                          \
        sums[p] = block_dot(sums[p], four, weights);                    \
        if (blocks > 1) others[p] = block_dot(others[p], four, beside); \
    }
#define STEP                                                            \
    const fours_t weights = block_weights(w);                           \
    const fours_t beside = block_weights(blocks > 1 ? w + step : w);    \
    ALL EACH(MORE)(void)beside;
    EACH(BEGIN)
    int k = 0;
#define FOUR(at) block_four(at)
    for (; k + 4 <= inputs; k += 4, w += 4 * SPAN) {
        STEP
    }
#undef FOUR
#define FOUR(at) some(at, inputs - k)
    if (k < inputs) {
        STEP
    }
#undef FOUR
#ifdef LEVEL_DOTPROD
#define SHIFT(p) \
    if (p < pixels) sums[p] = block_shifted(sums[p], all);
    EACH(SHIFT)
#undef SHIFT
#endif
#define LEAVE_BOTH(p)                                                                                   \
    if (p < pixels) {                                                                                   \
        leave(sums[p], factors, to, out[p], blocks > 1 ? SPAN : count);                                 \
        if (blocks > 1) leave(others[p], factors + SPAN, to, out[p] + SPAN, count - SPAN);              \
    }
    EACH(LEAVE_BOTH)
#undef ALL
#undef BEGIN
#undef MORE
#undef STEP
#undef LEAVE_BOTH
}

static UNROLLED void tiles(value_t *const *out, value_t *const *x, int pixels, const int blocks, int inputs,
                           const int8_t *w, const int32_t *bias, const float *factors, limits_t to, int count) {
#define SOME(n) \
    if (TILE >= n && pixels == n) tile(out, x, n, blocks, inputs, w, bias, factors, to, count)
    for (; pixels > TILE; pixels -= TILE, out += TILE, x += TILE)
        tile(out, x, TILE, blocks, inputs, w, bias, factors, to, count);
    SOME(1);
    SOME(2);
    SOME(3);
    SOME(4);
    SOME(5);
    SOME(6);
    SOME(7);
    SOME(8);
#undef SOME
}

static void look_up(value_t *codes, int count, const operation_t *op) {
    const uint8_t *table = (const uint8_t *)WEIGHTS + op->table;
    if (op->table >= 0)
        for (int j = 0; j < count; j++) codes[j] = table[codes[j]];
}

static void products(value_t *const *to, value_t *const *x, int pixels, int inputs, const operation_t *op) {
    const int8_t *w = (const int8_t *)WEIGHTS + op->weights;
    const int32_t *bias = (const int32_t *)(const void *)((const char *)WEIGHTS + op->bias);
    const float *factors = (const float *)(const void *)((const char *)WEIGHTS + op->factors);
    const size_t step = (size_t)(inputs + 3) / 4 * 4 * SPAN;
    value_t *out[PIXELS];
    memcpy(out, to, (size_t)pixels * sizeof *out);
    int c = 0;
    for (int blocks = BLOCKS; blocks > 0; blocks--)
        for (; op->c - c > (blocks - 1) * SPAN; c += blocks * SPAN, w += (size_t)blocks * step) {
            if (blocks == BLOCKS)
                tiles(out, x, pixels, BLOCKS, inputs, w, bias + c, factors + c, limits_of(op), op->c - c);
            else
                tiles(out, x, pixels, 1, inputs, w, bias + c, factors + c, limits_of(op), op->c - c);
            for (int p = 0; p < pixels; p++) out[p] += blocks * SPAN;
        }
    for (int p = 0; p < pixels; p++) look_up(to[p], op->c, op);
}

/* Some pixels of SPAN channels; each has a list of what is under its taps. */
static UNROLLED void filter(value_t *const *out, const value_t *(*x)[TAPS + 1], const int pixels, int c,
                            const operation_t *op) {
    const int8_t *w = (const int8_t *)WEIGHTS + op->weights + c;
    const int32_t *bias = (const int32_t *)(const void *)((const char *)WEIGHTS + op->bias);
    const float *factors = (const float *)(const void *)((const char *)WEIGHTS + op->factors);
    const limits_t to = limits_of(op);
    const int step = TAPS_AT_ONCE * op->c;
    block_t sums[8];
#define BEGIN(p) \
    if (p < pixels) sums[p] = block_load(bias + c);
#define MORE(p) \
    if (p < pixels) sums[p] = block_tap(sums[p], x[p][t] + c, x[p][t + 1] + c, weights);
#define END(p) \
    if (p < pixels) block_finish(sums[p], factors + c, to, out[p] + c);
    EACH(BEGIN)
    for (int t = 0; t < op->kernel * op->kernel; t += TAPS_AT_ONCE, w += step) {
        const weights_t weights = tap_weights(w, w + op->c);
        EACH(MORE)
    }
    EACH(END)
#undef BEGIN
#undef MORE
#undef END
}

static void taps(value_t *const *out, const value_t *(*x)[TAPS + 1], int pixels, const operation_t *op) {
    const int8_t *w = (const int8_t *)WEIGHTS + op->weights;
    const int32_t *bias = (const int32_t *)(const void *)((const char *)WEIGHTS + op->bias);
    const float *factors = (const float *)(const void *)((const char *)WEIGHTS + op->factors);
    int c = 0;
    for (; c + SPAN <= op->c; c += SPAN) {
        int p = 0;
        for (; p + TILE <= pixels; p += TILE) filter(out + p, x + p, TILE, c, op);
        for (; TILE > 4 && p + 4 <= pixels; p += 4) filter(out + p, x + p, 4, c, op);
        for (; p < pixels; p++) filter(out + p, x + p, 1, c, op);
    }
    for (; c < op->c; c++)
        for (int p = 0; p < pixels; p++) {
            int32_t sum = bias[c];
            for (int t = 0; t < op->kernel * op->kernel; t++) sum += x[p][t][c] * w[t * op->c + c];
            out[p][c] = steps_of(sum, factors[c], limits_of(op));
        }
    for (int p = 0; p < pixels; p++) look_up(out[p], op->c, op);
}

static void add(value_t *restrict out, const value_t *restrict x, const value_t *restrict y, const operation_t *op) {
    const limits_t to = limits_of(op);
    const float first = op->first, second = op->second;
    const int one = op->zeros[0], other = op->zeros[1];
    for (int j = 0; j < op->c; j++) out[j] = code(first * (float)(x[j] - one) + second * (float)(y[j] - other), to);
    look_up(out, op->c, op);
}

static void scale(value_t *restrict out, const value_t *restrict x, const value_t *restrict gate,
                  const operation_t *op) {
    const limits_t to = limits_of(op);
    const float first = op->first;
    const int one = op->zeros[0], other = op->zeros[1];
    for (int j = 0; j < op->c; j++) out[j] = code(first * (float)((x[j] - one) * (gate[j] - other)), to);
    look_up(out, op->c, op);
}

static void collect(sum_t *restrict sums, const value_t *restrict x, const operation_t *op) {
    const int zero = op->zeros[0];
    for (int j = 0; j < op->c; j++) sums[j] += x[j] - zero;
}

static void mean(value_t *restrict out, const sum_t *restrict sums, const operation_t *op) {
    const limits_t to = limits_of(op);
    for (int j = 0; j < op->c; j++) out[j] = steps_of(sums[j], op->first, to);
    look_up(out, op->c, op);
}
#else
static inline float activate(float x, int activation) {
    float gate = x + 3.0f < 0.0f ? 0.0f : x + 3.0f > 6.0f ? 6.0f : x + 3.0f;
    switch (activation) {
        case RELU: return x < 0.0f ? 0.0f : x;
        case RELU6: return x < 0.0f ? 0.0f : x > 6.0f ? 6.0f : x;
        case HARD_SWISH: return x * gate / 6.0f;
        case HARD_SIGMOID: return gate / 6.0f;
        case SIGMOID: return 1.0f / (1.0f + expf(-x));
        default: return x;
    }
}

static void finish(float *restrict out, const float *restrict sums, int count, int activation) {
    switch (activation) {
        case LINEAR: memcpy(out, sums, (size_t)count * sizeof *out); break;
        case RELU6:
            for (int j = 0; j < count; j++) out[j] = activate(sums[j], RELU6);
            break;
        case HARD_SWISH:
            for (int j = 0; j < count; j++) out[j] = activate(sums[j], HARD_SWISH);
            break;
        default:
            for (int j = 0; j < count; j++) out[j] = activate(sums[j], activation);
    }
}

/* Weights lie as SPAN output channels by one input channel. */
static UNROLLED void tile(float (*sums)[SPAN], value_t *const *x, const int pixels, const float *w, int inputs) {
    float total[4][SPAN];
    memcpy(total, sums, sizeof *total * (size_t)pixels);
    for (int k = 0; k < inputs; k++)
        for (int p = 0; p < pixels; p++)
            for (int j = 0; j < SPAN; j++) total[p][j] += x[p][k] * w[k * SPAN + j];
    memcpy(sums, total, sizeof *total * (size_t)pixels);
}

static void products(value_t *const *out, value_t *const *x, int pixels, int inputs, const operation_t *op) {
    const float *w = (const float *)(const void *)((const char *)WEIGHTS + op->weights);
    const float *bias = (const float *)(const void *)((const char *)WEIGHTS + op->bias);
    float sums[PIXELS][SPAN];
    for (int c = 0; c < op->c; c += SPAN, w += (size_t)inputs * SPAN) {
        int p = 0, count = op->c - c < SPAN ? op->c - c : SPAN;
        for (int q = 0; q < pixels; q++) memcpy(sums[q], bias + c, sizeof sums[q]);
        for (; p + 4 <= pixels; p += 4) tile(sums + p, x + p, 4, w, inputs);
        for (; p < pixels; p++) tile(sums + p, x + p, 1, w, inputs);
        for (int q = 0; q < pixels; q++) finish(out[q] + c, sums[q], count, op->activation);
    }
}

static void taps(value_t *const *out, const value_t *(*x)[TAPS + 1], int pixels, const operation_t *op) {
    enum { MANY = 64 };
    const float *w = (const float *)(const void *)((const char *)WEIGHTS + op->weights);
    const float *bias = (const float *)(const void *)((const char *)WEIGHTS + op->bias);
    for (int p = 0; p < pixels; p++)
        for (int c = 0; c < op->c; c += MANY) {
            int count = op->c - c < MANY ? op->c - c : MANY;
            float sums[MANY];
            memcpy(sums, bias + c, (size_t)count * sizeof *sums);
            for (int t = 0; t < op->kernel * op->kernel; t++) {
                const float *restrict from = x[p][t] + c, *restrict weights = w + (size_t)t * (size_t)op->c + c;
                for (int j = 0; j < count; j++) sums[j] += from[j] * weights[j];
            }
            finish(out[p] + c, sums, count, op->activation);
        }
}

static void add(value_t *restrict out, const value_t *restrict x, const value_t *restrict y, const operation_t *op) {
    for (int j = 0; j < op->c; j++) out[j] = activate(x[j] + y[j], op->activation);
}

static void scale(value_t *restrict out, const value_t *restrict x, const value_t *restrict gate,
                  const operation_t *op) {
    for (int j = 0; j < op->c; j++) out[j] = activate(x[j] * gate[j], op->activation);
}

static void collect(sum_t *restrict sums, const value_t *restrict x, const operation_t *op) {
    for (int j = 0; j < op->c; j++) sums[j] += x[j];
}

static void mean(value_t *restrict out, const sum_t *restrict sums, const operation_t *op) {
    for (int j = 0; j < op->c; j++) out[j] = activate(sums[j] * op->first, op->activation);
}
#endif

/* Gather what each pixel of a K x K convolution reads, padding included, and multiply as if it were 1 x 1. */
static void gathered(unsigned char *arena, const operation_t *op, const operation_t *source, uint32_t first, int pixels,
                     value_t *const *out) {
    value_t patches[PIXELS][PATCH], *x[PIXELS];
    const value_t *padding = (const value_t *)(const void *)((const char *)WEIGHTS + op->padding);
    const value_t *begin = (const value_t *)(const void *)(arena + source->offset);
    const int row = (int)(first / (uint32_t)op->width), column = (int)(first % (uint32_t)op->width);
    const size_t c = (size_t)source->c, bytes = c * sizeof(value_t);
    for (int p = 0; p < pixels; p++) {
        value_t *to = x[p] = patches[p];
        for (int i = 0; i < op->kernel; i++) {
            int y = row * op->stride - op->top + i, z = (column + p) * op->stride - op->left;
            const int outside = y < 0 || y >= source->height;
            uint32_t at = outside ? 0 : (uint32_t)(y * source->width + (z < 0 ? 0 : z)) % source->ring;
            if (!outside && z >= 0 && z + op->kernel <= source->width &&
                at + (uint32_t)op->kernel <= source->ring) {
                memcpy(to, begin + at * c, (size_t)op->kernel * bytes);
                to += (size_t)op->kernel * c;
                continue;
            }
            for (int j = 0; j < op->kernel; j++, z++, to += c) {
                int inside = !outside && z >= 0 && z < source->width;
                memcpy(to, inside ? pixel(arena, source, (uint32_t)(y * source->width + z)) : padding, bytes);
            }
        }
    }
    products(out, x, pixels, op->kernel * op->kernel * source->c, op);
}

/* List what is under the taps of each pixel, padding included, and multiply channel by channel. */
static void depthwise(unsigned char *arena, const operation_t *op, const operation_t *source, uint32_t first,
                      int pixels, value_t *const *out) {
    const value_t *x[PIXELS][TAPS + 1];
    const value_t *padding = (const value_t *)(const void *)((const char *)WEIGHTS + op->padding);
    const int row = (int)(first / (uint32_t)op->width), column = (int)(first % (uint32_t)op->width);
    const int columns = (pixels - 1) * op->stride + op->kernel;
    for (int i = 0; i < op->kernel; i++) {
        const int y = row * op->stride - op->top + i, left = column * op->stride - op->left;
        const int outside = y < 0 || y >= source->height;
        uint32_t at = outside ? 0 : (uint32_t)(y * source->width + (left < 0 ? 0 : left)) % source->ring;
        for (int j = 0; j < columns; j++) {
            const value_t *from = padding;
            if (!outside && left + j >= 0 && left + j < source->width) {
                from = (const value_t *)(const void *)(arena + source->offset) + (size_t)at * (size_t)source->c;
                at = at + 1 == source->ring ? 0 : at + 1;
            }
            for (int p = 0, k = j; p < pixels && k >= 0; p++, k -= op->stride)
                if (k < op->kernel) x[p][i * op->kernel + k] = from;
        }
    }
    for (int p = 0; p < pixels; p++) x[p][op->kernel * op->kernel] = padding;
    taps(out, x, pixels, op);
}

/* Add up pixels of the source; with the last one, write the mean. */
static void pool(unsigned char *arena, const operation_t *op, const operation_t *source, uint32_t first, int pixels) {
    sum_t *sums = (sum_t *)(void *)(arena + op->sums);
    if (first == 0) memset(sums, 0, (size_t)op->c * sizeof *sums);
    for (int p = 0; p < pixels; p++) collect(sums, pixel(arena, source, first + (uint32_t)p), op);
    if (first + (uint32_t)pixels == pixels_of(source)) mean(pixel(arena, op, 0), sums, op);
}

static void compute(unsigned char *arena, const operation_t *op, uint32_t first, int pixels) {
    const operation_t *source = &OPERATIONS[op->sources[0]], *other = &OPERATIONS[op->sources[1]];
    value_t *x[PIXELS] = {NULL}, *out[PIXELS] = {NULL};
    if (op->kind == POOL) {
        pool(arena, op, source, first, pixels);
        return;
    }
    for (int p = 0; p < pixels; p++) out[p] = pixel(arena, op, first + (uint32_t)p);
    if (op->kind == DENSE) {
        gathered(arena, op, source, first, pixels, out);
        return;
    }
    if (op->kind == DEPTHWISE) {
        depthwise(arena, op, source, first, pixels, out);
        return;
    }
    for (int p = 0; p < pixels; p++) x[p] = pixel(arena, source, first + (uint32_t)p);
    if (op->kind == POINTWISE) products(out, x, pixels, source->c, op);
    for (int p = 0; p < pixels && op->kind == ADD; p++) add(out[p], x[p], pixel(arena, other, first + (uint32_t)p), op);
    for (int p = 0; p < pixels && op->kind == SCALE; p++) scale(out[p], x[p], pixel(arena, other, 0), op);
}
