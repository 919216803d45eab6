#pragma once
// One question: what does this op take? Answered by a host's calibration, by a calibration of GPUs,
// or by the stated times of an emulated device. Where nothing was measured, each falls back to what
// flops and bytes allow, and says so.

#include <array>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <string>

#include "plan/program/op_work.h"
#include "plan/program/program.h"
#include "sim/price/calibration.h"

namespace rehearse {

// Work on a rank's own device.
struct LocalCost {
  Duration alone;
  Duration beside;  // on a GPU while communication kernels hold their SMs and memory bandwidth
  double memory_weight = 0;  // share of the node's memory system it takes at full speed, 0 to 1
  Duration held;             // an emulated device takes at least so long
};

struct OpCost {
  LocalCost pack, forward, work;  // as in OpCalls
  Bytes message;                  // to each receiver, over links when these are modelled
  // Of an all-to-all on GPUs, inside an overlapped pair or not: how much slower its SMs copy, and
  // what goes before its data.
  double copy_slowdown = 1;
  Duration preparation;
};

// How the costs of one simulation differ from the calibration's medians.
struct CostVariation {
  double common = 1;        // factor on every measured time
  double interpolated = 0;  // standard deviation, in logarithms, of each interpolated time
  uint64_t seed = 0;        // of those
  uint64_t draws = 0;       // of how many simulations, with seeds from 1 on, this is one; 0: of any
};
// What `name` is off by in this simulation, in standard deviations: of a set of draws each has
// another quantile of a normal, in an order that the name shuffles, so that few of them show its
// spread.
double normal_of(const CostVariation& variation, const KernelCall& name);

// Where the costs of a prediction came from.
struct CostSources {
  int64_t measured = 0;      // kernel calls that the calibration has timed at their shape
  int64_t interpolated = 0;  // calls priced from the calibration's neighbouring shapes
  int64_t roofline = 0;      // calls priced by flops and bytes, since nothing was measured
  int64_t stated = 0;        // calls of an emulated device, which takes at least their roofline
  std::set<std::string> unmeasured;  // the roofline calls, by name
  // Of devices from tables: seconds of all ops of a replica by origin, and of what was not measured
  // by name.
  std::array<double, kOrigins.size()> seconds{};
  std::map<std::string, double> told;
  // Likewise by what varies together (normal_of), by kind of work, of ops of experts, and beyond
  // their work of those that wait for the host.
  std::map<std::pair<Origin, KernelCall>, double> pieces;
  std::map<WorkKind, double> kinds;
  double experts = 0, host = 0;

  void add(const CostSources& other);  // but for seconds
  void add_seconds(const CostSources& other, double times);
};

// Whether products run beside communication that holds SMs, so that a process launches all of them
// for the SMs that are left.
bool shares_sms(const Plan& plan);

// An op to price. overlapped: in a cell in which one micro-batch computes while the other
// communicates, so that its kernels are launched for the SMs that communication leaves, whether or
// not it is there at the moment.
struct PricedOp {
  const Op& op;
  const MemberLoad& load;
  bool overlapped = false;
};

class Price {
 public:
  virtual ~Price() = default;
  // All but messages. Adds to `sources`.
  virtual OpCost of(const PricedOp& op, CostSources& sources) const = 0;
  // OpCost::work alone, for loads that change from op to op.
  virtual LocalCost work(const PricedOp& op) const = 0;
  // What a collective among so many devices of one node takes alone, where that was measured; size:
  // as sim/price/collective_table.h counts it.
  virtual std::optional<Duration> on_node(CollectiveKind, int64_t /*ranks*/, Bytes /*size*/) const {
    return std::nullopt;
  }
  // What the runtime adds between ops.
  virtual Overheads overheads() const { return {}; }
  // On which an emulated cluster's devices compute what they then hold; 0: never in their way.
  virtual int64_t emulating_cores() const { return 0; }
};

// Throws InputError when the plan's devices cannot compute what it says (plan/legal.h).
void require_computable(const Plan& plan);

// The price of the plan's cluster; plan and work must outlive it. Throws InputError when the
// calibration is of other devices, and as require_computable.
std::unique_ptr<Price> make_price(const Plan& plan,
                                  const OpWork& work,
                                  const std::optional<Calibration>& calibration,
                                  const CostVariation& variation);

// One per kind of device, for make_price.
std::unique_ptr<Price> host_price(const Plan& plan,
                                  const OpWork& work,
                                  const Calibration& calibration,
                                  const CostVariation& variation);
std::unique_ptr<Price> gpu_price(const Plan& plan,
                                 const OpWork& work,
                                 const GpuCalibration& calibration,
                                 const CostVariation& variation);
// device: must outlive it.
std::unique_ptr<Price> device_price(const Plan& plan,
                                    const OpWork& work,
                                    const DeviceModel& device,
                                    const CostVariation& variation);
// calibration: of the cores that emulate; none: they are never too slow.
std::unique_ptr<Price> emulated_price(const Plan& plan,
                                      const OpWork& work,
                                      const Calibration& calibration,
                                      const CostVariation& variation);

// A standard normal number that follows from `seed` and `call` alone: the sum of twelve uniform
// numbers less six.
double normal_of(uint64_t seed, const KernelCall& call);

}  // namespace rehearse
