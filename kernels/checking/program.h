#pragma once
// What differs between the check program for GPUs and the one for the imitation.

#include <memory>
#include <optional>

#include "kernels/checking/target.h"

namespace rehearse::kernels {

struct CheckProgram {
  std::unique_ptr<Target> target;
  // Another implementation of the products, held to the same bounds where it can do them; or none.
  std::optional<KernelSet> oracle;
  std::string oracle_name;
  bool modelled = false;  // results must be the tensor-core model's
};

// dry_run: with no_target(). Throws std::runtime_error where it cannot run.
CheckProgram check_program(bool dry_run);
// Whether large cases are within its reach.
extern const bool kLargeCases;

}  // namespace rehearse::kernels
