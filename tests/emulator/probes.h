// Small kernels that probe the emulator: single primitives for their layouts, and kernels with deliberate
// bugs.
#pragma once

#include <cstdint>
#include <string>

#include "cuda_runtime.h"

namespace symconv::probes {

enum class Bug : int {
  kNone,
  kMissingBarrier,       // no block barrier between the wait and the reads
  kMissingTrailBarrier,  // a stage is overwritten while slower warps still read it
  kMissingWait,
  kWaitOffByOne,      // one group too many left under way
  kPendingAtExit,     // the last copies are never waited for
  kStoreOverflow,     // one element past the end of the result
  kLoadOverflow,      // one cp.async past the end of an operand
  kSharedOverflow,    // one element past the end of shared memory
  kMisalignedCopy,    // cp.async of 16 bytes from an address aligned to 8
  kNoSwizzle,         // right, but with bank conflicts
  kDivergentBarrier,  // a barrier in a branch that half of the block takes
  kPartialWarp,       // a shuffle in a branch that half of the warp takes
  kMissingWarpBarrier,
  kBlockRace,  // a plain += of several blocks to one number
};

// c (m, n, float32) = a (m, k) b (n, k)^T in bfloat16; m and n multiples of 64, k of 32. Three-stage cp.async
// pipeline.
void gemm(const void* a, const void* b, float* c, int m, int n, int k, Bug bug);
// out (count, 32, 32) = in transposed, through shared memory, a warp each.
void transpose(const uint32_t* in, uint32_t* out, int count, Bug bug);
// out (1) = sum of in (n) over blocks of 64 threads: each block adds to out with an atomic, or with a plain
// +=.
void sum(const float* in, float* out, int n, Bug bug);
// Half of the threads take a barrier or a shuffle.
void diverge(float* out, Bug bug);

// One warp, one primitive. Arrays are (32, registers).
void mma_once(const std::string& type, const uint32_t* a, const uint32_t* b, float* c);
void load_matrices_once(const uint16_t* shared, int elements, const uint32_t* rows, int matrices,
                        bool transposed, uint32_t* result);
// One access of every lane to shared memory: for the counters.
void touch_shared(const uint32_t* addresses, int bytes, int shared_bytes);
// What conversions and packed arithmetic give: out (n, 4) words of round trip f16, round trip bf16, tf32,
// fma2.
void convert(const float* in, uint32_t* out, int n);

// The error text of a launch of an empty kernel, "" for none.
std::string try_launch(dim3 grid, dim3 block, size_t shared_bytes, bool opt_in);

}  // namespace symconv::probes
