// What a reader of a measurement must know: that the machine was busy, that a prediction was not
// calibrated, what marks in tables mean.

#include <nlohmann/json.hpp>

#include "plan/cluster.h"
#include "tests/command.h"

namespace rehearse {
namespace {

using Json = nlohmann::json;

class Disturbed : public CommandTest {
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
          "training: {micro_batches: 4, micro_batch_size: 1, sequence_length: 128, steps: 60}\n");
  }

  // With so many busy loops beside it as this machine has cores.
  CommandResult beside_loops(const std::string& arguments) {
    std::string loops = "true; ";
    std::string end;
    for (int64_t i = 0; i < host_cores(); ++i) {
      loops += "timeout 100 sh -c 'while :; do :; done' & L" + std::to_string(i) + "=$!; ";
      end += " $L" + std::to_string(i);
    }
    return rehearse(arguments + "; code=$?; kill" + end + "; exit $code", loops);
  }
  static std::string first_line(const std::string& text) { return text.substr(0, text.find('\n')); }
  static bool tells(const std::string& line, const std::string& what) {
    return line.starts_with("warning: other processes had ") &&
           line.find(" of " + std::to_string(host_cores()) + " cores") != std::string::npos &&
           line.ends_with(what);
  }
};

TEST_F(Disturbed, ABusyMachineIsToldFirst) {
  const CommandResult train = beside_loops("train plan.yaml --data text.txt --out run -q");
  ASSERT_EQ(train.exit_code, 0) << train.err;
  const Json load = Json::parse(read("run/result.json"))["machine_load"];
  EXPECT_EQ(load["cores"], host_cores());
  EXPECT_GT(load["wall_s"], 0.1);
  EXPECT_GT(load["own_cores"], 0);
  if (load["wall_s"] < 1) GTEST_SKIP() << "too short a training to tell: " << load;
  // As many threads that always want a core as there are get a third of the cores at least beside
  // this program's two or four; the scheduler may be some way off that.
  EXPECT_GT(load["other_cores"], 0.2 * static_cast<double>(host_cores()));
  EXPECT_EQ(load["busy"], true);
  EXPECT_EQ(Json::parse(read("run/result.json"))["warnings"].size(), 1u);
  EXPECT_TRUE(tells(first_line(train.out), "while this ran")) << train.out;

  // The timeline carries it to `compare`.
  const std::string compare = "compare plan.yaml --measured run/timeline.json";
  const CommandResult text = rehearse(compare);
  EXPECT_TRUE(tells(first_line(text.out), "while the step was measured")) << text.out;
  const std::string rest = text.out.substr(text.out.find('\n') + 1);
  EXPECT_EQ(first_line(rest),
            "warning: the prediction is uncalibrated: made of peak speeds and bandwidths, not of "
            "measured times");
  const Json json = Json::parse(rehearse(compare + " --json").out);
  EXPECT_EQ(json["machine_load"], load);
  EXPECT_EQ(json["warnings"].size(), 2u);
  EXPECT_EQ(json["calibrated"], false);
}

TEST_F(Disturbed, ABusyMachineIsToldByValidateAndCalibrate) {
  const CommandResult calibrate =
      beside_loops("calibrate plan.yaml --no-grid --rounds 2 --milliseconds 0.05 --out c.yaml -q");
  EXPECT_TRUE(tells(first_line(calibrate.out), "while kernels were timed")) << calibrate.out;
  const CommandResult validate = beside_loops(
      "validate plan.yaml --data text.txt --calibration c.yaml --runs 1 --steps 40 --out v -q");
  ASSERT_EQ(validate.exit_code, 0) << validate.err;
  EXPECT_TRUE(tells(first_line(validate.out), "before anything was measured")) << validate.out;
  const Json v = Json::parse(read("v/validation.json"));
  EXPECT_EQ(v["machine_load_before"]["busy"], true);
  EXPECT_GE(v["warnings"].size(), 1u);
  EXPECT_GT(v["plans"][0]["machine_load"]["other_cores"], 0);
  // One run has no range; and marks are explained.
  EXPECT_TRUE(v["plans"][0]["runs_spread"].is_null());
  EXPECT_EQ(validate.out.find("+-0.0%"), std::string::npos) << validate.out;
  for (const std::string words : {"!: the measurement is outside", "-: of one run", "+- half"}) {
    EXPECT_NE(validate.out.find(words), std::string::npos) << words << "\n" << validate.out;
  }
  EXPECT_NEAR(v["mean_absolute_error"].get<double>(),
              std::abs(v["plans"][0]["error"].get<double>()),
              1e-12);
  EXPECT_GE(v["worst_absolute_error"], v["mean_absolute_error"]);
}

TEST_F(Disturbed, TimelinesOfBeforeAreCompared) {
  ASSERT_EQ(rehearse("train plan.yaml --data text.txt --steps 3 --out run -q").exit_code, 0);
  std::string timeline = read("run/timeline.json");
  const size_t at = timeline.find("\"machine_load\"");
  ASSERT_NE(at, std::string::npos);
  timeline.erase(at, timeline.find("\"ops\"", at) - at);
  write("before.json", timeline);
  ASSERT_EQ(rehearse("simulate plan.yaml --timeline p.json").exit_code, 0);
  std::string predicted = read("p.json");
  const std::string flag = "\"calibrated\": false, ";
  ASSERT_NE(predicted.find(flag), std::string::npos);
  const std::string compare = "compare plan.yaml --measured before.json --predicted p.json --json";
  EXPECT_EQ(Json::parse(rehearse(compare).out)["calibrated"], false);
  predicted.erase(predicted.find(flag), flag.size());
  write("p.json", predicted);
  const Json json = Json::parse(rehearse(compare).out);
  EXPECT_TRUE(json["machine_load"].is_null());
  EXPECT_TRUE(json["calibrated"].is_null());
  EXPECT_TRUE(json["warnings"].empty());
}

TEST_F(Disturbed, UncalibratedPredictionsAreCalledThat) {
  const CommandResult text = rehearse("simulate plan.yaml");
  EXPECT_NE(text.out.find("(uncalibrated)\n"), std::string::npos) << text.out;
  EXPECT_EQ(Json::parse(rehearse("simulate plan.yaml --json").out)["calibrated"], false);
  ASSERT_EQ(rehearse("calibrate plan.yaml --no-grid --rounds 1 --milliseconds 0.05 --out c.yaml -q")
                .exit_code,
            0);
  const std::string with = "simulate plan.yaml --calibration c.yaml";
  EXPECT_EQ(rehearse(with).out.find("uncalibrated"), std::string::npos);
  EXPECT_EQ(Json::parse(rehearse(with + " --json").out)["calibrated"], true);
}

// Errors are signed where they are not called absolute, differences the other way round; counts
// are counts.
TEST_F(Disturbed, ErrorsHaveTheirSigns) {
  ASSERT_EQ(rehearse("train plan.yaml --data text.txt --steps 3 --out run -q").exit_code, 0);
  const std::string compare = "compare plan.yaml --measured run/timeline.json";
  const Json json = Json::parse(rehearse(compare + " --json").out);
  EXPECT_GE(json["op_time_error_median_abs"], 0);
  EXPECT_GE(json["op_time_error_mean_abs"], 0);
  int64_t signs = 0;
  for (const auto& [name, kind] : json["ops_by_kind"].items()) {
    const double predicted = kind["predicted_s"];
    const double measured = kind["measured_s"];
    EXPECT_TRUE(kind["ops"].is_number_integer()) << name;
    EXPECT_NEAR(kind["difference_s"].get<double>(), measured - predicted, 1e-12) << name;
    if (measured == 0) continue;
    EXPECT_NEAR(kind["error"].get<double>(), predicted / measured - 1, 1e-9) << name;
    signs |= kind["error"] < 0 ? 1 : 2;
  }
  EXPECT_NE(signs, 0);
  const std::string text = rehearse(compare).out;
  for (const std::string words : {"error: predicted / measured - 1, below 0 where",
                                  "in points: predicted - measured",
                                  "x: of so many ops",
                                  "difference: measured - predicted"}) {
    EXPECT_NE(text.find(words), std::string::npos) << words;
  }
}

}  // namespace
}  // namespace rehearse
