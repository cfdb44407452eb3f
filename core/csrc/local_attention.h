// The arithmetic of local attention on one tile after the other, forward and backward.
//
// A tile is gathered into scratch memory, and the scores of a few dozen queries at a time are all that exists of the score
// matrix. They are kept in base 2: queries are multiplied by log2(e) and biases as well, so that weights are powers of 2.
//
// Names: N queries and M keys of a tile, D head width; a row of M or D entries is padded to whole vectors.
#pragma once

#include <algorithm>
#include <cstdint>
#include <utility>
#include <vector>

#include "bias.h"
#include "channels.h"
#include "elementwise.h"
#include "gemm.h"
#include "tiles.h"

namespace geovit::tiled {
constexpr float ln2 = 0.693147180559945309f;

// Of an operand (batch, *size, heads, D): floats between batches, positions and heads.
template <class T>
struct Rows {
    T* data;
    int64_t batch, position, head;
    T* at(int64_t b, int64_t h) const { return data + b * batch + h * head; }
};

// T is the type of the operands and of the result. Only of floats is there a gradient.
template <class T>
struct ProblemOf {
    const Layout* layout;
    Rows<const T> q, k, v;
    Rows<T> out;
    Rows<const float> grad;
    Rows<float> grad_q, grad_k, grad_v;
    float* rows;  // of each position and head: the largest score and 1 / sum of the weights before division by it
    const float *pad_k, *pad_v;          // (heads, D)
    const BlockBias* biases;             // of each block
    float* const* grad_biases;           // of each block: partial sums (groups, heads, N, M padded); or null
    float* grad_pad;                     // of each part: the sums for pad_k and pad_v, each D padded
    const Part* parts;                   // the first of all
    int64_t heads, dim;
    float scale;
    bool sigmoid;
};
using Problem = ProblemOf<float>;

// Scores of that many queries at a time: a multiple of all register tiles, about 32 KiB of scores.
inline int64_t rows_at_once(int64_t stride) { return std::max<int64_t>(12, 8192 / stride / 12 * 12); }

// Scratch memory of one thread for a tile of a block.
struct Scratch {
    int64_t keys, dim, stride, rows;  // M and D padded; floats between rows of M; queries at once
    float *q, *k, *v, *grad, *kt, *vt, *scores, *slopes, *result, *top, *inverse, *grad_k, *grad_v;
    int64_t size;

    // Lays the arrays out from `memory` on, or counts only where it is null.
    Scratch(const Block& block, int64_t head_dim, int64_t width, bool backward, float* memory) {
        keys = padded(block.keys, width);
        dim = padded(head_dim, width);
        stride = (keys / width | 1) * width;  // an odd number of vectors: rows then spread over all sets of the cache
        const int64_t queries = padded(block.queries, width);
        rows = std::min(rows_at_once(stride), queries);
        size = 0;
        const auto take = [&](int64_t count) {
            float* const start = memory == nullptr ? nullptr : memory + size;
            size += padded(count, 16);
            return start;
        };
        q = take(queries * dim);
        k = take(keys * dim);
        v = take(keys * dim);
        kt = take(dim * stride);
        scores = take(rows * stride);
        result = take(rows * dim);
        top = take(queries);
        inverse = take(queries);
        if (backward) {
            grad = take(queries * dim);
            vt = take(dim * stride);
            slopes = take(rows * stride);
            grad_k = take(keys * dim);
            grad_v = take(keys * dim);
        }
    }
};

inline Buffer scratch_memory(const Layout& layout, int64_t head_dim, int64_t width, bool backward) {
    int64_t size = 0;
    for (const Block& block : layout.blocks) size = std::max(size, Scratch(block, head_dim, width, backward, nullptr).size);
    return Buffer(size);
}

// A tile of a part, and the positions of its queries and keys.
struct Place {
    const Part* part;
    const Block* block;
    int64_t tile, batch;
    std::vector<int64_t> query, key;

    explicit Place(const Layout& layout) {
        size_t queries = 0, keys = 0;
        for (const Block& each : layout.blocks) {
            queries = std::max(queries, static_cast<size_t>(each.queries));
            keys = std::max(keys, static_cast<size_t>(each.inside));
        }
        query.resize(queries);
        key.resize(keys);
    }

    void move_to(const Layout& layout, const Part* new_part, int64_t new_tile) {
        part = new_part, tile = new_tile;
        block = &layout.blocks[static_cast<size_t>(part->block)];
        batch = tile / block->tiles;
        tile_positions(layout, *block, tile % block->tiles, false, query.data());
        tile_positions(layout, *block, tile % block->tiles, true, key.data());
    }
};

// Works on the tiles of parts one by one. Kernel::tile is told the next tile as well, and asks for its memory ahead of time: rows
// of a tile lie too far apart for the processor to guess.
template <int Width, class Kernel, class T>
GEOVIT_INLINE void run_tiles(const ProblemOf<T>& p, const Part* part, const Part* end) {
    const Layout& layout = *p.layout;
    const Buffer memory = scratch_memory(layout, p.dim, Width, Kernel::backward);
    Place now(layout), next(layout);
    next.move_to(layout, part, part->begin);
    while (part < end) {
        std::swap(now, next);
        int64_t tile = now.tile + 1;
        if (tile == part->end && ++part < end) tile = part->begin;
        if (part < end) next.move_to(layout, part, tile);
        Kernel::template tile<Width>(p, now, part < end ? &next : nullptr, memory.data());
    }
}

template <class T>
GEOVIT_INLINE void prefetch(const Rows<const T>& rows, const Place& place, const std::vector<int64_t>& positions, int64_t count,
                            int64_t dim) {
    constexpr int64_t line = 64 / sizeof(T);
    const T* const from = rows.at(place.batch, place.part->head);
    for (int64_t i = 0; i < count; ++i) {
        const T* const row = from + positions[static_cast<size_t>(i)] * rows.position;
        for (int64_t d = 0; d < dim; d += line) __builtin_prefetch(row + d, 0, 2);
        __builtin_prefetch(row + dim - 1, 0, 2);
    }
}

// to = factor * from, `dim` numbers. The last vector may overlap the one before.
template <int Width, class From, class To>
GEOVIT_INLINE void copy_row(const From* from, int64_t dim, float factor, To* to) {
    using F = Vec<Width>;
    int64_t i = 0;
    for (; i + Width <= dim; i += Width) store_as(to + i, load_as<F>(from + i) * factor);
    if (i == dim) return;
    if (dim >= Width)
        store_as(to + dim - Width, load_as<F>(from + dim - Width) * factor);
    else if constexpr (Width > 4)
        copy_row<Width / 2>(from, dim, factor, to);
    else
        for (; i < dim; ++i) store(to[i], load(from[i]) * factor);
}

// As copy_row, and zeros up to a whole vector.
template <int Width, class T>
GEOVIT_INLINE void pack_row(const T* from, int64_t dim, int64_t to_dim, float factor, float* to) {
    store_vec(to + to_dim - Width, Vec<Width>{});
    copy_row<Width>(from, dim, factor, to);
}

template <int Width, class T>
GEOVIT_INLINE void gather(const T* from, int64_t from_row, const int64_t* positions, int64_t count, int64_t dim, float factor, float* to,
                          int64_t to_row) {
    for (int64_t i = 0; i < count; ++i)
        pack_row<Width>(from + positions[i] * from_row, dim, to_row, factor, to + i * to_row);
}

// Gathers the keys or values of a tile; the constant one follows, and zeros.
template <int Width, class T>
GEOVIT_INLINE void gather_keys(const ProblemOf<T>& p, const Place& place, const Scratch& s, const Rows<const T>& from,
                               const float* constant, float* to) {
    const Block& block = *place.block;
    const int64_t head = place.part->head;
    gather<Width>(from.at(place.batch, head), from.position, place.key.data(), block.inside, p.dim, 1.0f, to, s.dim);
    for (int64_t i = block.inside; i < block.keys; ++i)
        pack_row<Width>(constant + head * p.dim, p.dim, s.dim, 1.0f, to + i * s.dim);
    for (int64_t i = block.keys * s.dim; i < s.keys * s.dim; i += Width) store_vec(to + i, Vec<Width>{});
}

// scores -> weights before division by their sum, which is returned entry by entry of a vector
template <int Width>
GEOVIT_INLINE Vec<Width> weigh(float* scores, int64_t keys, float high) {
    using F = Vec<Width>;
    F total{};
    for (int64_t j = 0; j < keys; j += Width) {
        const F weight = exp2(load_vec<F>(scores + j) - high);
        store_vec(scores + j, weight);
        total += weight;
    }
    return total;
}

template <int Width>
GEOVIT_INLINE Vec<Width> largest_of_row(const float* scores, int64_t keys) {
    using F = Vec<Width>;
    F most = load_vec<F>(scores);
    for (int64_t j = Width; j < keys; j += Width) most = maximum(load_vec<F>(scores + j), most);
    return most;
}

// scores -> weights before division by their sum, whose inverse is kept, as is the largest score
template <int Width>
GEOVIT_INLINE void softmax(float* scores, int64_t stride, int64_t keys, int64_t count, float* top, float* inverse) {
    using F = Vec<Width>;
    int64_t row = 0;
    for (; row + Width <= count; row += Width) {
        float* const first = scores + row * stride;
        F rows[Width];
        for (int i = 0; i < Width; ++i) rows[i] = largest_of_row<Width>(first + i * stride, keys);
        store_vec(top + row, reduce_rows<Largest>(rows));
        for (int i = 0; i < Width; ++i) rows[i] = weigh<Width>(first + i * stride, keys, top[row + i]);
        store_vec(inverse + row, 1.0f / reduce_rows<Sum>(rows));
    }
    for (; row < count; ++row) {
        float* const first = scores + row * stride;
        top[row] = largest(largest_of_row<Width>(first, keys));
        inverse[row] = 1.0f / sum(weigh<Width>(first, keys, top[row]));
    }
}

template <class F>
GEOVIT_INLINE F sigmoid2(F score) {
    const F weight = 1.0f / (1.0f + exp2(minimum(fill<F>(126.0f), -score)));
    return score < fill<F>(-126.0f) ? F{} : weight;
}

template <int Width>
GEOVIT_INLINE void sigmoids(float* scores, int64_t stride, int64_t keys, int64_t count, float* inverse) {
    using F = Vec<Width>;
    for (int64_t i = 0; i < count; ++i, scores += stride) {
        for (int64_t j = 0; j < keys; j += Width) store_vec(scores + j, sigmoid2(load_vec<F>(scores + j)));
        inverse[i] = 1.0f;
    }
}

struct Forward {
    static constexpr bool backward = false;

    template <int Width, class T>
    static GEOVIT_INLINE void run(const ProblemOf<T>* problem, const Part* part, const Part* end) {
        run_tiles<Width, Forward>(*problem, part, end);
    }

    template <int Width, class T>
    static GEOVIT_INLINE void tile(const ProblemOf<T>& p, const Place& place, const Place* next, float* memory) {
        const Block& block = *place.block;
        const Part& part = *place.part;
        const Scratch s(block, p.dim, Width, false, memory);
        const int64_t batch = place.batch, head = part.head;
        const int64_t* const query = place.query.data();
        gather<Width>(p.q.at(batch, head), p.q.position, query, block.queries, p.dim, p.scale * log2e, s.q, s.dim);
        gather_keys<Width>(p, place, s, p.k, p.pad_k, s.k);
        gather_keys<Width>(p, place, s, p.v, p.pad_v, s.v);
        if (next != nullptr) {
            prefetch(p.q, *next, next->query, next->block->queries, p.dim);
            prefetch(p.k, *next, next->key, next->block->inside, p.dim);
            prefetch(p.v, *next, next->key, next->block->inside, p.dim);
        }
        transpose<Width>(s.k, s.dim, s.keys, s.dim, s.kt, s.stride);
        const BlockBias& bias = p.biases[part.block];
        T* const out = p.out.at(batch, head);
        for (int64_t row = 0; row < block.queries; row += s.rows) {
            const int64_t count = minimum(s.rows, block.queries - row);
            float *const top = s.top + row, *const inverse = s.inverse + row;
            multiply<Width>({count, s.keys / Width, p.dim, s.q + row * s.dim, s.dim, 1, s.kt, s.stride,
                             bias.data + head * bias.head + row * bias.row, bias.row, s.scores, s.stride});
            if (p.sigmoid)
                sigmoids<Width>(s.scores, s.stride, s.keys, count, inverse);
            else
                softmax<Width>(s.scores, s.stride, s.keys, count, top, inverse);
            multiply<Width>({count, s.dim / Width, block.keys, s.scores, s.stride, 1, s.v, s.dim, nullptr, 0, s.result, s.dim});
            for (int64_t i = 0; i < count; ++i)
                copy_row<Width>(s.result + i * s.dim, p.dim, inverse[i], out + query[row + i] * p.out.position);
        }
        if (p.sigmoid) return;
        float* const rows = p.rows + 2 * (batch * p.layout->positions * p.heads + head);
        for (int64_t i = 0; i < block.queries; ++i) {
            rows[2 * query[i] * p.heads] = s.top[i];
            rows[2 * query[i] * p.heads + 1] = s.inverse[i];
        }
    }
};

// scores -> weights P, slopes dP -> dS = P (dP - sum(P dP))
template <int Width>
GEOVIT_INLINE void softmax_backward(const Scratch& s, int64_t count, const float* top, const float* inverse) {
    using F = Vec<Width>;
    for (int64_t i = 0; i < count; ++i) {
        float *const scores = s.scores + i * s.stride, *const slopes = s.slopes + i * s.stride;
        const float high = top[i], factor = inverse[i];
        F total{};
        for (int64_t j = 0; j < s.keys; j += Width) {
            const F weight = exp2(load_vec<F>(scores + j) - high) * factor;
            store_vec(scores + j, weight);
            total += weight * load_vec<F>(slopes + j);
        }
        const float mean = sum(total);
        for (int64_t j = 0; j < s.keys; j += Width)
            store_vec(slopes + j, load_vec<F>(scores + j) * (load_vec<F>(slopes + j) - mean));
    }
}

template <int Width>
GEOVIT_INLINE void sigmoid_backward(const Scratch& s, int64_t count) {
    using F = Vec<Width>;
    for (int64_t i = 0; i < count; ++i) {
        float *const scores = s.scores + i * s.stride, *const slopes = s.slopes + i * s.stride;
        for (int64_t j = 0; j < s.keys; j += Width) {
            const F weight = sigmoid2(load_vec<F>(scores + j));
            store_vec(scores + j, weight);
            store_vec(slopes + j, load_vec<F>(slopes + j) * weight * (1.0f - weight));
        }
    }
}

struct Backward {
    static constexpr bool backward = true;

    template <int Width>
    static GEOVIT_INLINE void run(const Problem* problem, const Part* part, const Part* end) {
        run_tiles<Width, Backward>(*problem, part, end);
    }

    template <int Width>
    static GEOVIT_INLINE void tile(const Problem& p, const Place& place, const Place* next, float* memory) {
        using F = Vec<Width>;
        const Block& block = *place.block;
        const Part& part = *place.part;
        const Scratch s(block, p.dim, Width, true, memory);
        const int64_t batch = place.batch, head = part.head, vectors = s.keys / Width, dims = s.dim / Width;
        const int64_t* const query = place.query.data();
        const bool first = place.tile == part.begin;
        gather<Width>(p.q.at(batch, head), p.q.position, query, block.queries, p.dim, p.scale * log2e, s.q, s.dim);
        gather<Width>(p.grad.at(batch, head), p.grad.position, query, block.queries, p.dim, 1.0f, s.grad, s.dim);
        gather_keys<Width>(p, place, s, p.k, p.pad_k, s.k);
        gather_keys<Width>(p, place, s, p.v, p.pad_v, s.v);
        if (next != nullptr) {
            prefetch(p.q, *next, next->query, next->block->queries, p.dim);
            prefetch(p.grad, *next, next->query, next->block->queries, p.dim);
            prefetch(p.k, *next, next->key, next->block->inside, p.dim);
            prefetch(p.v, *next, next->key, next->block->inside, p.dim);
        }
        transpose<Width>(s.k, s.dim, s.keys, s.dim, s.kt, s.stride);
        transpose<Width>(s.v, s.dim, s.keys, s.dim, s.vt, s.stride);
        if (!p.sigmoid) {
            const float* rows = p.rows + 2 * (batch * p.layout->positions * p.heads + head);
            for (int64_t i = 0; i < block.queries; ++i) {
                s.top[i] = rows[2 * query[i] * p.heads];
                s.inverse[i] = rows[2 * query[i] * p.heads + 1];
            }
        }
        const BlockBias& bias = p.biases[part.block];
        float* grad_bias = nullptr;
        if (p.grad_biases != nullptr)
            grad_bias = p.grad_biases[part.block] + (part.group * p.heads + head) * block.queries * s.keys;
        float* const grad_q = p.grad_q.at(batch, head);
        for (int64_t row = 0; row < block.queries; row += s.rows) {
            const int64_t count = minimum(s.rows, block.queries - row);
            const float *const q = s.q + row * s.dim, *const grad = s.grad + row * s.dim;
            multiply<Width>({count, vectors, p.dim, q, s.dim, 1, s.kt, s.stride, bias.data + head * bias.head + row * bias.row,
                             bias.row, s.scores, s.stride});
            multiply<Width>({count, vectors, p.dim, grad, s.dim, 1, s.vt, s.stride, nullptr, 0, s.slopes, s.stride});
            if (p.sigmoid)
                sigmoid_backward<Width>(s, count);
            else
                softmax_backward<Width>(s, count, s.top + row, s.inverse + row);
            if (grad_bias != nullptr) {
                for (int64_t i = 0; i < count; ++i) {
                    const float* slopes = s.slopes + i * s.stride;
                    float* to = grad_bias + (row + i) * s.keys;
                    if (first)
                        for (int64_t j = 0; j < s.keys; j += Width) store_vec(to + j, load_vec<F>(slopes + j));
                    else
                        for (int64_t j = 0; j < s.keys; j += Width)
                            store_vec(to + j, load_vec<F>(to + j) + load_vec<F>(slopes + j));
                }
            }
            multiply<Width>({count, dims, block.keys, s.slopes, s.stride, 1, s.k, s.dim, nullptr, 0, s.result, s.dim});
            for (int64_t i = 0; i < count; ++i)
                copy_row<Width>(s.result + i * s.dim, p.dim, p.scale, grad_q + query[row + i] * p.grad_q.position);
            const float *const grad_k = row ? s.grad_k : nullptr, *const grad_v = row ? s.grad_v : nullptr;
            multiply<Width>({block.keys, dims, count, s.slopes, 1, s.stride, q, s.dim, grad_k, s.dim, s.grad_k, s.dim});
            multiply<Width>({block.keys, dims, count, s.scores, 1, s.stride, grad, s.dim, grad_v, s.dim, s.grad_v, s.dim});
        }
        float* const constant = p.grad_pad + (place.part - p.parts) * 2 * s.dim;
        scatter<Width>(p, place, s, s.grad_k, ln2, p.grad_k, constant, first);
        scatter<Width>(p, place, s, s.grad_v, 1.0f, p.grad_v, constant + s.dim, first);
    }

    // Gradients of keys or values: stored, or added where a position is a key in several tiles. Those of constant keys are summed
    // over the tiles of a part.
    template <int Width>
    static GEOVIT_INLINE void scatter(const Problem& p, const Place& place, const Scratch& s, const float* from, float factor,
                                      const Rows<float>& to, float* constant, bool first) {
        const Block& block = *place.block;
        float* const start = to.at(place.batch, place.part->head);
        for (int64_t i = 0; i < block.inside; ++i) {
            float* const row = start + place.key[static_cast<size_t>(i)] * to.position;
            if (p.layout->disjoint)
                copy_row<Width>(from + i * s.dim, p.dim, factor, row);
            else
                for (int64_t d = 0; d < p.dim; ++d) row[d] += factor * from[i * s.dim + d];
        }
        for (int64_t d = 0; first && d < s.dim; ++d) constant[d] = 0.0f;
        for (int64_t i = block.inside; i < block.keys; ++i)
            for (int64_t d = 0; d < s.dim; ++d) constant[d] += factor * from[i * s.dim + d];
    }
};

}  // namespace geovit::tiled
