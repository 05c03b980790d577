// Shared and global memory of the emulated machine, checked to the byte.
//
// Caught: shared memory read before it is written, accesses outside it, misaligned vector accesses, races (vector
// clocks: two accesses of two threads, one a write, without a barrier between), asynchronous copies used before their
// wait, and global accesses outside every registered buffer.
#pragma once
#include <iterator>

#include "machine.h"

namespace emulation {

// Every buffer that the test has registered: first byte and size.
inline std::map<uintptr_t, size_t>& Buffers() {
  static thread_local std::map<uintptr_t, size_t> buffers;
  return buffers;
}

inline void CheckGlobal(const void* pointer, size_t bytes, size_t alignment, const char* what) {
  uintptr_t address = reinterpret_cast<uintptr_t>(pointer);
  if (address % alignment) Fail("%s: the global address is not aligned to %zu", what, alignment);
  if (!bytes) return;
  auto after = Buffers().upper_bound(address);
  if (after != Buffers().begin()) {
    auto [start, size] = *std::prev(after);
    if (address + bytes <= start + size) return;
  }
  Fail("%s of %zu bytes outside every global buffer", what, bytes);
}

inline void CheckRange(uint32_t at, uint32_t bytes, uint32_t alignment, const char* what) {
  if (at + bytes > block->shared_bytes) {
    Fail("%s of %u bytes at shared offset %u, beyond the %u allocated", what, bytes, at, block->shared_bytes);
  }
  if (at % alignment) Fail("%s at shared offset %u is not aligned to %u", what, at, alignment);
}

inline bool Saw(const Thread& thread, uint16_t who, Clock event) {
  return who == kNobody || who == thread.index || thread.clock[who] >= event;
}

inline void OnRead(uint32_t at, uint32_t bytes, uint32_t alignment) {
  CheckRange(at, bytes, alignment, "a read");
  Thread& thread = *self;
  for (uint32_t i = at; i < at + bytes; i++) {
    Shadow& s = block->shadow[i];
    if (s.in_flight) Fail("shared byte %u read before the wait for its asynchronous copy", i);
    if (!s.initialised) Fail("shared byte %u read but never written", i);
    if (!Saw(thread, s.writer, s.written)) {
      Fail("race: shared byte %u read, written by thread %u without a barrier between", i, s.writer);
    }
    if (s.reader[0] != thread.index) {
      s.reader[1] = s.reader[0];
      s.read[1] = s.read[0];
      s.reader[0] = uint16_t(thread.index);
    }
    s.read[0] = thread.clock[size_t(thread.index)];
  }
}

inline void OnWrite(uint32_t at, uint32_t bytes, uint32_t alignment) {
  CheckRange(at, bytes, alignment, "a write");
  Thread& thread = *self;
  block->stores++;
  for (uint32_t i = at; i < at + bytes; i++) {
    Shadow& s = block->shadow[i];
    if (s.in_flight) Fail("shared byte %u written while an asynchronous copy to it is under way", i);
    if (!Saw(thread, s.writer, s.written)) {
      Fail("race: shared byte %u written, written by thread %u without a barrier between", i, s.writer);
    }
    for (int k = 0; k < 2; k++) {
      if (!Saw(thread, s.reader[k], s.read[k])) {
        Fail("race: shared byte %u written, read by thread %u without a barrier between", i, s.reader[k]);
      }
    }
    s.reader[0] = s.reader[1] = kNobody;
    s.writer = uint16_t(thread.index);
    s.written = thread.clock[size_t(thread.index)];
    s.stored = block->stores;
    s.initialised = true;
  }
}

inline void StartCopy(uint32_t to, const void* from, uint32_t bytes, uint32_t from_bytes) {
  CheckGlobal(from, from_bytes, bytes, "an asynchronous copy");
  OnWrite(to, bytes, bytes);
  for (uint32_t i = to; i < to + bytes; i++) block->shadow[i].in_flight = true;
  memset(block->shared + to, 0xFF, bytes);
  self->open.push_back({to, bytes, from, from_bytes});
}

inline void CommitCopies() {
  self->groups.push_back(std::move(self->open));
  self->open.clear();
}

inline void WaitForCopies(size_t pending) {
  while (self->groups.size() > pending) {
    for (auto& copy : self->groups.front()) {
      for (uint32_t i = copy.to; i < copy.to + copy.bytes; i++) block->shadow[i].in_flight = false;
      OnWrite(copy.to, copy.bytes, copy.bytes);
      memset(block->shared + copy.to, 0, copy.bytes);
      memcpy(block->shared + copy.to, copy.from, copy.from_bytes);
    }
    self->groups.erase(self->groups.begin());
  }
}

}  // namespace emulation
