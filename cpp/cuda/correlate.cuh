// score[o, g] = sum over i in group g of sign(dW[o, i]) T[o, i], dW = dy^t x over all tokens.
//
// A 128 x 128 tile of dW stays in registers for the whole sum and is never stored. The columns of a tile are whole
// groups, so that one block owns each score; of a group of more than 128 inputs the block takes one 128 after the
// other.
//
// Where there are few tiles and many tokens, the tokens are split: each part's dW goes to scratch, and the parts are
// summed in their order where the signs are taken.
#pragma once
#include "tile.cuh"

// Counts sign times trit over the groups of a tile, whose signs lie in shared memory, and adds them to the scores of
// the pieces before.
DEVICE int Agreement(const uint8_t* bytes, Shared<int8_t> signs, int first, int count) {
  int sum = 0;  // inputs [first, first + count) of the group that starts at `bytes`
  for (int byte = first / 5; 5 * byte < first + count; byte++) {
    uint32_t fraction = Fraction(Load(bytes + byte));
#pragma unroll
    for (int digit = 4; digit >= 0; digit--) {
      const uint32_t w = fraction * 3;
      const int place = 5 * byte + digit - first;
      fraction = w & 255;
      if (place >= 0 && place < count) sum += (int(w >> 8) - 1) * int8_t(signs[place]);
    }
  }
  return sum;
}

template <typename X, bool kAsync>
struct Correlate {
  static constexpr int kThreads = kTileThreads, kLimbs = Operand<X>::kLimbs;
  static constexpr bool kHalf = Operand<X>::kHalf;
  static constexpr int kK = kLimbs > 1 ? 16 : 32, kStages = kAsync ? 3 : 2;
  using Tile = TileOperand<kLimbs, kK, true>;
  using Product = TileProduct<kHalf, kK, Tile, Tile>;
  static constexpr int kStage = 2 * Tile::kBytes, kSignPitch = kTile + 4;
  static constexpr int kShared = Max(kStages * kStage, kTile* kSignPitch);

  // grid (ceil(out / 128), pieces of columns, members * splits)
  static DEVICE void Run(const Call& call) {
    const Layout<0> layout(call);
    const int64_t member = blockIdx.z / unsigned(call.splits);
    const int split = int(blockIdx.z % unsigned(call.splits));
    const int first = split * call.split_steps, steps = Min(call.split_steps, CeilDivide(call.tokens, kK) - first);
    const int group = layout.Group(), groups = layout.Groups(), out0 = int(blockIdx.x) * kTile;
    const int together = Max(1, kTile / group);  // groups in a tile
    const int group0 = int(blockIdx.y) * together, here = Min(together, groups - group0);
    const uint8_t* trits = call.Operand<uint8_t>(2, member);
    float* score = call.Result<float>(0, member);
    if (blockIdx.x == 0 && blockIdx.y == 0 && split == 0 && threadIdx.x == 0)
      Store(call.Result<float>(1, member), 1.0f);
    TileLoader<X, Tile, kHalf, kAsync> rows{call.Operand<X>(1, member), call.out_dim, 1.0f, {}};
    TileLoader<X, Tile, kHalf, kAsync> inputs{call.Operand<X>(0, member), call.in_dim, 1.0f, {}};
    for (int piece = 0; piece < CeilDivide(group, kTile); piece++) {
      const int input0 = group0 * group + piece * kTile;
      const int width = Min(call.in_dim - input0, Min(kTile, together * group - piece * kTile));
      float sums[4][4][4] = {};
      const auto fetch = [&](int s, uint32_t at) {
        const int token = (first + s) * kK, left = call.tokens - token;
        rows.Fetch({token, out0, left, call.out_dim - out0}, at);
        inputs.Fetch({token, input0, left, width}, at + Tile::kBytes);
      };
      if (width > 0) {
        RaisedSums<kRaised<X>, 2, false>(sums, [&](int exponent) {
          rows.factor = inputs.factor = TwoTo(exponent);
          Pipeline<kStages>(
              steps, kStage,
              [&](int s, uint32_t at) {
                if constexpr (kAsync) fetch(s, at);
              },
              [&](int s) {
                if constexpr (!kAsync) fetch(s, 0u);
              },
              [&](int, uint32_t at) {
                rows.Land(at);
                inputs.Land(at + Tile::kBytes);
              },
              [&](int, uint32_t at) {
                if constexpr (Product::kPromoted) {
                  float d[4][4][4] = {};
                  Product::Add(d, at, at + Tile::kBytes);
                  AddTile(sums, d);
                } else {
                  Product::Add(sums, at, at + Tile::kBytes);
                }
              });
        });
      }
      if (call.splits > 1) {
        float* part = call.Result<float>(2, member) + split * int64_t(call.out_dim) * call.in_dim;
#pragma unroll
        for (int i = 0; i < 4; i++) {
#pragma unroll
          for (int j = 0; j < 4; j++) {
#pragma unroll
            for (int c = 0; c < 4; c++) {
              const int row = out0 + Product::Row(i, c / 2), column = Product::Column(j, c % 2);
              if (row < call.out_dim && column < width)
                Store(part + int64_t(row) * call.in_dim + input0 + column, sums[i][j][c]);
            }
          }
        }
        continue;
      }
      const Shared<int8_t> signs = SharedAt<int8_t>(0);
#pragma unroll
      for (int i = 0; i < 4; i++) {
#pragma unroll
        for (int j = 0; j < 4; j++) {
#pragma unroll
          for (int c = 0; c < 4; c++) {
            const float gradient = sums[i][j][c];
            signs[Product::Row(i, c / 2) * kSignPitch + Product::Column(j, c % 2)] =
                int8_t((gradient > 0) - (gradient < 0));
          }
        }
      }
      SyncBlock();
      for (int i = int(threadIdx.x); i < kTile * here; i += kTileThreads) {
        const int row = i / here, g = group0 + i % here;
        if (out0 + row >= call.out_dim) continue;
        const uint8_t* bytes = trits + (out0 + row) * layout.RowBytes() + int64_t(g) * layout.GroupBytes();
        const int first = piece * kTile, count = Min(Min(kTile, group - first), call.in_dim - g * group - first);
        float* to = score + int64_t(out0 + row) * groups + g;
        const float before = piece ? Load(to) : 0.0f;
        Store(to, before + float(Agreement(bytes, signs + (row * kSignPitch + i % here * group), first, count)));
      }
      SyncBlock();
    }
  }
};

// The same of a dense gradient [splits, out, in], float32, summed over its parts in their order: a thread for each
// score; grid (ceil(out * groups / 256), members).
struct CorrelateDense {
  static constexpr int kThreads = 256;
  static DEVICE void Run(const Call& call) {
    const Layout<0> layout(call);
    const int64_t i = int64_t(blockIdx.x) * kThreads + threadIdx.x, member = blockIdx.y;
    if (i >= call.count) return;
    const int group = layout.Group(), g = int(i % layout.Groups());
    const int64_t row = i / layout.Groups();
    const int first = g * group, count = Min(group, call.in_dim - first);
    const float* gradient = call.Operand<float>(0, member) + row * call.in_dim + first;
    const uint8_t* bytes =
        call.Operand<uint8_t>(1, member) + row * layout.RowBytes() + int64_t(g) * layout.GroupBytes();
    int sum = 0;
    for (int byte = 0; 5 * byte < count; byte++) {
      uint32_t fraction = Fraction(Load(bytes + byte));
      for (int digit = 4; digit >= 0; digit--) {
        const uint32_t w = fraction * 3;
        fraction = w & 255;
        if (5 * byte + digit >= count) continue;
        float value = Load(gradient + 5 * byte + digit);
#pragma unroll 1
        for (int split = 1; split < call.splits; split++)
          value = AddRounded(value, Load(gradient + split * int64_t(call.out_dim) * call.in_dim + 5 * byte + digit));
        sum += (int(w >> 8) - 1) * ((value > 0) - (value < 0));
      }
    }
    Store(call.Result<float>(0, member) + i, float(sum));
  }
};
