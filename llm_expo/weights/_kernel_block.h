/* The work on blocks, once for REAL float and once for double; _kernel.c includes it twice and says what it is for. */

INLINE void NAME(widen)(const void *source, int dtype, Py_ssize_t at, int count, REAL *restrict into)
{
    const uint16_t *halves = (const uint16_t *)source + at;
    if (dtype == BF16)
        for (int i = 0; i < count; i++)
            into[i] = float_from_bf16(halves[i]);
    else if (dtype == F16)
        for (int i = 0; i < count; i++)
            into[i] = float_from_f16(halves[i]);
    else if (dtype == F32)
        for (int i = 0; i < count; i++)
            into[i] = ((const float *)source + at)[i];
    else
        for (int i = 0; i < count; i++)
            into[i] = (REAL)((const double *)source + at)[i];
}

INLINE float NAME(to_16_bits)(REAL value) { return sizeof(REAL) == 8 ? float_to_odd((double)value) : (float)value; }

INLINE void NAME(narrow)(const REAL *restrict from, void *target, int dtype, Py_ssize_t at, int count)
{
    uint16_t *halves = (uint16_t *)target + at;
    if (dtype == BF16)
        for (int i = 0; i < count; i++)
            halves[i] = bf16_from_float(NAME(to_16_bits)(from[i]));
    else if (dtype == F16)
        for (int i = 0; i < count; i++)
            halves[i] = f16_from_float(NAME(to_16_bits)(from[i]));
    else if (dtype == F32)
        for (int i = 0; i < count; i++)
            ((float *)target + at)[i] = (float)from[i];
    else
        for (int i = 0; i < count; i++)
            ((double *)target + at)[i] = from[i];
}

INLINE void NAME(narrow_stochastic)(const REAL *restrict from, void *target, int dtype, Py_ssize_t at, int count,
                                    Rounding how)
{
    uint16_t *halves = (uint16_t *)target + at;
    uint64_t position = how.position + (uint64_t)at;
    if (dtype == BF16)
        for (int i = 0; i < count; i++)
            halves[i] = bf16_stochastic(NAME(to_16_bits)(from[i]), noise_at(how.key, position + (uint64_t)i));
    else
        for (int i = 0; i < count; i++)
            halves[i] = f16_stochastic(NAME(to_16_bits)(from[i]), noise_at(how.key, position + (uint64_t)i));
}

INLINE WORD NAME(word)(REAL value) { WORD bits; memcpy(&bits, &value, sizeof bits); return bits; }

INLINE int NAME(finite)(REAL value) { return (NAME(word)(value) & INFINITE) != INFINITE; }

/* What became of a block: direction = theta1 - theta0, step = result - theta1. Returns whether something is not finite. */
INLINE int NAME(measure)(const REAL *restrict before, const REAL *restrict after, const REAL *restrict result,
                         const REAL *restrict unmoved, double *restrict direction, double *restrict step,
                         WORD *differing, WORD *swallowed)
{
    WORD broken = 0, differ = 0, stay = 0; /* x - x is 0, all bits of it, for what is finite */
    for (int i = 0; i < BLOCK; i++) {
        REAL way = after[i] - before[i];
        broken |= NAME(word)(result[i] - result[i]) | NAME(word)(way - way);
        WORD moved = way != 0;
        differ += moved;
        stay += moved & (result[i] == unmoved[i]);
        direction[i] = way;
        step[i] = result[i] - after[i];
    }
    *differing = differ;
    *swallowed = stay;
    return broken != 0;
}

/* A block as REAL, zeros behind its end. Where nothing reads it after the output was written, which may lie in the same
 * place, and it is of that type, the block itself: copying it would take longer than the arithmetic. */
INLINE const REAL *NAME(block)(const void *source, int dtype, Py_ssize_t at, int count, int copied, REAL *into)
{
    if (!copied && count == BLOCK && dtype == (sizeof(REAL) == 8 ? F64 : F32))
        return (const REAL *)source + at;
    NAME(widen)(source, dtype, at, count, into);
    for (int i = count; i < BLOCK; i++)
        into[i] = 0;
    return into;
}

INLINE int NAME(any_broken)(const REAL *restrict result)
{
    WORD broken = 0;
    for (int i = 0; i < BLOCK; i++)
        broken |= NAME(word)(result[i] - result[i]);
    return broken != 0;
}

EVERY_TARGET static Step NAME(step)(const void *initial, int initial_dtype, const void *aligned, int aligned_dtype,
                                    void *out, int out_dtype, Py_ssize_t elements, REAL alpha, Rounding how)
{
    REAL theirs_widened[BLOCK], ours_widened[BLOCK], result[BLOCK], rounded[BLOCK];
    REAL factor = alpha > 0 ? -alpha : alpha;
    uint64_t scratch[BLOCK];
    double direction[BLOCK], step[BLOCK];
    Step found = {0, 0, -1, 0, 0};
    int stochastic = how.stochastic && (out_dtype == BF16 || out_dtype == F16);
    for (Py_ssize_t at = 0; at < elements; at += BLOCK) {
        int count = elements - at < BLOCK ? (int)(elements - at) : BLOCK;
        const REAL *before = NAME(block)(initial, initial_dtype, at, count, how.tally, theirs_widened);
        const REAL *after = NAME(block)(aligned, aligned_dtype, at, count, how.tally, ours_widened);
        /* A factor below 0 leaves a -0.0 that does not differ as it is: -a * 0 + -0.0 is -0.0, a * 0 + -0.0 is not. */
        const REAL *start = alpha > 0 ? after : before, *end = alpha > 0 ? before : after;
        /* Both ends are copied: 0 * x is no identity for -0.0, and no sum takes theta1 exactly to theta0. */
        if (alpha == 0)
            memcpy(result, after, sizeof result);
        else if (alpha == -1)
            memcpy(result, before, sizeof result);
        else
            for (int i = 0; i < BLOCK; i++)
                result[i] = FMA(factor, end[i] - start[i], after[i]);
        if (stochastic)
            NAME(narrow_stochastic)(result, out, out_dtype, at, count, how);
        else
            NAME(narrow)(result, out, out_dtype, at, count);
        /* What is of the type that was calculated in stands in `result` as it was written. */
        if (how.tally || out_dtype != (sizeof(REAL) == 8 ? F64 : F32))
            NAME(widen)(out, out_dtype, at, count, result);

        /* Where the output is of another type, not to move is to be theta1 in that type. */
        const REAL *unmoved = after;
        if (how.tally && out_dtype != aligned_dtype) {
            NAME(narrow)(after, scratch, out_dtype, 0, BLOCK);
            NAME(widen)(scratch, out_dtype, 0, BLOCK, rounded);
            unmoved = rounded;
        }
        WORD differing = 0, swallowed = 0;
        int broken = how.tally ? NAME(measure)(before, after, result, unmoved, direction, step, &differing, &swallowed)
                               : NAME(any_broken)(result);
        for (int i = 0; broken && i < count; i++) {
            REAL theirs, ours, written;
            NAME(widen)(initial, initial_dtype, at + i, 1, &theirs);
            NAME(widen)(aligned, aligned_dtype, at + i, 1, &ours);
            NAME(widen)(out, out_dtype, at + i, 1, &written);
            int given = NAME(finite)(theirs) && NAME(finite)(ours);
            if (given && NAME(finite)(written))
                continue;
            if (given || !how.let_through) {
                found.bad = at + i;
                return found;
            }
            if (ours != ours && out_dtype == BF16)
                ours = float_of(0x7fc00000);
            NAME(narrow)(&ours, out, out_dtype, at + i, 1);
            direction[i] = step[i] = 0;
        }
        found.differing += (int64_t)differing;
        found.swallowed += (int64_t)swallowed;
        if (!differing)
            continue;
        found.squared += sum_of_products(direction, direction);
        found.along += sum_of_products(direction, step);
    }
    return found;
}

/* How many elements are equal or neighbours in a dtype. Differences wrap, and no pair that is far apart wraps to 1. */
INLINE int NAME(neighbours)(const REAL *restrict one, const REAL *restrict other, int count, int dtype)
{
    int near = 0;
    if (dtype == BF16)
        for (int i = 0; i < count; i++)
            near += in_order(bf16_from_float(NAME(to_16_bits)(one[i])), 16)
                    - in_order(bf16_from_float(NAME(to_16_bits)(other[i])), 16) + 1u <= 2u;
    else if (dtype == F16)
        for (int i = 0; i < count; i++)
            near += in_order(f16_from_float(NAME(to_16_bits)(one[i])), 16)
                    - in_order(f16_from_float(NAME(to_16_bits)(other[i])), 16) + 1u <= 2u;
    else if (dtype == F32)
        for (int i = 0; i < count; i++)
            near += in_order(bits_of((float)one[i]), 32) - in_order(bits_of((float)other[i]), 32) + 1u <= 2u;
    else
        for (int i = 0; i < count; i++)
            near += in_order_double((double)one[i]) - in_order_double((double)other[i]) + 1u <= 2u;
    return near;
}

EVERY_TARGET static Distance NAME(distance)(const void *initial, int initial_dtype, const void *aligned,
                                            int aligned_dtype, Py_ssize_t elements)
{
    REAL before[BLOCK], after[BLOCK];
    double theirs[BLOCK], ours[BLOCK], direction[BLOCK];
    Distance found = {0, 0, -1, 0, 0, 0};
    int coarser = initial_dtype < aligned_dtype ? initial_dtype : aligned_dtype;
    for (Py_ssize_t at = 0; at < elements; at += BLOCK) {
        int count = elements - at < BLOCK ? (int)(elements - at) : BLOCK;
        NAME(widen)(initial, initial_dtype, at, count, before);
        NAME(widen)(aligned, aligned_dtype, at, count, after);
        for (int i = count; i < BLOCK; i++)
            before[i] = after[i] = 0;
        WORD equal = 0, broken = 0;
        for (int i = 0; i < BLOCK; i++) {
            equal += before[i] == after[i];
            broken |= NAME(word)(before[i] - before[i]) | NAME(word)(after[i] - after[i]);
        }
        for (int i = 0; broken && i < count; i++)
            if (!NAME(finite)(before[i]) || !NAME(finite)(after[i])) {
                found.bad = at + i;
                return found;
            }
        equal -= (WORD)(BLOCK - count);
        found.equal += (int64_t)equal;
        if (equal < (WORD)count)
            found.one_ulp += NAME(neighbours)(before, after, count, coarser) - (int)equal;
        for (int i = 0; i < BLOCK; i++) {
            theirs[i] = before[i];
            ours[i] = after[i];
            direction[i] = ours[i] - theirs[i];
        }
        found.squared += sum_of_products(direction, direction);
        found.squared_initial += sum_of_products(theirs, theirs);
        found.squared_aligned += sum_of_products(ours, ours);
    }
    return found;
}
