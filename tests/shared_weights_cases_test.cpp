// Weights and tables as people really have them (../shared/cases, not part of a clone), and their
// neighbours: each with what is right.

#include <filesystem>

#include <nlohmann/json.hpp>

#include "base/file.h"
#include "tests/command.h"

namespace rehearse {
namespace {

namespace fs = std::filesystem;
using Json = nlohmann::json;

class SharedWeightsCases : public CommandTest {
 protected:
  void take(const std::string& name) {
    const fs::path from = fs::path(REHEARSE_SOURCE_DIR) / "../shared/cases" / name;
    if (!fs::exists(from)) GTEST_SKIP() << "no " << from;
    for (const auto& e : fs::directory_iterator(from)) {
      write(e.path().filename().string(), read_file(e.path().string()));
    }
  }
  // The losses of some steps from these weights.
  std::vector<double> losses(const std::string& from) {
    const CommandResult r =
        rehearse("train m.yaml --data text.txt -q --force --steps 3 --out o --from " + from);
    EXPECT_EQ(r.exit_code, 0) << r.err;
    std::vector<double> all;
    std::istringstream lines(read("o/log.jsonl"));
    for (std::string line; std::getline(lines, line);) all.push_back(Json::parse(line)["loss"]);
    return all;
  }
};

TEST_F(SharedWeightsCases, OtherWritersWeightsTrainAlike) {
  take("fail-29");
  if (IsSkipped()) return;
  std::string text;
  while (text.size() < 20'000) text += "weights as newer and other writers name them. ";
  write("text.txt", text);
  const std::vector<double> expected = losses("per_expert.safetensors");
  EXPECT_EQ(expected.size(), 3u);
  for (const char* name : {"packed", "prefix", "inv_freq"}) {
    EXPECT_EQ(losses(name + std::string(".safetensors")), expected) << name;
  }
}

// Without the shared files: tables of each kind made of the shipped ones.
class TablesOfFewFamilies : public CommandTest {
 protected:
  void SetUp() override {
    CommandTest::SetUp();
    write("plan.yaml",
          "model: deepseek-v3.yaml\ncluster: h100-1024.yaml\n"
          "layout: {pp: 1, dp: 8, ep: 8, schedule: 1f1b}\n"
          "training: {micro_batches: 4, micro_batch_size: 1, sequence_length: 4096, "
          "precision: bf16}\n");
  }
  static std::string shipped(const std::string& kind) {
    return read_file(std::string(REHEARSE_SOURCE_DIR) + "/topologies/devices/h100-" + kind +
                     ".csv");
  }
  // The header, and at most so many of the rows that hold `part`, the longest times first.
  static std::string rows_with(const std::string& table, const std::string& part, size_t most) {
    std::istringstream lines(table);
    std::string head, line;
    std::getline(lines, head);
    std::vector<std::pair<double, std::string>> rows;
    while (std::getline(lines, line)) {
      if (("," + line).find(part) == std::string::npos) continue;
      rows.emplace_back(-std::stod(line.substr(line.rfind(',') + 1)), line);
    }
    std::sort(rows.begin(), rows.end());
    std::string text = head + "\n";
    for (size_t i = 0; i < std::min(most, rows.size()); ++i) text += rows[i].second + "\n";
    return text;
  }
  CommandResult judge(const std::string& table, const std::string& more = "") {
    write("t.csv", table);
    return rehearse("calibrate plan.yaml --judge-table t.csv " + more);
  }
};

TEST_F(TablesOfFewFamilies, OneIsRefusedByNameAndToldByADevice) {
  const std::string device =
      " --told-by '" + std::string(REHEARSE_SOURCE_DIR) + "/topologies/devices/h100.yaml'";
  struct Kind {
    const char *name, *part, *family;
  };
  for (const auto& [name, part, family] : {Kind{"products", ",5120,65536,", "bfloat16 (n, k)"},
                                           Kind{"attention", ",40,8,", "(heads, key-value heads)"},
                                           Kind{"exchanges", ",20,", "dispatch (SMs); combine"},
                                           Kind{"grouped", ",7168,2048,8,256,", "(model)"},
                                           Kind{"collectives", ",536870912,", "(size)"}}) {
    for (const size_t rows : {1u, 40u}) {
      const std::string table = rows_with(shipped(name), part, rows);
      const CommandResult r = judge(table);
      if (rows > 1 && std::string(name) == "grouped") continue;  // of several kernels
      EXPECT_EQ(r.exit_code, 1) << name << r.out;
      EXPECT_NE(r.err.find("t.csv: a table of one family cannot be judged by leaving families out"),
                std::string::npos)
          << name << ": " << r.err;
      EXPECT_NE(r.err.find("(--told-by)"), std::string::npos) << r.err;
      if (rows > 1) {
        EXPECT_NE(r.err.find(family), std::string::npos) << r.err;
      }
      EXPECT_EQ(judge(table, device).exit_code, 0) << name;
      EXPECT_EQ(rehearse("calibrate plan.yaml --from-tables t.csv --out d.yaml").exit_code, 0)
          << name;
    }
  }
}

TEST_F(TablesOfFewFamilies, TwoAreJudgedAndOneBesideThemIsNamed) {
  const std::string attention = shipped("attention");
  const std::string one = rows_with(attention, ",40,8,", 40);
  const std::string two = one + rows_with(attention, ",32,8,", 40).substr(attention.find('\n') + 1);
  const CommandResult r = judge(two, "--json");
  ASSERT_EQ(r.exit_code, 0) << r.err;
  EXPECT_GT(Json::parse(r.out)["kernels"][0]["judged"].get<int64_t>(), 0);
  // A kernel of one family beside others that are judged.
  const std::string row =
      one.substr(one.find('\n') + 1, one.find('\n', one.find('\n') + 1) - one.find('\n'));
  const std::string other = "other" + row.substr(row.find(','));
  const CommandResult beside = judge(two + other, "--json");
  ASSERT_EQ(beside.exit_code, 0) << beside.err;
  const Json answer = Json::parse(beside.out);
  EXPECT_NE(answer["not_judged"].get<std::string>().find("attention, other"), std::string::npos);
  EXPECT_FALSE(answer["kernels"].back().contains("bias") &&
               answer["kernels"].back()["judged"] == 0);
}

TEST_F(SharedWeightsCases, TablesOfOneFamily) {
  take("fail-44");
  if (IsSkipped()) return;
  for (const char* name : {"onemodel", "onehead", "onenk", "onesm"}) {
    const CommandResult r =
        rehearse(std::string("calibrate ph.yaml --judge-table ") + name + ".csv");
    EXPECT_EQ(r.exit_code, 1) << r.out;
    EXPECT_NE(r.err.find("a table of one family cannot be judged"), std::string::npos) << r.err;
  }
}

}  // namespace
}  // namespace rehearse
