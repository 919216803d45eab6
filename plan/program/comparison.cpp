#include "plan/program/comparison.h"

#include <algorithm>
#include <cmath>
#include <map>

#include <fmt/format.h>

#include "base/statistics.h"

namespace rehearse {
namespace {

const Span& span_of(const Program& program, const Timeline& t, int32_t id, int32_t data_rank) {
  return t.spans[static_cast<size_t>(program.global_id(id, data_rank))];
}

// How the compute lane of one rank spends the step.
struct LaneTime {
  Duration work;
  std::map<std::string, Duration> waiting;  // by cause
};

// The time before an op that its lane stands still belongs to the dependency that ends last, up to
// that end; what is left is the op's own start: being woken, or waiting for a core or its group.
LaneTime lane_time(const Program& program,
                   const Timeline& timeline,
                   int32_t pp_rank,
                   int32_t data_rank) {
  LaneTime time;
  Duration free;  // since when the lane stands still
  for (const int32_t id : program.lane(pp_rank, Lane::kCompute)) {
    const Span& span = span_of(program, timeline, id, data_rank);
    Duration ready;
    std::string cause;
    for (const int32_t d : program.dependencies(id)) {
      const Op& dependency = program.ops()[static_cast<size_t>(d)];
      const Duration end = span_of(program, timeline, d, data_rank).end;
      if (end <= ready) continue;
      ready = end;
      cause = fmt::format("for {}", name_of(dependency.kind));
    }
    if (ready > free) time.waiting[cause] += std::min(ready, span.begin) - free;
    const Duration able = std::max(free, ready);
    if (span.begin > able) time.waiting["to start"] += span.begin - able;
    time.work += span.end - span.begin;
    free = span.end;
  }
  const Duration step = timeline.step();
  if (step > free) time.waiting["for the step's end"] += step - free;
  return time;
}

Duration sum_of(const std::map<std::string, Duration>& waiting) {
  Duration sum;
  for (const auto& [cause, time] : waiting) sum += time;
  return sum;
}

void compare_lanes(const Program& program,
                   const Timeline& predicted,
                   const Timeline& measured,
                   Comparison& c) {
  std::map<std::string, Comparison::Pair> causes;
  Comparison::Pair work{.name = "its ops"};
  int64_t ranks = 0;
  for (int32_t r = 0; r < program.layout().pp; ++r) {
    for (int32_t d = 0; d < program.replicas(); ++d) {
      const LaneTime p = lane_time(program, predicted, r, d);
      const LaneTime m = lane_time(program, measured, r, d);
      const std::string name = std::to_string(program.global_rank({r, d}));
      c.ranks.push_back(
          {.work = {.name = name, .predicted = p.work, .measured = m.work},
           .waiting = {
               .name = name, .predicted = sum_of(p.waiting), .measured = sum_of(m.waiting)}});
      work.predicted += p.work;
      work.measured += m.work;
      for (const auto& [cause, time] : p.waiting) causes[cause].predicted += time;
      for (const auto& [cause, time] : m.waiting) causes[cause].measured += time;
      ++ranks;
    }
  }
  const auto mean = [&](Comparison::Pair pair, const std::string& name) {
    pair.name = name;
    pair.predicted = Duration::picoseconds(pair.predicted.picoseconds() / ranks);
    pair.measured = Duration::picoseconds(pair.measured.picoseconds() / ranks);
    c.lane.push_back(pair);
  };
  mean(work, "its ops");
  for (const auto& [cause, pair] : causes) mean(pair, "waiting " + cause);
}

}  // namespace

Comparison compare_timelines(const Program& program,
                             const Timeline& predicted,
                             const Timeline& measured,
                             const std::optional<Overheads>& overheads) {
  Comparison c{.calibrated = predicted.calibrated, .load = measured.load};
  if (overheads && measured.load) {
    c.waking = waking_of(program,
                         measured,
                         measured.load->cores,
                         std::max(overheads->wake_idle, overheads->wake_busy));
  }
  c.predicted = summarize(program, predicted);
  c.measured = summarize(program, measured);
  c.predicted_step = c.predicted.step;
  c.measured_step = c.measured.step;
  c.step_error = c.measured_step > Duration() ? c.predicted_step / c.measured_step - 1 : 0;
  std::map<std::string, Comparison::Pair> kinds;
  std::vector<double> errors, absolute;
  for (OpId id = 0; id < program.global_size(); ++id) {
    const Span& p = predicted.spans[static_cast<size_t>(id)];
    const Span& m = measured.spans[static_cast<size_t>(id)];
    const Op& op = program.op(id);
    const std::string name = to_string(OpName{op.kind, op.pass});
    Comparison::Pair& kind = kinds[name];
    kind.name = name;
    ++kind.count;
    kind.predicted += p.end - p.begin;
    kind.measured += m.end - m.begin;
    if (p.end > p.begin && m.end > m.begin) {
      errors.push_back((p.end - p.begin) / (m.end - m.begin) - 1);
      absolute.push_back(std::abs(errors.back()));
    }
  }
  for (auto& [name, kind] : kinds) c.kinds.push_back(std::move(kind));
  std::stable_sort(c.kinds.begin(), c.kinds.end(), [](const auto& x, const auto& y) {
    return x.measured > y.measured;
  });
  c.op_error_median = median(errors);
  c.op_error_median_abs = median(absolute);
  for (const double e : absolute) c.op_error_mean_abs += e / static_cast<double>(absolute.size());
  compare_lanes(program, predicted, measured, c);
  return c;
}

std::vector<Comparison::Pair> Comparison::phases() const {
  const Breakdown p = mean(predicted.ranks);
  const Breakdown m = mean(measured.ranks);
  std::vector<Pair> pairs;
  for (const auto& [name, part] : std::vector<std::pair<std::string, Duration Breakdown::*>>{
           {"F", &Breakdown::f},
           {"B", &Breakdown::b},
           {"W", &Breakdown::w},
           {"F&B", &Breakdown::fb},
           {"bubble", &Breakdown::bubble},
           {"optimizer", &Breakdown::optimizer},
           {"exposed communication", &Breakdown::exposed_comm}}) {
    pairs.push_back({.name = name, .predicted = p.*part, .measured = m.*part});
  }
  return pairs;
}

Comparison::Cause Comparison::cause() const {
  const auto size = [](Duration d) { return d < Duration() ? Duration() - d : d; };
  const auto most = [&](auto begin, auto end) -> const Pair* {
    const auto at = std::max_element(begin, end, [&](const Pair& x, const Pair& y) {
      return size(x.difference()) < size(y.difference());
    });
    return at == end ? nullptr : &*at;
  };
  Cause c{.in_ops = lane.front().difference()};
  c.in_waiting = measured_step - predicted_step - c.in_ops;
  c.mostly_ops = size(c.in_ops) >= size(c.in_waiting) && !kinds.empty();
  c.most = c.mostly_ops ? most(kinds.begin(), kinds.end()) : most(lane.begin() + 1, lane.end());
  return c;
}

}  // namespace rehearse
