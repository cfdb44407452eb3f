// swiglu(gate, value) = gate * sigmoid(gate) * value and its gradients, in one pass over memory.

#include <tuple>

#include "channels.h"
#include "memory.h"

namespace geovit {
namespace {

constexpr const char* op = "geovit::swiglu";
constexpr int64_t grain_size = 16384;  // elements per task: some microseconds of work, well above the cost of waking a thread

struct Forward {
    template <int, class T>
    static GEOVIT_INLINE void run(const T* gate, const T* value, T* out, int64_t size) {
        for (int64_t i = 0; i < size; ++i) {
            const float g = load(gate[i]);
            store(out[i], g * sigmoid(g) * load(value[i]));
        }
    }
};

struct Backward {
    template <int, class T>
    static GEOVIT_INLINE void run(const T* grad, const T* gate, const T* value, T* grad_gate, T* grad_value, int64_t size) {
        for (int64_t i = 0; i < size; ++i) {
            const float d = load(grad[i]), g = load(gate[i]), s = sigmoid(g);
            store(grad_gate[i], d * load(value[i]) * s * (1.0f + g * (1.0f - s)));
            store(grad_value[i], d * g * s);
        }
    }
};

void check(const Tensor& tensor, const Tensor& like, const char* name) {
    STD_TORCH_CHECK(tensor.is_cpu(), op, ": ", name, " is not on the CPU");
    STD_TORCH_CHECK(tensor.scalar_type() == like.scalar_type(), op, ": ", name, " has another dtype than gate");
    STD_TORCH_CHECK(tensor.numel() == like.numel(), op, ": ", name, " has another size than gate");
}

Tensor swiglu(const Tensor& gate_, const Tensor& value_) {
    check(gate_, gate_, "gate");
    check(value_, gate_, "value");
    const Tensor gate = torch::stable::contiguous(gate_), value = torch::stable::contiguous(value_);
    const Tensor out = result_like(gate);
    with_element_type(gate, op, [&](auto element) {
        using T = decltype(element);
        const T *g = read<T>(gate), *v = read<T>(value);
        T* o = write<T>(out);
        torch::stable::parallel_for(0, gate.numel(), grain_size, [=](int64_t begin, int64_t end) {
            dispatch<Forward>(g + begin, v + begin, o + begin, end - begin);
        });
    });
    return out;
}

std::tuple<Tensor, Tensor> swiglu_backward(const Tensor& grad_, const Tensor& gate_, const Tensor& value_) {
    check(gate_, gate_, "gate");
    check(value_, gate_, "value");
    check(grad_, gate_, "grad");
    const Tensor grad = torch::stable::contiguous(grad_);
    const Tensor gate = torch::stable::contiguous(gate_), value = torch::stable::contiguous(value_);
    const Tensor grad_gate = result_like(gate), grad_value = result_like(gate);
    with_element_type(gate, op, [&](auto element) {
        using T = decltype(element);
        const T *d = read<T>(grad), *g = read<T>(gate), *v = read<T>(value);
        T *dg = write<T>(grad_gate), *dv = write<T>(grad_value);
        torch::stable::parallel_for(0, gate.numel(), grain_size, [=](int64_t begin, int64_t end) {
            dispatch<Backward>(d + begin, g + begin, v + begin, dg + begin, dv + begin, end - begin);
        });
    });
    return {grad_gate, grad_value};
}

}  // namespace
}  // namespace geovit

STABLE_TORCH_LIBRARY_FRAGMENT(geovit, library) {
    library.def("swiglu(Tensor gate, Tensor value) -> Tensor");
    library.def("swiglu_backward(Tensor grad, Tensor gate, Tensor value) -> (Tensor, Tensor)");
}

STABLE_TORCH_LIBRARY_IMPL(geovit, CPU, library) {
    library.impl("swiglu", TORCH_BOX(&geovit::swiglu));
    library.impl("swiglu_backward", TORCH_BOX(&geovit::swiglu_backward));
}
