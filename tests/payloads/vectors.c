// OpenMP threads that keep AVX (AVX-512 where there is one) values, a mask and a rounding mode in
// registers over long inner loops; one lost bit changes every later line.
#include "payload.h"
#include <cpuid.h>
#include <fenv.h>
#include <immintrin.h>
#include <omp.h>

enum { LANES = 8, THREADS = 4 };

// Twelve chains at once, so that most of the register file is live. "shl"/"shr"/"xor" by width.
#define CHAINS(X) X(0) X(1) X(2) X(3) X(4) X(5) X(6) X(7) X(8) X(9) X(10) X(11)
#define KERNEL(NAME, TARGET, INT, DBL, P, CAST, MASKED)                                            \
    __attribute__((target(TARGET), noinline)) static uint64_t NAME(uint64_t seed, long rounds) {   \
        uint64_t lanes[LANES] __attribute__((aligned(64)));                                        \
        double reals[LANES] __attribute__((aligned(64)));                                          \
        for (int i = 0; i < LANES; i++) lanes[i] = seed * (2 * i + 1) + i + 1;                     \
        for (int i = 0; i < LANES; i++) reals[i] = 0.1 + 0.1 * ((seed >> i) & 7);                  \
        DBL d = P##_load_pd(reals), one = P##_set1_pd(1.0), r = P##_set1_pd(3.9999);               \
        INT first = P##_load_##CAST((void *)lanes);                                                \
        CHAINS(DECLARE_##MASKED)                                                                   \
        for (long n = 0; n < rounds; n++) {                                                        \
            CHAINS(STEP_##MASKED)                                                                  \
            d = P##_mul_pd(P##_mul_pd(r, d), P##_sub_pd(one, d));                                  \
        }                                                                                          \
        uint64_t sum = seed;                                                                       \
        CHAINS(FOLD_##MASKED)                                                                      \
        P##_store_pd(reals, d);                                                                    \
        return fnv(sum, reals, sizeof reals);                                                      \
    }
#define DECLARE_y(i) __m256i x##i = _mm256_add_epi64(first, _mm256_set1_epi64x(i * 77));
#define STEP_y(i)                                                                                  \
    x##i = _mm256_xor_si256(x##i, _mm256_slli_epi64(x##i, 13));                                    \
    x##i = _mm256_xor_si256(x##i, _mm256_srli_epi64(x##i, 7));                                     \
    x##i = _mm256_xor_si256(x##i, _mm256_slli_epi64(x##i, 17));
#define FOLD_y(i) _mm256_store_si256((void *)lanes, x##i), sum = fnv(sum, lanes, 32);
#define DECLARE_z(i)                                                                               \
    __m512i x##i = _mm512_add_epi64(first, _mm512_set1_epi64(i * 77));                             \
    __mmask8 k##i = (__mmask8)(0x5a + i);
#define STEP_z(i)                                                                                  \
    x##i = _mm512_xor_si512(x##i, _mm512_slli_epi64(x##i, 13));                                    \
    x##i = _mm512_mask_xor_epi64(x##i, k##i, x##i, _mm512_srli_epi64(x##i, 7));                    \
    x##i = _mm512_xor_si512(x##i, _mm512_slli_epi64(x##i, 17));                                    \
    k##i = _mm512_mask_cmpgt_epu64_mask((__mmask8)(k##i | 0x5a), x##i, first);
#define FOLD_z(i)                                                                                  \
    _mm512_store_si512((void *)lanes, x##i), sum = fnv(sum, lanes, 64) + k##i;

KERNEL(with_avx2, "avx2", __m256i, __m256d, _mm256, si256, y)
KERNEL(with_avx512, "avx512f", __m512i, __m512d, _mm512, si512, z)

int main(int argc, char **argv) {
    begin(argc, argv, 50);
    int wide = __builtin_cpu_supports("avx512f");
    if (!wide && !__builtin_cpu_supports("avx2")) {
        say("no AVX2 here");
        return finish(0);
    }
    uint64_t seeds[THREADS] = {1, 2, 3, 4};
    int modes[THREADS] = {FE_UPWARD, FE_DOWNWARD, FE_TOWARDZERO, FE_TONEAREST}, lost = 0;
#pragma omp parallel num_threads(THREADS)
    {
        // Each thread rounds its own way for good: MXCSR and the x87 control word.
        int me = omp_get_thread_num();
        fesetround(modes[me]);
        for (int step = 0; step < steps; step++) {
            seeds[me] = wide ? with_avx512(seeds[me], 900000) : with_avx2(seeds[me], 900000);
            if (fegetround() != modes[me] || (_mm_getcsr() >> 13 & 3) != (unsigned)modes[me] >> 10)
#pragma omp atomic
                lost++;
#pragma omp barrier
#pragma omp master
            {
                uint64_t sum = fnv(step, seeds, sizeof seeds);
                say("step %d %016llx", step, (unsigned long long)sum);
            }
#pragma omp barrier
        }
    }
    say("width %d", wide ? 512 : 256);
    check("rounding modes", lost, 0);
    return finish(0);
}
