// The kernel of rope.cu, for the CPU: the instructions are imitated (kernels/ptx/imitation/).
#include "kernels/layer_gpu/rope.cu"
