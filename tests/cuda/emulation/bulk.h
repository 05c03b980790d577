// Tensor maps and the copies of their boxes.
//
// The arguments that the driver's encoder takes come from src/cuda/tensor_map.rs and are held against its rules. A copy
// takes what it copies at once, and lands when no thread can run any more, or, at random, before: until then its bytes
// are in flight. It lands as stores of one more thread, the copy engine, which then counts its bytes on the barrier.
// So caught are: boxes read before the wait for their phase, stages overwritten while they are read, bytes that nobody
// announced or that never come, misplaced boxes, and stores or barriers that the engine meets without a fence of the
// proxies.
//
// Included by hopper.cuh alone, after hopper.h.
#pragma once
#include "hopper.h"

namespace emulation {

// The arguments of cuTensorMapEncodeTiled, as in src/cuda/tensor_map.rs; its constants are those of the driver.
struct TensorMapArguments {
  uint64_t address, dims[3], strides[2];
  uint32_t box[3], element_strides[3], rank;
  uint32_t type, interleave, swizzle, promotion, fill;
};

struct alignas(128) TensorMap {
  uint64_t address = 0;
  int64_t dims[3] = {}, strides[2] = {};  // strides in bytes
  uint32_t box[3] = {};                   // 0: never encoded
  uint8_t opaque[48] = {};
};
static_assert(sizeof(TensorMap) == 128, "as large as the driver's");

constexpr uint32_t kValue = 2, kLineBytes = 128;  // bytes of a value, and of a line of the swizzle

// The rule of the encoder that the arguments break, or null and the map.
inline const char* Encode(const TensorMapArguments& a, TensorMap& map) {
  constexpr uint32_t kFloat16 = 6, kBfloat16 = 9, kSwizzle128 = 3, kMostPromotion = 3;
  if (a.rank != 3) return "the emulation knows tensor maps of rank 3";
  if (a.type != kFloat16 && a.type != kBfloat16) return "the emulation knows tensor maps of 16-bit numbers";
  if (a.interleave || a.swizzle != kSwizzle128 || a.fill) return "the emulation knows lines of 128 bytes, and zeros";
  if (a.promotion > kMostPromotion) return "the promotion is none of the driver's";
  if (a.address % 16) return "the address of a tensor map is not a multiple of 16";
  for (int i = 0; i < 3; i++) {
    if (!a.dims[i] || a.dims[i] > uint64_t(1) << 32) return "a dimension of a tensor map is none or beyond 2^32";
    if (!a.box[i] || a.box[i] > 256) return "a dimension of a box is none or beyond 256";
    if (a.element_strides[i] != 1) return "the emulation knows tensor maps without element strides";
  }
  if (a.box[0] * kValue > kLineBytes) return "a line of a box is longer than the swizzle";
  if (a.box[0] * kValue % 16) return "a line of a box is no multiple of 16 bytes";
  if (a.strides[0] < a.dims[0] * kValue) return "the rows of a tensor map overlap";
  for (int i = 0; i < 2; i++) {
    if (a.strides[i] % 16 || a.strides[i] >> 40) return "a stride of a tensor map is no multiple of 16 below 2^40";
  }
  if (a.strides[1] % a.strides[0]) return "a stride of a tensor map is no multiple of the one before";
  map.address = a.address;
  for (int i = 0; i < 3; i++) map.dims[i] = int64_t(a.dims[i]), map.box[i] = a.box[i];
  for (int i = 0; i < 2; i++) map.strides[i] = int64_t(a.strides[i]);
  return nullptr;
}

inline void ExpectBytes(uint32_t at, uint32_t bytes) {
  constexpr int64_t kMost = (1 << 20) - 1;
  PhaseBarrier& barrier = BarrierAt(at);
  barrier.bytes += bytes;
  if (barrier.bytes > kMost) Fail("mbarrier at shared offset %u: more bytes announced than it counts", at);
}

// Lets the copy at `index` of those under way land.
inline void LandCopy(size_t index) {
  Block& b = *block;
  const BulkCopy copy = std::move(b.copies[index]);
  b.copies.erase(b.copies.begin() + long(index));
  const size_t engine = b.threads.size();
  b.landed++;
  b.stores++;
  for (size_t i = 0; i < copy.image.size(); i++) {
    Shadow& s = b.shadow[copy.to + i];
    s.in_flight = false;
    s.writer = uint16_t(engine);
    s.written = b.landed;
    s.stored = b.stores;
  }
  memcpy(b.shared + copy.to, copy.image.data(), copy.image.size());
  PhaseBarrier& barrier = b.phase_barriers.at(copy.barrier);
  barrier.bytes -= int64_t(copy.image.size());
  if (barrier.bytes < 0) Fail("mbarrier at shared offset %u: bytes arrive that nobody announced", copy.barrier);
  barrier.arriving[engine] = b.landed;
  EndPhaseIfDue(barrier);
}

inline void CheckFenced(uint32_t at, const char* what) {
  const Shadow& s = block->shadow[at];
  if (s.initialised && s.writer < block->threads.size() && block->threads[s.writer].proxies_fenced < s.stored) {
    Fail("%s: shared byte %u was written by thread %u without a fence of the proxies", what, at, s.writer);
  }
}

inline void StartBoxCopy(uint32_t to, const TensorMap& map, const int64_t (&start)[3], uint32_t at) {
  Block& b = *block;
  if (!map.box[0]) Fail("a bulk copy of a tensor map that was never encoded");
  if (reinterpret_cast<uintptr_t>(&map) % 64) Fail("a bulk copy of a tensor map that is not aligned to 64 bytes");
  if (map.box[0] * kValue != kLineBytes) Fail("the emulation knows boxes of whole lines alone");
  BarrierAt(at);
  CheckFenced(at, "a barrier of a bulk copy");
  const uint32_t lines = map.box[1] * map.box[2], bytes = lines * kLineBytes;
  CheckRange(to, bytes, 128, "a bulk copy");
  for (uint32_t i = to; i < to + bytes; i++) CheckFenced(i, "a bulk copy");
  OnWrite(to, bytes, 128);
  for (uint32_t i = to; i < to + bytes; i++) b.shadow[i].in_flight = true;
  memset(b.shared + to, 0xFF, bytes);
  BulkCopy copy{to, at, std::vector<uint8_t>(bytes)};
  for (uint32_t line = 0; line < lines; line++) {
    const int64_t row = start[1] + line % map.box[1], plane = start[2] + line / map.box[1];
    if (row < 0 || row >= map.dims[1] || plane < 0 || plane >= map.dims[2]) continue;
    const int64_t first = std::max<int64_t>(start[0], 0), end = std::min(start[0] + map.box[0], map.dims[0]);
    if (first >= end) continue;
    const auto* from = reinterpret_cast<const uint8_t*>(map.address) + plane * map.strides[1] + row * map.strides[0];
    CheckGlobal(from + first * kValue, size_t(end - first) * kValue, kValue, "a bulk copy");
    for (int64_t column = first; column < end; column++) {
      // Bits 4 to 6 of the shared address are exchanged by bits 7 to 9.
      const uint32_t place = to + line * kLineBytes + uint32_t(column - start[0]) * kValue;
      memcpy(copy.image.data() + ((place ^ (place >> 3 & 0x70)) - to), from + column * kValue, kValue);
    }
  }
  b.copies.push_back(std::move(copy));
  b.land = LandCopy;
}

}  // namespace emulation
