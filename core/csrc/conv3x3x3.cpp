// act(3 x 3 x 3 convolution + bias) of channels-last volumes with zeros outside, by Winograd's minimal filtering (Lavin and Gray 2016,
// section 4) F(4 x 4, 3 x 3) on the last two axes, and F(4, 3), F(2, 3) or the direct sum on the first.
//
// A block of tiles is worked on at a time. First its inputs are taken to all pairs of points of the last two axes, plane by plane.
// Then for each pair, in the nearest cache, on to the points of the first axis, multiplied there with the kernel (a matrix product
// over channels for each point) and interpolated back on the first axis. Last, the outputs are interpolated on the other two.

#include <cmath>
#include <optional>
#include <tuple>

#include "activation.h"
#include "conv3x3x3.h"
#include "memory.h"
#include "moments.h"
#include "tiles.h"

namespace geovit {
namespace {

using namespace volume;
using tiled::Buffer;

constexpr const char* op = "geovit::conv3x3x3";
constexpr int64_t most_tiles = 16;  // of a block: few enough that their values at all points stay near

template <class T>
struct Problem {
    int64_t images, in, out;
    Tiling tiling;
    int64_t in_row, out_row;  // of the matrices: whole vectors
    int64_t at_once;          // tiles of a block
    const float *weight, *bias, *filters;
    T* y;
    float slope;      // of the negative side; 1 for no activation
    float* moments;   // of each block, see moments.h; or null

    int64_t blocks() const { return (tiling.tiles() + at_once - 1) / at_once; }  // of an image
    int64_t planes() const { return tiling.deep + 2; }
    int64_t filter() const { return in * out_row + apart; }
    int64_t plane() const { return at_once * in_row; }
    int64_t values() const { return planes() * plane() + apart; }
    int64_t sums() const { return tiling.deep * at_once * out_row + apart; }
};

// Filters at all points, (pairs, planes, in, out): of the channels in from `begin` to `end`.
template <int Deep>
struct Filters {
    template <int Width>
    static GEOVIT_INLINE void run(const float* weight, int64_t in, int64_t out, int64_t out_row, int64_t begin, int64_t end, float* to) {
        using F = Vec<Width>;
        using First = Axis<Deep>;
        const int64_t distance = in * out_row + apart;
        for (int64_t c = begin; c < end; ++c)
            for (int64_t o = 0; o < out_row; o += Width) {
                float taps[27][Width];
                for (int64_t lane = 0; lane < Width; ++lane) {
                    const float* const from = weight + ((o + lane) * in + c) * 27;
                    for (int64_t tap = 0; tap < 27; ++tap) taps[tap][lane] = o + lane < out ? from[tap] : 0.0f;
                }
                F plane[3][pairs];
                for (int64_t k = 0; k < 3; ++k) {
                    F along[3][points];
                    GEOVIT_UNROLL
                    for (int j = 0; j < 3; ++j) {
                        const F g[3] = {load_vec<F>(taps[k * 9 + j]), load_vec<F>(taps[k * 9 + 3 + j]), load_vec<F>(taps[k * 9 + 6 + j])};
                        Axis<4>::evaluate_filter(g, along[j]);
                    }
                    for (int i = 0; i < points; ++i) {
                        const F g[3] = {along[0][i], along[1][i], along[2][i]};
                        Axis<4>::evaluate_filter(g, plane[k] + i * points);
                    }
                }
                for (int64_t pair = 0; pair < pairs; ++pair) {
                    const F g[3] = {plane[0][pair], plane[1][pair], plane[2][pair]};
                    F at[First::points];
                    First::evaluate_filter(g, at);
                    GEOVIT_UNROLL
                    for (int k = 0; k < First::points; ++k) store_vec(to + (pair * First::points + k) * distance + c * out_row + o, at[k]);
                }
            }
    }
};

// sums (pairs, Deep, tiles, out) from values.
template <int Deep>
struct Multiplied {
    template <int Width>
    static GEOVIT_INLINE void run(int64_t count, int64_t in, int64_t in_row, int64_t out_row, int64_t plane, int64_t values_apart,
                                  int64_t at_once, int64_t sums_apart, const float* filters, const float* values, float* sums, float* near) {
        using F = Vec<Width>;
        using First = Axis<Deep>;
        constexpr int planes = First::points;
        const int64_t filter = in * out_row + apart, sums_plane = at_once * out_row;
        for (int64_t pair = 0; pair < pairs; ++pair) {
            const float* const from = values + pair * values_apart;
            const float* const factor = filters + pair * planes * filter;
            float* const to = sums + pair * sums_apart;
            if constexpr (Deep == 1) {
                for (int64_t k = 0; k < planes; ++k)
                    multiply<Width>({count, out_row / Width, in, from + k * plane, in_row, 1, factor + k * filter, out_row,
                                     k == 0 ? nullptr : to, out_row, to, out_row});
            } else {
                float *const at = near, *const products = near + planes * (at_once * in_row + apart);
                const int64_t apart_at = at_once * in_row + apart, apart_products = sums_plane + apart;
                for (int64_t i = 0; i < count * in_row; i += Width) {
                    F d[planes], v[planes];
                    GEOVIT_UNROLL
                    for (int k = 0; k < planes; ++k) d[k] = load_vec<F>(from + k * plane + i);
                    First::evaluate_input(d, v);
                    GEOVIT_UNROLL
                    for (int k = 0; k < planes; ++k) store_vec(at + k * apart_at + i, v[k]);
                }
                for (int64_t k = 0; k < planes; ++k)
                    multiply<Width>({count, out_row / Width, in, at + k * apart_at, in_row, 1, factor + k * filter, out_row, nullptr, 0,
                                     products + k * apart_products, out_row});
                for (int64_t i = 0; i < count * out_row; i += Width) {
                    F m[planes], y[Deep];
                    GEOVIT_UNROLL
                    for (int k = 0; k < planes; ++k) m[k] = load_vec<F>(products + k * apart_products + i);
                    First::interpolate(m, y);
                    GEOVIT_UNROLL
                    for (int k = 0; k < Deep; ++k) store_vec(to + k * sums_plane + i, y[k]);
                }
            }
        }
    }
};

// Outputs of a block of one image from sums, and their moments.
template <class T>
struct Interpolate {
    template <int Width>
    static GEOVIT_INLINE void run(const Problem<T>* problem, T* image, int64_t begin, int64_t count, const float* sums, float* moments) {
        using F = Vec<Width>;
        const Problem<T>& p = *problem;
        const Size size = p.tiling.size;
        const int64_t distance = p.sums();
        for (int64_t c0 = 0; c0 < p.out; c0 += Width) {
            const int64_t c = c0 == 0 || c0 + Width <= p.out ? c0 : p.out - Width;
            const bool whole = p.out >= Width;
            const F bias = p.bias == nullptr ? F{} : load_vec<F>(p.bias + c);
            F shift{}, total{}, squares{};
            float counted = 0;
            for (int64_t tile = 0; tile < count; ++tile) {
                const Corner corner(p.tiling, begin + tile);
                const int64_t rows = size.height - corner.y, columns = size.width - corner.x;
                F tile_total{}, tile_squares{};
                for (int64_t k = 0; k < p.tiling.deep && corner.z + k < size.depth; ++k) {
                    T* const to = image + (((corner.z + k) * size.height + corner.y) * size.width + corner.x) * p.out + c;
                    F along[points][side], row[side];
                    GEOVIT_UNROLL
                    for (int j = 0; j < points; ++j) {
                        const float* const from = sums + j * distance + (k * p.at_once + tile) * p.out_row + c;
                        F m[points];
                        GEOVIT_UNROLL
                        for (int i = 0; i < points; ++i) m[i] = load_vec<F>(from + i * points * distance);
                        Axis<4>::interpolate(m, along[j]);
                    }
                    if (tile == 0 && k == 0 && p.moments != nullptr) {
                        F m[points];
                        GEOVIT_UNROLL
                        for (int j = 0; j < points; ++j) m[j] = along[j][0];
                        Axis<4>::interpolate(m, row);
                        shift = row[0] + bias;
                    }
                    GEOVIT_UNROLL
                    for (int i = 0; i < side; ++i) {
                        const F m[points] = {along[0][i], along[1][i], along[2][i], along[3][i], along[4][i], along[5][i]};
                        Axis<4>::interpolate(m, row);
                        GEOVIT_UNROLL
                        for (int j = 0; j < side; ++j)
                            if (i < rows && j < columns) {
                                F y = row[j] + bias;
                                if (p.moments != nullptr) {
                                    const F d = y - shift;
                                    tile_total += d, tile_squares += d * d;
                                }
                                y = y > 0.0f ? y : y * p.slope;
                                T* const at = to + (i * size.width + j) * p.out;
                                if (whole) {
                                    store_as(at, y);
                                } else {
                                    T kept[Width];
                                    store_as(kept, y);
                                    for (int64_t lane = 0; lane < p.out; ++lane) at[lane] = kept[lane];
                                }
                            }
                    }
                    counted += static_cast<float>(std::min(rows, side) * std::min(columns, side));
                }
                total += tile_total, squares += tile_squares;
            }
            if (moments != nullptr) {
                const F mean = total / counted;
                moments[0] = counted;
                store_vec(moments + 16 + c, shift + mean);
                store_vec(moments + 16 + 2 * p.out_row + c, squares - total * mean);
            }
        }
    }
};

template <int Deep, class T>
void convolve(Problem<T>& p, const Input<T>& input, const Tensor& like) {
    const bool affine = input.sources[0].mean != nullptr;
    const int64_t planes = Axis<Deep>::points;
    const Tensor kept = result(like, {pairs * planes * p.filter()}, ScalarType::Float);
    float* const filters = write(kept);
    p.filters = filters;
    torch::stable::parallel_for(0, p.in, 4096 / p.out_row + 1, [&](int64_t begin, int64_t end) {
        dispatch<Filters<Deep>>(p.weight, p.in, p.out, p.out_row, begin, end, filters);
    });
    const int64_t blocks = p.blocks();
    torch::stable::parallel_for(0, p.images * blocks, 1, [&](int64_t first, int64_t last) {
        const Buffer values(pairs * p.values()), sums(pairs * p.sums()), near(planes * (p.plane() + p.at_once * p.out_row + 2 * apart));
        for (int64_t i = first; i < last; ++i) {
            const int64_t image = i / blocks, begin = i % blocks * p.at_once, positions = p.tiling.size.positions();
            const int64_t count = std::min(p.at_once, p.tiling.tiles() - begin);
            Source<T> sources[2];
            input.image(image, positions, sources);
            const Problem<T>* const problem = &p;
            const Source<T>* const given = sources;
            const Tiling* const tiling = &p.tiling;
            if (affine)
                dispatch<Evaluate<true, T>>(tiling, given, begin, count, p.in_row, p.plane(), p.values(), values.data());
            else
                dispatch<Evaluate<false, T>>(tiling, given, begin, count, p.in_row, p.plane(), p.values(), values.data());
            dispatch<Multiplied<Deep>>(count, p.in, p.in_row, p.out_row, p.plane(), p.values(), p.at_once, p.sums(), p.filters,
                                       static_cast<const float*>(values.data()), sums.data(), near.data());
            dispatch<Interpolate<T>>(problem, p.y + image * positions * p.out, begin, count, static_cast<const float*>(sums.data()),
                                     p.moments == nullptr ? nullptr : p.moments + i * moments_of(p.out, width()));
        }
    });
}

using Results = std::tuple<Tensor, Tensor, Tensor>;

Results conv3x3x3(const Tensor& x_, const std::optional<Tensor>& beside_, const Tensor& weight_, const std::optional<Tensor>& bias_,
                  const std::optional<Tensor>& mean_, const std::optional<Tensor>& factor_, const std::optional<Tensor>& offset_,
                  double before, double slope, bool moments) {
    STD_TORCH_CHECK(x_.dim() == 5 && weight_.dim() == 5, op, ": x or weight has not 5 axes");
    STD_TORCH_CHECK(!beside_ || beside_->dim() == 5, op, ": beside has not 5 axes");
    const int64_t images = x_.size(0), first = x_.size(4), second = beside_ ? beside_->size(4) : 0, in = first + second;
    const Size size{x_.size(1), x_.size(2), x_.size(3)};
    const int64_t out = weight_.size(0), lanes = width();
    const auto dtype = x_.scalar_type();
    const Tensor x = checked(x_, {images, size.depth, size.height, size.width, first}, op, "x", dtype);
    Tensor beside, bias, mean, factor, offset;
    if (beside_) beside = checked(*beside_, {images, size.depth, size.height, size.width, second}, op, "beside", dtype);
    const Tensor weight = checked(weight_, {out, in, 3, 3, 3}, op, "weight");
    if (bias_) bias = checked(*bias_, {out}, op, "bias");
    const bool affine = mean_ && factor_ && offset_;
    STD_TORCH_CHECK(affine || (!mean_ && !factor_ && !offset_), op, ": mean, factor and offset are given together");
    STD_TORCH_CHECK(!affine || (!beside_ && in >= lanes), op, ": mean goes with one input of a vector of channels or more");
    STD_TORCH_CHECK(!beside_ || (first >= lanes && second >= lanes), op, ": fewer channels than a vector of this CPU holds");
    if (affine) {
        mean = checked(*mean_, {images, in}, op, "mean");
        factor = checked(*factor_, {images, in}, op, "factor");
        offset = checked(*offset_, {images, in}, op, "offset");
    }
    const Tensor y = result(x, {images, size.depth, size.height, size.width, out});
    const int64_t kept = moments ? images : 0;
    const Tensor y_mean = torch::stable::new_empty(x, {kept, out}, ScalarType::Float);
    const Tensor y_variance = torch::stable::new_empty(x, {kept, out}, ScalarType::Float);
    if (images * size.positions() == 0) return {y, y_mean, y_variance};
    STD_TORCH_CHECK(in > 0 && out > 0, op, ": no channels");
    const int64_t in_row = (in + lanes - 1) / lanes * lanes, out_row = (out + lanes - 1) / lanes * lanes;
    constexpr int64_t many = 512;  // channels from which tiles of 4 err by more than 1e-5 of the largest output
    const Tiling tiling = tiling_of(size, images, in > many ? 2 : 4);
    const Buffer padded_bias(out_row);
    std::fill_n(padded_bias.data(), out_row, 0.0f);
    if (bias_) std::copy_n(read(bias), out, padded_bias.data());
    with_element_type(x, op, [&](auto element) {
        using T = decltype(element);
        Problem<T> p{};
        p.images = images, p.in = in, p.out = out, p.in_row = in_row, p.out_row = out_row, p.tiling = tiling;
        const int64_t blocks = (p.tiling.tiles() + most_tiles - 1) / most_tiles;
        p.at_once = (p.tiling.tiles() + blocks - 1) / blocks;  // of almost one size
        Input<T> input(x, beside_ ? std::optional<Tensor>(beside) : std::nullopt);
        if (affine) {
            Source<T>& source = input.sources[0];
            source.mean = read(mean), source.factor = read(factor), source.offset = read(offset);
            source.slope = static_cast<float>(before);
        }
        p.weight = read(weight), p.bias = padded_bias.data(), p.y = write<T>(y);
        p.slope = static_cast<float>(slope);
        std::unique_ptr<Buffer> of_blocks;
        if (moments) {
            of_blocks = std::make_unique<Buffer>(images * p.blocks() * moments_of(out, lanes));
            p.moments = of_blocks->data();
        }
        if (tiling.deep == 4)
            convolve<4>(p, input, x);
        else if (tiling.deep == 2)
            convolve<2>(p, input, x);
        else
            convolve<1>(p, input, x);
        if (moments) join_moments(p.moments, images, p.blocks(), out, lanes, write(y_mean), write(y_variance));
    });
    return {y, y_mean, y_variance};
}

}  // namespace
}  // namespace geovit

STABLE_TORCH_LIBRARY_FRAGMENT(geovit, library) {
    library.def(
        "conv3x3x3(Tensor x, Tensor? beside, Tensor weight, Tensor? bias, Tensor? mean, Tensor? factor, Tensor? offset, float before, "
        "float slope, bool moments) -> (Tensor, Tensor, Tensor)");
}

STABLE_TORCH_LIBRARY_IMPL(geovit, CPU, library) { library.impl("conv3x3x3", TORCH_BOX(&geovit::conv3x3x3)); }
