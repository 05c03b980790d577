// The number types of activations and scales, and how they become operands of the tensor cores.
#pragma once
#include "ptx.cuh"

DEVICE float ToFloat(float value) { return value; }
DEVICE float ToFloat(bf16 value) { return BitsFloat(uint32_t(value.bits) << 16); }
DEVICE float ToFloat(f16 value) { return FromF16(value); }

template <typename T>
DEVICE T FromFloat(float value);
template <>
DEVICE float FromFloat<float>(float value) {
  return value;
}
template <>
DEVICE bf16 FromFloat<bf16>(float value) {
  return ToBf16(value);
}
template <>
DEVICE f16 FromFloat<f16>(float value) {
  return ToF16(value);
}

template <typename T, typename U>
inline constexpr bool kSame = false;
template <typename T>
inline constexpr bool kSame<T, T> = true;

// The first bfloat16 limb of `rest`, which keeps what is left. Limbs are rounded to nearest, so three carry a float32
// exactly; where that would overflow the limb is cut instead, and an infinity or NaN is one limb.
DEVICE uint16_t TakeLimb(float& rest) {
  uint32_t limb = uint32_t(ToBf16(rest).bits) << 16;
  if ((limb & 0x7FFFFFFFu) == 0x7F800000u) limb = FloatBits(rest) & 0xFFFF0000u;
  const float left = AddRounded(rest, -BitsFloat(limb));
  rest = left == left ? left : 0.0f;
  return uint16_t(limb >> 16);
}

// The same in float16, for values that were brought into its range: two carry 22 bits, down to 2^-25 in all.
DEVICE uint16_t TakeHalf(float& rest) {
  const f16 limb = ToF16(rest);
  const float left = AddRounded(rest, -FromF16(limb));
  rest = left == left ? left : 0.0f;
  return limb.bits;
}

// Numbers of any size are brought into float16's range by a power of two, which the largest finite one of them decides:
// the larger of two sizes, as bits,
DEVICE uint32_t LargerFinite(uint32_t size, float value) {
  const uint32_t other = FloatBits(value) & 0x7FFFFFFFu;
  return other < 0x7F800000u && other > size ? other : size;
}
// and the exponent that brings this size to 2^14.
DEVICE int ExponentTo14(uint32_t size) {
  const int exponent = 14 + 127 - int(size >> 23);
  return exponent < 126 ? exponent : 126;
}

// 2^exponent, which is at least float32's smallest number, 2^-149.
DEVICE float TwoTo(int exponent) {
  return BitsFloat(exponent < -126 ? 1u << (149 + exponent) : uint32_t(127 + exponent) << 23);
}

DEVICE bool IsFinite(float value) { return (FloatBits(value) & 0x7F800000u) != 0x7F800000u; }

// Whether `mine` is true of any thread of a block of kWarps warps, all of which call this. Takes the first words of
// shared memory.
template <int kWarps>
DEVICE bool AnyOfBlock(bool mine) {
  uint32_t any = mine;
#pragma unroll
  for (int distance = 16; distance; distance /= 2) any |= ShuffleXor(any, distance);
  const Shared<uint32_t> warps = SharedAt<uint32_t>(0);
  SyncBlock();  // nothing else is read there any more
  if (threadIdx.x % 32 == 0) warps[int(threadIdx.x) / 32] = any;
  SyncBlock();
  for (int warp = 0; warp < kWarps; warp++) any |= warps[warp];
  SyncBlock();
  return any;
}

// The byte as an 8-bit fraction of 243; each product with 3 pushes the next digit, the highest first, above its 8 bits.
DEVICE uint32_t Fraction(uint32_t byte) { return byte + ((byte * 55 + 1003) >> 10); }

// Operands of the tensor cores for values of type T: float16 values are operands as they are, all others become
// bfloat16 limbs.
template <typename T>
struct Operand {
  static constexpr int kLimbs = 3;
  static constexpr bool kHalf = false;
};
template <>
struct Operand<bf16> {
  static constexpr int kLimbs = 1;
  static constexpr bool kHalf = false;
};
template <>
struct Operand<f16> {
  static constexpr int kLimbs = 1;
  static constexpr bool kHalf = true;
};

// The exponent by which values of type T are raised before they are cut into limbs: float32 numbers end at 2^-149,
// limbs at 2^-133. Where a sum of raised values is not finite, all of its block are computed anew from the values as
// they are.
template <typename T>
inline constexpr int kRaised = Operand<T>::kLimbs > 1 ? 30 : 0;

// d += a b on float16 or bfloat16 operands.
template <bool kHalf, int kA, int kB>
DEVICE void Multiply(float (&d)[4], const uint32_t (&a)[kA], const uint32_t (&b)[kB]) {
  if constexpr (kHalf) {
    MultiplyF16(d, a, b);
  } else {
    MultiplyBf16(d, a, b);
  }
}
