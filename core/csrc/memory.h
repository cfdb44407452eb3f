// Where results are written to.
#pragma once

#include <cstdint>
#include <initializer_list>
#include <vector>

#include "tensor.h"

namespace geovit {

// Uninitialised and contiguous, on the CPU, of float32 or bfloat16.
//
// Large blocks of malloc come straight from the operating system (always above 32 MB, and the end of its heap goes back, too), so
// that the next result has its pages found, cleared and mapped anew: that can take as long as the kernels do. Results above 8 MB
// therefore come from a store of blocks that earlier ones have left (memory.cpp). Smaller ones are malloc's.
Tensor result(const Tensor& like, const std::vector<int64_t>& shape, ScalarType dtype);

// The same, of the dtype of `like`.
inline Tensor result(const Tensor& like, const std::vector<int64_t>& shape) { return result(like, shape, like.scalar_type()); }

// The same, of the shape and dtype of `like`.
inline Tensor result_like(const Tensor& like) {
    std::vector<int64_t> shape;
    for (int64_t axis = 0; axis < like.dim(); ++axis) shape.push_back(like.size(axis));
    return result(like, shape);
}

}  // namespace geovit
