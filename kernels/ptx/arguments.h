#pragma once
// Checks of what a kernel is called with, before anything is started. All throw
// std::invalid_argument: the kernel, the argument, its value and what would be right.

#include <cstdint>
#include <stdexcept>
#include <string>

namespace rehearse::kernels {

class Arguments {
 public:
  explicit Arguments(const char* kernel) : kernel_(kernel) {}

  void require(bool condition, const std::string& what) const {
    if (!condition) throw std::invalid_argument(std::string(kernel_) + ": " + what);
  }
  void require_multiple(int64_t value, int64_t of, const char* name) const {
    require(value > 0 && value % of == 0 && value < int64_t{1} << 31,
            std::string(name) + " is " + std::to_string(value) + ", not a positive multiple of " +
                std::to_string(of) + " below 2^31");
  }
  // Vector loads and tensor copies need 16 bytes.
  void require_aligned(const void* p, const char* name) const {
    require(p && reinterpret_cast<uintptr_t>(p) % 16 == 0,
            std::string(name) + " is null or not aligned to 16 bytes");
  }

 private:
  const char* kernel_;
};

}  // namespace rehearse::kernels
