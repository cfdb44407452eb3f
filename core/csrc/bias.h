// The bias of every pair of a tile, gathered from the table of relative positions, and the gradient on its way back.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <vector>

#include "dispatch.h"
#include "elementwise.h"
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

// What every block takes from the table, of each head: biases in base 2, also from the last row to the first, because the keys of
// a run along the last axis have descending rows; and their exponentials, with the largest bias taken off.
class Table {
   public:
    Table(const float* table, int64_t heads, int64_t rows, bool folded)
        : given(table), count(rows), memory(table == nullptr ? 0 : heads * rows * (folded ? 3 : 2)), top(static_cast<size_t>(heads)) {
        if (table == nullptr) return;
        weights = folded ? memory.data() + 2 * heads * rows : nullptr;
        for (int64_t h = 0; h < heads; ++h) {
            const float* const from = table + h * rows;
            float* const to = memory.data() + 2 * h * rows;
            for (int64_t r = 0; r < rows; ++r) to[r] = to[2 * rows - 1 - r] = from[r] * log2e;
            const float high = top[static_cast<size_t>(h)] = *std::max_element(to, to + rows);
            for (int64_t r = 0; folded && r < rows; ++r) weights[h * rows + r] = exp2(to[r] - high);
        }
    }

    const float* biases(int64_t head) const { return given == nullptr ? nullptr : memory.data() + 2 * head * count; }
    const float* from_last(int64_t head) const { return biases(head) + count; }

    // folded_bias in base 2. The sum of what was computed before serves unless all of it is small beside the table's largest.
    float folded(int64_t head, const int32_t* rows, int64_t number) const {
        constexpr float exact_enough = 1e-20f;
        float total = 0.0f;
        if (given != nullptr) {
            const float* const weight = weights + head * count;
            for (int64_t j = 0; j < number; ++j) total += rows[j] < 0 ? 0.0f : weight[rows[j]];
            if (total > exact_enough) return top[static_cast<size_t>(head)] + std::log2(total);
        }
        return folded_bias(given == nullptr ? nullptr : given + head * count, rows, number) * log2e;
    }

   private:
    const float* given;
    int64_t count;
    Buffer memory;
    std::vector<float> top;
    float* weights = nullptr;
};

// Keys inside that lie beside each other on the last axis and have rows of the table one less each, or 1.
inline int64_t run_length(const Layout& layout, const Block& block) {
    const AxisTiles& last = block.axes[layout.axes - 1];
    for (int64_t query = 0; query < last.queries; ++query)
        for (int64_t j = 1; j < last.keys; ++j)
            if (last.row[query * last.all + j] != last.row[query * last.all + j - 1] - 1) return 1;
    return block.masked ? 1 : last.keys;
}

// to[i] = from[i] for a few dozen floats, without the call that memcpy would be.
inline void copy_run(const float* from, int64_t count, float* to) {
    int64_t i = 0;
    for (; i + 4 <= count; i += 4) std::memcpy(to + i, from + i, 4 * sizeof(float));
    for (; i < count; ++i) to[i] = from[i];
}

// `table` is (heads, rows) or null. Rows of keys are padded with -inf to whole vectors.
inline Biases make_biases(const Layout& layout, const float* table, int64_t heads, bool sigmoid) {
    const int64_t lanes = width();
    Biases biases;
    int64_t size = 0;
    bool folds = false;
    for (const Block& block : layout.blocks) {
        const int64_t stride = padded(block.keys, lanes), queries = table || block.masked ? block.queries : 1;
        biases.rows.push_back(table || block.masked ? table_rows(layout, block)
                                                    : std::vector<int32_t>(static_cast<size_t>(block.inside + block.outside)));
        biases.blocks.push_back({nullptr, table ? queries * stride : 0, queries > 1 ? stride : 0});
        size += (table ? heads : 1) * queries * stride;
        folds = folds || (!sigmoid && block.outside > 0);
    }
    biases.memory = Buffer(size);
    const Table prepared(table, heads, layout.rows, folds);
    float* next = biases.memory.data();
    for (size_t b = 0; b < layout.blocks.size(); ++b) {
        const Block& block = layout.blocks[b];
        const int64_t stride = padded(block.keys, lanes), all = block.inside + block.outside;
        const int64_t queries = biases.blocks[b].row ? block.queries : 1, count = (table ? heads : 1) * queries;
        const int64_t single = sigmoid ? all : block.inside, run = run_length(layout, block);
        const int32_t* const rows = biases.rows[b].data();
        float* const to = next;
        biases.blocks[b].data = to;
        torch::stable::parallel_for(0, count, 32768 / all + 1, [&, rows, to, all, single, run](int64_t begin, int64_t end) {
            for (int64_t i = begin; i < end; ++i) {
                const int32_t* row = rows + i % queries * all;
                const int64_t head = i / queries;
                const float* of_head = prepared.biases(head);
                float* bias = to + i * stride;
                int64_t j = 0;
                if (of_head == nullptr)
                    for (; j < single; ++j) bias[j] = row[j] < 0 ? -INFINITY : 0.0f;
                else if (block.masked)
                    for (; j < single; ++j) bias[j] = row[j] < 0 ? -INFINITY : of_head[row[j]];
                else if (run > 3)
                    for (const float* last = prepared.from_last(head) + layout.rows - 1; j < block.inside; j += run)
                        copy_run(last - row[j], run, bias + j);
                if (of_head != nullptr)
                    for (; j < single; ++j) bias[j] = of_head[row[j]];
                if (single < block.keys) bias[single] = prepared.folded(head, row + single, all - single);
                for (j = block.keys; j < stride; ++j) bias[j] = -INFINITY;
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
