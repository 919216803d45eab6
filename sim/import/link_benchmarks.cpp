#include "sim/import/link_benchmarks.h"

#include "base/errors.h"

namespace rehearse {

LinkBenchmark parse_link_benchmark(const std::string& text,
                                   const std::string& path,
                                   const LinkTarget& target) {
  if (text.find("[tuning]") != std::string::npos) return parse_deepep_tests(text, path, target);
  if (text.find("algbw") != std::string::npos) return parse_nccl_tests(text, path, target);
  throw InputError(path +
                   ": neither nccl-tests' output (with its header line '... algbw busbw ...') nor "
                   "DeepEP's (with lines '[tuning] ...')");
}

}  // namespace rehearse
