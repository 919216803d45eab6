#include "kernels/checking/program.h"

namespace rehearse::kernels {

const bool kLargeCases = false;

CheckProgram check_program(bool dry_run) {
  CheckProgram program;
  if (dry_run) {
    program.target = no_target();
    return program;
  }
  program.target = imitated_target();
  program.modelled = true;
  return program;
}

}  // namespace rehearse::kernels
