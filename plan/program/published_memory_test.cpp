// Peak memory against runs of Megatron-LM on B200, each figure the largest
// torch.cuda.max_memory_allocated() of any rank: experiments/published-memory says more.
// Source: github.com/MooreThreads/SimuMax, docs/b200/b200_release_v1.2_summary.md.

#include <gtest/gtest.h>

#include "plan/program/memory.h"
#include "plan/testing.h"

namespace rehearse {
namespace {

struct Measured {
  const char* model;
  int64_t layers;
  Layout layout;
  int64_t sequence;
  double gib;
};

void PrintTo(const Measured& m, std::ostream* out) {
  *out << m.model << " " << ranks_text(m.layout) << " " << m.sequence;
}

class PublishedMemory : public testing::TestWithParam<Measured> {};

TEST_P(PublishedMemory, IsToldWithinATenth) {
  const Measured& m = GetParam();
  Plan plan = small_plan({});
  plan.model = load_model(std::string(REHEARSE_SOURCE_DIR) + "/models/" + m.model + ".yaml");
  Architecture& a = plan.model.architecture;
  a.layers = m.layers;
  a.dense = LayerSet::leading(a.experts > 0 ? 1 : m.layers);
  a.mtp_depth = 0;
  plan.cluster.device = DeviceKind::kGpu;
  plan.layout = m.layout;
  plan.layout.layers_per_stage = even_layers(m.layers, m.layout.stages());
  plan.training.precision = Precision::kBf16;
  plan.training.micro_batch_size = 1;
  plan.training.sequence_length = m.sequence;
  plan.training.recompute = {.norms = false, .up_projections = false, .activations = false};
  Bytes told;  // without what is set aside for libraries, which PyTorch's figure does not count
  for (int64_t r = 0; r < plan.layout.pp; ++r) {
    const RankMemory memory = rank_memory(plan, r);
    told = std::max(told, memory.total() + memory.passing);
  }
  EXPECT_NEAR(static_cast<double>(told.count()) / (1 << 30) / m.gib, 1, 0.1);
}

constexpr Dispatcher kNccl = Dispatcher::kAllToAll;
INSTANTIATE_TEST_SUITE_P(
    B200,
    PublishedMemory,
    testing::Values(
        Measured{"llama-3.1-70b", 12, {.pp = 2, .dp = 4}, 4096, 66.55},
        Measured{"llama-3.1-70b", 12, {.dp = 4, .tp = 2}, 4096, 60.68},
        Measured{"llama-3.1-70b", 12, {.dp = 2, .tp = 4}, 4096, 39.07},
        Measured{"llama-3.1-70b", 12, {.tp = 8}, 4096, 28.29},
        Measured{"llama-3.1-405b", 4, {.pp = 2, .dp = 4}, 4096, 87.08},
        Measured{"llama-3.1-405b", 4, {.dp = 4, .tp = 2}, 4096, 81.59},
        Measured{"llama-3.1-405b", 4, {.tp = 8}, 4096, 38.57},
        Measured{"llama-3.1-70b", 12, {.tp = 2, .cp = 4}, 32768, 68.43},
        Measured{"llama-3.1-70b", 12, {.cp = 8}, 131072, 147.99},
        Measured{"llama-3.1-405b", 4, {.cp = 8}, 32768, 139.22},
        Measured{"deepseek-v2", 4, {.dp = 8, .ep = 8, .dispatcher = kNccl}, 4096, 45.63},
        Measured{"deepseek-v2", 4, {.pp = 2, .dp = 4, .ep = 4, .dispatcher = kNccl}, 4096, 44.70},
        Measured{"deepseek-v3", 4, {.dp = 8, .ep = 8, .dispatcher = kNccl}, 4096, 104.30},
        Measured{
            "deepseek-v3", 4, {.pp = 2, .dp = 4, .ep = 4, .dispatcher = kNccl}, 4096, 114.00}));

}  // namespace
}  // namespace rehearse
