// rehearse plan's further questions: two plans compared, phases, what is largest or least, a search
// that is interrupted or shared.

#include <cstdlib>

#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include "tests/command.h"

namespace rehearse {
namespace {

using Json = nlohmann::json;

class PlanQuestions : public CommandTest {
 protected:
  Json ask(const std::string& options, const std::string& before = "") {
    const CommandResult r = rehearse("plan " + options + " --json", before);
    EXPECT_EQ(r.exit_code, 0) << r.err << r.out;
    if (r.exit_code != 0) return {};
    Json j = Json::parse(r.out);
    for (const char* clock : {"wall_s", "screen_s", "simulate_s"}) j.erase(clock);
    return j;
  }
  std::string refused(const std::string& options, int exit_code = 1) {
    const CommandResult r = rehearse("plan " + options);
    EXPECT_EQ(r.exit_code, exit_code) << r.out << r.err;
    return r.err;
  }
  static double step(const Json& j) { return j["best"][0]["step_time_s"]; }

  const std::string small_ =
      "--model deepseek-16b --cluster h800-64-one-switch --batch 256 --pp 1,2,4 --tp 1 --cp 1 ";
  const std::string on_32_ = small_ + "--gpus 32 --simulate 40 --show 5 ";
};

// However many processes and threads share it, the answer is the same to the last digit.
TEST_F(PlanQuestions, SharedSearchesAnswerTheSame) {
  if (std::system("command -v mpirun > /dev/null") != 0) GTEST_SKIP() << "no mpirun";
  const std::string mpirun =
      "OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1 OMPI_MCA_mpi_yield_when_idle=1 "
      "OMPI_MCA_plm_rsh_agent= mpirun --oversubscribe ";
  const Json alone = ask(on_32_ + "--threads 1");
  EXPECT_EQ(ask(on_32_ + "--threads 3"), alone);
  for (const int processes : {2, 3}) {
    EXPECT_EQ(ask(on_32_ + "--threads 1", fmt::format("{} -n {}", mpirun, processes)), alone);
  }
  // One of them says what is wrong.
  const CommandResult wrong =
      rehearse("plan --model nothing --cluster h800-2048 --batch 8", mpirun + "-n 2");
  EXPECT_NE(wrong.exit_code, 0);
  const size_t first = wrong.err.find("'nothing'");
  EXPECT_NE(first, std::string::npos) << wrong.err;
  EXPECT_EQ(wrong.err.find("'nothing'", first + 1), std::string::npos) << wrong.err;
  // So does the first of what the search found.
  const CommandResult none = rehearse(
      "plan --model deepseek-v3 --cluster h800-2048 --gpus 8 --batch 256 --precision fp8 --threads "
      "1",
      mpirun + "-n 2");
  EXPECT_EQ(none.exit_code, 1);
  EXPECT_NE(none.err.find("GB too much"), std::string::npos) << none.err;
}

TEST_F(PlanQuestions, InterruptedSearchesGoOn) {
  const Json whole = ask(on_32_ + "--journal search.jsonl");
  const std::string journal = read("search.jsonl");
  EXPECT_EQ(std::count(journal.begin(), journal.end(), '\n'),
            1 + whole["layouts_simulated"].get<int64_t>());
  // Cut off in the middle of a line.
  write("search.jsonl", journal.substr(0, journal.size() / 2));
  EXPECT_EQ(ask(on_32_ + "--journal search.jsonl"), whole);
  // The same lines, in some order.
  EXPECT_EQ(read("search.jsonl").size(), journal.size());
  EXPECT_EQ(ask(on_32_ + "--journal search.jsonl"), whole);
  EXPECT_EQ(read("search.jsonl").size(), journal.size());

  EXPECT_NE(refused(on_32_ + "--imbalance 2 --rank-by cost --journal search.jsonl")
                .find("search.jsonl:1: is the journal of another search"),
            std::string::npos);
  EXPECT_EQ(read("search.jsonl").size(), journal.size());
  write("search.jsonl", journal.substr(0, journal.find('\n') + 1) + "{\"layout\": 3}\n");
  EXPECT_NE(refused(on_32_ + "--journal search.jsonl").find("search.jsonl:2: "), std::string::npos);
  write("search.jsonl", "loss, accuracy\n");
  EXPECT_NE(refused(on_32_ + "--journal search.jsonl").find("search.jsonl:1: "), std::string::npos);
  EXPECT_EQ(read("search.jsonl"), "loss, accuracy\n");
}

TEST_F(PlanQuestions, TwoPlansPartByPart) {
  const std::string common =
      "model: deepseek-16b.yaml\ncluster: h800-64-one-switch.yaml\n"
      "training: {micro_batches: 16, micro_batch_size: 1, sequence_length: 4096, precision: "
      "bf16}\n";
  write("a.yaml", common + "layout: {pp: 4, dp: 8, ep: 8}\n");
  write("b.yaml", common + "layout: {pp: 4, dp: 8, ep: 8, schedule: dualpipe}\n");
  const Json j = ask("--compare a.yaml b.yaml");
  ASSERT_EQ(j["plans"].size(), 2u);
  double difference = 0;
  for (size_t i = 1; i < j["step_parts"].size(); ++i) {
    difference += j["step_parts"][i]["difference"].get<double>();
  }
  const double steps =
      j["plans"][1]["step_time_s"].get<double>() - j["plans"][0]["step_time_s"].get<double>();
  EXPECT_NEAR(difference, steps, 1e-9);
  EXPECT_NEAR(j["step_parts"][0]["difference"], steps, 1e-9);
  ASSERT_EQ(j["differences"].size(), 1u);
  EXPECT_EQ(j["differences"][0]["setting"], "schedule");
  for (const char* plan : {"a.yaml", "b.yaml"}) {
    const CommandResult own = rehearse(std::string("simulate --json --fold ") + plan);
    EXPECT_EQ(Json::parse(own.out)["step_time_s"],
              j["plans"][plan[0] == 'a' ? 0 : 1]["step_time_s"]);
  }
  EXPECT_NE(refused("--compare a.yaml", 2).find("two plan files"), std::string::npos);
}

TEST_F(PlanQuestions, PhasesThatNeedAnotherLayout) {
  const Json j = ask(on_32_ + "--phase 256x4096 --phase 255x4096 --phase 64x65536");
  ASSERT_EQ(j["phases"].size(), 3u);
  // Its own step again.
  EXPECT_EQ(j["phases"][0]["needs_another_layout"], false);
  EXPECT_EQ(j["phases"][0]["step_time_s"], j["best"][0]["step_time_s"]);
  EXPECT_EQ(j["phases"][1]["legal"], false);
  EXPECT_NE(j["phases"][1]["why_not"].get<std::string>().find("255 sequences do not divide"),
            std::string::npos);
  EXPECT_EQ(j["phases"][2]["needs_another_layout"], true);
  for (const char* wrong : {"4096", "0x5", "3x", "3x-1", "axb"}) {
    EXPECT_NE(refused(on_32_ + "--phase " + wrong, 2).find("such as 3072x4096"), std::string::npos);
  }
}

// The largest that is found fits, and what it says does not fit does not.
TEST_F(PlanQuestions, TheLargestThatFits) {
  const std::string narrow = small_ + "--gpus 8 --simulate 5 --show 1 ";
  const Json j = ask(narrow + "--largest sequence");
  const int64_t most = j["largest"]["value"];
  EXPECT_EQ(j["best"][0]["sequence"], most);
  EXPECT_GT(most, 4096);
  EXPECT_NE(j["best"][0]["memory_verdict"], "short");
  const int64_t too_large = j["largest"]["too_large"];
  EXPECT_LE(too_large - most, std::max<int64_t>(1024, most / 32));
  EXPECT_NE(refused(narrow + fmt::format("--sequence {}", too_large)).find("GB too much"),
            std::string::npos);
  const Json layers = ask(narrow + "--largest layers");
  EXPECT_GT(layers["largest"]["value"], 27);
  EXPECT_GT(layers["largest"]["parameters"], 16e9);
  EXPECT_NE(layers["best"][0]["command"].get<std::string>().find("layers, as a file"),
            std::string::npos);
  EXPECT_NE(refused(narrow + "--largest layers --out plans", 2).find("--out"), std::string::npos);
  EXPECT_NE(refused(narrow + "--largest heads", 2).find("sequence, layers, experts"),
            std::string::npos);
}

// The fewest GPUs that meet a deadline: half as many do not.
TEST_F(PlanQuestions, TheFewestGpusForADeadline) {
  const std::string question = small_ + "--tokens 100B --days 5 --simulate 40 --show 3 ";
  const Json j = ask(question + "--gpus 1..64 --rank-by gpus");
  const int64_t gpus = j["best"][0]["gpus"];
  EXPECT_LE(j["best"][0]["days"], 5);
  EXPECT_GT(gpus, 1);
  EXPECT_LT(gpus, 64);
  EXPECT_NE(refused(question + fmt::format("--gpus 1..{}", gpus - 1)).find("too long"),
            std::string::npos);
  EXPECT_NE(refused(small_ + "--rank-by gpus", 2).find("needs --days"), std::string::npos);
}

// Ways to need less memory are what a search of them says.
TEST_F(PlanQuestions, WaysToNeedLessMemory) {
  const Json j = ask(on_32_ + "--recompute none --zero 0");
  ASSERT_FALSE(j["memory_ways"].empty());
  for (const Json& way : j["memory_ways"]) {
    EXPECT_EQ(way["need_bytes"].get<int64_t>() + way["saved_bytes"].get<int64_t>(),
              j["best"][0]["memory_bytes"].get<int64_t>())
        << way["what"];
    EXPECT_GT(way["saved_bytes"], 0);
  }
}

}  // namespace
}  // namespace rehearse
