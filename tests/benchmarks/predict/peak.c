/* Largest rate of multiply-adds that the processor reaches, in registers alone.

   Prints GFLOP/s in float32 and in bfloat16 (0 where there are no instructions for it), with as
   many threads as OMP_NUM_THREADS says. Sixteen independent sums hide the latency; KEEP tells the
   compiler that each is read and changed in every round, so that none is left out. */
#include <omp.h>
#include <stdio.h>
#ifdef __AVX512BF16__
#include <immintrin.h>
#endif

#define ROUNDS 40000000L
#define SUMS 16
#define REPETITIONS 5
#ifdef __AVX512F__
#define BYTES 64
#define KEEP(sum) __asm__ volatile("" : "+v"(sum))
#else
#define BYTES 32
#define KEEP(sum) __asm__ volatile("" : "+x"(sum))
#endif

typedef float vector __attribute__((vector_size(BYTES)));

static double rate_float(int threads) {
    double begun = omp_get_wtime();
#pragma omp parallel
    {
        vector sum[SUMS] = {{0}};
        vector factor = (vector){0} + 0.999f, step = (vector){0} + 0.001f;
        for (long round = 0; round < ROUNDS; round++) {
#pragma GCC unroll 16
            for (int n = 0; n < SUMS; n++) {
                sum[n] = sum[n] * factor + step;
                KEEP(sum[n]);
            }
        }
    }
    return 2.0 * SUMS * (BYTES / 4) * ROUNDS * threads / (omp_get_wtime() - begun) / 1e9;
}

static double rate_bfloat(int threads) {
#ifdef __AVX512BF16__
    double begun = omp_get_wtime();
#pragma omp parallel
    {
        __m512 sum[SUMS] = {{0}};
        __m512bh factor = _mm512_cvtne2ps_pbh(_mm512_set1_ps(0.5f), _mm512_set1_ps(0.25f));
        for (long round = 0; round < ROUNDS; round++) {
#pragma GCC unroll 16
            for (int n = 0; n < SUMS; n++) {
                sum[n] = _mm512_dpbf16_ps(sum[n], factor, factor);
                KEEP(sum[n]);
            }
        }
    }
    return 4.0 * SUMS * 16 * ROUNDS * threads / (omp_get_wtime() - begun) / 1e9;
#else
    return 0.0 * threads;
#endif
}

int main(void) {
    int threads = omp_get_max_threads();
    double best[2] = {0, 0};
    for (int repetition = 0; repetition < REPETITIONS; repetition++) {
        double rates[2] = {rate_float(threads), rate_bfloat(threads)};
        for (int kind = 0; kind < 2; kind++)
            if (rates[kind] > best[kind]) best[kind] = rates[kind];
    }
    printf("%.1f %.1f\n", best[0], best[1]);
    return 0;
}
