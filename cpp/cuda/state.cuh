// The integer state of a layer: scales from it, scores into it.
#pragma once
#include "call.cuh"
#include "numbers.cuh"

// int64 as two little-endian int32 limbs.
DEVICE int64_t JoinLimbs(uint2 limbs) { return int64_t(uint64_t(limbs.y) << 32 | limbs.x); }
DEVICE uint2 SplitLimbs(uint64_t value) { return {uint32_t(value), uint32_t(value >> 32)}; }

// A product of two positive int64 as float32, rounded once.
DEVICE float RoundedProduct(uint64_t a, uint64_t b) {
  const uint64_t high = HighProduct(a, b), low = a * b;
  if (high == 0) return RoundedFromUint64(low);
  const int shift = LeadingZeros(high);  // at least 1: the product is below 2^126
  uint64_t top = high << shift | low >> (64 - shift);
  if (low << shift) top |= 1;  // what is cut off can only break a tie
  return MultiplyRounded(RoundedFromUint64(top), BitsFloat(uint32_t(127 + 64 - shift) << 23));
}

// 2^x by the operations of src/scale.rs, one by one and never fused, so that it has the bits of every other machine.
DEVICE float PowerOfTwo(float x) {
  constexpr float kRounder =
      12582912.0f;  // adding and subtracting it rounds to an integer, held by its lowest bits in between
  constexpr float kHigh = 0.69314718055994530942f, kLow = float(0.69314718055994530942 - double(kHigh));  // ln 2
  const float q[5] = {2.4022651e-1f, 5.550357e-2f, 9.618057e-3f, 1.3390867e-3f, 1.5461447e-4f};
  const float bounded = x < -250.0f ? -250.0f : x > 250.0f ? 250.0f : x;
  const float rounded = AddRounded(bounded, kRounder);
  const float f = AddRounded(bounded, -AddRounded(rounded, -kRounder));
  const int n = int(FloatBits(rounded) - FloatBits(kRounder));
  float sum_q = q[4];
  for (int i = 3; i >= 0; i--) sum_q = AddRounded(q[i], MultiplyRounded(f, sum_q));
  const float linear = MultiplyRounded(f, kHigh), sum = AddRounded(1.0f, linear);
  const float rest = AddRounded(linear, -AddRounded(sum, -1.0f));
  const float power =
      AddRounded(sum, AddRounded(rest, MultiplyRounded(f, AddRounded(kLow, MultiplyRounded(f, sum_q)))));
  const float low = BitsFloat(uint32_t((n >> 1) + 127) << 23), high = BitsFloat(uint32_t(n - (n >> 1) + 127) << 23);
  return MultiplyRounded(MultiplyRounded(power, low), high);
}

// scale = 2^(exponent + gain * corr / (step * group_size)) in the order of operations of SPEC 12; grid (ceil(count /
// 256), members).
template <typename S>
struct Scale {
  static constexpr int kThreads = 256;
  static DEVICE void Run(const Call& call) {
    const int64_t i = int64_t(blockIdx.x) * kThreads + threadIdx.x, member = blockIdx.y;
    if (i >= call.count) return;
    float exponent = float(Load(call.Operand<int8_t>(0, member) + i));
    const int64_t corr = JoinLimbs(Load(call.Operand<uint2>(1, member) + i));
    const int64_t step = JoinLimbs(Load(call.Operand<uint2>(2, member)));
    if (step > 0) {
      const float mean =
          DivideRounded(RoundedFromInt64(corr), RoundedProduct(uint64_t(step), uint64_t(call.group_size)));
      exponent = AddRounded(exponent, MultiplyRounded(mean, call.gain));
    }
    const float value = step < 0 ? BitsFloat(0x7FC00000u) : PowerOfTwo(exponent);
    Store(call.Result<S>(0, member) + i, FromFloat<S>(value));
  }
};

// Whether every score of a block's part is whole and at most votes * group_size, and the votes are what was asked for:
// one flag per block, 1 where not. grid (splits, members)
struct AccumulateCheck {
  static constexpr int kThreads = 256;
  static DEVICE void Run(const Call& call) {
    const int64_t member = blockIdx.y;
    const float votes = Load(call.Operand<float>(3, member));
    bool bad = !(votes >= 0.0f && votes <= 16777216.0f) || Truncated(votes) != votes ||
               (call.wanted_votes >= 0 && votes != RoundedFromInt64(call.wanted_votes));
    const double limit = double(votes) * double(call.group_size);
    const float* score = call.Operand<float>(2, member);
    for (int64_t i = int64_t(blockIdx.x) * kThreads + threadIdx.x; i < call.count;
         i += int64_t(call.splits) * kThreads) {
      const float value = Load(score + i), size = value < 0 ? -value : value;
      bad |= !(Truncated(value) == value && double(size) <= limit);
    }
    int found = bad;
    for (int distance = 16; distance; distance >>= 1) found |= ShuffleXor(found, distance);
    const Shared<int> warps = SharedAt<int>(0);
    if (threadIdx.x % 32 == 0) warps[int(threadIdx.x) / 32] = found;
    SyncBlock();
    if (threadIdx.x) return;
    int any = 0;
    for (int warp = 0; warp < kThreads / 32; warp++) any |= warps[warp];
    Store(call.Result<int>(2, member) + blockIdx.x, any);
  }
};

// corr -= score and step += votes, or corr as it was and a negative step where a flag is set: a GPU call cannot raise
// an error without a synchronisation. In place where XLA gives the operand's buffer. grid (max(1, ceil(count / 256)),
// members)
struct Accumulate {
  static constexpr int kThreads = 256;
  static DEVICE void Run(const Call& call) {
    const int64_t i = int64_t(blockIdx.x) * kThreads + threadIdx.x, member = blockIdx.y;
    int refused = 0;
    for (int split = 0; split < call.splits; split++) refused |= Load(call.Result<int>(2, member) + split);
    if (i < call.count) {
      const int64_t corr = JoinLimbs(Load(call.Operand<uint2>(0, member) + i));
      const int64_t score = refused ? 0 : int64_t(Load(call.Operand<float>(2, member) + i));
      Store(call.Result<uint2>(0, member) + i, SplitLimbs(uint64_t(corr) - uint64_t(score)));
    }
    if (i == 0) {
      const int64_t step = JoinLimbs(Load(call.Operand<uint2>(1, member)));
      const uint64_t next = uint64_t(step) + uint64_t(refused ? 0 : int64_t(Load(call.Operand<float>(3, member))));
      const uint2 marked = {0, 0x80000000u};
      Store(call.Result<uint2>(1, member), step < 0 ? SplitLimbs(uint64_t(step)) : refused ? marked : SplitLimbs(next));
    }
  }
};
