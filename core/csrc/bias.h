// The bias of every pair of a tile, gathered from the table of relative positions, and the gradient on its way back.
#pragma once

#include <cmath>
#include <cstdint>
#include <vector>

#include "dispatch.h"
#include "tiles.h"

namespace geovit::tiled {

constexpr float log2e = 1.44269504088896341f;

inline int64_t padded(int64_t count, int64_t width) { return (count + width - 1) / width * width; }

// Row of the bias table for each query of a block and each of its keys, first those inside the image: (N, inside + outside).
inline std::vector<int32_t> table_rows(const Layout& layout, const Block& block) {
    const int64_t all = block.inside + block.outside;
    std::vector<int32_t> column(static_cast<size_t>(all));
    // Columns: keys are numbered row-major with those outside among them, and these have to go to the end.
    int32_t next[2] = {0, static_cast<int32_t>(block.inside)};
    for (int64_t key = 0; key < all; ++key) {
        bool outside = false;
        for (int64_t a = layout.axes - 1, rest = key; a >= 0; rest /= block.axes[a--].all)
            outside = outside || rest % block.axes[a].all >= block.axes[a].keys;
        column[static_cast<size_t>(key)] = next[outside]++;
    }
    std::vector<int32_t> rows(static_cast<size_t>(block.queries * all));
    int32_t* const to = rows.data();
    torch::stable::parallel_for(0, block.queries, 32768 / all + 1, [&](int64_t begin, int64_t end) {
        std::vector<int32_t> row(static_cast<size_t>(all));
        for (int64_t query = begin; query < end; ++query) {
            // Straight to its place where no key has to move.
            int32_t* const list = block.outside > 0 ? row.data() : to + query * all;
            int64_t index[most_axes] = {}, count = 1;
            for (int64_t a = layout.axes - 1, rest = query; a >= 0; rest /= block.axes[a--].queries)
                index[a] = rest % block.axes[a].queries;
            list[0] = 0;
            for (int64_t a = 0; a < layout.axes; ++a) {
                const AxisTiles& axis = block.axes[a];
                const auto factor = static_cast<int32_t>(axis.rows);
                const int32_t* along = axis.row + index[a] * axis.all;
                for (int64_t i = count - 1; i >= 0; --i) {  // from the back, so that the list can grow in place
                    const int32_t base = list[i];
                    for (int64_t j = axis.all - 1; j >= 0; --j)
                        list[i * axis.all + j] = base < 0 || along[j] < 0 ? -1 : base * factor + along[j];
                }
                count *= axis.all;
            }
            for (int64_t key = 0; block.outside > 0 && key < all; ++key)
                to[query * all + column[static_cast<size_t>(key)]] = list[key];
        }
    });
    return rows;
}

// Biases of a block in base 2: heads and rows are strides in floats, 0 where all share one.
struct BlockBias {
    const float* data;
    int64_t head, row;
};

struct Biases {
    std::vector<std::vector<int32_t>> rows;  // of each block, see table_rows
    std::vector<BlockBias> blocks;
    Buffer memory{0};
};

// exp of a bias outside the image, summed with softmax into one constant key: its bias is the logarithm of the sum.
inline float folded_bias(const float* table, const int32_t* rows, int64_t count) {
    float most = -INFINITY, total = 0.0f;
    for (int64_t j = 0; j < count; ++j) most = std::max(most, rows[j] < 0 ? -INFINITY : table == nullptr ? 0.0f : table[rows[j]]);
    if (most == -INFINITY) return most;
    for (int64_t j = 0; j < count; ++j)
        if (rows[j] >= 0) total += std::exp((table == nullptr ? 0.0f : table[rows[j]]) - most);
    return most + std::log(total);
}

// `table` is (heads, rows) or null. Rows of keys are padded with -inf to whole vectors.
inline Biases make_biases(const Layout& layout, const float* table, int64_t heads, bool sigmoid) {
    const int64_t lanes = width();
    Biases biases;
    int64_t size = 0;
    for (const Block& block : layout.blocks) {
        const int64_t stride = padded(block.keys, lanes), queries = table || block.masked ? block.queries : 1;
        biases.rows.push_back(table || block.masked ? table_rows(layout, block)
                                                    : std::vector<int32_t>(static_cast<size_t>(block.inside + block.outside)));
        biases.blocks.push_back({nullptr, table ? queries * stride : 0, queries > 1 ? stride : 0});
        size += (table ? heads : 1) * queries * stride;
    }
    biases.memory = Buffer(size);
    float* next = biases.memory.data();
    for (size_t b = 0; b < layout.blocks.size(); ++b) {
        const Block& block = layout.blocks[b];
        const int64_t stride = padded(block.keys, lanes), all = block.inside + block.outside;
        const int64_t queries = biases.blocks[b].row ? block.queries : 1, count = (table ? heads : 1) * queries;
        const int64_t single = sigmoid ? all : block.inside;
        const int32_t* const rows = biases.rows[b].data();
        float* const to = next;
        biases.blocks[b].data = to;
        torch::stable::parallel_for(0, count, 32768 / all + 1, [=](int64_t begin, int64_t end) {
            for (int64_t i = begin; i < end; ++i) {
                const int32_t* row = rows + i % queries * all;
                const float* of_head = table == nullptr ? nullptr : table + i / queries * layout.rows;
                float* bias = to + i * stride;
                if (of_head == nullptr)
                    for (int64_t j = 0; j < single; ++j) bias[j] = row[j] < 0 ? -INFINITY : 0.0f;
                else if (block.masked)
                    for (int64_t j = 0; j < single; ++j) bias[j] = row[j] < 0 ? -INFINITY : of_head[row[j]] * log2e;
                else
                    for (int64_t j = 0; j < single; ++j) bias[j] = of_head[row[j]] * log2e;
                if (single < block.keys) bias[single] = folded_bias(of_head, row + single, all - single) * log2e;
                for (int64_t j = block.keys; j < stride; ++j) bias[j] = -INFINITY;
            }
        });
        next += count * stride;
    }
    return biases;
}

// The gradient of one head's table from that of a block's biases (N, M padded), which are `groups` partial sums at a distance.
inline void add_table_gradient(const Block& block, const std::vector<int32_t>& rows, const float* table, float* grads,
                               int64_t groups, int64_t distance, bool sigmoid, float* to) {
    const int64_t stride = padded(block.keys, width()), all = block.inside + block.outside;
    const int64_t single = sigmoid ? all : block.inside;
    for (int64_t query = 0; query < block.queries; ++query) {
        float* const grad = grads + query * stride;
        const int32_t* const row = rows.data() + query * all;
        for (int64_t group = 1; group < groups; ++group)
            for (int64_t j = 0; j < block.keys; ++j) grad[j] += grad[group * distance + j];
        for (int64_t j = 0; j < single; ++j)
            if (row[j] >= 0) to[row[j]] += grad[j];
        if (single == block.keys) continue;
        const float folded = folded_bias(table, row + single, all - single);
        for (int64_t j = single; j < all; ++j)
            if (row[j] >= 0) to[row[j]] += grad[single] * std::exp(table[row[j]] - folded);
    }
}

}  // namespace geovit::tiled
