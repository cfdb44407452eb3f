// Loops over the channels of a token, which lie side by side in memory, in vectors of floats whatever their stored type.
#pragma once

#include <algorithm>
#include <cstdint>

#include "elementwise.h"
#include "tensor.h"
#include "vec.h"

namespace geovit {

template <int Width>
struct ShortTypes {
    typedef uint16_t Short __attribute__((vector_size(2 * Width)));
};

// Width floats from memory of any alignment.
template <class F>
GEOVIT_INLINE F load_as(const float* from) {
    return load_vec<F>(from);
}
template <class F>
GEOVIT_INLINE F load_as(const BFloat16* from) {
    typename ShortTypes<width_of<F>>::Short bits;
    std::memcpy(&bits, from, sizeof(bits));
    return bit_cast<F>(__builtin_convertvector(bits, VecInt<width_of<F>>) << 16);
}

template <class F>
GEOVIT_INLINE void store_as(float* to, F x) {
    store_vec(to, x);
}
template <class F>
GEOVIT_INLINE void store_as(BFloat16* to, F x) {  // as `store` of one number
    using Int = VecInt<width_of<F>>;
    const Int bits = bit_cast<Int>(x);
    const Int rounded = (bits + 0x7fff + ((bits >> 16) & 1)) >> 16;
    const auto kept = __builtin_convertvector(x == x ? rounded : Int{} + 0x7fc0, typename ShortTypes<width_of<F>>::Short);
    std::memcpy(to, &kept, sizeof(kept));
}

// x with its first `count` entries set to zero.
template <class F>
GEOVIT_INLINE F without_first(F x, int64_t count) {
    VecInt<width_of<F>> lane;
    for (int i = 0; i < width_of<F>; ++i) lane[i] = i;
    return lane < static_cast<uint32_t>(count) ? F{} : x;
}

// The first `count` entries of one vector and the others of another.
template <class F>
GEOVIT_INLINE F first_of(F first, F others, int64_t count) {
    VecInt<width_of<F>> lane;
    for (int i = 0; i < width_of<F>; ++i) lane[i] = i;
    return lane < static_cast<uint32_t>(count) ? first : others;
}

// Over the entries of a vector, by halves that stay in registers.
template <class F>
GEOVIT_INLINE float total_of(F x) {
    if constexpr (width_of<F> == 1) {
        return x[0];
    } else {
        Vec<width_of<F> / 2> halves[2];
        std::memcpy(halves, &x, sizeof(x));
        return total_of(halves[0] + halves[1]);
    }
}

// Calls Body::at<F>(c, seen, args...) for vectors that start at channels c and together cover all channels, of which there are
// at least one vector. Where the width does not divide them, the last vector reaches back over `seen` channels that were done
// before: a body may store them again, but has to leave them out of sums (without_first).
template <class F, class Body, class... Args>
GEOVIT_INLINE void over_channels(int64_t channels, Args... args) {
    constexpr int width = width_of<F>;
    int64_t c = 0;
    for (; c + width <= channels; c += width) Body::template at<F>(c, 0, args...);
    if (c < channels) Body::template at<F>(channels - width, c - (channels - width), args...);
}

// Runs Kernel::on<F>(channels, args...) with the widest vector that the channels fill: the instruction set's, four or one.
template <class Kernel>
struct ByChannels {
    template <int Width, class... Args>
    static GEOVIT_INLINE void run(int64_t channels, Args... args) {
        if constexpr (Width > 1)
            if (channels < Width) return run<(Width > 4 ? 4 : 1)>(channels, args...);
        Kernel::template on<Vec<Width>>(channels, args...);
    }
};

// Rows of a matrix in blocks whose size depends on the matrix alone, so that results do not depend on the number of threads.
struct Blocks {
    int64_t rows, size;  // size: rows of a block; the last may have fewer

    int64_t count() const { return (rows + size - 1) / size; }
    int64_t begin(int64_t block) const { return block * size; }
    int64_t end(int64_t block) const { return std::min(rows, (block + 1) * size); }
};

// Calls `task(T{})` with the element type of `tensor`.
template <class Task>
void with_element_type(const Tensor& tensor, const char* op, const Task& task) {
    if (tensor.scalar_type() == ScalarType::Float) return task(float{});
    STD_TORCH_CHECK(tensor.scalar_type() == ScalarType::BFloat16, op, ": only float32 and bfloat16 are compiled");
    task(BFloat16{});
}

}  // namespace geovit
