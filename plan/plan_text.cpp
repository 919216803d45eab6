// settings_of, print_plan: a plan as the file that load_plan reads.

#include <fmt/format.h>
#include <fmt/ranges.h>

#include "base/yaml.h"
#include "plan/plan.h"

namespace rehearse {
namespace {

std::string recompute_yaml(const Recompute& r) {
  std::vector<std::string_view> parts;
  const auto add = [&](bool is, Recomputable part) {
    if (is) parts.push_back(kRecomputable[part]);
  };
  add(r.norms, Recomputable::kNorms);
  add(r.up_projections, Recomputable::kUpProjections);
  add(r.activations, Recomputable::kActivations);
  add(r.core, Recomputable::kSelective);
  add(r.layer, Recomputable::kFull);
  return parts.empty() ? "none" : fmt::format("[{}]", fmt::join(parts, ", "));
}

// Settings of a mapping; what is as without it is left out.
class Settings {
 public:
  Settings(std::vector<PlanSetting>& out, std::string_view section)
      : out_(out), section_(section) {}
  template <typename T>
  void always(std::string_view key, const T& value) {
    out_.push_back({section_, std::string(key), fmt::format("{}", value)});
  }
  template <typename T>
  void unless(const T& by_default, std::string_view key, const T& value) {
    if (value != by_default) always(key, value);
  }

 private:
  std::vector<PlanSetting>& out_;
  std::string section_;
};

}  // namespace

std::vector<PlanSetting> settings_of(const Plan& plan) {
  const Layout& l = plan.layout;
  const Training& t = plan.training;
  std::vector<PlanSetting> out;
  Settings top(out, "");
  top.always("model", plain_or_quoted_yaml(plan.files.at(1)));
  top.always("cluster", plain_or_quoted_yaml(plan.files.at(2)));
  if (plan.calibration) top.always("calibration", plain_or_quoted_yaml(*plan.calibration));
  {
    const Layout d;
    Settings lines(out, "layout");
    lines.always("pp", l.pp);
    lines.always("dp", l.dp);
    lines.unless(d.ep, "ep", l.ep);
    lines.unless(d.etp, "etp", l.etp);
    lines.unless(d.tp, "tp", l.tp);
    lines.unless(d.cp, "cp", l.cp);
    if (l.rank_order != d.rank_order) lines.always("rank_order", kRankOrders[l.rank_order]);
    lines.always("schedule", name_of(l.schedule));
    if (l.way() == Way::kRoundAgain) lines.always("chunks", l.chunks);
    lines.always("zero_stage", l.zero_stage);
    lines.unless(d.sequence_parallel, "sequence_parallel", l.sequence_parallel);
    if (l.context != d.context) lines.always("context", kContextKinds[l.context]);
    if (l.dispatcher != d.dispatcher) lines.always("dispatcher", kDispatchers[l.dispatcher]);
    lines.unless(d.overlap_grad_reduce, "overlap_grad_reduce", l.overlap_grad_reduce);
    lines.unless(d.overlap_p2p, "overlap_p2p", l.overlap_p2p);
    lines.unless(d.overlap_all_to_all, "overlap_all_to_all", l.overlap_all_to_all);
    lines.always("layers_per_stage", fmt::format("[{}]", fmt::join(l.layers_per_stage, ", ")));
  }
  {
    const Training d;
    Settings lines(out, "training");
    lines.always("micro_batches", t.micro_batches);
    lines.always("micro_batch_size", t.micro_batch_size);
    lines.always("sequence_length", t.sequence_length);
    if (t.tokens) lines.always("tokens", fmt::format("{:.0f} tokens", *t.tokens));
    lines.always("precision", kPrecisions[t.precision]);
    if (t.moments != d.moments) lines.always("moments", kMoments[t.moments]);
    if (t.core != d.core) lines.always("core", kCoreKinds[t.core]);
    lines.always("recompute", recompute_yaml(t.recompute));
    lines.unless(d.steps, "steps", t.steps);
    lines.unless(d.seed, "seed", t.seed);
    lines.unless(d.learning_rate, "learning_rate", t.learning_rate);
    lines.unless(t.learning_rate / 10, "final_learning_rate", t.final_learning_rate);
    lines.unless(d.ramp_from, "ramp_from", t.ramp_from);
    if (t.ramp_tokens) {
      lines.always("ramp_steps", fmt::format("{:.0f} tokens", *t.ramp_tokens));
    } else {
      lines.unless(d.ramp_steps, "ramp_steps", t.ramp_steps);
    }
    lines.unless(d.warmup_steps, "warmup_steps", t.warmup_steps);
    lines.unless(d.constant_steps, "constant_steps", t.constant_steps);
    lines.unless(d.hold_steps, "hold_steps", t.hold_steps);
    lines.unless(d.tail_steps, "tail_steps", t.tail_steps);
    if (t.tail_learning_rate) lines.always("tail_learning_rate", *t.tail_learning_rate);
    lines.unless(d.beta1, "beta1", t.beta1);
    lines.unless(d.beta2, "beta2", t.beta2);
    lines.unless(d.adam_eps, "adam_eps", t.adam_eps);
    lines.unless(d.weight_decay, "weight_decay", t.weight_decay);
    lines.unless(d.gradient_clip, "gradient_clip", t.gradient_clip);
    lines.unless(d.bias_update_speed, "bias_update_speed", t.bias_update_speed);
    lines.unless(d.balance_loss, "balance_loss", t.balance_loss);
    if (t.balance_over != d.balance_over) {
      lines.always("balance_over", kBalanceOvers[t.balance_over]);
    }
    lines.unless(d.ema, "ema", t.ema);
    lines.unless(d.mtp_loss, "mtp_loss", t.mtp_loss);
  }
  if (const Fp8Choices d; t.fp8 != d) {
    const Fp8Choices& c = t.fp8;
    Settings lines(out, "fp8");
    const auto named = [&](const char* key, const auto& names, auto value, auto usual) {
      if (value != usual) lines.always(key, names[value]);
    };
    named("gradient_tiles", kGradientTiles, c.gradient_tiles, d.gradient_tiles);
    named("scales", kFp8Scales, c.scales, d.scales);
    named("swiglu_cache", kSwigluCaches, c.swiglu_cache, d.swiglu_cache);
    named("attention_cache", kAttentionCaches, c.attention_cache, d.attention_cache);
    named("dispatch", kFp8Messages, c.dispatch, d.dispatch);
    named("products", kFp8Products, c.products, d.products);
    lines.unless(d.promotion, "promotion", c.promotion);
    lines.unless(d.accumulator_bits, "accumulator_bits", c.accumulator_bits);
  }
  if (plan.data.text) {
    Settings lines(out, "data");
    lines.always("text", plain_or_quoted_yaml(*plan.data.text));
    if (!plan.data.document_separator.empty()) {
      lines.always("document_separator", quoted_yaml(plan.data.document_separator));
    }
    lines.unless(DataSource{}.fim_rate, "fim_rate", plan.data.fim_rate);
    lines.unless(
        DataSource{}.validation_fraction, "validation_fraction", plan.data.validation_fraction);
  }
  if (plan.routing != Routing::kLearned) top.always("routing", kRoutings[plan.routing]);
  const ExpertLoadSpec& e = plan.expert_load;
  if (!e.balanced()) {
    Settings lines(out, "expert_load");
    lines.always("kind", e.synthetic ? "synthetic" : "recorded");
    if (e.synthetic) lines.always("skew", e.skew);
    if (!e.recorded.empty()) lines.always("file", plain_or_quoted_yaml(e.recorded));
    lines.always("seed", e.seed);
    lines.always("varies", kLoadVaries[e.varies]);
  }
  if (plan.expert_placement) {
    top.always("expert_placement", plain_or_quoted_yaml(*plan.expert_placement));
  }
  const Budget& b = plan.budget;
  if (t.tokens && (b.usd_per_gpu_hour || b.watts_per_gpu)) {
    Settings lines(out, "budget");
    if (b.usd_per_gpu_hour) lines.always("usd_per_gpu_hour", *b.usd_per_gpu_hour);
    if (b.watts_per_gpu) lines.always("watts_per_gpu", *b.watts_per_gpu);
  }
  return out;
}

std::string print_plan(const Plan& plan) {
  std::string out, section;
  for (const PlanSetting& s : settings_of(plan)) {
    if (s.section != section && !s.section.empty()) out += fmt::format("{}:\n", s.section);
    section = s.section;
    out += fmt::format("{}{}: {}\n", section.empty() ? "" : "  ", s.key, s.value);
  }
  return out;
}

}  // namespace rehearse
