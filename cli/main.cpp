// rehearse: predicts the training of DeepSeek-V3-style models on a cluster, and runs it.

#include <algorithm>
#include <charconv>
#include <csignal>
#include <cstdlib>
#include <iostream>
#include <sstream>

#include <fmt/format.h>

#include "base/call_files.h"
#include "base/errors.h"
#include "base/text.h"
#include "base/yaml.h"
#include "cli/command.h"
#include "kernels/devices/devices.h"
#include "kernels/matmul/matmul.h"
#include "plan/keys.h"

namespace {

using rehearse::cli::Command;
using rehearse::cli::commands;

void print_usage(std::ostream& out) {
  out << "usage: rehearse <verb> <plan.yaml> [options]\n\n"
         "Rehearse an MoE training run before you pay for it: one plan file is simulated, run, "
         "and\n"
         "compared op by op.\n\n";
  for (const Command& c : commands()) out << fmt::format("  {:<10} {}\n", c.name, c.summary);
  out << "\n`rehearse help <verb>` explains a verb, `rehearse help plan` the keys of a plan file.\n"
         "`rehearse --version` names the build.\n"
         "Exit codes: 0 success, 1 bad input or failed run, 2 wrong usage, 130 and 143 after\n"
         "SIGINT and SIGTERM. With --json an error is an object too: error.kind, error.message,\n"
         "and error.file, error.line and error.column where they are known.\n";
}

// In lines of at most 96 columns, so far from the left.
std::string wrapped(const std::string& text, size_t indent) {
  constexpr size_t kColumns = 96;
  std::string out;
  size_t column = kColumns;  // none begun
  std::istringstream words(text);
  for (std::string word; words >> word;) {
    if (column + 1 + word.size() > kColumns) {
      out += (out.empty() ? "" : "\n") + std::string(indent, ' ') + word;
      column = indent + word.size();
    } else {
      out += " " + word;
      column += 1 + word.size();
    }
  }
  return out + "\n";
}

// The keys of a plan file, from the table that its reader uses.
void print_plan_keys() {
  std::cout
      << "The keys of a plan file (YAML). Quantities have units: 50 GB/s, 3 us, 14.8T tokens.\n";
  for (const rehearse::KeySection& s : rehearse::plan_keys()) {
    std::cout << fmt::format("\n{}\n  {}\n\n", s.name.empty() ? "plan" : s.name, s.about);
    size_t width = 0;
    for (const rehearse::YamlKey& k : s.keys) width = std::max(width, k.key.size());
    for (const rehearse::YamlKey& k : s.keys) {
      const std::string missing = k.missing.empty() ? "needed" : "default: " + k.missing;
      std::cout << fmt::format("  {:<{}}  {}  ({})\n", k.key, width, k.takes, missing);
      std::cout << wrapped(k.meaning, width + 4);
    }
  }
  std::cout << "\nModel files, topology files and examples: models/, topologies/, experiments/.\n";
}

void print_version() {
  std::cout << fmt::format("rehearse {}, {}\n", REHEARSE_VERSION, rehearse::cuda_description());
  const auto gpus = rehearse::gpu_descriptions();
  if (gpus.empty()) std::cout << "no GPU found\n";
  for (const std::string& gpu : gpus) std::cout << gpu << "\n";
}

int run(const std::vector<std::string>& args) {
  // Before CUDA's driver is asked for anything: as many queues for streams as the hardware has.
  setenv("CUDA_DEVICE_MAX_CONNECTIONS", "32", /*overwrite=*/0);
  if (args.empty()) {
    print_usage(std::cerr);
    return 2;
  }
  if (args[0] == "help" && args.size() > 2) {
    throw rehearse::cli::UsageError("help takes one verb, or 'plan'");
  }
  if (args[0] == "help" && args.size() == 2) {
    if (args[1] != "plan") return run({args[1], "--help"});
    print_plan_keys();
    return 0;
  }
  if (args[0] == "--help" || args[0] == "-h" || args[0] == "help") {
    print_usage(std::cout);
    return 0;
  }
  if (args[0] == "--version") {
    if (args.size() > 1) throw rehearse::cli::UsageError("--version takes no options");
    print_version();
    return 0;
  }
  std::vector<std::string> names;
  for (const Command& c : commands()) {
    if (c.name == args[0]) return c.run({args.begin() + 1, args.end()});
    names.push_back(c.name);
  }
  const auto near = rehearse::nearest_name(args[0], names);
  throw rehearse::cli::UsageError(
      near ? fmt::format("unknown verb '{}'; did you mean '{}'?", args[0], *near)
           : fmt::format("unknown verb '{}'; `rehearse --help` lists them", args[0]));
}

// An error for people, on standard error, and where --json asks for it as an object on standard
// output: kind, message, and the file, line and column where it stands, where they are known.
int tell(const std::string& kind,
         const std::string& message,
         bool json,
         const rehearse::InputError::Place& place = {}) {
  const std::string text = rehearse::printable(message);
  std::cerr << text << "\n";
  if (json) {
    rehearse::cli::Report report;
    rehearse::cli::Report& error = report.section("error");
    error.put("kind", kind);
    error.put("message", text);
    if (!place.file.empty()) error.put("file", rehearse::printable(place.file));
    if (place.line > 0) error.put("line", place.line);
    if (place.column > 0) error.put("column", place.column);
    std::cout << print_json(report) << std::flush;
  }
  return kind == "usage" ? 2 : 1;
}

// The whole number that `text` begins with, and what is behind it.
int leading_number(std::string_view& text) {
  int number = 0;
  const auto [rest, error] = std::from_chars(text.data(), text.data() + text.size(), number);
  if (error != std::errc()) return 0;
  text.remove_prefix(static_cast<size_t>(rest - text.data()));
  return number;
}

// The place that an error has, or that its text begins with: "file: ", "file:line: ",
// "file:line:column: ", "file: line N".
rehearse::InputError::Place place_of(const rehearse::InputError& e) {
  if (!e.place().file.empty()) return e.place();
  const std::string text = e.what();
  rehearse::InputError::Place place{.file = rehearse::input_named_in(text)};
  if (place.file.empty()) {
    const size_t end = text.find(": ");
    if (end == std::string::npos || text.find_first_of(" \n") < end) return {};
    return {.file = text.substr(0, end)};
  }
  std::string_view rest = std::string_view(text).substr(place.file.size() + 1);
  constexpr std::string_view kLine = " line ";
  if (rest.starts_with(kLine)) {
    rest.remove_prefix(kLine.size());
    place.line = leading_number(rest);
    return place;
  }
  place.line = leading_number(rest);
  if (place.line > 0 && rest.starts_with(':')) {
    rest.remove_prefix(1);
    place.column = leading_number(rest);
  }
  return place;
}

}  // namespace

int main(int argc, char** argv) {
  // A limit on files' sizes is then an error like a full disk.
  std::signal(SIGXFSZ, SIG_IGN);
  for (const Command& c : commands()) {
    if (argc > 1 && c.name == argv[1] && c.multiplies) {
      rehearse::kernels::restart_for_fast_matmul(argv);
    }
  }
  const bool json =
      std::any_of(argv, argv + argc, [](std::string_view a) { return a == "--json"; });
  try {
    const int code = run({argv + 1, argv + argc});
    if (!std::cout.flush()) {
      std::cerr << "rehearse: standard output cannot be written\n";
      return 1;
    }
    return code;
  } catch (const rehearse::cli::UsageError& e) {
    return tell("usage", fmt::format("rehearse: {}", e.what()), json);
  } catch (const rehearse::InputError& e) {
    return tell("input", e.what(), json, place_of(e));
  } catch (const rehearse::ScheduleError& e) {
    return tell("schedule", fmt::format("rehearse: {}", e.what()), json);
  } catch (const rehearse::InternalError& e) {
    return tell(
        "internal", fmt::format("rehearse: a bug of ours, please report it: {}", e.what()), json);
  } catch (const std::bad_alloc&) {
    return tell("memory",
                "rehearse: out of memory; `rehearse inspect` shows what the plan needs per rank",
                json);
  } catch (const std::exception& e) {
    return tell("failure", fmt::format("rehearse: {}", e.what()), json);
  }
}
