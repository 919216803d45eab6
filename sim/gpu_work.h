#pragma once
// What ops do to the clock on a cluster of GPUs: computation takes a device, slowed while
// communication kernels hold some of its SMs and memory bandwidth; all-to-alls, pipeline messages
// and gradient reductions share NVLink and the network.

#include <array>
#include <map>
#include <memory>
#include <optional>
#include <tuple>
#include <vector>

#include "sim/engine/walk.h"
#include "sim/gpu_world.h"

namespace rehearse {

class GpuWork {
 public:
  static constexpr bool kSpanHoldsWaiting = true;

  // first, count: the island's data ranks.
  GpuWork(GpuWorld& world, const ExpertLoad& load, Clock& clock, int32_t first, int32_t count);

  Duration start_delay(OpId, bool) const { return {}; }
  Duration meeting_delay(OpId) const { return {}; }
  void shrink() {
    answers_.clear();
    bundles_.clear();
  }
  bool pack(OpId id);
  void begin(OpId id);
  void event(uint64_t payload);

  // ExchangeCounts of this island.
  int64_t lone() const { return lone_; }
  int64_t remembered() const { return remembered_; }
  int64_t disturbed() const { return disturbed_; }

 private:
  enum class Event : uint8_t {
    kEnded,         // op
    kComputed,      // rank index, generation
    kSent,          // op: the last byte has left
    kExchangeEnds,  // slot, generation: one or more members
    kExchangeFlow,  // slot, flow
    kPart,          // op: a part of its collective
    kTransferred,   // transfer, generation: a lone one
    kSharedEnds,    // slot, generation: a lone collective of shared work
    kSharedFlow,    // slot: a flow of one whose links others use too
  };
  static_assert(static_cast<int>(Event::kSharedFlow) < 1 << payload::kKindBits);
  static uint64_t payload_of(Event kind, OpId op) {
    return payload::of_work(kind, static_cast<uint64_t>(op));
  }
  static uint64_t payload_of(Event kind, size_t high, size_t low) {
    return payload::of_work(kind, high, low);
  }

  // A rank's device.
  struct Device {
    OpId op = 0;
    bool busy = false;
    int32_t communicating = 0;   // kernels that hold SMs
    Exact left = 0;              // of the op, picoseconds at full speed
    Exact beside = to_exact(1);  // its speed beside communication
    int64_t since = 0;
    uint32_t generation = 0;
    std::optional<int32_t> exchange;  // slot of the lone exchange that its links carry
    // Slots of lone collectives of shared work that its links carry: one per lane at most.
    std::array<std::optional<int32_t>, 3> shared;
  };
  // What a port of an exchange's member carries, from and to times since its begin.
  struct Piece {
    int32_t member = 0;
    LinkKind kind = LinkKind::kNodeOut;
    Duration begin, end;
    double bytes = 0;
  };
  // Flows of an exchange between ranks that go in step: one activity that uses the links of all.
  struct Bundle {
    std::vector<size_t> flows;
    Bytes bytes;  // of each
    std::vector<Use> uses;
  };
  struct Exchange {
    bool active = false;
    bool live = false;  // its flows share links with others'
    OpId op = 0;        // of member 0
    uint32_t generation = 0;
    Duration begin;
    int32_t missing = 0;  // members that have not ended
    std::shared_ptr<const ExchangeShape> shape;
    std::shared_ptr<const std::vector<Duration>> ends;  // of a lone one, by member
    const ExchangePorts* ports = nullptr;
    std::optional<ExchangeRun> run;  // of a live one
    std::vector<char> ended;         // by member
    std::shared_ptr<std::vector<Piece>> pieces;
    std::shared_ptr<const std::vector<Bundle>> bundles;
    std::vector<std::pair<ActivityId, uint64_t>> bundled;  // by bundle: activity, sequence number
  };
  // A collective of ranks that share matrices or a sequence, within the island: while nothing else
  // uses its members' ports, a matter of arithmetic.
  struct Shared {
    bool active = false, live = false;
    OpId op = 0;  // of member 0
    uint32_t generation = 0;
    RankGroup group;
    Duration begin;
    Duration carried;     // what its links take, alone
    Duration latency;     // of all steps
    Bytes node, network;  // that every member sends
    int32_t missing = 0;  // flows
  };
  // A rank's part of a collective over one kind of link, while nothing else uses the rank's ports
  // of that kind.
  struct Transfer {
    OpId op = 0;
    double bytes = 0;
    int64_t begin = 0;  // picoseconds
    uint32_t generation = 0;
    bool active = false;
  };
  // load, dispatch, bytes, links, slowdown, preparation
  using ShapeKey = std::tuple<int64_t, bool, int64_t, int32_t, int64_t, int64_t>;
  struct Answer {
    std::shared_ptr<const ExchangeShape> shape;
    std::shared_ptr<const std::vector<Duration>> ends;
    std::shared_ptr<std::vector<Piece>> pieces;  // of a lone one; filled when load is wanted of it
  };

  int64_t rank_of(OpId id) const { return world_.program.global_rank(id); }
  Device& device_of(int64_t rank) { return devices_[block_.index(rank)]; }
  int64_t member_of(OpId id) const {
    return world_.layout().expert_index_of(world_.program.data_rank(id));
  }
  int32_t group_of(OpId id) const {
    return static_cast<int32_t>(world_.layout().expert_group_of(world_.program.data_rank(id)));
  }
  bool is_exchange(const Op& op) const {
    return op.group == Group::kExpertParallel && is_all_to_all(op.kind);
  }
  void wait(Duration length, uint64_t event) {
    Sharing::wait(clock_.now, length, clock_.queue, event);
  }
  // What takes `time` on a device as stated, on this rank's.
  Duration at_speed(Duration time, int64_t rank) const {
    const double speed = world_.plan.cluster.speed(rank);
    return speed == 1 ? time : Duration::seconds(time.seconds() / speed);
  }
  Exact speed(const Device& d) const { return d.communicating > 0 ? d.beside : to_exact(1); }

  void compute(OpId id);
  void schedule(Device& d, size_t index);
  void communicate(int64_t rank, int32_t change);
  LocalCost local_cost(OpId id);
  void send(OpId id);
  ActivityId start(double work, std::span<const Use> uses, uint64_t payload);
  void record(int64_t rank, bool across, Duration begin, Duration end, double bytes);
  void start_flow(OpId id, int64_t from, int64_t to, Bytes bytes, Event then);
  void use_links(int64_t rank, bool node = true, bool network = true);

  void begin_exchange(OpId id);
  bool links_idle(OpId first, int32_t members);
  void go_live(int32_t slot);
  void start_live(int32_t slot, const LoneExchange* so_far);
  void flow_ended(int32_t slot, size_t flow);
  std::vector<Use> uses_of(const Exchange& x, const ExchangeShape::Flow& f) const;
  std::shared_ptr<const std::vector<Bundle>> bundles_of(const Exchange& x) const;
  void start_bundles(int32_t slot);
  void fall_out_of_step(int32_t pp_rank);
  void schedule_ends(int32_t slot, const ExchangeRun::Ends& ends);
  void end_member(int32_t slot, int32_t member);
  void record_lone(const Exchange& x);
  void record_pieces(const Exchange& x, const std::vector<Piece>& pieces);
  bool wants_load(const Exchange& x) const;
  LinkMeter::Carried pieces_into(std::vector<Piece>& pieces) const;
  OpId member_op(const Exchange& x, int32_t member) const;

  void begin_shared(OpId id, const RankGroup& group);
  bool shared_uses(const Shared& s, bool node, bool network) const {
    return (node && s.node > Bytes()) || (network && s.network > Bytes());
  }
  int32_t shared_members(const Shared& s) const {
    return count_ == 1 ? 1 : static_cast<int32_t>(s.group.size);
  }
  OpId shared_op(const Shared& s, int32_t member) const;
  void share_links(int32_t slot);
  void shared_flow_ended(int32_t slot);
  void end_shared(int32_t slot);
  void record_shared(const Shared& s);

  GpuWorld::Collective plan_of(OpId id) const;
  void begin_collective(OpId id);
  const Network::Ports& transfer_ports(size_t transfer) const;
  void transfer(OpId id, size_t transfer, Bytes bytes);
  void share_transfer(size_t transfer);
  void part_ended(OpId id);
  int64_t collective_key(OpId id) const;

  GpuWorld& world_;
  ExpertLoad load_;
  Clock& clock_;
  int32_t count_;          // data ranks of the island
  int32_t group_members_;  // simulated, of each EP group
  RankBlock block_;
  Network network_;
  std::vector<Device> devices_;
  std::vector<Transfer> transfers_;  // by rank index x (node, network); none before the first
  std::vector<Exchange> exchanges_;
  std::vector<int32_t> free_exchanges_;
  std::vector<Shared> shared_;
  std::vector<int32_t> free_shared_;
  std::map<ShapeKey, Answer> answers_;
  ExchangeRun::Ends ends_;
  // By key, pipeline rank and group.
  std::map<std::tuple<ShapeKey, int32_t, int32_t>, std::shared_ptr<const std::vector<Bundle>>>
      bundles_;
  std::vector<char> out_of_step_;   // by pipeline rank: ranks in step no longer are
  std::optional<LinkMeter> meter_;  // where load is wanted of some rank
  int64_t lone_ = 0, remembered_ = 0, disturbed_ = 0;
};

}  // namespace rehearse
