#include "cli/page/page.h"

#include <algorithm>
#include <cmath>
#include <map>

#include <fmt/format.h>

#include "cli/page/assets.h"
#include "sim/simulate.h"

namespace rehearse::cli {
namespace {

std::string escaped(const std::string& text) {
  std::string out;
  for (const char c : text) {
    switch (c) {
      case '&':
        out += "&amp;";
        break;
      case '<':
        out += "&lt;";
        break;
      case '>':
        out += "&gt;";
        break;
      case '"':
        out += "&quot;";
        break;
      default:
        out += c;
    }
  }
  return out;
}

// Within a script element nothing may look like its end, or the begin of a comment.
std::string in_script(std::string json) {
  for (size_t at = 0; (at = json.find('<', at)) != std::string::npos;) {
    json.replace(at, 1, "\\u003c");
  }
  return json;
}

}  // namespace

Report cells_of(const Program& program, const OpSpans& spans) {
  // By pipeline rank and cell, what it computes.
  std::map<std::pair<int32_t, int32_t>, Span> cells;
  for (const auto& [id, span] : spans) {
    const Op& op = program.op(id);
    if (program.data_rank(id) != 0 || op.lane != Lane::kCompute) continue;
    if (op.cell >= static_cast<int32_t>(program.schedule(op.pp_rank).size())) continue;
    const auto [at, fresh] = cells.emplace(std::pair(op.pp_rank, op.cell), span);
    if (fresh) continue;
    at->second.begin = std::min(at->second.begin, span.begin);
    at->second.end = std::max(at->second.end, span.end);
  }
  std::vector<Value> flat;
  for (const auto& [where, span] : cells) {
    const Cell& cell = program.schedule(where.first)[static_cast<size_t>(where.second)];
    const auto microseconds = [](Duration d) {
      return static_cast<int64_t>(std::llround(d.seconds() * 1e6));
    };
    const auto of = [](bool has, const MicroBatch& m) {
      return has ? static_cast<int64_t>(m.index) : int64_t{-1};
    };
    flat.insert(flat.end(),
                {static_cast<int64_t>(where.first),
                 static_cast<int64_t>(cell.kind),
                 of(cell.has_forward(), cell.forward),
                 of(cell.has_backward(), cell.backward),
                 microseconds(span.begin),
                 microseconds(span.end - span.begin)});
  }
  Report r;
  r.put("cells", std::move(flat));
  return r;
}

Report cells_of(const Program& program, const Timeline& timeline) {
  OpSpans spans;
  const auto ops = static_cast<int64_t>(program.ops().size());
  for (int64_t i = 0; i < std::min(ops, static_cast<int64_t>(timeline.spans.size())); ++i) {
    spans.emplace_back(static_cast<OpId>(i), timeline.spans[static_cast<size_t>(i)]);
  }
  return cells_of(program, spans);
}

Report cells_of(const Plan& plan, const std::optional<Calibration>& calibration) {
  Plan some = plan;
  const Layout& l = plan.layout;
  // As many cells as can be told apart.
  constexpr int64_t kMostCells = 6000;
  int64_t& n = some.training.micro_batches;
  const int64_t by = l.way() == Way::kRoundAgain ? l.pp : 2;
  const int64_t fill = 4 * l.pp * l.slots();
  if (n * l.pp * l.slots() * 2 > kMostCells && n > fill) {
    n = std::max(fill, kMostCells / (2 * l.pp * l.slots())) / by * by;
    n += by == 2 ? (plan.training.micro_batches - n) % 2 : 0;
  }
  const Program program = build_program(some);
  SimulateOptions how{
      .keep = Keep::kRanks, .fold = plan.cluster.of_gpus(), .level_routes = plan.cluster.of_gpus()};
  for (int64_t r = 0; r < l.pp; ++r) how.ranks.push_back(l.rank_of(r, 0));
  Report report = cells_of(program, simulate(some, program, calibration, how).spans);
  report.put(
      "note",
      n == plan.training.micro_batches
          ? fmt::format(
                "One step: {} micro-batches on {} pipeline ranks; what they compute.", n, l.pp)
          : fmt::format(
                "A step of {} of the {} micro-batches on {} pipeline ranks; what they compute.",
                n,
                plan.training.micro_batches,
                l.pp));
  return report;
}

void put_cell_kinds(Report& page) {
  page.put("cell_kinds", {"F", "B", "B for input", "W", "F and B"});
}

std::string print_page(const std::string& kind,
                       const std::string& title,
                       const std::string& subtitle,
                       const Report& data,
                       const std::string& text) {
  return fmt::format(
      "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n"
      "<meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n"
      "<link rel=\"icon\" href=\"data:,\">\n"
      "<title>{0}</title>\n<style>\n{1}</style>\n</head>\n<body data-page=\"{2}\">\n"
      "<header><h1>{0}</h1><p class=\"sub\">{3}</p></header>\n<main></main>\n"
      "<pre id=\"text\" hidden>{4}</pre>\n"
      "<footer><p class=\"note\">rehearse {5}. Charts: Chart.js (MIT licence).</p></footer>\n"
      "<script id=\"report\" type=\"application/json\">\n{6}</script>\n"
      "<script>{7}</script>\n<script>\n{8}</script>\n</body>\n</html>\n",
      escaped(title),
      kPageStyle,
      kind,
      escaped(subtitle),
      escaped(text),
      REHEARSE_VERSION,
      in_script(print_json(data, -1)),
      kChartLibrary,
      kPageScript);
}

}  // namespace rehearse::cli
