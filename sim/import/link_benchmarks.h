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
  // for equal relative errors; of one node the link among its devices, of several the network's.
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
  // What makes a figure doubtful, a sentence each.
  std::vector<std::string> warnings;
};

// What the figures are for: they are refused where they cannot be of it.
struct LinkTarget {
  std::string device;                // such as "NVIDIA H800"; empty: any
  const Cluster* cluster = nullptr;  // its nodes and stated rates, where known
};

// Recognises which program wrote `text`, and what launchers put before its lines (mpirun
// --tag-output, srun -l, kubectl --timestamps and --prefix, pdsh). Throws InputError with `path`,
// line and what would be right where it is not one whole run that found no errors, of devices that
// are the target's, or a setting or column is not understood.
LinkBenchmark parse_link_benchmark(const std::string& text,
                                   const std::string& path,
                                   const LinkTarget& target = {});

// Of either program alone.
LinkBenchmark parse_nccl_tests(const std::string& text,
                               const std::string& path,
                               const LinkTarget& target);
LinkBenchmark parse_deepep_tests(const std::string& text,
                                 const std::string& path,
                                 const LinkTarget& target);

}  // namespace rehearse
