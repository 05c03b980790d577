// score[o, g] = sum over i in group g of sign(dW[o, i]) T[o, i], dW = dy^t x over all tokens, on Hopper.
//
// As in correlate.cuh a tile of dW stays in registers for the whole sum and is never stored, and its columns are whole
// groups, or pieces of one. Tokens are the slow dimension of both operands.
#pragma once
#include "correlate.cuh"
#include "hopper_tile.cuh"

template <typename X>
struct HopperCorrelate {
  static constexpr int kThreads = hopper::kThreads, kShared = hopper::kShared;
  static constexpr int kSignPitch = hopper::kColumns + 4;
  static_assert(hopper::kRows * kSignPitch <= hopper::kBarriers, "the signs take the place of the stages");
  using Multiplying = hopper::Multiplying<Operand<X>::kHalf, true, true>;

  static DEVICE void Fill(const Call& call, hopper::Filling& filling, int64_t member, int out0, int input0, int width) {
    const hopper::LineCopier<X, hopper::kRows, hopper::kSteps> rows{call.Operand<X>(1, member), call.out_dim};
    const hopper::LineCopier<X, hopper::kColumns, hopper::kSteps> inputs{call.Operand<X>(0, member), call.in_dim};
    for (int token = 0; token < call.tokens; token += hopper::kSteps) {
      filling.Open();
      rows.Copy(token, call.tokens - token, out0, call.out_dim - out0, filling.turn.At());
      inputs.Copy(token, call.tokens - token, input0, width, filling.turn.At() + hopper::kRight);
      filling.Close();
    }
    filling.Finish();
  }

  static DEVICE void StoreSigns(Shared<int8_t> signs, const float (&d)[2][kAccumulators]) {
#pragma unroll
    for (int i = 0; i < 2 * kAccumulators; i++) {
      const int block = i / kAccumulators, at = i % kAccumulators;
      const float gradient = d[block][at];
      signs[Multiplying::Row(block, at) * kSignPitch + Multiplying::Column(at)] =
          int8_t((gradient > 0) - (gradient < 0));
    }
  }

  // grid (ceil(out / 256), pieces of columns, members)
  static DEVICE void Run(const Call& call) {
    const Layout<0> layout(call);
    const int64_t member = blockIdx.z;
    const int group = layout.Group(), groups = layout.Groups(), out0 = int(blockIdx.x) * hopper::kRows;
    const int together = Max(1, hopper::kColumns / group);  // groups in a tile
    const int group0 = int(blockIdx.y) * together, here = Min(together, groups - group0);
    const bool fills = int(threadIdx.x) < hopper::kFillers;
    const Shared<int8_t> signs = SharedAt<int8_t>(0);
    if (blockIdx.x == 0 && blockIdx.y == 0 && threadIdx.x == 0) Store(call.Result<float>(1, member), 1.0f);
    hopper::StartRing();
    hopper::Filling filling;
    Multiplying multiplying;
    for (int first = 0; first < group; first += hopper::kColumns) {
      const int input0 = group0 * group + first;
      const int width = Min(call.in_dim - input0, Min(hopper::kColumns, together * group - first));
      if (fills) {
        Fill(call, filling, member, out0, input0, width);
        SyncBlock();
      } else {
        float d[2][kAccumulators];
        multiplying.Run(d, CeilDivide(call.tokens, hopper::kSteps));
        SyncBlock();  // no warpgroup reads stages any more
        StoreSigns(signs, d);
      }
      SyncBlock();
      for (int i = int(threadIdx.x); i < hopper::kRows * here; i += kThreads) {
        const int row = i / here, g = group0 + i % here;
        if (out0 + row >= call.out_dim) continue;
        const uint8_t* bytes =
            call.Operand<uint8_t>(2, member) + (out0 + row) * layout.RowBytes() + int64_t(g) * layout.GroupBytes();
        const int count = Min(Min(hopper::kColumns, group - first), call.in_dim - g * group - first);
        float* to = call.Result<float>(0, member) + int64_t(out0 + row) * groups + g;
        const float before = first ? Load(to) : 0.0f;
        Store(to, before + float(Agreement(bytes, signs + (row * kSignPitch + i % here * group), first, count)));
      }
      SyncBlock();
    }
  }
};
