/* Runs the network that the tables above describe, in the memory that was planned for it: every operation computes a few
   pixels of a row when what reads them asks for them. C99 and nothing else; no memory is allocated, nothing recurses. */

#define SPAN 16 /* output channels computed together */

/* Computes some pixels of a row of an operation; of a pooling, adds up some of its source's. */
typedef void (*compute_t)(unsigned char *arena, const operation_t *op, uint32_t first, int pixels);

static inline value_t *pixel(unsigned char *arena, const operation_t *op, uint32_t number) {
    return (value_t *)(void *)(arena + op->offset) + (size_t)(number % op->ring) * (size_t)op->c;
}

static inline uint32_t pixels_of(const operation_t *op) { return (uint32_t)op->width * (uint32_t)op->height; }

