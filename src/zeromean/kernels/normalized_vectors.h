/* The arithmetic of one element type: T is the stored type, A the type of the arithmetic, LOAD and
   STORE convert between them. Sums are of type A within a block and doubles across blocks.
   Adjacent vectors are processed together: `count` columns if m2 is 1, else one vector of m1 runs
   of m2 entries. */

INLINE A NAME(gain)(const struct normal *n, int64_t vector) {
    return n->gain ? LOAD(((const T *)n->gain)[vector]) : (A)n->scale;
}

/* Return the divisor of x = v - mean; a vector no longer than its rounding error has no direction
   and is divided by 1. */
INLINE double NAME(divisor)(const struct normal *n, double square, double mean) {
    const double entries = (double)(n->m1 * n->m2);
    if (n->standardizes) return sqrt(square / entries + n->eps);
    const double limit = 64 * ROUNDING * ROUNDING;
    return square <= limit * (square + entries * mean * mean) ? 1 : sqrt(square);
}

/* x = v - mean, as close to zero-mean as T allows even if the mean is far larger than x. */
#define X(v) (centers ? LOAD(v) - mean[each * j] - rest[each * j] : LOAD(v))

/* Run a statement for each block of the vectors: `at` is its start, `length` its entries. */
#define EACH_BLOCK(statement)                                                       \
    for (int64_t i = 0; i < n->m1; i++) {                                           \
        for (int64_t done = 0; done < run; done += BLOCK) {                         \
            const int64_t at = start + i * n->inner * n->m2 + done;                 \
            const int64_t length = run - done < BLOCK ? run - done : BLOCK;         \
            const T *v = (const T *)n->v + at;                                      \
            statement                                                               \
        }                                                                           \
    }
/* Sum two values over the entries j: two sums per vector, or two per column. */
#define ADD_UP(first, second)                                                       \
    if (columns) {                                                                  \
        SIMD() for (int64_t j = 0; j < length; j++) {                               \
            sums[j] += (double)(first);                                             \
            others[j] += (double)(second);                                          \
        }                                                                           \
    } else {                                                                        \
        A sum = 0, other = 0;                                                       \
        SIMD(reduction(+ : sum, other)) for (int64_t j = 0; j < length; j++) {      \
            sum += (first);                                                         \
            other += (second);                                                      \
        }                                                                           \
        sums[0] += (double)sum;                                                     \
        others[0] += (double)other;                                                 \
    }

INLINE void NAME(forward)(const struct normal *n, int centers, int columns, int64_t start,
                          int64_t vector, int64_t count) {
    const double entries = (double)(n->m1 * n->m2);
    const int64_t run = columns ? count : n->m2, each = columns ? 1 : 0;
    double sums[LINE] = {0}, others[LINE] = {0};
    A mean[LINE] = {0}, rest[LINE] = {0}, scale[LINE], offset[LINE];
    /* If a mean is far larger than x, compute it and the square again from x itself. */
    for (int far = 1, look = 0; far && look < (centers ? 2 : 1); look++) {
        for (int64_t c = 0; c < count; c++) sums[c] = others[c] = 0;
        EACH_BLOCK(ADD_UP(X(v[j]), X(v[j]) * X(v[j])))
        far = 0;
        for (int64_t c = 0; c < count; c++) {
            const double more = centers ? sums[c] / entries : 0;
            const double middle = (double)mean[c] + (double)rest[c] + more;
            far |= !(2 * entries * more * more <= others[c]);
            others[c] -= entries * more * more;
            mean[c] = (A)middle;
            rest[c] = (A)(middle - (double)mean[c]);
            n->mean[vector + c] = middle;
        }
    }
    for (int64_t c = 0; c < count; c++) {
        const double norm = NAME(divisor)(n, others[c], n->mean[vector + c]);
        n->norm[vector + c] = norm;
        scale[c] = (A)((double)NAME(gain)(n, vector + c) / norm);
        offset[c] = n->offset ? LOAD(((const T *)n->offset)[vector + c]) : 0;
    }
    EACH_BLOCK({
        T *w = (T *)n->w + at;
        SIMD() for (int64_t j = 0; j < length; j++)
            w[j] = STORE(scale[each * j] * X(v[j]) + offset[each * j]);
    })
}

/* s (G - mean G - (G . x) x / n^2), and G . x / n for the gain. */
INLINE void NAME(backward)(const struct normal *n, int centers, int columns, int64_t start,
                           int64_t vector, int64_t count) {
    const double entries = (double)(n->m1 * n->m2);
    const int64_t run = columns ? count : n->m2, each = columns ? 1 : 0;
    double sums[LINE] = {0}, others[LINE] = {0};
    A mean[LINE], rest[LINE], scale[LINE], shift[LINE], along[LINE];
    for (int64_t c = 0; c < count; c++) {
        mean[c] = (A)n->mean[vector + c];
        rest[c] = (A)(n->mean[vector + c] - (double)mean[c]);
    }
    EACH_BLOCK({
        const T *g = (const T *)n->grad_w + at;
        ADD_UP(LOAD(g[j]), LOAD(g[j]) * X(v[j]))
    })
    for (int64_t c = 0; c < count; c++) {
        const double norm = n->norm[vector + c];
        const double square = norm * norm * (n->standardizes ? entries : 1);
        scale[c] = (A)((double)NAME(gain)(n, vector + c) / norm);
        shift[c] = centers ? (A)(sums[c] / entries) : 0;
        along[c] = (A)(others[c] / square);
        if (n->grad_gain) ((T *)n->grad_gain)[vector + c] = STORE((A)(others[c] / norm));
    }
    if (!n->grad_v) return;
    EACH_BLOCK({
        const T *g = (const T *)n->grad_w + at;
        T *out = (T *)n->grad_v + at;
        SIMD() for (int64_t j = 0; j < length; j++)
            out[j] = STORE(scale[each * j]
                           * (LOAD(g[j]) - shift[each * j] - along[each * j] * X(v[j])));
    })
}

#undef X
#undef EACH_BLOCK
#undef ADD_UP

INLINE void NAME(task_of)(const struct normal *n, int back, int centers, int64_t from,
                          int64_t to) {
    const int columns = n->m2 == 1 && n->inner > 1;
    for (int64_t u = from; u < to;) {
        const int64_t c = u % n->inner, start = (u / n->inner * n->m1 * n->inner + c) * n->m2;
        if (columns) {
            const int64_t count = at_most(at_most(to - u, n->inner - c), LINE);
            if (back) NAME(backward)(n, centers, 1, start, u, count);
            else NAME(forward)(n, centers, 1, start, u, count);
            u += count;
        } else {
            if (back) NAME(backward)(n, centers, 0, start, u, 1);
            else NAME(forward)(n, centers, 0, start, u, 1);
            u++;
        }
    }
}

CLONES static void NAME(task)(const struct normal *n, int64_t back, int64_t from, int64_t to) {
    if (back && n->centers) NAME(task_of)(n, 1, 1, from, to);
    else if (back) NAME(task_of)(n, 1, 0, from, to);
    else if (n->centers) NAME(task_of)(n, 0, 1, from, to);
    else NAME(task_of)(n, 0, 0, from, to);
}

#undef T
#undef A
#undef LOAD
#undef STORE
#undef ROUNDING
#undef NAME
