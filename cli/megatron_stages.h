#pragma once
// Which layers stand on which stage, as Megatron-LM's arguments say it, and its own checks of that
// (megatron/core/transformer: transformer_config.py, transformer_block.py,
// pipeline_parallel_layer_layout.py).

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

namespace rehearse::cli {

struct StageArguments {
  int64_t layers = 0, mtp = 0, pp = 1;    // of the model, and ranks
  std::optional<int64_t> first, last;     // layers of the first and the last rank
  std::optional<int64_t> per_virtual;     // layers of a virtual stage
  std::optional<int64_t> virtual_stages;  // of a rank
  bool embedding = false, loss = false;   // each counts as a layer
  std::optional<std::string> layout;      // all stages, in letters
};
struct MegatronStages {
  int64_t chunks = 1;                     // virtual stages of a rank
  std::vector<int64_t> layers_per_stage;  // the first stage first
};
// Throws InputError naming the argument that Megatron-LM refuses, or that says what a plan cannot.
MegatronStages stages_of(const StageArguments& arguments);

// Arguments for stages of so many layers, of which each of `pp` ranks has `chunks`, in turn: the
// first of these that says it: none, layers of the first and last rank, ends that count as layers,
// a layout in letters. Each with a blank before it. REQUIRES: more than one stage, legal.
std::string stage_arguments(const std::vector<int64_t>& layers_per_stage,
                            int64_t pp,
                            int64_t chunks,
                            int64_t mtp);

}  // namespace rehearse::cli
