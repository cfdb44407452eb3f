// The kernels of selective_scan. Vector lanes are neighbouring channels, which lie side by side in memory in every scan order; the
// states of a channel are an unrolled loop over registers. A task owns some channels of one image and runs its routes one after the
// other, so nothing is shared between tasks and no result depends on the number of threads.
//
// Steps of a route are taken in chunks: first everything that does not depend on the state is read by position into a chunk (step
// size, its product with the input), then the recurrence runs over the chunk for one group of states after the other.
#pragma once

#include <cstdint>
#include <cstring>

#include "elementwise.h"

namespace geovit::selective_scan {

constexpr int64_t chunk_length = 32;  // its states, decays and gradients of B and C (64 kB at 8 states) stay close to the core
constexpr int64_t block = 16;         // channels of a task come in multiples of this: the widest vector

constexpr float log2e = 1.44269504088896341f;
constexpr float ln2 = 0.693147180559945309f;

// A tensor (batch, position, route, group, contiguous axis), of any strides but the last.
struct Rows {
    const float* data;
    int64_t batch_stride, position_stride, route_stride, group_stride;

    GEOVIT_INLINE const float* at(int64_t batch, int64_t position, int64_t route = 0, int64_t group = 0) const {
        return data + batch * batch_stride + position * position_stride + route * route_stride + group * group_stride;
    }
};

// Null pointers stand for what the caller left out.
struct Problem {
    int64_t batch, length, routes, dim, groups, states;
    Rows u, dt, B, C, z;
    const float *A, *D, *dt_bias;
    const int64_t* orders;
    bool softplus, shared_input;  // shared: all routes read one u

    int64_t chunks() const { return (length + chunk_length - 1) / chunk_length; }
    int64_t blocks() const { return (dim / groups + block - 1) / block; }  // of a group
    GEOVIT_INLINE int64_t channel(int64_t batch_, int64_t route) const { return (batch_ * routes + route) * dim; }
};

// The channels begin..end of one group in one image.
struct Task {
    int64_t batch, group, part, begin, end;
};

GEOVIT_INLINE Task task_of(const Problem& p, int64_t index, int64_t blocks_per_task) {
    const int64_t parts = (p.blocks() + blocks_per_task - 1) / blocks_per_task, share = p.dim / p.groups;
    const int64_t part = index % parts, group = index / parts % p.groups;
    const int64_t begin = part * blocks_per_task * block, end = begin + blocks_per_task * block;
    return {index / parts / p.groups, group, part, group * share + begin, group * share + (end < share ? end : share)};
}

// exp(dt A) from dt and A log2(e). The polynomial is the minimax one for (2^r - 1) / r, so that decays close to one keep their
// relative distance from one, which a long scan sees. Constant below 2^-126 and above 2^127; NaN stays NaN.
template <class F>
GEOVIT_INLINE F decay(F dt, F rate) {
    using Int = VecInt<width_of<F>>;
    constexpr float round_magic = 12582912.0f;  // 1.5 * 2^23: adding it leaves the nearest integer in the low bits
    const F x = minimum(fill<F>(127.0f), maximum(fill<F>(-126.0f), dt * rate));
    const F shifted = x + round_magic;
    const F r = x - (shifted - round_magic);
    F p = fill<F>(1.326466545e-3f);
    p = p * r + 9.671512611e-3f;
    p = p * r + 5.550733893e-2f;
    p = p * r + 2.402224209e-1f;
    p = p * r + 6.931469775e-1f;
    p = p * r + 1.0f;
    return bit_cast<F>(bit_cast<Int>(p) + (bit_cast<Int>(shifted) << 23));
}

// softplus and its derivative, from e = exp(-|x|): max(x, 0) + log(1 + e), the logarithm as 2 atanh(e / (2 + e)) by a minimax polynomial.
template <class F>
GEOVIT_INLINE F softplus(F x, F& slope) {
    const F e = exp(x < 0.0f ? x : -x);
    const F s = e / (2.0f + e), w = s * s;
    F p = fill<F>(2.801195065e-1f);
    p = p * w + 2.800181195e-1f;
    p = p * w + 4.002152691e-1f;
    p = p * w + 6.666641629e-1f;
    p = p * w + 2.0f;
    slope = (x < 0.0f ? e : fill<F>(1.0f)) / (1.0f + e);
    return (x > 0.0f ? x : F{}) + p * s;
}

// Calls Kernel::run<count>(first state, args...) for groups of at most `Most` states.
template <class Kernel, int Most, class... Args>
GEOVIT_INLINE void in_groups(int64_t first, int64_t states, Args... args) {
    for (; first + Most <= states; first += Most) Kernel::template run<Most>(first, args...);
    if constexpr (Most > 1) in_groups<Kernel, Most / 2>(first, states, args...);
}

// What the recurrence needs of some steps of one route, for one vector of channels.
template <class F>
struct Chunk {
    int64_t steps;
    int64_t position[chunk_length];
    const float *B[chunk_length], *C[chunk_length];
    F dt[chunk_length], input[chunk_length];  // the step size, and its product with u
    F u[chunk_length], slope[chunk_length];   // slope: derivative of the step size by its argument
};

template <class F>
GEOVIT_INLINE void read_chunk(const Problem& p, const Task& task, int64_t route, int64_t first, int64_t channel, int64_t count, Chunk<F>& c) {
    c.steps = p.length - first < chunk_length ? p.length - first : chunk_length;
    const F bias = p.dt_bias ? load_first<F>(p.dt_bias + route * p.dim + channel, count) : F{};
    for (int64_t t = 0; t < c.steps; ++t) {
        const int64_t position = p.orders ? p.orders[route * p.length + first + t] : first + t;
        c.position[t] = position;
        c.B[t] = p.B.at(task.batch, position, route, task.group);
        c.C[t] = p.C.at(task.batch, position, route, task.group);
        c.u[t] = load_first<F>(p.u.at(task.batch, position, route) + channel, count);
        c.dt[t] = load_first<F>(p.dt.at(task.batch, position, route) + channel, count) + bias;
    }
    for (int64_t t = 0; t < c.steps; ++t) {
        c.slope[t] = fill<F>(1.0f);
        if (p.softplus) c.dt[t] = softplus(c.dt[t], c.slope[t]);
        c.input[t] = c.dt[t] * c.u[t];
    }
}

// A log2(e) of some channels, transposed to a vector per state; zero in lanes beyond the last channel, which keeps them finite.
template <class F>
GEOVIT_INLINE void read_rates(const Problem& p, int64_t route, int64_t channel, int64_t count, float* rate) {
    for (int64_t n = 0; n < p.states; ++n)
        for (int64_t i = 0; i < width_of<F>; ++i)
            rate[n * width_of<F> + i] = i < count ? p.A[(route * p.dim + channel + i) * p.states + n] * log2e : 0.0f;
}

struct Forward {
    struct Output {
        float *y, *state;
        float *ungated, *borders;  // null if no gradient is wanted: y before the gate, and the state before each chunk
    };

    static int64_t scratch(const Problem& p) { return 2 * p.states * block; }

    struct Recurrence {
        template <int Count, class F>
        static GEOVIT_INLINE void run(int64_t n0, const Chunk<F>* c, const float* rate, float* state, F* y) {
            constexpr int W = width_of<F>;
            F h[Count];
#pragma GCC unroll 16
            for (int n = 0; n < Count; ++n) h[n] = load_vec<F>(state + (n0 + n) * W);
            for (int64_t t = 0; t < c->steps; ++t) {
                const float *B = c->B[t] + n0, *C = c->C[t] + n0;
                const F dt = c->dt[t], input = c->input[t];
                F even = y[t], odd{};
#pragma GCC unroll 16
                for (int n = 0; n < Count; ++n) {
                    const F kept = decay(dt, load_vec<F>(rate + (n0 + n) * W)) * h[n];
                    h[n] = kept + input * B[n];
                    (n % 2 ? odd : even) += h[n] * C[n];
                }
                y[t] = even + odd;
            }
#pragma GCC unroll 16
            for (int n = 0; n < Count; ++n) store_vec(state + (n0 + n) * W, h[n]);
        }
    };

    template <class F>
    static GEOVIT_INLINE void write_chunk(const Problem& p, const Output& o, const Task& task, int64_t route, int64_t channel,
                                          int64_t count, const Chunk<F>& c, const F* y) {
        const bool last = route + 1 == p.routes;
        float* total = o.ungated ? o.ungated : o.y;
        for (int64_t t = 0; t < c.steps; ++t) {
            const int64_t at = (task.batch * p.length + c.position[t]) * p.dim + channel;
            F sum = y[t];
            if (route > 0) sum += load_first<F>(total + at, count);
            if (!last || !p.z.data || o.ungated) store_first(total + at, sum, count);
            if (last && p.z.data) {
                const F z = load_first<F>(p.z.at(task.batch, c.position[t]) + channel, count);
                store_first(o.y + at, sum * z * sigmoid(z), count);
            }
        }
    }

    template <int W>
    static GEOVIT_INLINE void run(const Problem* problem, const Output* output, float* scratch, int64_t first_task, int64_t last_task) {
        using F = Vec<W>;
        const Problem& p = *problem;
        const Output& o = *output;
        float *rate = scratch, *state = scratch + p.states * W;
        Chunk<F> c;
        F y[chunk_length];
        for (int64_t index = first_task; index < last_task; ++index) {
            const Task task = task_of(p, index, 1);
            for (int64_t channel = task.begin; channel < task.end; channel += W) {
                const int64_t count = task.end - channel;
                for (int64_t route = 0; route < p.routes; ++route) {
                    const F skip = p.D ? load_first<F>(p.D + route * p.dim + channel, count) : F{};
                    read_rates<F>(p, route, channel, count, rate);
                    for (int64_t i = 0; i < p.states * W; ++i) state[i] = 0.0f;
                    for (int64_t chunk = 0; chunk < p.chunks(); ++chunk) {
                        if (o.borders) {
                            float* to = o.borders + ((task.batch * p.routes + route) * p.chunks() + chunk) * p.states * p.dim + channel;
                            for (int64_t n = 0; n < p.states; ++n) store_first(to + n * p.dim, load_vec<F>(state + n * W), count);
                        }
                        read_chunk(p, task, route, chunk * chunk_length, channel, count, c);
                        for (int64_t t = 0; t < c.steps; ++t) y[t] = skip * c.u[t];
                        in_groups<Recurrence, W == 16 ? 16 : 8>(0, p.states, &c, rate, state, y);
                        write_chunk(p, o, task, route, channel, count, c, y);
                    }
                    for (int64_t i = 0; i < W && i < count; ++i)
                        for (int64_t n = 0; n < p.states; ++n)
                            o.state[(p.channel(task.batch, route) + channel + i) * p.states + n] = state[n * W + i];
                }
            }
        }
    }
};

}  // namespace geovit::selective_scan
