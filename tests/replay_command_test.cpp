// A run's routing, recorded and replayed.

#include <cmath>

#include <nlohmann/json.hpp>

#include "plan/routing/recorded_step.h"
#include "tests/command.h"

namespace rehearse {
namespace {

using Json = nlohmann::json;

class ReplayCommand : public CommandTest {
 protected:
  void SetUp() override {
    CommandTest::SetUp();
    std::string text;
    while (text.size() < 20'000) text += "who goes where is written down, step by step. ";
    write("text.txt", text);
    write("plan.yaml", plan("pp: 2, dp: 2, ep: 2, schedule: dualpipe"));
  }
  static std::string plan(const std::string& layout, const std::string& cluster = "emulated-2x2") {
    return "model: tiny-v3.yaml\ncluster: " + cluster + ".yaml\nlayout: {" + layout +
           "}\ntraining: {micro_batches: 4, micro_batch_size: 1, sequence_length: 32, steps: 4}\n";
  }
  void record(const std::string& options = "") {
    const CommandResult r = rehearse(
        "train plan.yaml --data text.txt -q --out run --force --record-routing r.h5 " + options);
    ASSERT_EQ(r.exit_code, 0) << r.err;
  }
  Json replay(const std::string& options) {
    const CommandResult r = rehearse("replay r.h5 plan.yaml --json " + options);
    EXPECT_EQ(r.exit_code, 0) << r.err;
    return r.exit_code == 0 ? Json::parse(r.out) : Json();
  }
  std::string error(const std::string& arguments) {
    const CommandResult r = rehearse(arguments);
    EXPECT_EQ(r.exit_code, 1) << r.out;
    return r.err;
  }
};

TEST_F(ReplayCommand, HasTheRunsOwnCounts) {
  record();
  const Json j = replay("--simulate 4");
  EXPECT_TRUE(j["exact"].get<bool>());
  std::istringstream lines(read("run/log.jsonl"));
  std::vector<double> mean(3, 0);
  for (size_t step = 0; step < 4; ++step) {
    std::string line;
    std::getline(lines, line);
    const Json log = Json::parse(line);
    EXPECT_EQ(j["steps"][step]["step"], log["step"]);
    EXPECT_NEAR(j["steps"][step]["load_max_over_mean"].get<double>(),
                log["max_expert_load"].get<double>(),
                1e-12);
    for (size_t l = 0; l < 3; ++l) mean[l] += log["expert_load"][l].get<double>() / 4;
  }
  ASSERT_EQ(j["layers"].size(), 3u);
  for (size_t l = 0; l < 3; ++l) {
    EXPECT_NEAR(j["layers"][l]["load_max_over_mean"].get<double>(), mean[l], 1e-12);
    for (const char* key :
         {"load_p99_over_mean", "gini", "ib_bytes", "nvlink_bytes", "dispatch_s", "combine_s"}) {
      EXPECT_TRUE(j["layers"][l][key].is_number()) << key;
    }
    EXPECT_GT(j["layers"][l]["nvlink_bytes"], 0);
    EXPECT_EQ(j["layers"][l]["ib_bytes"], 0);  // EP2 within a node
  }
  EXPECT_GT(j["step_time_s"], j["step_time_balanced_s"]);
  EXPECT_TRUE(j["wall_s"].is_number());
}

// Recording changes no bit; the file opens at any moment, after a kill too.
TEST_F(ReplayCommand, RecordingIsPassiveAndSurvivesKills) {
  record();
  const std::string with = read("run/log.jsonl");
  ASSERT_EQ(rehearse("train plan.yaml --data text.txt -q --out other").exit_code, 0);
  std::istringstream a(with), b(read("other/log.jsonl"));
  for (std::string x, y; std::getline(a, x) && std::getline(b, y);) {
    EXPECT_EQ(Json::parse(x)["loss"], Json::parse(y)["loss"]);
    EXPECT_EQ(Json::parse(x)["gradient_norm"], Json::parse(y)["gradient_norm"]);
  }
  std::filesystem::remove(folder_ / "r.h5");
  rehearse(
      "train plan.yaml --data text.txt -q --out run --force --steps 100000 --record-routing r.h5",
      "timeout -s KILL 3");
  const RoutingReader reader((folder_ / "r.h5").string());
  EXPECT_GT(reader.shape().steps, 0);
  for (int64_t step = 0; step < reader.shape().steps; ++step) {
    EXPECT_EQ(reader.steps()[static_cast<size_t>(step)], step + 1);
    const RecordedStep one = read_step(reader, step);
    for (const float w : reader.read_weights(7, 2, step)) {
      EXPECT_GT(w, 0);
      EXPECT_LT(w, 3);
    }
  }
}

TEST_F(ReplayCommand, PlacementsAreJudgedByTime) {
  write("plan.yaml", plan("dp: 4, ep: 4"));
  record();
  const double in_order = replay("")["step_time_s"];
  const double best = replay("--policy best --write-placement map.json")["step_time_s"];
  EXPECT_LE(best, in_order * (1 + 1e-9));
  EXPECT_NEAR(replay("--placement map.json")["step_time_s"].get<double>(), best, 1e-12);
  const double redundant = replay("--policy best --redundant 4")["step_time_s"];
  const double published = replay("--policy published --redundant 4")["step_time_s"];
  EXPECT_LE(redundant, published * (1 + 1e-9));
  // Token by token no fuller than in turn.
  const auto fullest = [](const Json& j) {
    double sum = 0;
    for (const Json& l : j["layers"]) sum += l["rank_load_max_over_mean"].get<double>();
    return sum;
  };
  EXPECT_LE(fullest(replay("--policy global --redundant 4 --replicas solved")),
            fullest(replay("--policy global --redundant 4")) + 1e-9);
  const Json moving = replay("--policy global --redundant 4 --every 1");
  EXPECT_GT(moving["moved_bytes"], 0);
  EXPECT_GT(moving["move_s"], 0);
}

// Fewer groups per token, fewer nodes per token.
TEST_F(ReplayCommand, GroupLimitsSpareTheNetwork) {
  write("plan.yaml", plan("dp: 4, ep: 4"));
  record();
  const Json free = replay("");
  const Json limited = replay("--group-limit 1");
  double a = 0, b = 0;
  for (size_t l = 0; l < 3; ++l) {
    a += free["layers"][l]["ib_bytes"].get<double>();
    b += limited["layers"][l]["ib_bytes"].get<double>();
  }
  EXPECT_GT(b, 0);
  EXPECT_LT(b, a);
}

TEST_F(ReplayCommand, OtherPlansAreDealtMicroBatches) {
  record();
  write("plan.yaml", plan("dp: 4, ep: 4"));
  const Json j = replay("");
  EXPECT_FALSE(j["exact"].get<bool>());
  EXPECT_GT(j["layers"][0]["ib_bytes"], 0);
}

TEST_F(ReplayCommand, WhatDoesNotFitIsSaid) {
  record();
  EXPECT_NE(error("replay none.h5 plan.yaml").find("none.h5: no such file"), std::string::npos);
  EXPECT_NE(error("replay text.txt plan.yaml").find("is not an HDF5 file"), std::string::npos);
  EXPECT_NE(error("replay r.h5 plan.yaml --policy global --redundant 3").find("2 or 4 do"),
            std::string::npos);
  EXPECT_NE(error("replay r.h5 plan.yaml --redundant 2").find("need a policy"), std::string::npos);
  write("map.json", "[0, 1, 2]");
  EXPECT_NE(error("replay r.h5 plan.yaml --placement map.json").find("3 slots"), std::string::npos);
  write("plan.yaml",
        "model: overlap-v3.yaml\ncluster: emulated-2x2.yaml\nlayout: {dp: 2}\ntraining: "
        "{micro_batches: 4, micro_batch_size: 1, sequence_length: 32}\n");
  EXPECT_NE(error("replay r.h5 plan.yaml").find("the trace was recorded with"), std::string::npos);
  EXPECT_EQ(rehearse("replay r.h5").exit_code, 2);
  EXPECT_EQ(rehearse("replay r.h5 plan.yaml --policy none").exit_code, 2);
}

}  // namespace
}  // namespace rehearse
