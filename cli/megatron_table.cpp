#include "cli/megatron_table.h"

#include <algorithm>
#include <map>
#include <variant>

#include <fmt/format.h>
#include <fmt/ranges.h>

#include "base/errors.h"
#include "cli/megatron_model.h"

namespace rehearse::cli {
namespace {

// --- read
using S = MegatronSettings;
using ReadTarget = std::variant<bool S::*,
                                std::optional<int64_t> S::*,
                                std::optional<std::string> S::*,
                                std::optional<std::vector<std::string>> S::*>;
struct ReadRow {
  std::string_view name;
  ReadTarget target;
};
const ReadRow kReadRows[] = {
    {"--tensor-model-parallel-size", &S::tp},
    {"--pipeline-model-parallel-size", &S::pp},
    {"--context-parallel-size", &S::cp},
    {"--expert-model-parallel-size", &S::ep},
    {"--expert-tensor-parallel-size", &S::etp},
    {"--micro-batch-size", &S::micro_batch_size},
    {"--global-batch-size", &S::global_batch_size},
    {"--seq-length", &S::sequence_length},
    {"--decoder-first-pipeline-num-layers", &S::first_layers},
    {"--decoder-last-pipeline-num-layers", &S::last_layers},
    {"--num-layers-per-virtual-pipeline-stage", &S::layers_per_virtual},
    {"--num-virtual-stages-per-pipeline-rank", &S::virtual_stages},
    {"--account-for-embedding-in-pipeline-split", &S::embedding_counts},
    {"--account-for-loss-in-pipeline-split", &S::loss_counts},
    {"--pipeline-model-parallel-layout", &S::stage_layout},
    {"--microbatch-group-size-per-virtual-pipeline-stage", &S::micro_batch_group},
    {"--use-tp-pp-dp-mapping", &S::pipeline_first},
    {"--sequence-parallel", &S::sequence_parallel},
    {"--cp-comm-type", &S::context_kinds},
    {"--use-distributed-optimizer", &S::distributed_optimizer},
    {"--use-megatron-fsdp", &S::megatron_fsdp},
    {"--data-parallel-sharding-strategy", &S::sharding},
    {"--ckpt-format", &S::checkpoint_format},
    {"--overlap-grad-reduce", &S::overlap_grad_reduce},
    {"--no-overlap-p2p-communication", &S::no_overlap_p2p},
    {"--overlap-moe-expert-parallel-comm", &S::overlap_all_to_all},
    {"--moe-token-dispatcher-type", &S::dispatcher},
    {"--moe-flex-dispatcher-backend", &S::flex_backend},
    {"--moe-enable-deepep", &S::deepep},
    {"--moe-deepep-num-sms", &S::deepep_sms},
    {"--moe-grouped-gemm", &S::grouped_gemm},
    {"--moe-router-force-load-balancing", &S::balanced_experts},
    {"--recompute-activations", &S::recompute_activations},
    {"--recompute-granularity", &S::recompute_granularity},
    {"--recompute-method", &S::recompute_method},
    {"--recompute-num-layers", &S::recompute_layers},
    {"--recompute-modules", &S::recompute_modules},
    {"--bf16", &S::bf16},
    {"--fp8-format", &S::fp8_format},
    {"--fp8-recipe", &S::fp8_recipe},
    {"--fp8-param-gather", &S::fp8_weights},
    {"--use-precision-aware-optimizer", &S::precision_aware},
    {"--exp-avg-dtype", &S::first_moment},
    {"--exp-avg-sq-dtype", &S::second_moment},
    {"--attention-backend", &S::attention_backend},
    {"--use-flash-attn", &S::flash_attention},
};

// --- as a plan tells it, where the value is one of these (separated by blanks)
struct AsToldRow {
  std::string_view name, values, otherwise;
};
constexpr std::string_view kNumbers = "numbers are BF16 or FP8, and gradients FP32";
constexpr AsToldRow kAsToldRows[] = {
    {"--optimizer", "adam", "the optimizer is AdamW"},
    {"--main-grads-dtype", "fp32", kNumbers},
    {"--main-params-dtype", "fp32", "FP32 copies of the weights are kept"},
    {"--transformer-impl", "transformer_engine", "kernels are Transformer Engine's"},
    {"--num-distributed-optimizer-instances", "1", "shards lie over all data ranks"},
    {"--cpu-offloading-num-layers", "0", "nothing is offloaded to the host"},
    {"--empty-unused-memory-level", "0", "the allocator keeps what it has"},
    {"--cuda-graph-impl", "none", "kernels are launched one by one"},
    {"--distributed-backend", "nccl", "collectives are NCCL's"},
    {"--wgrad-deferral-limit", "0", "weight gradients are not put off"},
};

// --- nothing to layout, memory or time
constexpr std::string_view kNothingFlags =
    "accumulate-allreduce-grads-in-fp32 adlr-autoresume allow-ambiguous-pad-tokens "
    "apply-layernorm-1p apply-query-key-layer-scaling async-save attention-softmax-in-fp32 "
    "auto-detect-ckpt-format calc-ft-timeouts calculate-per-token-loss check-for-large-grads "
    "check-for-spiky-loss ckpt-assume-constant-structure ckpt-fully-parallel-load "
    "ckpt-fully-parallel-save data-parallel-random-init disable-gloo-process-groups "
    "disable-straggler-on-startup dist-ckpt-optim-fully-reshardable dist-ckpt-save-pre-mcore-014 "
    "distrib-optim-fully-reshardable-mem-efficient enable-experimental enable-ft-package "
    "enable-gloo-process-groups eod-mask-loss exit-on-missing-checkpoint exit-signal-handler "
    "finetune full-validation init-method-xavier-uniform init-model-with-meta-device "
    "inprocess-empty-cuda-cache inprocess-restart legacy-tokenizer load-main-params-from-ckpt "
    "log-energy log-memory-to-tensorboard log-num-zeros-in-grad log-params-norm log-progress "
    "log-straggler log-throughput log-timers-to-tensorboard log-validation-ppl-to-tensorboard "
    "log-world-size-to-tensorboard manual-gc mock-data moe-per-layer-logging "
    "moe-router-enable-expert-bias moe-router-pre-softmax multiple-validation-sets "
    "no-async-tensor-model-parallel-allreduce no-barrier-with-level-1-timing "
    "no-check-for-nan-in-loss-and-grad no-ckpt-fully-parallel-save "
    "no-create-attention-mask-in-dataloader no-initialization no-load-optim no-load-rng "
    "no-log-loss-scale-to-tensorboard no-manual-gc-eval no-mmap-bin-files no-one-logger "
    "no-position-embedding no-save-optim no-save-rng no-strict-fsdp-dtensor-load "
    "no-use-tokenizer-model-from-checkpoint-args one-logger-async override-opt-param-scheduler "
    "profile record-memory-history replication reset-position-ids rotary-interleaved "
    "run-workload-inspector-server te-rng-tracker test-mode trust-remote-code "
    "use-checkpoint-opt-param-scheduler use-cpu-initialization use-dist-ckpt use-mcore-models "
    "use-persistent-ckpt-worker use-pytorch-profiler use-rope-scaling";
constexpr std::string_view kNothingValues =
    "adam-beta1 adam-beta2 adam-eps adlr-autoresume-interval app-tag-run-name app-tag-run-version "
    "check-weight-hash-across-dp-replicas-interval ckpt-convert-format ckpt-convert-save ckpt-step "
    "clip-grad config-logger-dir data-args-path data-cache-path dataloader-type decoupled-lr "
    "decoupled-min-lr dist-ckpt-format dist-ckpt-strictness distributed-timeout-minutes "
    "distributed-timeout-seconds-after-init embedding-init-method-std end-weight-decay "
    "error-injection-rate error-injection-type eval-interval eval-iters exit-duration-in-mins "
    "exit-interval fp8-amax-compute-algo fp8-amax-history-len fp8-interval fp8-margin hysteresis "
    "init-method-std initial-loss-scale inprocess-active-world-size inprocess-barrier-timeout "
    "inprocess-completion-timeout inprocess-granularity inprocess-hard-timeout "
    "inprocess-heartbeat-interval inprocess-heartbeat-timeout inprocess-last-call-wait "
    "inprocess-max-iterations inprocess-monitor-process-interval inprocess-monitor-thread-interval "
    "inprocess-progress-watchdog-interval inprocess-soft-timeout "
    "inprocess-termination-grace-time load local-rank log-interval logging-level loss-scale "
    "loss-scale-window lr lr-decay-iters lr-decay-samples lr-decay-style lr-warmup-fraction "
    "lr-warmup-init lr-warmup-iters lr-warmup-samples lr-wsd-decay-iters lr-wsd-decay-samples "
    "lr-wsd-decay-style manual-gc-interval mask-prob memory-snapshot-path merge-file "
    "mid-level-dataset-surplus min-loss-scale min-lr moe-input-jitter-eps "
    "moe-router-bias-update-rate moe-router-dtype moe-router-score-function "
    "moe-router-topk-scaling-factor moe-token-drop-policy moe-z-loss-coeff mscale mscale-all-dim "
    "mtp-loss-scaling-factor non-persistent-ckpt-type non-persistent-global-ckpt-dir "
    "non-persistent-local-ckpt-algo non-persistent-local-ckpt-dir non-persistent-save-interval "
    "norm-epsilon num-dataset-builder-threads num-workers object-storage-cache-path "
    "one-logger-project one-logger-run-name per-split-data-args-path persistent-save-interval "
    "pretrained-checkpoint profile-step-end profile-step-start replication-factor "
    "replication-jump rerun-mode result-rejected-tracker-filename rope-scaling-factor rope-type "
    "rotary-base rotary-percent rotary-scaling-factor rotary-seq-len-interpolation-factor save "
    "save-interval save-retain-interval seed sgd-momentum short-seq-prob split start-weight-decay "
    "straggler-ctrlr-port straggler-minmax-count tensorboard-dir tensorboard-log-interval "
    "tensorboard-queue-size tiktoken-num-special-tokens tiktoken-pattern timing-log-level "
    "timing-log-option tokenizer-metadata tokenizer-model tokenizer-type "
    "tp-comm-bootstrap-backend train-iters train-samples vocab-extra-ids vocab-file wandb-entity "
    "wandb-exp-name wandb-project wandb-save-dir weight-decay weight-decay-incr-style";
constexpr std::string_view kNothingLists =
    "data-path iterations-to-skip moe-aux-loss-coeff moe-router-load-balancing-type profile-ranks "
    "test-data-path tiktoken-special-tokens train-data-path valid-data-path";

// --- kernels
constexpr std::string_view kKernelFlags =
    "cross-entropy-loss-fusion moe-permute-fusion moe-router-fusion no-bias-gelu-fusion "
    "no-masked-softmax-fusion use-te-activation-func";
constexpr std::string_view kKernelValues = "cross-entropy-fusion-impl";

// --- deciding, and stated by no plan
struct RefusedRow {
  std::string_view names, why;
};
constexpr RefusedRow kRefusedRows[] = {
    {"fp16", "decides memory and time, and numbers are BF16 or FP8 here: say --bf16"},
    {"fp4-format fp4-param-gather fp4-recipe",
     "decides memory and time, and FP4 is not priced here: say --fp8-format or --bf16"},
    {"first-last-layers-bf16 num-layers-at-start-in-bf16 num-layers-at-end-in-bf16 no-fp8-wgrad "
     "keep-fp8-transpose-cache",
     "decides memory and time: here products are all of one precision; remove it to tell that"},
    {"grad-reduce-in-bf16 fp32-residual-connection fp16-lm-cross-entropy "
     "disable-bf16-reduced-precision-matmul reuse-grad-buf-for-mxfp8-param-ag "
     "ddp-reduce-scatter-with-fp32-accumulation",
     "decides memory and time: here numbers between layers are BF16 and gradients FP32; remove it "
     "to tell that"},
    {"moe-layer-recompute",
     "decides memory and time: router, experts and their all-to-alls run again in backward, which "
     "no plan states; full recomputation (--recompute-granularity full --recompute-method uniform "
     "--recompute-num-layers 1) needs less memory, moe_act more"},
    {"checkpoint-activations", "is refused by Megatron-LM: say --recompute-granularity"},
    {"distribute-saved-activations",
     "decides memory: inputs of recomputed layers are kept whole here; remove it to tell that"},
    {"optimizer-cpu-offload optimizer-offload-fraction use-torch-optimizer-for-cpu-offload "
     "overlap-cpu-optimizer-d2h-h2d cpu-offloading fine-grained-activation-offloading "
     "offload-modules",
     "decides memory and time: nothing is offloaded to hosts here; remove it to tell that"},
    {"use-torch-fsdp2 torch-fsdp2-no-reshard-after-forward use-custom-fsdp",
     "decides memory and time: ZeRO-2 and 3 are told as Megatron-FSDP has them: say "
     "--use-megatron-fsdp --data-parallel-sharding-strategy optim_grads_params"},
    {"fsdp-double-buffer suggested-communication-unit-size enable-full-sharding-in-hsdp",
     "decides memory and time: weights are gathered layer by layer, two at a time, over all data "
     "ranks here; remove it to tell that"},
    {"overlap-param-gather overlap-param-gather-with-optimizer-step",
     "decides time: here weights are gathered at the step's end and not beside the next step; "
     "remove it to tell that"},
    {"no-align-grad-reduce no-align-param-gather ddp-bucket-size ddp-num-buckets "
     "ddp-average-in-collective ddp-pad-buckets-for-high-nccl-busbw use-nccl-ub use-sharp "
     "sharp-enabled-group nccl-communicator-config-path disable-symmetric-registration "
     "no-gradient-reduce-div-fusion high-priority-stream-groups",
     "decides time: gradients are summed layer by layer or at the step's end, by NCCL as measured; "
     "remove it to tell that"},
    {"tp-comm-overlap tp-comm-overlap-cfg disable-tp-comm-overlap-ag disable-tp-comm-overlap-rs "
     "tp-comm-overlap-rs-dgrad disable-tp-comm-bulk-dgrad disable-tp-comm-bulk-wgrad "
     "disable-tp-comm-split-ag disable-tp-comm-split-rs",
     "decides time: gathers of tensor parallelism stand between products here, not beside them; "
     "remove it to tell that"},
    {"delay-wgrad-compute defer-embedding-wgrad-compute",
     "decides memory and time: weight gradients follow at once here; remove it to tell that"},
    {"moe-shared-expert-overlap",
     "decides time: shared experts do not run beside all-to-alls here; remove it to tell that"},
    {"overlap-p2p-communication-warmup-flush use-ring-exchange-p2p "
     "no-scatter-gather-tensors-in-pipeline pipeline-model-parallel-comm-backend",
     "decides time: pipeline messages travel as Megatron-LM sends them by default; remove it to "
     "tell that"},
    {"hierarchical-context-parallel-sizes",
     "decides time: context parallelism has one level here; remove it to tell that"},
    {"moe-extended-tp", "is old: say --expert-tensor-parallel-size"},
    {"moe-expert-capacity-factor moe-pad-expert-input-to-capacity moe-router-padding-for-fp8",
     "decides memory and time: here no token is dropped or padded; remove it to tell that"},
    {"moe-use-legacy-grouped-gemm moe-apply-probs-on-input no-gradient-accumulation-fusion "
     "no-bias-swiglu-fusion no-bias-dropout-fusion no-rope-fusion no-persist-layer-norm "
     "use-fused-weighted-squared-relu deterministic-mode use-legacy-models",
     "decides time: kernels are priced fused, as Transformer Engine has them; remove it to tell "
     "that"},
    {"enable-cuda-graph external-cuda-graph cuda-graph-scope cuda-graph-warmup-steps",
     "decides memory and time: kernels are launched one by one here; remove it to tell that"},
    {"rampup-batch-size decrease-batch-size-if-needed",
     "decides the batch, which changes over the training: say that of one step by "
     "--global-batch-size"},
    {"reset-attention-mask",
     "decides time: attention goes over whole sequences here, not over documents; remove it to "
     "tell that"},
    {"use-checkpoint-args use-mp-args-from-checkpoint-args yaml-cfg",
     "takes arguments from elsewhere: write those down"},
    {"window-size window-attn-skip-freq softmax-type squared-relu quick-geglu openai-gelu "
     "no-rope-freq mrope-section qk-l2-norm activation-func-clamp-value glu-linear-offset",
     "describes the model and is not held against the plan's: remove it where --model has it"},
    {"encoder-num-layers decoder-num-layers encoder-seq-length decoder-seq-length spec "
     "heterogeneous-layers-config-path heterogeneous-layers-config-encoded-json "
     "hybrid-override-pattern is-hybrid-model",
     "is of models that are not planned here"},
    {"batch-size model-parallel-size warmup", "is refused by Megatron-LM, as too old"},
};

bool among(std::string_view names, const std::string& name) {
  const std::string_view bare = std::string_view(name).substr(2);
  for (size_t at = names.find(bare); at != std::string_view::npos; at = names.find(bare, at + 1)) {
    const size_t end = at + bare.size();
    if ((at == 0 || names[at - 1] == ' ') && (end == names.size() || names[end] == ' '))
      return true;
  }
  return false;
}

std::string words_of(const GivenArgument& a) {
  std::vector<std::string_view> words;
  for (const GivenWord& w : a.values) words.emplace_back(w.text);
  return fmt::format("{}", fmt::join(words, " "));
}

// Reads what is there, and gathers what is wrong.
class TableReader {
 public:
  TableReader(const ArgumentList& list, const Plan& plan) : list_(list), plan_(plan) {}

  ReadArguments read() {
    // The last of an argument counts, as for Python's argparse.
    for (const GivenArgument& a : list_.given) {
      const GivenArgument*& last = last_[a.name];
      if (last != nullptr && words_of(*last) != words_of(a)) repeated_.push_back(a.name);
      last = &a;
    }
    for (const std::string& name : repeated_) {
      result_.notes.push_back(
          fmt::format("{} is given more than once: the last, {}, counts, as "
                      "for Megatron-LM",
                      name,
                      words_of(*last_[name])));
    }
    for (const GivenArgument& a : list_.given) {
      if (last_[a.name] == &a) take(a);
    }
    if (!other_model_.empty()) {
      throw InputError(fmt::format("{}: these arguments are of another model than {}:\n  {}",
                                   list_.path,
                                   plan_.model.name,
                                   fmt::join(other_model_, "\n  ")));
    }
    if (!refused_.empty()) {
      throw InputError(fmt::format("{}: not read, and not to be passed over:\n  {}",
                                   list_.path,
                                   fmt::join(refused_, "\n  ")));
    }
    return std::move(result_);
  }

 private:
  static bool is_off(const GivenArgument& a) {
    return a.values.size() == 1 && (a.values[0].text == "false" || a.values[0].text == "False");
  }
  void refuse(const GivenArgument& a, std::string_view why) {
    refused_.push_back(fmt::format("line {}: {} {}", a.line, a.name, why));
  }

  void take(const GivenArgument& a) {
    if (const auto row = std::ranges::find(kReadRows, a.name, &ReadRow::name);
        row != std::end(kReadRows)) {
      set(a, row->target);
      return;
    }
    if (is_model_argument(a.name)) {
      const std::string own =
          model_differs(a.name, {.plan = plan_, .given = last_, .path = list_.path});
      if (!own.empty()) {
        other_model_.push_back(
            fmt::format("line {}: {} {}: it {}", a.line, a.name, words_of(a), own));
      }
      return;
    }
    if (const auto row = std::ranges::find(kAsToldRows, a.name, &AsToldRow::name);
        row != std::end(kAsToldRows)) {
      if (!among(row->values, "--" + the_value(a, list_.path))) {
        refuse(a,
               fmt::format("{}: decides memory or time, and here {}: say {}, or remove it",
                           words_of(a),
                           row->otherwise,
                           row->values));
      }
      return;
    }
    if (pass_over(a, kNothingFlags, kNothingValues, kNothingLists, result_.nothing)) return;
    if (pass_over(a, kKernelFlags, kKernelValues, "", result_.kernels)) return;
    if (is_off(a)) return;
    const auto row = std::ranges::find_if(
        kRefusedRows, [&](const RefusedRow& r) { return among(r.names, a.name); });
    refuse(a,
           row != std::end(kRefusedRows)
               ? row->why
               : "is not known here and may decide layout, memory or time; remove it if it does "
                 "not");
  }

  bool pass_over(const GivenArgument& a,
                 std::string_view flags,
                 std::string_view values,
                 std::string_view lists,
                 std::vector<std::string>& into) {
    if (among(flags, a.name)) {
      the_flag(a, list_.path);
    } else if (among(values, a.name)) {
      // A script's variable may stand here, one that holds no further arguments.
      if (a.values.size() != 1 || may_hold_arguments(a.values[0])) {
        the_value({.name = a.name, .values = a.values, .line = a.line}, list_.path);
      }
    } else if (among(lists, a.name)) {
      for (size_t i = 0; i < a.values.size(); ++i) {
        if (i > 0 ? a.values[i].variable : may_hold_arguments(a.values[i])) {
          the_value({.name = a.name, .values = {a.values[i]}, .line = a.line}, list_.path);
        }
      }
    } else {
      return false;
    }
    into.push_back(a.name);
    return true;
  }
  static bool may_hold_arguments(const GivenWord& w) {
    return w.variable &&
           (w.text.find("[@]") != std::string::npos || w.text.find("ARG") != std::string::npos ||
            w.text.find("OPT") != std::string::npos || w.text.find("[*]") != std::string::npos);
  }

  void set(const GivenArgument& a, const ReadTarget& target) {
    MegatronSettings& s = result_.settings;
    if (const auto* flag = std::get_if<bool S::*>(&target)) {
      s.*(*flag) = the_flag(a, list_.path);
    } else if (const auto* integer = std::get_if<std::optional<int64_t> S::*>(&target)) {
      s.*(*integer) = the_integer(a, list_.path);
    } else if (const auto* text = std::get_if<std::optional<std::string> S::*>(&target)) {
      s.*(*text) = the_value(a, list_.path);
    } else {
      std::vector<std::string> words;
      for (const GivenWord& w : a.values) {
        words.push_back(the_value({.name = a.name, .values = {w}, .line = a.line}, list_.path));
      }
      s.*std::get<std::optional<std::vector<std::string>> S::*>(target) = std::move(words);
    }
  }

  const ArgumentList& list_;
  const Plan& plan_;
  std::map<std::string, const GivenArgument*> last_;
  std::vector<std::string> repeated_, refused_, other_model_;
  ReadArguments result_;
};

}  // namespace

ReadArguments read_arguments(const ArgumentList& list, const Plan& plan) {
  return TableReader(list, plan).read();
}

std::vector<std::string> known_arguments() {
  std::vector<std::string> all;
  const auto add = [&](std::string_view names) {
    for (size_t at = 0; at < names.size();) {
      const size_t end = std::min(names.find(' ', at), names.size());
      all.push_back("--" + std::string(names.substr(at, end - at)));
      at = end + 1;
    }
  };
  for (const ReadRow& row : kReadRows) add(row.name.substr(2));
  for (const AsToldRow& row : kAsToldRows) add(row.name.substr(2));
  for (const RefusedRow& row : kRefusedRows) add(row.names);
  for (const auto names :
       {kNothingFlags, kNothingValues, kNothingLists, kKernelFlags, kKernelValues}) {
    add(names);
  }
  for (const std::string& name : model_arguments()) all.push_back(name);
  return all;
}

}  // namespace rehearse::cli
