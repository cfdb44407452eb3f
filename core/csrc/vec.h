// Vectors of floats by the compilers' own extension: GCC and Clang turn its operators into instructions of whatever target the
// enclosing function has, so one kernel body serves every instruction set and no intrinsic is written.
//
// Everything here is always inlined: a function of its own would be compiled for the baseline, and its vectors passed in memory.
#pragma once

#include <cstdint>
#include <cstring>
#include <type_traits>
#include <utility>

#include "dispatch.h"

// Before a loop of constant length: arrays live in registers only where every index of theirs is a constant.
#if defined(__clang__)
#define GEOVIT_UNROLL _Pragma("clang loop unroll(full)")
#else
#define GEOVIT_UNROLL _Pragma("GCC unroll 32")
#endif

namespace geovit {

template <int Width>
struct VecTypes {
    typedef float Float __attribute__((vector_size(4 * Width)));
    typedef uint32_t Int __attribute__((vector_size(4 * Width)));
};
template <int Width>
using Vec = typename VecTypes<Width>::Float;
template <int Width>
using VecInt = typename VecTypes<Width>::Int;

template <class F>
constexpr int width_of = sizeof(F) / sizeof(float);

template <class To, class From>
GEOVIT_INLINE To bit_cast(From from) {
    static_assert(sizeof(To) == sizeof(From));
    To to;
    std::memcpy(&to, &from, sizeof(To));
    return to;
}

// From memory, of any alignment.
template <class F>
GEOVIT_INLINE F load_vec(const float* from) {
    F x;
    std::memcpy(&x, from, sizeof(F));
    return x;
}

template <class F>
GEOVIT_INLINE void store_vec(float* to, F x) {
    std::memcpy(to, &x, sizeof(F));
}

// The first `count` entries, zeros after them; `count` may exceed the width.
template <class F>
GEOVIT_INLINE F load_first(const float* from, int64_t count) {
    if (count >= width_of<F>) return load_vec<F>(from);
    F x{};
    for (int i = 0; i < width_of<F>; ++i)
        if (i < count) x[i] = from[i];
    return x;
}

template <class F>
GEOVIT_INLINE void store_first(float* to, F x, int64_t count) {
    if (count >= width_of<F>) return store_vec(to, x);
    for (int i = 0; i < width_of<F>; ++i)
        if (i < count) to[i] = x[i];
}

// A float or a vector of which every entry is x.
template <class F>
GEOVIT_INLINE F fill(float x) {
    if constexpr (std::is_same_v<F, float>)
        return x;
    else
        return F{} + x;
}

template <class F>
GEOVIT_INLINE F maximum(F a, F b) {
    return a > b ? a : b;
}

template <class F>
GEOVIT_INLINE F minimum(F a, F b) {
    return a < b ? a : b;
}

// x itself; the compiler cannot contract a product across it into a fused multiply-add. For loops that wait for the units of these
// and leave those of plain additions idle, and where two forms of a loop must round alike.
template <class F>
GEOVIT_INLINE F rounded(F x) {
#if defined(__x86_64__)
    asm("" : "+v"(x));
#elif defined(__aarch64__)
    asm("" : "+w"(x));
#endif
    return x;
}

// Entries of a and, counted on, of b.
template <int... I, class F>
GEOVIT_INLINE F shuffle(F a, F b) {
#if defined(__clang__)
    return __builtin_shufflevector(a, b, I...);
#else
    return __builtin_shuffle(a, b, VecInt<width_of<F>>{I...});
#endif
}

// Every entry joined with the one `Half` on, around a ring.
template <int Half, class F, int... I>
GEOVIT_INLINE F rotate(F x, std::integer_sequence<int, I...>) {
    return shuffle<((I + Half) % width_of<F>)...>(x, x);
}

// Over the entries of a vector, by halves, so that the order of additions depends on the width alone.
template <class F, int Half = width_of<F> / 2>
GEOVIT_INLINE float sum(F x) {
    x += rotate<Half>(x, std::make_integer_sequence<int, width_of<F>>());
    if constexpr (Half > 1)
        return sum<F, Half / 2>(x);
    else
        return x[0];
}

template <class F, int Half = width_of<F> / 2>
GEOVIT_INLINE float largest(F x) {
    x = maximum(x, rotate<Half>(x, std::make_integer_sequence<int, width_of<F>>()));
    if constexpr (Half > 1)
        return largest<F, Half / 2>(x);
    else
        return x[0];
}

}  // namespace geovit
