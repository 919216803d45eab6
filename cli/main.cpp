// rehearse: predicts the training of DeepSeek-V3-style models on a cluster, and runs it.

#include <algorithm>
#include <iostream>

#include <fmt/format.h>

#include "base/errors.h"
#include "base/yaml.h"
#include "cli/command.h"
#include "kernels/devices/devices.h"

namespace {

using rehearse::cli::Command;
using rehearse::cli::commands;

void print_usage(std::ostream& out) {
  out << "usage: rehearse <verb> <plan.yaml> [options]\n\n"
         "Rehearse an MoE training run before you pay for it: one plan file is simulated, run, "
         "and\n"
         "compared op by op.\n\n";
  for (const Command& c : commands()) out << fmt::format("  {:<10} {}\n", c.name, c.summary);
  out << "\n`rehearse <verb> --help` explains a verb. `rehearse --version` names the build.\n"
         "Exit codes: 0 success, 1 bad input or failed run, 2 wrong usage.\n";
}

void print_version() {
  std::cout << fmt::format("rehearse {}, {}\n", REHEARSE_VERSION, rehearse::cuda_description());
  const auto gpus = rehearse::gpu_descriptions();
  if (gpus.empty()) std::cout << "no GPU found\n";
  for (const std::string& gpu : gpus) std::cout << gpu << "\n";
}

int run(const std::vector<std::string>& args) {
  if (args.empty()) {
    print_usage(std::cerr);
    return 2;
  }
  if (args[0] == "--help" || args[0] == "-h" || args[0] == "help") {
    print_usage(std::cout);
    return 0;
  }
  if (args[0] == "--version") {
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

}  // namespace

int main(int argc, char** argv) {
  try {
    const int code = run({argv + 1, argv + argc});
    if (!std::cout.flush()) {
      std::cerr << "rehearse: standard output cannot be written\n";
      return 1;
    }
    return code;
  } catch (const rehearse::cli::UsageError& e) {
    std::cerr << "rehearse: " << e.what() << "\n";
    return 2;
  } catch (const rehearse::InputError& e) {
    std::cerr << e.what() << "\n";
  } catch (const rehearse::ScheduleError& e) {
    std::cerr << "rehearse: " << e.what() << "\n";
  } catch (const rehearse::InternalError& e) {
    std::cerr << "rehearse: a bug of ours, please report it: " << e.what() << "\n";
  } catch (const std::bad_alloc&) {
    std::cerr << "rehearse: out of memory; `rehearse inspect` shows what the plan needs per rank\n";
  } catch (const std::exception& e) {
    std::cerr << "rehearse: " << e.what() << "\n";
  }
  return 1;
}
