// Whole trainings and profiles through the command line: DeepSeek-V3's budget, which ways it moves,
// what is refused.

#include <cmath>

#include <nlohmann/json.hpp>

#include "tests/command.h"

namespace rehearse {
namespace {

using Json = nlohmann::json;

std::string replaced(std::string text, const std::string& what, const std::string& with) {
  const size_t at = text.find(what);
  EXPECT_NE(at, std::string::npos) << what;
  return at == std::string::npos ? text : text.replace(at, what.size(), with);
}

class BudgetCommand : public CommandTest {
 protected:
  // DeepSeek-V3's plan with balanced experts and without phases: folded, a step takes no time.
  static std::string v3() {
    std::string text =
        read_file(std::string(REHEARSE_SOURCE_DIR) + "/experiments/deepseek-v3-budget/plan.yaml");
    text = text.substr(0, text.find("  phases:"));
    const size_t load = text.find("expert_load:");
    return text.erase(load, text.find("budget:") - load);
  }
  Json simulate(const std::string& text, const std::string& options = "") {
    write("plan.yaml", text);
    const CommandResult r = rehearse("simulate plan.yaml --fold --json " + options);
    EXPECT_EQ(r.exit_code, 0) << r.err;
    return r.exit_code == 0 ? Json::parse(r.out) : Json();
  }
  void expect_refused(const std::string& text, const std::string& part) {
    write("plan.yaml", text);
    const CommandResult r = rehearse("simulate plan.yaml --fold");
    EXPECT_EQ(r.exit_code, 1) << part;
    EXPECT_NE(r.err.find(part), std::string::npos) << r.err;
    EXPECT_EQ(r.out, "");
  }
};

TEST_F(BudgetCommand, DeepSeekV3) {
  const Json j = simulate(v3());
  for (const char* name : {"gpu_hours_pretrain",
                           "tflops_per_gpu_causal",
                           "tflops_per_gpu_noncausal",
                           "mfu_causal",
                           "mfu_noncausal",
                           "tokens_per_day",
                           "gpu_hours_total",
                           "cost_usd",
                           "energy_mwh",
                           "days"}) {
    ASSERT_TRUE(j.contains(name)) << name;
    const Json& interval = j[std::string(name) + "_interval"];
    EXPECT_LT(interval[0], j[name]) << name;
    EXPECT_GT(interval[1], j[name]) << name;
  }
  // The report's figure; nothing is fitted to it.
  EXPECT_NEAR(j["gpu_hours_pretrain"].get<double>() / 2664e3, 1, 0.05);
  const double step = j["step_time_s"].get<double>();
  EXPECT_NEAR(
      j["gpu_hours_pretrain"].get<double>(), step * 14.8e12 / (15360.0 * 4096) * 2048 / 3600, 1);
  EXPECT_NEAR(j["tokens_per_day"].get<double>(), 15360.0 * 4096 / step * 86400, 1e6);
  EXPECT_NEAR(
      j["mfu_causal"].get<double>() * 989.5, j["tflops_per_gpu_causal"].get<double>(), 1e-6);
  EXPECT_GT(j["mfu_noncausal"], j["mfu_causal"]);
  EXPECT_NEAR(j["cost_usd"].get<double>() / j["gpu_hours_total"].get<double>(), 2, 1e-9);
  EXPECT_TRUE(j["fits_memory"]);
  EXPECT_EQ(j["costs"]["roofline_calls"], 0);
}

TEST_F(BudgetCommand, ItRespondsAsItShould) {
  const std::string plan = v3();
  const double step = simulate(plan)["step_time_s"];
  const auto with_cluster = [&](const std::string& what, const std::string& with) {
    const std::string cluster =
        read_file(std::string(REHEARSE_SOURCE_DIR) + "/topologies/h800-2048.yaml");
    write("cluster.yaml", replaced(cluster, what, with));
    return simulate(replaced(plan, "h800-2048.yaml", "cluster.yaml"));
  };
  // Half the network: a rank's data takes longer than what it hides under.
  const Json half = with_cluster("bandwidth: 47 GB/s", "bandwidth: 23.5 GB/s");
  EXPECT_GT(half["step_time_s"].get<double>() / step, 1.02);
  EXPECT_LT(half["step_time_s"].get<double>() / step, 1.6);
  // 40 SMs for communication: tensor work has 92 instead of 112.
  const Json sms = with_cluster("communication_sms: 20", "communication_sms: 40");
  EXPECT_GT(sms["step_time_s"].get<double>() / step, 1.08);
  EXPECT_LT(sms["step_time_s"].get<double>() / step, 112.0 / 92 + 0.05);
  // H200: more memory bandwidth.
  const Json h200 = with_cluster("memory_bandwidth: 3.35 TB/s", "memory_bandwidth: 4.8 TB/s");
  EXPECT_LT(h200["step_time_s"].get<double>() / step, 1);
  EXPECT_GT(h200["step_time_s"].get<double>() / step, 0.75);
  // BF16 instead of FP8: products take up to twice as long.
  const Json bf16 = simulate(replaced(plan, "precision: fp8", "precision: bf16"));
  EXPECT_GT(bf16["step_time_s"].get<double>() / step, 1.15);
  EXPECT_LT(bf16["step_time_s"].get<double>() / step, 1.8);
}

TEST_F(BudgetCommand, PhasesHaveLayoutsOfTheirOwn) {
  const std::string phases =
      "  phases:\n"
      "    - name: ramp\n      tokens: 100B tokens\n      batches: [3072, 6144]\n"
      "      layout: {pp: 16, dp: 128, ep: 64, schedule: zb1p}\n"
      "    - name: main\n      tokens: 1T tokens\n      batches: [15360]\n"
      "    - name: long\n      steps: 10\n      batches: [480]\n      sequence_length: 131072\n"
      "      layout: {dp: 4, cp: 32}\n";
  const Json j = simulate(v3() + phases);
  ASSERT_EQ(j["phases"].size(), 3u);
  double sum = 0;
  for (const Json& p : j["phases"]) sum += p["gpu_hours"].get<double>();
  EXPECT_NEAR(j["gpu_hours_total"].get<double>(), sum, 1e-6 * sum);
  EXPECT_NEAR(j["phases"][0]["tokens"].get<double>(), 100e9, 1);
  EXPECT_EQ(j["phases"][0]["step_time_s"].size(), 2u);
  EXPECT_NEAR(j["phases"][2]["tokens"].get<double>(), 10 * 480.0 * 131072, 1);
  // The plan's own step is not simulated twice.
  EXPECT_EQ(j["phases"][1]["step_time_s"][0], j["step_time_s"]);
  // Attention over 128K tokens: many times the work per token.
  EXPECT_GT(j["phases"][2]["step_time_s"][0].get<double>(), 3 * j["step_time_s"].get<double>());
}

// What a phase's layout does not say is the plan's; a budget of phases needs no tokens of the plan.
TEST_F(BudgetCommand, PhasesInheritTheLayout) {
  const std::string phase =
      "  phases:\n    - name: half\n      steps: 2\n      batches: [7680]\n      layout: {dp: "
      "64}\n";
  const std::string plan = replaced(v3(), "  tokens: 14.8T tokens\n", "");
  const Json j = simulate(plan + phase);
  EXPECT_FALSE(j.contains("gpu_hours_pretrain"));
  // 120 micro-batches of DualPipe again, on half of the cluster.
  const double step = j["phases"][0]["step_time_s"][0];
  EXPECT_NEAR(step / j["step_time_s"].get<double>(), 1, 0.02);
  EXPECT_NEAR(j["gpu_hours_total"].get<double>(), 2 * step * 1024 / 3600, 1e-6);
  expect_refused(plan, "is of phases, or of the plan's training.tokens: neither is there");
}

// Without all-to-alls DualPipe's pairs make room for nobody.
TEST_F(BudgetCommand, DenseModelsHaveNoCommunicationToMakeRoomFor) {
  write("dense.yaml",
        "name: d\nvocabulary: 32000\nhidden: 4096\nlayers: 16\ndense_layers: 16\n"
        "attention: {heads: 32, kv_lora: 512, qk_nope: 128, qk_rope: 64, v_head: 128}\n"
        "mlp: {dense_intermediate: 11008}\n");
  const auto busy = [&](const std::string& schedule) {
    const Json j = simulate(
        "model: dense.yaml\ncluster: h100-1024.yaml\ncalibration: h800-dualpipe.calibration.yaml\n"
        "layout: {pp: 4, dp: 8, schedule: " +
        schedule +
        "}\ntraining: {micro_batches: 8, micro_batch_size: 1, sequence_length: 4096, precision: "
        "bf16}\n");
    EXPECT_EQ(j["exposed_comm_fraction"], 0);
    double sum = 0;
    for (const char* part : {"f", "b", "w", "fb"}) sum += j["breakdown_mean_s"][part].get<double>();
    return sum;
  };
  // A pair's span also holds its wait for the second of its two messages.
  EXPECT_NEAR(busy("dualpipe") / busy("zb1p"), 1, 0.01);
  write("dense.yaml", replaced(read("dense.yaml"), "layers: 16\n", "layers: 16\nmtp_depth: 1\n"));
  // An MTP module's layer is dense too.
  const std::string rest =
      "cluster: h100-1024.yaml\nlayout: {pp: 1}\ntraining: {micro_batches: 1, micro_batch_size: 1, "
      "sequence_length: 4096, precision: bf16}\n";
  const Json with_mtp = simulate("model: dense.yaml\n" + rest);
  write("dense.yaml", replaced(read("dense.yaml"), "mtp_depth: 1\n", ""));
  EXPECT_GT(with_mtp["step_time_s"],
            1.05 * simulate("model: dense.yaml\n" + rest)["step_time_s"].get<double>());
  EXPECT_EQ(with_mtp["exposed_comm_fraction"], 0);
}

TEST_F(BudgetCommand, IllegalPhasesAreRefusedWithAReason) {
  const auto phase = [](const std::string& rest) {
    return v3() + "  phases:\n    - name: ramp\n" + rest;
  };
  expect_refused(phase("      tokens: 1B tokens\n      batches: [3072]\n"),
                 "budget.phases[0].batches: 3072 sequences are 24 micro-batches per rank: ");
  expect_refused(phase("      tokens: 1B tokens\n      batches: [100]\n"),
                 "100 sequences do not divide over 128 at a time");
  expect_refused(phase("      tokens: 1B tokens\n      steps: 3\n      batches: [15360]\n"),
                 "expected one of the keys 'tokens' and 'steps'");
  expect_refused(phase("      steps: 3\n      batches: [15360]\n      context_parallel: 7\n"),
                 "is layout.cp now");
  expect_refused(phase("      steps: 3\n      batches: [30720]\n      sequence_length: 4100\n"
                       "      layout: {dp: 16, cp: 8}\n"),
                 "4100 tokens do not divide into 16 parts");
  expect_refused(phase("      steps: 3\n      batches: [15360]\n"
                       "      layout: {pp: 15, dp: 128, ep: 64, schedule: dualpipe}\n"),
                 "layout.pp");
  expect_refused(phase("      steps: 3\n      batch: 15360\n"), "batch");
}

TEST_F(BudgetCommand, CalibrationsThatDoNotFitAreRefused) {
  expect_refused(replaced(replaced(v3(), "h800-2048.yaml", "a100-1024.yaml"), "dp: 128", "dp: 64"),
                 "states no peak_fp8: its devices have no FP8 tensor cores; use bf16");
  expect_refused(replaced(v3(), "precision: fp8", "precision: fp32"),
                 "training.precision: GPUs are priced in bf16 and fp8, not in fp32");
}

// What a run of training records, a simulation of a cluster of GPUs takes: every micro-batch of
// both directions of DualPipe.
TEST_F(BudgetCommand, RecordedRouting) {
  write("book.txt", [] {
    std::string text;
    while (text.size() < 60'000) text += "in the beginning was the word, and the word was long; ";
    return text;
  }());
  write("train.yaml",
        "model: tiny-v3.yaml\ncluster: localhost.yaml\n"
        "layout: {pp: 2, dp: 2, ep: 2, schedule: dualpipe}\n"
        "training: {micro_batches: 4, micro_batch_size: 1, sequence_length: 32, steps: 2}\n");
  const CommandResult r =
      rehearse("train train.yaml --data book.txt --record-routing routing.h5 --quiet");
  ASSERT_EQ(r.exit_code, 0) << r.err;
  const std::string plan =
      "model: tiny-v3.yaml\ncluster: h800-64-one-switch.yaml\n"
      "layout: {pp: 2, dp: 16, ep: 16, schedule: dualpipe}\n"
      "training: {micro_batches: 4, micro_batch_size: 1, sequence_length: 1024, precision: bf16}\n"
      "expert_load: {kind: recorded, file: routing.h5}\n";
  const Json recorded = simulate(plan);
  EXPECT_GT(recorded["exchange_wait_fraction"], 0);
  EXPECT_EQ(simulate(plan)["step_time_s"], recorded["step_time_s"]);
  EXPECT_NE(
      simulate(replaced(plan, "kind: recorded, file: routing.h5", "kind: balanced"))["step_time_s"],
      recorded["step_time_s"]);
  expect_refused(replaced(plan, "file: routing.h5", "file: none.h5"), "no file 'none.h5'");
  expect_refused(replaced(plan, "file: routing.h5", "file: book.txt"), "is not an HDF5 file");
  expect_refused(replaced(plan, "model: tiny-v3.yaml", "model: deepseek-v3.yaml"),
                 "was recorded with 16 experts, the model has 256");
}

class FromTrace : public CommandTest {
 protected:
  void SetUp() override {
    CommandTest::SetUp();
    write("model.yaml",
          "name: m\nvocabulary: 256\nhidden: 256\nlayers: 2\ndense_layers: 0\n"
          "attention: {heads: 2, kv_lora: 64, q_lora: 64, qk_nope: 64, qk_rope: 64, v_head: 64}\n"
          "mlp: {expert_intermediate: 128}\nmoe: {experts: 8, active_experts: 2}\n");
    write("pair.yaml",
          "model: model.yaml\ncluster: h800-64-one-switch.yaml\nlayout: {pp: 1, dp: 8, ep: 8}\n"
          "training: {micro_batches: 2, micro_batch_size: 1, sequence_length: 256, precision: "
          "fp8}\n");
    write("map.yaml",
          "ops:\n  - {annotation: \"attn(W)\", op: attn.W}\n"
          "kernels:\n  - {name: \"gemm*\", work: product}\n");
  }
  // `n` repetitions of attn(W), whose five products take `us` each.
  static std::string trace(int n, const std::string& kernel = "gemm") {
    std::string events;
    int id = 0;
    for (int r = 0; r < n; ++r) {
      events +=
          "{\"ph\":\"X\",\"cat\":\"user_annotation\",\"name\":\"attn(W)\",\"pid\":1,\"tid\":1,"
          "\"ts\":" +
          std::to_string(1000 * r) + ",\"dur\":900},";
      for (int k = 0; k < 5; ++k) {
        ++id;
        events +=
            "{\"ph\":\"X\",\"cat\":\"cuda_runtime\",\"name\":\"l\",\"pid\":1,\"tid\":1,\"ts\":" +
            std::to_string(1000 * r + 10 * k) +
            ",\"dur\":1,\"args\":{\"correlation\":" + std::to_string(id) + "}},";
        events += "{\"ph\":\"X\",\"cat\":\"kernel\",\"name\":\"" + kernel +
                  "\",\"pid\":0,\"tid\":7,\"ts\":" + std::to_string(5000 + 1000 * r + 50 * k) +
                  ",\"dur\":" + std::to_string(40 + r) +
                  ",\"args\":{\"stream\":7,\"correlation\":" + std::to_string(id) +
                  ",\"grid\":[112,1,1]}},";
      }
    }
    events.pop_back();
    return "{\"traceEvents\":[" + events + "]}";
  }
  void expect_refused(const std::string& options, const std::string& part) {
    const std::set<std::string> before = listing();
    const CommandResult r = rehearse("calibrate " + options);
    EXPECT_NE(r.exit_code, 0) << options;
    EXPECT_NE(r.err.find(part), std::string::npos) << r.err;
    EXPECT_EQ(listing(), before) << options;
  }
};

TEST_F(FromTrace, ATraceBecomesACalibration) {
  write("trace.json", trace(3));
  const CommandResult r =
      rehearse("calibrate pair.yaml --from-trace trace.json --map map.yaml --out c.yaml --json");
  ASSERT_EQ(r.exit_code, 0) << r.err;
  const Json j = Json::parse(r.out);
  EXPECT_EQ(j["repetitions"], 3);
  const std::string text = read("c.yaml");
  EXPECT_NE(
      text.find("op: attn.W, work: product, family: weight, format: fp8, shape: [1, 256, 256, "
                "128], sms: 112, beside: true, us: [40, 41, 42]"),
      std::string::npos)
      << text;
  EXPECT_NE(text.find("work: gap"), std::string::npos);
  // What it says is what a pair of such ops takes.
  const CommandResult judged =
      rehearse("calibrate pair.yaml --from-trace trace.json --map map.yaml --judge c.yaml --json");
  ASSERT_EQ(judged.exit_code, 0) << judged.err;
  EXPECT_NEAR(Json::parse(judged.out)["ops"][0]["error"].get<double>(), 0, 0.02);
  const CommandResult pair = rehearse("simulate pair.yaml --pair --calibration c.yaml --json");
  ASSERT_EQ(pair.exit_code, 0) << pair.err;
  // One kind of product is all that it knows.
  EXPECT_GT(Json::parse(pair.out)["costs"]["calibrated_calls"], 0);
  EXPECT_GT(Json::parse(pair.out)["costs"]["roofline_calls"], 0);
  EXPECT_EQ(rehearse("simulate pair.yaml --calibration c.yaml").exit_code, 0);
}

TEST_F(FromTrace, BadInputIsRefusedAndNothingIsWritten) {
  const std::string all = "pair.yaml --from-trace trace.json --map map.yaml --out c.yaml";
  write("trace.json", trace(2));
  expect_refused("--from-trace trace.json --map map.yaml", "needs one plan");
  expect_refused("pair.yaml --from-trace trace.json", "needs --map");
  expect_refused("pair.yaml --from-trace none.json --map map.yaml", "none.json");
  expect_refused(all + " --only attn", "expected ops such as attn.F,dispatch.F");
  expect_refused(all + " --leave-out 2", "has 2 repetitions; 2 cannot be left out");
  expect_refused(all + " --leave-out -1", "--leave-out counts from 0");
  expect_refused(all + " --only head.F", "has none of the ops that were asked for");
  write("trace.json", trace(2).substr(0, 400));
  expect_refused(all, "trace.json:1: not a trace: syntax error");
  write("trace.json", "{\"distributedInfo\":{\"world_size\":16}," + trace(2).substr(1));
  expect_refused(all, "was recorded with 16 ranks, plan 'pair.yaml' has 8");
  write("trace.json", "{\"deviceProperties\":[{\"numSms\":78}]," + trace(2).substr(1));
  expect_refused(all, "was recorded with 78 SMs per device");
  write("trace.json", "{\"traceEvents\": []}");
  expect_refused(all, "no device events in the trace");
  write("trace.json", trace(2, "other"));
  expect_refused(all, "kernel 'other' of attn.W fits no rule of the map's 'kernels'");
  write("trace.json", trace(2));
  write("map.yaml",
        "ops:\n  - {annotation: \"attn(W)\", op: attn.W}\n"
        "kernels:\n  - {name: \"gemm*\", work: cast}\n");
  expect_refused(all, "attn.W has 5 matrix products by the plan and 0 in the trace");
  write("map.yaml", "ops:\n  - {annotation: x, op: attn}\nkernels: []\n");
  expect_refused(all, "map.yaml:2:");
}

TEST_F(FromTrace, LinksOfBenchmarks) {
  write("trace.json", trace(3));
  ASSERT_EQ(
      rehearse("calibrate pair.yaml --from-trace trace.json --map map.yaml --out c.yaml").exit_code,
      0);
  write("ep.txt",
        "[tuning] Best dispatch (FP8): SMs 20, NVL chunk 12: 120.00 GB/s (NVL)\n"
        "[tuning] Best combine: SMs 20, NVL chunk 4: 80.00 GB/s (NVL)\n");
  const CommandResult r =
      rehearse("calibrate pair.yaml --links ep.txt --base c.yaml --out d.yaml --json");
  ASSERT_EQ(r.exit_code, 0) << r.err;
  EXPECT_NE(read("d.yaml").find("copy_per_sm: 10 GB/s"), std::string::npos);
  EXPECT_EQ(Json::parse(r.out)["all_to_alls"].size(), 2u);
  expect_refused("--links ep.txt", "--links needs --base");
  expect_refused("--links map.yaml --base c.yaml --out e.yaml", "neither nccl-tests' output");
}

}  // namespace
}  // namespace rehearse
