// Where results are written to.
#pragma once

#include <cstdint>

#include "tensor.h"

#if defined(__linux__)
#include <sys/mman.h>
#endif

namespace geovit {

// Large blocks come straight from the operating system (always above 32 MB, the largest size that malloc keeps for reuse), and their
// pages are mapped one by one as they are first written: with pages of 4 KB that takes several times as long as the writing. So this
// asks for pages of 2 MB, which Linux by default gives to a program that asks (transparent_hugepage=madvise); torch's own allocations
// do so with THP_MEM_ALLOC_ENABLE=1. It is a hint: nothing depends on its being followed.
inline void result_pages(const Tensor& out) {
#if defined(__linux__)
    constexpr uintptr_t page = uintptr_t{1} << 21, least = uintptr_t{1} << 22;
    const uintptr_t size = static_cast<uintptr_t>(out.numel()) * out.element_size();
    if (size >= least) {
        const auto start = reinterpret_cast<uintptr_t>(out.mutable_data_ptr());
        const uintptr_t first = (start + page - 1) / page * page, last = (start + size) / page * page;
        madvise(reinterpret_cast<void*>(first), last - first, MADV_HUGEPAGE);
    }
#else
    (void)out;
#endif
}

// Uninitialised, of the shape and dtype of `like`, which is contiguous.
inline Tensor result_like(const Tensor& like) {
    const Tensor out = torch::stable::empty_like(like);
    result_pages(out);
    return out;
}

}  // namespace geovit
