#pragma once
// What ops do to the clock when this project's runtime executes them, on cores or on emulated
// devices.

#include <optional>
#include <unordered_map>
#include <vector>

#include "sim/engine/walk.h"
#include "sim/expert_load.h"
#include "sim/network/network.h"
#include "sim/price/op_costs.h"

namespace rehearse {

// Ops as the runtime of this project runs them, on cores or on emulated devices: computation takes
// a core and memory bandwidth (or a device of its own), messages take links. All-to-alls go in two
// phases, each rank's messages as soon as it has made them.
class HostWork {
 public:
  static constexpr bool kSpanHoldsWaiting = false;

  HostWork(const Plan& plan,
           const Program& program,
           const OpCosts& costs,
           ExpertLoad& load,
           Clock& clock);

  Duration start_delay(OpId id, bool woken) const { return woken ? wake(id) : overheads_.op_start; }
  // Ranks that wait for an all-to-all are woken by its messages, not by its beginning.
  Duration meeting_delay(OpId id) const {
    return is_exchange(program_.op(id)) ? Duration() : overheads_.collective;
  }

  // A rank's tokens leave when it has made its messages, whether or not the others have come.
  void shrink() {}
  bool pack(OpId id);

  void begin(OpId id);

  void event(uint64_t payload);

 private:
  enum class Event : uint8_t {
    kOpDone,
    kPacked,
    kForwarded,
    kWoken,
    kSent,
    kArrived,
    kBegun,
    kWorked
  };

  // A transfer under way and the op it belongs to: the sender's of a pipeline message or ring, the
  // receiver's of an all-to-all.
  struct Message {
    OpId op = 0;
    std::optional<int> phase;  // of an all-to-all
    Duration latency;
  };

  // Work that a core does for an emulated device, which is held until then at least.
  struct HeldWork {
    OpId op = 0;
    Event then = Event::kOpDone;
    Duration until;
  };

  // One rank's part of an all-to-all: a phase ends when all its messages have come, and the second
  // one's leave when the first has ended and the rank has made them, though others of the group may
  // not have come yet. The op ends when they have.
  struct ExchangePart {
    bool packed = false;  // its own first messages have left
    bool begun = false;   // all members have come
    bool waiting = true;  // for the messages of `phase`, since `since`
    int phase = 0;
    int64_t missing[2] = {0, 0};
    Duration since;
  };

  static_assert(static_cast<int>(Event::kWorked) < 1 << payload::kKindBits);
  static uint64_t payload_of(OpId id, Event kind) {
    return payload::of_work(kind, static_cast<uint64_t>(id));
  }

  // On devices of their own, ranks without links between them exchange tokens at no more than the
  // cost of their work.
  bool is_exchange(const Op& op) const {
    return op.group == Group::kExpertParallel && is_all_to_all(op.kind) &&
           (plan_.cluster.linked() || on_cores());
  }
  void wait(Duration length, uint64_t event) {
    Sharing::wait(clock_.now, length, clock_.queue, event);
  }
  bool on_cores() const { return plan_.cluster.on_cores(); }

  size_t machine_of(OpId id) const {
    if (plan_.cluster.on_host || plan_.cluster.emulated()) return 0;
    return static_cast<size_t>(plan_.cluster.node_of(program_.global_rank(id)));
  }
  int64_t member_of(OpId id) const { return plan_.layout.expert_index_of(program_.data_rank(id)); }
  const OpCost& cost_of(OpId id) const;
  const GroupLoad& load_of(OpId id) const;

  Duration message_delay(OpId id) const {
    if (!on_cores()) return {};
    const bool busy = working_[machine_of(id)] >= plan_.cluster.cores;
    return busy ? overheads_.message_busy : overheads_.message_idle;
  }

  // Until a sleeping lane runs: longer where its core has gone to sleep too.
  Duration wake(OpId id) const;

  // Local work, then `then`. On devices other than cores, messages and exchanges are made by the
  // hardware that moves them. An emulated device is held until its time has passed.
  void compute(OpId id, const LocalCost& cost, Event then);
  void left_core(OpId id) {
    if (on_cores()) --working_[machine_of(id)];
  }

  // The op's message over its link; where there is none, the work on it follows at once.
  void send_message(OpId id);

  // The message's slot; free again when it has arrived.
  OpId keep(const Message& message);

  void travel(const Network::Route& route, Bytes size, Message message);

  // Of a pipeline message, or of a ring's step; nothing for ops that send none.
  std::optional<Network::Route> message_route(OpId id) const;

  // Dispatch goes across nodes, then within; combine within, then across, backwards.
  struct PhaseFlows {
    const std::vector<ExchangeFlow>& flows;
    bool backwards;
  };
  PhaseFlows phase_flows(OpId id, int phase) const;

  ExchangePart& part_of(OpId id);

  void send_phase(OpId id, int phase);

  // A ring goes round as fast as its slowest link; then all members work on what they have.
  void ring_step_arrived(OpId id);

  void arrived(OpId id, int phase);

  // Goes on when the messages of the phase are there; a rank that slept until then wakes first.
  void proceed(OpId id);

  void first_phase(OpId id);
  void second_phase(OpId id);

  const Plan& plan_;
  const Program& program_;
  const OpCosts& costs_;
  Clock& clock_;
  Overheads overheads_;
  ExpertLoad& load_;
  mutable std::unordered_map<OpId, OpCost> own_costs_;  // where loads vary; never iterated
  Network network_;
  // Per machine of cores; one where cores emulate devices and are not always fast enough.
  std::vector<ResourceId> cores_, memory_;
  std::vector<int64_t> working_;  // likewise: ops that have a core or wait for one
  std::vector<Message> messages_;
  std::vector<size_t> free_messages_;
  std::vector<HeldWork> held_;
  std::vector<size_t> free_held_;
  std::unordered_map<OpId, ExchangePart> exchanges_;  // under way; never iterated
  std::unordered_map<OpId, size_t> rings_;            // members whose step arrived, likewise
};

}  // namespace rehearse
