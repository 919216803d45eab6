// The text form of a Program: print_program and parse_program.

#include <algorithm>
#include <charconv>
#include <map>
#include <set>

#include <fmt/format.h>
#include <fmt/ranges.h>

#include "base/yaml.h"
#include "plan/program/program.h"

namespace rehearse {
namespace {

constexpr std::string_view kFirstLine = "rehearse-program 1";
constexpr std::string_view kEndCell = "end";
constexpr std::string_view kAt = "at:";  // before the numbers of layers

std::string_view yes_no(bool b) {
  return b ? "yes" : "no";
}

std::string print_op(const Program& program, const Op& op) {
  std::string line = fmt::format("  {} {} {}", op.id, name_of(op.lane), name_of(op.kind));
  if (op.pass != Pass::kNone) line += fmt::format(".{}", name_of(op.pass));
  line += fmt::format(" s{} d{}", op.stage, op.direction);
  if (op.layer) line += fmt::format(" l{}", *op.layer);
  if (op.micro_batch) line += fmt::format(" m{}", *op.micro_batch);
  if (op.peer) line += fmt::format(" p{}", *op.peer);
  if (op.of) line += fmt::format(" of={}", name_of(*op.of));
  if (op.group != Group::kNone) line += fmt::format(" group={}", name_of(op.group));
  const auto after = program.dependencies(op.id);
  if (!after.empty()) line += fmt::format(" <- {}", fmt::join(after, " "));
  return line + "\n";
}

// Reads the text form line by line; every error names the line and shows it.
class Parser {
 public:
  Parser(std::string_view text, const std::string& path) : rest_(text), path_(path) {}

  Program parse() {
    if (!rest_.empty() && rest_.back() != '\n') {
      line_number_ = 1 + static_cast<int>(std::ranges::count(rest_, '\n'));
      line_ = rest_.substr(rest_.rfind('\n') + 1);
      fail("the last line does not end: the file was cut off");
    }
    next();
    if (line_ != kFirstLine) fail(fmt::format("expected '{}'", kFirstLine));
    read_layout();
    read_step();
    while (next()) {
      if (line_.starts_with("rank ")) {
        begin_rank();
      } else if (line_.starts_with("cell ")) {
        begin_cell();
      } else if (line_.starts_with("  ")) {
        read_op();
      } else {
        fail("expected 'rank N', 'cell NAME', or an op indented by two spaces");
      }
    }
    if (static_cast<int64_t>(schedules_.size()) != spec_.layout.pp) {
      fail(fmt::format("expected {} ranks, found {}", spec_.layout.pp, schedules_.size()));
    }
    for (size_t i = 0; i < dependencies_.size(); ++i) {
      for (const int32_t d : dependencies_[i]) {
        if (d < 0 || d >= static_cast<int32_t>(ops_.size())) {
          line_number_ = op_lines_[i].first;
          line_ = op_lines_[i].second;
          fail(fmt::format("op {} waits for op {}, which does not exist", i, d));
        }
      }
    }
    return Program::assemble(spec_, std::move(schedules_), std::move(ops_), dependencies_);
  }

 private:
  [[noreturn]] void fail(const std::string& message) const {
    SourcePlace{.file = path_, .line = std::max(1, line_number_), .text = std::string(line_)}.fail(
        "", message);
  }

  bool next() {
    do {
      if (rest_.empty()) return false;
      const size_t end = rest_.find('\n');
      line_ = rest_.substr(0, end);
      rest_ = end == std::string_view::npos ? std::string_view{} : rest_.substr(end + 1);
      ++line_number_;
    } while (line_.empty());
    return true;
  }

  static std::vector<std::string_view> words(std::string_view text) {
    std::vector<std::string_view> out;
    while (!text.empty()) {
      const size_t end = text.find(' ');
      if (end != 0) out.push_back(text.substr(0, end));
      if (end == std::string_view::npos) break;
      text = text.substr(end + 1);
    }
    return out;
  }

  int64_t integer(std::string_view text) const {
    int64_t value = 0;
    const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
    if (error != std::errc() || end != text.data() + text.size() || value < 0 ||
        value > INT32_MAX) {
      fail(fmt::format("expected a number, found '{}'", text));
    }
    return value;
  }

  // "name key=value key=value" into a map; the keys must be these, and `optional` may be there.
  std::map<std::string_view, std::string_view> fields(std::string_view name,
                                                      const std::vector<std::string_view>& keys,
                                                      const std::set<std::string_view>& optional) {
    if (!next()) fail(fmt::format("expected a line '{} ...'", name));
    const auto w = words(line_);
    std::map<std::string_view, std::string_view> found;
    for (size_t i = 1; i < w.size(); ++i) {
      const size_t equals = w[i].find('=');
      if (equals != std::string_view::npos) found[w[i].substr(0, equals)] = w[i].substr(equals + 1);
    }
    const auto needed =
        std::ranges::count_if(found, [&](const auto& f) { return !optional.contains(f.first); });
    for (const auto key : keys) {
      if (w.empty() || w[0] != name || !found.contains(key) ||
          needed != static_cast<int64_t>(keys.size())) {
        fail(fmt::format(
            "expected '{}' with {}{}",
            name,
            fmt::join(keys, ", "),
            optional.empty() ? "" : fmt::format(", and perhaps {}", fmt::join(optional, ", "))));
      }
    }
    return found;
  }

  void read_layout() {
    auto f = fields("layout",
                    {"pp", "dp", "ep", "tp", "schedule", "zero", "layers"},
                    {"chunks",
                     "cp",
                     "etp",
                     "rank_order",
                     "sequence_parallel",
                     "context",
                     "dispatcher",
                     "overlap_grad_reduce",
                     "overlap_p2p",
                     "overlap_all_to_all"});
    Layout& l = spec_.layout;
    l.pp = integer(f["pp"]);
    l.dp = integer(f["dp"]);
    l.ep = integer(f["ep"]);
    l.tp = integer(f["tp"]);
    l.zero_stage = integer(f["zero"]);
    if (f.contains("cp")) l.cp = integer(f["cp"]);
    if (f.contains("etp")) l.etp = integer(f["etp"]);
    if (f.contains("rank_order")) l.rank_order = named(f["rank_order"], kRankOrders);
    const auto flag = [&](std::string_view key, bool& value) {
      if (f.contains(key)) value = one_of(f[key], "no", "yes");
    };
    flag("sequence_parallel", l.sequence_parallel);
    flag("overlap_grad_reduce", l.overlap_grad_reduce);
    flag("overlap_p2p", l.overlap_p2p);
    flag("overlap_all_to_all", l.overlap_all_to_all);
    if (f.contains("context")) l.context = named(f["context"], kContextKinds);
    if (f.contains("dispatcher")) l.dispatcher = named(f["dispatcher"], kDispatchers);
    const auto schedule = kSchedules.find(f["schedule"]);
    if (!schedule) {
      fail(fmt::format("unknown schedule '{}'; known: {}", f["schedule"], kSchedules.list()));
    }
    l.schedule = *schedule;
    const bool chunked = l.way() == Way::kRoundAgain;
    if (chunked != f.contains("chunks")) {
      fail(chunked ? "expected 'chunks', the stages of a rank under this schedule"
                   : "this schedule has no 'chunks'");
    }
    if (chunked) l.chunks = integer(f["chunks"]);
    std::string list(f["layers"]);
    for (char& c : list) c = c == ',' ? ' ' : c;
    for (const auto word : words(list)) l.layers_per_stage.push_back(integer(word));
    constexpr int64_t kMost = 1'000'000;
    const auto count = [](int64_t n) { return n >= 1 && n <= kMost; };
    if (!count(l.pp) || !count(l.dp) || !count(l.ep) || !count(l.tp) || !count(l.cp) ||
        !count(l.etp) || l.chunks < 1 || l.stage_ranks() % (l.ep * l.etp) != 0 ||
        static_cast<int64_t>(l.layers_per_stage.size()) != l.stages()) {
      fail(
          "expected pp, dp, ep, tp of 1 to 1,000,000, ep x etp dividing dp x cp x tp, one layer "
          "count per stage");
    }
  }

  void read_step() {
    auto f = fields("step",
                    {"micro_batches", "dense_layers", "mtp", "expert_bias", "granularity", "mode"},
                    {"shared_experts", "recompute", "tied"});
    spec_.micro_batches = integer(f["micro_batches"]);
    spec_.dense = layer_set(f["dense_layers"]);
    spec_.mtp = f["mtp"] == "no" ? 0 : f["mtp"] == "yes" ? 1 : integer(f["mtp"]);
    spec_.expert_bias = one_of(f["expert_bias"], "no", "yes");
    if (f.contains("shared_experts"))
      spec_.shared_experts = one_of(f["shared_experts"], "no", "yes");
    if (f.contains("recompute")) spec_.recompute_layers = one_of(f["recompute"], "none", "layers");
    if (f.contains("tied")) spec_.tied_embeddings = one_of(f["tied"], "no", "yes");
    spec_.granularity = named(f["granularity"], kGranularities);
    spec_.mode = named(f["mode"], kModes);
  }

  // "3": the first three; "at:1,3-5": these.
  LayerSet layer_set(std::string_view text) const {
    if (!text.starts_with(kAt)) return LayerSet::leading(integer(text));
    const auto set = LayerSet::parse(text.substr(kAt.size()));
    if (!set || set->is_leading()) {
      fail(fmt::format("expected a number of leading layers or {}1,3-5, found '{}'", kAt, text));
    }
    return *set;
  }

  template <typename E, size_t N>
  E named(std::string_view text, const NameTable<E, N>& table) const {
    const auto value = table.find(text);
    if (!value) fail(fmt::format("expected one of {}, found '{}'", table.list(), text));
    return *value;
  }

  // False for `a`, true for `b`.
  bool one_of(std::string_view text, std::string_view a, std::string_view b) const {
    if (text != a && text != b) fail(fmt::format("expected '{}' or '{}', found '{}'", a, b, text));
    return text == b;
  }

  void begin_rank() {
    if (integer(line_.substr(5)) != static_cast<int64_t>(schedules_.size())) {
      fail(fmt::format("expected 'rank {}'", schedules_.size()));
    }
    schedules_.emplace_back();
    cell_ = -1;
  }

  void begin_cell() {
    if (schedules_.empty()) fail("a cell before the first 'rank 0'");
    ++cell_;
    const std::string_view name = line_.substr(5);
    if (name != kEndCell) schedules_.back().push_back(parse_cell(name));
  }

  MicroBatch parse_micro_batch(std::string_view text) const {
    const size_t dot = text.find('.');
    if (dot == std::string_view::npos) fail("expected DIRECTION.INDEX, such as 0.3");
    return {.direction = static_cast<int32_t>(integer(text.substr(0, dot))),
            .index = static_cast<int32_t>(integer(text.substr(dot + 1)))};
  }

  Cell parse_cell(std::string_view name) const {
    Cell cell;
    const size_t both = name.find("&B");
    if (name.starts_with("F") && both != std::string_view::npos) {
      cell.kind = CellKind::kOverlapped;
      cell.forward = parse_micro_batch(name.substr(1, both - 1));
      cell.backward = parse_micro_batch(name.substr(both + 2));
    } else if (name.starts_with("F")) {
      cell.forward = parse_micro_batch(name.substr(1));
    } else if (name.starts_with("Bi")) {
      cell.kind = CellKind::kBackwardInput;
      cell.backward = parse_micro_batch(name.substr(2));
    } else if (name.starts_with("B")) {
      cell.kind = CellKind::kBackward;
      cell.backward = parse_micro_batch(name.substr(1));
    } else if (name.starts_with("W")) {
      cell.kind = CellKind::kBackwardWeight;
      cell.backward = parse_micro_batch(name.substr(1));
    } else {
      fail("expected a cell such as F0.3, B1.12, Bi1.12, W1.12, F0.3&B1.12, or end");
    }
    return cell;
  }

  void read_op() {
    if (cell_ < 0) fail("an op before its 'cell'");
    const auto w = words(line_);
    if (w.size() < 5) fail("expected 'ID LANE KIND sN dN ...'");
    Op op{.id = static_cast<int32_t>(integer(w[0])),
          .pp_rank = static_cast<int32_t>(schedules_.size()) - 1,
          .cell = cell_};
    if (op.id != static_cast<int32_t>(ops_.size())) {
      fail(fmt::format("expected op {}: ids count from 0", ops_.size()));
    }
    const auto lane = lane_named(w[1]);
    if (!lane) fail(fmt::format("unknown lane '{}'", w[1]));
    op.lane = *lane;
    const size_t dot = w[2].find('.');
    const auto kind = op_kind_named(w[2].substr(0, dot));
    const auto pass =
        pass_named(dot == std::string_view::npos ? std::string_view{} : w[2].substr(dot + 1));
    if (!kind || !pass) fail(fmt::format("unknown op '{}'", w[2]));
    op.kind = *kind;
    op.pass = *pass;
    std::vector<int32_t> after;
    bool arrow = false;
    for (size_t i = 3; i < w.size(); ++i) {
      if (w[i] == "<-") {
        arrow = true;
      } else if (arrow) {
        after.push_back(static_cast<int32_t>(integer(w[i])));
      } else {
        read_field(op, w[i]);
      }
    }
    ops_.push_back(op);
    dependencies_.push_back(std::move(after));
    op_lines_.emplace_back(line_number_, line_);
  }

  void read_field(Op& op, std::string_view word) const {
    if (word.starts_with("of=")) {
      op.of = op_kind_named(word.substr(3));
      if (!op.of) fail(fmt::format("unknown op '{}'", word.substr(3)));
      return;
    }
    if (word.starts_with("group=")) {
      const auto group = group_named(word.substr(6));
      if (!group) fail(fmt::format("unknown group '{}'", word.substr(6)));
      op.group = *group;
      return;
    }
    const auto value = static_cast<int32_t>(integer(word.substr(1)));
    switch (word[0]) {
      case 's':
        op.stage = value;
        break;
      case 'd':
        op.direction = value;
        break;
      case 'l':
        op.layer = value;
        break;
      case 'm':
        op.micro_batch = value;
        break;
      case 'p':
        op.peer = value;
        break;
      default:
        fail(fmt::format("unknown field '{}'", word));
    }
  }

  std::string_view rest_;
  std::string path_;
  std::string_view line_;
  int line_number_ = 0;
  Program::Spec spec_;
  std::vector<RankSchedule> schedules_;
  int32_t cell_ = -1;
  std::vector<Op> ops_;
  std::vector<std::vector<int32_t>> dependencies_;
  std::vector<std::pair<int, std::string_view>> op_lines_;
};

}  // namespace

std::string print_program(const Program& program) {
  const Program::Spec& s = program.spec();
  const Layout& l = s.layout;
  std::string out = fmt::format("{}\n", kFirstLine);
  std::string more;  // what is not as ever
  const auto unless = [&](std::string_view key, bool value, bool ever) {
    if (value != ever) more += fmt::format(" {}={}", key, yes_no(value));
  };
  if (l.cp != 1) more += fmt::format(" cp={}", l.cp);
  if (l.rank_order != RankOrder::kDataFirst) {
    more += fmt::format(" rank_order={}", kRankOrders[l.rank_order]);
  }
  if (l.etp != 1) more += fmt::format(" etp={}", l.etp);
  unless("sequence_parallel", l.sequence_parallel, true);
  if (l.context != ContextKind::kGather)
    more += fmt::format(" context={}", kContextKinds[l.context]);
  if (l.dispatcher != Dispatcher::kTwoHop) {
    more += fmt::format(" dispatcher={}", kDispatchers[l.dispatcher]);
  }
  unless("overlap_grad_reduce", l.overlap_grad_reduce, false);
  unless("overlap_p2p", l.overlap_p2p, true);
  unless("overlap_all_to_all", l.overlap_all_to_all, false);
  out += fmt::format("layout pp={} dp={} ep={} tp={} schedule={}{} zero={} layers={}{}\n",
                     l.pp,
                     l.dp,
                     l.ep,
                     l.tp,
                     name_of(l.schedule),
                     l.way() == Way::kRoundAgain ? fmt::format(" chunks={}", l.chunks) : "",
                     l.zero_stage,
                     fmt::join(l.layers_per_stage, ","),
                     more);
  more.clear();
  unless("shared_experts", s.shared_experts, false);
  if (s.recompute_layers) more += " recompute=layers";
  unless("tied", s.tied_embeddings, false);
  out += fmt::format(
      "step micro_batches={} dense_layers={} mtp={} expert_bias={} granularity={} mode={}{}\n",
      s.micro_batches,
      s.dense.is_leading() ? std::to_string(s.dense.count()) : std::string(kAt) + s.dense.print(),
      s.mtp < 2 ? std::string(yes_no(s.mtp == 1)) : std::to_string(s.mtp),
      yes_no(s.expert_bias),
      kGranularities[s.granularity],
      kModes[s.mode],
      more);
  int32_t rank = -1;
  int32_t cell = -1;
  for (const Op& op : program.ops()) {
    if (op.pp_rank != rank) {
      rank = op.pp_rank;
      cell = -1;
      out += fmt::format("rank {}\n", rank);
    }
    const RankSchedule& schedule = program.schedule(rank);
    while (cell < op.cell) {
      ++cell;
      const bool end = cell == static_cast<int32_t>(schedule.size());
      out +=
          fmt::format("cell {}\n",
                      end ? std::string(kEndCell) : to_string(schedule[static_cast<size_t>(cell)]));
    }
    out += print_op(program, op);
  }
  return out;
}

Program parse_program(std::string_view text, const std::string& path) {
  return Parser(text, path).parse();
}

}  // namespace rehearse
