#include "kernels/checking/program.h"

namespace rehearse::kernels {

CheckProgram check_program() {
  CheckProgram program;
  program.target = imitated_target();
  program.modelled = true;
  program.large = false;
  return program;
}

}  // namespace rehearse::kernels
