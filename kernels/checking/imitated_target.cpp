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
  void check_guards(void*) override {}
  void upload(void* to, const void* from, size_t bytes) override {
    memory().upload(to, from, bytes);
  }
  void download(void* to, const void* from, size_t bytes) override {
    memory().download(to, from, bytes);
  }
  void copy(void* to, const void* from, size_t bytes) override {
    upload(to, bytes_at(from, bytes).data(), bytes);
  }
  void fill(void* to, uint8_t value, size_t bytes) override {
    upload(to, std::vector<uint8_t>(bytes, value).data(), bytes);
  }
  bool same(const void* a, const void* b, size_t bytes) override {
    return bytes_at(a, bytes) == bytes_at(b, bytes);
  }
  void synchronize() override {}
  void vary(int run) override { imitation::set_schedule_seed(static_cast<uint64_t>(run) + 1); }
  std::string name() const override { return "the imitation"; }

 private:
  static std::vector<uint8_t> bytes_at(const void* p, size_t bytes) {
    std::vector<uint8_t> out(bytes);
    memory().download(out.data(), p, bytes);
    return out;
  }
  static imitation::GlobalMemory& memory() { return imitation::GlobalMemory::instance(); }
};

}  // namespace

std::unique_ptr<Target> imitated_target(const KernelSet& set) {
  return std::make_unique<ImitatedTarget>(set);
}

KernelSet imitated_kernels() {
  return {imitated::fp8_gemm,
          imitated::fp8_weight_gradient,
          imitated::cast_rows,
          imitated::cast_columns,
          imitated::cast_blocks,
          imitated::rmsnorm,
          imitated::rmsnorm_backward,
          imitated::swiglu,
          imitated::swiglu_backward,
          imitated::rope,
          imitated::cross_entropy,
          imitated::cross_entropy_backward,
          imitated::sum,
          imitated::embedding,
          imitated::embedding_backward,
          imitated::adamw,
          imitated::map_rows,
          imitated::permute,
          imitated::unpermute,
          imitated::gate,
          imitated::gate_backward,
          imitated::product,
          imitated::product,
          imitated::attention,
          imitated::attention_backward,
          imitated::move,
          imitated::of_rows,
          imitated::of_choices,
          imitated::look_up,
          imitated::count,
          imitated::update_bias,
          imitated::weights_of_chosen,
          imitated::count_bad,
          imitated::total,
          imitated::encode,
          imitated::decode,
          imitated::round_columns,
          imitated::destinations,
          imitated::gather,
          imitated::sum_parts,
          imitated::sum_members};
}

std::unique_ptr<Target> imitated_target() {
  return imitated_target(imitated_kernels());
}

}  // namespace rehearse::kernels
