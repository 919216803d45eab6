#include "runtime/checkpoints/foreign_weights.h"

#include <algorithm>
#include <array>
#include <charconv>
#include <filesystem>
#include <optional>

#include <fmt/format.h>
#include <fmt/ranges.h>
#include <nlohmann/json.hpp>

#include "base/errors.h"
#include "base/file.h"
#include "base/integers.h"
#include "kernels/formats/formats.h"

namespace rehearse {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;

constexpr int64_t kScaledBlock = kernels::kScaleBlock;  // rows and columns that share a scale
constexpr std::string_view kScale = "_scale_inv";
constexpr std::string_view kPackedGateUp = ".mlp.experts.gate_up_proj";
constexpr std::string_view kPackedDown = ".mlp.experts.down_proj";
constexpr std::string_view kExperts = ".mlp.experts.";

// --- which files

constexpr const char* kSafetensors = "save the model by save_pretrained, as safetensors";

// What folders hold instead of weights that are read.
struct OtherFile {
  const char* name;
  const char* what;
};
constexpr auto kOtherFiles = std::to_array<OtherFile>({
    {"adapter_model.safetensors",
     "an adapter (LoRA), not a model's weights: merge it into its model first "
     "(merge_and_unload), and save that"},
    {"adapter_model.bin",
     "an adapter (LoRA), not a model's weights: merge it into its model first "
     "(merge_and_unload), and save that"},
    {"pytorch_model.bin.index.json", "PyTorch's pickles, which are not read"},
    {"pytorch_model.bin", "PyTorch's pickles, which are not read"},
    {"consolidated.safetensors", "weights under Mistral's own names, which are not read"},
    {"consolidated.00.pth", "weights under Meta's own names, which are not read"},
});

std::vector<std::string> weight_files_of(const std::string& folder, const std::string& index) {
  const json j = json::parse(read_file(index), nullptr, /*allow_exceptions=*/false);
  if (!j.is_object()) throw InputError(index + ": is no JSON object, or cut off");
  if (!j.contains("weight_map") || !j["weight_map"].is_object()) {
    throw InputError(index + ": has no \"weight_map\"");
  }
  std::vector<std::string> paths;
  for (const auto& [name, file] : j["weight_map"].items()) {
    if (!file.is_string() || file.get<std::string>().find('/') != std::string::npos) {
      throw InputError(fmt::format("{}: '{}' is in no file of the folder", index, name));
    }
    paths.push_back(folder + "/" + file.get<std::string>());
  }
  std::sort(paths.begin(), paths.end());
  paths.erase(std::unique(paths.begin(), paths.end()), paths.end());
  return paths;
}

std::vector<std::string> weight_files(const std::string& path) {
  if (!fs::is_directory(path)) return {path};
  const std::string index = path + "/model.safetensors.index.json";
  if (fs::exists(index)) return weight_files_of(path, index);
  if (fs::exists(path + "/model.safetensors")) return {path + "/model.safetensors"};
  const std::string missing =
      path + ": holds neither model.safetensors.index.json nor model.safetensors";
  for (const OtherFile& other : kOtherFiles) {
    if (!fs::exists(path + "/" + other.name)) continue;
    throw InputError(
        fmt::format("{}; it holds {}: {}; {}", missing, other.name, other.what, kSafetensors));
  }
  throw InputError(missing);
}

// --- names

// Kinds of files that are not read, each by what a tensor's name begins with, holds or ends in.
struct OtherKind {
  std::string_view begin, middle, end;
  std::string_view what, instead;
};
constexpr std::string_view kConvert = "convert it to Hugging Face's names first";
constexpr std::string_view kUnpack = "dequantize it to BF16 first";
constexpr auto kOtherKinds = std::to_array<OtherKind>({
    {"", ".lora_", "", "an adapter (LoRA)", "merge it into its model first (merge_and_unload)"},
    {"", ".attn.c_attn.", "", "of a GPT-2 model", "cores train no such model"},
    {"gpt_neox.", "", "", "of a GPT-NeoX model", "cores train no such model"},
    {"", ".query_key_value.", "", "under Ling's, Bloom's or Falcon's own names", kConvert},
    {"", ".self_attention.linear_", "", "under Megatron-LM's names", kConvert},
    {"", ".attention.wq.", "", "under Meta's or Mistral's own names (consolidated)", kConvert},
    {"", ".attn.wq_a.", "", "under the names of DeepSeek's inference code", kConvert},
    {"", ".attn.wkv_a.", "", "under the names of DeepSeek's inference code", kConvert},
    {"", "", ".qweight", "quantized to integers (GPTQ or AWQ)", kUnpack},
    {"", "", ".weight_packed", "quantized (compressed-tensors)", kUnpack},
    {"", "", ".absmax", "quantized (bitsandbytes)", kUnpack},
    {"", "", "_blocks", "quantized to MXFP4", kUnpack},
    {"", "", ".weight_scale", "quantized with a scale per tensor or row", kUnpack},
    {"", "", ".exp_avg", "an optimizer's moments", "the weights are in model-*.safetensors"},
});

// What wrappers and multimodal models put before the names of a language model.
struct Prefix {
  std::string_view theirs, ours;
};
constexpr auto kWrappers = std::to_array<std::string_view>({"_orig_mod.", "module."});
constexpr auto kPrefixes = std::to_array<Prefix>({{"model.language_model.", "model."},
                                                  {"model.text_model.", "model."},
                                                  {"language_model.model.", "model."},
                                                  {"language_model.lm_head.", "lm_head."},
                                                  {"embed_tokens.", "model.embed_tokens."},
                                                  {"layers.", "model.layers."},
                                                  {"norm.", "model.norm."}});
// And what stands beside it there.
constexpr auto kTowers = std::to_array<std::string_view>({"audio_tower.",
                                                          "connector.",
                                                          "image_newline",
                                                          "mlp1.",
                                                          "mm_projector.",
                                                          "multi_modal_projector.",
                                                          "vision_encoder.",
                                                          "vision_model.",
                                                          "vision_tower.",
                                                          "visual."});

// The number at the head of a text, which is cut off with the dot behind it.
std::optional<int64_t> take_number(std::string_view& text) {
  const size_t dot = text.find('.');
  if (dot == std::string_view::npos) return std::nullopt;
  int64_t number = 0;
  const auto read = std::from_chars(text.data(), text.data() + dot, number);
  if (read.ec != std::errc() || read.ptr != text.data() + dot || number < 0) return std::nullopt;
  text.remove_prefix(dot + 1);
  return number;
}

// model.layers.N. at the head of a name: N, and what is behind it.
std::optional<int64_t> take_layer(std::string_view& name) {
  constexpr std::string_view kLayers = "model.layers.";
  if (!name.starts_with(kLayers)) return std::nullopt;
  std::string_view rest = name.substr(kLayers.size());
  const auto layer = take_number(rest);
  if (layer) name = rest;
  return layer;
}

bool is_of_tower(std::string_view name) {
  constexpr std::string_view kModel = "model.";
  if (name.starts_with(kModel)) name.remove_prefix(kModel.size());
  return std::ranges::any_of(kTowers, [&](std::string_view t) { return name.starts_with(t); });
}

// Computed anew by everybody, or there once more.
bool is_passed_over(std::string_view name) {
  constexpr std::string_view kRotation = "rotary_emb.";
  const size_t rotation = name.rfind(kRotation);
  if (rotation != std::string_view::npos) {
    const std::string_view buffer = name.substr(rotation + kRotation.size());
    if (buffer == "inv_freq" || buffer == "cos_cached" || buffer == "sin_cached") return true;
  }
  return take_layer(name) && (name == "embed_tokens.weight" || name == "shared_head.head.weight");
}

std::string without_wrappers(std::string name) {
  for (bool again = true; again;) {
    again = false;
    for (const std::string_view wrapper : kWrappers) {
      if (!name.starts_with(wrapper)) continue;
      name.erase(0, wrapper.size());
      again = true;
    }
  }
  return name;
}

// Mixtral's (and MiniMax's) experts under the names of all others.
std::string of_sparse_moe(const std::string& name) {
  constexpr std::string_view kTheirs = "block_sparse_moe.";
  std::string_view rest = name;
  const auto layer = take_layer(rest);
  if (!layer || !rest.starts_with(kTheirs)) return name;
  rest.remove_prefix(kTheirs.size());
  const std::string ours = fmt::format("model.layers.{}.mlp.", *layer);
  if (rest == "e_score_correction_bias") return ours + "gate." + std::string(rest);
  constexpr std::string_view kOfExperts = "experts.";
  if (!rest.starts_with(kOfExperts)) return ours + std::string(rest);
  rest.remove_prefix(kOfExperts.size());
  const auto expert = take_number(rest);
  if (!expert) return name;
  constexpr auto kMatrices =
      std::to_array<Prefix>({{"w1.", "gate_proj."}, {"w3.", "up_proj."}, {"w2.", "down_proj."}});
  for (const Prefix& matrix : kMatrices) {
    if (!rest.starts_with(matrix.theirs)) continue;
    return fmt::format(
        "{}experts.{}.{}{}", ours, *expert, matrix.ours, rest.substr(matrix.theirs.size()));
  }
  return name;
}

// The name that a model here has for a tensor.
std::string named_here(std::string name) {
  for (const Prefix& prefix : kPrefixes) {
    if (!name.starts_with(prefix.theirs)) continue;
    name.replace(0, prefix.theirs.size(), prefix.ours);
    break;
  }
  return of_sparse_moe(name);
}

// An expert's matrix of a model: in which packed tensor it would be, and where there.
struct ExpertMatrix {
  std::string packed;
  int64_t expert = 0;
  int64_t third = 0;  // gate, up, down
};
std::optional<ExpertMatrix> expert_matrix(const std::string& name) {
  const size_t at = name.find(kExperts);
  if (at == std::string::npos) return std::nullopt;
  std::string_view rest = std::string_view(name).substr(at + kExperts.size());
  const auto expert = take_number(rest);
  constexpr auto kThirds =
      std::to_array<std::string_view>({"gate_proj.weight", "up_proj.weight", "down_proj.weight"});
  const auto* const third = std::ranges::find(kThirds, rest);
  if (!expert || third == kThirds.end()) return std::nullopt;
  const auto index = static_cast<int64_t>(third - kThirds.begin());
  const std::string_view packed = index == 2 ? kPackedDown : kPackedGateUp;
  return ExpertMatrix{name.substr(0, at) + std::string(packed), *expert, index};
}

bool is_packed(std::string_view name) {
  if (name.ends_with(kScale)) name.remove_suffix(kScale.size());
  return name.ends_with(kPackedGateUp) || name.ends_with(kPackedDown);
}
bool is_of_one_expert(const std::string& name) {
  const size_t at = name.find(kExperts);
  if (at == std::string::npos) return false;
  std::string_view rest = std::string_view(name).substr(at + kExperts.size());
  return take_number(rest).has_value();
}

bool is_fp8(const TensorFiles::Tensor& tensor) {
  return tensor.entry->type == "F8_E4M3";
}

}  // namespace

ForeignWeights::ForeignWeights(const std::string& path) : files_(weight_files(path)) {
  take_names();
  refuse_mixed_experts();
}

void ForeignWeights::take_names() {
  std::vector<std::string_view> of_towers;
  for (const auto& [name, tensor] : files_.tensors()) {
    const std::string bare = without_wrappers(name);
    if (is_of_tower(bare)) {
      of_towers.push_back(name);
      continue;
    }
    for (const OtherKind& kind : kOtherKinds) {
      if (!bare.starts_with(kind.begin) || !bare.ends_with(kind.end) ||
          bare.find(kind.middle) == std::string::npos) {
        continue;
      }
      throw InputError(fmt::format("{}: is {}, which is not read: it has a tensor '{}'; {}",
                                   tensor.file->path(),
                                   kind.what,
                                   name,
                                   kind.instead));
    }
    std::string here = named_here(bare);
    if (is_passed_over(here)) continue;
    const auto [at, fresh] = named_.emplace(here, Tensor{name, tensor});
    if (fresh) continue;
    throw InputError(fmt::format("{}: tensors '{}' and '{}' are both the model's '{}'",
                                 tensor.file->path(),
                                 at->second.name,
                                 name,
                                 here));
  }
  if (!of_towers.empty()) {
    notes_.push_back(
        fmt::format("{}: of a multimodal model, the language model is read; {} tensors of its "
                    "other parts are not, such as '{}'",
                    files_.path(),
                    of_towers.size(),
                    of_towers.front()));
  }
  const auto codes =
      std::ranges::count_if(named_, [](const auto& n) { return is_fp8(n.second.in); });
  if (codes > 0) {
    notes_.push_back(fmt::format(
        "{}: an FP8 checkpoint: {} tensors are taken times their scales", files_.path(), codes));
  }
}

void ForeignWeights::refuse_mixed_experts() const {
  const Tensor *packed = nullptr, *single = nullptr;
  for (const auto& [name, tensor] : named_) {
    if (is_packed(name)) {
      packed = &tensor;
    } else if (is_of_one_expert(name)) {
      single = &tensor;
    }
  }
  if (packed == nullptr || single == nullptr) return;
  throw InputError(
      fmt::format("{}: has packed experts ('{}') and experts by themselves ('{}'); expected one "
                  "way for all",
                  files_.path(),
                  packed->name,
                  single->name));
}

std::vector<float> ForeignWeights::read(const std::string& name,
                                        const std::vector<int64_t>& shape) {
  if (const auto at = named_.find(name); at != named_.end()) {
    const Tensor& tensor = at->second;
    const std::vector<int64_t>& own = tensor.in.entry->shape;
    if (own != shape) {
      throw InputError(fmt::format("{}: tensor '{}' is [{}]; the plan's model has [{}]; {}",
                                   tensor.in.file->path(),
                                   tensor.name,
                                   fmt::join(own, ", "),
                                   fmt::join(shape, ", "),
                                   description()));
    }
    used_.insert(name);
    const bool matrix = shape.size() == 2;
    return read_rows(name,
                     tensor,
                     {.count = matrix ? shape[0] : 1,
                      .columns = shape.empty() ? 1 : shape.back(),
                      .of = matrix ? shape[0] : 1});
  }
  const auto matrix = expert_matrix(name);
  const auto at = matrix ? named_.find(matrix->packed) : named_.end();
  if (at == named_.end()) {
    const bool tied = name == "lm_head.weight";
    throw InputError(
        fmt::format("{}: no tensor '{}', which the model has{}; {}",
                    files_.path(),
                    name,
                    tied ? " (files of tied embeddings have none, nor those of a model without its "
                           "head)"
                         : "",
                    description()));
  }
  const Tensor& tensor = at->second;
  const std::vector<int64_t>& own = tensor.in.entry->shape;
  const int64_t all = matrix->third == 2 ? shape[0] : 2 * shape[0];
  if (own.size() != 3 || own[1] != all || own[2] != shape[1]) {
    const bool transposed = own.size() == 3 && own[1] == shape[1] && own[2] == all;
    throw InputError(fmt::format(
        "{}: packed experts: tensor '{}' is [{}]; expected [experts, {}, {}]{}{}",
        tensor.in.file->path(),
        tensor.name,
        fmt::join(own, ", "),
        all,
        shape[1],
        matrix->third == 2 ? ", as [experts, hidden, width]"
                           : ", as [experts, 2 x width, hidden], an expert's gate above its up",
        transposed ? "; it is transposed, as some writers have it: swap its last two axes" : ""));
  }
  if (matrix->expert >= own[0]) {
    throw InputError(
        fmt::format("{}: packed experts: tensor '{}' holds {}; the plan's model has "
                    "more",
                    tensor.in.file->path(),
                    tensor.name,
                    own[0]));
  }
  used_parts_.emplace(at->first, 3 * matrix->expert + matrix->third);
  return read_rows(at->first,
                   tensor,
                   {.matrix = matrix->expert,
                    .first = matrix->third == 1 ? shape[0] : 0,
                    .count = shape[0],
                    .columns = shape[1],
                    .of = all});
}

std::vector<float> ForeignWeights::read_rows(const std::string& name,
                                             const Tensor& tensor,
                                             const Rows& rows) {
  std::vector<float> values = tensor.in.file->read(
      tensor.name, (rows.matrix * rows.of + rows.first) * rows.columns, rows.count * rows.columns);
  if (!is_fp8(tensor.in)) return values;
  const std::vector<float> scales = scales_of(name, tensor, rows);
  const int64_t across = ceil_div(rows.columns, kScaledBlock);
  for (int64_t r = 0; r < rows.count; ++r) {
    const float* const of_row = scales.data() + (rows.first + r) / kScaledBlock * across;
    float* const row = values.data() + r * rows.columns;
    for (int64_t c = 0; c < rows.columns; ++c) row[c] *= of_row[c / kScaledBlock];
  }
  return values;
}

std::vector<float> ForeignWeights::scales_of(const std::string& name,
                                             const Tensor& tensor,
                                             const Rows& rows) {
  const std::string scales_name = name + std::string(kScale);
  const auto at = named_.find(scales_name);
  if (at == named_.end()) {
    throw InputError(fmt::format("{}: an FP8 checkpoint: tensor '{}' has no scales '{}{}'; {}",
                                 tensor.in.file->path(),
                                 tensor.name,
                                 tensor.name,
                                 kScale,
                                 kUnpack));
  }
  std::vector<int64_t> shape = {ceil_div(rows.of, kScaledBlock),
                                ceil_div(rows.columns, kScaledBlock)};
  if (tensor.in.entry->shape.size() == 3) shape.insert(shape.begin(), tensor.in.entry->shape[0]);
  const Tensor& scales = at->second;
  if (scales.in.entry->shape != shape) {
    throw InputError(fmt::format(
        "{}: an FP8 checkpoint: scales '{}' are [{}]; expected [{}], one for {} x {} codes",
        scales.in.file->path(),
        scales.name,
        fmt::join(scales.in.entry->shape, ", "),
        fmt::join(shape, ", "),
        kScaledBlock,
        kScaledBlock));
  }
  used_.insert(scales_name);
  const int64_t each = ceil_div(rows.of, kScaledBlock) * ceil_div(rows.columns, kScaledBlock);
  return scales.in.file->read(scales.name, rows.matrix * each, each);
}

void ForeignWeights::require_all_read() const {
  std::vector<const Tensor*> left;
  for (const auto& [name, tensor] : named_) {
    if (used_.contains(name)) continue;
    const auto begin = used_parts_.lower_bound({name, 0});
    int64_t parts = 0;
    for (auto at = begin; at != used_parts_.end() && at->first == name; ++at) ++parts;
    if (parts == 0) {
      left.push_back(&tensor);
      continue;
    }
    const int64_t experts = tensor.in.entry->shape[0];
    const int64_t each = name.ends_with(kPackedDown) ? 1 : 2;
    if (parts == each * experts) continue;
    throw InputError(
        fmt::format("{}: packed experts: tensor '{}' holds {}; the plan's model has {}",
                    tensor.in.file->path(),
                    tensor.name,
                    experts,
                    parts / each));
  }
  if (left.empty()) return;
  throw InputError(fmt::format("{}: tensor '{}' is not of the plan's model, and {} more; {}",
                               left.front()->in.file->path(),
                               left.front()->name,
                               left.size() - 1,
                               description()));
}

std::string ForeignWeights::description() const {
  int64_t layers = 0, experts = 0;
  bool latent = false, grouped = false, packed = false;
  for (const auto& [name, tensor] : named_) {
    std::string_view rest = name;
    const auto layer = take_layer(rest);
    if (!layer) continue;
    layers = std::max(layers, *layer + 1);
    latent = latent || rest.starts_with("self_attn.kv_a_proj");
    grouped = grouped || rest.starts_with("self_attn.k_proj.");
    constexpr std::string_view kOfExperts = "mlp.experts.";
    if (!rest.starts_with(kOfExperts)) continue;
    if (is_packed(name) && tensor.in.entry->shape.size() == 3) {
      packed = true;
      experts = std::max(experts, tensor.in.entry->shape[0]);
    }
    rest.remove_prefix(kOfExperts.size());
    if (const auto expert = take_number(rest)) experts = std::max(experts, *expert + 1);
  }
  if (layers == 0) {
    return named_.empty() ? "the file holds no weights of a language model"
                          : fmt::format("the file's names are of another model, such as '{}'",
                                        named_.begin()->second.name);
  }
  return fmt::format("the file is of a model of {} layers{} and {}",
                     layers,
                     latent    ? " with latent attention (DeepSeek's)"
                     : grouped ? " with grouped-query attention"
                               : "",
                     experts == 0 ? "no experts, a dense one as Llama's"
                     : packed     ? fmt::format("{} packed experts", experts)
                                  : fmt::format("{} experts", experts));
}

}  // namespace rehearse
