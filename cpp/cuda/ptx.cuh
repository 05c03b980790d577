// The machine instructions that kernels use, once for the device and once for the emulation of the tests, side by side.
//
// No CUDA header is included: the half types are 16-bit patterns of our own, so that NVRTC needs no include path where
// ternax runs.
#pragma once

#ifdef TERNAX_EMULATION
#include <cmath>

#include "emulation/memory.h"
#include "emulation/tensor_core.h"
#define __device__
#define __forceinline__ inline
#define __restrict__
#define threadIdx (::emulation::self->id)
#define blockIdx (::emulation::block->id)
#define gridDim (::emulation::block->grid)
#define DEVICE inline
struct alignas(8) uint2 {
  unsigned x, y;
};
struct alignas(16) uint4 {
  unsigned x, y, z, w;
};
#else
#define DEVICE __device__ __forceinline__
using int8_t = signed char;
using uint8_t = unsigned char;
using int16_t = short;
using uint16_t = unsigned short;
using int32_t = int;
using uint32_t = unsigned;
using int64_t = long long;
using uint64_t = unsigned long long;
#endif

struct bf16 {
  uint16_t bits;
};
struct f16 {
  uint16_t bits;
};

constexpr uint32_t kWarp = 0xFFFFFFFFu;

// ------------------------------------------------------------------------------------------------------ plain
// arithmetic
#ifdef TERNAX_EMULATION
inline uint32_t FloatBits(float value) {
  uint32_t bits;
  memcpy(&bits, &value, 4);
  return bits;
}
inline float BitsFloat(uint32_t bits) {
  float value;
  memcpy(&value, &bits, 4);
  return value;
}
// Four of the eight bytes of (high, low), named by the four nibbles of `selector`.
inline uint32_t PermuteBytes(uint32_t low, uint32_t high, uint32_t selector) {
  uint64_t bytes = uint64_t(high) << 32 | low;
  uint32_t result = 0;
  for (int i = 0; i < 4; i++) {
    uint32_t nibble = selector >> (4 * i) & 15, byte = uint32_t(bytes >> (8 * (nibble & 7))) & 255;
    if (nibble & 8) byte = byte & 128 ? 255 : 0;
    result |= byte << (8 * i);
  }
  return result;
}
inline bf16 ToBf16(float value) {
  uint32_t bits = FloatBits(value);
  if (value != value) return {0x7FFF};
  return {uint16_t((bits + 0x7FFF + (bits >> 16 & 1)) >> 16)};
}
inline f16 ToF16(float value) {
  _Float16 half = _Float16(value);
  f16 result;
  memcpy(&result, &half, 2);
  return result;
}
inline float FromF16(f16 value) {
  _Float16 half;
  memcpy(&half, &value, 2);
  return float(half);
}
namespace emulation {
template <float (*From)(uint16_t), uint16_t (*To)(float)>
uint32_t AddPairs(uint32_t a, uint32_t b) {
  auto one = [](uint32_t p, uint32_t q) { return uint32_t(To(From(uint16_t(p)) + From(uint16_t(q)))); };
  return one(a & 0xFFFF, b & 0xFFFF) | one(a >> 16, b >> 16) << 16;
}
inline float FromBf16Bits(uint16_t bits) { return BitsFloat(uint32_t(bits) << 16); }
inline uint16_t ToBf16Bits(float value) { return ToBf16(value).bits; }
inline float FromF16Bits(uint16_t bits) { return FromF16({bits}); }
inline uint16_t ToF16Bits(float value) { return ToF16(value).bits; }
}  // namespace emulation
inline uint32_t AddBf16Pairs(uint32_t a, uint32_t b) {
  return emulation::AddPairs<emulation::FromBf16Bits, emulation::ToBf16Bits>(a, b);
}
inline uint32_t AddF16Pairs(uint32_t a, uint32_t b) {
  return emulation::AddPairs<emulation::FromF16Bits, emulation::ToF16Bits>(a, b);
}
// Each rounded once, to nearest even, and never contracted into another operation.
inline float AddRounded(float a, float b) { return a + b; }
inline float MultiplyRounded(float a, float b) { return a * b; }
inline float DivideRounded(float a, float b) { return a / b; }
inline float FusedMultiplyAdd(float a, float b, float c) { return std::fma(a, b, c); }
inline float RoundedFromInt64(int64_t value) { return float(value); }
inline float RoundedFromUint64(uint64_t value) { return float(value); }
inline uint64_t HighProduct(uint64_t a, uint64_t b) { return uint64_t((unsigned __int128)(a)*b >> 64); }
inline int LeadingZeros(uint64_t value) { return value ? __builtin_clzll(value) : 64; }
inline float Truncated(float value) { return std::trunc(value); }
inline int RoundedToInt(float value) { return int(std::lrint(value)); }
// The low word of (high, low) shifted right by less than 32 bits.
inline uint32_t FunnelShift(uint32_t low, uint32_t high, uint32_t bits) {
  return uint32_t((uint64_t(high) << 32 | low) >> bits);
}
#else
DEVICE uint32_t FloatBits(float value) { return __float_as_uint(value); }
DEVICE float BitsFloat(uint32_t bits) { return __uint_as_float(bits); }
DEVICE uint32_t PermuteBytes(uint32_t low, uint32_t high, uint32_t selector) {
  return __byte_perm(low, high, selector);
}
DEVICE bf16 ToBf16(float value) {
  bf16 result;
  asm("cvt.rn.bf16.f32 %0, %1;" : "=h"(result.bits) : "f"(value));
  return result;
}
DEVICE f16 ToF16(float value) {
  f16 result;
  asm("cvt.rn.f16.f32 %0, %1;" : "=h"(result.bits) : "f"(value));
  return result;
}
DEVICE float FromF16(f16 value) {
  float result;
  asm("cvt.f32.f16 %0, %1;" : "=f"(result) : "h"(value.bits));
  return result;
}
DEVICE uint32_t AddBf16Pairs(uint32_t a, uint32_t b) {  // as a * 1 + b: the plain addition needs sm_90
  uint32_t result;
  asm("fma.rn.bf16x2 %0, %1, %2, %3;" : "=r"(result) : "r"(a), "r"(0x3F803F80u), "r"(b));
  return result;
}
DEVICE uint32_t AddF16Pairs(uint32_t a, uint32_t b) {
  uint32_t result;
  asm("add.rn.f16x2 %0, %1, %2;" : "=r"(result) : "r"(a), "r"(b));
  return result;
}
DEVICE float AddRounded(float a, float b) { return __fadd_rn(a, b); }
DEVICE float MultiplyRounded(float a, float b) { return __fmul_rn(a, b); }
DEVICE float DivideRounded(float a, float b) { return __fdiv_rn(a, b); }
DEVICE float FusedMultiplyAdd(float a, float b, float c) { return __fmaf_rn(a, b, c); }
DEVICE float RoundedFromInt64(int64_t value) { return __ll2float_rn(value); }
DEVICE float RoundedFromUint64(uint64_t value) { return __ull2float_rn(value); }
DEVICE uint64_t HighProduct(uint64_t a, uint64_t b) { return __umul64hi(a, b); }
DEVICE int LeadingZeros(uint64_t value) { return __clzll(int64_t(value)); }
DEVICE float Truncated(float value) { return truncf(value); }
DEVICE int RoundedToInt(float value) { return __float2int_rn(value); }
DEVICE uint32_t FunnelShift(uint32_t low, uint32_t high, uint32_t bits) { return __funnelshift_r(low, high, bits); }
#endif

// ---------------------------------------------------------------------------------------------------------- global
// memory
#ifdef TERNAX_EMULATION
template <typename T>
T Load(const T* pointer) {
  emulation::CheckGlobal(pointer, sizeof(T), alignof(T), "a load");
  return *pointer;
}
template <typename T>
void Store(T* pointer, T value) {
  emulation::CheckGlobal(pointer, sizeof(T), alignof(T), "a store");
  *pointer = value;
}
#else
template <typename T>
DEVICE T Load(const T* pointer) {
  return *pointer;
}
template <typename T>
DEVICE void Store(T* pointer, T value) {
  *pointer = value;
}
#endif

// ---------------------------------------------------------------------------------------------------------- shared
// memory All shared memory is one array. Shared<T> points into it: a plain pointer on the device, a checked one in the
// emulation (whose elements are proxies: write `T v = p[i]`, never `auto`).
#ifdef TERNAX_EMULATION
template <typename T>
struct SharedElement {
  uint32_t at;
  operator T() const {
    emulation::OnRead(at, sizeof(T), alignof(T));
    T value;
    memcpy(&value, emulation::block->shared + at, sizeof(T));
    return value;
  }
  const SharedElement& operator=(const T& value) const {
    emulation::OnWrite(at, sizeof(T), alignof(T));
    memcpy(emulation::block->shared + at, &value, sizeof(T));
    return *this;
  }
  const SharedElement& operator=(const SharedElement& other) const { return *this = T(other); }
};
template <typename T>
struct Shared {
  uint32_t at;
  SharedElement<T> operator[](int i) const { return {at + uint32_t(i) * uint32_t(sizeof(T))}; }
  Shared operator+(int i) const { return {at + uint32_t(i) * uint32_t(sizeof(T))}; }
};
template <typename T>
Shared<T> SharedAt(uint32_t byte) {
  return {byte};
}
template <typename T>
uint32_t SharedAddress(Shared<T> pointer) {
  return pointer.at;
}
// Stores where `wanted` is not 0, without a branch, into which the compiler would move what makes the value.
inline void StoreWhere(uint32_t wanted, Shared<uint16_t> to, uint16_t value) {
  if (wanted) to[0] = value;
}
#else
extern __shared__ __align__(1024) unsigned char shared_memory[];
template <typename T>
using Shared = T*;
template <typename T>
DEVICE Shared<T> SharedAt(uint32_t byte) {
  return reinterpret_cast<T*>(shared_memory + byte);
}
template <typename T>
DEVICE uint32_t SharedAddress(T* pointer) {
  return uint32_t(__cvta_generic_to_shared(pointer));
}
DEVICE void StoreWhere(uint32_t wanted, Shared<uint16_t> to, uint16_t value) {
  asm volatile(
      "{\n"
      ".reg .pred wanted;\n"
      "setp.ne.u32 wanted, %0, 0;\n"
      "@wanted st.shared.u16 [%1], %2;\n"
      "}" ::"r"(wanted),
      "r"(SharedAddress(to)), "h"(value)
      : "memory");
}
#endif

// ------------------------------------------------------------------------------------------------- barriers and
// shuffles
#ifdef TERNAX_EMULATION
inline void SyncBlock() { emulation::BlockBarrier(); }
inline void SyncWarp() { emulation::WarpBarrier(); }
template <typename T>
T ShuffleXor(T value, int distance) {
  return emulation::Collective<T, T>("a shuffle", kWarp, value, [distance](const T* const* in, T* const* out) {
    for (int lane = 0; lane < 32; lane++) *out[lane] = *in[lane ^ distance];
  });
}
// The value of another lane of the warp, each lane naming its own.
inline uint32_t ShuffleFrom(uint32_t value, int lane) {
  struct Asked {
    uint32_t value;
    int lane;
  };
  return emulation::Collective<Asked, uint32_t>("a shuffle from a lane", kWarp, Asked{value, lane},
                                                [](const Asked* const* in, uint32_t* const* out) {
                                                  for (int i = 0; i < 32; i++) *out[i] = in[in[i]->lane & 31]->value;
                                                });
}
#else
DEVICE void SyncBlock() { __syncthreads(); }
DEVICE void SyncWarp() { __syncwarp(); }
template <typename T>
DEVICE T ShuffleXor(T value, int distance) {
  return __shfl_xor_sync(kWarp, value, distance);
}
DEVICE uint32_t ShuffleFrom(uint32_t value, int lane) { return __shfl_sync(kWarp, value, lane); }
#endif

// --------------------------------------------------------------------------------------------------- asynchronous
// copies Copies `from_bytes` to shared memory and zeroes the rest up to kBytes.
#ifdef TERNAX_EMULATION
template <int kBytes>
void CopyAsync(Shared<uint8_t> to, const void* from, uint32_t from_bytes) {
  emulation::StartCopy(to.at, from, kBytes, from_bytes);
}
inline void CommitCopies() { emulation::CommitCopies(); }
template <int kPending>
void WaitForCopies() {
  emulation::WaitForCopies(kPending);
}
#else
template <int kBytes>
DEVICE void CopyAsync(Shared<uint8_t> to, const void* from, uint32_t from_bytes) {
  if constexpr (kBytes == 16) {  // past the L1
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(SharedAddress(to)), "l"(from), "r"(from_bytes)
                 : "memory");
  } else {
    asm volatile("cp.async.ca.shared.global [%0], [%1], %2, %3;" ::"r"(SharedAddress(to)), "l"(from), "n"(kBytes),
                 "r"(from_bytes)
                 : "memory");
  }
}
DEVICE void CommitCopies() { asm volatile("cp.async.commit_group;" ::: "memory"); }
template <int kPending>
DEVICE void WaitForCopies() {
  asm volatile("cp.async.wait_group %0;" ::"n"(kPending) : "memory");
}
#endif

// ------------------------------------------------------------------------------------------------------ ldmatrix and
// mma LoadMatrices: four 8x8 matrices of 16-bit values; lane 8 i + r gives the address of row r of matrix i, and
// register i holds the lane's two values of matrix i, transposed or not. MultiplyBf16, MultiplyF16: d[16x8] += a[16xK]
// b[Kx8], K = 16 or 8, in the fragment layouts of mma.sync. MultiplyBytes: d[16x8] += a[16x32] b[32x8] on unsigned and
// signed bytes, exact modulo 2^32.
#ifdef TERNAX_EMULATION
template <bool kTransposed>
void LoadMatrices(uint32_t (&r)[4], Shared<uint8_t> row) {
  struct Fragment {
    uint32_t r[4];
  };
  emulation::OnRead(row.at, 16, 16);  // charged to the lane that gives the address
  Fragment fragment = emulation::Collective<uint32_t, Fragment>(
      kTransposed ? "ldmatrix.trans" : "ldmatrix", kWarp, row.at, [](const uint32_t* const* in, Fragment* const* out) {
        for (int matrix = 0; matrix < 4; matrix++) {
          for (int lane = 0; lane < 32; lane++) {
            uint16_t v[2];
            for (int h = 0; h < 2; h++) {
              int i = kTransposed ? 2 * (lane % 4) + h : lane / 4, j = kTransposed ? lane / 4 : 2 * (lane % 4) + h;
              memcpy(&v[h], emulation::block->shared + *in[8 * matrix + i] + 2 * j, 2);
            }
            out[lane]->r[matrix] = uint32_t(v[1]) << 16 | v[0];
          }
        }
      });
  memcpy(r, fragment.r, 16);
}
namespace emulation {
template <int kK, float (*From)(uint16_t)>
void Multiply(const char* name, float (&d)[4], const uint32_t* a, const uint32_t* b) {
  struct In {
    uint32_t a[4], b[2];
    float c[4];
  };
  struct Out {
    float d[4];
  };
  In in{};
  memcpy(in.a, a, kK / 4 * 4);
  memcpy(in.b, b, kK / 8 * 4);
  memcpy(in.c, d, 16);
  Out result = Collective<In, Out>(name, kWarp, in, [](const In* const* in, Out* const* out) {
    float left[16][kK], right[kK][8];
    for (int lane = 0; lane < 32; lane++) {
      int quad = lane / 4, t = lane % 4;
      for (int h = 0; h < 2; h++) {
        for (int r = 0; r < kK / 4; r++) {
          left[quad + 8 * (r & 1)][2 * t + 8 * (r >> 1) + h] = From(uint16_t(in[lane]->a[r] >> (16 * h)));
        }
        for (int r = 0; r < kK / 8; r++) right[2 * t + 8 * r + h][quad] = From(uint16_t(in[lane]->b[r] >> (16 * h)));
      }
    }
    for (int row = 0; row < 16; row++) {
      float sums[8];
      for (int n = 0; n < 8; n++) sums[n] = in[row % 8 * 4 + n / 2]->c[row / 8 * 2 + n % 2];
      AddProducts<kK>(sums, left[row], right[0], 8, block->options.rounding);
      for (int n = 0; n < 8; n++) {
        out[row % 8 * 4 + n / 2]->d[row / 8 * 2 + n % 2] = sums[n];
      }
    }
  });
  memcpy(d, result.d, 16);
}
}  // namespace emulation
inline void MultiplyBf16(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
  emulation::Multiply<16, emulation::FromBf16Bits>("mma.bf16", d, a, b);
}
inline void MultiplyBf16(float (&d)[4], const uint32_t (&a)[2], const uint32_t (&b)[1]) {
  emulation::Multiply<8, emulation::FromBf16Bits>("mma.bf16", d, a, b);
}
inline void MultiplyF16(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
  emulation::Multiply<16, emulation::FromF16Bits>("mma.f16", d, a, b);
}
inline void MultiplyF16(float (&d)[4], const uint32_t (&a)[2], const uint32_t (&b)[1]) {
  emulation::Multiply<8, emulation::FromF16Bits>("mma.f16", d, a, b);
}
inline void MultiplyBytes(int (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
  struct In {
    uint32_t a[4], b[2];
    int c[4];
  };
  struct Out {
    int d[4];
  };
  In in;
  memcpy(in.a, a, 16);
  memcpy(in.b, b, 8);
  memcpy(in.c, d, 16);
  Out result = emulation::Collective<In, Out>("mma.u8.s8", kWarp, in, [](const In* const* in, Out* const* out) {
    int left[16][32], right[32][8];
    for (int lane = 0; lane < 32; lane++) {
      int quad = lane / 4, t = lane % 4;
      for (int i = 0; i < 4; i++) {
        for (int r = 0; r < 4; r++)
          left[quad + 8 * (r & 1)][4 * t + 16 * (r >> 1) + i] = int(in[lane]->a[r] >> (8 * i) & 255);
        for (int r = 0; r < 2; r++) right[4 * t + 16 * r + i][quad] = int8_t(in[lane]->b[r] >> (8 * i));
      }
    }
    for (int row = 0; row < 16; row++) {
      for (int n = 0; n < 8; n++) {
        const int lane = row % 8 * 4 + n / 2, e = row / 8 * 2 + n % 2;
        int sum = 0;
        for (int k = 0; k < 32; k++) sum += left[row][k] * right[k][n];
        out[lane]->d[e] = int(uint32_t(in[lane]->c[e]) + uint32_t(sum));
      }
    }
  });
  memcpy(d, result.d, 16);
}
#else
template <bool kTransposed>
DEVICE void LoadMatrices(uint32_t (&r)[4], Shared<uint8_t> row) {
  if constexpr (kTransposed) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(SharedAddress(row))
                 : "memory");
  } else {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(SharedAddress(row))
                 : "memory");
  }
}
#define DEFINE_MULTIPLY(NAME, TYPE)                                                                               \
  DEVICE void NAME(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {                               \
    asm("mma.sync.aligned.m16n8k16.row.col.f32." TYPE "." TYPE                                                    \
        ".f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"                                              \
        : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])                                                          \
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));                                      \
  }                                                                                                               \
  DEVICE void NAME(float (&d)[4], const uint32_t (&a)[2], const uint32_t (&b)[1]) {                               \
    asm("mma.sync.aligned.m16n8k8.row.col.f32." TYPE "." TYPE ".f32 {%0,%1,%2,%3}, {%4,%5}, {%6}, {%0,%1,%2,%3};" \
        : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])                                                          \
        : "r"(a[0]), "r"(a[1]), "r"(b[0]));                                                                       \
  }
DEFINE_MULTIPLY(MultiplyBf16, "bf16")
DEFINE_MULTIPLY(MultiplyF16, "f16")
#undef DEFINE_MULTIPLY
DEVICE void MultiplyBytes(int (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
  // The sums come in apart, so that zeros need no registers.
  asm("mma.sync.aligned.m16n8k32.row.col.s32.u8.s8.s32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%10,%11,%12,%13};"
      : "=r"(d[0]), "=r"(d[1]), "=r"(d[2]), "=r"(d[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]), "r"(d[0]), "r"(d[1]), "r"(d[2]), "r"(d[3]));
}
#endif
