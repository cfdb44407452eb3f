// Small matrix products, by register tiles: the sizes are those of an attention tile, and everything lies in the nearest caches.
#pragma once

#include <algorithm>
#include <cstdint>
#include <utility>

#include "vec.h"

namespace geovit {

// to = from + a b. `to` and `b` have `vectors * Width` columns, padded in memory. Strides are in floats; a stride of each axis
// lets `a` be a transpose. `from` may be `to` (accumulate), null (zeros), or repeat one row (stride 0).
struct Product {
    int64_t rows, vectors, depth;
    const float* a;
    int64_t a_row, a_column;
    const float* b;
    int64_t b_row;
    const float* from;
    int64_t from_row;
    float* to;
    int64_t to_row;
};

#if defined(__aarch64__)
template <int Width>
constexpr int registers = 32;
#else
template <int Width>
constexpr int registers = Width == 16 ? 32 : 16;
#endif

// A tile of sums takes three quarters of the registers, the rest holds a row of b and an entry of a. Twelve sums at least
// are under way then, enough for two units with a latency of four.
template <int Width>
constexpr int most_vectors = registers<Width> == 32 ? 4 : 2;
template <int Width, int Vectors>
constexpr int most_rows = std::min(12, registers<Width> * 3 / 4 / Vectors);

template <int Width, int Rows, int Vectors>
GEOVIT_INLINE void multiply_tile(const Product& p, int64_t row, int64_t vector) {
    using F = Vec<Width>;
    constexpr int stems = (Rows + 2) / 3;
    const int64_t a_row = p.a_row, a_column = p.a_column, b_row = p.b_row;
    const float* a[stems];  // every third row: the next two lie one and two strides on, which an address can say
    GEOVIT_UNROLL
    for (int i = 0; i < stems; ++i) a[i] = p.a + (row + 3 * i) * a_row;
    const float* b = p.b + vector * Width;
    F sums[Rows][Vectors];
    if (p.from != nullptr) {
        const float* from = p.from + row * p.from_row + vector * Width;
        GEOVIT_UNROLL
        for (int i = 0; i < Rows; ++i)
            GEOVIT_UNROLL
            for (int j = 0; j < Vectors; ++j) sums[i][j] = load_vec<F>(from + i * p.from_row + j * Width);
    } else {
        GEOVIT_UNROLL
        for (int i = 0; i < Rows; ++i)
            GEOVIT_UNROLL
            for (int j = 0; j < Vectors; ++j) sums[i][j] = F{};
    }
    for (int64_t k = p.depth; k > 0; --k) {
        F right[Vectors];
        GEOVIT_UNROLL
        for (int j = 0; j < Vectors; ++j) right[j] = load_vec<F>(b + j * Width);
        GEOVIT_UNROLL
        for (int i = 0; i < Rows; ++i) {
            const float left = a[i / 3][(i % 3) * a_row];  // times a vector: the one spelling that GCC 12 turns into a broadcast
            GEOVIT_UNROLL
            for (int j = 0; j < Vectors; ++j) sums[i][j] += left * right[j];
        }
        GEOVIT_UNROLL
        for (int i = 0; i < stems; ++i) a[i] += a_column;
        b += b_row;
    }
    float* to = p.to + row * p.to_row + vector * Width;
    GEOVIT_UNROLL
    for (int i = 0; i < Rows; ++i)
        GEOVIT_UNROLL
        for (int j = 0; j < Vectors; ++j) store_vec(to + i * p.to_row + j * Width, sums[i][j]);
}

// Turns a number of rows into a constant, from Rows down.
template <int Width, int Rows, int Vectors>
GEOVIT_INLINE void multiply_rows(const Product& p, int64_t row, int64_t count, int64_t vector) {
    if constexpr (Rows == 1)
        multiply_tile<Width, 1, Vectors>(p, row, vector);
    else if (count == Rows)
        multiply_tile<Width, Rows, Vectors>(p, row, vector);
    else
        multiply_rows<Width, Rows - 1, Vectors>(p, row, count, vector);
}

template <int Width, int Vectors>
GEOVIT_INLINE void multiply_columns(const Product& p, int64_t vector, int64_t count) {
    if (Vectors == 1 || count == Vectors) {
        // Groups of almost one size: a last one of a single row would leave the units waiting.
        constexpr int most = most_rows<Width, Vectors>;
        int64_t groups = (p.rows + most - 1) / most;
        for (int64_t row = 0; groups > 0; --groups) {
            const int64_t rows = (p.rows - row + groups - 1) / groups;
            multiply_rows<Width, most, Vectors>(p, row, rows, vector);
            row += rows;
        }
    } else if constexpr (Vectors > 1) {
        multiply_columns<Width, Vectors - 1>(p, vector, count);
    }
}

struct Multiply {
    template <int Width>
    static GEOVIT_INLINE void run(const Product* p) {
        constexpr int most = most_vectors<Width>;
        int64_t groups = (p->vectors + most - 1) / most;
        for (int64_t vector = 0; groups > 0; --groups) {
            const int64_t vectors = (p->vectors - vector + groups - 1) / groups;
            multiply_columns<Width, most>(*p, vector, vectors);
            vector += vectors;
        }
    }
};

// A function of its own in each instruction set: inlined at every use, its many tiles would fill the instruction cache.
template <int Width>
GEOVIT_INLINE void multiply(const Product& product) {
    call<Width, Multiply>(&product);
}

// One stage of a transpose: of the square blocks of side 2 Side on the diagonal, change the off-diagonal quarters.
template <int Side, bool Lower, class F, int... I>
GEOVIT_INLINE F exchange(F upper, F lower, std::integer_sequence<int, I...>) {
    constexpr int width = width_of<F>;
    return Lower ? shuffle<((I & Side) ? width + I : I + Side)...>(upper, lower)
                 : shuffle<((I & Side) ? width + I - Side : I)...>(upper, lower);
}

template <int Side, class F>
GEOVIT_INLINE void transpose_blocks(F* rows) {
    constexpr int width = width_of<F>;
    GEOVIT_UNROLL
    for (int i = 0; i < width; ++i)
        if (!(i & Side)) {
            const F upper = rows[i], lower = rows[i + Side];
            rows[i] = exchange<Side, false>(upper, lower, std::make_integer_sequence<int, width>());
            rows[i + Side] = exchange<Side, true>(upper, lower, std::make_integer_sequence<int, width>());
        }
    if constexpr (Side > 1) transpose_blocks<Side / 2>(rows);
}

struct Largest {
    template <class F>
    GEOVIT_INLINE F operator()(F a, F b) const {
        return maximum(a, b);
    }
};

struct Sum {
    template <class F>
    GEOVIT_INLINE F operator()(F a, F b) const {
        return a + b;
    }
};

// As many reductions as a vector has entries: entry i is that of rows[i], which are overwritten. Halves are joined in the order of
// `sum` and `largest`, in a third of the instructions, and no result waits for the one before.
template <class Join, class F, int Side = width_of<F> / 2>
GEOVIT_INLINE F reduce_rows(F* rows) {
    GEOVIT_UNROLL
    for (int i = 0; i < Side; ++i) {
        const F upper = rows[i], lower = rows[i + Side];
        rows[i] = Join()(exchange<Side, false>(upper, lower, std::make_integer_sequence<int, width_of<F>>()),
                         exchange<Side, true>(upper, lower, std::make_integer_sequence<int, width_of<F>>()));
    }
    if constexpr (Side > 1)
        return reduce_rows<Join, F, Side / 2>(rows);
    else
        return rows[0];
}

// to (columns, rows) from `from` (rows, columns), both counts multiples of Width.
template <int Width>
GEOVIT_INLINE void transpose(const float* from, int64_t from_row, int64_t rows, int64_t columns, float* to, int64_t to_row) {
    using F = Vec<Width>;
    for (int64_t i = 0; i < rows; i += Width)
        for (int64_t j = 0; j < columns; j += Width) {
            F block[Width];
            GEOVIT_UNROLL
            for (int k = 0; k < Width; ++k) block[k] = load_vec<F>(from + (i + k) * from_row + j);
            transpose_blocks<Width / 2>(block);
            GEOVIT_UNROLL
            for (int k = 0; k < Width; ++k) store_vec(to + (j + k) * to_row + i, block[k]);
        }
}

}  // namespace geovit
