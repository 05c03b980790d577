// y[tokens, out] = x[tokens, in] (S T)^t for one or two tokens on the integer tensor cores, in groups of 32.
//
// The digits of a byte are never separated. N_p = byte / 3^(5-p) is the number that its p highest digits write, and a
// digit is N_p - 3 N_(p-1), so that over the five places of a byte
//     sum d_(5-p) x_(5-p) = sum N_p z_p,    z_p = x_(5-p) - 3 x_(4-p),    z_5 = x_0:
// the planes N_1 .. N_5 are the unsigned A operand of mma m16n8k32 as they are, and the trits d - 1 cost one more
// subtraction of sum x. x becomes whole numbers of 26 bits below a power of two that its group of 32 shares, z becomes
// four signed bytes: sums are exact in int32, modulo 2^32 on the way, so the cancellation costs nothing. An activation
// is off by at most 2^-26 of the largest of its group, and not at all where that is below 2^-123.
//
// A step is four groups. Lane t of a quad takes the 7 bytes of group t as its k slots (the eighth meets zeros); column
// n of B holds the z of group n % 4 alone, so that no accumulator mixes two scales. The upper half of the columns
// belongs to the second token, or, for one token, to every other limb.
//
// Rows start anywhere: 16-byte chunks are copied from the aligned address at or below the start, and the row's own
// misalignment is made up for by shifts on the way out of shared memory.
#pragma once
#include "call.cuh"
#include "numbers.cuh"

// A third of a byte up to 242 and a ninth of a number up to 26, with the result in the upper byte of 16 bits.
constexpr uint32_t kThird = 85, kThirdRound = 80, kNinth = 28, kNinthRound = 8;
constexpr DEVICE bool QuotientsAreExact() {
  for (uint32_t n = 0; n <= 242; n++) {
    if (((n * kThird + kThirdRound) >> 8) != n / 3) return false;
    if (n <= 26 && ((n * kNinth + kNinthRound) >> 8) != n / 9) return false;
  }
  return true;
}
static_assert(QuotientsAreExact());

template <typename X, typename S, int kTokens>
struct MatmulPlanes {
  static constexpr int kWarps = 8, kRows = 16 * kWarps, kThreads = 32 * kWarps, kStages = 4;
  static constexpr int kGroup = 32, kGroupBytes = 7, kStepGroups = 4, kStageSteps = 2;
  static constexpr int kStageGroups = kStepGroups * kStageSteps, kStepBytes = kStepGroups * kGroupBytes;
  // Chunks of a row in one stage, misalignment included; of the trits, also the bytes that the last shift takes in.
  static constexpr int kTritChunks = CeilDivide(15 + (kStageGroups - 1) * kGroupBytes + 12, 16);
  static constexpr int kScaleChunks = CeilDivide(16 - int(sizeof(S)) + kStageGroups * int(sizeof(S)), 16);
  // Rows lie an odd number of chunks apart, so that eight of them lie in eight groups of banks.
  static_assert(kTritChunks + kScaleChunks <= 8, "eight lanes copy a row");
  static constexpr int kTritPitch = 16 * (kTritChunks | 1), kScalePitch = 16 * (kScaleChunks | 1);
  static constexpr int kStage = 16 * (kTritPitch + kScalePitch);
  // In shared memory: the warps' rings; the z of each step, [tile][plane][column] of 8 bytes; zeros in their place for
  // the lanes whose group is another, in the other half of the banks; and [token][4] of minus sum x and the unit of x.
  static constexpr int kTiles = 2 * kTokens, kPlaneBytes = 64, kZBytes = kTiles * 5 * kPlaneBytes;
  static constexpr int kSumBytes = kTokens * 32, kZerosBytes = 64 + kZBytes, kRing = kWarps * kStages * kStage;
  static constexpr int kFixed = kRing + kZerosBytes, kEachStep = kZBytes + kSumBytes;

  // grid (ceil(out / kRows), splits, members). With one split y is written, with more each split writes its own slice
  // of `partial` [splits, tokens, out].
  static DEVICE void Run(const Call& call) {
    const int lane = int(threadIdx.x) & 31, warp = int(threadIdx.x) >> 5, quad = lane >> 2, t = lane & 3;
    const Layout<kGroup> layout(call);
    const int64_t member = blockIdx.z;
    const uint8_t* trits = call.Operand<uint8_t>(1, member);
    const S* scale = call.Operand<S>(2, member);
    const int out = call.out_dim, groups = layout.Groups();
    const int64_t row_bytes = layout.RowBytes();
    const int first_step = int(blockIdx.y) * call.split_steps;
    const int stages = CeilDivide(Min(call.split_steps, CeilDivide(groups, kStepGroups) - first_step), kStageSteps);
    const int steps = stages * kStageSteps;  // the last may lie beyond the row, where all activations are zero
    const int row0 = int(blockIdx.x) * kRows + warp * 16;

    const uint32_t warp_at = uint32_t(warp * kStages * kStage);
    const uint32_t z_at = uint32_t(kRing), zeros_at = z_at + uint32_t(steps * kZBytes) + 64;
    const uint32_t sums_at = z_at + uint32_t(steps * kZBytes + kZerosBytes);

    // Eight lanes copy a row, one chunk each, and go on four rows below. Rows beyond the matrix lie at its end or
    // beyond: they read nothing, or what no result depends on.
    const int chunk = (lane & 7) - ((lane & 7) < kTritChunks ? 0 : kTritChunks), row = lane >> 3;
    const bool is_trits = (lane & 7) < kTritChunks, idle = chunk >= (is_trits ? kTritChunks : kScaleChunks);
    const int64_t stride = is_trits ? row_bytes : int64_t(groups) * int64_t(sizeof(S));
    const int group_bytes = is_trits ? kGroupBytes : int(sizeof(S));
    const int64_t matrix = is_trits ? int64_t(trits) : int64_t(scale), end = matrix + out * stride;
    int64_t next = matrix + (row0 + row) * stride + first_step * kStepGroups * group_bytes;
    // Whether the last chunk of this warp's last row ends before the matrix does.
    const bool inside = end - (matrix + (row0 + 16) * stride) >= 16 * kTritChunks;
    const uint32_t place =
        warp_at + uint32_t((is_trits ? row * kTritPitch : 16 * kTritPitch + row * kScalePitch) + 16 * chunk);
    const uint32_t place_stride = uint32_t(is_trits ? kTritPitch : kScalePitch);
    const auto load = [&](int s) {
      if (idle) return;
      const uint32_t to = place + uint32_t(s % kStages * kStage);
#pragma unroll
      for (int r = 0; r < 16; r += 4) {
        const int64_t from = ((next + r * stride) & ~15ll) + 16 * chunk;
        uint32_t bytes = 16;
        if (!inside) {
          const int64_t left = end - from;
          bytes = left >= 16 ? 16 : left > 0 ? uint32_t(left) : 0;
        }
        CopyAsync<16>(SharedAt<uint8_t>(to + uint32_t(r) * place_stride), reinterpret_cast<const void*>(from), bytes);
      }
      next += kStageGroups * group_bytes;
    };
    for (int s = 0; s < kStages - 1; s++) {
      if (s < stages) load(s);
      CommitCopies();
    }
    Quantise(call.Operand<X>(0, member), call.in_dim, first_step, steps, z_at, sums_at);
    for (int i = int(threadIdx.x); i < kZBytes / 4; i += kThreads) SharedAt<uint32_t>(zeros_at)[i] = 0u;
    SyncBlock();

    const bool mine = (quad & 3) == t;  // this lane's column holds its own group
    uint32_t operand = mine ? z_at + uint32_t(8 * quad) : zeros_at;
    const uint32_t operand_step = mine ? uint32_t(kZBytes) : 0u;
    const int column = 2 * (t & 1), half = t >> 1;  // of this lane's results: the first group, the token or limb
    float sums[kTokens] = {};                       // of one token row `quad + 8 half`, of two rows quad and quad + 8
    uint32_t totals = sums_at + uint32_t((kTokens == 2 ? half : 0) * 32 + 4 * column);
    uint32_t low[2], scale_low[2];  // of the addresses of this lane's rows, how far they are from an aligned one
#pragma unroll
    for (int h = 0; h < 2; h++) {
      const int64_t row = row0 + quad + 8 * h;
      low[h] = uint32_t(int64_t(trits + row * row_bytes)) + uint32_t(first_step * kStepBytes);
      scale_low[h] = uint32_t(int64_t(scale + row * groups + first_step * kStepGroups));
    }
    for (int s = 0; s < stages; s++) {
      WaitForCopies<kStages - 2>();
      SyncWarp();  // the whole warp's copies have landed, and stage s - 1 is free
      if (s + kStages - 1 < stages) load(s + kStages - 1);
      CommitCopies();
      const int left = groups - (first_step + s * kStageSteps) * kStepGroups;  // of the row's groups
      const uint32_t from = warp_at + uint32_t(s % kStages * kStage);
      uint32_t at[2], shift[2], scales[2];
#pragma unroll
      for (int h = 0; h < 2; h++) {
        const uint32_t r = uint32_t(quad + 8 * h), skipped = (low[h] & 15) + uint32_t(kGroupBytes * t);
        at[h] = from + r * kTritPitch + (skipped & ~3u);
        shift[h] = (skipped & 3) * 8;
        scales[h] = from + 16 * kTritPitch + r * kScalePitch + (scale_low[h] & 15);
        low[h] += kStageSteps * kStepBytes;
        scale_low[h] += kStageGroups * uint32_t(sizeof(S));
      }
      if constexpr (kTokens == 1) scales[0] = half ? scales[1] : scales[0];
#pragma unroll
      for (int j = 0; j < kStageSteps; j++) {
        uint32_t a[5][4];
#pragma unroll
        for (int h = 0; h < 2; h++) {
          const Shared<uint32_t> bytes = SharedAt<uint32_t>(at[h] + uint32_t(j * kStepBytes));
          const uint32_t first = bytes[0], second = bytes[1], third = bytes[2];
          Planes(a, h, FunnelShift(first, second, shift[h]));
          Planes(a, h + 2, FunnelShift(second, third, shift[h]));
        }
        int d[kTiles][4] = {};
#pragma unroll
        for (int tile = 0; tile < kTiles; tile++) {
#pragma unroll
          for (int p = 0; p < 5; p++) {
            const uint2 b = SharedAt<uint2>(operand + uint32_t((tile * 5 + p) * kPlaneBytes))[0];
            MultiplyBytes(d[tile], a[p], {b.x, b.y});
          }
        }
        operand += operand_step;
        const uint2 minus_sums = SharedAt<uint2>(totals)[0], units = SharedAt<uint2>(totals)[2];
        totals += kSumBytes;
#pragma unroll
        for (int c = 0; c < 2; c++) {
          const uint32_t minus_sum = c ? minus_sums.y : minus_sums.x;
          const float unit = BitsFloat(c ? units.y : units.x);
          const int group = j * kStepGroups + column + c;
          const auto add = [&](float& sum, uint32_t whole, uint32_t row_scales) {
            const float stored = ToFloat(S(SharedAt<S>(row_scales)[group]));
            // Beyond a row lie scales of the next, or nothing.
            sum = FusedMultiplyAdd(group < left ? stored : 0.0f, MultiplyRounded(float(int(whole + minus_sum)), unit),
                                   sum);
          };
          if constexpr (kTokens == 1) {
            // Even limbs lie in lanes 0 and 1 of a quad, odd ones in 2 and 3: each gives away one row and ends the
            // other.
            const uint32_t low = uint32_t(d[0][c]) + (uint32_t(d[1][c]) << 16);
            const uint32_t high = uint32_t(d[0][2 + c]) + (uint32_t(d[1][2 + c]) << 16);
            const uint32_t own = half ? high : low, other = ShuffleXor(half ? low : high, 2);
            add(sums[0], half ? other + (own << 8) : own + (other << 8), scales[0]);
          } else {
#pragma unroll
            for (int h = 0; h < 2; h++) {
              const int e = 2 * h + c;
              const uint32_t whole =
                  uint32_t(d[0][e]) + (uint32_t(d[1][e]) << 8) + (uint32_t(d[2][e]) << 16) + (uint32_t(d[3][e]) << 24);
              add(sums[h], whole, scales[h]);
            }
          }
        }
      }
    }
    WaitForCopies<0>();
#pragma unroll
    for (int h = 0; h < kTokens; h++) {
      const float sum = AddRounded(sums[h], ShuffleXor(sums[h], 1));
      const int row = row0 + quad + 8 * (kTokens == 2 ? h : half), token = kTokens == 2 ? half : 0;
      if (t & 1 || row >= out) continue;
      const int64_t at = int64_t(token) * out + row;
      if (call.splits > 1) {
        Store(call.Result<float>(1, member) + blockIdx.y * int64_t(kTokens) * out + at, sum);
      } else if (call.wide) {
        Store(call.Result<float>(0, member) + at, sum);
      } else {
        Store(call.Result<X>(0, member) + at, FromFloat<X>(sum));
      }
    }
  }

  // Activations as the B operand, a warp for each group: lane i holds input i.
  static DEVICE void Quantise(const X* x, int in, int first_step, int steps, uint32_t z_at, uint32_t sums_at) {
    const int lane = int(threadIdx.x) & 31;
    for (int i = int(threadIdx.x) >> 5; i < steps * kStepGroups * kTokens; i += kWarps) {
      const int token = i % kTokens, group = i / kTokens, input = (first_step * kStepGroups + group) * kGroup + lane;
      const float value = input < in ? ToFloat(Load(x + int64_t(token) * in + input)) : 0.0f;
      const uint32_t size = FloatBits(value) & 0x7FFFFFFFu;
      uint32_t largest = size;
#pragma unroll
      for (int distance = 16; distance; distance /= 2) {
        const uint32_t other = ShuffleXor(largest, distance);
        largest = other > largest ? other : largest;
      }
      // The largest becomes a number of 26 bits, or all multiples of float32's smallest number. An infinity is the unit
      // itself, beside which all else is 0; with a NaN all is NaN.
      const int exponent = Min(25 + 127 - int(largest >> 23), 149);
      const bool finite = largest < 0x7F800000u;
      const float unit = finite ? TwoTo(-exponent) : BitsFloat(largest);
      const int infinite = size == 0x7F800000u ? (value > 0 ? 1 : -1) : 0;
      const float raised = MultiplyRounded(value, TwoTo(exponent / 2));  // half of it: its power may have no float32
      const int whole = finite ? RoundedToInt(MultiplyRounded(raised, TwoTo(exponent - exponent / 2))) : infinite;
      uint32_t sum = uint32_t(whole);
#pragma unroll
      for (int distance = 16; distance; distance /= 2) sum += ShuffleXor(sum, distance);
      const int before = int(ShuffleFrom(uint32_t(whole), (lane + 31) & 31));  // that of input i - 1, or 31 for 32
      const int column = group % kStepGroups;
      const uint32_t step = uint32_t(group / kStepGroups);
#pragma unroll
      for (int place = lane; place < 40; place += 32) {
        const int z = (place < kGroup ? whole : 0) - (place % 5 && place <= kGroup ? 3 * before : 0);
        // Four signed bytes whose weighted sum is z.
        const uint32_t limbs = (uint32_t(z) + 0x00808080u) ^ 0x00808080u;
#pragma unroll
        for (int limb = 0; limb < 4; limb++) {
          const int tile = kTokens == 2 ? limb : limb / 2, half = kTokens == 2 ? token : limb % 2;
          const int at = (tile * 5 + 4 - place % 5) * kPlaneBytes + (half * 4 + column) * 8 + place / 5;
          SharedAt<uint8_t>(z_at + step * kZBytes)[at] = uint8_t(limbs >> (8 * limb));
        }
      }
      if (lane == 0) {
        const uint32_t at = sums_at + step * kSumBytes + uint32_t(token * 32 + column * 4);
        SharedAt<int>(at)[0] = int(0u - sum);
        SharedAt<float>(at)[4] = unit;
      }
    }
  }

  // Four bytes to one operand register of each plane. A byte above 242 becomes digits up to 3.
  static DEVICE void Planes(uint32_t (&a)[5][4], int index, uint32_t bytes) {
    constexpr uint32_t kUpper = 0x4341, kJoin = 0x7351;  // the upper bytes of two 16-bit lanes; those of two registers
    constexpr uint32_t kThirds = kThirdRound * 0x10001u, kNinths = kNinthRound * 0x10001u;
    const uint32_t even4 = (bytes & 0x00FF00FFu) * kThird + kThirds;
    const uint32_t odd4 = PermuteBytes(bytes, 0, kUpper) * kThird + kThirds;
    const uint32_t even3 = PermuteBytes(even4, 0, kUpper) * kThird + kThirds;
    const uint32_t odd3 = PermuteBytes(odd4, 0, kUpper) * kThird + kThirds;
    const uint32_t even = PermuteBytes(even3, 0, kUpper), odd = PermuteBytes(odd3, 0, kUpper);
    a[0][index] = PermuteBytes(even * kNinth + kNinths, odd * kNinth + kNinths, kJoin);
    a[1][index] = PermuteBytes(even * kThird + kThirds, odd * kThird + kThirds, kJoin);
    a[2][index] = PermuteBytes(even3, odd3, kJoin);
    a[3][index] = PermuteBytes(even4, odd4, kJoin);
    a[4][index] = bytes;
  }
};
