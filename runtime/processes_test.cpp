// Ranks spread over processes. Two Trainers, each with half of the ranks and a thread of its own,
// stand for two processes: they share nothing but a communicator, whose messages go through one
// LocalCommunicator. What they end with must have the same bits as one process with all ranks.

#include <array>
#include <condition_variable>
#include <mutex>
#include <thread>

#include <gtest/gtest.h>

#include "plan/testing.h"
#include "runtime/testing.h"
#include "runtime/train.h"

namespace rehearse {
namespace {

constexpr size_t kProcesses = 2;

// What joins the processes.
class World {
 public:
  explicit World(int64_t ranks) : messages(ranks) {}

  // The sums over processes, in their order.
  template <typename T>
  void sum(size_t process, std::span<T> values) {
    std::unique_lock lock(mutex_);
    auto& brought = std::get<std::array<std::vector<T>, kProcesses>>(brought_);
    changed_.wait(lock, [&] { return aborted_ || !leaving_; });
    brought[process].assign(values.begin(), values.end());
    if (++inside_ == kProcesses) leaving_ = true;
    changed_.notify_all();
    changed_.wait(lock, [&] { return aborted_ || leaving_; });
    if (aborted_) throw RunAborted();
    std::fill(values.begin(), values.end(), T{});
    for (const std::vector<T>& theirs : brought) {
      ASSERT_EQ(theirs.size(), values.size());
      for (size_t i = 0; i < values.size(); ++i) values[i] += theirs[i];
    }
    if (--inside_ == 0) leaving_ = false;
    changed_.notify_all();
  }

  void abort() {
    messages.abort();
    const std::lock_guard lock(mutex_);
    aborted_ = true;
    changed_.notify_all();
  }

  LocalCommunicator messages;

 private:
  std::mutex mutex_;
  std::condition_variable changed_;
  std::tuple<std::array<std::vector<double>, kProcesses>,
             std::array<std::vector<int64_t>, kProcesses>>
      brought_;
  size_t inside_ = 0;
  bool leaving_ = false;
  bool aborted_ = false;
};

// A process's view of the world: its ranks alone may speak.
class ProcessCommunicator : public Communicator {
 public:
  ProcessCommunicator(World& world, size_t process, std::vector<int64_t> ranks)
      : world_(world), process_(process), ranks_(std::move(ranks)) {}

  std::span<const int64_t> local_ranks() const override { return ranks_; }
  void send(int64_t from, int64_t to, uint64_t tag, const ConstArray& data) override {
    mine(from).send(from, to, tag, data);
  }
  void recv(
      int64_t from, int64_t to, uint64_t tag, const Array& data, const Ready& ready) override {
    mine(to).recv(from, to, tag, data, ready);
  }
  void reduce_scatter(const Collective& c,
                      int64_t rank,
                      const Array& data,
                      const Ready& ready) override {
    mine(rank).reduce_scatter(c, rank, data, ready);
  }
  void all_gather(const Collective& c,
                  int64_t rank,
                  const Array& data,
                  const Ready& ready) override {
    mine(rank).all_gather(c, rank, data, ready);
  }
  void all_reduce(const Collective& c,
                  int64_t rank,
                  const Array& data,
                  const Ready& ready) override {
    mine(rank).all_reduce(c, rank, data, ready);
  }
  void barrier(const Collective& c, int64_t rank, const Ready& ready) override {
    mine(rank).barrier(c, rank, ready);
  }
  std::vector<Message> all_to_all(const Collective& c,
                                  int64_t rank,
                                  std::vector<Message> outgoing,
                                  const Ready& ready) override {
    return mine(rank).all_to_all(c, rank, std::move(outgoing), ready);
  }
  void sum(const Collective& c,
           int64_t rank,
           std::span<double> values,
           const Ready& ready) override {
    mine(rank).sum(c, rank, values, ready);
  }
  void sum(const Collective& c,
           int64_t rank,
           std::span<int64_t> values,
           const Ready& ready) override {
    mine(rank).sum(c, rank, values, ready);
  }
  void sum_over_processes(std::span<double> values) override { world_.sum(process_, values); }
  void sum_over_processes(std::span<int64_t> values) override { world_.sum(process_, values); }
  void abort() override { world_.abort(); }

 private:
  LocalCommunicator& mine(int64_t rank) {
    CHECK(std::find(ranks_.begin(), ranks_.end(), rank) != ranks_.end())
        << "process " << process_ << " speaks for rank " << rank;
    return world_.messages;
  }

  World& world_;
  size_t process_;
  std::vector<int64_t> ranks_;
};

using Partition = std::array<std::vector<int64_t>, kProcesses>;

using Timeouts = std::array<Duration, kProcesses>;

// Runs work(process, trainer) on a thread per process, each with a Trainer of its ranks.
void on_processes(const Plan& plan,
                  const Partition& ranks,
                  const std::function<void(size_t, Trainer&)>& work,
                  const Timeouts& timeouts = {kDefaultHangTimeout, kDefaultHangTimeout}) {
  World world(plan.layout.world());
  std::vector<std::thread> threads;
  for (size_t p = 0; p < kProcesses; ++p) {
    threads.emplace_back([&, p] {
      Trainer trainer(plan,
                      test_text_path(),
                      {.communicator = std::make_unique<ProcessCommunicator>(world, p, ranks[p]),
                       .hang_timeout = timeouts[p]});
      work(p, trainer);
    });
  }
  for (std::thread& t : threads) t.join();
}

using Weights = std::vector<float>;

Weights weights_of(Trainer& trainer, int64_t rank) {
  Weights all;
  const Layout& l = trainer.program().layout();
  const Place p = l.place_of(rank);
  for (int32_t slot = 0; slot < l.slots(); ++slot) {
    Stage& s = trainer.ranks().stage(p.pp_rank, p.data_rank, slot);
    for (const Arena arena : {Arena::kDense, Arena::kExpert}) {
      const FlatValues& held = s.weights.arena(arena);
      const std::vector<float> values = held.get(0, held.size());
      all.insert(all.end(), values.begin(), values.end());
    }
    for (const FlatValues& held : s.expert_bias) {
      const std::vector<float> bias = held.get(0, held.size());
      all.insert(all.end(), bias.begin(), bias.end());
    }
  }
  return all;
}

// What a training leaves behind, as one process knows it.
struct Outcome {
  std::vector<double> losses, norms;
  std::vector<std::vector<int64_t>> loads;  // of every step
  std::vector<double> spread;
  std::vector<int32_t> choices;  // of the last step
  double validation = 0;
  std::map<int64_t, Weights> weights;  // of local ranks
  int64_t ranks_with_memory = 0;
  Timeline timeline;  // of the last step
};

Outcome trained(const Plan& plan, Trainer& trainer) {
  constexpr int64_t kTrained = 3;  // AdamW's moments and the biases have come into play
  Outcome o;
  trainer.record_choices(true);
  for (int64_t i = 0; i < kTrained; ++i) {
    const StepLog log = trainer.step(i);
    o.losses.push_back(log.loss);
    o.norms.push_back(log.gradient_norm);
    o.spread.push_back(log.max_expert_load);
    o.loads.push_back(trainer.last_results().expert_load);
  }
  const Architecture& a = plan.model.architecture;
  for (int32_t d = 0; d < plan.layout.dp; ++d) {
    for (int64_t m = 0; m < plan.training.micro_batches; ++m) {
      for (int64_t layer = a.dense_layers(); layer < a.layers; ++layer) {
        const auto choices = trainer.recorded_choices(layer, d, m);
        o.choices.insert(o.choices.end(), choices.begin(), choices.end());
      }
    }
  }
  for (const Bytes b : trainer.last_results().peak_memory) o.ranks_with_memory += b > Bytes(0);
  o.timeline = trainer.last_timeline();
  o.validation = trainer.validate(1);
  for (const int64_t rank : trainer.communicator().local_ranks()) {
    o.weights[rank] = weights_of(trainer, rank);
  }
  return o;
}

class Processes : public testing::TestWithParam<std::pair<ScheduleKind, Partition>> {};

TEST_P(Processes, HaveTheBitsOfOneProcess) {
  const auto& [schedule, ranks] = GetParam();
  Plan plan = small_plan({.pp = 2, .dp = 2, .ep = 2, .schedule = schedule});
  if (schedule == ScheduleKind::kZB1P) plan.training.precision = Precision::kBf16;
  plan.cluster.devices_per_node = 1;  // the all-to-all is in two phases
  Trainer alone(plan, test_text_path());
  const Outcome expected = trained(plan, alone);

  std::array<Outcome, kProcesses> got;
  on_processes(plan, ranks, [&](size_t p, Trainer& trainer) { got[p] = trained(plan, trainer); });
  for (size_t p = 0; p < kProcesses; ++p) {
    EXPECT_EQ(got[p].losses, expected.losses);
    EXPECT_EQ(got[p].norms, expected.norms);
    EXPECT_EQ(got[p].loads, expected.loads);
    EXPECT_EQ(got[p].spread, expected.spread);
    EXPECT_EQ(got[p].choices, expected.choices);
    EXPECT_EQ(got[p].validation, expected.validation);
    EXPECT_EQ(got[p].ranks_with_memory, plan.layout.world());
    ASSERT_EQ(got[p].weights.size(), ranks[p].size()) << "holds other ranks than its own";
    for (const int64_t rank : ranks[p]) {
      EXPECT_TRUE(got[p].weights.at(rank) == expected.weights.at(rank)) << "rank " << rank;
    }
  }
  // Every op of every rank has its span, the same on both.
  const Timeline& t = got[0].timeline;
  EXPECT_EQ(t, got[1].timeline);
  ASSERT_EQ(t.spans.size(), expected.timeline.spans.size());
  for (size_t id = 0; id < t.spans.size(); ++id) {
    EXPECT_GT(t.spans[id].end, Duration()) << "op " << id;
    EXPECT_GE(t.spans[id].end, t.spans[id].begin) << "op " << id;
  }
}

// Ranks 0 and 1 hold the first pipeline rank, 2 and 3 the second; 0 and 1 are an EP group.
INSTANTIATE_TEST_SUITE_P(
    Train,
    Processes,
    testing::Values(
        std::pair(ScheduleKind::kDualPipe, Partition{{{0, 1}, {2, 3}}}),  // pipeline across
        std::pair(ScheduleKind::kDualPipe, Partition{{{0, 2}, {1, 3}}}),  // experts across
        std::pair(ScheduleKind::k1F1B, Partition{{{0, 1}, {2, 3}}}),
        std::pair(ScheduleKind::k1F1B, Partition{{{0, 2}, {1, 3}}}),
        std::pair(ScheduleKind::kZB1P, Partition{{{3}, {0, 1, 2}}})),
    [](const auto& test) {
      std::string name(name_of(test.param.first));
      for (const auto& ranks : test.param.second) {
        name += "_";
        for (const int64_t r : ranks) name += std::to_string(r);
      }
      return name;
    });

TEST(ProcessFailures, ReportOfAHangDoesNotSpeakForOthersRanks) {
  const Plan plan = small_plan({.pp = 2, .dp = 2, .ep = 2, .schedule = ScheduleKind::k1F1B});
  // Rank 0, of the first process, stops; the second process sees only that it is waiting. The first
  // one waits so long that the report is the second's.
  std::array<std::string, kProcesses> reports;
  on_processes(plan,
               {{{0, 2}, {1, 3}}},
               [&](size_t p, Trainer& trainer) {
                 for (const Op& op : trainer.program().ops()) {
                   if (p == 0 && to_string(op) == "attn.F s0 l1 m1")
                     trainer.ranks().plant_fault(op.id);
                 }
                 try {
                   trainer.step(0);
                 } catch (const std::exception& e) {
                   reports[p] = e.what();
                 }
               },
               {Duration::seconds(60), Duration::seconds(0.5)});
  EXPECT_EQ(reports[0], RunAborted().what());
  const auto expect = [&](const std::string& line) {
    EXPECT_NE(reports[1].find(line), std::string::npos) << line << "\n" << reports[1];
  };
  expect("no op has ended for 500 ms; step 0:");
  expect(
      "rank 1 lane a2a: dispatch.F s0 l1 m1 group ep at work, does not end; on another process, "
      "unknown: rank 0");
  expect("rank 3 lane recv0: recv.F s1 m1 from 0 waits for rank 1 to send");
  EXPECT_EQ(reports[1].find("\n  rank 0"), std::string::npos) << reports[1];
  EXPECT_EQ(reports[1].find("\n  rank 2"), std::string::npos) << reports[1];
}

TEST(ProcessFailures, ALossThatIsNotFiniteEndsBoth) {
  // A weight of the first process is not a number, and so is the loss, which the second one works
  // out: both say so, and neither waits for the other.
  Plan plan = small_plan({.pp = 2, .schedule = ScheduleKind::k1F1B});
  std::array<std::string, kProcesses> errors;
  on_processes(plan, {{{0}, {1}}}, [&](size_t p, Trainer& trainer) {
    if (p == 0) {
      Stage& s = trainer.ranks().stage(0, 0, 0);
      s.weights.array(s.where.layers[0].input_norm).fp32()[0] =
          std::numeric_limits<float>::quiet_NaN();
    }
    try {
      for (int64_t i = 0; i < 3; ++i) trainer.step(i);
    } catch (const InputError& e) {
      errors[p] = e.what();
    }
  });
  EXPECT_NE(errors[0].find("the loss is not finite in step 1: first the output of layer 0"),
            std::string::npos)
      << errors[0];
  EXPECT_EQ(errors[0], errors[1]);
}

TEST(ProcessFailures, ACallerThatFailsOnOneProcessEndsBoth) {
  const Plan plan = small_plan({.dp = 2});
  std::array<std::string, kProcesses> errors;
  on_processes(plan, {{{0}, {1}}}, [&](size_t p, Trainer& trainer) {
    try {
      trainer.train({.steps = 4, .validation_steps = 1, .on_step = [&](const StepLog& log) {
                       if (p == 1 && log.step == 1) throw InputError("the disk is full");
                     }});
    } catch (const std::exception& e) {
      errors[p] = e.what();
    }
  });
  EXPECT_EQ(errors[0], RunAborted().what());
  EXPECT_EQ(errors[1], "the disk is full");
}

}  // namespace
}  // namespace rehearse
