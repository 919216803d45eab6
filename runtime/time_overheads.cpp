#include "runtime/time_overheads.h"

#include <algorithm>
#include <array>
#include <atomic>
#include <chrono>
#include <optional>
#include <thread>
#include <utility>
#include <vector>

#include "plan/plan.h"
#include "runtime/communicators/local/local_communicator.h"
#include "runtime/run.h"

namespace rehearse {
namespace {

using Clock = std::chrono::steady_clock;

// As long as an op of a training step: long enough for a waiting thread to fall asleep and for an
// idle core to be halted.
const Duration kWork = Duration::microseconds(500);

void work(Duration d) {
  const auto end = Clock::now() + std::chrono::nanoseconds(d.picoseconds() / 1000);
  while (Clock::now() < end) {
  }
}

Duration median(std::vector<Duration> values) {
  CHECK(!values.empty()) << "no sample";
  const auto middle = values.begin() + static_cast<std::ptrdiff_t>(values.size() / 2);
  std::nth_element(values.begin(), middle, values.end());
  return *middle;
}

// Every op works for kWork and nothing else, whatever it is.
class WorkingDevice : public Device {
 public:
  void enqueue(const OpAt&, const std::function<void()>&) override { work(kWork); }
  void abort() override {}
};

// One rank whose compute and a2a lanes take turns: attn, dispatch, mlp, combine of MoE layers.
Plan taking_turns() {
  Plan plan;
  plan.path = "overheads";
  plan.model.architecture = {.vocabulary = 2,
                             .hidden = 2,
                             .layers = 2,
                             .experts = 2,
                             .active_experts = 1,
                             .groups = 1,
                             .kept_groups = 1};
  plan.cluster = {.name = "here"};
  plan.training.micro_batches = 16;
  plan.layout.layers_per_stage = {2};
  return plan;
}

struct LaneGaps {
  std::vector<Duration> same, other;  // before ops that follow their own lane, or wait for another
};

void add_gaps(const Program& program, const Timeline& timeline, LaneGaps& gaps) {
  std::array<std::optional<int32_t>, kLanes> previous;
  for (const Op& op : program.ops()) {
    const Span& span = timeline.spans[static_cast<size_t>(op.id)];
    const auto before = std::exchange(previous[static_cast<size_t>(op.lane)], op.id);
    Duration from_other, from_same;
    for (const int32_t d : program.dependencies(op.id)) {
      const Lane lane = program.ops()[static_cast<size_t>(d)].lane;
      if (lane != op.lane) {
        from_other = std::max(from_other, timeline.spans[static_cast<size_t>(d)].end);
      }
    }
    if (before) from_same = timeline.spans[static_cast<size_t>(*before)].end;
    const Duration ready = std::max(from_other, from_same);
    if (ready == Duration()) continue;
    (from_same >= from_other ? gaps.same : gaps.other).push_back(span.begin - ready);
  }
}

LaneGaps lane_gaps() {
  const Plan plan = taking_turns();
  const Program program = build_program(plan);
  WorkingDevice device;
  Workers workers(program, device);
  LaneGaps gaps;
  constexpr int kSteps = 3;  // of some hundred gaps of either kind each
  for (int i = 0; i < kSteps; ++i) add_gaps(program, workers.run_step(), gaps);
  return gaps;
}

// Ranks that come to a barrier one after the other, from the last one's arrival to each one's
// leaving.
Duration collective_latency(int64_t ranks) {
  constexpr int64_t kRounds = 100;  // of some kWork each: 0.1 s in all
  LocalCommunicator communicator(ranks);
  std::vector<int64_t> members;
  for (int64_t r = 0; r < ranks; ++r) members.push_back(r);
  const auto count = static_cast<size_t>(ranks);
  std::vector<std::vector<Clock::time_point>> arrived(count), left(count);
  std::vector<std::thread> threads;
  for (int64_t r = 0; r < ranks; ++r) {
    threads.emplace_back([&, r] {
      for (int64_t i = 0; i < kRounds; ++i) {
        // Everybody is the last one in turn.
        work(kWork * ((r + i) % ranks == 0 ? 2 : 1));
        arrived[static_cast<size_t>(r)].push_back(Clock::now());
        communicator.barrier({members, static_cast<uint64_t>(2 * i)}, r, [] {});
        left[static_cast<size_t>(r)].push_back(Clock::now());
      }
    });
  }
  for (std::thread& t : threads) t.join();
  std::vector<Duration> latencies;
  for (size_t i = 0; i < static_cast<size_t>(kRounds); ++i) {
    Clock::time_point last{};
    for (size_t r = 0; r < count; ++r) last = std::max(last, arrived[r][i]);
    for (size_t r = 0; r < count; ++r) {
      latencies.push_back(Duration::nanoseconds(
          std::chrono::duration_cast<std::chrono::nanoseconds>(left[r][i] - last).count()));
    }
  }
  return median(std::move(latencies));
}

// How much later than its link allows a message is in the receiver's hands, `hogs` threads working
// beside: the mean, since where no core is free a few wait for a time slice.
Duration message_latency(int64_t hogs) {
  constexpr int kMessages = 200;  // enough for the mean to meet some waits for a time slice
  const Duration latency = Duration::microseconds(200);  // longer than a thread takes to wake
  const Cluster cluster{
      .name = "here", .devices_per_node = 2, .node_link = Link{BytesPerSecond(1e12), latency}};
  LocalCommunicator communicator(2, std::make_unique<LinkShaper>(cluster, 2));
  std::atomic<bool> stop = false;
  std::vector<std::thread> others;
  for (int64_t i = 0; i < hogs; ++i) {
    others.emplace_back([&] {
      while (!stop) work(kWork);
    });
  }
  std::vector<Clock::time_point> sent, received;
  std::thread receiver([&] {
    std::vector<float> data(64);
    for (int i = 0; i < kMessages; ++i) {
      communicator.recv(0, 1, static_cast<uint64_t>(i), data, [] {});
      received.push_back(Clock::now());
    }
  });
  const std::vector<float> data(64);
  for (int i = 0; i < kMessages; ++i) {
    work(kWork);
    sent.push_back(Clock::now());
    communicator.send(0, 1, static_cast<uint64_t>(i), data);
  }
  receiver.join();
  stop = true;
  for (std::thread& t : others) t.join();
  Duration sum;
  for (size_t i = 0; i < sent.size(); ++i) {
    sum +=
        Duration::nanoseconds(
            std::chrono::duration_cast<std::chrono::nanoseconds>(received[i] - sent[i]).count()) -
        latency;
  }
  return Duration::picoseconds(sum.picoseconds() / kMessages);
}

}  // namespace

Overheads time_overheads(int64_t cores) {
  const LaneGaps idle = lane_gaps();
  std::atomic<bool> stop = false;
  std::vector<std::thread> hogs;
  for (int64_t c = 1; c < cores; ++c) {
    hogs.emplace_back([&] {
      while (!stop) work(kWork);
    });
  }
  const LaneGaps busy = lane_gaps();
  stop = true;
  for (std::thread& t : hogs) t.join();
  return {.op_start = median(idle.same),
          .wake_idle = median(idle.other),
          .wake_busy = median(busy.other),
          .message_idle = message_latency(0),
          .message_busy = message_latency(cores),
          .collective = collective_latency(std::max<int64_t>(2, std::min<int64_t>(cores, 8)))};
}

}  // namespace rehearse
