#include "cli/disturbance.h"

#include <chrono>
#include <thread>

#include <fmt/format.h>

namespace rehearse::cli {

std::optional<MachineLoad> look_at_machine() {
  constexpr auto kLook = std::chrono::seconds(1);
  const LoadWatch watch;
  std::this_thread::sleep_for(kLook);
  return watch.so_far();
}

std::string busy_warning(const std::optional<MachineLoad>& load, const std::string& what) {
  if (!load || !load->busy()) return "";
  return fmt::format("{} while {}", to_string(*load), what);
}

std::string late_warning(const std::optional<Waking>& waking,
                         Duration step,
                         const std::string& what) {
  if (!waking || !woke_late(*waking, step)) return "";
  return fmt::format(
      "ops began late while {}: {:.1f}% of the step, with cores free of this run's ops and beyond "
      "the {} that a lane's waking takes by the calibration",
      what,
      100 * (waking->late / step),
      to_string(waking->allowed));
}

void put_warnings(Report& report,
                  const std::vector<std::string>& warnings,
                  const std::string& after) {
  std::vector<Value> told;
  for (const std::string& warning : warnings) {
    if (warning.empty()) continue;
    told.emplace_back(warning);
    report.say("warning: " + warning + "\n");
  }
  if (!told.empty()) report.say(after.empty() ? "\n" : "  " + after + "\n\n");
  report.put("warnings", std::move(told));
}

void put_load(Report& report, const std::string& key, const std::optional<MachineLoad>& load) {
  if (!load) {
    report.put(key, Value());
    return;
  }
  Report object;
  object.put("wall_s", load->wall);
  object.put("cores", load->cores);
  object.put("own_cores", load->own);
  object.put("other_cores", load->others);
  object.put("stolen_cores", load->stolen);
  object.put("throttled_cores", load->throttled);
  object.put("pressure", load->pressure ? Value(*load->pressure) : Value());
  object.put("busy", load->busy());
  report.put_object(key, std::move(object));
}

void put_waking(Report& report, const std::optional<Waking>& waking) {
  if (!waking) {
    report.put("waking", Value());
    return;
  }
  Report object;
  object.put("ops", waking->ops);
  object.put("median_s", waking->median);
  object.put("calibrated_s", waking->allowed);
  object.put("late_s", waking->late);
  report.put_object("waking", std::move(object));
}

}  // namespace rehearse::cli
