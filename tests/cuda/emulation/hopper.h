// Barriers in shared memory, the asynchronous proxy and products of a warpgroup.
//
// A product runs at its wait, warp by warp, on shared memory as it is then; until then the accumulators hold NaN. So
// caught are: accumulators used before their wait or touched without a fence, operands stored without a fence of the
// proxies or overwritten while a product is under way, a thread that arrives twice in one phase, and what races.
// Reads of a product count as those of the warp's first lane at the wait, which is therefore the lane to arrive.
//
// Included by hopper.cuh alone, which defines what it uses.
#pragma once
#include <algorithm>
#include <cmath>

#include "memory.h"
#include "tensor_core.h"

namespace emulation {

inline const char* const kBarrierWait = "an mbarrier";
inline const char* const kRegisterWait = "setmaxnreg";

inline void StartBarrier(uint32_t at, int arrivals) {
  OnWrite(at, 8, 8);
  PhaseBarrier barrier;
  barrier.expected = arrivals;
  barrier.clock.assign(self->clock.size(), 0);
  barrier.arriving = barrier.clock;
  block->phase_barriers[at] = barrier;
}

inline PhaseBarrier& BarrierAt(uint32_t at) {
  auto found = block->phase_barriers.find(at);
  if (found == block->phase_barriers.end()) Fail("no mbarrier at shared offset %u", at);
  OnRead(at, 8, 8);  // whether its start is visible to this thread
  return found->second;
}

inline void EndPhaseIfDue(PhaseBarrier& barrier) {
  if (int(barrier.arrived.size()) < barrier.expected || barrier.bytes) return;
  barrier.arrived.clear();
  barrier.phase++;
  Join(barrier.clock, barrier.arriving);
  for (auto& thread : block->threads) {
    if (!thread.done && !thread.ready && thread.waits_in == kBarrierWait) thread.ready = true;
  }
}

inline void Arrive(uint32_t at) {
  PhaseBarrier& barrier = BarrierAt(at);
  if (std::count(barrier.arrived.begin(), barrier.arrived.end(), self->index)) {
    Fail("mbarrier at shared offset %u: the thread arrives twice in one phase", at);
  }
  barrier.arrived.push_back(self->index);
  Join(barrier.arriving, self->clock);
  self->clock[size_t(self->index)]++;
  if (int(barrier.arrived.size()) > barrier.expected) Fail("mbarrier at shared offset %u: too many arrivals", at);
  EndPhaseIfDue(barrier);
}

inline void WaitForPhase(uint32_t at, uint32_t parity) {
  while ((BarrierAt(at).phase & 1) == parity) Wait(kBarrierWait);
  Join(self->clock, BarrierAt(at).clock);
}

inline void FenceProxies() { self->proxies_fenced = block->stores; }

// Threads start with an even share of the 64 K registers of a multiprocessor; more must have been given up by others.
inline void SetRegisters(int count, bool take) {
  const int even = int(65536 / block->threads.size()) / 8 * 8;
  if (count % 8 || count < 24 || count > 256) Fail("setmaxnreg: %d is no lawful number of registers", count);
  if (take ? count < even : count > even) Fail("setmaxnreg: %d registers, where the thread has %d", count, even);
  block->registers_left += even - count;
  while (block->registers_left < 0 && take) {
    block->registers_left += count - even;
    Wait(kRegisterWait);
    block->registers_left += even - count;
  }
  for (auto& thread : block->threads) {
    if (!thread.done && !thread.ready && thread.waits_in == kRegisterWait) thread.ready = true;
  }
}

// The shared byte of value (row or column `outer`, step k) of an operand: 128-byte swizzle, 16-bit values.
inline uint32_t OperandByte(uint64_t descriptor, bool slow, int outer, int k) {
  if (descriptor >> 62 != 1) Fail("wgmma: only the 128-byte swizzle is emulated");
  auto field = [&](int shift) { return uint32_t(descriptor >> shift & 0x3FFF) << 4; };
  const uint32_t start = field(0), leading = field(16), stride = field(32);
  const uint32_t at = slow ? start + uint32_t(outer / 64) * leading + uint32_t(k / 8) * stride + uint32_t(k % 8) * 128 +
                                 uint32_t(outer % 64) * 2
                           : start + uint32_t(outer / 8) * stride + uint32_t(outer % 8) * 128 + uint32_t(k) * 2;
  return at ^ (at >> 3 & 0x70);
}

// Unit `unit` of an operand's part of rows or columns from `first` on: 16 bytes, values along its fast dimension. Two
// units are 16 steps of a row or column, or 16 units eight of these.
struct Unit {
  int outer, k;
  Unit(bool slow, int first, int unit)
      : outer(first + (slow ? unit / 16 * 8 : unit / 2)), k(slow ? unit % 16 : unit % 2 * 8) {}
};

// The bytes that a warp of a group answers for: its rows of a are 32 units, a fourth of b is 64.
constexpr int kOwnUnits = 96;
inline uint32_t OwnByte(const GroupProduct& product, int warp, int index) {
  const bool left = index < 32;
  const bool slow = left ? product.slow_a : product.slow_b;
  const Unit unit(slow, left ? 16 * warp : 32 * warp, left ? index : index - 32);
  return OperandByte(left ? product.a : product.b, slow, unit.outer, unit.k);
}

inline void StartProduct(GroupProduct product) {
  Block& b = *block;
  Thread& thread = *self;
  if (!thread.accumulators_fenced) Fail("wgmma: no wgmma.fence since the accumulators could be touched");
  for (int unit = thread.lane; unit < kOwnUnits; unit += 32) {  // each lane looks at its share
    const uint32_t at = OwnByte(product, thread.warp % 4, unit);
    CheckRange(at, 16, 16, "an operand of wgmma");
    for (uint32_t i = at; i < at + 16; i++) {
      const Shadow& s = b.shadow[i];
      if (s.in_flight) Fail("shared byte %u read by wgmma before the wait for its asynchronous copy", i);
      if (!s.initialised) Fail("shared byte %u read by wgmma but never written", i);
      if (!Saw(thread, s.writer, s.written)) {
        Fail("race: shared byte %u read by wgmma, written by thread %u without a barrier between", i, s.writer);
      }
      if (s.writer < b.threads.size() && b.threads[s.writer].proxies_fenced < s.stored) {
        Fail("shared byte %u read by wgmma, written by thread %u without a fence of the proxies", i, s.writer);
      }
    }
  }
  auto [held, first] = thread.accumulators.try_emplace(product.d);
  if (first) {
    held->second.assign(product.d, product.d + kHeld);
    std::fill_n(product.d, kHeld, std::nanf(""));
  }
  product.issued = b.stores;
  thread.products.push_back(product);
}

inline void CommitProducts() {
  for (auto& product : self->products) product.commits++;
}

// The values of rows or columns [0, count) of an operand, from `first` on, as [outer][k] or, transposed, [k][outer].
template <bool kTransposed, int kCount>
void ReadOperand(float (&values)[kTransposed ? 16 : kCount][kTransposed ? kCount : 16], bool (&used)[kCount],
                 bool& finite, uint64_t descriptor, bool half, bool slow, int first) {
  const uint8_t* shared = block->shared;
  for (int index = 0; index < 2 * kCount; index++) {
    const Unit unit(slow, first, index);
    uint16_t bits[8];
    memcpy(bits, shared + OperandByte(descriptor, slow, unit.outer, unit.k), 16);
    for (int i = 0; i < 8; i++) {
      const int outer = unit.outer - first + (slow ? i : 0), k = unit.k + (slow ? 0 : i);
      const float value = half ? FromF16Bits(bits[i]) : FromBf16Bits(bits[i]);
      (kTransposed ? values[k][outer] : values[outer][k]) = value;
      finite &= std::fabs(value) < HUGE_VALF;
      used[outer] |= value != 0;
    }
  }
}

// One product of a whole warp, whose lanes all hold it.
inline void RunProduct(const GroupProduct& product, int warp) {
  Block& shared = *block;
  Thread* lanes = &shared.threads[size_t(self->warp) * 32];
  for (int unit = 0; unit < kOwnUnits; unit++) {
    const uint32_t at = OwnByte(product, warp, unit);
    for (uint32_t i = at; i < at + 16; i++) {
      Shadow& s = shared.shadow[i];
      if (s.stored > product.issued) Fail("shared byte %u overwritten while a wgmma reads it", i);
      if (s.reader[0] != lanes->index) {
        s.reader[1] = s.reader[0];
        s.read[1] = s.read[0];
        s.reader[0] = uint16_t(lanes->index);
      }
      s.read[0] = lanes->clock[size_t(lanes->index)];
    }
  }
  static thread_local float a[16][16], b[16][128];
  bool finite_a = true, finite_b = true, used_a[16] = {}, used_b[128] = {};
  ReadOperand<false>(a, used_a, finite_a, product.a, product.half, product.slow_a, 16 * warp);
  ReadOperand<true>(b, used_b, finite_b, product.b, product.half, product.slow_b, 0);
  float* d[32];
  for (int lane = 0; lane < 32; lane++) d[lane] = lanes[lane].accumulators.at(lanes[lane].products.front().d).data();
  for (int column = 0; column < 128; column += 8) {
    const bool used = std::any_of(used_b + column, used_b + column + 8, [](bool one) { return one; });
    for (int row = 0; row < 16; row++) {
      // Nothing but zeros leaves a sum as it is.
      if ((!used_a[row] && finite_b) || (!used && finite_a)) continue;
      const auto place = [&](int n) { return d[row % 8 * 4 + n / 2] + column / 2 + row / 8 * 2 + n % 2; };
      float sums[8];
      for (int n = 0; n < 8; n++) sums[n] = *place(n);
      AddProducts<16>(sums, a[row], &b[0][column], 128, shared.options.rounding);
      for (int n = 0; n < 8; n++) *place(n) = sums[n];
    }
  }
}

inline void WaitForProducts(int pending) {
  self->accumulators_fenced = false;
  for (;;) {
    // Lanes hold the same products: whether one is due is the same question for all of them.
    auto& products = self->products;
    if (products.empty() || products.front().commits <= pending) break;
    const GroupProduct first = products.front();
    Collective<GroupProduct, Nothing>("wgmma", ~0u, first, [](const GroupProduct* const* in, Nothing* const*) {
      for (int lane = 1; lane < 32; lane++) {
        if (in[lane]->a != in[0]->a || in[lane]->b != in[0]->b) Fail("wgmma: the lanes of a warp name other operands");
      }
      RunProduct(*in[0], self->warp % 4);
    });
    products.erase(products.begin());
    const bool more = std::any_of(products.begin(), products.end(), [&](auto& other) { return other.d == first.d; });
    if (!more) {
      std::copy_n(self->accumulators.at(first.d).data(), kHeld, first.d);
      self->accumulators.erase(first.d);
    }
  }
}

}  // namespace emulation
