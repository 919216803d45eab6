// Every deliberately broken variant of a GPU kernel (tests/mutants.cmake) must be found out by the
// checks that the kernel itself passes (kernels/checking/imitation_test.cpp).

#include <algorithm>
#include <cstdio>
#include <string>
#include <vector>

#include <gtest/gtest.h>

#include "kernels/fp8_cast/fp8_cast_check.h"
#include "kernels/fp8_gemm/fp8_gemm_check.h"

#define MUTANT_gemm(name, ...)                                                               \
  namespace rehearse::kernels::mutant_##name {                                               \
    void fp8_gemm(const Fp8Product& p, const TileShape& shape, Stream stream);               \
    void fp8_weight_gradient(const Fp8WeightGradient& p, const TileShape& s, Stream stream); \
  }
#define MUTANT_gradient MUTANT_gemm
#define MUTANT_cast(name, what)                             \
  namespace rehearse::kernels::mutant_##name {              \
    void cast_rows(const CastRows& c, Stream stream);       \
    void cast_columns(const CastColumns& c, Stream stream); \
    void cast_blocks(const CastBlocks& c, Stream stream);   \
  }
#include "mutants.inc"
#undef MUTANT_gemm
#undef MUTANT_gradient
#undef MUTANT_cast

namespace rehearse::kernels {
namespace {

struct Mutant {
  std::string name, what;
  KernelSet kernels;
  TileShape shape = {};  // the only one it is compiled for
};

#define MUTANT_gemm(name, what, ...) \
  {#name, what, {.fp8_gemm = mutant_##name::fp8_gemm}, {__VA_ARGS__}},
#define MUTANT_gradient(name, what, ...) \
  {#name, what, {.fp8_weight_gradient = mutant_##name::fp8_weight_gradient}, {__VA_ARGS__}},
#define MUTANT_cast(name, what)                  \
  {#name,                                        \
   what,                                         \
   {.cast_rows = mutant_##name::cast_rows,       \
    .cast_columns = mutant_##name::cast_columns, \
    .cast_blocks = mutant_##name::cast_blocks}},
const std::vector<Mutant> kMutants = {
#include "mutants.inc"
};

// The first failure of the checks, or nothing.
std::string first_failure(const Mutant& mutant) {
  const auto target = imitated_target(mutant.kernels);
  if (mutant.kernels.cast_rows) {
    for (const CastCase& c : small_cast_cases()) {
      const Outcome o = check_cast(c, *target);
      if (!o.passed) return o.name + ": " + o.found;
    }
    return "";
  }
  const bool weight_gradient = mutant.kernels.fp8_weight_gradient;
  for (const GemmCase& c : small_gemm_cases()) {
    const std::vector<TileShape> shapes = c.shapes();
    if (c.weight_gradient != weight_gradient) continue;
    if (std::find(shapes.begin(), shapes.end(), mutant.shape) == shapes.end()) continue;
    const Outcome o = check_gemm(c, mutant.shape, GemmInputs::kExact, *target, true);
    if (!o.passed) return o.name + ": " + o.found;
  }
  return "";
}

class Mutants : public ::testing::TestWithParam<size_t> {};

TEST_P(Mutants, IsFoundOut) {
  const Mutant& mutant = kMutants[GetParam()];
  const std::string found = first_failure(mutant);
  EXPECT_NE(found, "") << mutant.name << " (" << mutant.what << ") passes all checks";
  std::printf("%s (%s)\n  %s\n", mutant.name.c_str(), mutant.what.c_str(), found.c_str());
}
INSTANTIATE_TEST_SUITE_P(All,
                         Mutants,
                         ::testing::Range(size_t{0}, kMutants.size()),
                         [](const auto& mutant) { return kMutants[mutant.param].name; });

TEST(Deadlock, NamesItsBarrier) {
  for (const Mutant& mutant : kMutants) {
    if (mutant.name != "wrong_empty_parity") continue;
    const std::string found = first_failure(mutant);
    EXPECT_NE(found.find("deadlock"), std::string::npos) << found;
    EXPECT_NE(found.find("mbarrier empty"), std::string::npos) << found;
    return;
  }
  FAIL() << "no such variant";
}

}  // namespace
}  // namespace rehearse::kernels
