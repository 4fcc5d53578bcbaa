/* What one core can do at most: multiply-adds of float32 and of bytes in registers, and reading memory in order.

   Compiled by benchmarks/engine_blocks.py with the engine's header, so with its vectors. */
#include "int8.h"

#if LANES == 16
#define SUMS 24 /* that do not wait for one another, and leave registers for the factors */
#else
#define SUMS 12
#endif

void float32_products(long steps, float *numbers) {
    floats sums[SUMS], one = every(numbers[0]), two = every(numbers[1]);
    UNROLLED for (int i = 0; i < SUMS; i++) sums[i] = every((float)i);
    for (long step = 0; step < steps; step++) UNROLLED for (int i = 0; i < SUMS; i++) sums[i] = sums[i] * one + two;
    UNROLLED for (int i = 1; i < SUMS; i++) sums[0] += sums[i];
    memcpy(numbers, sums, sizeof *numbers);
}

void int8_products(long steps, int32_t *numbers) {
    ints sums[SUMS], one = all(numbers[0]), two = all(numbers[1]);
    UNROLLED for (int i = 0; i < SUMS; i++) sums[i] = all(i);
    for (long step = 0; step < steps; step++) UNROLLED for (int i = 0; i < SUMS; i++) sums[i] = dot(sums[i], one, two);
    UNROLLED for (int i = 1; i < SUMS; i++) sums[0] += sums[i];
    memcpy(numbers, sums, sizeof *numbers);
}

void read_all(long vectors, const ints *from, int32_t *number) {
    ints sums[8] = {{0}};
    for (long at = 0; at + 8 <= vectors; at += 8) UNROLLED for (int i = 0; i < 8; i++) sums[i] ^= from[at + i];
    UNROLLED for (int i = 1; i < 8; i++) sums[0] ^= sums[i];
    memcpy(number, sums, sizeof *number);
}

int products_at_once(void) { return SUMS * LANES; }
