// Stand-ins for classes of MLIR, whose headers tensorflow-cpu does not ship: enough to compile the crate xla, which
// names them where it converts between HLO and StableHLO.
#ifndef TERNAX_TESTS_MLIR_BUILTIN_OPS_H_
#define TERNAX_TESTS_MLIR_BUILTIN_OPS_H_

#include <cstdio>
#include <cstdlib>

namespace mlir {

class DialectRegistry;

class MLIRContext {
 public:
  MLIRContext() {
    std::fputs("StableHLO cannot be read or written: this XLA was made without MLIR's headers\n", stderr);
    std::abort();
  }
};

class ModuleOp {
 public:
  template <typename Stream>
  void print(Stream&) {}
};

template <typename Op>
class OwningOpRef {
 public:
  Op* operator->() { return &op_; }
  Op get() const { return op_; }

 private:
  Op op_;
};

}  // namespace mlir

#endif  // TERNAX_TESTS_MLIR_BUILTIN_OPS_H_
