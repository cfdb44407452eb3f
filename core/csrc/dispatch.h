// One kernel body, compiled once per instruction set and chosen at run time.
//
// A kernel is a struct with a static, always-inlined `template <int Width, ...> run`, where Width is the number of floats in a
// register of the instruction set. Only the functions below carry a target attribute: no file is
// compiled with wide flags, because inline functions of the standard library would then be merged by the linker into code that
// older CPUs cannot execute.
#pragma once

#include <cstdint>

#define GEOVIT_INLINE inline __attribute__((always_inline))

namespace geovit {

// Ordered: each level can run everything below it. `baseline` is SSE2 on x86-64 and NEON on arm64.
enum class Isa { baseline, avx2, avx512 };

// The level in use: the best that this CPU has, or a lower one named by the environment variable GEOVIT_ISA.
Isa isa();

// Whether vdpbf16ps, products of bfloat16, can be executed: the assembler knew it, the CPU has it, and the level is avx512.
bool dot_bfloat16();

// Floats in a register at that level.
inline int64_t width() { return isa() == Isa::avx512 ? 16 : isa() == Isa::avx2 ? 8 : 4; }

template <class Kernel, class... Args>
void run_baseline(Args... args) {
    Kernel::template run<4>(args...);
}

#if defined(__x86_64__)
template <class Kernel, class... Args>
__attribute__((target("avx2,fma"))) void run_avx2(Args... args) {
    Kernel::template run<8>(args...);
}

template <class Kernel, class... Args>
__attribute__((target("avx2,fma,avx512f,avx512bw,avx512dq,avx512vl"))) void run_avx512(Args... args) {
    Kernel::template run<16>(args...);
}
#endif

// From within a kernel: another one of the same width, as a function of its own.
template <int Width, class Kernel, class... Args>
GEOVIT_INLINE void call(Args... args) {
#if defined(__x86_64__)
    if constexpr (Width == 16)
        run_avx512<Kernel>(args...);
    else if constexpr (Width == 8)
        run_avx2<Kernel>(args...);
    else
#endif
        run_baseline<Kernel>(args...);
}

template <class Kernel, class... Args>
void dispatch(Args... args) {
#if defined(__x86_64__)
    switch (isa()) {
        case Isa::avx512:
            return run_avx512<Kernel>(args...);
        case Isa::avx2:
            return run_avx2<Kernel>(args...);
        case Isa::baseline:
            break;
    }
#endif
    run_baseline<Kernel>(args...);
}

}  // namespace geovit
