#pragma once
// Routing traces as others write them, read into recorded steps, and written again.
// Formats: Megatron-LM's router tracer (megatron/core/transformer/moe/router_trace.py); llama.cpp's
// CSV (pull request 28544); NumPy's arrays, as vLLM keeps routed experts per request and as counts
// of experts are kept (SGLang's recorder). What comes as pickles or Parquet, plots/import_traces.py
// makes arrays of.

#include <functional>
#include <map>
#include <string>
#include <vector>

#include "plan/routing/recorded_step.h"

namespace rehearse {

struct ForeignTrace {
  std::vector<RecordedStep> steps;
  // Made of counts of experts by a rule, not of tokens: bytes that follow from it are estimates.
  bool estimated = false;
  // What export needs to write the same file again, by the name of a dataset.
  std::map<std::string, std::vector<int64_t>> numbers;
  std::map<std::string, std::string> about;
};

using ImportProgress = std::function<void(int64_t bytes)>;

// One file per global rank. Lines: a router's call on one micro-batch each.
struct MegatronOptions {
  int64_t experts = 0;
  int64_t layer_base = 0;  // number of the first layer in the files
  // Of a global rank: what to add to its layers' numbers, and its data-parallel rank. Ranks of the
  // same data rank hold different layers.
  std::function<std::pair<int64_t, int64_t>(int64_t rank)> place;
  bool recomputed = false;  // every line is there twice, the second time from backward
  int32_t threads = 1;      // files side by side
};
// Throws InputError naming file, byte and what is wrong: for lines that are no such objects, tokens
// that choose no experts or one twice, layers or micro-batches that are missing.
ForeignTrace read_megatron(const std::vector<std::string>& files,
                           const MegatronOptions& options,
                           const ImportProgress& progress);
// As they were read: the text of each file, in their order, valid JSON line by line. Keys that this
// program does not read are left out, as those that point into files of states. REQUIRES: of
// read_megatron. Throws InputError where what it left in the trace is damaged.
std::vector<std::pair<std::string, std::string>> print_megatron(const ForeignTrace& trace);
std::vector<std::string> left_out_of_megatron(const ForeignTrace& trace);

// "layer,expert" per line, a token's `active` choices of one layer on neighbouring lines. Layers by
// number, the first one first; each has as many tokens. One step of one micro-batch.
ForeignTrace read_choices_csv(const std::string& path, int64_t experts, int64_t active);

// .npy, or the array `name` of an .npz: whole numbers [tokens, layers, active],
// [micro_batches, layers, tokens, active] or [steps, micro_batches, layers, tokens, active]; with
// counts, [layers, experts] or [steps, layers, experts] tokens of experts, which are dealt out to
// tokens: expert by expert, hottest first, one to each token in turn.
struct ArrayOptions {
  int64_t experts = 0;  // 0: one more than the largest
  std::string name;     // in an .npz; empty: the only one
  bool counts = false;
  int64_t active = 0;  // of counts
};
ForeignTrace read_array(const std::string& path, const ArrayOptions& options);

}  // namespace rehearse
