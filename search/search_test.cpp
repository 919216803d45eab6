#include "search/search.h"

#include <fstream>
#include <numeric>
#include <set>

#include <fmt/format.h>
#include <fmt/ranges.h>
#include <gtest/gtest.h>

#include "base/errors.h"
#include "base/file.h"
#include "plan/testing.h"
#include "sim/price/device.h"

namespace rehearse {
namespace {

std::string shipped(const std::string& file) {
  return std::string(REHEARSE_SOURCE_DIR) + "/" + file;
}

Cluster cluster_of(const std::string& nodes, const std::string& per_node) {
  std::string text = read_file(shipped("topologies/h800-2048.yaml"));
  const auto put = [&](const std::string& what, const std::string& with) {
    text.replace(text.find(what), what.size(), with);
  };
  put("nodes: 256", "nodes: " + nodes);
  put("devices_per_node: 8", "devices_per_node: " + per_node);
  return parse_cluster(text, "cluster.yaml");
}

// The small model on two nodes of four GPUs.
Plan small_gpus() {
  Plan plan = small_plan({});
  plan.cluster = cluster_of("2", "4");
  plan.training.precision = Precision::kBf16;
  plan.training.sequence_length = 1024;
  return plan;
}

Plan sixteen_billion() {
  Plan plan = small_gpus();
  plan.model = load_model(shipped("models/deepseek-16b.yaml"));
  plan.cluster = cluster_of("4", "8");
  plan.training.sequence_length = 4096;
  return plan;
}

std::optional<Calibration> device_of(Plan& plan) {
  Calibration c = load_calibration(shipped("topologies/devices/h100.yaml"));
  use_copy_rate(plan, *c.device);
  return c;
}

std::string key_of(const Candidate& c) {
  return fmt::format("{} {} dp{} {}x{} {}",
                     kRankOrders[c.layout.rank_order],
                     to_string(c),
                     c.layout.dp,
                     c.layout.way() == Way::kRoundAgain ? c.layout.chunks : 0,
                     c.micro_batches,
                     fmt::join(c.layout.layers_per_stage, ","));
}

class Collect : public SpaceVisitor {
 public:
  bool block(const Candidate&) override { return true; }
  void legal(const Candidate& c) override {
    EXPECT_TRUE(keys.insert(key_of(c)).second) << key_of(c) << " comes twice";
    all.push_back(c);
  }
  bool wants_illegal() const override { return true; }
  void illegal(const Candidate& c, const Reason& why) override {
    EXPECT_FALSE(why.message.empty());
    ++refused;
    last = c;
  }
  std::set<std::string> keys;
  std::vector<Candidate> all;
  int64_t refused = 0;
  Candidate last;
};

// Whether some node holds ranks of other groups and pipelines when PP counts before DP, found rank
// by rank.
bool other_neighbours(Layout l, const Cluster& cluster) {
  const auto nodes = [&] {
    std::map<int64_t, std::set<std::pair<int64_t, int64_t>>> held;
    for (int64_t rank = 0; rank < l.world(); ++rank) {
      const Place p = l.place_of(rank);
      held[cluster.node_of(rank)].emplace(p.pp_rank, p.data_rank);
    }
    std::set<std::set<std::pair<int64_t, int64_t>>> all;
    for (const auto& [node, ranks] : held) all.insert(ranks);
    return all;
  };
  const auto data_first = nodes();
  l.rank_order = RankOrder::kPipelineFirst;
  return nodes() != data_first;
}

// Every combination of numbers, whether it makes sense or not, asked one by one.
std::set<std::string> plain_enumeration(const Plan& base, const SearchSpace& s) {
  std::set<std::string> keys;
  const int64_t gpus = s.gpus.front();
  const int64_t batch = s.batches.front();
  for (int64_t pp = 1; pp <= gpus; ++pp)
    for (int64_t tp = 1; tp <= gpus; ++tp)
      for (int64_t cp = 1; cp <= gpus; ++cp)
        for (int64_t dp = 1; dp <= gpus; ++dp) {
          if (pp * tp * cp * dp != gpus) continue;
          for (int64_t ep = 1; ep <= gpus; ++ep)
            for (int64_t etp = 1; etp <= gpus; ++etp)
              for (const auto& schedule : kSchedules.entries())
                for (int64_t chunks = 1; chunks <= 8; ++chunks)
                  for (int64_t size = 1; size <= 8; ++size)
                    for (int64_t zero = 0; zero <= 3; ++zero) {
                      const bool chunked = schedule.value == ScheduleKind::kInterleaved;
                      if (chunked != (chunks > 1) || (chunked && pp == 1)) continue;
                      if (batch % (dp * size) != 0) continue;
                      if (tp > base.cluster.devices_per_node || etp > base.cluster.devices_per_node)
                        continue;
                      if (cp > 1 && cp * 512 > base.training.sequence_length) continue;
                      Candidate c{.gpus = gpus, .batch = batch};
                      c.sequence = base.training.sequence_length;
                      c.precision = base.training.precision;
                      c.communication_sms = base.cluster.communication_sms;
                      c.layout = {.pp = pp,
                                  .dp = dp,
                                  .ep = ep,
                                  .tp = tp,
                                  .cp = cp,
                                  .etp = etp,
                                  .schedule = schedule.value,
                                  .chunks = chunked ? chunks : base.layout.chunks,
                                  .zero_stage = zero};
                      c.micro_batch_size = size;
                      c.micro_batches = batch / (dp * size);
                      if (!why_not(plan_of(base, c)).empty()) continue;
                      for (const auto& layers :
                           stage_splits(base.model.architecture, c.layout, c.sequence, true)) {
                        c.layout.layers_per_stage = layers;
                        if (!why_not(plan_of(base, c)).empty()) continue;
                        for (const NamedRecompute& r : named_recomputes()) {
                          if (r.name == "selective") continue;
                          c.recompute = r.recompute;
                          keys.insert(key_of(c));
                          if (!other_neighbours(c.layout, base.cluster)) continue;
                          Candidate other = c;
                          other.layout.rank_order = RankOrder::kPipelineFirst;
                          keys.insert(key_of(other));
                        }
                      }
                    }
        }
  return keys;
}

TEST(SearchSpace, IsEveryLegalLayout) {
  const Plan base = small_gpus();
  const SearchSpace space = filled({.gpus = {8}, .batches = {24}}, base);
  Collect all;
  visit_space(space, base, all);
  const std::set<std::string> plain = plain_enumeration(base, space);
  EXPECT_GT(plain.size(), 1000u);
  EXPECT_EQ(all.keys.size(), plain.size());
  EXPECT_EQ(all.keys, plain);
  EXPECT_GT(all.refused, 100);
  // Parts of it are all of it.
  Collect parts;
  for (int64_t part = 0; part < 3; ++part) visit_space(space, base, parts, part, 3);
  EXPECT_EQ(parts.keys, all.keys);
}

TEST(SearchSpace, GivenValuesAreTheOnlyOnes) {
  const Plan base = sixteen_billion();
  SearchSpace asked{.gpus = {32}, .batches = {512}};
  asked.pp = {4};
  asked.ep = {8};
  asked.schedules = {ScheduleKind::kDualPipe};
  Collect all;
  visit_space(filled(asked, base), base, all);
  ASSERT_FALSE(all.all.empty());
  for (const Candidate& c : all.all) {
    EXPECT_EQ(c.layout.pp, 4);
    EXPECT_EQ(c.layout.ep, 8);
    EXPECT_EQ(c.layout.schedule, ScheduleKind::kDualPipe);
    EXPECT_EQ(c.layout.world(), 32);
    EXPECT_EQ(c.layout.dp * c.micro_batches * c.micro_batch_size, 512);
  }
  EXPECT_THROW(filled({.gpus = {64}, .batches = {512}}, base), InputError);
}

// Of the heaviest rank's arithmetic balanced stages have no more than even ones.
TEST(SearchSpace, BalancedStagesMakeRoomForTheEnds) {
  const Model v3 = load_model(shipped("models/deepseek-v3.yaml"));
  Layout l{.pp = 16, .dp = 128, .ep = 64, .schedule = ScheduleKind::kDualPipe};
  const auto splits = stage_splits(v3.architecture, l, 4096, true);
  ASSERT_EQ(splits.size(), 2u);
  EXPECT_EQ(splits[0], even_layers(61, 16));
  // The last stage has the head and the MTP module.
  EXPECT_LT(splits[1].back(), 4);
  EXPECT_EQ(std::accumulate(splits[1].begin(), splits[1].end(), int64_t{0}), 61);
}

TEST(Estimator, MemoryIsThatOfThePlan) {
  Plan base = sixteen_billion();
  const auto calibration = device_of(base);
  Estimator estimator(base, calibration);
  const SearchSpace space = filled({.gpus = {32}, .batches = {512}}, base);
  for (const Candidate& c : sample(base, space, 200, 7)) {
    estimator.begin_block(c);
    const Estimate e = estimator.estimate(c);
    const Plan plan = plan_of(base, c);
    Bytes most;
    for (int64_t r = 0; r < c.layout.pp; ++r) most = std::max(most, rank_memory(plan, r).need());
    // Parts are rounded on their own.
    EXPECT_NEAR(static_cast<double>(e.need.count() - most.count()), 0, 4) << key_of(c);
  }
}

TEST(Estimator, BoundsHoldAndEstimatesRank) {
  Plan base = sixteen_billion();
  const auto calibration = device_of(base);
  const SearchSpace space = filled({.gpus = {32}, .batches = {256}}, base);
  const ScreenError e = judge_screen(base, calibration, space, 150, 2);
  EXPECT_EQ(e.layouts, 150);
  EXPECT_LE(e.tightest_bound, 1);
  EXPECT_GT(e.tightest_bound, 0.5);
  EXPECT_GT(e.rank_correlation, 0.9);
  EXPECT_LT(e.mean_absolute, 0.15);
}

// Brute force: everything simulated, nothing pruned.
TEST(Search, PruningLosesNoOptimum) {
  for (const int64_t batch : {16, 48}) {
    Plan base = small_gpus();
    base.training.sequence_length = 4096;
    const auto calibration = device_of(base);
    const SearchSpace space = filled({.gpus = {8}, .batches = {batch}, .zero_stages = {1}}, base);
    Collect all;
    visit_space(space, base, all);
    double least = 1e30;
    for (const Candidate& c : all.all) {
      Screened s{.candidate = c};
      least = std::min(least, score(base, calibration, s, Objective::kTime).step);
    }
    SearchOptions options{.simulations = 1'000'000, .shown = 1, .threads = 2};
    const SearchResult result = search(base, calibration, space, options);
    EXPECT_EQ(result.legal, std::ranges::count_if(all.all, [](const Candidate& c) {
                return c.layout.rank_order == RankOrder::kDataFirst;
              }));
    ASSERT_FALSE(result.best.empty());
    EXPECT_DOUBLE_EQ(result.best.front().step, least);
    EXPECT_EQ(result.unproven, 0);
    EXPECT_GT(result.pruned, 0);
    // With few simulations it says what it did not prove, or is right.
    options.simulations = 20;
    const SearchResult few = search(base, calibration, space, options);
    EXPECT_TRUE(few.unproven > 0 || few.best.front().step == least);
    EXPECT_LT(few.best.front().step, 1.03 * least);
  }
}

TEST(Search, ThreadsAndPartsChangeNothing) {
  Plan base = sixteen_billion();
  const auto calibration = device_of(base);
  const SearchSpace space = filled({.gpus = {32}, .batches = {256}}, base);
  SearchOptions options{.simulations = 10};
  const SearchResult one = search(base, calibration, space, options);
  options.threads = 3;
  const SearchResult three = search(base, calibration, space, options);
  EXPECT_EQ(one.legal, three.legal);
  ASSERT_EQ(one.best.size(), three.best.size());
  for (size_t i = 0; i < one.best.size(); ++i) {
    EXPECT_EQ(one.best[i].screened.candidate, three.best[i].screened.candidate);
    EXPECT_EQ(one.best[i].step, three.best[i].step);
  }
  ASSERT_EQ(one.pareto.size(), three.pareto.size());
}

TEST(Search, WhatDoesNotFitIsNotRanked) {
  Plan base = sixteen_billion();
  base.cluster.memory = Bytes(30'000'000'000);
  const auto calibration = device_of(base);
  const SearchSpace space = filled({.gpus = {32}, .batches = {256}}, base);
  const SearchResult result = search(base, calibration, space, {.simulations = 20});
  EXPECT_GT(result.short_of_memory, 0);
  for (const Scored& s : result.best) EXPECT_LE(s.memory.need(), base.cluster.memory);
  for (size_t i = 1; i < result.pareto.size(); ++i) {
    EXPECT_GT(result.pareto[i].estimate.need, result.pareto[i - 1].estimate.need);
    EXPECT_LT(result.pareto[i].score, result.pareto[i - 1].score);
  }
  // V3's needs cannot be met with 8 GPUs.
  base.model = load_model(shipped("models/deepseek-v3.yaml"));
  const SearchResult none =
      search(base, calibration, filled({.gpus = {8}, .batches = {256}}, base), {.simulations = 20});
  EXPECT_TRUE(none.best.empty());
  ASSERT_TRUE(none.smallest);
  EXPECT_GT(none.smallest->estimate.need, base.cluster.memory);
}

// Steps of very many micro-batches are told from two shorter ones.
TEST(Search, LongStepsGoOnAsTheyDid) {
  Plan base = sixteen_billion();
  const auto calibration = device_of(base);
  for (const Layout& layout :
       {Layout{.pp = 4, .dp = 2, .ep = 2},
        Layout{.pp = 4, .dp = 2, .ep = 8, .tp = 4},
        Layout{.pp = 2, .dp = 1, .schedule = ScheduleKind::kInterleaved, .chunks = 3},
        Layout{.pp = 8, .dp = 4, .ep = 4, .schedule = ScheduleKind::kDualPipe},
        Layout{.pp = 4, .dp = 8, .ep = 8, .schedule = ScheduleKind::kZB1P}}) {
    Candidate c{.gpus = layout.world(),
                .sequence = 4096,
                .layout = layout,
                .micro_batches = 2400,
                .micro_batch_size = 1};
    c.precision = base.training.precision;
    c.communication_sms = base.cluster.communication_sms;
    c.batch = 2400 * layout.dp;
    c.layout.layers_per_stage = even_layers(27, layout.stages());
    const Scored s = score(base, calibration, {.candidate = c}, Objective::kTime);
    EXPECT_TRUE(s.extrapolated);
    const Plan plan = plan_of(base, c);
    const Prediction whole =
        simulate(plan, build_program(plan), calibration, {.keep = Keep::kSummary, .fold = true});
    EXPECT_NEAR(s.step / whole.summary.step.seconds(), 1, 2e-3) << to_string(c);
    EXPECT_NEAR(s.exposed, whole.summary.exposed_comm_fraction, 5e-3);
    EXPECT_NEAR(s.bubble, whole.summary.bubble_fraction, 5e-3);
  }
}

// A written plan is read back as it was.
TEST(Search, PlansAreWrittenAsTheyAreRead) {
  Plan base = sixteen_billion();
  base.files = {
      "", shipped("models/deepseek-16b.yaml"), shipped("topologies/h800-64-one-switch.yaml")};
  base.training.tokens = 1e12;
  const SearchSpace space = filled({.gpus = {32}, .batches = {256}}, base);
  const std::string path = testing::TempDir() + "/written.yaml";
  for (const Candidate& c : sample(base, space, 50, 3)) {
    const Plan plan = plan_of(base, c);
    std::ofstream(path) << print_plan(plan);
    const Plan again = load_plan(path);
    EXPECT_EQ(again.layout, plan.layout) << print_plan(plan);
    EXPECT_EQ(again.training, plan.training) << print_plan(plan);
  }
}

}  // namespace
}  // namespace rehearse
