// Where the tiles of a local attention lie, and how they are shared out over threads. See core/ops/local_attention/pattern.py for
// what a block is, and native.py for how blocks are written into one tensor of integers.
#pragma once

#include <algorithm>
#include <cstdint>
#include <memory>
#include <vector>

#include "tensor.h"

namespace geovit::tiled {

constexpr int64_t most_axes = 3;

struct AxisTiles {
    int64_t tiles, queries, keys, all, rows;  // all: with the keys outside; rows: of the bias table
    const int32_t *query, *key;               // positions: (tiles, queries), (tiles, keys)
    const int32_t* row;                       // of the bias table, or negative for a pair unseen: (queries, all)
};

struct Block {
    AxisTiles axes[most_axes];
    bool masked;                            // whether a pair is unseen
    int64_t tiles;                          // in one image
    int64_t queries, inside, outside, keys;  // of a tile; keys: those inside the image, then the constant ones that are attended
};

struct Layout {
    int64_t axes, size[most_axes], positions;
    int64_t rows;  // of the bias table
    std::vector<Block> blocks;
    bool disjoint;  // no key belongs to two tiles
};

// Reads what native.py wrote. Every number is checked, so that no layout can lead outside the image or the bias table.
inline Layout read_layout(const Tensor& packed, const Tensor& q, bool sigmoid) {
    Layout layout{};
    layout.axes = q.dim() - 3;
    layout.positions = 1;
    for (int64_t a = 0; a < layout.axes; ++a) layout.positions *= layout.size[a] = q.size(1 + a);
    layout.disjoint = true;
    const int32_t* next = read<int32_t>(packed);
    const int32_t* const end = next + packed.numel();
    const auto take = [&](int64_t count, int64_t low, int64_t high) {  // numbers from low up to, not including, high
        STD_TORCH_CHECK(0 <= count && count <= end - next, "geovit::local_attention: the layout ends too early");
        for (int64_t i = 0; i < count; ++i)
            STD_TORCH_CHECK(low <= next[i] && next[i] < high, "geovit::local_attention: the layout has a number out of range");
        next += count;
        return next - count;
    };
    constexpr int64_t limit = int64_t{1} << 31;
    int64_t asked = 0;
    for (int64_t count = *take(1, 0, limit); count > 0; --count) {
        Block block{};
        block.masked = *take(1, 0, 2) != 0;
        block.tiles = block.queries = block.inside = 1;
        int64_t all = 1, rows = 1;
        for (int64_t a = 0; a < layout.axes; ++a) {
            AxisTiles& axis = block.axes[a];
            const int32_t* counts = take(5, 1, limit);
            axis.tiles = counts[0], axis.queries = counts[1], axis.keys = counts[2], axis.all = counts[3], axis.rows = counts[4];
            STD_TORCH_CHECK(axis.keys <= axis.all, "geovit::local_attention: the layout counts fewer keys than lie in the image");
            axis.query = take(axis.tiles * axis.queries, 0, layout.size[a]);
            axis.key = take(axis.tiles * axis.keys, 0, layout.size[a]);
            axis.row = take(axis.queries * axis.all, -1, axis.rows);
            block.tiles *= axis.tiles, block.queries *= axis.queries, block.inside *= axis.keys;
            all *= axis.all, rows *= axis.rows;
            STD_TORCH_CHECK(rows < limit, "geovit::local_attention: the layout has more rows than are counted in 32 bits");
            // Every position is a query once. So if all tiles ask their own positions, each is a key once, too.
            layout.disjoint = layout.disjoint && axis.queries == axis.keys && std::equal(axis.query, axis.key, axis.key);
        }
        block.outside = all - block.inside;
        block.keys = block.inside + (sigmoid ? block.outside : std::min<int64_t>(block.outside, 1));
        const bool same = layout.blocks.empty() || rows == layout.rows;
        STD_TORCH_CHECK(same, "geovit::local_attention: the layout's blocks differ in rows");
        layout.rows = rows;
        asked += block.tiles * block.queries;
        layout.blocks.push_back(block);
    }
    STD_TORCH_CHECK(asked == layout.positions, "geovit::local_attention: the layout is of an image of another size");
    return layout;
}

// Row-major positions in the image of a tile's queries or keys.
inline void tile_positions(const Layout& layout, const Block& block, int64_t tile, bool keys, int64_t* positions) {
    int64_t index[most_axes] = {};
    for (int64_t a = layout.axes - 1; a >= 0; --a) {
        index[a] = tile % block.axes[a].tiles;
        tile /= block.axes[a].tiles;
    }
    positions[0] = 0;
    int64_t count = 1;
    for (int64_t a = 0; a < layout.axes; ++a) {
        const AxisTiles& axis = block.axes[a];
        const int64_t extent = keys ? axis.keys : axis.queries;
        const int32_t* along = (keys ? axis.key : axis.query) + index[a] * extent;
        for (int64_t i = count - 1; i >= 0; --i) {  // from the back, so that the list can grow in place
            const int64_t base = positions[i] * layout.size[a];
            for (int64_t j = extent - 1; j >= 0; --j) positions[i * extent + j] = base + along[j];
        }
        count *= extent;
    }
}

// Some tiles of a block, counted through the batch, in one head.
struct Part {
    int64_t block, head, begin, end;
    int64_t group;  // its number among the parts of that block and head
};

// Parts in the order of their work. An item is a run of parts that one thread does one after the other.
struct Work {
    std::vector<Part> parts;
    std::vector<int64_t> first{0};  // part of each item, and the end
    std::vector<int64_t> start{0};  // multiplications before each item, and all
    std::vector<int64_t> groups;    // of each block

    void add(const Layout& layout, const Part& part) {
        const Block& block = layout.blocks[static_cast<size_t>(part.block)];
        parts.push_back(part);
        pending += (part.end - part.begin) * block.queries * block.keys;
    }
    void close_item() {
        first.push_back(static_cast<int64_t>(parts.size()));
        start.push_back(start.back() + pending);
        pending = 0;
    }

    // Calls task(first part, last part) with runs of items of about equal work, on several threads. Which thread does an item
    // changes nothing in it.
    template <class Task>
    void run(int64_t grain, const Task& task) const {
        torch::stable::parallel_for(0, start.back(), grain, [&](int64_t begin, int64_t end) {
            const auto item = [&](int64_t x) { return std::lower_bound(start.begin(), start.end(), x) - start.begin(); };
            const Part* all = parts.data();
            const int64_t from = item(begin), to = item(end);
            if (from < to) task(all + first[static_cast<size_t>(from)], all + first[static_cast<size_t>(to)]);
        });
    }

   private:
    int64_t pending = 0;
};

// Memory for floats, aligned to whole cache lines and not filled.
class Buffer {
   public:
    explicit Buffer(int64_t count) : owned(new float[static_cast<size_t>(count) + 16]) {}
    float* data() const {
        return reinterpret_cast<float*>((reinterpret_cast<uintptr_t>(owned.get()) + 63) / 64 * 64);
    }

   private:
    std::unique_ptr<float[]> owned;
};

}  // namespace geovit::tiled
