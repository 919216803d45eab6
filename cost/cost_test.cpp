// Known answers: DeepSeek-V3's published sizes and the arithmetic of its layers.

#include <numeric>

#include <gtest/gtest.h>

#include "base/errors.h"
#include "cost/gpu_tasks.h"
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
  const Layers layers(a);
  const int64_t length = 4096;
  const std::vector<int64_t> rows(256, length * 8 / 256);
  const auto products = [&](Pass pass) {
    double sum = 0;
    for (const OpKind kind : {OpKind::kAttn, OpKind::kMlp}) {
      const auto calls = op_kernels(layers,
                                    {.kind = kind,
                                     .pass = pass,
                                     .moe = true,
                                     .sequences = 1,
                                     .length = length,
                                     .expert_rows = rows})
                             .all();
      for (const KernelCall& c : calls) {
        if (is_product(c.kernel)) sum += flops(c).count();
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
  const Layers layers(a);
  constexpr int64_t kLength = 4096;
  const std::vector<int64_t> rows(4, kLength * 2);
  const ExchangeTokens exchange{.sent = 4 * kLength, .arrived = 7 * kLength};
  const auto flops_of = [&](Pass pass, int64_t layer) {
    double sum = 0;
    for (const OpKind kind : {OpKind::kAttn, OpKind::kMlp}) {
      const bool moe = a.is_moe(layer);
      for (const GpuTask& t : gpu_tasks(
               layers,
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
  for (const GpuTask& t : gpu_tasks(Layers(a), op, {.format = Format::kBf16})) {
    EXPECT_NE(t.kind, WorkKind::kCast);
    whole += t.flops.count();
  }
  for (const GpuTask& t :
       gpu_tasks(Layers(a), op, {.format = Format::kBf16, .context_parallel = 8})) {
    part += t.flops.count();
  }
  // Each of them up-projects the keys and values of the whole sequence.
  const double up = 2.0 * 32768 * 512 * 32768;
  EXPECT_NEAR(part * 8 / (whole + 7 * up), 1, 1e-12);
}

// What a token leaves behind in a layer of DeepSeek-V3 on this project's runtime, tensor by tensor.
TEST(Cost, KeptElementsOfALayer) {
  const Layers layers(deepseek_v3());
  // x, its norm; q_a, its norm, q; kv_a, its norm, kv; the core's output and log-sums; h, its norm.
  const int64_t attention = 2 * 7168 + 2 * 1536 + 128 * 192 + (512 + 64) + 512 + 128 * (128 + 128) +
                            128 * 128 + 128 + 2 * 7168;
  EXPECT_EQ(kept_elements(layers.dense, 7168, 8), attention + 3 * 18432);
  // Scores, choices and weights; of each of eight experts input, gate and up, and what is between.
  EXPECT_EQ(kept_elements(layers.moe, 7168, 8),
            attention + 256 + 2 * 8 + 8 * (7168 + 3 * 2048) + 3 * 2048);
}

// On a GPU under FP8: both residuals and the compressed queries and keys in BF16, the core's output
// in 12 bits with FP32 log-sums, SwiGLU's inputs and experts' rows in FP8.
TEST(Cost, KeptBytesOfALayer) {
  const Layers layers(deepseek_v3());
  const double attention = 2 * 2 * 7168.0 + 2 * (1536.0 + 512 + 64) + 1.5 * 128 * 128 + 4 * 128.0;
  const PrecisionBytes& fp8 = bytes_of(Precision::kFp8);
  EXPECT_DOUBLE_EQ(kept_bytes(layers.dense, 7168, fp8), attention + 2 * 18432.0);
  EXPECT_DOUBLE_EQ(kept_bytes(layers.moe, 7168, fp8),
                   attention + 4 * 256 + 8 * 8 + 8 * (7168 + 2 * 2048.0) + 2 * 2048.0);
}

TEST(Cost, NamesOfWeights) {
  EXPECT_EQ(name_of(Part::kKeyValueDown), "self_attn.kv_a_proj_with_mqa");
  EXPECT_EQ(expert_name(Part::kExpertDown, 3), "mlp.experts.3.down_proj");
  Architecture a = deepseek_v3();
  a.q_lora.reset();
  std::vector<std::string_view> names;
  for (const Linear& l : Layers(a).dense.projections()) names.push_back(name_of(l.part));
  EXPECT_EQ(names,
            (std::vector<std::string_view>{"self_attn.q_proj",
                                           "self_attn.kv_a_proj_with_mqa",
                                           "self_attn.kv_b_proj",
                                           "self_attn.o_proj"}));
}

// FP8 work is held against the FP8 peak, all else against BF16's.
TEST(Cost, IdealTimes) {
  const GpuPeaks peaks{FlopsPerSecond(1e12), FlopsPerSecond(2e12), BytesPerSecond(1e30)};
  const GpuTask fp8 = product_task(Family::kDense, Format::kFp8, 1, 1000, 1000, 1000);
  const GpuTask bf16 = product_task(Family::kDense, Format::kBf16, 1, 1000, 1000, 1000);
  EXPECT_EQ(ideal_time(fp8, peaks), Duration::microseconds(1000));
  EXPECT_EQ(ideal_time(bf16, peaks), Duration::microseconds(2000));
}

TEST(Cost, NamesRoundTrip) {
  for (const Kernel kernel : all_kernels()) EXPECT_EQ(kernel_named(name_of(kernel)), kernel);
  EXPECT_FALSE(kernel_named("conv"));
  for (const WorkKind kind : work_kinds()) EXPECT_EQ(work_kind_named(name_of(kind)), kind);
  for (size_t k = 0; k < kOpKinds; ++k) {
    const auto kind = static_cast<OpKind>(k);
    EXPECT_EQ(op_kind_named(name_of(kind)), kind);
    EXPECT_EQ(op_named(to_string(OpName{kind, Pass::kWeight})), (OpName{kind, Pass::kWeight}));
  }
  EXPECT_FALSE(op_named("attn"));
  EXPECT_FALSE(op_named("attn."));
  // A value that the table has not is our own bug, not a look behind its end.
  EXPECT_THROW(name_of(static_cast<OpKind>(kOpKinds)), InternalError);
}

}  // namespace
}  // namespace rehearse
