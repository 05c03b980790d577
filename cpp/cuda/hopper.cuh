// Instructions of sm_90a alone: barriers in shared memory that count arrivals, the fence between the proxies, bulk
// copies, registers and products of a warpgroup; once for the device and once for the emulation of the tests, side by
// side.
#pragma once
#include "ptx.cuh"

// -------------------------------------------------------------------------------------------------------- barriers
// A barrier in shared memory ends a phase with the arrival it was made to wait for, and starts the next. Phases have
// parities 0, 1, 0, ...; the one before the first counts as ended, with parity 1.
#ifdef TERNAX_EMULATION
#include "emulation/hopper.h"
inline void StartBarrier(Shared<uint64_t> barrier, int arrivals) { emulation::StartBarrier(barrier.at, arrivals); }
inline void Arrive(Shared<uint64_t> barrier) { emulation::Arrive(barrier.at); }
inline void WaitForPhase(Shared<uint64_t> barrier, uint32_t parity) { emulation::WaitForPhase(barrier.at, parity); }
// What this thread stored to shared memory before is seen by tensor cores and bulk copies that use it after.
inline void FenceProxies() { emulation::FenceProxies(); }
// Registers of a warpgroup's threads from here on: what one gives up another takes, and waits for.
template <int kCount>
void GiveUpRegisters() {
  emulation::SetRegisters(kCount, false);
}
template <int kCount>
void TakeRegisters() {
  emulation::SetRegisters(kCount, true);
}
#else
DEVICE void StartBarrier(Shared<uint64_t> barrier, int arrivals) {
  asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(SharedAddress(barrier)), "r"(arrivals) : "memory");
}
DEVICE void Arrive(Shared<uint64_t> barrier) {
  asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(SharedAddress(barrier)) : "memory");
}
DEVICE void WaitForPhase(Shared<uint64_t> barrier, uint32_t parity) {
  uint32_t ended;
  do {
    asm volatile(
        "{\n"
        ".reg .pred ended;\n"
        "mbarrier.try_wait.parity.shared::cta.b64 ended, [%1], %2;\n"
        "selp.u32 %0, 1, 0, ended;\n"
        "}"
        : "=r"(ended)
        : "r"(SharedAddress(barrier)), "r"(parity)
        : "memory");
  } while (!ended);
}
DEVICE void FenceProxies() { asm volatile("fence.proxy.async.shared::cta;" ::: "memory"); }
template <int kCount>
DEVICE void GiveUpRegisters() {
  asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(kCount));
}
template <int kCount>
DEVICE void TakeRegisters() {
  asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(kCount));
}
#endif

// ------------------------------------------------------------------------------------------------------ bulk copies
// A tensor map is a parameter of the kernel, encoded by the driver: a tensor of columns, rows and planes, and a box of
// it. CopyBox, called by one thread, brings the box at (column, row, plane) to shared memory, line by line and
// swizzled, with zeros for what lies outside the tensor. Its bytes, those zeros among them, end a phase of the barrier
// together with the arrivals, once ExpectBytes has announced them.
#ifdef TERNAX_EMULATION
#include "emulation/bulk.h"
using TensorMap = emulation::TensorMap;
inline void ExpectBytes(Shared<uint64_t> barrier, uint32_t bytes) { emulation::ExpectBytes(barrier.at, bytes); }
inline void CopyBox(Shared<uint8_t> to, const TensorMap* map, int column, int row, int plane,
                    Shared<uint64_t> barrier) {
  emulation::StartBoxCopy(to.at, *map, {column, row, plane}, barrier.at);
}
#else
struct alignas(128) TensorMap {
  unsigned char opaque[128];
};
DEVICE void ExpectBytes(Shared<uint64_t> barrier, uint32_t bytes) {
  asm volatile("mbarrier.expect_tx.relaxed.cta.shared::cta.b64 [%0], %1;" ::"r"(SharedAddress(barrier)), "r"(bytes)
               : "memory");
}
DEVICE void CopyBox(Shared<uint8_t> to, const TensorMap* map, int column, int row, int plane,
                    Shared<uint64_t> barrier) {
  asm volatile(
      "cp.async.bulk.tensor.3d.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1, {%2, %3, %4}], [%5];" ::
          "r"(SharedAddress(to)),
      "l"(map), "r"(column), "r"(row), "r"(plane), "r"(SharedAddress(barrier))
      : "memory");
}
#endif
// The parameter: as many as the kernel with the most uses.
struct TensorMaps {
  TensorMap of[2];
};

// ------------------------------------------------------------------------------------------- products of a warpgroup
// d[64 x 128] += a[64 x 16] b[16 x 128] by four warps together, both operands in shared memory and named by
// descriptors. kSlowA, kSlowB: the contraction is the slow dimension of the operand. A warp has 16 rows of d, an
// accumulator of a thread the place that mma.sync gives it: d[4 j + c] is row lane / 4 + 8 (c / 2), column 8 j + 2
// (lane % 4) + c % 2. Products run until they are waited for: neither the accumulators nor the operands may be touched
// before.
constexpr int kGroupRows = 64, kGroupColumns = 128, kAccumulators = 64;
#ifdef TERNAX_EMULATION
// Orders accesses to accumulators before products that use them.
inline void FenceAccumulators() { emulation::self->accumulators_fenced = true; }
template <bool kHalf, bool kSlowA, bool kSlowB>
void MultiplyGroup(float (&d)[kAccumulators], uint64_t a, uint64_t b) {
  emulation::StartProduct({a, b, d, kHalf, kSlowA, kSlowB, 0, 0});
}
inline void CommitProducts() { emulation::CommitProducts(); }
// Until at most kPending commits are under way; d are all accumulators in use.
template <int kPending>
void WaitForProducts(float (&)[2][kAccumulators]) {
  emulation::WaitForProducts(kPending);
}
#else
#define ACCUMULATORS_8(D, I)                                                                                  \
  "+f"(D[I]), "+f"(D[I + 1]), "+f"(D[I + 2]), "+f"(D[I + 3]), "+f"(D[I + 4]), "+f"(D[I + 5]), "+f"(D[I + 6]), \
      "+f"(D[I + 7])
#define ACCUMULATORS_32(D, I) \
  ACCUMULATORS_8(D, I), ACCUMULATORS_8(D, I + 8), ACCUMULATORS_8(D, I + 16), ACCUMULATORS_8(D, I + 24)
#define ACCUMULATORS(D) ACCUMULATORS_32(D, 0), ACCUMULATORS_32(D, 32)
#define MULTIPLY_GROUP(TYPE)                                                                           \
  asm volatile("wgmma.mma_async.sync.aligned.m64n128k16.f32." TYPE "." TYPE                            \
               " {%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, %16, %17, "    \
               "%18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31, %32, %33, %34, " \
               "%35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47, %48, %49, %50, %51, " \
               "%52, %53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63}, %64, %65, 1, 1, 1, %66, " \
               "%67;"                                                                                  \
               : ACCUMULATORS(d)                                                                       \
               : "l"(a), "l"(b), "n"(int(kSlowA)), "n"(int(kSlowB)))
DEVICE void FenceAccumulators() { asm volatile("wgmma.fence.sync.aligned;" ::: "memory"); }
template <bool kHalf, bool kSlowA, bool kSlowB>
DEVICE void MultiplyGroup(float (&d)[kAccumulators], uint64_t a, uint64_t b) {
  if constexpr (kHalf) {
    MULTIPLY_GROUP("f16");
  } else {
    MULTIPLY_GROUP("bf16");
  }
}
DEVICE void CommitProducts() { asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory"); }
// The accumulators are its operands, so that the compiler reads none of them before.
template <int kPending>
DEVICE void WaitForProducts(float (&d)[2][kAccumulators]) {
  asm volatile("wgmma.wait_group.sync.aligned %128;"
               : ACCUMULATORS(d[0]), ACCUMULATORS(d[1])
               : "n"(kPending)
               : "memory");
}
#undef MULTIPLY_GROUP
#undef ACCUMULATORS
#undef ACCUMULATORS_32
#undef ACCUMULATORS_8
#endif
