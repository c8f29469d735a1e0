/* Centers many tensors, or makes whole centered optimizer steps, each weight vector in cache.

   It does not link to torch or Python: the caller passes addresses, sizes, the number of threads,
   and the functions of torch and Python that tensors.h calls. Threads come from the OpenMP runtime
   that torch has loaded, through the address of its GOMP_parallel, so that torch.set_num_threads
   holds. vectors.h contains the arithmetic and is included once for every element type. */

#include <math.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#if defined(_MSC_VER)
#define INLINE static __forceinline
#define EXPORT __declspec(dllexport)
#define SIMD(clauses)
#else
#include <stdatomic.h>
#define INLINE static inline __attribute__((always_inline))
#define EXPORT __attribute__((visibility("default")))
#define TEXT(x) #x
#define SIMD(clauses) _Pragma(TEXT(omp simd clauses))
#endif

/* Compile a function once for each generation of processors; the loader chooses one. A build for a
   single generation defines CLONES as nothing. */
#if defined(CLONES)
#elif defined(__x86_64__) && defined(__GLIBC__) && defined(__GNUC__) && !defined(__clang__) && \
    __GNUC__ >= 12
#define CLONES __attribute__((target_clones("arch=x86-64-v4", "arch=x86-64-v3", "default")))
#else
#define CLONES
#endif

/* shared_library.py compares this with its own LAYOUT, so that it never calls a library that was
   built from other sources. Increase it with every change of a structure, enum or exported
   function. */
enum { LAYOUT = 3 };
EXPORT int64_t zeromean_layout(void) { return LAYOUT; }

/* CENTER subtracts means, NOTE records them, KEEP restores the recorded ones; then the steps. */
enum kind { CENTER, NOTE, KEEP, SGD, MOMENTUM, NESTEROV, ADAM, AMSGRAD };
enum at { GRADIENT = 1, UPDATE };
enum type { FLOAT32, FLOAT64, BFLOAT16 };

/* Entry (o, i, c, k) of a tensor lies at ((o * m1 + i) * inner + c) * m2 + k; a weight vector
   holds the entries of one (o, c). Rows: m1 = inner = 1. Columns: m2 = 1. */
struct tensor {
    int64_t outer, m1, inner, m2;
    int64_t centered; /* if 0, the tensor is one run of outer * m1 * inner * m2 entries */
    int64_t group;    /* number of its rule */
    void *weight;     /* CENTER: NULL, or the weight that decays inside the projection */
    void *first;      /* the momentum, or exp_avg */
    void *second;     /* exp_avg_sq */
    void *largest;    /* max_exp_avg_sq */
    void *step;       /* ADAM: number of steps made, one float, or a double if wide_step */
    int64_t wide_step;
    float *residual;  /* NULL, or the rounding error of each vector's mean so far */
    int64_t starts;   /* whether the momentum is still empty */
    int64_t before;   /* NOTE, KEEP: number of vectors in the tensors before it */
};

/* Options of a param group. Decay is coupled (inside the projection) or shrinks the weights. */
struct rule {
    double lr, sign, coupled, shrink;
    double momentum, dampening;
    double beta1, beta2, eps;
};

struct call {
    int64_t kind, at, type, count;
    const struct tensor *tensors;
    void *const *gradients; /* CENTER, NOTE, KEEP: the tensors to center */
    void *const *into;      /* CENTER: where to write */
    double *means;          /* NOTE, KEEP: one number per vector */
    const struct rule *rules;
    int64_t chunk; /* entries per task */
#if !defined(_MSC_VER)
    _Atomic int64_t next;
#endif
};

/* Limits of the entries in a task: long runs suit prefetchers, but each thread needs several. */
enum { MIN_CHUNK = 16384, MAX_CHUNK = 262144, TASKS_PER_THREAD = 8 };

/* Columns are read twice, so a strip of them must fit in the L2 cache. A cache line has
   LINE entries of float32. */
enum { MAX_STRIP = 16384, MOST_COLUMNS = 1024, LINE = 16 };

/* The gradients of a vector are read twice. While it is written, those of the vector after the next
   are prefetched, PREFETCHED entries at a time, unless they are more than MAX_AHEAD entries away,
   which would exceed the L2 cache. */
enum { PREFETCHED = 64, MAX_AHEAD = 131072 };

#if defined(_MSC_VER)
#define PREFETCH(address) ((void)(address))
#else
#define PREFETCH(address) __builtin_prefetch(address)
#endif

static int is_columns(const struct tensor *t) { return t->inner > 1 && t->m2 == 1; }

/* Return the first entry of a vector. */
INLINE int64_t start_of(const struct tensor *t, int64_t vector) {
    return (vector / t->inner * t->m1 * t->inner + vector % t->inner) * t->m2;
}

/* Return how far ahead of a row to prefetch, in entries: 0 for not at all. */
INLINE int64_t ahead_of(const struct tensor *t) {
    return t->inner == 1 && 2 * t->m2 <= MAX_AHEAD ? 2 * t->m2 : 0;
}

#define T float
#define A float
#define LOAD(x) (x)
#define STORE(x) (x)
#define ROUNDS 0
#define NAME(x) x##_float32
#include "vectors.h"

#define T double
#define A double
#define LOAD(x) (x)
#define STORE(x) (x)
#define ROUNDS 0
#define NAME(x) x##_float64
#include "vectors.h"

typedef union {
    float number;
    uint32_t bits;
} word;

INLINE float from_bfloat16(uint16_t x) {
    word wide = {.bits = (uint32_t)x << 16};
    return wide.number;
}

INLINE uint16_t to_bfloat16(float x) { /* to nearest, ties to even */
    word wide = {.number = x};
    uint32_t rounded = (wide.bits + 0x7fff + ((wide.bits >> 16) & 1)) >> 16;
    return (uint16_t)(x != x ? 0x7fc0 : rounded);
}

#define T uint16_t
#define A float
#define LOAD(x) from_bfloat16(x)
#define STORE(x) to_bfloat16(x)
#define ROUNDS 1
#define NAME(x) x##_bfloat16
#include "vectors.h"

/* --- Tasks -------------------------------------------------------------------------------------
   A tensor is cut into runs of whole vectors; threads never share a vector. */

static int64_t ceiling(int64_t a, int64_t b) { return (a + b - 1) / b; }

static int64_t at_most(int64_t a, int64_t limit) { return a < limit ? a : limit; }

static int64_t columns_at_once(const struct tensor *t) {
    int64_t columns = MAX_STRIP / t->m1 / LINE * LINE;
    columns = columns < LINE ? LINE : at_most(columns, MOST_COLUMNS);
    return at_most(columns, t->inner);
}

static int64_t vectors_at_once(const struct tensor *t, int64_t chunk) {
    int64_t vectors = chunk / (t->m1 * t->m2);
    return vectors < 1 ? 1 : vectors;
}

static int64_t entries(const struct tensor *t) { return t->outer * t->m1 * t->inner * t->m2; }

static int64_t tasks_of(const struct tensor *t, int64_t chunk) {
    if (entries(t) == 0) return 0;
    if (!t->centered) return ceiling(entries(t), chunk);
    if (is_columns(t)) return t->outer * ceiling(t->inner, columns_at_once(t));
    return ceiling(t->outer * t->inner, vectors_at_once(t, chunk));
}

static void run(const struct call *call, int64_t index, int64_t task) {
    const struct tensor *t = &call->tensors[index];
    int64_t from, to, outer = 0;
    if (!t->centered) {
        from = task * call->chunk;
        to = at_most(from + call->chunk, entries(t));
    } else if (is_columns(t)) {
        int64_t width = columns_at_once(t), across = ceiling(t->inner, width);
        outer = task / across;
        from = task % across * width;
        to = at_most(from + width, t->inner);
    } else {
        const int64_t vectors = vectors_at_once(t, call->chunk);
        from = task * vectors;
        to = at_most(from + vectors, t->outer * t->inner);
    }
    if (call->type == FLOAT32) task_float32(call, index, outer, from, to);
    if (call->type == FLOAT64) task_float64(call, index, outer, from, to);
    if (call->type == BFLOAT16) task_bfloat16(call, index, outer, from, to);
}

static int64_t take(struct call *call) {
#if defined(_MSC_VER)
    (void)call;
    return 0;
#else
    return atomic_fetch_add_explicit(&call->next, 1, memory_order_relaxed);
#endif
}

/* Each thread takes the next task until none is left. Task numbers only grow, so the tensors are
   passed in order. */
static void work(void *data) {
    struct call *call = data;
    int64_t index = 0, passed = 0, task = take(call);
    while (index < call->count) {
        int64_t here = tasks_of(&call->tensors[index], call->chunk);
        if (task - passed >= here) {
            passed += here;
            index++;
            continue;
        }
        run(call, index, task - passed);
#if defined(_MSC_VER)
        task++;
#else
        task = take(call);
#endif
    }
}

typedef void (*parallel)(void (*)(void *), void *, unsigned, unsigned);
static parallel gomp_parallel = NULL;

/* Set the address of GOMP_parallel in the OpenMP runtime that torch uses. */
EXPORT void zeromean_use_threads_of(void *address) {
    union {
        void *address;
        parallel function;
    } cast = {.address = address};
    gomp_parallel = cast.function;
}

/* Make one centered step of many tensors of one type, or center them, by kind. */
EXPORT void zeromean_step(int64_t kind, int64_t at, int64_t type, int64_t count,
                          const struct tensor *tensors, void *const *gradients, void *const *into,
                          double *means, const struct rule *rules, int64_t threads) {
    struct call call = {.kind = kind,
                        .at = at,
                        .type = type,
                        .count = count,
                        .tensors = tensors,
                        .gradients = gradients,
                        .into = into,
                        .means = means,
                        .rules = rules};
    int64_t total = 0;
    for (int64_t i = 0; i < count; i++) {
        const struct tensor *t = &tensors[i];
        total += entries(t);
        if (kind == ADAM || kind == AMSGRAD) {
            if (t->wide_step) *(double *)t->step += 1;
            else *(float *)t->step += 1;
        }
    }
    call.chunk = total / (threads * TASKS_PER_THREAD);
    call.chunk = call.chunk < MIN_CHUNK ? MIN_CHUNK : at_most(call.chunk, MAX_CHUNK);
    /* Starting the other threads costs more than a small step. */
    if (threads > 1 && total > MIN_CHUNK && gomp_parallel)
        gomp_parallel(work, &call, (unsigned)threads, 0);
    else work(&call);
}

#include "normalized.h"
#include "tensors.h"
