// y[tokens, out] = x[tokens, in] (S T)^t for many tokens, in tiles of 128 tokens by 128 outputs.
//
// A step of the contraction is kK inputs of one group, or what is left of it. x is bfloat16 with bfloat16 scales: the
// operand is the weight S T itself, exact. Else the operand is T, exact in every type, x is as many limbs as it needs,
// and the sum over each step is multiplied by S in float32, which belongs to (row, group).
#pragma once
#include "tile.cuh"

template <typename X, typename S, int kGroup, int kSteps, bool kAsync>
struct MatmulMany {
  static constexpr int kThreads = kTileThreads, kK = kSteps;
  static constexpr bool kHalf = Operand<X>::kHalf, kFolded = kSame<X, bf16> && kSame<S, bf16>;
  static constexpr int kStages = kAsync ? 3 : 2;
  using A = TileOperand<Operand<X>::kLimbs, kK, false>;
  using B = TileOperand<1, kK, false>;
  using Product = TileProduct<kHalf, kK, A, B>;
  static constexpr int kScales = A::kBytes + B::kBytes, kStage = kScales + (kFolded ? 0 : kTile * 4);
  static constexpr int kShared = kStages * kStage;
  static constexpr int kHeld = CeilDivide(CeilDivide(kK, 5) + 1, 2);  // packed bytes of one thread

  struct Step {
    int group, first, length;  // inputs [first, first + length) of the group
    DEVICE Step(const Layout<kGroup>& layout, int index) {
      const int pieces = CeilDivide(layout.Group(), kK);
      group = index / pieces;
      first = index % pieces * kK;
      Measure(layout);
    }
    DEVICE void Next(const Layout<kGroup>& layout) {
      first += kK;
      if (first >= layout.Group()) {
        first = 0;
        group++;
      }
      Measure(layout);
    }
    DEVICE void Measure(const Layout<kGroup>& layout) {
      const int end = Min(layout.Group(), layout.in_dim - group * layout.Group());
      length = Max(0, Min(kK, end - first));
    }
  };

  // Decodes the step's bytes of a tile of rows: two threads share a row.
  struct Decoder {
    const uint8_t* trits;
    const S* scale;
    int rows, row;  // of the tile inside the matrix; this thread's
    uint32_t held[kHeld];
    float weight;

    DEVICE void Fetch(const Layout<kGroup>& layout, const Step& step, int row0) {
      row = int(threadIdx.x) / 2;
      if (row >= rows) return;
      const uint8_t* from = trits + (row0 + row) * layout.RowBytes() + int64_t(step.group) * layout.GroupBytes();
      const int byte0 = step.first / 5, bytes = step.length ? (step.first + step.length - 1) / 5 - byte0 + 1 : 0;
#pragma unroll
      for (int i = 0; i < kHeld; i++) {
        const int byte = int(threadIdx.x) % 2 + 2 * i;
        held[i] = byte < bytes ? Load(from + byte0 + byte) : 0;
      }
      weight = ToFloat(Load(scale + int64_t(row0 + row) * layout.Groups() + step.group));
    }
    DEVICE void Land(const Step& step, uint32_t at) {
      const bool inside = row < rows;
      uint32_t low = kHalf ? 0xBC00u : 0xBF80u, high = low & 0x7FFFu;
      if constexpr (kFolded) Weights<false>(weight).TakeTable(low, high);
      const int byte0 = step.first / 5;
#pragma unroll
      for (int i = 0; i < kHeld; i++) {
        const int place0 = 5 * (byte0 + int(threadIdx.x) % 2 + 2 * i) - step.first;
        uint32_t fraction = Fraction(held[i]);
#pragma unroll
        for (int digit = 4; digit >= 0; digit--) {
          const uint32_t w = fraction * 3;
          const int place = place0 + digit;
          fraction = w & 255;
          if (inside && place >= 0 && place < step.length) Element(at, place)[0] = OfDigit(low, high, w >> 8);
        }
      }
      // What the step does not fill is zero, and so are rows beyond the matrix.
      for (int place = (inside ? step.length : 0) + int(threadIdx.x) % 2; place < kK; place += 2)
        Element(at, place)[0] = uint16_t(0);
      if (!kFolded && int(threadIdx.x) % 2 == 0) SharedAt<float>(at + kScales)[row] = inside ? weight : 0.0f;
    }
    DEVICE Shared<uint16_t> Element(uint32_t at, int place) const { return B::Element(at + A::kBytes, 0, row, place); }
  };

  // grid (ceil(tokens / 128), ceil(out / 128), members * splits)
  static DEVICE void Run(const Call& call) {
    const Layout<kGroup> layout(call);
    const int64_t member = blockIdx.z / unsigned(call.splits);
    const int split = int(blockIdx.z % unsigned(call.splits));
    const int token0 = int(blockIdx.x) * kTile, out0 = int(blockIdx.y) * kTile;
    const int first = split * call.split_steps;
    const int all = layout.Groups() * CeilDivide(layout.Group(), kK), steps = Min(call.split_steps, all - first);
    TileLoader<X, A, kHalf, kAsync> loader{call.Operand<X>(0, member), call.in_dim, 1.0f, {}};
    Decoder decoder{
        call.Operand<uint8_t>(1, member), call.Operand<S>(2, member), Min(kTile, call.out_dim - out0), 0, {}, 0};
    const auto window = [&](const Step& step) {
      return Window{token0, int64_t(step.group) * layout.Group() + step.first, call.tokens - token0, step.length};
    };
    const auto step = [&](int s, const Step& next) { return kGroup ? Step(layout, first + s) : next; };
    float sums[4][4][4] = {};
    RaisedSums<kRaised<X>, 1, false>(sums, [&](int exponent) {
      loader.factor = TwoTo(exponent);
      // The steps whose copies start next, and whose bytes are decoded next: where the length of a group is not known,
      // it is not divided by in every step.
      [[maybe_unused]] Step copied(layout, first);
      Step decoded = copied;
      Pipeline<kStages>(
          steps, kStage,
          [&](int s, uint32_t at) {
            if constexpr (kAsync) {
              loader.Fetch(window(step(s, copied)), at);
              copied.Next(layout);
            }
          },
          [&](int s) {
            if constexpr (!kAsync) loader.Fetch(window(step(s, decoded)), 0u);
            decoder.Fetch(layout, step(s, decoded), out0);
          },
          [&](int s, uint32_t at) {
            loader.Land(at);
            decoder.Land(step(s, decoded), at);
            decoded.Next(layout);
          },
          [&](int, uint32_t at) {
            if constexpr (kFolded) {
              Product::Add(sums, at, at + A::kBytes);
            } else {
              float d[4][4][4] = {};
              Product::Add(d, at, at + A::kBytes);
#pragma unroll
              for (int j = 0; j < 4; j++) {
#pragma unroll
                for (int c = 0; c < 2; c++) {
                  const float scale = SharedAt<float>(at + kScales)[Product::Column(j, c)];
#pragma unroll
                  for (int i = 0; i < 4; i++) {
#pragma unroll
                    for (int h = 0; h < 2; h++)
                      sums[i][j][2 * h + c] = FusedMultiplyAdd(scale, d[i][j][2 * h + c], sums[i][j][2 * h + c]);
                  }
                }
              }
            }
          });
    });
    StoreTile<X, Product>(call, member, split, sums, token0, out0, call.tokens, call.out_dim);
  }
};
