// A 256 x 128 tile of a product on Hopper's warpgroups: what its kernels share.
//
// Two warpgroups fill a ring of stages, two others multiply: each of these has 128 rows of the tile. A stage holds 64
// steps of the contraction as lines of 64 values, swizzled: 256 lines of the left operand, then 128 of the right one,
// which is the one that may have to be decoded. A line holds steps of one row or column of the tile, or, where the
// contraction is the slow dimension (kSlow), 64 rows or columns at one step, in blocks of 64 steps each.
//
// What is not decoded is copied, with zeros beyond every edge, swizzled. Where the operand has a tensor map (kBulk) one
// thread copies it box by box and the stage's barrier waits for the bytes. Else all fillers copy it by cp.async, and
// wait one stage later, so that decoding hides it.
#pragma once
#include "call.cuh"
#include "hopper.cuh"
#include "numbers.cuh"

namespace hopper {

constexpr int kRows = 4 * kGroupRows, kColumns = kGroupColumns, kSteps = 64, kStages = 4;
constexpr int kFillers = 256, kThreads = 512;
constexpr int kFillersRegisters = 88, kMultipliersRegisters = 168;  // of a thread: together all there are
constexpr int kLine = 128, kBlock = 64 * kLine;                     // bytes of a line, and of 64
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

// Called by all threads, first of all, with the number of warps that fill: a warp arrives by its first lane.
DEVICE void StartRing(int warps = kFillers / 32) {
  if (threadIdx.x == 0) {
    for (int stage = 0; stage < kStages; stage++) {
      StartBarrier(Full(stage), warps);
      StartBarrier(Empty(stage), (kThreads - kFillers) / 32);
    }
    FenceProxies();  // bulk copies count on the barriers too
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
template <bool kBulk>
struct Filling {
  Turn turn;
  bool owing = false;  // the stage before is filled and not yet handed over

  DEVICE void Open() { WaitForPhase(Empty(turn.stage), turn.parity ^ 1); }
  // Hands over this stage, or the one before, whose copies have had the time of this one to land.
  DEVICE void Close() {
    if constexpr (kBulk) {
      HandOver(turn.stage);
    } else {
      CommitCopies();
      WaitForCopies<1>();
      if (owing) HandOver((turn.stage + kStages - 1) % kStages);
      owing = true;
    }
    turn.Next();
  }
  DEVICE void Finish() {
    if constexpr (!kBulk) {
      WaitForCopies<0>();
      if (owing) HandOver((turn.stage + kStages - 1) % kStages);
      owing = false;
    }
  }

 private:
  static DEVICE void HandOver(int stage) {
    FenceProxies();
    SyncWarp();
    if (threadIdx.x % 32 == 0) Arrive(Full(stage));
  }
};

// The side that multiplies: the accumulators of a warpgroup are two blocks of 64 rows.
template <bool kHalf, bool kSlowA, bool kSlowB>
struct Multiplying {
  Turn turn;

  static DEVICE int Group() { return (int(threadIdx.x) - kFillers) / 128; }

  // d = the product of `steps` stages.
  DEVICE void Run(float (&d)[2][kAccumulators], int steps) {
#pragma unroll
    for (int i = 0; i < 2 * kAccumulators; i++) d[i / kAccumulators][i % kAccumulators] = 0.0f;
    int before = 0;
    for (int s = 0; s < steps; s++) {
      WaitForPhase(Full(turn.stage), turn.parity);
      const uint32_t left = turn.At() + uint32_t(Group() * 2 * kBlock), right = turn.At() + kRight;
      FenceAccumulators();
#pragma unroll
      for (int k = 0; k < kSteps; k += 16) {
#pragma unroll
        for (int block = 0; block < 2; block++) {
          MultiplyGroup<kHalf, kSlowA, kSlowB>(d[block], Operand<kSlowA>(left + uint32_t(block * kBlock), k),
                                               Operand<kSlowB>(right, k));
        }
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

  // Of the tile, of accumulator i of a block.
  static DEVICE int Row(int block, int i) {
    return (Group() * 2 + block) * kGroupRows + int(threadIdx.x) / 32 % 4 * 16 + i / 2 % 2 * 8 +
           int(threadIdx.x) % 32 / 4;
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
  static constexpr int kTogether = kFillers / 8;  // lines at a time, a thread for each 16 bytes
  static_assert(kHigh % kTogether == 0 && kTogether % 8 == 0, "lines of a thread differ by constants");
  const X* matrix;
  int stride;

  DEVICE void Copy(int64_t row0, int rows, int64_t column0, int columns, uint32_t at) const {
    const int row = int(threadIdx.x) / 8, column = int(threadIdx.x) % 8 * 8;
    const X* from = matrix + (row0 + row) * int64_t(stride) + column0 + column;
    const uint32_t to = Swizzled(at + 16 * threadIdx.x);
    // A copy moves 16 bytes: rows and windows begin at multiples of that, or values go one by one.
    if (stride % 8 == 0 && column0 % 8 == 0 && reinterpret_cast<uint64_t>(matrix) % 16 == 0) {
#pragma unroll
      for (int i = 0; i < kLines; i += kTogether) {
        const int left = Left(row + i % kHigh < rows, columns - column - i / kHigh * 64);
        CopyAsync<16>(SharedAt<uint8_t>(to + uint32_t(i * kLine)), from + int64_t(i % kHigh) * stride + i / kHigh * 64,
                      uint32_t(2 * left));
      }
    } else {
#pragma unroll 1
      for (int i = 0; i < kLines; i += kTogether) {
        const int left = Left(row + i % kHigh < rows, columns - column - i / kHigh * 64);
        const X* one = from + int64_t(i % kHigh) * stride + i / kHigh * 64;
        uint32_t words[4];
#pragma unroll
        for (int j = 0; j < 8; j += 2) {
          const uint32_t low = j < left ? Load(one + j).bits : 0, high = j + 1 < left ? Load(one + j + 1).bits : 0;
          words[j / 2] = high << 16 | low;
        }
        SharedAt<uint4>(to + uint32_t(i * kLine))[0] = uint4{words[0], words[1], words[2], words[3]};
      }
    }
  }

 private:
  // Values of 8 that are inside.
  static DEVICE int Left(bool inside, int columns) { return inside ? Max(0, Min(8, columns)) : 0; }
};

// The same lines of an operand by bulk copies of boxes of kHigh rows. What lies outside the matrix is zero; a window
// that ends inside it takes in what follows.
template <int kLines, int kHigh>
struct BoxCopier {
  const TensorMap* map;
  int plane;

  DEVICE BoxCopier(const TensorMap* map, const Call& call, int operand, int64_t member)
      : map(map), plane(call.operand_strides[operand] ? int(member) : 0) {}

  DEVICE void Copy(int row, int column, uint32_t at, Shared<uint64_t> full) const {
    if (threadIdx.x != 0) return;
    ExpectBytes(full, kLines * kLine);
#pragma unroll
    for (int i = 0; i < kLines; i += kHigh) {
      CopyBox(SharedAt<uint8_t>(at + uint32_t(i * kLine)), map, column + i / kHigh * 64, row, plane, full);
    }
  }
};

// Stores one half of a line: 32 values. The halves of four lines at one place of theirs lie in different banks.
DEVICE void StoreHalfLine(uint32_t at, int line, int half, const uint32_t (&words)[16]) {
#pragma unroll
  for (int c = 0; c < 4; c++) {
    SharedAt<uint4>(Swizzled(at + uint32_t(line * kLine + half * 64 + 16 * c)))[0] =
        uint4{words[4 * c], words[4 * c + 1], words[4 * c + 2], words[4 * c + 3]};
  }
}

}  // namespace hopper
