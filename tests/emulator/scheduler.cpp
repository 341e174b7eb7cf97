// The schedule: which fiber runs next, when a rendezvous is complete, and what is an error.
#include "scheduler.h"

#include <algorithm>
#include <cstring>
#include <deque>
#include <memory>
#include <sstream>
#include <stdexcept>
#include <unordered_map>
#include <vector>

#include "fiber.h"
#include "memory.h"
#include "warp_operations.h"

namespace symconv::emulator {
namespace {

constexpr int kWarp = 32;
#if defined(SYMCONV_EMULATOR_ASAN)
constexpr size_t kStackSize = 1 << 19;
#else
constexpr size_t kStackSize = 1 << 17;
#endif

enum class State { kReady, kAtBlockBarrier, kAtWarpCollective, kDone };

struct Warp;
struct Block;

struct Thread {
  Fiber fiber;
  Dim3 index;
  int lane = 0;
  Warp* warp = nullptr;
  Block* block = nullptr;
  State state = State::kDone;
  Site site{"", 0};
  std::deque<PendingCopy> copies;
  PendingCopy due{};
  int open_group = 0;  // groups committed so far
  char stack_token;    // orders the threads that use the stack one after the other
};

// One access of a warp, as its lanes come by.
struct AccessRow {
  uintptr_t address[kWarp];
  uint32_t present = 0, active = 0;
};
struct SiteLog {
  Access kind;
  int bytes;
  int64_t count[kWarp] = {};  // accesses of each lane
  int64_t first = 0;          // number of rows already evaluated
  std::deque<AccessRow> rows;
};
struct SiteKey {
  const char* file;
  int line, kind, bytes;
  bool operator==(const SiteKey& o) const {
    return file == o.file && line == o.line && kind == o.kind && bytes == o.bytes;
  }
};
struct SiteHash {
  size_t operator()(const SiteKey& k) const {
    return (reinterpret_cast<size_t>(k.file) * 31 + static_cast<size_t>(k.line)) * 131 +
           static_cast<size_t>(k.kind * 32 + k.bytes);
  }
};

struct Warp {
  Thread* lanes[kWarp] = {};
  uint32_t ready = 0;  // lanes that can run
  int arrived = 0, done = 0;
  bool barrier = false;
  Collective op{};
  int variant = 0;
  Site site{"", 0};
  void* operands[kWarp] = {};
  char order_tokens[2];
  int generation = 0;
  std::unordered_map<SiteKey, SiteLog, SiteHash> accesses;
};

struct Block {
  Dim3 index;
  std::vector<std::unique_ptr<Thread>> threads;
  std::vector<std::unique_ptr<Warp>> warps;
  std::unique_ptr<DeviceBuffer> shared;
  int arrived = 0, done = 0;
  Site site{"", 0};
  char order_tokens[2];
  int generation = 0;
  bool live = false;
};

struct Device {
  Settings settings;
  std::map<std::string, Counters> counters;
  std::vector<Launch> launches;
  Counters* running = nullptr;
  int64_t packed_math_lanes = 0;
  std::vector<std::unique_ptr<Block>> slots;
  Fiber host;
  Thread* current = nullptr;
  std::string kernel, error;
  Dim3 grid, block;
  void (*body)(void*) = nullptr;
  void* argument = nullptr;
  uint64_t random_state = 1;
  uint64_t stay = 0;  // chance of 2^64 that the same warp goes on
  char start_token, end_token;

  uint64_t random() {
    random_state ^= random_state << 13;
    random_state ^= random_state >> 7;
    random_state ^= random_state << 17;
    return random_state * 0x2545f4914f6cdd1dull;
  }
};

Device& device() {
  static Device d;
  return d;
}

std::string show(Dim3 d) {
  std::ostringstream text;
  text << "(" << d.x << ", " << d.y << ", " << d.z << ")";
  return text.str();
}

std::string show(Site site) {
  std::string file = site.file;
  file = file.substr(file.rfind('/') + 1);
  return site.line ? file + ":" + std::to_string(site.line) : file;
}

bool same(Site a, Site b) { return a.line == b.line && std::string(a.file) == b.file; }

void yield_to_host(Thread& thread) { fiber_switch(thread.fiber, device().host); }

const char* name(Collective op) {
  switch (op) {
    case Collective::kShuffleXor:
      return "shuffle";
    case Collective::kLdmatrix:
    case Collective::kLdmatrixTransposed:
      return "ldmatrix";
    default:
      return "mma";
  }
}

void thread_main(void* argument) {
  Thread& self = *static_cast<Thread*>(argument);
  Device& d = device();
  order_acquire(&d.start_token);
  order_acquire(&self.stack_token);
  d.body(d.argument);
  order_release(&d.end_token);
  order_release(&self.stack_token);
  if (!self.copies.empty())
    fail("cp.async still pending when the thread ends", Site{"the end of the kernel", 0});
  if (self.warp->arrived > 0) {
    fail("the thread ends while lanes of its warp wait at " + show(self.warp->site) +
             " (partial warp operation)",
         Site{"the end of the kernel", 0});
  }
  if (self.block->arrived > 0) {
    fail("the thread ends while others wait at the barrier at " + show(self.block->site) +
             " (divergent barrier)",
         Site{"the end of the kernel", 0});
  }
  self.state = State::kDone;
  self.warp->ready &= ~(1u << self.lane);
  ++self.warp->done;
  ++self.block->done;
  yield_to_host(self);
}

// Distinct 4-byte words in each bank; the most of any bank is the number of wavefronts.
int bank_wavefronts(const uintptr_t* addresses, int n, int bytes) {
  std::vector<uintptr_t> banks[32];
  int most = 0;
  for (int i = 0; i < n; ++i) {
    for (uintptr_t word = addresses[i] / 4; word <= (addresses[i] + static_cast<uintptr_t>(bytes) - 1) / 4;
         ++word) {
      auto& bank = banks[word % 32];
      if (std::find(bank.begin(), bank.end(), word) == bank.end()) bank.push_back(word);
      most = std::max(most, static_cast<int>(bank.size()));
    }
  }
  return most;
}

void evaluate(const SiteLog& log, const AccessRow& row) {
  Counters& c = *device().running;
  if (log.kind == Access::kGlobalLoad || log.kind == Access::kGlobalStore) {
    std::vector<uintptr_t> sectors;
    int64_t bytes = 0;
    for (int lane = 0; lane < kWarp; ++lane) {
      if (!(row.active >> lane & 1)) continue;
      bytes += log.bytes;
      for (uintptr_t s = row.address[lane] / 32;
           s <= (row.address[lane] + static_cast<uintptr_t>(log.bytes) - 1) / 32; ++s) {
        sectors.push_back(s);
      }
    }
    std::sort(sectors.begin(), sectors.end());
    const int64_t distinct = std::unique(sectors.begin(), sectors.end()) - sectors.begin();
    const bool load = log.kind == Access::kGlobalLoad;
    (load ? c.global_loads : c.global_stores) += 1;
    (load ? c.global_load_bytes : c.global_store_bytes) += bytes;
    (load ? c.global_load_sectors : c.global_store_sectors) += distinct;
    return;
  }
  const int lanes_per_phase = log.bytes >= 16 ? 8 : log.bytes >= 8 ? 16 : 32;
  int wavefronts = 0, fewest = 0;
  for (int begin = 0; begin < kWarp; begin += lanes_per_phase) {
    uintptr_t addresses[kWarp];
    int n = 0;
    for (int lane = begin; lane < begin + lanes_per_phase; ++lane) {
      if (row.active >> lane & 1) addresses[n++] = row.address[lane];
    }
    if (n == 0) continue;
    wavefronts += bank_wavefronts(addresses, n, log.bytes);
    ++fewest;
  }
  c.bank_conflicts += wavefronts - fewest;
  if (log.kind == Access::kSharedLoad) ++c.shared_loads, c.shared_load_wavefronts += wavefronts;
  if (log.kind == Access::kSharedStore) ++c.shared_stores, c.shared_store_wavefronts += wavefronts;
  if (log.kind == Access::kCopyToShared) ++c.copies, c.copy_wavefronts += wavefronts;
}

void begin_block(Block& block, Dim3 index, size_t shared_bytes) {
  Device& d = device();
  block.index = index;
  block.arrived = block.done = 0;
  block.live = true;
  block.shared = std::make_unique<DeviceBuffer>(shared_bytes);
  block.shared->poison();
  const unsigned n = d.block.x * d.block.y * d.block.z;
  for (auto& warp : block.warps) {
    warp->ready = 0xffffffffu;
    warp->arrived = warp->done = 0;
  }
  for (unsigned t = 0; t < n; ++t) {
    Thread& thread = *block.threads[t];
    thread.index = Dim3(t % d.block.x, t / d.block.x % d.block.y, t / d.block.x / d.block.y);
    thread.state = State::kReady;
    thread.copies.clear();
    thread.open_group = 0;
    fiber_prepare(thread.fiber, thread_main, &thread);
  }
  ++d.running->blocks;
  d.running->warps += n / kWarp;
}

void end_block(Block& block) {
  block.shared->check_margins();
  for (auto& warp : block.warps) {
    for (auto& [key, log] : warp->accesses) {
      for (const AccessRow& row : log.rows) evaluate(log, row);
    }
    warp->accesses.clear();
  }
  block.shared.reset();
  block.live = false;
}

// total += part * numerator / denominator
void add_scaled(Counters& total, const Counters& part, int64_t numerator, int64_t denominator) {
  static_assert(sizeof(Counters) % sizeof(int64_t) == 0, "nothing but counters");
  int64_t sums[sizeof(Counters) / sizeof(int64_t)], parts[sizeof(Counters) / sizeof(int64_t)];
  std::memcpy(sums, &total, sizeof(sums));
  std::memcpy(parts, &part, sizeof(parts));
  for (size_t i = 0; i < sizeof(sums) / sizeof(int64_t); ++i) {
    sums[i] += static_cast<int64_t>(static_cast<double>(parts[i]) * static_cast<double>(numerator) /
                                        static_cast<double>(denominator) +
                                    0.5);
  }
  std::memcpy(&total, sums, sizeof(sums));
}

void make_slots(int count, Dim3 size) {
  Device& d = device();
  const unsigned n = size.x * size.y * size.z;
  while (static_cast<int>(d.slots.size()) < count) d.slots.push_back(std::make_unique<Block>());
  for (auto& slot : d.slots) {
    while (slot->threads.size() < n) {
      slot->threads.push_back(std::make_unique<Thread>());
      fiber_allocate(slot->threads.back()->fiber, kStackSize);
    }
    slot->warps.clear();
    for (unsigned w = 0; w < n / kWarp; ++w) {
      slot->warps.push_back(std::make_unique<Warp>());
      for (int lane = 0; lane < kWarp; ++lane) {
        Thread& thread = *slot->threads[w * kWarp + static_cast<unsigned>(lane)];
        thread.lane = lane;
        thread.warp = slot->warps.back().get();
        thread.block = slot.get();
        slot->warps.back()->lanes[lane] = &thread;
      }
    }
    slot->live = false;
  }
}

std::string describe_deadlock() {
  for (auto& slot : device().slots) {
    if (!slot->live) continue;
    for (auto& thread : slot->threads) {
      if (thread->state == State::kReady || thread->state == State::kDone) continue;
      return "kernel " + device().kernel + ": no thread can go on: block " + show(slot->index) + " thread " +
             show(thread->index) + " waits at " + show(thread->site) +
             (thread->state == State::kAtBlockBarrier ? " (divergent barrier)" : " (partial warp operation)");
    }
  }
  return "no thread can go on";
}

}  // namespace

Settings& settings() { return device().settings; }
std::map<std::string, Counters>& counters() { return device().counters; }
std::vector<Launch>& launches() { return device().launches; }
Counters& running_counters() { return *device().running; }
bool in_kernel() { return device().current != nullptr; }
const Dim3& thread_index() { return device().current->index; }
const Dim3& block_index() { return device().current->block->index; }
const Dim3& block_size() { return device().block; }
const Dim3& grid_size() { return device().grid; }
int lane_index() { return device().current->lane; }
char* shared_base() { return device().current->block->shared->data(); }
size_t shared_size() { return device().current->block->shared->size(); }
void count_packed_math() { ++device().packed_math_lanes; }

void fail(const std::string& message, Site site) {
  Device& d = device();
  if (!d.current) throw std::runtime_error(message);
  if (d.error.empty()) {
    d.error = "kernel " + d.kernel + ": block " + show(d.current->block->index) + " thread " +
              show(d.current->index) + " at " + show(site) + ": " + message;
  }
  for (;;) yield_to_host(*d.current);
}

void block_barrier(Site site) {
  Thread& self = *device().current;
  Block& block = *self.block;
  if (block.done > 0) fail("barrier after threads of the block have ended (divergent barrier)", site);
  if (self.warp->arrived > 0) {
    fail("block barrier while lanes of the warp wait at " + show(self.warp->site) +
             " (partial warp operation)",
         site);
  }
  if (block.arrived == 0) block.site = site;
  if (!same(block.site, site)) fail("divergent barrier: others wait at " + show(block.site), site);
  char* token = &block.order_tokens[block.generation & 1];
  order_release(token);
  self.site = site;
  if (self.lane == 0) ++device().running->block_barriers;
  if (++block.arrived < static_cast<int>(block.warps.size()) * kWarp) {
    self.state = State::kAtBlockBarrier;
    self.warp->ready &= ~(1u << self.lane);
    yield_to_host(self);
  } else {
    block.arrived = 0;
    ++block.generation;
    for (auto& warp : block.warps) {
      warp->ready = 0xffffffffu;
      for (Thread* lane : warp->lanes) lane->state = State::kReady;
    }
    if (device().random() & 1) yield_to_host(self);
  }
  order_acquire(token);
}

namespace {

// Waits until all lanes of the warp are here; the last one runs `complete`.
template <typename Complete>
void rendezvous(Site site, Complete&& complete) {
  Thread& self = *device().current;
  Warp& warp = *self.warp;
  self.site = site;
  if (++warp.arrived < kWarp) {
    self.state = State::kAtWarpCollective;
    warp.ready &= ~(1u << self.lane);
    yield_to_host(self);
    return;
  }
  warp.arrived = 0;
  complete();
  warp.ready = 0xffffffffu;
  for (Thread* lane : warp.lanes) lane->state = State::kReady;
  if (device().random() & 1) yield_to_host(self);
}

void check_arrival(bool barrier, const char* what, Site site) {
  Thread& self = *device().current;
  Warp& warp = *self.warp;
  if (warp.done > 0)
    fail(std::string(what) + " after lanes of the warp have ended (partial warp operation)", site);
  if (self.block->arrived > 0) {
    for (Thread* lane : warp.lanes) {
      if (lane->state == State::kAtBlockBarrier) {
        fail(std::string(what) + " while lanes of the warp wait at the barrier at " + show(lane->site) +
                 " (partial warp operation)",
             site);
      }
    }
  }
  if (warp.arrived > 0 && (warp.barrier != barrier || !same(warp.site, site))) {
    fail(std::string("partial warp operation: ") + what + " while other lanes wait at " + show(warp.site),
         site);
  }
  warp.barrier = barrier;
  warp.site = site;
}

}  // namespace

void warp_barrier(Site site) {
  check_arrival(true, "warp barrier", site);
  Warp& warp = *device().current->warp;
  char* token = &warp.order_tokens[warp.generation & 1];
  order_release(token);
  rendezvous(site, [&] {
    ++warp.generation;
    ++device().running->warp_barriers;
  });
  order_acquire(token);
}

void warp_collective(Collective op, int variant, void* operand, Site site) {
  check_arrival(false, name(op), site);
  Thread& self = *device().current;
  Warp& warp = *self.warp;
  if (warp.arrived > 0 && (warp.op != op || warp.variant != variant)) {
    fail(std::string("partial warp operation: ") + name(op) + " where other lanes are at another one", site);
  }
  warp.op = op;
  warp.variant = variant;
  warp.operands[self.lane] = operand;
  rendezvous(site, [&] {
    Unobserved bookkeeping;
    Counters& c = *device().running;
    if (op == Collective::kShuffleXor) ++c.shuffles;
    if (op == Collective::kMmaF16) ++c.mma_f16;
    if (op == Collective::kMmaBf16) ++c.mma_bf16;
    if (op == Collective::kMmaTf32) ++c.mma_tf32;
    if (op == Collective::kLdmatrix || op == Collective::kLdmatrixTransposed) {
      ++c.ldmatrix;
      for (int m = 0; m < variant; ++m) {
        uintptr_t rows[8];
        for (int r = 0; r < 8; ++r)
          rows[r] = static_cast<LdmatrixOperand*>(warp.operands[m * 8 + r])->address;
        const int wavefronts = bank_wavefronts(rows, 8, 16);
        c.ldmatrix_wavefronts += wavefronts;
        c.bank_conflicts += wavefronts - 1;
      }
    }
    execute(op, variant, warp.operands);
  });
}

char* shared_pointer(uint32_t address, size_t bytes, const char* what, Site site) {
  if (address % bytes != 0) {
    fail(std::string(what) + ": shared address " + std::to_string(address) + " is not aligned to " +
             std::to_string(bytes) + " bytes",
         site);
  }
  if (address + bytes > shared_size()) {
    fail(std::string(what) + ": " + std::to_string(bytes) + " bytes at " + std::to_string(address) +
             " are out of range of " + std::to_string(shared_size()) + " bytes of shared memory",
         site);
  }
  return shared_base() + address;
}

void copy_issue(const PendingCopy& copy) {
  Unobserved bookkeeping;
  Thread& self = *device().current;
  self.copies.push_back(copy);
  self.copies.back().group = self.open_group;
}

void copy_commit() { ++device().current->open_group; }

const PendingCopy* copy_due(int allowed) {
  Unobserved bookkeeping;
  Thread& self = *device().current;
  if (self.copies.empty() || self.copies.front().group + allowed >= self.open_group) return nullptr;
  self.due = self.copies.front();
  self.copies.pop_front();
  return &self.due;
}

void log_access(Access kind, uintptr_t address, int bytes, bool active, Site site) {
  Unobserved bookkeeping;
  Thread& self = *device().current;
  SiteLog& log = self.warp->accesses[SiteKey{site.file, site.line, static_cast<int>(kind), bytes}];
  log.kind = kind;
  log.bytes = bytes;
  const int64_t row = log.count[self.lane]++ - log.first;
  while (static_cast<int64_t>(log.rows.size()) <= row) log.rows.emplace_back();
  AccessRow& r = log.rows[static_cast<size_t>(row)];
  r.present |= 1u << self.lane;
  if (active) r.active |= 1u << self.lane;
  r.address[self.lane] = address;
  while (!log.rows.empty() && log.rows.front().present == 0xffffffffu) {
    evaluate(log, log.rows.front());
    log.rows.pop_front();
    ++log.first;
  }
}

void run_grid(const std::string& kernel, Dim3 grid, Dim3 block, size_t shared_bytes, void (*body)(void*),
              void* argument) {
  Device& d = device();
  if (d.current) throw std::runtime_error("a kernel was launched from inside a kernel");
  d.kernel = kernel;
  d.error.clear();
  d.grid = grid;
  d.block = block;
  d.body = body;
  d.argument = argument;
  d.random_state = (d.settings.seed + 1) * 0x9e3779b97f4a7c15ull | 1;
  for (int i = 0; i < 4; ++i) d.random();
  constexpr uint64_t kStay[4] = {0, 0xc000000000000000ull, 0xf800000000000000ull, 0xfff0000000000000ull};
  d.stay = kStay[d.random() >> 62];
  const bool backwards = d.random() >> 63;
  Counters counted;
  d.running = &counted;
  d.packed_math_lanes = 0;

  const int64_t grid_blocks = static_cast<int64_t>(grid.x) * grid.y * grid.z;
  const int64_t last_blocks = d.settings.last_blocks;
  const int64_t sample = last_blocks > 0 ? last_blocks : d.settings.sample_blocks;
  const int64_t total = sample > 0 ? std::min(sample, grid_blocks) : grid_blocks;  // that run
  const int resident = static_cast<int>(std::min<int64_t>(std::max(1, d.settings.resident_blocks), total));
  make_slots(resident, block);
  fiber_adopt(d.host);
  order_release(&d.start_token);
  FaultGuard faults;

  int64_t next = 0, live = 0;
  Warp* last = nullptr;
  std::vector<Warp*> ready;
  while (d.error.empty()) {
    for (int s = 0; s < resident && next < total; ++s) {
      if (d.slots[static_cast<size_t>(s)]->live) continue;
      const int64_t number = backwards ? total - 1 - next : next;
      // The middle of each of `total` equal shares of the grid: block `number` itself where all run.
      const int64_t i =
          last_blocks > 0 ? grid_blocks - total + number : (2 * number + 1) * grid_blocks / (2 * total);
      begin_block(*d.slots[static_cast<size_t>(s)],
                  Dim3(static_cast<unsigned>(i % grid.x), static_cast<unsigned>(i / grid.x % grid.y),
                       static_cast<unsigned>(i / grid.x / grid.y)),
                  shared_bytes);
      ++next;
      ++live;
    }
    if (live == 0) break;
    if (!last || !last->ready || d.random() >= d.stay) {
      ready.clear();
      for (int s = 0; s < resident; ++s) {
        if (!d.slots[static_cast<size_t>(s)]->live) continue;
        for (auto& warp : d.slots[static_cast<size_t>(s)]->warps) {
          if (warp->ready) ready.push_back(warp.get());
        }
      }
      if (ready.empty()) {
        d.error = describe_deadlock();
        break;
      }
      last = ready[d.random() % ready.size()];
    }
    // A random ready lane: the first one at or after a random position.
    const int start = static_cast<int>(d.random() >> 59);
    const uint32_t turned = start ? last->ready >> start | last->ready << (32 - start) : last->ready;
    const int lane = (start + __builtin_ctz(turned)) & 31;
    d.current = last->lanes[lane];
    fiber_switch(d.host, d.current->fiber);
    Block& ran = *d.current->block;
    d.current = nullptr;
    if (d.error.empty() && ran.done == static_cast<int>(ran.warps.size()) * kWarp) {
      end_block(ran);
      last = nullptr;
      --live;
    }
  }
  d.running->packed_math += d.packed_math_lanes / kWarp;
  d.running = nullptr;
  Launch launch{kernel, grid, block, shared_bytes, {}};
  add_scaled(launch.counters, counted, grid_blocks, total);
  launch.counters.launches = 1;
  add_scaled(d.counters[kernel], launch.counters, 1, 1);
  d.launches.push_back(launch);
  order_acquire(&d.end_token);
  for (auto& slot : d.slots) {
    slot->live = false;
    slot->shared.reset();
    for (auto& warp : slot->warps) warp->accesses.clear();
    for (auto& thread : slot->threads) thread->copies.clear();
  }
  if (!d.error.empty()) throw std::runtime_error(d.error);
}

}  // namespace symconv::emulator
