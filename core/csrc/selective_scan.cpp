// selective_scan: h_t = exp(dt_t A) h_{t-1} + dt_t B_t u_t, y_t = C_t . h_t + D u_t, along routes given by index, and its gradients.
// The kernels are in the two headers; here tensors are checked, work is split into tasks, and partial gradients are added.

#include "selective_scan.h"

#include <algorithm>
#include <optional>
#include <tuple>
#include <vector>

#include "memory.h"
#include "selective_scan_backward.h"
#include "tensor.h"

namespace geovit::selective_scan {
namespace {

constexpr const char* name = "geovit::selective_scan";
constexpr int64_t grain = 1 << 16;   // states to step through in a task: some ten microseconds
constexpr int64_t tasks_wanted = 8;  // the more, the fewer channels lie side by side in a task, and each has an own gradient of B and C

using Optional = std::optional<Tensor>;

int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

// As `checked`, but any strides are kept if the last axis is contiguous.
Tensor checked_rows(const Tensor& tensor, std::initializer_list<int64_t> shape, const char* argument) {
    STD_TORCH_CHECK(tensor.is_cpu() && tensor.scalar_type() == ScalarType::Float, name, ": ", argument, " is no float32 on the CPU");
    const std::vector<int64_t> wanted(shape);
    bool same = tensor.dim() == static_cast<int64_t>(wanted.size());
    for (int64_t axis = 0; same && axis < tensor.dim(); ++axis) same = tensor.size(axis) == wanted[static_cast<size_t>(axis)];
    STD_TORCH_CHECK(same, name, ": ", argument, " has another shape than the other tensors ask for");
    return tensor.stride(tensor.dim() - 1) == 1 ? tensor : torch::stable::contiguous(tensor);
}

Rows rows_of(const Tensor& tensor) {
    const int64_t axes = tensor.dim() - 1;
    const auto stride = [&](int64_t axis) { return axis < axes && tensor.size(axis) > 1 ? tensor.stride(axis) : 0; };
    return {read(tensor), stride(0), stride(1), stride(2), stride(3)};
}

// Owns what a Problem points to.
struct Inputs {
    Tensor u, dt, A, B, C;
    Optional D, z, dt_bias, orders;
    Problem problem;
};

void check_orders(const int64_t* orders, int64_t routes, int64_t length) {
    std::vector<bool> seen(static_cast<size_t>(length));
    for (int64_t route = 0; route < routes; ++route, orders += length) {
        std::fill(seen.begin(), seen.end(), false);
        for (int64_t i = 0; i < length; ++i) {
            const bool inside = orders[i] >= 0 && orders[i] < length;
            STD_TORCH_CHECK(inside && !seen[static_cast<size_t>(orders[i])], name, ": a row of orders is no permutation");
            seen[static_cast<size_t>(orders[i])] = true;
        }
    }
}

Inputs inputs_of(const Tensor& u, const Tensor& dt, const Tensor& A, const Tensor& B, const Tensor& C, const Optional& D,
                 const Optional& z, const Optional& dt_bias, const Optional& orders, bool softplus) {
    STD_TORCH_CHECK(u.dim() == 4 && dt.dim() == 4 && A.dim() == 3 && B.dim() == 5, name, ": u, dt, A or B has another number of axes");
    const int64_t batch = dt.size(0), length = dt.size(1), routes = dt.size(2), dim = dt.size(3), groups = B.size(3), states = A.size(2);
    STD_TORCH_CHECK(length > 0 && routes > 0 && groups > 0 && states > 0 && dim > 0 && dim % groups == 0, name,
                    ": an axis is empty, or the channels do not fall into equal groups");
    STD_TORCH_CHECK(orders.has_value() || routes == 1, name, ": several routes need orders");
    const bool shared = u.size(2) == 1;
    Inputs in{checked_rows(u, {batch, length, shared ? 1 : routes, dim}, "u"),
              checked_rows(dt, {batch, length, routes, dim}, "dt"),
              checked(A, {routes, dim, states}, name, "A"),
              checked_rows(B, {batch, length, routes, groups, states}, "B"),
              checked_rows(C, {batch, length, routes, groups, states}, "C"),
              std::nullopt, std::nullopt, std::nullopt, std::nullopt, {}};
    if (D) in.D = checked(*D, {routes, dim}, name, "D");
    if (z) in.z = checked_rows(*z, {batch, length, dim}, "z");
    if (dt_bias) in.dt_bias = checked(*dt_bias, {routes, dim}, name, "dt_bias");
    if (orders) in.orders = checked(*orders, {routes, length}, name, "orders", ScalarType::Long);
    in.problem = {batch, length, routes, dim, groups, states,
                  rows_of(in.u), rows_of(in.dt), rows_of(in.B), rows_of(in.C), in.z ? rows_of(*in.z) : Rows{},
                  read(in.A), in.D ? read(*in.D) : nullptr, in.dt_bias ? read(*in.dt_bias) : nullptr,
                  in.orders ? read<int64_t>(*in.orders) : nullptr, softplus, shared, 1};
    const int64_t blocks = in.problem.blocks(), images = std::max<int64_t>(1, batch * groups);
    in.problem.blocks_per_task = ceil_div(blocks, std::min(blocks, ceil_div(tasks_wanted, images)));
    if (in.orders) check_orders(in.problem.orders, routes, length);
    return in;
}

// Runs the tasks, each thread with an own scratch. It starts as zeros, so that nothing is read before it is written.
template <class Kernel, class Rest>
void run_tasks(const Problem& problem, const Rest& rest) {
    const int64_t tasks = problem.batch * problem.groups * problem.parts(), size = Kernel::scratch(problem);
    const int64_t work = problem.length * problem.routes * problem.states * problem.blocks_per_task * block;
    torch::stable::parallel_for(0, tasks, std::max<int64_t>(1, grain / work), [&](int64_t begin, int64_t end) {
        std::vector<float> scratch(static_cast<size_t>(size + block));
        const auto past = reinterpret_cast<uintptr_t>(scratch.data()) % (block * sizeof(float)) / sizeof(float);
        dispatch<Kernel>(&problem, &rest, scratch.data() + (block - past), begin, end);
    });
}

// Adds the entries of the first axis, first to last.
Tensor sum_first(const Tensor& parts, std::vector<int64_t> shape) {
    const int64_t count = parts.size(0);
    if (count == 1) return torch::stable::reshape(parts, shape);
    const Tensor sum = torch::stable::new_empty(parts, shape);
    const int64_t size = sum.numel();
    const float* from = read(parts);
    float* to = write(sum);
    torch::stable::parallel_for(0, size, grain, [=](int64_t begin, int64_t end) {
        for (int64_t i = begin; i < end; ++i) to[i] = count > 0 ? from[i] : 0.0f;
        for (int64_t part = 1; part < count; ++part)
            for (int64_t i = begin; i < end; ++i) to[i] += from[part * size + i];
    });
    return sum;
}

std::tuple<Tensor, Tensor, Tensor, Tensor> forward(const Tensor& u, const Tensor& dt, const Tensor& A, const Tensor& B, const Tensor& C,
                                                   const Optional& D, const Optional& z, const Optional& dt_bias, const Optional& orders,
                                                   bool softplus, bool keep) {
    Inputs in = inputs_of(u, dt, A, B, C, D, z, dt_bias, orders, softplus);
    in.problem.blocks_per_task = 1;  // a thread does its tasks together, and nothing is summed over channels
    const Problem& p = in.problem;
    const bool keep_ungated = keep && z.has_value();
    const Tensor y = result(dt, {p.batch, p.length, p.dim});
    const Tensor state = torch::stable::new_empty(dt, {p.batch, p.routes, p.dim, p.states});
    const Tensor ungated = torch::stable::new_empty(dt, {keep_ungated ? p.batch : 0, p.length, p.dim});
    const Tensor borders = result(dt, {keep ? p.batch : 0, p.routes, p.chunks(), p.states, p.dim});
    const Forward::Output out{write(y), write(state), keep_ungated ? write(ungated) : nullptr, keep ? write(borders) : nullptr};
    run_tasks<Forward>(p, out);
    return {y, state, ungated, borders};
}

std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor> backward(
    const Tensor& grad_y_, const Tensor& grad_state_, const Tensor& ungated_, const Tensor& borders_, const Tensor& u, const Tensor& dt,
    const Tensor& A, const Tensor& B, const Tensor& C, const Optional& D, const Optional& z, const Optional& dt_bias,
    const Optional& orders, bool softplus) {
    const Inputs in = inputs_of(u, dt, A, B, C, D, z, dt_bias, orders, softplus);
    const Problem& p = in.problem;
    const Tensor grad_y = checked_rows(grad_y_, {p.batch, p.length, p.dim}, "grad_y");
    const Tensor grad_state = checked(grad_state_, {p.batch, p.routes, p.dim, p.states}, name, "grad_state");
    const Tensor ungated = checked(ungated_, {z ? p.batch : 0, p.length, p.dim}, name, "ungated");
    const Tensor borders = checked(borders_, {p.batch, p.routes, p.chunks(), p.states, p.dim}, name, "borders");

    const auto empty = [&](const std::vector<int64_t>& shape) { return result(dt, shape); };
    const Tensor grad_u = empty({p.batch, p.length, u.size(2), p.dim}), grad_dt = empty({p.batch, p.length, p.routes, p.dim});
    const Tensor grad_z = empty({z ? p.batch : 0, p.length, p.dim});
    const Tensor grad_A = empty({p.batch, p.routes, p.dim, p.states});
    const Tensor grad_D = empty({p.batch, D ? p.routes : 0, p.dim}), grad_bias = empty({p.batch, dt_bias ? p.routes : 0, p.dim});
    const Tensor grad_B = empty({p.parts(), p.batch, p.length, p.routes, p.groups, p.states});
    const Tensor grad_C = empty({p.parts(), p.batch, p.length, p.routes, p.groups, p.states});
    const Backward::Gradients gradients{rows_of(grad_y), read(grad_state), read(ungated), read(borders),
                                        write(grad_u), write(grad_dt), write(grad_z), write(grad_A),
                                        D ? write(grad_D) : nullptr, dt_bias ? write(grad_bias) : nullptr, write(grad_B), write(grad_C)};
    run_tasks<Backward>(p, gradients);
    const std::vector<int64_t> rows{p.batch, p.length, p.routes, p.groups, p.states};
    return {grad_u,
            grad_dt,
            sum_first(grad_A, {p.routes, p.dim, p.states}),
            sum_first(grad_B, rows),
            sum_first(grad_C, rows),
            sum_first(grad_D, {D ? p.routes : 0, p.dim}),
            grad_z,
            sum_first(grad_bias, {dt_bias ? p.routes : 0, p.dim})};
}

}  // namespace
}  // namespace geovit::selective_scan

STABLE_TORCH_LIBRARY_FRAGMENT(geovit, library) {
    library.def(
        "selective_scan(Tensor u, Tensor dt, Tensor A, Tensor B, Tensor C, Tensor? D, Tensor? z, Tensor? dt_bias, Tensor? orders, "
        "bool softplus, bool keep) -> (Tensor, Tensor, Tensor, Tensor)");
    library.def(
        "selective_scan_backward(Tensor grad_y, Tensor grad_state, Tensor ungated, Tensor borders, Tensor u, Tensor dt, Tensor A, "
        "Tensor B, Tensor C, Tensor? D, Tensor? z, Tensor? dt_bias, Tensor? orders, bool softplus) "
        "-> (Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor)");
}

STABLE_TORCH_LIBRARY_IMPL(geovit, CPU, library) {
    library.impl("selective_scan", TORCH_BOX(&geovit::selective_scan::forward));
    library.impl("selective_scan_backward", TORCH_BOX(&geovit::selective_scan::backward));
}
