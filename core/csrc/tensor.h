// What every op does with its tensors before the arithmetic starts.
#pragma once

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include <cstdint>
#include <initializer_list>

namespace geovit {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;

// A contiguous tensor of the CPU with this shape and dtype; the error says what was given. Python has checked before: this
// guards calls through torch.ops.
inline Tensor checked(const Tensor& tensor, std::initializer_list<int64_t> shape, const char* op, const char* name,
                      ScalarType dtype = ScalarType::Float) {
    STD_TORCH_CHECK(tensor.is_cpu(), op, ": ", name, " is not on the CPU");
    STD_TORCH_CHECK(tensor.scalar_type() == dtype, op, ": ", name, " has another dtype than the kernel");
    bool same = tensor.dim() == static_cast<int64_t>(shape.size());
    int64_t axis = 0;
    for (const int64_t size : shape) {
        same = same && tensor.size(axis) == size;
        ++axis;
    }
    STD_TORCH_CHECK(same, op, ": ", name, " has another shape than the other tensors ask for");
    return torch::stable::contiguous(tensor);
}

template <class T = float>
const T* read(const Tensor& tensor) {
    return static_cast<const T*>(tensor.const_data_ptr());
}

template <class T = float>
T* write(const Tensor& tensor) {
    return static_cast<T*>(tensor.mutable_data_ptr());
}

}  // namespace geovit
