// dx[tokens, in] = dy[tokens, out] (S T), in tiles of 128 tokens by 128 inputs.
//
// The scale lies on the contraction, so the operand is S T: one bfloat16 value with bfloat16 scales, exact, three limbs
// with float32 scales. dy is as many bfloat16 limbs as it needs; in float16 it is the operand as it is, beside two
// float16 limbs of S T. These hold 22 bits of every scale down to 2^-17 of the block's largest, by which all are
// divided (as a power of two), and 2^-39 of that largest of the others.
#pragma once
#include "tile.cuh"

template <typename X, typename S, int kGroup, bool kAsync>
struct MatmulTransposed {
  static constexpr int kThreads = kTileThreads;
  static constexpr bool kHalf = Operand<X>::kHalf;
  static constexpr int kLimbsA = Operand<X>::kLimbs, kLimbsB = kHalf ? 2 : Operand<S>::kLimbs;
  static constexpr int kK = kLimbsA + kLimbsB > 2 ? 16 : 32, kStages = kAsync ? 3 : 2;
  using A = TileOperand<kLimbsA, kK, false>;
  using B = TileOperand<kLimbsB, kK, true>;
  using Product = TileProduct<kHalf, kK, A, B>;
  static constexpr int kStage = A::kBytes + B::kBytes, kShared = kStages * kStage;
  static constexpr int kPerRow = kTileThreads / kK;  // threads that share a row of T
  // Bytes of a row that a tile meets: at most two more than full ones for each group that it cuts.
  static constexpr int kMost = !kGroup ? kTile
                               : kTile % (kGroup ? kGroup : 1) == 0
                                   ? kTile / (kGroup ? kGroup : 1) * CeilDivide(kGroup, 5)
                                   : Min(kTile, kTile / 5 + 2 * (kTile / (kGroup ? kGroup : 1) + 2));
  static constexpr int kHeld = CeilDivide(kMost, kPerRow);

  // The columns of a tile among the groups and bytes of a row.
  struct Columns {
    int first, first_byte, bytes;
    DEVICE Columns(const Layout<kGroup>& layout, int column0) : first(column0) {
      const int last = Min(layout.in_dim, column0 + kTile) - 1;
      const auto byte = [&](int input) {
        return input / layout.Group() * layout.GroupBytes() + input % layout.Group() / 5;
      };
      first_byte = byte(column0);
      bytes = byte(last) - first_byte + 1;
    }
  };

  struct Decoder {
    const uint8_t* trits;
    const S* scale;
    float factor;  // of every scale: a power of two
    bool inside;
    uint32_t held[kHeld];
    float weights[kHeld];

    DEVICE void Fetch(const Layout<kGroup>& layout, const Columns& columns, int64_t row, int64_t rows) {
      inside = row < rows;
      if (!inside) return;
#pragma unroll
      for (int i = 0; i < kHeld; i++) {
        const int byte = columns.first_byte + int(threadIdx.x) % kPerRow + i * kPerRow;
        if (byte >= columns.first_byte + columns.bytes) continue;
        held[i] = Load(trits + row * layout.RowBytes() + byte);
        weights[i] = ToFloat(Load(scale + row * layout.Groups() + byte / layout.GroupBytes()));
        if constexpr (kLimbsB > 1) weights[i] = MultiplyRounded(weights[i], factor);
      }
    }
    DEVICE void Land(const Layout<kGroup>& layout, const Columns& columns, uint32_t at) {
      const int row = int(threadIdx.x) / kPerRow;
#pragma unroll
      for (int i = 0; i < kHeld; i++) {
        const int byte = columns.first_byte + int(threadIdx.x) % kPerRow + i * kPerRow;
        if (byte >= columns.first_byte + columns.bytes) continue;
        const int group = byte / layout.GroupBytes(), place0 = byte % layout.GroupBytes() * 5;
        const int column0 = group * layout.Group() - columns.first;
        const int end = Min(Min(layout.Group(), layout.in_dim - group * layout.Group()), kTile - column0);
        Weights<kHalf> table(inside ? weights[i] : 0.0f);
#pragma unroll
        for (int limb = 0; limb < kLimbsB; limb++) {
          uint32_t low, high, fraction = Fraction(inside ? held[i] : 0);
          table.TakeTable(low, high);
#pragma unroll
          for (int digit = 4; digit >= 0; digit--) {
            const uint32_t w = fraction * 3;
            const int place = place0 + digit;
            fraction = w & 255;
            if (place < end && column0 + place >= 0)
              B::Element(at + A::kBytes, limb, row, column0 + place)[0] = OfDigit(low, high, w >> 8);
          }
        }
      }
    }
  };

  // The exponent that brings the largest finite scale of a block's rows and groups to 2^14.
  static DEVICE int Exponent(const Layout<kGroup>& layout, const S* scale, int column0, int64_t row0, int rows) {
    const int first = column0 / layout.Group();
    const int groups = (Min(layout.in_dim, column0 + kTile) - 1) / layout.Group() - first + 1;
    uint32_t largest = 0;
    for (int i = int(threadIdx.x); i < rows * groups; i += kTileThreads) {
      largest =
          LargerFinite(largest, ToFloat(Load(scale + (row0 + i / groups) * layout.Groups() + first + i % groups)));
    }
#pragma unroll
    for (int distance = 16; distance; distance /= 2) largest = Max(largest, ShuffleXor(largest, distance));
    const Shared<uint32_t> warps = SharedAt<uint32_t>(0);
    if (threadIdx.x % 32 == 0) warps[int(threadIdx.x) / 32] = largest;
    SyncBlock();
    for (int warp = 0; warp < kTileThreads / 32; warp++) largest = Max(largest, uint32_t(warps[warp]));
    SyncBlock();  // before the tiles take its place
    return ExponentTo14(largest);
  }

  // grid (ceil(tokens / 128), ceil(in / 128), members * splits)
  static DEVICE void Run(const Call& call) {
    const Layout<kGroup> layout(call);
    const int64_t member = blockIdx.z / unsigned(call.splits);
    const int split = int(blockIdx.z % unsigned(call.splits));
    const int token0 = int(blockIdx.x) * kTile, input0 = int(blockIdx.y) * kTile;
    const int first = split * call.split_steps;
    const int steps = Min(call.split_steps, CeilDivide(call.out_dim, kK) - first);
    const Columns columns(layout, input0);
    TileLoader<X, A, kHalf, kAsync> loader{call.Operand<X>(0, member), call.out_dim, 1.0f, {}};
    Decoder decoder{call.Operand<uint8_t>(1, member), call.Operand<S>(2, member), 1.0f, false, {}, {}};
    int exponent = 0;
    if constexpr (kHalf) {
      const int row0 = first * kK;
      exponent = Exponent(layout, decoder.scale, input0, row0, Min(steps * kK, call.out_dim - row0));
      decoder.factor = BitsFloat(uint32_t(127 + exponent) << 23);
    }
    const auto window = [&](int s) {
      const int64_t row = int64_t(first + s) * kK;
      return Window{token0, row, call.tokens - token0, int(call.out_dim - row)};
    };
    if (call.in_dim - input0 < kTile) {  // columns beyond the matrix: zero, once
      for (int i = int(threadIdx.x); i < kStages * B::kBytes / 4; i += kTileThreads) {
        const int stage = i / (B::kBytes / 4);
        SharedAt<uint32_t>(uint32_t(stage * kStage + A::kBytes))[i % (B::kBytes / 4)] = 0u;
      }
      SyncBlock();
    }
    float sums[4][4][4] = {};
    RaisedSums<kHalf ? 0 : Max(kRaised<X>, kRaised<S>), (kRaised<X> > 0) + (kRaised<S> > 0)>(sums, [&](int raised) {
      loader.factor = TwoTo(raised);
      if constexpr (!kHalf) decoder.factor = TwoTo(raised);
      Pipeline<kStages>(
          steps, kStage,
          [&](int s, uint32_t at) {
            if constexpr (kAsync) loader.Fetch(window(s), at);
          },
          [&](int s) {
            if constexpr (!kAsync) loader.Fetch(window(s), 0u);
            decoder.Fetch(layout, columns, int64_t(first + s) * kK + int(threadIdx.x) / kPerRow, call.out_dim);
          },
          [&](int, uint32_t at) {
            loader.Land(at);
            decoder.Land(layout, columns, at);
          },
          [&](int, uint32_t at) {
            if constexpr (Product::kPromoted) {
              float d[4][4][4] = {};
              Product::Add(d, at, at + A::kBytes);
              AddTile(sums, d);
            } else {
              Product::Add(sums, at, at + A::kBytes);
            }
          });
    });
    if constexpr (kHalf) {
      const float back = BitsFloat(uint32_t(127 - exponent) << 23);
#pragma unroll
      for (int i = 0; i < 4; i++) {
#pragma unroll
        for (int j = 0; j < 4; j++) {
#pragma unroll
          for (int c = 0; c < 4; c++) sums[i][j][c] = MultiplyRounded(sums[i][j][c], back);
        }
      }
    }
    StoreTile<X, Product>(call, member, split, sums, token0, input0, call.tokens, call.in_dim);
  }
};
