#include "kernels/checking/target.h"
#include "kernels/ptx/imitation/global_memory.h"
#include "kernels/ptx/imitation/machine.h"

namespace rehearse::kernels {
namespace {

// The imitation's memory knows what is written and what is outside; no guards are needed. Kernels
// run when they are started.
class ImitatedTarget : public Target {
 public:
  using Target::Target;
  void* allocate(size_t bytes) override { return memory().allocate(bytes); }
  void release(void* p) override { memory().release(p); }
  void upload(void* to, const void* from, size_t bytes) override {
    memory().upload(to, from, bytes);
  }
  void download(void* to, const void* from, size_t bytes) override {
    memory().download(to, from, bytes);
  }
  void synchronize() override {}
  void vary(int run) override { imitation::set_schedule_seed(static_cast<uint64_t>(run) + 1); }
  std::string name() const override { return "the imitation"; }

 private:
  static imitation::GlobalMemory& memory() { return imitation::GlobalMemory::instance(); }
};

}  // namespace

std::unique_ptr<Target> imitated_target(const KernelSet& set) {
  return std::make_unique<ImitatedTarget>(set);
}

std::unique_ptr<Target> imitated_target() {
  return imitated_target({imitated::fp8_gemm,
                          imitated::fp8_weight_gradient,
                          imitated::cast_rows,
                          imitated::cast_columns,
                          imitated::cast_blocks});
}

}  // namespace rehearse::kernels
