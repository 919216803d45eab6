#pragma once
// Synthetic routing fitted to a trace: experts' popularity by layer, how likely a token goes on
// with its neighbour's experts, what a layer's experts say of the next one's, and how popularity
// drifts from step to step. Seeded.

#include "plan/routing/recorded_step.h"

namespace rehearse {

// What is fitted, and what a trace made of it is judged by.
struct RoutingFigures {
  double max = 0, gini = 0;  // of experts' tokens in a micro-batch; means over all
  double neighbours = 0;     // share of a token's experts that the token before it has too
  double layers = 0;         // total variation between an expert's distribution alone and where
                             // an expert of the layer before is known, mean over those
  double drift = 0;          // total variation of popularity from step to step
};
// Of some steps, one after the other.
RoutingFigures figures_of(const std::vector<RecordedStep>& steps);

// A token goes on with its neighbour's expert with some probability; else its experts are drawn by
// weights: of popularity, which each step has of its own, times what the experts of the layer
// before say, to a power. Weights are set so that experts come as often as in the trace (drawing
// without replacement flattens what is popular); both parameters so that the figures are the
// trace's.
class RoutingModel {
 public:
  // REQUIRES: a step.
  explicit RoutingModel(const std::vector<RecordedStep>& steps);
  // `count` steps of the trace's shape; behind the trace's steps, popularity begins again.
  std::vector<RecordedStep> make(int64_t count, uint64_t seed) const;
  const RoutingFigures& figures() const { return figures_; }  // of the trace
  double repeat() const { return repeat_; }                   // that a choice is the neighbour's
  double power() const { return power_; }                     // of what the layer before says

 private:
  RecordedStep make_step(int64_t number, uint64_t seed) const;
  void set_weights(const std::vector<RecordedStep>& steps);

  RoutingShape shape_;
  RoutingFigures figures_;
  std::vector<std::vector<float>> weights_;  // by step: logarithms, [layers x experts]
  std::vector<std::vector<float>> says_;  // by layer but the first: logarithms, [experts x experts]
  double repeat_ = 0, power_ = 0;
};

// Mean of the relative differences of the figures that a trace has: 0 is a perfect fit.
double misfit(const RoutingFigures& trace, const RoutingFigures& made);

}  // namespace rehearse
