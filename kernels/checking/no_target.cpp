#include "kernels/checking/target.h"

namespace rehearse::kernels {
namespace {

class NoTarget : public Target {
 public:
  NoTarget()
      : Target({[](const Fp8Product&, const TileShape&, Stream) {},
                [](const Fp8WeightGradient&, const TileShape&, Stream) {},
                [](const CastRows&, Stream) {},
                [](const CastColumns&, Stream) {},
                [](const CastBlocks&, Stream) {}}) {}
  void* allocate(size_t) override { return nullptr; }
  void release(void*) override {}
  void check_guards(void*) override {}
  void upload(void*, const void*, size_t) override {}
  void download(void*, const void*, size_t) override {}
  void copy(void*, const void*, size_t) override {}
  void fill(void*, uint8_t, size_t) override {}
  bool same(const void*, const void*, size_t) override { return true; }
  void synchronize() override {}
  void vary(int) override {}
  std::string name() const override { return "no target: only the host's part"; }
  bool runs() const override { return false; }
};

}  // namespace

std::unique_ptr<Target> no_target() {
  return std::make_unique<NoTarget>();
}

}  // namespace rehearse::kernels
