// Scalar building blocks, branch-free so that the compiler turns loops over them into vector code.
#pragma once

#include <cstdint>

#include "vec.h"

namespace geovit {

// The bits of a bfloat16. Arithmetic is done in float only.
struct BFloat16 {
    uint16_t bits;
};

GEOVIT_INLINE float load(float x) { return x; }
GEOVIT_INLINE float load(BFloat16 x) { return bit_cast<float>(static_cast<uint32_t>(x.bits) << 16); }

GEOVIT_INLINE void store(float& to, float x) { to = x; }
GEOVIT_INLINE void store(BFloat16& to, float x) {
    const uint32_t bits = bit_cast<uint32_t>(x);
    const uint32_t rounded = (bits + 0x7fff + ((bits >> 16) & 1)) >> 16;  // to nearest, ties to even
    to.bits = static_cast<uint16_t>(x == x ? rounded : 0x7fc0);           // rounding could carry a NaN into infinity
}

// 2^x for a float or a vector. x = n + r with |r| <= 1/2; 2^r by its Taylor polynomial of degree 6 (exact to 2e-8 relative), 2^n by
// adding n to the exponent. Exactly 0 below -127, NaN stays NaN; garbage above 127: clamp where that can happen.
template <class F>
GEOVIT_INLINE F exp2(F x) {
    using Int = std::conditional_t<std::is_same_v<F, float>, uint32_t, VecInt<width_of<F>>>;
    constexpr float round_magic = 12582912.0f;  // 1.5 * 2^23: adding it leaves the nearest integer in the low bits
    x = maximum(fill<F>(-127.0f), x);
    const F shifted = x + round_magic;
    const F r = x - (shifted - round_magic);
    F p = fill<F>(1.5403530393381609954e-4f);
    p = p * r + 1.3333558146428443423e-3f;
    p = p * r + 9.6181291076284771619e-3f;
    p = p * r + 5.5504108664821579953e-2f;
    p = p * r + 2.4022650695910071233e-1f;
    p = p * r + 6.9314718055994530942e-1f;
    p = p * r + 1.0f;
    return bit_cast<F>(bit_cast<Int>(p) + (bit_cast<Int>(shifted) << 23));
}

// exp(x) = 2^n exp(r) with n = round(x / ln 2) and |r| <= ln(2) / 2, where the Taylor polynomial of degree 7 is exact to 5e-9
// relative. Measured error: 1.3 units in the last place. Infinite above 88.3, a little early; constant below -87, at 2e-38; NaN
// stays NaN.
template <class F>
GEOVIT_INLINE F exp(F x) {
    using Int = std::conditional_t<std::is_same_v<F, float>, uint32_t, VecInt<width_of<F>>>;
    constexpr float log2e = 1.44269504088896341f;
    constexpr float ln2_high = 0.693359375f;  // few mantissa bits, so that n * ln2_high is exact
    constexpr float ln2_low = -2.12194440054690583e-4f;
    constexpr float round_magic = 12582912.0f;  // 1.5 * 2^23: adding it leaves the nearest integer in the low bits
    x = x < fill<F>(-87.0f) ? fill<F>(-87.0f) : x;
    x = x > fill<F>(89.0f) ? fill<F>(89.0f) : x;
    const F shifted = x * log2e + round_magic;
    const F n = shifted - round_magic;
    const F r = (x - n * ln2_high) - n * ln2_low;
    F p = fill<F>(1.0f / 5040);
    p = p * r + 1.0f / 720;
    p = p * r + 1.0f / 120;
    p = p * r + 1.0f / 24;
    p = p * r + 1.0f / 6;
    p = p * r + 1.0f / 2;
    p = p * r + 1.0f;
    p = p * r + 1.0f;
    const Int exponent = (bit_cast<Int>(shifted) - bit_cast<uint32_t>(round_magic) + 127) << 23;
    return p * bit_cast<F>(exponent);
}

template <class F>
GEOVIT_INLINE F sigmoid(F x) {
    return 1.0f / (1.0f + exp(-x));
}

}  // namespace geovit
