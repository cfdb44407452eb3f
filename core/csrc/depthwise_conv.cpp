// act(depthwise convolution + bias) over channels-last images of one to three axes, and its gradients.
//
// Every axis keeps its length: output i sees inputs i - before .. i - before + kernel - 1, and what lies outside is zero. Lanes
// are channels. A tile of outputs along the last axis stays in registers while the kernel runs over it. The gradient of the input
// is the same convolution with the kernel turned round.

#include <algorithm>
#include <optional>
#include <tuple>
#include <vector>

#include "activation.h"
#include "channels.h"
#include "memory.h"

namespace geovit {
namespace {

constexpr const char* op = "geovit::depthwise_conv";
constexpr int64_t segment = 128;         // outputs along the last axis that are one piece of work
constexpr int64_t block_size = 1 << 15;  // multiplications of vectors in a task, about
constexpr int64_t most_blocks = 64;      // of rows, each with its own sums for the gradient of the kernel

// Sizes of an image and of a kernel, and what lies before an output in each axis; axes that are missing have length 1.
struct Geometry {
    int64_t images, z, y, x, channels;
    int64_t kernel_z, kernel_y, kernel_x, before_z, before_y, before_x;

    int64_t taps() const { return kernel_z * kernel_y * kernel_x; }
    int64_t pieces_in_row() const { return (x + segment - 1) / segment; }
    int64_t pieces() const { return images * z * y * pieces_in_row(); }
};

// A piece of work: columns begin .. end - 1 of a row of an image, and the rows of the kernel that meet the image there.
struct Piece {
    int64_t image, z, y, begin, end, first_z, last_z, first_y, last_y;
};

GEOVIT_INLINE int64_t largest_of(int64_t a, int64_t b) { return a > b ? a : b; }
GEOVIT_INLINE int64_t smallest_of(int64_t a, int64_t b) { return a < b ? a : b; }

GEOVIT_INLINE Piece piece_of(const Geometry& g, int64_t index) {
    const int64_t in_row = (g.x + segment - 1) / segment, row = index / in_row, begin = index % in_row * segment;
    const int64_t y = row % g.y, z = row / g.y % g.z;
    return {row / (g.y * g.z),
            z,
            y,
            begin,
            smallest_of(begin + segment, g.x),
            largest_of(0, g.before_z - z),
            smallest_of(g.kernel_z, g.z + g.before_z - z),
            largest_of(0, g.before_y - y),
            smallest_of(g.kernel_y, g.y + g.before_y - y)};
}

template <class F>
GEOVIT_INLINE F activate_as(Activation kind, F x, float slope) {
    switch (kind) {
        case Activation::none:
            return x;
        case Activation::relu:
            return activate<Activation::relu>(x, slope);
        case Activation::leaky_relu:
            return activate<Activation::leaky_relu>(x, slope);
        case Activation::gelu:
            return activate<Activation::gelu>(x, slope);
        case Activation::silu:
            return activate<Activation::silu>(x, slope);
    }
    return x;
}

template <class T>
struct Outputs {
    T *out, *before;  // before: what the activation is applied to, kept for the backward; null if it is not wanted
    Activation activation;
    float slope;
};

// Outputs column .. column + Columns - 1 of a row, for Vectors vectors of channels. At an Edge some of them, or some of the inputs
// that they see, lie outside the row.
template <class F, int Vectors, int Columns, bool Edge, class T>
GEOVIT_INLINE void tile(const Geometry& g, const Piece& r, int64_t column, const T* image, const float* kernel, const float* bias,
                        const Outputs<T>& outputs) {
    constexpr int width = width_of<F>;
    F sum[Columns][Vectors];
    for (int j = 0; j < Columns; ++j)
        for (int v = 0; v < Vectors; ++v) sum[j][v] = load_vec<F>(bias + v * width);
    for (int64_t kz = r.first_z; kz < r.last_z; ++kz)
        for (int64_t ky = r.first_y; ky < r.last_y; ++ky) {
            const int64_t from = ((r.z + kz - g.before_z) * g.y + r.y + ky - g.before_y) * g.x;
            const float* weight = kernel + (kz * g.kernel_y + ky) * g.kernel_x * g.channels;
            for (int64_t kx = 0; kx < g.kernel_x; ++kx) {
                const int64_t at = column + kx - g.before_x;
                F w[Vectors];
                for (int v = 0; v < Vectors; ++v) w[v] = load_vec<F>(weight + kx * g.channels + v * width);
#pragma GCC unroll 16
                for (int j = 0; j < Columns; ++j) {
                    if (Edge && (at + j < 0 || at + j >= g.x)) continue;
                    const T* x = image + (from + at + j) * g.channels;
#pragma GCC unroll 4
                    for (int v = 0; v < Vectors; ++v) sum[j][v] += w[v] * load_as<F>(x + v * width);
                }
            }
        }
    const int64_t to = ((r.z * g.y + r.y) * g.x + column) * g.channels;
    for (int j = 0; j < Columns; ++j) {
        if (Edge && column + j >= g.x) break;
        for (int v = 0; v < Vectors; ++v) {
            const int64_t i = to + j * g.channels + v * width;
            if (outputs.before != nullptr) store_as(outputs.before + i, sum[j][v]);
            store_as(outputs.out + i, activate_as(outputs.activation, sum[j][v], outputs.slope));
        }
    }
}

template <class F, int Vectors, class T>
GEOVIT_INLINE void columns(const Geometry& g, const Piece& r, const T* image, const float* kernel,
                           const float* bias, const Outputs<T>& outputs) {
    // As many sums as half the registers: 32 of AVX-512, 16 of the others.
    constexpr int most = width_of<F> == 16 ? 16 : 8;
    constexpr int width = most / Vectors;
    for (int64_t column = r.begin; column < r.end; column += width) {
        const int64_t first = column - g.before_x;
        if (first >= 0 && first + width + g.kernel_x - 1 <= g.x)
            tile<F, Vectors, width, false>(g, r, column, image, kernel, bias, outputs);
        else
            tile<F, Vectors, width, true>(g, r, column, image, kernel, bias, outputs);
    }
}

struct Forward {
    template <class F, class T>
    static GEOVIT_INLINE void on(int64_t channels, Geometry g, int64_t piece, const T* x, const float* kernel,
                                 const float* bias, Outputs<T> outputs) {
        constexpr int width = width_of<F>;
        const Piece r = piece_of(g, piece);
        const int64_t image = r.image * g.z * g.y * g.x * channels;
        int64_t c = 0;
        while (c < channels) {
            const int64_t left = (channels - c) / width;  // whole vectors
            const int64_t from = left > 0 ? c : channels - width;
            const T* in = x + image + from;
            Outputs<T> out = outputs;
            out.out += image + from;
            if (out.before != nullptr) out.before += image + from;
            if (left >= 4) {
                columns<F, 4>(g, r, in, kernel + from, bias + from, out);
                c += 4 * width;
            } else if (left >= 2) {
                columns<F, 2>(g, r, in, kernel + from, bias + from, out);
                c += 2 * width;
            } else {
                columns<F, 1>(g, r, in, kernel + from, bias + from, out);
                c = from + width;
            }
        }
    }
};

// sums[tap] += grad * x along a piece, for Taps neighbouring taps of one row of the kernel.
template <class F, int Vectors, int Taps, class T>
GEOVIT_INLINE void correlate(const Geometry& g, const Piece& r, int64_t first_tap, const T* grad, const T* x, int64_t seen, float* sums) {
    constexpr int width = width_of<F>;
    F sum[Taps][Vectors] = {};
    const int64_t shift = first_tap - g.before_x;
    // From `inner` to `outer` every tap sees an input.
    const int64_t inner = smallest_of(r.end, largest_of(r.begin, -shift));
    const int64_t outer = largest_of(inner, smallest_of(r.end, g.x - shift - Taps + 1));
    const auto edge = [&](int64_t begin, int64_t end) __attribute__((always_inline)) {
        for (int64_t column = begin; column < end; ++column)
            for (int k = 0; k < Taps; ++k) {
                const int64_t at = column + shift + k;
                if (at < 0 || at >= g.x) continue;
                for (int v = 0; v < Vectors; ++v)
                    sum[k][v] += load_as<F>(grad + column * g.channels + v * width) * load_as<F>(x + at * g.channels + v * width);
            }
    };
    edge(r.begin, inner);
    for (int64_t column = inner; column < outer; ++column) {
        F d[Vectors];
        for (int v = 0; v < Vectors; ++v) d[v] = load_as<F>(grad + column * g.channels + v * width);
        const T* from = x + (column + shift) * g.channels;
#pragma GCC unroll 4
        for (int k = 0; k < Taps; ++k)
#pragma GCC unroll 4
            for (int v = 0; v < Vectors; ++v) sum[k][v] += d[v] * load_as<F>(from + k * g.channels + v * width);
    }
    edge(outer, r.end);
    for (int k = 0; k < Taps; ++k)
        for (int v = 0; v < Vectors; ++v) {
            float* to = sums + (first_tap + k) * g.channels + v * width;
            store_vec(to, load_vec<F>(to) + without_first(sum[k][v], seen));
        }
}

template <class F, int Vectors, class T>
GEOVIT_INLINE void correlate_piece(const Geometry& g, const Piece& r, const T* grad, const T* x, int64_t seen, float* sums, float* bias) {
    constexpr int width = width_of<F>;
    F total[Vectors] = {};
    for (int64_t column = r.begin; column < r.end; ++column)
        for (int v = 0; v < Vectors; ++v) total[v] += load_as<F>(grad + column * g.channels + v * width);
    for (int v = 0; v < Vectors; ++v) store_vec(bias + v * width, load_vec<F>(bias + v * width) + without_first(total[v], seen));

    for (int64_t kz = r.first_z; kz < r.last_z; ++kz)
        for (int64_t ky = r.first_y; ky < r.last_y; ++ky) {
            const T* from = x + ((r.z + kz - g.before_z) * g.y + r.y + ky - g.before_y) * g.x * g.channels;
            float* to = sums + (kz * g.kernel_y + ky) * g.kernel_x * g.channels;
            int64_t kx = 0;
            for (; kx + 4 <= g.kernel_x; kx += 4) correlate<F, Vectors, 4>(g, r, kx, grad, from, seen, to);
            if (g.kernel_x - kx == 3) correlate<F, Vectors, 3>(g, r, kx, grad, from, seen, to);
            if (g.kernel_x - kx == 2) correlate<F, Vectors, 2>(g, r, kx, grad, from, seen, to);
            if (g.kernel_x - kx == 1) correlate<F, Vectors, 1>(g, r, kx, grad, from, seen, to);
        }
}

// Adds the pieces' share of the gradients of kernel and bias to `sums` (taps, channels) and `bias` (channels).
struct KernelGradient {
    template <class F, class T>
    static GEOVIT_INLINE void on(int64_t channels, Geometry g, int64_t first, int64_t last, const T* grad, const T* x,
                                 float* sums, float* bias) {
        constexpr int width = width_of<F>;
        constexpr int vectors = width == 16 ? 4 : 2;
        int64_t c = 0;
        while (c < channels) {
            const int64_t left = (channels - c) / width, from = left > 0 ? c : channels - width, seen = c - from;
            for (int64_t piece = first; piece < last; ++piece) {
                const Piece r = piece_of(g, piece);
                const int64_t image = r.image * g.z * g.y * g.x * channels + from;
                const T *d = grad + image + (r.z * g.y + r.y) * g.x * channels, *in = x + image;
                if (left >= vectors)
                    correlate_piece<F, vectors>(g, r, d, in, 0, sums + from, bias + from);
                else
                    correlate_piece<F, 1>(g, r, d, in, seen, sums + from, bias + from);
            }
            c = from + (left >= vectors ? vectors : 1) * width;
        }
    }
};

template <Activation kind>
struct ThroughActivation {
    template <class F, class T>
    static GEOVIT_INLINE void at(int64_t i, int64_t, const T* grad, const T* before, T* out, float slope) {
        store_as(out + i, load_as<F>(grad + i) * activation_slope<kind>(load_as<F>(before + i), slope));
    }

    template <class F, class T>
    static GEOVIT_INLINE void on(int64_t size, const T* grad, const T* before, T* out, float slope) {
        over_channels<F, ThroughActivation>(size, grad, before, out, slope);
    }
};

Geometry geometry(const Tensor& x, const Tensor& kernel, const std::vector<int64_t>& before) {
    STD_TORCH_CHECK(x.dim() == 5 && kernel.dim() == 4 && before.size() == 3, op, ": expected 5-D x, 4-D kernel, 3 numbers before");
    for (int64_t axis = 0; axis < 3; ++axis)
        STD_TORCH_CHECK(before[axis] >= 0 && before[axis] < kernel.size(axis), op, ": before lies outside the kernel");
    return {x.size(0),      x.size(1),      x.size(2), x.size(3), x.size(4), kernel.size(0),
            kernel.size(1), kernel.size(2), before[0], before[1], before[2]};
}

Tensor checked_image(const Tensor& tensor, const Geometry& g, const char* name, ScalarType dtype) {
    return checked(tensor, {g.images, g.z, g.y, g.x, g.channels}, op, name, dtype);
}

// Pieces of one task, so that it has about `block_size` multiplications of vectors.
int64_t grain(const Geometry& g) {
    return std::max<int64_t>(1, block_size * 16 / std::max<int64_t>(1, g.taps() * std::min(g.x, segment) * g.channels));
}

// Returns the result and, if asked for, what the activation was applied to; else that is empty.
std::tuple<Tensor, Tensor> depthwise_conv(const Tensor& x_, const Tensor& kernel_, const Tensor& bias_,
                                          const std::vector<int64_t>& before, int64_t activation, double slope, bool keep) {
    const Geometry g = geometry(x_, kernel_, before);
    const auto dtype = x_.scalar_type();
    const Tensor x = checked_image(x_, g, "x", dtype);
    const Tensor kernel = checked(kernel_, {g.kernel_z, g.kernel_y, g.kernel_x, g.channels}, op, "kernel");
    const Tensor bias = checked(bias_, {g.channels}, op, "bias");
    const Tensor out = result_like(x), kept = keep ? result_like(x) : torch::stable::new_empty(x, {0});
    STD_TORCH_CHECK(0 <= activation && activation <= static_cast<int64_t>(Activation::silu), op, ": unknown activation");
    with_element_type(x, op, [&](auto element) {
        using T = decltype(element);
        const Outputs<T> outputs{write<T>(out), keep ? write<T>(kept) : nullptr, static_cast<Activation>(activation),
                                 static_cast<float>(slope)};
        torch::stable::parallel_for(0, g.pieces(), grain(g), [&](int64_t begin, int64_t end) {
            for (int64_t piece = begin; piece < end; ++piece)
                dispatch<ByChannels<Forward>>(g.channels, g, piece, read<T>(x), read(kernel), read(bias), outputs);
        });
    });
    return {out, kept};
}

// The gradient of what the activation was applied to.
Tensor activation_backward(const Tensor& grad_, const Tensor& before_, int64_t activation, double slope) {
    const int64_t size = before_.numel();
    const auto dtype = before_.scalar_type();
    STD_TORCH_CHECK(grad_.numel() == size && grad_.scalar_type() == dtype, op, ": grad has another size or dtype than the result");
    STD_TORCH_CHECK(grad_.is_cpu() && before_.is_cpu(), op, ": a tensor is not on the CPU");
    const Tensor grad = torch::stable::contiguous(grad_), before = torch::stable::contiguous(before_), out = result_like(before);
    with_element_type(before, op, [&](auto element) {
        using T = decltype(element);
        with_activation(activation, op, [&](auto kind) {
            torch::stable::parallel_for(0, size, block_size, [&](int64_t begin, int64_t end) {
                dispatch<ByChannels<ThroughActivation<decltype(kind)::value>>>(
                    end - begin, read<T>(grad) + begin, read<T>(before) + begin, write<T>(out) + begin, static_cast<float>(slope));
            });
        });
    });
    return out;
}

// Returns the gradients of kernel and bias.
std::tuple<Tensor, Tensor> depthwise_conv_kernel_gradient(const Tensor& grad_, const Tensor& x_, const Tensor& kernel,
                                                          const std::vector<int64_t>& before) {
    const Geometry g = geometry(x_, kernel, before);
    const auto dtype = x_.scalar_type();
    const Tensor x = checked_image(x_, g, "x", dtype), grad = checked_image(grad_, g, "grad", dtype);
    const Blocks blocks{g.pieces(), std::max(grain(g), (g.pieces() + most_blocks - 1) / most_blocks)};
    const int64_t numbers = (g.taps() + 1) * g.channels;
    const Tensor sums = torch::stable::new_zeros(x, {std::max<int64_t>(1, blocks.count()), numbers}, ScalarType::Float);
    with_element_type(x, op, [&](auto element) {
        using T = decltype(element);
        torch::stable::parallel_for(0, blocks.count(), 1, [&](int64_t first, int64_t last) {
            for (int64_t block = first; block < last; ++block) {
                float* sum = write(sums) + block * numbers;
                dispatch<ByChannels<KernelGradient>>(g.channels, g, blocks.begin(block), blocks.end(block), read<T>(grad), read<T>(x),
                                                     sum, sum + g.taps() * g.channels);
            }
        });
    });
    for (int64_t block = 1; block < blocks.count(); ++block)
        for (int64_t i = 0; i < numbers; ++i) write(sums)[i] += read(sums)[block * numbers + i];
    const Tensor grad_kernel = torch::stable::new_empty(x, {g.kernel_z, g.kernel_y, g.kernel_x, g.channels}, ScalarType::Float);
    const Tensor grad_bias = torch::stable::new_empty(x, {g.channels}, ScalarType::Float);
    std::copy_n(read(sums), g.taps() * g.channels, write(grad_kernel));
    std::copy_n(read(sums) + g.taps() * g.channels, g.channels, write(grad_bias));
    return {grad_kernel, grad_bias};
}

}  // namespace
}  // namespace geovit

STABLE_TORCH_LIBRARY_FRAGMENT(geovit, library) {
    library.def(
        "depthwise_conv(Tensor x, Tensor kernel, Tensor bias, int[] before, int activation, float slope, bool keep)"
        " -> (Tensor, Tensor)");
    library.def("depthwise_conv_activation_gradient(Tensor grad, Tensor before, int activation, float slope) -> Tensor");
    library.def("depthwise_conv_kernel_gradient(Tensor grad, Tensor x, Tensor kernel, int[] before) -> (Tensor, Tensor)");
}

STABLE_TORCH_LIBRARY_IMPL(geovit, CPU, library) {
    library.impl("depthwise_conv", TORCH_BOX(&geovit::depthwise_conv));
    library.impl("depthwise_conv_activation_gradient", TORCH_BOX(&geovit::activation_backward));
    library.impl("depthwise_conv_kernel_gradient", TORCH_BOX(&geovit::depthwise_conv_kernel_gradient));
}
