// What a list of Megatron-LM's arguments lays out.

#include <algorithm>

#include <fmt/format.h>
#include <fmt/ranges.h>

#include "base/errors.h"
#include "base/integers.h"
#include "cli/megatron.h"
#include "cli/megatron_stages.h"
#include "cli/megatron_table.h"

namespace rehearse::cli {
namespace {

// The argument that says a plan's setting.
std::string argument_of(const std::string& setting) {
  constexpr std::pair<std::string_view, std::string_view> kArguments[] = {
      {"layout.pp", "--pipeline-model-parallel-size"},
      {"layout.tp", "--tensor-model-parallel-size"},
      {"layout.cp", "--context-parallel-size"},
      {"layout.ep", "--expert-model-parallel-size"},
      {"layout.etp", "--expert-tensor-parallel-size"},
      {"layout.chunks", "--num-virtual-stages-per-pipeline-rank"},
      {"layout.layers_per_stage", "--pipeline-model-parallel-layout"},
      {"training.micro_batches", "--global-batch-size"},
      {"training.sequence_length", "--seq-length"}};
  for (const auto& [name, argument] : kArguments) {
    if (name == setting) return fmt::format("{} ({})", argument, setting);
  }
  return setting;
}

class LayoutReader {
 public:
  LayoutReader(const ArgumentList& list, int64_t gpus, const Plan& base)
      : list_(list), base_(base), model_(base.model.architecture), a_(read_arguments(list, base)) {
    candidate_.gpus = gpus;
  }

  MegatronRun read() {
    read_ranks();
    read_batch();
    read_stages();
    read_sharding();
    read_dispatcher();
    candidate_.recompute = read_recompute();
    read_precision();
    read_overlaps();
    read_attention();
    note_defaults();
    const Reasons wrong = why_not(plan_of(base_, candidate_));
    if (!wrong.empty()) {
      refuse("{}: {}", argument_of(wrong.front().setting), wrong.front().message);
    }
    if (candidate_.micro_batches > kMostMicroBatches) {
      refuse("--global-batch-size {}: {} micro-batches per rank, and at most {} are planned",
             candidate_.batch,
             candidate_.micro_batches,
             kMostMicroBatches);
    }
    return {std::move(candidate_), std::move(a_.nothing), std::move(a_.notes)};
  }

 private:
  // At the line of the argument that the message speaks of first, where it is given.
  template <typename... T>
  [[noreturn]] void refuse(fmt::format_string<T...> text, T&&... values) const {
    const std::string message = fmt::format(text, std::forward<T>(values)...);
    const size_t begin = std::min(message.find("--"), message.size());
    const size_t end = message.find_first_not_of("-abcdefghijklmnopqrstuvwxyz0123456789", begin);
    const std::string name = message.substr(begin, end - begin);
    const auto given = std::find_if(
        list_.given.rbegin(), list_.given.rend(), [&](const auto& a) { return a.name == name; });
    if (given != list_.given.rend()) fail_at(list_.path, given->line, message);
    throw InputError(fmt::format("{}: {}", list_.path, message));
  }
  template <typename... T>
  void note(fmt::format_string<T...> text, T&&... values) {
    a_.notes.push_back(fmt::format(text, std::forward<T>(values)...));
  }

  void read_ranks() {
    const MegatronSettings& s = a_.settings;
    Layout& l = candidate_.layout;
    l.tp = s.tp.value_or(1);
    l.pp = s.pp.value_or(1);
    l.cp = s.cp.value_or(1);
    l.ep = s.ep.value_or(1);
    l.etp = s.etp.value_or(model_.experts > 0 ? l.tp : 1);
    // Of one rank it says nothing.
    l.sequence_parallel = l.tp == 1 || s.sequence_parallel;
    if (s.pipeline_first) l.rank_order = RankOrder::kPipelineFirst;
    const int64_t model_ranks = saturating_product(saturating_product(l.tp, l.pp), l.cp);
    const int64_t gpus = candidate_.gpus;
    if (gpus % model_ranks != 0) {
      refuse(
          "tensor x pipeline x context parallelism of {} do not divide {} GPUs", model_ranks, gpus);
    }
    if (list_.processes && *list_.processes != gpus) {
      refuse(
          "the launcher before the arguments starts {} processes, and {} GPUs are asked for: "
          "--gpus {}",
          *list_.processes,
          gpus,
          *list_.processes);
    }
    if (!l.sequence_parallel && model_.experts > 0) {
      refuse(
          "--sequence-parallel is missing: tensor-parallel ranks of a model with experts share "
          "tokens, as experts are chosen for each token by one rank");
    }
    l.dp = gpus / model_ranks;
  }

  void read_batch() {
    const MegatronSettings& s = a_.settings;
    const Layout& l = candidate_.layout;
    Candidate& c = candidate_;
    c.micro_batch_size = s.micro_batch_size.value_or(1);
    c.sequence = s.sequence_length.value_or(base_.training.sequence_length);
    c.batch = s.global_batch_size.value_or(c.micro_batch_size * l.dp);
    if (c.batch % (l.dp * c.micro_batch_size) != 0) {
      refuse("--global-batch-size {}: does not divide over {} data ranks x {} sequences",
             c.batch,
             l.dp,
             c.micro_batch_size);
    }
    c.micro_batches = c.batch / (l.dp * c.micro_batch_size);
  }

  void read_stages() {
    const MegatronSettings& s = a_.settings;
    Layout& l = candidate_.layout;
    MegatronStages stages;
    try {
      stages = stages_of({.layers = model_.layers,
                          .mtp = model_.mtp_depth,
                          .pp = l.pp,
                          .first = s.first_layers,
                          .last = s.last_layers,
                          .per_virtual = s.layers_per_virtual,
                          .virtual_stages = s.virtual_stages,
                          .embedding = s.embedding_counts,
                          .loss = s.loss_counts,
                          .layout = s.stage_layout});
    } catch (const InputError& e) {
      refuse("{}", e.what());
    }
    l.layers_per_stage = std::move(stages.layers_per_stage);
    if (stages.chunks > 1) {
      l.schedule = ScheduleKind::kInterleaved;
      l.chunks = stages.chunks;
    }
    if (s.micro_batch_group.value_or(l.pp) != l.pp) {
      refuse(
          "--microbatch-group-size-per-virtual-pipeline-stage {}: decides the order of "
          "micro-batches; here a virtual stage takes as many in turn as there are pipeline "
          "ranks, {}: say that, or remove it",
          *s.micro_batch_group,
          l.pp);
    }
  }

  void read_sharding() {
    const MegatronSettings& s = a_.settings;
    Layout& l = candidate_.layout;
    l.zero_stage = s.distributed_optimizer ? 1 : 0;
    if (!s.megatron_fsdp) {
      if (s.sharding) {
        refuse(
            "--data-parallel-sharding-strategy {}: does nothing in Megatron-LM without "
            "--use-megatron-fsdp: say that too, or remove it",
            *s.sharding);
      }
      return;
    }
    const std::string sharding = s.sharding.value_or("no_shard");
    if (sharding == "no_shard") {
      if (s.distributed_optimizer) {
        refuse(
            "--use-megatron-fsdp with --use-distributed-optimizer: say what is sharded, by "
            "--data-parallel-sharding-strategy optim, optim_grads or optim_grads_params");
      }
    } else if (sharding == "optim") {
      l.zero_stage = 1;
    } else if (sharding == "optim_grads") {
      l.zero_stage = 2;
    } else if (sharding == "optim_grads_params") {
      l.zero_stage = 3;
    } else {
      refuse(
          "--data-parallel-sharding-strategy {}: expected no_shard, optim, optim_grads or "
          "optim_grads_params",
          sharding);
    }
    if (s.checkpoint_format != "fsdp_dtensor") {
      note("--use-megatron-fsdp: Megatron-LM wants --ckpt-format fsdp_dtensor with it");
    }
  }

  void read_dispatcher() {
    const MegatronSettings& s = a_.settings;
    Layout& l = candidate_.layout;
    candidate_.communication_sms = base_.cluster.communication_sms;
    const std::string kind = s.dispatcher.value_or("allgather");
    if (kind != "flex" && kind != "alltoall" && kind != "allgather") {
      refuse("--moe-token-dispatcher-type {}: expected allgather, alltoall or flex", kind);
    }
    if (s.deepep && kind != "flex") {
      refuse("--moe-enable-deepep: Megatron-LM wants --moe-token-dispatcher-type flex with it");
    }
    if (s.flex_backend && s.flex_backend != "deepep" && s.flex_backend != "hybridep") {
      refuse("--moe-flex-dispatcher-backend {}: expected deepep or hybridep", *s.flex_backend);
    }
    if (s.balanced_experts && !base_.expert_load.balanced()) {
      refuse("--moe-router-force-load-balancing: the plan's expert_load is not balanced");
    }
    if (s.deepep_sms) {
      if (kind != "flex" || *s.deepep_sms > base_.cluster.sms) {
        refuse(
            "--moe-deepep-num-sms {}: expected at most the device's {}, of "
            "--moe-token-dispatcher-type flex",
            *s.deepep_sms,
            base_.cluster.sms);
      }
      candidate_.communication_sms = *s.deepep_sms;
    }
    if (model_.experts == 0) {
      l.dispatcher = base_.layout.dispatcher;
      return;
    }
    l.dispatcher = kind == "flex"       ? Dispatcher::kTwoHop
                   : kind == "alltoall" ? Dispatcher::kAllToAll
                                        : Dispatcher::kAllGather;
  }

  Recompute read_recompute() {
    const MegatronSettings& s = a_.settings;
    Recompute none{.norms = false, .up_projections = false, .activations = false};
    std::string granularity = s.recompute_granularity.value_or("");
    if (s.recompute_activations) {
      if (granularity == "full") {
        refuse(
            "--recompute-activations beside --recompute-granularity full: Megatron-LM takes the "
            "first, which is selective; remove one of them");
      }
      granularity = "selective";
    }
    if (granularity != "full" && (s.recompute_method || s.recompute_layers)) {
      refuse(
          "--recompute-method and --recompute-num-layers go with --recompute-granularity full "
          "alone: say that, or remove them");
    }
    if (granularity != "selective" && s.recompute_modules) {
      refuse(
          "--recompute-modules goes with --recompute-granularity selective alone: say that, or "
          "remove it");
    }
    if (granularity.empty()) return none;
    if (granularity == "full") return read_full(none);
    if (granularity == "selective") return read_modules(none);
    refuse("--recompute-granularity {}: expected full or selective", granularity);
  }

  Recompute read_full(Recompute r) const {
    const MegatronSettings& s = a_.settings;
    const std::string method = s.recompute_method.value_or("");
    if (method != "uniform" && method != "block") {
      refuse("--recompute-method {}: --recompute-granularity full wants uniform or block",
             method.empty() ? "is missing" : method);
    }
    if (!s.recompute_layers) {
      refuse("--recompute-num-layers is missing: --recompute-granularity full wants it");
    }
    const std::vector<int64_t>& stages = candidate_.layout.layers_per_stage;
    const int64_t most = *std::max_element(stages.begin(), stages.end());
    if (method == "uniform" && *s.recompute_layers > 1 && most > 1) {
      refuse(
          "--recompute-method uniform --recompute-num-layers {}: keeps one input for so many "
          "layers, and all of them while they are computed again, which no plan states; it "
          "states 1",
          *s.recompute_layers);
    }
    if (method == "block" && *s.recompute_layers < most) {
      refuse(
          "--recompute-method block --recompute-num-layers {}: computes {} of up to {} layers of "
          "a stage again, which no plan states; it states all ({}) or none",
          *s.recompute_layers,
          *s.recompute_layers,
          most,
          most);
    }
    r.layer = true;
    return r;
  }

  Recompute read_modules(Recompute r) {
    std::vector<std::string> modules =
        a_.settings.recompute_modules.value_or(std::vector<std::string>{"core_attn"});
    if (modules.empty()) refuse("--recompute-modules: a value is missing");
    for (const std::string& m : modules) {
      if (m == "core_attn") {
        r.core = true;
      } else if (m == "layernorm") {
        r.norms = true;
      } else if (m == "mla_up_proj") {
        if (model_.attention != AttentionKind::kLatent) {
          refuse(
              "--recompute-modules mla_up_proj: Megatron-LM refuses it without latent "
              "attention");
        }
        r.up_projections = true;
      } else if (m == "moe_act") {
        r.activations = model_.experts > 0;
      } else if (m == "mlp" || m == "moe" || m == "shared_experts") {
        refuse(
            "--recompute-modules {}: decides memory and time: the whole of it runs again in "
            "backward{}, which no plan states; full recomputation needs less memory, moe_act "
            "more",
            m,
            m == "moe" ? ", with its all-to-alls" : "");
      } else {
        refuse(
            "--recompute-modules {}: not known; expected core_attn, layernorm, mla_up_proj, "
            "moe_act",
            m);
      }
    }
    if (r.activations && !a_.settings.grouped_gemm) {
      note("--recompute-modules moe_act: Megatron-LM wants --moe-grouped-gemm with it");
    }
    if (r.activations && model_.dense_layers() > 0) {
      note("--recompute-modules moe_act: here dense layers' activations are computed again too");
    }
    // Without latent attention they say nothing: a set is then what its other parts are called.
    if (model_.attention != AttentionKind::kLatent) r.up_projections = r.norms && r.activations;
    return r;
  }

  void read_precision() {
    const MegatronSettings& s = a_.settings;
    const std::string format = s.fp8_format.value_or("");
    candidate_.precision = s.fp8_format ? Precision::kFp8 : Precision::kBf16;
    if (s.fp8_format && format != "e4m3" && format != "hybrid") {
      refuse("--fp8-format {}: expected e4m3 or hybrid", format);
    }
    if (s.fp8_format && s.fp8_recipe != "blockwise") {
      refuse(
          "--fp8-recipe {}: decides memory and time, and FP8 is told with a scale per block: say "
          "--fp8-recipe blockwise to tell that",
          s.fp8_recipe.value_or("is missing, and delayed by default"));
    }
    if (!s.fp8_format && s.fp8_recipe) refuse("--fp8-recipe goes with --fp8-format alone");
    if (!s.fp8_format && s.fp8_weights) refuse("--fp8-param-gather goes with --fp8-format alone");
    if (s.fp8_format && !s.fp8_weights) {
      note(
          "--fp8-format without --fp8-param-gather: Megatron-LM keeps weights in BF16, and here "
          "they are told in FP8");
    }
    if (!s.bf16) note("no --bf16: told in BF16, and Megatron-LM's default is FP32");
    read_moments();
  }

  // AdamW's moments are the plan's: what is said must be the same.
  void read_moments() {
    const MegatronSettings& s = a_.settings;
    Training told = base_.training;
    told.precision = candidate_.precision;
    const char* own = bytes_of(told).moment == 2 ? "bf16" : "fp32";
    for (const auto& [name, type] :
         {std::pair("--exp-avg-dtype", s.first_moment), {"--exp-avg-sq-dtype", s.second_moment}}) {
      if (type && !s.precision_aware) {
        refuse("{}: Megatron-LM wants --use-precision-aware-optimizer with it", name);
      }
      if (type && *type != own) {
        refuse("{} {}: decides memory, and the plan's moments are {} (training.moments)",
               name,
               *type,
               own);
      }
      if (!type && std::string_view(own) == "bf16") {
        note(
            "no {}: Megatron-LM keeps the moment in FP32, and here it is told in BF16 "
            "(training.moments)",
            name);
      }
    }
    if (s.precision_aware && !s.distributed_optimizer) {
      refuse(
          "--use-precision-aware-optimizer: Megatron-LM wants --use-distributed-optimizer with "
          "it");
    }
  }

  void read_overlaps() {
    const MegatronSettings& s = a_.settings;
    Layout& l = candidate_.layout;
    l.overlap_grad_reduce = s.overlap_grad_reduce;
    l.overlap_p2p = !s.no_overlap_p2p;
    if (s.no_overlap_p2p && l.way() == Way::kRoundAgain && l.pp == 2) {
      refuse(
          "--no-overlap-p2p-communication: Megatron-LM refuses it with virtual stages on two "
          "pipeline ranks");
    }
    if (!s.overlap_all_to_all) return;
    l.overlap_all_to_all = true;
    const std::string why = no_overlapped_all_to_alls(base_, candidate_);
    if (!why.empty()) refuse("--overlap-moe-expert-parallel-comm: Megatron-LM {}", why);
  }

  void read_attention() {
    const MegatronSettings& s = a_.settings;
    Layout& l = candidate_.layout;
    l.context = base_.layout.context;
    const std::vector<std::string> kinds =
        s.context_kinds.value_or(std::vector<std::string>{"p2p"});
    if (l.cp > 1) {
      if (kinds.size() != 1 || (kinds[0] != "p2p" && kinds[0] != "allgather")) {
        refuse(
            "--cp-comm-type {}: decides time, and no plan states it; expected p2p or allgather, "
            "of all layers",
            fmt::join(kinds, " "));
      }
      l.context = kinds[0] == "p2p" ? ContextKind::kRing : ContextKind::kGather;
    }
    const std::string backend = s.attention_backend.value_or("auto");
    if (backend != "auto" && backend != "flash" && backend != "fused" && backend != "unfused") {
      refuse("--attention-backend {}: expected auto, flash, fused or unfused", backend);
    }
    const CoreKind core = backend == "unfused" ? CoreKind::kUnfused : CoreKind::kFused;
    if (core != base_.training.core && (s.attention_backend || s.flash_attention)) {
      refuse("{}: decides memory and time, and the plan's core of attention is {} (training.core)",
             s.attention_backend ? "--attention-backend " + backend : "--use-flash-attn",
             kCoreKinds[base_.training.core]);
    }
  }

  void note_defaults() {
    if (list_.underscores) {
      note(
          "spelt with underscores, as ms-swift and NeMo do: what is not said is Megatron-LM's "
          "default, which theirs may differ from");
    }
    if (!a_.settings.micro_batch_size) {
      note("no --micro-batch-size: told with 1, and Megatron-LM wants one");
    }
    if (!a_.kernels.empty()) {
      note("kernels are priced as the device's, whatever {} say", fmt::join(a_.kernels, " "));
    }
  }

  const ArgumentList& list_;
  const Plan& base_;
  const Architecture& model_;
  ReadArguments a_;
  Candidate candidate_;
};

}  // namespace

MegatronRun read_megatron(const std::string& arguments,
                          int64_t gpus,
                          const Plan& base,
                          const std::string& path) {
  const ArgumentList list = argument_list(arguments, path);
  return LayoutReader(list, gpus, base).read();
}

}  // namespace rehearse::cli
