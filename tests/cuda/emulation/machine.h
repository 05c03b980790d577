// The CUDA execution model on the host: blocks, warps, barriers and warp collectives.
//
// One block runs at a time. Its threads are fibers that are switched wherever a thread waits for others. The order in
// which ready threads run is a parameter of the launch: a result that depends on it is a bug of the kernel.
//
// Caught: lanes that miss a collective or meet in different ones, barriers that some threads never reach, and what
// memory.h lists. Not emulated: timing, occupancy, memory order between blocks, uninitialised registers.
#pragma once
#include <cstdarg>
#include <cstdio>
#include <cstring>
#include <exception>
#include <functional>
#include <map>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "fibers.h"

namespace emulation {

struct Dim3 {
  unsigned x = 1, y = 1, z = 1;
};

// A tensor core adds a block of exact products after aligning them to the largest and truncating. How many bits it
// keeps differs between generations and is undocumented: two models bracket it, and a test must pass under both.
enum class Rounding { kNearest, kTruncating };

enum class Schedule { kForward, kReverse, kRandom };

struct Options {
  Schedule schedule = Schedule::kForward;
  Rounding rounding = Rounding::kNearest;
  uint32_t seed = 1;
};

struct Error : std::runtime_error {
  using std::runtime_error::runtime_error;
};

using Clock = uint32_t;
constexpr uint16_t kNobody = 0xFFFF;

struct AsyncCopy {
  uint32_t to, bytes;
  const void* from;
  uint32_t from_bytes;
};

// A product of a warpgroup that is under way: descriptors and accumulators, the stores before it and the commits after.
struct GroupProduct {
  uint64_t a, b;
  float* d;
  bool half, slow_a, slow_b;
  uint32_t issued;
  int commits;
};
constexpr int kHeld = 64;  // accumulators of a product in a thread

struct Thread {
  Dim3 id;
  int index = 0, lane = 0, warp = 0;
  Context context{};
  bool done = false, ready = true;
  const char* waits_in = "";
  std::vector<Clock> clock;                    // happens-before: clock[t] is the latest event of t this thread has
                                               // seen, the last t being the copy engine
  std::vector<std::vector<AsyncCopy>> groups;  // committed asynchronous copies, oldest first
  std::vector<AsyncCopy> open;                 // not yet committed
  uint32_t proxies_fenced = 0;                 // stores of the block before the last fence of the proxies
  bool accumulators_fenced = false;
  std::vector<GroupProduct> products;                 // under way, oldest first
  std::map<float*, std::vector<float>> accumulators;  // of those products
};

// A bulk copy under way: where its bytes will lie, and the barrier that counts them.
struct BulkCopy {
  uint32_t to, barrier;
  std::vector<uint8_t> image;
};

// What is known of one byte of shared memory.
struct Shadow {
  Clock written = 0, read[2] = {0, 0};
  uint16_t writer = kNobody, reader[2] = {kNobody, kNobody};  // two readers are kept; a third replaces the older
  bool initialised = false, in_flight = false;
  uint32_t stored = 0;  // which store of the block wrote it
};

struct Meeting {
  const char* name;
  unsigned mask, arrived;
  const void* in[32];
  void* out[32];
};

struct Barrier {
  std::vector<int> arrived;
};

// An mbarrier: who has arrived in this phase, bytes announced that have not come, and what threads had seen that
// arrived in it and in those before.
struct PhaseBarrier {
  int expected = 0;
  unsigned phase = 0;
  int64_t bytes = 0;
  std::vector<int> arrived;
  std::vector<Clock> arriving, clock;
};

struct Block {
  Dim3 id, size, grid;
  std::vector<Thread> threads;
  std::vector<std::vector<Meeting>> meetings;  // per warp
  Barrier barrier;
  uint8_t* shared = nullptr;
  uint32_t shared_bytes = 0;
  std::vector<Shadow> shadow;
  std::map<uint32_t, PhaseBarrier> phase_barriers;  // by their shared offset
  uint32_t stores = 0;
  std::vector<BulkCopy> copies;    // under way, oldest first
  Clock landed = 0;                // events of the copy engine
  void (*land)(size_t) = nullptr;  // lets one of them land
  int64_t registers_left = 0;      // given up and not taken
  Options options;
  uint32_t random = 1;
  Context scheduler{};
  std::string error;
  const char* kernel = "";
  const std::function<void()>* body = nullptr;
};

inline thread_local Block* block = nullptr;
inline thread_local Thread* self = nullptr;

[[noreturn, gnu::format(printf, 1, 2)]] inline void Fail(const char* format, ...) {
  char text[512], message[1024];
  va_list arguments;
  va_start(arguments, format);
  vsnprintf(text, sizeof text, format, arguments);
  va_end(arguments);
  snprintf(message, sizeof message, "%s, block (%u,%u,%u), thread %d: %s", block->kernel, block->id.x, block->id.y,
           block->id.z, self ? self->index : -1, text);
  throw Error(message);
}

inline void Wait(const char* where) {
  self->ready = false;
  self->waits_in = where;
  Switch(self->context, block->scheduler);
}

inline void Join(std::vector<Clock>& into, const std::vector<Clock>& from) {
  for (size_t i = 0; i < from.size(); i++) into[i] = into[i] > from[i] ? into[i] : from[i];
}

// All of `who` have now seen what each of them did before; later accesses are new events.
template <typename Threads>
void Synchronise(const Threads& who) {
  std::vector<Clock> all(block->threads.size() + 1, 0);
  for (Thread* thread : who) Join(all, thread->clock);
  for (Thread* thread : who) {
    thread->clock = all;
    thread->clock[size_t(thread->index)]++;
    thread->ready = true;
  }
}

// The last lane of `mask` to arrive runs f(in, out) for all of them; the pointers go to the lanes' own stacks.
template <typename In, typename Out, typename F>
Out Collective(const char* name, unsigned mask, const In& in, F f) {
  Thread& thread = *self;
  Out out{};
  if (!(mask >> thread.lane & 1)) Fail("%s: the mask %08x does not name the calling lane %d", name, mask, thread.lane);
  auto& meetings = block->meetings[size_t(thread.warp)];
  size_t at = meetings.size();
  for (size_t i = 0; i < meetings.size(); i++) {
    const Meeting& other = meetings[i];
    if (!(other.mask & mask)) continue;
    if (other.mask != mask) Fail("%s: mask %08x overlaps %08x of %s", name, mask, other.mask, other.name);
    if (other.name != name && strcmp(other.name, name))
      Fail("lane %d is in %s while others of its warp are in %s", thread.lane, name, other.name);
    at = i;
  }
  if (at == meetings.size()) meetings.push_back({name, mask, 0, {}, {}});
  meetings[at].in[thread.lane] = &in;
  meetings[at].out[thread.lane] = &out;
  meetings[at].arrived |= 1u << thread.lane;
  if (meetings[at].arrived != mask) {
    Wait(name);
    return out;
  }
  Meeting meeting = meetings[at];
  meetings.erase(meetings.begin() + long(at));
  f(reinterpret_cast<const In* const*>(meeting.in), reinterpret_cast<Out* const*>(meeting.out));
  for (int lane = 0; lane < 32; lane++) {
    if (mask >> lane & 1) block->threads[size_t(thread.warp * 32 + lane)].ready = true;
  }
  return out;
}

inline void BlockBarrier() {
  block->barrier.arrived.push_back(self->index);
  if (block->barrier.arrived.size() < block->threads.size()) return Wait("__syncthreads");
  std::vector<Thread*> who;
  for (int index : block->barrier.arrived) who.push_back(&block->threads[size_t(index)]);
  block->barrier.arrived.clear();
  Synchronise(who);
}

struct Nothing {};
inline void WarpBarrier() {
  Collective<Nothing, Nothing>("__syncwarp", ~0u, Nothing{}, [](const Nothing* const*, Nothing* const*) {
    std::vector<Thread*> who;
    for (int lane = 0; lane < 32; lane++) who.push_back(&block->threads[size_t(self->warp * 32 + lane)]);
    Synchronise(who);
  });
}

inline void FiberMain() {
  try {
    (*block->body)();
    if (!self->open.empty()) Fail("the thread ends with an asynchronous copy that was never committed");
    for (auto& group : self->groups) {
      if (!group.empty()) Fail("the thread ends with an asynchronous copy that was never waited for");
    }
    if (!self->products.empty()) Fail("the thread ends with a wgmma that was never waited for");
  } catch (const std::exception& error) {
    if (block->error.empty()) block->error = error.what();
  }
  self->done = true;
  self->ready = false;
  Switch(self->context, block->scheduler);
  std::terminate();
}

[[noreturn]] inline void ReportDeadlock() {
  std::map<std::string, int> count;
  for (auto& thread : block->threads) count[thread.done ? "ended" : std::string("wait in ") + thread.waits_in]++;
  std::string text = std::string(block->kernel) + ": deadlock:";
  for (auto& [what, threads] : count) text += " " + std::to_string(threads) + " threads " + what + ";";
  throw Error(text);
}

inline uint32_t Random(Block& b, size_t below) {
  b.random = b.random * 1664525u + 1013904223u;
  return uint32_t((b.random >> 8) % below);
}

// A copy under way that may land next: the oldest, the youngest, or any.
inline size_t NextCopy(Block& b) {
  if (b.options.schedule == Schedule::kForward) return 0;
  return b.options.schedule == Schedule::kReverse ? b.copies.size() - 1 : Random(b, b.copies.size());
}

inline void RunBlock(Block& b, const std::function<void()>& body) {
  size_t count = size_t(b.size.x);
  b.threads.assign(count, Thread{});
  b.meetings.assign((count + 31) / 32, {});
  b.barrier = {};
  b.phase_barriers.clear();
  b.stores = 0;
  b.copies.clear();
  b.landed = 0;
  b.registers_left = 0;
  memset(b.shared, 0xFF, b.shared_bytes);
  b.shadow.assign(b.shared_bytes, Shadow{});
  b.body = &body;
  block = &b;
  Stacks(count);
  for (size_t i = 0; i < count; i++) {
    Thread& thread = b.threads[i];
    thread.index = int(i);
    thread.lane = int(i % 32);
    thread.warp = int(i / 32);
    thread.id = {unsigned(i), 0, 0};
    thread.clock.assign(count + 1, 0);
    thread.clock[i] = 1;
    Prepare(thread.context, i, FiberMain);
  }
  std::vector<Thread*> ready;
  for (;;) {
    ready.clear();
    bool all_done = true;
    for (auto& thread : b.threads) {
      all_done &= thread.done;
      if (thread.ready) ready.push_back(&thread);
    }
    if (all_done && b.copies.empty()) return;
    if (all_done) throw Error(std::string(b.kernel) + ": a block ends with a bulk copy under way");
    if (ready.empty()) {
      if (b.copies.empty()) ReportDeadlock();
      b.land(NextCopy(b));
      continue;
    }
    if (b.options.schedule == Schedule::kReverse) {
      for (size_t i = 0, n = ready.size(); i < n / 2; i++) std::swap(ready[i], ready[n - 1 - i]);
    }
    if (b.options.schedule == Schedule::kRandom) {
      if (!b.copies.empty() && Random(b, 2)) b.land(NextCopy(b));
      for (size_t i = ready.size(); i > 1; i--) std::swap(ready[i - 1], ready[Random(b, i)]);
    }
    for (Thread* thread : ready) {
      if (!thread->ready) continue;
      self = thread;
      Switch(b.scheduler, thread->context);
      self = nullptr;
      if (!b.error.empty()) throw Error(b.error);
    }
  }
}

// Runs `body` once for every thread of the grid.
inline void Launch(const char* kernel, Dim3 grid, unsigned threads, uint32_t shared_bytes, const Options& options,
                   const std::function<void()>& body) {
  Block b;
  std::vector<uint8_t> shared(shared_bytes + 1024);
  b.shared = reinterpret_cast<uint8_t*>((reinterpret_cast<uintptr_t>(shared.data()) + 1023) & ~uintptr_t(1023));
  b.shared_bytes = shared_bytes;
  b.options = options;
  b.random = options.seed;
  b.grid = grid;
  b.size = {threads, 1, 1};
  b.kernel = kernel;
  size_t blocks = size_t(grid.x) * grid.y * grid.z;
  for (size_t k = 0; k < blocks; k++) {
    size_t i = options.schedule == Schedule::kReverse ? blocks - 1 - k : k;
    b.id = {unsigned(i % grid.x), unsigned(i / grid.x % grid.y), unsigned(i / grid.x / grid.y)};
    RunBlock(b, body);
  }
  block = nullptr;
}

}  // namespace emulation
