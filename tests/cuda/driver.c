// A driver of NVIDIA's without a card: it says what it is asked for, holds contexts to their order, and fails where
// FAKE_DRIVER tells it to.
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef int Result;  // 0: done
enum { kMemory = 2, kNoBinary = 209 };

static void* const kContext = (void*)0x1000;
static int depth = 0;

// In the order of what the library itself prints.
__attribute__((constructor)) static void Start(void) { setvbuf(stdout, NULL, _IONBF, 0); }

static int Fails(const char* how) {
  const char* wanted = getenv("FAKE_DRIVER");
  return wanted && !strcmp(wanted, how);
}

Result cuGetErrorString(Result error, const char** text) {
  *text = error == kMemory ? "out of memory" : error == kNoBinary ? "no kernel image" : "some error";
  return 0;
}
Result cuStreamGetCtx(void* stream, void** context) {
  (void)stream;
  *context = kContext;
  return 0;
}
Result cuCtxPushCurrent_v2(void* context) {
  depth += context == kContext;
  return 0;
}
Result cuCtxPopCurrent_v2(void** context) {
  *context = kContext;
  depth--;
  printf("contexts left %d\n", depth);
  return 0;
}
Result cuCtxGetDevice(int* device) {
  *device = 0;
  return 0;
}
Result cuDeviceGetAttribute(int* value, int attribute, int device) {
  (void)device;
  const int major = Fails("volta") ? 7 : 9;
  *value = attribute == 75 ? major : 0;  // the major and the minor number of the compute capability
  return 0;
}
Result cuModuleLoadData(void** module, const void* image) {
  printf("load %s\n", memcmp(image, "\177ELF", 4) ? "something" : "machine code");
  if (Fails("old")) return kNoBinary;
  if (Fails("memory")) return kMemory;
  *module = (void*)0x2000;
  return 0;
}
Result cuModuleGetFunction(void** function, void* module, const char* name) {
  (void)module;
  printf("find %s\n", name);
  *function = (void*)0x3000;
  return 0;
}
Result cuDriverGetVersion(int* version) {
  *version = 13000;
  return 0;
}
Result cuFuncLoad(void* function) {
  (void)function;
  printf("load the function\n");
  return 0;
}
Result cuFuncSetAttribute(void* function, int attribute, int value) {
  (void)function;
  printf("attribute %d is %d\n", attribute, value);
  return Fails("shared") ? kMemory : 0;
}
Result cuTensorMapEncodeTiled(void* map, int type, unsigned rank, void* address, const void* dims, const void* strides,
                              const void* box, const void* steps, int interleave, int swizzle, int promotion,
                              int fill) {
  (void)type, (void)address, (void)dims, (void)strides, (void)box, (void)steps, (void)interleave, (void)swizzle;
  (void)promotion, (void)fill;
  memset(map, 0x5A, 128);
  printf("encode a map of rank %u\n", rank);
  return 0;
}
Result cuLaunchKernel(void* function, unsigned x, unsigned y, unsigned z, unsigned threads, unsigned block_y,
                      unsigned block_z, unsigned shared, void* stream, void** parameters, void** extra) {
  (void)extra;
  printf("launch %p on %p: %u %u %u blocks of %u %u %u, %u bytes, map %02X\n", function, stream, x, y, z, threads,
         block_y, block_z, shared, ((unsigned char*)parameters[1])[0]);
  return Fails("launch") ? kMemory : 0;
}
