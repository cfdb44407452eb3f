// Small products of matrices in bfloat16 with sums in float32, by an instruction that multiplies two pairs and adds both (vdpbf16ps of
// AVX512-BF16): twice the multiplications of float32. The rest of a kernel is that of gemm.h.
//
// The instruction is written out, as the one exception: no operator of vectors stands for it, and a target of its own would keep the
// compiler from inlining what is compiled for AVX-512 alone. `dot_bfloat16` of dispatch.h says whether it can be executed.
#pragma once

#include <algorithm>
#include <cstdint>

#include "elementwise.h"
#include "gemm.h"

namespace geovit {

// to = from + a b. Rows of `a` are pairs of numbers side by side; row k of `b` has pair k of every column, and `vectors` * 16 columns.
// Strides of `a` are in numbers, of `b` in pairs, and the others in floats. `from` may repeat one row (stride 0), or be `to`.
struct PairProduct {
    int64_t rows, vectors, pairs;
    const BFloat16* a;
    int64_t a_row;
    const uint32_t* b;
    int64_t b_row;
    const float* from;
    int64_t from_row;
    float* to;
    int64_t to_row;
};

#if GEOVIT_DOT_BFLOAT16
namespace pairs {

using F = Vec<16>;
using Pairs = VecInt<16>;

GEOVIT_INLINE Pairs repeated(const BFloat16* from) {
    const struct Pair {
        BFloat16 numbers[2];
    }* const pair = reinterpret_cast<const Pair*>(from);
    Pairs x;
    asm("vpbroadcastd %1, %0" : "=v"(x) : "m"(*pair));
    return x;
}

GEOVIT_INLINE Pairs loaded(const uint32_t* from) {
    Pairs x;
    std::memcpy(&x, from, sizeof(x));
    return x;
}

// By value: what an array's entry is to the instruction, the compiler would keep in memory.
GEOVIT_INLINE F plus_products(F sum, Pairs a, Pairs b) {
    asm("vdpbf16ps %2, %1, %0" : "+v"(sum) : "v"(a), "v"(b));
    return sum;
}

template <int Rows, int Vectors>
GEOVIT_INLINE void multiply_tile(const PairProduct& p, int64_t row, int64_t vector) {
    F sums[Rows][Vectors];
    const float* const from = p.from + row * p.from_row + vector * 16;
    GEOVIT_UNROLL
    for (int i = 0; i < Rows; ++i)
        GEOVIT_UNROLL
        for (int j = 0; j < Vectors; ++j) sums[i][j] = load_vec<F>(from + i * p.from_row + j * 16);
    constexpr int stems = (Rows + 2) / 3;
    const int64_t a_row = p.a_row;
    const BFloat16* a[stems];  // as in gemm.h
    GEOVIT_UNROLL
    for (int i = 0; i < stems; ++i) a[i] = p.a + (row + 3 * i) * a_row;
    const uint32_t* b = p.b + vector * 16;
    for (int64_t k = p.pairs; k > 0; --k, b += p.b_row) {
        Pairs right[Vectors];
        GEOVIT_UNROLL
        for (int j = 0; j < Vectors; ++j) right[j] = loaded(b + j * 16);
        GEOVIT_UNROLL
        for (int i = 0; i < Rows; ++i) {
            const Pairs left = repeated(a[i / 3] + (i % 3) * a_row);
            GEOVIT_UNROLL
            for (int j = 0; j < Vectors; ++j) sums[i][j] = plus_products(sums[i][j], left, right[j]);
        }
        GEOVIT_UNROLL
        for (int i = 0; i < stems; ++i) a[i] += 2;
    }
    float* const to = p.to + row * p.to_row + vector * 16;
    GEOVIT_UNROLL
    for (int i = 0; i < Rows; ++i)
        GEOVIT_UNROLL
        for (int j = 0; j < Vectors; ++j) store_vec(to + i * p.to_row + j * 16, sums[i][j]);
}

template <int Rows, int Vectors>
GEOVIT_INLINE void multiply_rows(const PairProduct& p, int64_t row, int64_t count, int64_t vector) {
    if constexpr (Rows == 1)
        multiply_tile<1, Vectors>(p, row, vector);
    else if (count == Rows)
        multiply_tile<Rows, Vectors>(p, row, vector);
    else
        multiply_rows<Rows - 1, Vectors>(p, row, count, vector);
}

template <int Vectors>
GEOVIT_INLINE void multiply_columns(const PairProduct& p, int64_t vector, int64_t count) {
    if (Vectors == 1 || count == Vectors) {
        constexpr int most = std::min(12, 24 / Vectors);  // sums in three quarters of the registers
        int64_t groups = (p.rows + most - 1) / most;
        for (int64_t row = 0; groups > 0; --groups) {
            const int64_t rows = (p.rows - row + groups - 1) / groups;
            multiply_rows<most, Vectors>(p, row, rows, vector);
            row += rows;
        }
    } else if constexpr (Vectors > 1) {
        multiply_columns<Vectors - 1>(p, vector, count);
    }
}

}  // namespace pairs
#endif

struct MultiplyPairs {
    template <int Width>
    static GEOVIT_INLINE void run(const PairProduct* p) {
#if GEOVIT_DOT_BFLOAT16
        if constexpr (Width == 16)
            for (int64_t vector = 0; vector < p->vectors; vector += 4)
                pairs::multiply_columns<4>(*p, vector, std::min<int64_t>(4, p->vectors - vector));
#else
        (void)p;
#endif
    }
};

// The product, as a function of its own; only where `dot_bfloat16` says so.
template <int Width>
GEOVIT_INLINE void multiply_pairs(const PairProduct& p) {
    call<Width, MultiplyPairs>(&p);
}

}  // namespace geovit
