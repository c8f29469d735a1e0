/* Weight vectors brought to a length, w = s (v - mean v) + offset, and the gradient of that. Each
   vector is read from memory once forwards and once, with its gradient, backwards; the second look
   at it finds it in cache.
   normalized_vectors.h holds the arithmetic and is included once for every element type. */

struct normal {
    int64_t outer, m1, inner, m2;     /* as in struct tensor */
    int64_t centers;                  /* else the mean stays */
    int64_t standardizes;             /* the divisor is sqrt(variance + eps), else the length */
    double eps, scale;                /* scale: g where there is no tensor of gains */
    const void *v, *gain, *offset;    /* gain and offset: NULL, or one number a vector */
    double *mean, *norm;              /* one number a vector, kept for the way back */
    void *w;                          /* forwards: where to write */
    const void *grad_w;               /* backwards: what came */
    void *grad_v, *grad_gain;         /* backwards: where to write, or NULL */
};

enum { BLOCK = 1024 }; /* entries that are added up before their sum becomes a double */

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
    call.each = ceiling(vectors, threads * EACH);
    /* Neighboring columns share their lines of memory. */
    if (n->inner > 1 && call.each < LINE) call.each = LINE;
    call.tasks = ceiling(vectors, call.each);
    if (threads > 1 && total > LEAST && gomp_parallel)
        gomp_parallel(work_normal, &call, (unsigned)threads, 0);
    else work_normal(&call);
}
