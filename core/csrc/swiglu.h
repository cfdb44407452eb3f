#pragma once

#include <torch/csrc/stable/tensor.h>

#include <tuple>

namespace geovit {

using torch::stable::Tensor;

// All tensors on the CPU, float32 or bfloat16 alike, of one shape; results are contiguous.
Tensor swiglu(const Tensor& gate, const Tensor& value);
std::tuple<Tensor, Tensor> swiglu_backward(const Tensor& grad, const Tensor& gate, const Tensor& value);

}  // namespace geovit
