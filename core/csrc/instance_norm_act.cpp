// act(instance_norm(x) + residual) over channels-last images, and its gradients: two passes over memory each.
//
// The tokens of an image are split into blocks that fit the cache. Each block leaves its sums in a row of its own, and the rows
// are joined in double precision, always in the same order.

#include <cmath>
#include <optional>
#include <tuple>

#include "activation.h"
#include "channels.h"
#include "memory.h"

namespace geovit {
namespace {

constexpr const char* op = "geovit::instance_norm_act";
constexpr int64_t block_size = 32768;  // numbers in a block: 128 KB, which the second-level cache of most CPUs holds twice
constexpr int64_t rows_at_once = 8;    // tokens whose channels are added up in registers before they reach the sums in memory

// sums[c] += the rows' x - shift, or its square.
struct AddRows {
    template <class F, class T>
    static GEOVIT_INLINE void at(int64_t c, int64_t seen, int64_t channels, const T* x, int64_t rows, const float* shift, float* sums,
                                 bool squared) {
        const F from = load_vec<F>(shift + c);
        F total{};
        for (int64_t row = 0; row < rows; ++row) {
            const F d = load_as<F>(x + row * channels + c) - from;
            total += squared ? d * d : d;
        }
        store_vec(sums + c, load_vec<F>(sums + c) + without_first(total, seen));
    }
};

struct Widen {
    template <class F, class T>
    static GEOVIT_INLINE void at(int64_t c, int64_t, const T* x, float* to) {
        store_vec(to + c, load_as<F>(x + c));
    }
};

struct Divide {
    template <class F>
    static GEOVIT_INLINE void at(int64_t c, int64_t, const float* sums, const float* shift, float by, float* to) {
        store_vec(to + c, load_vec<F>(shift + c) + load_vec<F>(sums + c) / by);
    }
};

struct Clear {
    template <class F>
    static GEOVIT_INLINE void at(int64_t c, int64_t, float* to) {
        store_vec(to + c, F{});
    }
};

// The mean of a block and the sum of squares about it. The first sum is about the block's first token, so that channels whose
// mean is large against their deviation lose no digits; `scratch` holds 2 * channels numbers.
struct Moments {
    template <class F, class T>
    static GEOVIT_INLINE void on(int64_t channels, const T* x, int64_t rows, float* mean, float* squares, float* scratch) {
        float *first = scratch, *sums = scratch + channels;
        over_channels<F, Widen>(channels, x, first);
        over_channels<F, Clear>(channels, sums);
        over_channels<F, Clear>(channels, squares);
        for (int64_t row = 0; row < rows; row += rows_at_once)
            over_channels<F, AddRows>(channels, channels, x + row * channels, std::min(rows_at_once, rows - row), first, sums, false);
        over_channels<F, Divide>(channels, sums, first, static_cast<float>(rows), mean);
        for (int64_t row = 0; row < rows; row += rows_at_once)
            over_channels<F, AddRows>(channels, channels, x + row * channels, std::min(rows_at_once, rows - row), mean, squares, true);
    }
};

// Of one image, each with one number for every channel. factor = rstd * weight.
struct Affine {
    const float *mean, *factor, *bias;
};

template <class F, class T>
GEOVIT_INLINE F before_activation(const T* x, const T* residual, Affine affine, int64_t c) {
    const F u = (load_as<F>(x + c) - load_vec<F>(affine.mean + c)) * load_vec<F>(affine.factor + c) + load_vec<F>(affine.bias + c);
    return residual == nullptr ? u : u + load_as<F>(residual + c);
}

template <Activation kind>
struct Apply {
    template <class F, class T>
    static GEOVIT_INLINE void at(int64_t c, int64_t, const T* x, const T* residual, T* out, Affine affine, float slope) {
        store_as(out + c, activate<kind>(before_activation<F>(x, residual, affine, c), slope));
    }

    template <class F, class T>
    static GEOVIT_INLINE void on(int64_t channels, const T* x, const T* residual, T* out, int64_t rows, Affine affine, float slope) {
        for (int64_t i = 0; i < rows * channels; i += channels)
            over_channels<F, Apply>(channels, x + i, residual == nullptr ? nullptr : residual + i, out + i, affine, slope);
    }
};

// g = grad * act'(u), its sums and those of g * (x - mean). With a residual, g is its gradient and is kept.
template <Activation kind>
struct Sums {
    template <class F, class T>
    static GEOVIT_INLINE void at(int64_t c, int64_t seen, int64_t channels, int64_t rows, const T* grad, const T* x, const T* residual,
                                 T* grad_residual, Affine affine, float slope, float* sum, float* sum_x) {
        const F mean = load_vec<F>(affine.mean + c);
        F total{}, total_x{};
        for (int64_t i = 0; i < rows * channels; i += channels) {
            F g = load_as<F>(grad + i + c);
            if constexpr (kind != Activation::none)
                g *= activation_slope<kind>(before_activation<F>(x + i, residual == nullptr ? nullptr : residual + i, affine, c), slope);
            if (grad_residual != nullptr) store_as(grad_residual + i + c, g);
            total += g;
            total_x += g * (load_as<F>(x + i + c) - mean);
        }
        store_vec(sum + c, load_vec<F>(sum + c) + without_first(total, seen));
        store_vec(sum_x + c, load_vec<F>(sum_x + c) + without_first(total_x, seen));
    }

    template <class F, class T>
    static GEOVIT_INLINE void on(int64_t channels, const T* grad, const T* x, const T* residual, T* grad_residual, int64_t rows,
                                 Affine affine, float slope, float* sum, float* sum_x) {
        over_channels<F, Clear>(channels, sum);
        over_channels<F, Clear>(channels, sum_x);
        for (int64_t row = 0; row < rows; row += rows_at_once) {
            const int64_t i = row * channels;
            over_channels<F, Sums>(channels, channels, std::min(rows_at_once, rows - row), grad + i, x + i,
                                   residual == nullptr ? nullptr : residual + i, grad_residual == nullptr ? nullptr : grad_residual + i,
                                   affine, slope, sum, sum_x);
        }
    }
};

// factor * (g - mean of g - (x - mean) * along), where along = rstd^2 * mean of g * (x - mean). Of one image.
struct Projection {
    const float *mean_grad, *along;
};

template <Activation kind>
struct Gradient {
    template <class F, class T>
    static GEOVIT_INLINE void at(int64_t c, int64_t, const T* grad, const T* x, T* grad_x, Affine affine,
                                 Projection projection, float slope) {
        F g = load_as<F>(grad + c);
        if constexpr (kind != Activation::none) g *= activation_slope<kind>(before_activation<F, T>(x, nullptr, affine, c), slope);
        const F centred = load_as<F>(x + c) - load_vec<F>(affine.mean + c);
        const F left = g - load_vec<F>(projection.mean_grad + c) - centred * load_vec<F>(projection.along + c);
        store_as(grad_x + c, load_vec<F>(affine.factor + c) * left);
    }

    template <class F, class T>
    static GEOVIT_INLINE void on(int64_t channels, const T* grad, const T* x, T* grad_x, int64_t rows, Affine affine,
                                 Projection projection, float slope) {
        for (int64_t i = 0; i < rows * channels; i += channels)
            over_channels<F, Gradient>(channels, grad + i, x + i, grad_x + i, affine,
                                       projection, slope);
    }
};

Tensor floats(const Tensor& like, std::initializer_list<int64_t> shape) {
    return torch::stable::new_empty(like, shape, ScalarType::Float);
}

// rstd * weight for each image and channel.
Tensor factors(const Tensor& rstd, const Tensor& weight) {
    const int64_t images = rstd.size(0), channels = rstd.size(1);
    const Tensor out = floats(rstd, {images, channels});
    const float *r = read(rstd), *w = read(weight);
    float* to = write(out);
    for (int64_t i = 0; i < images * channels; ++i) to[i] = r[i] * w[i % channels];
    return out;
}

struct Shape {
    int64_t images, tokens, channels;

    Blocks blocks() const { return {tokens, std::max<int64_t>(1, block_size / std::max<int64_t>(1, channels))}; }
};

Shape shape_of(const Tensor& x) {
    STD_TORCH_CHECK(x.dim() == 3, op, ": x is not (images, tokens, channels)");
    return {x.size(0), x.size(1), x.size(2)};
}

std::optional<Tensor> checked_optional(const std::optional<Tensor>& tensor, Shape s, ScalarType dtype) {
    if (!tensor.has_value()) return std::nullopt;
    return checked(*tensor, {s.images, s.tokens, s.channels}, op, "residual", dtype);
}

// Calls `task(image, block, begin, end)` for the tokens begin..end of every block of every image, blocks in parallel.
template <class Task>
void for_each_block(Shape s, const Task& task) {
    const Blocks blocks = s.blocks();
    const int64_t count = blocks.count();
    torch::stable::parallel_for(0, s.images * count, 1, [&](int64_t begin, int64_t end) {
        for (int64_t i = begin; i < end; ++i) task(i / count, i, blocks.begin(i % count), blocks.end(i % count));
    });
}

// The mean of each image and channel, and 1 / sqrt(variance + eps), from those of the blocks (Chan et al. 1983).
void join(Shape s, const float* means, const float* squares, double eps, float* mean, float* rstd) {
    const Blocks blocks = s.blocks();
    const int64_t count = blocks.count();
    for (int64_t i = 0; i < s.images * s.channels; ++i) {
        const int64_t first = i / s.channels * count * s.channels + i % s.channels;
        double center = 0, spread = 0;
        for (int64_t block = 0; block < count; ++block)
            center += static_cast<double>(blocks.end(block) - blocks.begin(block)) * means[first + block * s.channels];
        center /= static_cast<double>(s.tokens);
        for (int64_t block = 0; block < count; ++block) {
            const double apart = means[first + block * s.channels] - center;
            spread += squares[first + block * s.channels] + static_cast<double>(blocks.end(block) - blocks.begin(block)) * apart * apart;
        }
        mean[i] = static_cast<float>(center);
        rstd[i] = static_cast<float>(1 / std::sqrt(spread / static_cast<double>(s.tokens) + eps));
    }
}

std::tuple<Tensor, Tensor, Tensor> instance_norm_act(const Tensor& x_, const Tensor& weight_, const Tensor& bias_,
                                                     const std::optional<Tensor>& residual_, double eps, int64_t activation,
                                                     double slope) {
    const Shape s = shape_of(x_);
    const auto dtype = x_.scalar_type();
    const Tensor x = checked(x_, {s.images, s.tokens, s.channels}, op, "x", dtype);
    const Tensor weight = checked(weight_, {s.channels}, op, "weight"), bias = checked(bias_, {s.channels}, op, "bias");
    const std::optional<Tensor> residual = checked_optional(residual_, s, dtype);
    const Tensor out = result_like(x);
    const Tensor mean = floats(x, {s.images, s.channels}), rstd = floats(x, {s.images, s.channels});
    const int64_t count = s.blocks().count(), channels = s.channels;
    const Tensor means = floats(x, {s.images * count, channels}), squares = floats(x, {s.images * count, channels});
    const Tensor scratch = floats(x, {s.images * count, 2 * channels});

    with_element_type(x, op, [&](auto element) {
        using T = decltype(element);
        for_each_block(s, [&](int64_t image, int64_t block, int64_t begin, int64_t end) {
            dispatch<ByChannels<Moments>>(channels, read<T>(x) + (image * s.tokens + begin) * channels, end - begin,
                                          write(means) + block * channels, write(squares) + block * channels,
                                          write(scratch) + block * 2 * channels);
        });
    });

    join(s, read(means), read(squares), eps, write(mean), write(rstd));
    const Tensor factor = factors(rstd, weight);
    with_element_type(x, op, [&](auto element) {
        using T = decltype(element);
        with_activation(activation, op, [&](auto kind) {
            for_each_block(s, [&](int64_t image, int64_t, int64_t begin, int64_t end) {
                const int64_t at = (image * s.tokens + begin) * channels;
                const Affine affine{read(mean) + image * channels, read(factor) + image * channels, read(bias)};
                dispatch<ByChannels<Apply<decltype(kind)::value>>>(channels, read<T>(x) + at,
                                                                   residual ? read<T>(*residual) + at : nullptr, write<T>(out) + at,
                                                                   end - begin, affine, static_cast<float>(slope));
            });
        });
    });
    return {out, mean, rstd};
}

// Returns the gradients of x, weight, bias and residual; the last is empty if there is no residual.
std::tuple<Tensor, Tensor, Tensor, Tensor> instance_norm_act_backward(const Tensor& grad_, const Tensor& x_, const Tensor& mean_,
                                                                      const Tensor& rstd_, const Tensor& weight_, const Tensor& bias_,
                                                                      const std::optional<Tensor>& residual_, int64_t activation,
                                                                      double slope_) {
    const Shape s = shape_of(x_);
    const auto dtype = x_.scalar_type();
    const int64_t channels = s.channels, count = s.blocks().count();
    const float slope = static_cast<float>(slope_);
    const Tensor x = checked(x_, {s.images, s.tokens, channels}, op, "x", dtype);
    const Tensor grad = checked(grad_, {s.images, s.tokens, channels}, op, "grad", dtype);
    const Tensor mean = checked(mean_, {s.images, channels}, op, "mean"), rstd = checked(rstd_, {s.images, channels}, op, "rstd");
    const Tensor weight = checked(weight_, {channels}, op, "weight"), bias = checked(bias_, {channels}, op, "bias");
    const std::optional<Tensor> residual = checked_optional(residual_, s, dtype);
    const Tensor factor = factors(rstd, weight);
    const Tensor grad_x = result_like(x);
    const Tensor grad_residual = residual ? result_like(x) : torch::stable::new_empty(x, {0});
    const Tensor sums = floats(x, {s.images * count, channels}), sums_x = floats(x, {s.images * count, channels});

    const auto affine = [&](int64_t image) {
        return Affine{read(mean) + image * channels, read(factor) + image * channels, read(bias)};
    };
    with_element_type(x, op, [&](auto element) {
        using T = decltype(element);
        with_activation(activation, op, [&](auto kind) {
            for_each_block(s, [&](int64_t image, int64_t block, int64_t begin, int64_t end) {
                const int64_t at = (image * s.tokens + begin) * channels;
                dispatch<ByChannels<Sums<decltype(kind)::value>>>(
                    channels, read<T>(grad) + at, read<T>(x) + at, residual ? read<T>(*residual) + at : nullptr,
                    residual ? write<T>(grad_residual) + at : nullptr, end - begin, affine(image), slope,
                    write(sums) + block * channels, write(sums_x) + block * channels);
            });
        });
    });

    const Tensor grad_weight = floats(x, {channels}), grad_bias = floats(x, {channels});
    const Tensor mean_grad = floats(x, {s.images, channels}), along = floats(x, {s.images, channels});
    const float *sum_of = read(sums), *sum_x_of = read(sums_x), *rstd_of = read(rstd);
    float *to_weight = write(grad_weight), *to_bias = write(grad_bias), *to_mean = write(mean_grad), *to_along = write(along);
    for (int64_t c = 0; c < channels; ++c) {
        double of_weight = 0, of_bias = 0;
        for (int64_t image = 0; image < s.images; ++image) {
            double sum = 0, sum_x = 0;
            for (int64_t block = image * count; block < (image + 1) * count; ++block) {
                sum += sum_of[block * channels + c];
                sum_x += sum_x_of[block * channels + c];
            }
            const double r = rstd_of[image * channels + c], tokens = static_cast<double>(s.tokens);
            of_weight += sum_x * r;
            of_bias += sum;
            to_mean[image * channels + c] = static_cast<float>(sum / tokens);
            to_along[image * channels + c] = static_cast<float>(sum_x * r * r / tokens);
        }
        to_weight[c] = static_cast<float>(of_weight);
        to_bias[c] = static_cast<float>(of_bias);
    }

    // With a residual the first pass left g, so that nothing is applied again.
    const auto second_pass = [&](auto element, auto kind, const Tensor& g) {
        using T = decltype(element);
        for_each_block(s, [&](int64_t image, int64_t, int64_t begin, int64_t end) {
            const int64_t at = (image * s.tokens + begin) * channels;
            const Projection projection{read(mean_grad) + image * channels, read(along) + image * channels};
            dispatch<ByChannels<Gradient<decltype(kind)::value>>>(channels, read<T>(g) + at, read<T>(x) + at,
                                                                  write<T>(grad_x) + at, end - begin, affine(image), projection,
                                                                  slope);
        });
    };
    with_element_type(x, op, [&](auto element) {
        if (residual) return second_pass(element, ActivationTag<Activation::none>{}, grad_residual);
        with_activation(activation, op, [&](auto kind) { second_pass(element, kind, grad); });
    });
    return {grad_x, grad_weight, grad_bias, grad_residual};
}

}  // namespace
}  // namespace geovit

STABLE_TORCH_LIBRARY_FRAGMENT(geovit, library) {
    library.def(
        "instance_norm_act(Tensor x, Tensor weight, Tensor bias, Tensor? residual, float eps, int activation, float slope)"
        " -> (Tensor, Tensor, Tensor)");
    library.def(
        "instance_norm_act_backward(Tensor grad, Tensor x, Tensor mean, Tensor rstd, Tensor weight, Tensor bias, Tensor? residual,"
        " int activation, float slope) -> (Tensor, Tensor, Tensor, Tensor)");
}

STABLE_TORCH_LIBRARY_IMPL(geovit, CPU, library) {
    library.impl("instance_norm_act", TORCH_BOX(&geovit::instance_norm_act));
    library.impl("instance_norm_act_backward", TORCH_BOX(&geovit::instance_norm_act_backward));
}
