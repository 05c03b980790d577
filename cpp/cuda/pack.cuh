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

// The dense weights S T, float32.
template <typename S>
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
      Store(call.Result<float>(0, 0) + five.input + digit, MultiplyRounded(scale, float(int(rest % 3) - 1)));
    }
  }
};
