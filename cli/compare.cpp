// rehearse compare: predicted and measured timelines of one plan, op by op.

#include <filesystem>
#include <optional>

#include <fmt/format.h>

#include "base/file.h"
#include "cli/command.h"
#include "cli/page/page.h"
#include "cli/plot.h"
#include "cli/reports.h"
#include "plan/capabilities.h"
#include "search/space.h"

namespace rehearse::cli {

namespace {

void draw(const Program& program,
          const Timeline& predicted,
          const std::string& measured_path,
          const std::string& path) {
  const std::optional<std::string> picture = plot("timelines.py",
                                                  {"--", "-", measured_path},
                                                  picture_format(path),
                                                  print_timeline(program, predicted));
  if (!picture) {
    throw InputError(path +
                     ": not drawn: plots/timelines.py needs python3 with numpy and matplotlib");
  }
  write_file(path, *picture);
}

// Reads a timeline of the plan that is `wanted`: "predicted" or "measured".
Timeline read_timeline(const Plan& plan,
                       const Program& program,
                       const std::string& path,
                       const std::string& wanted) {
  Timeline t = parse_timeline(program, read_file(path), path);
  const std::string shapes = shapes_of(plan);
  if (!t.shapes.empty() && t.shapes != shapes) {
    throw InputError(fmt::format("{}: is of other shapes than {}:\n  there {}\n  here  {}",
                                 path,
                                 plan.path,
                                 t.shapes,
                                 shapes));
  }
  if (t.source != wanted) {
    throw InputError(fmt::format("{}: is a {} timeline; --{} takes one {}",
                                 path,
                                 t.source,
                                 wanted,
                                 wanted == "measured" ? "that `train` wrote" : "of simulate"));
  }
  return t;
}

// As the answer's page: both timelines over it.
std::string page_of(const Plan& plan,
                    const Program& program,
                    const Timeline& predicted,
                    const Timeline& measured,
                    const Comparison& comparison) {
  Report page = comparison_report(comparison);
  const std::string text = print_text(page);
  for (const Timeline* timeline : {&predicted, &measured}) {
    page.item("timelines") = cells_of(program, *timeline);
  }
  put_cell_kinds(page);
  return print_page(
      "compare",
      fmt::format("{} on {}: predicted and measured", plan.model.name, plan.cluster.name),
      fmt::format("{}, of {}", to_string(candidate_of(plan)), plan.path),
      page,
      text);
}

}  // namespace

int compare(const Arguments& args) {
  Options options(
      {.name = "compare",
       .about =
           "Joins the predicted and the measured timeline of a plan by op: step time, bubble,\n"
           "exposed communication; errors by kind of op, by rank and by phase; and whether ops\n"
           "were slower or ranks waited longer, and for what. The prediction is made anew unless\n"
           "--predicted names one; the measurement is what `train` wrote.",
       .examples = "  rehearse train plan.yaml --data book.txt && rehearse compare plan.yaml\n"
                   "  rehearse compare plan.yaml --measured run/timeline.json --json\n"});
  options.value("measured", "FILE", "measured timeline (default: out/<plan>/timeline.json)")
      .value("predicted", "FILE", "predicted timeline, from simulate --timeline")
      .value("calibration", "FILE", "calibration file to use instead of the plan's")
      .output("page", "write the comparison as a page for a browser, complete in itself")
      .output("picture", "draw both timelines, one above the other (.png or .svg)");
  if (!options.parse(args)) return 0;
  const Plan plan = load_plan(options.plan_path());
  require_simulate(plan);
  if (options.has("predicted")) options.refuse({"calibration"}, "is for predictions made anew");
  const std::string measured_path =
      options.has("measured") ? options.text("measured") : default_out(plan) + "/timeline.json";
  options.check_outputs();
  if (options.has("picture")) picture_format(options.text("picture"));  // before any work
  const Program program = build_program(plan);
  validate(program);
  if (!std::filesystem::exists(measured_path)) {
    throw InputError(fmt::format(
        "{}: no such file; `rehearse train {}` writes the measured timeline, --measured names one",
        measured_path,
        plan.path));
  }
  const Timeline measured = read_timeline(plan, program, measured_path, "measured");
  Timeline predicted;
  std::optional<Overheads> overheads;
  if (options.has("predicted")) {
    predicted = read_timeline(plan, program, options.text("predicted"), "predicted");
  } else {
    const std::optional<Calibration> calibration = find_calibration(options, plan);
    predicted = rehearse::simulate(plan, program, calibration).timeline;
    predicted.calibrated = calibration.has_value();
    if (calibration && !calibration->of_gpus()) overheads = calibration->overheads;
  }
  if (options.has("picture")) {
    draw(program, predicted, measured_path, options.text("picture"));
  }
  const Comparison comparison = compare_timelines(program, predicted, measured, overheads);
  if (options.has("page")) {
    write_file(options.text("page"), page_of(plan, program, predicted, measured, comparison));
  }
  options.print(comparison_report(comparison));
  return 0;
}

}  // namespace rehearse::cli
