// The mean and variance of every channel, taken while rows of channels are written: each task leaves a count, means and sums of
// squares about them in a row of its own, and the rows are joined in double precision, always in the same order.
#pragma once

#include <algorithm>
#include <cstdint>

#include "vec.h"

namespace geovit {

// A row: the count, then of each channel a number near the mean (the first one seen), the sum and the sum of squares about it.
// `finish_moments` turns these into mean and sum of squares about the mean. Channels are padded to whole vectors.
inline int64_t moments_row(int64_t channels, int64_t lanes) { return (channels + lanes - 1) / lanes * lanes; }
inline int64_t moments_of(int64_t channels, int64_t lanes) { return 16 + 3 * moments_row(channels, lanes); }

// `count` rows of x, each padded to whole vectors.
template <class F>
GEOVIT_INLINE void add_moments(const float* x, int64_t row, int64_t count, int64_t channels, bool first, float* moments) {
    constexpr int width = width_of<F>;
    const int64_t padded = (channels + width - 1) / width * width;
    float *const shift = moments + 16, *const sums = shift + padded, *const squares = sums + padded;
    for (int64_t c = 0; c < padded; c += width) {
        const F about = first ? load_vec<F>(x + c) : load_vec<F>(shift + c);
        F total{}, square{};
        for (int64_t i = 0; i < count; ++i) {
            const F d = load_vec<F>(x + i * row + c) - about;
            total += d, square += d * d;
        }
        store_vec(shift + c, about);
        store_vec(sums + c, first ? total : load_vec<F>(sums + c) + total);
        store_vec(squares + c, first ? square : load_vec<F>(squares + c) + square);
    }
}

template <class F>
GEOVIT_INLINE void finish_moments(int64_t channels, int64_t count, float* moments) {
    constexpr int width = width_of<F>;
    const int64_t padded = (channels + width - 1) / width * width;
    float *const shift = moments + 16, *const sums = shift + padded, *const squares = sums + padded;
    moments[0] = static_cast<float>(count);
    for (int64_t c = 0; c < padded; c += width) {
        const F total = load_vec<F>(sums + c), mean = total / moments[0];
        store_vec(shift + c, load_vec<F>(shift + c) + mean);
        store_vec(squares + c, load_vec<F>(squares + c) - total * mean);
    }
}

// Of each image and channel (Chan et al. 1983), from the rows of its tasks.
inline void join_moments(const float* moments, int64_t images, int64_t tasks, int64_t channels, int64_t lanes, float* mean,
                         float* variance) {
    const int64_t padded = moments_row(channels, lanes), row = moments_of(channels, lanes);
    for (int64_t image = 0; image < images; ++image)
        for (int64_t c = 0; c < channels; ++c) {
            const float* const first = moments + image * tasks * row;
            double all = 0, center = 0, spread = 0;
            for (int64_t task = 0; task < tasks; ++task) {
                const float* const of = first + task * row;
                all += of[0], center += static_cast<double>(of[0]) * of[16 + c];
            }
            center /= all;
            for (int64_t task = 0; task < tasks; ++task) {
                const float* const of = first + task * row;
                const double away = of[16 + c] - center;
                spread += of[16 + 2 * padded + c] + static_cast<double>(of[0]) * away * away;
            }
            mean[image * channels + c] = static_cast<float>(center);
            variance[image * channels + c] = static_cast<float>(spread / all);
        }
}

}  // namespace geovit
