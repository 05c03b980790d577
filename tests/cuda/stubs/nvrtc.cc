// Stands in for NVRTC in tests/cuda_driver.rs: it counts what it compiles, and fails when it is told to.

#include <atomic>
#include <chrono>
#include <cstring>
#include <thread>

namespace {

std::atomic<int> compilations{0};
std::atomic<int> next_code{0};
constexpr char kLog[] = "kernel.cuh(1): warning: first\nkernel.cuh(2): error: seeded\nkernel.cuh(3): error: later\n";
constexpr char kCubin[] = "machine code";

}  // namespace

extern "C" {

int stub_compilations() { return compilations.exchange(0); }

void stub_fail_compilation(int code) { next_code = code; }

int nvrtcCreateProgram(void** program, const char*, const char*, int, const char* const*, const char* const*) {
  *program = &next_code;
  return 0;
}

int nvrtcDestroyProgram(void** program) {
  *program = nullptr;
  return 0;
}

// Slow enough that others come in between.
int nvrtcCompileProgram(void*, int, const char* const*) {
  std::this_thread::sleep_for(std::chrono::milliseconds(50));
  compilations++;
  return next_code.exchange(0);
}

int nvrtcGetProgramLogSize(void*, size_t* size) {
  *size = sizeof kLog;
  return 0;
}

int nvrtcGetProgramLog(void*, char* to) {
  memcpy(to, kLog, sizeof kLog);
  return 0;
}

int nvrtcGetCUBINSize(void*, size_t* size) {
  *size = sizeof kCubin;
  return 0;
}

int nvrtcGetCUBIN(void*, char* to) {
  memcpy(to, kCubin, sizeof kCubin);
  return 0;
}

int nvrtcVersion(int* major, int* minor) {
  *major = 13;
  *minor = 0;
  return 0;
}

const char* nvrtcGetErrorString(int) { return "an error of the stub"; }

}  // extern "C"
