// kernels_check: every check of the GPU kernels, on this machine's GPU (built with the CUDA toolkit
// alone, kernels/CMakeLists.txt) or, in the whole project's build, on the CPU by imitation.

#include <cstdio>
#include <cstdlib>
#include <stdexcept>
#include <string>
#include <vector>

#include "kernels/checking/json_line.h"
#include "kernels/checking/program.h"
#include "kernels/fp8_cast/fp8_cast_check.h"
#include "kernels/fp8_gemm/fp8_gemm_check.h"

namespace {

using namespace rehearse::kernels;

constexpr char kHelp[] =
    "kernels_check [options]\n\n"
    "Runs every GPU kernel against its CPU reference, each case twice, with another order of "
    "events\n"
    "or between guard bytes; on small integers results must be equal to the bit, on random codes\n"
    "within bounds that follow from the tensor cores' 14 bits.\n"
    "  --small            only the small cases, in every compiled tile shape\n"
    "  --list             names the cases and ends\n"
    "  --only TEXT        only cases whose name contains TEXT\n"
    "  --gemm M,N,K       only a product of these sizes: y[M,N] over K\n"
    "  --gradient M,N,T   only a weight gradient: dw[M,N] over T tokens\n"
    "  --rows R,R,...     of it, in groups of so many rows (tokens), instead of M (T)\n"
    "  --sms S            of it, on so many SMs (default 4)\n"
    "  --random N         only N products of random small sizes\n"
    "  --seed S           of those, the first one's number (default 1)\n"
    "  --json FILE        one JSON object per case and line as well; - for standard output\n\n"
    "Exit codes: 0 all passed, 1 a check failed or there is no GPU of compute capability 9.0,\n"
    "2 wrong usage.\n";

struct Options {
  bool small = false, list = false;
  std::string only, json;
  std::vector<int64_t> gemm, gradient, rows;
  int64_t sms = 4, random = 0, seed = 1;
};

class UsageError : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

std::vector<int64_t> numbers(const std::string& option, const std::string& text) {
  std::vector<int64_t> out;
  size_t at = 0;
  while (at <= text.size()) {
    const size_t comma = std::min(text.find(',', at), text.size());
    const std::string part = text.substr(at, comma - at);
    char* end = nullptr;
    const long long value = std::strtoll(part.c_str(), &end, 10);
    if (part.empty() || *end != 0 || value < 0 || value > 1 << 24) {
      throw UsageError(option +
                       ": expected whole numbers from 0 to 16777216, such as 300,128, not '" +
                       text + "'");
    }
    out.push_back(value);
    at = comma + 1;
  }
  return out;
}

std::vector<int64_t> three(const std::string& option, const std::string& text) {
  std::vector<int64_t> out = numbers(option, text);
  if (out.size() != 3) throw UsageError(option + ": expected three sizes, such as 300,128,512");
  return out;
}

int64_t one(const std::string& option, const std::string& text) {
  const std::vector<int64_t> out = numbers(option, text);
  if (out.size() != 1) throw UsageError(option + ": expected one number");
  return out[0];
}

Options parse(int argc, char** argv) {
  Options o;
  for (int i = 1; i < argc; ++i) {
    const std::string arg = argv[i];
    const auto value = [&]() -> std::string {
      if (i + 1 >= argc) throw UsageError(arg + " needs a value");
      return argv[++i];
    };
    if (arg == "--small") {
      o.small = true;
    } else if (arg == "--list") {
      o.list = true;
    } else if (arg == "--only") {
      o.only = value();
    } else if (arg == "--json") {
      o.json = value();
    } else if (arg == "--gemm") {
      o.gemm = three(arg, value());
    } else if (arg == "--gradient") {
      o.gradient = three(arg, value());
    } else if (arg == "--rows") {
      o.rows = numbers(arg, value());
    } else if (arg == "--sms") {
      o.sms = one(arg, value());
    } else if (arg == "--random") {
      o.random = one(arg, value());
    } else if (arg == "--seed") {
      o.seed = one(arg, value());
    } else {
      throw UsageError("unknown option " + arg);
    }
  }
  if (!o.gemm.empty() && !o.gradient.empty()) throw UsageError("--gemm or --gradient, not both");
  if (!o.rows.empty() && o.gemm.empty() && o.gradient.empty()) {
    throw UsageError("--rows goes with --gemm or --gradient");
  }
  return o;
}

struct Cases {
  std::vector<CastCase> casts;
  std::vector<GemmCase> gemms;
  size_t all_shapes = 0;  // so many of the products are checked in every tile shape
};

Cases choose(const Options& o, bool large) {
  Cases c;
  if (!o.gemm.empty() || !o.gradient.empty()) {
    const std::vector<int64_t>& s = o.gemm.empty() ? o.gradient : o.gemm;
    c.gemms.push_back(gemm_case(
        o.gemm.empty(), s[0], s[1], s[2], std::vector<int32_t>(o.rows.begin(), o.rows.end())));
    c.gemms.back().sms = static_cast<int>(o.sms);
  } else if (o.random > 0) {
    for (int64_t i = 0; i < o.random; ++i) {
      c.gemms.push_back(random_gemm_case(static_cast<uint64_t>(o.seed + i)));
    }
  } else {
    c.casts = small_cast_cases();
    c.gemms = small_gemm_cases();
  }
  c.all_shapes = c.gemms.size();
  if (large && !o.small && !c.casts.empty()) {
    for (const CastCase& cast : v3_cast_cases()) c.casts.push_back(cast);
    for (const GemmCase& gemm : v3_gemm_cases()) c.gemms.push_back(gemm);
  }
  return c;
}

class Report {
 public:
  explicit Report(const Options& o) {
    if (o.json == "-") {
      json_ = stdout;
    } else if (!o.json.empty() && !(json_ = std::fopen(o.json.c_str(), "w"))) {
      throw std::runtime_error("cannot write " + o.json);
    }
  }
  ~Report() {
    if (json_ && json_ != stdout) std::fclose(json_);
  }
  Report(const Report&) = delete;
  Report& operator=(const Report&) = delete;

  void add(const Outcome& o) {
    ++(o.passed ? passed_ : failed_);
    std::printf("%s  %-72s %s\n", o.passed ? "ok  " : "FAIL", o.name.c_str(), o.found.c_str());
    std::fflush(stdout);
    if (!json_) return;
    JsonLine line;
    line.add("case", o.name).add("passed", o.passed).add("found", o.found);
    line.add("worst_share_of_bound", o.worst).add("rms_share_of_expected", o.rms);
    std::fprintf(json_, "%s\n", line.text().c_str());
    std::fflush(json_);
  }
  int end() const {
    std::printf("%d checks passed, %d failed\n", passed_, failed_);
    return failed_ > 0 || passed_ == 0;
  }

 private:
  std::FILE* json_ = nullptr;
  int passed_ = 0, failed_ = 0;
};

int run(const Options& options) {
  const auto wanted = [&](const std::string& name) {
    return options.only.empty() || name.find(options.only) != std::string::npos;
  };
  if (options.list) {
    const Cases cases = choose(options, true);
    for (const CastCase& c : cases.casts) std::printf("%s\n", c.name.c_str());
    for (const GemmCase& c : cases.gemms) std::printf("%s\n", c.name.c_str());
    return 0;
  }
  const CheckProgram program = check_program();
  const Cases cases = choose(options, program.large);
  std::printf("on %s\n", program.target->name().c_str());
  Report report(options);
  for (const CastCase& c : cases.casts) {
    if (wanted(c.name)) report.add(check_cast(c, *program.target));
  }
  for (size_t i = 0; i < cases.gemms.size(); ++i) {
    const GemmCase& c = cases.gemms[i];
    if (!wanted(c.name)) continue;
    std::vector<TileShape> shapes = c.shapes();
    if (i >= cases.all_shapes) {
      shapes.resize(1);
      if (program.oracle && c.rows.empty()) {
        Outcome o = check_gemm(c, shapes[0], GemmInputs::kRandom, *program.oracle, false);
        o.name = c.name + " (cuBLASLt)";
        report.add(o);
      }
    }
    for (const TileShape& shape : shapes) {
      for (const GemmInputs inputs : {GemmInputs::kExact, GemmInputs::kRandom}) {
        report.add(check_gemm(c, shape, inputs, *program.target, program.modelled));
      }
    }
  }
  return report.end();
}

}  // namespace

int main(int argc, char** argv) {
  for (int i = 1; i < argc; ++i) {
    if (std::string(argv[i]) == "--help" || std::string(argv[i]) == "-h") {
      std::fputs(kHelp, stdout);
      return 0;
    }
  }
  try {
    return run(parse(argc, argv));
  } catch (const UsageError& e) {
    std::fprintf(stderr, "kernels_check: %s\n\n%s", e.what(), kHelp);
    return 2;
  } catch (const std::exception& e) {
    std::fprintf(stderr, "kernels_check: %s\n", e.what());
    return 1;
  }
}
