/* Runs a network: a list of steps, each made of strips that threads share. What kernels need of a runtime is here:
   scratch memory from an arena, and what to do when a check fails. */
#include <pthread.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

typedef int (*kernel_t)(void **arguments);

/* One thread's scratch memory; it grows upwards and is empty between strips. */
typedef struct {
    char *base;
    uint64_t capacity, used, peak;
    int64_t live;
    char message[256];
} scratch_t;

typedef struct {
    kernel_t kernel;
    void **arguments; /* the first one is the address of a pointer to the thread's scratch */
} strip_t;

/* Strips [first, first + count) of the list; strip i is for thread i modulo the number of threads. */
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

typedef struct crew {
    program_t *program;
    pthread_mutex_t mutex;
    pthread_cond_t wake;
    pthread_t *workers;
    uint64_t hired;
    atomic_ulong round, arrived, passed;
    atomic_int failed;
    int leave;
} crew_t;

#define ALIGN 128u
#define SPINS 4096

void *halide_malloc(void *context, size_t size) {
    scratch_t *scratch = context;
    uint64_t start = (scratch->used + ALIGN - 1) / ALIGN * ALIGN;
    scratch->live++;
    scratch->used = start + size;
    if (scratch->used > scratch->peak) scratch->peak = scratch->used;
    if (scratch->used <= scratch->capacity) return scratch->base + start;
    return aligned_alloc(ALIGN, (size / ALIGN + 1) * ALIGN); /* only in the first run, which finds out how much it takes */
}

void halide_free(void *context, void *memory) {
    scratch_t *scratch = context;
    char *at = memory;
    if (memory && (at < scratch->base || at >= scratch->base + scratch->capacity)) free(memory);
    if (--scratch->live == 0) scratch->used = 0;
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

/* Wait until everybody is here. Threads are few and strips are short, so spin before sleeping. */
static void meet(crew_t *crew) {
    unsigned long count = crew->program->threads, phase = atomic_load(&crew->passed);
    if (count == 1) return;
    if (atomic_fetch_add(&crew->arrived, 1) + 1 == count) {
        atomic_store(&crew->arrived, 0);
        atomic_fetch_add(&crew->passed, 1);
        return;
    }
    for (unsigned spins = 0; atomic_load(&crew->passed) == phase; spins++) {
        if (spins < SPINS) pause_a_little();
        else {
            extern int sched_yield(void);
            sched_yield();
        }
    }
}

static uint64_t now(void) {
    struct timespec time;
    timespec_get(&time, TIME_UTC);
    return (uint64_t)time.tv_sec * 1000000000u + (uint64_t)time.tv_nsec;
}

static void work(crew_t *crew, uint64_t thread) {
    program_t *program = crew->program;
    uint64_t *nanoseconds = thread ? NULL : program->nanoseconds, before = nanoseconds ? now() : 0;
    for (uint64_t index = 0; index < program->step_count; index++) {
        step_t step = program->steps[index];
        for (uint64_t at = thread; at < step.count; at += program->threads) {
            strip_t strip = program->strips[step.first + at];
            int failure = strip.kernel(strip.arguments);
            if (failure) atomic_store(&crew->failed, failure);
        }
        meet(crew);
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
        work(crew, worker.thread);
    }
}

static void call(crew_t *crew, int leave) {
    if (crew->hired == 0) return;
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
    atomic_store(&crew->failed, 0);
    for (uint64_t index = 0; index < count; index++) {
        for (uint64_t at = 0; at < program->patch_count; at++) {
            patch_t patch = program->patches[at];
            *patch.place = patch.output ? answers + index * answer_bytes + patch.offset
                                        : pictures + index * picture_bytes + patch.offset;
        }
        call(crew, 0);
        work(crew, 0);
        int failure = atomic_load(&crew->failed);
        if (failure) return failure;
    }
    return 0;
}
