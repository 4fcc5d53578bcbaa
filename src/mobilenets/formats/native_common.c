/* Runs the network that the tables above describe, in the memory that was planned for it: every operation computes a few
   pixels of a row when what reads them asks for them. C99 and nothing else; no memory is allocated, nothing recurses. */

#define SPAN 16 /* output channels computed together */

/* Computes some pixels of a row of an operation; of a pooling, adds up some of its source's. */
typedef void (*compute_t)(unsigned char *arena, const operation_t *op, uint32_t first, int pixels);

static inline value_t *pixel(unsigned char *arena, const operation_t *op, uint32_t number) {
    return (value_t *)(void *)(arena + op->offset) + (size_t)(number % op->ring) * (size_t)op->c;
}

static inline uint32_t pixels_of(const operation_t *op) { return (uint32_t)op->width * (uint32_t)op->height; }


#if defined(__GNUC__)
#define UNROLLED inline __attribute__((always_inline)) /* called with constants, so that sums are registers */
#else
#define UNROLLED inline
#endif

#ifdef INT8
/* What a code stands for lies between these, in steps from the zero point. */
typedef struct {
    float low, high;
    int32_t zero;
} limits_t;

static inline limits_t limits_of(const operation_t *op) {
    limits_t limits = {(float)(op->low - op->zero), (float)(op->high - op->zero), op->zero};
    return limits;
}

/* To the nearest integer, halves to even: a number of this size has no digits behind the point. */
static inline float nearest(float x) {
    const float large = 12582912.0f;
    return (x + large) - large;
}

static inline value_t code(float steps, limits_t to) {
    steps = steps < to.low ? to.low : steps;
    steps = steps > to.high ? to.high : steps;
    return (value_t)((int32_t)nearest(steps) + to.zero);
}

/* The code of a sum of products. */
static inline value_t steps_of(int32_t sum, float factor, limits_t to) { return code((float)sum * factor, to); }
#endif
