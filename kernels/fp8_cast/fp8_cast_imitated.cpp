// The kernels of fp8_cast.cu, for the CPU: the instructions are imitated (kernels/ptx/imitation/).
#include "kernels/fp8_cast/fp8_cast.cu"
