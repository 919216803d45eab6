// rehearse compare: predicted and measured timelines of one plan, op by op.

#include <filesystem>
#include <utility>

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
          const std::string& picture) {
  // Beside the picture, for the script to read.
  const std::string predicted_path = picture + ".predicted.json";
  write_file(predicted_path, print_timeline(program, predicted));
  const bool drawn = plot("timelines.py", {predicted_path, measured_path, "--out", picture});
  std::filesystem::remove(predicted_path);
  if (!drawn) {
    throw InputError(picture +
                     ": not drawn: plots/timelines.py needs python3 with numpy and matplotlib");
  }
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
  const Program program = build_program(plan);
  validate(program);
  if (!std::filesystem::exists(measured_path)) {
    throw InputError(fmt::format(
        "{}: no such file; `rehearse train {}` writes the measured timeline, --measured names one",
        measured_path,
        plan.path));
  }
  const auto read_timeline = [&](const std::string& path) {
    Timeline t = parse_timeline(program, read_file(path), path);
    const std::string wanted = shapes_of(plan);
    if (!t.shapes.empty() && t.shapes != wanted) {
      throw InputError(fmt::format("{}: is of other shapes than {}:\n  there {}\n  here  {}",
                                   path,
                                   plan.path,
                                   t.shapes,
                                   wanted));
    }
    return t;
  };
  const Timeline measured = read_timeline(measured_path);
  if (measured.source != "measured") {
    throw InputError(fmt::format("{}: is a {} timeline; --measured takes one that `train` wrote",
                                 measured_path,
                                 measured.source));
  }
  Timeline predicted;
  if (options.has("predicted")) {
    predicted = read_timeline(options.text("predicted"));
    if (predicted.source != "predicted") {
      throw InputError(fmt::format("{}: is a {} timeline; --predicted takes one of simulate",
                                   options.text("predicted"),
                                   predicted.source));
    }
  } else {
    predicted = rehearse::simulate(plan, program, find_calibration(options, plan)).timeline;
  }
  if (options.has("picture")) {
    draw(program, predicted, measured_path, options.text("picture"));
  }
  const Comparison comparison = compare_timelines(program, predicted, measured);
  const Report report = comparison_report(comparison);
  if (options.has("page")) {
    Report page = comparison_report(comparison);
    for (const Timeline* timeline : {&std::as_const(predicted), &measured}) {
      page.item("timelines") = cells_of(program, *timeline);
    }
    put_cell_kinds(page);
    write_file(
        options.text("page"),
        print_page(
            "compare",
            fmt::format("{} on {}: predicted and measured", plan.model.name, plan.cluster.name),
            fmt::format("{}, of {}", to_string(candidate_of(plan)), plan.path),
            page,
            print_text(report)));
  }
  options.print(report);
  return 0;
}

}  // namespace rehearse::cli
