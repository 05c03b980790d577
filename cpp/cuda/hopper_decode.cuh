// Lines of weights S T from packed bytes, for the right operand of Hopper's products.
#pragma once
#include "hopper_tile.cuh"
#include "tile.cuh"

namespace hopper {

// Weights of the digits 0, 1, 2 as the eight bytes (low, high): -S, 0, S, 0.
struct WeightTable {
  uint32_t low, high;
  DEVICE explicit WeightTable(uint32_t bits) : low(bits ^ 0x8000u), high(bits) {}
  // The weights of two digits, which lie in the two low bytes; what lies above changes nothing.
  DEVICE uint32_t OfPair(uint32_t digits) const { return PermuteBytes(low, high, 0x1010u + 0x22u * digits); }
};

// Scales of a thread's lines, as 16 bits of an operand: bfloat16 as they are.
struct NarrowScales {
  const bf16* scale;
  DEVICE uint32_t Bits(int64_t at) const { return Load(scale + at).bits; }
};

// One of the two float16 limbs of float32 scales times a power of two.
struct HalfScales {
  const float* scale;
  float factor;
  bool second;
  DEVICE uint32_t Bits(int64_t at) const {
    float rest = MultiplyRounded(Load(scale + at), factor);
    const uint32_t first = TakeHalf(rest);
    return second ? TakeHalf(rest) : first;
  }
};

// Those that activations of type X go with.
template <typename X>
struct ScalesOf;
template <>
struct ScalesOf<bf16> {
  using Type = NarrowScales;
};
template <>
struct ScalesOf<f16> {
  using Type = HalfScales;
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

// What a byte is divided by 3^skipped with: a factor and a shift, in 16 bits.
struct Quotient {
  uint32_t factor, shift;
  constexpr DEVICE explicit Quotient(int skipped)
      : factor(skipped == 0   ? 1
               : skipped == 1 ? 171
               : skipped == 2 ? 57
               : skipped == 3 ? 19
                              : 203),
        shift(skipped == 0   ? 0
              : skipped == 4 ? 14
                             : 9) {}
  // Of two numbers, at bits 0 and 16.
  constexpr DEVICE uint32_t OfTwo(uint32_t bytes) const {
    return bytes * factor >> shift & (0xFFFFu >> shift) * 0x10001u;
  }
};
constexpr DEVICE bool ByteQuotientsAreExact() {
  uint32_t power = 1;
  for (int skipped = 0; skipped < 5; skipped++, power *= 3) {
    for (uint32_t n = 0; n <= 255; n++) {
      if (Quotient(skipped).OfTwo(n << 16 | (255 - n)) != (n / power << 16 | (255 - n) / power)) return false;
    }
  }
  return true;
}
static_assert(ByteQuotientsAreExact());

// Seven bytes that begin `skipped` digits after eight others: a byte loses its lowest digits and takes in those of the
// next as its highest, b' = b / 3^skipped + 3^(5-skipped) (next mod 3^skipped).
DEVICE void SkipDigits(uint32_t (&bytes)[2], int skipped) {
  const Quotient quotient(skipped);
  const uint32_t power = PermuteBytes(0x091B51F3u, 3u, uint32_t(skipped)) & 255;  // 3^(5-skipped)
  const auto join = [&](uint32_t q, uint32_t next, uint32_t q_next) { return q + next * power - q_next * 243u; };
  const uint32_t even[2] = {bytes[0] & 0x00FF00FFu, bytes[1] & 0x00FF00FFu};  // bytes 0 2, 4 6
  const uint32_t odd[2] = {bytes[0] >> 8 & 0x00FF00FFu, bytes[1] >> 8 & 0x00FF00FFu};
  uint32_t even_q[2], odd_q[2];
#pragma unroll
  for (int i = 0; i < 2; i++) {
    even_q[i] = quotient.OfTwo(even[i]);
    odd_q[i] = quotient.OfTwo(odd[i]);
  }
  bytes[0] = join(even_q[0], odd[0], odd_q[0]) |
             join(odd_q[0], PermuteBytes(even[0], even[1], 0x5432), PermuteBytes(even_q[0], even_q[1], 0x5432)) << 8;
  bytes[1] = join(even_q[1], odd[1], odd_q[1]) | (join(odd_q[1], even[1] >> 16, even_q[1] >> 16) & 255) << 8;
}

// Rows of packed bytes and scales, decoded 32 inputs at a time, which begin at a multiple of 32: half a line. Groups
// are several in a half line, or multiples of it, or made of whole bytes and pairs; those of any other length have a
// decoder of their own below.
template <typename Scales, int kGroup>
struct LineDecoder {
  static constexpr bool kWhole = 32 % kGroup == 0;           // a half line is whole groups
  static constexpr bool kCut = !kWhole && kGroup % 32 != 0;  // it may be the end of one and the beginning of the next
  static_assert(kWhole ? kGroup >= 8 : kCut ? kGroup > 32 && kGroup % 10 == 0 : true, "groups of other lengths");
  static constexpr int kLength = kWhole ? kGroup : 32;  // digits of the half line that lie in a row
  static constexpr int kGroupBytes = CeilDivide(kGroup, 5);
  static constexpr int kTables = kCut ? 2 : 32 / kLength;
  static constexpr int kBytes = kWhole ? kTables * kGroupBytes : 8;
  static_assert(kBytes <= 8, "two words");

  const uint8_t* trits;
  Scales scales;
  int groups, rows;
  uint64_t end;  // address behind the last byte

  // Half a line as it was read: its bytes begin `skip` bytes into the words.
  struct Held {
    uint32_t words[4];
    uint32_t skip;
    uint32_t scales[kTables];
  };

  DEVICE LineDecoder(const Call& call, int64_t member, const Scales& of_lines)
      : trits(call.Operand<uint8_t>(1, member)),
        scales(of_lines),
        groups(CeilDivide(call.in_dim, kGroup)),
        rows(call.out_dim),
        end(reinterpret_cast<uint64_t>(trits) + uint64_t(rows) * uint64_t(groups * kGroupBytes)) {}

  DEVICE void Fetch(Held& held, int row, int input) const {
    const int group = input / kGroup, place = input % kGroup;
    held.skip = 0;
#pragma unroll
    for (int i = 0; i < 4; i++) held.words[i] = 0;
#pragma unroll
    for (int i = 0; i < kTables; i++) held.scales[i] = 0;
    if (row >= rows || group >= groups) return;
    const int64_t at = int64_t(row) * groups + group;
#pragma unroll
    for (int i = 0; i < kTables; i++) {
      const bool met = i == 0 || (group + i < groups && (kWhole || place + 32 > kGroup));
      if (met) held.scales[i] = scales.Bits(at + i);
    }
    const uint64_t from = reinterpret_cast<uint64_t>(trits) + uint64_t(at) * kGroupBytes + uint64_t(place / 5);
    const uint64_t start = from & ~uint64_t(7);
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
      for (int i = 0; i < kBytes; i++) {
        if (from + i >= end) continue;
        held.words[i / 4] |= uint32_t(Load(reinterpret_cast<const uint8_t*>(from) + i)) << (8 * (i % 4));
      }
    }
  }

  DEVICE void Land(const Held& held, uint32_t at, int line, int half, int, int input) const {
    const int place = input % kGroup;
    uint32_t bytes[2], words[16];
    Align(held, bytes);
    if constexpr (!kWhole) SkipDigits(bytes, place % 5);
#pragma unroll
    for (int first = 0; first < 32; first += kLength) {  // of the digits in a row
#pragma unroll
      for (int ten = 0; ten < kLength; ten += 10) {
        uint32_t digits[5];
        const int byte = first / kLength * kGroupBytes + ten / 5;
        DigitsOfTwo(digits, Pair(bytes, byte));
#pragma unroll
        for (int i = 0; i < 10; i += 2) {
          if (ten + i >= kLength) continue;
          const int word = (first + ten + i) / 2, table = kCut ? int(2 * word >= kGroup - place) : first / kLength;
          words[word] = WeightTable(Chosen(held, table)).OfPair(Neighbours(digits, i));
        }
      }
    }
    StoreHalfLine(at, line, half, words);
  }

 private:
  static DEVICE uint32_t Chosen(const Held& held, int table) {
    return kCut ? held.scales[0] ^ ((held.scales[0] ^ held.scales[kTables - 1]) & uint32_t(-table))
                : held.scales[table];
  }
  // The words from byte `skip` on.
  static DEVICE void Align(const Held& held, uint32_t (&bytes)[2]) {
    uint32_t by_four[3];
    const uint32_t selector = 0x3210u + 0x1111u * (held.skip & 3);
#pragma unroll
    for (int i = 0; i < 3; i++) by_four[i] = held.skip & 4 ? held.words[i + 1] : held.words[i];
#pragma unroll
    for (int i = 0; i < 2; i++) bytes[i] = PermuteBytes(by_four[i], by_four[i + 1], selector);
  }
  // Bytes i, which is even or the first of an odd number, and i + 1 at bits 0 and 16; behind the last anything.
  static DEVICE uint32_t Pair(const uint32_t (&bytes)[2], int i) {
    const int next = i < 7 ? i + 1 : i;
    return PermuteBytes(bytes[i / 4], bytes[next / 4], uint32_t(i % 4 | (4 + next % 4) << 8)) & 0x00FF00FFu;
  }
  // Digits i and i + 1 of the ten of two bytes, in the two low bytes.
  static DEVICE uint32_t Neighbours(const uint32_t (&digits)[5], int i) {
    const uint32_t low = i < 5 ? 1 : 3, high = i + 1 < 5 ? 5 : 7;
    return PermuteBytes(digits[i % 5], digits[(i + 1) % 5], high << 4 | low);
  }
};

// Groups of any length: byte by byte, each weight stored by itself.
template <typename Scales>
struct LineDecoder<Scales, 0> {
  struct Held {};
  Layout<0> layout;
  const uint8_t* trits;
  Scales scales;
  int rows;

  DEVICE LineDecoder(const Call& call, int64_t member, const Scales& of_lines)
      : layout(call), trits(call.Operand<uint8_t>(1, member)), scales(of_lines), rows(call.out_dim) {}

  DEVICE void Fetch(Held&, int, int) const {}

  DEVICE void Land(const Held&, uint32_t at, int line, int half, int row, int input) const {
    const int count = row < rows ? Min(32, layout.in_dim - input) : 0;
    if (count < 32) StoreHalfLine(at, line, half, {});
    int group = input / layout.Group(), place = input % layout.Group();
    const uint8_t* bytes = trits + int64_t(row) * layout.RowBytes();
    for (int i = 0; i < count;) {
      const int first = place % 5, end = Min(5, layout.Group() - place + first);  // digits that belong here
      const WeightTable table(scales.Bits(int64_t(row) * layout.Groups() + group));
      uint32_t fraction = Fraction(Load(bytes + group * layout.GroupBytes() + place / 5));
#pragma unroll
      for (int digit = 4; digit >= 0; digit--) {
        const uint32_t w = fraction * 3;
        const int to = i + digit - first;
        fraction = w & 255;
        if (digit < first || to >= count) continue;  // what lies behind the group the next one replaces
        const uint32_t byte = Swizzled(at + uint32_t(line * kLine + half * 64 + 2 * to));
        SharedAt<uint16_t>(byte)[0] = OfDigit(table.low, table.high, w >> 8);
      }
      i += end - first;
      place += end - first;
      if (place == layout.Group()) {
        place = 0;
        group++;
      }
    }
  }
};

}  // namespace hopper
