// kernels_bench: times the GPU kernels at DeepSeek-V3's shapes and holds them against the device's
// limits, cuBLASLt, published figures and the H800 profile. Builds with the CUDA toolkit alone
// (kernels/CMakeLists.txt).

#include <algorithm>
#include <cstdio>
#include <optional>
#include <stdexcept>
#include <string>
#include <vector>

#include "kernels/checking/json_line.h"
#include "kernels/checking/stopwatch.h"
#include "kernels/checking/target.h"
#include "kernels/fp8_cast/fp8_cast_check.h"
#include "kernels/fp8_gemm/cublaslt.h"
#include "kernels/fp8_gemm/fp8_gemm_check.h"

namespace {

using namespace rehearse::kernels;
using rehearse::GpuTask;

constexpr char kHelp[] =
    "kernels_bench [--list] [--only TEXT] [--shapes] [--json FILE]\n\n"
    "Times the GPU kernels at DeepSeek-V3's shapes, on random data.\n"
    "  --list       names the cases, their work, tiles and the speed expected on paper, and ends\n"
    "  --only TEXT  only cases whose name contains TEXT\n"
    "  --shapes     every compiled tile shape, not only the chosen one\n"
    "  --json FILE  one JSON object per case and line as well; - for standard output\n\n"
    "Columns: the median of single runs with a cold L2 and its spread (90th less 10th "
    "percentile);\n"
    "time per run back to back; the SMs' clock in that time; TFLOP/s and GB/s back to back, the\n"
    "share of the limit that binds (FP8 peak of the SMs used at that clock, or the bandwidth of a\n"
    "device copy, measured first), and the share of the FP8 peak expected on paper; speed relative "
    "to cuBLASLt's (back to back), to the published\n"
    "H800 figure, and to the H800 profile's time.\n\n"
    "Exit codes: 0 done, 1 failed or no GPU of compute capability 9.0, 2 wrong usage.\n";

// 4 tensor cores of 1024 E4M3 multiply-adds per clock each: 1979 TFLOP/s of 132 SMs at 1.83 GHz.
constexpr double kFlopsPerClock = 2.0 * 4096;

struct Options {
  bool list = false, shapes = false;
  std::string only, json;
};

struct Row {
  std::string name, shape;
  gpu::Timing timing;
  GpuTask task;
  int sms = 0;  // that multiply; 0: none do
  double expected_share = 0;
  double cublaslt_us = 0, published_tflops = 0, profile_us = 0;
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

class Report {
 public:
  Report(const Options& o, const gpu::Device& device) : device_(device) {
    if (o.json == "-") {
      json_ = stdout;
    } else if (!o.json.empty() && !(json_ = std::fopen(o.json.c_str(), "w"))) {
      throw std::runtime_error("cannot write " + o.json);
    }
    std::printf("%-56s %-24s %10s %6s %10s %6s %8s %7s %12s %8s %8s %9s %8s\n",
                "case",
                "tiles",
                "median us",
                "spread",
                "steady us",
                "MHz",
                "TFLOP/s",
                "GB/s",
                "of the limit",
                "expected",
                "cuBLASLt",
                "published",
                "profile");
  }
  ~Report() {
    if (json_ && json_ != stdout) std::fclose(json_);
  }

  void add(const Row& r) {
    const double seconds = r.timing.sustained_us * 1e-6;
    const double flops = r.task.flops.count();
    const double bytes = static_cast<double>(r.task.bytes.count());
    const double peak = r.sms * kFlopsPerClock * r.timing.clock_mhz * 1e6;
    const double compute_s = peak > 0 ? flops / peak : 0;
    const double memory_s = bytes / device_.copy_bytes_per_second;
    const double share = std::max(compute_s, memory_s) / seconds;
    const char* limit = compute_s > memory_s ? "FP8" : "copy";
    const double tflops = flops / seconds * 1e-12;
    const double cublaslt = r.cublaslt_us / r.timing.sustained_us;
    // Others time single kernels.
    const double published = r.published_tflops > 0
                                 ? flops / (r.timing.median_us * 1e-6) * 1e-12 / r.published_tflops
                                 : 0;
    const double profile = r.profile_us / r.timing.median_us;
    std::printf("%-56s %-24s %10.1f %5.1f%% %10.1f %6.0f %8.0f %7.0f %5s %5.1f%% %8s %8s %9s %8s\n",
                r.name.c_str(),
                r.shape.c_str(),
                r.timing.median_us,
                100 * r.timing.spread,
                r.timing.sustained_us,
                r.timing.clock_mhz,
                tflops,
                bytes / seconds * 1e-9,
                limit,
                100 * share,
                percent(r.expected_share).c_str(),
                ratio(cublaslt).c_str(),
                ratio(published).c_str(),
                ratio(profile).c_str());
    std::fflush(stdout);
    if (!json_) return;
    const auto or_nan = [](double v) { return v > 0 ? v : NAN; };
    JsonLine line;
    line.add("case", r.name).add("tiles", r.shape).add("median_us", r.timing.median_us);
    line.add("spread", r.timing.spread).add("sustained_us", r.timing.sustained_us);
    line.add("clock_mhz", r.timing.clock_mhz).add("tflops", tflops);
    line.add("gbs", bytes / seconds * 1e-9).add("limit", limit).add("share_of_limit", share);
    line.add("expected_share_of_fp8_peak", or_nan(r.expected_share));
    line.add("copy_gbs", device_.copy_bytes_per_second * 1e-9);
    line.add("cublaslt_us", or_nan(r.cublaslt_us)).add("speed_to_cublaslt", or_nan(cublaslt));
    line.add("published_tflops", or_nan(r.published_tflops));
    line.add("speed_to_published", or_nan(published));
    line.add("h800_profile_us", or_nan(r.profile_us));
    line.add("speed_to_h800_profile", or_nan(profile));
    std::fprintf(json_, "%s\n", line.text().c_str());
    std::fflush(json_);
  }

 private:
  gpu::Device device_;
  std::FILE* json_ = nullptr;
};

// Of whichever product the case is; 0 where cuBLASLt has none.
double time_cublaslt(const GemmCase& c, GemmOperands& operands) {
  std::optional<gpu::CublasLtProduct> product;
  if (c.weight_gradient && gpu::cublaslt_does(operands.gradient())) {
    product.emplace(operands.gradient());
  } else if (!c.weight_gradient && gpu::cublaslt_does(operands.product())) {
    product.emplace(operands.product());
  }
  if (!product) return 0;
  return gpu::time_gpu([&] { product->run({}); }, [] {}).sustained_us;
}

void bench_gemm(const GemmCase& c, bool all_shapes, int sms, Target& target, Report& report) {
  GemmCase fitted = c;
  fitted.sms = std::min(c.sms, sms);
  GemmOperands operands(fitted, GemmInputs::kRandom, target);
  std::vector<TileShape> shapes = fitted.shapes();
  if (!all_shapes) shapes.resize(1);
  // With fewer SMs than the device has, cuBLASLt, which uses all, is no measure.
  const double cublaslt_us = fitted.sms == sms ? time_cublaslt(fitted, operands) : 0;
  for (const TileShape& shape : shapes) {
    const auto run = [&] {
      if (c.weight_gradient) {
        target.kernels.fp8_weight_gradient(operands.gradient(), shape, {});
      } else {
        target.kernels.fp8_gemm(operands.product(), shape, {});
      }
    };
    report.add({.name = c.name,
                .shape = to_string(shape),
                .timing = gpu::time_gpu(run, [] {}),
                .task = c.task(),
                .sms = fitted.sms,
                .expected_share = expected_share(fitted, shape),
                .cublaslt_us = cublaslt_us,
                .published_tflops = c.published_tflops,
                .profile_us = c.profile_us});
  }
}

void run(const Options& options) {
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
    return;
  }
  const auto wanted = [&](const std::string& name) {
    return options.only.empty() || name.find(options.only) != std::string::npos;
  };
  const auto target = gpu_target();
  const gpu::Device device = gpu::measure_device();
  std::printf("%s: %d SMs, device copy %.0f GB/s\n",
              target->name().c_str(),
              device.sms,
              device.copy_bytes_per_second * 1e-9);
  Report report(options, device);
  for (const CastCase& c : casts) {
    if (!wanted(c.name)) continue;
    report.add({.name = c.name,
                .timing = gpu::time_gpu(prepare_cast(c, *target), [] {}),
                .task = c.task()});
  }
  for (const GemmCase& c : gemms) {
    if (wanted(c.name)) bench_gemm(c, options.shapes, device.sms, *target, report);
  }
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
    run(options);
    return 0;
  } catch (const std::exception& e) {
    std::fprintf(stderr, "kernels_bench: %s\n", e.what());
    return 1;
  }
}
