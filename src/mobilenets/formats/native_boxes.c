/* From the heads' maps to boxes: scores, the best candidates of each class, non-maximum suppression. Anchors are counted
   level by level, in a level kind by kind, of a kind row by row. */

/* An anchor that may be a box of the class in hand. */
typedef struct {
    float score;
    int32_t anchor;
} candidate_t;

/* What is needed while boxes are looked for, where nothing else is any more. `totals`: of an anchor, the logarithm of
   what its scores are shares of. */
typedef struct {
    float totals[ANCHORS];
    candidate_t candidates[ANCHORS];
    NAME(box) kept[KEPT];
} scratch_t;

typedef char scratch_fits[sizeof(scratch_t) == SCRATCH_BYTES ? 1 : -1];

static float raw(unsigned char *arena, const head_t *head, uint32_t place, int channel) {
    return head->scale * ((float)pixel(arena, &OPERATIONS[head->op], place)[channel] - (float)head->zero);
}

static int places_of(const level_t *level) { return (int)pixels_of(&OPERATIONS[level->boxes.op]); }

/* Find an anchor's level; `anchor` becomes its number there. */
static const level_t *level_of(int *anchor) {
    const level_t *level = LEVELS;
    for (; *anchor >= level->kinds * places_of(level); level++) *anchor -= level->kinds * places_of(level);
    return level;
}

static float total_of(unsigned char *arena, const level_t *level, int kind, uint32_t place) {
    float largest = raw(arena, &level->scores, place, kind * (CLASSES + 1)), sum = 0.0f;
    for (int i = 1; i <= CLASSES; i++) {
        float value = raw(arena, &level->scores, place, kind * (CLASSES + 1) + i);
        if (value > largest) largest = value;
    }
    for (int i = 0; i <= CLASSES; i++) sum += expf(raw(arena, &level->scores, place, kind * (CLASSES + 1) + i) - largest);
    return largest + logf(sum);
}

static void add_up_scores(unsigned char *arena, float *totals) {
    for (size_t l = 0; l < sizeof LEVELS / sizeof *LEVELS; l++)
        for (int kind = 0; kind < LEVELS[l].kinds; kind++)
            for (int place = 0; place < places_of(&LEVELS[l]); place++)
                *totals++ = total_of(arena, &LEVELS[l], kind, (uint32_t)place);
}

static float clipped(float value, float most) { return value < 0.0f ? 0.0f : value > most ? most : value; }

static void clip(NAME(box) *box) {
    box->x1 = clipped(box->x1, WIDTH), box->x2 = clipped(box->x2, WIDTH);
    box->y1 = clipped(box->y1, HEIGHT), box->y2 = clipped(box->y2, HEIGHT);
}

static NAME(box) decoded(unsigned char *arena, candidate_t candidate, int label) {
    int anchor = candidate.anchor;
    const level_t *level = level_of(&anchor);
    const operation_t *map = &OPERATIONS[level->boxes.op];
    const int kind = anchor / places_of(level), place = anchor % places_of(level);
    const float wide = level->sizes[kind][0], high = level->sizes[kind][1];
    float step[4];
    for (int i = 0; i < 4; i++) step[i] = raw(arena, &level->boxes, (uint32_t)place, 4 * kind + i) / CODER[i];
    float x = step[0] * wide + ((float)(place % map->width) + 0.5f) * (WIDTH / (float)map->width);
    float y = step[1] * high + ((float)(place / map->width) + 0.5f) * (HEIGHT / (float)map->height);
    float half_width = expf(step[2] < LARGEST_GROWTH ? step[2] : LARGEST_GROWTH) * wide / 2;
    float half_height = expf(step[3] < LARGEST_GROWTH ? step[3] : LARGEST_GROWTH) * high / 2;
    NAME(box) box = {x - half_width, y - half_height, x + half_width, y + half_height, candidate.score, label};
    return box;
}

/* Find the anchors that score enough for a class; returns how many. */
static int candidates_of(unsigned char *arena, const float *totals, candidate_t *found, int label) {
    int count = 0, anchor = 0;
    for (size_t l = 0; l < sizeof LEVELS / sizeof *LEVELS; l++)
        for (int kind = 0; kind < LEVELS[l].kinds; kind++)
            for (int place = 0; place < places_of(&LEVELS[l]); place++, anchor++) {
                float value = raw(arena, &LEVELS[l].scores, (uint32_t)place, kind * (CLASSES + 1) + 1 + label);
                if (!SIGMOID_SCORES) value -= totals[anchor];
                if (!(value > LEAST)) continue;
                candidate_t one = {SIGMOID_SCORES ? 1.0f / (1.0f + expf(-value)) : expf(value), anchor};
                found[count++] = one;
            }
    return count;
}

static int better(candidate_t a, candidate_t b) {
    return a.score != b.score ? a.score > b.score : a.anchor < b.anchor;
}

/* Sort candidates, the best first, where they are: a heap with the worst on top. */
static void sort(candidate_t *all, int count) {
    for (int begin = count / 2, end = count; end > 1;) {
        candidate_t moved;
        if (begin > 0)
            moved = all[--begin];
        else
            moved = all[--end], all[end] = all[0];
        int at = begin;
        for (int below; (below = 2 * at + 1) < end; at = below) {
            if (below + 1 < end && better(all[below], all[below + 1])) below++;
            if (!better(moved, all[below])) break;
            all[at] = all[below];
        }
        all[at] = moved;
    }
}

static int too_close(const NAME(box) *a, const NAME(box) *b) {
    float width = (a->x2 < b->x2 ? a->x2 : b->x2) - (a->x1 > b->x1 ? a->x1 : b->x1);
    float height = (a->y2 < b->y2 ? a->y2 : b->y2) - (a->y1 > b->y1 ? a->y1 : b->y1);
    float shared = (width > 0.0f ? width : 0.0f) * (height > 0.0f ? height : 0.0f);
    float both = (a->x2 - a->x1) * (a->y2 - a->y1) + (b->x2 - b->x1) * (b->y2 - b->y1);
    return (double)(shared / (both - shared)) > OVERLAP;
}

/* Keep the boxes of a class that no better one covers; returns how many. */
static int survivors(unsigned char *arena, scratch_t *scratch, int count, int label) {
    int kept = 0;
    for (int i = 0; i < count && i < CANDIDATES && kept < KEPT; i++) {
        NAME(box) box = decoded(arena, scratch->candidates[i], label);
        int covered = 0;
        if (CLIPPED_FIRST) clip(&box);
        for (int j = 0; j < kept && !covered; j++) covered = too_close(&scratch->kept[j], &box);
        if (!covered) scratch->kept[kept++] = box;
    }
    return kept;
}

/* Put boxes of one class among those of others, the best first; returns how many there are then. */
static int merged(NAME(box) *found, int count, const NAME(box) *more, int added) {
    for (int i = 0; i < added; i++) {
        int at = count < DETECTIONS ? count++ : DETECTIONS;
        for (; at > 0 && found[at - 1].score < more[i].score; at--)
            if (at < DETECTIONS) found[at] = found[at - 1];
        if (at == DETECTIONS) break;
        found[at] = more[i];
        clip(&found[at]);
    }
    return count;
}

int NAME(run)(void *memory, NAME(rows) rows, void *context, NAME(box) *found, int *count) {
    unsigned char *arena = memory;
    scratch_t *scratch = (scratch_t *)(void *)(arena + SCRATCH);
    int failed = complete(arena, rows, context);
    *count = 0;
    if (failed) return failed;
    if (!SIGMOID_SCORES) add_up_scores(arena, scratch->totals);
    for (int label = 0; label < CLASSES; label++) {
        int some = candidates_of(arena, scratch->totals, scratch->candidates, label);
        sort(scratch->candidates, some);
        *count = merged(found, *count, scratch->kept, survivors(arena, scratch, some, label));
    }
    return 0;
}

void NAME(maps)(void *arena, float *values) {
    for (size_t l = 0; l < sizeof LEVELS / sizeof *LEVELS; l++)
        for (int which = 0; which < 2; which++) {
            const head_t *head = which ? &LEVELS[l].scores : &LEVELS[l].boxes;
            for (int c = 0; c < OPERATIONS[head->op].c; c++)
                for (int place = 0; place < places_of(&LEVELS[l]); place++)
                    *values++ = raw(arena, head, (uint32_t)place, c);
        }
}
