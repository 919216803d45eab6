#include "cli/command.h"

#include <algorithm>
#include <charconv>
#include <filesystem>
#include <iostream>

#include <boost/program_options.hpp>
#include <fmt/format.h>

#include "base/call_files.h"
#include "base/errors.h"
#include "base/file.h"
#include "cli/measure.h"

namespace rehearse::cli {

namespace po = boost::program_options;

namespace {

constexpr const char* kFile = "FILE";  // the placeholder of options that name files

std::string plan_usage(PlanArgument plan) {
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
      {"calibrate", "measure this machine's kernels and the runtime's overheads", calibrate, true},
      {"inspect", "print and check a plan's schedule, Program, memory and bubble", inspect},
      {"plan", "search layouts: what fits, how long a step takes, what limits it", plan_layouts},
      {"simulate", "predict one step of a plan", simulate},
      {"replay", "recorded routing: load, traffic and step time under a placement", replay},
      {"trace", "import others' routing traces, and export them", trace},
      {"train", "run the plan", train, true},
      {"compare", "put predicted and measured timelines side by side, op by op", compare},
      {"validate",
       "predict several plans, run them, and show how far off the predictions are",
       validate,
       true},
      {"demo", "all of it, small, on this machine", demo, true},
  };
  return list;
}

struct Options::Parser {
  po::options_description visible{"Options"};
  po::variables_map values;
  std::vector<std::string> inputs, outputs;  // options that name files
};

Options::Options(Description description)
    : description_(std::move(description)), parser_(std::make_unique<Parser>()) {
  parser_->visible.add_options()("help,h", "print this")(
      "json", "print the result as one JSON object")("quiet,q", "no progress on standard error");
}
Options::~Options() = default;

Options& Options::flag(const std::string& name, const std::string& help) {
  parser_->visible.add_options()(name.c_str(), help.c_str());
  return *this;
}
Options& Options::value(const std::string& name,
                        const std::string& placeholder,
                        const std::string& help) {
  if (placeholder == kFile) parser_->inputs.push_back(name);
  parser_->visible.add_options()(
      name.c_str(), po::value<std::string>()->value_name(placeholder), help.c_str());
  return *this;
}
Options& Options::output(const std::string& name, const std::string& help) {
  parser_->visible.add_options()(
      name.c_str(), po::value<std::string>()->value_name(kFile), help.c_str());
  parser_->outputs.push_back(name);
  return *this;
}
Options& Options::value(const std::string& name,
                        const std::string& placeholder,
                        const std::string& help,
                        const std::string& by_default) {
  parser_->visible.add_options()(
      name.c_str(),
      po::value<std::string>()->value_name(placeholder)->default_value(by_default),
      help.c_str());
  return *this;
}
Options& Options::values(const std::string& name,
                         const std::string& placeholder,
                         const std::string& help) {
  if (placeholder == kFile) parser_->inputs.push_back(name);
  parser_->visible.add_options()(
      name.c_str(),
      po::value<std::vector<std::string>>()->composing()->value_name(placeholder),
      help.c_str());
  return *this;
}

void Options::fail(const std::string& message) const {
  throw UsageError(fmt::format("{}: {}", description_.name, message));
}

bool Options::parse(const Arguments& args) {
  po::options_description all;
  po::positional_options_description positions;
  all.add(parser_->visible);
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
        parser_->values);
    po::notify(parser_->values);
  } catch (const po::error& e) {
    fail(e.what());
  }
  if (has("help")) {
    std::cout << fmt::format("usage: rehearse {}{} [options]\n\n{}\n\n",
                             description_.name,
                             description_.takes.empty() ? plan_usage(description_.plan)
                                                        : " " + description_.takes,
                             description_.about)
              << parser_->visible << "\nExamples:\n"
              << description_.examples;
    return false;
  }
  const bool needed =
      description_.plan == PlanArgument::kOne || description_.plan == PlanArgument::kSeveral;
  if (needed && !has("plan")) {
    fail(description_.takes.empty()
             ? "a plan file is needed"
             : fmt::format("usage: rehearse {} {}", description_.name, description_.takes));
  }
  for (const auto& [name, value] : parser_->values) {
    const auto* one = boost::any_cast<std::string>(&value.value());
    const auto* many = boost::any_cast<std::vector<std::string>>(&value.value());
    const bool empty = (one != nullptr && one->empty()) ||
                       (many != nullptr && std::ranges::find(*many, "") != many->end());
    // What was meant to be the next option.
    for (const std::string& given : one != nullptr    ? std::vector{*one}
                                    : many != nullptr ? *many
                                                      : std::vector<std::string>{}) {
      if (given.starts_with("--") &&
          parser_->visible.find_nothrow(given.substr(2), false) != nullptr) {
        fail(fmt::format("--{} needs a value; behind it comes {}", name, given));
      }
    }
    const auto* declared = parser_->visible.find_nothrow(name, /*approx=*/false);
    const bool flag = declared != nullptr && declared->semantic()->max_tokens() == 0;
    if (!empty || flag) continue;
    fail(name == "plan" ? "a plan file's name is empty"
                        : fmt::format("--{} needs a value; it is empty", name));
  }
  note_inputs();
  return true;
}

void Options::refuse(const std::vector<std::string>& names, const std::string& why) const {
  for (const std::string& name : names) {
    if (has(name) && !parser_->values[name].defaulted()) {
      fail(fmt::format("--{} does not apply here: it {}", name, why));
    }
  }
}

void Options::note_inputs() const {
  std::vector<std::string> paths = plan_paths();
  if (!description_.takes.empty() && !description_.takes.starts_with('<')) {
    paths.erase(paths.begin());
  }
  for (const std::string& path : paths) note_input(path);
  for (const std::string& name : parser_->inputs) {
    if (!has(name)) continue;
    const auto* many = boost::any_cast<std::vector<std::string>>(&parser_->values[name].value());
    for (const std::string& path : many != nullptr ? *many : std::vector{text(name)}) {
      note_input(path);
    }
  }
}

void Options::check_outputs(const std::vector<std::string>& further) const {
  std::vector<std::string> outputs = further;
  for (const std::string& name : parser_->outputs) {
    if (has(name)) outputs.push_back(text(name));
  }
  for (const std::string& output : outputs) {
    require_writable(output);
    claim_output(output);
  }
}

bool Options::has(const std::string& name) const {
  return parser_->values.count(name) > 0;
}
std::string Options::text(const std::string& name) const {
  return parser_->values[name].as<std::string>();
}
std::vector<std::string> Options::texts(const std::string& name) const {
  return parser_->values[name].as<std::vector<std::string>>();
}

int64_t Options::integer(const std::string& name, IntegerRange range) const {
  const std::string given = text(name);
  int64_t number = 0;
  const char* const end = given.data() + given.size();
  const auto [rest, error] = std::from_chars(given.data(), end, number);
  if (error == std::errc() && rest == end && number >= range.min && number <= range.max) {
    return number;
  }
  fail(range.max == IntegerRange{}.max
           ? fmt::format("--{} must be at least {}", name, range.min)
           : fmt::format("--{} must be from {} to {}", name, range.min, range.max));
}

double Options::number(const std::string& name, double above, double up_to) const {
  const std::string given = text(name);
  double number = 0;
  const char* const end = given.data() + given.size();
  const auto [rest, error] = std::from_chars(given.data(), end, number);
  if (error == std::errc() && rest == end && number > above && number <= up_to) return number;
  fail(fmt::format("--{} must be above {:g} and at most {:g}", name, above, up_to));
}

std::vector<std::string> Options::plan_paths() const {
  return has("plan") ? texts("plan") : std::vector<std::string>{};
}

void Options::print(const Report& report) const {
  std::cout << (json() ? print_json(report) : print_text(report));
}

std::optional<std::string> calibration_path(const Options& options, const Plan& plan) {
  std::optional<std::string> path;
  if (options.has("calibration")) {
    path = options.text("calibration");
  } else {
    path = plan.calibration ? plan.calibration : shipped_device(plan.cluster);
  }
  return path == "none" ? std::nullopt : path;
}

std::optional<Calibration> find_calibration(const Options& options, const Plan& plan) {
  const auto found = calibration_path(options, plan);
  if (!found) return std::nullopt;
  const std::string& path = *found;
  if (!options.has("calibration") && !plan.calibration) {
    std::cerr << fmt::format(
        "note: the plan names no calibration: '{}' is priced by {} (--calibration none: by flops "
        "and bytes alone)\n",
        plan.cluster.name,
        path);
  }
  const Calibration calibration = load_calibration(path);
  for (const std::string& doubt : calibration_doubts(calibration, plan)) {
    std::cerr << fmt::format("warning: {}: {}\n", path, doubt);
  }
  return calibration;
}

void use_measured_links(Plan& plan, const std::optional<Calibration>& calibration) {
  if (calibration && calibration->device) {
    use_copy_rate(plan, *calibration->device);
    return;
  }
  if (!calibration || !calibration->gpu) return;
  const GpuCalibration& c = *calibration->gpu;
  if (!c.node_link && !c.network && !c.copy_per_sm) return;
  use_links(plan, c);
  std::cerr << fmt::format(
      "note: links measured for '{}' in the calibration go before those of '{}'\n",
      c.device,
      plan.cluster.name);
}

std::vector<std::string> default_output(const Options& options, const std::string& path) {
  return options.has("out") ? std::vector<std::string>{} : std::vector{path};
}

std::string default_out(const Plan& plan) {
  return (std::filesystem::path("out") / std::filesystem::path(plan.path).stem()).string();
}

}  // namespace rehearse::cli
