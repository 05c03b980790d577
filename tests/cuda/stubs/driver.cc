// Stands in for the driver's library in tests/cuda_driver.rs: it records what is called and gives the codes it is told
// to.
//
// A context is a number; its device is the lowest bit, and its streams are numbers above it in steps of 2^16. Modules
// and functions carry the number of the context that was current.

#include <cstdint>
#include <cstdio>
#include <map>
#include <mutex>
#include <string>
#include <vector>

namespace {

std::mutex mutex;
std::string events;
std::map<std::string, int> failures;  // the next code of a function, by its name
int version, major, minor, multiprocessors;
thread_local std::vector<uintptr_t> stack;

int Answer(const std::string& function, const std::string& arguments) {
  std::lock_guard<std::mutex> lock(mutex);
  events += function + arguments + "\n";
  auto found = failures.find(function);
  if (found == failures.end()) return 0;
  const int code = found->second;
  failures.erase(found);
  return code;
}

std::string Number(uintptr_t number) { return " " + std::to_string(number); }

uintptr_t Current() { return stack.empty() ? 0 : stack.back(); }

}  // namespace

// What the tests say and ask.
extern "C" {

void stub_reset(int driver_version, int capability_major, int capability_minor, int processors) {
  std::lock_guard<std::mutex> lock(mutex);
  events.clear();
  failures.clear();
  version = driver_version, major = capability_major, minor = capability_minor, multiprocessors = processors;
}

void stub_fail(const char* function, int code) {
  std::lock_guard<std::mutex> lock(mutex);
  failures[function] = code;
}

// The events so far, one a line; forgotten then.
size_t stub_events(char* to, size_t size) {
  std::lock_guard<std::mutex> lock(mutex);
  const size_t length = size_t(snprintf(to, size, "%s", events.c_str()));
  events.clear();
  return length;
}

// Contexts of this thread: their number and the current one.
size_t stub_contexts(uintptr_t* current) {
  *current = Current();
  return stack.size();
}

// The driver's own functions.
int cuGetErrorString(int code, const char** text) {
  *text = code == 2 ? "out of memory" : "an error of the stub";
  return 0;
}

int cuDriverGetVersion(int* to) {
  *to = version;
  return 0;
}

int cuStreamGetCtx(uintptr_t stream, uintptr_t* context) {
  *context = stream & 0xFFFF;
  return Answer("stream's context", "");
}

int cuCtxPushCurrent_v2(uintptr_t context) {
  const int code = Answer("push", Number(context));
  if (code == 0) stack.push_back(context);
  return code;
}

int cuCtxPopCurrent_v2(uintptr_t* context) {
  *context = Current();
  if (!stack.empty()) stack.pop_back();
  return Answer("pop", Number(*context));
}

int cuCtxGetDevice(int* device) {
  *device = int(Current() & 1);
  return Current() ? 0 : 201;
}

int cuDeviceGetAttribute(int* value, int attribute, int) {
  *value = attribute == 75 ? major : attribute == 76 ? minor : attribute == 16 ? multiprocessors : -1;
  return 0;
}

int cuModuleLoadData(uintptr_t* module, const void*) {
  *module = Current() << 16 | 1;
  return Answer("load module", Number(Current()));
}

int cuModuleGetFunction(uintptr_t* function, uintptr_t module, const char* name) {
  *function = module | 2;
  return Answer("find", std::string(" ") + name);
}

int cuFuncLoad(uintptr_t function) { return Answer("load function", Number(function >> 16)); }

int cuFuncSetAttribute(uintptr_t, int attribute, int value) {
  return Answer("set attribute", Number(uintptr_t(attribute)) + Number(uintptr_t(value)));
}

int cuTensorMapEncodeTiled(void*, int, uint32_t, void*, const uint64_t*, const uint64_t*, const uint32_t*,
                           const uint32_t*, int, int, int, int) {
  return Answer("encode", "");
}

int cuLaunchKernel(uintptr_t function, unsigned x, unsigned y, unsigned z, unsigned threads, unsigned, unsigned,
                   unsigned shared, uintptr_t stream, void**, void**) {
  const std::string grid = Number(x) + Number(y) + Number(z);
  return Answer("launch", Number(function >> 16) + grid + Number(threads) + Number(shared) + Number(stream));
}

}  // extern "C"
