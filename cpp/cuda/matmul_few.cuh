// y[tokens, out] = x[tokens, in] (S T)^t for a few tokens, straight from the packed bytes.
//
// A warp owns 16 rows of T and walks along them unit by unit; a unit is a group, or 32 bytes of a larger one. The
// digits of a unit are the A operand of mma m16n8k16; the activations, cut into limbs that the operand type holds
// exactly, are the B operand: its columns are (limb, token) pairs. The order of k inside an mma is free as long as A
// and B agree, so lane t of a quad takes bytes 2t and 2t+1 of an 8-byte window and the five digits of those two bytes
// are its k slots: no digit moves between lanes. What lies in a window beyond its group meets zeros in B. One product
// with S per unit follows, in float32.
//
// Rows start anywhere: 16-byte chunks are copied from the aligned address at or below the start, and the row's own
// misalignment is added on the way out of shared memory.
#pragma once
#include "call.cuh"
#include "numbers.cuh"

// kGroup: the length of a group, or 0 where it is known only at run time. kWindows: those of a unit.
template <typename X, typename S, int kGroup, int kWindows, int kTokens>
struct MatmulFew {
  static constexpr int kWarps = 4, kRows = 16 * kWarps, kThreads = 32 * kWarps, kStages = 3;
  static constexpr int kUnitBytes = 32;  // of groups larger than that
  static constexpr int kLimbs = Operand<X>::kLimbs, kColumns = kLimbs * kTokens, kTiles = CeilDivide(kColumns, 8);
  static constexpr bool kHalf = Operand<X>::kHalf;

  // Sizes, all from the bytes of a group; the same formulas in src/cuda/few.rs.
  struct Sizes {
    int units_per_group, stage_units, segment, pitch, scale_words, stage;
    DEVICE Sizes(int group, int group_bytes) {
      const int unit_bytes = Min(group_bytes, kUnitBytes);
      units_per_group = 8 * kWindows < kUnitBytes ? 1 : CeilDivide(group_bytes, kUnitBytes);
      stage_units = Max(1, Min(32, 640 / Min(group, 5 * kUnitBytes)));
      segment = CeilDivide((stage_units - 1) * unit_bytes + 8 * kWindows + 15, 16) * 16;  // of a row, in one stage
      pitch = segment % 32 ? segment : segment + 16;  // an odd number of 16-byte units: 8 rows lie in 8 groups of banks
      scale_words = kSame<S, float> ? stage_units : stage_units / 2 + 1;
      stage = 16 * pitch + 64 * scale_words;  // bytes of trits, then scales, of one warp
    }
  };

  // grid (ceil(out / kRows), splits, members). With one split y is written, with more each split writes its own slice
  // of `partial` [splits, tokens, out]: no atomics, the same sum on every run.
  static DEVICE void Run(const Call& call) {
#pragma unroll 1
    for (int exponent = kRaised<X>;; exponent = 0) {
      const bool finite = Sum(call, exponent);
      if (exponent == 0 || !AnyOfBlock<kWarps>(!finite)) return;
    }
  }

  // The sums of activations that are raised by 2^exponent where they become limbs; whether those of this thread are
  // finite.
  static DEVICE bool Sum(const Call& call, int exponent) {
    const int lane = int(threadIdx.x) & 31, warp = int(threadIdx.x) >> 5, quad = lane >> 2, t = lane & 3;
    const Layout<kGroup> layout(call);
    const Sizes sizes(layout.Group(), layout.GroupBytes());
    const int64_t member = blockIdx.z;
    const X* x = call.Operand<X>(0, member);
    const uint8_t* trits = call.Operand<uint8_t>(1, member);
    const S* scale = call.Operand<S>(2, member);
    const int in = call.in_dim, out = call.out_dim, tokens = call.tokens, groups = layout.Groups();
    const int64_t row_bytes = layout.RowBytes();
    const int all = groups * sizes.units_per_group;
    const int first_unit = int(blockIdx.y) * call.split_steps, units = Min(call.split_steps, all - first_unit);
    const int row0 = int(blockIdx.x) * kRows + warp * 16;

    const uint32_t warp_at = uint32_t(warp * kStages * sizes.stage);
    const Shared<uint32_t> xs = SharedAt<uint32_t>(uint32_t(kWarps * kStages * sizes.stage));

    const auto unit_byte = [&](int unit) {  // of a row, where a unit starts
      return unit / sizes.units_per_group * layout.GroupBytes() + unit % sizes.units_per_group * kUnitBytes;
    };
    const Divisor by_chunks(sizes.segment / 16), by_words(sizes.scale_words);
    // An aligned address for copies of nothing.
    const void* nothing = reinterpret_cast<const void*>(int64_t(trits) & ~15ll);
    const auto load = [&](int s) {
      const int unit = first_unit + s * sizes.stage_units;
      const uint32_t to = warp_at + uint32_t(s % kStages * sizes.stage);
      const int64_t trits_end = int64_t(trits + out * row_bytes), scale_end = int64_t(scale + int64_t(out) * groups);
      const int chunks = sizes.segment / 16;
      for (int i = lane; i < 16 * chunks; i += 32) {
        const int r = by_chunks.Of(i), c = i - r * chunks;
        const int64_t from = (int64_t(trits + (row0 + r) * row_bytes + unit_byte(unit)) & ~15ll) + 16 * c;
        const int64_t left = row0 + r < out ? trits_end - from : 0;
        const void* source = left > 0 ? reinterpret_cast<const void*>(from) : nothing;
        CopyAsync<16>(SharedAt<uint8_t>(to + uint32_t(r * sizes.pitch + 16 * c)), source,
                      left <= 0   ? 0
                      : left < 16 ? uint32_t(left)
                                  : 16);
      }
      for (int i = lane; i < 16 * sizes.scale_words; i += 32) {
        const int r = by_words.Of(i), w = i - r * sizes.scale_words;
        const S* start = scale + int64_t(row0 + r) * groups + unit / sizes.units_per_group;
        const int64_t from = (int64_t(start) & ~3ll) + 4 * w;
        const int64_t left = row0 + r < out ? scale_end - from : 0;
        const void* source = left > 0 ? reinterpret_cast<const void*>(from) : nothing;
        CopyAsync<4>(SharedAt<uint8_t>(to + uint32_t(16 * sizes.pitch + 4 * i)), source,
                     left <= 0  ? 0
                     : left < 4 ? uint32_t(left)
                                : 4);
      }
    };
    const int stages = CeilDivide(units, sizes.stage_units);
    for (int s = 0; s < kStages - 1; s++) {
      if (s < stages) load(s);
      CommitCopies();
    }

    // Activations in the order of fragments, while the first bytes are on their way: word [unit, window, digit, t,
    // column].
    const int words = kWindows * 20;
    for (int i = int(threadIdx.x); i < units * words * kTokens; i += kThreads) {
      const int token = i % kTokens, slot = i / kTokens, lane_t = slot % 4, digit = 4 - slot / 4 % 5;
      const int unit = first_unit + slot / words, window = slot % words / 20;
      const int group = unit / sizes.units_per_group;
      const int byte = unit % sizes.units_per_group * kUnitBytes + 8 * window + 2 * lane_t;
      uint16_t limbs[2][kLimbs];
      for (int h = 0; h < 2; h++) {
        const int place = 5 * (byte + h) + digit, k = group * layout.Group() + place;
        const bool inside = place < layout.Group() && k < in && token < tokens;
        const X value = inside ? Load(x + int64_t(token) * in + k) : FromFloat<X>(0.0f);
        if constexpr (kLimbs == 1) {
          limbs[h][0] = value.bits;
        } else {
          float rest = MultiplyRounded(ToFloat(value), TwoTo(exponent));
          for (int l = 0; l < kLimbs; l++) limbs[h][l] = TakeLimb(rest);
        }
      }
      for (int l = 0; l < kLimbs; l++) {
        xs[slot * kColumns + l * kTokens + token] = uint32_t(limbs[1][l]) << 16 | limbs[0][l];
      }
    }
    SyncBlock();

    float sums[kTiles][4] = {};
    for (int s = 0; s < stages; s++) {
      WaitForCopies<kStages - 2>();
      SyncWarp();  // the whole warp's copies have landed, and stage s - 1 is free
      if (s + kStages - 1 < stages) load(s + kStages - 1);
      CommitCopies();
      const int unit0 = first_unit + s * sizes.stage_units;
      const int here = Min(sizes.stage_units, first_unit + units - unit0), byte0 = unit_byte(unit0);
      const uint32_t from = warp_at + uint32_t(s % kStages * sizes.stage);
      Shared<uint8_t> rows[2];
      Shared<S> scales[2];
#pragma unroll
      for (int h = 0; h < 2; h++) {
        const int r = quad + 8 * h;
        const uint32_t skipped = uint32_t(int64_t(trits + (row0 + r) * row_bytes + byte0)) & 15;
        rows[h] = SharedAt<uint8_t>(from + uint32_t(r * sizes.pitch + 2 * t) + skipped);
        const S* start = scale + int64_t(row0 + r) * groups + unit0 / sizes.units_per_group;
        scales[h] =
            SharedAt<S>(from + uint32_t(16 * sizes.pitch + 4 * r * sizes.scale_words) + (uint32_t(int64_t(start)) & 3));
      }
      const Shared<uint32_t> operand = xs + ((unit0 - first_unit) * words * kColumns + t * kColumns + quad);
      // Of a unit: where it starts, its place in its group, and the group.
      int offset = 0, piece = unit0 % sizes.units_per_group, group = 0;
#pragma unroll 2
      for (int j = 0; j < here; j++) {
        float d[kTiles][4] = {};
#pragma unroll
        for (int w = 0; w < kWindows; w++) {
          uint32_t a[5][2];
#pragma unroll
          for (int h = 0; h < 2; h++) Digits(a, h, rows[h] + (offset + 8 * w));
#pragma unroll
          for (int tile = 0; tile < kTiles; tile++) {
            uint32_t b[5];
            const bool used = kColumns % 8 == 0 || 8 * tile + quad < kColumns;
#pragma unroll
            for (int p = 0; p < 5; p++) {
              b[p] = used ? uint32_t(operand[((j * kWindows + w) * 5 + p) * 4 * kColumns + 8 * tile]) : 0u;
            }
            Multiply<kHalf, 4, 2>(d[tile], {a[0][0], a[0][1], a[1][0], a[1][1]}, {b[0], b[1]});
            Multiply<kHalf, 4, 2>(d[tile], {a[2][0], a[2][1], a[3][0], a[3][1]}, {b[2], b[3]});
            Multiply<kHalf, 2, 1>(d[tile], {a[4][0], a[4][1]}, {b[4]});
          }
        }
        const float s0 = ToFloat(S(scales[0][group])), s1 = ToFloat(S(scales[1][group]));
#pragma unroll
        for (int tile = 0; tile < kTiles; tile++) {
#pragma unroll
          for (int c = 0; c < 4; c++) sums[tile][c] = FusedMultiplyAdd(c < 2 ? s0 : s1, d[tile][c], sums[tile][c]);
        }
        offset += kUnitBytes;
        if (++piece == sizes.units_per_group) {
          offset += layout.GroupBytes() - piece * kUnitBytes;
          piece = 0;
          group++;
        }
      }
    }

    // The limbs of a token are summed from the smallest on.
    WaitForCopies<0>();
    SyncWarp();
    const Shared<float> results = SharedAt<float>(warp_at);
#pragma unroll
    for (int tile = 0; tile < kTiles; tile++) {
#pragma unroll
      for (int c = 0; c < 4; c++) {
        results[(quad + (c & 2) * 4) * kTiles * 8 + 8 * tile + 2 * t + (c & 1)] = sums[tile][c];
      }
    }
    SyncWarp();
    bool finite = true;
    for (int i = lane; i < 16 * kTokens; i += 32) {
      const int r = i % 16, token = i / 16;
      if (row0 + r >= out || token >= tokens) continue;
      float value = 0;
      for (int l = kLimbs - 1; l >= 0; l--) value = AddRounded(value, results[r * kTiles * 8 + l * kTokens + token]);
      if constexpr (kLimbs > 1) {
        finite = finite && IsFinite(value);
        value = MultiplyRounded(value, TwoTo(-exponent));
      }
      const int64_t at = int64_t(token) * out + row0 + r;
      if (call.splits > 1) {
        Store(call.Result<float>(1, member) + blockIdx.y * int64_t(tokens) * out + at, value);
      } else if (call.wide) {
        Store(call.Result<float>(0, member) + at, value);
      } else {
        Store(call.Result<X>(0, member) + at, FromFloat<X>(value));
      }
    }
    return finite;
  }

  // Two bytes of one row to five operand registers, digits 4 to 0. v = b + ((55 b + 1003) >> 10) is the byte as an
  // 8-bit fraction of 243; each product with 3 pushes the next digit, the highest first, into the upper half of its
  // 16-bit lane. A digit d becomes the operand d - 1: 0x4300 + d is 128 + d in bfloat16 and 0x6400 + d is 1024 + d in
  // float16, both exact.
  static DEVICE void Digits(uint32_t (&a)[5][2], int half, Shared<uint8_t> bytes) {
    const uint32_t b = uint32_t(uint8_t(bytes[0])) | uint32_t(uint8_t(bytes[1])) << 16;
    uint32_t v = b + ((b * 55u + 0x03EB03EBu) >> 10 & 0x003F003Fu);
#pragma unroll
    for (int i = 0; i < 5; i++) {
      const uint32_t w = v * 3u;
      a[i][half] = kHalf ? AddF16Pairs(PermuteBytes(w, 0x64646464u, 0x4341), 0xE401E401u)
                         : AddBf16Pairs(PermuteBytes(w, 0x43434343u, 0x4341), 0xC301C301u);
      v = w & 0x00FF00FFu;
    }
  }
};

// y[i] = sum over the splits of partial[split, i], in their order; grid (ceil(count / 256), members).
template <typename Y>
struct Reduce {
  static constexpr int kThreads = 256;
  static DEVICE void Run(const Call& call) {
    const int64_t i = int64_t(blockIdx.x) * kThreads + threadIdx.x, member = blockIdx.y;
    if (i >= call.count) return;
    const float* partial = call.Operand<float>(0, member) + i;
    float sum = 0;
    for (int split = 0; split < call.splits; split++) sum = AddRounded(sum, Load(partial + split * call.count));
    Store(call.Result<Y>(0, member) + i, FromFloat<Y>(sum));
  }
};
