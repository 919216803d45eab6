// rehearse simulate: predicts one step of a plan.

#include <iostream>

#include <fmt/format.h>

#include "base/file.h"
#include "cli/command.h"
#include "cli/results.h"
#include "plan/capabilities.h"

namespace rehearse::cli {

namespace po = boost::program_options;

int simulate(const Arguments& args) {
  Options options({.name = "simulate",
                   .about =
                       "Predicts one training step of the plan: every rank, every op. Costs come\n"
                       "from the plan's calibration; what nobody measured is priced by its\n"
                       "roofline, and the result says so.",
                   .examples = "  rehearse simulate plan.yaml\n"
                               "  rehearse simulate plan.yaml --timeline step.json --json\n"});
  options.add()(
      "calibration", po::value<std::string>(), "calibration file to use instead of the plan's");
  options.add()("timeline",
                po::value<std::string>(),
                "write the predicted timeline there (open it in ui.perfetto.dev)");
  if (!options.parse(args)) return 0;
  const Plan plan = load_plan(options.plan_path());
  require_simulate(plan);
  const auto calibration = find_calibration(options, plan);
  const Program program = build_program(plan);
  validate(program);
  const StepPrediction prediction = predict(plan, program, calibration, options.quiet());
  if (options.has("timeline")) {
    write_file(options.get<std::string>("timeline"),
               print_timeline(program, prediction.median.timeline));
  }
  if (options.json()) {
    std::cout << prediction_json(plan, program, prediction).dump(2) << "\n";
  } else {
    std::cout << prediction_text(plan, program, prediction);
  }
  return 0;
}

}  // namespace rehearse::cli
