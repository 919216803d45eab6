#include "cli/command.h"

#include <algorithm>
#include <filesystem>
#include <iostream>

#include <fmt/format.h>

#include "cli/measure.h"

namespace rehearse::cli {

namespace po = boost::program_options;

namespace {

const char* plan_usage(PlanArgument plan) {
  switch (plan) {
    case PlanArgument::kOne:
      return " <plan.yaml>";
    case PlanArgument::kNoneOrOne:
      return " [plan.yaml]";
    case PlanArgument::kSeveral:
      return " <plan.yaml>...";
    case PlanArgument::kNoneOrSeveral:
      return " [plan.yaml...]";
    case PlanArgument::kNone:
      return "";
  }
  return "";
}

}  // namespace

const std::vector<Command>& commands() {
  static const std::vector<Command> list = {
      {"calibrate", "measure this machine's kernels and the runtime's overheads", calibrate},
      {"inspect", "print and check a plan's schedule, Program, memory and bubble", inspect},
      {"simulate", "predict one step of a plan", simulate},
      {"train", "run the plan", train},
      {"compare", "put predicted and measured timelines side by side, op by op", compare},
      {"validate",
       "predict several plans, run them, and show how far off the predictions are",
       validate},
      {"demo", "all of it, small, on this machine", demo},
  };
  return list;
}

Options::Options(Description description)
    : description_(std::move(description)), visible_("Options") {
  add()("help,h", "print this");
  add()("json", "print the result as one JSON object");
  add()("quiet,q", "no progress on standard error");
}

bool Options::parse(const Arguments& args) {
  po::options_description all;
  po::positional_options_description positions;
  all.add(visible_);
  if (description_.plan != PlanArgument::kNone) {
    all.add_options()("plan", po::value<std::vector<std::string>>());
    const bool one =
        description_.plan == PlanArgument::kOne || description_.plan == PlanArgument::kNoneOrOne;
    positions.add("plan", one ? 1 : -1);
  }
  try {
    po::store(
        po::command_line_parser(args)
            .options(all)
            .positional(positions)
            .style(po::command_line_style::unix_style & ~po::command_line_style::allow_guessing)
            .run(),
        values_);
    po::notify(values_);
  } catch (const po::error& e) {
    throw UsageError(fmt::format("{}: {}", description_.name, e.what()));
  }
  if (has("help")) {
    std::cout << fmt::format("usage: rehearse {}{} [options]\n\n{}\n\n",
                             description_.name,
                             plan_usage(description_.plan),
                             description_.about)
              << visible_ << "\nExamples:\n"
              << description_.examples;
    return false;
  }
  const bool needed =
      description_.plan == PlanArgument::kOne || description_.plan == PlanArgument::kSeveral;
  if (needed && !has("plan")) {
    throw UsageError(fmt::format("{}: a plan file is needed", description_.name));
  }
  return true;
}

std::vector<std::string> Options::plan_paths() const {
  return has("plan") ? get<std::vector<std::string>>("plan") : std::vector<std::string>{};
}

std::optional<Calibration> find_calibration(const Options& options, const Plan& plan) {
  std::string path;
  if (options.has("calibration")) {
    path = options.get<std::string>("calibration");
  } else if (plan.calibration) {
    path = *plan.calibration;
  } else {
    return std::nullopt;
  }
  const Calibration calibration = load_calibration(path);
  for (const std::string& doubt : calibration_doubts(calibration, plan)) {
    std::cerr << fmt::format("warning: {}: {}\n", path, doubt);
  }
  return calibration;
}

void use_measured_links(Plan& plan, const std::optional<Calibration>& calibration) {
  if (!calibration || !calibration->gpu) return;
  const GpuCalibration& c = *calibration->gpu;
  if (!c.node_link && !c.network && !c.copy_per_sm) return;
  use_links(plan, c);
  std::cerr << fmt::format(
      "note: links measured for '{}' in the calibration go before those of '{}'\n",
      c.device,
      plan.cluster.name);
}

std::string default_out(const Plan& plan) {
  return (std::filesystem::path("out") / std::filesystem::path(plan.path).stem()).string();
}

std::string Table::text() const {
  std::vector<size_t> widths;
  for (const auto& row : rows_) {
    widths.resize(std::max(widths.size(), row.size()));
    for (size_t i = 0; i < row.size(); ++i) widths[i] = std::max(widths[i], row[i].size());
  }
  std::string out;
  for (const auto& row : rows_) {
    std::string line;
    for (size_t i = 0; i < row.size(); ++i) {
      line += i == 0 ? fmt::format("  {:<{}}", row[i], widths[i])
                     : fmt::format("  {:>{}}", row[i], widths[i]);
    }
    line.erase(line.find_last_not_of(' ') + 1);
    out += line + "\n";
  }
  return out;
}

}  // namespace rehearse::cli
