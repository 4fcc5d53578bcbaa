/* How pixels are computed. For some processors this is compiled several times, under names of their own. */

#ifdef INT8
/* To the nearest integer, halves to even: a number of this size has no digits behind the point. */
static inline float nearest(float x) {
    const float large = 12582912.0f;
    return (x + large) - large;
}

static inline value_t code(float steps, const operation_t *op) {
    float low = (float)(op->low - op->zero), high = (float)(op->high - op->zero);
    steps = steps < low ? low : steps > high ? high : steps;
    return (value_t)((int32_t)nearest(steps) + op->zero);
}

static void finish(value_t *restrict out, const int32_t *restrict sums, const float *restrict factors, int count,
                   const operation_t *op) {
    const uint8_t *table = op->table < 0 ? NULL : (const uint8_t *)WEIGHTS + op->table;
    const float low = (float)(op->low - op->zero), high = (float)(op->high - op->zero);
    const int zero = op->zero;
    for (int j = 0; j < count; j++) {
        float steps = (float)sums[j] * factors[j];
        steps = steps < low ? low : steps;
        steps = steps > high ? high : steps;
        out[j] = (value_t)((int32_t)nearest(steps) + zero);
    }
    if (table != NULL)
        for (int j = 0; j < count; j++) out[j] = table[out[j]];
}

#if defined(__AVX512VNNI__) && defined(__AVX512BW__)
/* Four products at once. Weights lie as SPAN output channels by four input channels, four by four. */
static inline void fours(int32_t (*sums)[SPAN], value_t *const *x, int pixels, const int8_t *w, int channels) {
    __m512i total[PIXELS];
    for (int p = 0; p < pixels; p++) total[p] = _mm512_loadu_si512(sums[p]);
    for (int k = 0; k < channels; k += 4, w += 4 * SPAN) {
        __m512i weights = _mm512_loadu_si512(w);
        for (int p = 0; p < pixels; p++) {
            int32_t four;
            memcpy(&four, x[p] + k, 4);
            total[p] = _mm512_dpbusd_epi32(total[p], _mm512_set1_epi32(four), weights);
        }
    }
    for (int p = 0; p < pixels; p++) _mm512_storeu_si512(sums[p], total[p]);
}

/* The number of pixels is a constant in each of these calls, so that all sums are registers. */
static void many(int32_t (*sums)[SPAN], value_t *const *x, int pixels, const int8_t *w, int channels) {
    switch (pixels) {
        case 8: fours(sums, x, 8, w, channels); break;
        case 7: fours(sums, x, 7, w, channels); break;
        case 6: fours(sums, x, 6, w, channels); break;
        case 5: fours(sums, x, 5, w, channels); break;
        default:
            for (int p = 0; p < pixels; p++) fours(sums + p, x + p, 1, w, channels);
    }
}
#else
/* Weights lie as SPAN output channels by four input channels, four by four. */
static void many(int32_t (*sums)[SPAN], value_t *const *x, int pixels, const int8_t *w, int channels) {
    for (int p = 0; p < pixels; p++) {
        const int8_t *v = w;
        for (int k = 0; k < channels; k += 4, v += 4 * SPAN)
            for (int j = 0; j < SPAN; j++)
                sums[p][j] += x[p][k] * v[4 * j] + x[p][k + 1] * v[4 * j + 1] + x[p][k + 2] * v[4 * j + 2] +
                              x[p][k + 3] * v[4 * j + 3];
    }
}
#endif

static void products(int32_t (*sums)[SPAN], value_t *const *x, int pixels, const int8_t *w, int channels) {
    int whole = channels / 4 * 4;
    many(sums, x, pixels, w, whole);
    for (int p = 0; p < pixels && whole < channels; p++)
        for (int j = 0; j < SPAN; j++)
            for (int k = whole; k < channels; k++) sums[p][j] += x[p][k] * w[(size_t)whole * SPAN + 4 * j + k - whole];
}

static void tap(int32_t *restrict sums, const value_t *restrict x, const int8_t *restrict w, int count, int zero) {
    for (int j = 0; j < count; j++) sums[j] += (int16_t)((int16_t)(x[j] - zero) * w[j]);
}

static void add(value_t *out, const value_t *x, const value_t *y, const operation_t *op) {
    for (int j = 0; j < op->c; j++) {
        float first = op->first * (float)(x[j] - op->zeros[0]), second = op->second * (float)(y[j] - op->zeros[1]);
        out[j] = code(first + second, op);
    }
}

static void scale(value_t *out, const value_t *x, const value_t *gate, const operation_t *op) {
    for (int j = 0; j < op->c; j++)
        out[j] = code(op->first * (float)((x[j] - op->zeros[0]) * (gate[j] - op->zeros[1])), op);
}

static void look_up(value_t *out, const operation_t *op) {
    const uint8_t *codes = (const uint8_t *)WEIGHTS + op->table;
    if (op->table >= 0)
        for (int j = 0; j < op->c; j++) out[j] = codes[out[j]];
}

static void collect(sum_t *sums, const value_t *x, const operation_t *op) {
    for (int j = 0; j < op->c; j++) sums[j] += x[j] - op->zeros[0];
}

static void mean(value_t *out, const sum_t *sums, const operation_t *op) {
    for (int j = 0; j < op->c; j++) out[j] = code((float)sums[j] * op->first, op);
    look_up(out, op);
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

static void finish(value_t *out, const float *sums, const float *factors, int count, const operation_t *op) {
    (void)factors;
    if (op->activation == RELU6)
        for (int j = 0; j < count; j++) out[j] = sums[j] < 0.0f ? 0.0f : sums[j] > 6.0f ? 6.0f : sums[j];
    else
        for (int j = 0; j < count; j++) out[j] = activate(sums[j], op->activation);
}

/* Weights lie as SPAN output channels by one input channel. */
static void products(float (*sums)[SPAN], value_t *const *x, int pixels, const float *w, int channels) {
    int p = 0;
    for (; p + 4 <= pixels; p += 4) {
        float total[4][SPAN];
        memcpy(total, sums[p], sizeof total);
        for (int k = 0; k < channels; k++)
            for (int q = 0; q < 4; q++)
                for (int j = 0; j < SPAN; j++) total[q][j] += x[p + q][k] * w[k * SPAN + j];
        memcpy(sums[p], total, sizeof total);
    }
    for (; p < pixels; p++)
        for (int k = 0; k < channels; k++)
            for (int j = 0; j < SPAN; j++) sums[p][j] += x[p][k] * w[k * SPAN + j];
}

static void tap(float *sums, const value_t *x, const float *w, int count, int zero) {
    (void)zero;
    for (int j = 0; j < count; j++) sums[j] += x[j] * w[j];
}

static void add(value_t *out, const value_t *x, const value_t *y, const operation_t *op) {
    for (int j = 0; j < op->c; j++) out[j] = activate(x[j] + y[j], op->activation);
}

static void scale(value_t *out, const value_t *x, const value_t *gate, const operation_t *op) {
    for (int j = 0; j < op->c; j++) out[j] = activate(x[j] * gate[j], op->activation);
}

static void look_up(value_t *out, const operation_t *op) {
    (void)out;
    (void)op;
}

static void collect(sum_t *sums, const value_t *x, const operation_t *op) {
    for (int j = 0; j < op->c; j++) sums[j] += x[j];
}

static void mean(value_t *out, const sum_t *sums, const operation_t *op) {
    for (int j = 0; j < op->c; j++) out[j] = activate(sums[j] * op->first, op->activation);
}
#endif

/* Pixels of a convolution over all channels: x[p] points to the `inputs` numbers that pixel p is made of. */
static void dense(unsigned char *arena, const operation_t *op, uint32_t first, int pixels, value_t **x, int inputs) {
    const weight_t *w = (const weight_t *)(const void *)((const char *)WEIGHTS + op->weights);
    const sum_t *bias = (const sum_t *)(const void *)((const char *)WEIGHTS + op->bias);
    const float *factors = (const float *)(const void *)((const char *)WEIGHTS + op->factors);
    sum_t sums[PIXELS][SPAN];
    size_t step = (size_t)(inputs + GROUP - 1) / GROUP * GROUP * SPAN;
    for (int c = 0; c < op->c; c += SPAN, w += step) {
        int count = op->c - c < SPAN ? op->c - c : SPAN;
        for (int p = 0; p < pixels; p++) memcpy(sums[p], bias + c, sizeof sums[p]);
        products(sums, x, pixels, w, inputs);
        for (int p = 0; p < pixels; p++)
            finish(pixel(arena, op, first + (uint32_t)p) + c, sums[p], factors + c, count, op);
    }
}

/* Gather what each pixel of a K x K convolution reads, padding included, and multiply as if it were 1 x 1. */
static void gathered(unsigned char *arena, const operation_t *op, const operation_t *source, uint32_t first, int pixels) {
    value_t patches[PIXELS][PATCH], *x[PIXELS];
    int row = (int)(first / op->width), column = (int)(first % op->width);
    for (int p = 0; p < pixels; p++) {
        value_t *to = x[p] = patches[p];
        for (int i = 0; i < op->kernel; i++)
            for (int j = 0; j < op->kernel; j++, to += source->c) {
                int y = row * op->stride - op->top + i, z = (column + p) * op->stride - op->left + j;
                if (y >= 0 && y < source->height && z >= 0 && z < source->width)
                    memcpy(to, pixel(arena, source, (uint32_t)(y * source->width + z)), source->c * sizeof *to);
                else
                    for (int c = 0; c < source->c; c++) to[c] = (value_t)op->zeros[0];
            }
    }
    dense(arena, op, first, pixels, x, op->kernel * op->kernel * source->c);
}

static void depthwise(unsigned char *arena, const operation_t *op, const operation_t *source, uint32_t first, int pixels) {
    enum { MANY = 64 };
    const weight_t *w = (const weight_t *)(const void *)((const char *)WEIGHTS + op->weights);
    const sum_t *bias = (const sum_t *)(const void *)((const char *)WEIGHTS + op->bias);
    const float *factors = (const float *)(const void *)((const char *)WEIGHTS + op->factors);
    int row = (int)(first / op->width), column = (int)(first % op->width);
    for (int p = 0; p < pixels; p++) {
        value_t *out = pixel(arena, op, first + (uint32_t)p);
        for (int c = 0; c < op->c; c += MANY) {
            int count = op->c - c < MANY ? op->c - c : MANY;
            sum_t sums[MANY];
            memcpy(sums, bias + c, (size_t)count * sizeof *sums);
            for (int i = 0; i < op->kernel; i++)
                for (int j = 0; j < op->kernel; j++) {
                    int y = row * op->stride - op->top + i, z = (column + p) * op->stride - op->left + j;
                    if (y < 0 || y >= source->height || z < 0 || z >= source->width) continue;
                    tap(sums, pixel(arena, source, (uint32_t)(y * source->width + z)) + c,
                        w + (size_t)(i * op->kernel + j) * op->c + c, count, op->zeros[0]);
                }
            finish(out + c, sums, factors + c, count, op);
        }
    }
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
    value_t *x[PIXELS];
    switch (op->kind) {
        case POINTWISE:
            for (int p = 0; p < pixels; p++) x[p] = pixel(arena, source, first + (uint32_t)p);
            dense(arena, op, first, pixels, x, source->c);
            break;
        case DENSE: gathered(arena, op, source, first, pixels); break;
        case DEPTHWISE: depthwise(arena, op, source, first, pixels); break;
        case POOL: pool(arena, op, source, first, pixels); break;
        default:
            for (uint32_t n = first; n < first + (uint32_t)pixels; n++) {
                value_t *out = pixel(arena, op, n), *from = pixel(arena, source, n);
                if (op->kind == ADD)
                    add(out, from, pixel(arena, other, n), op);
                else
                    scale(out, from, pixel(arena, other, 0), op);
                look_up(out, op);
            }
    }
}

