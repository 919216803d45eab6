// Every reader, fed small valid files that were damaged in every simple way: cut off after every
// byte, every byte flipped, every number replaced by extremes, every line twice. What comes of it
// is a success whose figures are possible, or a clear error; never a bug of ours, an exception of a
// library, a hang or a size out of all proportion.

#include <chrono>
#include <cmath>
#include <functional>

#include <sys/resource.h>

#include "base/errors.h"
#include "base/file.h"
#include "plan/capabilities.h"
#include "plan/program/comparison.h"
#include "plan/routing/routing_file.h"
#include "plan/testing.h"
#include "sim/import/kernel_bench.h"
#include "sim/import/link_benchmarks.h"
#include "sim/import/profile.h"
#include "sim/import/trace.h"
#include "sim/predict.h"
#include "tests/command.h"

#ifdef __SANITIZE_ADDRESS__
// HDF5 asks for what a damaged file says, and takes no for an answer.
extern "C" const char* __asan_default_options() {
  return "allocator_may_return_null=1";
}
#endif

namespace rehearse {
namespace {

// As a user: reads the text, and what can be done with it is done.
using Reader = std::function<void(const std::string& text)>;

const std::vector<std::string> kExtremes = {"0",
                                            "-1",
                                            "1",
                                            "3",
                                            "65536",
                                            "1000000",
                                            "2147483648",
                                            "9223372036854775807",
                                            "99999999999999999999",
                                            "1e-300",
                                            "1e300",
                                            "1e999",
                                            "nan",
                                            "inf",
                                            "0.5"};

// No more memory than this for as long as it lives, but under a sanitizer, which takes terabytes.
class MemoryLimit {
 public:
  explicit MemoryLimit(rlim_t bytes) {
#if !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__)
    ::getrlimit(RLIMIT_AS, &before_);
    const rlimit limit{.rlim_cur = bytes, .rlim_max = before_.rlim_max};
    ::setrlimit(RLIMIT_AS, &limit);
#else
    (void)bytes;
#endif
  }
  ~MemoryLimit() {
#if !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__)
    ::setrlimit(RLIMIT_AS, &before_);
#endif
  }
  MemoryLimit(const MemoryLimit&) = delete;
  MemoryLimit& operator=(const MemoryLimit&) = delete;

 private:
  rlimit before_{};
};

class EveryReader : public CommandTest {
 protected:
  // The undamaged text must be good.
  void damage(const std::string& valid, const Reader& use, bool binary = false) {
    ASSERT_EQ(outcome(valid, use), "good") << valid.substr(0, 300);
    for (size_t n = 0; n < valid.size(); ++n) {
      try_text(valid.substr(0, n), use, "cut off");
      for (const int bits : {0x01, 0x80}) {
        std::string flipped = valid;
        flipped[n] = static_cast<char>(flipped[n] ^ bits);
        try_text(flipped, use, "flipped");
      }
    }
    if (!binary) replace_numbers(valid, use);
    for (size_t at = 0; at < valid.size() && !binary;) {
      const size_t end = std::min(valid.find('\n', at), valid.size() - 1) + 1;
      try_text(valid.substr(0, end) + valid.substr(at), use, "line twice");
      at = end;
    }
    EXPECT_GT(good_, 0);
    EXPECT_GT(refused_, 0);
  }

 private:
  void replace_numbers(const std::string& valid, const Reader& use) {
    for (size_t at = 0; at < valid.size(); ++at) {
      if (std::isdigit(static_cast<unsigned char>(valid[at])) == 0) continue;
      const size_t end = std::min(valid.find_first_not_of("0123456789.", at), valid.size());
      for (const std::string& number : kExtremes) {
        try_text(valid.substr(0, at) + number + valid.substr(end), use, "number " + number);
      }
      at = end;
    }
  }

  void try_text(const std::string& text, const Reader& use, const std::string& how) {
    constexpr std::chrono::seconds kLongest{5};
    const auto begin = std::chrono::steady_clock::now();
    const std::string what = outcome(text, use);
    const auto took = std::chrono::steady_clock::now() - begin;
    good_ += what == "good";
    refused_ += what == "refused";
    if ((what == "good" || what == "refused") && took < kLongest) return;
    if (++failures_ > kShown) return;
    ADD_FAILURE() << how << ": " << what << ", " << std::chrono::duration<double>(took).count()
                  << " s:\n"
                  << text;
  }

  static std::string outcome(const std::string& text, const Reader& use) {
    try {
      use(text);
      return "good";
    } catch (const InputError& e) {
      return *e.what() == '\0' ? "an empty error" : "refused";
    } catch (const ScheduleError& e) {
      return *e.what() == '\0' ? "an empty error" : "refused";
    } catch (const std::exception& e) {
      return std::string("an exception: ") + e.what();
    }
  }

  MemoryLimit limit_{rlim_t{2} << 30};
  static constexpr int64_t kShown = 5;
  int64_t good_ = 0, refused_ = 0, failures_ = 0;
};

void expect_possible(const Duration& step) {
  if (step <= Duration()) throw std::logic_error("a step of no or of negative time");
}

// Loads the plan and, where its step is small, predicts it.
void predict_small(const std::string& path) {
  const Plan plan = load_plan(path);
  constexpr int64_t kOps = 100'000;
  const Architecture& a = plan.model.architecture;
  if (total_parameters(a) <= 0) throw std::logic_error("a model of no parameters");
  const int64_t cells = plan.training.micro_batches * (a.layers + a.mtp_depth);
  if (cells > kOps / 10 || cells * plan.layout.stage_ranks() > kOps / 10) return;
  require_simulate(plan);
  const Program program = build_program(plan);
  validate(program);
  std::optional<Calibration> calibration;
  if (plan.calibration) calibration = load_calibration(*plan.calibration);
  const Prediction p = simulate(
      plan, program, calibration, {.keep = Keep::kSummary, .fold = plan.cluster.of_gpus()});
  expect_possible(p.summary.step);
  for (const Breakdown& b : p.summary.ranks) {
    for (const Duration part :
         {b.f, b.b, b.w, b.fb, b.bubble, b.optimizer, b.exposed_comm, b.exposed_shared}) {
      if (part < Duration()) throw std::logic_error("a part of the step is negative");
    }
  }
  if (!(p.summary.bubble_fraction >= 0 && p.summary.bubble_fraction <= 1)) {
    throw std::logic_error("a bubble of an impossible share");
  }
}

constexpr const char* kModel =
    "name: m\nvocabulary: 64\nhidden: 32\nlayers: 2\ndense_layers: 1\nnorm_eps: 1e-6\n"
    "init_std: 0.02\nattention: {heads: 2, q_lora: 16, kv_lora: 16, qk_nope: 8, qk_rope: 4, "
    "v_head: 8, rope_theta: 10000}\nmlp: {dense_intermediate: 64, expert_intermediate: 16}\n"
    "moe: {experts: 8, shared_experts: 1, active_experts: 2, groups: 2, kept_groups: 1, "
    "score: sigmoid, normalize_weights: true, expert_bias: true, routed_scaling: 1.0}\n";
constexpr const char* kCluster =
    "name: c\nnodes: 2\ndevices_per_node: 4\n"
    "device: {kind: gpu, peak: 900 TFLOP/s, peak_fp8: 1900 TFLOP/s, memory_bandwidth: 3 TB/s, "
    "memory: 80 GB, sms: 132, communication_sms: 20, copy_per_sm: 15 GB/s}\n"
    "node_link: {bandwidth: 160 GB/s, latency: 3 us}\n"
    "network:\n  bandwidth: 47 GB/s\n  latency: 2 us\n"
    "  fabric: {kind: fat_tree, switch_ports: 16, switch_latency: 0.5 us}\n";
constexpr const char* kPlan =
    "model: m.yaml\ncluster: c.yaml\nlayout: {pp: 2, dp: 4, ep: 4, schedule: dualpipe}\n"
    "training: {micro_batches: 4, micro_batch_size: 1, sequence_length: 64, precision: fp8, "
    "tokens: 1M tokens}\nexpert_load: {kind: synthetic, skew: 0.5, seed: 3}\n"
    "budget: {usd_per_gpu_hour: 2.0}\n";

constexpr const char* kGroupedModel =
    "name: g\nvocabulary: 64\nhidden: 32\nlayers: 3\ndense: 0,2\nnorm: layer\nmtp_depth: 1\n"
    "tied_embeddings: true\npositions: 64\ndropout: 0.1\n"
    "attention: {kind: grouped, heads: 4, kv_heads: 2, head_dim: 8, rotated: 4, head_norm: "
    "per_head, "
    "sinks: true, qkv_bias: true, output_bias: true, window: 16, windowed: 1-2}\n"
    "mlp: {kind: gelu, bias: true, dense_intermediate: 64, expert_intermediate: 16}\n"
    "moe: {experts: 8, active_experts: 2, score: softmax, router_bias: true}\n";
constexpr const char* kSharedPlan =
    "model: m.yaml\ncluster: c.yaml\n"
    "layout: {pp: 1, dp: 2, tp: 2, cp: 2, ep: 2, etp: 2, context: ring, dispatcher: all_to_all, "
    "zero_stage: 3, sequence_parallel: true, overlap_p2p: false, overlap_all_to_all: true}\n"
    "training: {micro_batches: 2, micro_batch_size: 1, sequence_length: 64, precision: bf16, "
    "core: unfused, recompute: [norms, selective]}\n";

class EveryPlan : public EveryReader {
 protected:
  void SetUp() override {
    EveryReader::SetUp();
    write("m.yaml", kModel);
    write("c.yaml", kCluster);
    write("p.yaml", kPlan);
  }
  Reader as(const std::string& name) {
    return [this, name](const std::string& text) {
      write(name, text);
      predict_small((folder_ / "p.yaml").string());
    };
  }
};

TEST_F(EveryPlan, Plans) {
  damage(kPlan, as("p.yaml"));
}
TEST_F(EveryPlan, Models) {
  damage(kModel, as("m.yaml"));
}
TEST_F(EveryPlan, Clusters) {
  damage(kCluster, as("c.yaml"));
}

TEST_F(EveryPlan, PlansOfSharedWork) {
  write("m.yaml", kGroupedModel);
  damage(kSharedPlan, as("p.yaml"));
}
TEST_F(EveryPlan, GroupedModels) {
  write("p.yaml", kSharedPlan);
  damage(kGroupedModel, as("m.yaml"));
}

TEST_F(EveryPlan, RecordedRouting) {
#ifdef __SANITIZE_ADDRESS__
  GTEST_SKIP() << "HDF5 1.10 itself reads some bytes behind a damaged header's attributes";
#endif
  const std::string path = (folder_ / "r.h5").string();
  {
    RoutingWriter w(path,
                    {.micro_batches = 1, .layers = 1, .tokens = 4, .active = 2, .experts = 8});
    w.write(0, 0, std::vector<int32_t>{0, 1, 2, 3, 4, 5, 6, 7});
    w.finish();
  }
  std::string plan = kPlan;
  const std::string load = "{kind: synthetic, skew: 0.5, seed: 3}";
  write("p.yaml", plan.replace(plan.find(load), load.size(), "{kind: recorded, file: r.h5}"));
  damage(read("r.h5"), as("r.h5"), /*binary=*/true);
}

TEST_F(EveryReader, Programs) {
  const std::string text = print_program(Program::build(
      {.layout = {.pp = 2, .schedule = ScheduleKind::kZB1P, .layers_per_stage = {1, 1}},
       .micro_batches = 2,
       .dense = LayerSet::leading(1)}));
  damage(text, [](const std::string& t) {
    const Program p = parse_program(t, "p.txt");
    require_whole(p);
    validate(p);
  });
}

TEST_F(EveryReader, ProgramsOfSharedWork) {
  const std::string text =
      print_program(Program::build({.layout = {.pp = 2,
                                               .dp = 2,
                                               .ep = 2,
                                               .tp = 2,
                                               .cp = 2,
                                               .zero_stage = 3,
                                               .dispatcher = Dispatcher::kAllToAll,
                                               .overlap_all_to_all = true,
                                               .layers_per_stage = {0, 2}},
                                    .micro_batches = 2,
                                    .dense = LayerSet::parse("1").value(),
                                    .shared_experts = true,
                                    .recompute_layers = true}));
  damage(text, [](const std::string& t) {
    const Program p = parse_program(t, "p.txt");
    require_whole(p);
    validate(p);
  });
}

TEST_F(EveryReader, Timelines) {
  const Program program = Program::build({.layout = {.layers_per_stage = {1}}, .micro_batches = 1});
  const Timeline unit = simulate_unit_costs(program, Duration::microseconds(3));
  damage(print_timeline(program, unit), [&](const std::string& t) {
    const Comparison c = compare_timelines(program, unit, parse_timeline(program, t, "t.json"));
    expect_possible(c.measured_step);
    if (!std::isfinite(c.step_error)) throw std::logic_error("an error that is no number");
    for (const auto& part : c.lane) {
      if (part.measured < Duration()) throw std::logic_error(part.name + " is negative");
    }
  });
}

TEST_F(EveryReader, HuggingFaceConfigs) {
  const std::string path = (folder_ / "m.json").string();
  damage(
      R"({"model_type": "deepseek_v3", "vocab_size": 64, "hidden_size": 32,
"num_hidden_layers": 2, "first_k_dense_replace": 1, "intermediate_size": 64,
"moe_intermediate_size": 16, "n_routed_experts": 8, "n_shared_experts": 1,
"num_experts_per_tok": 2, "n_group": 2, "topk_group": 1, "scoring_func": "sigmoid",
"topk_method": "noaux_tc", "norm_topk_prob": true, "routed_scaling_factor": 1.0,
"num_attention_heads": 2, "num_key_value_heads": 2, "q_lora_rank": 16, "kv_lora_rank": 16,
"qk_nope_head_dim": 8, "qk_rope_head_dim": 4, "v_head_dim": 8, "rms_norm_eps": 1e-6,
"rope_theta": 10000, "initializer_range": 0.02, "num_nextn_predict_layers": 0}
)",
      [&](const std::string& text) {
        write("m.json", text);
        load_model(path);
      });
}

TEST_F(EveryReader, HuggingFaceConfigsOfOtherFamilies) {
  const std::string path = (folder_ / "m.json").string();
  for (const char* config :
       {R"({"model_type": "gpt2", "vocab_size": 64, "n_embd": 32, "n_layer": 2, "n_head": 4,
"n_positions": 64, "n_inner": null, "activation_function": "gelu_new", "resid_pdrop": 0.1}
)",
        R"({"text_config": {"model_type": "qwen3_moe", "vocab_size": 64, "hidden_size": 32,
"num_hidden_layers": 3, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 16,
"intermediate_size": 64, "moe_intermediate_size": 16, "num_experts": 8, "num_experts_per_tok": 2,
"decoder_sparse_step": 2, "mlp_only_layers": [2], "norm_topk_prob": true,
"use_sliding_window": true, "sliding_window": 8, "max_window_layers": 1}}
)",
        R"({"model_type": "gpt_oss", "vocab_size": 64, "hidden_size": 32, "num_hidden_layers": 2,
"num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 8, "intermediate_size": 16,
"num_local_experts": 8, "num_experts_per_tok": 2, "sliding_window": 4,
"layer_types": ["sliding_attention", "full_attention"]}
)",
        R"({"model_type": "glm4_moe", "vocab_size": 64, "hidden_size": 32, "num_hidden_layers": 2,
"num_attention_heads": 4, "num_key_value_heads": 4, "head_dim": 16,
"partial_rotary_factor": 0.5, "intermediate_size": 64,
"moe_intermediate_size": 16, "n_routed_experts": 8, "n_shared_experts": 1,
"num_experts_per_tok": 2, "first_k_dense_replace": 1, "num_nextn_predict_layers": 1}
)"}) {
    damage(config, [&](const std::string& text) {
      write("m.json", text);
      if (total_parameters(load_model(path).architecture) <= 0) {
        throw std::logic_error("a model of no parameters");
      }
    });
  }
}

TEST_F(EveryReader, CalibrationsOfGpus) {
  damage(
      "format: rehearse-gpu-calibration 1\ndevice: NVIDIA H800\nsource: \"here\"\nsms: 132\n"
      "communication_sms: 20\npeak_bf16: 989.5 TFLOP/s\npeak_fp8: 1979 TFLOP/s\n"
      "memory_bandwidth: 3.35 TB/s\ncopy: 311 GB/s\nentry_count: 2\nentries:\n"
      "  - {work: cast, beside: false, us: [25.04], mb: [88.08], source: \"a\"}\n"
      "  - {work: product, family: dense, format: fp8, shape: [1, 4096, 2112, 7168], sms: 132, "
      "beside: false, us: [122.8], gflop: [124.0], mb: [61.8], source: \"b\"}\n",
      [](const std::string& text) {
        const GpuCalibration c = parse_gpu_calibration(text, "c.yaml");
        for (const GpuEntry& e : c.entries) {
          for (const auto& s : e.samples) expect_possible(s.time);
        }
        parse_gpu_calibration(print_gpu_calibration(c), "again.yaml");
      });
}

TEST_F(EveryReader, KernelBenches) {
  write("c.yaml", kCluster);
  const Cluster cluster = load_cluster((folder_ / "c.yaml").string());
  damage(R"({"device": "NVIDIA H200", "sms": 132, "driver": "13.0", "copy_gbs": 2500})"
         "\n"
         R"({"case": "dense", "work": "product", "tiles": "128x256", "sms": 132, "beside": false, )"
         R"("family": "dense", "format": "fp8", "shape": [1, 4096, 4096, 7168], )"
         R"("sustained_us": 230.5, "clock_mhz": 1400, "flops": 240518168576, "bytes": 92274688})"
         "\n",
         [&](const std::string& text) {
           for (const GpuEntry& e : parse_kernel_bench(text, "b.json", cluster).entries) {
             for (const auto& s : e.samples) expect_possible(s.time);
           }
         });
}

TEST_F(EveryReader, LinkBenchmarks) {
  damage(
      "# all_reduce_perf\n# nThread 1 nGpus 8 minBytes 1048576 maxBytes 4194304 step: 2(factor) "
      "warmup iters: 5 "
      "iters: 20 agg iters: 1 validation: 1 graph: 0\n#\n# Using devices\n"
      "#  Rank  0 Group  0 Pid   100 on     node0 device  0 [0000:18:00] NVIDIA H800\n"
      "#  Rank  1 Group  0 Pid   100 on     node0 device  1 [0000:2a:00] NVIDIA H800\n#\n"
      "#       size         count      type   redop    root     time   algbw   busbw #wrong     "
      "time   algbw   busbw #wrong\n"
      "#        (B)    (elements)                               (us)  (GB/s)  (GB/s)            "
      "(us)  (GB/s)  (GB/s)\n"
      "     1048576        262144     float     sum      -1    20.00   52.43   52.43      0    "
      "20.00   52.43   52.43      0\n"
      "     2097152        524288     float     sum      -1    30.00   69.91   69.91      0    "
      "30.00   69.91   69.91      0\n"
      "     4194304       1048576     float     sum      -1    50.00   83.89   83.89      0    "
      "50.00   83.89   83.89      0\n"
      "# Out of bounds values : 0 OK\n# Avg bus bandwidth    : 68.74\n#\n",
      [](const std::string& text) {
        const LinkBenchmark b = parse_link_benchmark(text, "l.txt");
        if (!std::isfinite(b.fit_error)) throw std::logic_error("a fit that is no number");
        for (const auto& link : {b.node_link, b.network}) {
          if (!link) continue;
          const double rate = link->bandwidth.value();
          if (!(rate > 0 && rate < 1e18)) throw std::logic_error("a rate that cannot be");
        }
      });
}

TEST_F(EveryReader, DeepEpsLogs) {
  damage(
      "[testing] Running with BF16, with top-k ... passed\n"
      "[tuning] SMs 24, NVL chunk 4, RDMA chunk 4: 19.33 GB/s (RDMA), 63.23 GB/s (NVL)\n"
      "[tuning] Best dispatch (FP8): SMs 24, NVL chunk 12, RDMA chunk 32: 42.36 GB/s (RDMA), "
      "139.01 GB/s (NVL)\n"
      "[tuning] Best combine: SMs 24, NVL chunk 1, RDMA chunk 12: 43.00 GB/s (RDMA), "
      "141.0 GB/s (NVL)\n",
      [](const std::string& text) {
        const LinkBenchmark b = parse_link_benchmark(text, "d.txt");
        for (const auto& link : {b.node_link, b.network}) {
          if (link && !(link->bandwidth.value() > 0 && link->bandwidth.value() < 1e18)) {
            throw std::logic_error("a rate that cannot be");
          }
        }
      });
}

TEST_F(EveryReader, CalibrationsOfCores) {
  const auto ns = [](int64_t n) { return Duration::picoseconds(n * 1000); };
  Calibration c{.machine = "a machine",
                .cores = 2,
                .build = "g++",
                .sources = "abc",
                .measured = "2026-01-31 13:05 UTC",
                .drift = {1.0, 1.01},
                .interpolation_error = 0.05};
  const Plan plan = small_plan({});
  for (const KernelCall& call : kernels_of(plan, build_program(plan))) {
    if (c.kernels.size() < 3) {
      c.kernels[call] = {
          .alone = ns(1000), .mean = ns(1010), .low = ns(900), .high = ns(1200), .busy = ns(1300)};
    }
  }
  damage(print_calibration(c), [](const std::string& text) {
    const Calibration read = parse_calibration(text, "c.yaml");
    for (const auto& [call, time] : read.kernels) expect_possible(time.alone);
    parse_calibration(print_calibration(read), "again.yaml");
  });
}

TEST_F(EveryReader, Traces) {
  damage(
      R"trace({"deviceProperties": [{"name": "NVIDIA H800", "numSms": 132}],
"traceEvents": [
{"ph": "X", "cat": "user_annotation", "name": "attn(F)", "pid": 9, "tid": 1, "ts": 10, "dur": 20},
{"ph": "X", "cat": "cuda_runtime", "name": "launch", "pid": 9, "tid": 1, "ts": 12, "dur": 1,
"args": {"correlation": 7}},
{"ph": "X", "cat": "kernel", "name": "gemm", "pid": 0, "tid": 7, "ts": 15.5, "dur": 2.25,
"args": {"correlation": 7, "stream": 7, "grid": [32, 2, 1]}},
{"ph": "X", "cat": "gpu_memcpy", "name": "copy", "pid": 0, "tid": 7, "ts": 18, "dur": 1}
]
}
)trace",
      [](const std::string& text) {
        const Trace t = parse_trace(text, "t.json");
        for (const DeviceEvent& e : t.events) {
          if (e.end < e.begin || e.begin < Duration()) throw std::logic_error("a negative time");
          if (e.annotation && static_cast<size_t>(*e.annotation) >= t.annotations.size()) {
            throw std::logic_error("an annotation that is not there");
          }
        }
      });
}

TEST_F(EveryReader, MapsOfKernels) {
  const std::string path = (folder_ / "map.yaml").string();
  damage(
      "ops:\n  - {annotation: \"attn(F)\", op: attn.F}\n  - {annotation: \"mlp(F)\", op: mlp.F}\n"
      "kernels:\n  - {name: \"*cast*\", work: cast}\n  - {name: \"*\", work: elementwise}\n"
      "rows:\n  - {op: mlp.F, kernel: \"*cast*\", rows: y, times: 128}\n",
      [&](const std::string& text) {
        write("map.yaml", text);
        load_profile_map(path);
      });
}

}  // namespace
}  // namespace rehearse
