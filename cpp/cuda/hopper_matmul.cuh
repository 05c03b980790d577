// y[tokens, out] = x[tokens, in] (S T)^t and dx[tokens, in] = dy[tokens, out] (S T) for many tokens on Hopper, x, dy
// and S in bfloat16: the right operand is the weight S T itself, exact.
//
// Both products decode the same lines of 64 inputs of one row. Forward a line holds steps of the contraction, else 64
// columns of the tile at one step.
#pragma once
#include "hopper_decode.cuh"

template <bool kForward, int kGroup, bool kBulk = false>
struct HopperMatmul {
  static constexpr int kThreads = hopper::kThreads, kShared = hopper::kShared;
  using Decoder = hopper::LineDecoder<kGroup>;
  using Copier = hopper::LineCopier<bf16, hopper::kRows, hopper::kRows>;
  using Boxes = hopper::BoxCopier<hopper::kRows, hopper::kRows>;
  using Multiplying = hopper::Multiplying<false, false, !kForward>;

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
      column0 = index / rows * hopper::kColumns;
      first = split * call.split_steps;
      steps = Min(call.split_steps, CeilDivide(Length(call), hopper::kSteps) - first);
    }
    static DEVICE int Length(const Call& call) { return kForward ? call.in_dim : call.out_dim; }
    static DEVICE int Count(const Call& call) {
      return CeilDivide(call.tokens, hopper::kRows) *
             CeilDivide(kForward ? call.out_dim : call.in_dim, hopper::kColumns);
    }
  };

  // Row and first input of half a line of a tile.
  static DEVICE int LineRow(const Tile& tile, int step, int line) {
    return kForward ? tile.column0 + line : step * hopper::kSteps + line % 64;
  }
  static DEVICE int LineInput(const Tile& tile, int step, int line, int half) {
    return (kForward ? step * hopper::kSteps : tile.column0 + line / 64 * 64) + 32 * half;
  }

  static DEVICE void Fill(const Call& call, [[maybe_unused]] const TensorMap* maps) {
    static_assert(2 * hopper::kColumns == hopper::kFillers, "half a line for each thread");
    const int line = int(threadIdx.x) / 2, half = int(threadIdx.x) % 2;
    hopper::Filling<kBulk> filling;
    for (int index = int(blockIdx.x); index < Tile::Count(call); index += int(gridDim.x)) {
      const Tile tile(call, index);
      const int length = Tile::Length(call);
      [[maybe_unused]] const Copier copier{call.Operand<bf16>(0, tile.member), length};
      const Decoder decoder(call, tile.member);
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
  static DEVICE void StorePair(bf16* to, float low, float high, bool both) {
    if (both && reinterpret_cast<uint64_t>(to) % 4 == 0) {
      Store(reinterpret_cast<uint32_t*>(to), uint32_t(ToBf16(high).bits) << 16 | ToBf16(low).bits);
    } else {
      Store(to, ToBf16(low));
      if (both) Store(to + 1, ToBf16(high));
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
      for (int i = 0; i < kAccumulators; i += 4) {
        const int left = tile.columns - column0 - 2 * i;
        if (left > 0) StorePair(to + 2 * i, d[block][i + half], d[block][i + half + 1], left > 1);
      }
    }
  }

  // grid (blocks that share the tiles, 1, members * splits)
  static DEVICE void Run(const Call& call, const TensorMap* maps = nullptr) {
    hopper::StartRing();
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
        StoreSums(call.Result<bf16>(0, tile.member), call, tile, d);
      }
    }
  }
};
