/* The arithmetic of one element type: T as stored, A as computed with, LOAD and STORE between
   them. Sums are doubles. Vectors u..u + count of one outer block lie side by side: `count` columns
   where m2 is 1, or one vector of m1 runs of m2 entries. */

/* g / n, with n kept where the length of x = v - mean tells a direction: what is no longer than
   rounding has none, and counts as 1 long. */
INLINE double NAME(divisor)(const struct normal *n, double square, double mean) {
    const double entries = (double)(n->m1 * n->m2);
    if (n->standardizes) return sqrt(square / entries + n->eps);
    const double limit = 64 * ROUNDING * ROUNDING;
    return square <= limit * (square + entries * mean * mean) ? 1 : sqrt(square);
}

INLINE A NAME(gain)(const struct normal *n, int64_t vector) {
    return n->gain ? LOAD(((const T *)n->gain)[vector]) : (A)n->scale;
}

/* x = v - mean, as near to zero-mean as T allows also where the mean is far larger than x. */
#define X(v) (LOAD(v) - mean[each * j] - rest[each * j])

/* sums += over the vectors' entries of `value`, which may use j, entry j of the run at x. */
#define EACH_RUN(statement)                                             \
    for (int64_t i = 0; i < n->m1; i++) {                               \
        const int64_t at = start + i * n->inner * n->m2;                \
        statement                                                       \
    }
#define ADD_UP(sums, value)                                             \
    if (columns) {                                                      \
        SIMD() for (int64_t j = 0; j < length; j++) sums[j] += (double)(value); \
    } else {                                                            \
        double sum = 0;                                                 \
        SIMD(reduction(+ : sum)) for (int64_t j = 0; j < length; j++) sum += (double)(value); \
        sums[0] += sum;                                                 \
    }

INLINE void NAME(forward)(const struct normal *n, int columns, int64_t start, int64_t vector,
                          int64_t count) {
    const double entries = (double)(n->m1 * n->m2);
    const int64_t length = columns ? count : n->m2, each = columns ? 1 : 0;
    double sums[LINE];
    A mean[LINE], rest[LINE], scale[LINE], offset[LINE];
    for (int64_t c = 0; c < count; c++) sums[c] = 0;
    if (n->centers) {
        EACH_RUN({
            const T *v = (const T *)n->v + at;
            ADD_UP(sums, LOAD(v[j]))
        })
    }
    for (int64_t c = 0; c < count; c++) {
        n->mean[vector + c] = sums[c] / entries;
        mean[c] = (A)n->mean[vector + c];
        rest[c] = (A)(n->mean[vector + c] - (double)mean[c]);
        sums[c] = 0;
    }
    EACH_RUN({
        const T *v = (const T *)n->v + at;
        ADD_UP(sums, (double)X(v[j]) * (double)X(v[j]))
    })
    for (int64_t c = 0; c < count; c++) {
        const double norm = NAME(divisor)(n, sums[c], (double)mean[c]);
        n->norm[vector + c] = norm;
        scale[c] = (A)((double)NAME(gain)(n, vector + c) / norm);
        offset[c] = n->offset ? LOAD(((const T *)n->offset)[vector + c]) : 0;
    }
    EACH_RUN({
        const T *v = (const T *)n->v + at;
        T *w = (T *)n->w + at;
        SIMD() for (int64_t j = 0; j < length; j++)
            w[j] = STORE(scale[each * j] * X(v[j]) + offset[each * j]);
    })
}

/* s (G - mean G - (G . x) x / n^2), and G . x / n for the gain. */
INLINE void NAME(backward)(const struct normal *n, int columns, int64_t start, int64_t vector,
                           int64_t count) {
    const double entries = (double)(n->m1 * n->m2);
    const int64_t length = columns ? count : n->m2, each = columns ? 1 : 0;
    double sums[LINE], dots[LINE];
    A mean[LINE], rest[LINE], scale[LINE], shift[LINE], along[LINE];
    for (int64_t c = 0; c < count; c++) {
        sums[c] = dots[c] = 0;
        mean[c] = (A)n->mean[vector + c];
        rest[c] = (A)(n->mean[vector + c] - (double)mean[c]);
    }
    EACH_RUN({
        const T *v = (const T *)n->v + at;
        const T *g = (const T *)n->grad_w + at;
        ADD_UP(dots, (double)LOAD(g[j]) * (double)X(v[j]))
        if (n->centers) { ADD_UP(sums, LOAD(g[j])) }
    })
    for (int64_t c = 0; c < count; c++) {
        const double norm = n->norm[vector + c];
        const double square = norm * norm * (n->standardizes ? entries : 1);
        scale[c] = (A)((double)NAME(gain)(n, vector + c) / norm);
        shift[c] = (A)(sums[c] / entries);
        along[c] = (A)(dots[c] / square);
        if (n->grad_gain) ((T *)n->grad_gain)[vector + c] = STORE((A)(dots[c] / norm));
    }
    if (!n->grad_v) return;
    EACH_RUN({
        const T *v = (const T *)n->v + at;
        const T *g = (const T *)n->grad_w + at;
        T *out = (T *)n->grad_v + at;
        SIMD() for (int64_t j = 0; j < length; j++)
            out[j] = STORE(scale[each * j]
                           * (LOAD(g[j]) - shift[each * j] - along[each * j] * X(v[j])));
    })
}

#undef X
#undef EACH_RUN
#undef ADD_UP

CLONES static void NAME(task)(const struct normal *n, int64_t back, int64_t from, int64_t to) {
    const int columns = n->m2 == 1 && n->inner > 1;
    for (int64_t u = from; u < to;) {
        const int64_t c = u % n->inner, start = (u / n->inner * n->m1 * n->inner + c) * n->m2;
        if (columns) {
            const int64_t count = at_most(at_most(to - u, n->inner - c), LINE);
            if (back) NAME(backward)(n, 1, start, u, count);
            else NAME(forward)(n, 1, start, u, count);
            u += count;
        } else {
            if (back) NAME(backward)(n, 0, start, u, 1);
            else NAME(forward)(n, 0, start, u, 1);
            u++;
        }
    }
}

#undef T
#undef A
#undef LOAD
#undef STORE
#undef ROUNDING
#undef NAME
