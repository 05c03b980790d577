// Calls a handler of `pack` as XLA would, without XLA: for tests/python/test_cuda.py.

#include <cstdint>
#include <cstring>
#include <string>

#include "xla/ffi/api/c_api.h"

struct XLA_FFI_Error {
  XLA_FFI_Error_Code code;
  std::string message;
};

namespace {

XLA_FFI_Error* Create(XLA_FFI_Error_Create_Args* args) { return new XLA_FFI_Error{args->errc, args->message}; }

void Destroy(XLA_FFI_Error_Destroy_Args* args) { delete args->error; }

// The stream of context 12 in driver.cc.
XLA_FFI_Error* Stream(XLA_FFI_Stream_Get_Args* args) {
  args->stream = reinterpret_cast<void*>(uintptr_t(1 << 16 | 12));
  return nullptr;
}

}  // namespace

// The code that a stage of the call gives for trits [40, 96] and this group size, 0 where it succeeds; its message.
extern "C" int frame_call(XLA_FFI_Handler* handler, int stage, int64_t group_size, char* message, size_t size) {
  XLA_FFI_Api api{};
  api.struct_size = XLA_FFI_Api_STRUCT_SIZE;
  api.api_version = {XLA_FFI_Api_Version_STRUCT_SIZE, nullptr, XLA_FFI_API_MAJOR, XLA_FFI_API_MINOR};
  api.XLA_FFI_Error_Create = Create;
  api.XLA_FFI_Error_Destroy = Destroy;
  api.XLA_FFI_Stream_Get = Stream;
  int64_t dense[2] = {40, 96}, packed[3] = {40, 3, 7};
  alignas(16) static char memory[40 * 96];
  XLA_FFI_Buffer operand{XLA_FFI_Buffer_STRUCT_SIZE, nullptr, XLA_FFI_DataType_S8, memory, 2, dense};
  XLA_FFI_Buffer result{XLA_FFI_Buffer_STRUCT_SIZE, nullptr, XLA_FFI_DataType_U8, memory, 3, packed};
  XLA_FFI_ArgType operand_type = XLA_FFI_ArgType_BUFFER;
  XLA_FFI_RetType result_type = XLA_FFI_RetType_BUFFER;
  void *operands[1] = {&operand}, *results[1] = {&result};
  XLA_FFI_Scalar value{XLA_FFI_DataType_S64, &group_size};
  XLA_FFI_ByteSpan name{"group_size", strlen("group_size")};
  XLA_FFI_AttrType attribute_type = XLA_FFI_AttrType_SCALAR;
  XLA_FFI_ByteSpan* names[1] = {&name};
  void* attributes[1] = {&value};
  XLA_FFI_CallFrame frame{};
  frame.struct_size = XLA_FFI_CallFrame_STRUCT_SIZE;
  frame.api = &api;
  frame.stage = static_cast<XLA_FFI_ExecutionStage>(stage);
  frame.args = {XLA_FFI_Args_STRUCT_SIZE, nullptr, 1, &operand_type, operands};
  frame.rets = {XLA_FFI_Rets_STRUCT_SIZE, nullptr, 1, &result_type, results};
  frame.attrs = {XLA_FFI_Attrs_STRUCT_SIZE, nullptr, 1, &attribute_type, names, attributes};
  XLA_FFI_Error* error = handler(&frame);
  if (error == nullptr) return 0;
  const int code = error->code;
  strncpy(message, error->message.c_str(), size - 1);
  delete error;
  return code;
}
