#pragma once
// Cores behind lanes whose work is done late: what a card's streams and events ask of the runtime,
// tried without one. One thread enqueues all local ranks.

#include <chrono>
#include <deque>

#include "runtime/communicators/exchange.h"
#include "runtime/devices/cpu/cpu_device.h"
#include "runtime/devices/late/late_compute.h"
#include "runtime/devices/null/null_device.h"

namespace rehearse {

struct LateOptions {
  uint64_t seed = 0;  // of the order; odd: work begins while more is enqueued
  double room = 1;    // for rows of experts, in choices of all tokens that may come
  LateFaults faults = {};
};

// Collectives of the plan's communicator, each done when all members' lanes have come to it.
class LateLanes : public NullLanes {
 public:
  LateLanes(LaneQueue& queue, Communicator& communicator, BufferPool& scratch)
      : queue_(queue), communicator_(communicator), blocking_(communicator), scratch_(scratch) {}

  void send(int64_t from, int64_t to, uint64_t tag, const ConstArray& data) override {
    queue_.enqueue({data}, {}, [=, this] { under_way_[{from, to, tag}].push_back(Message(data)); });
  }
  void recv(int64_t from, int64_t to, uint64_t tag, const Array& data, const Ready&) override {
    queue_.enqueue({}, {data}, [=, this] {
      auto& sent = under_way_[{from, to, tag}];
      if (sent.empty()) throw ScheduleError("a message is taken before it is sent");
      copy(sent.front().array(), data);
      sent.pop_front();
    });
  }
  void reduce_scatter(const Collective& c, int64_t rank, const Array& x, const Ready&) override {
    together(c, {}, {x}, [=, this](const Collective& all) {
      blocking_.reduce_scatter(all, rank, x, [] {});
    });
  }
  void all_gather(const Collective& c, int64_t rank, const Array& x, const Ready&) override {
    together(c, {}, {x}, [=, this](const Collective& all) {
      blocking_.all_gather(all, rank, x, [] {});
    });
  }
  void all_reduce(const Collective& c, int64_t rank, const Array& x, const Ready&) override {
    together(c, {}, {x}, [=, this](const Collective& all) {
      blocking_.all_reduce(all, rank, x, [] {});
    });
  }
  void sum(const Collective& c, int64_t rank, const Array& x, const Ready&) override {
    together(c, {}, {x}, [=, this](const Collective& all) { blocking_.sum(all, rank, x, [] {}); });
  }
  Arrived dispatch(const ExchangeOp& op,
                   const ConstArray& x,
                   const ConstArray& slots,
                   const ConstArray& weights,
                   std::unique_ptr<Routes>& routes) override {
    Arrived room = NullLanes::dispatch(op, x, slots, weights, routes);
    auto way = std::make_unique<Way>(x.extent.rows, communicator_);
    exchange(op,
             {x, slots, weights},
             {room.x, room.slots, room.weights},
             [=,
              exchange = way->exchange,
              to_x = room.x.array(),
              to_slots = room.slots.array(),
              to_weights = room.weights.array()](const ExchangeOp& own) {
               Arrived came = exchange->dispatch(own, x, slots, weights);
               put_rows(came.x, to_x);
               put_rows(came.weights, to_weights);
               std::fill_n(to_slots.int32(), to_slots.extent.size(), -1);
               put_rows(came.slots, to_slots);
             });
    routes = std::move(way);
    return room;
  }
  Tensor spread(const ExchangeOp& op, const Routes& routes, const ConstArray& x) override {
    Tensor room = NullLanes::spread(op, routes, x);
    exchange(op,
             {x},
             {room},
             [=, exchange = exchange_of(routes), to = room.array()](const ExchangeOp& own) {
               put_rows(exchange->spread(own, x), to);
             });
    return room;
  }
  Tensor reduce(const ExchangeOp& op,
                const Routes& routes,
                const ConstArray& partial,
                DType type,
                int64_t exact) override {
    Tensor room = NullLanes::reduce(op, routes, partial, type, exact);
    exchange(op,
             {partial},
             {room},
             [=, exchange = exchange_of(routes), to = room.array()](const ExchangeOp& own) {
               put_rows(exchange->reduce(own, partial, type, exact), to);
             });
    return room;
  }

  void set_lane(Lane lane) { lane_ = lane; }

 private:
  struct Way : Tokens {
    Way(int64_t n, Communicator& c) : Tokens(n), exchange(std::make_shared<Exchange>(c)) {}
    std::shared_ptr<Exchange> exchange;
  };
  static std::shared_ptr<Exchange> exchange_of(const Routes& routes) {
    return dynamic_cast<const Way&>(routes).exchange;
  }
  // The first rows, of which the others are nobody's.
  static void put_rows(const ConstArray& from, const Array& to) {
    CHECK(from.extent.rows <= to.extent.rows) << "more rows than could come";
    copy(from, rows_of(to, 0, from.extent.rows));
  }
  LaneQueue::Meeting meeting(std::span<const int64_t> ranks, uint64_t key) const {
    LaneQueue::Meeting m{.key = key, .lanes = {}};
    for (const int64_t rank : ranks) {
      m.lanes.push_back(static_cast<int32_t>(rank * kLanes) + static_cast<int32_t>(lane_));
    }
    return m;
  }
  template <typename F>
  void together(const Collective& c,
                std::vector<ConstArray> reads,
                std::vector<Array> writes,
                F f) {
    const std::vector<int64_t> members(c.members.begin(), c.members.end());
    queue_.meet(
        meeting(members, c.key), std::move(reads), std::move(writes), [members, key = c.key, f] {
          f({members, key});
        });
  }
  template <typename F>
  void exchange(const ExchangeOp& op,
                std::vector<ConstArray> reads,
                std::vector<Array> writes,
                F f) {
    queue_.meet(meeting(op.group.ranks, op.key),
                std::move(reads),
                std::move(writes),
                [this, &group = op.group, key = op.key, f] {
                  const Ready nobody = [] {};
                  f({group, scratch_, key, nobody});
                });
  }

  LaneQueue& queue_;
  Communicator& communicator_;
  HostLanes blocking_;
  BufferPool& scratch_;
  std::map<std::tuple<int64_t, int64_t, uint64_t>, std::deque<Message>> under_way_;
  Lane lane_ = Lane::kCompute;
};

class LateDevice : public TrainingDevice {
 public:
  LateDevice(const Plan& plan, Communicator& communicator, LateOptions options)
      : options_(options),
        room_(options.room),
        communicator_(communicator),
        queue_(static_cast<int32_t>(plan.layout.world() * kLanes), options.seed, options.faults),
        rope_(rope_table(plan)),
        cores_(scratch_, rope_, recipe_of(plan.training).accumulation),
        lanes_(queue_, communicator, scratch_),
        random_(options.seed) {
    for (int64_t r = 0; r < plan.layout.world(); ++r) ranks_.emplace_back(*this);
  }

  BufferPool& pool(int64_t rank) override { return ranks_[static_cast<size_t>(rank)].pool; }
  const Compute& compute(int64_t rank) override {
    return ranks_[static_cast<size_t>(rank)].compute;
  }
  LaneCommunicator& lanes() override { return lanes_; }
  Enqueuing enqueuing() const override { return Enqueuing::kOneThread; }
  void abort() override { communicator_.abort(); }

  void begin_step() override { step_begin_ = Clock::now(); }
  void wait(const OpAt& at, int64_t rank, OpId dependency) override {
    queue_.wait(lane_of(at, rank), dependency, to_string(at.op));
  }
  void begin(const OpAt& at, int64_t rank) override {
    lanes_.set_lane(at.op.lane);
    queue_.begin(
        lane_of(at, rank), to_string(at.op), [this, id = at.id] { spans_[id].begin = now(); });
  }
  void end(const OpAt& at, int64_t, const std::function<MemberLoad()>&) override {
    queue_.enqueue({}, {}, [this, id = at.id] { spans_[id].end = now(); });
    queue_.record(at.id);
    if (options_.seed % 2 == 1) queue_.run_some(static_cast<int64_t>(random_.next() % 8));
  }
  void end_step(Timeline& timeline) override {
    waits_ = queue_.waits();
    queue_.run_all();
    for (const auto& [id, span] : spans_) timeline.spans[static_cast<size_t>(id)] = span;
    spans_.clear();
  }
  void make_room() override {
    CHECK(room_ < 1) << "there is room for all choices";
    room_ = std::min(1.0, 2 * room_);
    ++grown_;
  }

  int64_t waits() const { return waits_; }  // of the last step, that made a difference
  int64_t grown() const { return grown_; }

 private:
  using Clock = std::chrono::steady_clock;
  struct Rank {
    explicit Rank(LateDevice& d)
        : pool(host_memory(), &d.queue_), compute(pool, d.queue_, d.cores_, d.room_) {}
    BufferPool pool;
    LateCompute compute;
  };
  static int32_t lane_of(const OpAt& at, int64_t rank) {
    return static_cast<int32_t>(rank * kLanes) + static_cast<int32_t>(at.op.lane);
  }
  Duration now() const {
    return Duration::nanoseconds(
        std::chrono::duration_cast<std::chrono::nanoseconds>(Clock::now() - step_begin_).count());
  }

  LateOptions options_;
  double room_;
  Communicator& communicator_;
  LaneQueue queue_;
  BufferPool scratch_;
  kernels::RopeTable rope_;
  CpuCompute cores_;
  LateLanes lanes_;
  Random random_;
  std::deque<Rank> ranks_;
  std::map<OpId, Span> spans_;
  Clock::time_point step_begin_;
  int64_t waits_ = 0;
  int64_t grown_ = 0;
};

}  // namespace rehearse
