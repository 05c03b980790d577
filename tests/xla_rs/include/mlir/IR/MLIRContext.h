// See BuiltinOps.h.
#include "mlir/IR/BuiltinOps.h"
