// Functions that Python calls by itself, outside of any XLA program.

#include <cstdint>

#include "xla/ffi/api/c_api.h"

// The XLA FFI version that this library was compiled against: major * 1000 + minor.
extern "C" int32_t ternax_host_ffi_version() { return XLA_FFI_API_MAJOR * 1000 + XLA_FFI_API_MINOR; }
