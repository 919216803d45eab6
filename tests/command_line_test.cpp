// The whole line through the program: one plan file is inspected, calibrated, simulated, trained
// and compared; results keep their JSON contract.

#include <map>
#include <set>

#include <nlohmann/json.hpp>

#include "cost/kernel_call.h"
#include "tests/command.h"

namespace rehearse {
namespace {

using Json = nlohmann::json;

class CommandLine : public CommandTest {
 protected:
  void SetUp() override {
    CommandTest::SetUp();
    std::string text;
    while (text.size() < 20'000) text += "one plan file is simulated, trained and compared.\n";
    write("text.txt", text);
    write("plan.yaml",
          "model: tiny-v3.yaml\n"
          "cluster: localhost.yaml\n"
          "layout: {pp: 2, schedule: dualpipe}\n"
          "training: {micro_batches: 4, micro_batch_size: 1, sequence_length: 32, tokens: 1M "
          "tokens}\n");
  }

  Json json_of(const std::string& arguments) {
    const CommandResult r = rehearse(arguments);
    EXPECT_EQ(r.exit_code, 0) << arguments << ": " << r.err;
    return Json::parse(r.out);
  }

  static void expect_keys(const Json& j, const std::vector<std::string>& keys) {
    for (const auto& key : keys) EXPECT_TRUE(j.contains(key)) << key;
  }
};

TEST_F(CommandLine, FromPlanToComparison) {
  const Json calibrated = json_of("calibrate plan.yaml --no-grid --out c.yaml --json");
  EXPECT_GT(calibrated["kernels"], 30);

  const Json s = json_of("simulate plan.yaml --calibration c.yaml --timeline p.json --json");
  expect_keys(s,
              {"step_time_s",
               "interval_s",
               "exposed_comm_fraction",
               "bubble_fraction",
               "tokens_per_s",
               "ops",
               "sim_wall_s",
               "memory_bytes",
               "breakdown_s",
               "breakdown_mean_s",
               "gpu_hours_pretrain",
               "gpu_hours"});
  expect_keys(s["breakdown_s"], {"f", "b", "w", "fb", "bubble", "optimizer"});
  EXPECT_EQ(s["memory_bytes"].size(), 2u);
  EXPECT_LE(s["interval_s"][0], s["step_time_s"]);
  EXPECT_GE(s["interval_s"][1], s["step_time_s"]);
  EXPECT_EQ(s["costs"]["roofline_calls"], 0) << s["costs"];
  // Rank 0's breakdown, told from its timeline: cells' spans, each from where the one before ended;
  // the optimizer from the last cell's end; the rest is bubble.
  std::map<int64_t, std::pair<double, double>> cells;  // us
  double step_us = 0;
  const Json predicted_timeline = Json::parse(read("p.json"));
  for (const Json& e : predicted_timeline["traceEvents"]) {
    if (e["ph"] != "X") continue;
    const double begin = e["ts"];
    const double end = begin + e["dur"].get<double>();
    step_us = std::max(step_us, end);
    const std::string kind =
        e["cat"].get<std::string>().substr(0, e["cat"].get<std::string>().find('.'));
    const std::set<std::string> in_cells = {"attn", "mlp", "embed", "head", "dispatch", "combine"};
    if (e["pid"] != 0 || !in_cells.contains(kind)) continue;
    const auto [at, fresh] = cells.try_emplace(e["args"]["cell"], begin, end);
    at->second = {std::min(at->second.first, begin), std::max(at->second.second, end)};
  }
  double in_cells = 0;
  double last = 0;
  for (const auto& [cell, span] : cells) {
    in_cells += std::max(0.0, span.second - std::max(span.first, last));
    last = std::max(last, span.second);
  }
  const auto part = [&](const char* name) { return s["breakdown_s"][name].get<double>() * 1e6; };
  EXPECT_GT(cells.size(), 4u);
  EXPECT_NEAR(s["step_time_s"].get<double>() * 1e6, step_us, 1e-3);
  EXPECT_NEAR(part("f") + part("b") + part("w") + part("fb"), in_cells, 1e-3);
  EXPECT_NEAR(part("optimizer"), step_us - last, 1e-3);
  EXPECT_NEAR(part("bubble"), last - in_cells, 1e-3);

  const Json t = json_of("train plan.yaml --data text.txt --steps 8 --out run --json");
  expect_keys(t,
              {"steps",
               "loss_first",
               "loss_last",
               "val_loss",
               "step_time_s",
               "tokens_per_s",
               "max_expert_load",
               "exposed_comm_fraction"});
  EXPECT_EQ(t["steps"], 8);
  EXPECT_LT(t["loss_last"], t["loss_first"]);
  EXPECT_NEAR(t["loss_first"].get<double>(), std::log(256.0), 0.1);
  EXPECT_EQ(Json::parse(read("run/result.json")), t);
  const std::string log = read("run/log.jsonl");
  EXPECT_EQ(std::count(log.begin(), log.end(), '\n'), 8);
  expect_keys(Json::parse(log.substr(0, log.find('\n'))),
              {"step",
               "loss",
               "gradient_norm",
               "learning_rate",
               "step_time_s",
               "tokens_per_s",
               "expert_load"});

  const Json c =
      json_of("compare plan.yaml --predicted p.json --measured run/timeline.json --json");
  expect_keys(c,
              {"step_time_error",
               "op_time_error_median",
               "exposed_comm_predicted",
               "exposed_comm_measured"});
  const double predicted = s["step_time_s"];
  EXPECT_NEAR(c["step_time_error"].get<double>(),
              predicted / c["step_time_measured_s"].get<double>() - 1,
              1e-6);
}

// What a calibration holds: single kernels, overheads of the runtime, and how they were measured;
// nothing of a layout, a schedule or a step.
TEST_F(CommandLine, ACalibrationHoldsSingleKernelsAndOverheadsOnly) {
  json_of("calibrate plan.yaml --no-grid --rounds 1 --out c.yaml --json");
  const std::string text = read("c.yaml");
  std::istringstream lines(text);
  int64_t kernels = 0;
  std::set<std::string> keys;
  for (std::string line; std::getline(lines, line);) {
    if (line.starts_with("#")) continue;
    if (line.starts_with("  - {kernel: ")) {
      const std::string name = line.substr(13, line.find(',') - 13);
      EXPECT_TRUE(kernel_named(name)) << line;
      ++kernels;
    } else {
      keys.insert(line.substr(0, line.find(':')));
    }
  }
  EXPECT_GT(kernels, 30);
  EXPECT_EQ(keys,
            (std::set<std::string>{"format",
                                   "machine",
                                   "cores",
                                   "build",
                                   "sources",
                                   "measured",
                                   "overheads",
                                   "drift",
                                   "interpolation_error",
                                   "kernel_count",
                                   "kernels"}));
  EXPECT_NE(text.find("overheads: {op_start: "), std::string::npos);
  for (const std::string word : {"schedule", "dualpipe", "pp:", "micro", "plan.yaml", "tiny-v3"}) {
    EXPECT_EQ(text.find(word), std::string::npos) << word;
  }
  EXPECT_EQ(rehearse("calibrate --no-grid").exit_code, 2);
  const CommandResult foreign = [&] {
    std::string other = text;
    const size_t at = other.find("machine: ") + 9;
    other.replace(at, other.find('\n', at) - at, "another processor");
    write("foreign.yaml", other);
    return rehearse("simulate plan.yaml --calibration foreign.yaml");
  }();
  EXPECT_EQ(foreign.exit_code, 0);
  EXPECT_NE(foreign.err.find("measured on another processor: 'another processor'"),
            std::string::npos)
      << foreign.err;
}

TEST_F(CommandLine, ValidatePutsRunsBesidePredictions) {
  json_of("calibrate plan.yaml --no-grid --rounds 1 --out c.yaml --json");
  const Json v = json_of(
      "validate plan.yaml --data text.txt --calibration c.yaml --runs 2 --steps 3 --out v --json");
  ASSERT_EQ(v["plans"].size(), 1u);
  const Json& p = v["plans"][0];
  expect_keys(p, {"predicted_s", "measured_s", "error", "interval_s", "inside_interval", "runs"});
  EXPECT_EQ(p["runs"].size(), 2u);
  EXPECT_NEAR(p["error"].get<double>(),
              p["predicted_s"].get<double>() / p["measured_s"].get<double>() - 1,
              1e-6);
  EXPECT_NEAR(v["mean_absolute_error"].get<double>(), std::abs(p["error"].get<double>()), 1e-9);
  EXPECT_EQ(Json::parse(read("v/validation.json")), v);
}

TEST_F(CommandLine, InspectShowsAProgramThatParsesBack) {
  const Json j = json_of("inspect plan.yaml --json");
  EXPECT_EQ(j["bubble_formula"], 0);
  EXPECT_EQ(j["ranks"].size(), 2u);
  EXPECT_EQ(j["ranks"][0]["bubble_cells"], 0);
  EXPECT_EQ(j["ranks"][0]["peak_micro_batches"], 3);
  const CommandResult ops = rehearse("inspect plan.yaml --ops");
  write("program.txt", ops.out);
  const CommandResult back = rehearse("inspect --program program.txt");
  EXPECT_EQ(back.exit_code, 0) << back.err;
  EXPECT_NE(back.out.find("valid"), std::string::npos);
}

TEST_F(CommandLine, SimulatingTwiceGivesTheSameBytes) {
  rehearse("simulate plan.yaml --timeline a.json");
  rehearse("simulate plan.yaml --timeline b.json");
  EXPECT_EQ(read("a.json"), read("b.json"));
}

TEST_F(CommandLine, AHuggingFaceConfigIsAModelToo) {
  write("config.json", R"({
    "architectures": ["DeepseekV3ForCausalLM"], "model_type": "deepseek_v3",
    "vocab_size": 256, "hidden_size": 64, "num_hidden_layers": 4, "first_k_dense_replace": 1,
    "intermediate_size": 128, "moe_intermediate_size": 32, "n_routed_experts": 8,
    "n_shared_experts": 1, "num_experts_per_tok": 2, "n_group": 4, "topk_group": 2,
    "routed_scaling_factor": 2.5, "scoring_func": "sigmoid", "topk_method": "noaux_tc",
    "norm_topk_prob": true, "num_attention_heads": 4, "q_lora_rank": 32, "kv_lora_rank": 16,
    "qk_nope_head_dim": 16, "qk_rope_head_dim": 8, "v_head_dim": 16, "rms_norm_eps": 1e-06,
    "rope_theta": 10000, "num_nextn_predict_layers": 1, "rope_scaling": null,
    "quantization_config": {"fmt": "e4m3"}, "torch_dtype": "bfloat16"
  })");
  std::string plan = read("plan.yaml");
  plan.replace(plan.find("tiny-v3.yaml"), 12, "config.json");
  write("plan.yaml", plan);
  EXPECT_GT(json_of("simulate plan.yaml --json")["ops"], 100);
  json_of("train plan.yaml --data text.txt --steps 1 --out mtp --json");
  EXPECT_EQ(Json::parse(read("mtp/log.jsonl"))["mtp_loss"].size(), 1u);
}

}  // namespace
}  // namespace rehearse
