#pragma once
// What nccl-tests and DeepEP print, read as measurements of links.

#include <optional>
#include <string>
#include <vector>

#include "sim/price/gpu_calibration.h"

namespace rehearse {

// One output of one program.
struct LinkBenchmark {
  std::string source;  // "all_reduce_perf, 8 ranks on 1 host" and the like
  // nccl-tests: time = latency x steps + bytes / bandwidth, fitted to all sizes with equal weight
  // for equal relative errors; of one host the link among its devices, of several the network's.
  std::optional<LinkMeasurement> node_link, network;
  double fit_error = 0;  // root mean square, relative
  // DeepEP's best figures. Within a node: bytes per second that a rank's communication SMs receive,
  // and so send; across nodes: of messages per distinct node.
  struct AllToAll {
    std::string op;  // dispatch, combine
    bool fp8 = false;
    int64_t sms = 0;
    std::optional<double> across;  // bytes per second
    double within = 0;
  };
  std::vector<AllToAll> all_to_alls;
};

// Recognises which program wrote `text`. Throws InputError with `path`, line and what would be
// right.
LinkBenchmark parse_link_benchmark(const std::string& text, const std::string& path);

}  // namespace rehearse
