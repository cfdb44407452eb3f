// act(3 x 3 convolution + bias) of channels-last images with zeros outside, by Winograd's minimal filtering F(4 x 4, 3 x 3) (Lavin
// and Gray 2016, section 4): 36 multiplications for 16 outputs where the direct sum has 144.
//
// A tile of 6 x 6 inputs gives 4 x 4 outputs. On each axis inputs and kernel are taken as polynomials, evaluated at the points
// 0, a, -a, b, -b and infinity, multiplied there (summed over channels: a matrix product for each of the 36 pairs of points), and the
// outputs interpolated. a = 3/4 and b = 3/2 are exact in binary and lose a fourth of the digits that the usual 1 and 2 do.

#include <optional>

#include "activation.h"
#include "gemm.h"
#include "memory.h"
#include "tiles.h"

namespace geovit {
namespace {

using tiled::Buffer;

constexpr const char* op = "geovit::conv3x3";
constexpr int64_t points = 6, pairs = points * points, side = 4;
constexpr int64_t tiles_at_once = 32;  // of a block of work: few enough that their values at all points stay near
constexpr int64_t apart = 16;          // floats between matrices, so that the same entry of all does not fall into one set of a cache
constexpr float a1 = 0.75f, b1 = 1.5f, a2 = a1 * a1, b2 = b1 * b1, a3 = a2 * a1, b3 = b2 * b1;

struct Problem {
    int64_t images, height, width, in, out;        // sizes; in and out are channels
    int64_t in_row, out_row;                       // of the matrices: whole vectors
    const float *x, *weight, *bias, *zeros, *filters;
    float* y;
    float slope;

    int64_t down() const { return (height + side - 1) / side; }
    int64_t across() const { return (width + side - 1) / side; }
    int64_t tiles() const { return images * down() * across(); }
    int64_t filter() const { return in * out_row + apart; }
    int64_t values() const { return tiles_at_once * in_row + apart; }
    int64_t sums() const { return tiles_at_once * out_row + apart; }
};

// The polynomial of 3 coefficients, divided by what the interpolation asks for.
template <class F>
GEOVIT_INLINE void evaluate_filter(F g0, F g1, F g2, F* at) {
    constexpr float fa = 0.5f / (a2 * (a2 - b2)), fb = 0.5f / (b2 * (b2 - a2));
    const F even_a = (g0 + a2 * g2) * fa, odd_a = g1 * (a1 * fa), even_b = (g0 + b2 * g2) * fb, odd_b = g1 * (b1 * fb);
    at[0] = g0 * (1.0f / (a2 * b2));
    at[1] = even_a + odd_a, at[2] = even_a - odd_a, at[3] = even_b + odd_b, at[4] = even_b - odd_b;
    at[5] = g2;
}

template <class F>
GEOVIT_INLINE void evaluate_input(F d0, F d1, F d2, F d3, F d4, F d5, F* at) {
    const F even_a = d4 - b2 * d2, odd_a = a1 * (d3 - b2 * d1), even_b = d4 - a2 * d2, odd_b = b1 * (d3 - a2 * d1);
    at[0] = d4 - (a2 + b2) * d2 + (a2 * b2) * d0;
    at[1] = even_a + odd_a, at[2] = even_a - odd_a, at[3] = even_b + odd_b, at[4] = even_b - odd_b;
    at[5] = d5 - (a2 + b2) * d3 + (a2 * b2) * d1;
}

template <class F>
GEOVIT_INLINE void interpolate(F m0, F m1, F m2, F m3, F m4, F m5, F* y) {
    const F even_a = m1 + m2, odd_a = m1 - m2, even_b = m3 + m4, odd_b = m3 - m4;
    y[0] = m0 + even_a + even_b;
    y[1] = a1 * odd_a + b1 * odd_b;
    y[2] = a2 * even_a + b2 * even_b;
    y[3] = a3 * odd_a + b3 * odd_b + m5;
}

// Filters at all points, (pairs, in, out): of the channels in from `begin` to `end`.
struct Filters {
    template <int Width>
    static GEOVIT_INLINE void run(const Problem* problem, int64_t begin, int64_t end, float* to) {
        using F = Vec<Width>;
        const Problem& p = *problem;
        const int64_t distance = p.filter();
        for (int64_t c = begin; c < end; ++c)
            for (int64_t o = 0; o < p.out_row; o += Width) {
                float taps[9][Width];
                for (int64_t lane = 0; lane < Width; ++lane) {
                    const float* const from = p.weight + ((o + lane) * p.in + c) * 9;
                    for (int64_t tap = 0; tap < 9; ++tap) taps[tap][lane] = o + lane < p.out ? from[tap] : 0.0f;
                }
                F along[3][points], at[points];
                GEOVIT_UNROLL
                for (int j = 0; j < 3; ++j)
                    evaluate_filter(load_vec<F>(taps[j]), load_vec<F>(taps[3 + j]), load_vec<F>(taps[6 + j]), along[j]);
                GEOVIT_UNROLL
                for (int i = 0; i < points; ++i) {
                    evaluate_filter(along[0][i], along[1][i], along[2][i], at);
                    GEOVIT_UNROLL
                    for (int j = 0; j < points; ++j) store_vec(to + (i * points + j) * distance + c * p.out_row + o, at[j]);
                }
            }
    }
};

// Where tile number `tile` begins.
struct Corner {
    int64_t image, y, x;
    GEOVIT_INLINE Corner(const Problem& p, int64_t tile)
        : image(tile / (p.down() * p.across())), y(tile / p.across() % p.down() * side), x(tile % p.across() * side) {}
};

// One tile's inputs, at all points: to (pairs, ..., in).
template <int Width>
GEOVIT_INLINE void evaluate_tile(const Problem& p, int64_t tile, float* to) {
    using F = Vec<Width>;
    const Corner corner(p, tile);
    const int64_t distance = p.values();
    const float* from[pairs];
    for (int64_t i = 0; i < points; ++i)
        for (int64_t j = 0; j < points; ++j) {
            const int64_t y = corner.y + i - 1, x = corner.x + j - 1;
            const bool inside = 0 <= y && y < p.height && 0 <= x && x < p.width;
            from[i * points + j] = inside ? p.x + ((corner.image * p.height + y) * p.width + x) * p.in : p.zeros;
        }
    for (int64_t at = 0; at < p.in; at += Width) {
        const int64_t c = at + Width <= p.in ? at : p.in - Width;  // the last vector may overlap the one before
        F along[points][points], row[points];
        GEOVIT_UNROLL
        for (int j = 0; j < points; ++j)
            evaluate_input(load_vec<F>(from[j] + c), load_vec<F>(from[points + j] + c), load_vec<F>(from[2 * points + j] + c),
                           load_vec<F>(from[3 * points + j] + c), load_vec<F>(from[4 * points + j] + c),
                           load_vec<F>(from[5 * points + j] + c), along[j]);
        GEOVIT_UNROLL
        for (int i = 0; i < points; ++i) {
            evaluate_input(along[0][i], along[1][i], along[2][i], along[3][i], along[4][i], along[5][i], row);
            GEOVIT_UNROLL
            for (int j = 0; j < points; ++j) store_vec(to + (i * points + j) * distance + c, row[j]);
        }
    }
}

// One tile's outputs from their values at all points.
template <int Width, Activation kind>
GEOVIT_INLINE void interpolate_tile(const Problem& p, int64_t tile, const float* from) {
    using F = Vec<Width>;
    const Corner corner(p, tile);
    const int64_t distance = p.sums();
    const int64_t rows = p.height - corner.y, columns = p.width - corner.x;
    float* const to = p.y + ((corner.image * p.height + corner.y) * p.width + corner.x) * p.out;
    for (int64_t at = 0; at < p.out; at += Width) {
        const int64_t c = at + Width <= p.out ? at : p.out - Width;
        const F bias = p.bias == nullptr ? F{} : load_vec<F>(p.bias + c);
        F along[points][side], row[side];
        GEOVIT_UNROLL
        for (int j = 0; j < points; ++j) {
            const float* const m = from + j * distance + c;
            interpolate(load_vec<F>(m), load_vec<F>(m + points * distance), load_vec<F>(m + 2 * points * distance),
                        load_vec<F>(m + 3 * points * distance), load_vec<F>(m + 4 * points * distance),
                        load_vec<F>(m + 5 * points * distance), along[j]);
        }
        GEOVIT_UNROLL
        for (int i = 0; i < side; ++i) {
            interpolate(along[0][i], along[1][i], along[2][i], along[3][i], along[4][i], along[5][i], row);
            GEOVIT_UNROLL
            for (int j = 0; j < side; ++j)
                if (i < rows && j < columns)
                    store_vec(to + (i * p.width + j) * p.out + c, activate<kind>(row[j] + bias, p.slope));
        }
    }
}

template <Activation kind>
struct Convolve {
    template <int Width>
    static GEOVIT_INLINE void run(const Problem* problem, int64_t begin, int64_t end, float* values, float* sums) {
        const Problem& p = *problem;
        for (int64_t tile = begin; tile < end; tile += tiles_at_once) {
            const int64_t count = end - tile < tiles_at_once ? end - tile : tiles_at_once;
            for (int64_t i = 0; i < count; ++i) evaluate_tile<Width>(p, tile + i, values + i * p.in_row);
            for (int64_t pair = 0; pair < pairs; ++pair)
                multiply<Width>({count, p.out_row / Width, p.in, values + pair * p.values(), p.in_row, 1, p.filters + pair * p.filter(),
                                 p.out_row, nullptr, 0, sums + pair * p.sums(), p.out_row});
            for (int64_t i = 0; i < count; ++i) interpolate_tile<Width, kind>(p, tile + i, sums + i * p.out_row);
        }
    }
};

Tensor conv3x3(const Tensor& x_, const Tensor& weight_, const std::optional<Tensor>& bias_, int64_t activation, double slope) {
    STD_TORCH_CHECK(x_.dim() == 4 && weight_.dim() == 4, op, ": x or weight has not 4 axes");
    Problem p{};
    p.images = x_.size(0), p.height = x_.size(1), p.width = x_.size(2), p.in = x_.size(3), p.out = weight_.size(0);
    const Tensor x = checked(x_, {p.images, p.height, p.width, p.in}, op, "x");
    const Tensor weight = checked(weight_, {p.out, p.in, 3, 3}, op, "weight");
    Tensor bias;
    if (bias_) bias = checked(*bias_, {p.out}, op, "bias");
    const int64_t lanes = width();
    STD_TORCH_CHECK(p.in >= lanes && p.out >= lanes, op, ": fewer channels than a vector of this CPU holds");
    const Tensor out = result(x, {p.images, p.height, p.width, p.out});
    if (p.tiles() == 0) return out;
    p.in_row = (p.in + lanes - 1) / lanes * lanes, p.out_row = (p.out + lanes - 1) / lanes * lanes;
    const Buffer zeros(p.in), filters(pairs * p.filter());
    std::fill_n(zeros.data(), p.in, 0.0f);
    p.x = read(x), p.weight = read(weight), p.bias = bias_ ? read(bias) : nullptr, p.zeros = zeros.data(), p.filters = filters.data();
    p.y = write(out), p.slope = static_cast<float>(slope);
    torch::stable::parallel_for(0, p.in, 4096 / p.out_row + 1, [&](int64_t begin, int64_t end) {
        dispatch<Filters>(static_cast<const Problem*>(&p), begin, end, filters.data());
    });
    const int64_t blocks = (p.tiles() + tiles_at_once - 1) / tiles_at_once;
    with_activation(activation, op, [&](auto tag) {
        torch::stable::parallel_for(0, blocks, 1, [&](int64_t begin, int64_t end) {
            const Buffer values(pairs * p.values()), sums(pairs * p.sums());
            const int64_t last = std::min(end * tiles_at_once, p.tiles());
            dispatch<Convolve<decltype(tag)::value>>(static_cast<const Problem*>(&p), begin * tiles_at_once, last, values.data(),
                                                     sums.data());
        });
    });
    return out;
}

}  // namespace
}  // namespace geovit

STABLE_TORCH_LIBRARY_FRAGMENT(geovit, library) {
    library.def("conv3x3(Tensor x, Tensor weight, Tensor? bias, int activation, float slope) -> Tensor");
}

STABLE_TORCH_LIBRARY_IMPL(geovit, CPU, library) { library.impl("conv3x3", TORCH_BOX(&geovit::conv3x3)); }
