#pragma once
// One all-to-all of an EP group on a cluster of GPUs, as DeepEP's kernels and the report's section
// 3.2.2 have it: tokens cross the network once to each node, to the rank of the sender's position,
// which passes them on over NVLink to the ranks of its node; a combine goes the same way backwards.
// Ranks pass tokens on as they come, so that both links are busy at once: what a rank waits for in
// the end is its slowest link, or the SMs that copy all of it.

#include <functional>
#include <optional>
#include <utility>
#include <vector>

#include "plan/routing/counts.h"
#include "sim/engine/event_queue.h"
#include "sim/engine/sharing.h"
#include "sim/network/link_meter.h"
#include "sim/network/network.h"

namespace rehearse {

// The flows of one all-to-all op, between members of its group.
struct ExchangeShape {
  struct Flow {
    int32_t from = 0, to = 0;
    bool across = false;  // nodes
    bool second = false;  // passes on what the first flows bring
    Bytes bytes;
    Duration latency;
    double copies = 1;  // of a folded group: so many equal flows through the same ports
  };
  std::vector<Flow> flows;
  std::vector<Duration> copying;  // by member: time that its communication SMs need for its bytes
  Duration preparation;           // of every member, before its data leaves
  std::vector<std::vector<int32_t>> passed_on_to;  // by member: second flows out of it
};

// dispatch: sends tokens to experts (dispatch.F, combine.B); else back. token: bytes of a message.
// latencies: between nodes, by node pair; within: of a node. members: 1 for a folded group, whose
// one member does what all do (REQUIRES load.symmetric).
struct ExchangeTerms {
  bool dispatch = true;
  Bytes token;
  std::vector<Duration> latencies;  // [nodes x nodes]
  Duration within;
  std::optional<BytesPerSecond> copy;  // all communication SMs of a rank together
  double copy_slowdown = 1;            // beside computation
  Duration preparation;                // before a rank's data leaves
  int64_t members = 0;
};
ExchangeShape exchange_shape(const ExpertGroup& group,
                             const GroupLoad& load,
                             const ExchangeTerms& terms);

// How far an exchange has come. Times are since its begin.
class ExchangeRun {
 public:
  explicit ExchangeRun(const ExchangeShape& shape);
  using Ends = std::vector<std::pair<int32_t, Duration>>;  // member, when it ends

  // Members that have nothing to wait for.
  void begin(Ends& ends);
  // Flow `flow` has ended; appends the members whose ends are thereby known.
  void flow_ended(size_t flow, Duration now, Ends& ends);

 private:
  void settle(int32_t member, Duration now, Ends& ends);

  const ExchangeShape* shape_;
  struct Member {
    int32_t missing = 0;        // flows in and out, and ranks that pass on to it
    int32_t missing_first = 0;  // first flows in
    Duration fed;               // the last of those arrived
    Duration last;
  };
  std::vector<Member> members_;
};

// Capacities of the members' ports, bytes per picosecond.
struct ExchangePorts {
  struct Member {
    double node_out = 0, node_in = 0, network_out = 0, network_in = 0;
    bool operator==(const Member&) const = default;
  };
  std::vector<Member> members;
  bool operator==(const ExchangePorts&) const = default;
};

// The exchange when nothing else uses its links: a function of its arguments alone, so that equal
// exchanges may share one answer.
class LoneExchange {
 public:
  // Both must outlive this. carried: is told what each port carries when; port: 4 x member, plus
  // the place in ExchangePorts::Member.
  LoneExchange(const ExchangeShape& shape,
               const ExchangePorts& ports,
               LinkMeter::Carried carried = {});
  LoneExchange(const LoneExchange&) = delete;  // the meter is called through it
  LoneExchange& operator=(const LoneExchange&) = delete;
  // The same over links that `sharing` already has.
  using UsesOf = std::function<std::vector<Use>(const ExchangeShape::Flow&)>;
  LoneExchange(const ExchangeShape& shape, Sharing sharing, const UsesOf& uses_of);
  // When each member ends.
  std::vector<Duration> ends();
  // Runs until `now`, and not what ends then.
  void run_until(Duration now);
  const ExchangeRun& run() const { return run_; }
  // Members whose ends are known by then.
  const ExchangeRun::Ends& known_ends() const { return ends_; }
  // Bytes that flow `f` has left; nothing when it has ended.
  std::optional<double> remaining(size_t f, Duration now) const;

 private:
  void start(const UsesOf& uses_of);
  void run_to(int64_t end);

  const ExchangeShape& shape_;
  Sharing sharing_;
  std::optional<LinkMeter> meter_;
  EventQueue queue_;
  ExchangeRun run_;
  ExchangeRun::Ends ends_;
  std::vector<ActivityId> activities_;  // by flow
  std::vector<char> ended_;
};

}  // namespace rehearse
