// The emulated device: blocks of fibers in a seeded random schedule, warp collectives and barriers as
// rendezvous, shared memory, asynchronous copies, and the counters. One grid runs at a time, on the calling
// thread.
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <string>
#include <vector>

namespace symconv::emulator {

struct Dim3 {
  unsigned x = 1, y = 1, z = 1;
  constexpr Dim3(unsigned x_ = 1, unsigned y_ = 1, unsigned z_ = 1) : x(x_), y(y_), z(z_) {}
};

// Where a primitive was called: default arguments take it from the caller.
struct Site {
  const char* file;
  int line;
  static constexpr Site here(const char* file = __builtin_FILE(), int line = __builtin_LINE()) {
    return {file, line};
  }
};

// What a kernel did, summed over its launches. Instructions count once a warp.
struct Counters {
  int64_t launches = 0, blocks = 0, warps = 0;
  int64_t mma_f16 = 0, mma_bf16 = 0, mma_tf32 = 0;
  int64_t ldmatrix = 0, ldmatrix_wavefronts = 0;
  int64_t shared_loads = 0, shared_load_wavefronts = 0;
  int64_t shared_stores = 0, shared_store_wavefronts = 0;
  int64_t copies = 0, copy_wavefronts = 0;  // cp.async, on the side of shared memory
  int64_t bank_conflicts = 0;  // wavefronts beyond the fewest that the bytes need, of all of the above
  int64_t global_loads = 0, global_load_bytes = 0, global_load_sectors = 0;  // cp.async included
  int64_t global_stores = 0, global_store_bytes = 0, global_store_sectors = 0;
  int64_t packed_math = 0, shuffles = 0, block_barriers = 0, warp_barriers = 0;
};

// Limits that a launch is held to (those of sm_80), and how it is scheduled.
struct Settings {
  uint64_t seed = 0;
  int resident_blocks = 2;    // blocks that run interleaved
  int64_t sample_blocks = 0;  // blocks of a grid that run, evenly spread, with the counters scaled up; 0: all
  int64_t last_blocks = 0;    // of a grid, which alone run; 0: all
  int64_t max_threads_per_block = 1024;
  int64_t max_grid_x = 2147483647, max_grid_y = 65535, max_grid_z = 65535;
  int64_t max_block_x = 1024, max_block_y = 1024, max_block_z = 64;
  int64_t shared_per_block = 48 * 1024;          // without opting in
  int64_t shared_per_block_opt_in = 163 * 1024;  // with cudaFuncSetAttribute
  int compute_capability = 80;
  int multiprocessors = 4;
};

Settings& settings();
std::map<std::string, Counters>& counters();  // by kernel
Counters& running_counters();                 // of the kernel that runs now

// One launch: what of `counters()` it made.
struct Launch {
  std::string kernel;
  Dim3 grid, block;
  size_t shared_bytes;
  Counters counters;
};
std::vector<Launch>& launches();  // in order, since they were last cleared

// Runs the grid to its end; throws std::runtime_error that says which thread did what and where if the kernel
// breaks a rule. `body(argument)` is the kernel for one thread. The stand-in runtime has checked the limits.
void run_grid(const std::string& kernel, Dim3 grid, Dim3 block, size_t shared_bytes, void (*body)(void*),
              void* argument);

bool in_kernel();
const Dim3& thread_index();
const Dim3& block_index();
const Dim3& block_size();
const Dim3& grid_size();
int lane_index();
// Stops the kernel with a message; never returns.
[[noreturn]] void fail(const std::string& message, Site site);

// Barriers and collectives. Every lane of a warp (every thread of a block) must come to the same one.
void block_barrier(Site site);
void warp_barrier(Site site);
enum class Collective { kShuffleXor, kLdmatrix, kLdmatrixTransposed, kMmaF16, kMmaBf16, kMmaTf32 };
// The lanes hand in pointers to their operand structs (below) and get them back filled in.
void warp_collective(Collective op, int variant, void* operand, Site site);

struct ShuffleOperand {
  uint32_t value;
  int lane_mask;
};
struct LdmatrixOperand {  // variant: the number of matrices, 1, 2 or 4
  uint32_t row[4];        // the 16 bytes at this lane's address, read by the lane itself
  uint32_t address;
  uint32_t result[4];
};
struct MmaOperand {
  uint32_t a[4];
  uint32_t b[2];
  float c[4];
};

// Shared memory of the running block: its addresses count from 0 at `shared_base`.
char* shared_base();
size_t shared_size();
// The pointer for [address, address + bytes) of shared memory, checked for range and alignment.
char* shared_pointer(uint32_t address, size_t bytes, const char* what, Site site);

// Asynchronous copies of the running thread: noted at the issue, handed out for copying at the wait.
struct PendingCopy {
  char* destination;
  const char* source;  // null: zeros
  int bytes;
  int group;
};
void copy_issue(const PendingCopy& copy);
void copy_commit();
// The next copy that a wait for all but `allowed` groups completes, or null when there is none left.
const PendingCopy* copy_due(int allowed);

// Access logs for the counters. Lanes call them at the same sites in the same order, with `active` false to
// sit one out.
enum class Access { kSharedLoad, kSharedStore, kCopyToShared, kGlobalLoad, kGlobalStore };
void log_access(Access kind, uintptr_t address, int bytes, bool active, Site site);
void count_packed_math();

}  // namespace symconv::emulator
