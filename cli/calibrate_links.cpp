#include "cli/calibrate_links.h"

#include <algorithm>
#include <iostream>

#include <fmt/format.h>

#include "base/file.h"
#include "cli/report.h"
#include "plan/legal.h"
#include "sim/exchange_speed.h"
#include "sim/import/link_benchmarks.h"

namespace rehearse::cli {
namespace {

// What a plan's all-to-all should show in DeepEP's figures, beside what it showed.
struct Beside {
  LinkBenchmark::AllToAll measured;
  double predicted = 0;  // bytes per second
};

std::vector<Beside> beside(const Plan& plan, const std::vector<LinkBenchmark::AllToAll>& measured) {
  std::vector<Beside> out;
  for (const LinkBenchmark::AllToAll& a : measured) {
    Plan p = plan;
    p.training.precision = a.fp8 ? Precision::kFp8 : Precision::kBf16;
    if (a.sms >= p.cluster.sms) {
      throw InputError(fmt::format(
          "a figure of {} SMs, but devices of '{}' have {}", a.sms, p.cluster.name, p.cluster.sms));
    }
    p.cluster.communication_sms = a.sms;
    if (!why_not(p.cluster, p.training).empty()) continue;  // FP8 figures beside devices without it
    for (const ExchangeSpeed& s : exchange_speeds(p, build_program(p))) {
      const bool same =
          s.pass == Pass::kForward && (s.kind == OpKind::kDispatch) == (a.op == "dispatch");
      if (same && s.several_nodes == a.across.has_value()) out.push_back({a, s.published()});
    }
  }
  return out;
}

}  // namespace

void add_link_options(Options& options) {
  options
      .values("links",
              "FILE",
              "output of nccl-tests or DeepEP's tests (may be given several times): its links go "
              "into the\ncalibration that --base names")
      .value("base", "FILE", "calibration of GPUs that gets the links");
}

int calibrate_links(const Options& options) {
  if (!options.has("base")) {
    throw UsageError("calibrate: --links needs --base, a calibration of GPUs that gets them");
  }
  if (options.plan_paths().size() > 1) throw UsageError("calibrate: --links takes one plan");
  GpuCalibration c = load_gpu_calibration(options.text("base"));
  std::optional<Plan> plan;
  if (!options.plan_paths().empty()) {
    plan = load_plan(options.plan_path());
    if (!plan->cluster.of_gpus()) {
      throw InputError(plan->path + ": --links needs a plan on GPUs");
    }
  }
  const LinkTarget target{.device = c.device, .cluster = plan ? &plan->cluster : nullptr};
  const std::string out =
      options.has("out") ? options.text("out") : std::string("out/calibration.yaml");
  options.check_outputs(default_output(options, out));
  const auto warn = [](const std::string& what) {
    std::cerr << fmt::format("warning: {}\n", what);
  };
  Report r;
  std::vector<LinkBenchmark::AllToAll> all_to_alls;
  double copied = 0;
  int64_t copies = 0;
  bool taken = false;
  for (const std::string& path : options.texts("links")) {
    const LinkBenchmark b = parse_link_benchmark(read_file(path), path, target);
    Report& of = r.item("benchmarks");
    of.say(fmt::format("{}: {}\n", path, b.source));
    of.put("file", path);
    of.put("source", b.source);
    const auto take = [&](const char* name, const std::optional<LinkMeasurement>& m, auto& link) {
      if (!m) return;
      taken = true;
      link = *m;
      of.say(fmt::format("  {} {}{}, fitted within {:.1f}% root mean square\n",
                         name,
                         to_string(m->bandwidth),
                         m->latency ? fmt::format(", {} per message", to_string(*m->latency)) : "",
                         100 * b.fit_error));
      Report& measured = of.section(name);
      measured.put("bandwidth_bytes_per_s", m->bandwidth);
      measured.put("latency_s", m->latency ? Value(*m->latency) : Value());
      measured.put("fit_error", b.fit_error);
    };
    take("node_link", b.node_link, c.node_link);
    take("network", b.network, c.network);
    std::vector<Value> warnings;
    for (const std::string& w : b.warnings) {
      warn(path + ": " + w);
      warnings.emplace_back(w);
    }
    of.put("warnings", std::move(warnings));
    for (const LinkBenchmark::AllToAll& a : b.all_to_alls) {
      all_to_alls.push_back(a);
      if (a.across) continue;
      // Within a node SMs copy what they send and what they receive.
      copied += 2 * a.within / static_cast<double>(a.sms);
      ++copies;
    }
  }
  if (copies > 0) {
    c.copy_per_sm = BytesPerSecond(copied / static_cast<double>(copies));
    r.say(fmt::format("  copying {} per communication SM\n", to_string(*c.copy_per_sm)));
  }
  Report::Table judged{.columns = {{"op", ""},
                                   {"fp8", ""},
                                   {"sms", ""},
                                   {"measured_bytes_per_s", ""},
                                   {"predicted_bytes_per_s", ""}}};
  const bool across = std::any_of(
      all_to_alls.begin(), all_to_alls.end(), [](const auto& a) { return a.across.has_value(); });
  if (across && !plan) {
    const std::string why =
        "figures across nodes go into no calibration: they are only compared with what a plan "
        "should "
        "show; name one (rehearse calibrate plan.yaml --links ...)";
    if (!taken && copies == 0)
      throw InputError(options.texts("links").front() + ": nothing taken: " + why);
    warn(why);
  }
  if (plan && !all_to_alls.empty()) {
    if (plan->layout.ep == 1) {
      throw InputError(plan->path + ": --links compares a plan on GPUs with ep above 1");
    }
    use_links(*plan, c);
    for (const Beside& b : beside(*plan, all_to_alls)) {
      const double shown = b.measured.across.value_or(b.measured.within);
      r.say(fmt::format("  {}{}, {} SMs: {} measured, {} by the model of {} ({})\n",
                        b.measured.op,
                        b.measured.fp8 ? " FP8" : "",
                        b.measured.sms,
                        to_string(BytesPerSecond(shown)),
                        to_string(BytesPerSecond(b.predicted)),
                        plan->path,
                        percent(b.predicted / shown - 1)));
      judged.unseen.push_back({b.measured.op, b.measured.fp8, b.measured.sms, shown, b.predicted});
    }
  }
  write_gpu_calibration(out, c);
  r.table("all_to_alls", std::move(judged));
  r.put("file", out);
  r.say(fmt::format("written: {}\n", out));
  options.print(r);
  return 0;
}

}  // namespace rehearse::cli
