#include <map>
#include <stdexcept>

#include "kernels/checking/target.h"
#include "kernels/ptx/gpu/launch.cuh"

namespace rehearse::kernels {
namespace {

constexpr size_t kGuard = 1024;
constexpr uint8_t kMark = 0xa5;

class GpuTarget : public Target {
 public:
  explicit GpuTarget(const KernelSet& set) : Target(set) {
    cudaDeviceProp p;
    REHEARSE_CUDA(cudaGetDeviceProperties(&p, 0));
    name_ = p.name;
  }

  void* allocate(size_t bytes) override {
    uint8_t* p = nullptr;
    REHEARSE_CUDA(cudaMalloc(&p, bytes + 2 * kGuard));
    REHEARSE_CUDA(cudaMemset(p, kMark, kGuard));
    REHEARSE_CUDA(cudaMemset(p + kGuard, 0xff, bytes));
    REHEARSE_CUDA(cudaMemset(p + kGuard + bytes, kMark, kGuard));
    sizes_[p + kGuard] = bytes;
    return p + kGuard;
  }

  void release(void* q) override {
    uint8_t* p = static_cast<uint8_t*>(q) - kGuard;
    const size_t bytes = sizes_.at(q);
    sizes_.erase(q);
    std::vector<uint8_t> guards(2 * kGuard);
    REHEARSE_CUDA(cudaMemcpy(guards.data(), p, kGuard, cudaMemcpyDeviceToHost));
    REHEARSE_CUDA(
        cudaMemcpy(guards.data() + kGuard, p + kGuard + bytes, kGuard, cudaMemcpyDeviceToHost));
    REHEARSE_CUDA(cudaFree(p));
    for (size_t i = 0; i < guards.size(); ++i) {
      if (guards[i] != kMark) {
        throw std::runtime_error(std::string("a kernel wrote ") +
                                 (i < kGuard ? "before" : "behind") + " an array of " +
                                 std::to_string(bytes) + " bytes");
      }
    }
  }

  void upload(void* to, const void* from, size_t bytes) override {
    REHEARSE_CUDA(cudaMemcpy(to, from, bytes, cudaMemcpyHostToDevice));
  }
  void download(void* to, const void* from, size_t bytes) override {
    REHEARSE_CUDA(cudaMemcpy(to, from, bytes, cudaMemcpyDeviceToHost));
  }
  void synchronize() override { REHEARSE_CUDA(cudaDeviceSynchronize()); }
  void vary(int) override {}
  std::string name() const override { return name_; }

 private:
  std::map<void*, size_t> sizes_;
  std::string name_;
};

}  // namespace

std::string why_no_gpu() {
  int count = 0;
  if (const cudaError_t e = cudaGetDeviceCount(&count); e != cudaSuccess) {
    return cudaGetErrorString(e);
  }
  if (count == 0) return "no CUDA device";
  cudaDeviceProp p;
  if (const cudaError_t e = cudaGetDeviceProperties(&p, 0); e != cudaSuccess) {
    return cudaGetErrorString(e);
  }
  if (p.major != 9 || p.minor != 0) {
    return std::string(p.name) + " is of compute capability " + std::to_string(p.major) + "." +
           std::to_string(p.minor) + "; the kernels are for 9.0";
  }
  return "";
}

std::unique_ptr<Target> gpu_target(const KernelSet& set) {
  if (const std::string why = why_no_gpu(); !why.empty()) throw std::runtime_error(why);
  return std::make_unique<GpuTarget>(set);
}

std::unique_ptr<Target> gpu_target() {
  return gpu_target({gpu::fp8_gemm,
                     gpu::fp8_weight_gradient,
                     gpu::cast_rows,
                     gpu::cast_columns,
                     gpu::cast_blocks});
}

}  // namespace rehearse::kernels
