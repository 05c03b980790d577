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

namespace emulation {

inline const char* const kBarrierWait = "an mbarrier";

inline void StartBarrier(uint32_t at, int arrivals) {
  OnWrite(at, 8, 8);
  PhaseBarrier barrier;
  barrier.expected = arrivals;
  barrier.clock.assign(block->threads.size(), 0);
  barrier.arriving = barrier.clock;
  block->phase_barriers[at] = barrier;
}

inline PhaseBarrier& BarrierAt(uint32_t at) {
  auto found = block->phase_barriers.find(at);
  if (found == block->phase_barriers.end()) Fail("no mbarrier at shared offset %u", at);
  OnRead(at, 8, 8);  // whether its start is visible to this thread
  return found->second;
}

inline void Arrive(uint32_t at) {
  PhaseBarrier& barrier = BarrierAt(at);
  if (std::count(barrier.arrived.begin(), barrier.arrived.end(), self->index)) {
    Fail("mbarrier at shared offset %u: the thread arrives twice in one phase", at);
  }
  barrier.arrived.push_back(self->index);
  Join(barrier.arriving, self->clock);
  self->clock[size_t(self->index)]++;
  if (int(barrier.arrived.size()) < barrier.expected) return;
  barrier.arrived.clear();
  barrier.phase++;
  Join(barrier.clock, barrier.arriving);
  for (auto& thread : block->threads) {
    if (!thread.done && !thread.ready && thread.waits_in == kBarrierWait) thread.ready = true;
  }
}

inline void WaitForPhase(uint32_t at, uint32_t parity) {
  while ((BarrierAt(at).phase & 1) == parity) Wait(kBarrierWait);
  Join(self->clock, BarrierAt(at).clock);
}

inline void FenceProxies() { self->proxies_fenced = block->stores; }

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

// Calls f(byte, value of a row or column, k) for every 16 bytes of an operand's part [first, first + count) x [0, 16).
template <typename F>
void ForEachUnit(uint64_t descriptor, bool slow, int first, int count, F f) {
  for (int outer = first; outer < first + count; outer += slow ? 8 : 1) {
    for (int k = 0; k < 16; k += slow ? 1 : 8) f(OperandByte(descriptor, slow, outer, k), outer, k);
  }
}

// Calls f(byte) for what warp `warp` of a group answers for: its rows of a and a fourth of b.
template <typename F>
void ForEachOwn(const GroupProduct& product, int warp, F f) {
  ForEachUnit(product.a, product.slow_a, 16 * warp, 16, [&](uint32_t at, int, int) { f(at); });
  ForEachUnit(product.b, product.slow_b, 32 * warp, 32, [&](uint32_t at, int, int) { f(at); });
}

inline void StartProduct(GroupProduct product) {
  if (!self->accumulators_fenced) Fail("wgmma: no wgmma.fence since the accumulators could be touched");
  int unit = 0;
  ForEachOwn(product, self->warp % 4, [&](uint32_t at) {
    CheckRange(at, 16, 16, "an operand of wgmma");
    if (unit++ % 32 != self->lane) return;  // each lane looks at its share
    for (uint32_t i = at; i < at + 16; i++) {
      const Shadow& s = block->shadow[i];
      if (s.in_flight) Fail("shared byte %u read by wgmma before the wait for its asynchronous copy", i);
      if (!s.initialised) Fail("shared byte %u read by wgmma but never written", i);
      if (!Saw(*self, s.writer, s.written)) {
        Fail("race: shared byte %u read by wgmma, written by thread %u without a barrier between", i, s.writer);
      }
      if (block->threads[s.writer].proxies_fenced < s.stored) {
        Fail("shared byte %u read by wgmma, written by thread %u without a fence of the proxies", i, s.writer);
      }
    }
  });
  auto [held, first] = self->accumulators.try_emplace(product.d);
  if (first) {
    held->second.assign(product.d, product.d + kHeld);
    std::fill_n(product.d, kHeld, std::nanf(""));
  }
  product.issued = block->stores;
  self->products.push_back(product);
}

inline void CommitProducts() {
  for (auto& product : self->products) product.commits++;
}

// One product of a whole warp, whose lanes all hold it.
inline void RunProduct(const GroupProduct& product, int warp) {
  Thread* lanes = &block->threads[size_t(self->warp) * 32];
  ForEachOwn(product, warp, [&](uint32_t at) {
    for (uint32_t i = at; i < at + 16; i++) {
      Shadow& s = block->shadow[i];
      if (s.stored > product.issued) Fail("shared byte %u overwritten while a wgmma reads it", i);
      if (s.reader[0] != lanes->index) {
        s.reader[1] = s.reader[0];
        s.read[1] = s.read[0];
        s.reader[0] = uint16_t(lanes->index);
      }
      s.read[0] = lanes->clock[size_t(lanes->index)];
    }
  });
  static thread_local float a[16][16], b[16][128];
  bool finite_a = true, finite_b = true, used_a[16] = {}, used_b[128] = {};
  const auto value = [&](uint32_t at, int i) {
    uint16_t bits;
    memcpy(&bits, block->shared + at + 2 * i, 2);
    return product.value(bits);
  };
  ForEachUnit(product.a, product.slow_a, 16 * warp, 16, [&](uint32_t at, int row, int k) {
    for (int i = 0; i < 8; i++) {
      const int r = row - 16 * warp + (product.slow_a ? i : 0);
      const float v = a[r][k + (product.slow_a ? 0 : i)] = value(at, i);
      finite_a &= std::isfinite(v);
      used_a[r] |= v != 0;
    }
  });
  ForEachUnit(product.b, product.slow_b, 0, 128, [&](uint32_t at, int column, int k) {
    for (int i = 0; i < 8; i++) {
      const int n = column + (product.slow_b ? i : 0);
      const float v = b[k + (product.slow_b ? 0 : i)][n] = value(at, i);
      finite_b &= std::isfinite(v);
      used_b[n] |= v != 0;
    }
  });
  const bool nearest = block->options.rounding == Rounding::kNearest;
  for (int lane = 0; lane < 32; lane++) {
    float* d = lanes[lane].accumulators.at(lanes[lane].products.front().d).data();
    for (int at = 0; at < kHeld; at++) {
      const int row = lane / 4 + 8 * (at / 2 % 2), column = at / 4 * 8 + 2 * (lane % 4) + at % 2;
      // Nothing but zeros leaves a sum as it is.
      if ((!used_a[row] && finite_b) || (!used_b[column] && finite_a)) continue;
      if (nearest) {
        double sum = d[at];
        for (int k = 0; k < 16; k++) sum += double(a[row][k]) * double(b[k][column]);
        d[at] = float(sum);
      } else {
        d[at] = TruncatingSum(a[row], &b[0][column], 128, 16, d[at]);
      }
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
