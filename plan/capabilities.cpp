#include "plan/capabilities.h"

#include <algorithm>

#include <fmt/format.h>
#include <fmt/ranges.h>

namespace rehearse {

const std::vector<ModelFeature>& model_features() {
  static const std::vector<ModelFeature> table = {
      {"attention sinks", [](const Architecture& a) { return a.sinks; }},
      {"sliding windows (attention.window)",
       [](const Architecture& a) { return a.window.has_value(); }},
      {"a head of normalised rows", [](const Architecture& a) { return a.normalized_head; }},
      {"LayerNorm (norm: layer)", [](const Architecture& a) { return a.norm == NormKind::kLayer; }},
      {"two-matrix MLPs (mlp.kind: gelu)",
       [](const Architecture& a) { return a.mlp == MlpKind::kGelu; }},
      {"biases in projections",
       [](const Architecture& a) {
         return a.qkv_bias || a.output_bias || a.mlp_bias || a.router_bias;
       }},
      {"learned positions (positions > 0)", [](const Architecture& a) { return a.positions > 0; }},
      {"tied embeddings (tie_word_embeddings)",
       [](const Architecture& a) { return a.tied_embeddings; }},
      {"dropout", [](const Architecture& a) { return a.dropout > 0; }},
      {"dense layers between layers with experts (moe_layer_freq and the like)",
       [](const Architecture& a) { return !a.dense.is_leading(); }},
  };
  return table;
}

const std::vector<Capability>& capabilities() {
  static const std::vector<Capability> table = [] {
    std::vector<Capability> list;
    for (const auto& n : kSchedules.entries()) {
      list.push_back(
          {.feature = fmt::format("schedule {}", n.name),
           .simulate = true,
           .cores = true,
           .card = true,
           .uses = [kind = n.value](const Plan& p) { return p.layout.schedule == kind; }});
    }
    // trains: on both.
    const auto add = [&](std::string feature, bool simulate, bool trains, auto uses) {
      list.push_back({std::move(feature), simulate, trains, trains, uses});
    };
    const auto not_on_a_card = [&] { list.back().card = false; };
    add("data parallelism (dp > 1)", true, true, [](const Plan& p) { return p.layout.dp > 1; });
    add("expert parallelism (ep > 1)", true, true, [](const Plan& p) { return p.layout.ep > 1; });
    add("tensor parallelism (tp > 1)", true, false, [](const Plan& p) { return p.layout.tp > 1; });
    add("tensor parallelism of experts (etp > 1)", true, false, [](const Plan& p) {
      return p.layout.etp > 1;
    });
    add("context parallelism (cp > 1)", true, false, [](const Plan& p) { return p.layout.cp > 1; });
    add("dispatcher all_to_all or all_gather", true, false, [](const Plan& p) {
      return p.layout.dispatcher != Dispatcher::kTwoHop;
    });
    add("overlap_grad_reduce, overlap_all_to_all, overlap_p2p: false",
        true,
        false,
        [](const Plan& p) {
          return p.layout.overlap_grad_reduce || p.layout.overlap_all_to_all ||
                 !p.layout.overlap_p2p;
        });
    add("empty stages", true, true, [](const Plan& p) {
      return std::ranges::count(p.layout.layers_per_stage, 0) > 0;
    });
    add("recomputation of norms, MLA's up-projections, activations", true, true, [](const Plan& p) {
      const Recompute& r = p.training.recompute;
      return r.norms || r.up_projections || r.activations;
    });
    add("grouped-query attention (attention.kind: grouped)", true, true, [](const Plan& p) {
      return p.model.architecture.attention == AttentionKind::kGrouped;
    });
    add("recomputation of whole layers or attention's core", true, false, [](const Plan& p) {
      return p.training.recompute.layer || p.training.recompute.core;
    });
    for (const int64_t stage : {0, 1, 2, 3}) {
      add(fmt::format("zero_stage {}", stage), true, stage < 2, [stage](const Plan& p) {
        return p.layout.zero_stage == stage;
      });
    }
    for (const auto& n : kPrecisions.entries()) {
      const bool gpus = bytes_of(n.value).linears.has_value();
      add(fmt::format("precision {}{}", n.name, gpus ? "" : " (not on GPUs)"),
          true,
          true,
          [value = n.value](const Plan& p) { return p.training.precision == value; });
    }
    add("sums of tensor cores imitated (fp8.products: tensor_core)", true, true, [](const Plan& p) {
      return p.training.precision == Precision::kFp8 &&
             p.training.fp8.products == Fp8Products::kTensorCore;
    });
    not_on_a_card();
    for (const ModelFeature& f : model_features()) {
      add(f.name, true, false, [uses = f.uses](const Plan& p) {
        return uses(p.model.architecture);
      });
    }
    add("multi-token prediction (mtp_depth > 0)", true, true, [](const Plan& p) {
      return p.model.architecture.mtp_depth > 0;
    });
    add("RoPE scaled by YaRN (rope_scaling: yarn, with its numbers)",
        true,
        true,
        [](const Plan& p) { return p.model.yarn.has_value(); });
    add("RoPE scaled otherwise, or by YaRN without its numbers", true, false, [](const Plan& p) {
      return p.model.rope_scaling && !p.model.yarn;
    });
    add("cluster of CPUs", true, true, [](const Plan& p) { return p.cluster.on_cores(); });
    add("emulated cluster", true, true, [](const Plan& p) { return p.cluster.emulated(); });
    not_on_a_card();
    add("cluster of GPUs", true, true, [](const Plan& p) { return p.cluster.of_gpus(); });
    return list;
  }();
  return table;
}

namespace {

void require(const Plan& plan, bool Capability::*able, std::string_view does) {
  std::vector<std::string> missing;
  for (const Capability& c : capabilities()) {
    if (!(c.*able) && c.uses(plan)) missing.push_back(c.feature);
  }
  if (missing.empty()) return;
  throw InputError(fmt::format(
      "{}: this version cannot {} a plan with {}; `rehearse inspect --capabilities` lists what it "
      "can",
      plan.path,
      does,
      fmt::join(missing, ", ")));
}

}  // namespace

TrainOn trained_on(const Plan& plan) {
  return plan.cluster.of_gpus() ? TrainOn::kCard : TrainOn::kCores;
}

void require_simulate(const Plan& plan) {
  require(plan, &Capability::simulate, "simulate");
}
void require_train(const Plan& plan, TrainOn on) {
  if (on == TrainOn::kCores) return require(plan, &Capability::cores, "train on cores");
  require(plan, &Capability::card, "train on a card");
}

}  // namespace rehearse
