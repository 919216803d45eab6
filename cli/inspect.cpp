// rehearse inspect: a plan's schedule, Program, memory and bubble, and what this version can do.

#include <iostream>

#include <fmt/format.h>

#include "base/file.h"
#include "cli/command.h"
#include "cli/results.h"
#include "plan/capabilities.h"
#include "sim/exchange_speed.h"
#include "sim/simulate.h"

namespace rehearse::cli {
namespace {

namespace po = boost::program_options;

// Idle units of each pipeline rank when F = Bi = W = 1 and an overlapped pair takes 3.
std::vector<double> unit_bubbles(Program::Spec spec, Granularity granularity) {
  spec.granularity = granularity;
  spec.layout.dp = spec.layout.ep = 1;  // replicas of a pipeline idle alike
  const Program program = Program::build(spec);
  // A unit that every stage's ops divide.
  const Duration unit = Duration::picoseconds(int64_t{1} << 32);
  const Summary s = summarize(program, simulate_unit_costs(program, unit));
  std::vector<double> bubbles;
  for (const Breakdown& b : s.ranks) {
    bubbles.push_back((s.step - b.f - b.b - b.w - b.fb) / unit);
  }
  return bubbles;
}

Json cell_json(const Cell& cell, int64_t rank, const Layout& layout) {
  static constexpr std::string_view kKinds[] = {"F", "B", "Bi", "W", "F&B"};
  // FACTS of the published schedule number directions from the rank's nearer end.
  const auto near = [&](const MicroBatch& m) {
    const bool swap = layout.copies() == 2 && rank >= (layout.pp + 1) / 2;
    return swap ? 1 - m.direction : m.direction;
  };
  Json j = {{"kind", kKinds[static_cast<size_t>(cell.kind)]}};
  if (cell.has_forward()) {
    j["forward"] = {{"direction", cell.forward.direction},
                    {"from_nearer_end", near(cell.forward)},
                    {"micro_batch", cell.forward.index}};
  }
  if (cell.has_backward()) {
    j["backward"] = {{"direction", cell.backward.direction},
                     {"from_nearer_end", near(cell.backward)},
                     {"micro_batch", cell.backward.index}};
  }
  return j;
}

void print_capabilities() {
  Table table({"", "simulate", "train"});
  for (const Capability& c : capabilities()) {
    table.row({c.feature, c.simulate ? "yes" : "no", c.run ? "yes" : "no"});
  }
  std::cout << table.text();
}

struct RankInfo {
  RankSchedule schedule;
  double bubble_cells, bubble_ops;
  int64_t peak;
  RankMemory memory;
};

std::vector<RankInfo> rank_infos(const Plan& plan, const Program& program) {
  const auto cells = unit_bubbles(program.spec(), Granularity::kCell);
  const auto ops = unit_bubbles(program.spec(), Granularity::kOp);
  std::vector<RankInfo> infos;
  for (int32_t r = 0; r < plan.layout.pp; ++r) {
    const auto i = static_cast<size_t>(r);
    infos.push_back({.schedule = program.schedule(r),
                     .bubble_cells = cells[i],
                     .bubble_ops = ops[i],
                     .peak = peak_micro_batches(program.schedule(r)),
                     .memory = rank_memory(plan, r)});
  }
  return infos;
}

Json inspect_json(const Plan& plan, const Program& program) {
  const Layout& l = plan.layout;
  const Architecture& a = plan.model.architecture;
  Json ranks = Json::array();
  const auto infos = rank_infos(plan, program);
  for (size_t r = 0; r < infos.size(); ++r) {
    Json cells = Json::array();
    for (const Cell& c : infos[r].schedule) {
      cells.push_back(cell_json(c, static_cast<int64_t>(r), l));
    }
    ranks.push_back({{"rank", r},
                     {"bubble_cells", infos[r].bubble_cells},
                     {"bubble_ops", infos[r].bubble_ops},
                     {"peak_micro_batches", infos[r].peak},
                     {"memory_bytes", to_json(infos[r].memory)},
                     {"cells", std::move(cells)}});
  }
  return {{"model", plan.model.name},
          {"parameters", total_parameters(a)},
          {"active_parameters", active_parameters(a)},
          {"flops_per_token_causal",
           training_flops_per_token(a, plan.training.sequence_length, true).count()},
          {"world", l.world()},
          {"schedule", name_of(l.schedule)},
          {"layers_per_stage", l.layers_per_stage},
          {"ops", program.global_size()},
          {"bubble_formula", bubble_formula(l, {})},
          {"bubble_formula_text", bubble_formula_text(l.schedule)},
          {"stages", l.stages()},
          {"stages_held", l.slots()},
          {"stages_held_formula_text", parameters_formula_text(l.schedule)},
          {"peak_micro_batches_formula_text", peak_micro_batches_formula_text(l.schedule)},
          {"peak_micro_batches_formula", peak_micro_batches_formula(l)},
          {"ranks", std::move(ranks)}};
}

std::string inspect_text(const Plan& plan, const Program& program, std::optional<int64_t> only) {
  const Layout& l = plan.layout;
  const Architecture& a = plan.model.architecture;
  const Training& t = plan.training;
  std::string out = fmt::format(
      "model      {}: {:.4g} parameters, {:.4g} active per token, {} layers ({} dense)\n"
      "cluster    {}: {} nodes x {} devices\n"
      "layout     PP{} x DP{} x TP{}, EP{}, {}, ZeRO-{}, layers per stage {}\n"
      "step       {} micro-batches x {} sequences x {} tokens x DP{} = {} tokens\n"
      "           {} per token forward and backward (causal)\n"
      "Program    {} ops, valid: every message paired, no deadlock under lane order\n\n",
      plan.model.name,
      static_cast<double>(total_parameters(a)),
      static_cast<double>(active_parameters(a)),
      a.layers,
      a.dense_layers,
      plan.cluster.name,
      plan.cluster.nodes,
      plan.cluster.devices_per_node,
      l.pp,
      l.dp,
      l.tp,
      l.ep,
      name_of(l.schedule),
      l.zero_stage,
      fmt::format("{}",
                  [&] {
                    std::string s;
                    for (const int64_t n : l.layers_per_stage)
                      s += (s.empty() ? "" : ",") + std::to_string(n);
                    return s;
                  }()),
      t.micro_batches,
      t.micro_batch_size,
      t.sequence_length,
      l.dp,
      plan.step_tokens(),
      to_string(training_flops_per_token(a, t.sequence_length, true)),
      program.global_size());
  out += fmt::format(
      "bubble at unit costs (F = Bi = W = 1, F&B = 3, no communication)\n"
      "  formula {}: {}; most micro-batches held, {}: {}; parameters: {}\n",
      bubble_formula_text(l.schedule),
      bubble_formula(l, {}),
      peak_micro_batches_formula_text(l.schedule),
      peak_micro_batches_formula(l),
      parameters_formula_text(l.schedule));
  Table table({"pipeline rank",
               "bubble, whole cells",
               "bubble, ops",
               "micro-batches held",
               "parameters",
               "gradients",
               "optimizer",
               "activations",
               "total"});
  const auto infos = rank_infos(plan, program);
  for (size_t r = 0; r < infos.size(); ++r) {
    if (only && *only != static_cast<int64_t>(r)) continue;
    table.row({std::to_string(r),
               fmt::format("{:g}", infos[r].bubble_cells),
               fmt::format("{:.4g}", infos[r].bubble_ops),
               std::to_string(infos[r].peak),
               to_string(infos[r].memory.parameters),
               to_string(infos[r].memory.gradients),
               to_string(infos[r].memory.optimizer),
               to_string(infos[r].memory.activations),
               to_string(infos[r].memory.total())});
  }
  out += table.text() + memory_warning(plan) +
         "\ncells (F: forward, B: backward, Bi: its input part, W: its weight part; "
         "direction.micro-batch)\n";
  for (size_t r = 0; r < infos.size(); ++r) {
    if (only && *only != static_cast<int64_t>(r)) continue;
    out += fmt::format("  rank {}:", r);
    for (const Cell& c : infos[r].schedule) out += " " + to_string(c);
    out += "\n";
  }
  return out;
}

std::vector<ExchangeSpeed> speeds_of(const Plan& plan, const Program& program) {
  if (plan.cluster.device != DeviceKind::kGpu || plan.layout.ep < 2) {
    throw InputError(
        fmt::format("{}: --all-to-all wants a cluster of GPUs and ep of at least 2", plan.path));
  }
  return exchange_speeds(plan, program);
}

Json all_to_all_json(const Plan& plan, const Program& program) {
  Json ops = Json::array();
  for (const ExchangeSpeed& s : speeds_of(plan, program)) {
    ops.push_back({{"op", fmt::format("{}.{}", name_of(s.kind), name_of(s.pass))},
                   {"mean_s", s.mean.seconds()},
                   {"slowest_s", s.last.seconds()},
                   {"bytes_to_nodes", s.to_nodes.count()},
                   {"bytes_network", s.network.count()},
                   {"bytes_to_ranks", s.to_ranks.count()},
                   {"bandwidth_gb_s", s.published() * 1e-9}});
  }
  return {{"ep", plan.layout.ep},
          {"bandwidth_counts",
           plan.layout.ep > plan.cluster.devices_per_node
               ? "bytes to every node of a token's experts, the sender's counted"
               : "bytes to every rank of a token's experts, the sender counted"},
          {"ops", ops}};
}

std::string all_to_all_text(const Plan& plan, const Program& program) {
  std::string out = fmt::format(
      "all-to-alls of one MoE layer, EP{}, {} tokens per rank, nothing else running; means over "
      "ranks\n",
      plan.layout.ep,
      plan.micro_batch_tokens());
  Table table({"op", "time", "slowest", "to nodes", "of it over network", "to ranks", "bandwidth"});
  bool nodes = false;
  for (const ExchangeSpeed& s : speeds_of(plan, program)) {
    table.row({fmt::format("{}.{}", name_of(s.kind), name_of(s.pass)),
               to_string(s.mean),
               to_string(s.last),
               to_string(s.to_nodes),
               to_string(s.network),
               to_string(s.to_ranks),
               to_string(BytesPerSecond(s.published()))});
    nodes = s.several_nodes;
  }
  return out + table.text() +
         fmt::format(
             "bandwidth: bytes to every {} over time, the sender's own counted, as DeepEP's "
             "benchmark counts\n",
             nodes ? "node that has an expert of a token" : "rank that has an expert of a token");
}

}  // namespace

int inspect(const Arguments& args) {
  Options options(
      {.name = "inspect",
       .about =
           "Builds and validates the plan's Program and shows it: cells per rank, bubble beside\n"
           "its formula, micro-batches held, memory. --ops prints the Program's text form:\n"
           "every op with its lane and dependencies.",
       .examples = "  rehearse inspect plan.yaml\n"
                   "  rehearse inspect plan.yaml --rank 0\n"
                   "  rehearse inspect plan.yaml --ops > program.txt\n"
                   "  rehearse inspect --program program.txt\n"
                   "  rehearse inspect plan.yaml --all-to-all\n"
                   "  rehearse inspect --capabilities\n",
       .plan = PlanArgument::kNoneOrOne});
  options.add()("rank", po::value<int64_t>(), "show this pipeline rank alone");
  options.add()("ops", "print the Program's text form");
  options.add()(
      "program", po::value<std::string>(), "check a Program in text form instead of a plan");
  options.add()("all-to-all", "clusters of GPUs: how fast the plan's all-to-alls are alone");
  options.add()("capabilities", "list what can be simulated and what can be run");
  if (!options.parse(args)) return 0;
  if (options.has("capabilities")) {
    print_capabilities();
    return 0;
  }
  if (options.has("program")) {
    const auto path = options.get<std::string>("program");
    const Program program = parse_program(read_file(path), path);
    validate(program);
    std::cout << fmt::format("{}: {} ops on {} ranks, valid\n",
                             path,
                             program.global_size(),
                             program.layout().pp * program.layout().dp);
    return 0;
  }
  if (!options.has("plan")) throw UsageError("inspect: a plan file is needed");
  Plan plan = load_plan(options.plan_path());
  if (plan.calibration && is_gpu_calibration(*plan.calibration)) {
    use_measured_links(plan, load_calibration(*plan.calibration));
  }
  const Program program = build_program(plan);
  validate(program);
  if (options.has("all-to-all")) {
    if (options.json()) {
      std::cout << all_to_all_json(plan, program).dump(2) << "\n";
    } else {
      std::cout << all_to_all_text(plan, program);
    }
    return 0;
  }
  std::optional<int64_t> rank;
  if (options.has("rank")) {
    rank = options.get<int64_t>("rank");
    if (*rank < 0 || *rank >= plan.layout.pp) {
      throw UsageError(fmt::format("inspect: --rank must be from 0 to {}", plan.layout.pp - 1));
    }
  }
  if (options.has("ops")) {
    std::cout << print_program(program);
  } else if (options.json()) {
    std::cout << inspect_json(plan, program).dump(2) << "\n";
  } else {
    std::cout << inspect_text(plan, program, rank);
  }
  return 0;
}

}  // namespace rehearse::cli
