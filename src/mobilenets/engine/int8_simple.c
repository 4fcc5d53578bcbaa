/* Kernels that multiply by no weights: one of these, by KIND.

   ENTER: a picture's planes of float32 as codes, the channels of a pixel together, with codes of zero around them.
   LEAVE: codes as what they stand for, float32.
   SURROUND: a map with codes of zero around it.
   POOL: the mean over the pixels of a map, by channel.
   ADDED, SCALED: the sum of two maps; a map times a code for each of its channels.

   Defined on the command line: NAME; KIND; HEIGHT, WIDTH, CHANNELS of the source (a pixel of a map takes CHANNELS
   bytes); TOP, LEFT, OUT_WIDTH, OUT_PIXEL where there is more around it; AFTER. */
#include "int8.h"

#define ENTER 1
#define LEAVE 2
#define SURROUND 3
#define POOL 4
#define ADDED 5
#define SCALED 6

typedef struct {
    float scale;
    int32_t zero;
    float low, high;
} real_t;

#if KIND == ENTER
INLINE void pixels(const float *from, uint8_t *to, real_t by, const int count) {
    for (int group = 0; group < CHANNELS; group += 4) {
        ints word = {0};
        UNROLLED for (int c = 0; c < 4; c++) {
            if (group + c >= CHANNELS) break;
            floats values = {0};
            memcpy(&values, from + (ptrdiff_t)(group + c) * HEIGHT * WIDTH, count * sizeof(float));
            word |= (nearest(clipped(values / every(by.scale), by.low, by.high)) + by.zero) << 8 * c;
        }
        if (OUT_PIXEL == 4) memcpy(to, &word, count * 4);
        else
            for (int lane = 0; lane < count; lane++) {
                int32_t four = word[lane];
                memcpy(to + (ptrdiff_t)lane * OUT_PIXEL + group, &four, 4);
            }
    }
}

static void row(const float *from, uint8_t *to, real_t by) {
    int x = 0;
    for (; x + LANES <= WIDTH; x += LANES) pixels(from + x, to + (ptrdiff_t)x * OUT_PIXEL, by, LANES);
    if (WIDTH % LANES) pixels(from + x, to + (ptrdiff_t)x * OUT_PIXEL, by, WIDTH % LANES);
}
#endif

int NAME(void **arguments) {
    const buffer_t **buffers = (const buffer_t **)arguments + 1;
    const uint8_t *source = buffers[0]->host;
#if KIND == ENTER || KIND == SURROUND
    const buffer_t *out = buffers[2];
    real_t by = *(const real_t *)buffers[1]->host;
    for (int at = 0; at < out->dim[2].extent; at++) {
        int y = out->dim[2].min + at - TOP;
        uint8_t *to = out->host + (ptrdiff_t)at * OUT_WIDTH * OUT_PIXEL;
        if (y < 0 || y >= HEIGHT) {
            memset(to, by.zero, OUT_WIDTH * OUT_PIXEL);
            continue;
        }
        memset(to, by.zero, LEFT * OUT_PIXEL);
        memset(to + (LEFT + WIDTH) * OUT_PIXEL, by.zero, (OUT_WIDTH - LEFT - WIDTH) * OUT_PIXEL);
#if KIND == ENTER
        row((const float *)source + (ptrdiff_t)y * WIDTH, to + LEFT * OUT_PIXEL, by);
#else
        memcpy(to + LEFT * OUT_PIXEL, source + (ptrdiff_t)y * WIDTH * OUT_PIXEL, WIDTH * OUT_PIXEL);
#endif
    }
#elif KIND == LEAVE
    const buffer_t *out = buffers[2];
    real_t by = *(const real_t *)buffers[1]->host;
    ptrdiff_t row = (ptrdiff_t)WIDTH * CHANNELS, first = out->dim[2].min * row, count = out->dim[2].extent * row;
    for (ptrdiff_t at = 0; at < count; at += LANES) {
        floats values = real(widened(source + first + at) - by.zero) * by.scale;
        memcpy((float *)out->host + at, &values, sizeof values);
    }
#elif KIND == POOL
    layer_t mean = layer(buffers[1]->host, buffers[2]->host, NULL);
    const buffer_t *out = buffers[3];
    int first = out->dim[0].min;
    for (int at = 0; at < out->dim[0].extent; at += LANES) {
        ints total = {0};
        for (int pixel = 0; pixel < HEIGHT * WIDTH; pixel++)
            total += widened(source + (ptrdiff_t)pixel * CHANNELS + first + at);
        int vector = (first + at) / LANES;
        floats steps = real(total + mean.scales[2 * vector]) * factor(mean, vector);
        narrowed(out->host + at, coded(steps, mean.coding, AFTER, mean.table));
    }
#else
    const uint8_t *other = buffers[1]->host;
    addition_t by = *(const addition_t *)buffers[2]->host;
    const uint8_t *table = buffers[2]->host + 64;
    const buffer_t *out = buffers[3];
    int first = out->dim[1].min;
    for (int pixel = 0; pixel < out->dim[1].extent; pixel++)
        for (int at = 0; at < CHANNELS; at += LANES) {
            ints one = widened(source + (ptrdiff_t)(first + pixel) * CHANNELS + at) - by.first_zero;
#if KIND == ADDED
            ints two = widened(other + (ptrdiff_t)(first + pixel) * CHANNELS + at);
            ints codes = added(one, two, by, AFTER, table);
#else
            ints product = one * (widened(other + at) - by.second_zero);
            ints codes = coded(real(product) * by.first, by.coding, AFTER, table);
#endif
            narrowed(out->host + (ptrdiff_t)pixel * CHANNELS + at, codes);
        }
#endif
    return 0;
}
