#include <cstring>
#include <map>
#include <stdexcept>

#include "kernels/checking/target.h"
#include "kernels/devices/devices.h"
#include "kernels/ptx/gpu/hang.cuh"
#include "kernels/ptx/gpu/launch.cuh"

namespace rehearse::kernels {
namespace {

constexpr size_t kGuard = 1024;
constexpr uint8_t kMark = 0xa5;

// Counts 4-byte words that differ.
__global__ void compare_words(const uint32_t* a,
                              const uint32_t* b,
                              size_t words,
                              uint64_t* differ) {
  uint64_t own = 0;
  for (size_t i = blockIdx.x * size_t{blockDim.x} + threadIdx.x; i < words;
       i += size_t{gridDim.x} * blockDim.x) {
    own += a[i] != b[i];
  }
  if (own > 0) atomicAdd(reinterpret_cast<unsigned long long*>(differ), own);
}

class GpuTarget : public Target {
 public:
  explicit GpuTarget(const KernelSet& set) : Target(set) {
    cudaDeviceProp p;
    REHEARSE_CUDA(cudaGetDeviceProperties(&p, 0));
    name_ = p.name;
    gpu::watch_for_hangs();
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

  void release(void* p) override {
    sizes_.erase(p);
    cudaFree(static_cast<uint8_t*>(p) - kGuard);  // what failed before was said
  }
  void check_guards(void* p) override {
    const uint8_t* first = static_cast<uint8_t*>(p) - kGuard;
    const size_t bytes = sizes_.at(p);
    std::vector<uint8_t> guards(2 * kGuard);
    download(guards.data(), first, kGuard);
    download(guards.data() + kGuard, first + kGuard + bytes, kGuard);
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
  void copy(void* to, const void* from, size_t bytes) override {
    REHEARSE_CUDA(cudaMemcpy(to, from, bytes, cudaMemcpyDeviceToDevice));
  }
  void fill(void* to, uint8_t value, size_t bytes) override {
    REHEARSE_CUDA(cudaMemset(to, value, bytes));
  }
  bool same(const void* a, const void* b, size_t bytes) override {
    const size_t words = bytes / 4;
    const size_t tail = bytes - words * 4;
    uint64_t* differ = nullptr;
    REHEARSE_CUDA(cudaMalloc(&differ, sizeof(*differ)));
    REHEARSE_CUDA(cudaMemset(differ, 0, sizeof(*differ)));
    compare_words<<<1024, 256>>>(
        static_cast<const uint32_t*>(a), static_cast<const uint32_t*>(b), words, differ);
    REHEARSE_CUDA(cudaGetLastError());
    uint64_t count = 0;
    REHEARSE_CUDA(cudaMemcpy(&count, differ, sizeof(count), cudaMemcpyDeviceToHost));
    REHEARSE_CUDA(cudaFree(differ));
    uint8_t ends[2][4] = {};
    if (tail > 0) {
      download(ends[0], static_cast<const uint8_t*>(a) + words * 4, tail);
      download(ends[1], static_cast<const uint8_t*>(b) + words * 4, tail);
    }
    return count == 0 && std::memcmp(ends[0], ends[1], tail) == 0;
  }
  // An error of a kernel stays with the process.
  bool broken() override {
    return cudaGetLastError() != cudaSuccess || cudaDeviceSynchronize() != cudaSuccess;
  }
  void synchronize() override {
    const cudaError_t error = cudaDeviceSynchronize();
    if (const std::string hang = gpu::describe_hang(); !hang.empty())
      throw std::runtime_error(hang);
    gpu::check_cuda(error, "cudaDeviceSynchronize()", __FILE__, __LINE__);
  }
  void vary(int) override {}
  std::string name() const override { return name_; }

 private:
  std::map<void*, size_t> sizes_;
  std::string name_;
};

}  // namespace

std::unique_ptr<Target> gpu_target(const KernelSet& set) {
  if (const std::string why = why_no_gpu(); !why.empty()) throw std::runtime_error(why);
  return std::make_unique<GpuTarget>(set);
}

std::unique_ptr<Target> gpu_target() {
  return gpu_target(gpu_kernels());
}

}  // namespace rehearse::kernels
