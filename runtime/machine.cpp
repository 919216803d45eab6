#include "runtime/machine.h"

#include <fstream>

#include <fmt/format.h>

#include "kernels/matmul/matmul.h"

namespace rehearse {

std::string processor_name() {
  std::ifstream cpus("/proc/cpuinfo");
  std::string name = "unknown processor";
  std::string family, model;
  for (std::string line; std::getline(cpus, line) && !line.empty();) {
    const size_t colon = line.find(": ");
    if (colon == std::string::npos) continue;
    const std::string key = line.substr(0, line.find_last_not_of(" \t", colon - 1) + 1);
    const std::string value = line.substr(colon + 2);
    if (key == "model name") name = value;
    if (key == "cpu family") family = value;
    if (key == "model") model = value;
  }
  return family.empty() ? name : fmt::format("{}, family {} model {}", name, family, model);
}

std::string build_description() {
  return fmt::format("g++ {}.{}, {}", __GNUC__, __GNUC_MINOR__, kernels::matmul_library());
}

std::string kernel_sources() {
  return REHEARSE_KERNEL_SOURCES;
}

}  // namespace rehearse
