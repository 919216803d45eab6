#include "kernels/checking/program.h"
#include "kernels/fp8_gemm/cublaslt.h"

namespace rehearse::kernels {

const bool kLargeCases = true;

CheckProgram check_program(bool dry_run) {
  CheckProgram program;
  if (dry_run) {
    program.target = no_target();
    return program;
  }
  program.target = gpu_target();
  program.oracle_name = gpu::cublaslt_version();
  if (!program.oracle_name.empty()) {
    program.oracle.emplace();
    program.oracle->fp8_gemm = [](const Fp8Product& p, const TileShape&, Stream stream) {
      gpu::CublasLtProduct(p).run(stream);
    };
    program.oracle->fp8_weight_gradient =
        [](const Fp8WeightGradient& p, const TileShape&, Stream stream) {
          gpu::CublasLtProduct(p).run(stream);
        };
  }
  return program;
}

}  // namespace rehearse::kernels
