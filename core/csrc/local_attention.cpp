// Attention of every tile of queries to its tile of keys, forward and backward, for all tiles of an image in one call.
//
// A tile is gathered into scratch memory, and the scores of a few dozen queries at a time are all that exists of the score matrix.
// They are kept in base 2: queries are multiplied by log2(e) and biases as well, so that weights are powers of 2.
//
// Names: N queries and M keys of a tile, D head width; a row of M or D entries is padded to whole vectors.

#include <cmath>
#include <optional>
#include <tuple>

#include "bias.h"
#include "elementwise.h"
#include "gemm.h"
#include "tensor.h"
#include "tiles.h"

namespace geovit {
namespace {

constexpr float ln2 = 0.693147180559945309f;

// Of an operand (batch, *size, heads, D): floats between batches, positions and heads.
template <class T>
struct Rows {
    T* data;
    int64_t batch, position, head;
    T* at(int64_t b, int64_t h) const { return data + b * batch + h * head; }
};

struct Problem {
    const Layout* layout;
    Rows<const float> q, k, v, grad;
    Rows<float> out, grad_q, grad_k, grad_v;
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

// Scores of that many queries at a time: a multiple of all register tiles, about 32 KiB of scores.
int64_t rows_at_once(int64_t stride) { return std::max<int64_t>(12, 8192 / stride / 12 * 12); }

// Scratch of one thread for a tile of one block; `widest` is what the largest block takes.
struct Scratch {
    int64_t keys, dim, stride, rows;  // M and D padded; floats between rows of M; queries at once
    int64_t *query, *key;             // positions
    float *q, *k, *v, *grad, *kt, *vt, *scores, *slopes, *result, *top, *inverse, *grad_k, *grad_v;
    int64_t size;

    // Lays the arrays out from `memory` on.
    Scratch(const Block& block, int64_t head_dim, int64_t width, bool backward, float* memory) {
        keys = padded(block.keys, width);
        dim = padded(head_dim, width);
        stride = (keys / width | 1) * width;  // an odd number of vectors: rows then spread over all sets of the cache
        const int64_t queries = padded(block.queries, width);
        rows = std::min(rows_at_once(stride), queries);
        float* next = memory;
        const auto take = [&](int64_t count) {
            float* const start = next;
            next += padded(count, 16);
            return start;
        };
        query = reinterpret_cast<int64_t*>(take(2 * block.queries));
        key = reinterpret_cast<int64_t*>(take(2 * block.keys));
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
        size = next - memory;
    }
};

Buffer scratch_memory(const Layout& layout, int64_t head_dim, int64_t width, bool backward) {
    int64_t size = 0;
    for (const Block& block : layout.blocks) size = std::max(size, Scratch(block, head_dim, width, backward, nullptr).size);
    return Buffer(size);
}

// to = factor * from, `dim` floats. The last vector may overlap the one before.
template <int Width>
GEOVIT_INLINE void copy_row(const float* from, int64_t dim, float factor, float* to) {
    using F = Vec<Width>;
    int64_t i = 0;
    for (; i + Width <= dim; i += Width) store_vec(to + i, load_vec<F>(from + i) * factor);
    if (i == dim) return;
    if (dim >= Width)
        store_vec(to + dim - Width, load_vec<F>(from + dim - Width) * factor);
    else if constexpr (Width > 4)
        copy_row<Width / 2>(from, dim, factor, to);
    else
        for (; i < dim; ++i) to[i] = from[i] * factor;
}

// As copy_row, and zeros up to a whole vector.
template <int Width>
GEOVIT_INLINE void pack_row(const float* from, int64_t dim, int64_t to_dim, float factor, float* to) {
    store_vec(to + to_dim - Width, Vec<Width>{});
    copy_row<Width>(from, dim, factor, to);
}

template <int Width>
GEOVIT_INLINE void gather(const float* from, int64_t from_row, const int64_t* positions, int64_t count, int64_t dim, float factor,
                          float* to, int64_t to_row) {
    for (int64_t i = 0; i < count; ++i)
        pack_row<Width>(from + positions[i] * from_row, dim, to_row, factor, to + i * to_row);
}

// Gathers the keys or values of a tile; the constant one follows, and zeros.
template <int Width>
GEOVIT_INLINE void gather_keys(const Problem& p, const Block& block, const Scratch& s, const float* from, int64_t from_row,
                               const float* constant, int64_t head, float* to) {
    gather<Width>(from, from_row, s.key, block.inside, p.dim, 1.0f, to, s.dim);
    for (int64_t i = block.inside; i < block.keys; ++i)
        pack_row<Width>(constant + head * p.dim, p.dim, s.dim, 1.0f, to + i * s.dim);
    for (int64_t i = block.keys * s.dim; i < s.keys * s.dim; i += Width) store_vec(to + i, Vec<Width>{});
}

// scores + row -> weights
template <int Width>
GEOVIT_INLINE void softmax(float* scores, int64_t stride, int64_t keys, int64_t count, float* top, float* inverse) {
    using F = Vec<Width>;
    for (int64_t i = 0; i < count; ++i, scores += stride) {
        F most = load_vec<F>(scores);
        for (int64_t j = Width; j < keys; j += Width) most = maximum(load_vec<F>(scores + j), most);
        const float high = top[i] = largest(most);
        F total{};
        for (int64_t j = 0; j < keys; j += Width) {
            const F weight = exp2(load_vec<F>(scores + j) - high);
            store_vec(scores + j, weight);
            total += weight;
        }
        inverse[i] = 1.0f / sum(total);
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
    template <int Width>
    static GEOVIT_INLINE void run(const Problem* problem, const Part* part, const Part* end) {
        const Problem& p = *problem;
        const Buffer memory = scratch_memory(*p.layout, p.dim, Width, false);
        for (; part < end; ++part) {
            const Block& block = p.layout->blocks[static_cast<size_t>(part->block)];
            const Scratch s(block, p.dim, Width, false, memory.data());
            for (int64_t tile = part->begin; tile < part->end; ++tile) attend<Width>(p, *part, block, s, tile);
        }
    }

    template <int Width>
    static GEOVIT_INLINE void attend(const Problem& p, const Part& part, const Block& block, const Scratch& s, int64_t tile) {
        const int64_t batch = tile / block.tiles, head = part.head;
        tile_positions(*p.layout, block, tile % block.tiles, false, s.query);
        tile_positions(*p.layout, block, tile % block.tiles, true, s.key);
        gather<Width>(p.q.at(batch, head), p.q.position, s.query, block.queries, p.dim, p.scale * log2e, s.q, s.dim);
        gather_keys<Width>(p, block, s, p.k.at(batch, head), p.k.position, p.pad_k, head, s.k);
        gather_keys<Width>(p, block, s, p.v.at(batch, head), p.v.position, p.pad_v, head, s.v);
        transpose<Width>(s.k, s.dim, s.keys, s.dim, s.kt, s.stride);
        const BlockBias& bias = p.biases[part.block];
        float* const out = p.out.at(batch, head);
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
                copy_row<Width>(s.result + i * s.dim, p.dim, inverse[i], out + s.query[row + i] * p.out.position);
        }
        if (p.sigmoid) return;
        float* const rows = p.rows + 2 * (batch * p.layout->positions * p.heads + head);
        for (int64_t i = 0; i < block.queries; ++i) {
            rows[2 * s.query[i] * p.heads] = s.top[i];
            rows[2 * s.query[i] * p.heads + 1] = s.inverse[i];
        }
    }
};

// scores -> weights P, slopes dP -> dS = P (dP - sum(P dP)). Adds dS to grad_bias, or stores it there if `first`.
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
    template <int Width>
    static GEOVIT_INLINE void run(const Problem* problem, const Part* part, const Part* end) {
        const Problem& p = *problem;
        const Buffer memory = scratch_memory(*p.layout, p.dim, Width, true);
        for (; part < end; ++part) {
            const Block& block = p.layout->blocks[static_cast<size_t>(part->block)];
            const Scratch s(block, p.dim, Width, true, memory.data());
            float* const grad_pad = p.grad_pad + (part - p.parts) * 2 * s.dim;
            for (int64_t i = 0; i < 2 * s.dim; ++i) grad_pad[i] = 0.0f;
            for (int64_t tile = part->begin; tile < part->end; ++tile) differentiate<Width>(p, *part, block, s, tile, grad_pad);
        }
    }

    template <int Width>
    static GEOVIT_INLINE void differentiate(const Problem& p, const Part& part, const Block& block, const Scratch& s, int64_t tile,
                                            float* grad_pad) {
        using F = Vec<Width>;
        const int64_t batch = tile / block.tiles, head = part.head, vectors = s.keys / Width, dims = s.dim / Width;
        tile_positions(*p.layout, block, tile % block.tiles, false, s.query);
        tile_positions(*p.layout, block, tile % block.tiles, true, s.key);
        gather<Width>(p.q.at(batch, head), p.q.position, s.query, block.queries, p.dim, p.scale * log2e, s.q, s.dim);
        gather<Width>(p.grad.at(batch, head), p.grad.position, s.query, block.queries, p.dim, 1.0f, s.grad, s.dim);
        gather_keys<Width>(p, block, s, p.k.at(batch, head), p.k.position, p.pad_k, head, s.k);
        gather_keys<Width>(p, block, s, p.v.at(batch, head), p.v.position, p.pad_v, head, s.v);
        transpose<Width>(s.k, s.dim, s.keys, s.dim, s.kt, s.stride);
        transpose<Width>(s.v, s.dim, s.keys, s.dim, s.vt, s.stride);
        if (!p.sigmoid) {
            const float* rows = p.rows + 2 * (batch * p.layout->positions * p.heads + head);
            for (int64_t i = 0; i < block.queries; ++i) {
                s.top[i] = rows[2 * s.query[i] * p.heads];
                s.inverse[i] = rows[2 * s.query[i] * p.heads + 1];
            }
        }
        const BlockBias& bias = p.biases[part.block];
        float* grad_bias = nullptr;
        if (p.grad_biases != nullptr) grad_bias = p.grad_biases[part.block] + (part.group * p.heads + head) * block.queries * s.keys;
        float* const grad_q = p.grad_q.at(batch, head);
        for (int64_t row = 0; row < block.queries; row += s.rows) {
            const int64_t count = minimum(s.rows, block.queries - row);
            const float *const q = s.q + row * s.dim, *const grad = s.grad + row * s.dim;
            multiply<Width>({count, vectors, p.dim, q, s.dim, 1, s.kt, s.stride, bias.data + head * bias.head + row * bias.row, bias.row,
                             s.scores, s.stride});
            multiply<Width>({count, vectors, p.dim, grad, s.dim, 1, s.vt, s.stride, nullptr, 0, s.slopes, s.stride});
            if (p.sigmoid)
                sigmoid_backward<Width>(s, count);
            else
                softmax_backward<Width>(s, count, s.top + row, s.inverse + row);
            if (grad_bias != nullptr) {
                for (int64_t i = 0; i < count; ++i) {
                    const float* slopes = s.slopes + i * s.stride;
                    float* to = grad_bias + (row + i) * s.keys;
                    if (tile == part.begin)
                        for (int64_t j = 0; j < s.keys; j += Width) store_vec(to + j, load_vec<F>(slopes + j));
                    else
                        for (int64_t j = 0; j < s.keys; j += Width) store_vec(to + j, load_vec<F>(to + j) + load_vec<F>(slopes + j));
                }
            }
            multiply<Width>({count, dims, block.keys, s.slopes, s.stride, 1, s.k, s.dim, nullptr, 0, s.result, s.dim});
            for (int64_t i = 0; i < count; ++i)
                copy_row<Width>(s.result + i * s.dim, p.dim, p.scale, grad_q + s.query[row + i] * p.grad_q.position);
            multiply<Width>({block.keys, dims, count, s.slopes, 1, s.stride, q, s.dim, row ? s.grad_k : nullptr, s.dim, s.grad_k, s.dim});
            multiply<Width>({block.keys, dims, count, s.scores, 1, s.stride, grad, s.dim, row ? s.grad_v : nullptr, s.dim, s.grad_v, s.dim});
        }
        scatter<Width>(p, block, s, s.grad_k, ln2, p.grad_k.at(batch, head), p.grad_k.position, grad_pad);
        scatter<Width>(p, block, s, s.grad_v, 1.0f, p.grad_v.at(batch, head), p.grad_v.position, grad_pad + s.dim);
    }

    // Gradients of keys or values: stored, or added where a position is a key in several tiles. Those of constant keys are summed.
    template <int Width>
    static GEOVIT_INLINE void scatter(const Problem& p, const Block& block, const Scratch& s, const float* from, float factor, float* to,
                                      int64_t to_row, float* constant) {
        for (int64_t i = 0; i < block.inside; ++i) {
            float* const row = to + s.key[i] * to_row;
            if (p.layout->disjoint)
                copy_row<Width>(from + i * s.dim, p.dim, factor, row);
            else
                for (int64_t d = 0; d < p.dim; ++d) row[d] += factor * from[i * s.dim + d];
        }
        for (int64_t i = block.inside; i < block.keys; ++i)
            for (int64_t d = 0; d < s.dim; ++d) constant[d] += factor * from[i * s.dim + d];
    }
};

// Each part a few tiles, so that neighbouring heads find the image in the cache.
Work forward_work(const Layout& layout, int64_t batches, int64_t heads) {
    constexpr int64_t scores = 1 << 14;
    Work work;
    for (size_t b = 0; b < layout.blocks.size(); ++b) {
        const Block& block = layout.blocks[b];
        const int64_t tiles = batches * block.tiles, step = std::max<int64_t>(1, scores / (block.queries * block.keys));
        for (int64_t begin = 0; begin < tiles; begin += step)
            for (int64_t head = 0; head < heads; ++head) {
                work.add(layout, {static_cast<int64_t>(b), head, begin, std::min(begin + step, tiles), begin / step});
                work.close_item();
            }
    }
    return work;
}

// Parts are groups of tiles that add up one gradient of the bias: enough of them for many threads, few enough that their sums
// stay small beside the scores. Where keys belong to several tiles, an item is all of some images in one head.
Work backward_work(const Layout& layout, int64_t batches, int64_t heads) {
    constexpr int64_t items = 32, tiles_of_sum = 24;
    Work work;
    const int64_t wanted = (items + heads - 1) / heads;
    if (layout.disjoint) {
        for (size_t b = 0; b < layout.blocks.size(); ++b) {
            const int64_t tiles = batches * layout.blocks[b].tiles;
            const int64_t groups = std::min(tiles, std::max(std::min<int64_t>(wanted, 4), std::min(wanted, tiles / tiles_of_sum)));
            work.groups.push_back(groups);
            for (int64_t group = 0; group < groups; ++group)
                for (int64_t head = 0; head < heads; ++head) {
                    work.add(layout, {static_cast<int64_t>(b), head, tiles * group / groups, tiles * (group + 1) / groups, group});
                    work.close_item();
                }
        }
        return work;
    }
    const int64_t groups = std::min(batches, wanted);
    work.groups.assign(layout.blocks.size(), groups);
    for (int64_t group = 0; group < groups; ++group)
        for (int64_t head = 0; head < heads; ++head) {
            for (size_t b = 0; b < layout.blocks.size(); ++b) {
                const int64_t tiles = layout.blocks[b].tiles;
                work.add(layout, {static_cast<int64_t>(b), head, tiles * (batches * group / groups),
                                  tiles * (batches * (group + 1) / groups), group});
            }
            work.close_item();
        }
    return work;
}

// An operand as rows with one stride for all positions: a copy only where its strides have no such form.
Tensor as_rows(const Tensor& given, const Tensor& like, const char* name) {
    STD_TORCH_CHECK(given.is_cpu() && given.scalar_type() == ScalarType::Float, "geovit::local_attention: ", name, " is not float32 on the CPU");
    const int64_t dims = given.dim();
    bool same = dims == like.dim() && dims >= 4 && dims <= 3 + most_axes;
    for (int64_t a = 0; same && a < dims; ++a) same = given.size(a) == like.size(a);
    STD_TORCH_CHECK(same, "geovit::local_attention: ", name, " has another shape than q, (batch, 1 to 3 axes, heads, head_dim)");
    bool regular = given.stride(dims - 1) == 1;
    for (int64_t a = dims - 4; a >= 1; --a) regular = regular && given.stride(a) == given.stride(a + 1) * given.size(a + 1);
    return regular ? given : torch::stable::contiguous(given);
}

template <class T>
Rows<T> rows_of(const Tensor& tensor, T* data) {
    const int64_t dims = tensor.dim();
    return {data, tensor.stride(0), tensor.stride(dims - 3), tensor.stride(dims - 2)};
}

Rows<const float> rows_read(const Tensor& tensor) { return rows_of(tensor, read(tensor)); }
Rows<float> rows_written(const Tensor& tensor) { return rows_of(tensor, write(tensor)); }

Tensor like_rows(const Tensor& q) { return torch::stable::contiguous(torch::stable::empty_like(q)); }

using MaybeTensor = std::optional<Tensor>;

// What forward and backward share: checked operands, and the problem that points into them.
struct Call {
    Tensor q, k, v, table, pad_k, pad_v, packed_layout;
    Layout layout;
    Biases biases;
    Problem problem{};

    // The table comes as (heads, rows).
    Call(const Tensor& q_, const Tensor& k_, const Tensor& v_, const MaybeTensor& table_, const MaybeTensor& pad_k_,
         const MaybeTensor& pad_v_, const Tensor& layout_, double scale, bool sigmoid)
        : q(as_rows(q_, q_, "q")), k(as_rows(k_, q_, "k")), v(as_rows(v_, q_, "v")) {
        constexpr const char* op = "geovit::local_attention";
        const int64_t heads = q.size(q.dim() - 2), dim = q.size(q.dim() - 1);
        packed_layout = checked(layout_, {layout_.numel()}, op, "layout", ScalarType::Int);
        layout = read_layout(packed_layout, q, sigmoid);
        if (table_) table = checked(*table_, {heads, layout.rows}, op, "table");
        bool outside = false;
        for (const Block& block : layout.blocks) outside = outside || block.outside > 0;
        STD_TORCH_CHECK((pad_k_ && pad_v_) || !outside, "geovit::local_attention: the layout has constant keys, pad_k or pad_v is none");
        if (pad_k_) problem.pad_k = read(pad_k = checked(*pad_k_, {heads, dim}, op, "pad_k"));
        if (pad_v_) problem.pad_v = read(pad_v = checked(*pad_v_, {heads, dim}, op, "pad_v"));
        problem.layout = &layout;
        problem.q = rows_read(q), problem.k = rows_read(k), problem.v = rows_read(v);
        problem.heads = heads, problem.dim = dim;
        problem.scale = static_cast<float>(scale), problem.sigmoid = sigmoid;
        biases = make_biases(layout, table_ ? read(table) : nullptr, heads, sigmoid);
        problem.biases = biases.blocks.data();
    }
    Call(const Call&) = delete;
};

// Queries times keys for which a thread is worth waking.
constexpr int64_t grain_size = 1 << 16;

std::tuple<Tensor, Tensor> local_attention(const Tensor& q, const Tensor& k, const Tensor& v, const MaybeTensor& table,
                                           const MaybeTensor& pad_k, const MaybeTensor& pad_v, const Tensor& layout, double scale,
                                           bool sigmoid) {
    Call call(q, k, v, table, pad_k, pad_v, layout, scale, sigmoid);
    Problem& problem = call.problem;
    const int64_t batches = q.size(0);
    const Tensor out = like_rows(q);
    const Tensor rows = torch::stable::new_empty(q, {sigmoid ? 0 : batches * call.layout.positions * problem.heads * 2});
    problem.out = rows_written(out);
    problem.rows = write(rows);
    forward_work(call.layout, batches, problem.heads).run(grain_size, [&](const Part* begin, const Part* end) {
        dispatch<Forward>(static_cast<const Problem*>(&problem), begin, end);
    });
    return {out, rows};
}

std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor, Tensor> local_attention_backward(
    const Tensor& grad_, const Tensor& q, const Tensor& k, const Tensor& v, const MaybeTensor& table, const MaybeTensor& pad_k,
    const MaybeTensor& pad_v, const Tensor& rows_, const Tensor& layout, double scale, bool sigmoid, bool needs_table) {
    Call call(q, k, v, table, pad_k, pad_v, layout, scale, sigmoid);
    Problem& problem = call.problem;
    const int64_t batches = q.size(0), heads = problem.heads, dim = problem.dim, lanes = width(), pad_dim = padded(dim, lanes);
    const Tensor grad = as_rows(grad_, q, "grad");
    const int64_t rows_count = sigmoid ? 0 : batches * call.layout.positions * heads * 2;
    const Tensor rows = checked(rows_, {rows_count}, "geovit::local_attention", "rows");
    Tensor grad_q = like_rows(q), grad_k = like_rows(q), grad_v = like_rows(q);
    if (!call.layout.disjoint) {
        torch::stable::zero_(grad_k);
        torch::stable::zero_(grad_v);
    }
    problem.grad = rows_read(grad);
    problem.grad_q = rows_written(grad_q), problem.grad_k = rows_written(grad_k), problem.grad_v = rows_written(grad_v);
    problem.rows = const_cast<float*>(read(rows));
    const Work work = backward_work(call.layout, batches, heads);
    problem.parts = work.parts.data();
    int64_t sums = 0;
    std::vector<int64_t> starts;
    for (size_t b = 0; b < call.layout.blocks.size(); ++b) {
        const Block& block = call.layout.blocks[b];
        starts.push_back(sums);
        if (needs_table) sums += work.groups[b] * heads * block.queries * padded(block.keys, lanes);
    }
    const Buffer bias_sums(sums), pad_sums(static_cast<int64_t>(work.parts.size()) * 2 * pad_dim);
    std::vector<float*> grad_biases;
    for (const int64_t start : starts) grad_biases.push_back(bias_sums.data() + start);
    problem.grad_biases = needs_table ? grad_biases.data() : nullptr;
    problem.grad_pad = pad_sums.data();
    work.run(grain_size / 4, [&](const Part* begin, const Part* end) {
        dispatch<Backward>(static_cast<const Problem*>(&problem), begin, end);
    });

    const int64_t table_rows = call.layout.rows;
    const Tensor grad_table = torch::stable::new_zeros(q, {needs_table ? heads : 0, table_rows});
    if (needs_table) {
        float* const to = write(grad_table);
        torch::stable::parallel_for(0, heads, 32768 * heads / (sums + 1) + 1, [&](int64_t begin, int64_t end) {
            for (int64_t head = begin; head < end; ++head)
                for (size_t b = 0; b < call.layout.blocks.size(); ++b) {
                    const Block& block = call.layout.blocks[b];
                    const int64_t entries = block.queries * padded(block.keys, lanes);
                    add_table_gradient(block, call.biases.rows[b], read(call.table) + head * table_rows, grad_biases[b] + head * entries,
                                       work.groups[b], heads * entries, sigmoid, to + head * table_rows);
                }
        });
    }
    Tensor grad_pad_k = torch::stable::new_zeros(q, {pad_k ? heads : 0, dim}), grad_pad_v = torch::stable::new_zeros(q, {pad_v ? heads : 0, dim});
    float *const to_k = write(grad_pad_k), *const to_v = write(grad_pad_v);
    for (size_t i = 0; pad_k && pad_v && i < work.parts.size(); ++i)
        for (int64_t d = 0; d < dim; ++d) {
            const float* from = problem.grad_pad + static_cast<int64_t>(i) * 2 * pad_dim;
            to_k[work.parts[i].head * dim + d] += from[d];
            to_v[work.parts[i].head * dim + d] += from[pad_dim + d];
        }
    return {grad_q, grad_k, grad_v, grad_table, grad_pad_k, grad_pad_v};
}

}  // namespace
}  // namespace geovit

STABLE_TORCH_LIBRARY_FRAGMENT(geovit, library) {
    library.def(
        "local_attention(Tensor q, Tensor k, Tensor v, Tensor? table, Tensor? pad_k, Tensor? pad_v, Tensor layout, float scale, "
        "bool sigmoid) -> (Tensor, Tensor)");
    library.def(
        "local_attention_backward(Tensor grad, Tensor q, Tensor k, Tensor v, Tensor? table, Tensor? pad_k, Tensor? pad_v, Tensor rows, "
        "Tensor layout, float scale, bool sigmoid, bool needs_table) -> (Tensor, Tensor, Tensor, Tensor, Tensor, Tensor)");
}

STABLE_TORCH_LIBRARY_IMPL(geovit, CPU, library) {
    library.impl("local_attention", TORCH_BOX(&geovit::local_attention));
    library.impl("local_attention_backward", TORCH_BOX(&geovit::local_attention_backward));
}
