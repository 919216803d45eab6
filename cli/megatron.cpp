#include "cli/megatron.h"

#include <algorithm>

#include <fmt/format.h>
#include <fmt/ranges.h>

#include "cli/megatron_stages.h"

namespace rehearse::cli {
namespace {

// Of the layout's ranks, virtual stages as they go: two, with overlapped all-to-alls where
// Megatron-LM has them; or none.
Candidate in_virtual_stages(const Plan& base, const Candidate& c) {
  Candidate virtual_stages = c;
  Layout& l = virtual_stages.layout;
  l.schedule = ScheduleKind::kInterleaved;
  l.chunks = 2;
  const std::vector<int64_t> own = l.layers_per_stage;
  if (static_cast<int64_t>(own.size()) != l.stages()) {
    l.layers_per_stage = even_layers(base.model.architecture.layers, l.stages());
  }
  l.overlap_all_to_all = true;
  if (!no_overlapped_all_to_alls(base, virtual_stages).empty()) l.overlap_all_to_all = false;
  return virtual_stages;
}

Candidate in_1f1b(const Plan& base, const Candidate& c) {
  Candidate plain = c;
  Layout& l = plain.layout;
  l.schedule = ScheduleKind::k1F1B;
  l.chunks = Layout().chunks;
  l.overlap_all_to_all = false;
  if (static_cast<int64_t>(l.layers_per_stage.size()) != l.stages()) {
    l.layers_per_stage = even_layers(base.model.architecture.layers, l.stages());
  }
  return plain;
}

bool is_legal(const Plan& base, const Candidate& c) {
  return why_not(plan_of(base, c)).empty();
}

// The nearest layout that Megatron-LM runs, and why it is not `c` itself.
class Nearest {
 public:
  Nearest(const Plan& base, const Candidate& c) : base_(base), runs_(c) {
    settle_schedule();
    settle_overlaps();
    settle_recompute();
    settle_rest();
  }
  MegatronLine line() const { return {.runs = runs_, .is_other = is_other_, .notes = notes_}; }

 private:
  // Another layout than the one asked for, and why.
  void depart(std::string why) {
    is_other_ = true;
    notes_.push_back(std::move(why));
  }
  void settle_schedule() {
    const Layout was = runs_.layout;
    const bool own = was.way() == Way::kOnce || was.way() == Way::kRoundAgain;
    if (own && was.schedule != ScheduleKind::kZB1P) {
      if (was.schedule != ScheduleKind::kInterleaved || was.pp > 1) return;
      runs_ = in_1f1b(base_, runs_);
      depart("Megatron-LM wants several pipeline ranks for virtual stages: 1f1b");
      return;
    }
    const Candidate virtual_stages = in_virtual_stages(base_, runs_);
    const bool pairs = !own && was.pp > 1;  // F and B of a pair share all-to-alls and computation
    runs_ = pairs && is_legal(base_, virtual_stages) ? virtual_stages : in_1f1b(base_, runs_);
    const Layout& l = runs_.layout;
    depart(fmt::format(
        "Megatron-LM has no {}: the nearest that it runs is {}{}{}",
        name_of(was.schedule),
        name_of(l.schedule),
        l.way() == Way::kRoundAgain ? fmt::format(" x{}", l.chunks) : "",
        l.overlap_all_to_all ? " with all-to-alls beside another micro-batch's computation" : ""));
  }

  void settle_overlaps() {
    Layout& l = runs_.layout;
    if (l.overlap_all_to_all) {
      const std::string why = no_overlapped_all_to_alls(base_, runs_);
      if (!why.empty()) {
        const Candidate virtual_stages = in_virtual_stages(base_, runs_);
        const bool helps = l.schedule == ScheduleKind::k1F1B && l.pp > 1 &&
                           virtual_stages.layout.overlap_all_to_all &&
                           is_legal(base_, virtual_stages);
        if (helps) {
          runs_ = virtual_stages;
        } else {
          runs_.layout.overlap_all_to_all = false;
        }
        depart(fmt::format("--overlap-moe-expert-parallel-comm: Megatron-LM {}: {}",
                           why,
                           helps ? "told here with two virtual stages" : "left out"));
      }
    }
    if (!runs_.layout.overlap_p2p && runs_.layout.way() == Way::kRoundAgain &&
        runs_.layout.pp == 2) {
      runs_.layout.overlap_p2p = true;
      depart(
          "--no-overlap-p2p-communication: Megatron-LM refuses it with virtual stages on two "
          "pipeline ranks: left out");
    }
  }

  void settle_recompute() {
    const Architecture& a = base_.model.architecture;
    Recompute& r = runs_.recompute;
    if (r.layer) {
      r = {.norms = false, .up_projections = false, .activations = false, .layer = true};
      return;
    }
    if (r.activations && a.experts == 0) {
      r.activations = false;
      depart("Megatron-LM computes no activation of a dense FFN again without its products: kept");
    } else if (r.activations && a.dense_layers() > 0) {
      notes_.emplace_back(
          "moe_act is of experts: dense layers' activations, computed again here, are kept there");
    }
    // Without latent attention they say nothing.
    if (a.attention != AttentionKind::kLatent) r.up_projections = r.norms && r.activations;
  }

  void settle_rest() {
    Layout& l = runs_.layout;
    const int64_t sms = base_.cluster.communication_sms;
    const bool deepep = base_.model.architecture.experts > 0 && l.dispatcher == Dispatcher::kTwoHop;
    if (runs_.communication_sms != sms && !deepep) {
      depart(
          fmt::format("{} communication SMs: no argument of Megatron-LM's sets them for "
                      "NCCL (its environment does: NCCL_MAX_CTAS)",
                      runs_.communication_sms));
      runs_.communication_sms = sms;
    }
    if (l.cp == 1) l.context = base_.layout.context;
    if (base_.model.architecture.experts == 0) l.dispatcher = base_.layout.dispatcher;
    if (l.tp == 1) l.sequence_parallel = true;
    if (l.way() != Way::kRoundAgain) l.chunks = Layout().chunks;
  }

  const Plan& base_;
  Candidate runs_;
  bool is_other_ = false;
  std::vector<std::string> notes_;
};

std::string expert_arguments(const Plan& base, const Candidate& c) {
  const Layout& l = c.layout;
  const Architecture& a = base.model.architecture;
  if (a.experts == 0) return "";
  std::string text = fmt::format(
      " --expert-model-parallel-size {} --expert-tensor-parallel-size {} --num-experts {} "
      "--moe-router-topk {} --moe-grouped-gemm --moe-token-dispatcher-type {}",
      l.ep,
      l.etp,
      a.experts,
      a.active_experts,
      l.dispatcher == Dispatcher::kAllGather  ? "allgather"
      : l.dispatcher == Dispatcher::kAllToAll ? "alltoall"
                                              : "flex --moe-enable-deepep");
  if (l.dispatcher == Dispatcher::kTwoHop &&
      c.communication_sms != base.cluster.communication_sms) {
    text += fmt::format(" --moe-deepep-num-sms {}", c.communication_sms);
  }
  if (l.overlap_all_to_all) text += " --overlap-moe-expert-parallel-comm";
  return text;
}

std::string sharding_arguments(const Layout& l) {
  std::string text;
  if (l.zero_stage >= 1) text += " --use-distributed-optimizer";
  if (l.zero_stage >= 2) {
    text += fmt::format(
        " --use-megatron-fsdp --data-parallel-sharding-strategy {} --ckpt-format fsdp_dtensor",
        l.zero_stage == 2 ? "optim_grads" : "optim_grads_params");
  }
  if (l.overlap_grad_reduce) text += " --overlap-grad-reduce";
  return text;
}

std::string recompute_arguments(const Architecture& a, const Recompute& r) {
  if (r.layer) {
    return " --recompute-granularity full --recompute-method uniform --recompute-num-layers 1";
  }
  std::vector<std::string_view> modules;
  if (r.norms) modules.emplace_back("layernorm");
  if (r.up_projections && a.attention == AttentionKind::kLatent) {
    modules.emplace_back("mla_up_proj");
  }
  if (r.activations) modules.emplace_back("moe_act");
  if (r.core) modules.emplace_back("core_attn");
  if (modules.empty()) return "";
  return fmt::format(" --recompute-granularity selective --recompute-modules {}",
                     fmt::join(modules, " "));
}

std::string number_arguments(const Candidate& c) {
  if (c.precision != Precision::kFp8) return " --bf16";
  return " --bf16 --fp8-format e4m3 --fp8-recipe blockwise" +
         std::string(c.layout.zero_stage >= 1 ? " --fp8-param-gather" : "");
}

// AdamW's moments in BF16, which Megatron-LM has with a distributed optimizer alone.
std::string moment_arguments(const Plan& base, MegatronLine& line) {
  Training told = base.training;
  told.precision = line.runs.precision;
  const bool halves = bytes_of(told).moment == 2;
  const bool sharded = line.runs.layout.zero_stage >= 1;
  if (!sharded && line.runs.precision == Precision::kFp8) {
    line.notes.emplace_back(
        "weights and moments in fewer bytes want --use-distributed-optimizer in Megatron-LM: "
        "without ZeRO it needs more memory than is told here");
  } else if (!sharded && halves) {
    line.notes.emplace_back(
        "BF16 moments want --use-distributed-optimizer in Megatron-LM: without ZeRO it needs more "
        "memory than is told here");
  }
  if (!halves || !sharded) return "";
  return " --use-precision-aware-optimizer --exp-avg-dtype bf16 --exp-avg-sq-dtype bf16";
}

}  // namespace

std::string no_overlapped_all_to_alls(const Plan& base, const Candidate& c) {
  const Layout& l = c.layout;
  if (l.ep == 1) return "wants expert parallelism of more than one rank";
  if (l.dispatcher == Dispatcher::kAllGather) return "wants the alltoall or the flex dispatcher";
  if (c.recompute.layer) return "wants no full recomputation";
  if (base.model.architecture.mtp_depth > 1) return "wants one MTP module at most";
  if (l.pp > 1 && l.way() != Way::kRoundAgain) {
    return "wants virtual stages where there are several pipeline ranks";
  }
  return "";
}

MegatronLine megatron_line(const Plan& base, const Candidate& candidate) {
  MegatronLine line = Nearest(base, candidate).line();
  const Candidate& c = line.runs;
  const Layout& l = c.layout;
  const Architecture& a = base.model.architecture;
  std::string text = fmt::format(
      "--tensor-model-parallel-size {} --pipeline-model-parallel-size {} --context-parallel-size "
      "{} --micro-batch-size {} --global-batch-size {} --seq-length {}",
      l.tp,
      l.pp,
      l.cp,
      c.micro_batch_size,
      c.batch,
      c.sequence);
  if (l.stages() > 1) {
    text += stage_arguments(
        l.layers_per_stage, l.pp, l.way() == Way::kRoundAgain ? l.chunks : 1, a.mtp_depth);
  }
  if (a.mtp_depth > 0) text += fmt::format(" --mtp-num-layers {}", a.mtp_depth);
  text += expert_arguments(base, c);
  if (l.rank_order == RankOrder::kPipelineFirst) text += " --use-tp-pp-dp-mapping";
  if (l.tp > 1 && l.sequence_parallel) text += " --sequence-parallel";
  if (l.cp > 1) {
    text += l.context == ContextKind::kRing ? " --cp-comm-type p2p" : " --cp-comm-type allgather";
  }
  if (!l.overlap_p2p) text += " --no-overlap-p2p-communication";
  text += sharding_arguments(l);
  text += recompute_arguments(a, c.recompute);
  text += number_arguments(c);
  text += moment_arguments(base, line);
  line.arguments = std::move(text);
  return line;
}

}  // namespace rehearse::cli
