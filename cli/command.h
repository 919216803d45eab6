#pragma once
// Subcommands: what main knows of them, and what they share.

#include <limits>
#include <memory>
#include <optional>
#include <stdexcept>
#include <string>
#include <vector>

#include "cli/report.h"
#include "plan/plan.h"
#include "sim/price/calibration.h"

namespace rehearse::cli {

using Arguments = std::vector<std::string>;

struct Command {
  std::string name;
  std::string summary;
  int (*run)(const Arguments&);  // exit code
  bool multiplies = false;       // computes with the CPU's kernels
};
const std::vector<Command>& commands();

int inspect(const Arguments& args);
int plan_layouts(const Arguments& args);
int simulate(const Arguments& args);
int train(const Arguments& args);
int replay(const Arguments& args);
int trace(const Arguments& args);
int compare(const Arguments& args);
int calibrate(const Arguments& args);
int validate(const Arguments& args);
int demo(const Arguments& args);

// A wrong command line: exit code 2.
class UsageError : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

enum class PlanArgument : uint8_t { kOne, kNoneOrOne, kSeveral, kNoneOrSeveral, kNone };

// Parsed options of one subcommand. Adds --help, --json and --quiet, and the plan file.
class Options {
 public:
  struct Description {
    std::string name;
    std::string about;     // what it does, in a paragraph
    std::string examples;  // indented lines
    PlanArgument plan = PlanArgument::kOne;
    // What its usage line says that it takes, where that is no plan; the first is then a word
    // rather than a file where it does not begin with '<'.
    std::string takes = {};
  };
  explicit Options(Description description);
  ~Options();

  // Further options, before parse(). placeholder: what it takes, such as FILE or N.
  Options& flag(const std::string& name, const std::string& help);
  Options& value(const std::string& name, const std::string& placeholder, const std::string& help);
  Options& value(const std::string& name,
                 const std::string& placeholder,
                 const std::string& help,
                 const std::string& by_default);
  // An optional file that the verb writes.
  Options& output(const std::string& name, const std::string& help);
  // May be given several times.
  Options& values(const std::string& name, const std::string& placeholder, const std::string& help);

  // False when --help was asked for and has been printed. Throws UsageError.
  bool parse(const Arguments& args);

  // Whether it was given, or has a default.
  bool has(const std::string& name) const;
  // Throws UsageError when one of these was given, which do not apply: `why`, such as "is for
  // clusters of GPUs".
  void refuse(const std::vector<std::string>& names, const std::string& why) const;
  // Checks, before any work, the files that the verb writes: those of output() and `further` (such
  // as defaults). Throws InputError when one cannot be written (base/file.h), is another, or is an
  // input (base/call_files.h), known already or found later.
  void check_outputs(const std::vector<std::string>& further = {}) const;
  // REQUIRES: has(name). Throw UsageError for what is not such a value, naming the range.
  std::string text(const std::string& name) const;
  std::vector<std::string> texts(const std::string& name) const;
  int64_t integer(const std::string& name, IntegerRange range) const;
  double number(const std::string& name, double above, double up_to) const;

  std::string plan_path() const { return plan_paths().front(); }
  std::vector<std::string> plan_paths() const;
  bool json() const { return has("json"); }
  bool quiet() const { return has("quiet") || json(); }
  // Prints the report in the form that was asked for.
  void print(const Report& report) const;

 private:
  void note_inputs() const;
  [[noreturn]] void fail(const std::string& message) const;

  Description description_;
  struct Parser;
  std::unique_ptr<Parser> parser_;
};

// The calibration that --calibration or the plan names, or the file of its GPUs; none where that is
// "none", or nothing known.
std::optional<std::string> calibration_path(const Options& options, const Plan& plan);
std::optional<Calibration> find_calibration(const Options& options, const Plan& plan);

// Puts links that a calibration of GPUs measured into the plan's cluster, and says so.
void use_measured_links(Plan& plan, const std::optional<Calibration>& calibration);

// For Options::check_outputs: `path`, where it is the default that no --out replaces.
std::vector<std::string> default_output(const Options& options, const std::string& path);

// "out/<name of the plan file>", where a plan's results go unless --out says otherwise.
std::string default_out(const Plan& plan);

}  // namespace rehearse::cli
