// Two plans compared: every key by which they differ is told, and ties are of the difference.

#include "cli/plan_comparison.h"

#include <cmath>
#include <map>
#include <set>

#include <nlohmann/json.hpp>

#include "plan/keys.h"
#include "sim/predict.h"
#include "tests/command.h"

namespace rehearse {
namespace {

class PlanComparison : public CommandTest {
 protected:
  using Keys = std::map<std::string, std::string>;
  struct Text {
    Keys layout, training, top;
  };
  static Text plain() {
    return {.layout = {{"pp", "4"}, {"dp", "4"}, {"ep", "4"}, {"tp", "2"}},
            .training = {{"micro_batches", "16"},
                         {"micro_batch_size", "1"},
                         {"sequence_length", "4096"},
                         {"precision", "bf16"},
                         {"recompute", "none"}},
            .top = {{"model", "qwen3-30b-a3b.yaml"}, {"cluster", "h100-1024.yaml"}}};
  }
  std::string plan(const std::string& name, const Text& text) {
    const auto mapping = [](const Keys& keys) {
      std::string out;
      for (const auto& [key, value] : keys) {
        out += (out.empty() ? "" : ", ") + key + ": " + value;
      }
      return "{" + out + "}\n";
    };
    std::string file;
    for (const auto& [key, value] : text.top) file += key + ": " + value + "\n";
    file += "layout: " + mapping(text.layout) + "training: " + mapping(text.training);
    write(name, file);
    return (folder_ / name).string();
  }
  std::set<std::string> differing(const Text& a, const Text& b) {
    std::set<std::string> names;
    const Plan x = load_plan(plan("a.yaml", a));
    const Plan y = load_plan(plan("b.yaml", b));
    for (const cli::PlanDifference& d : cli::plan_differences(x, y)) {
      EXPECT_NE(d.a, d.b) << d.setting;
      names.insert(d.setting);
    }
    return names;
  }
  nlohmann::json compared(const Text& a, const Text& b) {
    plan("a.yaml", a);
    plan("b.yaml", b);
    const CommandResult r = rehearse("plan --compare a.yaml b.yaml --json");
    EXPECT_EQ(r.exit_code, 0) << r.err;
    return r.exit_code == 0 ? nlohmann::json::parse(r.out) : nlohmann::json();
  }
};

// A key of layout or training that somebody adds has no value here, and this fails until it has.
TEST_F(PlanComparison, EveryKeyThatDiffersIsTold) {
  const Keys other = {{"pp", "2"},
                      {"dp", "2"},
                      {"ep", "2"},
                      {"tp", "1"},
                      {"cp", "2"},
                      {"etp", "2"},
                      {"rank_order", "tp-cp-ep-pp-dp"},
                      {"context", "ring"},
                      {"dispatcher", "all_to_all"},
                      {"schedule", "zb1p"},
                      {"layers_per_stage", "[10, 12, 12, 14]"},
                      {"zero_stage", "3"},
                      {"overlap_grad_reduce", "true"},
                      {"overlap_p2p", "false"},
                      {"overlap_all_to_all", "true"},
                      {"micro_batches", "32"},
                      {"micro_batch_size", "2"},
                      {"sequence_length", "8192"},
                      {"tokens", "1T tokens"},
                      {"precision", "fp8"},
                      {"moments", "bf16"},
                      {"core", "unfused"},
                      {"recompute", "[full]"},
                      {"steps", "7"},
                      {"ramp_from", "16"},
                      {"ramp_steps", "5"},
                      {"seed", "9"},
                      {"learning_rate", "0.1"},
                      {"final_learning_rate", "0.05"},
                      {"warmup_steps", "3"},
                      {"constant_steps", "3"},
                      {"hold_steps", "3"},
                      {"tail_steps", "3"},
                      {"tail_learning_rate", "0.2"},
                      {"beta1", "0.8"},
                      {"beta2", "0.9"},
                      {"adam_eps", "1e-9"},
                      {"weight_decay", "0.2"},
                      {"gradient_clip", "2"},
                      {"bias_update_speed", "0.1"},
                      {"balance_loss", "0.1"},
                      {"balance_over", "micro_batch"},
                      {"ema", "0.9"},
                      {"mtp_loss", "0.1"}};
  for (const char* section : {"layout", "training"}) {
    for (const YamlKey& key : plan_keys(section)) {
      Text a = plain(), b = plain();
      const auto keys = [&](Text& t) -> Keys& {
        return std::string(section) == "layout" ? t.layout : t.training;
      };
      if (key.key == "chunks") {
        a.layout["schedule"] = b.layout["schedule"] = "interleaved-1f1b";
        b.layout["chunks"] = "3";
      } else if (key.key == "sequence_parallel") {
        for (Text* t : {&a, &b}) {
          t->top["model"] = "llama-3.1-8b.yaml";
          t->layout.erase("ep");
        }
        b.layout["sequence_parallel"] = "false";
      } else {
        ASSERT_TRUE(other.contains(key.key)) << key.key << " has no other value here";
        // What stands only beside something else, which both plans then have.
        if (key.key.starts_with("ramp_")) {
          a.training["ramp_from"] = b.training["ramp_from"] = "32";
          a.training["ramp_steps"] = b.training["ramp_steps"] = "4";
        }
        if (key.key == "tail_learning_rate")
          a.training["tail_steps"] = b.training["tail_steps"] = "2";
        keys(b)[key.key] = other.at(key.key);
      }
      EXPECT_TRUE(differing(a, b).contains(key.key)) << key.key;
    }
  }
}

TEST_F(PlanComparison, WhatElseAPlanSays) {
  Text b = plain();
  EXPECT_EQ(differing(plain(), b), std::set<std::string>{});
  b.top["expert_load"] = "{kind: synthetic, skew: 0.5}";
  EXPECT_EQ(differing(plain(), b), (std::set<std::string>{"expert_load.kind", "expert_load.skew"}));
  b = plain();
  b.top["routing"] = "balanced";
  EXPECT_EQ(differing(plain(), b), std::set<std::string>{"routing"});
  b = plain();
  b.top["cluster"] = "h200-1024.yaml";
  EXPECT_EQ(differing(plain(), b), std::set<std::string>{"cluster"});
  b = plain();
  b.top["model"] = "mixtral-8x7b.yaml";
  EXPECT_TRUE(differing(plain(), b).contains("model"));
  // Two phases, and other ones.
  Text a = plain();
  b = plain();
  a.top["budget"] = "{phases: [{name: x, tokens: 1T tokens, batches: [64]}]}";
  b.top["budget"] = "{phases: [{name: x, tokens: 2T tokens, batches: [64]}]}";
  EXPECT_EQ(differing(a, b), std::set<std::string>{"budget.phases"});
  // A copy of the model's file under another name is the same model.
  const std::string models = std::string(REHEARSE_SOURCE_DIR) + "/models/";
  write("copy.yaml", read_file(models + "qwen3-30b-a3b.yaml"));
  b = plain();
  b.top["model"] = "copy.yaml";
  EXPECT_EQ(differing(plain(), b), std::set<std::string>{});
}

// Prices of one device are off by as much in both plans: a bubble of one third is no matter of
// theirs, and the interval of the ratio is narrower than the steps' own.
TEST_F(PlanComparison, TiesAreOfTheDifference) {
  Text b = plain();
  b.layout["layers_per_stage"] = "[24, 8, 8, 8]";
  nlohmann::json j = compared(plain(), b);
  EXPECT_FALSE(j["tied"]);
  const double ratio = 1 + j["b_over_a_per_token"].get<double>();
  const double low = 1 + j["b_over_a_interval"][0].get<double>();
  const double high = 1 + j["b_over_a_interval"][1].get<double>();
  EXPECT_GT(ratio, 1.3);
  EXPECT_GT(low, 1);
  EXPECT_NEAR(std::log(high / ratio), std::log(ratio / low), 1e-9);
  const auto own = [&](size_t i) {
    const auto& s = j["plans"][i];
    return s["interval_s"][1].get<double>() / s["interval_s"][0].get<double>();
  };
  EXPECT_LT(high / low, 0.7 * own(0));
  EXPECT_LT(high / low, 0.7 * own(1));
  // The steps' own intervals do touch.
  EXPECT_GT(j["plans"][0]["interval_s"][1], j["plans"][1]["interval_s"][0]);
  // The same twice is a tie, of no difference.
  j = compared(plain(), plain());
  EXPECT_TRUE(j["tied"]);
  EXPECT_EQ(j["b_over_a_per_token"], 0);
  EXPECT_EQ(j["differences"].size(), 0u);
  const CommandResult same = rehearse("plan --compare a.yaml b.yaml -q");
  EXPECT_NE(same.out.find("the plans are the same: no key of theirs differs"), std::string::npos);
  // What changes nothing of a step is a tie all the same, and told.
  b = plain();
  b.training["seed"] = "5";
  j = compared(plain(), b);
  EXPECT_TRUE(j["tied"]);
  EXPECT_EQ(j["differences"][0]["setting"], "seed");
  EXPECT_EQ(j["differences"][0]["b"], 5);
}

// Errors of two devices are not each other's.
TEST_F(PlanComparison, PricesOfTwoCalibrationsAreOffByThemselves) {
  const Plan p = load_plan(plan("a.yaml", plain()));
  const Calibration c =
      load_calibration(std::string(REHEARSE_SOURCE_DIR) + "/topologies/devices/h100.yaml");
  const std::optional<Calibration> priced = c, none;
  EXPECT_NEAR(ratio_spread({p, priced}, {p, priced}, true), 0, 1e-12);
  const double apart = ratio_spread({p, priced}, {p, priced}, false);
  const StepPrediction own = predict(p, build_program(p), priced);
  const double spread = std::log(own.high.seconds() / own.low.seconds()) / (2 * 1.645);
  EXPECT_NEAR(apart, std::sqrt(2.0) * spread, 0.02 * spread);
  EXPECT_NEAR(ratio_spread({p, none}, {p, priced}, false), spread, 0.02 * spread);
  EXPECT_EQ(ratio_spread({p, none}, {p, none}, true), 0);
}

}  // namespace
}  // namespace rehearse
