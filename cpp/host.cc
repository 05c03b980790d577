// Functions that Python calls by itself, outside of any XLA program.
//
// Each returns the code of its Outcome (src/xla/bridge.rs); ternax_host_text has what was asked for, or what went
// wrong.

#include <cstddef>
#include <cstdint>
#include <exception>
#include <string>
#include <vector>

#include "rust/cxx.h"
#include "ternax/src/xla/bridge.rs.h"
#include "xla/ffi/api/c_api.h"

namespace {

// The text of this thread's last call.
thread_local std::string last_text;

// Runs `call` and keeps its text; nothing may unwind into Python.
template <typename Call>
int32_t Answer(Call&& call) {
  try {
    ternax::Outcome outcome = call();
    last_text.assign(outcome.text.data(), outcome.text.size());
    return outcome.code;
  } catch (const std::exception& error) {
    last_text = error.what();
  } catch (...) {
    last_text = "ternax: unknown C++ exception";
  }
  return 2;
}

template <typename Piece, typename Byte>
std::vector<Piece> Pieces(Byte* const* data, const size_t* sizes, size_t count) {
  std::vector<Piece> pieces;
  for (size_t i = 0; i < count; ++i) pieces.push_back({{data[i], sizes[i]}});
  return pieces;
}

rust::Slice<const uint8_t> Slice(const uint8_t* data, size_t size) { return {data, size}; }

}  // namespace

// The XLA FFI version that this library was compiled against: major * 1000 + minor.
extern "C" int32_t ternax_host_ffi_version() { return XLA_FFI_API_MAJOR * 1000 + XLA_FFI_API_MINOR; }

// What this thread's last call gave, until its next one.
extern "C" const char* ternax_host_text() { return last_text.c_str(); }

// Opens a checkpoint and checks it whole; `group_size` 0 stands for none given. The text describes its tensors, as
// JSON.
extern "C" int32_t ternax_host_checkpoint_open(const uint8_t* path, size_t size, int64_t group_size, void** reader) {
  return Answer([&] {
    auto opened = ternax::checkpoint_reader();
    auto outcome = opened->open(Slice(path, size), group_size);
    if (outcome.code == 0) *reader = opened.into_raw();
    return outcome;
  });
}

// Copies the described tensors, in ternax's layout, into one buffer each.
extern "C" int32_t ternax_host_checkpoint_read(const void* reader, uint8_t* const* buffers, const size_t* sizes,
                                               size_t count) {
  return Answer([&] {
    auto pieces = Pieces<ternax::Buffer>(buffers, sizes, count);
    return static_cast<const ternax::CheckpointReader*>(reader)->read({pieces.data(), pieces.size()});
  });
}

// Closes what checkpoint_open opened.
extern "C" void ternax_host_checkpoint_close(void* reader) {
  rust::Box<ternax::CheckpointReader>::from_raw(static_cast<ternax::CheckpointReader*>(reader));
}

// Writes the described tensors, given in ternax's layout, to a file in the torch or in ternax's layout.
extern "C" int32_t ternax_host_checkpoint_write(const uint8_t* path, size_t path_size, int32_t torch,
                                                const uint8_t* description, size_t description_size,
                                                const uint8_t* const* tensors, const size_t* sizes, size_t count) {
  return Answer([&] {
    auto pieces = Pieces<ternax::Bytes>(tensors, sizes, count);
    return ternax::checkpoint_write(Slice(path, path_size), torch != 0, Slice(description, description_size),
                                    {pieces.data(), pieces.size()});
  });
}

// Runs the command `ternax`; the text is its exit code.
extern "C" int32_t ternax_host_command(const uint8_t* const* arguments, const size_t* sizes, size_t count) {
  return Answer([&] {
    auto pieces = Pieces<ternax::Bytes>(arguments, sizes, count);
    return ternax::command({pieces.data(), pieces.size()});
  });
}

// The text is the number of float32 elements of scratch that a call on a GPU needs; `request` describes it, as JSON.
extern "C" int32_t ternax_host_gpu_scratch(const uint8_t* request, size_t size) {
  return Answer([&] { return ternax::gpu_scratch(Slice(request, size)); });
}

// The text is empty where CUDA's compiler is at hand, else why not; `folders` hold NVIDIA's Python packages.
extern "C" int32_t ternax_host_gpu_compiler(const uint8_t* const* folders, const size_t* sizes, size_t count) {
  return Answer([&] {
    auto pieces = Pieces<ternax::Bytes>(folders, sizes, count);
    return ternax::gpu_compiler({pieces.data(), pieces.size()});
  });
}
