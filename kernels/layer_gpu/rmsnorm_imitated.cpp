// The kernels of rmsnorm.cu, for the CPU: the instructions are imitated (kernels/ptx/imitation/).
#include "kernels/layer_gpu/rmsnorm.cu"
