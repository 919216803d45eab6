// Every deliberately broken variant of a GPU kernel (tests/mutants.cmake) must be found out by the
// checks that the kernel itself passes (kernels/checking/imitation_test.cpp).

#include <algorithm>
#include <cstdio>
#include <string>
#include <vector>

#include <gtest/gtest.h>

#include "kernels/fp8_cast/fp8_cast_check.h"
#include "kernels/fp8_gemm/fp8_gemm_check.h"
#include "kernels/layer_gpu/layer_check.h"

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
#define MUTANT_layer_rmsnorm(name, what)                               \
  namespace rehearse::kernels::mutant_##name {                         \
    void rmsnorm(const GpuRmsNorm& n, Stream stream);                  \
    void rmsnorm_backward(const GpuRmsNormBackward& n, Stream stream); \
  }
#define MUTANT_layer_swiglu(name, what)                              \
  namespace rehearse::kernels::mutant_##name {                       \
    void swiglu(const GpuSwiglu& s, Stream stream);                  \
    void swiglu_backward(const GpuSwigluBackward& s, Stream stream); \
  }
#define MUTANT_layer_rope(name, what)           \
  namespace rehearse::kernels::mutant_##name {  \
    void rope(const GpuRope& r, Stream stream); \
  }
#define MUTANT_layer_cross_entropy(name, what)                                    \
  namespace rehearse::kernels::mutant_##name {                                    \
    void cross_entropy(const GpuCrossEntropy& c, Stream stream);                  \
    void cross_entropy_backward(const GpuCrossEntropyBackward& c, Stream stream); \
  }
#define MUTANT_layer_elements(name, what)                                  \
  namespace rehearse::kernels::mutant_##name {                             \
    void sum(const GpuSum& s, Stream stream);                              \
    void embedding(const GpuEmbedding& e, Stream stream);                  \
    void embedding_backward(const GpuEmbeddingBackward& e, Stream stream); \
    void adamw(const GpuAdamW& a, Stream stream);                          \
  }
#define MUTANT_layer_attention(name, what)                                 \
  namespace rehearse::kernels::mutant_##name {                             \
    void attention(const GpuAttention& a, Stream stream);                  \
    void attention_backward(const GpuAttentionBackward& a, Stream stream); \
  }
#define MUTANT_layer_product(name, what)              \
  namespace rehearse::kernels::mutant_##name {        \
    void product(const GpuProduct& p, Stream stream); \
  }
#define MUTANT_layer_experts(name, what)                         \
  namespace rehearse::kernels::mutant_##name {                   \
    void map_rows(const GpuRowMap& m, Stream stream);            \
    void permute(const GpuPermute& p, Stream stream);            \
    void unpermute(const GpuUnpermute& u, Stream stream);        \
    void gate(const GpuGate& g, Stream stream);                  \
    void gate_backward(const GpuGateBackward& g, Stream stream); \
  }
#define MUTANT_layer_exchange(name, what)                       \
  namespace rehearse::kernels::mutant_##name {                  \
    void destinations(const GpuDestinations& d, Stream stream); \
    void gather(const GpuGather& g, Stream stream);             \
    void sum_parts(const GpuSumParts& s, Stream stream);        \
    void sum_members(const GpuSumMembers& s, Stream stream);    \
  }
#define MUTANT_layer_codes(name, what)                           \
  namespace rehearse::kernels::mutant_##name {                   \
    void encode(const GpuEncode& e, Stream stream);              \
    void decode(const GpuDecode& d, Stream stream);              \
    void round_columns(const GpuRoundColumns& r, Stream stream); \
  }
#include "mutants.inc"
#undef MUTANT_gemm
#undef MUTANT_gradient
#undef MUTANT_cast
#undef MUTANT_layer_rmsnorm
#undef MUTANT_layer_swiglu
#undef MUTANT_layer_rope
#undef MUTANT_layer_cross_entropy
#undef MUTANT_layer_elements
#undef MUTANT_layer_experts
#undef MUTANT_layer_product
#undef MUTANT_layer_attention
#undef MUTANT_layer_exchange
#undef MUTANT_layer_codes

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
#define MUTANT_layer_rmsnorm(name, what) \
  {#name,                                \
   what,                                 \
   {.rmsnorm = mutant_##name::rmsnorm, .rmsnorm_backward = mutant_##name::rmsnorm_backward}},
#define MUTANT_layer_swiglu(name, what) \
  {#name,                               \
   what,                                \
   {.swiglu = mutant_##name::swiglu, .swiglu_backward = mutant_##name::swiglu_backward}},
#define MUTANT_layer_rope(name, what) {#name, what, {.rope = mutant_##name::rope}},
#define MUTANT_layer_cross_entropy(name, what)     \
  {#name,                                          \
   what,                                           \
   {.cross_entropy = mutant_##name::cross_entropy, \
    .cross_entropy_backward = mutant_##name::cross_entropy_backward}},
#define MUTANT_layer_elements(name, what)                    \
  {#name,                                                    \
   what,                                                     \
   {.sum = mutant_##name::sum,                               \
    .embedding = mutant_##name::embedding,                   \
    .embedding_backward = mutant_##name::embedding_backward, \
    .adamw = mutant_##name::adamw}},
#define MUTANT_layer_attention(name, what) \
  {#name,                                  \
   what,                                   \
   {.attention = mutant_##name::attention, \
    .attention_backward = mutant_##name::attention_backward}},
#define MUTANT_layer_product(name, what) {#name, what, {.product = mutant_##name::product}},
#define MUTANT_layer_experts(name, what)   \
  {#name,                                  \
   what,                                   \
   {.map_rows = mutant_##name::map_rows,   \
    .permute = mutant_##name::permute,     \
    .unpermute = mutant_##name::unpermute, \
    .gate = mutant_##name::gate,           \
    .gate_backward = mutant_##name::gate_backward}},
#define MUTANT_layer_exchange(name, what)        \
  {#name,                                        \
   what,                                         \
   {.map_rows = imitated::map_rows,              \
    .destinations = mutant_##name::destinations, \
    .gather = mutant_##name::gather,             \
    .sum_parts = mutant_##name::sum_parts,       \
    .sum_members = mutant_##name::sum_members}},
#define MUTANT_layer_codes(name, what) \
  {#name,                              \
   what,                               \
   {.encode = mutant_##name::encode,   \
    .decode = mutant_##name::decode,   \
    .round_columns = mutant_##name::round_columns}},
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
  const KernelSet& k = mutant.kernels;
  if (!k.fp8_gemm && !k.fp8_weight_gradient) {
    // Names begin with the kernel's.
    const std::pair<const char*, bool> has[] = {{"rmsnorm", k.rmsnorm},
                                                {"swiglu", k.swiglu},
                                                {"rope", k.rope},
                                                {"cross_entropy", k.cross_entropy},
                                                {"sum", k.sum},
                                                {"embedding", k.embedding},
                                                {"adamw", k.adamw},
                                                {"map_rows", k.map_rows && !k.gather},
                                                {"exchange", k.gather},
                                                {"codes", k.encode},
                                                {"members' sum", k.sum_members},
                                                {"permute", k.permute},
                                                {"gate", k.gate},
                                                {"product", k.product},
                                                {"attention", k.attention}};
    for (const LayerCheck& c : layer_checks()) {
      const bool its_own = std::any_of(std::begin(has), std::end(has), [&](const auto& kernel) {
        return kernel.second && c.name.starts_with(kernel.first);
      });
      if (!its_own) continue;
      const Outcome o = c.run(*target);
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
