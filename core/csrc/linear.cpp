// act(x W^T + b): the product of many rows (tokens) with a small matrix.
//
// W is laid out in panels of a few vectors of outputs, in the order in which the register tiles of gemm.h read it: at each call, so
// that weights that learn never leave a stale copy behind. A block of rows is multiplied with one panel after the other, and its sums
// are near when the activation is applied.

#include <optional>

#include "activation.h"
#include "channels.h"
#include "gemm.h"
#include "gemm_bfloat16.h"
#include "memory.h"
#include "tiles.h"

namespace geovit {
namespace {

using tiled::Buffer;

constexpr const char* op = "geovit::linear";
constexpr int64_t rows_at_once = 48;  // a multiple of all register tiles
constexpr int64_t panel = 2;           // vectors; the last panel may have one

struct Problem {
    int64_t rows, in, out, padded;  // padded: outputs, to whole vectors
    const float *x, *weight, *bias, *panels;
    float* y;
    float slope;
};

// Panels from vector `begin` to `end` of the outputs.
struct Pack {
    template <int Width>
    static GEOVIT_INLINE void run(const Problem* problem, int64_t begin, int64_t end, float* panels) {
        using F = Vec<Width>;
        const Problem& p = *problem;
        const int64_t all = p.padded / Width;
        for (int64_t vector = begin; vector < end; ++vector) {
            const int64_t first = vector / panel * panel, o = vector * Width;
            const int64_t row = (all - first < panel ? all - first : panel) * Width;
            float* const to = panels + first * Width * p.in + (vector - first) * Width;
            int64_t c = 0;
            if (o + Width <= p.out)
                for (; c + Width <= p.in; c += Width) {
                    F block[Width];
                    GEOVIT_UNROLL
                    for (int k = 0; k < Width; ++k) block[k] = load_vec<F>(p.weight + (o + k) * p.in + c);
                    transpose_blocks<Width / 2>(block);
                    GEOVIT_UNROLL
                    for (int k = 0; k < Width; ++k) store_vec(to + (c + k) * row, block[k]);
                }
            for (; c < p.in; ++c)
                for (int64_t lane = 0; lane < Width; ++lane)
                    to[c * row + lane] = o + lane < p.out ? p.weight[(o + lane) * p.in + c] : 0.0f;
        }
    }
};

template <Activation kind>
struct Map {
    template <int Width>
    static GEOVIT_INLINE void run(const Problem* problem, int64_t begin, int64_t end, float* sums) {
        using F = Vec<Width>;
        const Problem& p = *problem;
        const int64_t all = p.padded / Width, whole = p.out / Width / panel * panel;  // vectors of panels that fit
        for (int64_t row = begin; row < end; row += rows_at_once) {
            const int64_t count = end - row < rows_at_once ? end - row : rows_at_once;
            float* const to = p.y + row * p.out;
            for (int64_t vector = 0; vector < whole; vector += panel) {
                const int64_t o = vector * Width;
                multiply<Width>({count, panel, p.in, p.x + row * p.in, p.in, 1, p.panels + o * p.in, panel * Width, p.bias + o, 0,
                                 to + o, p.out});
            }
            if (whole < all) {  // the last panel ends beyond the row
                const int64_t o = whole * Width, columns = p.padded - o, inside = p.out - o;
                multiply<Width>({count, all - whole, p.in, p.x + row * p.in, p.in, 1, p.panels + o * p.in, columns, p.bias + o, 0, sums,
                                 columns});
                for (int64_t i = 0; i < count; ++i)
                    for (int64_t at = 0; at < inside; at += Width)
                        store_first(to + i * p.out + o + at, load_vec<F>(sums + i * columns + at), inside - at);
            }
            if constexpr (kind != Activation::none) {
                int64_t i = 0;
                for (; i + Width <= count * p.out; i += Width) store_vec(to + i, activate<kind>(load_vec<F>(to + i), p.slope));
                if (i < count * p.out)
                    store_first(to + i, activate<kind>(load_first<F>(to + i, count * p.out - i), p.slope), count * p.out - i);
            }
        }
    }
};

// The same in bfloat16, where products of it can be executed. x has pairs of numbers, and so have the panels: Pack lays out pairs as
// it does floats, which it only moves.
template <Activation kind>
struct MapPairs {
    template <int Width>
    static GEOVIT_INLINE void run(const Problem* problem, const BFloat16* x, BFloat16* y, int64_t begin, int64_t end, float* sums) {
        using F = Vec<Width>;
        const Problem& p = *problem;
        const int64_t all = p.padded / Width, in = 2 * p.in;
        const uint32_t* const panels = reinterpret_cast<const uint32_t*>(p.panels);
        for (int64_t row = begin; row < end; row += rows_at_once) {
            const int64_t count = end - row < rows_at_once ? end - row : rows_at_once;
            for (int64_t vector = 0; vector < all; vector += panel) {
                const int64_t o = vector * Width, vectors = all - vector < panel ? all - vector : panel;
                multiply_pairs<Width>({count, vectors, p.in, x + row * in, in, panels + o * p.in, vectors * Width, p.bias + o, 0,
                                       sums + o, p.padded});
            }
            for (int64_t i = 0; i < count; ++i) {
                const float* const from = sums + i * p.padded;
                BFloat16* const to = y + (row + i) * p.out;
                for (int64_t o = 0; o < p.out; o += Width) {  // of at least one vector; the last may overlap the one before
                    const int64_t at = o + Width <= p.out ? o : p.out - Width;
                    store_as(to + at, activate<kind>(load_vec<F>(from + at), p.slope));
                }
            }
        }
    }
};

Tensor linear(const Tensor& x_, const Tensor& weight_, const std::optional<Tensor>& bias_, int64_t activation, double slope) {
    STD_TORCH_CHECK(x_.dim() == 2 && weight_.dim() == 2, op, ": x or weight has not 2 axes");
    Problem p{};
    p.rows = x_.size(0), p.in = x_.size(1), p.out = weight_.size(0);
    const auto dtype = x_.scalar_type();
    const bool by_pairs = dtype == ScalarType::BFloat16;
    const Tensor x = checked(x_, {p.rows, p.in}, op, "x", by_pairs ? dtype : ScalarType::Float);
    const Tensor weight = checked(weight_, {p.out, p.in}, op, "weight", x.scalar_type());
    Tensor given;
    if (bias_) given = checked(*bias_, {p.out}, op, "bias", x.scalar_type());
    const int64_t lanes = width();
    STD_TORCH_CHECK(!by_pairs || (dot_bfloat16() && p.in % 2 == 0), op, ": no products of bfloat16, or an odd number of channels");
    STD_TORCH_CHECK(p.out >= lanes, op, ": fewer outputs than a vector of this CPU holds");
    const Tensor out = result(x, {p.rows, p.out});
    if (by_pairs) p.in /= 2;
    p.padded = (p.out + lanes - 1) / lanes * lanes;
    const Buffer panels(p.in * p.padded), bias(p.padded);
    std::fill_n(bias.data(), p.padded, 0.0f);
    for (int64_t o = 0; bias_ && o < p.out; ++o) bias.data()[o] = by_pairs ? load(read<BFloat16>(given)[o]) : read(given)[o];
    p.x = read(x), p.weight = read(weight), p.bias = bias.data(), p.panels = panels.data();
    p.y = write(out), p.slope = static_cast<float>(slope);
    torch::stable::parallel_for(0, p.padded / lanes, 16384 / (p.in * lanes + 1) + 1, [&](int64_t begin, int64_t end) {
        dispatch<Pack>(static_cast<const Problem*>(&p), begin, end, panels.data());
    });
    const int64_t blocks = (p.rows + rows_at_once - 1) / rows_at_once;
    with_activation(activation, op, [&](auto tag) {
        torch::stable::parallel_for(0, blocks, 1, [&](int64_t begin, int64_t end) {
            const Buffer sums(rows_at_once * p.padded);
            if (by_pairs)
                return dispatch<MapPairs<decltype(tag)::value>>(static_cast<const Problem*>(&p), read<BFloat16>(x), write<BFloat16>(out),
                                                                begin * rows_at_once, std::min(end * rows_at_once, p.rows), sums.data());
            dispatch<Map<decltype(tag)::value>>(static_cast<const Problem*>(&p), begin * rows_at_once,
                                                std::min(end * rows_at_once, p.rows), sums.data());
        });
    });
    return out;
}

}  // namespace
}  // namespace geovit

STABLE_TORCH_LIBRARY_FRAGMENT(geovit, library) {
    library.def("linear(Tensor x, Tensor weight, Tensor? bias, int activation, float slope) -> Tensor");
}

STABLE_TORCH_LIBRARY_IMPL(geovit, CPU, library) { library.impl("linear", TORCH_BOX(&geovit::linear)); }
