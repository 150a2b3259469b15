/* The arithmetic of weights/, over memory: a step along the direction, and the distance between two tensors.
 *
 * A chunk is worked on block by block, so that what lies between reading and writing stays in the first-level cache:
 * widen both sides to float (double where one of them is F64), calculate, round once to the output's type, widen that
 * again and measure. Sums are kept in double, in a fixed number of lanes, so that neither the instruction set nor the
 * chunking of a block changes a bit of them. Knows nothing of names, files or tensors' shapes; kernel.py checks what
 * comes in.
 */
#define PY_SSIZE_T_CLEAN
#define Py_LIMITED_API 0x030B0000
#include <Python.h>
#include <math.h>
#include <stdint.h>
#include <string.h>

/* One body for every instruction set; the loader takes the best one. Elsewhere the compiler's target has to do. */
#if defined(__x86_64__) && defined(__GLIBC__) && defined(__GNUC__) && (!defined(__clang__) || __clang_major__ >= 14)
#define EVERY_TARGET __attribute__((target_clones("arch=x86-64-v4", "arch=x86-64-v3", "default")))
#else
#define EVERY_TARGET
#endif
#define INLINE static inline __attribute__((always_inline))

enum { BF16, F16, F32, F64 };
enum { BLOCK = 1024 };
typedef double Lanes __attribute__((vector_size(32), aligned(8), may_alias));

INLINE uint32_t bits_of(float value) { uint32_t bits; memcpy(&bits, &value, 4); return bits; }
INLINE float float_of(uint32_t bits) { float value; memcpy(&value, &bits, 4); return value; }

/* ---- between the storage types and float: integer arithmetic, so that every compiler vectorises it ---- */

INLINE float float_from_bf16(uint16_t half) { return float_of((uint32_t)half << 16); }

/* Of a NaN this makes anything; who lets NaN through takes care of it. */
INLINE uint16_t bf16_from_float(float value)
{
    uint32_t bits = bits_of(value);
    return (uint16_t)((bits + 0x7fff + ((bits >> 16) & 1)) >> 16);
}

INLINE float float_from_f16(uint16_t half)
{
    /* Moved to float's place the exponent is too small by 112, which a multiplication repairs, subnormals included. */
    float magnitude = float_of((uint32_t)(half & 0x7fff) << 13) * 0x1p112f;
    uint32_t special = magnitude >= 65536.0f ? 0x7f800000 : 0;
    return float_of(bits_of(magnitude) | special | (uint32_t)(half & 0x8000) << 16);
}

INLINE uint16_t f16_from_float(float value)
{
    uint32_t bits = bits_of(value), sign = (bits >> 16) & 0x8000, magnitude = bits & 0x7fffffff;
    /* Adding 0.5 leaves a subnormal's bits, rounded to nearest even, at the end of the sum. */
    uint32_t subnormal = bits_of(float_of(magnitude) + 0.5f) - 0x3f000000;
    uint32_t normal = (magnitude - (112u << 23) + 0xfff + ((magnitude >> 13) & 1)) >> 13;
    uint32_t special = magnitude > 0x7f800000 ? 0x7e00 : 0x7c00;
    uint32_t found = magnitude < (113u << 23) ? subnormal : normal;
    return (uint16_t)(sign | (magnitude >= (143u << 23) ? special : found));
}

/* A double as the float next to it towards zero, odd if inexact: rounding that once more, to 16 bits, is right. */
INLINE float float_to_odd(double value)
{
    float nearest = (float)value;
    if ((double)nearest == value || value != value)
        return nearest;
    uint32_t bits = bits_of(nearest);
    if (fabs((double)nearest) > fabs(value))
        bits -= 1;
    return float_of(bits | 1);
}

/* ---- stochastic rounding: up with the probability of what is cut off, so exact values stay ---- */

/* splitmix64 at one position of the sequence that `key` begins: no state, so any chunking gives the same. */
INLINE uint32_t noise_at(uint64_t key, uint64_t position)
{
    uint64_t mixed = key + (position + 1) * 0x9e3779b97f4a7c15u;
    mixed = (mixed ^ (mixed >> 30)) * 0xbf58476d1ce4e5b9u;
    mixed = (mixed ^ (mixed >> 27)) * 0x94d049bb133111ebu;
    return (uint32_t)((mixed ^ (mixed >> 31)) >> 32);
}

INLINE uint16_t bf16_stochastic(float value, uint32_t noise)
{
    uint32_t bits = bits_of(value);
    uint32_t rounded = bits + (noise >> 16);
    return (bits & 0x7f800000) == 0x7f800000 ? bf16_from_float(value) : (uint16_t)(rounded >> 16);
}

INLINE uint16_t f16_stochastic(float value, uint32_t noise)
{
    uint32_t bits = bits_of(value), magnitude = bits & 0x7fffffff, sign = (bits >> 16) & 0x8000;
    float normal = float_of((bits + (noise >> 19)) & ~0x1fffu);
    /* Subnormal halves are multiples of 2^-24; below 1024 of them, what is behind the point is exact. */
    float scaled = magnitude < (113u << 23) ? float_of(magnitude) * 0x1p24f : 0.0f;
    uint32_t whole = (uint32_t)scaled;
    whole += (scaled - (float)whole) > (float)(noise >> 8) * 0x1p-24f;
    return magnitude < (113u << 23) ? (uint16_t)(sign | whole)
         : magnitude >= 0x7f800000  ? f16_from_float(value) : f16_from_float(normal);
}

/* ---- bits in order, so that the difference of neighbours is 1 and both zeros are 0 ---- */

INLINE uint32_t in_order(uint32_t bits, int width)
{
    uint32_t sign = 1u << (width - 1), magnitude = bits & (sign - 1);
    return bits & sign ? 0 - magnitude : magnitude;
}

INLINE uint64_t in_order_double(double value)
{
    uint64_t bits, sign = (uint64_t)1 << 63;
    memcpy(&bits, &value, 8);
    return bits & sign ? 0 - (bits & (sign - 1)) : bits;
}

typedef struct {
    uint64_t key;      /* of stochastic rounding */
    uint64_t position; /* of the chunk's first element in its tensor */
    int stochastic;
    int let_through;   /* NaN and infinity of an input become theta1's value instead of an error */
    int tally;         /* whether it is measured what became of the elements */
} Rounding;

typedef struct {
    int64_t differing, swallowed, bad;
    double along, squared;
} Step;

typedef struct {
    int64_t equal, one_ulp, bad;
    double squared, squared_initial, squared_aligned;
} Distance;

/* Element i is added in lane i % 32 of a double, so that the instruction set does not change a bit of the sum. */
INLINE double sum_of_products(const double *one, const double *other)
{
    Lanes lanes[8] = {0};
    for (int i = 0; i < BLOCK; i += 32)
        for (int part = 0; part < 8; part++)
            lanes[part] += *(const Lanes *)(one + i + 4 * part) * *(const Lanes *)(other + i + 4 * part);
    Lanes all = ((lanes[0] + lanes[1]) + (lanes[2] + lanes[3])) + ((lanes[4] + lanes[5]) + (lanes[6] + lanes[7]));
    return (all[0] + all[1]) + (all[2] + all[3]);
}

#define REAL float
#define WORD uint32_t
#define INFINITE 0x7f800000u
#define FMA __builtin_fmaf
#define NAME(name) name##_float
#include "_kernel_block.h"
#undef REAL
#undef WORD
#undef INFINITE
#undef FMA
#undef NAME

#define REAL double
#define WORD uint64_t
#define INFINITE 0x7ff0000000000000u
#define FMA __builtin_fma
#define NAME(name) name##_double
#include "_kernel_block.h"

/* ---- Python ---- */

static const int SIZES[] = {2, 2, 4, 8};

/* A chunk as Python gives it: contiguous bytes and the number of their dtype. */
static Py_ssize_t take(PyObject *object, int dtype, int writable, Py_buffer *view)
{
    if (dtype < BF16 || dtype > F64) {
        PyErr_Format(PyExc_ValueError, "no such dtype: %d", dtype);
        return -1;
    }
    if (PyObject_GetBuffer(object, view, writable ? PyBUF_WRITABLE : PyBUF_SIMPLE) < 0)
        return -1;
    if (view->len % SIZES[dtype] || (uintptr_t)view->buf % (uintptr_t)SIZES[dtype]) {
        PyBuffer_Release(view);
        PyErr_SetString(PyExc_ValueError, "a chunk is not a whole number of aligned elements");
        return -1;
    }
    return view->len / SIZES[dtype];
}

static PyObject *py_step(PyObject *self, PyObject *args)
{
    PyObject *objects[3];
    int dtypes[3], stochastic, let_through, tally;
    double alpha;
    unsigned long long key, position;
    (void)self;
    if (!PyArg_ParseTuple(args, "OiOiOidpKKpp", &objects[0], &dtypes[0], &objects[1], &dtypes[1], &objects[2],
                          &dtypes[2], &alpha, &stochastic, &key, &position, &let_through, &tally))
        return NULL;
    Py_buffer views[3];
    Py_ssize_t counts[3];
    for (int side = 0; side < 3; side++) {
        counts[side] = take(objects[side], dtypes[side], side == 2, &views[side]);
        if (counts[side] < 0 || counts[side] != counts[0]) {
            for (int taken = 0; taken < side + (counts[side] >= 0); taken++)
                PyBuffer_Release(&views[taken]);
            if (!PyErr_Occurred())
                PyErr_SetString(PyExc_ValueError, "chunks of different lengths");
            return NULL;
        }
    }
    Rounding rounding = {key, position, stochastic, let_through, tally};
    Step found;
    int wide = dtypes[0] == F64 || dtypes[1] == F64 || dtypes[2] == F64;
    Py_BEGIN_ALLOW_THREADS
    found = wide ? step_double(views[0].buf, dtypes[0], views[1].buf, dtypes[1], views[2].buf, dtypes[2], counts[0],
                               alpha, rounding)
                 : step_float(views[0].buf, dtypes[0], views[1].buf, dtypes[1], views[2].buf, dtypes[2], counts[0],
                              (float)alpha, rounding);
    Py_END_ALLOW_THREADS
    for (int side = 0; side < 3; side++)
        PyBuffer_Release(&views[side]);
    return Py_BuildValue("LLddLn", (long long)found.differing, (long long)found.swallowed, found.along, found.squared,
                         (long long)found.bad, counts[0]);
}

static PyObject *py_distance(PyObject *self, PyObject *args)
{
    PyObject *objects[2];
    int dtypes[2];
    (void)self;
    if (!PyArg_ParseTuple(args, "OiOi", &objects[0], &dtypes[0], &objects[1], &dtypes[1]))
        return NULL;
    Py_buffer views[2];
    Py_ssize_t count = take(objects[0], dtypes[0], 0, &views[0]);
    if (count < 0)
        return NULL;
    Py_ssize_t other = take(objects[1], dtypes[1], 0, &views[1]);
    if (other != count) {
        PyBuffer_Release(&views[0]);
        if (other >= 0) {
            PyBuffer_Release(&views[1]);
            PyErr_SetString(PyExc_ValueError, "chunks of different lengths");
        }
        return NULL;
    }
    Distance found;
    int wide = dtypes[0] == F64 || dtypes[1] == F64;
    Py_BEGIN_ALLOW_THREADS
    found = wide ? distance_double(views[0].buf, dtypes[0], views[1].buf, dtypes[1], count)
                 : distance_float(views[0].buf, dtypes[0], views[1].buf, dtypes[1], count);
    Py_END_ALLOW_THREADS
    PyBuffer_Release(&views[0]);
    PyBuffer_Release(&views[1]);
    return Py_BuildValue("LLdddLn", (long long)found.equal, (long long)found.one_ulp, found.squared,
                         found.squared_initial, found.squared_aligned, (long long)found.bad, count);
}

static PyMethodDef METHODS[] = {
    {"step", py_step, METH_VARARGS, "A step along the direction; see kernel.py"},
    {"distance", py_distance, METH_VARARGS, "How far two chunks lie apart; see kernel.py"},
    {NULL, NULL, 0, NULL},
};

static PyModuleDef MODULE = {PyModuleDef_HEAD_INIT, "_kernel", NULL, 0, METHODS, NULL, NULL, NULL, NULL};

PyMODINIT_FUNC PyInit__kernel(void) { return PyModuleDef_Init(&MODULE); }
