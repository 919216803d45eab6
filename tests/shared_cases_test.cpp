// Inputs as people really have them (../shared/cases, not part of a clone): each with what is
// right.

#include <filesystem>

#include "base/file.h"
#include "tests/command.h"

namespace rehearse {
namespace {

namespace fs = std::filesystem;

class SharedCases : public CommandTest {
 protected:
  void SetUp() override {
    CommandTest::SetUp();
    if (!fs::exists(folder())) GTEST_SKIP() << "no " << folder();
  }
  static fs::path folder() { return fs::path(REHEARSE_SOURCE_DIR) / "../shared/cases"; }
  static std::string file(const std::string& name) { return (folder() / name).string(); }
  static std::string of_repo(const std::string& name) {
    return (fs::path(REHEARSE_SOURCE_DIR) / name).string();
  }
  CommandResult links(const std::string& name) {
    return rehearse("calibrate --links " + file(name) + " --base " +
                    of_repo("topologies/h800-dualpipe.calibration.yaml") + " --out o.yaml");
  }
  CommandResult trace(const std::string& folder, const std::string& name) {
    return rehearse("calibrate " + of_repo("experiments/h800-profile/pair.yaml") +
                    " --from-trace " + file(folder + "/" + name) + " --map " +
                    file(folder + "/map.yaml") + " --out o.yaml");
  }
  static void refused(const CommandResult& r, const std::string& why) {
    EXPECT_EQ(r.exit_code, 1) << r.out;
    EXPECT_NE(r.err.find(why), std::string::npos) << r.err;
  }
  static void says(const CommandResult& r, const std::string& what) {
    EXPECT_EQ(r.exit_code, 0) << r.err;
    EXPECT_NE((r.out + r.err).find(what), std::string::npos) << r.out << r.err;
  }
};

TEST_F(SharedCases, BenchmarkLogs) {
  refused(links("fail-1/nompi.txt"), "rank 0 is listed a second time");
  refused(links("fail-3/busbw0.txt"), "rank 0 is listed a second time");
  refused(links("fail-3/one_gpu.txt"), "one rank moves nothing over links");
  for (const char* name : {"kubectl", "srun_l", "tag_output"}) {
    says(links(std::string("fail-4/") + name + ".txt"), "network 46 GB/s");
  }
  says(links("fail-5/nvls_1host.txt"), "NVLS or trees");
  says(links("fail-5/nvlstree_2hosts.txt"), "NVLS or trees");
  refused(links("fail-6/nvl72.txt"), "was measured on 'NVIDIA GB200'");
  refused(links("fail-7/h100_into_h800.txt"), "the calibration is of 'NVIDIA H800'");
  refused(links("fail-7/wrong.txt"), "517 wrong values");
  refused(links("fail-17/internode.txt"), "nothing taken");
  refused(links("fail-17/glued.txt"), "nothing taken");
}

TEST_F(SharedCases, Traces) {
  refused(trace("fail-9", "cpu_only.json"), "no device events in the trace");
  says(trace("fail-9", "zero_ts.json"), "attention");
  refused(trace("fail-10", "merged.json"), "several processes in one file");
  refused(trace("fail-11", "fast.json"), "the plan is not what was profiled");
}

TEST_F(SharedCases, HuggingFaceConfigs) {
  for (const char* name : {"no_q_lora", "no_groups", "no_shared"}) {
    says(rehearse("inspect " + file(std::string("fail-12/") + name + ".yaml")), "parameters");
  }
  refused(rehearse("inspect " + file("fail-14/freq2.yaml")), "moe_layer_freq");
  refused(rehearse("inspect " + file("fail-14/tied.yaml")), "tie_word_embeddings");
  refused(rehearse("inspect " + file("fail-14/gelu.yaml")), "hidden_act: gelu");
  EXPECT_EQ(rehearse("inspect " + file("fail-13/v5.yaml") + " --json").exit_code, 0);
}

}  // namespace
}  // namespace rehearse
