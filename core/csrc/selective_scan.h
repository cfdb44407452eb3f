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

    int64_t blocks_per_task;

    int64_t chunks() const { return (length + chunk_length - 1) / chunk_length; }
    int64_t blocks() const { return (dim / groups + block - 1) / block; }  // of a group
    int64_t parts() const { return (blocks() + blocks_per_task - 1) / blocks_per_task; }  // tasks for a group of an image
    GEOVIT_INLINE int64_t channel(int64_t batch_, int64_t route) const { return (batch_ * routes + route) * dim; }
};

// The channels begin..end of one group in one image.
struct Task {
    int64_t batch, group, part, begin, end;
};

GEOVIT_INLINE Task task_of(const Problem& p, int64_t index) {
    const int64_t parts = p.parts(), share = p.dim / p.groups;
    const int64_t part = index % parts, group = index / parts % p.groups;
    const int64_t begin = part * p.blocks_per_task * block, end = begin + p.blocks_per_task * block;
    return {index / parts / p.groups, group, part, group * share + begin, group * share + (end < share ? end : share)};
}

// a[k] = exp(dt A) of some states, from dt and A log2(e): 2^x as 2^n times a polynomial of r = x - n. The polynomial is the minimax one
// for (2^r - 1) / r, so that decays close to one keep their relative distance from one, which a long scan sees. n is an integer, or,
// where sixteen powers of two fit into a register to be picked from, a multiple of 1/16, for which a cubic is enough.
//
// Each line is for all states: the operations for one state wait for each other, and a processor looks only so far ahead.
//
// Unless `Clamped`, with which the forward pass takes a third longer, x must be between -126 and 127: see `in_range`. Within, both
// forms give the same bits, so no channel depends on what its neighbours need.
template <bool Clamped, int Count, class F>
GEOVIT_INLINE void decays(F dt, const float* rate, F* a) {
    constexpr int W = width_of<F>;
    using Bits = VecInt<W>;
#if defined(__clang__)
    constexpr bool table = false;  // no generic form of a permutation known at run time
#else
    constexpr bool table = W == 16;
#endif
    constexpr float round_magic = table ? 786432.0f : 12582912.0f;  // 1.5 * 2^23 or 2^19: adding it leaves n in the low bits
    F x[Count], shifted[Count], p[Count];
    for (int k = 0; k < Count; ++k) {
        x[k] = rounded(dt * load_vec<F>(rate + k * W));
        if constexpr (Clamped) x[k] = minimum(fill<F>(127.0f), maximum(fill<F>(-126.0f), x[k]));  // in this order NaN stays NaN
    }
    for (int k = 0; k < Count; ++k) shifted[k] = x[k] + round_magic;
    for (int k = 0; k < Count; ++k) x[k] -= shifted[k] - round_magic;
    if constexpr (table) {
        // The bits of 2^(j/16), less what j itself adds to them when it is shifted into the exponent along with the integer part.
        constexpr Bits powers = {0x3f800000, 0x3f7daac3, 0x3f7b95c2, 0x3f79c3d3, 0x3f7837f0, 0x3f76f532, 0x3f75fed7, 0x3f75583f,
                             0x3f7504f3, 0x3f7508a4, 0x3f75672a, 0x3f76248c, 0x3f7744fd, 0x3f78ccdf, 0x3f7ac0c7, 0x3f7d257d};
        Bits scale[Count];
        for (int k = 0; k < Count; ++k)
            scale[k] = __builtin_shuffle(powers, bit_cast<Bits>(shifted[k])) + (bit_cast<Bits>(shifted[k]) << 19);
        for (int k = 0; k < Count; ++k) p[k] = 5.550508938e-2f * x[k] + 2.402335360e-1f;
        for (int k = 0; k < Count; ++k) p[k] = p[k] * x[k] + 6.931471806e-1f;
        for (int k = 0; k < Count; ++k) p[k] = p[k] * x[k] + 1.0f;
        for (int k = 0; k < Count; ++k) a[k] = p[k] * bit_cast<F>(scale[k]);
    } else {
        for (int k = 0; k < Count; ++k) {
            p[k] = 1.326466545e-3f * x[k] + 9.671512611e-3f;
            p[k] = p[k] * x[k] + 5.550733893e-2f;
            p[k] = p[k] * x[k] + 2.402224209e-1f;
            p[k] = p[k] * x[k] + 6.931469775e-1f;
            p[k] = p[k] * x[k] + 1.0f;
            a[k] = bit_cast<F>(bit_cast<Bits>(p[k]) + (bit_cast<Bits>(shifted[k]) << 23));
        }
    }
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

// Some steps of one route: where they are, and what all channels of a group share.
struct Steps {
    int64_t count;
    int64_t position[chunk_length], next[chunk_length];  // next: of the chunk that comes after this one
    const float *B[chunk_length], *C[chunk_length];
};

// Finds the steps from `first` on. B and C are asked for those from `next` on, u and dt later: where a route jumps, no processor
// foresees it. If there are none, the present ones are asked for again.
GEOVIT_INLINE void find_steps(const Problem& p, const Task& task, int64_t route, int64_t first, int64_t next, Steps& s) {
    // Copies, which the compiler knows that the writes leave alone.
    const float *B = p.B.at(task.batch, 0, route, task.group), *C = p.C.at(task.batch, 0, route, task.group);
    const int64_t B_stride = p.B.position_stride, C_stride = p.C.position_stride, length = p.length;
    const int64_t* order = p.orders ? p.orders + route * length : nullptr;
    const int64_t count = length - first < chunk_length ? length - first : chunk_length;
    for (int64_t t = 0; t < count; ++t) {
        const int64_t soon = next + t >= 0 && next + t < length ? next + t : first + t;
        s.position[t] = order ? order[first + t] : first + t;
        s.next[t] = order ? order[soon] : soon;
        s.B[t] = B + s.position[t] * B_stride;
        s.C[t] = C + s.position[t] * C_stride;
        __builtin_prefetch(B + s.next[t] * B_stride);
        __builtin_prefetch(C + s.next[t] * C_stride);
    }
    s.count = count;
}

// What the recurrence needs of these steps for one vector of channels.
template <class F>
struct Chunk {
    F dt[chunk_length], input[chunk_length];  // the step size, and its product with u
    F u[chunk_length], slope[chunk_length];   // slope: derivative of the step size by its argument
};

template <class F>
GEOVIT_INLINE void read_chunk(const Problem& p, const Task& task, int64_t route, int64_t channel, int64_t count, const Steps& s,
                              Chunk<F>& c) {
    const float *u = p.u.at(task.batch, 0, route) + channel, *dt = p.dt.at(task.batch, 0, route) + channel;
    const int64_t u_stride = p.u.position_stride, dt_stride = p.dt.position_stride, steps = s.count;
    const F bias = p.dt_bias ? load_first<F>(p.dt_bias + route * p.dim + channel, count) : F{};
    for (int64_t t = 0; t < steps; ++t) {
        c.u[t] = load_first<F>(u + s.position[t] * u_stride, count);
        c.dt[t] = load_first<F>(dt + s.position[t] * dt_stride, count) + bias;
        c.input[t] = c.dt[t] * c.u[t];
        c.slope[t] = fill<F>(1.0f);
    }
    if (!p.softplus) return;
    for (int64_t t = 0; t < steps; ++t) {
        c.dt[t] = softplus(c.dt[t], c.slope[t]);
        c.input[t] = c.dt[t] * c.u[t];
    }
}

// Whether |dt A log2(e)| is at most 126 for all steps of the chunk and all states. A NaN does no harm: it stays one.
template <class F>
GEOVIT_INLINE bool in_range(const Chunk<F>& c, int64_t steps, const float* rate, int64_t states) {
    F dt{}, most{};
    for (int64_t t = 0; t < steps; ++t) dt = maximum(maximum(c.dt[t], -c.dt[t]), dt);
    for (int64_t n = 0; n < states; ++n) {
        const F one = load_vec<F>(rate + n * width_of<F>);
        most = maximum(maximum(one, -one), most);
    }
    return largest<F>(dt * most <= 126.0f ? F{} : fill<F>(1.0f)) == 0.0f;
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

    static constexpr int64_t most_tasks = 12;  // neighbours that are done together, if one thread has them: no result depends on it

    static int64_t scratch(const Problem& p) { return 2 * most_tasks * p.blocks_per_task * block * p.states; }

    // What is asked from memory during the recurrence, little by little, since a core can wait for some tens of lines only: u and dt
    // of the next chunk, and y of this one.
    struct Ahead {
        const float *u, *dt, *y;
        int64_t u_stride, dt_stride, y_stride;
    };

    // A function of its own: with this loop inlined several times into `run`, the compiler runs out of registers.
    template <bool Clamped, int Count>
    struct Group {
        template <int W>
        static GEOVIT_INLINE void run(const Steps* s, const Chunk<Vec<W>>* c, const Ahead* ahead, int64_t n0, const float* rate,
                                      float* state, Vec<W>* y) {
            using F = Vec<W>;
            constexpr int some = Count < 4 ? Count : 4;
            const Ahead to = *ahead;
            F h[Count], a[some];
#pragma GCC unroll 16
            for (int n = 0; n < Count; ++n) h[n] = load_vec<F>(state + n * W);
            for (int64_t t = 0; t < s->count; ++t) {
                const float *B = s->B[t] + n0, *C = s->C[t] + n0;
                const F dt = c->dt[t], input = c->input[t];
                F even = y[t], odd{};
                __builtin_prefetch(to.u + s->next[t] * to.u_stride);
                __builtin_prefetch(to.dt + s->next[t] * to.dt_stride);
                __builtin_prefetch(to.y + s->position[t] * to.y_stride, 1);
#pragma GCC unroll 16
                for (int n = 0; n < Count; n += some) {
                    decays<Clamped, some>(dt, rate + n * W, a);
#pragma GCC unroll 4
                    for (int k = 0; k < some; ++k) {
                        h[n + k] = a[k] * h[n + k] + input * B[n + k];
                        ((n + k) % 2 ? odd : even) += h[n + k] * C[n + k];
                    }
                }
                y[t] = even + odd;
            }
#pragma GCC unroll 16
            for (int n = 0; n < Count; ++n) store_vec(state + n * W, h[n]);
        }
    };

    template <bool Clamped>
    struct Recurrence {
        template <int Count, class F>
        static GEOVIT_INLINE void run(int64_t n0, const Steps* s, const Chunk<F>* c, const Ahead* ahead, const float* rate, float* state,
                                      F* y) {
            constexpr int W = width_of<F>;
            call<W, Group<Clamped, Count>>(s, c, ahead, n0, rate + n0 * W, state + n0 * W, y);
        }
    };

    template <class F>
    static GEOVIT_INLINE void write_chunk(const Problem& p, const Output& o, const Task& task, int64_t route, int64_t channel,
                                          int64_t count, const Steps& s, const F* y) {
        const int64_t offset = task.batch * p.length * p.dim + channel, dim = p.dim;
        const bool first = route == 0, gated = p.z.data && route + 1 == p.routes;
        float *out = o.y + offset, *total = o.ungated ? o.ungated + offset : out;
        const float* gate = gated ? p.z.at(task.batch, 0) + channel : nullptr;
        for (int64_t t = 0; t < s.count; ++t) {
            const int64_t at = s.position[t] * dim;
            const F sum = first ? y[t] : y[t] + load_first<F>(total + at, count);
            if (!gated || out != total) store_first(total + at, sum, count);
            if (gated) {
                const F z = load_first<F>(gate + s.position[t] * p.z.position_stride, count);
                store_first(out + at, sum * z * sigmoid(z), count);
            }
        }
    }

    template <int W>
    static GEOVIT_INLINE void run(const Problem* problem, const Output* output, float* scratch, int64_t first_task, int64_t last_task) {
        using F = Vec<W>;
        const Problem& p = *problem;
        const Output& o = *output;
        const int64_t size = p.states * W;
        float *rates = scratch, *states = scratch + most_tasks * p.blocks_per_task * block * p.states;
        Steps s;
        Chunk<F> c;
        F y[chunk_length];
        for (int64_t index = first_task; index < last_task; ++index) {
            Task task = task_of(p, index);
            const int64_t first = index, rest = p.parts() - task.part;
            while (index + 1 < last_task && index + 1 - first < rest && index + 1 - first < most_tasks) ++index;
            task.end = task_of(p, index).end;
            for (int64_t route = 0; route < p.routes; ++route) {
                for (int64_t channel = task.begin, i = 0; channel < task.end; channel += W, ++i) {
                    read_rates<F>(p, route, channel, task.end - channel, rates + i * size);
                    for (int64_t n = i * size; n < (i + 1) * size; ++n) states[n] = rates[n] * 0.0f;  // NaN if a rate is not finite
                }
                for (int64_t chunk = 0; chunk < p.chunks(); ++chunk) {
                    const int64_t border = ((task.batch * p.routes + route) * p.chunks() + chunk) * p.states * p.dim;
                    find_steps(p, task, route, chunk * chunk_length, (chunk + 1) * chunk_length, s);
                    for (int64_t channel = task.begin, i = 0; channel < task.end; channel += W, ++i) {
                        const int64_t count = task.end - channel;
                        const float* rate = rates + i * size;
                        float* state = states + i * size;
                        if (o.borders)
                            for (int64_t n = 0; n < p.states; ++n)
                                store_first(o.borders + border + n * p.dim + channel, load_vec<F>(state + n * W), count);
                        read_chunk(p, task, route, channel, count, s, c);
                        const F skip = p.D ? load_first<F>(p.D + route * p.dim + channel, count) : F{};
                        const float* out = o.y + task.batch * p.length * p.dim + channel;
                        for (int64_t t = 0; t < s.count; ++t) y[t] = skip * c.u[t];
                        const Ahead ahead{p.u.at(task.batch, 0, route) + channel, p.dt.at(task.batch, 0, route) + channel, out,
                                          p.u.position_stride, p.dt.position_stride, p.dim};
                        constexpr int most = W == 16 ? 16 : 8;
                        if (in_range(c, s.count, rate, p.states))
                            in_groups<Recurrence<false>, most>(0, p.states, &s, &c, &ahead, rate, state, y);
                        else
                            in_groups<Recurrence<true>, most>(0, p.states, &s, &c, &ahead, rate, state, y);
                        write_chunk(p, o, task, route, channel, count, s, y);
                    }
                }
                for (int64_t channel = task.begin; channel < task.end; ++channel) {
                    const int64_t i = (channel - task.begin) / W, lane = (channel - task.begin) % W;
                    for (int64_t n = 0; n < p.states; ++n)
                        o.state[(p.channel(task.batch, route) + channel) * p.states + n] = states[i * size + n * W + lane];
                }
            }
        }
    }
};

}  // namespace geovit::selective_scan
