#include "runtime/checkpoints/identity.h"

#include <algorithm>
#include <sstream>

#include <fmt/format.h>
#include <fmt/ranges.h>

#include "base/yaml.h"
#include "plan/keys.h"

namespace rehearse {

namespace {

using enum OnResume;
using Value = std::function<std::string(const Plan&)>;

template <typename T>
Value of_training(T Training::*member) {
  return [member](const Plan& p) { return fmt::format("{}", p.training.*member); };
}
template <typename T>
Value of_layout(T Layout::*member) {
  return [member](const Plan& p) { return fmt::format("{}", p.layout.*member); };
}
template <typename T>
Value of_data(T DataSource::*member) {
  return [member](const Plan& p) { return fmt::format("{}", p.data.*member); };
}

std::string ramp_steps(const Plan& p) {
  return p.training.ramp_tokens ? fmt::format("{} tokens", *p.training.ramp_tokens)
                                : fmt::format("{}", p.training.ramp_steps);
}

std::string tail_rate(const Plan& p) {
  return fmt::format("{}", p.training.tail_learning_rate.value_or(p.training.final_learning_rate));
}

std::string moments(const Plan& p) {
  return bytes_of(p.training).moment == 2 ? "bf16" : "fp32";
}

// SwiGLU's output computed again has other bits where its inputs were cached in FP8.
std::string swiglu_again(const Plan& p) {
  const Training& t = p.training;
  const bool cached = t.precision == Precision::kFp8 && t.fp8.swiglu_cache == SwigluCache::kFp8;
  return cached && t.recompute.activations ? "activations from FP8" : "the same bits";
}

// A micro-batch's size matters to a loss that is taken over micro-batches alone.
std::string balance_over(const Plan& p) {
  const Training& t = p.training;
  return t.balance_over == BalanceOver::kSequence
             ? "sequence"
             : fmt::format("micro_batch of {} x {} tokens", t.micro_batch_size, t.sequence_length);
}

std::vector<ResumeRule> rules_of_training() {
  const std::string rate = "the learning rate of the steps to come follows from it";
  const std::string of_adamw = "how AdamW goes on";
  const std::string price = "what simulated GPUs take for it";
  const std::string cut = "how a step's sequences are cut; how many there are is data's";
  using T = Training;
  const auto name_of_precision = [](const Plan& p) {
    return std::string(kPrecisions[p.training.precision]);
  };
  const char* const s = "training";
  return {
      {s, "micro_batches", kLayout, cut, of_training(&T::micro_batches)},
      {s, "micro_batch_size", kLayout, cut, of_training(&T::micro_batch_size)},
      {s, "sequence_length", kData, "the text's windows", of_training(&T::sequence_length)},
      {s, "tokens", kNothing, "of GPU-hours alone"},
      {s, "precision", kRecipe, "of products and of what is kept", name_of_precision},
      {s, "moments", kRecipe, "what AdamW's moments are rounded to", moments},
      {s, "core", kNothing, price},
      {s,
       "recompute",
       kRecipe,
       "the same bits; but under FP8 SwiGLU's output follows from what was cached",
       swiglu_again},
      {s, "steps", kRecipe, rate, of_training(&T::steps)},
      {s, "ramp_from", kRecipe, "how large the batches to come are", of_training(&T::ramp_from)},
      {s, "ramp_steps", kRecipe, "how large the batches to come are", ramp_steps},
      {s, "seed", kData, "the order of the text", of_training(&T::seed)},
      {s, "learning_rate", kRecipe, rate, of_training(&T::learning_rate)},
      {s, "final_learning_rate", kRecipe, rate, of_training(&T::final_learning_rate)},
      {s, "warmup_steps", kRecipe, rate, of_training(&T::warmup_steps)},
      {s, "constant_steps", kRecipe, rate, of_training(&T::constant_steps)},
      {s, "hold_steps", kRecipe, rate, of_training(&T::hold_steps)},
      {s, "tail_steps", kRecipe, rate, of_training(&T::tail_steps)},
      {s, "tail_learning_rate", kRecipe, rate, tail_rate},
      {s, "beta1", kRecipe, of_adamw, of_training(&T::beta1)},
      {s, "beta2", kRecipe, of_adamw, of_training(&T::beta2)},
      {s, "adam_eps", kRecipe, of_adamw, of_training(&T::adam_eps)},
      {s, "weight_decay", kRecipe, of_adamw, of_training(&T::weight_decay)},
      {s, "gradient_clip", kRecipe, of_adamw, of_training(&T::gradient_clip)},
      {s,
       "bias_update_speed",
       kRecipe,
       "how balancing goes on",
       of_training(&T::bias_update_speed)},
      {s, "balance_loss", kRecipe, "the loss", of_training(&T::balance_loss)},
      {s, "balance_over", kRecipe, "the loss", balance_over},
      {s, "ema", kRecipe, "the moving average that is kept aside", of_training(&T::ema)},
      {s, "mtp_loss", kRecipe, "the loss", of_training(&T::mtp_loss)},
  };
}

// Of another precision they are the report's whatever the plan says.
std::vector<ResumeRule> rules_of_fp8() {
  const auto named = [](const auto& names, auto member) {
    return [&names, member](const Plan& p) { return std::string(names[p.training.fp8.*member]); };
  };
  const auto number = [](int64_t Fp8Choices::*member) {
    return [member](const Plan& p) { return fmt::format("{}", p.training.fp8.*member); };
  };
  using F = Fp8Choices;
  const char* const s = "fp8";
  const std::string rounding = "what products' operands are rounded to";
  const std::string cached = "what backward reads";
  const std::string sums = "how products are summed";
  return {
      {s, "gradient_tiles", kRecipe, rounding, named(kGradientTiles, &F::gradient_tiles)},
      {s, "scales", kRecipe, rounding, named(kFp8Scales, &F::scales)},
      {s, "swiglu_cache", kRecipe, cached, named(kSwigluCaches, &F::swiglu_cache)},
      {s, "attention_cache", kRecipe, cached, named(kAttentionCaches, &F::attention_cache)},
      {s, "dispatch", kRecipe, rounding, named(kFp8Messages, &F::dispatch)},
      {s, "products", kRecipe, sums, named(kFp8Products, &F::products)},
      {s, "promotion", kRecipe, sums, number(&F::promotion)},
      {s, "accumulator_bits", kRecipe, sums, number(&F::accumulator_bits)},
  };
}

std::vector<ResumeRule> rules_of_layout() {
  const std::string ranks = "which ranks do what: the same result within rounding";
  const std::string simulated = "simulated alone";
  using L = Layout;
  const char* const s = "layout";
  return {
      {s, "pp", kLayout, ranks, of_layout(&L::pp)},
      {s, "dp", kLayout, ranks, of_layout(&L::dp)},
      {s, "ep", kLayout, ranks, of_layout(&L::ep)},
      {s, "tp", kLayout, ranks, of_layout(&L::tp)},
      {s, "cp", kLayout, ranks, of_layout(&L::cp)},
      {s, "etp", kLayout, ranks, of_layout(&L::etp)},
      {s,
       "rank_order",
       kLayout,
       ranks,
       [](const Plan& p) { return std::string(kRankOrders[p.layout.rank_order]); }},
      {s, "sequence_parallel", kNothing, simulated},
      {s, "context", kNothing, simulated},
      {s,
       "dispatcher",
       kLayout,
       ranks,
       [](const Plan& p) { return std::string(kDispatchers[p.layout.dispatcher]); }},
      {s,
       "schedule",
       kLayout,
       ranks,
       [](const Plan& p) { return std::string(name_of(p.layout.schedule)); }},
      {s,
       "chunks",
       kLayout,
       ranks,
       [](const Plan& p) {
         return fmt::format("{}", p.layout.way() == Way::kRoundAgain ? p.layout.chunks : 1);
       }},
      {s,
       "layers_per_stage",
       kLayout,
       ranks,
       [](const Plan& p) { return fmt::format("{}", fmt::join(p.layout.layers_per_stage, ", ")); }},
      {s, "zero_stage", kLayout, ranks, of_layout(&L::zero_stage)},
      {s, "overlap_grad_reduce", kNothing, "when sums are taken, not which"},
      {s, "overlap_p2p", kNothing, "when messages travel, not which"},
      {s, "overlap_all_to_all", kLayout, ranks, of_layout(&L::overlap_all_to_all)},
  };
}

std::vector<ResumeRule> make_rules() {
  const std::string documents = "how the text becomes training and held-out tokens";
  std::vector<ResumeRule> rules = {
      {"", "model", kModel, "by every line of its description; its name decides nothing"},
      {"", "cluster", kNothing, "where it runs"},
      {"", "calibration", kNothing, "of predictions"},
      {"", "layout", kLayout, "by its keys"},
      {"", "training", kRecipe, "by its keys"},
      {"", "fp8", kRecipe, "by its keys"},
      {"", "data", kData, "by its keys"},
      {"",
       "routing",
       kRecipe,
       "who chooses experts",
       [](const Plan& p) { return std::string(kRoutings[p.routing]); }},
      {"", "expert_load", kNothing, "of predictions"},
      {"",
       "expert_placement",
       kLayout,
       "which ranks hold which experts: the same result within rounding",
       [](const Plan& p) { return p.expert_placement.value_or("in order"); }},
      {"", "budget", kNothing, "of predictions"},
      {"data", "text", kData, "by its bytes and their checksum; its name decides nothing"},
      {"data", "document_separator", kData, documents, of_data(&DataSource::document_separator)},
      {"data", "fim_rate", kData, documents, of_data(&DataSource::fim_rate)},
      {"data", "validation_fraction", kData, documents, of_data(&DataSource::validation_fraction)},
  };
  for (auto&& more : {rules_of_training(), rules_of_fp8(), rules_of_layout()}) {
    rules.insert(rules.end(), more.begin(), more.end());
  }
  for (const char* section : {"expert_load", "budget", "budget.phases"}) {
    for (const YamlKey& k : plan_keys(section)) {
      rules.push_back({section, k.key, kNothing, "of predictions"});
    }
  }
  return rules;
}

// Every value of the model's description but its name, by the path of its key: parse(print(m)) is
// m, so that nothing is left out.
std::vector<Fact> facts_of(const Model& model) {
  std::vector<Fact> facts;
  for (const auto& [key, value] : YamlFile::parse(print_model(model), "the model").leaves()) {
    if (key != "name") facts.push_back({kModel, "model." + key, value});
  }
  return facts;
}

}  // namespace

const std::vector<ResumeRule>& resume_rules() {
  static const std::vector<ResumeRule> rules = make_rules();
  return rules;
}

std::vector<Fact> facts_of(const Plan& plan, int64_t text_bytes, uint32_t text_checksum) {
  std::vector<Fact> facts = facts_of(plan.model);
  const Training& t = plan.training;
  facts.push_back({kData, "bytes of text", fmt::format("{}", text_bytes)});
  facts.push_back({kData, "the text's CRC-32", fmt::format("{:08x}", text_checksum)});
  facts.push_back({kData,
                   "sequences per step",
                   fmt::format("{}", t.micro_batches * t.micro_batch_size * plan.layout.dp)});
  for (const ResumeRule& rule : resume_rules()) {
    if (!rule.value) continue;
    facts.push_back({rule.on_change,
                     rule.section.empty() ? rule.key : rule.section + "." + rule.key,
                     rule.value(plan)});
  }
  return facts;
}

std::vector<Difference> differences(const std::vector<Fact>& there, const std::vector<Fact>& here) {
  constexpr const char* kNotSaid = "not said";
  std::vector<Difference> list;
  for (const Fact& own : here) {
    const auto other = std::ranges::find(there, own.key, &Fact::key);
    const std::string value = other == there.end() ? kNotSaid : other->value;
    if (value != own.value) list.push_back({own.on_change, own.key, value, own.value});
  }
  for (const Fact& other : there) {
    if (std::ranges::find(here, other.key, &Fact::key) != here.end()) continue;
    list.push_back({other.on_change, other.key, other.value, kNotSaid});
  }
  return list;
}

std::string to_string(const std::vector<Difference>& list) {
  std::vector<std::string> parts;
  for (const Difference& d : list) {
    parts.push_back(fmt::format("{} {} there, {} here", d.key, d.there, d.here));
  }
  return fmt::format("{}", fmt::join(parts, "; "));
}

}  // namespace rehearse
