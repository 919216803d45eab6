#include "runtime/step_results.h"

#include <algorithm>

#include <fmt/format.h>

namespace rehearse {

StepResults::StepResults(const Plan& plan, int64_t micro_batches)
    : losses(static_cast<size_t>(plan.layout.dp * micro_batches), 0.0),
      mtp_losses(losses.size() * static_cast<size_t>(plan.model.architecture.mtp_depth), 0.0),
      expert_load(
          static_cast<size_t>((plan.model.architecture.layers + plan.model.architecture.mtp_depth) *
                              plan.model.architecture.experts),
          0),
      bad_outputs(
          static_cast<size_t>(plan.model.architecture.layers + plan.model.architecture.mtp_depth),
          0),
      bad_gradients(bad_outputs.size(), 0),
      peak_memory(static_cast<size_t>(plan.layout.world())),
      experts(plan.model.architecture.experts),
      tokens(plan.step_tokens() / plan.training.micro_batches * micro_batches),
      length(plan.training.sequence_length) {}

double StepResults::mean_loss() const {
  double total = 0;
  for (const double loss : losses) total += loss;
  return total / static_cast<double>(tokens);
}

double StepResults::mean_mtp_loss(int64_t module) const {
  double total = 0;
  const size_t first = static_cast<size_t>(module - 1) * losses.size();
  for (size_t i = 0; i < losses.size(); ++i) total += mtp_losses[first + i];
  const int64_t predicted = tokens / length * std::max<int64_t>(0, length - module);
  return predicted == 0 ? 0 : total / static_cast<double>(predicted);
}

Bytes StepResults::worst_memory() const {
  return *std::max_element(peak_memory.begin(), peak_memory.end());
}

std::string StepResults::first_bad() const {
  for (size_t layer = 0; layer < bad_outputs.size(); ++layer) {
    if (bad_outputs[layer] > 0) return fmt::format("the output of layer {}", layer);
  }
  for (size_t layer = bad_gradients.size(); layer-- > 0;) {
    if (bad_gradients[layer] > 0) return fmt::format("the gradient of layer {}'s input", layer);
  }
  return "";
}

void sum_over_processes(StepResults& results, Communicator& communicator) {
  communicator.sum_over_processes(results.losses);
  communicator.sum_over_processes(results.mtp_losses);
  communicator.sum_over_processes(results.bad_outputs);
  communicator.sum_over_processes(results.bad_gradients);
  std::vector<int64_t> counts = results.expert_load;
  for (const Bytes b : results.peak_memory) counts.push_back(b.count());
  Overruns& o = results.overruns;
  for (const int64_t n : {o.ops, o.of, o.time.picoseconds(), o.held.picoseconds()}) {
    counts.push_back(n);
  }
  communicator.sum_over_processes(counts);
  const size_t loads = results.expert_load.size();
  std::copy_n(counts.begin(), loads, results.expert_load.begin());
  for (size_t r = 0; r < results.peak_memory.size(); ++r) {
    results.peak_memory[r] = Bytes(counts[loads + r]);
  }
  const int64_t* last = counts.data() + loads + results.peak_memory.size();
  o = {last[0], last[1], Duration::picoseconds(last[2]), Duration::picoseconds(last[3])};
}

void sum_over_processes(Timeline& timeline, Communicator& communicator) {
  std::vector<int64_t> times;
  times.reserve(2 * timeline.spans.size());
  for (const Span& s : timeline.spans) {
    times.push_back(s.begin.picoseconds());
    times.push_back(s.end.picoseconds());
  }
  communicator.sum_over_processes(times);
  for (size_t i = 0; i < timeline.spans.size(); ++i) {
    timeline.spans[i] = {.begin = Duration::picoseconds(times[2 * i]),
                         .end = Duration::picoseconds(times[2 * i + 1])};
  }
}

}  // namespace rehearse
