/* The arithmetic of one element type: T is the stored type, A the type of the arithmetic, LOAD and
   STORE convert between them, and ROUNDS is 1 if storing changes means. Sums are doubles. */

/* The options of a param group, at the step number of one tensor. */
struct NAME(terms) {
    A lr, sign, coupled, shrink, momentum, gain;
    A beta1_rest, beta2, beta2_rest, eps, step_size, correction;
};

INLINE struct NAME(terms) NAME(terms_of)(int kind, const struct tensor *t, const struct rule *r) {
    struct NAME(terms) s = {.lr = (A)r->lr,
                            .sign = (A)r->sign,
                            .coupled = (A)r->coupled,
                            .shrink = (A)r->shrink,
                            .momentum = (A)r->momentum,
                            .gain = (A)(t->starts ? 1 : 1 - r->dampening)};
    if (kind == ADAM || kind == AMSGRAD) {
        double step = t->wide_step ? *(double *)t->step : *(float *)t->step;
        s.beta1_rest = (A)(1 - r->beta1);
        s.beta2 = (A)r->beta2;
        s.beta2_rest = (A)(1 - r->beta2);
        s.eps = (A)r->eps;
        s.step_size = (A)(r->lr / (1 - pow(r->beta1, step)));
        s.correction = (A)(1 / sqrt(1 - pow(r->beta2, step)));
    }
    return s;
}

/* Return the amount to subtract from a weight for the gradient g, and update the state. */
INLINE A NAME(change)(int kind, const struct NAME(terms) *s, A g, A *m, A *v, A *largest) {
    if (kind == SGD) return s->lr * g;
    if (kind == MOMENTUM || kind == NESTEROV) {
        *m = s->momentum * *m + s->gain * g;
        return s->lr * (kind == NESTEROV ? g + s->momentum * *m : *m);
    }
    *m += s->beta1_rest * (g - *m);
    *v = s->beta2 * *v + s->beta2_rest * g * g;
    A square = *v;
    if (kind == AMSGRAD) square = *largest = *largest > *v ? *largest : *v;
#ifdef __GNUC__
    A root = sizeof(A) == 4 ? (A)__builtin_sqrtf((float)square) : (A)__builtin_sqrt((double)square);
#else
    A root = (A)sqrt((double)square);
#endif
    return s->step_size * *m / (root * s->correction + s->eps);
}

/* The addresses of one run of entries. */
struct NAME(run) {
    const T *g;
    T *w, *m, *v, *largest;
};

INLINE struct NAME(run) NAME(run_at)(int kind, const struct tensor *t, const void *g, int64_t at) {
    struct NAME(run) x = {.g = (const T *)g + at};
    x.w = t->weight ? (T *)t->weight + at : NULL;
    if (kind != SGD) x.m = (T *)t->first + at;
    if (kind >= ADAM) x.v = (T *)t->second + at;
    if (kind == AMSGRAD) x.largest = (T *)t->largest + at;
    return x;
}

/* Return the whole change of weight j, decay included; nothing is stored. */
INLINE A NAME(whole_change)(int kind, const struct NAME(terms) *s, struct NAME(run) x, int64_t j) {
    A w = LOAD(x.w[j]), m = 0, v = 0, largest = 0;
    if (kind != SGD) m = LOAD(x.m[j]);
    if (kind >= ADAM) v = LOAD(x.v[j]);
    if (kind == AMSGRAD) largest = LOAD(x.largest[j]);
    A g = s->sign * LOAD(x.g[j]) + s->coupled * w;
    return NAME(change)(kind, s, g, &m, &v, &largest) + s->shrink * w;
}

/* Add the entries to be centered to the sums of their vectors: one per run, or one per entry. */
INLINE void NAME(add_up)(int kind, int at, int columns, const struct NAME(terms) *s,
                         struct NAME(run) x, int64_t n, double *sums) {
#define ADD_UP(value)                                      \
    if (columns) {                                         \
        SIMD() for (int64_t j = 0; j < n; j++) sums[j] += (double)(value); \
    } else {                                               \
        double sum = 0;                                    \
        SIMD(reduction(+ : sum)) for (int64_t j = 0; j < n; j++) sum += (double)(value); \
        sums[0] += sum;                                    \
    }
    if (at == UPDATE) {
        ADD_UP(NAME(whole_change)(kind, s, x, j))
    } else if (s->coupled != 0) {
        ADD_UP(s->sign * LOAD(x.g[j]) + s->coupled * LOAD(x.w[j]))
    } else {
        ADD_UP(s->sign * LOAD(x.g[j]))
    }
#undef ADD_UP
}

/* Step a run. `mean` is subtracted from the gradient and `shift` from the change; if `gather`, how
   far the stored weights moved is added to `moved`. Each is one number per run, or one per entry. */
INLINE void NAME(step_run)(int kind, int columns, int gather, const struct NAME(terms) *s,
                           struct NAME(run) x, int64_t n, const A *mean, const A *shift,
                           double *moved) {
    const int64_t each = columns ? 1 : 0;
    double gained = 0;
    SIMD(reduction(+ : gained))
    for (int64_t j = 0; j < n; j++) {
        A w = LOAD(x.w[j]), m = 0, v = 0, largest = 0;
        if (kind != SGD) m = LOAD(x.m[j]);
        if (kind >= ADAM) v = LOAD(x.v[j]);
        if (kind == AMSGRAD) largest = LOAD(x.largest[j]);
        A g = s->sign * LOAD(x.g[j]) + s->coupled * w - mean[each * j];
        A change = NAME(change)(kind, s, g, &m, &v, &largest) + s->shrink * w;
        T stored = STORE(w - (change - shift[each * j]));
        x.w[j] = stored;
        if (kind != SGD) x.m[j] = STORE(m);
        if (kind >= ADAM) x.v[j] = STORE(v);
        if (kind == AMSGRAD) x.largest[j] = STORE(largest);
        if (gather && columns) moved[j] += (double)(LOAD(stored) - w);
        if (gather && !columns) gained += (double)(LOAD(stored) - w);
    }
    if (gather && !columns) moved[0] += gained;
}

/* Subtract from a run of weights the mean that their vectors gained. */
INLINE void NAME(put_back)(int columns, T *w, int64_t n, const A *gained) {
    const int64_t each = columns ? 1 : 0;
    SIMD() for (int64_t j = 0; j < n; j++) w[j] = STORE(LOAD(w[j]) - gained[each * j]);
}

/* Prefetch a run. */
INLINE void NAME(prefetch)(const T *x, int64_t n) {
    for (int64_t j = 0; j < n; j += 64 / (int64_t)sizeof(T)) PREFETCH(x + j);
}

/* Step `count` columns of m1 entries, or one vector of m1 runs of m2 entries. */
INLINE void NAME(strip)(int kind, int at, int columns, const struct NAME(terms) *s,
                        const struct tensor *t, const void *g, int64_t start, int64_t vector,
                        int64_t count) {
    double sums[MOST_COLUMNS];
    double moved[MOST_COLUMNS];
    A mean[MOST_COLUMNS];
    A shift[MOST_COLUMNS];
    const int64_t length = columns ? count : t->m2, next = t->inner * t->m2;
    const double entries = (double)(t->m1 * t->m2);
    for (int64_t c = 0; c < count; c++) {
        sums[c] = moved[c] = 0;
        mean[c] = shift[c] = 0;
    }
    if (at == UPDATE && !ROUNDS) { /* step, then subtract the mean that was gained */
        for (int64_t i = 0; i < t->m1; i++)
            NAME(step_run)(kind, columns, 1, s, NAME(run_at)(kind, t, g, start + i * next), length,
                           mean, shift, moved);
        for (int64_t c = 0; c < count; c++) mean[c] = (A)(moved[c] / entries);
        for (int64_t i = 0; i < t->m1; i++)
            NAME(put_back)(columns, (T *)t->weight + start + i * next, length, mean);
        return;
    }
    for (int64_t i = 0; i < t->m1; i++)
        NAME(add_up)(kind, at, columns, s, NAME(run_at)(kind, t, g, start + i * next), length,
                     sums);
    for (int64_t c = 0; c < count; c++) {
        sums[c] /= entries;
        mean[c] = at == UPDATE ? 0 : (A)sums[c];
        shift[c] = at == UPDATE ? (A)sums[c] : 0;
        if (ROUNDS && at == UPDATE && t->residual) shift[c] += t->residual[vector + c];
    }
    const int64_t ahead = columns || at == UPDATE ? 0 : ahead_of(t);
    const int64_t piece = ahead ? PREFETCHED : length;
    for (int64_t i = 0; i < t->m1; i++)
        for (int64_t from = 0; from < length; from += piece) {
            const struct NAME(run) x = NAME(run_at)(kind, t, g, start + i * next + from);
            const int64_t n = length - from < piece ? length - from : piece;
            if (ahead) NAME(prefetch)(x.g + ahead, n);
            NAME(step_run)(kind, columns, ROUNDS, s, x, n, mean, shift, moved);
        }
    if (ROUNDS && at == UPDATE && t->residual)
        for (int64_t c = 0; c < count; c++)
            t->residual[vector + c] -= (float)(moved[c] / entries);
}

/* Add a run to the sums of its vectors: one per run, or one per entry. */
INLINE void NAME(sum_run)(int columns, A factor, const T *x, int64_t n, double *sums) {
    if (columns) {
        SIMD() for (int64_t j = 0; j < n; j++) sums[j] += (double)(factor * LOAD(x[j]));
    } else {
        double sum = 0;
        SIMD(reduction(+ : sum))
        for (int64_t j = 0; j < n; j++) sum += (double)(factor * LOAD(x[j]));
        sums[0] += sum;
    }
}

/* Add `by` to a run, and how far the stored entries moved to `moved`. */
INLINE void NAME(shift_run)(int columns, const T *x, T *out, int64_t n, const A *by,
                            double *moved) {
    const int64_t each = columns ? 1 : 0;
    double gained = 0;
    SIMD(reduction(+ : gained)) for (int64_t j = 0; j < n; j++) {
        A old = LOAD(x[j]);
        T stored = STORE(old + by[each * j]);
        out[j] = stored;
        if (ROUNDS && columns) moved[j] += (double)(LOAD(stored) - old);
        if (ROUNDS && !columns) gained += (double)(LOAD(stored) - old);
    }
    if (ROUNDS && !columns) moved[0] += gained;
}

/* CENTER, NOTE or KEEP the vectors of a strip. The kind is not a compile-time constant, so NOTE and
   KEEP sum in the same order, and a vector that did not move has the same mean to the bit. */
INLINE void NAME(center_strip)(const struct call *call, int columns, const struct tensor *t,
                               A coupled, const T *x, T *out, int64_t start, int64_t vector,
                               int64_t count) {
    double sums[MOST_COLUMNS];
    double moved[MOST_COLUMNS];
    A by[MOST_COLUMNS];
    const int64_t length = columns ? count : t->m2, next = t->inner * t->m2;
    const double entries = (double)(t->m1 * t->m2);
    for (int64_t c = 0; c < count; c++) sums[c] = moved[c] = 0;
    for (int64_t i = 0; i < t->m1; i++)
        NAME(sum_run)(columns, 1, x + start + i * next, length, sums);
    if (coupled != 0)
        for (int64_t i = 0; i < t->m1; i++)
            NAME(sum_run)(columns, coupled, (const T *)t->weight + start + i * next, length, sums);
    double *noted = call->means ? call->means + t->before + vector : NULL;
    float *residual = t->residual ? t->residual + vector : NULL;
    int moves = 0;
    for (int64_t c = 0; c < count; c++) {
        sums[c] /= entries;
        if (call->kind == NOTE) {
            noted[c] = sums[c];
        } else if (call->kind == CENTER) {
            by[c] = (A)-sums[c];
            moves = 1;
        } else {
            const int same = sums[c] == noted[c];
            by[c] = same ? 0 : (A)(noted[c] + (residual ? residual[c] : 0) - sums[c]);
            moves |= !same;
        }
    }
    if (!moves) return;
    const int64_t ahead = columns ? 0 : ahead_of(t);
    for (int64_t i = 0; i < t->m1; i++) {
        const int64_t run = start + i * next;
        const int64_t piece = ahead ? PREFETCHED : length;
        for (int64_t from = 0; from < length; from += piece) {
            const int64_t n = length - from < piece ? length - from : piece;
            if (ahead) NAME(prefetch)(x + run + from + ahead, n);
            NAME(shift_run)(columns, x + run + from, out + run + from, n, by, moved);
        }
    }
    if (residual)
        for (int64_t c = 0; c < count; c++)
            if (sums[c] != noted[c])
                residual[c] = (float)(noted[c] + residual[c] - (sums[c] + moved[c] / entries));
}

/* CENTER, NOTE or KEEP the vectors from..to of a tensor, or the columns from..to of a block. */
INLINE void NAME(center_task)(const struct call *call, int64_t index, int64_t outer, int64_t from,
                              int64_t to) {
    const struct tensor *t = &call->tensors[index];
    const T *x = (const T *)call->gradients[index];
    T *out = call->kind == CENTER ? (T *)call->into[index] : (T *)x;
    const A coupled = (A)(call->kind == CENTER ? call->rules[t->group].coupled : 0);
    if (is_columns(t)) {
        NAME(center_strip)(call, 1, t, coupled, x, out, outer * t->m1 * t->inner + from,
                           outer * t->inner + from, to - from);
    } else {
        for (int64_t u = from; u < to; u++)
            NAME(center_strip)(call, 0, t, coupled, x, out, start_of(t, u), u, 1);
    }
}

/* Step the vectors from..to of a tensor, the columns from..to of a block, or a plain run. */
INLINE void NAME(task_of)(int kind, int at, const struct tensor *t, const void *g,
                          const struct rule *r, int64_t outer, int64_t from, int64_t to) {
    const struct NAME(terms) s = NAME(terms_of)(kind, t, r);
    if (!t->centered) {
        const A none = 0;
        double moved = 0;
        NAME(step_run)(kind, 0, 0, &s, NAME(run_at)(kind, t, g, from), to - from, &none, &none,
                       &moved);
    } else if (is_columns(t)) {
        NAME(strip)(kind, at, 1, &s, t, g, outer * t->m1 * t->inner + from,
                    outer * t->inner + from, to - from);
    } else {
        for (int64_t u = from; u < to; u++)
            NAME(strip)(kind, at, 0, &s, t, g, start_of(t, u), u, 1);
    }
}

#define KIND(kind)                                                                      \
    case kind:                                                                          \
        if (call->at == UPDATE) NAME(task_of)(kind, UPDATE, t, g, r, outer, from, to);  \
        else NAME(task_of)(kind, GRADIENT, t, g, r, outer, from, to);                   \
        break;

CLONES static void NAME(task)(const struct call *call, int64_t index, int64_t outer, int64_t from,
                              int64_t to) {
    const struct tensor *t = &call->tensors[index];
    const void *g = call->gradients[index];
    const struct rule *r = &call->rules[t->group];
    switch (call->kind) {
        KIND(SGD)
        KIND(MOMENTUM)
        KIND(NESTEROV)
        KIND(ADAM)
        KIND(AMSGRAD)
        default:
            NAME(center_task)(call, index, outer, from, to);
    }
}

#undef KIND
#undef T
#undef A
#undef LOAD
#undef STORE
#undef ROUNDS
#undef NAME
