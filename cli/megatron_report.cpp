#include "cli/megatron_report.h"

#include <fmt/format.h>

#include "cli/megatron.h"
#include "cli/plan_report.h"

namespace rehearse::cli {

void put_megatron(Report& r,
                  const Plan& base,
                  const std::optional<Calibration>& calibration,
                  const Scored& best) {
  const MegatronLine line = megatron_line(base, best.screened.candidate);
  const std::string launch = launch_line(base, best.screened.candidate);
  r.say(fmt::format("Megatron: {}\n          {}\n", line.arguments, launch));
  for (const std::string& note : line.notes) r.say(fmt::format("          note: {}\n", note));
  r.put("megatron_arguments", line.arguments);
  r.put("megatron_notes", std::vector<Value>(line.notes.begin(), line.notes.end()));
  r.put("launch", launch);
  if (!line.is_other) return;
  const Scored s = score(base,
                         calibration,
                         screened_alone(base, calibration, line.runs, Objective::kTime),
                         Objective::kTime);
  r.say(fmt::format("          so: {}: {:.2f} s ({} of the first's), {:.1f} GB on rank {}: {}\n",
                    to_string(line.runs),
                    s.step,
                    percent(s.step / best.step - 1),
                    static_cast<double>(s.memory.need().count()) * 1e-9,
                    s.fullest,
                    kFits[s.fit]));
  Report& of = r.section("megatron_runs");
  of.put("layout_text", to_string(line.runs));
  of.put("step_time_s", s.step);
  of.put("memory_bytes", s.memory.need());
  of.put("memory_verdict", kFits[s.fit]);
}

}  // namespace rehearse::cli
