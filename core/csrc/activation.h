// Activations and their derivatives, on vectors.
#pragma once

#include "elementwise.h"
#include "tensor.h"
#include "vec.h"

namespace geovit {

enum class Activation { none, relu, leaky_relu, gelu, silu };  // in the order of the names in Python

// The standard normal distribution and its density. Abramowitz and Stegun, 7.1.26: the tail is a polynomial in
// t = 1 / (1 + p |x|) times exp(-x^2 / 2), to 7.5e-8 absolute. The tail is not taken as a difference from 1, so that it keeps
// its digits.
template <class F>
struct Normal {
    F distribution, density;
};

template <class F>
GEOVIT_INLINE Normal<F> normal(F x) {
    using Int = VecInt<width_of<F>>;
    const F size = bit_cast<F>(bit_cast<Int>(x) & 0x7fffffff);
    const F t = 1.0f / (1.0f + 0.231641888f * size);  // p = 0.3275911 / sqrt(2)
    const F bell = exp2(-0.721347520444481704f * x * x);  // log2(e) / 2
    F tail = fill<F>(0.5307027145f);  // half of the published coefficients
    tail = tail * t - 0.7265760135f;
    tail = tail * t + 0.7107068705f;
    tail = tail * t - 0.142248368f;
    tail = tail * t + 0.127414796f;
    tail = tail * t * bell;
    return {x < 0.0f ? tail : 1.0f - tail, 0.398942280401432678f * bell};
}

template <Activation kind, class F>
GEOVIT_INLINE F activate(F x, float slope) {
    if constexpr (kind == Activation::relu) return x < 0.0f ? F{} : x;  // NaN stays NaN
    if constexpr (kind == Activation::leaky_relu) return x < 0.0f ? slope * x : x;
    if constexpr (kind == Activation::gelu) return x * normal(x).distribution;
    if constexpr (kind == Activation::silu) return x * sigmoid(x);
    return x;
}

// The derivative at x; at a kink that of the negative side, as PyTorch has it.
template <Activation kind, class F>
GEOVIT_INLINE F activation_slope(F x, float slope) {
    if constexpr (kind == Activation::relu) return x > 0.0f ? fill<F>(1.0f) : F{};
    if constexpr (kind == Activation::leaky_relu) return x > 0.0f ? fill<F>(1.0f) : fill<F>(slope);
    if constexpr (kind == Activation::gelu) {
        const Normal<F> n = normal(x);
        return n.distribution + x * n.density;
    }
    if constexpr (kind == Activation::silu) {
        const F s = sigmoid(x);
        return s * (1.0f + x * (1.0f - s));
    }
    return fill<F>(1.0f);
}

template <Activation kind>
struct ActivationTag {
    static constexpr Activation value = kind;
};

// Calls `task(ActivationTag<kind>{})`.
template <class Task>
void with_activation(int64_t kind, const char* op, const Task& task) {
    switch (static_cast<Activation>(kind)) {
        case Activation::none:
            return task(ActivationTag<Activation::none>{});
        case Activation::relu:
            return task(ActivationTag<Activation::relu>{});
        case Activation::leaky_relu:
            return task(ActivationTag<Activation::leaky_relu>{});
        case Activation::gelu:
            return task(ActivationTag<Activation::gelu>{});
        case Activation::silu:
            return task(ActivationTag<Activation::silu>{});
    }
    STD_TORCH_CHECK(false, op, ": unknown activation");
}

}  // namespace geovit
