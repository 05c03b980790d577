// A 128 x 256 tile of a product on Hopper's warpgroups: what its kernels share.
//
// One warpgroup fills a ring of stages, two others multiply: each has 64 rows of the tile. A stage holds 64 steps of
// the contraction as lines of 64 values, swizzled: 128 lines of the left operand, then 256 of the right one. A line
// holds steps of one row or column of the tile, or, where the contraction is the slow dimension (kSlow), 64 rows or
// columns at one step, in blocks of 64 steps each.
#pragma once
#include "call.cuh"
#include "hopper.cuh"
#include "numbers.cuh"

namespace hopper {

constexpr int kRows = 128, kColumns = kGroupColumns, kSteps = 64, kStages = 4;
constexpr int kFillers = 128, kThreads = 384;
constexpr int kLine = 128, kBlock = 64 * kLine;  // bytes of a line, and of 64
constexpr int kRight = kRows * kLine, kStage = kRight + kColumns * kLine;
constexpr int kBarriers = kStages * kStage, kShared = kBarriers + 2 * kStages * 8;

// Where 16 bytes of a tile are stored: bits 4 to 6 are exchanged by bits 7 to 9, so that neither eight lines at one
// place nor one line meet in a bank.
DEVICE uint32_t Swizzled(uint32_t at) { return at ^ (at >> 3 & 0x70); }

// The descriptor of an operand whose lines begin at `at`, from step k of the stage on. Eight lines are 1024 bytes;
// leading: from one block to the next.
template <bool kSlow>
DEVICE uint64_t Operand(uint32_t at, int k) {
  const uint32_t start = SharedAddress(SharedAt<uint8_t>(at + uint32_t(kSlow ? k * kLine : 2 * k)));
  const uint64_t leading = kSlow ? kBlock / 16 : 1, stride = 8 * kLine / 16, swizzle128 = 1;
  return uint64_t((start & 0x3FFFF) >> 4) | leading << 16 | stride << 32 | swizzle128 << 62;
}

// ------------------------------------------------------------------------------------------------------------ ring
DEVICE Shared<uint64_t> Full(int stage) { return SharedAt<uint64_t>(uint32_t(kBarriers + 8 * stage)); }
DEVICE Shared<uint64_t> Empty(int stage) { return SharedAt<uint64_t>(uint32_t(kBarriers + 8 * (kStages + stage))); }

// Called by all threads: a warp arrives by its first lane.
DEVICE void StartRing() {
  if (threadIdx.x == 0) {
    for (int stage = 0; stage < kStages; stage++) {
      StartBarrier(Full(stage), kFillers / 32);
      StartBarrier(Empty(stage), (kThreads - kFillers) / 32);
    }
  }
  SyncBlock();
}

// A place in the ring, and the parity of its round.
struct Turn {
  int stage = 0;
  uint32_t parity = 0;
  DEVICE uint32_t At() const { return uint32_t(stage * kStage); }
  DEVICE void Next() {
    stage = (stage + 1) % kStages;
    parity ^= uint32_t(stage == 0);
  }
};

// The side of the ring that fills.
struct Filling {
  Turn turn;
  bool owing = false;  // the stage before is filled and not yet handed over

  DEVICE void Open() { WaitForPhase(Empty(turn.stage), turn.parity ^ 1); }
  // Hands over the stage before, whose copies have had the time of this one to land.
  DEVICE void Close() {
    CommitCopies();
    WaitForCopies<1>();
    if (owing) HandOver((turn.stage + kStages - 1) % kStages);
    owing = true;
    turn.Next();
  }
  DEVICE void Finish() {
    WaitForCopies<0>();
    if (owing) HandOver((turn.stage + kStages - 1) % kStages);
    owing = false;
  }

 private:
  static DEVICE void HandOver(int stage) {
    FenceProxies();
    SyncWarp();
    if (threadIdx.x % 32 == 0) Arrive(Full(stage));
  }
};

// The side that multiplies: a warpgroup's accumulators.
template <bool kHalf, bool kSlowA, bool kSlowB>
struct Multiplying {
  Turn turn;

  static DEVICE int Group() { return int(threadIdx.x) / 128 - 1; }

  // d = the product of `steps` stages.
  DEVICE void Run(float (&d)[kAccumulators], int steps) {
#pragma unroll
    for (int i = 0; i < kAccumulators; i++) d[i] = 0.0f;
    int before = 0;
    for (int s = 0; s < steps; s++) {
      WaitForPhase(Full(turn.stage), turn.parity);
      const uint32_t left = turn.At() + uint32_t(Group() * kBlock), right = turn.At() + kRight;
      FenceAccumulators();
#pragma unroll
      for (int k = 0; k < kSteps; k += 16) {
        MultiplyGroup<kHalf, kSlowA, kSlowB>(d, Operand<kSlowA>(left, k), Operand<kSlowB>(right, k));
      }
      CommitProducts();
      WaitForProducts<1>(d);
      if (s > 0) Release(before);
      before = turn.stage;
      turn.Next();
    }
    WaitForProducts<0>(d);
    if (steps > 0) Release(before);
  }

  // Of the tile, of accumulator i.
  static DEVICE int Row(int i) {
    return Group() * 64 + int(threadIdx.x) / 32 % 4 * 16 + i / 2 % 2 * 8 + int(threadIdx.x) % 32 / 4;
  }
  static DEVICE int Column(int i) { return i / 4 * 8 + int(threadIdx.x) % 4 * 2 + i % 2; }

 private:
  static DEVICE void Release(int stage) {
    if (threadIdx.x % 32 == 0) Arrive(Empty(stage));
  }
};

// ----------------------------------------------------------------------------------------------------------- filling
// Copies kLines lines of a row-major matrix of 16-bit values: line l is row l % kHigh of the window, from column
// 64 (l / kHigh) on. What lies outside the window is zero.
template <typename X, int kLines, int kHigh>
struct LineCopier {
  const X* matrix;
  int64_t stride;

  DEVICE void Copy(int64_t row0, int rows, int64_t column0, int columns, uint32_t at) const {
    // A copy moves 16 bytes: rows and windows begin at multiples of that, or values go one by one.
    const bool aligned = stride % 8 == 0 && column0 % 8 == 0;
#pragma unroll 4
    for (int i = int(threadIdx.x); i < 8 * kLines; i += kFillers) {
      const int line = i / 8, row = line % kHigh, column = line / kHigh * 64 + i % 8 * 8;
      const int left = row < rows ? Max(0, Min(8, columns - column)) : 0;
      const X* from = left ? matrix + (row0 + row) * stride + column0 + column : matrix;
      const uint32_t to = Swizzled(at + uint32_t(16 * i));
      if (aligned) {
        CopyAsync<16>(SharedAt<uint8_t>(to), from, uint32_t(2 * left));
      } else {
        uint32_t words[4];
#pragma unroll
        for (int j = 0; j < 8; j += 2) {
          const uint32_t low = j < left ? Load(from + j).bits : 0, high = j + 1 < left ? Load(from + j + 1).bits : 0;
          words[j / 2] = high << 16 | low;
        }
        SharedAt<uint4>(to)[0] = uint4{words[0], words[1], words[2], words[3]};
      }
    }
  }
};

// Stores a line of 64 values.
DEVICE void StoreLine(uint32_t at, int line, const uint32_t (&words)[32]) {
#pragma unroll
  for (int c = 0; c < 8; c++) {
    SharedAt<uint4>(Swizzled(at + uint32_t(line * kLine + 16 * c)))[0] =
        uint4{words[4 * c], words[4 * c + 1], words[4 * c + 2], words[4 * c + 3]};
  }
}

}  // namespace hopper
