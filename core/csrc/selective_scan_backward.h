// The gradients of selective_scan. Chunks are visited last to first: the states of a chunk are computed again from the state at its
// border, which the forward pass has kept, then the gradient of the state runs through the chunk backwards.
//
// With g_t the gradient of h_t, a_t the decay, x_t = dt_t u_t and d_t the gradient of y_t:
//   g_t = C_t d_t + a_{t+1} g_{t+1}      dC_t = sum over channels of d_t h_t      dB_t = sum over channels of g_t x_t
//   dx_t = B_t . g_t                     q_t = g_t a_t h_{t-1}                    dA = sum over t of q_t dt_t
//   du_t = dt_t dx_t + D d_t             ddt_t = A . q_t + u_t dx_t               dD = sum over t of d_t u_t
//
// Sums over channels are kept lane by lane for the channels of a task, and their lanes are added once for each chunk.
#pragma once

#include "selective_scan.h"

namespace geovit::selective_scan {

// to[i] = the sum of row i, for sixteen rows of Size / 8 entries each: neighbours are added, again and again.
template <int Size>
GEOVIT_INLINE void add_neighbours(const float* from, float* to) {
    float part[Size];
    for (int i = 0; i < Size; ++i) part[i] = from[2 * i] + from[2 * i + 1];
    if constexpr (Size > 16)
        add_neighbours<Size / 2>(part, to);
    else
        std::memcpy(to, part, sizeof(part));
}

struct Backward {
    struct Gradients {
        Rows grad_y;                                  // given
        const float *grad_state, *ungated, *borders;  // given
        float *u, *dt, *z;      // like the tensors they belong to, contiguous
        float *A, *D, *dt_bias;  // with an axis of images in front, to be summed over
        float *B, *C;            // with an axis of parts in front, to be summed over
    };

    static constexpr int most = 8;  // states in registers at a time

    static GEOVIT_INLINE int64_t padded(int64_t rows) { return (rows + 15) / 16 * 16; }

    static int64_t scratch(const Problem& p) {
        const int64_t channels = p.blocks_per_task * block, rows = padded(chunk_length * p.states);
        return 3 * channels * p.states + 2 * channels + 2 * chunk_length * most * block + 2 * rows * block + rows;
    }

    template <class F>
    struct Work {
        Steps s;
        Chunk<F> c;
        F grad_y[chunk_length];
        F grad_input[chunk_length], grad_rate[chunk_length];  // B . g, and (A log2(e)) . q
        float *before, *kept;                                 // the states before each step, and the decays: [step][state of a group]
        float *grad_B, *grad_C;                               // lane by lane: [step][state]
    };

    // Computes the states of a chunk again, keeps them and the decays, and adds to the gradient of C.
    template <bool Clamped, int Count, class F>
    static GEOVIT_INLINE void recompute(int64_t n0, const Problem* p, Work<F>* w, const float* rate, const float* border, int64_t count) {
        constexpr int W = width_of<F>, some = Count < 4 ? Count : 4;
        F h[Count], a[some];
#pragma GCC unroll 8
        for (int n = 0; n < Count; ++n) h[n] = load_first<F>(border + (n0 + n) * p->dim, count);
        for (int64_t t = 0; t < w->s.count; ++t) {
            const float* B = w->s.B[t] + n0;
            const F dt = w->c.dt[t], input = w->c.input[t], grad_y = w->grad_y[t];
            float *before = w->before + t * Count * W, *kept = w->kept + t * Count * W, *grad_C = w->grad_C + (t * p->states + n0) * W;
#pragma GCC unroll 8
            for (int n = 0; n < Count; ++n) {
                if (n % some == 0) decays<Clamped, some>(dt, rate + (n0 + n) * W, a);
                store_vec(kept + n * W, a[n % some]);
                store_vec(before + n * W, h[n]);
                const F ah = a[n % some] * h[n];
                h[n] = ah + input * B[n];
                store_vec(grad_C + n * W, load_vec<F>(grad_C + n * W) + grad_y * h[n]);
            }
        }
    }

    // Carries the gradient of the state from the end of the chunk to its start.
    template <int Count, class F>
    static GEOVIT_INLINE void sweep(int64_t n0, const Problem* p, Work<F>* w, const float* rate, float* carried, float* grad_A) {
        constexpr int W = width_of<F>;
        F g[Count], dA[Count];
#pragma GCC unroll 8
        for (int n = 0; n < Count; ++n) g[n] = load_vec<F>(carried + (n0 + n) * W), dA[n] = load_vec<F>(grad_A + (n0 + n) * W);
        for (int64_t t = w->s.count - 1; t >= 0; --t) {
            const float *B = w->s.B[t] + n0, *C = w->s.C[t] + n0;
            const F dt = w->c.dt[t], input = w->c.input[t], grad_y = w->grad_y[t];
            const float *before = w->before + t * Count * W, *kept = w->kept + t * Count * W;
            float* grad_B = w->grad_B + (t * p->states + n0) * W;
            F grad_input = w->grad_input[t], grad_rate = w->grad_rate[t];
#pragma GCC unroll 8
            for (int n = 0; n < Count; ++n) {
                const F full = g[n] + grad_y * C[n];
                store_vec(grad_B + n * W, load_vec<F>(grad_B + n * W) + full * input);
                grad_input += full * B[n];
                g[n] = full * load_vec<F>(kept + n * W);
                const F q = g[n] * load_vec<F>(before + n * W);
                dA[n] += q * dt;
                grad_rate += q * load_vec<F>(rate + (n0 + n) * W);
            }
            w->grad_input[t] = grad_input;
            w->grad_rate[t] = grad_rate;
        }
#pragma GCC unroll 8
        for (int n = 0; n < Count; ++n) store_vec(carried + (n0 + n) * W, g[n]), store_vec(grad_A + (n0 + n) * W, dA[n]);
    }

    template <bool Clamped>
    struct States {
        template <int Count, class F>
        static GEOVIT_INLINE void run(int64_t n0, const Problem* p, Work<F>* w, const float* rate, const float* border, int64_t count,
                                      float* carried, float* grad_A) {
            recompute<Clamped, Count>(n0, p, w, rate, border, count);
            sweep<Count>(n0, p, w, rate, carried, grad_A);
        }
    };

    // Reads the gradient of y before the gate; the gradient of the gate itself is written with the first route.
    template <class F>
    static GEOVIT_INLINE void read_grad(const Problem& p, const Gradients& g, const Task& task, int64_t route, int64_t channel,
                                        int64_t count, Work<F>& w) {
        const float* grad_y = g.grad_y.at(task.batch, 0) + channel;
        const float *u = p.u.at(task.batch, 0, route) + channel, *dt = p.dt.at(task.batch, 0, route) + channel;
        const int64_t stride = g.grad_y.position_stride;
        for (int64_t t = 0; t < w.s.count; ++t) {
            w.grad_y[t] = load_first<F>(grad_y + w.s.position[t] * stride, count);
            w.grad_input[t] = w.grad_rate[t] = F{};
            __builtin_prefetch(grad_y + w.s.next[t] * stride);
            __builtin_prefetch(u + w.s.next[t] * p.u.position_stride);
            __builtin_prefetch(dt + w.s.next[t] * p.dt.position_stride);
        }
        if (!p.z.data) return;
        for (int64_t t = 0; t < w.s.count; ++t) {
            const int64_t at = (task.batch * p.length + w.s.position[t]) * p.dim + channel;
            const F z = load_first<F>(p.z.at(task.batch, w.s.position[t]) + channel, count), s = sigmoid(z);
            if (route == 0) {
                const F slope = s * (1.0f + z * (1.0f - s));
                store_first(g.z + at, w.grad_y[t] * load_first<F>(g.ungated + at, count) * slope, count);
            }
            w.grad_y[t] *= z * s;
        }
    }

    template <class F>
    static GEOVIT_INLINE void write_chunk(const Problem& p, const Gradients& g, const Task& task, int64_t route, int64_t channel,
                                          int64_t count, const Work<F>& w, float* grad_D, float* grad_bias) {
        const F skip = p.D ? load_first<F>(p.D + route * p.dim + channel, count) : F{};
        const int64_t start = task.batch * p.length, routes = p.routes, dim = p.dim;
        const bool shared = p.shared_input, add = shared && route > 0;
        float *to_u = g.u, *to_dt = g.dt;
        F sum_D = load_vec<F>(grad_D), sum_bias = load_vec<F>(grad_bias);
        for (int64_t t = 0; t < w.s.count; ++t) {
            const int64_t position = start + w.s.position[t], own = (position * routes + route) * dim + channel;
            const int64_t at = shared ? position * dim + channel : own;
            F grad_u = w.c.dt[t] * w.grad_input[t] + skip * w.grad_y[t];
            if (add) grad_u += load_first<F>(to_u + at, count);
            store_first(to_u + at, grad_u, count);
            const F grad_dt = (ln2 * w.grad_rate[t] + w.c.u[t] * w.grad_input[t]) * w.c.slope[t];
            store_first(to_dt + own, grad_dt, count);
            sum_D += w.grad_y[t] * w.c.u[t];
            sum_bias += grad_dt;
        }
        store_vec(grad_D, sum_D);
        store_vec(grad_bias, sum_bias);
    }

    // Adds the lanes and writes the rows of this chunk's positions.
    template <int W>
    static GEOVIT_INLINE void write_rows(const Problem& p, const Task& task, int64_t route, const int64_t* position, int64_t steps,
                                         const float* lanes, float* sums, float* to) {
        for (int64_t row = 0; row < steps * p.states; row += 16) add_neighbours<8 * W>(lanes + row * W, sums + row);
        for (int64_t t = 0; t < steps; ++t) {
            const int64_t at = ((task.part * p.batch + task.batch) * p.length + position[t]) * p.routes + route;
            float* row = to + (at * p.groups + task.group) * p.states;
            for (int64_t n = 0; n < p.states; ++n) row[n] = sums[t * p.states + n];
        }
    }

    template <int W>
    static GEOVIT_INLINE void run(const Problem* problem, const Gradients* gradients, float* scratch, int64_t first_task,
                                  int64_t last_task) {
        using F = Vec<W>;
        const Problem& p = *problem;
        const Gradients& g = *gradients;
        const int64_t channels = p.blocks_per_task * block, size = p.states * W, rows = padded(chunk_length * p.states);
        float *rate = scratch, *carried = rate + channels * p.states, *grad_A = carried + channels * p.states;
        float *grad_D = grad_A + channels * p.states, *grad_bias = grad_D + channels;
        Work<F> w;
        w.before = grad_bias + channels;
        w.kept = w.before + chunk_length * most * W;
        w.grad_B = w.kept + chunk_length * most * W;
        w.grad_C = w.grad_B + rows * W;
        float* sums = w.grad_C + rows * W;
        for (int64_t index = first_task; index < last_task; ++index) {
            const Task task = task_of(p, index);
            for (int64_t route = 0; route < p.routes; ++route) {
                const int64_t row = p.channel(task.batch, route);
                for (int64_t channel = task.begin, i = 0; channel < task.end; channel += W, ++i) {
                    read_rates<F>(p, route, channel, task.end - channel, rate + i * size);
                    for (int64_t n = 0; n < p.states; ++n)
                        for (int64_t lane = 0; lane < W; ++lane) {
                            const bool inside = channel + lane < task.end;
                            carried[i * size + n * W + lane] = inside ? g.grad_state[(row + channel + lane) * p.states + n] : 0.0f;
                            grad_A[i * size + n * W + lane] = 0.0f;
                        }
                    for (int64_t lane = 0; lane < W; ++lane) grad_D[i * W + lane] = grad_bias[i * W + lane] = 0.0f;
                }
                for (int64_t chunk = p.chunks() - 1; chunk >= 0; --chunk) {
                    for (int64_t i = 0; i < rows * W; ++i) w.grad_B[i] = w.grad_C[i] = 0.0f;
                    find_steps(p, task, route, chunk * chunk_length, (chunk - 1) * chunk_length, w.s);
                    const float* border = g.borders + ((task.batch * p.routes + route) * p.chunks() + chunk) * p.states * p.dim;
                    for (int64_t channel = task.begin, i = 0; channel < task.end; channel += W, ++i) {
                        const int64_t count = task.end - channel;
                        read_chunk(p, task, route, channel, count, w.s, w.c);
                        read_grad(p, g, task, route, channel, count, w);
                        const float *own = rate + i * size, *start = border + channel;
                        float *gradient = carried + i * size, *sum = grad_A + i * size;
                        constexpr int group = W == 16 ? most : most / 2;
                        if (in_range(w.c, w.s.count, own, p.states))
                            in_groups<States<false>, group>(0, p.states, problem, &w, own, start, count, gradient, sum);
                        else
                            in_groups<States<true>, group>(0, p.states, problem, &w, own, start, count, gradient, sum);
                        write_chunk(p, g, task, route, channel, count, w, grad_D + i * W, grad_bias + i * W);
                    }
                    write_rows<W>(p, task, route, w.s.position, w.s.count, w.grad_B, sums, g.B);
                    write_rows<W>(p, task, route, w.s.position, w.s.count, w.grad_C, sums, g.C);
                }
                for (int64_t channel = task.begin; channel < task.end; ++channel) {
                    const int64_t i = (channel - task.begin) / W, lane = (channel - task.begin) % W;
                    for (int64_t n = 0; n < p.states; ++n)
                        g.A[(row + channel) * p.states + n] = grad_A[i * size + n * W + lane];
                    if (g.D) g.D[row + channel] = grad_D[i * W + lane];
                    if (g.dt_bias) g.dt_bias[row + channel] = grad_bias[i * W + lane];
                }
            }
        }
    }
};

}  // namespace geovit::selective_scan
