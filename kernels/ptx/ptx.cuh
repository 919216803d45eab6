#pragma once
// The instructions that kernels use, one small function each, and the launch of a kernel. Kernel
// sources include this file alone and are compiled twice: by nvcc for GPUs, with the inline PTX of
// ptx/gpu/, and by the host's compiler with ptx/imitation/, which imitates every instruction.
//
// A kernel source puts its code into `namespace rehearse::kernels::REHEARSE_TARGET`, calls
// instructions as ptx::name, shared memory by 32-bit addresses and device memory through
// ptx::load_global and ptx::store_global, and starts kernels with ptx::launch. That is all the
// imitation needs.

#include "kernels/ptx/tensor_map.h"

#ifdef __CUDACC__
#include "kernels/ptx/gpu/barrier.cuh"
#include "kernels/ptx/gpu/launch.cuh"
#include "kernels/ptx/gpu/memory.cuh"
#include "kernels/ptx/gpu/tensor_copy.cuh"
#include "kernels/ptx/gpu/thread.cuh"
#include "kernels/ptx/gpu/wgmma.cuh"
#ifndef REHEARSE_TARGET
#define REHEARSE_TARGET gpu
#else  // a variant, for tests
namespace rehearse::kernels::REHEARSE_TARGET {
namespace ptx = ::rehearse::kernels::gpu::ptx;
}
#endif
#else
#ifndef REHEARSE_TARGET
#define REHEARSE_TARGET imitated
#endif
#include "kernels/ptx/imitation/instructions.h"
namespace rehearse::kernels::REHEARSE_TARGET {
namespace ptx = ::rehearse::kernels::imitation::ptx;
}
#endif
