// The kernels of moves.cu, for the CPU: the instructions are imitated (kernels/ptx/imitation/).
#include "kernels/layer_gpu/moves.cu"
