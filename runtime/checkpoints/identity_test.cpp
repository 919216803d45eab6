// Every key of a plan, changed once between saving and going on: refused, listed, told, or of no
// effect, as the table says; and no key is without a rule.

#include "runtime/checkpoints/identity.h"

#include <filesystem>
#include <map>

#include <fmt/format.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include "base/file.h"
#include "plan/keys.h"

namespace rehearse {
namespace {

namespace fs = std::filesystem;
using Key = std::pair<std::string, std::string>;  // section and key

// A key's value in the plan that was saved, and another that is legal beside all others' first.
struct Values {
  std::string saved, other;
};
const std::map<Key, Values>& values() {
  static const std::map<Key, Values> all = {
      {{"", "model"}, {"model.yaml", "other.yaml"}},
      {{"", "cluster"}, {"h100-1024.yaml", "h200-1024.yaml"}},
      {{"", "calibration"}, {"none", "devices/h100.yaml"}},
      {{"", "routing"}, {"learned", "balanced"}},
      {{"", "expert_placement"}, {"", "map.json"}},
      {{"layout", "pp"}, {"2", "1"}},
      {{"layout", "dp"}, {"4", "8"}},
      {{"layout", "ep"}, {"2", "4"}},
      {{"layout", "tp"}, {"1", "2"}},
      {{"layout", "cp"}, {"1", "2"}},
      {{"layout", "etp"}, {"1", "2"}},
      {{"layout", "rank_order"}, {"tp-cp-ep-dp-pp", "tp-cp-ep-pp-dp"}},
      {{"layout", "sequence_parallel"}, {"true", "false"}},
      {{"layout", "context"}, {"gather", "ring"}},
      {{"layout", "dispatcher"}, {"two_hop", "all_to_all"}},
      {{"layout", "schedule"}, {"interleaved-1f1b", "1f1b"}},
      {{"layout", "chunks"}, {"2", "1"}},
      {{"layout", "layers_per_stage"}, {"", "[1, 1, 2, 0]"}},
      {{"layout", "zero_stage"}, {"1", "0"}},
      {{"layout", "overlap_grad_reduce"}, {"false", "true"}},
      {{"layout", "overlap_p2p"}, {"true", "false"}},
      {{"layout", "overlap_all_to_all"}, {"false", "true"}},
      {{"training", "micro_batches"}, {"8", "16"}},
      {{"training", "micro_batch_size"}, {"2", "4"}},
      {{"training", "sequence_length"}, {"64", "128"}},
      {{"training", "tokens"}, {"", "1B tokens"}},
      {{"training", "precision"}, {"bf16", "fp8"}},
      {{"training", "moments"}, {"fp32", "bf16"}},
      {{"training", "core"}, {"fused", "unfused"}},
      {{"training", "recompute"}, {"none", "[norms]"}},
      {{"training", "steps"}, {"100", "200"}},
      {{"training", "ramp_from"}, {"16", "32"}},
      {{"training", "ramp_steps"}, {"10", "20"}},
      {{"training", "seed"}, {"1", "2"}},
      {{"training", "learning_rate"}, {"0.001", "0.002"}},
      {{"training", "final_learning_rate"}, {"0.0001", "0.0002"}},
      {{"training", "warmup_steps"}, {"5", "6"}},
      {{"training", "constant_steps"}, {"5", "6"}},
      {{"training", "hold_steps"}, {"5", "6"}},
      {{"training", "tail_steps"}, {"5", "6"}},
      {{"training", "tail_learning_rate"}, {"0.00005", "0.00006"}},
      {{"training", "beta1"}, {"0.9", "0.8"}},
      {{"training", "beta2"}, {"0.95", "0.96"}},
      {{"training", "adam_eps"}, {"1e-8", "1e-7"}},
      {{"training", "weight_decay"}, {"0.1", "0.2"}},
      {{"training", "gradient_clip"}, {"1", "2"}},
      {{"training", "bias_update_speed"}, {"0.001", "0.002"}},
      {{"training", "balance_loss"}, {"1e-4", "2e-4"}},
      {{"training", "balance_over"}, {"sequence", "micro_batch"}},
      {{"training", "ema"}, {"0.9", "0.8"}},
      {{"training", "mtp_loss"}, {"0.3", "0.1"}},
      {{"fp8", "gradient_tiles"}, {"1x128", "128x128"}},
      {{"fp8", "scales"}, {"amax", "power_of_two"}},
      {{"fp8", "swiglu_cache"}, {"fp8", "bf16"}},
      {{"fp8", "attention_cache"}, {"e5m6", "fp8"}},
      {{"fp8", "dispatch"}, {"fp8", "bf16"}},
      {{"fp8", "products"}, {"tensor_core", "exact"}},
      {{"fp8", "promotion"}, {"128", "256"}},
      {{"fp8", "accumulator_bits"}, {"13", "14"}},
      {{"data", "text"}, {"text.txt", "copy.txt"}},
      {{"data", "document_separator"}, {"\"|\"", "\"&\""}},
      {{"data", "fim_rate"}, {"0.1", "0.2"}},
      {{"data", "validation_fraction"}, {"0.1", "0.2"}},
      {{"expert_load", "kind"}, {"synthetic", "balanced"}},
      {{"expert_load", "skew"}, {"0.1", "0.2"}},
      {{"expert_load", "seed"}, {"1", "2"}},
      {{"expert_load", "varies"}, {"micro_batch", "layer"}},
      {{"budget", "usd_per_gpu_hour"}, {"2", "3"}},
      {{"budget", "watts_per_gpu"}, {"1000", "1300"}},
  };
  return all;
}

class Identity : public testing::Test {
 protected:
  void SetUp() override {
    folder_ = fs::temp_directory_path() / fmt::format("rehearse_identity_{}", ::getpid());
    fs::create_directories(folder_);
    const std::string model =
        read_own_file(std::string(REHEARSE_SOURCE_DIR) + "/models/tiny-v3.yaml");
    put("model.yaml", model);
    put("other.yaml", model + "# the same in another file\n");
    put("text.txt", "some text");
    put("copy.txt", "some text");
    put("map.json", "{}");
  }
  void TearDown() override { fs::remove_all(folder_); }
  void put(const std::string& name, const std::string& text) {
    write_file((folder_ / name).string(), text);
  }

  // The plan with every key's saved value, but for one.
  std::vector<Fact> facts(const Key& changed) {
    std::string text;
    std::string section;
    std::map<std::string, std::string> sections;
    // Its choices are of cores.
    if (changed.first == "fp8") return fp8_facts(changed);
    for (const auto& [key, value] : values()) {
      const std::string& now = key == changed ? value.other : value.saved;
      if (now.empty() || key.first == "fp8") continue;
      // What goes with a change.
      if (changed == Key{"layout", "schedule"} && key.second == "chunks") continue;
      if (changed == Key{"expert_load", "kind"} && key.first == "expert_load" &&
          key.second != "kind") {
        continue;
      }
      const std::string line = key.second + ": " + now + "\n";
      if (key.first.empty()) {
        text += line;
      } else {
        sections[key.first] += "  " + line;
      }
    }
    if (sections["training"].find("\n  tokens:") == std::string::npos) {
      sections["training"] += "  tokens: 2B tokens\n";
    }
    for (const auto& [name, lines] : sections) text += name + ":\n" + lines;
    return facts_of_text(text);
  }
  std::vector<Fact> fp8_facts(const Key& changed) {
    std::string text =
        "model: model.yaml\ncluster: localhost.yaml\nlayout: {pp: 1}\ntraining: {micro_batches: 2, "
        "micro_batch_size: 2, sequence_length: 64, precision: fp8}\nfp8:\n";
    for (const auto& [key, value] : values()) {
      if (key.first != "fp8") continue;
      text += "  " + key.second + ": " + (key == changed ? value.other : value.saved) + "\n";
    }
    return facts_of_text(text);
  }
  std::vector<Fact> facts_of_text(const std::string& text) {
    put("plan.yaml", text);
    const Plan plan = load_plan((folder_ / "plan.yaml").string());
    return facts_of(plan, 9, 0x1234);
  }
  fs::path folder_;
};

// Keys that are mappings, or whose values are files of routing and phases, which decide nothing.
bool holds_others(const Key& key) {
  return key.first == "budget.phases" || key.second == "phases" ||
         key == Key{"expert_load", "file"} ||
         (key.first.empty() &&
          (key.second == "layout" || key.second == "training" || key.second == "fp8" ||
           key.second == "data" || key.second == "expert_load" || key.second == "budget"));
}

TEST_F(Identity, EveryKeyOfAPlanChangedOnce) {
  const std::vector<Fact> saved = facts({});
  for (const KeySection& section : plan_keys()) {
    for (const YamlKey& k : section.keys) {
      const Key key{section.name, k.key};
      const auto rule = std::ranges::find_if(resume_rules(), [&](const ResumeRule& r) {
        return r.section == key.first && r.key == key.second;
      });
      ASSERT_NE(rule, resume_rules().end()) << "no rule for " << key.first << "." << key.second;
      fmt::print("{:<36} {:<8} {}\n",
                 key.first.empty() ? key.second : key.first + "." + key.second,
                 kOnResume[rule->on_change],
                 rule->why);
      if (holds_others(key)) continue;
      ASSERT_TRUE(values().contains(key)) << "no values of " << key.first << "." << key.second;
      const std::vector<Difference> found =
          differences(key.first == "fp8" ? fp8_facts({}) : saved, facts(key));
      // By another name the same; and what is computed again matters under FP8 alone (below).
      const bool by_name_alone = key == Key{"", "model"} || key == Key{"data", "text"} ||
                                 key == Key{"training", "recompute"};
      if (rule->on_change == OnResume::kNothing || by_name_alone) {
        EXPECT_TRUE(found.empty()) << key.second << ": " << to_string(found);
        continue;
      }
      bool own = false;
      for (const Difference& d : found) own = own || d.key.ends_with(key.second);
      EXPECT_TRUE(own) << key.first << "." << key.second << ": " << to_string(found);
    }
  }
}

TEST_F(Identity, WhatIsComputedAgainMattersToFp8Alone) {
  const auto facts_with = [&](const char* precision, const char* again) {
    return facts_of_text(
        fmt::format("model: model.yaml\ncluster: localhost.yaml\nlayout: {{pp: 1}}\ntraining: "
                    "{{micro_batches: 2, micro_batch_size: 2, sequence_length: 64, precision: {}, "
                    "recompute: {}}}\n",
                    precision,
                    again));
  };
  EXPECT_TRUE(differences(facts_with("bf16", "none"), facts_with("bf16", "[activations]")).empty());
  EXPECT_TRUE(differences(facts_with("fp8", "none"), facts_with("fp8", "[norms]")).empty());
  const auto found = differences(facts_with("fp8", "none"), facts_with("fp8", "[activations]"));
  ASSERT_EQ(found.size(), 1u);
  EXPECT_EQ(found[0].on_change, OnResume::kRecipe);
}

// Each number of a model that changes a result.
TEST_F(Identity, EveryLineOfAModel) {
  const std::vector<Fact> saved = facts({});
  const std::string model = read_own_file((folder_ / "model.yaml").string());
  for (const auto& [was, is] : std::vector<std::pair<std::string, std::string>>{
           {"rope_theta: 10000", "rope_theta: 5000"},
           {"norm_eps: 1e-6", "norm_eps: 1e-5"},
           {"active_experts: 4", "active_experts: 3"},
           {"routed_scaling: 1.0", "routed_scaling: 2.5"},
           {"score: sigmoid", "score: softmax"}}) {
    std::string changed = model;
    const size_t at = changed.find(was);
    if (at == std::string::npos) {
      // The same key with another value.
      const std::string key = was.substr(0, was.find(':') + 1);
      const size_t begin = changed.find(key);
      ASSERT_NE(begin, std::string::npos) << was;
      const size_t end = changed.find_first_of(",}\n#", begin);
      changed.replace(begin, end - begin, is);
    } else {
      changed.replace(at, was.size(), is);
    }
    put("model.yaml", changed);
    const std::vector<Difference> found = differences(saved, facts({}));
    ASSERT_EQ(found.size(), 1u) << is << ": " << to_string(found);
    EXPECT_EQ(found[0].on_change, OnResume::kModel);
  }
}

TEST(IdentityText, SaysBothSides) {
  const std::vector<Fact> there = {{OnResume::kRecipe, "training.beta1", "0.9"},
                                   {OnResume::kData, "old", "1"}};
  const std::vector<Fact> here = {{OnResume::kRecipe, "training.beta1", "0.8"},
                                  {OnResume::kModel, "new", "2"}};
  EXPECT_EQ(to_string(differences(there, here)),
            "training.beta1 0.9 there, 0.8 here; new not said there, 2 here; old 1 there, not said "
            "here");
}

}  // namespace
}  // namespace rehearse
