#include "plan/timeline.h"

#include <algorithm>

#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include "base/errors.h"

namespace rehearse {
namespace {

using Interval = std::pair<int64_t, int64_t>;  // picoseconds, [begin, end)

// Sorted and merged, so that their lengths add up to the time covered.
std::vector<Interval> merged(std::vector<Interval> intervals) {
  std::sort(intervals.begin(), intervals.end());
  std::vector<Interval> out;
  for (const Interval& i : intervals) {
    if (i.second <= i.first) continue;
    if (!out.empty() && i.first <= out.back().second) {
      out.back().second = std::max(out.back().second, i.second);
    } else {
      out.push_back(i);
    }
  }
  return out;
}

// Time covered by `a` and not by `b`; both merged.
int64_t uncovered(const std::vector<Interval>& a, const std::vector<Interval>& b) {
  int64_t total = 0;
  size_t j = 0;
  for (const auto& [begin, end] : a) {
    int64_t at = begin;
    while (j < b.size() && b[j].second <= at) ++j;
    for (size_t k = j; k < b.size() && b[k].first < end; ++k) {
      total += std::max<int64_t>(0, b[k].first - at);
      at = std::max(at, b[k].second);
    }
    total += std::max<int64_t>(0, end - at);
  }
  return total;
}

// The intersection of two merged lists.
std::vector<Interval> intersect(const std::vector<Interval>& a, const std::vector<Interval>& b) {
  std::vector<Interval> out;
  for (size_t i = 0, j = 0; i < a.size() && j < b.size();) {
    const int64_t begin = std::max(a[i].first, b[j].first);
    const int64_t end = std::min(a[i].second, b[j].second);
    if (begin < end) out.emplace_back(begin, end);
    (a[i].second < b[j].second ? i : j)++;
  }
  return out;
}

Breakdown break_down(const Program& program,
                     const Timeline& timeline,
                     int32_t pp_rank,
                     int32_t data_rank,
                     Duration step) {
  const RankSchedule& schedule = program.schedule(pp_rank);
  std::vector<Interval> spans(schedule.size(), {INT64_MAX, INT64_MIN});
  std::vector<Interval> compute, communication;
  for (const Lane lane : {Lane::kCompute, Lane::kAllToAll}) {
    for (const int32_t id : program.lane(pp_rank, lane)) {
      const Op& op = program.ops()[static_cast<size_t>(id)];
      const Span& s = timeline.spans[static_cast<size_t>(program.global_id(id, data_rank))];
      const Interval i{s.begin.picoseconds(), s.end.picoseconds()};
      if (!is_cell_compute(op.kind) && !is_all_to_all(op.kind)) continue;
      Interval& cell = spans[static_cast<size_t>(op.cell)];
      cell = {std::min(cell.first, i.first), std::max(cell.second, i.second)};
      (is_all_to_all(op.kind) ? communication : compute).push_back(i);
    }
  }
  Breakdown result;
  std::vector<Interval> cells;
  int64_t previous_end = 0;
  int64_t in_cells = 0;
  for (size_t k = 0; k < schedule.size(); ++k) {
    const int64_t begin = std::max(spans[k].first, previous_end);
    const int64_t length = std::max<int64_t>(0, spans[k].second - begin);
    previous_end = std::max(previous_end, spans[k].second);
    in_cells += length;
    cells.push_back(spans[k]);
    const Duration d = Duration::picoseconds(length);
    switch (schedule[k].kind) {
      case CellKind::kForward:
        result.f += d;
        break;
      case CellKind::kBackward:
      case CellKind::kBackwardInput:
        result.b += d;
        break;
      case CellKind::kBackwardWeight:
        result.w += d;
        break;
      case CellKind::kOverlapped:
        result.fb += d;
        break;
    }
  }
  result.optimizer = step - Duration::picoseconds(previous_end);
  result.bubble = step - Duration::picoseconds(in_cells) - result.optimizer;
  result.exposed_comm = Duration::picoseconds(
      uncovered(intersect(merged(communication), merged(cells)), merged(compute)));
  return result;
}

}  // namespace

Duration Timeline::step() const {
  Duration last;
  for (const Span& s : spans) last = std::max(last, s.end);
  return last;
}

Summary summarize(const Program& program, const Timeline& timeline) {
  CHECK(static_cast<int64_t>(timeline.spans.size()) == program.global_size())
      << timeline.spans.size() << " spans for " << program.global_size() << " ops";
  Summary s;
  s.step = timeline.step();
  for (int32_t r = 0; r < program.layout().pp; ++r) {
    for (int32_t d = 0; d < program.layout().dp; ++d) {
      s.ranks.push_back(break_down(program, timeline, r, d, s.step));
      const double ranks = static_cast<double>(program.layout().pp * program.layout().dp);
      if (s.step == Duration()) continue;
      s.bubble_fraction += s.ranks.back().bubble / s.step / ranks;
      s.exposed_comm_fraction += s.ranks.back().exposed_comm / s.step / ranks;
    }
  }
  return s;
}

Breakdown mean(const std::vector<Breakdown>& ranks) {
  Breakdown m;
  const auto n = static_cast<int64_t>(ranks.size());
  for (const auto part : {&Breakdown::f,
                          &Breakdown::b,
                          &Breakdown::w,
                          &Breakdown::fb,
                          &Breakdown::bubble,
                          &Breakdown::optimizer,
                          &Breakdown::exposed_comm}) {
    Duration sum;
    for (const Breakdown& r : ranks) sum += r.*part;
    m.*part = Duration::picoseconds((sum.picoseconds() + n / 2) / n);
  }
  return m;
}

std::string print_timeline(const Program& program, const Timeline& timeline) {
  const auto us = [](Duration d) {
    const int64_t ps = d.picoseconds();
    return fmt::format("{}.{:06}", ps / 1'000'000, ps % 1'000'000);
  };
  std::string out = fmt::format(
      "{{\"displayTimeUnit\": \"ms\", \"otherData\": {{\"source\": \"{}\", \"ops\": {}}},\n"
      "\"traceEvents\": [\n",
      timeline.source,
      program.global_size());
  for (int32_t r = 0; r < program.layout().pp; ++r) {
    for (int32_t d = 0; d < program.replicas(); ++d) {
      const int64_t rank = program.global_rank({r, d});
      out += fmt::format(
          "{{\"ph\":\"M\",\"name\":\"process_name\",\"pid\":{},\"args\":{{\"name\":\"rank {} "
          "(pipeline {}, data {}) {}\"}}}},\n",
          rank,
          rank,
          r,
          d,
          timeline.source);
      for (int lane = 0; lane < kLanes; ++lane) {
        if (program.lane(r, static_cast<Lane>(lane)).empty()) continue;
        out += fmt::format(
            "{{\"ph\":\"M\",\"name\":\"thread_name\",\"pid\":{},\"tid\":{},\"args\":{{\"name\":"
            "\"{}\"}}}},\n",
            rank,
            lane,
            name_of(static_cast<Lane>(lane)));
      }
    }
  }
  for (OpId id = 0; id < program.global_size(); ++id) {
    const Op& op = program.op(id);
    const Span& span = timeline.spans[static_cast<size_t>(id)];
    out += fmt::format(
        "{{\"ph\":\"X\",\"name\":\"{}\",\"cat\":\"{}{}{}\",\"pid\":{},\"tid\":{},\"ts\":{},"
        "\"dur\":{},\"args\":{{\"op\":{},\"cell\":{}}}}}{}\n",
        to_string(op),
        name_of(op.kind),
        op.pass == Pass::kNone ? "" : ".",
        name_of(op.pass),
        program.global_rank(id),
        static_cast<int>(op.lane),
        us(span.begin),
        us(span.end - span.begin),
        id,
        op.cell,
        id + 1 == program.global_size() ? "" : ",");
  }
  return out + "]}\n";
}

Timeline parse_timeline(const Program& program, std::string_view text, const std::string& path) {
  const auto fail = [&](const std::string& message) {
    throw InputError(fmt::format("{}: {}", path, message));
  };
  Timeline timeline;
  try {
    const auto json = nlohmann::json::parse(text);
    timeline.source = json.at("otherData").at("source").get<std::string>();
    timeline.spans.resize(static_cast<size_t>(program.global_size()));
    std::vector<char> seen(timeline.spans.size(), 0);
    for (const auto& event : json.at("traceEvents")) {
      if (event.at("ph") != "X") continue;
      const auto id = event.at("args").at("op").get<int64_t>();
      if (id < 0 || id >= program.global_size() || seen[static_cast<size_t>(id)]) {
        fail(fmt::format("op {} is not in this plan's Program or stands twice; it has ops 0 to {}",
                         id,
                         program.global_size() - 1));
      }
      const auto name = event.at("name").get<std::string>();
      if (name != to_string(program.op(id))) {
        fail(
            fmt::format("op {} is '{}' here and '{}' in this plan's Program: the timeline was "
                        "made for another plan",
                        id,
                        name,
                        to_string(program.op(id))));
      }
      seen[static_cast<size_t>(id)] = 1;
      const Duration begin = Duration::microseconds(event.at("ts").get<double>());
      const Duration length = Duration::microseconds(event.at("dur").get<double>());
      if (length < Duration() || begin < Duration()) {
        fail(fmt::format("op {} has a negative time", id));
      }
      timeline.spans[static_cast<size_t>(id)] = {begin, begin + length};
    }
    const auto missing = std::find(seen.begin(), seen.end(), 0);
    if (missing != seen.end()) {
      fail(
          fmt::format("op {} of this plan's Program is missing: the timeline was made for "
                      "another plan, or was cut off",
                      missing - seen.begin()));
    }
  } catch (const nlohmann::json::exception& e) {
    fail(fmt::format("not a timeline of ours (Chrome trace JSON with op ids): {}", e.what()));
  }
  return timeline;
}

}  // namespace rehearse
