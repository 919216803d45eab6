// Known answers: DeepSeek-V3's published sizes and the arithmetic of its layers.

#include <numeric>

#include <gtest/gtest.h>

#include "cost/gpu_work.h"
#include "cost/op_kernels.h"

namespace rehearse {
namespace {

Architecture deepseek_v3() {
  return {.vocabulary = 129280,
          .hidden = 7168,
          .layers = 61,
          .dense_layers = 3,
          .dense_intermediate = 18432,
          .expert_intermediate = 2048,
          .experts = 256,
          .shared_experts = 1,
          .active_experts = 8,
          .groups = 8,
          .kept_groups = 4,
          .routed_scaling = 2.5,
          .heads = 128,
          .q_lora = 1536,
          .kv_lora = 512,
          .qk_nope = 128,
          .qk_rope = 64,
          .v_head = 128,
          .mtp_depth = 1};
}

TEST(Cost, ParametersOfDeepSeekV3) {
  // "671B total parameters with 37B activated" (technical report, abstract).
  EXPECT_NEAR(static_cast<double>(total_parameters(deepseek_v3())), 671e9, 0.5e9);
  EXPECT_NEAR(static_cast<double>(active_parameters(deepseek_v3())), 37.5e9, 0.7e9);
}

TEST(Cost, FlopsOfAMoeLayer) {
  // Per token at sequence 4096, causal. Products: 2 x (q 7168x1536 + 1536x24576, kv 7168x576 +
  // 512x32768, o 16384x7168, gate 7168x256, nine experts of 3x7168x2048); attention over 2048.5
  // keys on average: 2 x 2048.5 x 128 heads x (192 + 128).
  const double products = 2.0 * (7168.0 * 1536 + 1536.0 * 24576 + 7168.0 * 576 + 512.0 * 32768 +
                                 16384.0 * 7168 + 7168.0 * 256 + 9 * 3.0 * 7168 * 2048);
  const double attention = 2.0 * 2048.5 * 128 * 320;
  EXPECT_DOUBLE_EQ(layer_forward_flops(deepseek_v3(), 30, 4096, true).count(),
                   products + attention);
  EXPECT_NEAR(layer_forward_flops(deepseek_v3(), 30, 4096, true).count(), 1.338e9, 0.0005e9);
}

// The products of an op's calls must add up to the layer's formula, forward, and to as much again
// for each of the two backward passes.
TEST(Cost, KernelCallsAddUpToTheFormulas) {
  const Architecture a = deepseek_v3();
  const int64_t length = 4096;
  const std::vector<int64_t> rows(256, length * 8 / 256);
  const auto products = [&](Pass pass) {
    double sum = 0;
    for (const OpKind kind : {OpKind::kAttn, OpKind::kMlp}) {
      const auto calls = op_kernels(a,
                                    {.kind = kind,
                                     .pass = pass,
                                     .moe = true,
                                     .sequences = 1,
                                     .length = length,
                                     .expert_rows = rows})
                             .all();
      for (const KernelCall& c : calls) {
        if (c.kernel <= Kernel::kMatmulGradWeight) sum += flops(c).count();
      }
    }
    return sum / static_cast<double>(length);
  };
  const double attention = 2.0 * 2048.5 * 128 * 320;
  const double expected = layer_forward_flops(a, 30, length, true).count() - attention;
  EXPECT_NEAR(products(Pass::kForward), expected, 1e-9 * expected);
  EXPECT_NEAR(products(Pass::kInput), expected, 1e-9 * expected);
  EXPECT_NEAR(products(Pass::kWeight), expected, 1e-9 * expected);
}

TEST(Cost, AttentionCountsTheCausalHalf) {
  const KernelCall call{Kernel::kAttention, {2, 4096, 128, 192, 128}};
  EXPECT_DOUBLE_EQ(flops(call).count(), 2.0 * 2 * 128 * (4096.0 * 4097 / 2) * (192 + 128));
}

// The products and cores of a layer on GPUs are those of the formula, in every pass; what backward
// computes again (the up-projections) is counted on top.
TEST(Cost, GpuTasksAddUpToTheLayer) {
  const Architecture a = deepseek_v3();
  constexpr int64_t kLength = 4096;
  const std::vector<int64_t> rows(4, kLength * 2);
  const ExchangeTokens exchange{.sent = 4 * kLength, .arrived = 7 * kLength};
  const auto flops_of = [&](Pass pass, int64_t layer) {
    double sum = 0;
    for (const OpKind kind : {OpKind::kAttn, OpKind::kMlp}) {
      const bool moe = a.is_moe(layer);
      for (const GpuTask& t : gpu_tasks(
               a,
               {.kind = kind,
               .pass = pass,
               .moe = moe,
               .sequences = 1,
               .length = kLength,
               .expert_rows = moe ? std::span<const int64_t>(rows) : std::span<const int64_t>(),
               .exchange = moe ? std::optional(exchange) : std::nullopt},
               {.format = Format::kFp8})) {
        EXPECT_GT(t.bytes.count(), 0);
        sum += t.flops.count();
      }
    }
    return sum / kLength;
  };
  for (const int64_t layer : {1, 30}) {
    const double gate = a.is_moe(layer) ? 2.0 * 256 * 7168 : 0;  // counted in bytes
    const double forward = layer_forward_flops(a, layer, kLength, true).count() - gate;
    EXPECT_NEAR(flops_of(Pass::kForward, layer), forward, 1e-9 * forward);
    const double core = 2.0 * 2048.5 * 128 * 320;
    const double core_backward = 2.0 * 2048.5 * 128 * (3 * 192 + 2 * 128);
    const double again = 2.0 * (1536 * 24576 + 512 * 32768);
    EXPECT_NEAR(
        flops_of(Pass::kInput, layer), forward - core + core_backward + again, 1e-9 * forward);
    EXPECT_NEAR(flops_of(Pass::kWeight, layer), forward - core, 1e-9 * forward);
  }
}

// BF16 casts nothing; ranks that share a sequence share its pairs of positions.
TEST(Cost, GpuTasksOfOtherRecipes) {
  const Architecture a = deepseek_v3();
  const OpShape op{.kind = OpKind::kAttn, .moe = false, .sequences = 1, .length = 32768};
  double whole = 0;
  double part = 0;
  for (const GpuTask& t : gpu_tasks(a, op, {.format = Format::kBf16})) {
    EXPECT_NE(t.kind, WorkKind::kCast);
    whole += t.flops.count();
  }
  for (const GpuTask& t : gpu_tasks(a, op, {.format = Format::kBf16, .context_parallel = 8})) {
    part += t.flops.count();
  }
  // Each of them up-projects the keys and values of the whole sequence.
  const double up = 2.0 * 32768 * 512 * 32768;
  EXPECT_NEAR(part * 8 / (whole + 7 * up), 1, 1e-12);
}

TEST(Cost, NamesRoundTrip) {
  for (const auto name : kernel_names()) {
    ASSERT_TRUE(kernel_named(name));
    EXPECT_EQ(name_of(*kernel_named(name)), name);
  }
  EXPECT_FALSE(kernel_named("conv"));
}

}  // namespace
}  // namespace rehearse
