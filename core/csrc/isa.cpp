// The instruction set that all kernels use, chosen once.

#include <cstdlib>
#include <cstring>

#if GEOVIT_DOT_BFLOAT16
#include <cpuid.h>
#endif

#include "dispatch.h"

namespace geovit {
namespace {

Isa best_isa() {
#if defined(__x86_64__)
    __builtin_cpu_init();
    if (!__builtin_cpu_supports("avx2") || !__builtin_cpu_supports("fma")) return Isa::baseline;
    const bool avx512 = __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                        __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
    return avx512 ? Isa::avx512 : Isa::avx2;
#else
    return Isa::baseline;
#endif
}

bool has_dot_bfloat16() {
#if GEOVIT_DOT_BFLOAT16
    unsigned a = 0, b = 0, c = 0, d = 0;
    return __get_cpuid_count(7, 1, &a, &b, &c, &d) != 0 && (a >> 5 & 1) != 0;
#else
    return false;
#endif
}

constexpr const char* names[] = {"baseline", "avx2", "avx512"};

Isa chosen_isa() {
    const Isa best = best_isa();
    const char* asked = std::getenv("GEOVIT_ISA");
    for (int level = 0; asked != nullptr && level < static_cast<int>(best); ++level)
        if (std::strcmp(asked, names[level]) == 0) return static_cast<Isa>(level);
    return best;
}

}  // namespace

Isa isa() {
    static const Isa chosen = chosen_isa();
    return chosen;
}

bool dot_bfloat16() {
    static const bool can = has_dot_bfloat16() && isa() == Isa::avx512;
    return can;
}

}  // namespace geovit

// For Python, which reports the level in use and refuses a GEOVIT_ISA that could not be followed.
extern "C" __attribute__((visibility("default"))) const char* geovit_isa() {
    return geovit::names[static_cast<int>(geovit::isa())];
}

extern "C" __attribute__((visibility("default"))) bool geovit_dot_bfloat16() { return geovit::dot_bfloat16(); }
