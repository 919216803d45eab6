// The kernels of swiglu.cu, for the CPU: the instructions are imitated (kernels/ptx/imitation/).
#include "kernels/layer_gpu/swiglu.cu"
