// Simulations that once went wrong, as people had them (../shared/cases, not part of a clone).

#include <algorithm>
#include <filesystem>

#include <nlohmann/json.hpp>
#include <sys/resource.h>

#include "tests/command.h"

namespace rehearse {
namespace {

namespace fs = std::filesystem;
using Json = nlohmann::json;

class SharedSimulatorCases : public CommandTest {
 protected:
  void SetUp() override {
    CommandTest::SetUp();
    if (!fs::exists(shared())) GTEST_SKIP() << "no " << shared();
  }
  static fs::path shared() { return fs::path(REHEARSE_SOURCE_DIR) / "../shared/cases"; }

  // The case's files, in the folder in which commands run.
  void take(const std::string& name) {
    for (const auto& file : fs::directory_iterator(shared() / name)) {
      write(file.path().filename().string(), read_file(file.path().string()));
    }
  }
  void replace(const std::string& file, const std::string& from, const std::string& to) {
    std::string text = read(file);
    const size_t at = text.find(from);
    ASSERT_NE(at, std::string::npos) << from << " in " << file;
    write(file, text.replace(at, from.size(), to));
  }
  Json simulate(const std::string& arguments) {
    const CommandResult r = rehearse("simulate " + arguments + " --json --quiet");
    EXPECT_EQ(r.exit_code, 0) << r.err;
    return r.exit_code == 0 ? Json::parse(r.out) : Json();
  }
  double step(const std::string& arguments) {
    return simulate(arguments).at("step_time_s").get<double>();
  }
  // CPU seconds of a simulation.
  double cpu(const std::string& arguments) {
    const auto used = [] {
      rusage usage{};
      getrusage(RUSAGE_CHILDREN, &usage);
      return static_cast<double>(usage.ru_utime.tv_sec) +
             static_cast<double>(usage.ru_utime.tv_usec) * 1e-6;
    };
    const double before = used();
    simulate(arguments);
    return used() - before;
  }
};

TEST_F(SharedSimulatorCases, FoldedIsTheSame) {
  take("fail-46");
  const Json whole = simulate("p.yaml");
  const Json folded = simulate("p.yaml --fold");
  for (const char* key : {"step_time_s", "breakdown_s", "breakdown_ranks_s", "bubble_fraction"}) {
    EXPECT_EQ(whole.at(key).dump(), folded.at(key).dump()) << key;
  }
}

TEST_F(SharedSimulatorCases, FasterCopiesAreNotSlower) {
  std::vector<double> steps;
  for (const char* rate : {"20 GB/s", "30 GB/s", "60 GB/s"}) {
    take("fail-47");
    replace("p.yaml", "experiments/", (fs::path(REHEARSE_SOURCE_DIR) / "experiments/").string());
    replace("c.yaml", "copy_per_sm: 60 GB/s", std::string("copy_per_sm: ") + rate);
    steps.push_back(step("p.yaml"));
  }
  EXPECT_TRUE(std::is_sorted(steps.rbegin(), steps.rend())) << testing::PrintToString(steps);
}

TEST_F(SharedSimulatorCases, LinksCarryWhatTheyCan) {
  take("fail-48");
  simulate("p.yaml --ranks 27 --link-load load.json");
  const Json load = Json::parse(read("load.json"));
  const double bin = load.at("bin_s").get<double>();
  for (const auto& [kind, bins] : load.at("bytes").at("27").items()) {
    const bool node = kind.starts_with("node");
    const double rate = load.at(node ? "node_bytes_per_s" : "network_bytes_per_s").get<double>();
    double sum = 0;
    for (const Json& bytes : bins) {
      EXPECT_LE(bytes.get<double>(), rate * bin) << kind;
      sum += bytes.get<double>();
    }
    EXPECT_NEAR(sum, node ? 159834624 : 128710144, 1) << kind;
  }
}

TEST_F(SharedSimulatorCases, OversubscriptionIsNoCliff) {
  take("fail-49");
  EXPECT_LE(cpu("p-3.yaml"), 5 * cpu("p-1.yaml"));
}

TEST_F(SharedSimulatorCases, KimiK2FoldsAsDeepSeekV3) {
  take("fail-42");
  const Json kimi = simulate("kimi16.yaml --fold");
  EXPECT_EQ(kimi.at("simulated_data_ranks"), 1);
  EXPECT_LE(cpu("kimi16.yaml --fold"), 1.5 * cpu("v3k16.yaml --fold"));
}

TEST_F(SharedSimulatorCases, BalancedIsTheLimitOfSkew) {
  for (const char* dispatcher : {"two_hop", "all_to_all", "all_gather"}) {
    take("fail-32");
    replace("base.yaml", "models/qwen3", (fs::path(REHEARSE_SOURCE_DIR) / "models/qwen3").string());
    replace(
        "base.yaml", "schedule: 1f1b", std::string("schedule: 1f1b\n  dispatcher: ") + dispatcher);
    const double balanced = step("base.yaml");
    write("skewed.yaml", read("base.yaml") + "\nexpert_load: {kind: synthetic, skew: 0}\n");
    EXPECT_NEAR(step("skewed.yaml") / balanced, 1, 0.01) << dispatcher;
  }
}

}  // namespace
}  // namespace rehearse
