#include "plan/program/timeline.h"

#include <algorithm>
#include <numeric>
#include <set>

#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include "base/errors.h"
#include "base/json_error.h"

namespace rehearse {
namespace {

bool in_cell(const Op& op) {
  return is_cell_compute(op.kind) || is_all_to_all(op.kind) || is_shared_work(op.kind);
}

}  // namespace

Duration Timeline::step() const {
  Duration last;
  for (const Span& s : spans) last = std::max(last, s.end);
  return last;
}

SummaryBuilder::SummaryBuilder(const Program& program, StandIns ranks)
    : program_(program), stand_ins_(std::move(ranks)) {
  for (int32_t r = 0; r < program.layout().pp; ++r) {
    cell_ops_.emplace_back(program.schedule(r).size(), 0);
  }
  for (const Op& op : program.ops()) {
    if (in_cell(op)) ++cell_ops_[static_cast<size_t>(op.pp_rank)][static_cast<size_t>(op.cell)];
    shares_ |= is_shared_work(op.kind);
  }
  ranks_.resize(static_cast<size_t>(program.layout().pp * stand_ins_.slots()));
}

// Cells follow each other without overlap, so that a span counts from the end of the one before.
void SummaryBuilder::count_cell(Rank& rank, CellKind kind, const Interval& span) {
  const int64_t begin = std::max(span.begin, rank.cells_end);
  // A cell in which nothing computes, as a stage without layers may have, ends before it begins.
  const Duration length = Duration::picoseconds(std::max(begin, span.end) - begin);
  rank.cells_end = std::max(rank.cells_end, span.end);
  Breakdown& sums = rank.sums;
  Duration& sum = kind == CellKind::kForward          ? sums.f
                  : kind == CellKind::kOverlapped     ? sums.fb
                  : kind == CellKind::kBackwardWeight ? sums.w
                                                      : sums.b;
  sum += length;
}

// The same where collectives of shared work come too, over several lanes: these are busy time to
// all-to-alls, and exposed themselves where nothing computes. Spans come in the order of their
// ends; a lane's next span begins behind its last, so that a few recent intervals are enough.
void SummaryBuilder::count_exposed(Rank& rank, OpKind kind, const Interval& now) {
  constexpr size_t kRecent = 32;
  // Joins `now` to disjoint intervals in order; how much of it was not in them, and how much of
  // that is in `also`. What ended before `now` began is behind both.
  const auto join = [&](std::vector<Interval>& own, const std::vector<Interval>& also) {
    int64_t fresh = 0, inside = 0;
    const auto piece = [&](int64_t begin, int64_t end) {
      if (end <= begin) return;
      fresh += end - begin;
      for (auto o = also.rbegin(); o != also.rend() && o->end > begin; ++o) {
        inside += std::max<int64_t>(0, std::min(end, o->end) - std::max(begin, o->begin));
      }
    };
    int64_t at = now.end;
    Interval joined = now;
    while (!own.empty() && own.back().end >= now.begin) {
      const Interval& o = own.back();
      piece(std::max(o.end, now.begin), at);
      at = std::max(std::min(at, o.begin), now.begin);
      joined.begin = std::min(joined.begin, o.begin);
      joined.end = std::max(joined.end, o.end);
      own.pop_back();
    }
    piece(now.begin, at);
    own.push_back(joined);
    if (own.size() > 2 * kRecent) own.erase(own.begin(), own.end() - kRecent);
    return std::pair(fresh, inside);
  };
  const auto add = [](Duration& sum, int64_t ps) { sum += Duration::picoseconds(ps); };
  if (is_all_to_all(kind)) {
    const auto [fresh, hidden] = join(rank.exchange, rank.busy);
    add(rank.sums.exposed_comm, fresh - hidden);
    return;
  }
  add(rank.sums.exposed_comm, -join(rank.busy, rank.exchange).second);
  if (is_shared_work(kind)) {
    const auto [fresh, hidden] = join(rank.shared, rank.compute);
    add(rank.sums.exposed_shared, fresh - hidden);
  } else {
    add(rank.sums.exposed_shared, -join(rank.compute, rank.shared).second);
  }
}

void SummaryBuilder::record(OpId id, const Span& span, Duration waited) {
  const Op& op = program_.op(id);
  Rank& rank = ranks_[static_cast<size_t>(op.pp_rank * stand_ins_.slots() +
                                          stand_ins_.slot(program_.data_rank(id)))];
  const Interval now{span.begin.picoseconds(), span.end.picoseconds()};
  rank.last = std::max(rank.last, now.end);
  if (!in_cell(op)) return;
  // Exposed: all of the all-to-all's time but what computation overlaps. Each lane's spans follow
  // each other, so an overlap is found when the later of two spans ends, and a span is forgotten
  // once the other lane has passed it.
  if (shares_) {
    count_exposed(rank, op.kind, now);
  } else {
    const bool exchange = is_all_to_all(op.kind);
    std::vector<Interval>& others = exchange ? rank.compute : rank.exchange;
    int64_t exposed = exchange ? now.end - now.begin : 0;
    for (const Interval& o : others) {
      exposed -= std::max<int64_t>(0, std::min(now.end, o.end) - std::max(now.begin, o.begin));
    }
    std::erase_if(others, [&](const Interval& o) { return o.end <= now.end; });
    std::vector<Interval>& own = exchange ? rank.exchange : rank.compute;
    if (!own.empty() && own.back().end == now.begin) {
      own.back().end = now.end;
    } else {
      own.push_back(now);
    }
    rank.sums.exposed_comm += Duration::picoseconds(exposed);
  }
  rank.sums.exchange_wait += waited;

  const RankSchedule& schedule = program_.schedule(op.pp_rank);
  const auto& sizes = cell_ops_[static_cast<size_t>(op.pp_rank)];
  while (rank.first_open + static_cast<int32_t>(rank.open.size()) <= op.cell) {
    const auto next = static_cast<size_t>(rank.first_open) + rank.open.size();
    rank.open.push_back({.missing = sizes[next]});
  }
  OpenCell& cell = rank.open[static_cast<size_t>(op.cell - rank.first_open)];
  cell.span.begin = std::min(cell.span.begin, now.begin);
  cell.span.end = std::max(cell.span.end, now.end);
  --cell.missing;
  size_t closed = 0;
  for (; closed < rank.open.size() && rank.open[closed].missing == 0; ++closed) {
    const auto index = static_cast<size_t>(rank.first_open++);
    count_cell(rank, schedule[index].kind, rank.open[closed].span);
  }
  if (closed > 0)
    rank.open.erase(rank.open.begin(), rank.open.begin() + static_cast<ptrdiff_t>(closed));
}

Summary SummaryBuilder::finish() {
  Summary s;
  int64_t last = 0;
  for (const Rank& rank : ranks_) last = std::max(last, rank.last);
  s.step = Duration::picoseconds(last);
  const Layout& layout = program_.layout();
  const auto ranks = static_cast<double>(layout.world());
  s.ranks.resize(static_cast<size_t>(layout.world()));
  for (int32_t r = 0; r < layout.pp; ++r) {
    for (int32_t d = 0; d < layout.stage_ranks(); ++d) {
      const Rank& rank = ranks_[static_cast<size_t>(r * stand_ins_.slots() + stand_ins_.slot(d))];
      Breakdown b = rank.sums;
      b.optimizer = s.step - Duration::picoseconds(rank.cells_end);
      b.bubble = s.step - b.f - b.b - b.w - b.fb - b.optimizer;
      s.ranks[static_cast<size_t>(layout.rank_of(r, d))] = b;
      if (s.step == Duration()) continue;
      s.bubble_fraction += b.bubble / s.step / ranks;
      s.exposed_comm_fraction += b.exposed_comm / s.step / ranks;
      s.exposed_shared_fraction += b.exposed_shared / s.step / ranks;
      s.exchange_wait_fraction += b.exchange_wait / s.step / ranks;
    }
  }
  return s;
}

Summary summarize(const Program& program, const Timeline& timeline) {
  CHECK(static_cast<int64_t>(timeline.spans.size()) == program.global_size())
      << timeline.spans.size() << " spans for " << program.global_size() << " ops";
  const auto dp = static_cast<int32_t>(program.layout().stage_ranks());
  SummaryBuilder builder(program, StandIns(dp, dp));
  std::vector<OpId> order(timeline.spans.size());
  std::iota(order.begin(), order.end(), OpId{0});
  std::stable_sort(order.begin(), order.end(), [&](OpId a, OpId b) {
    return timeline.spans[static_cast<size_t>(a)].end < timeline.spans[static_cast<size_t>(b)].end;
  });
  for (const OpId id : order) builder.record(id, timeline.spans[static_cast<size_t>(id)], {});
  return builder.finish();
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
                          &Breakdown::exposed_comm,
                          &Breakdown::exposed_shared,
                          &Breakdown::exchange_wait}) {
    __int128 sum = 0;  // of a million ranks' minutes
    for (const Breakdown& r : ranks) sum += (r.*part).picoseconds();
    m.*part = Duration::picoseconds(static_cast<int64_t>((sum + n / 2) / n));
  }
  return m;
}

namespace {

// What stands in otherData beside source, shapes and ops.
std::string print_about(const Timeline& head) {
  std::string out;
  if (head.calibrated) out += fmt::format("\"calibrated\": {}, ", *head.calibrated);
  if (!head.load) return out;
  const MachineLoad& l = *head.load;
  return out + fmt::format(
                   "\"machine_load\": {{\"wall_s\": {}, \"cores\": {}, \"own_cores\": {}, "
                   "\"other_cores\": {}, \"stolen_cores\": {}, \"throttled_cores\": {}, "
                   "\"pressure\": {}}}, ",
                   l.wall.seconds(),
                   l.cores,
                   l.own,
                   l.others,
                   l.stolen,
                   l.throttled,
                   l.pressure ? fmt::format("{}", *l.pressure) : "null");
}

void parse_about(const nlohmann::json& about, const std::string& path, Timeline& timeline) {
  if (about.contains("calibrated")) timeline.calibrated = about.at("calibrated").get<bool>();
  if (!about.contains("machine_load")) return;
  const auto& load = about.at("machine_load");
  const auto number = [&](const char* key, double most) {
    const auto x = load.at(key).get<double>();
    if (x >= 0 && x <= most) return x;
    throw InputError(fmt::format(
        "{}: otherData.machine_load.{}: expected a number from 0 to {:g}", path, key, most));
  };
  constexpr double kMostSeconds = 9e6;
  constexpr double kMostCores = 1e6;
  MachineLoad l{.wall = Duration::seconds(number("wall_s", kMostSeconds)),
                .cores = static_cast<int64_t>(number("cores", kMostCores)),
                .own = number("own_cores", kMostCores),
                .others = number("other_cores", kMostCores),
                .stolen = number("stolen_cores", kMostCores),
                .throttled = number("throttled_cores", kMostCores)};
  if (!load.at("pressure").is_null()) l.pressure = number("pressure", 1);
  if (l.cores < 1 || l.wall == Duration()) {
    throw InputError(fmt::format(
        "{}: otherData.machine_load: expected a wall_s above 0 and at least one of cores", path));
  }
  timeline.load = l;
}

}  // namespace

std::string print_timeline(const Program& program, const Timeline& head, const OpSpans& spans) {
  const std::string& source = head.source;
  const auto us = [](Duration d) {
    const int64_t ps = d.picoseconds();
    return fmt::format("{}.{:06}", ps / 1'000'000, ps % 1'000'000);
  };
  std::string out = fmt::format(
      "{{\"displayTimeUnit\": \"ms\", \"otherData\": {{\"source\": \"{}\", {}{}\"ops\": {}}},\n"
      "\"traceEvents\": [\n",
      source,
      head.shapes.empty() ? "" : fmt::format("\"shapes\": \"{}\", ", head.shapes),
      print_about(head),
      spans.size());
  std::set<int64_t> shown;
  for (const auto& [id, span] : spans) shown.insert(program.global_rank(id));
  for (const int64_t rank : shown) {
    const auto r = static_cast<int32_t>(rank / program.replicas());
    out += fmt::format(
        "{{\"ph\":\"M\",\"name\":\"process_name\",\"pid\":{},\"args\":{{\"name\":\"rank {} "
        "(pipeline {}, data {}) {}\"}}}},\n",
        rank,
        rank,
        r,
        rank % program.replicas(),
        source);
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
  for (const auto& [id, span] : spans) {
    const Op& op = program.op(id);
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
        id == spans.back().first ? "" : ",");
  }
  return out + "]}\n";
}

std::string print_timeline(const Program& program, const Timeline& timeline) {
  OpSpans spans;
  spans.reserve(timeline.spans.size());
  for (const Span& s : timeline.spans) spans.emplace_back(static_cast<OpId>(spans.size()), s);
  return print_timeline(program, timeline, spans);
}

Timeline parse_timeline(const Program& program, std::string_view text, const std::string& path) {
  const auto fail = [&](const std::string& message) {
    throw InputError(fmt::format("{}: {}", path, message));
  };
  Timeline timeline;
  try {
    const auto json = nlohmann::json::parse(text);
    timeline.source = json.at("otherData").at("source").get<std::string>();
    timeline.shapes = json.at("otherData").value("shapes", "");
    parse_about(json.at("otherData"), path, timeline);
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
      const Op& op = program.op(id);
      const auto expect = [&](const char* what, int64_t there, int64_t here) {
        if (there == here) return;
        fail(
            fmt::format("op {} has the {} {} here and {} in this plan's Program: the timeline was "
                        "made for another plan",
                        id,
                        what,
                        there,
                        here));
      };
      expect("rank (pid)", event.at("pid").get<int64_t>(), program.global_rank(id));
      expect("lane (tid)", event.at("tid").get<int64_t>(), static_cast<int64_t>(op.lane));
      expect("cell", event.at("args").at("cell").get<int64_t>(), op.cell);
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
    for (OpId id = 0; id < program.global_size(); ++id) {
      const Op& op = program.op(id);
      const auto lane = program.lane(op.pp_rank, op.lane);
      if (lane.front() == op.id) continue;
      const auto before = std::ranges::lower_bound(lane, op.id) - 1;
      const OpId earlier = program.global_id(*before, program.data_rank(id));
      if (timeline.spans[static_cast<size_t>(id)].begin <
          timeline.spans[static_cast<size_t>(earlier)].end) {
        fail(fmt::format("op {} begins before op {} of its lane has ended", id, earlier));
      }
    }
    // Sums over all ops must be times too (they are taken when timelines are compared).
    Duration sum;
    for (const Span& s : timeline.spans) sum += s.end;
    if (sum == Duration()) fail("all its times are zero: nothing was measured");
  } catch (const nlohmann::json::exception& e) {
    fail_json(path, "not a timeline of ours (Chrome trace JSON with op ids)", e);
  }
  return timeline;
}

}  // namespace rehearse
