// Attention of every tile of queries to its tile of keys, forward and backward, for all tiles of an image in one call.

#include <optional>
#include <tuple>

#include "local_attention.h"
#include "memory.h"
#include "tensor.h"

namespace geovit {
namespace {

using namespace tiled;

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
            const int64_t groups = std::min({tiles, wanted, std::max<int64_t>(4, tiles / tiles_of_sum)});
            work.groups.push_back(groups);
            for (int64_t group = 0; group < groups; ++group)
                for (int64_t head = 0; head < heads; ++head) {
                    const int64_t begin = tiles * group / groups, end = tiles * (group + 1) / groups;
                    work.add(layout, {static_cast<int64_t>(b), head, begin, end, group});
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

// Floats from one position to the next, or -1 if positions do not lie at one distance. The stride of an axis of length one means
// nothing, even where torch calls the tensor contiguous.
int64_t distance(const Tensor& tensor) {
    int64_t between = 0, next = -1;  // next: what the stride of the axis before has to be
    for (int64_t a = tensor.dim() - 3; a >= 1; --a) {
        if (tensor.size(a) == 1) continue;
        if (next < 0) between = next = tensor.stride(a);
        if (tensor.stride(a) != next) return -1;
        next *= tensor.size(a);
    }
    return between;
}

// An operand as rows with one stride for all positions: a copy only where its strides have no such form.
Tensor as_rows(const Tensor& given, const Tensor& like, const char* name) {
    const bool served = given.is_cpu() && given.scalar_type() == like.scalar_type();
    STD_TORCH_CHECK(served, "geovit::local_attention: ", name, " is not on the CPU, or of another dtype than q");
    const int64_t dims = given.dim();
    bool same = dims == like.dim() && dims >= 4 && dims <= 3 + most_axes;
    for (int64_t a = 0; same && a < dims; ++a) same = given.size(a) == like.size(a);
    STD_TORCH_CHECK(same, "geovit::local_attention: ", name, " has another shape than q, (batch, 1 to 3 axes, heads, head_dim)");
    return given.stride(dims - 1) == 1 && distance(given) >= 0 ? given : torch::stable::contiguous(given);
}

template <class T>
Rows<T> rows_of(const Tensor& tensor, T* data) {
    return {data, tensor.stride(0), distance(tensor), tensor.stride(tensor.dim() - 2)};
}

template <class T = float>
Rows<const T> rows_read(const Tensor& tensor) {
    return rows_of(tensor, read<T>(tensor));
}
template <class T = float>
Rows<T> rows_written(const Tensor& tensor) {
    return rows_of(tensor, write<T>(tensor));
}

using MaybeTensor = std::optional<Tensor>;

// What forward and backward share: checked operands, and the problem that points into them.
template <class T>
struct Call {
    Tensor q, k, v, table, pad_k, pad_v, packed_layout;
    Layout layout;
    Biases biases;
    ProblemOf<T> problem{};

    // The table comes as (heads, rows).
    Call(const Tensor& q_, const Tensor& k_, const Tensor& v_, const MaybeTensor& table_, const MaybeTensor& pad_k_,
         const MaybeTensor& pad_v_, const Tensor& layout_, double scale, bool sigmoid)
        : q(as_rows(q_, q_, "q")), k(as_rows(k_, q_, "k")), v(as_rows(v_, q_, "v")) {
        constexpr const char* op = "geovit::local_attention";
        const int64_t heads = q.size(q.dim() - 2), dim = q.size(q.dim() - 1);
        STD_TORCH_CHECK(heads > 0 && dim > 0, op, ": q has no heads or no width");
        packed_layout = checked(layout_, {layout_.numel()}, op, "layout", ScalarType::Int);
        layout = read_layout(packed_layout, q, sigmoid);
        if (table_) table = checked(*table_, {heads, layout.rows}, op, "table");
        bool outside = false;
        for (const Block& block : layout.blocks) outside = outside || block.outside > 0;
        STD_TORCH_CHECK((pad_k_ && pad_v_) || !outside, op, ": the layout has constant keys, pad_k or pad_v is none");
        if (pad_k_) problem.pad_k = read(pad_k = checked(*pad_k_, {heads, dim}, op, "pad_k"));
        if (pad_v_) problem.pad_v = read(pad_v = checked(*pad_v_, {heads, dim}, op, "pad_v"));
        problem.layout = &layout;
        problem.q = rows_read<T>(q), problem.k = rows_read<T>(k), problem.v = rows_read<T>(v);
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
    const int64_t batches = q.size(0), heads = q.size(q.dim() - 2);
    const Tensor out = result_like(q);
    Tensor rows;
    with_element_type(q, "geovit::local_attention", [&](auto element) {
        using T = decltype(element);
        Call<T> call(q, k, v, table, pad_k, pad_v, layout, scale, sigmoid);
        ProblemOf<T>& problem = call.problem;
        rows = torch::stable::new_empty(q, {sigmoid ? 0 : batches * call.layout.positions * heads * 2}, ScalarType::Float);
        problem.out = rows_written<T>(out);
        problem.rows = write(rows);
        forward_work(call.layout, batches, heads).run(grain_size, [&](const Part* begin, const Part* end) {
            dispatch<Forward>(static_cast<const ProblemOf<T>*>(&problem), begin, end);
        });
    });
    return {out, rows};
}

std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor, Tensor> local_attention_backward(
    const Tensor& grad_, const Tensor& q, const Tensor& k, const Tensor& v, const MaybeTensor& table, const MaybeTensor& pad_k,
    const MaybeTensor& pad_v, const Tensor& rows_, const Tensor& layout, double scale, bool sigmoid, bool needs_table) {
    STD_TORCH_CHECK(!needs_table || table, "geovit::local_attention: the gradient of a table is asked for, and there is none");
    STD_TORCH_CHECK(q.scalar_type() == ScalarType::Float, "geovit::local_attention: q is not float32, of which alone there is a gradient");
    Call<float> call(q, k, v, table, pad_k, pad_v, layout, scale, sigmoid);
    Problem& problem = call.problem;
    const int64_t batches = q.size(0), heads = problem.heads, dim = problem.dim, lanes = width(), pad_dim = padded(dim, lanes);
    const Tensor grad = as_rows(grad_, q, "grad");
    const int64_t rows_count = sigmoid ? 0 : batches * call.layout.positions * heads * 2;
    const Tensor rows = checked(rows_, {rows_count}, "geovit::local_attention", "rows");
    Tensor grad_q = result_like(q), grad_k = result_like(q), grad_v = result_like(q);
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
                    add_table_gradient(block, call.biases.rows[b], read(call.table) + head * table_rows,
                                       grad_biases[b] + head * entries, work.groups[b], heads * entries, sigmoid,
                                       to + head * table_rows);
                }
        });
    }
    const Tensor grad_pad_k = torch::stable::new_zeros(q, {pad_k ? heads : 0, dim});
    const Tensor grad_pad_v = torch::stable::new_zeros(q, {pad_v ? heads : 0, dim});
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
        "local_attention_backward(Tensor grad, Tensor q, Tensor k, Tensor v, Tensor? table, Tensor? pad_k, Tensor? pad_v, "
        "Tensor rows, Tensor layout, float scale, bool sigmoid, bool needs_table) "
        "-> (Tensor, Tensor, Tensor, Tensor, Tensor, Tensor)");
}

STABLE_TORCH_LIBRARY_IMPL(geovit, CPU, library) {
    library.impl("local_attention", TORCH_BOX(&geovit::local_attention));
    library.impl("local_attention_backward", TORCH_BOX(&geovit::local_attention_backward));
}
