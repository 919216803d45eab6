// kernels_check: every check of the GPU kernels, on this machine's GPU (built with the CUDA toolkit
// alone, kernels/CMakeLists.txt) or, in the whole project's build, on the CPU by imitation.

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <memory>
#include <set>
#include <stdexcept>
#include <string>
#include <vector>

#include "kernels/checking/program.h"
#include "kernels/checking/report.h"
#include "kernels/checking/supervisor.h"
#include "kernels/fp8_cast/fp8_cast_check.h"
#include "kernels/fp8_gemm/fp8_gemm_check.h"
#include "kernels/layer_gpu/layer_check.h"

namespace {

using namespace rehearse::kernels;

constexpr char kHelp[] =
    "kernels_check [options]\n\n"
    "Runs every GPU kernel against its CPU reference, each case twice, with another order of "
    "events\n"
    "or between guard bytes; on small integers results must be equal to the bit, on random codes\n"
    "within bounds that follow from the tensor cores' 14 bits.\n"
    "Every case runs in every compiled tile shape, each check under a time limit and in a process\n"
    "that a hang or a crash ends without the others'.\n"
    "  --first            only the smallest case of every kernel, and one large case\n"
    "  --small            only the small cases\n"
    "  --list             names the checks and ends\n"
    "  --limit S          seconds that one check may take (default 60)\n"
    "  --dry-run          everything but the kernels: what the checks cost the host\n"
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
  bool first = false, small = false, list = false, dry_run = false;
  std::string only, json;
  std::vector<int64_t> gemm, gradient, rows;
  int64_t sms = 4, random = 0, seed = 1, limit = 60;
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
    if (arg == "--first") {
      o.first = true;
    } else if (arg == "--small") {
      o.small = true;
    } else if (arg == "--dry-run") {
      o.dry_run = true;
    } else if (arg == "--limit") {
      o.limit = one(arg, value());
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
};

Cases choose(const Options& o) {
  Cases c;
  if (!o.gemm.empty() || !o.gradient.empty()) {
    const std::vector<int64_t>& s = o.gemm.empty() ? o.gradient : o.gemm;
    c.gemms.push_back(gemm_case(
        o.gemm.empty(), s[0], s[1], s[2], std::vector<int32_t>(o.rows.begin(), o.rows.end())));
    c.gemms.back().sms = static_cast<int>(o.sms);
    return c;
  }
  if (o.random > 0) {
    for (int64_t i = 0; i < o.random; ++i) {
      c.gemms.push_back(random_gemm_case(static_cast<uint64_t>(o.seed + i)));
    }
    return c;
  }
  // The smallest first: where a kernel hangs, they say so soonest.
  c.casts = small_cast_cases();
  c.gemms = small_gemm_cases();
  const auto size = [](const GemmCase& g) { return g.m * g.n * g.k; };
  std::stable_sort(c.gemms.begin(), c.gemms.end(), [&](const GemmCase& a, const GemmCase& b) {
    return size(a) < size(b);
  });
  std::stable_sort(c.casts.begin(), c.casts.end(), [](const CastCase& a, const CastCase& b) {
    return a.m * a.k < b.m * b.k;
  });
  if (o.first) {
    std::set<bool> gemm_seen;
    std::erase_if(c.gemms,
                  [&](const GemmCase& g) { return !gemm_seen.insert(g.weight_gradient).second; });
    std::set<CastKind> cast_seen;
    std::erase_if(c.casts, [&](const CastCase& k) { return !cast_seen.insert(k.kind).second; });
  }
  if (!o.small && kLargeCases) {
    for (const GemmCase& g : large_gemm_cases()) c.gemms.push_back(g);
  }
  return c;
}

// What a process has.
struct Process {
  CheckProgram program;
  // Operands of the last product, which the next check has in common.
  std::string of;
  std::unique_ptr<GemmData> data;
  std::unique_ptr<GemmOperands> operands;

  void take(const GemmCase& c, GemmInputs inputs) {
    const std::string key = c.name + (inputs == GemmInputs::kExact ? " exact" : " random");
    if (of == key) return;
    of.clear();
    operands.reset();
    data = std::make_unique<GemmData>(c, inputs);
    operands = std::make_unique<GemmOperands>(*data, *program.target);
    of = key;
  }
};

std::vector<Job> jobs_of(const Options& options, Process& process) {
  const auto wanted = [&](const std::string& name) {
    return options.only.empty() || name.find(options.only) != std::string::npos;
  };
  const Cases cases = choose(options);
  std::vector<Job> jobs;
  for (const CastCase& c : cases.casts) {
    if (!wanted(c.name)) continue;
    jobs.push_back({c.name, [c, &process](const Emit& emit) {
                      emit(result_of(check_cast(c, *process.program.target)));
                    }});
  }
  if (options.gemm.empty() && options.gradient.empty() && options.random == 0) {
    std::set<std::string> seen;
    for (const LayerCheck& c : layer_checks()) {
      const bool first = seen.insert(c.name.substr(0, c.name.find(' '))).second;
      if (!wanted(c.name) || (options.first && !first)) continue;
      jobs.push_back({c.name, [c, &process](const Emit& emit) {
                        emit(result_of(c.run(*process.program.target)));
                      }});
    }
  }
  for (const GemmCase& c : cases.gemms) {
    if (!wanted(c.name)) continue;
    for (const GemmInputs inputs : {GemmInputs::kExact, GemmInputs::kRandom}) {
      for (const TileShape& shape : c.shapes()) {
        const std::string name = c.name + " (" + to_string(shape) + ", " +
                                 (inputs == GemmInputs::kExact ? "exact" : "random") + ")";
        jobs.push_back({name, [c, inputs, shape, &process](const Emit& emit) {
                          process.take(c, inputs);
                          Target& target = *process.program.target;
                          emit(result_of(check_gemm(*process.data,
                                                    *process.operands,
                                                    shape,
                                                    target,
                                                    target.kernels,
                                                    process.program.modelled)));
                        }});
      }
    }
  }
  return jobs;
}

int run(const Options& options) {
  Process process;
  const std::vector<Job> jobs = jobs_of(options, process);
  if (options.list) {
    for (const Job& job : jobs) std::printf("%s\n", job.name.c_str());
    return 0;
  }
  Report report(options.json);
  const double seconds =
      supervise(jobs,
                {.prepare = [&] { process.program = check_program(options.dry_run); },
                 .broken = [&] { return process.program.target->broken(); },
                 .limit_s = static_cast<double>(options.limit)},
                [&](const Result& r) { report.add(r); });
  std::fprintf(options.json == "-" ? stderr : stdout,
               "%d checks passed, %d failed; %.1f s of a processor\n",
               report.passed(),
               report.failed(),
               seconds);
  return report.failed() > 0 || report.passed() == 0;
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
