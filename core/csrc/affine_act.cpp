// act((x - mean) * factor + offset + what lies beside, made ready alike), with numbers for each image and channel: an instance norm
// whose moments are known, in one pass.

#include <optional>

#include "channels.h"
#include "memory.h"

namespace geovit {
namespace {

constexpr const char* op = "geovit::affine_act";
constexpr int64_t block_size = 32768;  // numbers of a task

struct Affine {
    const float *mean, *factor, *offset;
};

template <class F>
GEOVIT_INLINE F affine_of(F x, Affine affine, int64_t c) {
    if (affine.mean == nullptr) return x;
    return (x - load_vec<F>(affine.mean + c)) * load_vec<F>(affine.factor + c) + load_vec<F>(affine.offset + c);
}

struct AffineAct {
    template <class F, class T>
    static GEOVIT_INLINE void at(int64_t c, int64_t, const T* x, const T* residual, T* out, Affine affine, Affine beside, float slope) {
        F u = affine_of(load_as<F>(x + c), affine, c);
        if (residual != nullptr) u += affine_of(load_as<F>(residual + c), beside, c);
        store_as(out + c, u > 0.0f ? u : u * slope);
    }

    template <class F, class T>
    static GEOVIT_INLINE void on(int64_t channels, const T* x, const T* residual, T* out, int64_t rows, Affine affine, Affine beside,
                                 float slope) {
        for (int64_t i = 0; i < rows * channels; i += channels)
            over_channels<F, AffineAct>(channels, x + i, residual == nullptr ? nullptr : residual + i, out + i, affine, beside, slope);
    }
};

Tensor affine_act(const Tensor& x_, const Tensor& affine_, const std::optional<Tensor>& residual_, const std::optional<Tensor>& beside_,
                  double slope) {
    STD_TORCH_CHECK(x_.dim() == 3, op, ": x is not (images, positions, channels)");
    const int64_t images = x_.size(0), positions = x_.size(1), channels = x_.size(2);
    const auto dtype = x_.scalar_type();
    const Tensor x = checked(x_, {images, positions, channels}, op, "x", dtype);
    const Tensor affine = checked(affine_, {3, images, channels}, op, "affine");
    Tensor residual, beside;
    STD_TORCH_CHECK(residual_ || !beside_, op, ": an affine map of a residual that is not there");
    if (residual_) residual = checked(*residual_, {images, positions, channels}, op, "residual", dtype);
    if (beside_) beside = checked(*beside_, {3, images, channels}, op, "residual_affine");
    const Tensor out = result_like(x);
    if (x.numel() == 0) return out;
    const Blocks blocks{positions, std::max<int64_t>(1, block_size / channels)};
    const auto of = [&](const Tensor& all, int64_t image) {
        const float* const first = read(all) + image * channels;
        return Affine{first, first + images * channels, first + 2 * images * channels};
    };
    with_element_type(x, op, [&](auto element) {
        using T = decltype(element);
        torch::stable::parallel_for(0, images * blocks.count(), 1, [&](int64_t begin, int64_t end) {
            for (int64_t i = begin; i < end; ++i) {
                const int64_t image = i / blocks.count(), block = i % blocks.count();
                const int64_t at = (image * positions + blocks.begin(block)) * channels;
                dispatch<ByChannels<AffineAct>>(channels, read<T>(x) + at, residual_ ? read<T>(residual) + at : nullptr,
                                                write<T>(out) + at, blocks.end(block) - blocks.begin(block), of(affine, image),
                                                beside_ ? of(beside, image) : Affine{nullptr, nullptr, nullptr},
                                                static_cast<float>(slope));
            }
        });
    });
    return out;
}

}  // namespace
}  // namespace geovit

STABLE_TORCH_LIBRARY_FRAGMENT(geovit, library) {
    library.def("affine_act(Tensor x, Tensor affine, Tensor? residual, Tensor? residual_affine, float slope) -> Tensor");
}

STABLE_TORCH_LIBRARY_IMPL(geovit, CPU, library) { library.impl("affine_act", TORCH_BOX(&geovit::affine_act)); }
