// The kernels of fp8_gemm.cu, for the CPU: the instructions are imitated (kernels/ptx/imitation/).
#include "kernels/fp8_gemm/fp8_gemm.cu"
