// act(W x + b) where x or y, or neither, are the positions of a small block taken together: a convolution of 1 x 1 x 1, one whose
// stride is its kernel, or its transpose. All are matrix products; what differs is where rows are read from and written to.
//
// Tensors are (batch, depth, height, width, channels). An image is a grid of blocks, of `from` positions each in x and of `to` in y.

#include <cmath>
#include <memory>
#include <optional>
#include <tuple>

#include "channels.h"
#include "gemm.h"
#include "gemm_bfloat16.h"
#include "memory.h"
#include "moments.h"
#include "tiles.h"

namespace geovit {
namespace {

using tiled::Buffer;

constexpr const char* op = "geovit::blocks_linear";
constexpr int64_t rows_at_once = 48;    // a multiple of all register tiles
constexpr int64_t rows_of_task = 1536;  // of one image
constexpr int64_t panel = 4;            // vectors of outputs that lie together; the last panel may have fewer

struct Grid {
    int64_t depth, height, width;     // in blocks
    int64_t deep, high, wide;         // positions of a block
    int64_t channels;

    int64_t blocks() const { return depth * height * width; }
    int64_t run() const { return wide * channels; }  // numbers of a block that lie side by side
    int64_t numbers() const { return deep * high * run(); }
    int64_t stride() const { return width * run(); }  // from one line of positions to the next
    // Where block `number` begins in its image.
    GEOVIT_INLINE int64_t begin(int64_t number) const {
        const int64_t x = number % width, y = number / width % height, z = number / width / height;
        return (z * deep * height * high + y * high) * stride() + x * run();
    }
    // Where its line (i, j) begins, counted from that.
    GEOVIT_INLINE int64_t line(int64_t i, int64_t j) const { return (i * height * high + j) * stride(); }
};

template <class T>
struct Problem {
    int64_t images, in, out, padded;  // numbers of a row; padded: out, to whole vectors
    Grid from, beside, to;            // beside: of the second tensor, with no channels if there is none
    const T *x, *more;
    T* y;
    const float *panels, *bias;
    const uint32_t* pairs;  // the panels in bfloat16 where rows are multiplied by pairs, see gemm_bfloat16.h; or null
    float slope;     // of the negative side; 1 for no activation
    float* moments;  // of each task, see moments.h; or null

    int64_t tasks() const { return (to.blocks() + rows_of_task - 1) / rows_of_task; }
};

struct Weight {
    const float* data;
    int64_t to_taps, out, from_taps, in, strides[4];

    GEOVIT_INLINE int64_t row(int64_t number) const { return number / out * strides[0] + number % out * strides[1]; }
    GEOVIT_INLINE int64_t column(int64_t number) const { return number / in * strides[2] + number % in * strides[3]; }
};

// Panels from number `begin` to `end`.
struct PackBlocks {
    template <int Width>
    static GEOVIT_INLINE void run(const Weight* weight, int64_t in, int64_t out, int64_t padded, int64_t begin, int64_t end, float* panels) {
        for (int64_t first = begin * panel * Width; first < end * panel * Width && first < padded; first += panel * Width) {
            const int64_t columns = std::min<int64_t>(panel * Width, padded - first);
            float* const to = panels + first * in;
            int64_t rows[panel * Width];
            for (int64_t o = 0; o < columns; ++o) rows[o] = first + o < out ? weight->row(first + o) : -1;
            for (int64_t c = 0; c < in; ++c) {
                const float* const from = weight->data + weight->column(c);
                for (int64_t o = 0; o < columns; ++o) to[c * columns + o] = rows[o] < 0 ? 0.0f : from[rows[o]];
            }
        }
    }
};

// Panels of rows of pairs from those of rows of numbers.
inline void round_panels(const float* panels, int64_t in, int64_t padded, int64_t columns_of_panel, uint32_t* pairs) {
    for (int64_t first = 0; first < padded; first += columns_of_panel) {
        const int64_t columns = std::min(columns_of_panel, padded - first);
        const float* const from = panels + first * in;
        uint32_t* const to = pairs + first * in / 2;
        for (int64_t c = 0; c < in; c += 2)
            for (int64_t o = 0; o < columns; ++o) {
                BFloat16 low, high;
                store(low, from[c * columns + o]), store(high, from[(c + 1) * columns + o]);
                to[c / 2 * columns + o] = static_cast<uint32_t>(high.bits) << 16 | low.bits;
            }
    }
}

template <class F, class T>
GEOVIT_INLINE void widen(const T* from, int64_t count, float* to) {
    int64_t i = 0;
    for (; i + width_of<F> <= count; i += width_of<F>) store_vec(to + i, load_as<F>(from + i));
    for (; i < count; ++i) to[i] = load(from[i]);
}

// All blocks from `begin` to `end` of one image.
template <class T>
struct MapBlocks {
    template <int Width>
    static GEOVIT_INLINE void run(const Problem<T>* problem, int64_t image, int64_t begin, int64_t end, float* rows, float* sums,
                                  float* moments) {
        using F = Vec<Width>;
        const Problem<T>& p = *problem;
        constexpr bool same = std::is_same_v<T, float>;
        const bool whole = p.from.deep * p.from.high * p.from.wide == 1, direct = whole && (same || p.pairs != nullptr);
        const T* const x = p.x + image * p.from.blocks() * p.from.numbers();
        const T* const more = p.more == nullptr ? nullptr : p.more + image * p.beside.blocks() * p.beside.numbers();
        T* const y = p.y + image * p.to.blocks() * p.to.numbers();
        for (int64_t row = begin; row < end; row += rows_at_once) {
            const int64_t count = std::min(rows_at_once, end - row), first = p.from.channels, second = p.beside.channels;
            if (!direct)
                for (int64_t i = 0; i < count; ++i) {
                    float* to = rows + i * p.in;
                    const T* const corner = x + p.from.begin(row + i);
                    for (int64_t a = 0; a < p.from.deep; ++a)
                        for (int64_t b = 0; b < p.from.high; ++b, to += p.from.run())
                            widen<F>(corner + p.from.line(a, b), p.from.run(), to);
                    if (more != nullptr) widen<F>(more + (row + i) * second, second, to);
                }
            for (int64_t o = 0; o < p.padded; o += panel * Width) {
                const int64_t columns = std::min<int64_t>(panel * Width, p.padded - o);
                const float* const factor = p.panels + o * p.in;
                if constexpr (same)
                    if (direct) {
                        multiply<Width>({count, columns / Width, first, x + row * first, first, 1, factor, columns, p.bias + o, 0,
                                         sums + o, p.padded});
                        if (more != nullptr)
                            multiply<Width>({count, columns / Width, second, more + row * second, second, 1, factor + first * columns,
                                             columns, sums + o, p.padded, sums + o, p.padded});
                        continue;
                    }
                if constexpr (!same)
                    if (direct) {
                        const uint32_t* const both = p.pairs + o * p.in / 2;
                        multiply_pairs<Width>({count, columns / Width, first / 2, x + row * first, first, both, columns, p.bias + o, 0,
                                               sums + o, p.padded});
                        if (more != nullptr)
                            multiply_pairs<Width>({count, columns / Width, second / 2, more + row * second, second,
                                                   both + first / 2 * columns, columns, sums + o, p.padded, sums + o, p.padded});
                        continue;
                    }
                multiply<Width>({count, columns / Width, p.in, rows, p.in, 1, factor, columns, p.bias + o, 0, sums + o, p.padded});
            }
            if (moments != nullptr) add_moments<F>(sums, p.padded, count, p.out, row == begin, moments);
            for (int64_t i = 0; i < count; ++i) {
                T* const corner = y + p.to.begin(row + i);
                const float* next = sums + i * p.padded;
                const int64_t length = p.to.run();
                for (int64_t a = 0; a < p.to.deep; ++a)
                    for (int64_t b = 0; b < p.to.high; ++b, next += length) {
                        T* const to = corner + p.to.line(a, b);
                        int64_t at = 0;
                        for (; at + Width <= length; at += Width) {
                            const F value = load_vec<F>(next + at);
                            store_as(to + at, value > 0.0f ? value : value * p.slope);
                        }
                        for (; at < length; ++at) store(to[at], next[at] > 0.0f ? next[at] : next[at] * p.slope);
                    }
            }
        }
        if (moments != nullptr) finish_moments<F>(p.out, end - begin, moments);
    }
};

using Results = std::tuple<Tensor, Tensor, Tensor>;

Results blocks_linear(const Tensor& x_, const std::optional<Tensor>& beside_, const Tensor& weight, const std::optional<Tensor>& bias_,
                      int64_t from_deep, int64_t from_high, int64_t from_wide, int64_t to_deep, int64_t to_high, int64_t to_wide,
                      double slope, bool moments) {
    STD_TORCH_CHECK(x_.dim() == 5 && (!beside_ || beside_->dim() == 5), op, ": x or beside has not 5 axes");
    STD_TORCH_CHECK(weight.dim() == 4 && weight.is_cpu() && weight.scalar_type() == ScalarType::Float, op, ": weight is not 4 axes of floats");
    STD_TORCH_CHECK(from_deep > 0 && from_high > 0 && from_wide > 0 && to_deep > 0 && to_high > 0 && to_wide > 0, op, ": an empty block");
    const int64_t from_taps = from_deep * from_high * from_wide, to_taps = to_deep * to_high * to_wide;
    const int64_t images = x_.size(0), first = x_.size(4), second = beside_ ? beside_->size(4) : 0, lanes = width();
    const auto dtype = x_.scalar_type();
    const Tensor x = checked(x_, {images, x_.size(1), x_.size(2), x_.size(3), first}, op, "x", dtype);
    Tensor beside, bias;
    if (beside_) beside = checked(*beside_, {images, x_.size(1), x_.size(2), x_.size(3), second}, op, "beside", dtype);
    const bool fits = x.size(1) % from_deep == 0 && x.size(2) % from_high == 0 && x.size(3) % from_wide == 0;
    STD_TORCH_CHECK(fits, op, ": x is not of whole blocks");
    STD_TORCH_CHECK(!beside_ || from_taps == 1, op, ": beside goes with blocks of one position");
    const int64_t out = weight.size(1), depth = x.size(1) / from_deep, height = x.size(2) / from_high, across = x.size(3) / from_wide;
    STD_TORCH_CHECK(weight.size(0) == to_taps && weight.size(2) == from_taps && weight.size(3) == first + second && out > 0 &&
                        first + second > 0,
                    op, ": weight has another shape than the other tensors ask for");
    STD_TORCH_CHECK(!moments || to_taps == 1, op, ": moments go with blocks of one position");
    if (bias_) bias = checked(*bias_, {out}, op, "bias");
    const Tensor y = result(x, {images, depth * to_deep, height * to_high, across * to_wide, out});
    const int64_t kept = moments ? images : 0;
    const Tensor mean = torch::stable::new_empty(x, {kept, out}, ScalarType::Float);
    const Tensor variance = torch::stable::new_empty(x, {kept, out}, ScalarType::Float);
    if (y.numel() == 0) return {y, mean, variance};
    const int64_t in = from_taps * (first + second), all = to_taps * out, padded = (all + lanes - 1) / lanes * lanes;
    const Buffer panels(in * padded), repeated(padded);
    for (int64_t o = 0; o < padded; ++o) repeated.data()[o] = bias_ && o < all ? read(bias)[o % out] : 0.0f;
    const Weight given{read(weight), to_taps, out, from_taps, first + second,
                       {weight.stride(0), weight.stride(1), weight.stride(2), weight.stride(3)}};
    torch::stable::parallel_for(0, (padded + panel * lanes - 1) / (panel * lanes), 1, [&](int64_t begin, int64_t end) {
        dispatch<PackBlocks>(&given, in, all, padded, begin, end, panels.data());
    });
    const bool by_pairs = dtype == ScalarType::BFloat16 && dot_bfloat16() && from_taps == 1 && in % 2 == 0 && first % 2 == 0;
    const std::unique_ptr<uint32_t[]> pairs(new uint32_t[static_cast<size_t>(by_pairs ? in * padded / 2 : 0)]);
    if (by_pairs) round_panels(panels.data(), in, padded, panel * lanes, pairs.get());
    with_element_type(x, op, [&](auto element) {
        using T = decltype(element);
        Problem<T> p{};
        p.images = images, p.in = in, p.out = all, p.padded = padded;
        p.from = {depth, height, across, from_deep, from_high, from_wide, first};
        p.beside = {depth, height, across, 1, 1, 1, second};
        p.to = {depth, height, across, to_deep, to_high, to_wide, out};
        p.x = read<T>(x), p.more = beside_ ? read<T>(beside) : nullptr, p.y = write<T>(y);
        p.panels = panels.data(), p.pairs = by_pairs ? pairs.get() : nullptr, p.bias = repeated.data(), p.slope = static_cast<float>(slope);
        std::unique_ptr<Buffer> of_tasks;
        if (moments) {
            of_tasks = std::make_unique<Buffer>(images * p.tasks() * moments_of(all, lanes));
            p.moments = of_tasks->data();
        }
        const Problem<T>* const problem = &p;
        torch::stable::parallel_for(0, images * p.tasks(), 1, [&](int64_t begin, int64_t end) {
            const Buffer rows(rows_at_once * in), sums(rows_at_once * padded);
            for (int64_t task = begin; task < end; ++task) {
                const int64_t row = task % p.tasks() * rows_of_task, last = std::min(row + rows_of_task, p.to.blocks());
                dispatch<MapBlocks<T>>(problem, task / p.tasks(), row, last, rows.data(), sums.data(),
                                       p.moments == nullptr ? nullptr : p.moments + task * moments_of(all, lanes));
            }
        });
        if (moments) join_moments(p.moments, images, p.tasks(), all, lanes, write(mean), write(variance));
    });
    return {y, mean, variance};
}

}  // namespace
}  // namespace geovit

STABLE_TORCH_LIBRARY_FRAGMENT(geovit, library) {
    library.def(
        "blocks_linear(Tensor x, Tensor? beside, Tensor weight, Tensor? bias, int from_deep, int from_high, int from_wide, int to_deep, "
        "int to_high, int to_wide, float slope, bool moments) -> (Tensor, Tensor, Tensor)");
}

STABLE_TORCH_LIBRARY_IMPL(geovit, CPU, library) { library.impl("blocks_linear", TORCH_BOX(&geovit::blocks_linear)); }
