// Stand-in for the header of LLVM, which tensorflow-cpu does not ship: enough to compile the crate xla, which prints
// StableHLO through it. Programs that convert StableHLO get no text.
#ifndef TERNAX_TESTS_LLVM_RAW_OSTREAM_H_
#define TERNAX_TESTS_LLVM_RAW_OSTREAM_H_

#include <string>

namespace llvm {

class raw_string_ostream {
 public:
  explicit raw_string_ostream(std::string&) {}
  void flush() {}
};

}  // namespace llvm

#endif  // TERNAX_TESTS_LLVM_RAW_OSTREAM_H_
