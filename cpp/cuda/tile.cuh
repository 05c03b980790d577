// A 128 x 128 tile of a product on the tensor cores: what the kernels for many tokens share.
//
// Operands lie in shared memory as 16-bit limbs, either with the contraction as their fast dimension ([128][kK], read
// by ldmatrix) or as their slow one ([kK][128], read by ldmatrix.trans). A ring of stages is filled ahead of its use:
// by asynchronous copies where an operand is used as it lies in memory, through registers where it must be converted or
// decoded.
#pragma once
#include "call.cuh"
#include "numbers.cuh"

constexpr int kTile = 128, kTileThreads = 256;

// An operand tile in shared memory: kLimbs planes of [128][kK] or, where kSlow, of [kK][128].
template <int kLimbCount, int kK, bool kSlow>
struct TileOperand {
  static constexpr int kLimbs = kLimbCount;
  static constexpr int kRows = kSlow ? kK : kTile, kColumns = kSlow ? kTile : kK;
  static constexpr int kPitch =
      kColumns * 2 + 16;  // an odd number of 16-byte units: the rows of a matrix lie in different banks
  static constexpr int kPlane = kRows * kPitch, kBytes = kLimbs * kPlane;

  static DEVICE Shared<uint16_t> Element(uint32_t at, int limb, int row, int column) {
    return SharedAt<uint16_t>(at + uint32_t(limb * kPlane + row * kPitch + 2 * column));
  }
  // Four 8x8 matrices that cover 16 rows of the tile (from `first` on) and 16 steps of the contraction: as the A
  // operand of mma, or as the B operands of two.
  template <bool kIsA>
  static DEVICE void Fragment(uint32_t (&r)[4], uint32_t at, int limb, int first, int k, int lane) {
    const int low = lane & 7, middle = lane >> 3 & 1, high = lane >> 4;
    const int row = first + 8 * (kIsA ? middle : high) + (kSlow ? 0 : low);
    const int step = k + 8 * (kIsA ? high : middle) + (kSlow ? low : 0);
    const uint32_t offset = kSlow ? uint32_t(step * kPitch + 2 * row) : uint32_t(row * kPitch + 2 * step);
    LoadMatrices<kSlow>(r, SharedAt<uint8_t>(at + uint32_t(limb * kPlane) + offset));
  }
};

// Where a tile of an operand in memory begins, and how much of it is there.
struct Window {
  int64_t row, column;  // first
  int rows, columns;    // inside the matrix, from there
};

// Fills a TileOperand with a window of a row-major matrix.
// kAsync: the values are operands as they are, and rows and windows start at multiples of 8 elements.
template <typename T, typename Tile, bool kHalf, bool kAsync>
struct TileLoader {
  static constexpr int kPairs = Tile::kRows * Tile::kColumns / kTileThreads / 2;  // of one thread
  static_assert(!kAsync || (Tile::kLimbs == 1 && sizeof(T) == 2), "asynchronous copies do not convert");

  const T* matrix;
  int64_t stride;  // of its rows
  float factor;    // of values that become limbs: a power of two
  T held[kAsync ? 1 : kPairs][2];

  DEVICE void Fetch(const Window& window, uint32_t at) {
    if constexpr (kAsync) {
      for (int i = int(threadIdx.x); i < Tile::kRows * Tile::kColumns / 8; i += kTileThreads) {
        const int r = i / (Tile::kColumns / 8), c = i % (Tile::kColumns / 8) * 8;
        const int left = r < window.rows ? Max(0, Min(8, window.columns - c)) : 0;
        const T* from = left ? matrix + (window.row + r) * stride + window.column + c : matrix;  // aligned either way
        CopyAsync<16>(SharedAt<uint8_t>(ByteOf(at, r, c)), from, uint32_t(2 * left));
      }
    } else {
#pragma unroll
      for (int i = 0; i < kPairs; i++) {
        const int r = PairRow(i), c = PairColumn(i);
        const T* from = matrix + (window.row + r) * stride + window.column + c;
#pragma unroll
        for (int h = 0; h < 2; h++) {
          held[i][h] = r < window.rows && c + h < window.columns ? Load(from + h) : FromFloat<T>(0.0f);
        }
      }
    }
  }

  // What was fetched through registers, to shared memory.
  DEVICE void Land(uint32_t at) {
    if constexpr (!kAsync) {
#pragma unroll
      for (int i = 0; i < kPairs; i++) {
        if constexpr (Tile::kLimbs == 1 && sizeof(T) == 2) {
          StorePair(at, 0, i, held[i][0].bits, held[i][1].bits);
        } else {
          float first = MultiplyRounded(ToFloat(held[i][0]), factor);
          float second = MultiplyRounded(ToFloat(held[i][1]), factor);
#pragma unroll
          for (int limb = 0; limb < Tile::kLimbs; limb++) {
            const uint16_t low = TakeLimb(first);
            StorePair(at, limb, i, low, TakeLimb(second));
          }
        }
      }
    }
  }

  static DEVICE int PairRow(int i) { return (int(threadIdx.x) + i * kTileThreads) / (Tile::kColumns / 2); }
  static DEVICE int PairColumn(int i) { return (int(threadIdx.x) + i * kTileThreads) % (Tile::kColumns / 2) * 2; }
  static DEVICE uint32_t ByteOf(uint32_t at, int r, int c) { return at + uint32_t(r * Tile::kPitch + 2 * c); }
  static DEVICE void StorePair(uint32_t at, int limb, int i, uint16_t low, uint16_t high) {
    const uint32_t to = ByteOf(at, PairRow(i), PairColumn(i)) + uint32_t(limb * Tile::kPlane);
    SharedAt<uint32_t>(to)[0] = uint32_t(high) << 16 | low;
  }
};

// The accumulators of one thread: a warp has 64 x 32 of the tile.
template <bool kHalf, int kK, typename A, typename B>
struct TileProduct {
  // Sums in float32 are kept apart from the tensor cores' own where there are limbs: those cut what they add to long
  // sums.
  static constexpr bool kPromoted = A::kLimbs > 1 || B::kLimbs > 1;

  static DEVICE int Row(int i, int h) {  // of the tile, of accumulators [i][..][2 h ..]
    const int warp = int(threadIdx.x) >> 5, quad = (int(threadIdx.x) & 31) >> 2;
    return (warp & 1) * 64 + i * 16 + h * 8 + quad;
  }
  static DEVICE int Column(int j, int c) {  // of accumulators [..][j][.. c]
    const int warp = int(threadIdx.x) >> 5, t = int(threadIdx.x) & 3;
    return (warp >> 1) * 32 + j * 8 + 2 * t + c;
  }

  // d += A B over the kK steps of a stage, products of limbs from the smallest on; those below float32's own rounding
  // are left out.
  static DEVICE void Add(float (&d)[4][4][4], uint32_t a_at, uint32_t b_at) {
    constexpr int kMost = (A::kLimbs > B::kLimbs ? A::kLimbs : B::kLimbs) - 1;
    const int lane = int(threadIdx.x) & 31, warp = int(threadIdx.x) >> 5;
#pragma unroll
    for (int k = 0; k < kK; k += 16) {
#pragma unroll
      for (int limb_a = A::kLimbs - 1; limb_a >= 0; limb_a--) {
        uint32_t a[4][4];
#pragma unroll
        for (int i = 0; i < 4; i++) A::template Fragment<true>(a[i], a_at, limb_a, (warp & 1) * 64 + i * 16, k, lane);
#pragma unroll
        for (int limb_b = B::kLimbs - 1; limb_b >= 0; limb_b--) {
          if (limb_a + limb_b > kMost) continue;
          uint32_t b[2][4];
#pragma unroll
          for (int j = 0; j < 2; j++)
            B::template Fragment<false>(b[j], b_at, limb_b, (warp >> 1) * 32 + j * 16, k, lane);
#pragma unroll
          for (int i = 0; i < 4; i++) {
#pragma unroll
            for (int j = 0; j < 4; j++)
              Multiply<kHalf, 4, 2>(d[i][j], a[i], {b[j / 2][j % 2 * 2], b[j / 2][j % 2 * 2 + 1]});
          }
        }
      }
    }
  }
};

// sums += d
DEVICE void AddTile(float (&sums)[4][4][4], const float (&d)[4][4][4]) {
#pragma unroll
  for (int i = 0; i < 4; i++) {
#pragma unroll
    for (int j = 0; j < 4; j++) {
#pragma unroll
      for (int c = 0; c < 4; c++) sums[i][j][c] = AddRounded(sums[i][j][c], d[i][j][c]);
    }
  }
}

// Runs `compute(step, at)` for every step on a stage that has been filled: `async(step, at)` starts asynchronous copies
// up to kStages - 1 steps ahead, `fetch(step)` reads what goes through registers one step ahead, `land(step, at)`
// stores that. `at` is the byte where the stage begins.
template <int kStages, typename Async, typename Fetch, typename Land, typename Compute>
DEVICE void Pipeline(int steps, uint32_t stage_bytes, Async async, Fetch fetch, Land land, Compute compute) {
  for (int s = 0; s < kStages - 1; s++) {
    if (s < steps) async(s, uint32_t(s) * stage_bytes);
    CommitCopies();
  }
  if (steps > 0) {
    fetch(0);
    land(0, 0u);
  }
  for (int s = 0; s < steps; s++) {
    WaitForCopies<kStages - 2>();
    SyncBlock();  // stage s is whole, and the one before it is free
    const int ahead = s + kStages - 1;
    if (ahead < steps) async(ahead, uint32_t(ahead % kStages) * stage_bytes);
    CommitCopies();
    if (s + 1 < steps) fetch(s + 1);
    compute(s, uint32_t(s % kStages) * stage_bytes);
    if (s + 1 < steps) land(s + 1, uint32_t((s + 1) % kStages) * stage_bytes);
  }
  WaitForCopies<0>();
  SyncBlock();
}

// Takes 2^(kOperands kExponent) from sums; whether all of the block are finite. Else they are zero.
template <int kExponent, int kOperands>
DEVICE bool TakeBack(float (&sums)[4][4][4]) {
  const float back = TwoTo(-kOperands * kExponent);
  bool finite = true;
#pragma unroll
  for (int i = 0; i < 64; i++) {
    float& value = sums[i / 16][i / 4 % 4][i % 4];
    finite = finite && IsFinite(value);
    value = MultiplyRounded(value, back);
  }
  if (!AnyOfBlock<kTileThreads / 32>(!finite)) return true;
#pragma unroll
  for (int i = 0; i < 64; i++) sums[i / 16][i / 4 % 4][i % 4] = 0.0f;
  return false;
}

// Runs `sum(exponent)`, which adds to `sums` the products of operands, kOperands of which it raises by 2^exponent, and
// takes that power from the sums. Where these are not finite it runs again, with nothing raised: as code of its own
// with kApart, which takes fewer registers in some kernels and more in others.
template <int kExponent, int kOperands, bool kApart, typename Sum>
DEVICE void RaisedSums(float (&sums)[4][4][4], Sum sum) {
  if constexpr (kExponent == 0) {
    sum(0);
  } else if constexpr (kApart) {
    sum(kExponent);
    if (!TakeBack<kExponent, kOperands>(sums)) sum(0);
  } else {
#pragma unroll 1
    for (int exponent = kExponent;; exponent = 0) {
      sum(exponent);
      if (exponent == 0 || TakeBack<kExponent, kOperands>(sums)) return;
    }
  }
}

// Stores accumulators to a row-major matrix, or to one split's slice of `partial`.
template <typename Y, typename Product>
DEVICE void StoreTile(const Call& call, int64_t member, int split, const float (&d)[4][4][4], int row0, int column0,
                      int rows, int columns) {
#pragma unroll
  for (int i = 0; i < 4; i++) {
#pragma unroll
    for (int h = 0; h < 2; h++) {
      const int row = row0 + Product::Row(i, h);
#pragma unroll
      for (int j = 0; j < 4; j++) {
#pragma unroll
        for (int c = 0; c < 2; c++) {
          const int column = column0 + Product::Column(j, c);
          if (row >= rows || column >= columns) continue;
          const int64_t at = int64_t(row) * columns + column;
          const float value = d[i][j][2 * h + c];
          if (call.splits > 1) {
            Store(call.Result<float>(1, member) + split * int64_t(rows) * columns + at, value);
          } else if (call.wide) {
            Store(call.Result<float>(0, member) + at, value);
          } else {
            Store(call.Result<Y>(0, member) + at, FromFloat<Y>(value));
          }
        }
      }
    }
  }
}

// Entry of a thread's digit in a table of three 16-bit values: that of digit 0 and 1 in `low`, that of digit 2 in
// `high`.
DEVICE uint16_t OfDigit(uint32_t low, uint32_t high, uint32_t digit) {
  return uint16_t(PermuteBytes(low, high, 0x10 + 0x22 * digit));
}

// The table of the weights -S, 0, S for OfDigit, one limb after the other.
template <bool kHalf>
struct Weights {
  float rest;
  DEVICE explicit Weights(float scale) : rest(scale) {}
  DEVICE void TakeTable(uint32_t& low, uint32_t& high) {
    high = kHalf ? TakeHalf(rest) : TakeLimb(rest);
    low = high ^ 0x8000u;
  }
};
