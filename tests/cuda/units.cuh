// One small kernel for each group of machine instructions in ptx.cuh and hopper.cuh, so that a card can be compared
// with the emulation, instruction by instruction. Each thread of one warp writes kWords words; units.txt holds what the
// emulation gives.
#pragma once
#include "call.cuh"
#include "hopper_tile.cuh"
#include "numbers.cuh"

DEVICE void Write(const Call& call, int words, int index, uint32_t value) {
  Store(call.Result<uint32_t>(0, 0) + int(threadIdx.x) * words + index, value);
}
// A number of many shapes: signs, denormals and large ones, no NaN.
DEVICE float Sample(int index) {
  const uint32_t bits = uint32_t(index) * 2654435761u;
  return BitsFloat((bits & 0x7F800000u) == 0x7F800000u ? bits ^ 0x40000000u : bits);
}

struct UnitConversions {
  static constexpr int kWords = 32;
  static DEVICE void Run(const Call& call) {
    for (int i = 0; i < 8; i++) {
      const float value = Sample(int(threadIdx.x) * 8 + i), small = float(int(threadIdx.x) * 8 + i - 100) / 7.0f;
      Write(call, kWords, 4 * i, ToBf16(value).bits);
      Write(call, kWords, 4 * i + 1, ToF16(small).bits);
      Write(call, kWords, 4 * i + 2, FloatBits(FromF16({uint16_t(int(threadIdx.x) * 8 * 119 + i)})));
      float rest = value;
      const uint32_t limb = TakeLimb(rest);
      Write(call, kWords, 4 * i + 3, limb ^ FloatBits(rest));
    }
  }
};

struct UnitBytes {
  static constexpr int kWords = 24;
  static DEVICE void Run(const Call& call) {
    for (int i = 0; i < 8; i++) {
      const uint32_t bits = FloatBits(Sample(int(threadIdx.x) * 8 + i));
      Write(call, kWords, 3 * i, PermuteBytes(bits, ~bits * 3, bits >> 7));
      const uint32_t digits = bits & 0x00030003u;
      Write(call, kWords, 3 * i + 1, AddBf16Pairs(0x43004300u | digits, 0xC301C301u));
      Write(call, kWords, 3 * i + 2, AddF16Pairs(0x64006400u | digits, 0xE401E401u));
    }
  }
};

struct UnitArithmetic {
  static constexpr int kWords = 10;
  static DEVICE void Run(const Call& call) {
    const int t = int(threadIdx.x);
    const float a = float(3 * t + 1), b = float(7 * t + 3), c = BitsFloat(uint32_t(t + 1) * 77u);
    const uint64_t wide = uint64_t(FloatBits(Sample(t))) << 31 | FloatBits(Sample(t + 99));
    const uint64_t product = HighProduct(wide, ~wide);
    const uint32_t found[kWords] = {FloatBits(AddRounded(a / 3.0f, b)),
                                    FloatBits(MultiplyRounded(c, b)),
                                    FloatBits(DivideRounded(a, b)),
                                    FloatBits(FusedMultiplyAdd(a, 0.1f, -b)),
                                    FloatBits(RoundedFromInt64(-int64_t(wide >> 1))),
                                    FloatBits(RoundedFromUint64(wide)),
                                    uint32_t(product),
                                    uint32_t(product >> 32),
                                    uint32_t(LeadingZeros(wide >> t)),
                                    FloatBits(Truncated(a / -3.0f))};
    for (int i = 0; i < kWords; i++) Write(call, kWords, i, found[i]);
  }
};

struct UnitShuffles {
  static constexpr int kWords = 5;
  static DEVICE void Run(const Call& call) {
    for (int i = 0; i < kWords; i++) Write(call, kWords, i, ShuffleXor(threadIdx.x * 7919u, 1 << i));
  }
};

struct UnitIntegers {
  static constexpr int kWords = 8;
  static DEVICE void Run(const Call& call) {
    const int t = int(threadIdx.x);
    const uint32_t bits = FloatBits(Sample(t));
    uint32_t a[4], b[2];
    for (int i = 0; i < 4; i++) a[i] = FloatBits(Sample(100 + 4 * t + i)) * 7919u;
    for (int i = 0; i < 2; i++) b[i] = FloatBits(Sample(300 + 2 * t + i)) * 104729u;
    int d[4] = {t, -t, 0x7FFFFF00, 100};
    MultiplyBytes(d, a, b);
    for (int i = 0; i < 4; i++) Write(call, kWords, i, uint32_t(d[i]));
    Write(call, kWords, 4, ShuffleFrom(bits, t * 7 & 31));
    Write(call, kWords, 5, FunnelShift(bits, ~bits, uint32_t(t)));
    Write(call, kWords, 6, uint32_t(RoundedToInt(float(t - 16) * 0.5f)));
    Write(call, kWords, 7, uint32_t(RoundedToInt(float(t - 16) * 1e7f)));
  }
};

// Copies from the second half of the result itself: `words` words that the caller filled with their index.
struct UnitCopies {
  static constexpr int kWords = 8;
  static DEVICE void Run(const Call& call) {
    const int t = int(threadIdx.x);
    const uint32_t* from = call.Result<uint32_t>(0, 0) + 32 * kWords;
    const Shared<uint8_t> bytes = SharedAt<uint8_t>(0);
    CopyAsync<16>(bytes + 32 * t, from + 4 * t, uint32_t(t % 17));
    CommitCopies();
    for (int i = 0; i < 4; i++) CopyAsync<4>(bytes + (32 * t + 16 + 4 * i), from + 4 * t + i, uint32_t((t + i) % 5));
    CommitCopies();
    WaitForCopies<1>();
    WaitForCopies<0>();
    SyncWarp();
    for (int i = 0; i < kWords; i++) Write(call, kWords, i, SharedAt<uint32_t>(uint32_t(32 * (31 - t)))[i]);
  }
};

// Stores of some lanes alone, on what all have written.
struct UnitStores {
  static constexpr int kWords = 3;
  static DEVICE void Run(const Call& call) {
    const int t = int(threadIdx.x);
    const Shared<uint16_t> own = SharedAt<uint16_t>(uint32_t(8 * t));
    for (int i = 0; i < kWords; i++) {
      own[i] = uint16_t(t);
      StoreWhere(uint32_t(t) >> i & 1, own + i, uint16_t(1000 * i + t));
      Write(call, kWords, i, uint16_t(own[i]));
    }
  }
};

template <bool kTransposed>
struct UnitMatrices {
  static constexpr int kWords = 4;
  static DEVICE void Run(const Call& call) {
    const int t = int(threadIdx.x);
    for (int i = 0; i < 8; i++) SharedAt<uint16_t>(0)[t * 8 + i] = uint16_t(t * 256 + i);
    SyncBlock();
    uint32_t r[4];
    LoadMatrices<kTransposed>(r, SharedAt<uint8_t>(uint32_t(16 * (t ^ 5))));
    for (int i = 0; i < kWords; i++) Write(call, kWords, i, r[i]);
  }
};

// Small whole numbers, whose products no tensor core rounds: only the layouts of the fragments can differ.
template <bool kHalf, int kK>
struct UnitMultiply {
  static constexpr int kWords = 4;
  static DEVICE uint32_t Pair(int seed) {
    const float low = float(seed * 37 % 17 - 8), high = float(seed * 53 % 19 - 9);
    return kHalf ? uint32_t(ToF16(high).bits) << 16 | ToF16(low).bits
                 : uint32_t(ToBf16(high).bits) << 16 | ToBf16(low).bits;
  }
  static DEVICE void Run(const Call& call) {
    const int t = int(threadIdx.x);
    uint32_t a[kK / 4], b[kK / 8];
    for (int i = 0; i < kK / 4; i++) a[i] = Pair(t * 4 + i);
    for (int i = 0; i < kK / 8; i++) b[i] = Pair(1000 + t * 2 + i);
    float d[4] = {float(t), float(-t), 0.5f, 100.0f};
    Multiply<kHalf, kK / 4, kK / 8>(d, a, b);
    for (int i = 0; i < kWords; i++) Write(call, kWords, i, FloatBits(d[i]));
  }
};

// Hopper's own: a warpgroup of 128 threads. Warp w hands a number to warp w + 1 through shared memory, round after
// round, and waits for each phase at its parity; two barriers are started with 1 and 32 arrivals.
struct UnitHopperBarriers {
  static constexpr int kWords = 6;
  static DEVICE void Run(const Call& call) {
    const int warp = int(threadIdx.x) / 32, lane = int(threadIdx.x) % 32;
    const auto barrier = [](int of, int kind) { return SharedAt<uint64_t>(uint32_t(16 * of + 8 * kind)); };
    const auto box = [](int of, int from) { return SharedAt<uint32_t>(uint32_t(128 + 128 * of + 4 * from)); };
    if (threadIdx.x == 0) {
      for (int of = 0; of < 4; of++) {
        StartBarrier(barrier(of, 0), 32);
        StartBarrier(barrier(of, 1), 1);
      }
    }
    SyncBlock();
    uint32_t value = threadIdx.x * 2654435761u;
    for (int round = 0; round < kWords; round++) {
      const int next = (warp + 1) % 4;
      WaitForPhase(barrier(next, 1), uint32_t(round & 1) ^ 1);
      box(next, lane)[0] = value;
      Arrive(barrier(next, 0));
      WaitForPhase(barrier(warp, 0), uint32_t(round & 1));
      value = 3u * uint32_t(box(warp, (lane + round) % 32)[0]) + uint32_t(warp);
      SyncWarp();
      if (lane == 0) Arrive(barrier(warp, 1));
      Write(call, kWords, round, value);
    }
  }
};

// Two warpgroups of four give up registers that the others need for what they hold at once.
struct UnitHopperRegisters {
  static constexpr int kWords = 1, kHeld = 160;
  static DEVICE void Run(const Call& call) {
    uint32_t all = threadIdx.x * 2654435761u;
    if (threadIdx.x < 256) {
      GiveUpRegisters<40>();
      Write(call, kWords, 0, all);
      return;
    }
    TakeRegisters<216>();
    uint32_t held[kHeld];
#pragma unroll
    for (int i = 0; i < kHeld; i++) held[i] = all + uint32_t(i * i);
#pragma unroll 1
    for (int round = 0; round < 8; round++) {
#pragma unroll
      for (int i = 0; i < kHeld; i++) held[i] ^= 3u * held[(i + 37) % kHeld] + uint32_t(round);
    }
#pragma unroll
    for (int i = 0; i < kHeld; i++) all = (all ^ held[i]) * 16777619u;
    Write(call, kWords, 0, all);
  }
};

// Waits for a box that the first thread has copied.
DEVICE void ReceiveBox(const TensorMap* map, int column, int row, int plane, int bytes, Shared<uint64_t> barrier,
                       uint32_t parity) {
  if (threadIdx.x == 0) {
    ExpectBytes(barrier, uint32_t(bytes));
    CopyBox(SharedAt<uint8_t>(0), map, column, row, plane, barrier);
    Arrive(barrier);
  }
  WaitForPhase(barrier, parity);
}
DEVICE void StartBoxes(Shared<uint64_t> barrier) {
  if (threadIdx.x == 0) {
    StartBarrier(barrier, 1);
    FenceProxies();
  }
  SyncBlock();
}

// Boxes of 64 columns and 16 rows of a tensor of 72 columns, 8 rows and 2 planes, which begin inside it, before and
// beyond: what lies in shared memory then, swizzled.
struct UnitHopperBoxes {
  static constexpr int kWords = 6, kBytes = 16 * hopper::kLine;
  static DEVICE void Run(const Call& call, const TensorMap* maps) {
    const Shared<uint64_t> barrier = SharedAt<uint64_t>(kBytes);
    StartBoxes(barrier);
    const int starts[kWords][3] = {{0, 0, 0}, {56, 3, 1}, {-5, -2, 0}, {72, 0, 0}, {8, 5, 2}, {3, 1, 1}};
    for (int box = 0; box < kWords; box++) {
      ReceiveBox(maps, starts[box][0], starts[box][1], starts[box][2], kBytes, barrier, uint32_t(box & 1));
      uint32_t all = 2166136261u;
      for (int i = 0; i < 4; i++) all = (all ^ SharedAt<uint32_t>(16 * threadIdx.x)[i]) * 16777619u;
      Write(call, kWords, box, all);
      SyncBlock();
    }
  }
};

// Shared memory in turns of the copy engine, of ordinary loads and stores, and of the tensor cores: 64 lines come from
// a tensor of 64 columns and 16 rows, become small whole numbers in their places, and are multiplied.
struct UnitHopperFences {
  static constexpr int kWords = 4, kBytes = 64 * hopper::kLine;
  static DEVICE void Run(const Call& call, const TensorMap* maps) {
    const Shared<uint64_t> barrier = SharedAt<uint64_t>(3 * kBytes);
    StartBoxes(barrier);
    float d[2][kAccumulators] = {};
    for (int round = 0; round < kWords; round++) {
      ReceiveBox(maps, 4 * round, 3 * round - 2, 0, kBytes, barrier, uint32_t(round & 1));
      for (int i = int(threadIdx.x); i < 192 * 64; i += 128) {
        const Shared<uint16_t> place = SharedAt<uint16_t>(hopper::Swizzled(uint32_t(2 * i)));
        int bits = i + round;
        if (i < 64 * 64) bits = uint16_t(place[0]);
        place[0] = ToBf16(float(bits % 23 - 11)).bits;
      }
      FenceProxies();
      SyncBlock();
      FenceAccumulators();
#pragma unroll
      for (int k = 0; k < 64; k += 16) {
        MultiplyGroup<false, false, false>(d[0], hopper::Operand<false>(0, k), hopper::Operand<false>(kBytes, k));
      }
      CommitProducts();
      WaitForProducts<0>(d);
      SyncBlock();
      uint32_t all = 2166136261u;
#pragma unroll
      for (int i = 0; i < kAccumulators; i++) all = (all ^ uint32_t(int(d[0][i]))) * 16777619u;
      Write(call, kWords, round, all);
    }
  }
};

// Four steps of 16 on 64 x 64 by 64 x 128 small whole numbers in the layout of a stage, written by ordinary stores:
// the layouts of operands and accumulators. The last word is made of all accumulators.
template <bool kHalf, bool kSlowA, bool kSlowB>
struct UnitHopperMultiply {
  static constexpr int kWords = 5;
  static DEVICE void Run(const Call& call) {
    constexpr uint32_t kLeft = 0, kRight = 64 * hopper::kLine;
    for (int i = int(threadIdx.x); i < 192 * 64; i += 128) {
      const float value = float(i * 37 % 23 - 11);
      SharedAt<uint16_t>(hopper::Swizzled(uint32_t(2 * i)))[0] = kHalf ? ToF16(value).bits : ToBf16(value).bits;
    }
    FenceProxies();
    SyncBlock();
    float d[2][kAccumulators];
    for (int i = 0; i < kAccumulators; i++) {
      d[0][i] = float(int(threadIdx.x) - i);
      d[1][i] = 0.0f;
    }
    FenceAccumulators();
#pragma unroll
    for (int k = 0; k < 64; k += 16) {
      MultiplyGroup<kHalf, kSlowA, kSlowB>(d[0], hopper::Operand<kSlowA>(kLeft, k), hopper::Operand<kSlowB>(kRight, k));
    }
    CommitProducts();
    WaitForProducts<0>(d);
    uint32_t all = 2166136261u;
#pragma unroll
    for (int i = 0; i < kAccumulators; i++) {
      all = (all ^ uint32_t(int(d[0][i]))) * 16777619u;
      if (i % 18 == 0) Write(call, kWords, i / 18, FloatBits(d[0][i]));
    }
    Write(call, kWords, kWords - 1, all);
  }
};
