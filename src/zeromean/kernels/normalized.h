/* Normalizes weight vectors, w = s (v - mean v) + offset, and computes the gradient. Each vector is
   read from memory once in forward and once, with its gradient, in backward; it is in cache when it
   is read again. normalized_vectors.h contains the arithmetic and is included once for every
   element type. */

struct normal {
    int64_t outer, m1, inner, m2;     /* as in struct tensor */
    int64_t centers;                  /* if 0, the mean is kept */
    int64_t standardizes;             /* divide by sqrt(variance + eps), else by the length */
    double eps, scale;                /* scale: g if there is no tensor of gains */
    const void *v, *gain, *offset;    /* gain and offset: NULL, or one number per vector */
    double *mean, *norm;              /* one number per vector, kept for backward */
    void *w;                          /* forward: the result */
    const void *grad_w;               /* backward: the gradient of w */
    void *grad_v, *grad_gain;         /* backward: the results, or NULL */
};

enum { BLOCK = 1024 }; /* entries that are summed in type A before the sum becomes a double */

struct normal_call {
    int64_t type, backward, tasks, each;
    const struct normal *n;
#if !defined(_MSC_VER)
    _Atomic int64_t next;
#endif
};

#define T float
#define A float
#define LOAD(x) (x)
#define STORE(x) (x)
#define ROUNDING 0x1p-23
#define NAME(x) x##_normal_float32
#include "normalized_vectors.h"

#define T double
#define A double
#define LOAD(x) (x)
#define STORE(x) (x)
#define ROUNDING 0x1p-52
#define NAME(x) x##_normal_float64
#include "normalized_vectors.h"

#define T uint16_t
#define A float
#define LOAD(x) from_bfloat16(x)
#define STORE(x) to_bfloat16(x)
#define ROUNDING 0x1p-23
#define NAME(x) x##_normal_bfloat16
#include "normalized_vectors.h"

static void run_normal(const struct normal_call *call, int64_t task) {
    const int64_t vectors = call->n->outer * call->n->inner;
    const int64_t from = task * call->each, to = at_most(from + call->each, vectors);
    if (call->type == FLOAT32) task_normal_float32(call->n, call->backward, from, to);
    if (call->type == FLOAT64) task_normal_float64(call->n, call->backward, from, to);
    if (call->type == BFLOAT16) task_normal_bfloat16(call->n, call->backward, from, to);
}

static void work_normal(void *data) {
    struct normal_call *call = data;
#if defined(_MSC_VER)
    for (int64_t task = 0; task < call->tasks; task++) run_normal(call, task);
#else
    for (;;) {
        int64_t task = atomic_fetch_add_explicit(&call->next, 1, memory_order_relaxed);
        if (task >= call->tasks) return;
        run_normal(call, task);
    }
#endif
}

EXPORT void zeromean_normalize(int64_t type, int64_t backward, const struct normal *n,
                               int64_t threads) {
    struct normal_call call = {.type = type, .backward = backward, .n = n};
    const int64_t vectors = n->outer * n->inner, total = vectors * n->m1 * n->m2;
    if (total == 0) return;
    call.each = ceiling(vectors, threads * TASKS_PER_THREAD);
    /* Neighboring columns share cache lines. */
    if (n->inner > 1 && call.each < LINE) call.each = LINE;
    call.tasks = ceiling(vectors, call.each);
    if (threads > 1 && total > MIN_CHUNK && gomp_parallel)
        gomp_parallel(work_normal, &call, (unsigned)threads, 0);
    else work_normal(&call);
}
