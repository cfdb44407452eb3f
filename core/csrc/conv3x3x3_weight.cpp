// The gradient of a 3 x 3 x 3 convolution's kernel, by the transpose of the filtering in conv3x3x3.cpp: inputs and gradients of a tile
// are both taken to all points and multiplied there, the products of all tiles added up, and the sums taken back to 27 taps.
//
// For a block of tiles, threads first share out the tiles, then the pairs of points: every sum has one owner, and the order of its
// additions does not depend on who that is.

#include <optional>

#include "conv3x3x3.h"
#include "memory.h"
#include "tiles.h"

namespace geovit {
namespace {

using namespace volume;
using tiled::Buffer;

constexpr const char* op = "geovit::conv3x3x3_weight";
constexpr int64_t most_values = int64_t{1} << 21;  // of a block at all points: 8 MB, which stay in the last cache
constexpr int64_t least_tiles = 16, most_tiles = 128;
constexpr int64_t tiles_of_task = 4;

struct Problem {
    Tiling tiling;
    int64_t in, out, in_row, out_row, at_once;

    int64_t planes() const { return tiling.deep + 2; }
    int64_t values() const { return planes() * at_once * in_row + apart; }
    int64_t grads() const { return tiling.deep * at_once * out_row + apart; }
    int64_t sums() const { return in * out_row + apart; }
};

// The incoming gradient of some tiles at all pairs of points: to (pairs, deep, tiles, out).
template <class T>
struct Spread {
    template <int Width>
    static GEOVIT_INLINE void run(const Problem* problem, const T* image, int64_t begin, int64_t count, float* to) {
        using F = Vec<Width>;
        const Problem& p = *problem;
        const Size size = p.tiling.size;
        const int64_t distance = p.grads();
        for (int64_t tile = 0; tile < count; ++tile) {
            const Corner corner(p.tiling, begin + tile);
            const int64_t rows = size.height - corner.y, columns = size.width - corner.x;
            for (int64_t k = 0; k < p.tiling.deep; ++k) {
                const bool seen = corner.z + k < size.depth;
                const T* const from = image + (((corner.z + k) * size.height + corner.y) * size.width + corner.x) * p.out;
                for (int64_t at = 0; at < p.out; at += Width) {
                    const int64_t c = at == 0 || at + Width <= p.out ? at : p.out - Width;
                    F along[side][points];
                    GEOVIT_UNROLL
                    for (int i = 0; i < side; ++i) {
                        F y[side];
                        GEOVIT_UNROLL
                        for (int j = 0; j < side; ++j) {
                            y[j] = F{};
                            if (seen && i < rows && j < columns) {
                                const T* const near = from + (i * size.width + j) * p.out + c;
                                if (p.out >= Width) {
                                    y[j] = load_as<F>(near);
                                } else {
                                    T kept[Width] = {};
                                    for (int64_t lane = 0; lane < p.out; ++lane) kept[lane] = near[lane];
                                    y[j] = load_as<F>(kept);
                                }
                            }
                        }
                        Axis<4>::spread(y, along[i]);
                    }
                    GEOVIT_UNROLL
                    for (int j = 0; j < points; ++j) {
                        F y[side], column[points];
                        GEOVIT_UNROLL
                        for (int i = 0; i < side; ++i) y[i] = along[i][j];
                        Axis<4>::spread(y, column);
                        GEOVIT_UNROLL
                        for (int i = 0; i < points; ++i)
                            store_vec(to + (i * points + j) * distance + (k * p.at_once + tile) * p.out_row + c, column[i]);
                    }
                }
            }
        }
    }
};

// sums (points of the first axis, in, out) of one pair += the products of `count` tiles.
template <int Deep>
struct Accumulate {
    template <int Width>
    static GEOVIT_INLINE void run(const Problem* problem, int64_t count, bool first, const float* values, const float* grads, float* sums,
                                  float* near) {
        using F = Vec<Width>;
        using First = Axis<Deep>;
        constexpr int planes = First::points;
        const Problem& p = *problem;
        const int64_t of_values = p.at_once * p.in_row, of_grads = p.at_once * p.out_row;
        const float *left = values, *right = grads;
        if constexpr (Deep > 1) {
            float *const at = near, *const back = near + planes * of_values;
            for (int64_t i = 0; i < count * p.in_row; i += Width) {
                F d[planes], v[planes];
                GEOVIT_UNROLL
                for (int k = 0; k < planes; ++k) d[k] = load_vec<F>(values + k * of_values + i);
                First::evaluate_input(d, v);
                GEOVIT_UNROLL
                for (int k = 0; k < planes; ++k) store_vec(at + k * of_values + i, v[k]);
            }
            for (int64_t i = 0; i < count * p.out_row; i += Width) {
                F y[Deep], m[planes];
                GEOVIT_UNROLL
                for (int k = 0; k < Deep; ++k) y[k] = load_vec<F>(grads + k * of_grads + i);
                First::spread(y, m);
                GEOVIT_UNROLL
                for (int k = 0; k < planes; ++k) store_vec(back + k * of_grads + i, m[k]);
            }
            left = at, right = back;
        }
        for (int64_t k = 0; k < planes; ++k)
            multiply<Width>({p.in, p.out_row / Width, count, left + k * of_values, 1, p.in_row, right + (Deep > 1 ? k * of_grads : 0),
                             p.out_row, first ? nullptr : sums + k * p.sums(), p.out_row, sums + k * p.sums(), p.out_row});
    }
};

// Sums at all points back to taps, of the channels in from `begin` to `end`: grad (out, in, 27).
template <int Deep>
struct Gather {
    template <int Width>
    static GEOVIT_INLINE void run(const Problem* problem, int64_t begin, int64_t end, const float* sums, float* grad) {
        using F = Vec<Width>;
        using First = Axis<Deep>;
        constexpr int planes = First::points;
        const Problem& p = *problem;
        const int64_t distance = p.sums();
        for (int64_t c = begin; c < end; ++c)
            for (int64_t o = 0; o < p.out; o += Width) {
                F plane[3][pairs];
                for (int64_t pair = 0; pair < pairs; ++pair) {
                    F at[planes], g[3];
                    GEOVIT_UNROLL
                    for (int k = 0; k < planes; ++k) at[k] = load_vec<F>(sums + (pair * planes + k) * distance + c * p.out_row + o);
                    First::gather_filter(at, g);
                    GEOVIT_UNROLL
                    for (int k = 0; k < 3; ++k) plane[k][pair] = g[k];
                }
                float taps[27][Width];
                for (int64_t k = 0; k < 3; ++k) {
                    F along[points][3];
                    for (int i = 0; i < points; ++i) Axis<4>::gather_filter(plane[k] + i * points, along[i]);
                    for (int j = 0; j < 3; ++j) {
                        F at[points], g[3];
                        for (int i = 0; i < points; ++i) at[i] = along[i][j];
                        Axis<4>::gather_filter(at, g);
                        for (int i = 0; i < 3; ++i) store_vec(taps[k * 9 + i * 3 + j], g[i]);
                    }
                }
                for (int64_t lane = 0; lane < Width && o + lane < p.out; ++lane) {
                    float* const to = grad + ((o + lane) * p.in + c) * 27;
                    for (int64_t tap = 0; tap < 27; ++tap) to[tap] = taps[tap][lane];
                }
            }
    }
};

template <int Deep, class T>
void gradient(const Problem& p, int64_t images, const Input<T>& input, const T* grad, const Tensor& like, float* to) {
    constexpr int planes = Axis<Deep>::points;
    const Problem* const problem = &p;
    const Tiling* const tiling = &p.tiling;
    const Buffer values(pairs * p.values()), grads(pairs * p.grads());
    const Tensor kept = result(like, {pairs * planes * p.sums()}, ScalarType::Float);
    float* const sums = write(kept);
    bool first = true;
    for (int64_t image = 0; image < images; ++image)
        for (int64_t begin = 0; begin < p.tiling.tiles(); begin += p.at_once) {
            const int64_t count = std::min(p.at_once, p.tiling.tiles() - begin), tasks = (count + tiles_of_task - 1) / tiles_of_task;
            Source<T> sources[2];
            input.image(image, p.tiling.size.positions(), sources);
            const Source<T>* const given = sources;
            torch::stable::parallel_for(0, tasks, 1, [&](int64_t from, int64_t until) {
                const int64_t some = from * tiles_of_task, number = std::min(until * tiles_of_task, count) - some;
                dispatch<Evaluate<false, T>>(tiling, given, begin + some, number, p.in_row, p.at_once * p.in_row, p.values(),
                                             values.data() + some * p.in_row);
                dispatch<Spread<T>>(problem, grad + image * p.tiling.size.positions() * p.out, begin + some, number,
                                    grads.data() + some * p.out_row);
            });
            torch::stable::parallel_for(0, pairs, 1, [&](int64_t from, int64_t until) {
                const Buffer near(planes * p.at_once * (p.in_row + p.out_row));
                for (int64_t pair = from; pair < until; ++pair)
                    dispatch<Accumulate<Deep>>(problem, count, first, static_cast<const float*>(values.data() + pair * p.values()),
                                               static_cast<const float*>(grads.data() + pair * p.grads()),
                                               sums + pair * planes * p.sums(), near.data());
            });
            first = false;
        }
    torch::stable::parallel_for(0, p.in, 4096 / p.out_row + 1, [&](int64_t from, int64_t until) {
        dispatch<Gather<Deep>>(problem, from, until, static_cast<const float*>(sums), to);
    });
}

Tensor conv3x3x3_weight(const Tensor& x_, const std::optional<Tensor>& beside_, const Tensor& grad_) {
    STD_TORCH_CHECK(x_.dim() == 5 && grad_.dim() == 5 && (!beside_ || beside_->dim() == 5), op, ": a tensor has not 5 axes");
    const int64_t images = x_.size(0), first = x_.size(4), second = beside_ ? beside_->size(4) : 0, in = first + second;
    const int64_t out = grad_.size(4), lanes = width();
    const Size size{x_.size(1), x_.size(2), x_.size(3)};
    const auto dtype = x_.scalar_type();
    const Tensor x = checked(x_, {images, size.depth, size.height, size.width, first}, op, "x", dtype);
    const Tensor grad = checked(grad_, {images, size.depth, size.height, size.width, out}, op, "grad", dtype);
    std::optional<Tensor> beside;
    if (beside_) beside = checked(*beside_, {images, size.depth, size.height, size.width, second}, op, "beside", dtype);
    STD_TORCH_CHECK(!beside_ || (first >= lanes && second >= lanes), op, ": fewer channels than a vector of this CPU holds");
    const Tensor result = torch::stable::new_empty(x, {out, in, 3, 3, 3}, ScalarType::Float);
    float* const to = write(result);
    if (images * size.positions() == 0) {
        std::fill_n(to, result.numel(), 0.0f);
        return result;
    }
    STD_TORCH_CHECK(in > 0 && out > 0, op, ": no channels");
    Problem p{};
    p.tiling = tiling_of(size, images);
    p.in = in, p.out = out, p.in_row = (in + lanes - 1) / lanes * lanes, p.out_row = (out + lanes - 1) / lanes * lanes;
    const int64_t of_tile = pairs * (p.planes() * p.in_row + p.tiling.deep * p.out_row), tiles = p.tiling.tiles();
    const int64_t most = std::min(std::max(most_values / of_tile, least_tiles), most_tiles), blocks = (tiles + most - 1) / most;
    p.at_once = (tiles + blocks - 1) / blocks;
    with_element_type(x, op, [&](auto element) {
        using T = decltype(element);
        const Input<T> input(x, beside);
        if (p.tiling.deep == 4)
            gradient<4>(p, images, input, read<T>(grad), x, to);
        else if (p.tiling.deep == 2)
            gradient<2>(p, images, input, read<T>(grad), x, to);
        else
            gradient<1>(p, images, input, read<T>(grad), x, to);
    });
    return result;
}

}  // namespace
}  // namespace geovit

STABLE_TORCH_LIBRARY_FRAGMENT(geovit, library) {
    library.def("conv3x3x3_weight(Tensor x, Tensor? beside, Tensor grad) -> Tensor");
}

STABLE_TORCH_LIBRARY_IMPL(geovit, CPU, library) { library.impl("conv3x3x3_weight", TORCH_BOX(&geovit::conv3x3x3_weight)); }
