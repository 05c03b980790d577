// y[tokens, out] = x[tokens, in] (S T)^t and dx[tokens, in] = dy[tokens, out] (S T) for many tokens on Hopper.
//
// x, dy and S are bfloat16: the right operand is the weight S T itself, exact. Or x and dy are float16 and S float32:
// S T is two float16 limbs, which are columns of their own, side by side in the tile; their sums are added at its end.
// Scales are brought to the range of float16 by a power of two: forward by one for each row of the weight, which is a
// column of the result, else by one for the block. Limbs hold 22 bits of every scale down to 2^-17 of the largest that
// has the same power, and 2^-39 of that largest of the others.
//
// Both products decode the same lines of 64 inputs of one row. Forward a line holds steps of the contraction, else 64
// columns of the tile at one step.
#pragma once
#include "hopper_decode.cuh"

template <typename X, bool kForward, int kGroup, bool kBulk = false>
struct HopperMatmul {
  static constexpr bool kHalf = Operand<X>::kHalf;
  static constexpr int kLimbs = kHalf ? 2 : 1, kColumns = hopper::kColumns / kLimbs;  // of the result in a tile
  // In shared memory behind the ring: the exponent by which the scales of each column are raised.
  static constexpr int kExponents = hopper::kShared, kThreads = hopper::kThreads;
  static constexpr int kShared = kExponents + (kHalf ? 4 * kColumns : 0);
  using Scales = typename hopper::ScalesOf<X>::Type;
  using Decoder = hopper::LineDecoder<Scales, kGroup>;
  using Copier = hopper::LineCopier<X, hopper::kRows, hopper::kRows>;
  using Boxes = hopper::BoxCopier<hopper::kRows, hopper::kRows>;
  using Multiplying = hopper::Multiplying<kHalf, false, !kForward>;

  struct Tile {
    int64_t member;
    int split, token0, column0, first, steps;  // the first of its steps, each of kSteps
    int columns;                               // of the result
    DEVICE Tile(const Call& call, int index) {
      columns = kForward ? call.out_dim : call.in_dim;
      const int rows = CeilDivide(call.tokens, hopper::kRows);
      member = blockIdx.z / unsigned(call.splits);
      split = int(blockIdx.z % unsigned(call.splits));
      token0 = index % rows * hopper::kRows;
      column0 = index / rows * kColumns;
      first = split * call.split_steps;
      steps = Min(call.split_steps, CeilDivide(Length(call), hopper::kSteps) - first);
    }
    static DEVICE int Length(const Call& call) { return kForward ? call.in_dim : call.out_dim; }
    static DEVICE int Count(const Call& call) {
      return CeilDivide(call.tokens, hopper::kRows) * CeilDivide(kForward ? call.out_dim : call.in_dim, kColumns);
    }
  };

  // Row and first input of half a line of a tile.
  static DEVICE int LineRow(const Tile& tile, int step, int line) {
    return kForward ? tile.column0 + line % kColumns : step * hopper::kSteps + line % 64;
  }
  static DEVICE int LineInput(const Tile& tile, int step, int line, int half) {
    return (kForward ? step * hopper::kSteps : tile.column0 + line % kColumns / 64 * 64) + 32 * half;
  }

  // All threads: the exponents of a block's one tile.
  static DEVICE void FindExponents(const Call& call) {
    const Tile tile(call, int(blockIdx.x));
    const Layout<kGroup> layout(call);
    const float* scale = call.Operand<float>(2, tile.member);
    const int first = tile.first * hopper::kSteps, end = Min(Tile::Length(call), first + tile.steps * hopper::kSteps);
    const Shared<int> exponents = SharedAt<int>(kExponents);
    uint32_t largest = 0;
    if constexpr (kForward) {
      const int column = int(threadIdx.x) / 8, row = tile.column0 + column;
      const int groups = (end - 1) / layout.Group() + 1;
      for (int g = first / layout.Group() + int(threadIdx.x) % 8; row < call.out_dim && g < groups; g += 8)
        largest = LargerFinite(largest, Load(scale + int64_t(row) * layout.Groups() + g));
#pragma unroll
      for (int distance = 4; distance; distance /= 2) largest = Max(largest, ShuffleXor(largest, distance));
      if (threadIdx.x % 8 == 0) exponents[column] = ExponentTo14(largest);
    } else {
      const int group0 = tile.column0 / layout.Group();
      const int groups = (Min(call.in_dim, tile.column0 + kColumns) - 1) / layout.Group() - group0 + 1;
      for (int i = int(threadIdx.x); i < (end - first) * groups; i += kThreads) {
        const int64_t row = first + i / groups;
        largest = LargerFinite(largest, Load(scale + row * layout.Groups() + group0 + i % groups));
      }
#pragma unroll
      for (int distance = 16; distance; distance /= 2) largest = Max(largest, ShuffleXor(largest, distance));
      if (threadIdx.x % 32 == 0) exponents[int(threadIdx.x) / 32] = int(largest);
      SyncBlock();
      for (int warp = 0; warp < kThreads / 32; warp++) largest = Max(largest, uint32_t(int(exponents[warp])));
      SyncBlock();  // all have read the largest of the warps
      if (int(threadIdx.x) < kColumns) exponents[int(threadIdx.x)] = ExponentTo14(largest);
    }
    SyncBlock();
  }

  // Those of a line of the right operand.
  static DEVICE Scales OfLine(const Call& call, const Tile& tile, int line) {
    if constexpr (kHalf) {
      const int exponent = SharedAt<int>(kExponents)[kForward ? line % kColumns : 0];
      return {call.Operand<float>(2, tile.member), BitsFloat(uint32_t(127 + exponent) << 23), line >= kColumns};
    } else {
      return {call.Operand<bf16>(2, tile.member)};
    }
  }

  static DEVICE void Fill(const Call& call, [[maybe_unused]] const TensorMap* maps) {
    static_assert(2 * hopper::kColumns == hopper::kFillers, "half a line for each thread");
    const int line = int(threadIdx.x) / 2, half = int(threadIdx.x) % 2;
    hopper::Filling<kBulk> filling;
    for (int index = int(blockIdx.x); index < Tile::Count(call); index += int(gridDim.x)) {
      const Tile tile(call, index);
      const int length = Tile::Length(call);
      [[maybe_unused]] const Copier copier{call.Operand<X>(0, tile.member), length};
      const Decoder decoder(call, tile.member, OfLine(call, tile, line));
      typename Decoder::Held held;
      const auto fetch = [&](int step) {
        decoder.Fetch(held, LineRow(tile, step, line), LineInput(tile, step, line, half));
      };
      if (tile.steps > 0) fetch(tile.first);
      for (int step = tile.first; step < tile.first + tile.steps; step++) {
        filling.Open();
        const uint32_t at = filling.turn.At();
        const int column = step * hopper::kSteps;
        if constexpr (kBulk) {
          Boxes(maps, call, 0, tile.member).Copy(tile.token0, column, at, hopper::Full(filling.turn.stage));
        } else {
          copier.Copy(tile.token0, call.tokens - tile.token0, column, length - column, at);
        }
        decoder.Land(held, at + hopper::kRight, line, half, LineRow(tile, step, line),
                     LineInput(tile, step, line, half));
        if (step + 1 < tile.first + tile.steps) fetch(step + 1);
        filling.Close();
      }
    }
    filling.Finish();
  }

  // Two neighbours in a row of the result, or the first alone.
  static DEVICE void StorePair(float* to, float low, float high, bool both) {
    Store(to, low);
    if (both) Store(to + 1, high);
  }
  static DEVICE void StorePair(X* to, float low, float high, bool both) {
    if (both && reinterpret_cast<uint64_t>(to) % 4 == 0) {
      Store(reinterpret_cast<uint32_t*>(to), uint32_t(FromFloat<X>(high).bits) << 16 | FromFloat<X>(low).bits);
    } else {
      Store(to, FromFloat<X>(low));
      if (both) Store(to + 1, FromFloat<X>(high));
    }
  }
  // The sum of accumulator i, and of that of its column's other limb.
  static DEVICE float Sum(const float (&d)[kAccumulators], int i) {
    if constexpr (kHalf) {
      const int exponent = SharedAt<int>(kExponents)[Multiplying::Column(i)];
      const float sum = AddRounded(d[i + kAccumulators / 2], d[i]);
      return MultiplyRounded(sum, BitsFloat(uint32_t(127 - exponent) << 23));
    } else {
      return d[i];
    }
  }
  template <typename Y>
  static DEVICE void StoreSums(Y* result, const Call& call, const Tile& tile, const float (&d)[2][kAccumulators]) {
    const int column0 = tile.column0 + Multiplying::Column(0);
#pragma unroll
    for (int quarter = 0; quarter < 4; quarter++) {
      const int block = quarter / 2, half = quarter % 2 * 2;
      const int row = tile.token0 + Multiplying::Row(block, half);
      if (row >= call.tokens) continue;
      Y* to = result + int64_t(row) * tile.columns + column0;
#pragma unroll
      for (int i = 0; i < kAccumulators / kLimbs; i += 4) {
        const int left = tile.columns - column0 - 2 * i;
        if (left > 0) StorePair(to + 2 * i, Sum(d[block], i + half), Sum(d[block], i + half + 1), left > 1);
      }
    }
  }

  // grid (blocks that share the tiles, one for each in float16, 1, members * splits)
  static DEVICE void Run(const Call& call, const TensorMap* maps = nullptr) {
    hopper::StartRing();
    if constexpr (kHalf) FindExponents(call);
    if (int(threadIdx.x) < hopper::kFillers) {
      GiveUpRegisters<hopper::kFillersRegisters>();
      Fill(call, maps);
      return;
    }
    TakeRegisters<hopper::kMultipliersRegisters>();
    Multiplying multiplying;
    for (int index = int(blockIdx.x); index < Tile::Count(call); index += int(gridDim.x)) {
      const Tile tile(call, index);
      float d[2][kAccumulators];
      multiplying.Run(d, tile.steps);
      if (call.splits > 1) {
        StoreSums(call.Result<float>(1, tile.member) + tile.split * int64_t(call.tokens) * tile.columns, call, tile, d);
      } else if (call.wide) {
        StoreSums(call.Result<float>(0, tile.member), call, tile, d);
      } else {
        StoreSums(call.Result<X>(0, tile.member), call, tile, d);
      }
    }
  }
};
