#pragma once
// A model description: our YAML, or a Hugging Face config.json (plan/hugging_face.h).

#include <optional>
#include <string>

#include "base/names.h"
#include "base/yaml.h"
#include "cost/architecture.h"

namespace rehearse {

class YamlMap;

inline constexpr NameTable kScores{std::to_array<Named<ScoreFunction>>(
    {{ScoreFunction::kSigmoid, "sigmoid"}, {ScoreFunction::kSoftmax, "softmax"}})};
static_assert(kScores.complete());

inline constexpr NameTable kAttentionKinds{std::to_array<Named<AttentionKind>>(
    {{AttentionKind::kLatent, "latent"}, {AttentionKind::kGrouped, "grouped"}})};
static_assert(kAttentionKinds.complete());
inline constexpr NameTable kHeadNorms{std::to_array<Named<HeadNorm>>(
    {{HeadNorm::kNone, "none"}, {HeadNorm::kPerHead, "per_head"}, {HeadNorm::kWhole, "whole"}})};
static_assert(kHeadNorms.complete());
inline constexpr NameTable kNormKinds{
    std::to_array<Named<NormKind>>({{NormKind::kRms, "rms"}, {NormKind::kLayer, "layer"}})};
static_assert(kNormKinds.complete());
inline constexpr NameTable kMlpKinds{
    std::to_array<Named<MlpKind>>({{MlpKind::kGated, "gated"}, {MlpKind::kGelu, "gelu"}})};
static_assert(kMlpKinds.complete());

// How angles by position are stretched for long contexts: changes neither sizes nor cost.
enum class RopeScaling : uint8_t { kYarn, kLinear, kDynamic, kLlama3, kLongRope };
inline constexpr NameTable kRopeScalings{
    std::to_array<Named<RopeScaling>>({{RopeScaling::kYarn, "yarn"},
                                       {RopeScaling::kLinear, "linear"},
                                       {RopeScaling::kDynamic, "dynamic"},
                                       {RopeScaling::kLlama3, "llama3"},
                                       {RopeScaling::kLongRope, "longrope"}})};
static_assert(kRopeScalings.complete());

// The numbers of YaRN (Peng et al. 2023, arXiv 2309.00071; DeepSeek-V3's section 4.3).
struct Yarn {
  double factor = 1;            // s: how much longer contexts are
  int64_t original_length = 0;  // of the training before
  double beta_fast = 32, beta_slow = 1;
  // Factors on the rotated parts' size, and squared on attention's scale; as Hugging Face's classes
  // take them.
  std::optional<double> mscale, mscale_all_dim;
  std::optional<double> attention_factor;  // on the rotated parts' size, whatever mscale says
  bool truncate = true;  // the first and last pair that are stretched in part: whole numbers
  bool operator==(const Yarn&) const = default;
};

struct Model {
  std::string name;
  Architecture architecture;
  std::optional<RopeScaling> rope_scaling;
  std::optional<Yarn> yarn;  // of RopeScaling::kYarn, where it is stated
  double init_std = 0.006;   // standard deviation of initial weights (report, section 4.2)
};

// Routed experts of a layer: a thousand and more times what published models have is a mistake.
constexpr IntegerRange kExpertCounts{.min = 1, .max = 16'384};

// Reads `path`, a config.json when it ends so. Throws InputError naming file, line and key.
Model load_model(const std::string& path);

// What both forms must satisfy. Throws InputError at the place of `top`.
void require_consistent(const Architecture& a, const YamlMap& top);

// Our YAML form; load_model of it gives the same Model.
std::string print_model(const Model& model);

}  // namespace rehearse
