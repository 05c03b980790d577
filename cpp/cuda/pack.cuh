// Trits to bytes and back, a thread for each byte; grid (ceil(count / 256)), count in bytes.
#pragma once
#include "call.cuh"
#include "numbers.cuh"

// The five places of one byte: its row, group, and the inputs from `first` to `end` that it holds.
struct Five {
  int64_t row, scale, input;
  int count;
  DEVICE Five(const Call& call, int64_t byte) {
    const Layout<0> layout(call);
    row = byte / layout.RowBytes();
    const int within = int(byte % layout.RowBytes()), group = within / layout.GroupBytes();
    const int place = within % layout.GroupBytes() * 5, column = group * layout.Group() + place;
    scale = row * layout.Groups() + group;
    input = row * call.in_dim + column;
    count = Max(0, Min(5, Min(layout.Group() - place, call.in_dim - column)));
  }
};

struct Pack {
  static constexpr int kThreads = 256;
  static DEVICE void Run(const Call& call) {
    const int64_t i = int64_t(blockIdx.x) * kThreads + threadIdx.x;
    if (i >= call.count) return;
    const Five five(call, i);
    uint32_t byte = 0;
    for (int digit = 4; digit >= 0; digit--) {
      byte = 3 * byte + 1;
      if (digit < five.count) byte += uint32_t(int(Load(call.Operand<int8_t>(0, 0) + five.input + digit)));
    }
    Store(call.Result<uint8_t>(0, 0) + i, uint8_t(byte));
  }
};

struct Unpack {
  static constexpr int kThreads = 256;
  static DEVICE void Run(const Call& call) {
    const int64_t i = int64_t(blockIdx.x) * kThreads + threadIdx.x;
    if (i >= call.count) return;
    const Five five(call, i);
    uint32_t rest = Load(call.Operand<uint8_t>(0, 0) + i);
    for (int digit = 0; digit < five.count; digit++, rest /= 3) {
      Store(call.Result<int8_t>(0, 0) + five.input + digit, int8_t(int(rest % 3) - 1));
    }
  }
};

// The dense weights S T, rounded once to W.
template <typename S, typename W>
struct Dequantize {
  static constexpr int kThreads = 256;
  static DEVICE void Run(const Call& call) {
    const int64_t i = int64_t(blockIdx.x) * kThreads + threadIdx.x;
    if (i >= call.count) return;
    const Five five(call, i);
    if (five.count == 0) return;
    const float scale = ToFloat(Load(call.Operand<S>(1, 0) + five.scale));
    uint32_t rest = Load(call.Operand<uint8_t>(0, 0) + i);
    for (int digit = 0; digit < five.count; digit++, rest /= 3) {
      const float weight = MultiplyRounded(scale, float(int(rest % 3) - 1));
      Store(call.Result<W>(0, 0) + five.input + digit, FromFloat<W>(weight));
    }
  }
};

// The same, a thread for each 16 bytes of the result, which lie in one group; grid (ceil(count / 256)), count in those.
template <typename S, typename W>
struct DequantizeChunks {
  static constexpr int kThreads = 256, kEach = 16 / int(sizeof(W));
  static DEVICE void Run(const Call& call) {
    const int64_t i = int64_t(blockIdx.x) * kThreads + threadIdx.x;
    if (i >= call.count) return;
    const Layout<0> layout(call);
    const int chunks = call.in_dim / kEach;  // of a row
    const int64_t row = i / chunks;
    const int column = int(i % chunks) * kEach, group = column / layout.Group(), place0 = column % layout.Group();
    const int byte0 = place0 / 5;
    const uint8_t* bytes =
        call.Operand<uint8_t>(0, 0) + row * layout.RowBytes() + int64_t(group) * layout.GroupBytes() + byte0;
    const float scale = ToFloat(Load(call.Operand<S>(1, 0) + row * layout.Groups() + group));
    uint32_t fractions = 0;  // of the bytes that hold the chunk: at most three
#pragma unroll
    for (int b = 0; b < 3; b++) {
      if (5 * (byte0 + b) < place0 + kEach) fractions |= (Fraction(Load(bytes + b)) & 255) << (8 * b);
    }
    const W weights[3] = {FromFloat<W>(-scale), FromFloat<W>(MultiplyRounded(scale, 0.0f)), FromFloat<W>(scale)};
    uint32_t words[4] = {};
#pragma unroll
    for (int k = 0; k < kEach; k++) {
      const int place = place0 - 5 * byte0 + k, b = (place >= 5) + (place >= 10);
      // 3 to the power of the digits above this one, which it drops from the fraction: 81, 27, 9, 3, 1.
      const uint32_t power = PermuteBytes(0x03091B51u, 1u, uint32_t(place - 5 * b)) & 255;
      const uint32_t digit = ((fractions >> (8 * b) & 255) * power & 255) * 3 >> 8;
      const W weight = digit == 0 ? weights[0] : digit == 1 ? weights[1] : weights[2];
      if constexpr (sizeof(W) == 4) {
        words[k] = FloatBits(ToFloat(weight));
      } else {
        words[k / 2] |= uint32_t(weight.bits) << (k % 2 * 16);
      }
    }
    Store(reinterpret_cast<uint4*>(call.Result<W>(0, 0)) + i, uint4{words[0], words[1], words[2], words[3]});
  }
};
