// Decoding of XLA call frames into the views that Rust works on, and the border where exceptions stop.

#ifndef TERNAX_HANDLERS_H_
#define TERNAX_HANDLERS_H_

#include <cstdint>
#include <exception>

#include "rust/cxx.h"
#include "ternax/src/xla/bridge.rs.h"
#include "xla/ffi/api/ffi.h"

namespace ternax {

using Operand = xla::ffi::AnyBuffer;
using Result = xla::ffi::Result<xla::ffi::AnyBuffer>;

inline rust::Slice<const int64_t> Dims(const Operand& buffer) {
  auto dims = buffer.dimensions();
  return {dims.begin(), dims.size()};
}

inline Input View(const Operand& buffer) {
  return {static_cast<const uint8_t*>(buffer.untyped_data()), Dims(buffer),
          static_cast<int32_t>(buffer.element_type())};
}

inline Output View(Result& buffer) {
  return {static_cast<uint8_t*>(buffer->untyped_data()), Dims(*buffer), static_cast<int32_t>(buffer->element_type())};
}

// What XLA calls the fault of an error that came from Rust.
inline xla::ffi::ErrorCode CodeOf(Fault fault) {
  switch (fault) {
    case Fault::Input:
      return xla::ffi::ErrorCode::kInvalidArgument;
    case Fault::Memory:
      return xla::ffi::ErrorCode::kResourceExhausted;
    default:
      return xla::ffi::ErrorCode::kInternal;
  }
}

// Runs `call` and turns whatever it throws into an XLA error: nothing may unwind into jaxlib.
template <typename Call>
xla::ffi::Error Guarded(Call&& call) {
  try {
    call();
    return xla::ffi::Error::Success();
  } catch (const rust::Error& error) {
    return xla::ffi::Error(CodeOf(last_fault()), error.what());
  } catch (const std::exception& error) {
    return xla::ffi::Error(xla::ffi::ErrorCode::kInternal, error.what());
  } catch (...) {
    return xla::ffi::Error(xla::ffi::ErrorCode::kInternal, "ternax: unknown C++ exception");
  }
}

}  // namespace ternax

#endif  // TERNAX_HANDLERS_H_
