// What a tensor core adds to a sum, in both models of its rounding.
#pragma once
#include <cmath>
#include <cstring>

#include "machine.h"

namespace emulation {

// The rest of the emulation is compiled quickly; nearly all of its arithmetic is here.
#pragma GCC push_options
#pragma GCC optimize("O3")

// d[n] += sum over k < kK of a[k] b[k, n], for eight columns whose rows lie `stride` apart. Products are exact. Rounded
// to nearest their sum is a double; else each term, d among them, is aligned to the largest and cut to 24 bits.
template <int kK>
void AddProducts(float (&d)[8], const float* a, const float* b, int stride, Rounding rounding) {
  double terms[kK + 1][8], plain[8];
  for (int n = 0; n < 8; n++) plain[n] = terms[kK][n] = double(d[n]);
  for (int k = 0; k < kK; k++) {
    for (int n = 0; n < 8; n++) {
      terms[k][n] = double(a[k]) * double(b[k * stride + n]);
      plain[n] += terms[k][n];
    }
  }
  if (rounding == Rounding::kNearest) {
    for (int n = 0; n < 8; n++) d[n] = float(plain[n]);
    return;
  }
  double largest[8] = {}, unit[8], inverse[8];
  for (int k = 0; k <= kK; k++) {
    for (int n = 0; n < 8; n++) largest[n] = std::fabs(terms[k][n]) > largest[n] ? std::fabs(terms[k][n]) : largest[n];
  }
  bool cut[8];  // not so infinities, NaN, and sums of nothing
  for (int n = 0; n < 8; n++) {
    cut[n] = std::fabs(plain[n]) < HUGE_VAL && largest[n] > 0;
    const double some = cut[n] ? largest[n] : 1.0;
    uint64_t bits;
    memcpy(&bits, &some, 8);
    const uint64_t unit_bits = ((bits >> 52) - 23) << 52, inverse_bits = (2 * 1023 + 23 - (bits >> 52)) << 52;
    memcpy(&unit[n], &unit_bits, 8);
    memcpy(&inverse[n], &inverse_bits, 8);
  }
  int sums[8] = {};
  for (int k = 0; k <= kK; k++) {
    for (int n = 0; n < 8; n++) sums[n] += int((cut[n] ? terms[k][n] : 0.0) * inverse[n]);
  }
  for (int n = 0; n < 8; n++) {
    const double sum = sums[n] * unit[n];
    const float near = float(cut[n] ? sum : plain[n]);
    d[n] = cut[n] && std::fabs(double(near)) > std::fabs(sum) ? std::nextafterf(near, 0.0f) : near;
  }
}

#pragma GCC pop_options

}  // namespace emulation
