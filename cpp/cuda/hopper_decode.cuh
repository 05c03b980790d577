// Lines of bfloat16 weights S T from packed bytes, for the right operand of Hopper's products.
#pragma once
#include "hopper_tile.cuh"
#include "tile.cuh"

namespace hopper {

// Weights of the digits 0, 1, 2 as the eight bytes (low, high): -S, 0, S, 0.
struct WeightTable {
  uint32_t low, high;
  DEVICE explicit WeightTable(bf16 scale) : low(scale.bits ^ 0x8000u), high(scale.bits) {}
  DEVICE WeightTable() : low(0), high(0) {}
  // The weights of two digits, which lie in the two low bytes; what lies above changes nothing.
  DEVICE uint32_t OfPair(uint32_t digits) const { return PermuteBytes(low, high, 0x1010u + 0x22u * digits); }
};

// Digits of two bytes at once, which lie at bits 0 and 16: digit t of both is in bytes 1 and 3 of digits[t].
DEVICE void DigitsOfTwo(uint32_t (&digits)[5], uint32_t bytes) {
  uint32_t fraction = bytes + ((bytes * 55u + 0x03EB03EBu) >> 10 & 0x003F003Fu);
#pragma unroll
  for (int t = 4; t >= 0; t--) {
    digits[t] = fraction * 3u;
    fraction = digits[t] & 0x00FF00FFu;
  }
}

// Rows of packed bytes and scales, decoded 32 inputs at a time, which begin at a multiple of 32: half a line.
template <int kGroup>
struct LineDecoder;

// Groups of 32: half a line is one group of 7 bytes.
template <>
struct LineDecoder<32> {
  static constexpr int kBytes = 7;
  const uint8_t* trits;
  const bf16* scale;
  int groups, rows;
  uint64_t end;  // address behind the last byte

  // A group as it was read: its bytes begin `skip` bytes into the words.
  struct Held {
    uint32_t words[4];
    uint32_t skip;
    WeightTable table;
  };

  DEVICE LineDecoder(const Call& call, int64_t member)
      : trits(call.Operand<uint8_t>(1, member)),
        scale(call.Operand<bf16>(2, member)),
        groups(CeilDivide(call.in_dim, 32)),
        rows(call.out_dim),
        end(reinterpret_cast<uint64_t>(trits) + uint64_t(rows) * uint64_t(groups * kBytes)) {}

  DEVICE void Fetch(Held& held, int row, int input) const {
    const int group = input / 32;
    held.table = WeightTable();
    held.skip = 0;
#pragma unroll
    for (int i = 0; i < 4; i++) held.words[i] = 0;
    if (row >= rows || group >= groups) return;
    const int64_t at = int64_t(row) * groups + group;
    const uint64_t from = reinterpret_cast<uint64_t>(trits) + uint64_t(at) * kBytes, start = from & ~uint64_t(7);
    held.table = WeightTable(Load(scale + at));
    if (start + 16 <= end) {  // aligned reads take in what lies around
      held.skip = uint32_t(from & 7);
#pragma unroll
      for (int i = 0; i < 2; i++) {
        const uint2 two = Load(reinterpret_cast<const uint2*>(start) + i);
        held.words[2 * i] = two.x;
        held.words[2 * i + 1] = two.y;
      }
    } else {
#pragma unroll
      for (int i = 0; i < kBytes; i++) held.words[i / 4] |= uint32_t(Load(trits + at * kBytes + i)) << (8 * (i % 4));
    }
  }

  DEVICE void Land(const Held& held, uint32_t at, int line, int half, int, int) const {
    uint32_t bytes[2], words[16], digits[5];
    Align(held, bytes);
    const WeightTable& table = held.table;
    // Two neighbours give ten weights, the seventh byte two.
#pragma unroll
    for (int i = 0; i < 3; i++) {
      DigitsOfTwo(digits, Pair(bytes, 2 * i, 2 * i + 1));
      words[5 * i] = table.OfPair(PermuteBytes(digits[0], digits[1], 0x51));
      words[5 * i + 1] = table.OfPair(PermuteBytes(digits[2], digits[3], 0x51));
      words[5 * i + 2] = table.OfPair(PermuteBytes(digits[4], digits[0], 0x71));
      words[5 * i + 3] = table.OfPair(PermuteBytes(digits[1], digits[2], 0x73));
      words[5 * i + 4] = table.OfPair(PermuteBytes(digits[3], digits[4], 0x73));
    }
    DigitsOfTwo(digits, Pair(bytes, 6, 6));
    words[15] = table.OfPair(PermuteBytes(digits[0], digits[1], 0x51));
    StoreHalfLine(at, line, half, words);
  }

 private:
  // The words from byte `skip` on.
  static DEVICE void Align(const Held& held, uint32_t (&bytes)[2]) {
    uint32_t by_four[3];
    const uint32_t selector = 0x3210u + 0x1111u * (held.skip & 3);
#pragma unroll
    for (int i = 0; i < 3; i++) by_four[i] = held.skip & 4 ? held.words[i + 1] : held.words[i];
#pragma unroll
    for (int i = 0; i < 2; i++) bytes[i] = PermuteBytes(by_four[i], by_four[i + 1], selector);
  }
  // Bytes i and j at bits 0 and 16.
  static DEVICE uint32_t Pair(const uint32_t (&bytes)[2], int i, int j) {
    return PermuteBytes(bytes[i / 4], bytes[j / 4], uint32_t(i % 4 | (4 + j % 4) << 8)) & 0x00FF00FFu;
  }
};

// Groups of any length: value by value.
template <>
struct LineDecoder<0> {
  struct Held {};
  Layout<0> layout;
  const uint8_t* trits;
  const bf16* scale;
  int rows;

  DEVICE LineDecoder(const Call& call, int64_t member)
      : layout(call),
        trits(call.Operand<uint8_t>(1, member)),
        scale(call.Operand<bf16>(2, member)),
        rows(call.out_dim) {}

  DEVICE void Fetch(Held&, int, int) const {}

  DEVICE void Land(const Held&, uint32_t at, int line, int half, int row, int input) const {
    int group = input / layout.Group(), place = input % layout.Group();
    const uint8_t* bytes = trits + int64_t(row) * layout.RowBytes();
    WeightTable table;
    int known = -1;  // the group of the table
    uint32_t words[16] = {};
#pragma unroll
    for (int i = 0; i < 32; i++) {
      if (row < rows && input + i < layout.in_dim) {
        if (known != group) table = WeightTable(Load(scale + int64_t(row) * layout.Groups() + group));
        known = group;
        uint32_t fraction = Fraction(Load(bytes + group * layout.GroupBytes() + place / 5));
        for (int digit = 4; digit > place % 5; digit--) fraction = fraction * 3 & 255;
        words[i / 2] |= uint32_t(OfDigit(table.low, table.high, fraction * 3 >> 8)) << (16 * (i % 2));
      }
      if (++place == layout.Group()) {
        place = 0;
        group++;
      }
    }
    StoreHalfLine(at, line, half, words);
  }
};

}  // namespace hopper
