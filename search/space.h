#pragma once
// Which layouts a search looks at: every combination of what it may choose, legal or not.

#include <functional>
#include <string>
#include <vector>

#include "plan/legal.h"
#include "plan/plan.h"

namespace rehearse {

// Sets of what a layer recomputes, by name.
struct NamedRecompute {
  std::string_view name;
  Recompute recompute;
};
const std::vector<NamedRecompute>& named_recomputes();  // none, light, selective, full
// As named there, or a list of what it holds ("norms+activations").
std::string recompute_text(const Recompute& recompute);

// What may be chosen. Where a list is empty: all values that could be legal, within what is usual
// (defaults_of says so in words).
struct SearchSpace {
  // What a training asks for; each combination of them is searched.
  std::vector<int64_t> gpus, batches, sequences;  // batches: sequences per step
  std::vector<Precision> precisions;
  std::vector<int64_t> pp, chunks, ep, etp, tp, cp, micro_batch_sizes, zero_stages;
  std::vector<ScheduleKind> schedules;
  std::vector<Recompute> recomputes;
  std::vector<Dispatcher> dispatchers;
  std::vector<RankOrder> rank_orders;  // several: the second where nodes then hold other neighbours
  std::vector<int64_t> communication_sms;
  bool uneven_stages = true;              // beside even stages those that balance their arithmetic
  std::vector<int64_t> layers_per_stage;  // these alone, of layouts with as many stages
};
// With every empty list filled in, for the model and cluster of `base`. Throws InputError when
// nothing is left to choose from.
SearchSpace filled(SearchSpace space, const Plan& base);
// What was filled in, in words, a line each.
std::vector<std::string> defaults_of(const SearchSpace& asked, const SearchSpace& filled);

// One layout with what goes with it.
struct Candidate {
  int64_t gpus = 0, batch = 0, sequence = 0;
  Precision precision = Precision::kBf16;
  Layout layout;  // with layers_per_stage
  int64_t micro_batches = 0, micro_batch_size = 0;
  Recompute recompute;
  int64_t communication_sms = 0;
  bool operator==(const Candidate&) const = default;
};
// A plan's own layout, as one; and `base` with the candidate's choices.
Candidate candidate_of(const Plan& plan);
Plan plan_of(const Plan& base, const Candidate& candidate);
// Some order of all candidates of a search: equal ones alone are neither before nor behind.
bool before(const Candidate& a, const Candidate& b);
// As far as the others follow from it: "PP16 DP128 EP64 dualpipe, 120 x 1".
std::string to_string(const Candidate& candidate);

// The stages of a layout: even, and, where that differs, so that ranks have as equal parts of the
// arithmetic as may be, embedding, head and MTP modules among it. layout.layers_per_stage does not
// count.
std::vector<std::vector<int64_t>> stage_splits(const Architecture& a,
                                               const Layout& layout,
                                               int64_t sequence,
                                               bool uneven);

class SpaceVisitor {
 public:
  virtual ~SpaceVisitor() = default;
  // A new block; false: leave it out.
  virtual bool block(const Candidate& common) = 0;
  // Legal candidates of the block.
  virtual void legal(const Candidate& candidate) = 0;
  // One that is not, and why: the first reason. Stages are not filled in.
  virtual void illegal(const Candidate& /*candidate*/, const Reason& /*why*/) {}
  // Whether to ask for those at all.
  virtual bool wants_illegal() const { return false; }
};
// All of a filled space. part, parts: of several threads that share it out, which one
// this is; each block is one part's.
void visit_space(const SearchSpace& space,
                 const Plan& base,
                 SpaceVisitor& visitor,
                 int64_t part = 0,
                 int64_t parts = 1);

}  // namespace rehearse
