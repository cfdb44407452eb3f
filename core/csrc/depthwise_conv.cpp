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
constexpr int64_t most_blocks = 32;      // of rows, each with its own sums for the gradient of the kernel

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

// Sums of columns column .. column + Columns - 1 of a piece, for Vectors vectors of channels and the taps first_x .. last_x - 1 of
// every row of the kernel; all that they meet lies inside the image.
template <class F, int Vectors, int Columns, class T>
GEOVIT_INLINE void tile(const Geometry& g, const Piece& p, int64_t column, int64_t first_x, int64_t last_x, const T* image,
                        const float* kernel, const float* bias, T* out) {
    constexpr int width = width_of<F>;
    F sum[Columns][Vectors];
    GEOVIT_UNROLL
    for (int j = 0; j < Columns; ++j)
        GEOVIT_UNROLL
        for (int v = 0; v < Vectors; ++v) sum[j][v] = load_vec<F>(bias + v * width);
    for (int64_t kz = p.first_z; kz < p.last_z; ++kz)
        for (int64_t ky = p.first_y; ky < p.last_y; ++ky) {
            const T* row = image + ((p.z + kz - g.before_z) * g.y + p.y + ky - g.before_y) * g.x * g.channels;
            const float* weight = kernel + (kz * g.kernel_y + ky) * g.kernel_x * g.channels;
            for (int64_t kx = first_x; kx < last_x; ++kx) {
                const T* x = row + (column + kx - g.before_x) * g.channels;
                F w[Vectors];
                GEOVIT_UNROLL
                for (int v = 0; v < Vectors; ++v) w[v] = load_vec<F>(weight + kx * g.channels + v * width);
                GEOVIT_UNROLL
                for (int j = 0; j < Columns; ++j)
                    GEOVIT_UNROLL
                    for (int v = 0; v < Vectors; ++v) sum[j][v] += w[v] * load_as<F>(x + j * g.channels + v * width);
            }
        }
    GEOVIT_UNROLL
    for (int j = 0; j < Columns; ++j)
        GEOVIT_UNROLL
        for (int v = 0; v < Vectors; ++v) store_as(out + (column + j) * g.channels + v * width, sum[j][v]);
}

// All columns of a piece: tiles where the kernel lies inside the image, else one column and the taps that it sees.
template <class F, int Vectors, int Columns, class T>
GEOVIT_INLINE void convolve(const Geometry& g, const Piece& p, const T* image, const float* kernel, const float* bias, T* out) {
    for (int64_t column = p.begin; column < p.end;) {
        const int64_t first = column - g.before_x;
        if (column + Columns <= p.end && first >= 0 && first + Columns + g.kernel_x - 1 <= g.x) {
            tile<F, Vectors, Columns>(g, p, column, 0, g.kernel_x, image, kernel, bias, out);
            column += Columns;
        } else {
            tile<F, Vectors, 1>(g, p, column, largest_of(0, -first), smallest_of(g.kernel_x, g.x - first), image, kernel, bias, out);
            ++column;
        }
    }
}

struct Forward {
    // Three vectors and four columns are twelve sums and three weights: what the sixteen registers of AVX2 hold.
    template <class F, class T>
    static GEOVIT_INLINE void on(int64_t channels, Geometry g, Piece p, const T* x, const float* kernel, const float* bias, T* out) {
        constexpr int width = width_of<F>;
        const int64_t image = p.image * g.z * g.y * g.x * channels, row = (p.z * g.y + p.y) * g.x * channels;
        for (int64_t c = 0; c < channels;) {
            if (c + 3 * width <= channels) {
                convolve<F, 3, 4>(g, p, x + image + c, kernel + c, bias + c, out + image + row + c);
                c += 3 * width;
            } else {
                const int64_t at = smallest_of(c, channels - width);
                convolve<F, 1, 8>(g, p, x + image + at, kernel + at, bias + at, out + image + row + at);
                c = at + width;
            }
        }
    }
};

// sums[tap] += grad * x over columns begin .. end - 1, for Taps neighbouring taps of a row of the kernel that all lie inside.
template <class F, int Vectors, int Taps, class T>
GEOVIT_INLINE void correlate(const Geometry& g, int64_t tap, int64_t begin, int64_t end, const T* grad, const T* x, int64_t seen,
                             float* sums) {
    constexpr int width = width_of<F>;
    F sum[Taps][Vectors] = {};
    for (int64_t column = begin; column < end; ++column) {
        const T* from = x + (column + tap - g.before_x) * g.channels;
        F d[Vectors];
        GEOVIT_UNROLL
        for (int v = 0; v < Vectors; ++v) d[v] = load_as<F>(grad + column * g.channels + v * width);
        GEOVIT_UNROLL
        for (int k = 0; k < Taps; ++k)
            GEOVIT_UNROLL
            for (int v = 0; v < Vectors; ++v) sum[k][v] += d[v] * load_as<F>(from + k * g.channels + v * width);
    }
    GEOVIT_UNROLL
    for (int k = 0; k < Taps; ++k)
        GEOVIT_UNROLL
        for (int v = 0; v < Vectors; ++v) {
            float* to = sums + (tap + k) * g.channels + v * width;
            store_vec(to, load_vec<F>(to) + without_first(sum[k][v], seen));
        }
}

// As above over a whole piece: together where all taps lie inside, one by one at the ends of the row.
template <class F, int Vectors, int Taps, class T>
GEOVIT_INLINE void correlate_piece(const Geometry& g, const Piece& p, int64_t tap, const T* grad, const T* x, int64_t seen,
                                   float* sums) {
    const int64_t shift = tap - g.before_x;  // the first tap sees column + shift
    const int64_t begin = smallest_of(p.end, largest_of(p.begin, -shift));
    const int64_t end = largest_of(begin, smallest_of(p.end, g.x - shift - Taps + 1));
    if (begin < end) correlate<F, Vectors, Taps>(g, tap, begin, end, grad, x, seen, sums);
    if (begin == p.begin && end == p.end) return;
    for (int64_t k = 0; k < Taps; ++k) {
        const int64_t first = largest_of(p.begin, -shift - k), last = smallest_of(p.end, g.x - shift - k);
        if (first < begin) correlate<F, Vectors, 1>(g, tap + k, first, smallest_of(begin, last), grad, x, seen, sums);
        if (end < last) correlate<F, Vectors, 1>(g, tap + k, largest_of(end, first), last, grad, x, seen, sums);
    }
}

template <class F, int Vectors, class T>
GEOVIT_INLINE void correlate_all(const Geometry& g, const Piece& p, const T* grad, const T* x, int64_t seen, float* sums, float* bias) {
    constexpr int width = width_of<F>;
    F total[Vectors] = {};
    for (int64_t column = p.begin; column < p.end; ++column)
        GEOVIT_UNROLL
        for (int v = 0; v < Vectors; ++v) total[v] += load_as<F>(grad + column * g.channels + v * width);
    GEOVIT_UNROLL
    for (int v = 0; v < Vectors; ++v) store_vec(bias + v * width, load_vec<F>(bias + v * width) + without_first(total[v], seen));

    for (int64_t kz = p.first_z; kz < p.last_z; ++kz)
        for (int64_t ky = p.first_y; ky < p.last_y; ++ky) {
            const T* from = x + ((p.z + kz - g.before_z) * g.y + p.y + ky - g.before_y) * g.x * g.channels;
            float* to = sums + (kz * g.kernel_y + ky) * g.kernel_x * g.channels;
            int64_t kx = 0;
            for (; kx + 4 <= g.kernel_x; kx += 4) correlate_piece<F, Vectors, 4>(g, p, kx, grad, from, seen, to);
            if (kx + 3 <= g.kernel_x) {
                correlate_piece<F, Vectors, 3>(g, p, kx, grad, from, seen, to);
                kx += 3;
            }
            for (; kx < g.kernel_x; ++kx) correlate_piece<F, Vectors, 1>(g, p, kx, grad, from, seen, to);
        }
}

// Adds the pieces' share of the gradients of kernel and bias to `sums` (taps, channels) and `bias` (channels).
struct KernelGradient {
    template <class F, class T>
    static GEOVIT_INLINE void on(int64_t channels, Geometry g, int64_t first, int64_t last, const T* grad, const T* x, float* sums,
                                 float* bias) {
        constexpr int width = width_of<F>;
        for (int64_t c = 0; c < channels;) {
            const bool several = c + 3 * width <= channels;
            const int64_t at = several ? c : smallest_of(c, channels - width);
            for (int64_t piece = first; piece < last; ++piece) {
                const Piece p = piece_of(g, piece);
                const int64_t image = p.image * g.z * g.y * g.x * channels + at, row = (p.z * g.y + p.y) * g.x * channels;
                if (several)
                    correlate_all<F, 3>(g, p, grad + image + row, x + image, 0, sums + at, bias + at);
                else
                    correlate_all<F, 1>(g, p, grad + image + row, x + image, c - at, sums + at, bias + at);
            }
            c = at + (several ? 3 : 1) * width;
        }
    }
};

template <Activation kind>
struct Activate {
    // `x` may be `out`: the last vector, which reaches back where the width does not divide the size, is read before the loop writes.
    template <class F, class T>
    static GEOVIT_INLINE void on(int64_t size, const T* x, T* out, float slope) {
        constexpr int width = width_of<F>;
        const F last = activate<kind>(load_as<F>(x + size - width), slope);
        for (int64_t i = 0; i + width < size; i += width) store_as(out + i, activate<kind>(load_as<F>(x + i), slope));
        store_as(out + size - width, last);
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
    const Tensor& sums = keep ? kept : out;
    with_element_type(x, op, [&](auto element) {
        using T = decltype(element);
        with_activation(activation, op, [&](auto kind) {
            const T* from = read<T>(x);
            T *to = write<T>(sums), *result = write<T>(out);
            const float *weights = read(kernel), *offset = read(bias);
            torch::stable::parallel_for(0, g.pieces(), grain(g), [&](int64_t begin, int64_t end) {
                for (int64_t index = begin; index < end; ++index) {
                    const Piece p = piece_of(g, index);
                    const int64_t row = ((p.image * g.z + p.z) * g.y + p.y) * g.x, at = (row + p.begin) * g.channels;
                    dispatch<ByChannels<Forward>>(g.channels, g, p, from, weights, offset, to);
                    if (decltype(kind)::value != Activation::none || keep)  // while the piece is in the cache
                        dispatch<ByChannels<Activate<decltype(kind)::value>>>((p.end - p.begin) * g.channels,
                                                                              static_cast<const T*>(to + at), result + at,
                                                                              static_cast<float>(slope));
                }
            });
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
    float* all = write(sums);
    for (int64_t block = 1; block < blocks.count(); ++block)
        for (int64_t i = 0; i < numbers; ++i) all[i] += all[block * numbers + i];
    const Tensor grad_kernel = torch::stable::new_empty(x, {g.kernel_z, g.kernel_y, g.kernel_x, g.channels}, ScalarType::Float);
    const Tensor grad_bias = torch::stable::new_empty(x, {g.channels}, ScalarType::Float);
    std::copy_n(all, g.taps() * g.channels, write(grad_kernel));
    std::copy_n(all + g.taps() * g.channels, g.channels, write(grad_bias));
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
