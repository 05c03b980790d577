// Registration with an XLA runtime that is linked into the same program, for programs without Python (feature xla-rs).

#include <dlfcn.h>

#include <string>
#include <utility>

#include "xla/ffi/api/ffi.h"

namespace {

// `const XLA_FFI_Api* xla::ffi::GetXlaFfiApi()`, for which no header is installed. Looked up when called: the library
// must load where no XLA is.
constexpr const char* kGetApi = "_ZN3xla3ffi12GetXlaFfiApiEv";

const char* Refuse(std::string reason) {
  static thread_local std::string last;
  last = std::move(reason);
  return last.c_str();
}

std::string Version(int major, int minor) { return std::to_string(major) + "." + std::to_string(minor); }

}  // namespace

// Registers one handler; returns null, or why not.
extern "C" const char* ternax_register(const char* name, const char* platform, void* execute) {
  auto get_api = reinterpret_cast<const XLA_FFI_Api* (*)()>(dlsym(RTLD_DEFAULT, kGetApi));
  if (get_api == nullptr) return Refuse("no XLA with a typed FFI is linked into this program");
  const XLA_FFI_Api* api = get_api();
  const auto& [size, extension, major, minor] = api->api_version;
  if (major != XLA_FFI_API_MAJOR || minor < XLA_FFI_API_MINOR) {
    return Refuse("ternax was built against XLA FFI " + Version(XLA_FFI_API_MAJOR, XLA_FFI_API_MINOR) +
                  ", but the linked XLA has " + Version(major, minor));
  }
  auto* handler = reinterpret_cast<XLA_FFI_Handler*>(execute);
  XLA_FFI_Error* error = xla::ffi::Ffi::RegisterStaticHandler(api, name, platform, handler);
  if (error == nullptr) return nullptr;
  const char* refusal = Refuse(xla::ffi::internal::GetErrorMessage(api, error));
  xla::ffi::internal::DestroyError(api, error);
  return refusal;
}
