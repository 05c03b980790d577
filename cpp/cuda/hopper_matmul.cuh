// y[tokens, out] = x[tokens, in] (S T)^t and dx[tokens, in] = dy[tokens, out] (S T) for many tokens on Hopper, x, dy
// and S in bfloat16: the right operand is the weight S T itself, exact.
//
// Both products decode the same lines of 64 inputs of one row. Forward a line holds steps of the contraction, else 64
// columns of the tile at one step.
#pragma once
#include "hopper_decode.cuh"

template <bool kForward, int kGroup>
struct HopperMatmul {
  static constexpr int kThreads = hopper::kThreads, kShared = hopper::kShared;
  using Decoder = hopper::LineDecoder<kGroup>;
  using Copier = hopper::LineCopier<bf16, hopper::kRows, hopper::kRows>;
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
      return CeilDivide(call.tokens, hopper::kRows) * CeilDivide(kForward ? call.out_dim : call.in_dim, hopper::kColumns);
    }
  };

  // Row and first input of a line of a tile.
  static DEVICE int LineRow(const Tile& tile, int step, int line) {
    return kForward ? tile.column0 + line : step * hopper::kSteps + line % 64;
  }
  static DEVICE int LineInput(const Tile& tile, int step, int line) {
    return kForward ? step * hopper::kSteps : tile.column0 + line / 64 * 64;
  }

  static DEVICE void Fill(const Call& call) {
    constexpr int kHeld = hopper::kColumns / hopper::kFillers;
    hopper::Filling filling;
    for (int index = int(blockIdx.x); index < Tile::Count(call); index += int(gridDim.x)) {
      const Tile tile(call, index);
      const int length = Tile::Length(call);
      const Copier copier{call.Operand<bf16>(0, tile.member), length};
      const Decoder decoder(call, tile.member);
      typename Decoder::Held held[kHeld];
      const auto fetch = [&](int step) {
#pragma unroll
        for (int i = 0; i < kHeld; i++) {
          const int line = int(threadIdx.x) + i * hopper::kFillers;
          decoder.Fetch(held[i], LineRow(tile, step, line), LineInput(tile, step, line));
        }
      };
      if (tile.steps > 0) fetch(tile.first);
      for (int step = tile.first; step < tile.first + tile.steps; step++) {
        filling.Open();
        const uint32_t at = filling.turn.At();
        copier.Copy(tile.token0, call.tokens - tile.token0, step * hopper::kSteps, length - step * hopper::kSteps, at);
#pragma unroll
        for (int i = 0; i < kHeld; i++) {
          const int line = int(threadIdx.x) + i * hopper::kFillers;
          decoder.Land(held[i], at + hopper::kRight, line, LineRow(tile, step, line), LineInput(tile, step, line));
        }
        if (step + 1 < tile.first + tile.steps) fetch(step + 1);
        filling.Close();
      }
    }
    filling.Finish();
  }

  static DEVICE void StoreSums(const Call& call, const Tile& tile, const float (&d)[kAccumulators]) {
#pragma unroll
    for (int i = 0; i < kAccumulators; i += 2) {
      const int row = tile.token0 + Multiplying::Row(i), column = tile.column0 + Multiplying::Column(i);
      if (row >= call.tokens || column >= tile.columns) continue;
      const bool both = column + 1 < tile.columns;
      const int64_t at = int64_t(row) * tile.columns + column;
      if (call.splits > 1 || call.wide) {
        float* to = call.splits > 1 ? call.Result<float>(1, tile.member) + tile.split * int64_t(call.tokens) * tile.columns
                                    : call.Result<float>(0, tile.member);
        Store(to + at, d[i]);
        if (both) Store(to + at + 1, d[i + 1]);
      } else {
        bf16* to = call.Result<bf16>(0, tile.member) + at;
        const bf16 low = ToBf16(d[i]), high = ToBf16(d[i + 1]);
        if (both && reinterpret_cast<uint64_t>(to) % 4 == 0) {
          Store(reinterpret_cast<uint32_t*>(to), uint32_t(high.bits) << 16 | low.bits);
        } else {
          Store(to, low);
          if (both) Store(to + 1, high);
        }
      }
    }
  }

  // grid (blocks that share the tiles, 1, members * splits)
  static DEVICE void Run(const Call& call) {
    hopper::StartRing();
    if (int(threadIdx.x) < hopper::kFillers) {
      Fill(call);
    } else {
      Multiplying multiplying;
      for (int index = int(blockIdx.x); index < Tile::Count(call); index += int(gridDim.x)) {
        const Tile tile(call, index);
        float d[kAccumulators];
        multiplying.Run(d, tile.steps);
        StoreSums(call, tile, d);
      }
    }
  }
};
