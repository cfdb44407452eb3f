// The store of large blocks that results leave when they are freed, for those that follow: as torch does it on a GPU, and as
// inference engines do it within one network.
//
// The store holds no more than `most` bytes, and together with the blocks in use no more than half as much again as were ever in use
// at once: before new memory is asked for, what is above that goes back to the system.
#include "memory.h"

#include <algorithm>
#include <atomic>
#include <cstddef>
#include <deque>
#include <mutex>

#if defined(__linux__)
#include <sys/mman.h>

// Of torch from 2.11 on; with an older one it is null, and all results are malloc's. The code says what it is made of: data, axes,
// sizes, strides, offset, dtype, device and its index, the tensor, layout, metadata (none), and what to call when it is freed.
extern "C" __attribute__((weak)) AOTITorchError torch_from_blob(void*, int64_t, const int64_t*, const int64_t*, int64_t, int32_t,
                                                                int32_t, int32_t, AtenTensorHandle*, int32_t, const uint8_t*,
                                                                int64_t, void (*)(void*, void*), void*);
#endif

namespace geovit {

namespace {

#if defined(__linux__)
constexpr size_t page = size_t{1} << 21, least = size_t{1} << 23, usual = size_t{1} << 30;

// Pages of 2 MB take a fraction of the time to map; Linux by default gives them to a program that asks, if there are any
// (transparent_hugepage=madvise). Nothing depends on its being followed.
void ask_for_large_pages(uintptr_t start, size_t size) {
    const uintptr_t first = (start + page - 1) / page * page, last = (start + size) / page * page;
    if (first < last) madvise(reinterpret_cast<void*>(first), last - first, MADV_HUGEPAGE);
}

struct Block {
    void* start;
    size_t size;
};

void give_back(const Block& block) { munmap(block.start, block.size); }

// Large pages begin at multiples of their size, which one page more than is needed makes room for.
void* asked_of_system(size_t size) {
    void* const got = mmap(nullptr, size + page, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (got == MAP_FAILED) return nullptr;
    const auto start = reinterpret_cast<uintptr_t>(got), first = (start + page - 1) / page * page;
    if (first > start) munmap(got, first - start);
    if (first < start + page) munmap(reinterpret_cast<void*>(first + size), start + page - first);
    ask_for_large_pages(first, size);
    return reinterpret_cast<void*>(first);
}

class Store {
   public:
    // The smallest block kept that is large enough and wastes no more than a quarter, else a new one; null if there is none.
    Block take(size_t size) {
        const size_t used = in_use += size;
        {
            // Whoever finds the store in use, or a child of a process that was forked meanwhile, does without it.
            const std::unique_lock<std::mutex> lock(mutex, std::try_to_lock);
            if (lock) {
                auto best = blocks.end();
                for (auto block = blocks.begin(); block != blocks.end(); ++block)
                    if (block->size >= size && block->size <= size + size / 4 && (best == blocks.end() || block->size < best->size))
                        best = block;
                peak = std::max(peak, used);
                if (best != blocks.end()) {
                    const Block found = *best;
                    in_use += found.size - size;
                    kept -= found.size;
                    blocks.erase(best);
                    return found;
                }
                const size_t together = peak + peak / 2;
                shrink(together > used ? together - used : 0);
            }
        }
        void* const start = asked_of_system(size);
        if (start == nullptr) in_use -= size;
        return {start, size};
    }

    void put(const Block& block) {
        in_use -= block.size;
        const std::unique_lock<std::mutex> lock(mutex, std::try_to_lock);
        if (!lock || block.size > most) return give_back(block);
        shrink(most - block.size);
        blocks.push_back(block);
        kept += block.size;
    }

    int64_t keep(int64_t bytes) {
        const std::lock_guard<std::mutex> lock(mutex);
        const auto before = static_cast<int64_t>(most);
        most = static_cast<size_t>(bytes < 0 ? 0 : bytes);
        peak = in_use;  // what went before counts no more
        shrink(most);
        return before;
    }

   private:
    // The oldest go first: what another phase of the program has left.
    void shrink(size_t allowed) {
        while (kept > allowed) {
            kept -= blocks.front().size;
            give_back(blocks.front());
            blocks.pop_front();
        }
    }

    std::mutex mutex;
    std::deque<Block> blocks;  // the oldest first
    size_t kept = 0, most = usual, peak = 0;
    std::atomic<size_t> in_use{0};
};

// Never destroyed, for tensors may outlive what is destroyed at exit.
Store& store() {
    static Store* const only = new Store;
    return *only;
}

Tensor from_store(const std::vector<int64_t>& shape, size_t bytes, ScalarType dtype) {
    const Block block = store().take((bytes + page - 1) / page * page);
    STD_TORCH_CHECK(block.start != nullptr, "not enough memory: ", bytes, " bytes for a result were refused by the system");
    std::vector<int64_t> strides(shape.size(), 1);
    for (size_t axis = shape.size(); axis-- > 1;) strides[axis - 1] = strides[axis] * shape[axis];
    const auto code = torch::stable::detail::to<int32_t>(torch::stable::detail::from(dtype));
    const auto freed = [](void* start, void* size) { store().put({start, reinterpret_cast<size_t>(size)}); };
    AtenTensorHandle made = nullptr;
    const AOTITorchError error =
        torch_from_blob(block.start, static_cast<int64_t>(shape.size()), shape.data(), strides.data(), 0, code,
                        aoti_torch_device_type_cpu(), -1, &made, aoti_torch_layout_strided(), nullptr, 0, freed,
                        reinterpret_cast<void*>(block.size));
    if (error != 0) store().put(block);
    STD_TORCH_CHECK(error == 0, "torch made no tensor of a block of memory");
    return Tensor(made);
}
#endif

}  // namespace

Tensor result(const Tensor& like, const std::vector<int64_t>& shape, ScalarType dtype) {
#if defined(__linux__)
    const bool known = dtype == ScalarType::Float || dtype == ScalarType::BFloat16;
    size_t bytes = dtype == ScalarType::Float ? 4 : 2;
    for (const int64_t n : shape) bytes *= static_cast<size_t>(n);
    if (known && bytes >= least && torch_from_blob != nullptr) return from_store(shape, bytes, dtype);
    const Tensor made = torch::stable::new_empty(like, shape, dtype);
    ask_for_large_pages(reinterpret_cast<uintptr_t>(made.mutable_data_ptr()), bytes);
    return made;
#else
    return torch::stable::new_empty(like, shape, dtype);
#endif
}

}  // namespace geovit

// For Python: how many bytes of freed results are kept at the most; what is above that goes back to the system at once. Returns the
// former number, and 0 where nothing is ever kept.
extern "C" __attribute__((visibility("default"))) int64_t geovit_keep_results(int64_t bytes) {
#if defined(__linux__)
    return geovit::store().keep(bytes);
#else
    (void)bytes;
    return 0;
#endif
}
