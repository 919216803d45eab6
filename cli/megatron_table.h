#pragma once
// Megatron-LM's arguments by what they are to a plan: read, held against its model, nothing to its
// layout, memory or time; or deciding one of these in a way that no plan states, and refused. What
// is in no table may decide anything, and is refused too.

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "cli/megatron_words.h"
#include "plan/plan.h"

namespace rehearse::cli {

// What is read; nothing where an argument is not there.
struct MegatronSettings {
  std::optional<int64_t> tp, pp, cp, ep, etp;
  std::optional<int64_t> micro_batch_size, global_batch_size, sequence_length;
  std::optional<int64_t> first_layers, last_layers, layers_per_virtual, virtual_stages;
  bool embedding_counts = false, loss_counts = false;
  std::optional<std::string> stage_layout;
  bool pipeline_first = false, sequence_parallel = false;
  std::optional<std::vector<std::string>> context_kinds;
  bool distributed_optimizer = false, megatron_fsdp = false;
  std::optional<std::string> sharding, checkpoint_format;
  bool overlap_grad_reduce = false, no_overlap_p2p = false, overlap_all_to_all = false;
  std::optional<int64_t> micro_batch_group;  // of micro-batches that a virtual stage takes in turn
  std::optional<std::string> dispatcher, flex_backend;
  bool deepep = false, grouped_gemm = false;
  std::optional<int64_t> deepep_sms;
  bool recompute_activations = false;
  std::optional<std::string> recompute_granularity, recompute_method;
  std::optional<int64_t> recompute_layers;
  std::optional<std::vector<std::string>> recompute_modules;
  bool bf16 = false, fp8_weights = false;
  std::optional<std::string> fp8_format, fp8_recipe;
  bool precision_aware = false;
  std::optional<std::string> first_moment, second_moment;
  bool flash_attention = false;
  std::optional<std::string> attention_backend;
  bool balanced_experts = false;
};

struct ReadArguments {
  MegatronSettings settings;
  std::vector<std::string> nothing;  // change nothing of layout, memory or time
  std::vector<std::string> kernels;  // choose kernels: priced as the device's, whatever they say
  std::vector<std::string> notes;
};
// Throws InputError naming all that is refused, with what would do.
ReadArguments read_arguments(const ArgumentList& list, const Plan& plan);

// Every name that the tables know, for tests: none stands in two of them.
std::vector<std::string> known_arguments();

}  // namespace rehearse::cli
