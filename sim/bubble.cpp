#include "sim/bubble.h"

#include "sim/simulate.h"

namespace rehearse {

std::vector<double> unit_bubbles(const Program::Spec& spec, Granularity granularity) {
  Program::Spec one = spec;
  one.granularity = granularity;
  // Replicas of a pipeline idle alike, and ranks that share work do.
  Layout& l = one.layout;
  l.dp = l.ep = l.tp = l.cp = l.etp = 1;
  const Program program = Program::build(one);
  // A unit that every stage's ops divide.
  const Duration unit = Duration::picoseconds(int64_t{1} << 32);
  const Summary s = summarize(program, simulate_unit_costs(program, unit));
  std::vector<double> bubbles;
  for (const Breakdown& b : s.ranks) bubbles.push_back((s.step - b.f - b.b - b.w - b.fb) / unit);
  return bubbles;
}

}  // namespace rehearse
