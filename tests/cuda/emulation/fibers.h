// One stack per CUDA thread, and a switch between them.
#pragma once
#include <sys/mman.h>

#include <cstddef>
#include <cstdint>

#if !defined(__x86_64__)
#include <ucontext.h>

#include <vector>
#endif

namespace emulation {

constexpr size_t kPage = 4096;
constexpr size_t kStack = 64 << 10;  // the page below each stack is unmapped: an overflow stops the test

// Stacks of `count` fibers, kept from launch to launch by each thread of the tests.
inline uint8_t* Stacks(size_t count) {
  static thread_local uint8_t* pool = nullptr;
  static thread_local size_t held = 0;
  constexpr size_t each = kStack + kPage;
  if (count > held) {
    if (pool) munmap(pool, held * each);
    pool =
        static_cast<uint8_t*>(mmap(nullptr, count * each, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
    for (size_t i = 0; i < count; i++) mprotect(pool + i * each, kPage, PROT_NONE);
    held = count;
  }
  return pool;
}

#if defined(__x86_64__)

// A context is a stack pointer; the registers that a call preserves lie on the stack.
using Context = void*;

extern "C" void emulation_switch(void** save, void* load);
__asm__(R"(
.text
.weak emulation_switch
.hidden emulation_switch
.type emulation_switch,@function
emulation_switch:
  pushq %rbp
  pushq %rbx
  pushq %r12
  pushq %r13
  pushq %r14
  pushq %r15
  movq %rsp,(%rdi)
  movq %rsi,%rsp
  popq %r15
  popq %r14
  popq %r13
  popq %r12
  popq %rbx
  popq %rbp
  ret
.size emulation_switch,.-emulation_switch
)");

inline void Switch(Context& save, Context& load) { emulation_switch(&save, load); }

inline void Prepare(Context& context, size_t index, void (*body)()) {
  uint8_t* stack = Stacks(index + 1) + index * (kStack + kPage) + kPage;
  uintptr_t top = reinterpret_cast<uintptr_t>(stack + kStack) & ~uintptr_t(63);
  void** pointer = reinterpret_cast<void**>(top) - 1;  // as if `body` had been called: 8 mod 16 at its entry
  *--pointer = reinterpret_cast<void*>(body);
  for (int i = 0; i < 6; i++) *--pointer = nullptr;
  context = pointer;
}

#else

using Context = ucontext_t;

inline void Switch(Context& save, Context& load) { swapcontext(&save, &load); }

inline void Prepare(Context& context, size_t index, void (*body)()) {
  getcontext(&context);
  context.uc_stack.ss_sp = Stacks(index + 1) + index * (kStack + kPage) + kPage;
  context.uc_stack.ss_size = kStack;
  context.uc_link = nullptr;
  makecontext(&context, body, 0);
}

#endif

}  // namespace emulation
