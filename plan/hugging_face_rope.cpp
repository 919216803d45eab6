#include "plan/hugging_face_rope.h"

#include <array>
#include <cmath>

#include <fmt/format.h>
#include <fmt/ranges.h>

namespace rehearse {
namespace {

constexpr NumberRange kTheta{.min = 1, .max = 1e15};
constexpr NumberRange kStretch{.min = 1, .max = 1e6};
constexpr NumberRange kShareOfHead{.min = 0, .max = 1};
constexpr const char* kShareKey = "partial_rotary_factor";

// Keys of each type of scaling, as transformers' modeling_rope_utils.py has them; of those without
// numbers here (all but YaRN) names alone count, since sizes and costs do not change.
constexpr auto kPlainKeys = std::to_array<std::string_view>({"mrope_interleaved",  // of images
                                                             "mrope_section",
                                                             kShareKey,
                                                             "rope_theta",
                                                             "rope_type",
                                                             "type"});
constexpr auto kYarnKeys = std::to_array<std::string_view>({"attention_factor",
                                                            "beta_fast",
                                                            "beta_slow",
                                                            "factor",
                                                            "mscale",
                                                            "mscale_all_dim",
                                                            "original_max_position_embeddings",
                                                            "truncate"});
constexpr auto kOtherKeys = std::to_array<std::string_view>({"alpha",
                                                             "attention_factor",
                                                             "beta_fast",
                                                             "beta_slow",
                                                             "factor",
                                                             "high_freq_factor",
                                                             "long_factor",
                                                             "long_mscale",
                                                             "low_freq_factor",
                                                             "mscale",
                                                             "mscale_all_dim",
                                                             "original_max_position_embeddings",
                                                             "short_factor",
                                                             "short_mscale"});

std::optional<RopeScaling> read_type(YamlMap& rope) {
  const bool both = rope.has("rope_type") && rope.has("type");
  const char* const key = rope.has("rope_type") ? "rope_type" : "type";
  const std::string type = rope.text(key, "default");
  if (both && rope.text("type") != type) {
    rope.fail("type", fmt::format("is {}, and rope_type {}", rope.text("type"), type));
  }
  // mrope: positions of images in three parts, which are one of text.
  if (type == "default" || type == "mrope") return std::nullopt;
  return rope.choice(key, kRopeScalings);
}

Yarn read_yarn(YamlMap& rope) {
  Yarn yarn;
  yarn.factor = rope.number("factor", kStretch);
  yarn.original_length =
      rope.integer("original_max_position_embeddings", {.min = 1, .max = 1'000'000'000});
  yarn.beta_fast = rope.number("beta_fast", {.min = 1e-6, .max = 1e6}, yarn.beta_fast);
  yarn.beta_slow = rope.number("beta_slow", {.min = 1e-6, .max = 1e6}, yarn.beta_slow);
  if (rope.has("mscale")) yarn.mscale = rope.number("mscale", {.min = 0, .max = 1e3});
  if (rope.has("mscale_all_dim")) {
    yarn.mscale_all_dim = rope.number("mscale_all_dim", {.min = 0, .max = 1e3});
  }
  if (rope.has("attention_factor")) {
    yarn.attention_factor = rope.number("attention_factor", {.min = 1e-6, .max = 1e3});
  }
  yarn.truncate = rope.boolean("truncate", true);
  return yarn;
}

void require_known(YamlMap& rope, const std::optional<RopeScaling>& type) {
  for (const std::string_view key : kPlainKeys) rope.has(key);
  const auto ask = [&](const auto& keys) {
    for (const std::string_view key : keys) rope.has(key);
  };
  if (type == RopeScaling::kYarn) {
    ask(kYarnKeys);
  } else if (type) {
    ask(kOtherKeys);
  }
  const auto unknown = rope.first_unknown();
  if (!unknown) return;
  rope.fail(*unknown,
            fmt::format("is not known of rope_type {}, and may change the model; expected {}{}{}",
                        type ? kRopeScalings[*type] : "default",
                        fmt::join(kPlainKeys, ", "),
                        type ? ", " : "",
                        type == RopeScaling::kYarn ? fmt::format("{}", fmt::join(kYarnKeys, ", "))
                        : type                     ? fmt::format("{}", fmt::join(kOtherKeys, ", "))
                                                   : ""));
}

struct Theta {
  double value = 0;
  const char* where = "";
};

// What one of the two mappings states; theta: as it was stated before, and where.
void read_mapping(YamlMap& rope, const char* key, std::optional<Theta>& theta, Model& m) {
  Architecture& a = m.architecture;
  if (rope.has("rope_theta")) {
    const double here = rope.number("rope_theta", kTheta);
    if (theta && here != theta->value) {
      rope.fail("rope_theta", fmt::format("is {}, and {} {}", here, theta->value, theta->where));
    }
    a.rope_theta = here;
    theta = {here, "in rope_parameters"};
  } else if (std::string_view(key) == "rope_parameters" && !theta) {
    rope.place().fail(rope.path_of("rope_theta"), "rope_theta is missing");
  }
  // Read by families whose heads are rotated in part; of all others whole heads are.
  if (rope.has(kShareKey)) {
    const double share = rope.number(kShareKey, kShareOfHead);
    const bool grouped = a.attention == AttentionKind::kGrouped;
    const auto width = static_cast<double>(grouped ? a.v_head : a.qk_rope);
    if (std::llround(width * share) != a.qk_rope) {
      rope.fail(kShareKey,
                fmt::format("{} is not supported: RoPE rotates {} of {}", share, a.qk_rope, width));
    }
  }
  const std::optional<RopeScaling> type = read_type(rope);
  require_known(rope, type);
  if (!type) return;
  const bool stated = rope.has("factor") && rope.has("original_max_position_embeddings");
  const std::optional<Yarn> yarn =
      type == RopeScaling::kYarn && stated ? std::optional(read_yarn(rope)) : std::nullopt;
  if (m.rope_scaling && (m.rope_scaling != type || m.yarn != yarn)) {
    rope.place().fail(key, "is not what rope_parameters state; leave one of them out");
  }
  m.rope_scaling = type;
  m.yarn = yarn;
}

}  // namespace

void read_rope(YamlMap& top, Model& m) {
  std::optional<Theta> theta;
  if (top.has("rope_theta")) {
    theta = {top.number("rope_theta", kTheta), "at the top"};
    m.architecture.rope_theta = theta->value;
  }
  for (const char* const key : {"rope_parameters", "rope_scaling"}) {
    if (!top.has(key)) continue;
    YamlMap rope = top.map(key);
    read_mapping(rope, key, theta, m);
  }
}

double rotated_share(YamlMap& top, double missing) {
  std::optional<double> within;
  if (top.has("rope_parameters")) {
    YamlMap rope = top.map("rope_parameters");
    if (rope.has(kShareKey)) within = rope.number(kShareKey, kShareOfHead);
  }
  return top.number(kShareKey, kShareOfHead, within.value_or(missing));
}

}  // namespace rehearse
