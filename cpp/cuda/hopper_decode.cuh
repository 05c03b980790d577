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

// Rows of packed bytes and scales, cut at inputs that are multiples of 64; a line of weights after the other.
template <int kGroup>
struct LineDecoder;

// Groups of 32: a line is two groups of 7 bytes.
template <>
struct LineDecoder<32> {
  static constexpr int kBytes = 7;
  const uint8_t* trits;
  const bf16* scale;
  int groups, rows;
  uint64_t end;  // address behind the last byte

  // A line as it was read: the bytes begin `skip` bytes into the words.
  struct Held {
    uint32_t words[8];
    uint32_t skip;
    WeightTable tables[2];
  };

  DEVICE LineDecoder(const Call& call, int64_t member)
      : trits(call.Operand<uint8_t>(1, member)),
        scale(call.Operand<bf16>(2, member)),
        groups(CeilDivide(call.in_dim, 32)),
        rows(call.out_dim),
        end(reinterpret_cast<uint64_t>(trits) + uint64_t(rows) * uint64_t(groups * kBytes)) {}

  DEVICE void Fetch(Held& held, int row, int input) const {
    const int group = input / 32, here = row < rows ? Max(0, Min(2, groups - group)) : 0;
    const int64_t at = int64_t(row) * groups + group;
    const uint64_t from = reinterpret_cast<uint64_t>(trits) + uint64_t(at) * kBytes, start = from & ~uint64_t(15);
    held.skip = uint32_t(from & 15);
#pragma unroll
    for (int g = 0; g < 2; g++) held.tables[g] = g < here ? WeightTable(Load(scale + at + g)) : WeightTable();
#pragma unroll
    for (int i = 0; i < 8; i++) held.words[i] = 0;
    if (here == 0) return;
    if (start + 32 <= end) {  // aligned reads take in what lies around
#pragma unroll
      for (int i = 0; i < 2; i++) {
        const uint4 four = Load(reinterpret_cast<const uint4*>(start) + i);
        held.words[4 * i] = four.x;
        held.words[4 * i + 1] = four.y;
        held.words[4 * i + 2] = four.z;
        held.words[4 * i + 3] = four.w;
      }
    } else {
      held.skip = 0;
#pragma unroll
      for (int i = 0; i < 2 * kBytes; i++) {
        if (i < here * kBytes) held.words[i / 4] |= uint32_t(Load(trits + at * kBytes + i)) << (8 * (i % 4));
      }
    }
  }

  DEVICE void Land(const Held& held, uint32_t at, int line, int, int) const {
    uint32_t bytes[4], words[32], digits[5];
    Align(held, bytes);
    // Two neighbours of a group give ten weights; the seventh bytes of both groups give two each.
#pragma unroll
    for (int g = 0; g < 2; g++) {
#pragma unroll
      for (int i = 0; i < 3; i++) {
        DigitsOfTwo(digits, Pair(bytes, g * kBytes + 2 * i, g * kBytes + 2 * i + 1));
        uint32_t* to = words + 16 * g + 5 * i;
        to[0] = held.tables[g].OfPair(PermuteBytes(digits[0], digits[1], 0x51));
        to[1] = held.tables[g].OfPair(PermuteBytes(digits[2], digits[3], 0x51));
        to[2] = held.tables[g].OfPair(PermuteBytes(digits[4], digits[0], 0x71));
        to[3] = held.tables[g].OfPair(PermuteBytes(digits[1], digits[2], 0x73));
        to[4] = held.tables[g].OfPair(PermuteBytes(digits[3], digits[4], 0x73));
      }
    }
    DigitsOfTwo(digits, Pair(bytes, kBytes - 1, 2 * kBytes - 1));
    words[15] = held.tables[0].OfPair(PermuteBytes(digits[0], digits[1], 0x51));
    words[31] = held.tables[1].OfPair(PermuteBytes(digits[0], digits[1], 0x73));
    StoreLine(at, line, words);
  }

 private:
  // The words from byte `skip` on.
  static DEVICE void Align(const Held& held, uint32_t (&bytes)[4]) {
    uint32_t by_eight[6], by_four[5];
    const uint32_t selector = 0x3210u + 0x1111u * (held.skip & 3);
#pragma unroll
    for (int i = 0; i < 6; i++) by_eight[i] = held.skip & 8 ? held.words[i + 2] : held.words[i];
#pragma unroll
    for (int i = 0; i < 5; i++) by_four[i] = held.skip & 4 ? by_eight[i + 1] : by_eight[i];
#pragma unroll
    for (int i = 0; i < 4; i++) bytes[i] = PermuteBytes(by_four[i], by_four[i + 1], selector);
  }
  // Bytes i and j at bits 0 and 16.
  static DEVICE uint32_t Pair(const uint32_t (&bytes)[4], int i, int j) {
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

  DEVICE void Land(const Held&, uint32_t at, int line, int row, int input) const {
    int group = input / layout.Group(), place = input % layout.Group();
    const uint8_t* bytes = trits + int64_t(row) * layout.RowBytes();
    WeightTable table;
    int known = -1;  // the group of the table
#pragma unroll 1
    for (int c = 0; c < 8; c++) {
      uint32_t words[4] = {};
#pragma unroll
      for (int i = 0; i < 8; i++) {
        if (row < rows && input + 8 * c + i < layout.in_dim) {
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
      SharedAt<uint4>(Swizzled(at + uint32_t(line * kLine + 16 * c)))[0] =
          uint4{words[0], words[1], words[2], words[3]};
    }
  }
};

}  // namespace hopper
