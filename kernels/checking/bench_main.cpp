// kernels_bench: times the GPU kernels at DeepSeek-V3's shapes and holds them against the device's
// limits, cuBLASLt, published figures and the H800 profile. Builds with the CUDA toolkit alone
// (kernels/CMakeLists.txt).

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <optional>
#include <stdexcept>
#include <string>
#include <vector>

#include "kernels/checking/json_line.h"
#include "kernels/checking/program.h"
#include "kernels/checking/report.h"
#include "kernels/checking/stopwatch.h"
#include "kernels/checking/supervisor.h"
#include "kernels/checking/target.h"
#include "kernels/fp8_cast/fp8_cast_check.h"
#include "kernels/fp8_gemm/cublaslt.h"
#include "kernels/fp8_gemm/fp8_gemm_check.h"

namespace {

using namespace rehearse::kernels;
using rehearse::GpuTask;

constexpr char kHelp[] =
    "kernels_bench [options]\n\n"
    "Checks and times the GPU kernels at DeepSeek-V3's shapes, on random data.\n"
    "  --list       names the cases, their work, tiles and the speed expected on paper, and ends\n"
    "  --only TEXT  only cases whose name contains TEXT\n"
    "  --shapes     every compiled tile shape, not only the chosen one\n"
    "  --once       runs every kernel once, unchecked, for a profiler\n"
    "  --limit S    seconds that one case may take (default 60)\n"
    "  --dry-run    everything but the kernels: what the cases cost the host\n"
    "  --json FILE  one JSON object per case and line as well; - for standard output\n\n"
    "Columns: the median of single runs with a cold L2 and its spread (90th less 10th "
    "percentile);\n"
    "time per run in a graph of many, without launch gaps; time per run back to back for 0.1 s; "
    "the\n"
    "SMs' clock and the power in that time; TFLOP/s and GB/s back to back, the share of the limit\n"
    "that binds (FP8 peak of the SMs used at that clock, or the bandwidth of a device copy, "
    "measured\n"
    "first), and the share of the FP8 peak expected on paper; speed relative to cuBLASLt's (by "
    "turns,\n"
    "back to back), to the published H800 figure (single runs) and to the H800 profile's time; of "
    "cases "
    "on\n"
    "fewer SMs than there are, the time while a spinning kernel holds the others, over that "
    "without.\n\n"
    "Exit codes: 0 done, 1 failed or no GPU of compute capability 9.0, 2 wrong usage.\n";

// 4 tensor cores of 1024 E4M3 multiply-adds per clock each: 1979 TFLOP/s of 132 SMs at 1.83 GHz.
constexpr double kFlopsPerClock = 2.0 * 4096;

struct Options {
  bool list = false, shapes = false, once = false, dry_run = false;
  int limit = 60;
  std::string only, json;
};

struct Row {
  std::string name, shape;
  gpu::Timing timing;
  GpuTask task;
  int sms = 0;          // that multiply; 0: none do
  bool beside = false;  // other kernels hold the rest
  double expected_share = 0;
  gpu::Pair turns = {};  // with cuBLASLt
  double published_tflops = 0, profile_us = 0, spinner_us = 0;
};

std::string ratio(double value) {
  if (value <= 0) return "-";
  char text[32];
  std::snprintf(text, sizeof(text), "%.2fx", value);
  return text;
}

std::string percent(double share) {
  if (share <= 0) return "-";
  char text[32];
  std::snprintf(text, sizeof(text), "%.0f%%", 100 * share);
  return text;
}

double megabytes(const GpuTask& task) {
  return static_cast<double>(task.bytes.count()) * 1e-6;
}

// Of the FP8 peak of the SMs used, on paper.
double expected_share(const GemmCase& c, const TileShape& shape) {
  return c.task().flops.count() / (kFlopsPerClock * c.sms * estimate_clocks(c.size(), shape));
}

double or_nan(double v) {
  return v > 0 ? v : NAN;
}

constexpr char kHeader[] =
    "case                                                     tiles                     median us "
    "spread   graph us  steady us    MHz     W  TFLOP/s    GB/s of the limit expected cuBLASLt "
    "published  profile  spinner";

Result result_of(const Row& r, const gpu::Device& device) {
  const double seconds = r.timing.sustained_us * 1e-6;
  const double flops = r.task.flops.count();
  const double bytes = static_cast<double>(r.task.bytes.count());
  const double peak = r.sms * kFlopsPerClock * r.timing.clock_mhz * 1e6;
  const double compute_s = peak > 0 ? flops / peak : 0;
  const double memory_s = bytes / device.copy_bytes_per_second;
  const double share = std::max(compute_s, memory_s) / seconds;
  const char* limit = compute_s > memory_s ? "FP8" : "copy";
  const double tflops = flops / seconds * 1e-12;
  const double cublaslt = r.turns.run_us > 0 ? r.turns.other_us / r.turns.run_us : 0;
  // Others time single kernels.
  const double published =
      r.published_tflops > 0 ? flops / (r.timing.median_us * 1e-6) * 1e-12 / r.published_tflops : 0;
  const double profile = r.profile_us / r.timing.median_us;
  const double spinner = r.spinner_us / r.timing.graph_us;
  char text[400];
  std::snprintf(
      text,
      sizeof(text),
      "%-56s %-24s %10.1f %5.1f%% %10.1f %10.1f %6.0f %5.0f %8.0f %7.0f %5s %5.1f%% %8s %8s %9s "
      "%8s %8s",
      r.name.c_str(),
      r.shape.c_str(),
      r.timing.median_us,
      100 * r.timing.spread,
      r.timing.graph_us,
      r.timing.sustained_us,
      r.timing.clock_mhz,
      r.timing.power_w,
      tflops,
      bytes / seconds * 1e-9,
      limit,
      100 * share,
      percent(r.expected_share).c_str(),
      ratio(cublaslt).c_str(),
      ratio(published).c_str(),
      ratio(profile).c_str(),
      ratio(spinner).c_str());
  JsonLine line;
  line.add("case", r.name).add("work", std::string(rehearse::name_of(r.task.kind)));
  if (r.task.kind == rehearse::WorkKind::kProduct) {
    line.add("tiles", r.shape).add("sms", static_cast<double>(r.sms));
    line.add("beside", r.beside).add("family", std::string(rehearse::name_of(r.task.family)));
    line.add("format", std::string(rehearse::name_of(r.task.format)));
    line.add("shape", std::vector<int64_t>{r.task.groups, r.task.m, r.task.n, r.task.k});
  }
  line.add("median_us", r.timing.median_us).add("spread", r.timing.spread);
  line.add("graph_us", r.timing.graph_us).add("sustained_us", r.timing.sustained_us);
  line.add("clock_mhz", r.timing.clock_mhz).add("power_w", or_nan(r.timing.power_w));
  line.add("clock_reasons", static_cast<double>(r.timing.clock_reasons));
  line.add("flops", flops).add("bytes", bytes).add("tflops", tflops);
  line.add("gbs", bytes / seconds * 1e-9).add("limit", limit).add("share_of_limit", share);
  line.add("expected_share_of_fp8_peak", or_nan(r.expected_share));
  line.add("cublaslt_us", or_nan(r.turns.other_us)).add("speed_to_cublaslt", or_nan(cublaslt));
  line.add("published_tflops", or_nan(r.published_tflops));
  line.add("speed_to_published", or_nan(published));
  line.add("h800_profile_us", or_nan(r.profile_us));
  line.add("speed_to_h800_profile", or_nan(profile));
  line.add("beside_spinner_us", or_nan(r.spinner_us));
  return {true, text, line.text()};
}

// What a process has.
struct Process {
  CheckProgram program;
  gpu::Device device;

  void start(const Options& options, const Emit& emit) {
    program = check_program(options.dry_run);
    if (options.dry_run) return;
    device = gpu::measure_device();
    const std::string oracle = program.oracle ? program.oracle_name : "no cuBLASLt";
    char text[200];
    std::snprintf(text,
                  sizeof(text),
                  "%s: %d SMs, driver %s, %s, device copy %.0f GB/s\n",
                  device.name.c_str(),
                  device.sms,
                  device.driver.c_str(),
                  oracle.c_str(),
                  device.copy_bytes_per_second * 1e-9);
    emit({true,
          std::string(text) + kHeader,
          JsonLine()
              .add("device", device.name)
              .add("sms", static_cast<double>(device.sms))
              .add("driver", device.driver)
              .add("oracle", oracle)
              .add("copy_gbs", device.copy_bytes_per_second * 1e-9)
              .text()});
  }
};

// cuBLASLt for this case, checked; or nothing where it does not do the product.
std::optional<gpu::CublasLtProduct> oracle_for(const GemmData& data,
                                               GemmOperands& operands,
                                               Process& process,
                                               const Emit& emit) {
  std::optional<gpu::CublasLtProduct> product;
  const bool gradient = data.of().weight_gradient;
  if (!process.program.oracle || !(gradient ? gpu::cublaslt_does(operands.gradient())
                                            : gpu::cublaslt_does(operands.product()))) {
    return product;
  }
  const std::string name = data.of().name + " (cuBLASLt)";
  try {
    if (gradient) {
      product.emplace(operands.gradient());
    } else {
      product.emplace(operands.product());
    }
    Outcome o =
        check_gemm(data, operands, {}, *process.program.target, *process.program.oracle, false);
    o.name = name;
    emit(rehearse::kernels::result_of(o));
  } catch (const gpu::NoAlgorithm& e) {
    emit({true,
          "skip  " + name + ": " + e.what(),
          JsonLine().add("case", name).add("skipped", e.what()).text()});
  }
  return product;
}

void bench_gemm(const GemmCase& c, const Options& options, Process& process, const Emit& emit) {
  Target& target = *process.program.target;
  GemmCase fitted = c;
  if (target.runs()) fitted.sms = std::min(c.sms, process.device.sms);
  const GemmData data(fitted, GemmInputs::kRandom);
  GemmOperands operands(data, target);
  std::vector<TileShape> shapes = fitted.shapes();
  if (!options.shapes) shapes.resize(1);
  // With fewer SMs than the device has, cuBLASLt, which uses all, is no measure.
  std::optional<gpu::CublasLtProduct> oracle;
  if (target.runs() && !options.once && fitted.sms == process.device.sms) {
    oracle = oracle_for(data, operands, process, emit);
  }
  for (const TileShape& shape : shapes) {
    const auto run = [&](Stream s) { operands.start(target.kernels, shape, s); };
    if (options.once) {
      run({});
      target.synchronize();
      continue;
    }
    const Outcome o = check_gemm(data, operands, shape, target, target.kernels, false);
    emit(rehearse::kernels::result_of(o));
    if (!target.runs() || !o.passed) continue;
    Row row{.name = c.name,
            .shape = to_string(shape),
            .timing = gpu::time_gpu(run),
            .task = c.task(),
            .sms = fitted.sms,
            .beside = fitted.shares_device,
            .expected_share = expected_share(fitted, shape),
            .published_tflops = c.published_tflops,
            .profile_us = c.profile_us};
    if (oracle) row.turns = gpu::time_by_turns(run, [&](Stream s) { oracle->run(s); });
    if (fitted.sms < process.device.sms) {
      row.spinner_us = gpu::time_beside_spinner(run, process.device.sms - fitted.sms);
    }
    emit(result_of(row, process.device));
  }
}

void bench_cast(const CastCase& c, const Options& options, Process& process, const Emit& emit) {
  CastCheck check(c, *process.program.target);
  if (options.once) {
    check.start({});
    process.program.target->synchronize();
    return;
  }
  const Outcome o = check.check();
  emit(rehearse::kernels::result_of(o));
  if (!process.program.target->runs() || !o.passed) return;
  emit(result_of({.name = c.name,
                  .timing = gpu::time_gpu([&](Stream s) { check.start(s); }),
                  .task = c.task()},
                 process.device));
}

int run(const Options& options) {
  const std::vector<CastCase> casts = v3_cast_cases();
  const std::vector<GemmCase> gemms = v3_gemm_cases();
  if (options.list) {
    for (const CastCase& c : casts) {
      std::printf("%-52s %33.0f MB\n", c.name.c_str(), megabytes(c.task()));
    }
    for (const GemmCase& c : gemms) {
      const TileShape shape = c.shapes().front();
      std::printf("%-52s %15.0f GFLOP %11.0f MB  %-24s %4s of the peak expected\n",
                  c.name.c_str(),
                  c.task().flops.count() * 1e-9,
                  megabytes(c.task()),
                  to_string(shape).c_str(),
                  percent(expected_share(c, shape)).c_str());
    }
    return 0;
  }
  const auto wanted = [&](const std::string& name) {
    return options.only.empty() || name.find(options.only) != std::string::npos;
  };
  Process process;
  std::vector<Job> jobs = {{"device", [&](const Emit& emit) { process.start(options, emit); }}};
  for (const CastCase& c : casts) {
    if (!wanted(c.name)) continue;
    jobs.push_back({c.name, [&options, &process, c](const Emit& emit) {
                      bench_cast(c, options, process, emit);
                    }});
  }
  for (const GemmCase& c : gemms) {
    if (!wanted(c.name)) continue;
    jobs.push_back({c.name, [&options, &process, c](const Emit& emit) {
                      bench_gemm(c, options, process, emit);
                    }});
  }
  Report report(options.json);
  const double seconds =
      supervise(jobs,
                {.prepare = [&] { process.start(options, [](const Result&) {}); },
                 .broken = [&] { return process.program.target->broken(); },
                 .limit_s = static_cast<double>(options.limit)},
                [&](const Result& r) { report.add(r); });
  std::fprintf(options.json == "-" ? stderr : stdout,
               "%d results, %d failed; %.1f s of a processor\n",
               report.passed() + report.failed(),
               report.failed(),
               seconds);
  return report.failed() > 0;
}

}  // namespace

int main(int argc, char** argv) {
  Options options;
  for (int i = 1; i < argc; ++i) {
    const std::string arg = argv[i];
    const bool more = i + 1 < argc;
    if (arg == "--help" || arg == "-h") {
      std::fputs(kHelp, stdout);
      return 0;
    } else if (arg == "--list") {
      options.list = true;
    } else if (arg == "--shapes") {
      options.shapes = true;
    } else if (arg == "--once") {
      options.once = true;
    } else if (arg == "--dry-run") {
      options.dry_run = true;
    } else if (arg == "--limit" && more && std::atoi(argv[i + 1]) > 0) {
      options.limit = std::atoi(argv[++i]);
    } else if (arg == "--only" && more) {
      options.only = argv[++i];
    } else if (arg == "--json" && more) {
      options.json = argv[++i];
    } else {
      std::fprintf(
          stderr, "kernels_bench: unknown or incomplete option %s\n%s", arg.c_str(), kHelp);
      return 2;
    }
  }
  try {
    return run(options);
  } catch (const std::exception& e) {
    std::fprintf(stderr, "kernels_bench: %s\n", e.what());
    return 1;
  }
}
