// The check and bench programs of the GPU kernels build with the CUDA toolkit alone, and the
// compiler's report and its machine code are good: no spills, nothing serialised, as many
// instructions as there have to be.

#include <algorithm>
#include <array>
#include <chrono>
#include <csignal>
#include <cstdio>
#include <filesystem>
#include <sstream>
#include <string>
#include <thread>

#include <fmt/format.h>
#include <gtest/gtest.h>
#include <nlohmann/json.hpp>
#include <sys/wait.h>
#include <unistd.h>

#include "base/file.h"
#include "tests/machine_code.h"

namespace {

namespace fs = std::filesystem;
using rehearse::MachineCode;
using rehearse::read_file;

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
  EXPECT_EQ(gemms, 15) << "11 tile shapes of products, 4 of weight gradients";
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
  EXPECT_GT(count(listed.output, "\n"), 400);
  const Ran benched = run((folder / "kernels_bench").string() + " --list");
  EXPECT_NE(benched.output.find("grouped 4 x 8192 n4096 k7168"), std::string::npos);
  EXPECT_EQ(count(benched.output, "dense m4096 n7168 k16384"), 2) << "all SMs, and 112";
  // All but the kernels runs here.
  const Ran dry = run((folder / "kernels_check").string() + " --first --dry-run");
  EXPECT_EQ(dry.status, 0) << dry.output;
  EXPECT_NE(dry.output.find("checks passed, 0 failed"), std::string::npos) << dry.output;
  const Ran dry_bench =
      run((folder / "kernels_bench").string() + " --dry-run --only 'm4096 n4096 k7168'");
  EXPECT_EQ(dry_bench.status, 0) << dry_bench.output;
  const Ran wrong = run((folder / "kernels_bench").string() + " --fast");
  EXPECT_EQ(WEXITSTATUS(wrong.status), 2);

  const Ran without = run("cmake -DREHEARSE_CUBLASLT=OFF " + folder.string() +
                          " && cmake --build " + folder.string());
  EXPECT_EQ(without.status, 0) << without.output;
  fs::remove_all(folder);
}

// A source of kernels, compiled to machine code.
MachineCode compile(const std::string& source, const std::string& options) {
  const std::string file = testing::TempDir() + "GpuProgramsMachineCode.cubin";
  const Ran ran = run(REHEARSE_NVCC
                      " -cubin -gencode=arch=compute_90a,code=sm_90a -std=c++20 -O3 "
                      "-x cu -I" REHEARSE_SOURCE_DIR " " +
                      options + " " + source + " -o " + file);
  EXPECT_EQ(ran.status, 0) << ran.output;
  MachineCode code(read_file(file));
  fs::remove(file);
  return code;
}

// A kernel of this tile shape: width, halves, cluster, lead, whether a weight gradient.
std::string shape(int width, int halves, int cluster, int lead, bool depth) {
  return fmt::format(
      "GemmShapeILi{}ELi{}ELi{}ELi{}ELb{}E", width, halves, cluster, lead, int{depth});
}

// What 128 of the contraction cost: the loop around the products.
TEST(GpuPrograms, MachineCodeOfProductsIsShort) {
  if (!*REHEARSE_NVCC) GTEST_SKIP() << "no CUDA toolkit";
  const MachineCode code = compile(REHEARSE_SOURCE_DIR "/kernels/fp8_gemm/fp8_gemm.cu", "");
  using Op = MachineCode::Op;

  // 192 columns at once: one product of four instructions, an FMA per sum of a thread. As two of 96
  // with edges of scales that it did not know, the loop had 287 instructions, 48 multiplications
  // and 24 selections among them.
  const std::vector<Op> wide = code.loop_around_products(shape(192, 1, 2, 2, false));
  std::printf("128x192: %zu instructions per 128 of the contraction\n", wide.size());
  EXPECT_EQ(std::count(wide.begin(), wide.end(), Op::kMatrixProduct), 4);
  EXPECT_EQ(std::count(wide.begin(), wide.end(), Op::kMultiplyAdd), 96);
  EXPECT_LE(std::count(wide.begin(), wide.end(), Op::kMultiply), 4);
  EXPECT_LE(wide.size(), 180u);

  // Weight gradients: a multiplication of scales and an FMA per sum; scales of 256 columns, two in
  // eight for a thread, and of two rows.
  const std::vector<Op> gradient = code.loop_around_products(shape(128, 2, 2, 0, true));
  std::printf("128x256, weight gradient: %zu\n", gradient.size());
  EXPECT_EQ(std::count(gradient.begin(), gradient.end(), Op::kMultiplyAdd), 128);
  EXPECT_EQ(std::count(gradient.begin(), gradient.end(), Op::kMultiply), 128);
  EXPECT_EQ(std::count(gradient.begin(), gradient.end(), Op::kLoadShared), 34);
  EXPECT_LE(gradient.size(), 375u);
  // None is read between the end of a warp group's products and the beginning of its next, when the
  // other's products keep shared memory busy.
  bool multiplied = false;
  int waits = 0;
  for (const Op op : gradient) {
    if (op == Op::kMatrixProduct) multiplied = true, waits = 0;
    if (op == Op::kWarpGroup && multiplied) ++waits;
    if (op == Op::kLoadShared) {
      EXPECT_FALSE(multiplied && waits == 1) << "a scale is read late";
    }
  }
}

// A variant that deadlocks ends with a trap on a card, where it is built to.
TEST(GpuPrograms, WaitsEndWithATrapWhereBuiltTo) {
  if (!*REHEARSE_NVCC) GTEST_SKIP() << "no CUDA toolkit";
  const std::string mutants = REHEARSE_MUTANTS_DIR;
  const std::string broken = mutants + "/wrong_empty_parity.cpp";
  const std::string includes = "-I" + mutants + "/wrong_empty_parity";
  const auto traps = [&](const std::string& options) {
    const MachineCode code = compile(broken, includes + options);
    return code.count(shape(128, 1, 2, 2, false), MachineCode::Op::kTrap);
  };
  EXPECT_GT(traps(" -DREHEARSE_TRAP_HANGS"), 0);
  EXPECT_EQ(traps(""), 0);
}

// Results are whole lines as they come: a program that is killed has lost none.
TEST(GpuPrograms, KilledAfterAnyCaseTheyLeaveWholeLines) {
  const fs::path file = fs::path(testing::TempDir()) / "GpuProgramsKilled.json";
  fs::remove(file);
  const pid_t pid = fork();
  ASSERT_GE(pid, 0);
  if (pid == 0) {
    setpgid(0, 0);
    if (!freopen("/dev/null", "w", stdout)) _exit(1);
    execl(REHEARSE_KERNELS_CHECK, "kernels_check", "--small", "--json", file.c_str(), nullptr);
    _exit(1);
  }
  const auto text = [&] { return fs::exists(file) ? read_file(file.string()) : std::string(); };
  for (int i = 0; i < 600 && count(text(), "\n") < 8; ++i) {
    std::this_thread::sleep_for(std::chrono::milliseconds(50));
  }
  kill(-pid, SIGKILL);
  waitpid(pid, nullptr, 0);
  const std::string lines = text();
  ASSERT_GE(count(lines, "\n"), 8);
  EXPECT_EQ(lines.back(), '\n');
  std::istringstream in(lines);
  for (std::string line; std::getline(in, line);) {
    const auto json = nlohmann::json::parse(line);
    EXPECT_TRUE(json["passed"].get<bool>()) << line;
  }
  fs::remove(file);
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
