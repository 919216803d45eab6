// rehearse plan, by the command: what its JSON holds, that rows are made again by their own
// command, and what is asked in vain.

#include <nlohmann/json.hpp>

#include "base/errors.h"
#include "cli/megatron.h"
#include "search/search.h"
#include "tests/command.h"

namespace rehearse {
namespace {

using Json = nlohmann::json;

std::string shipped_model(const std::string& name) {
  return std::string(REHEARSE_SOURCE_DIR) + "/models/" + name + ".yaml";
}
std::string shipped_cluster(const std::string& name) {
  return std::string(REHEARSE_SOURCE_DIR) + "/topologies/" + name + ".yaml";
}

class PlanCommand : public CommandTest {
 protected:
  Json ask(const std::string& options) {
    said_ = rehearse("plan " + options + " --json");
    EXPECT_EQ(said_.exit_code, 0) << said_.err << said_.out;
    return said_.exit_code == 0 ? Json::parse(said_.out) : Json();
  }
  std::string refused(const std::string& options, int exit_code = 1) {
    const CommandResult r = rehearse("plan " + options);
    EXPECT_EQ(r.exit_code, exit_code) << r.out << r.err;
    return r.err;
  }
  const std::string small_ = "--model deepseek-16b --cluster h800-64-one-switch --batch 256 ";
  const std::string on_32_ = small_ + "--gpus 32 ";
  CommandResult said_;
};

TEST_F(PlanCommand, JsonHoldsWhatItPromises) {
  const Json j =
      ask(on_32_ + "--tokens 1.3T --show 5 --simulate 20 --illegal --csv all.csv --out best");
  EXPECT_GT(j["layouts_legal"], 10'000);
  EXPECT_EQ(j["layouts_simulated"].get<int64_t>() + j["layouts_pruned"].get<int64_t>(), 20);
  EXPECT_GT(j["wall_s"], 0);
  ASSERT_EQ(j["best"].size(), 5u);
  double before = 0;
  for (const Json& b : j["best"]) {
    const Json& l = b["layout"];
    for (const char* key :
         {"pp", "chunks", "ep", "dp", "tp", "cp", "microbatches", "micro_batch_size", "zero"}) {
      EXPECT_TRUE(l[key].is_number_integer()) << key;
    }
    EXPECT_TRUE(l["schedule"].is_string());
    EXPECT_TRUE(l["recompute"].is_string());
    EXPECT_EQ(l["pp"].get<int>() * l["dp"].get<int>() * l["tp"].get<int>() * l["cp"].get<int>(),
              32);
    EXPECT_EQ(l["dp"].get<int>() * l["microbatches"].get<int>() * l["micro_batch_size"].get<int>(),
              256);
    EXPECT_EQ(b["gpus"], 32);
    EXPECT_EQ(b["batch"], 256);
    EXPECT_EQ(b["sequence"], 4096);
    EXPECT_EQ(b["precision"], "bf16");
    EXPECT_TRUE(b["runnable"].is_boolean());
    const double step = b["step_time_s"];
    EXPECT_GE(step, before);
    before = step;
    EXPECT_LT(b["interval_s"][0], step);
    EXPECT_GT(b["interval_s"][1], step);
    EXPECT_LE(b["bound_s"], step);
    EXPECT_GT(b["memory_bytes"], 1'000'000'000);
    EXPECT_NE(b["memory_verdict"], "short");
    const double tokens = 256.0 * 4096;
    EXPECT_NEAR(b["gpu_hours"].get<double>(), 1.3e12 / tokens * step * 32 / 3600, 1);
    EXPECT_FALSE(b["limited_by"].get<std::string>().empty());
  }
  EXPECT_EQ(j["sensitivities"].size(), 10u);
  EXPECT_FALSE(j["illegal"].empty());
  // Of the plan that was written, simulate says the same.
  const CommandResult same = rehearse("simulate best/1.yaml --json --fold");
  ASSERT_EQ(same.exit_code, 0) << same.err;
  EXPECT_EQ(Json::parse(same.out)["step_time_s"], j["best"][0]["step_time_s"]);
  const std::string csv = read("all.csv");
  EXPECT_EQ(std::count(csv.begin(), csv.end(), '\n'), 1 + j["layouts_simulated"].get<int64_t>());
  // And the row's own command makes the row again.
  const std::string command = j["best"][2]["command"];
  ASSERT_TRUE(command.starts_with("rehearse plan ")) << command;
  const Json again = ask(command.substr(std::string("rehearse plan ").size()));
  EXPECT_EQ(again["layouts_legal"], 1);
  EXPECT_EQ(again["best"][0]["step_time_s"], j["best"][2]["step_time_s"]);
  EXPECT_EQ(again["best"][0]["layout"], j["best"][2]["layout"]);
}

TEST_F(PlanCommand, TablesFitTheScreen) {
  const CommandResult r = rehearse("plan " + on_32_ + "--show 10 --simulate 20 --quiet");
  ASSERT_EQ(r.exit_code, 0) << r.err;
  std::istringstream lines(r.out);
  bool table = false;
  int rows = 0;
  for (std::string line; std::getline(lines, line);) {
    if (line.find("GB@rank") != std::string::npos && line.find("layout") != std::string::npos)
      table = true;
    if (line.starts_with("1 to ") || line.empty()) table = table && line.empty() && rows == 0;
    if (!table) continue;
    ++rows;
    EXPECT_LE(line.size(), 100u) << line;
  }
  EXPECT_GE(rows, 20);
}

TEST_F(PlanCommand, APlanFileIsASearchOfItsLayout) {
  write("plan.yaml",
        "model: deepseek-16b.yaml\ncluster: h800-64-one-switch.yaml\n"
        "layout: {pp: 2, dp: 16, ep: 8}\n"
        "training: {micro_batches: 16, micro_batch_size: 1, sequence_length: 4096, precision: "
        "bf16}\n");
  const Json j = ask("plan.yaml --simulate 30 --show 3");
  EXPECT_EQ(j["best"][0]["gpus"], 32);
  EXPECT_EQ(j["best"][0]["batch"], 256);
  const CommandResult own = rehearse("simulate plan.yaml --json --fold");
  EXPECT_LE(j["best"][0]["step_time_s"], Json::parse(own.out)["step_time_s"]);
}

TEST_F(PlanCommand, SeveralClustersOfOneKindByCost) {
  const Json j =
      ask(small_ + "--gpus 8..32 --rank-by cost --tokens 1T --days 400 --simulate 40 --show 40");
  std::set<int64_t> gpus;
  double before = 0;
  for (const Json& b : j["best"]) {
    gpus.insert(b["gpus"].get<int64_t>());
    EXPECT_GE(b["gpu_hours"], before);
    before = b["gpu_hours"];
    EXPECT_LE(b["days"], 400);
  }
  EXPECT_GT(gpus.size(), 1u);
}

TEST_F(PlanCommand, WhatIsAskedInVainSaysWhatIsMissing) {
  EXPECT_NE(refused("--model deepseek-v3 --cluster h800-2048 --gpus 8 --batch 256 --precision fp8")
                .find("GB too much"),
            std::string::npos);
  EXPECT_NE(refused(on_32_ + "--tokens 1T --days 1").find("too long"), std::string::npos);
  EXPECT_NE(refused(small_ + "--gpus 128").find("has 64 devices"), std::string::npos);
  EXPECT_NE(refused(on_32_ + "--pp 7").find("no layout is legal"), std::string::npos);
  EXPECT_NE(refused(on_32_ + "--precision fp32").find("fp32"), std::string::npos);
  EXPECT_NE(refused("--model nonsense --cluster h800-2048 --batch 8").find("deepseek-v3"),
            std::string::npos);
  // Usage.
  EXPECT_NE(refused("--model deepseek-16b --cluster h800-2048", 2).find("--batch is needed"),
            std::string::npos);
  EXPECT_NE(refused(on_32_ + "--tokens 0", 2).find("above 0"), std::string::npos);
  EXPECT_NE(refused(on_32_ + "--days 10", 2).find("needs --tokens"), std::string::npos);
  EXPECT_NE(refused(on_32_ + "--tp two", 2).find("--tp two"), std::string::npos);
  EXPECT_NE(refused(on_32_ + "--schedule gpipe", 2).find("dualpipe"), std::string::npos);
  EXPECT_NE(refused(small_ + "--gpus 32..8", 2).find("before its begin"), std::string::npos);
  EXPECT_NE(refused(on_32_ + "--imbalance 0.5", 2).find("imbalance"), std::string::npos);
}

// What is written as Megatron-LM's arguments is read back as the same layout, where Megatron-LM can
// say it: its own schedules, stages even but for the first and the last.
TEST(Megatron, ArgumentsAreReadAsTheyAreWritten) {
  Plan base;
  base.path = "test";
  base.model = load_model(shipped_model("deepseek-16b"));
  base.cluster = load_cluster(shipped_cluster("h800-64-one-switch"));
  base.training.precision = Precision::kBf16;
  base.training.sequence_length = 4096;
  SearchSpace asked{.gpus = {32}, .batches = {256}};
  asked.schedules = {ScheduleKind::k1F1B, ScheduleKind::kInterleaved};
  asked.uneven_stages = false;
  int64_t read = 0;
  for (const Candidate& c : sample(base, filled(asked, base), 300, 5)) {
    const std::string arguments = cli::megatron_arguments(base, c) + " --lr 1e-4";
    const cli::MegatronRun run = cli::read_megatron(arguments, 32, base);
    Candidate again = run.candidate;
    // On one rank of TP sequence parallelism changes nothing, nor do chunks under 1F1B.
    if (c.layout.tp == 1) again.layout.sequence_parallel = c.layout.sequence_parallel;
    if (c.layout.schedule == ScheduleKind::k1F1B) again.layout.chunks = c.layout.chunks;
    EXPECT_EQ(to_string(again), to_string(c)) << arguments;
    EXPECT_EQ(again, c) << arguments;
    EXPECT_EQ(run.not_read, std::vector<std::string>{"--lr"});
    ++read;
  }
  EXPECT_EQ(read, 300);
  const auto refused = [&](const std::string& text) -> std::string {
    try {
      cli::read_megatron(text, 32, base);
    } catch (const InputError& e) {
      return e.what();
    }
    return "";
  };
  EXPECT_NE(refused("--tensor-model-parallel-size 3").find("do not divide 32 GPUs"),
            std::string::npos);
  EXPECT_NE(refused("--tensor-model-parallel-size two").find("expected a number"),
            std::string::npos);
  EXPECT_NE(refused("--micro-batch-size").find("a value is missing"), std::string::npos);
  EXPECT_NE(refused("--recompute-granularity some").find("expected full or selective"),
            std::string::npos);
  EXPECT_NE(refused("--expert-model-parallel-size 7").find("ep"), std::string::npos);
  EXPECT_NE(refused("loose --bf16").find("belongs to no"), std::string::npos);
}

}  // namespace
}  // namespace rehearse
