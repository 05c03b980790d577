// dx[tokens, in] = dy[tokens, out] (S T), in tiles of 128 tokens by 128 inputs.
//
// The scale lies on the contraction, so the operand is S T: one bfloat16 value with bfloat16 scales, exact, three limbs
// with float32 scales. dy is as many bfloat16 limbs as it needs; in float16 it is the operand as it is, beside two
// float16 limbs of S T. These hold 22 bits of every scale down to 2^-17 of the block's largest, by which all are
// divided (as a power of two), and 2^-39 of that largest of the others.
#pragma once
#include "tile.cuh"

// kBytes: the most bytes of a row of T that a tile meets.
template <typename X, typename S, int kBytes, bool kAsync>
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
  static constexpr int kHeld = CeilDivide(kBytes, kPerRow);

  // Decodes what a tile has of rows of T: each thread the same bytes of one row after the other.
  struct Decoder {
    const uint8_t* trits;
    const S* scale;
    float factor;  // of every scale: a power of two
    int64_t row_bytes, groups;
    // Of each byte: the column of its first digit in the tile, plus 4; from bit 8 on which of its digits lie in the
    // tile; from bit 16 on its group after the tile's first.
    uint32_t places[kHeld];
    uint32_t held[kHeld];
    float weights[kHeld];

    DEVICE Decoder(const Call& call, int64_t member, const Layout<0>& layout, int column0)
        : trits(call.Operand<uint8_t>(1, member)),
          scale(call.Operand<S>(2, member)),
          factor(1),
          row_bytes(layout.RowBytes()),
          groups(layout.Groups()) {
      const int first = column0 / layout.Group(), end = Min(layout.in_dim, column0 + kTile);
      const int byte0 = first * layout.GroupBytes() + column0 % layout.Group() / 5 + int(threadIdx.x) % kPerRow;
      trits += byte0;
      scale += first;
#pragma unroll
      for (int i = 0; i < kHeld; i++) {
        const int byte = byte0 + i * kPerRow, group = byte / layout.GroupBytes();
        const int start = group * layout.Group(), input = start + byte % layout.GroupBytes() * 5;
        const int behind = Min(Min(end, start + layout.Group()) - input, 5), before = Min(Max(column0 - input, 0), 5);
        const uint32_t digits = behind > 0 ? (1u << behind) - (1u << before) : 0;
        places[i] = digits ? uint32_t(group - first) << 16 | digits << 8 | uint32_t(input - column0 + 4) : 0;
      }
    }
    DEVICE void Fetch(int64_t row, int64_t rows) {
#pragma unroll
      for (int i = 0; i < kHeld; i++) {
        held[i] = 0;
        weights[i] = 0;
        if (row >= rows || !places[i]) continue;
        held[i] = Load(trits + row * row_bytes + i * kPerRow);
        weights[i] = ToFloat(Load(scale + row * groups + (places[i] >> 16)));
        if constexpr (kLimbsB > 1) weights[i] = MultiplyRounded(weights[i], factor);
      }
    }
    DEVICE void Land(uint32_t at) const {
      const int row = int(threadIdx.x) / kPerRow;
#pragma unroll
      for (int i = 0; i < kHeld; i++) {
        const int column = int(places[i] & 255) - 4;
        Weights<kHalf> table(weights[i]);
#pragma unroll
        for (int limb = 0; limb < kLimbsB; limb++) {
          uint32_t low, high, fraction = Fraction(held[i]);
          table.TakeTable(low, high);
#pragma unroll
          for (int digit = 4; digit >= 0; digit--) {
            const uint32_t w = fraction * 3;
            fraction = w & 255;
            StoreWhere(places[i] & 256u << digit, B::Element(at + A::kBytes, limb, row, column + digit),
                       OfDigit(low, high, w >> 8));
          }
        }
      }
    }
  };

  // The exponent that brings the largest finite scale of a block's rows and groups to 2^14.
  static DEVICE int Exponent(const Layout<0>& layout, const S* scale, int column0, int64_t row0, int rows) {
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
    const Layout<0> layout(call);
    const int64_t member = blockIdx.z / unsigned(call.splits);
    const int split = int(blockIdx.z % unsigned(call.splits));
    const int token0 = int(blockIdx.x) * kTile, input0 = int(blockIdx.y) * kTile;
    const int first = split * call.split_steps;
    const int steps = Min(call.split_steps, CeilDivide(call.out_dim, kK) - first);
    TileLoader<X, A, kHalf, kAsync> loader{call.Operand<X>(0, member), call.out_dim, 1.0f, {}};
    Decoder decoder(call, member, layout, input0);
    int exponent = 0;
    if constexpr (kHalf) {
      const int row0 = first * kK;
      exponent = Exponent(layout, call.Operand<S>(2, member), input0, row0, Min(steps * kK, call.out_dim - row0));
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
    RaisedSums<kHalf ? 0 : Max(kRaised<X>, kRaised<S>), (kRaised<X> > 0) + (kRaised<S> > 0), (kBytes > 32)>(
        sums, [&](int raised) {
          loader.factor = TwoTo(raised);
          if constexpr (!kHalf) decoder.factor = TwoTo(raised);
          Pipeline<kStages>(
              steps, kStage,
              [&](int s, uint32_t at) {
                if constexpr (kAsync) loader.Fetch(window(s), at);
              },
              [&](int s) {
                if constexpr (!kAsync) loader.Fetch(window(s), 0u);
                decoder.Fetch(int64_t(first + s) * kK + int(threadIdx.x) / kPerRow, call.out_dim);
              },
              [&](int, uint32_t at) {
                loader.Land(at);
                decoder.Land(at);
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
