#pragma once
// Why a layout, or a step laid out so, is not possible: reasons without a file, each naming the
// setting it speaks of. The reader of plans adds where that stands; a search asks the same.

#include <string>
#include <string_view>
#include <vector>

#include "plan/plan.h"

namespace rehearse {

struct Reason {
  std::string setting;  // as in a plan file: "layout.pp", "training.micro_batches"
  std::string message;  // a sentence that says what would be right
  bool operator==(const Reason&) const = default;
};
using Reasons = std::vector<Reason>;  // empty: legal

// layers_per_stage: none means as even as it goes.
Reasons why_not(const Architecture& model, const Cluster& cluster, const Layout& layout);
// Of these, what hangs on pipeline, schedule and ZeRO: of layouts that differ in nothing else from
// one that is legal, all there is to ask.
Reasons why_not_pipeline(const Architecture& model, const Layout& layout);
// REQUIRES: a legal layout.
Reasons why_not(const Layout& layout, const Training& training);
// What the devices cannot compute, whatever the layout.
Reasons why_not(const Cluster& cluster, const Training& training);
Reasons why_not(const Cluster& cluster, const Architecture& model);
// What the model cannot be trained on.
Reasons why_not(const Architecture& model, const Training& training);
// All of these, of a plan.
Reasons why_not(const Plan& plan);

constexpr int64_t kMostMicroBatches = 100'000;  // per data-parallel rank and step

// How many micro-batches of a data-parallel rank make up `sequences` per step, or why none do
// (training.micro_batches does not count).
struct MicroBatches {
  int64_t count = 0;
  std::string why_not;  // empty where count is right
};
MicroBatches micro_batches_of(const Layout& layout, const Training& training, int64_t sequences);

}  // namespace rehearse
