#include "plan/keys.h"

#include <algorithm>

#include <fmt/format.h>
#include <fmt/ranges.h>

#include "base/errors.h"
#include "plan/plan.h"

namespace rehearse {
namespace {

template <typename E, size_t N>
std::string names(const NameTable<E, N>& table) {
  std::vector<std::string_view> all;
  for (const Named<E>& n : table.entries()) all.push_back(n.name);
  return fmt::format("{}", fmt::join(all, " | "));
}

std::vector<KeySection> make() {
  const std::string as_plan = "as in the plan";
  return {
      {"",
       "A plan names a model, a cluster and how the one is trained on the other.",
       {{"model", "FILE", "", "model file: beside the plan, or one that comes with rehearse"},
        {"cluster", "FILE", "", "topology file, likewise"},
        {"calibration",
         "FILE",
         "that of the GPUs",
         "what work was measured to take (`rehearse calibrate`); without it GPUs that are known "
         "are priced by their file in topologies/devices; else, or with none, costs are flops over "
         "peak and bytes over bandwidth"},
        {"layout", "mapping", "", "how ranks share the model"},
        {"training", "mapping", "", "the step, and the recipe of `train`"},
        {"fp8", "mapping", "the report's", "what differs from DeepSeek-V3's FP8, to study it"},
        {"data", "mapping", "made-up text", "what `train` trains on"},
        {"routing", names(kRoutings), "learned", "who chooses experts in `train`"},
        {"expert_load", "mapping", "balanced", "routing counts that `simulate` takes"},
        {"expert_placement",
         "FILE",
         "in order",
         "which ranks hold which experts, as `rehearse replay --write-placement` writes it, a slot "
         "for each expert: of `train`, `replay` and recorded expert_load (balanced and synthetic "
         "counts are of whatever experts a rank holds)"},
        {"budget", "mapping", "none", "the whole training, for GPU-hours"}}},
      {"layout",
       "World = PP x DP x CP x TP ranks, one per device; EP x ETP divides DP x CP x TP.",
       {{"pp", "N", "1", "pipeline-parallel ranks"},
        {"dp", "N", "1", "data-parallel ranks of a stage, those of its EP groups counted"},
        {"ep", "N", "1", "expert-parallel ranks, of dp x cp x tp; divides the model's experts"},
        {"tp", "N", "1", "tensor-parallel ranks: attention heads and widths of FFNs over ranks"},
        {"cp", "N", "1", "context-parallel ranks: a sequence's tokens over ranks"},
        {"etp", "N", "1", "ranks that share the matrices of one expert"},
        {"rank_order",
         names(kRankOrders),
         "tp-cp-ep-dp-pp",
         "which ranks are neighbours on nodes: a stage's, or a pipeline's"},
        {"sequence_parallel",
         "true | false",
         "true",
         "tensor-parallel ranks share tokens between matrices; false: each has all of them"},
        {"context",
         names(kContextKinds),
         "gather",
         "how context-parallel ranks come by each other's keys and values"},
        {"dispatcher",
         names(kDispatchers),
         "two_hop",
         "how tokens go to experts: once per node and on from there, a row per token and expert, "
         "or "
         "all tokens to all ranks"},
        {"schedule", names(kSchedules), "1f1b", "the order of a pipeline rank's cells"},
        {"chunks", "N", "2", "model chunks per rank (interleaved-1f1b alone)"},
        {"layers_per_stage",
         "[N, ...]",
         "as even as they go",
         "layers of every stage, the first stage first; 0 for an embedding or a head alone"},
        {"zero_stage",
         "0 | 1 | 2 | 3",
         "1",
         "0: every replica updates all its weights; 1: each updates its shard; 2: and keeps its "
         "shard of the gradients alone; 3: and of the weights"},
        {"overlap_grad_reduce",
         "true | false",
         "false",
         "gradients are summed layer by layer behind the last backward"},
        {"overlap_p2p",
         "true | false",
         "true",
         "pipeline messages travel beside the next cell; false: it waits for them"},
        {"overlap_all_to_all",
         "true | false",
         "false",
         "1f1b and interleaved-1f1b: F and B are one cell, one's all-to-alls beside the other's "
         "computation"}}},
      {"training",
       "What a step holds, and with what numbers `train` takes it.",
       {{"micro_batches", "N", "", "per data-parallel rank and step"},
        {"micro_batch_size", "N", "", "sequences"},
        {"sequence_length", "N", "", "tokens"},
        {"tokens", "TOKENS", "none", "the whole training's, such as 14.8T tokens, for GPU-hours"},
        {"precision", names(kPrecisions), "fp32", "of products, activations and messages"},
        {"moments",
         names(kMoments),
         "auto",
         "of AdamW; in bf16 half the memory; auto: bf16 under precision fp8, else fp32"},
        {"core",
         names(kCoreKinds),
         "fused",
         "attention's core on GPUs: its scores on chip, or through memory and kept"},
        {"recompute",
         "none | [" + std::string(kRecomputable.list()) + "]",
         "[norms, up_projections, activations]",
         "what is computed again in backward and not kept: norms, MLA's up-projections, SwiGLU or "
         "GeLU (on cores none where it is not said); on GPUs alone selective: attention's core; "
         "full: whole layers from their input"},
        {"steps",
         "N or TOKENS",
         "100",
         "optimizer steps of `train`; for all numbers of steps here: or those that train on so "
         "many "
         "tokens (2B tokens)"},
        {"ramp_from",
         "N",
         "0",
         "sequences of the first step of `train`, whose batch then grows as evenly as "
         "micro-batches "
         "go; 0: every step has the whole batch"},
        {"ramp_steps", "N or TOKENS", "0", "until the batch has grown"},
        {"seed", "N", "1", "of the initial weights and the order of the text"},
        {"learning_rate", "X", "0.001", "peak"},
        {"final_learning_rate",
         "X",
         "a tenth of learning_rate",
         "reached by cosine at the last of the steps that the others leave"},
        {"warmup_steps", "N", "0", "linear, from 0; the last of them is at the peak"},
        {"constant_steps", "N", "0", "further steps at the peak, before the cosine"},
        {"hold_steps", "N", "0", "further steps at final_learning_rate, behind the cosine"},
        {"tail_steps", "N", "0", "the last steps, at tail_learning_rate"},
        {"tail_learning_rate", "X", "final_learning_rate", "of the last steps"},
        {"beta1", "X", "0.9", "of AdamW"},
        {"beta2", "X", "0.95", "of AdamW"},
        {"adam_eps", "X", "1e-8", "of AdamW"},
        {"weight_decay", "X", "0.1", "on matrices, not on gains of norms"},
        {"gradient_clip", "X", "1", "global L2 norm; 0: no clipping"},
        {"bias_update_speed", "X", "0.001", "of auxiliary-loss-free balancing; 0: biases stay"},
        {"balance_loss", "X", "1e-4", "weight of the balance loss; 0: none"},
        {"balance_over",
         names(kBalanceOvers),
         "sequence",
         "what that loss is taken over: each sequence (DeepSeek-V3), or a micro-batch, as the "
         "classic auxiliary loss"},
        {"ema",
         "X",
         "0",
         "decay per step of a moving average of the weights, kept aside and saved with "
         "checkpoints; "
         "0: none"},
        {"mtp_loss", "X", "0.3", "weight of the multi-token-prediction loss"}}},
      {"fp8",
       "What differs from the FP8 framework of DeepSeek-V3's report (sections 3.3.1 to 3.3.3), to "
       "study it: with precision: fp8, on cores.",
       {{"gradient_tiles",
         names(kGradientTiles),
         "1x128",
         "values that share a scale, of activations' gradients (along tokens 128x1): with 128x128 "
         "the report's 16B run diverged"},
        {"scales",
         names(kFp8Scales),
         "amax",
         "of products' operands: the largest magnitude over 448, or the power of two above it, as "
         "tokens that are sent to experts and what attention caches have it anyway"},
        {"swiglu_cache", names(kSwigluCaches), "fp8", "SwiGLU's inputs as they wait for backward"},
        {"attention_cache",
         names(kAttentionCaches),
         "e5m6",
         "what attention's core gives, likewise: for its own backward and the projection's "
         "weights"},
        {"dispatch",
         names(kFp8Messages),
         "fp8",
         "tokens on their way to experts, and the gradients of combine"},
        {"products",
         names(kFp8Products),
         "exact",
         "sums of FP8 products: in FP32, or as an H200's tensor cores make them (slow)"},
        {"promotion",
         "N",
         "128",
         "of tensor_core: products between promotions of its sum to FP32, a multiple of 32; 0: at "
         "its end alone"},
        {"accumulator_bits", "N", "13", "of tensor_core: bits of its sum's mantissa, 1 to 16"}}},
      {"data",
       "Text for `train`, one token per byte.",
       {{"text", "FILE", "made-up text", "plain text, beside the plan"},
        {"document_separator",
         "TEXT",
         "none",
         "what stands between the text's documents (\"\\n\\n\"): they are packed one behind the "
         "other, each with an end-of-sentence token (256) behind it, and attention goes across"},
        {"fim_rate",
         "X",
         "0",
         "share of training documents that are given as prefix, suffix, middle, with tokens 257 to "
         "259 before each"},
        {"validation_fraction", "X", "0.1", "of the text, its end"}}},
      {"expert_load",
       "How many tokens experts get, on clusters of GPUs.",
       {{"kind",
         "balanced | synthetic | recorded",
         "",
         "synthetic: drawn, experts being unequally popular; recorded: of `train "
         "--record-routing`"},
        {"skew", "X", "0", "synthetic: standard deviation of the logarithm of popularity"},
        {"file", "FILE", "", "recorded: HDF5"},
        {"seed", "N", "1", "of what is drawn"},
        {"varies",
         names(kLoadVaries),
         "micro_batch",
         "how often counts change; micro_batch: by layer, micro-batch and EP group"}}},
      {"budget",
       "The whole training: its phases, or training.tokens at the plan's own step.",
       {{"usd_per_gpu_hour", "X", "none", "price"},
        {"watts_per_gpu", "X", "none", "power, its share of host, network and cooling counted"},
        {"phases", "[mapping, ...]", "none", "one after the other"}}},
      {"budget.phases",
       "A phase; what it does not say is as in the plan.",
       {{"name", "TEXT", "", "of the phase"},
        {"tokens", "TOKENS", "", "trained on in it; or"},
        {"steps", "N", "", "optimizer steps in it"},
        {"batches", "[N, ...]", "", "sequences per step, an equal share of the phase each"},
        {"layout", "mapping", as_plan, "keys as above"},
        {"sequence_length", "N", as_plan, "tokens"},
        {"micro_batch_size", "N", as_plan, "sequences"}}},
  };
}

}  // namespace

const std::vector<KeySection>& plan_keys() {
  static const std::vector<KeySection> all = make();
  return all;
}

const std::vector<YamlKey>& plan_keys(const std::string& section) {
  const auto found = std::ranges::find(plan_keys(), section, &KeySection::name);
  CHECK(found != plan_keys().end()) << "no section of a plan is called " << section;
  return found->keys;
}

}  // namespace rehearse
