#pragma once
// What differs between the check program for GPUs and the one for the imitation.

#include <memory>

#include "kernels/checking/target.h"

namespace rehearse::kernels {

struct CheckProgram {
  std::unique_ptr<Target> target;
  // Another implementation of the products, held to the same bounds, for dense cases; or none.
  std::unique_ptr<Target> oracle;
  bool modelled = false;  // results must be the tensor-core model's
  bool large = true;      // DeepSeek-V3's shapes are within reach
};

// Throws std::runtime_error where it cannot run.
CheckProgram check_program();

}  // namespace rehearse::kernels
