#include "cli/megatron_model.h"

#include <algorithm>
#include <vector>

#include <fmt/format.h>
#include <fmt/ranges.h>

#include "base/errors.h"
#include "base/integers.h"
#include "base/numbers.h"
#include "cli/whole_number.h"

namespace rehearse::cli {

std::string the_value(const GivenArgument& a, const std::string& path) {
  if (a.values.empty()) fail_at(path, a.line, fmt::format("{}: a value is missing", a.name));
  if (a.values.size() > 1) {
    fail_at(
        path,
        a.line,
        fmt::format(
            "{} {}: '{}' belongs to no --argument", a.name, a.values[0].text, a.values[1].text));
  }
  if (a.values[0].variable) {
    fail_at(
        path,
        a.line,
        fmt::format("{} {}: a script's variable: put its value there", a.name, a.values[0].text));
  }
  return a.values[0].text;
}

int64_t the_integer(const GivenArgument& a, const std::string& path, int64_t least) {
  const std::string value = the_value(a, path);
  const auto n = whole_number(value);
  constexpr int64_t kMost = 1'000'000'000;
  if (!n || *n < least || *n > kMost) {
    fail_at(path, a.line, fmt::format("{} {}: expected a number from {}", a.name, value, least));
  }
  return *n;
}

bool the_flag(const GivenArgument& a, const std::string& path) {
  if (a.values.empty()) return true;
  std::string value = the_value(a, path);
  for (char& c : value) c = static_cast<char>(std::tolower(static_cast<unsigned char>(c)));
  if (value == "true" || value == "1" || value == "yes") return true;
  if (value == "false" || value == "0" || value == "no") return false;
  fail_at(path,
          a.line,
          fmt::format("{} {}: takes no value, or true or false", a.name, a.values[0].text));
}

namespace {

using Differs = std::string (*)(const GivenArgument&, const ModelArguments&);

std::string has(int64_t given, int64_t own) {
  return given == own ? "" : fmt::format("has {}", own);
}
template <int64_t Architecture::*Member>
std::string number(const GivenArgument& a, const ModelArguments& of) {
  return has(the_integer(a, of.path, 0), of.plan.model.architecture.*Member);
}
template <int64_t Architecture::*Member>
std::string latent_number(const GivenArgument& a, const ModelArguments& of) {
  const Architecture& m = of.plan.model.architecture;
  if (m.attention != AttentionKind::kLatent) return "has no latent attention";
  return has(the_integer(a, of.path, 0), m.*Member);
}

// The width of dense layers, and of experts where nothing else is said of these.
std::string ffn_width(const GivenArgument& a, const ModelArguments& of) {
  const Architecture& m = of.plan.model.architecture;
  const int64_t given = the_integer(a, of.path);
  if (m.dense_layers() > 0) return has(given, m.dense_intermediate);
  if (of.find("--moe-ffn-hidden-size") != nullptr) return "";
  return given == m.expert_intermediate
             ? ""
             : fmt::format("has experts of {} and no other FFNs (--moe-ffn-hidden-size)",
                           m.expert_intermediate);
}

std::string shared_width(const GivenArgument& a, const ModelArguments& of) {
  const Architecture& m = of.plan.model.architecture;
  return has(the_integer(a, of.path, 0), m.shared_experts * m.expert_intermediate);
}

// A head's width; Megatron-LM's latent attention does not look at it.
std::string head_width(const GivenArgument& a, const ModelArguments& of) {
  const Architecture& m = of.plan.model.architecture;
  const int64_t given = the_integer(a, of.path);
  return m.attention == AttentionKind::kLatent ? "" : has(given, m.qk_head());
}
// Nor at groups of heads.
std::string query_groups(const GivenArgument& a, const ModelArguments& of) {
  const Architecture& m = of.plan.model.architecture;
  const int64_t given = the_integer(a, of.path);
  const GivenArgument* groups = of.find("--group-query-attention");
  if (m.attention == AttentionKind::kLatent || groups == nullptr) return "";
  return has(given, m.kv_heads);
}
std::string grouped(const GivenArgument& a, const ModelArguments& of) {
  const Architecture& m = of.plan.model.architecture;
  const bool is = m.attention == AttentionKind::kGrouped;
  return !the_flag(a, of.path) || is ? "" : "has latent attention";
}
std::string latent(const GivenArgument& a, const ModelArguments& of) {
  const bool is = of.plan.model.architecture.attention == AttentionKind::kLatent;
  if (the_flag(a, of.path) == is) return "";
  return is ? "has latent attention" : "has no latent attention";
}
std::string query_compression(const GivenArgument& a, const ModelArguments& of) {
  const Architecture& m = of.plan.model.architecture;
  const int64_t given = the_integer(a, of.path);
  if (!m.q_lora) return "compresses no queries";
  return has(given, *m.q_lora);
}
std::string head_norm(const GivenArgument& a, const ModelArguments& of) {
  const Architecture& m = of.plan.model.architecture;
  // Of latent attention it means the norms of the compressions, which are always there.
  if (!the_flag(a, of.path) || m.attention == AttentionKind::kLatent) return "";
  return m.head_norm != HeadNorm::kNone ? "" : "has no norms of queries and keys";
}

// What tables of embeddings are padded to.
int64_t padded(int64_t rows, const ModelArguments& of) {
  const GivenArgument* by = of.find("--make-vocab-size-divisible-by");
  const GivenArgument* tp = of.find("--tensor-model-parallel-size");
  constexpr int64_t kBy = 128;  // Megatron-LM's default
  return round_up(rows,
                  saturating_product(by != nullptr ? the_integer(*by, of.path) : kBy,
                                     tp != nullptr ? the_integer(*tp, of.path) : 1));
}
std::string vocabulary(const GivenArgument& a, const ModelArguments& of) {
  const int64_t own = of.plan.model.architecture.vocabulary;
  const int64_t given = the_integer(a, of.path);
  return given == own || padded(given, of) == padded(own, of) ? "" : fmt::format("has {}", own);
}
std::string padded_vocabulary(const GivenArgument& a, const ModelArguments& of) {
  const int64_t own = of.plan.model.architecture.vocabulary;
  const int64_t given = the_integer(a, of.path);
  return given == own || given == padded(own, of)
             ? ""
             : fmt::format("has {}, padded {}", own, padded(own, of));
}
std::string padding(const GivenArgument& a, const ModelArguments& of) {
  the_integer(a, of.path);
  return "";
}

std::string positions(const GivenArgument& a, const ModelArguments& of) {
  const int64_t own = of.plan.model.architecture.positions;
  const int64_t given = the_integer(a, of.path);
  return own == 0 ? "" : has(given, own);
}
std::string position_kind(const GivenArgument& a, const ModelArguments& of) {
  const bool learned = of.plan.model.architecture.positions > 0;
  const std::string kind = the_value(a, of.path);
  if (kind == (learned ? "learned_absolute" : "rope")) return "";
  return fmt::format("has {}", learned ? "learned_absolute" : "rope");
}
std::string rotary(const GivenArgument& a, const ModelArguments& of) {
  if (!the_flag(a, of.path) || of.plan.model.architecture.positions == 0) return "";
  return "has learned positions";
}
std::string norm_kind(const GivenArgument& a, const ModelArguments& of) {
  const char* own = of.plan.model.architecture.norm == NormKind::kRms ? "RMSNorm" : "LayerNorm";
  return the_value(a, of.path) == own ? "" : fmt::format("has {}", own);
}
std::string gated(const GivenArgument& a, const ModelArguments& of) {
  const bool is = of.plan.model.architecture.mlp == MlpKind::kGated;
  if (the_flag(a, of.path) == is) return "";
  return is ? "has SwiGLU" : "has GeLU";
}
std::string no_biases(const GivenArgument& a, const ModelArguments& of) {
  const Architecture& m = of.plan.model.architecture;
  return the_flag(a, of.path) && (m.mlp_bias || m.output_bias) ? "has biases" : "";
}
std::string qkv_bias(const GivenArgument& a, const ModelArguments& of) {
  const bool is = of.plan.model.architecture.qkv_bias;
  if (!the_flag(a, of.path) || is) return "";
  return "has no biases there";
}
std::string untied(const GivenArgument& a, const ModelArguments& of) {
  const bool tied = of.plan.model.architecture.tied_embeddings;
  if (the_flag(a, of.path) != tied) return "";
  return tied ? "has one table for both" : "has a table for each";
}
std::string dropout(const GivenArgument& a, const ModelArguments& of) {
  const double own = of.plan.model.architecture.dropout;
  const auto given = number_of(the_value(a, of.path));
  return given && *given == own ? "" : fmt::format("has {}", own);
}

// --moe-layer-freq: N, or Python's lists of 0 and 1 with + and *: "([0]*3+[1]*58)".
class LayerPattern {
 public:
  explicit LayerPattern(std::string text) : text_(std::move(text)) {
    std::erase_if(text_, [](char c) { return c == ' '; });
  }
  // Empty where it is no such pattern.
  std::vector<int64_t> read() {
    std::vector<int64_t> all = sum(0);
    return at_ == text_.size() && good_ ? all : std::vector<int64_t>();
  }

 private:
  static constexpr size_t kMost = 100'000;
  bool take(char c) {
    if (at_ >= text_.size() || text_[at_] != c) return false;
    ++at_;
    return true;
  }
  int64_t integer() {
    int64_t n = 0;
    const size_t from = at_;
    while (at_ < text_.size() && text_[at_] >= '0' && text_[at_] <= '9' && n < 1'000'000) {
      n = n * 10 + (text_[at_++] - '0');
    }
    if (at_ == from) good_ = false;
    return n;
  }
  std::vector<int64_t> sum(int depth) {
    std::vector<int64_t> all = product(depth);
    while (good_ && take('+')) {
      const std::vector<int64_t> more = product(depth);
      all.insert(all.end(), more.begin(), more.end());
      if (all.size() > kMost) good_ = false;
    }
    return all;
  }
  std::vector<int64_t> product(int depth) {
    std::vector<int64_t> all = list(depth);
    while (good_ && take('*')) {
      const int64_t times = integer();
      if (all.size() * static_cast<size_t>(times) > kMost) good_ = false;
      if (!good_) break;
      const std::vector<int64_t> once = all;
      all.clear();
      for (int64_t i = 0; i < times; ++i) all.insert(all.end(), once.begin(), once.end());
    }
    return all;
  }
  std::vector<int64_t> list(int depth) {
    std::vector<int64_t> all;
    constexpr int kDeepest = 50;
    if (depth < kDeepest && take('(')) {
      all = sum(depth + 1);
      if (!take(')')) good_ = false;
      return all;
    }
    if (!take('[')) good_ = false;
    while (good_) {
      all.push_back(integer());
      if (all.size() > kMost) good_ = false;
      if (!take(',')) break;
    }
    if (!take(']')) good_ = false;
    return all;
  }

  std::string text_;
  size_t at_ = 0;
  bool good_ = true;
};

std::string moe_layers(const GivenArgument& a, const ModelArguments& of) {
  const Architecture& m = of.plan.model.architecture;
  const std::string text = the_value(a, of.path);
  std::vector<int64_t> pattern;
  if (text.find('[') == std::string::npos) {
    const int64_t every = the_integer(a, of.path);
    for (int64_t l = 0; l < m.layers; ++l) pattern.push_back(l % every == 0 ? 1 : 0);
  } else {
    pattern = LayerPattern(text).read();
    if (pattern.empty()) {
      fail_at(of.path,
              a.line,
              fmt::format(
                  "{} {}: expected a number, or a pattern such as ([0]*3+[1]*58)", a.name, text));
    }
  }
  std::vector<int64_t> own;
  for (int64_t l = 0; l < m.layers; ++l) own.push_back(m.is_moe(l) ? 1 : 0);
  if (pattern == own) return "";
  const auto with = std::ranges::count(own, 1);
  return fmt::format("has experts in {} of {} layers", with, m.layers) +
         (with == std::ranges::count(pattern, 1) ? ", others" : "");
}

struct ModelRow {
  std::string_view name;
  Differs differs;
};
constexpr ModelRow kModelRows[] = {
    {"--num-layers", number<&Architecture::layers>},
    {"--hidden-size", number<&Architecture::hidden>},
    {"--num-attention-heads", number<&Architecture::heads>},
    {"--ffn-hidden-size", ffn_width},
    {"--moe-ffn-hidden-size", number<&Architecture::expert_intermediate>},
    {"--moe-shared-expert-intermediate-size", shared_width},
    {"--num-experts", number<&Architecture::experts>},
    {"--moe-router-topk", number<&Architecture::active_experts>},
    {"--moe-router-num-groups", number<&Architecture::groups>},
    {"--moe-router-group-topk", number<&Architecture::kept_groups>},
    {"--moe-layer-freq", moe_layers},
    {"--mtp-num-layers", number<&Architecture::mtp_depth>},
    {"--group-query-attention", grouped},
    {"--num-query-groups", query_groups},
    {"--kv-channels", head_width},
    {"--qk-layernorm", head_norm},
    {"--multi-latent-attention", latent},
    {"--q-lora-rank", query_compression},
    {"--kv-lora-rank", latent_number<&Architecture::kv_lora>},
    {"--qk-head-dim", latent_number<&Architecture::qk_nope>},
    {"--qk-pos-emb-head-dim", latent_number<&Architecture::qk_rope>},
    {"--v-head-dim", latent_number<&Architecture::v_head>},
    {"--vocab-size", vocabulary},
    {"--padded-vocab-size", padded_vocabulary},
    {"--make-vocab-size-divisible-by", padding},
    {"--max-position-embeddings", positions},
    {"--position-embedding-type", position_kind},
    {"--use-rotary-position-embeddings", rotary},
    {"--normalization", norm_kind},
    {"--swiglu", gated},
    {"--disable-bias-linear", no_biases},
    {"--add-qkv-bias", qkv_bias},
    {"--untie-embeddings-and-output-weights", untied},
    {"--attention-dropout", dropout},
    {"--hidden-dropout", dropout},
};

const ModelRow* model_row(const std::string& name) {
  const auto found = std::ranges::find(kModelRows, name, &ModelRow::name);
  return found == std::end(kModelRows) ? nullptr : found;
}

}  // namespace

std::vector<std::string> model_arguments() {
  std::vector<std::string> all;
  for (const ModelRow& row : kModelRows) all.emplace_back(row.name);
  return all;
}

bool is_model_argument(const std::string& name) {
  return model_row(name) != nullptr;
}

std::string model_differs(const std::string& name, const ModelArguments& arguments) {
  const ModelRow* row = model_row(name);
  const GivenArgument* given = arguments.find(name.c_str());
  CHECK(row != nullptr && given != nullptr) << name;
  return row->differs(*given, arguments);
}

}  // namespace rehearse::cli
