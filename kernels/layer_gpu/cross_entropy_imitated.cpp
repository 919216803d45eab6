// The kernels of cross_entropy.cu, for the CPU: the instructions are imitated
// (kernels/ptx/imitation/).
#include "kernels/layer_gpu/cross_entropy.cu"
