/* One picture's row, brought to the numbers that the network reads. */
static void enter(unsigned char *arena, const unsigned char *row, uint32_t first) {
    const operation_t *op = &OPERATIONS[0];
    for (int n = 0; n < op->width; n++, row += op->c) {
        value_t *out = pixel(arena, op, first + (uint32_t)n);
        for (int c = 0; c < op->c; c++) out[c] = ENTER[c][row[c]];
    }
}

/* How many pixels of a source must be there for the pixels up to `last`, of one row. */
static uint32_t needed(const operation_t *op, int which, uint32_t first, uint32_t last) {
    const operation_t *source = &OPERATIONS[op->sources[which]];
    if (op->kind == SCALE && which == 1) return 1;
    if (op->kind != DENSE && op->kind != DEPTHWISE) return last;
    int row = (int)(first / op->width) * op->stride - op->top + op->kernel - 1;
    int column = ((int)((last - 1) % op->width)) * op->stride - op->left + op->kernel - 1;
    if (row >= source->height) row = source->height - 1;
    if (column >= source->width) column = source->width - 1;
    return (uint32_t)(row * source->width + column + 1);
}

/* Advance one operation by a chunk. Returns 0 once that is done, or the operation that must be advanced first. */
static int advance(unsigned char *arena, compute_t compute, const section_t *part, uint32_t *made, uint32_t *entered,
                   int index, NAME(rows) rows, void *context) {
    const operation_t *op = &OPERATIONS[index], *source = &OPERATIONS[op->sources[0]];
    const operation_t *walked = op->kind == POOL ? source : op;
    uint32_t *mine = &made[index - part->first], first = *mine, row_end = (first / walked->width + 1) * walked->width;
    uint32_t last = first + walked->chunk;
    if (last > row_end) last = row_end;
    for (int which = 0; which < op->source_count; which++) {
        int from = op->sources[which];
        uint32_t count = needed(op, which, first, last);
        if (OPERATIONS[from].kind == POOL) count = pixels_of(&OPERATIONS[OPERATIONS[from].sources[0]]);
        if (from == 0) {
            for (; *entered < count; *entered += OPERATIONS[0].width) {
                int row = (int)(*entered / OPERATIONS[0].width);
                size_t before = (size_t)row * (size_t)OPERATIONS[0].width * (size_t)OPERATIONS[0].c;
                const unsigned char *at = rows != NULL ? rows(context, row) : (unsigned char *)context + before;
                if (at == NULL) return -1;
                enter(arena, at, *entered);
            }
        } else if (from >= part->first && made[from - part->first] < count)
            return from;
    }
    compute(arena, op, first, (int)(last - first));
    *mine = last;
    return 0;
}

/* Compute all that is asked for; returns what `run` does. */
static int complete(unsigned char *arena, NAME(rows) rows, void *context) {
    compute_t compute = chosen();
    if (((uintptr_t)arena & 3u) != 0) return 2;
    for (size_t s = 0; s < sizeof SECTIONS / sizeof *SECTIONS; s++) {
        const section_t *part = &SECTIONS[s];
        uint32_t *made = (uint32_t *)(void *)(arena + part->state), *waiting = made + part->count, entered = 0;
        memset(made, 0, (size_t)part->count * sizeof *made);
        for (int t = 0; t < part->targets; t++) {
            int target = TARGETS[part->target + t];
            const operation_t *walked = &OPERATIONS[target];
            if (walked->kind == POOL) walked = &OPERATIONS[walked->sources[0]];
            while (made[target - part->first] < pixels_of(walked)) {
                int depth = 0, asked;
                waiting[0] = (uint32_t)target;
                while (depth >= 0) {
                    asked = advance(arena, compute, part, made, &entered, (int)waiting[depth], rows, context);
                    if (asked < 0) return 1;
                    if (asked == 0)
                        depth--;
                    else
                        waiting[++depth] = (uint32_t)asked;
                }
            }
        }
    }
    return 0;
}

#ifndef DETECTIONS
int NAME(run)(void *arena, NAME(rows) rows, void *context, float *logits) {
    int failed = complete(arena, rows, context);
    const operation_t *op = &OPERATIONS[sizeof OPERATIONS / sizeof *OPERATIONS - 1];
    for (int j = 0; j < op->c && !failed; j++) logits[j] = LEAVE(pixel(arena, op, 0)[j]);
    return failed;
}
#endif

size_t NAME(arena_bytes)(void) { return ARENA_BYTES; }

const char *NAME(version)(void) { return VERSION; }

const char *NAME(label)(int index) { return index < 0 || index >= CLASSES ? NULL : LABELS[index]; }
