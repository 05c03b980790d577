// What the Rust tests call: kernels by the name of their class, on buffers that have been registered.
#pragma once
#include <cstdint>
#include <map>
#include <string>

#include "call.cuh"
#include "hopper.cuh"

namespace emulation {

using Body = void (*)(const Call&, const TensorMap*);

// Kernels take tensor maps or none. A fault in what all share has a `struct Call` of its own.
template <typename Argument>
void Run(void (*run)(const Argument&), const Argument& call, const TensorMap*) {
  run(call);
}
template <typename Argument>
void Run(void (*run)(const Argument&, const TensorMap*), const Argument& call, const TensorMap* maps) {
  run(call, maps);
}

inline std::map<std::string, Body>& Kernels() {
  static std::map<std::string, Body> kernels;
  return kernels;
}

struct Registered {
  Registered(const char* name, Body body) { Kernels()[name] = body; }
};

}  // namespace emulation

#ifdef TERNAX_EMULATION_ENTRY
#define EXPORTED extern "C" __attribute__((visibility("default")))

EXPORTED void emulation_register(const void* data, size_t bytes) {
  emulation::Buffers()[reinterpret_cast<uintptr_t>(data)] = bytes;
}

EXPORTED void emulation_forget(const void* data) { emulation::Buffers().erase(reinterpret_cast<uintptr_t>(data)); }

EXPORTED size_t emulation_call_bytes() { return sizeof(Call); }

// 0, or 1 and a message that says what the machine caught.
EXPORTED int emulation_launch(const char* name, const unsigned* grid, unsigned threads, unsigned shared_bytes,
                              const void* argument, const void* arguments_of_maps, size_t maps, int schedule,
                              int rounding, unsigned seed, char* message, size_t size) {
  try {
    auto found = emulation::Kernels().find(name);
    if (found == emulation::Kernels().end()) throw emulation::Error("no kernel of this name was compiled");
    Call call;
    memcpy(&call, argument, sizeof call);
    TensorMaps encoded;
    for (size_t i = 0; i < maps; i++) {
      const auto* arguments = static_cast<const emulation::TensorMapArguments*>(arguments_of_maps);
      if (const char* broken = emulation::Encode(arguments[i], encoded.of[i])) throw emulation::Error(broken);
    }
    emulation::Options options{emulation::Schedule(schedule), emulation::Rounding(rounding), seed};
    emulation::Launch(name, {grid[0], grid[1], grid[2]}, threads, shared_bytes, options,
                      [&] { found->second(call, encoded.of); });
    return 0;
  } catch (const std::exception& error) {
    emulation::block = nullptr;
    emulation::self = nullptr;
    snprintf(message, size, "%s", error.what());
    return 1;
  }
}
#endif
