"""What a detector has in C beside a network: its header, its example, and the tables of its anchors."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

import numpy as np

from mobilenets.arch.detector import COORDINATES
from mobilenets.formats.native_text import braces
from mobilenets.image.detection import LARGEST_GROWTH, anchors, detector_of

if TYPE_CHECKING:
    from mobilenets.arch import Plan
    from mobilenets.engine.memory import Memory
    from mobilenets.engine.quantized import Quantization

BOX_BYTES = 24
CANDIDATE_BYTES = 8
TOTAL_BYTES = 4

RUN = """\
/* A thing that was found: its corners in pixels of the given picture, how sure that is, 0..1, and its class. */
typedef struct {{
    float x1, y1, x2, y2, score;
    int label;
}} {name}_box;

#define {upper}_DETECTIONS {detections}
#define {upper}_MAP_VALUES {values}

/* Find at most {upper}_DETECTIONS boxes, the surest first, and say how many. `arena` is that many bytes, aligned to 4,
   whatever is in them; nothing else is allocated, and two runs in two arenas may go on at once. `context` is handed to
   `rows`, or, where `rows` is NULL, is the whole picture, height x width x channels bytes. Returns 0, 1 where `rows`
   gave NULL, 2 for a crooked arena. */
int {name}_run(void *arena, {name}_rows rows, void *context, {name}_box *found, int *count);

/* What the heads said in the last run in this arena, {upper}_MAP_VALUES numbers, for whoever makes boxes of them
   himself: level by level the boxes' differences from their anchors, then scores; by channel, row and column. */
void {name}_maps(void *arena, float *values);
"""

EXAMPLE = """\
/* Find things on pictures of {height}x{width}x{channels} bytes: example FILE... prints what is on each, or
   example --maps FILE... all that the heads say, the number of boxes, and these. */
#include <stdio.h>
#include <string.h>

#include "{name}.h"

static unsigned int arena[({upper}_ARENA_BYTES + 3) / 4];
static unsigned char line[{upper}_WIDTH * {upper}_CHANNELS];
static float maps[{upper}_MAP_VALUES];
static {name}_box found[{upper}_DETECTIONS];

static const unsigned char *next_row(void *file, int row) {{
    (void)row; /* they are asked for in order */
    return fread(line, 1, sizeof line, file) == sizeof line ? line : NULL;
}}

int main(int arguments, char **names) {{
    int all = arguments > 1 && strcmp(names[1], "--maps") == 0, count = 0;
    for (int i = 1 + all; i < arguments; i++) {{
        FILE *file = fopen(names[i], "rb");
        int failed = file == NULL || {name}_run(arena, next_row, file, found, &count);
        if (file != NULL) fclose(file);
        if (failed) {{
            fprintf(stderr, "%s: cannot be read, or is too short\\n", names[i]);
            return 1;
        }}
        if (all) {name}_maps(arena, maps);
        for (int j = 0; all && j < {upper}_MAP_VALUES; j++) printf("%.9g\\n", (double)maps[j]);
        printf(all ? "%d\\n" : "%d on %s\\n", count, names[i]);
        for (int j = 0; j < count; j++) {{
            const {name}_box *box = &found[j];
            if (all) printf("%.9g %d ", (double)box->score, box->label);
            if (!all) printf("  %8.3f  %s at ", (double)box->score, {name}_label(box->label));
            printf("%.9g %.9g %.9g %.9g\\n", (double)box->x1, (double)box->y1, (double)box->x2, (double)box->y2);
        }}
    }}
    return 0;
}}
"""

TYPES = """
#define DETECTIONS {upper}_DETECTIONS
#define HEIGHT {height}
#define WIDTH {width}

/* One head's map: the operation, and what its numbers stand for. */
typedef struct {{
    int op;
    float scale;
    int zero;
}} head_t;

/* A level: its heads, how many kinds of anchors each place has, and these, width and height in pixels. */
typedef struct {{
    head_t boxes, scores;
    int kinds;
    float sizes[KINDS][2];
}} level_t;
"""


def facts(plan: Plan) -> dict[str, object]:
    """Return what the header and the example say of a detector, by name."""
    per_anchor = COORDINATES + plan.classes + 1
    return {"detections": detector_of(plan).detections, "values": len(anchors(plan)) * per_anchor}


def scratch_bytes(plan: Plan) -> int:
    """Return what making boxes takes while the heads' maps are all there is."""
    count = len(anchors(plan))
    return count * (TOTAL_BYTES + CANDIDATE_BYTES) + _kept(plan) * BOX_BYTES


def scratch_place(plan: Plan, memory: Memory) -> int:
    """Return where in the arena that is: the first gap between the heads' maps, or behind the last of them."""
    size, begin = scratch_bytes(plan), 0
    for placed in sorted((memory.find(name) for name in plan.outputs), key=lambda placed: placed.offset):
        if placed.offset - begin >= size:
            break
        begin = max(begin, placed.end)
    return -(-begin // 4) * 4


def defines(plan: Plan, place: int, number: Callable[[float], str]) -> dict[str, object]:
    """Return the macros that boxes are made by; `number` writes a float32."""
    detector = detector_of(plan)
    share = min(max(detector.score_threshold, 1e-9), 1 - 1e-9)
    least = math.log(share / (1 - share)) if detector.scores == "sigmoid" else math.log(share)
    return {
        "ANCHORS": len(anchors(plan)),
        "KINDS": max(detector.anchors.counts),
        "SCRATCH": place,
        "SCRATCH_BYTES": scratch_bytes(plan),
        "KEPT": _kept(plan),
        "CANDIDATES": detector.candidates,
        "OVERLAP": repr(float(detector.nms_iou)),
        "LEAST": number(least),
        "LARGEST_GROWTH": number(LARGEST_GROWTH),
        "SIGMOID_SCORES": int(detector.scores == "sigmoid"),
        "CLIPPED_FIRST": int(detector.anchors.form == "torchvision"),
    }


def tables(
    plan: Plan, index: Mapping[str, int], codes: Mapping[str, Quantization], number: Callable[[float], str]
) -> str:
    """Return the levels' table and what differences are divided by.

    Args:
        plan: of the detector.
        index: the number of each operation.
        codes: what an int8 network's codes stand for; empty in float32.
        number: writes a float32.
    """
    detector, rows, before = detector_of(plan), [], 0
    corners = anchors(plan)
    sizes = corners[:, 2:] - corners[:, :2]

    def head(name: str) -> str:
        scale, zero = (codes[name].scale, codes[name].zero_point) if codes else (1.0, 0)
        return braces((index[name], number(float(np.float32(scale))), zero))

    for boxes, scores, kinds in zip(plan.outputs[0::2], plan.outputs[1::2], detector.anchors.counts, strict=True):
        _, height, width = plan.op(boxes).out
        own = sizes[before : before + kinds * height * width : height * width]
        before += kinds * height * width
        rows.append(
            braces((head(boxes), head(scores), kinds, braces(braces(map(number, row)) for row in own.tolist())))
        )
    return (
        f"static const level_t LEVELS[] = {braces(rows, width=1)};\n\n"
        f"static const float CODER[] = {braces(map(number, detector.coder))};"
    )


def _kept(plan: Plan) -> int:
    detector = detector_of(plan)
    return min(detector.detections, detector.candidates)
