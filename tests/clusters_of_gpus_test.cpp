// Clusters of GPUs through the command line: every file that comes with the program, and the
// options that only they have.

#include <nlohmann/json.hpp>

#include "tests/command.h"

namespace rehearse {
namespace {

using Json = nlohmann::json;
namespace fs = std::filesystem;

class GpuClusters : public CommandTest {
 protected:
  void SetUp() override {
    CommandTest::SetUp();
    write("plan.yaml", plan("h800-64-one-switch.yaml", "balanced"));
  }
  static std::string plan(const std::string& cluster, const std::string& load) {
    return "model: deepseek-v3.yaml\ncluster: " + cluster +
           "\nlayout:\n  pp: 2\n  dp: 32\n  ep: 16\n  schedule: dualpipe\n"
           "training:\n  micro_batches: 4\n  micro_batch_size: 1\n  sequence_length: 512\n"
           "  precision: fp8\n" +
           (load == "balanced"
                ? std::string()
                : "expert_load:\n  kind: synthetic\n  skew: 0.5\n  varies: " + load + "\n");
  }
  // A result without what tells how it was obtained.
  Json result(const std::string& options) {
    const CommandResult r = rehearse("simulate plan.yaml --json " + options);
    EXPECT_EQ(r.exit_code, 0) << r.err;
    Json j = Json::parse(r.out);
    for (const char* key : {"sim_wall_s",
                            "not_folded_because",
                            "sim_peak_memory_bytes",
                            "simulated_ops",
                            "simulated_data_ranks",
                            "all_to_alls"}) {
      EXPECT_TRUE(j.contains(key)) << key;
      j.erase(key);
    }
    return j;
  }
  void expect_usage_error(const std::string& arguments, const std::string& part) {
    const CommandResult r = rehearse(arguments);
    EXPECT_EQ(r.exit_code, 2) << arguments;
    EXPECT_NE(r.err.find(part), std::string::npos) << r.err;
  }
};

TEST_F(GpuClusters, OptionsThatSaveTimeChangeNothing) {
  for (const std::string load : {"balanced", "never", "micro_batch"}) {
    write("plan.yaml", plan("h800-64-one-switch.yaml", load));
    const Json plain = result("");
    EXPECT_GT(plain["step_time_s"].get<double>(), 0);
    for (const std::string options : {"--no-memo", "--threads 2", "--fold", "--fold --no-memo"}) {
      EXPECT_EQ(result(options), plain) << load << " " << options;
    }
    // Priced by a calibration, too.
    write("plan.yaml",
          "calibration: h800-dualpipe.calibration.yaml\n" + plan("h800-64-one-switch.yaml", load));
    const Json calibrated = result("");
    EXPECT_GT(calibrated["step_time_s"], plain["step_time_s"]);
    EXPECT_EQ(calibrated["costs"]["roofline_calls"], 0);
    for (const std::string options : {"--no-memo", "--threads 2", "--fold"}) {
      EXPECT_EQ(result(options), calibrated) << load << " " << options;
    }
  }
}

TEST_F(GpuClusters, TimelinesAndLoadOfChosenRanks) {
  rehearse("simulate plan.yaml --timeline all.json");
  rehearse("simulate plan.yaml --fold --ranks 0,33 --timeline two.json --link-load load.json");
  const Json all = Json::parse(read("all.json"));
  const Json two = Json::parse(read("two.json"));
  std::map<int64_t, Json> spans;
  for (const Json& e : all["traceEvents"]) {
    if (e["ph"] == "X") spans[e["args"]["op"].get<int64_t>()] = e;
  }
  int64_t seen = 0;
  for (const Json& e : two["traceEvents"]) {
    if (e["ph"] != "X") continue;
    EXPECT_TRUE(e["pid"] == 0 || e["pid"] == 33);
    EXPECT_EQ(e, spans.at(e["args"]["op"].get<int64_t>()));
    ++seen;
  }
  EXPECT_EQ(seen * 32, static_cast<int64_t>(spans.size()));
  // Everything that left rank 0 over the network, by hand. EP16 stands on two nodes; of 512
  // tokens 8 keep no group of the other node's four (1 in 70) or choose none of its experts, as
  // drawings of the gate's choice have it (1.6%). Bytes of a token out and back, forward and
  // backward: 7168 values in FP8 with 56 scales, or BF16; with 8 weights and numbers, or the
  // weights' gradients. A rank of this DualPipe holds both stages, each for 2 of the 4
  // micro-batches: of 30 layers 27 with experts, of 31 all and the MTP module's.
  const double token = (7168 + 224 + 64) + 14336 + (7168 + 224) + (14336 + 32);
  const double exchanged = 504 * token * 2 * (27 + 32);
  // To the other stage go 2 activations and 2 gradients, in BF16.
  const double sent = 4 * 512 * 7168 * 2.0;
  // Gradients in FP32 and weights in BF16 go round the ring of a stage's 64 ranks, 8 to a node that
  // share its traffic; those of 16 of 256 experts round 4 ranks on 4 nodes.
  const double attention =
      1536 * (7168.0 + 1 + 24576) + 576 * 7168.0 + 512 + 512 * 32768.0 + 16384 * 7168.0 + 2 * 7168;
  const double expert = 3 * 7168.0 * 2048;
  const double moe = attention + 256 * 7168 + expert;  // and the shared one
  const double ends = 129280 * 7168.0;
  const double first = 3 * (attention + 3 * 7168.0 * 18432) + 27 * moe + ends;
  const double second = 32 * moe + ends + 7168 + 2 * 7168.0 * 7168 + 3 * 7168;
  const double reduced =
      (first + second) * 63 / 64 * (4 + 2) / 8 + (27 + 32) * 16 * expert * 3 / 4 * (4 + 2);
  const Json load = Json::parse(read("load.json"));
  double bytes = 0;
  for (const Json& b : load["bytes"]["0"]["network_out"]) bytes += b.get<double>();
  EXPECT_NEAR(bytes / (exchanged + sent + reduced), 1, 1e-6);
  // Rank 33's is that of the rank that stands for it: rank 32, of the other stage.
  EXPECT_EQ(load["bytes"].size(), 2u);
  EXPECT_TRUE(load["bytes"].contains("33"));
}

TEST_F(GpuClusters, AllToAllsAlone) {
  const CommandResult r = rehearse("inspect plan.yaml --all-to-all --json");
  ASSERT_EQ(r.exit_code, 0) << r.err;
  const Json j = Json::parse(r.out);
  EXPECT_EQ(j["ep"], 16);
  ASSERT_EQ(j["ops"].size(), 4u);
  for (const Json& op : j["ops"]) {
    EXPECT_GT(op["bandwidth_gb_s"].get<double>(), 10);
    EXPECT_LE(op["mean_s"], op["slowest_s"]);
  }
}

TEST_F(GpuClusters, Usage) {
  expect_usage_error("simulate plan.yaml --ranks 0", "--ranks needs --timeline or --link-load");
  expect_usage_error("simulate plan.yaml --link-load l.json", "--link-load needs --ranks");
  expect_usage_error("simulate plan.yaml --ranks 64 --timeline t.json",
                     "expected ranks from 0 to 63, such as 0,128 or 0-7");
  expect_usage_error("simulate plan.yaml --ranks 3-1 --timeline t.json", "expected ranks from 0");
  expect_usage_error("simulate plan.yaml --threads 0", "--threads must be from 1 to 1024");
  EXPECT_FALSE(exists("t.json"));
  EXPECT_FALSE(exists("l.json"));
}

TEST_F(GpuClusters, ALayoutLargerThanTheClusterIsRefused) {
  std::string text = plan("h800-64-one-switch.yaml", "balanced");
  text.replace(text.find("dp: 32"), 6, "dp: 64");
  write("plan.yaml", text);
  const CommandResult r = rehearse("simulate plan.yaml");
  EXPECT_EQ(r.exit_code, 1);
  EXPECT_EQ(
      r.err,
      "plan.yaml:4:7: layout.pp: pp x dp x cp x tp is 128 ranks, but cluster 'h800-64-one-switch' "
      "has 64 devices\n      pp: 2\n          ^\n");
}

// Every topology that comes with the program takes a plan; every plan of every experiment is valid.
TEST_F(GpuClusters, EveryFileThatComesAlongIsGood) {
  const fs::path source(REHEARSE_SOURCE_DIR);
  int64_t clusters = 0;
  for (const auto& entry : fs::directory_iterator(source / "topologies")) {
    const std::string name = entry.path().filename().string();
    if (entry.is_directory()) continue;  // of devices
    if (name.ends_with(".calibration.yaml") || name.ends_with(".map.yaml")) continue;
    if (name == "h200-1.yaml") continue;  // one device, of the experiments' plans below
    std::string text = plan(name, "balanced");
    if (entry.path().filename() == "localhost.yaml" ||
        entry.path().filename().string().starts_with("emulated")) {
      continue;
    }
    text.replace(text.find("dp: 32\n  ep: 16"), 15, "dp: 8\n  ep: 8");
    // Devices without FP8 tensor cores train in BF16.
    if (read_file(entry.path().string()).find("peak_fp8") == std::string::npos) {
      text.replace(text.find("precision: fp8"), 14, "precision: bf16");
    }
    write("plan.yaml", text);
    const CommandResult r = rehearse("simulate plan.yaml --fold --json");
    EXPECT_EQ(r.exit_code, 0) << entry.path() << r.err;
    ++clusters;
  }
  EXPECT_GE(clusters, 7);
  int64_t plans = 0;
  for (const auto& entry : fs::recursive_directory_iterator(source / "experiments")) {
    if (entry.path().extension() != ".yaml") continue;
    if (read_file(entry.path().string()).find("\nlayout:") == std::string::npos) continue;
    const CommandResult r = rehearse("inspect '" + entry.path().string() + "' --rank 0");
    EXPECT_EQ(r.exit_code, 0) << entry.path() << r.err;
    ++plans;
  }
  EXPECT_GE(plans, 25);
}

}  // namespace
}  // namespace rehearse
