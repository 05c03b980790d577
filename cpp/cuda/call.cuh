// The argument of every kernel, and how packed rows are cut into groups.
#pragma once
#include "ptx.cuh"

// One call, the same in src/cuda/call.rs. Strides are in elements, from one ensemble member to the next; 0 where
// members share.
struct Call {
  const void* operands[4];
  void* results[3];
  int64_t operand_strides[4];
  int64_t result_strides[3];
  int64_t count;         // elements of one member, for kernels that work element by element
  int64_t group_size;    // as the caller gave it: it may exceed in_dim
  int64_t wanted_votes;  // below 0: any
  int tokens, in_dim, out_dim;
  int group;        // inputs of a full group: min(group_size, in_dim)
  int splits;       // parts of the contraction, summed in their order by a second kernel
  int split_steps;  // steps of the contraction in each part
  int wide;         // the result is float32 whatever the activations are
  float gain;

  template <typename T>
  DEVICE const T* Operand(int index, int64_t member) const {
    return static_cast<const T*>(operands[index]) + member * operand_strides[index];
  }
  template <typename T>
  DEVICE T* Result(int index, int64_t member) const {
    return static_cast<T*>(results[index]) + member * result_strides[index];
  }
};

constexpr DEVICE int CeilDivide(int a, int b) { return (a + b - 1) / b; }
constexpr DEVICE int Min(int a, int b) { return a < b ? a : b; }
constexpr DEVICE int Max(int a, int b) { return a > b ? a : b; }
constexpr DEVICE uint32_t Max(uint32_t a, uint32_t b) { return a > b ? a : b; }

// Divides by a number up to 2^10 that is known at run time alone what is below 16 times that number.
struct Divisor {
  uint32_t inverse;  // rounded up, above 2^24
  DEVICE explicit Divisor(int by) : inverse((1u << 24) / uint32_t(by) + 1) {}
  DEVICE int Of(int number) const { return int(uint32_t(number) * inverse >> 24); }
};

// How rows are cut: groups of kGroup inputs, or of a number known only at run time where kGroup is 0.
template <int kGroup>
struct Layout {
  int run_time_group, in_dim;

  DEVICE explicit Layout(const Call& call) : run_time_group(call.group), in_dim(call.in_dim) {}
  DEVICE int Group() const { return kGroup ? kGroup : run_time_group; }
  DEVICE int GroupBytes() const { return CeilDivide(Group(), 5); }
  DEVICE int Groups() const { return CeilDivide(in_dim, Group()); }
  DEVICE int64_t RowBytes() const { return int64_t(Groups()) * GroupBytes(); }
};
