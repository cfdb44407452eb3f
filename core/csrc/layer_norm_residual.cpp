// s = x + scale * branch and layer_norm(s), or rms_norm(s), with all gradients: one pass over memory forward, one backward.

#include <cmath>
#include <optional>
#include <tuple>

#include "channels.h"
#include "memory.h"

namespace geovit {
namespace {

constexpr const char* op = "geovit::layer_norm_residual";
constexpr int64_t block_size = 16384;  // numbers in a block of rows: some microseconds of work
constexpr int64_t most_blocks = 128;   // each has a row of sums for every gradient of a parameter
constexpr int64_t rows_at_once = 4;    // whose share of these sums is added up in registers

// Of all rows. `scale` may be null. `center` is 1 for layer norm, and 0 for RMS norm, which takes no mean off.
struct Parameters {
    const float *scale, *weight, *bias;
    float eps, center;
};

template <class F>
GEOVIT_INLINE F scaled(F x, const float* scale, int64_t c) {
    return scale == nullptr ? x : x * load_vec<F>(scale + c);
}

struct Add {
    template <class F, class T>
    static GEOVIT_INLINE void at(int64_t c, int64_t seen, const T* x, const T* branch, const float* scale, T* out, F* total) {
        const F s = load_as<F>(x + c) + scaled(load_as<F>(branch + c), scale, c);
        store_as(out + c, s);
        *total += without_first(s, seen);
    }
};

struct Squares {
    template <class F, class T>
    static GEOVIT_INLINE void at(int64_t c, int64_t seen, const T* s, float mean, F* total) {
        const F d = load_as<F>(s + c) - mean;
        *total += without_first(d * d, seen);
    }
};

struct Normalise {
    template <class F, class T>
    static GEOVIT_INLINE void at(int64_t c, int64_t, const T* s, float mean, float rstd, const float* weight, const float* bias, T* y) {
        store_as(y + c, (load_as<F>(s + c) - mean) * rstd * load_vec<F>(weight + c) + load_vec<F>(bias + c));
    }
};

struct Forward {
    template <class F, class T>
    static GEOVIT_INLINE void on(int64_t channels, int64_t rows, const T* x, const T* branch, Parameters p, T* s, T* y, float* mean,
                                 float* rstd) {
        const float count = static_cast<float>(channels);
        for (int64_t row = 0; row < rows; ++row) {
            const int64_t i = row * channels;
            F total{}, squares{};
            over_channels<F, Add>(channels, x + i, branch + i, p.scale, s + i, &total);
            mean[row] = p.center * total_of(total) / count;
            over_channels<F, Squares>(channels, s + i, mean[row], &squares);
            rstd[row] = 1.0f / std::sqrt(total_of(squares) / count + p.eps);
            over_channels<F, Normalise>(channels, s + i, mean[row], rstd[row], p.weight, p.bias, y + i);
        }
    }
};

// Of rows whose gradients are summed over: grad * (s - mean) * rstd, grad, and gradient of s * branch.
struct Sums {
    float *weight, *bias, *scale;
};

struct Products {
    template <class F, class T>
    static GEOVIT_INLINE void at(int64_t c, int64_t seen, const T* grad_y, const T* s, float mean, float rstd, const float* weight,
                                 F* total, F* along) {
        const F g = without_first(load_as<F>(grad_y + c) * load_vec<F>(weight + c), seen);
        *total += g;
        *along += g * ((load_as<F>(s + c) - mean) * rstd);
    }
};

// What a row needs besides its numbers: ds = grad_s + rstd * (grad_y * weight - total - normed * along).
struct Row {
    float mean, rstd, total, along;
};

struct Gradients {
    template <class F, class T>
    static GEOVIT_INLINE void at(int64_t c, int64_t seen, int64_t channels, int64_t rows, const T* grad_s, const T* grad_y, const T* s,
                                 const T* branch, Parameters p, const Row* row, T* grad_x, T* grad_branch, Sums sums) {
        F of_weight{}, of_bias{}, of_scale{};
        const F weight = load_vec<F>(p.weight + c);
        for (int64_t r = 0; r < rows; ++r) {
            const int64_t i = r * channels + c;
            const F g = load_as<F>(grad_y + i), normed = (load_as<F>(s + i) - row[r].mean) * row[r].rstd;
            const F ds = load_as<F>(grad_s + i) + row[r].rstd * (g * weight - row[r].total - normed * row[r].along);
            of_weight += g * normed;
            of_bias += g;
            store_as(grad_x + i, ds);
            if (p.scale != nullptr) {
                store_as(grad_branch + i, scaled(ds, p.scale, c));
                of_scale += ds * load_as<F>(branch + i);
            }
        }
        store_vec(sums.weight + c, load_vec<F>(sums.weight + c) + without_first(of_weight, seen));
        store_vec(sums.bias + c, load_vec<F>(sums.bias + c) + without_first(of_bias, seen));
        store_vec(sums.scale + c, load_vec<F>(sums.scale + c) + without_first(of_scale, seen));
    }
};

struct Backward {
    template <class F, class T>
    static GEOVIT_INLINE void on(int64_t channels, int64_t rows, const T* grad_s, const T* grad_y, const T* s, const T* branch,
                                 Parameters p, const float* mean, const float* rstd, T* grad_x, T* grad_branch, Sums sums) {
        const float count = static_cast<float>(channels);
        for (int64_t first = 0; first < rows; first += rows_at_once) {
            Row row[rows_at_once];
            const int64_t some = std::min(rows_at_once, rows - first), i = first * channels;
            for (int64_t r = 0; r < some; ++r) {
                F total{}, along{};
                over_channels<F, Products>(channels, grad_y + i + r * channels, s + i + r * channels, mean[first + r], rstd[first + r],
                                           p.weight, &total, &along);
                row[r] = {mean[first + r], rstd[first + r], p.center * total_of(total) / count, total_of(along) / count};
            }
            over_channels<F, Gradients>(channels, channels, some, grad_s + i, grad_y + i, s + i, branch + i, p,
                                        static_cast<const Row*>(row), grad_x + i, grad_branch + i, sums);
        }
    }
};

Blocks blocks_of(int64_t rows, int64_t channels) {
    const int64_t least = (block_size + channels - 1) / std::max<int64_t>(1, channels);
    return {rows, std::max<int64_t>({1, least, (rows + most_blocks - 1) / most_blocks})};
}

const float* read_optional(const std::optional<Tensor>& tensor) { return tensor ? read(*tensor) : nullptr; }

std::optional<Tensor> checked_scale(const std::optional<Tensor>& scale, int64_t channels) {
    if (!scale.has_value()) return std::nullopt;
    return checked(*scale, {channels}, op, "scale");
}

std::tuple<Tensor, Tensor, Tensor, Tensor> layer_norm_residual(const Tensor& x_, const Tensor& branch_,
                                                               const std::optional<Tensor>& scale_, const Tensor& weight_,
                                                               const Tensor& bias_, double eps, bool rms) {
    STD_TORCH_CHECK(x_.dim() == 2, op, ": x is not (tokens, channels)");
    const int64_t rows = x_.size(0), channels = x_.size(1);
    const auto dtype = x_.scalar_type();
    const Tensor x = checked(x_, {rows, channels}, op, "x", dtype), branch = checked(branch_, {rows, channels}, op, "branch", dtype);
    const std::optional<Tensor> scale = checked_scale(scale_, channels);
    const Tensor weight = checked(weight_, {channels}, op, "weight"), bias = checked(bias_, {channels}, op, "bias");
    const Tensor s = result_like(x), y = result_like(x);
    const Tensor mean = torch::stable::new_empty(x, {rows}, ScalarType::Float), rstd = torch::stable::empty_like(mean);
    const Parameters p{read_optional(scale), read(weight), read(bias), static_cast<float>(eps), rms ? 0.0f : 1.0f};
    const Blocks blocks = blocks_of(rows, channels);
    with_element_type(x, op, [&](auto element) {
        using T = decltype(element);
        torch::stable::parallel_for(0, blocks.count(), 1, [&](int64_t first, int64_t last) {
            const int64_t begin = blocks.begin(first), at = begin * channels;
            dispatch<ByChannels<Forward>>(channels, blocks.end(last - 1) - begin, read<T>(x) + at, read<T>(branch) + at, p,
                                          write<T>(s) + at, write<T>(y) + at, write(mean) + begin, write(rstd) + begin);
        });
    });
    return {s, y, mean, rstd};
}

// Returns the gradients of x and of branch, and those of weight, bias and scale as rows of a matrix. Without a scale the second is
// empty, since it equals the first, and the last row is zero.
std::tuple<Tensor, Tensor, Tensor> layer_norm_residual_backward(const Tensor& grad_s_, const Tensor& grad_y_, const Tensor& s_,
                                                                const Tensor& mean_, const Tensor& rstd_, const Tensor& branch_,
                                                                const std::optional<Tensor>& scale_, const Tensor& weight_,
                                                                bool rms) {
    STD_TORCH_CHECK(s_.dim() == 2, op, ": s is not (tokens, channels)");
    const int64_t rows = s_.size(0), channels = s_.size(1);
    const auto dtype = s_.scalar_type();
    const auto whole = [&](const Tensor& tensor, const char* name) { return checked(tensor, {rows, channels}, op, name, dtype); };
    const Tensor grad_s = whole(grad_s_, "grad_s"), grad_y = whole(grad_y_, "grad_y"), s = whole(s_, "s");
    const Tensor branch = whole(branch_, "branch");
    const Tensor mean = checked(mean_, {rows}, op, "mean"), rstd = checked(rstd_, {rows}, op, "rstd");
    const std::optional<Tensor> scale = checked_scale(scale_, channels);
    const Tensor weight = checked(weight_, {channels}, op, "weight");
    const Tensor none = torch::stable::new_empty(s, {0});
    const Tensor grad_x = result_like(s), grad_branch = scale ? result_like(s) : none;
    const Blocks blocks = blocks_of(rows, channels);
    const Tensor sums = torch::stable::new_zeros(s, {3, blocks.count(), channels}, ScalarType::Float);
    const Parameters p{read_optional(scale), read(weight), nullptr, 0.0f, rms ? 0.0f : 1.0f};
    const int64_t stride = blocks.count() * channels;
    with_element_type(s, op, [&](auto element) {
        using T = decltype(element);
        torch::stable::parallel_for(0, blocks.count(), 1, [&](int64_t first, int64_t last) {
            for (int64_t block = first; block < last; ++block) {
                const int64_t begin = blocks.begin(block), at = begin * channels;
                float* sum = write(sums) + block * channels;
                dispatch<ByChannels<Backward>>(channels, blocks.end(block) - begin, read<T>(grad_s) + at, read<T>(grad_y) + at,
                                               read<T>(s) + at, read<T>(branch) + at, p, read(mean) + begin, read(rstd) + begin,
                                               write<T>(grad_x) + at, write<T>(scale ? grad_branch : grad_x) + at,
                                               Sums{sum, sum + stride, sum + 2 * stride});
            }
        });
    });

    const Tensor total = torch::stable::new_empty(s, {3, channels}, ScalarType::Float);
    const float* of_block = read(sums);
    float* to = write(total);
    for (int64_t kind = 0; kind < 3; ++kind)
        for (int64_t c = 0; c < channels; ++c) {
            double of_all = 0;
            for (int64_t block = 0; block < blocks.count(); ++block) of_all += of_block[kind * stride + block * channels + c];
            to[kind * channels + c] = static_cast<float>(of_all);
        }
    return {grad_x, grad_branch, total};
}

}  // namespace
}  // namespace geovit

STABLE_TORCH_LIBRARY_FRAGMENT(geovit, library) {
    library.def(
        "layer_norm_residual(Tensor x, Tensor branch, Tensor? scale, Tensor weight, Tensor bias, float eps, bool rms)"
        " -> (Tensor, Tensor, Tensor, Tensor)");
    library.def(
        "layer_norm_residual_backward(Tensor grad_s, Tensor grad_y, Tensor s, Tensor mean, Tensor rstd, Tensor branch,"
        " Tensor? scale, Tensor weight, bool rms) -> (Tensor, Tensor, Tensor)");
}

STABLE_TORCH_LIBRARY_IMPL(geovit, CPU, library) {
    library.impl("layer_norm_residual", TORCH_BOX(&geovit::layer_norm_residual));
    library.impl("layer_norm_residual_backward", TORCH_BOX(&geovit::layer_norm_residual_backward));
}
