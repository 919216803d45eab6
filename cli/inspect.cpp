// rehearse inspect: a plan's schedule, Program, memory and bubble, and what this version can do.

#include <iostream>

#include <fmt/format.h>
#include <fmt/ranges.h>

#include "base/file.h"
#include "base/progress.h"
#include "cli/command.h"
#include "cli/reports.h"
#include "kernels/devices/devices.h"
#include "plan/capabilities.h"
#include "sim/bubble.h"
#include "sim/exchange_speed.h"

namespace rehearse::cli {
namespace {

void put_cell(Report& report, const Cell& cell, int64_t rank, const Layout& layout) {
  // Descriptions of DualPipe number directions from the rank's nearer end.
  const auto near = [&](const MicroBatch& m) {
    const bool swap = layout.copies() == 2 && rank >= layout.pp / 2;
    return static_cast<int64_t>(swap ? 1 - m.direction : m.direction);
  };
  const auto put = [&](const char* key, const MicroBatch& m) {
    Report& of = report.section(key);
    of.put("direction", static_cast<int64_t>(m.direction));
    of.put("from_nearer_end", near(m));
    of.put("micro_batch", static_cast<int64_t>(m.index));
  };
  report.put("kind", name_of(cell.kind));
  if (cell.has_forward()) put("forward", cell.forward);
  if (cell.has_backward()) put("backward", cell.backward);
}

Report capabilities_report() {
  Report::Table table{.columns = {{"feature", ""},
                                  {"simulate", "simulate"},
                                  {"train_cpu", "train on cores"},
                                  {"train_cuda", "train on a card"}}};
  for (const Capability& c : capabilities()) table.row({c.feature, c.simulate, c.cores, c.card});
  Report r;
  r.table("capabilities", std::move(table));
  const std::string why = why_no_gpu();
  r.put("card", why.empty() ? Value(gpu_descriptions().front()) : Value());
  r.put("no_card", why.empty() ? Value() : Value(why));
  r.say(why.empty() ? fmt::format("\nthis machine's card: {}\n", gpu_descriptions().front())
                    : fmt::format("\nno card to train on here: {}\n", why));
  return r;
}

void add_head(Report& r, const Plan& plan, const Program& program) {
  const Layout& l = plan.layout;
  const Architecture& a = plan.model.architecture;
  const Training& t = plan.training;
  const Flops per_token = training_flops_per_token(a, t.sequence_length, true);
  r.say(fmt::format(
      "model      {}: {:.4g} parameters{}, {:.4g} active per token, {} layers ({} dense)\n"
      "cluster    {}: {} nodes x {} devices\n"
      "layout     {}, {}, ZeRO-{}, layers per stage {}\n"
      "step       {} micro-batches x {} sequences x {} tokens x DP{} = {} tokens\n"
      "           {} per token forward and backward (causal)\n"
      "Program    {} ops, valid: every message paired, no deadlock under lane order\n\n",
      plan.model.name,
      static_cast<double>(total_parameters(a)),
      a.mtp_depth > 0 ? fmt::format(" and {:.3g} of MTP", static_cast<double>(mtp_parameters(a)))
                      : "",
      static_cast<double>(active_parameters(a)),
      a.layers,
      a.dense_layers(),
      plan.cluster.name,
      plan.cluster.nodes,
      plan.cluster.devices_per_node,
      ranks_text(l),
      name_of(l.schedule),
      l.zero_stage,
      fmt::join(l.layers_per_stage, ","),
      t.micro_batches,
      t.micro_batch_size,
      t.sequence_length,
      l.dp,
      plan.step_tokens(),
      to_string(per_token),
      program.global_size()));
  r.put("model", plan.model.name);
  r.put("parameters", total_parameters(a));
  r.put("mtp_parameters", mtp_parameters(a));
  r.put("active_parameters", active_parameters(a));
  r.put("flops_per_token_causal", per_token.count());
  r.put("world", l.world());
  r.put("schedule", name_of(l.schedule));
  r.put("layers_per_stage",
        std::vector<Value>(l.layers_per_stage.begin(), l.layers_per_stage.end()));
  r.put("ops", program.global_size());
  const ScheduleFacts& facts = facts_of(l.schedule, l.overlap_all_to_all);
  const double bubble = facts.bubble(static_cast<double>(l.pp), {});
  const int64_t peak = facts.peak_micro_batches(l.pp, l.chunks);
  r.put("bubble_formula", bubble);
  r.put("bubble_formula_text", facts.bubble_text);
  r.put("stages", l.stages());
  r.put("stages_held", l.slots());
  r.put("stages_held_formula_text", facts.parameters_text);
  r.put("peak_micro_batches_formula_text", facts.peak_text);
  r.put("peak_micro_batches_formula", peak);
  r.say(
      fmt::format("bubble at unit costs (F = Bi = W = 1, F&B = 3, no communication)\n"
                  "  formula {}: {}; most micro-batches held, {}: {}; parameters: {}\n",
                  facts.bubble_text,
                  bubble,
                  facts.peak_text,
                  peak,
                  facts.parameters_text));
}

// Of all ranks, where one card trains them.
void add_card(Report& r, const Plan& plan) {
  try {
    require_train(plan, TrainOn::kCard);
  } catch (const InputError&) {
    return;
  }
  Bytes all, fullest;
  for (int64_t rank = 0; rank < plan.layout.pp; ++rank) {
    const Bytes one = card_memory(plan, rank).total();
    all += one * (plan.layout.world() / plan.layout.pp);
    fullest = std::max(fullest, one);
  }
  Report& of_card = r.section("on_one_card");
  of_card.put("memory_bytes", all);
  of_card.put("fullest_rank_bytes", fullest);
  of_card.say(
      fmt::format("\ntrained on one card (--device cuda): {} for all {} ranks, the fullest {}\n",
                  to_string(all),
                  plan.layout.world(),
                  to_string(fullest)));
}

Report inspect_report(const Plan& plan, const Program& program, std::optional<int64_t> only) {
  const Layout& l = plan.layout;
  Report r;
  add_head(r, plan, program);
  const auto cells = unit_bubbles(program.spec(), Granularity::kCell);
  const auto ops = unit_bubbles(program.spec(), Granularity::kOp);
  Report::Table table{.columns = {{"", "pipeline rank"},
                                  {"", "bubble, whole cells"},
                                  {"", "bubble, ops"},
                                  {"", "micro-batches held"},
                                  {"", "parameters"},
                                  {"", "gradients"},
                                  {"", "optimizer"},
                                  {"", "activations"},
                                  {"", "total"}}};
  std::string shown;
  for (int32_t rank = 0; rank < l.pp; ++rank) {
    const auto i = static_cast<size_t>(rank);
    const RankSchedule& schedule = program.schedule(rank);
    const int64_t peak = peak_micro_batches(schedule);
    const RankMemory memory = rank_memory(plan, rank);
    const bool seen = !only || *only == rank;
    (seen ? table.rows : table.unseen)
        .push_back({std::to_string(rank),
                    fmt::format("{:g}", cells[i]),
                    fmt::format("{:.4g}", ops[i]),
                    peak,
                    memory.parameters,
                    memory.gradients,
                    memory.optimizer,
                    memory.activations,
                    memory.total()});
    Report& of_rank = r.item("ranks");
    of_rank.put("rank", static_cast<int64_t>(rank));
    of_rank.put("bubble_cells", cells[i]);
    of_rank.put("bubble_ops", ops[i]);
    of_rank.put("peak_micro_batches", peak);
    put_memory(of_rank.section("memory_bytes"), memory);
    for (const Cell& c : schedule) put_cell(of_rank.item("cells"), c, rank, l);
    if (!seen) continue;
    shown += fmt::format("  rank {}:", rank);
    for (const Cell& c : schedule) shown += " " + to_string(c);
    shown += "\n";
  }
  r.table("", std::move(table));
  // As many as somebody would put on one.
  constexpr int64_t kMostOnACard = 16;
  if (l.world() <= kMostOnACard) add_card(r, plan);
  r.say(memory_warning(plan) +
        "\ncells (F: forward, B: backward, Bi: its input part, W: its weight part; "
        "direction.micro-batch)\n" +
        shown);
  return r;
}

Report all_to_all_report(const Plan& plan, const Program& program) {
  if (!plan.cluster.of_gpus() || plan.layout.ep < 2) {
    throw InputError(
        fmt::format("{}: --all-to-all wants a cluster of GPUs and ep of at least 2", plan.path));
  }
  const std::vector<ExchangeSpeed> speeds = exchange_speeds(plan, program);
  const bool nodes = speeds.front().several_nodes;
  Report r;
  r.say(fmt::format(
      "all-to-alls of one MoE layer, EP{}, {} tokens per rank, nothing else running; means over "
      "ranks\n",
      plan.layout.ep,
      plan.micro_batch_tokens()));
  r.put("ep", plan.layout.ep);
  r.put("bandwidth_counts",
        nodes ? "bytes to every node of a token's experts, the sender's counted"
              : "bytes to every rank of a token's experts, the sender counted");
  Report::Table table{.columns = {{"op", "op"},
                                  {"mean_s", "time"},
                                  {"slowest_s", "slowest"},
                                  {"bytes_to_nodes", "to nodes"},
                                  {"bytes_network", "of it over network"},
                                  {"bytes_to_ranks", "to ranks"},
                                  {"bandwidth_gb_s", "bandwidth"}}};
  for (const ExchangeSpeed& s : speeds) {
    table.row({to_string(OpName{s.kind, s.pass}),
               s.mean,
               s.last,
               s.to_nodes,
               s.network,
               s.to_ranks,
               {to_string(BytesPerSecond(s.published())), s.published() * 1e-9}});
  }
  r.table("ops", std::move(table));
  r.say(fmt::format(
      "bandwidth: bytes to every {} over time, the sender's own counted, as DeepEP's benchmark "
      "counts\n",
      nodes ? "node that has an expert of a token" : "rank that has an expert of a token"));
  return r;
}

Report program_report(const std::string& path) {
  const Program program = parse_program(read_file(path), path);
  try {
    require_whole(program);
    validate(program);
  } catch (const ScheduleError& e) {
    throw ScheduleError(fmt::format("{}: {}", path, e.what()));
  }
  const int64_t ranks = program.layout().world();
  Report r;
  r.say(fmt::format("{}: {} ops on {} ranks, valid\n", path, program.global_size(), ranks));
  r.put("program", path);
  r.put("ops", program.global_size());
  r.put("ranks", ranks);
  r.put("valid", true);
  return r;
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
  options.value("rank", "N", "show this pipeline rank alone (--json has all of them)")
      .flag("ops", "print the Program's text form")
      .value("program", "FILE", "check a Program in text form instead of a plan")
      .flag("all-to-all", "clusters of GPUs: how fast the plan's all-to-alls are alone")
      .flag("capabilities", "list what can be simulated and what can be run");
  if (!options.parse(args)) return 0;
  if (options.has("ops") && options.json()) {
    throw UsageError("inspect: --ops prints the Program's text form, which has no JSON");
  }
  if (options.has("capabilities")) {
    options.refuse({"rank", "ops", "program", "all-to-all"}, "does not go with --capabilities");
    if (options.has("plan")) throw UsageError("inspect: --capabilities takes no plan");
    options.print(capabilities_report());
    return 0;
  }
  if (options.has("program")) {
    options.refuse({"rank", "ops", "all-to-all"}, "does not go with --program");
    if (options.has("plan")) throw UsageError("inspect: --program stands instead of a plan");
    options.print(program_report(options.text("program")));
    return 0;
  }
  if (!options.has("plan")) throw UsageError("inspect: a plan file is needed");
  Plan plan = load_plan(options.plan_path());
  if (plan.calibration && *plan.calibration != "none") {
    std::string text = read_file(*plan.calibration, kMostYamlBytes);
    if (is_gpu_calibration(text)) {
      use_measured_links(plan,
                         Calibration{.gpu = std::make_shared<const GpuCalibration>(
                                         parse_gpu_calibration(text, *plan.calibration))});
    }
  }
  // Seconds of work are told of, step by step.
  constexpr int64_t kSilent = 100'000;  // layers of micro-batches
  const bool quick = plan.training.micro_batches * plan.model.architecture.layers < kSilent;
  Progress progress({.label = "inspect", .total = 3, .quiet = options.quiet() || quick});
  progress.update(0, "building the Program");
  const Program program = build_program(plan);
  progress.update(1, "proving that it can run");
  validate(program);
  progress.update(2, "simulating its bubbles");
  std::optional<int64_t> rank;
  if (options.has("rank")) rank = options.integer("rank", {.min = 0, .max = plan.layout.pp - 1});
  if (options.has("all-to-all")) {
    options.refuse({"rank", "ops"}, "does not go with --all-to-all");
    options.print(all_to_all_report(plan, program));
  } else if (options.has("ops")) {
    options.refuse({"rank"}, "does not go with --ops");
    std::cout << print_program(program);
  } else {
    const Report report = inspect_report(plan, program, rank);
    progress.update(3);
    options.print(report);
  }
  return 0;
}

}  // namespace rehearse::cli
