/* Runs a network: a list of steps, each made of strips that threads share. What kernels need of a runtime is here:
   scratch memory from an arena, and what to do when a check fails. */
#define _GNU_SOURCE /* threads are told which cores are theirs */
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

typedef int (*kernel_t)(void **arguments);

#define MOST_BLOCKS 16u /* that a kernel has at a time */

/* One thread's scratch memory: blocks upon one another, what is freed at the top given out again at once, so that it
   is still in the cache. Empty between strips. `message` is of a check that failed. */
typedef struct {
    char *base;
    uint64_t capacity, used, peak, depth;
    uint64_t begin[MOST_BLOCKS], freed[MOST_BLOCKS];
    char message[256];
} scratch_t;

typedef struct {
    kernel_t kernel;
    void **arguments; /* the first one is for the address of a pointer to the scratch of the thread that has it */
} strip_t;

/* Strips [first, first + count) of the list. */
typedef struct {
    uint64_t first, count;
} step_t;

/* The place of a pointer to the picture or the answer, and the offset to be added. */
typedef struct {
    void **place;
    uint64_t offset, output;
} patch_t;

typedef struct {
    strip_t *strips;
    step_t *steps;
    patch_t *patches;
    scratch_t *scratch; /* one for each thread */
    uint64_t step_count, patch_count, threads;
    uint64_t *nanoseconds; /* of each step of the last picture, or NULL: nobody wants to know */
} program_t;

/* What the threads of a program share. A strip belongs to who raises `ticket` from it to the next one. From the top,
   it counts steps in 32 bits, so that an old ticket is good for nothing, then says which step in 16, and which strip. */
typedef struct {
    program_t *program;
    pthread_mutex_t mutex;
    pthread_cond_t wake;
    pthread_t *workers;
    uint64_t hired;
    atomic_ullong ticket;
    atomic_ulong round, done;
    atomic_int failed, running;
    int leave, core; /* where the leader was when the workers were last told */
    cpu_set_t cores;
} crew_t;

#define ALIGN 128u
#define SPINS 4096

void *halide_malloc(void *context, size_t size) {
    scratch_t *scratch = context;
    uint64_t start = (scratch->used + ALIGN - 1) / ALIGN * ALIGN;
    if (start + size > scratch->peak) scratch->peak = start + size;
    if (start + size > scratch->capacity || scratch->depth == MOST_BLOCKS)
        return aligned_alloc(ALIGN, (size / ALIGN + 1) * ALIGN); /* not planned, yet not wrong */
    scratch->begin[scratch->depth] = start;
    scratch->freed[scratch->depth++] = 0;
    scratch->used = start + size;
    return scratch->base + start;
}

void halide_free(void *context, void *memory) {
    scratch_t *scratch = context;
    char *at = memory;
    if (at < scratch->base || at >= scratch->base + scratch->capacity) {
        free(memory);
        return;
    }
    for (uint64_t block = 0; block < scratch->depth; block++)
        if (scratch->base + scratch->begin[block] == at) scratch->freed[block] = 1;
    while (scratch->depth && scratch->freed[scratch->depth - 1]) scratch->used = scratch->begin[--scratch->depth];
}

void halide_error(void *context, const char *message) {
    scratch_t *scratch = context;
    strncpy(scratch->message, message, sizeof scratch->message - 1);
}

static void pause_a_little(void) {
#if defined(__x86_64__) || defined(__i386__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ volatile("yield");
#endif
}

static void wait_a_little(unsigned spins) {
    if (spins < SPINS) pause_a_little();
    else sched_yield();
}

/* Take strips of the step in hand as long as there are any. */
static void take(crew_t *crew, uint64_t thread) {
    program_t *program = crew->program;
    scratch_t *scratch = &program->scratch[thread];
    unsigned long long ticket = atomic_load(&crew->ticket);
    for (;;) {
        step_t step = program->steps[ticket >> 16 & 0xffffu];
        uint64_t at = ticket & 0xffffu;
        if (at >= step.count) return;
        if (!atomic_compare_exchange_weak(&crew->ticket, &ticket, ticket + 1)) continue;
        strip_t strip = program->strips[step.first + at];
        strip.arguments[0] = &scratch;
        int failure = strip.kernel(strip.arguments);
        if (failure) atomic_store(&crew->failed, failure);
        atomic_fetch_add(&crew->done, 1);
        ticket = atomic_load(&crew->ticket);
    }
}

static uint64_t now(void) {
    struct timespec time;
    timespec_get(&time, TIME_UTC);
    return (uint64_t)time.tv_sec * 1000000000u + (uint64_t)time.tv_nsec;
}

/* Lead through all steps: a thread that sleeps holds nobody up, unless it has a strip. */
static void lead(crew_t *crew) {
    program_t *program = crew->program;
    uint64_t *nanoseconds = program->nanoseconds, before = nanoseconds ? now() : 0;
    for (uint64_t index = 0; index < program->step_count; index++) {
        atomic_store(&crew->done, 0);
        atomic_store(&crew->ticket, ((atomic_load(&crew->ticket) >> 32) + 1) << 32 | index << 16);
        take(crew, 0);
        for (unsigned spins = 0; atomic_load(&crew->done) < program->steps[index].count; spins++) wait_a_little(spins);
        if (nanoseconds) {
            uint64_t after = now();
            nanoseconds[index] = after - before;
            before = after;
        }
    }
}

typedef struct {
    crew_t *crew;
    uint64_t thread;
} worker_t;

static void *serve(void *argument) {
    worker_t worker = *(worker_t *)argument;
    crew_t *crew = worker.crew;
    unsigned long seen = 0;
    free(argument);
    for (;;) {
        for (unsigned spins = 0; spins < SPINS && atomic_load(&crew->round) == seen; spins++) pause_a_little();
        pthread_mutex_lock(&crew->mutex);
        while (atomic_load(&crew->round) == seen) pthread_cond_wait(&crew->wake, &crew->mutex);
        seen = atomic_load(&crew->round);
        int leave = crew->leave;
        pthread_mutex_unlock(&crew->mutex);
        if (leave) return NULL;
        unsigned long long old = 0;
        unsigned spins = 0;
        while (atomic_load(&crew->running)) {
            take(crew, worker.thread);
            unsigned long long ticket = atomic_load(&crew->ticket);
            spins = ticket == old ? spins + 1 : 0;
            old = ticket;
            wait_a_little(spins);
        }
    }
}

/* Keep workers off the leader's core: where others are busy, the system would wake a worker there, to wait for it. */
static void spread(crew_t *crew) {
    int core = sched_getcpu();
    if (core < 0 || core == crew->core) return;
    cpu_set_t others = crew->cores;
    CPU_CLR((size_t)core, &others);
    if (CPU_COUNT(&others) == 0) return;
    for (uint64_t index = 0; index < crew->hired; index++)
        pthread_setaffinity_np(crew->workers[index], sizeof others, &others);
    crew->core = core;
}

static void call(crew_t *crew, int leave) {
    if (crew->hired == 0) return;
    spread(crew);
    pthread_mutex_lock(&crew->mutex);
    crew->leave = leave;
    atomic_fetch_add(&crew->round, 1);
    pthread_cond_broadcast(&crew->wake);
    pthread_mutex_unlock(&crew->mutex);
}

void engine_close(crew_t *crew) {
    call(crew, 1);
    for (uint64_t index = 0; index < crew->hired; index++) pthread_join(crew->workers[index], NULL);
    pthread_cond_destroy(&crew->wake);
    pthread_mutex_destroy(&crew->mutex);
    free(crew->workers);
    free(crew);
}

/* Make ready to run a program, which stays where it is; NULL where there is no memory or no thread to be had. */
crew_t *engine_open(program_t *program) {
    crew_t *crew = calloc(1, sizeof *crew);
    if (!crew) return NULL;
    crew->program = program;
    crew->core = -1;
    if (sched_getaffinity(0, sizeof crew->cores, &crew->cores)) CPU_ZERO(&crew->cores);
    atomic_init(&crew->ticket, 0xffff); /* no step has so many strips, so there is nothing to be had yet */
    crew->workers = calloc(program->threads, sizeof *crew->workers);
    pthread_mutex_init(&crew->mutex, NULL);
    pthread_cond_init(&crew->wake, NULL);
    for (uint64_t thread = 1; crew->workers && thread < program->threads; thread++) {
        worker_t *worker = malloc(sizeof *worker);
        if (worker) *worker = (worker_t){crew, thread};
        if (!worker || pthread_create(&crew->workers[crew->hired], NULL, serve, worker)) {
            free(worker);
            engine_close(crew);
            return NULL;
        }
        crew->hired++;
    }
    return crew;
}

/* Compute `count` pictures, one after another. What it returns is 0, or the first failure of a kernel. */
int engine_run(crew_t *crew, char *pictures, char *answers, uint64_t count, uint64_t picture_bytes,
               uint64_t answer_bytes) {
    program_t *program = crew->program;
    int failure = 0;
    atomic_store(&crew->failed, 0);
    atomic_store(&crew->running, 1);
    call(crew, 0);
    for (uint64_t index = 0; index < count && !failure; index++) {
        for (uint64_t at = 0; at < program->patch_count; at++) {
            patch_t patch = program->patches[at];
            *patch.place = patch.output ? answers + index * answer_bytes + patch.offset
                                        : pictures + index * picture_bytes + patch.offset;
        }
        lead(crew);
        failure = atomic_load(&crew->failed);
    }
    atomic_store(&crew->running, 0);
    return failure;
}
