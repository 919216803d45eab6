// Known answers: DeepSeek-V3's published sizes and the arithmetic of its layers.

#include <numeric>

#include <gtest/gtest.h>

#include "base/errors.h"
#include "cost/gpu_tasks.h"
#include "cost/op_kernels.h"

namespace rehearse {
namespace {

constexpr Recompute kKeepAll{.norms = false, .up_projections = false, .activations = false};

Architecture deepseek_v3() {
  return {.vocabulary = 129280,
          .hidden = 7168,
          .layers = 61,
          .dense = LayerSet::leading(3),
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
                                     .expert_rows = rows},
                                    kKeepAll)
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
                            128 * 128 + 128 + 2 * 7168 + 4;  // and of the norms a factor each
  const auto kept = [&](bool moe, const Recompute& again) {
    return runtime_bytes(layers.of(moe), 7168, 8, 0, again, {}).kept;
  };
  EXPECT_EQ(kept(false, kKeepAll), 4 * (attention + 3 * 18432));
  // Scores, choices, weights and the map of their rows; of each of eight experts input, gate and
  // up, and what is between.
  EXPECT_EQ(kept(true, kKeepAll), 4 * (attention + 256 + 6 * 8 + 8 * (7168 + 3 * 2048) + 3 * 2048));
  // Without norms, expansions and SwiGLU's output.
  EXPECT_EQ(kept(false, {}),
            4 * (attention - 2 * 7168 - 1536 - 512 - 128 * 192 - 128 * (128 + 128) + 2 * 18432));
  // In BF16 half of it, but for factors, log-sums, scores, choices and weights.
  const int64_t exact = 4 + 128 + 256 + 6 * 8;
  const int64_t all = attention + 256 + 6 * 8 + 8 * (7168 + 3 * 2048) + 3 * 2048;
  const ElementFormat bf16{2};
  EXPECT_EQ(runtime_bytes(
                layers.of(true), 7168, 8, 0, kKeepAll, {bf16, bf16, bf16, bf16, bf16, bf16, bf16})
                .kept,
            2 * (all - exact) + 4 * exact);
  // In FP8, with everything kept that may be computed again: x, h, the FFN's norm (the router reads
  // it), compressions, queries, keys and values in BF16; what products read and SwiGLU's inputs in
  // FP8 with a scale per 128; the core's output in twelve bits with such scales.
  const ElementFormat fp8{1, true};
  const auto scaled = [](int64_t n) { return n + (n + 127) / 128 * 4; };
  const int64_t in_bf16 = 3 * 7168 + 1536 + 128 * 192 + (512 + 64) + 128 * (128 + 128);
  const int64_t in_fp8 = scaled(7168) + scaled(1536) + scaled(512) +
                         8 * (scaled(7168) + scaled(2 * 2048) + scaled(2048)) + scaled(2 * 2048) +
                         scaled(2048);
  const int64_t core = 128 * 128 * 3 / 2 + 128 * 4;
  EXPECT_EQ(runtime_bytes(
                layers.of(true), 7168, 8, 0, kKeepAll, {bf16, fp8, fp8, fp8, {1.5, true}, fp8, fp8})
                .kept,
            2 * in_bf16 + in_fp8 + core + 4 * exact);
}

// On a GPU under FP8: both residuals and the compressed queries and keys in BF16, the core's output
// in 12 bits with FP32 log-sums, SwiGLU's inputs and experts' rows in FP8.
TEST(Cost, KeptBytesOfALayer) {
  const Layers layers(deepseek_v3());
  const double attention = 2 * 2 * 7168.0 + 2 * (1536.0 + 512 + 64) + 1.5 * 128 * 128 + 4 * 128.0;
  const PrecisionBytes& fp8 = bytes_of(Precision::kFp8);
  const auto kept = [&](bool moe) {
    const KeptBytes k = kept_bytes(layers, moe, false, 4096, fp8, {});
    return k.own + k.gathered;
  };
  EXPECT_DOUBLE_EQ(kept(false), attention + 2 * 18432.0);
  EXPECT_DOUBLE_EQ(kept(true), attention + 4 * 256 + 8 * 8 + 8 * (7168 + 2 * 2048.0) + 2 * 2048.0);
}

Architecture gpt3() {
  return {.vocabulary = 51200,
          .hidden = 12288,
          .layers = 96,
          .dense = LayerSet::leading(96),
          .dense_intermediate = 4 * 12288,
          .heads = 96,
          .qk_nope = 128,
          .v_head = 128,
          .attention = AttentionKind::kGrouped,
          .kv_heads = 96,
          .qkv_bias = true,
          .output_bias = true,
          .norm = NormKind::kLayer,
          .mlp = MlpKind::kGelu,
          .mlp_bias = true,
          .positions = 2048,
          .tied_embeddings = true,
          .dropout = 0.1};
}

// Activations of a GPT layer in 16 bits, per token and in units of h bytes, as Korthikanti et al.
// 2022 (arXiv 2205.05198) have them: equations 1, 2 and 4, section 5 (selective), table 2 (full).
TEST(Cost, KeptBytesOfAGptLayer) {
  const Architecture a = gpt3();
  const PrecisionBytes& bf16 = bytes_of(Precision::kBf16);
  const double s = 2048, h = 12288, scores = 5 * 96 * s / h;
  for (const int64_t t : {1, 2, 4, 8}) {
    const Layers layers(a, {.tp = t});
    const auto kept = [&](bool sequence_parallel, CoreKind core, Recompute recompute) {
      const KeptBytes k = kept_bytes(layers,
                                     false,
                                     false,
                                     2048,
                                     bf16,
                                     {.format = Format::kBf16,
                                      .tensor_parallel = t,
                                      .sequence_parallel = sequence_parallel,
                                      .core = core,
                                      .recompute = recompute});
      return (k.own / (sequence_parallel ? static_cast<double>(t) : 1) + k.gathered) / h;
    };
    const auto tp = static_cast<double>(t);
    const Recompute none{.norms = false, .up_projections = false, .activations = false};
    Recompute selective = none, full = none;
    selective.core = true;
    full.layer = true;
    EXPECT_DOUBLE_EQ(kept(false, CoreKind::kUnfused, none), 10 + 24 / tp + scores / tp) << t;
    EXPECT_DOUBLE_EQ(kept(true, CoreKind::kUnfused, none), 34 / tp + scores / tp) << t;
    EXPECT_DOUBLE_EQ(kept(true, CoreKind::kUnfused, selective), 34 / tp) << t;
    EXPECT_DOUBLE_EQ(kept(false, CoreKind::kUnfused, full), 2) << t;
    EXPECT_DOUBLE_EQ(kept(true, CoreKind::kUnfused, full), 2 / tp) << t;
    // A fused core never holds scores, but four bytes per head.
    EXPECT_DOUBLE_EQ(kept(true, CoreKind::kFused, none), (34 + 4 * 96 / h) / tp) << t;
    // Norms' outputs and GeLU's can be made again: 2 h twice, and 8 h.
    EXPECT_DOUBLE_EQ(kept(true, CoreKind::kFused, {}), (34 - 4 - 8 + 4 * 96 / h) / tp) << t;
  }
}

// 24 h^2 + 4 s h per token and layer (Narayanan et al. 2021, arXiv 2104.04473, appendix: 24 B s h^2
// (1 + s / 6h), with whole squares of scores), and the head.
TEST(Cost, FlopsOfAGptLayer) {
  const double s = 2048, h = 12288;
  EXPECT_DOUBLE_EQ(layer_forward_flops(gpt3(), 0, 2048, false).count(), 24 * h * h + 4 * s * h);
  EXPECT_DOUBLE_EQ(training_flops_per_token(gpt3(), 2048, false).count(),
                   3 * (96 * (24 * h * h + 4 * s * h) + 2 * 51200 * h));
  EXPECT_NEAR(static_cast<double>(total_parameters(gpt3())), 175e9, 1e9);
}

// Grouped-query attention with a window: h (q + 2 kv) d + q d h, scores over the keys it sees.
TEST(Cost, FlopsOfGroupedAttentionWithAWindow) {
  const Architecture a{.vocabulary = 1000,
                       .hidden = 2880,
                       .layers = 2,
                       .dense = LayerSet::leading(2),
                       .dense_intermediate = 2880,
                       .heads = 64,
                       .qk_rope = 64,
                       .v_head = 64,
                       .attention = AttentionKind::kGrouped,
                       .kv_heads = 8,
                       .window = 128,
                       .windowed = LayerSet::leading(1)};
  const double products = 2 * (2880.0 * (64 + 16) * 64 + 64 * 64 * 2880.0 + 3 * 2880.0 * 2880);
  const auto pairs = [](double keys) { return 2 * keys * 64 * (64 + 64); };
  // The first 128 queries see 1 to 128 keys, the other 3968 see 128.
  const double windowed = (128 * 129 / 2 + 3968 * 128.0) / 4096;
  EXPECT_DOUBLE_EQ(layer_forward_flops(a, 0, 4096, true).count(), products + pairs(windowed));
  EXPECT_DOUBLE_EQ(layer_forward_flops(a, 1, 4096, true).count(), products + pairs(2048.5));
  EXPECT_DOUBLE_EQ(layer_forward_flops(a, 0, 100, true).count(), products + pairs(50.5));
  // The same from a GPU's tasks: forward once, backward twice the products, 2.5 times the core.
  const Layers layers(a);
  double forward = 0, backward = 0;
  for (const bool back : {false, true}) {
    for (const OpKind kind : {OpKind::kAttn, OpKind::kMlp}) {
      for (const Pass pass : {Pass::kForward, Pass::kInput, Pass::kWeight}) {
        if ((pass != Pass::kForward) != back) continue;
        const OpShape op{
            .kind = kind, .pass = pass, .windowed = true, .sequences = 1, .length = 4096};
        for (const GpuTask& task : gpu_tasks(layers, op, {.format = Format::kBf16})) {
          (back ? backward : forward) += task.flops.count();
        }
      }
    }
  }
  EXPECT_NEAR(forward / 4096 / (products + pairs(windowed)), 1, 1e-12);
  EXPECT_NEAR(backward / 4096 / (2 * products + 2.5 * pairs(windowed)), 1, 1e-12);
}

// Tensor-parallel ranks share out the work of every product behind the norms, and nothing is done
// twice but what every rank does for its own tokens.
TEST(Cost, TensorParallelRanksShareProducts) {
  for (const Architecture& a : {gpt3(), deepseek_v3()}) {
    const std::vector<int64_t> rows(a.experts > 0 ? 4 : 0, 1024);
    const auto flops = [&](int64_t tp) {
      const Layers layers(a, {.tp = tp});
      double sum = 0;
      for (const OpKind kind : {OpKind::kAttn, OpKind::kMlp, OpKind::kHead}) {
        for (const Pass pass : {Pass::kForward, Pass::kInput, Pass::kWeight}) {
          const OpShape op{.kind = kind, .pass = pass, .sequences = 1, .length = 4096};
          for (const GpuTask& t : gpu_tasks(layers, op, {.tensor_parallel = tp})) {
            sum += t.flops.count();
          }
        }
      }
      return sum;
    };
    EXPECT_NEAR(4 * flops(4) / flops(1), 1, 1e-12) << a.hidden;
  }
}

// Ranks that share an expert's matrices have each other's rows, each its part of the width.
TEST(Cost, RanksThatShareExpertsHaveEachOthersRows) {
  const Architecture a = deepseek_v3();
  const std::vector<int64_t> rows(8, 512);
  const auto flops = [&](int64_t etp) {
    const Layers layers(a, {.etp = etp});
    double sum = 0;
    for (const Pass pass : {Pass::kForward, Pass::kInput, Pass::kWeight}) {
      const OpShape op{.kind = OpKind::kMlp,
                       .pass = pass,
                       .moe = true,
                       .sequences = 1,
                       .length = 4096,
                       .expert_rows = rows};
      for (const GpuTask& t : gpu_tasks(layers, op, {})) {
        if (t.family == Family::kGrouped || t.family == Family::kGroupedWeight) {
          sum += t.flops.count();
        }
      }
    }
    return sum;
  };
  EXPECT_GT(flops(1), 0);
  EXPECT_NEAR(flops(4) / flops(1), 1, 1e-12);
}

TEST(LayerSets, AreRuns) {
  LayerSet s;
  for (const int64_t layer : {5, 0, 2, 1, 9, 4}) s.insert(layer);
  EXPECT_EQ(s.print(), "0-2,4-5,9");
  s.insert(3);
  EXPECT_EQ(s.print(), "0-5,9");
  EXPECT_EQ(s.count(), 7);
  EXPECT_EQ(s.count_below(3), 3);
  EXPECT_FALSE(s.contains(6));
  EXPECT_TRUE(s.contains(9));
  EXPECT_FALSE(s.is_leading());
  EXPECT_TRUE(LayerSet::leading(3).is_leading());
  EXPECT_EQ(LayerSet::parse("0-5,9"), s);
  EXPECT_EQ(LayerSet::parse("none"), LayerSet());
  for (const char* wrong : {"", "3-", "-3", "3-2", "1,1", "1,2", "0-5,6", "5,1", "x", "1,"}) {
    EXPECT_EQ(LayerSet::parse(wrong), std::nullopt) << wrong;
  }
}

TEST(Cost, NamesOfWeights) {
  EXPECT_EQ(name_of(Part::kKeyValueDown), "self_attn.kv_a_proj_with_mqa");
  EXPECT_EQ(expert_name(Part::kExpertDown, 3), "mlp.experts.3.down_proj");
  Architecture a = deepseek_v3();
  a.q_lora.reset();
  std::vector<std::string_view> names;
  for (const Linear& l : Layers(a).of(false).projections()) names.push_back(name_of(l.part));
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
