// score[o, g] = sum over i in group g of sign(dW[o, i]) T[o, i], dW = dy^t x over all tokens, on Hopper.
//
// As in correlate.cuh a tile of dW stays in registers for the whole sum and is never stored, and its columns are whole
// groups, or pieces of one. Tokens are the slow dimension of both operands.
#pragma once
#include "correlate.cuh"
#include "hopper_tile.cuh"

template <typename X, bool kBulk = false>
struct HopperCorrelate {
  static constexpr int kThreads = hopper::kThreads, kShared = hopper::kShared;
  static constexpr int kSignPitch = hopper::kColumns + 4;
  static_assert(hopper::kRows * kSignPitch <= hopper::kBarriers, "the signs take the place of the stages");
  using Multiplying = hopper::Multiplying<Operand<X>::kHalf, true, true>;

  using Filling = hopper::Filling<kBulk>;

  // By the first warp alone.
  static DEVICE void FillBoxes(const Call& call, const TensorMap* maps, Filling& filling, int64_t member, int out0,
                               int input0) {
    const hopper::BoxCopier<hopper::kRows, hopper::kSteps> rows(maps, call, 1, member);
    const hopper::BoxCopier<hopper::kColumns, hopper::kSteps> inputs(maps + 1, call, 0, member);
    for (int token = 0; token < call.tokens; token += hopper::kSteps) {
      filling.Open();
      const Shared<uint64_t> full = hopper::Full(filling.turn.stage);
      rows.Copy(token, out0, filling.turn.At(), full);
      inputs.Copy(token, input0, filling.turn.At() + hopper::kRight, full);
      filling.Close();
    }
  }

  static DEVICE void Fill(const Call& call, Filling& filling, int64_t member, int out0, int input0, int width) {
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

  // The columns of a block: whole groups, or one in pieces.
  struct Columns {
    Layout<0> layout;
    int out0, group0, here;  // first row; groups [group0, group0 + here)
    int together;            // groups in a tile
    DEVICE explicit Columns(const Call& call) : layout(call) {
      together = Max(1, hopper::kColumns / layout.Group());
      out0 = int(blockIdx.x) * hopper::kRows;
      group0 = int(blockIdx.y) * together;
      here = Min(together, layout.Groups() - group0);
    }
    // Of the piece whose first column is `first` of the groups.
    DEVICE int Input(int first) const { return group0 * layout.Group() + first; }
    DEVICE int Width(int first) const {
      return Min(layout.in_dim - Input(first), Min(hopper::kColumns, together * layout.Group() - first));
    }
  };

  // All threads: the scores of a piece, added to those of the pieces before.
  static DEVICE void StoreScores(const Call& call, const Columns& columns, int64_t member, int first) {
    const Layout<0>& layout = columns.layout;
    const int group = layout.Group();
    SyncBlock();  // the signs are there
    for (int i = int(threadIdx.x); i < hopper::kRows * columns.here; i += kThreads) {
      const int row = i / columns.here, at = i % columns.here, g = columns.group0 + at;
      if (columns.out0 + row >= call.out_dim) continue;
      const uint8_t* bytes = call.Operand<uint8_t>(2, member) + (columns.out0 + row) * layout.RowBytes() +
                             int64_t(g) * layout.GroupBytes();
      const int count = Min(Min(hopper::kColumns, group - first), call.in_dim - g * group - first);
      float* to = call.Result<float>(0, member) + int64_t(columns.out0 + row) * layout.Groups() + g;
      const float before = first ? Load(to) : 0.0f;
      const Shared<int8_t> signs = SharedAt<int8_t>(uint32_t(row * kSignPitch + at * group));
      Store(to, before + float(Agreement(bytes, signs, first, count)));
    }
    if constexpr (kBulk) FenceProxies();  // the next copies overwrite the signs
    SyncBlock();                          // before the next piece
  }

  // grid (ceil(out / 256), pieces of columns, members)
  static DEVICE void Run(const Call& call, [[maybe_unused]] const TensorMap* maps = nullptr) {
    const Columns columns(call);
    const int64_t member = blockIdx.z;
    if (blockIdx.x == 0 && blockIdx.y == 0 && threadIdx.x == 0) Store(call.Result<float>(1, member), 1.0f);
    hopper::StartRing(kBulk ? 1 : hopper::kFillers / 32);
    if (int(threadIdx.x) < hopper::kFillers) {
      GiveUpRegisters<hopper::kFillersRegisters>();
      Filling filling;
      for (int first = 0; first < columns.layout.Group(); first += hopper::kColumns) {
        if constexpr (!kBulk) {
          Fill(call, filling, member, columns.out0, columns.Input(first), columns.Width(first));
        } else if (threadIdx.x < 32) {
          FillBoxes(call, maps, filling, member, columns.out0, columns.Input(first));
        }
        SyncBlock();
        StoreScores(call, columns, member, first);
      }
      return;
    }
    TakeRegisters<hopper::kMultipliersRegisters>();
    Multiplying multiplying;
    for (int first = 0; first < columns.layout.Group(); first += hopper::kColumns) {
      float d[2][kAccumulators];
      multiplying.Run(d, CeilDivide(call.tokens, hopper::kSteps));
      SyncBlock();  // no warpgroup reads stages any more
      StoreSigns(SharedAt<int8_t>(0), d);
      StoreScores(call, columns, member, first);
    }
  }
};
