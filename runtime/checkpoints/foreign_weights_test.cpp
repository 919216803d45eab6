// Weights under the names and in the forms of other writers: each form leaves the model with the
// same values, to the bit, as every tensor by itself does; what is not read is refused by its kind.

#include "runtime/checkpoints/foreign_weights.h"

#include <cmath>
#include <cstring>
#include <filesystem>
#include <functional>

#include <fmt/format.h>
#include <fmt/ranges.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include "base/errors.h"
#include "base/file.h"
#include "plan/testing.h"
#include "runtime/checkpoints/checkpoint.h"
#include "runtime/testing.h"

namespace rehearse {
namespace {

namespace fs = std::filesystem;

// A tensor as it stands in a file; a writer of its own, beside write_safetensors.
struct RawTensor {
  std::string type;
  std::vector<int64_t> shape;
  std::string bytes;
};
using RawTensors = std::map<std::string, RawTensor>;

RawTensor raw_fp32(std::vector<int64_t> shape, const std::vector<float>& values) {
  RawTensor t{"F32", std::move(shape), std::string(values.size() * sizeof(float), '\0')};
  std::memcpy(t.bytes.data(), values.data(), t.bytes.size());
  return t;
}

void write_raw(const std::string& path, const RawTensors& tensors) {
  std::string header, body;
  for (const auto& [name, t] : tensors) {
    header += fmt::format(R"({}"{}":{{"dtype":"{}","shape":[{}],"data_offsets":[{},{}]}})",
                          header.empty() ? "" : ",",
                          name,
                          t.type,
                          fmt::join(t.shape, ","),
                          body.size(),
                          body.size() + t.bytes.size());
    body += t.bytes;
  }
  header = "{" + header + "}";
  const uint64_t length = header.size();
  std::string file(sizeof(length), '\0');
  std::memcpy(file.data(), &length, sizeof(length));
  write_file(path, file + header + body);
}

// Renames what `names` changes.
RawTensors renamed(const RawTensors& tensors,
                   const std::function<std::string(const std::string&)>& names) {
  RawTensors all;
  for (const auto& [name, t] : tensors) all.emplace(names(name), t);
  return all;
}

std::string replaced(std::string text, const std::string& what, const std::string& with) {
  const size_t at = text.find(what);
  return at == std::string::npos ? text : text.replace(at, what.size(), with);
}

class OthersWeights : public testing::Test {
 protected:
  // Experts and a dense MLP of more than one block of scales, and no multiples of one.
  OthersWeights() : plan_(small_plan({})) {
    Architecture& a = plan_.model.architecture;
    a.dense_intermediate = 200;
    a.expert_intermediate = 160;
    trainer_ = std::make_unique<Trainer>(plan_, test_text_path());
    fs::create_directories(folder_);
  }
  ~OthersWeights() override { fs::remove_all(folder_); }

  // As every tensor by itself, with values that a trained model has.
  RawTensors own() {
    trainer_->step(0);
    RawTensors all;
    for (const NamedTensor& t : trainer_->ranks().state(StateKind::kWeights)) {
      all.emplace(t.name, raw_fp32(t.shape, t.values));
    }
    return all;
  }
  // What a fresh model holds after reading them.
  RawTensors read(const RawTensors& tensors) {
    notes_.clear();
    write_raw(path_, tensors);
    Trainer fresh(plan_, test_text_path());
    load_weights(path_, fresh.ranks(), [&](const std::string& n) { notes_.push_back(n); });
    RawTensors all;
    for (const NamedTensor& t : fresh.ranks().state(StateKind::kWeights)) {
      all.emplace(t.name, raw_fp32(t.shape, t.values));
    }
    return all;
  }
  static void same(const RawTensors& found, const RawTensors& expected) {
    ASSERT_EQ(found.size(), expected.size());
    for (const auto& [name, t] : expected) EXPECT_EQ(found.at(name).bytes, t.bytes) << name;
  }
  std::string refused(const RawTensors& tensors) {
    try {
      read(tensors);
    } catch (const InputError& e) {
      return e.what();
    }
    return "read";
  }
  void refused(const RawTensors& tensors, const std::string& why) {
    const std::string found = refused(tensors);
    EXPECT_NE(found.find(why), std::string::npos) << found;
  }

  // Experts of every layer in two tensors, [experts, 2 x width, hidden] and [experts, hidden,
  // width].
  RawTensors packed(const RawTensors& tensors) const {
    const Architecture& a = plan_.model.architecture;
    RawTensors all;
    for (const auto& [name, t] : tensors) {
      if (name.find(".mlp.experts.") == std::string::npos) all.emplace(name, t);
    }
    for (int64_t layer = 1; layer < a.layers; ++layer) {
      const std::string prefix = fmt::format("model.layers.{}.mlp.experts.", layer);
      RawTensor gate_up{"F32", {a.experts, 2 * a.expert_intermediate, a.hidden}, ""};
      RawTensor down{"F32", {a.experts, a.hidden, a.expert_intermediate}, ""};
      for (int64_t e = 0; e < a.experts; ++e) {
        const auto part = [&](const char* matrix) {
          return tensors.at(fmt::format("{}{}.{}.weight", prefix, e, matrix)).bytes;
        };
        gate_up.bytes += part("gate_proj") + part("up_proj");
        down.bytes += part("down_proj");
      }
      all.emplace(prefix + "gate_up_proj", gate_up);
      all.emplace(prefix + "down_proj", down);
    }
    return all;
  }

  Plan plan_;
  std::unique_ptr<Trainer> trainer_;
  std::string folder_ =
      (fs::temp_directory_path() / fmt::format("rehearse_others_weights_{}", ::getpid())).string();
  std::string path_ = folder_ + "/w.safetensors";
  std::vector<std::string> notes_;
};

TEST_F(OthersWeights, PackedExperts) {
  const RawTensors each = own();
  same(read(each), each);
  EXPECT_TRUE(notes_.empty());
  const RawTensors all = packed(each);
  same(read(all), each);
  // In files of several, by an index; in BF16 too, as far as that goes.
  RawTensors halves;
  for (const auto& [name, t] : all) {
    RawTensor half{"BF16", t.shape, ""};
    for (size_t i = 0; i < t.bytes.size(); i += 4) half.bytes += t.bytes.substr(i + 2, 2);
    halves.emplace(name, half);
  }
  RawTensors cut = each;
  for (auto& [name, t] : cut) {
    for (size_t i = 0; i < t.bytes.size(); i += 4) t.bytes[i] = t.bytes[i + 1] = '\0';
  }
  same(read(halves), cut);
}

TEST_F(OthersWeights, PackedExpertsOfOtherShapes) {
  const RawTensors each = own();
  RawTensors all = packed(each);
  const std::string gate_up = "model.layers.2.mlp.experts.gate_up_proj";
  const std::string down = "model.layers.2.mlp.experts.down_proj";
  const auto of_shape = [&](const std::string& name, std::vector<int64_t> shape) {
    RawTensors other = all;
    int64_t count = 4;
    for (const int64_t n : shape) count *= n;
    other.at(name) = {"F32", std::move(shape), std::string(static_cast<size_t>(count), '\0')};
    return other;
  };
  refused(of_shape(gate_up, {8, 32, 320}),
          "packed experts: tensor '" + gate_up +
              "' is [8, 32, 320]; expected [experts, 320, 32], as [experts, 2 x width, hidden], an "
              "expert's gate above its up; it is transposed");
  refused(of_shape(down, {8, 160, 32}), "expected [experts, 32, 160]");
  refused(of_shape(down, {8, 160, 32}), "it is transposed");
  refused(of_shape(gate_up, {2560, 32}), "expected [experts, 320, 32]");
  refused(of_shape(gate_up, {9, 320, 32}), "holds 9; the plan's model has 8");
  refused(of_shape(gate_up, {7, 320, 32}), "holds 7; the plan's model has more");
  // One way for all: neither a layer nor a matrix by itself.
  RawTensors mixed = all;
  mixed.emplace("model.layers.2.mlp.experts.0.up_proj.weight",
                each.at("model.layers.2.mlp.experts.0.up_proj.weight"));
  refused(mixed, "has packed experts ('model.layers.3.mlp.experts.gate_up_proj') and experts by");
  RawTensors half = each;
  half.emplace(gate_up, all.at(gate_up));
  refused(half, "experts by themselves");
  RawTensors gone = all;
  gone.erase(down);
  refused(gone, "no tensor 'model.layers.2.mlp.experts.0.down_proj.weight'");
}

TEST_F(OthersWeights, NamesOfMixtral) {
  const RawTensors each = own();
  const auto mixtral = [](std::string name) {
    for (const auto& [ours, theirs] : {std::pair(".gate_proj.", ".w1."),
                                       std::pair(".up_proj.", ".w3."),
                                       std::pair(".down_proj.", ".w2.")}) {
      if (name.find(".experts.") != std::string::npos) name = replaced(name, ours, theirs);
    }
    // MiniMax keeps the gate's bias beside the gate.
    name = replaced(name, "mlp.gate.e_score", "block_sparse_moe.e_score");
    name = replaced(name, "mlp.gate.", "block_sparse_moe.gate.");
    return replaced(name, "mlp.experts.", "block_sparse_moe.experts.");
  };
  const RawTensors theirs = renamed(each, mixtral);
  EXPECT_TRUE(theirs.contains("model.layers.1.block_sparse_moe.experts.7.w2.weight"));
  same(read(theirs), each);
  RawTensors other = theirs;
  other.emplace("model.layers.1.block_sparse_moe.experts.7.w4.weight",
                theirs.at("model.layers.1.block_sparse_moe.experts.7.w2.weight"));
  refused(other, "'model.layers.1.block_sparse_moe.experts.7.w4.weight' is not of the plan's");
  other = theirs;
  other.emplace("model.layers.1.mlp.gate.weight",
                theirs.at("model.layers.1.block_sparse_moe.gate.weight"));
  refused(other, "are both the model's 'model.layers.1.mlp.gate.weight'");
}

TEST_F(OthersWeights, PrefixesAndTowers) {
  const RawTensors each = own();
  const auto before = [&](const std::string& model, const std::string& head) {
    return renamed(each, [&](const std::string& name) {
      return replaced(replaced(name, "model.", model), "lm_head.", head);
    });
  };
  const RawTensor pixels = raw_fp32({2}, {1, 2});
  for (const auto& [model, head] : {std::pair("model.language_model.", "lm_head."),
                                    std::pair("language_model.model.", "language_model.lm_head."),
                                    std::pair("_orig_mod.model.", "_orig_mod.lm_head."),
                                    std::pair("module._orig_mod.model.", "module.lm_head.")}) {
    same(read(before(model, head)), each);
    EXPECT_TRUE(notes_.empty()) << model;
  }
  RawTensors all = before("model.language_model.", "lm_head.");
  all.emplace("model.visual.blocks.0.attn.qkv.weight", pixels);
  all.emplace("model.visual.patch_embed.proj.bias", pixels);
  same(read(all), each);
  ASSERT_EQ(notes_.size(), 1u);
  EXPECT_EQ(notes_.front(),
            path_ +
                ": of a multimodal model, the language model is read; 2 tensors of its other "
                "parts are not, such as 'model.visual.blocks.0.attn.qkv.weight'");
  all = before("language_model.model.", "language_model.lm_head.");
  all.emplace("vision_tower.a", pixels);
  all.emplace("multi_modal_projector.linear.weight", pixels);
  same(read(all), each);
  // What is neither of the language model nor of a tower.
  all.emplace("model.language_model.extra.weight", pixels);
  refused(all, "tensor 'model.language_model.extra.weight' is not of the plan's model, and 0 more");
  refused({{"visual.a", pixels}}, "the file holds no weights of a language model");
  // The same tensor under two prefixes.
  all = before("model.language_model.", "lm_head.");
  all.emplace("model.norm.weight", each.at("model.norm.weight"));
  refused(all, "are both the model's 'model.norm.weight'");
}

TEST_F(OthersWeights, BuffersAndCopies) {
  const RawTensors each = own();
  RawTensors all = each;
  const RawTensor buffer = raw_fp32({2}, {1, 2});
  all.emplace("model.layers.0.self_attn.rotary_emb.inv_freq", buffer);
  all.emplace("model.layers.3.self_attn.rotary_emb.cos_cached", buffer);
  all.emplace("model.rotary_emb.inv_freq", buffer);
  all.emplace("model.layers.4.embed_tokens.weight", each.at("model.embed_tokens.weight"));
  all.emplace("model.layers.4.shared_head.head.weight", each.at("lm_head.weight"));
  same(read(all), each);
  EXPECT_TRUE(notes_.empty());
  RawTensors other = each;
  other.emplace("model.layers.0.self_attn.rotary_emb.weight", buffer);
  refused(other, "'model.layers.0.self_attn.rotary_emb.weight' is not of the plan's model");
  other = each;
  other.emplace("decoder.embed_tokens.weight", each.at("model.embed_tokens.weight"));
  refused(other, "'decoder.embed_tokens.weight' is not of the plan's model");
}

// The value of a code, by the format's definition: sign, exponent less 7, three bits.
float value_of(unsigned code) {
  const int exponent = static_cast<int>(code >> 3 & 15U), fraction = static_cast<int>(code & 7U);
  const double size = exponent == 0 ? fraction * std::pow(2.0, -9)
                                    : (1 + fraction / 8.0) * std::pow(2.0, exponent - 7);
  return static_cast<float>((code & 0x80U) != 0 ? -size : size);
}

// Codes and scales of a matrix, or of several; what they stand for beside them.
struct Fp8 {
  RawTensor codes, scales, values;
};
Fp8 fp8_of(const std::vector<int64_t>& shape, uint64_t seed) {
  const int64_t matrices = shape.size() == 3 ? shape[0] : 1;
  const int64_t rows = shape[shape.size() - 2], columns = shape.back();
  const int64_t down = (rows + 127) / 128, across = (columns + 127) / 128;
  Random random(seed);
  std::vector<float> scales(static_cast<size_t>(matrices * down * across));
  for (float& s : scales) s = static_cast<float>(1 + random.next() % 1000) * 1e-5f;
  std::string codes;
  std::vector<float> values;
  for (int64_t m = 0; m < matrices; ++m) {
    for (int64_t r = 0; r < rows; ++r) {
      for (int64_t c = 0; c < columns; ++c) {
        const auto code = static_cast<unsigned>(random.next() % 256);
        const unsigned finite = (code & 0x7FU) == 0x7FU ? 0x38U : code;
        codes += static_cast<char>(finite);
        values.push_back(value_of(finite) *
                         scales[static_cast<size_t>((m * down + r / 128) * across + c / 128)]);
      }
    }
  }
  std::vector<int64_t> grid = {down, across};
  if (shape.size() == 3) grid.insert(grid.begin(), matrices);
  return {{"F8_E4M3", shape, codes}, raw_fp32(grid, scales), raw_fp32(shape, values)};
}

TEST_F(OthersWeights, Fp8WithScales) {
  const RawTensors each = own();
  for (const bool with_packed : {false, true}) {
    const RawTensors from = with_packed ? packed(each) : each;
    RawTensors codes = from, values = from;
    int64_t of_fp8 = 0;
    for (const auto& [name, t] : from) {
      const bool linear = name.find("proj") != std::string::npos;
      if (!linear || t.shape.size() < 2) continue;
      const Fp8 made = fp8_of(t.shape, static_cast<uint64_t>(++of_fp8));
      codes.at(name) = made.codes;
      codes.emplace(name + "_scale_inv", made.scales);
      values.at(name) = made.values;
    }
    same(read(codes), read(values));
    read(codes);
    ASSERT_EQ(notes_.size(), 1u);
    EXPECT_EQ(notes_.front(),
              fmt::format(
                  "{}: an FP8 checkpoint: {} tensors are taken times their scales", path_, of_fp8));
  }
  const std::string name = "model.layers.0.mlp.gate_proj.weight";  // [200, 32]
  const Fp8 made = fp8_of({200, 32}, 1);
  RawTensors all = each;
  all.at(name) = made.codes;
  refused(all, "an FP8 checkpoint: tensor '" + name + "' has no scales '" + name + "_scale_inv'");
  all.emplace(name + "_scale_inv", raw_fp32({1, 1}, {1}));
  refused(all, "are [1, 1]; expected [2, 1], one for 128 x 128 codes");
  all.at(name + "_scale_inv") = made.scales;
  EXPECT_EQ(refused(all), "read");
  all.emplace("model.layers.0.mlp.up_proj.weight_scale_inv", made.scales);
  refused(all, "'model.layers.0.mlp.up_proj.weight_scale_inv' is not of the plan's model");
  all = each;
  all.at(name) = made.codes;
  all.emplace(replaced(name, "weight", "weight_scale"), raw_fp32({1}, {1}));
  refused(all, "is quantized with a scale per tensor or row, which is not read");
  all = each;
  all.at(name).type = "F8_E5M2";
  all.at(name).bytes.resize(all.at(name).bytes.size() / 4);
  refused(all, "is of F8_E5M2; F32, BF16, F16 and F8_E4M3 are read");
}

// By kind, not by the first tensor that is missing or too many.
TEST_F(OthersWeights, KindsThatAreNotRead) {
  const RawTensors each = own();
  const RawTensor some = raw_fp32({2}, {1, 2});
  refused({{"base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight", some}},
          "is an adapter (LoRA), which is not read");
  refused({{"h.0.attn.c_attn.weight", some}}, "is of a GPT-2 model");
  refused({{"transformer.h.0.attn.c_attn.weight", some}, {"transformer.wte.weight", some}},
          "is of a GPT-2 model");
  refused({{"layers.0.attention.wq.weight", some}}, "under Meta's or Mistral's own names");
  refused({{"decoder.layers.0.self_attention.linear_qkv.weight", some}}, "Megatron-LM's names");
  refused({{"model.layers.0.self_attn.q_proj.qweight", some}}, "(GPTQ or AWQ)");
  refused({{"model.norm.weight.exp_avg", some}}, "is an optimizer's moments");
  refused({{"encoder.block.0.weight", some}},
          "the file's names are of another model, such as 'encoder.block.0.weight'");
  // Llama's: dense layers, grouped attention.
  RawTensors llama;
  for (int layer = 0; layer < 2; ++layer) {
    const std::string prefix = fmt::format("model.layers.{}.", layer);
    for (const char* name : {"self_attn.k_proj", "self_attn.q_proj", "mlp.gate_proj"}) {
      llama.emplace(prefix + name + ".weight", some);
    }
  }
  llama.emplace("model.embed_tokens.weight", each.at("model.embed_tokens.weight"));
  refused(llama,
          "; the file is of a model of 2 layers with grouped-query attention and no experts, a "
          "dense one as Llama's");
  RawTensors headless = each;
  headless.erase("lm_head.weight");
  refused(headless, "no tensor 'lm_head.weight', which the model has (files of tied embeddings");
  refused(headless, "of 4 layers with latent attention (DeepSeek's) and 8 experts");
}

TEST_F(OthersWeights, Folders) {
  const auto refused_folder = [&] {
    try {
      Trainer fresh(plan_, test_text_path());
      load_weights(folder_, fresh.ranks());
    } catch (const InputError& e) {
      return std::string(e.what());
    }
    return std::string("read");
  };
  write_file(folder_ + "/adapter_model.safetensors", "");
  EXPECT_NE(refused_folder().find("it holds adapter_model.safetensors: an adapter (LoRA)"),
            std::string::npos);
  fs::remove(folder_ + "/adapter_model.safetensors");
  write_file(folder_ + "/pytorch_model.bin", "");
  EXPECT_NE(refused_folder().find("PyTorch's pickles"), std::string::npos);
  // Shards, experts packed in one and the rest in another.
  RawTensors a, b;
  std::string map;
  for (const auto& [name, t] : packed(own())) {
    const bool first = name.find("experts.") != std::string::npos;
    (first ? a : b).emplace(name, t);
    map += fmt::format(R"({}"{}":"{}.safetensors")", map.empty() ? "" : ",", name, first ? 1 : 2);
  }
  write_raw(folder_ + "/1.safetensors", a);
  write_raw(folder_ + "/2.safetensors", b);
  write_file(folder_ + "/model.safetensors.index.json", "{\"weight_map\":{" + map + "}}");
  EXPECT_EQ(refused_folder(), "read");
}

}  // namespace
}  // namespace rehearse
