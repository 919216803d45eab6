#pragma once
// What a page of a replay draws beside its report: which experts of which layers are how loaded,
// how loads change from step to step, and who sends whom how much.

#include "cli/report.h"
#include "sim/replay.h"

namespace rehearse::cli {

class ReplayPictures {
 public:
  // steps: of the trace.
  ReplayPictures(const Plan& plan, int64_t steps) : traffic_(plan.layout.ep), steps_(steps) {}

  // Where LayerReplayer adds a step's traffic.
  TrafficMatrix& traffic() { return traffic_; }
  void add(const RecordedStep& step, const std::vector<LayerReplay>& layers);
  // Behind the report's own figures.
  void put(Report& page, const Plan& plan) const;

 private:
  std::vector<std::vector<double>> tokens_;  // [layer][expert], over all steps
  std::vector<int64_t> layers_;              // of the model
  std::vector<std::vector<double>> worst_;   // [step][layer]: hottest expert over the mean
  std::vector<int64_t> numbers_;             // of the steps
  TrafficMatrix traffic_;
  int64_t steps_;
};

}  // namespace rehearse::cli
