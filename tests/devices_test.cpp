// GPUs from tables, by the commands: which file prices a plan, what a result says of it, and files
// made and judged.

#include <nlohmann/json.hpp>

#include "tests/command.h"

namespace rehearse {
namespace {

using Json = nlohmann::json;

class DeviceCommands : public CommandTest {
 protected:
  static std::string plan(const std::string& more = "") {
    return "model: llama-3.1-8b.yaml\ncluster: h100-1024.yaml\n" + more +
           "layout: {pp: 1, dp: 4, tp: 2}\n"
           "training: {micro_batches: 2, micro_batch_size: 1, sequence_length: 4096, precision: "
           "bf16, recompute: none}\n";
  }
  Json simulate(const std::string& text, const std::string& options = "") {
    write("plan.yaml", text);
    said_ = rehearse("simulate plan.yaml --json " + options);
    EXPECT_EQ(said_.exit_code, 0) << said_.err;
    return said_.exit_code == 0 ? Json::parse(said_.out) : Json();
  }
  CommandResult said_;
};

TEST_F(DeviceCommands, PlansWithoutACalibrationTakeTheirDevices) {
  const Json j = simulate(plan());
  EXPECT_NE(said_.err.find("'h100-1024' is priced by"), std::string::npos) << said_.err;
  EXPECT_NE(said_.err.find("topologies/devices/h100.yaml"), std::string::npos) << said_.err;
  const Json& costs = j["costs"];
  double all = 0;
  for (const char* origin : {"measured", "interpolated", "ruled", "ideal"}) {
    const double share = costs[std::string(origin) + "_share"];
    EXPECT_GE(share, 0);
    all += share;
  }
  EXPECT_NEAR(all, 1, 1e-9);
  EXPECT_EQ(costs["ideal_share"], 0);
  EXPECT_EQ(costs["most_told"].size(), 3u);
  EXPECT_LT(j["interval_s"][0], j["step_time_s"]);
  EXPECT_GT(j["interval_s"][1], j["step_time_s"]);
  // What kernels reach is slower than what flops and bytes allow.
  const double step = j["step_time_s"];
  for (const Json& ideal :
       {simulate(plan(), "--calibration none"), simulate(plan("calibration: none\n"))}) {
    EXPECT_EQ(said_.err.find("priced by"), std::string::npos) << said_.err;
    EXPECT_LT(ideal["step_time_s"].get<double>(), 0.9 * step);
    EXPECT_FALSE(ideal["costs"].contains("measured_share"));
  }
}

TEST_F(DeviceCommands, WhatIfsChangeWhatTheyName) {
  const double step = simulate(plan())["step_time_s"];
  EXPECT_GT(simulate(plan(), "--scale product=1.2")["step_time_s"].get<double>(), 1.1 * step);
  const double norms = simulate(plan(), "--scale norm=1.2")["step_time_s"];
  EXPECT_GT(norms, step);
  EXPECT_LT(norms, 1.05 * step);
  write("plan.yaml", plan());
  const CommandResult waiting = rehearse("simulate plan.yaml --scale waiting=2");
  EXPECT_EQ(waiting.exit_code, 1);
  EXPECT_NE(waiting.err.find("no time of its own"), std::string::npos) << waiting.err;
}

TEST_F(DeviceCommands, AnotherDevicesTablesAreRefused) {
  write("plan.yaml", plan());
  const std::string a100 = std::string(REHEARSE_SOURCE_DIR) + "/topologies/devices/a100.yaml";
  const CommandResult r = rehearse("simulate plan.yaml --calibration '" + a100 + "'");
  EXPECT_EQ(r.exit_code, 1);
  EXPECT_NE(r.err.find("its calibration is of 'a100'"), std::string::npos) << r.err;
  const std::string products =
      std::string(REHEARSE_SOURCE_DIR) + "/topologies/devices/h100-attention.csv";
  write("a100.yaml", plan().replace(plan().find("h100"), 4, "a100"));
  const CommandResult other = rehearse("calibrate a100.yaml --judge-table '" + products + "'");
  EXPECT_EQ(other.exit_code, 1);
  EXPECT_NE(other.err.find("another device"), std::string::npos) << other.err;
}

// An H800 is an H100 behind links of less than half its rate.
TEST_F(DeviceCommands, LinksAreTheClusters) {
  const auto with = [&](const std::string& cluster, int64_t tp) {
    std::string text = plan();
    text.replace(text.find("h100-1024"), 9, cluster);
    text.replace(text.find("dp: 4, tp: 2"), 12, "dp: 1, tp: " + std::to_string(tp));
    return simulate(text)["step_time_s"].get<double>();
  };
  EXPECT_NEAR(with("h800-2048", 1) / with("h100-1024", 1), 1, 1e-6);
  EXPECT_NE(said_.err.find("devices/h100.yaml"), std::string::npos);
  EXPECT_GT(with("h800-2048", 8) / with("h100-1024", 8), 1.15);
}

TEST_F(DeviceCommands, FilesAreMadeAndJudged) {
  write("plan.yaml", plan());
  const std::string from = std::string(REHEARSE_SOURCE_DIR) + "/topologies/devices/h100-";
  const CommandResult made =
      rehearse("calibrate plan.yaml --from-tables '" + from + "products.csv' --from-tables '" +
               from + "attention.csv' --choose products_fp8=fp8 --source me --out mine.yaml");
  ASSERT_EQ(made.exit_code, 0) << made.err;
  const std::string file = read("mine.yaml");
  EXPECT_NE(file.find("products_fp8: {file: mine-products.csv, kernel: fp8}"), std::string::npos);
  EXPECT_NE(file.find("attention: {file: mine-attention.csv, kernel: fa3}"), std::string::npos);
  EXPECT_NE(file.find("source: \"me\""), std::string::npos) << file.substr(0, 300);
  const double mine = simulate(plan(), "--calibration mine.yaml")["step_time_s"];
  EXPECT_NEAR(mine / simulate(plan())["step_time_s"].get<double>(), 1, 0.1)
      << "but for collectives";

  const CommandResult judged = rehearse("calibrate plan.yaml --judge-table '" + from +
                                        "attention.csv' --told-by mine.yaml --json");
  ASSERT_EQ(judged.exit_code, 0) << judged.err;
  EXPECT_EQ(Json::parse(judged.out)["kernels"][0]["mean_absolute_error"], 0) << "its own rows";
  const CommandResult held =
      rehearse("calibrate plan.yaml --judge-table '" + from + "attention.csv' --json");
  const double error = Json::parse(held.out)["kernels"][0]["mean_absolute_error"];
  EXPECT_GT(error, 0.01);
  EXPECT_LT(error, 0.06);
  for (const auto& [options, why] :
       {std::pair{"--from-tables plan.yaml --out x.yaml", "is no table of kernels"},
        std::pair{"--from-tables mine-products.csv", "say --out FILE"},
        std::pair{"--from-tables mine-products.csv --choose products_fp8=fp4 --out x.yaml",
                  "the table has no 'fp4'"},
        std::pair{"--from-tables mine-products.csv --from-tables mine-products.csv --out x.yaml",
                  "a second table of its kind"},
        std::pair{"--judge-table mine-products.csv --told-by plan.yaml",
                  "format: this key is missing"}}) {
    const CommandResult r = rehearse(std::string("calibrate plan.yaml ") + options);
    EXPECT_NE(r.exit_code, 0) << options;
    EXPECT_NE(r.err.find(why), std::string::npos) << options << " says: " << r.err;
    EXPECT_FALSE(exists("x.yaml")) << options;
  }
}

}  // namespace
}  // namespace rehearse
