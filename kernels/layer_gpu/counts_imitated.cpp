// The kernels of counts.cu, for the CPU: the instructions are imitated (kernels/ptx/imitation/).
#include "kernels/layer_gpu/counts.cu"
