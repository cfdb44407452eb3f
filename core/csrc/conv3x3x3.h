// Winograd's minimal filtering of volumes: what forward pass and weight gradient share. See conv3x3x3.cpp.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>

#include "channels.h"
#include "gemm.h"
#include "tensor.h"

namespace geovit::volume {

constexpr int64_t points = 6, pairs = points * points, side = 4;
constexpr int64_t apart = 16;  // floats between matrices, so that the same entry of all does not fall into one set of a cache
constexpr float a1 = 0.75f, b1 = 1.5f, a2 = a1 * a1, b2 = b1 * b1, a3 = a2 * a1, b3 = b2 * b1;

// The points of an axis along which Side outputs are computed from Side + 2 inputs: 4 (at 0, a, -a, b, -b and infinity), 2 (at 0, 1,
// -1 and infinity), or 1, which is the direct sum.
template <int Side>
struct Axis;

template <>
struct Axis<4> {
    static constexpr int points = 6;

    // The polynomial of 3 coefficients, divided by what the interpolation asks for.
    template <class F>
    static GEOVIT_INLINE void evaluate_filter(const F* g, F* at) {
        constexpr float fa = 0.5f / (a2 * (a2 - b2)), fb = 0.5f / (b2 * (b2 - a2));
        const F even_a = (g[0] + a2 * g[2]) * fa, odd_a = g[1] * (a1 * fa), even_b = (g[0] + b2 * g[2]) * fb, odd_b = g[1] * (b1 * fb);
        at[0] = g[0] * (1.0f / (a2 * b2));
        at[1] = even_a + odd_a, at[2] = even_a - odd_a, at[3] = even_b + odd_b, at[4] = even_b - odd_b;
        at[5] = g[2];
    }

    template <class F>
    static GEOVIT_INLINE void evaluate_input(const F* d, F* at) {
        const F even_a = d[4] - b2 * d[2], odd_a = a1 * (d[3] - b2 * d[1]), even_b = d[4] - a2 * d[2], odd_b = b1 * (d[3] - a2 * d[1]);
        at[0] = d[4] - (a2 + b2) * d[2] + (a2 * b2) * d[0];
        at[1] = even_a + odd_a, at[2] = even_a - odd_a, at[3] = even_b + odd_b, at[4] = even_b - odd_b;
        at[5] = d[5] - (a2 + b2) * d[3] + (a2 * b2) * d[1];
    }

    template <class F>
    static GEOVIT_INLINE void interpolate(const F* m, F* y) {
        const F even_a = m[1] + m[2], odd_a = m[1] - m[2], even_b = m[3] + m[4], odd_b = m[3] - m[4];
        y[0] = m[0] + even_a + even_b;
        y[1] = a1 * odd_a + b1 * odd_b;
        y[2] = a2 * even_a + b2 * even_b;
        y[3] = a3 * odd_a + b3 * odd_b + m[5];
    }

    // The transposes of the last and of the first: for the weight gradient.
    template <class F>
    static GEOVIT_INLINE void spread(const F* y, F* m) {
        const F even_a = y[0] + a2 * y[2], odd_a = a1 * y[1] + a3 * y[3], even_b = y[0] + b2 * y[2], odd_b = b1 * y[1] + b3 * y[3];
        m[0] = y[0];
        m[1] = even_a + odd_a, m[2] = even_a - odd_a, m[3] = even_b + odd_b, m[4] = even_b - odd_b;
        m[5] = y[3];
    }

    template <class F>
    static GEOVIT_INLINE void gather_filter(const F* at, F* g) {
        constexpr float fa = 0.5f / (a2 * (a2 - b2)), fb = 0.5f / (b2 * (b2 - a2));
        const F even_a = (at[1] + at[2]) * fa, odd_a = (at[1] - at[2]) * fa, even_b = (at[3] + at[4]) * fb, odd_b = (at[3] - at[4]) * fb;
        g[0] = at[0] * (1.0f / (a2 * b2)) + even_a + even_b;
        g[1] = a1 * odd_a + b1 * odd_b;
        g[2] = a2 * even_a + b2 * even_b + at[5];
    }
};

template <>
struct Axis<2> {
    static constexpr int points = 4;

    template <class F>
    static GEOVIT_INLINE void evaluate_filter(const F* g, F* at) {
        const F even = (g[0] + g[2]) * 0.5f, odd = g[1] * 0.5f;
        at[0] = g[0], at[1] = even + odd, at[2] = even - odd, at[3] = g[2];
    }

    template <class F>
    static GEOVIT_INLINE void evaluate_input(const F* d, F* at) {
        at[0] = d[0] - d[2], at[1] = d[1] + d[2], at[2] = d[2] - d[1], at[3] = d[3] - d[1];
    }

    template <class F>
    static GEOVIT_INLINE void interpolate(const F* m, F* y) {
        y[0] = m[0] + m[1] + m[2], y[1] = m[1] - m[2] + m[3];
    }

    template <class F>
    static GEOVIT_INLINE void spread(const F* y, F* m) {
        m[0] = y[0], m[1] = y[0] + y[1], m[2] = y[0] - y[1], m[3] = y[1];
    }

    template <class F>
    static GEOVIT_INLINE void gather_filter(const F* at, F* g) {
        const F even = (at[1] + at[2]) * 0.5f;
        g[0] = at[0] + even, g[1] = (at[1] - at[2]) * 0.5f, g[2] = even + at[3];
    }
};

template <>
struct Axis<1> {
    static constexpr int points = 3;

    template <class F>
    static GEOVIT_INLINE void evaluate_filter(const F* g, F* at) {
        at[0] = g[0], at[1] = g[1], at[2] = g[2];
    }

    template <class F>
    static GEOVIT_INLINE void evaluate_input(const F* d, F* at) {
        at[0] = d[0], at[1] = d[1], at[2] = d[2];
    }

    template <class F>
    static GEOVIT_INLINE void interpolate(const F* m, F* y) {
        y[0] = m[0] + m[1] + m[2];
    }

    template <class F>
    static GEOVIT_INLINE void spread(const F* y, F* m) {
        m[0] = m[1] = m[2] = y[0];
    }

    template <class F>
    static GEOVIT_INLINE void gather_filter(const F* at, F* g) {
        g[0] = at[0], g[1] = at[1], g[2] = at[2];
    }
};

// Numbers of one image, channels last.
struct Size {
    int64_t depth, height, width;

    int64_t positions() const { return depth * height * width; }
};

// Tiles of an image: `deep` outputs on the first axis, `side` on the others.
struct Tiling {
    Size size;
    int64_t deep;

    int64_t down() const { return (size.height + side - 1) / side; }
    int64_t across() const { return (size.width + side - 1) / side; }
    int64_t tiles() const { return (size.depth + deep - 1) / deep * down() * across(); }
};

// With the number of outputs on the first axis for which least is done: a kernel taken to one point costs as much as the products of
// `filter` tiles there. More points need larger tiles to pay. They also round more: a caller with long sums says how many are allowed.
inline Tiling tiling_of(Size size, int64_t images, int64_t deepest = 4) {
    constexpr int64_t filter = 68;  // measured
    Tiling best{size, 1};
    for (const int64_t deep : {2, 4}) {
        if (deep > deepest) break;
        const Tiling other{size, deep};
        const auto cost = [&](const Tiling& t) { return (t.deep + 2) * (filter + images * t.tiles()); };
        if (cost(other) < cost(best)) best = other;
    }
    return best;
}

struct Corner {
    int64_t z, y, x;
    GEOVIT_INLINE Corner(const Tiling& t, int64_t tile)
        : z(tile / (t.down() * t.across()) * t.deep), y(tile / t.across() % t.down() * side), x(tile % t.across() * side) {}
};

// What is read: some channels of all positions of one image. A vector may be read from any position: where it would end beyond the
// tensor it is read from `tail`, which holds the numbers from `tail_from` on.
template <class T>
struct Source {
    const T* image;
    int64_t channels;
    const T* tail;
    int64_t tail_from, end;  // counted from `image`
    const float *mean, *factor, *offset;  // of each channel, or null: what is read is leaky((x - mean) * factor + offset)
    float slope;
};

// One or two tensors (batch, depth, height, width, channels) of which the second has the further channels of the same positions.
template <class T>
struct Input {
    Source<T> sources[2];  // of the first image; the second has no channels if there is no second tensor
    std::unique_ptr<T[]> tail;

    Input(const Tensor& x, const std::optional<Tensor>& beside) : sources{}, tail(new T[static_cast<size_t>(3 * width())]()) {
        const int64_t total = x.numel(), tail_from = std::max<int64_t>(0, total - 2 * width());
        std::copy_n(read<T>(x) + tail_from, total - tail_from, tail.get());
        sources[0] = {read<T>(x), x.size(4), tail.get(), tail_from, total, nullptr, nullptr, nullptr, 0};
        if (beside) sources[1] = {read<T>(*beside), beside->size(4), nullptr, 0, 0, nullptr, nullptr, nullptr, 0};
    }

    // The sources of an image.
    void image(int64_t number, int64_t positions, Source<T>* to) const {
        for (int i = 0; i < 2; ++i) {
            to[i] = sources[i];
            const int64_t before = number * positions * to[i].channels;
            to[i].image += before, to[i].tail_from -= before, to[i].end -= before;
            if (to[i].mean != nullptr) {
                const int64_t channels = number * to[i].channels;
                to[i].mean += channels, to[i].factor += channels, to[i].offset += channels;
            }
        }
    }
};

// Vector c of channels, made ready.
template <class F, bool Affine, class T>
GEOVIT_INLINE F read_vec(const Source<T>& source, const T* near, int64_t c) {
    const F x = load_as<F>(near + c);
    if constexpr (!Affine) return x;
    const F u = (x - load_vec<F>(source.mean + c)) * load_vec<F>(source.factor + c) + load_vec<F>(source.offset + c);
    return u > 0.0f ? u : u * source.slope;
}

// On the second axis, from the rows of `along`: to[pair * distance].
template <class F>
GEOVIT_INLINE void evaluate_rows(const F (*along)[points], float* to, int64_t distance) {
    GEOVIT_UNROLL
    for (int j = 0; j < points; ++j) {
        F d[points], column[points];
        GEOVIT_UNROLL
        for (int i = 0; i < points; ++i) d[i] = along[i][j];
        Axis<4>::evaluate_input(d, column);
        GEOVIT_UNROLL
        for (int i = 0; i < points; ++i) store_vec(to + (i * points + j) * distance, column[i]);
    }
}

// One plane of a tile's inputs, which begin one position before y0 and x0, at all pairs of points: to[pair * distance + channel].
template <class F, bool Affine, class T>
GEOVIT_INLINE void evaluate_plane(const Source<T>& source, Size size, int64_t z, int64_t y0, int64_t x0, float* to,
                                  int64_t distance) {
    constexpr int width = width_of<F>;
    const int64_t channels = source.channels, row = size.width * channels, next = z + 1 < size.depth ? size.height * row : 0;
    const T* const corner = source.image + ((z * size.height + y0 - 1) * size.width + x0 - 1) * channels;
    const bool inside = 0 <= z && z < size.depth && y0 > 0 && y0 + points - 1 <= size.height && x0 > 0 && x0 + points - 1 <= size.width;
    if (inside && channels >= width) {
        for (int64_t at = 0; at < channels; at += width) {
            const int64_t c = at + width <= channels ? at : channels - width;  // the last vector may overlap the one before
            F along[points][points];
            GEOVIT_UNROLL
            for (int i = 0; i < points; ++i) {
                const T* const from = corner + i * row;
                F d[points];
                GEOVIT_UNROLL
                for (int j = 0; j < points; ++j) {
                    d[j] = read_vec<F, Affine>(source, from + j * channels, c);
                    __builtin_prefetch(from + j * channels + next + c);
                }
                Axis<4>::evaluate_input(d, along[i]);
            }
            evaluate_rows(along, to + c, distance);
        }
        return;
    }
    const T* from[pairs];
    for (int64_t i = 0; i < points; ++i)
        for (int64_t j = 0; j < points; ++j) {
            const int64_t y = y0 + i - 1, x = x0 + j - 1, begin = ((z * size.height + y) * size.width + x) * channels;
            const bool seen = 0 <= z && z < size.depth && 0 <= y && y < size.height && 0 <= x && x < size.width;
            // Of fewer channels than a vector holds more is read: nobody uses the rest.
            const T* const near = channels < width && begin + width > source.end ? source.tail + (begin - source.tail_from)
                                                                                 : source.image + begin;
            from[i * points + j] = seen ? near : nullptr;
        }
    for (int64_t at = 0; at < channels; at += width) {
        const int64_t c = at == 0 || at + width <= channels ? at : channels - width;
        F along[points][points];
        GEOVIT_UNROLL
        for (int i = 0; i < points; ++i) {
            F d[points];
            GEOVIT_UNROLL
            for (int j = 0; j < points; ++j) {
                d[j] = F{};
                if (from[i * points + j] != nullptr) d[j] = read_vec<F, Affine>(source, from[i * points + j], c);
            }
            Axis<4>::evaluate_input(d, along[i]);
        }
        evaluate_rows(along, to + c, distance);
    }
}

// The inputs of some tiles of one image at all pairs of points: values (pairs, planes, tiles, in), `values_apart` from pair to pair
// and `plane` from plane to plane.
template <bool Affine, class T>
struct Evaluate {
    template <int Width>
    static GEOVIT_INLINE void run(const Tiling* tiling, const Source<T>* sources, int64_t begin, int64_t count, int64_t in_row,
                                  int64_t plane, int64_t values_apart, float* values) {
        for (int64_t i = 0; i < count; ++i) {
            const Corner corner(*tiling, begin + i);
            for (int64_t k = 0; k < tiling->deep + 2; ++k) {
                float* const to = values + k * plane + i * in_row;
                const int64_t z = corner.z + k - 1;
                evaluate_plane<Vec<Width>, Affine>(sources[0], tiling->size, z, corner.y, corner.x, to, values_apart);
                if (sources[1].channels > 0)
                    evaluate_plane<Vec<Width>, false>(sources[1], tiling->size, z, corner.y, corner.x, to + sources[0].channels,
                                                      values_apart);
            }
        }
    }
};

}  // namespace geovit::volume
