#include "kernels/checking/program.h"
#include "kernels/fp8_gemm/cublaslt.h"

namespace rehearse::kernels {

CheckProgram check_program() {
  KernelSet cublaslt;
  cublaslt.fp8_gemm = [](const Fp8Product& p, const TileShape&, Stream stream) {
    gpu::CublasLtProduct(p).run(stream);
  };
  cublaslt.fp8_weight_gradient = [](const Fp8WeightGradient& p, const TileShape&, Stream stream) {
    gpu::CublasLtProduct(p).run(stream);
  };
  CheckProgram program;
  program.target = gpu_target();
  program.oracle = gpu_target(cublaslt);
  return program;
}

}  // namespace rehearse::kernels
