// kernels_check: every check of the GPU kernels on this machine's GPU. Builds with the CUDA toolkit
// alone (kernels/CMakeLists.txt).

#include <cstdio>
#include <stdexcept>
#include <string>
#include <vector>

#include "kernels/checking/cublaslt.h"
#include "kernels/checking/json_line.h"
#include "kernels/checking/target.h"
#include "kernels/fp8_cast/fp8_cast_check.h"
#include "kernels/fp8_gemm/fp8_gemm_check.h"

namespace {

using namespace rehearse::kernels;

constexpr char kHelp[] =
    "kernels_check [--small] [--list] [--only TEXT] [--json FILE]\n\n"
    "Runs every GPU kernel against its CPU reference, each case twice, between guard bytes.\n"
    "  --small      only the small cases, in every compiled tile shape (for compute-sanitizer)\n"
    "  --list       names the cases and ends\n"
    "  --only TEXT  only cases whose name contains TEXT\n"
    "  --json FILE  one JSON object per case as well\n\n"
    "Exit codes: 0 all passed, 1 a check failed or there is no GPU of compute capability 9.0,\n"
    "2 wrong usage.\n";

struct Options {
  bool small = false, list = false;
  std::string only, json;
};

KernelSet cublaslt_kernels() {
  KernelSet set;
  set.fp8_gemm = [](const Fp8Product& p, const TileShape&, Stream stream) {
    gpu::CublasLtProduct(p).run(stream);
  };
  set.fp8_weight_gradient = [](const Fp8WeightGradient& p, const TileShape&, Stream stream) {
    gpu::CublasLtProduct(p).run(stream);
  };
  return set;
}

class Report {
 public:
  explicit Report(const Options& o) : options_(o) {
    if (!o.json.empty() && !(json_ = std::fopen(o.json.c_str(), "w"))) {
      throw std::runtime_error("cannot write " + o.json);
    }
  }
  ~Report() {
    if (json_) std::fclose(json_);
  }
  bool wants(const std::string& name) const {
    return options_.only.empty() || name.find(options_.only) != std::string::npos;
  }
  void add(const Outcome& o) {
    ++(o.passed ? passed_ : failed_);
    std::printf("%s  %-72s %s\n", o.passed ? "ok  " : "FAIL", o.name.c_str(), o.found.c_str());
    std::fflush(stdout);
    if (!json_) return;
    JsonLine line;
    line.add("case", o.name).add("passed", o.passed).add("found", o.found);
    line.add("worst_share_of_bound", o.worst).add("rms_share_of_expected", o.rms);
    std::fprintf(json_, "%s\n", line.text().c_str());
  }
  int end() const {
    std::printf("%d checks passed, %d failed\n", passed_, failed_);
    return failed_ > 0 || passed_ == 0;
  }

 private:
  const Options& options_;
  std::FILE* json_ = nullptr;
  int passed_ = 0, failed_ = 0;
};

int run(const Options& options) {
  std::vector<CastCase> casts = small_cast_cases();
  std::vector<GemmCase> gemms = small_gemm_cases();
  const size_t small = gemms.size();
  if (!options.small) {
    for (const CastCase& c : v3_cast_cases()) casts.push_back(c);
    for (const GemmCase& c : v3_gemm_cases()) gemms.push_back(c);
  }
  if (options.list) {
    for (const CastCase& c : casts) std::printf("%s\n", c.name.c_str());
    for (const GemmCase& c : gemms) std::printf("%s\n", c.name.c_str());
    return 0;
  }
  const auto target = gpu_target();
  // By the same bounds: what they take for right, the reference has to agree with.
  const auto oracle = gpu_target(cublaslt_kernels());
  std::printf("%s\n", target->name().c_str());
  Report report(options);
  for (const CastCase& c : casts) {
    if (report.wants(c.name)) report.add(check_cast(c, *target));
  }
  for (size_t i = 0; i < gemms.size(); ++i) {
    if (!report.wants(gemms[i].name)) continue;
    std::vector<TileShape> shapes = gemms[i].shapes();
    if (i >= small) {
      shapes.resize(1);
      if (gemms[i].rows.empty()) {
        Outcome o = check_gemm(gemms[i], shapes[0], GemmInputs::kRandom, *oracle, false);
        o.name = gemms[i].name + " (cuBLASLt)";
        report.add(o);
      }
    }
    for (const TileShape& shape : shapes) {
      for (const GemmInputs inputs : {GemmInputs::kExact, GemmInputs::kRandom}) {
        report.add(check_gemm(gemms[i], shape, inputs, *target, false));
      }
    }
  }
  return report.end();
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
    } else if (arg == "--small") {
      options.small = true;
    } else if (arg == "--list") {
      options.list = true;
    } else if (arg == "--only" && more) {
      options.only = argv[++i];
    } else if (arg == "--json" && more) {
      options.json = argv[++i];
    } else {
      std::fprintf(
          stderr, "kernels_check: unknown or incomplete option %s\n%s", arg.c_str(), kHelp);
      return 2;
    }
  }
  try {
    return run(options);
  } catch (const std::exception& e) {
    std::fprintf(stderr, "kernels_check: %s\n", e.what());
    return 1;
  }
}
