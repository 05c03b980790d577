// The CPU custom calls: each handler views its operands and results and calls the Rust function of the same name.

#include "handlers.h"

#include <cstdint>

#include "xla/ffi/api/ffi.h"

namespace ffi = xla::ffi;
using ternax::Guarded;
using ternax::Operand;
using ternax::Result;
using ternax::View;

namespace {

ffi::Error Scale(Operand exponent, Operand corr, Operand step, Result scale, int64_t group_size, float gain) {
  return Guarded([&] { ternax::scale(View(exponent), View(corr), View(step), View(scale), group_size, gain); });
}

ffi::Error Matmul(Operand x, Operand trits, Operand scale, Result y, int64_t group_size) {
  return Guarded([&] { ternax::matmul(View(x), View(trits), View(scale), View(y), group_size); });
}

ffi::Error MatmulTransposed(Operand dy, Operand trits, Operand scale, Result dx, int64_t group_size) {
  return Guarded([&] { ternax::matmul_transposed(View(dy), View(trits), View(scale), View(dx), group_size); });
}

ffi::Error Correlate(Operand x, Operand dy, Operand trits, Result score, Result votes, int64_t group_size) {
  return Guarded([&] { ternax::correlate(View(x), View(dy), View(trits), View(score), View(votes), group_size); });
}

ffi::Error CorrelateDense(Operand dw, Operand trits, Result score, int64_t group_size) {
  return Guarded([&] { ternax::correlate_dense(View(dw), View(trits), View(score), group_size); });
}

ffi::Error Accumulate(Operand corr, Operand step, Operand score, Operand votes, Result new_corr, Result new_step,
                      int64_t group_size, int64_t wanted_votes) {
  return Guarded([&] {
    ternax::accumulate(View(corr), View(step), View(score), View(votes), View(new_corr), View(new_step), group_size,
                       wanted_votes);
  });
}

ffi::Error Pack(Operand trits, Result packed, int64_t group_size) {
  return Guarded([&] { ternax::pack(View(trits), View(packed), group_size); });
}

ffi::Error Unpack(Operand packed, Result trits, int64_t group_size) {
  return Guarded([&] { ternax::unpack(View(packed), View(trits), group_size); });
}

ffi::Error Dequantize(Operand trits, Operand scale, Result weights, int64_t group_size) {
  return Guarded([&] { ternax::dequantize(View(trits), View(scale), View(weights), group_size); });
}

// A binding of `operands` and `results` buffers and the attribute that all calls have.
template <int operands, int results>
auto Call() {
  if constexpr (results > 0) {
    return Call<operands, results - 1>().template Ret<ffi::AnyBuffer>();
  } else if constexpr (operands > 0) {
    return Call<operands - 1, 0>().template Arg<ffi::AnyBuffer>();
  } else {
    return ffi::Ffi::Bind();
  }
}

}  // namespace

XLA_FFI_DEFINE_HANDLER_SYMBOL(ternax_cpu_scale, Scale, (Call<3, 1>().Attr<int64_t>("group_size").Attr<float>("gain")));
XLA_FFI_DEFINE_HANDLER_SYMBOL(ternax_cpu_matmul, Matmul, (Call<3, 1>().Attr<int64_t>("group_size")));
XLA_FFI_DEFINE_HANDLER_SYMBOL(ternax_cpu_matmul_transposed, MatmulTransposed,
                              (Call<3, 1>().Attr<int64_t>("group_size")));
XLA_FFI_DEFINE_HANDLER_SYMBOL(ternax_cpu_correlate, Correlate, (Call<3, 2>().Attr<int64_t>("group_size")));
XLA_FFI_DEFINE_HANDLER_SYMBOL(ternax_cpu_correlate_dense, CorrelateDense, (Call<2, 1>().Attr<int64_t>("group_size")));
XLA_FFI_DEFINE_HANDLER_SYMBOL(ternax_cpu_accumulate, Accumulate,
                              (Call<4, 2>().Attr<int64_t>("group_size").Attr<int64_t>("wanted_votes")));
XLA_FFI_DEFINE_HANDLER_SYMBOL(ternax_cpu_pack, Pack, (Call<1, 1>().Attr<int64_t>("group_size")));
XLA_FFI_DEFINE_HANDLER_SYMBOL(ternax_cpu_unpack, Unpack, (Call<1, 1>().Attr<int64_t>("group_size")));
XLA_FFI_DEFINE_HANDLER_SYMBOL(ternax_cpu_dequantize, Dequantize, (Call<2, 1>().Attr<int64_t>("group_size")));
