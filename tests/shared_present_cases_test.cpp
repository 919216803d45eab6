// Layouts in use as people write them down (../shared/cases, not part of a clone): each with what
// is right.

#include <filesystem>

#include <nlohmann/json.hpp>

#include "tests/command.h"

namespace rehearse {
namespace {

class SharedPresentCases : public CommandTest {
 protected:
  void SetUp() override {
    CommandTest::SetUp();
    if (!std::filesystem::exists(cases())) GTEST_SKIP() << "no " << cases();
  }
  static std::filesystem::path cases() {
    return std::filesystem::path(REHEARSE_SOURCE_DIR) / "../shared/cases";
  }
  CommandResult present(const std::string& file, const std::string& options) {
    return rehearse("plan --cluster h100-1024 --batch 64 --precision bf16 --simulate 1 -q --json " +
                    options + " --present " + (cases() / file).string());
  }
  // Step [s] and memory [GB].
  void is(const CommandResult& r, double step, double memory) {
    ASSERT_EQ(r.exit_code, 0) << r.err;
    const nlohmann::json j = nlohmann::json::parse(r.out);
    EXPECT_NEAR(j["present"]["step_time_s"].get<double>(), step, 0.006);
    EXPECT_NEAR(j["present"]["memory_bytes"].get<double>() * 1e-9, memory, 0.6);
  }
  static void refused(const CommandResult& r, const std::string& why) {
    EXPECT_EQ(r.exit_code, 1) << r.out;
    EXPECT_NE(r.err.find(why), std::string::npos) << r.err;
  }
  static constexpr const char* kRest =
      " --ep 4 --cp 1 --schedule 1f1b --micro-batch-size 1 --zero 1 --recompute none";
  const std::string pp2_ = std::string("--model qwen3-30b-a3b --gpus 16 --pp 2 --tp 2") + kRest;
  const std::string pp4_ = std::string("--model qwen3-30b-a3b --gpus 32 --pp 4 --tp 2") + kRest;
};

TEST_F(SharedPresentCases, Stages) {
  is(present("fail-18/even.args", pp2_), 2.02, 60);
  is(present("fail-18/first40.args", pp2_), 2.88, 97.9);
  refused(present("fail-18/sum60.args", pp2_), "together 60 layers");
  const CommandResult vpp = present("fail-19/vppfirst.args", pp4_);
  is(vpp, 1.30, 43);
  EXPECT_EQ(nlohmann::json::parse(vpp.out)["present"]["layout"]["layers_per_stage"].dump(),
            "[3,4,4,5,3,4,4,5,3,4,4,5]");
  is(present("fail-20/lay2.args", pp4_), 1.53, 54);
  refused(present("fail-25/vl5.args", pp4_), "--num-layers-per-virtual-pipeline-stage 5");
  refused(present("fail-25/vl7.args", pp4_), "--num-layers-per-virtual-pipeline-stage 7");
}

TEST_F(SharedPresentCases, Recomputation) {
  is(present("fail-21/none.args", pp4_), 1.21, 37);
  is(present("fail-21/full.args", pp4_), 1.65, 27);
  is(present("fail-21/ract.args", pp4_), 1.31, 37);
  for (const char* name : {"block2", "u12"}) {
    refused(present(std::string("fail-21/") + name + ".args", pp4_), "--recompute-num-layers");
  }
  refused(present("fail-21/mlr.args", pp4_), "--moe-layer-recompute");
  refused(present("fail-21/selmoe.args", pp4_), "--recompute-modules moe:");
}

TEST_F(SharedPresentCases, ModelsAndLists) {
  const CommandResult other = present("fail-22/other.args", pp2_);
  for (const char* why : {"--num-experts 64: it has 128",
                          "--moe-router-topk 6: it has 8",
                          "--num-layers 27: it has 48"}) {
    refused(other, why);
  }
  EXPECT_EQ(present("fail-22/other.args", pp2_).err.find("--hidden-size"), std::string::npos);
  const std::string plain = "--model qwen3-30b-a3b --gpus 32 --pp 4 --tp 2 --cp 1";
  is(present("fail-23/t5.args", plain), 1.85, 24);
  is(present("fail-23/t6.args", plain), 1.32, 37);
  for (const char* name : {"t3", "t4"}) {
    refused(present(std::string("fail-23/") + name + ".args", plain), "keep the arguments alone");
  }
  for (const char* name : {"t1", "t2", "t7"}) {
    refused(present(std::string("fail-23/") + name + ".args", plain),
            "--sequence-parallel is missing");
  }
  refused(present("fail-33/mega.args", pp2_), "line 20: --overlap-param-gather decides time");
  const CommandResult m3 = present("fail-33/m3.args", pp2_);
  ASSERT_EQ(m3.exit_code, 0) << m3.err;
  EXPECT_NE(m3.out.find("interleaved-1f1b x2"), std::string::npos);
}

TEST_F(SharedPresentCases, ComparedPlans) {
  const std::string folder = (cases() / "fail-28/").string();
  const CommandResult r =
      rehearse("plan --compare " + folder + "even2.yaml " + folder + "first40.yaml --json");
  ASSERT_EQ(r.exit_code, 0) << r.err;
  const nlohmann::json j = nlohmann::json::parse(r.out);
  EXPECT_FALSE(j["tied"]);
  ASSERT_EQ(j["differences"].size(), 1u);
  EXPECT_EQ(j["differences"][0]["setting"], "layers_per_stage");
}

// The README's commands of fail-24 and fail-34.
TEST_F(SharedPresentCases, WhatIsPrintedRuns) {
  const CommandResult v3 = rehearse(
      "plan --model deepseek-v3 --cluster h100-1024 --gpus 1024 --batch 4096 --precision fp8 --pp "
      "8 "
      "--chunks 4 --schedule interleaved-1f1b --ep 64 --tp 1 --cp 1 --etp 1 --micro-batch-size 1 "
      "--zero 1 --simulate 3 --show 1 -q");
  EXPECT_NE(v3.out.find("--pipeline-model-parallel-layout 'Et|t|(tt|)*29tmL'"), std::string::npos)
      << v3.out << v3.err;
  const CommandResult llama = rehearse(
      "plan --model llama-3.1-70b --cluster h100-1024 --gpus 64 --batch 128 --sequence 8192 "
      "--precision fp8 --pp 4 --tp 2 --cp 2 --zero 1 --schedule interleaved-1f1b --chunks 7 "
      "--micro-batch-size 1 --recompute light");
  EXPECT_EQ(llama.out.find("--num-virtual-stages-per-pipeline-rank 7"), std::string::npos);
  EXPECT_NE(llama.out.find("--pipeline-model-parallel-layout '"), std::string::npos)
      << llama.out << llama.err;
  EXPECT_NE(llama.out.find("so: PP4"), std::string::npos);
}

}  // namespace
}  // namespace rehearse
