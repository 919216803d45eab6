#include "cli/plan_request.h"

#include <algorithm>
#include <iostream>

#include <fmt/format.h>
#include <fmt/ranges.h>

#include "base/errors.h"
#include "base/file.h"
#include "base/numbers.h"
#include "cli/megatron.h"
#include "cli/megatron_words.h"
#include "cli/whole_number.h"

namespace rehearse::cli {
namespace {

std::vector<std::string> split(const std::string& text) {
  std::vector<std::string> parts;
  for (size_t at = 0; at <= text.size();) {
    const size_t end = std::min(text.find(',', at), text.size());
    parts.push_back(text.substr(at, end - at));
    at = end + 1;
  }
  return parts;
}

// "16", "1,2,4", "1..8".
std::vector<int64_t> numbers(const Options& options, const std::string& name, IntegerRange range) {
  const std::string text = options.text(name);
  const auto bad = [&](const std::string& part) {
    return UsageError(
        fmt::format("plan: --{} {}: '{}' is no number from {} to {}; expected one such "
                    "as 16, several such as 1,2,4, or a range such as 1..8",
                    name,
                    text,
                    part,
                    range.min,
                    range.max));
  };
  const auto number = [&](const std::string& part) {
    const auto value = whole_number(part);
    if (!value || *value < range.min || *value > range.max) throw bad(part);
    return *value;
  };
  std::vector<int64_t> all;
  for (const std::string& part : split(text)) {
    const size_t dots = part.find("..");
    if (dots == std::string::npos) {
      all.push_back(number(part));
      continue;
    }
    const int64_t first = number(part.substr(0, dots));
    const int64_t last = number(part.substr(dots + 2));
    if (last < first) throw bad(part);
    constexpr int64_t kMost = 100'000;
    if (last - first >= kMost) throw bad(part);
    for (int64_t i = first; i <= last; ++i) all.push_back(i);
  }
  std::sort(all.begin(), all.end());
  all.erase(std::unique(all.begin(), all.end()), all.end());
  return all;
}

template <typename E, size_t N>
std::vector<E> choices(const Options& options,
                       const std::string& name,
                       const NameTable<E, N>& table) {
  std::vector<E> all;
  for (const std::string& part : split(options.text(name))) {
    const auto found = table.find(part);
    if (!found) {
      throw UsageError(fmt::format(
          "plan: --{} {}: '{}' is none of {}", name, options.text(name), part, table.list()));
    }
    all.push_back(*found);
  }
  return all;
}

// Of a range those that machines come in: whole nodes, powers of two and three times these, and the
// two ends.
std::vector<int64_t> read_gpus(const Options& options, const Cluster& c) {
  constexpr IntegerRange kGpus{.min = 1, .max = 10'000'000};
  const std::string text = options.text("gpus");
  const size_t dots = text.find("..");
  if (dots == std::string::npos) return numbers(options, "gpus", kGpus);
  std::vector<int64_t> ends;
  for (const std::string& end : {text.substr(0, dots), text.substr(dots + 2)}) {
    const auto value = whole_number(end);
    if (!value || *value < 1) {
      throw UsageError(
          fmt::format("plan: --gpus {}: expected a number such as 2048, several such as "
                      "1024,2048, or a range such as 256..2048",
                      text));
    }
    ends.push_back(*value);
  }
  if (ends[1] < ends[0]) {
    throw UsageError(fmt::format("plan: --gpus {}: the range's end is before its begin", text));
  }
  std::vector<int64_t> all = ends;
  for (int64_t nodes = 1; nodes * c.devices_per_node <= ends[1]; nodes *= 2) {
    for (const int64_t n : {nodes * c.devices_per_node, 3 * nodes * c.devices_per_node}) {
      if (n > ends[0] && n < ends[1]) all.push_back(n);
    }
  }
  std::sort(all.begin(), all.end());
  all.erase(std::unique(all.begin(), all.end()), all.end());
  return all;
}

double read_tokens(const Options& options) {
  auto tokens = parse_tokens(options.text("tokens"));
  if (!tokens) tokens = parse_tokens(options.text("tokens") + " tokens");
  if (!tokens || *tokens <= 0) {
    throw UsageError(
        fmt::format("plan: --tokens {}: expected a number of tokens above 0, such as 14.8T",
                    options.text("tokens")));
  }
  return *tokens;
}

}  // namespace

Plan base_of(const Options& options) {
  Plan base;
  if (!options.plan_paths().empty()) {
    base = load_plan(options.plan_path());
    options.refuse({"model"}, "is the plan's");
  } else {
    for (const char* needed : {"model", "cluster", "batch"}) {
      if (options.has(needed)) continue;
      throw UsageError(fmt::format("plan: --{} is needed, or a plan file that says it", needed));
    }
    base.path = "rehearse plan";
    base.files = {"rehearse plan", find_shared(options.text("model"), "models"), ""};
    base.model = load_model(base.files[1]);
    base.training.precision = Precision::kBf16;
    base.training.sequence_length = 4096;
    base.training.micro_batch_size = 1;
    base.training.micro_batches = 1;
  }
  if (options.has("cluster")) {
    base.files[2] = find_shared(options.text("cluster"), "topologies");
    base.cluster = load_cluster(base.files[2]);
    base.calibration.reset();
  }
  if (base.files.front() == "rehearse plan")
    base.training.recompute = usual_recompute(base.cluster);
  if (options.has("calibration")) base.calibration = options.text("calibration");
  if (options.has("tokens")) base.training.tokens = read_tokens(options);
  if (options.has("usd-per-gpu-hour")) {
    base.budget.usd_per_gpu_hour = options.number("usd-per-gpu-hour", 0, 1e6);
  }
  const auto refuse = [&](const Reasons& reasons) {
    if (reasons.empty()) return;
    throw InputError(fmt::format("{}: {}", reasons.front().setting, reasons.front().message));
  };
  refuse(why_not(base.cluster, base.model.architecture));
  return base;
}

SearchSpace space_of(const Options& options, const Plan& base) {
  SearchSpace s;
  constexpr IntegerRange kCount{.min = 1, .max = 1'000'000'000};
  constexpr IntegerRange kRanks{.min = 1, .max = 1'000'000};
  if (options.has("gpus"))
    s.gpus = read_gpus(options, base.cluster);
  else if (!options.plan_paths().empty() && !options.has("cluster"))
    s.gpus = {base.layout.world()};
  if (options.has("batch")) {
    s.batches = numbers(options, "batch", kCount);
  } else {
    s.batches = {base.layout.dp * base.training.micro_batches * base.training.micro_batch_size};
  }
  if (options.has("sequence")) {
    s.sequences = numbers(options, "sequence", {.min = 1, .max = 100'000'000});
  }
  if (options.has("precision")) s.precisions = choices(options, "precision", kPrecisions);
  const auto list = [&](const char* name, std::vector<int64_t>& into, IntegerRange range) {
    if (options.has(name)) into = numbers(options, name, range);
  };
  list("pp", s.pp, kRanks);
  list("chunks", s.chunks, {.min = 1, .max = 10'000});
  list("ep", s.ep, kRanks);
  list("etp", s.etp, kRanks);
  list("tp", s.tp, kRanks);
  list("cp", s.cp, kRanks);
  list("micro-batch-size", s.micro_batch_sizes, {.min = 1, .max = 1'000'000});
  list("zero", s.zero_stages, {.min = 0, .max = 3});
  list("communication-sms", s.communication_sms, {.min = 1, .max = base.cluster.sms});
  if (options.has("schedule")) s.schedules = choices(options, "schedule", kSchedules);
  if (options.has("dispatcher")) s.dispatchers = choices(options, "dispatcher", kDispatchers);
  if (options.has("rank-order")) s.rank_orders = choices(options, "rank-order", kRankOrders);
  if (options.has("recompute")) {
    for (const std::string& name : split(options.text("recompute"))) {
      const auto& all = named_recomputes();
      const auto found = std::find_if(
          all.begin(), all.end(), [&](const NamedRecompute& n) { return n.name == name; });
      if (found == all.end()) {
        throw UsageError(
            fmt::format("plan: --recompute {}: expected none, light, selective or full",
                        options.text("recompute")));
      }
      s.recomputes.push_back(found->recompute);
    }
  }
  if (options.has("stages")) {
    for (const std::string& part : split(options.text("stages"))) {
      const auto value = whole_number(part);
      if (!value || *value < 0) {
        throw UsageError(
            fmt::format("plan: --stages {}: expected layers of every stage, such as 4,4,4",
                        options.text("stages")));
      }
      s.layers_per_stage.push_back(*value);
    }
  }
  return s;
}

std::string question_of(const Plan& base,
                        const std::optional<std::string>& calibration,
                        Objective objective) {
  // FNV-1a.
  uint64_t hash = 0xcbf29ce484222325;
  const auto add = [&](const std::string& text) {
    for (const char c : text) {
      hash = (hash ^ static_cast<unsigned char>(c)) * 0x100000001b3;
    }
  };
  Plan bare = base;
  bare.training.micro_batches = bare.training.micro_batch_size = 1;  // layouts have their own
  add(print_plan(bare));
  for (const std::string& file : {base.files.at(1), base.files.at(2)}) add(read_file(file));
  if (calibration) add(read_file(*calibration));
  if (base.expert_placement) add(read_file(*base.expert_placement));
  if (!base.expert_load.recorded.empty()) add(read_file(base.expert_load.recorded));
  return fmt::format("rehearse {}, {} on {}, ranked by {}, {:016x}",
                     REHEARSE_VERSION,
                     base.model.name,
                     base.cluster.name,
                     kObjectives[objective],
                     hash);
}

std::string asked(const Options& options) {
  std::string text;
  if (!options.plan_paths().empty()) {
    text = options.plan_path();
  } else {
    text = fmt::format("--model {}", options.text("model"));
  }
  for (const char* name : {"cluster", "tokens", "calibration", "imbalance"}) {
    if (options.has(name) && !(std::string(name) == "imbalance" && options.text(name) == "1")) {
      text += fmt::format(" --{} {}", name, options.text(name));
    }
  }
  return text;
}

Candidate present_of(const std::string& path, const Plan& base, const SearchSpace& space) {
  const std::string text = read_file(path);
  if (holds_arguments(text)) {
    MegatronRun run = read_megatron(text, space.gpus.front(), base, path);
    if (std::ranges::find(space.sequences, run.candidate.sequence) == space.sequences.end()) {
      throw InputError(fmt::format("{}: --seq-length {}: layouts are searched for {} tokens",
                                   path,
                                   run.candidate.sequence,
                                   fmt::join(space.sequences, ", ")));
    }
    for (const std::string& note : run.notes)
      std::cerr << fmt::format("note: {}: {}\n", path, note);
    if (!run.not_read.empty()) {
      std::cerr << fmt::format(
          "note: {}: nothing to layout, memory or time: {}\n", path, fmt::join(run.not_read, " "));
    }
    return std::move(run.candidate);
  }
  if (const auto setting = bare_setting(text)) {
    fail_at(
        path,
        setting->line,
        fmt::format("'{}' is a setting of another program's file, and no plan's key: expected a "
                    "plan file, or Megatron-LM's arguments, such as "
                    "--tensor-model-parallel-size 2",
                    setting->key));
  }
  const Plan plan = load_plan(path);
  if (plan.model.architecture != base.model.architecture) {
    throw InputError(fmt::format("{}: is of another model, {}", path, plan.model.name));
  }
  Candidate own = candidate_of(plan);
  own.communication_sms = base.cluster.communication_sms;
  return own;
}

Objective objective_of(const Options& options) {
  return choices(options, "rank-by", kObjectives).front();
}

Grown grown_of(const Options& options) {
  return choices(options, "largest", kGrown).front();
}

std::optional<double> days_of(const Options& options, const Plan& base) {
  if (!options.has("days")) return std::nullopt;
  if (!base.training.tokens) throw UsageError("plan: --days needs --tokens");
  return options.number("days", 0, 1e6);
}

std::vector<PhaseAsked> phases_of(const Options& options, const Plan& base) {
  std::vector<PhaseAsked> all;
  for (const Phase& phase : base.budget.phases) {
    for (const PhasePart& part : phase.parts) {
      all.push_back({phase.name, part.sequences, part.training.sequence_length});
    }
  }
  if (!options.has("phase")) return all;
  for (const std::string& text : options.texts("phase")) {
    const size_t by = text.find('x');
    const auto batch = whole_number(text.substr(0, by));
    const auto sequence =
        by == std::string::npos ? std::nullopt : whole_number(text.substr(by + 1));
    if (!batch || !sequence || *batch < 1 || *sequence < 1) {
      throw UsageError(
          fmt::format("plan: --phase {}: expected sequences per step and tokens per sequence, such "
                      "as 3072x4096",
                      text));
    }
    all.push_back({text, *batch, *sequence});
  }
  return all;
}

std::optional<double> measured_of(const Options& options) {
  if (!options.has("measured")) return std::nullopt;
  if (!options.has("present")) throw UsageError("plan: --measured needs --present");
  std::string text = options.text("measured");
  if (text.ends_with('s')) text.pop_back();
  const auto seconds = number_of(text);
  if (!seconds || *seconds <= 0) {
    throw UsageError(fmt::format("plan: --measured {}: expected seconds above 0, such as 4.2s",
                                 options.text("measured")));
  }
  return *seconds;
}

}  // namespace rehearse::cli
