#pragma once
// Subcommands: what main knows of them, and what they share.

#include <optional>
#include <string>
#include <vector>

#include <boost/program_options.hpp>

#include "plan/plan.h"
#include "plan/program/timeline.h"
#include "sim/price/calibration.h"

namespace rehearse::cli {

using Arguments = std::vector<std::string>;

struct Command {
  std::string name;
  std::string summary;
  int (*run)(const Arguments&);  // exit code
};
const std::vector<Command>& commands();

int inspect(const Arguments& args);
int simulate(const Arguments& args);
int train(const Arguments& args);
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
  };
  explicit Options(Description description);

  // Further options, in Boost's way: options.add()("steps", value<int64_t>(), "help").
  boost::program_options::options_description_easy_init add() { return visible_.add_options(); }

  // False when --help was asked for and has been printed. Throws UsageError.
  bool parse(const Arguments& args);

  bool has(const std::string& name) const { return values_.count(name) > 0; }
  template <typename T>
  T get(const std::string& name) const {
    return values_[name].as<T>();
  }
  std::string plan_path() const { return plan_paths().front(); }
  std::vector<std::string> plan_paths() const;
  bool json() const { return has("json"); }
  bool quiet() const { return has("quiet") || json(); }

 private:
  Description description_;
  boost::program_options::options_description visible_;
  boost::program_options::variables_map values_;
};

// The calibration that --calibration or the plan names; none where neither does.
std::optional<Calibration> find_calibration(const Options& options, const Plan& plan);

// Puts links that a calibration of GPUs measured into the plan's cluster, and says so.
void use_measured_links(Plan& plan, const std::optional<Calibration>& calibration);

// "out/<name of the plan file>", where a plan's results go unless --out says otherwise.
std::string default_out(const Plan& plan);

// Right-aligned columns, the first one left-aligned.
class Table {
 public:
  explicit Table(std::vector<std::string> header) { rows_.push_back(std::move(header)); }
  void row(std::vector<std::string> cells) { rows_.push_back(std::move(cells)); }
  std::string text() const;

 private:
  std::vector<std::vector<std::string>> rows_;
};

}  // namespace rehearse::cli
