// The custom calls on NVIDIA GPUs: each handler passes its operands and results, by address, to Rust, which plans what
// to launch.
//
// Two stages: kernels are compiled and loaded before a program first runs, and launched on its stream when it runs. A
// launch allocates nothing and waits for nothing, so that XLA may record it into a CUDA graph.

#include <cstdint>
#include <vector>

#include "handlers.h"
#include "xla/ffi/api/ffi.h"

namespace ffi = xla::ffi;

namespace {

// An attribute, or 0 where the operation has none of this name.
template <typename T>
T Attribute(const ffi::Dictionary& attributes, const char* name) {
  auto found = attributes.get<T>(name);
  return found.has_value() ? *found : T(0);
}

using Stage = decltype(&ternax::gpu_execute);

template <Stage stage>
ffi::Error Call(const char* operation, void* stream, ffi::RemainingArgs operands, ffi::RemainingRets results,
                ffi::Dictionary attributes) {
  return ternax::Guarded([&] {
    std::vector<ternax::Input> inputs;
    std::vector<ternax::Output> outputs;
    for (size_t i = 0; i < operands.size(); ++i)
      inputs.push_back(ternax::View(operands.get<ffi::AnyBuffer>(i).value()));
    for (size_t i = 0; i < results.size(); ++i) {
      ternax::Result result = results.get<ffi::AnyBuffer>(i).value();
      outputs.push_back(ternax::View(result));
    }
    ternax::GpuAttributes values{Attribute<int64_t>(attributes, "group_size"), Attribute<float>(attributes, "gain"),
                                 Attribute<int64_t>(attributes, "wanted_votes")};
    stage(operation, {inputs.data(), inputs.size()}, {outputs.data(), outputs.size()}, values,
          reinterpret_cast<uintptr_t>(stream));
  });
}

// A binding of any operands and results, of the attributes and of XLA's stream.
template <ffi::ExecutionStage stage>
auto Any() {
  return ffi::Ffi::Bind<stage>()
      .template Ctx<ffi::PlatformStream<void*>>()
      .RemainingArgs()
      .RemainingRets()
      .template Attrs<ffi::Dictionary>();
}

}  // namespace

#define TERNAX_GPU_CALL(NAME)                                                                                         \
  XLA_FFI_DEFINE_HANDLER_SYMBOL(ternax_gpu_##NAME,                                                                    \
                                [](auto... arguments) { return Call<&ternax::gpu_execute>(#NAME, arguments...); },    \
                                Any<ffi::ExecutionStage::kExecute>(), {ffi::Traits::kCmdBufferCompatible});           \
  XLA_FFI_DEFINE_HANDLER_SYMBOL(ternax_gpu_##NAME##_initialize,                                                       \
                                [](auto... arguments) { return Call<&ternax::gpu_initialize>(#NAME, arguments...); }, \
                                Any<ffi::ExecutionStage::kInitialize>(), {ffi::Traits::kCmdBufferCompatible})

TERNAX_GPU_CALL(scale);
TERNAX_GPU_CALL(matmul);
TERNAX_GPU_CALL(matmul_transposed);
TERNAX_GPU_CALL(correlate);
TERNAX_GPU_CALL(correlate_dense);
TERNAX_GPU_CALL(accumulate);
TERNAX_GPU_CALL(pack);
TERNAX_GPU_CALL(unpack);
TERNAX_GPU_CALL(dequantize);
