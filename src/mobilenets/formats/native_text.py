"""The fixed parts of what is written in C, and constants as text."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

HEADER = """\
/* {name}: a network in C. {precision}, pictures of {height}x{width}x{channels}, {classes} classes. */
#ifndef {upper}_H
#define {upper}_H

#include <stddef.h>

#ifdef __cplusplus
extern "C" {{
#endif

#define {upper}_HEIGHT {height}
#define {upper}_WIDTH {width}
#define {upper}_CHANNELS {channels}
#define {upper}_CLASSES {classes}
#define {upper}_ARENA_BYTES {arena}

/* Gives row `row` of a picture: {width} pixels of {channels} bytes each. Rows are asked for once, from top to bottom,
   as they are needed; the memory may be reused for the next. NULL stops the run. */
typedef const unsigned char *(*{name}_rows)(void *context, int row);

/* What this network is. */
const char *{name}_version(void);

/* How many bytes `{name}_run` computes in: {upper}_ARENA_BYTES. */
size_t {name}_arena_bytes(void);

{run}
/* The name of a class, in UTF-8; NULL for a number that is none. */
const char *{name}_label(int index);

#ifdef __cplusplus
}}
#endif
#endif
"""

RUN = """\
/* Compute {upper}_CLASSES logits. `arena` is that many bytes, aligned to 4, whatever is in them; nothing else is
   allocated, and two runs in two arenas may go on at once. `context` is handed to `rows`, or, where `rows` is NULL, is
   the whole picture, height x width x channels bytes. Returns 0, 1 where `rows` gave NULL, 2 for a crooked arena. */
int {name}_run(void *arena, {name}_rows rows, void *context, float *logits);
"""

EXAMPLE = """\
/* Classify pictures of {height}x{width}x{channels} bytes: example FILE... prints the three best classes of each, or
   example --logits FILE... all logits. */
#include <stdio.h>
#include <string.h>

#include "{name}.h"

static unsigned int arena[({upper}_ARENA_BYTES + 3) / 4];
static unsigned char line[{upper}_WIDTH * {upper}_CHANNELS];
static float logits[{upper}_CLASSES];

static const unsigned char *next_row(void *file, int row) {{
    (void)row; /* they are asked for in order */
    return fread(line, 1, sizeof line, file) == sizeof line ? line : NULL;
}}

int main(int count, char **names) {{
    int all = count > 1 && strcmp(names[1], "--logits") == 0;
    for (int i = 1 + all; i < count; i++) {{
        FILE *file = fopen(names[i], "rb");
        int failed = file == NULL || {name}_run(arena, next_row, file, logits);
        if (file != NULL) fclose(file);
        if (failed) {{
            fprintf(stderr, "%s: cannot be read, or is too short\\n", names[i]);
            return 1;
        }}
        for (int j = 0; all && j < {upper}_CLASSES; j++) printf("%.9g\\n", (double)logits[j]);
        if (!all) printf("%s\\n", names[i]);
        for (int place = 0; !all && place < 3 && place < {upper}_CLASSES; place++) {{
            int best = 0;
            for (int j = 1; j < {upper}_CLASSES; j++)
                if (logits[j] > logits[best]) best = j;
            printf("  %8.3f  %s\\n", (double)logits[best], {name}_label(best));
            logits[best] = -1e30f;
        }}
    }}
    return 0;
}}
"""

CMAKE = """\
cmake_minimum_required(VERSION 3.13)
project({name} C)
add_library({name} {name}.c)
target_include_directories({name} PUBLIC ${{CMAKE_CURRENT_SOURCE_DIR}})
set_target_properties({name} PROPERTIES C_STANDARD 99 C_EXTENSIONS OFF)
target_compile_options({name} PRIVATE -O3 -ffp-contract={contract}) # int8: rounded once is not rounded twice
if(UNIX)
  target_link_libraries({name} PUBLIC m)
endif()
if(ANDROID) # pages of 16 KiB, in whatever this goes into
  target_link_options({name} PUBLIC -Wl,-z,max-page-size=16384)
endif()
if(CMAKE_SOURCE_DIR STREQUAL CMAKE_CURRENT_SOURCE_DIR)
  add_executable(example example.c)
  target_link_libraries(example {name})
endif()
"""

TYPES = """\
/* {name}: written by mobilenets. Compile as C99, optimized, and with -ffp-contract={contract}. */
#include "{name}.h"

#include <stdint.h>
#if defined(__has_include)
#if !__has_include(<string.h>)
#define WITHOUT_LIBRARY /* a compiler alone; what links this has these functions */
#endif
#endif
#if defined(WITHOUT_LIBRARY)
void *memcpy(void *restrict to, const void *restrict from, size_t count);
void *memset(void *to, int byte, size_t count);
float expf(float x);
float logf(float x);
#else
#include <math.h>
#include <string.h>
#endif

#if defined(__BYTE_ORDER__) && __BYTE_ORDER__ != __ORDER_LITTLE_ENDIAN__
#error "the weights are little-endian"
#endif

#define NAME(function) {name}_##function
#define VERSION {version}
#define ARENA_BYTES {upper}_ARENA_BYTES
#define CLASSES {upper}_CLASSES
{define}

enum {{ DENSE, POINTWISE, DEPTHWISE, ADD, SCALE, POOL }};
enum {{ LINEAR, RELU, RELU6, HARD_SWISH, HARD_SIGMOID, SIGMOID }};

/* `offset`, `ring`, `sums`: where its pixels are in the arena, how many, and a pooling's sums. `weights`, `bias`,
   `factors`, `table`, `padding`: places in WEIGHTS, in bytes. `first` and `second` are what sources are multiplied
   by. */
typedef struct {{
    int kind, activation, kernel, stride, top, left, c, height, width, chunk, source_count, sources[2];
    uint32_t offset, ring, sums;
    int32_t weights, bias, factors, table, padding;
    int zeros[2], zero, low, high;
    float first, second;
}} operation_t;

/* Operations that run together, the place of their counters, and those that have to be complete in the end. */
typedef struct {{
    int first, count;
    uint32_t state;
    int target, targets;
}} section_t;
"""


def braces(values: Iterable[object], width: int = 0) -> str:
    """Write a list, so many to a line.

    >>> braces([1, 2, 3])
    '{1, 2, 3}'
    """
    texts = [str(value) for value in values]
    if not width:
        return f"{{{', '.join(texts)}}}"
    lines = [", ".join(texts[first : first + width]) for first in range(0, len(texts), width)]
    return "{\n" + ",\n".join(lines) + "}"


def words(raw: bytes) -> str:
    """Write bytes, a multiple of four of them, as 32-bit words: a compiler reads them four times as fast."""
    numbers = np.frombuffer(raw, "<u4")
    lines = [",".join(map(hex, numbers[first : first + 12].tolist())) for first in range(0, len(numbers), 12)]
    return "{\n" + ",\n".join(lines) + "}"
