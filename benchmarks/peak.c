/* The machine's arithmetic limit: independent fused multiply-adds on registers alone.
   Compiled by machine.py, with -DREAL=float or double. */
#if defined(__AVX512F__)
#define BYTES 64
#elif defined(__AVX2__)
#define BYTES 32
#else
#define BYTES 16
#endif
#if defined(__aarch64__)
#define KEPT "+w"
#else
#define KEPT "+x"
#endif
#define CHAINS 12 /* enough to hide the latency of two units, few enough for 16 registers */

typedef REAL vector __attribute__((vector_size(BYTES)));

/* Runs `rounds` rounds and returns how many additions and multiplications that was. */
double run(long rounds, REAL factor) {
  vector sum[CHAINS] = {{0}};
  const vector x = (vector){0} + factor, y = (vector){0} + (REAL)0.5;
  for (long i = 0; i < rounds; ++i) {
#pragma GCC unroll 12
    for (int c = 0; c < CHAINS; ++c) {
      sum[c] = sum[c] * x + y;
      __asm__ volatile("" : KEPT(sum[c])); /* none is optimised away */
    }
  }
  return 2.0 * rounds * CHAINS * (BYTES / sizeof(REAL));
}
