#pragma once
// What a step leaves behind beside the weights, in tables as large as the world: each process fills
// in the entries of its own ranks, zeros elsewhere, and sums over processes make the tables whole.
// An entry comes from one process or is a whole number, so that the sums are exact and the results
// have the same bits however the ranks are spread over processes.

#include <span>
#include <string>
#include <vector>

#include "plan/plan.h"
#include "plan/program/timeline.h"
#include "runtime/communicators/communicator.h"

namespace rehearse {

// Ops that an emulated device could not hold to their time, its core being too slow or busy.
struct Overruns {
  int64_t ops = 0;
  int64_t of = 0;  // ops that were held
  Duration time;   // beyond theirs, all together
  Duration held;   // theirs, of all that were held
  Overruns& operator+=(const Overruns& o) {
    ops += o.ops;
    of += o.of;
    time += o.time;
    held += o.held;
    return *this;
  }
};

struct StepResults {
  // Tables of a step of so many micro-batches per data rank, all zeros.
  StepResults(const Plan& plan, int64_t micro_batches);

  std::vector<double> losses;  // [data rank x micro-batch], sum over the tokens
  // The same of MTP modules: [module x data rank x micro-batch], over the tokens that they predict.
  std::vector<double> mtp_losses;
  std::vector<int64_t> expert_load;  // [layer x expert], tokens; zeros for dense layers; MTP's last
  // [layer], MTP's last: micro-batches whose output (whose input's gradient) is not all finite.
  std::vector<int64_t> bad_outputs, bad_gradients;
  std::vector<Bytes> peak_memory;  // [rank], activations' high-water mark
  Overruns overruns;
  double gradient_norm = 0;  // of the whole model; every process has it already
  int64_t overflowed = 0;    // rows of experts that found no room; likewise

  // [experts]
  std::span<const int64_t> load_of(int64_t layer) const {
    return std::span(expert_load)
        .subspan(static_cast<size_t>(layer * experts), static_cast<size_t>(experts));
  }
  // Losses added in the order of data ranks, then micro-batches, over the tokens of the step.
  double mean_loss() const;
  // Of an MTP module, from 1, over the tokens that it predicts.
  double mean_mtp_loss(int64_t module) const;
  Bytes worst_memory() const;
  // Where something first was not finite, in the order in which a step computes: "the output of
  // layer 3". Empty where all was.
  std::string first_bad() const;

  int64_t experts = 0;
  int64_t tokens = 0;  // of the step
  int64_t length = 0;  // of a sequence
};

// Make a step's results, and its timeline, whole. Called by one thread of every process.
void sum_over_processes(StepResults& results, Communicator& communicator);
void sum_over_processes(Timeline& timeline, Communicator& communicator);

}  // namespace rehearse
