// The check and bench programs of the GPU kernels build with the CUDA toolkit alone, and the
// compiler's report of the kernels is good: no spills, nothing serialised.

#include <array>
#include <cstdio>
#include <filesystem>
#include <regex>
#include <string>

#include <gtest/gtest.h>

namespace {

namespace fs = std::filesystem;

struct Ran {
  int status;
  std::string output;
};

Ran run(const std::string& command) {
  Ran r;
  FILE* pipe = popen((command + " 2>&1").c_str(), "r");
  std::array<char, 4096> buffer;
  while (const size_t n = fread(buffer.data(), 1, buffer.size(), pipe)) {
    r.output.append(buffer.data(), n);
  }
  r.status = pclose(pipe);
  return r;
}

int count(const std::string& text, const std::string& what) {
  int n = 0;
  for (size_t at = text.find(what); at != std::string::npos; at = text.find(what, at + 1)) ++n;
  return n;
}

// The folder of a fresh build, and what the build printed.
Ran build(const fs::path& folder) {
  fs::remove_all(folder);
  const Ran configured = run("cmake -G Ninja -DREHEARSE_NVCC=" REHEARSE_NVCC
                             " -S " REHEARSE_SOURCE_DIR "/kernels -B " +
                             folder.string());
  if (configured.status != 0) return configured;
  return run("cmake --build " + folder.string() + " --verbose");
}

TEST(GpuPrograms, BuildWithTheToolkitAloneAndSpillNothing) {
  if (!*REHEARSE_NVCC) GTEST_SKIP() << "no CUDA toolkit";
  const fs::path folder = fs::path(testing::TempDir()) / "GpuProgramsBuild";
  const Ran built = build(folder);
  ASSERT_EQ(built.status, 0) << built.output;

  // ptxas -v: a block per kernel.
  const std::string& report = built.output;
  const int gemms =
      count(report, "Compiling entry function '_ZN8rehearse7kernels3gpu15fp8_gemm_kernel");
  EXPECT_EQ(gemms, 16) << "11 tile shapes of products, 5 of weight gradients";
  const int kernels = count(report, "Compiling entry function");
  EXPECT_GE(kernels, gemms + 3);
  EXPECT_EQ(count(report, "0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads"),
            kernels)
      << report;
  // "Potential Performance Loss: wgmma.mma_async instructions are serialized", setmaxnreg ignored.
  EXPECT_EQ(count(report, "(C75"), 0) << report;
  EXPECT_EQ(count(report, "warning"), 0) << report;

  const Ran listed = run((folder / "kernels_check").string() + " --list");
  EXPECT_EQ(listed.status, 0);
  EXPECT_GT(count(listed.output, "\n"), 60);
  EXPECT_EQ(count(listed.output, "dense m4096 n7168 k16384"), 2) << "all SMs, and 112";
  const Ran benched = run((folder / "kernels_bench").string() + " --list");
  EXPECT_NE(benched.output.find("grouped 4 x 8192 n4096 k7168"), std::string::npos);
  const Ran wrong = run((folder / "kernels_bench").string() + " --fast");
  EXPECT_EQ(WEXITSTATUS(wrong.status), 2);
  fs::remove_all(folder);
}

TEST(GpuPrograms, ChecksPassOnThisMachinesGpu) {
  if (!*REHEARSE_NVCC) GTEST_SKIP() << "no CUDA toolkit";
  if (!fs::exists("/dev/nvidia0")) GTEST_SKIP() << "no GPU";
  const fs::path folder = fs::path(testing::TempDir()) / "GpuProgramsRun";
  const Ran built = build(folder);
  ASSERT_EQ(built.status, 0) << built.output;
  const Ran checked = run((folder / "kernels_check").string() + " --small");
  if (checked.output.find("compute capability") != std::string::npos) {
    GTEST_SKIP() << checked.output;
  }
  EXPECT_EQ(checked.status, 0) << checked.output;
  fs::remove_all(folder);
}

}  // namespace
