#include "cli/comparison.h"

#include <algorithm>
#include <array>
#include <map>

#include <fmt/format.h>

#include "base/statistics.h"
#include "cli/command.h"

namespace rehearse::cli {
namespace {

std::string kind_name(const Op& op) {
  return op.pass == Pass::kNone ? std::string(name_of(op.kind))
                                : fmt::format("{}.{}", name_of(op.kind), name_of(op.pass));
}

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

std::string error_of(const Comparison::Pair& p) {
  return p.measured > Duration() ? percent(p.predicted / p.measured - 1) : "-";
}

// "+1.2 ms": durations have no sign of their own.
std::string signed_time(Duration d) {
  return d < Duration() ? "-" + to_string(Duration() - d) : "+" + to_string(d);
}

// The sentence that names what mattered most.
std::string verdict(const Comparison& c) {
  const Comparison::Pair& work = c.lane.front();
  const Duration waiting = c.measured_step - c.predicted_step - work.difference();
  const auto size = [](Duration d) { return d < Duration() ? Duration() - d : d; };
  const bool ops = size(work.difference()) >= size(waiting);
  const auto largest = std::max_element(
      c.kinds.begin(), c.kinds.end(), [&](const Comparison::Pair& x, const Comparison::Pair& y) {
        return size(x.difference()) < size(y.difference());
      });
  const auto cause = std::max_element(
      c.lane.begin() + 1, c.lane.end(), [&](const Comparison::Pair& x, const Comparison::Pair& y) {
        return size(x.difference()) < size(y.difference());
      });
  std::string text = fmt::format(
      "measured less predicted: {} of the step; per rank {} in compute ops and {} in waiting\n",
      signed_time(c.measured_step - c.predicted_step),
      signed_time(work.difference()),
      signed_time(waiting));
  if (ops && largest != c.kinds.end()) {
    text += fmt::format("mostly the ops: {} differs most, {} over all ranks\n",
                        largest->name,
                        signed_time(largest->difference()));
  } else if (cause != c.lane.end()) {
    text += fmt::format(
        "mostly the waiting: {}, {} per rank\n", cause->name, signed_time(cause->difference()));
  }
  return text;
}

Json pairs_json(const std::vector<Comparison::Pair>& pairs) {
  Json j = Json::object();
  for (const Comparison::Pair& p : pairs) {
    Json& entry = j[p.name];
    if (p.count > 0) entry["ops"] = p.count;
    entry["predicted_s"] = p.predicted.seconds();
    entry["measured_s"] = p.measured.seconds();
  }
  return j;
}

std::vector<Comparison::Pair> phases(const Comparison& c) {
  const Breakdown p = mean(c.predicted.ranks);
  const Breakdown m = mean(c.measured.ranks);
  std::vector<Comparison::Pair> pairs;
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

std::string pairs_table(const std::string& title, const std::vector<Comparison::Pair>& pairs) {
  Table table({title, "predicted", "measured", "error", "difference"});
  for (const Comparison::Pair& p : pairs) {
    if (p.predicted == Duration() && p.measured == Duration()) continue;
    table.row({p.count > 0 ? fmt::format("{} x {}", p.name, p.count) : p.name,
               to_string(p.predicted),
               to_string(p.measured),
               error_of(p),
               signed_time(p.difference())});
  }
  return table.text();
}

}  // namespace

Comparison compare_timelines(const Program& program,
                             const Timeline& predicted,
                             const Timeline& measured) {
  Comparison c;
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
    const std::string name = kind_name(program.op(id));
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
  compare_lanes(program, predicted, measured, c);
  return c;
}

Json comparison_json(const Comparison& c) {
  Json ranks = Json::array();
  for (const Comparison::Rank& r : c.ranks) {
    ranks.push_back({{"work_predicted_s", r.work.predicted.seconds()},
                     {"work_measured_s", r.work.measured.seconds()},
                     {"waiting_predicted_s", r.waiting.predicted.seconds()},
                     {"waiting_measured_s", r.waiting.measured.seconds()}});
  }
  return {{"step_time_error", c.step_error},
          {"op_time_error_median", c.op_error_median},
          {"op_time_error_median_abs", c.op_error_median_abs},
          {"step_time_predicted_s", c.predicted_step.seconds()},
          {"step_time_measured_s", c.measured_step.seconds()},
          {"exposed_comm_predicted", c.predicted.exposed_comm_fraction},
          {"exposed_comm_measured", c.measured.exposed_comm_fraction},
          {"bubble_predicted", c.predicted.bubble_fraction},
          {"bubble_measured", c.measured.bubble_fraction},
          {"ops_by_kind", pairs_json(c.kinds)},
          {"phases", pairs_json(phases(c))},
          {"compute_lane", pairs_json(c.lane)},
          {"ranks", ranks}};
}

std::string comparison_text(const Comparison& c) {
  Table table({"", "predicted", "measured", "error"});
  table.row(
      {"step", to_string(c.predicted_step), to_string(c.measured_step), percent(c.step_error)});
  const auto fraction = [&](const std::string& name, double p, double m) {
    table.row({name,
               fmt::format("{:.1f}%", 100 * p),
               fmt::format("{:.1f}%", 100 * m),
               fmt::format("{:+.1f} points", 100 * (p - m))});
  };
  fraction("bubble", c.predicted.bubble_fraction, c.measured.bubble_fraction);
  fraction(
      "exposed communication", c.predicted.exposed_comm_fraction, c.measured.exposed_comm_fraction);
  std::string out = table.text() + "\n" + pairs_table("ops, summed over ranks", c.kinds) +
                    fmt::format("  median op error {} (absolute {:.1f}%)\n\n",
                                percent(c.op_error_median),
                                100 * c.op_error_median_abs) +
                    pairs_table("phases, mean over ranks", phases(c)) + "\n" +
                    pairs_table("compute lane, mean over ranks", c.lane);
  constexpr size_t kShown = 16;
  Table ranks(
      {"compute lane by rank", "ops predicted", "measured", "waiting predicted", "measured"});
  for (size_t i = 0; i < std::min(kShown, c.ranks.size()); ++i) {
    const Comparison::Rank& r = c.ranks[i];
    ranks.row({r.work.name,
               to_string(r.work.predicted),
               to_string(r.work.measured),
               to_string(r.waiting.predicted),
               to_string(r.waiting.measured)});
  }
  if (c.ranks.size() > kShown) ranks.row({fmt::format("... {} ranks", c.ranks.size())});
  return out + "\n" + ranks.text() + "\n" + verdict(c) +
         "errors are predicted/measured - 1; ops that share a core last longer, not more\n";
}

}  // namespace rehearse::cli
