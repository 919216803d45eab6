#include "plan/program/timeline.h"

#include <gtest/gtest.h>

#include "base/errors.h"

namespace rehearse {
namespace {

Duration ms(int64_t n) {
  return Duration::picoseconds(n * 1'000'000'000);
}

// One rank, one MoE layer, one micro-batch: F = embed attn dispatch mlp combine head, then B.
Program one_layer() {
  return Program::build({.layout = {.layers_per_stage = {1}}, .micro_batches = 1});
}

// The id of the only op that prints so.
OpId find(const Program& p, const std::string& name) {
  for (const Op& op : p.ops()) {
    if (to_string(op) == name) return op.id;
  }
  ADD_FAILURE() << "no op " << name;
  return 0;
}

TEST(Timeline, SumsOfAHandMadeStep) {
  const Program p = one_layer();
  Timeline t{.source = "measured", .spans = {}};
  t.spans.resize(p.ops().size());
  const auto at = [&](const std::string& name, int64_t begin, int64_t end) {
    t.spans[static_cast<size_t>(find(p, name))] = {ms(begin), ms(end)};
  };
  // F: 1 to 11, of which dispatch 4-6 and combine 8-9 are exposed: nothing computes beside them.
  at("embed.F s0 m0", 1, 2);
  at("attn.F s0 l0 m0", 2, 4);
  at("dispatch.F s0 l0 m0", 4, 6);
  at("mlp.F s0 l0 m0", 6, 8);
  at("combine.F s0 l0 m0", 8, 9);
  at("head.F s0 m0", 9, 11);
  // B: 13 to 24; dispatch.B 18-21 is hidden under mlp.W 18-20, but for one millisecond.
  at("head.B s0 m0", 13, 14);
  at("head.W s0 m0", 14, 15);
  at("combine.B s0 l0 m0", 15, 16);
  at("mlp.B s0 l0 m0", 16, 18);
  at("mlp.W s0 l0 m0", 18, 20);
  at("dispatch.B s0 l0 m0", 18, 21);
  at("attn.B s0 l0 m0", 21, 22);
  at("attn.W s0 l0 m0", 22, 23);
  at("embed.W s0 m0", 23, 24);
  at("optimizer s0", 25, 30);
  const Summary s = summarize(p, t);
  EXPECT_EQ(s.step, ms(30));
  ASSERT_EQ(s.ranks.size(), 1u);
  EXPECT_EQ(s.ranks[0].f, ms(10));
  EXPECT_EQ(s.ranks[0].b, ms(11));
  EXPECT_EQ(s.ranks[0].w, ms(0));
  EXPECT_EQ(s.ranks[0].optimizer, ms(6));  // from 24 on
  EXPECT_EQ(s.ranks[0].bubble, ms(30 - 10 - 11 - 6));
  EXPECT_EQ(s.ranks[0].exposed_comm, ms(2 + 1 + 1 + 1));
  EXPECT_DOUBLE_EQ(s.exposed_comm_fraction, 5.0 / 30);
}

TEST(Timeline, JsonRoundTripsToThePicosecond) {
  const Program p = one_layer();
  Timeline t{.source = "predicted", .spans = {}};
  int64_t now = 123'456'789'012'345;
  for (size_t i = 0; i < p.ops().size(); ++i) {
    t.spans.push_back({Duration::picoseconds(now), Duration::picoseconds(now + 1'000'001)});
    now += 1'234'567;
  }
  EXPECT_EQ(parse_timeline(p, print_timeline(p, t), "t.json"), t);
}

// What a timeline tells of itself comes back; one that tells nothing is read as before.
TEST(Timeline, WhatItTellsOfItselfRoundTrips) {
  const Program p = one_layer();
  Timeline t{.source = "measured", .spans = std::vector<Span>(p.ops().size())};
  t.spans.back() = {ms(1), ms(2)};
  const std::string plain = print_timeline(p, t);
  EXPECT_EQ(plain.find("calibrated"), std::string::npos);
  EXPECT_EQ(plain.find("machine_load"), std::string::npos);
  EXPECT_EQ(parse_timeline(p, plain, "t.json"), t);
  t.calibrated = false;
  t.load = MachineLoad{.wall = Duration::microseconds(12'345'678),
                       .cores = 2,
                       .own = 1.05,
                       .others = 0.123456,
                       .stolen = 0.25,
                       .throttled = 1e-6,
                       .pressure = 0.4};
  EXPECT_EQ(parse_timeline(p, print_timeline(p, t), "t.json"), t);
  t.load->pressure = std::nullopt;
  EXPECT_EQ(parse_timeline(p, print_timeline(p, t), "t.json"), t);
}

std::string error_of(const Program& p, const std::string& json) {
  try {
    parse_timeline(p, json, "t.json");
  } catch (const InputError& e) {
    return e.what();
  }
  return "no error";
}

TEST(Timeline, RefusesALoadThatCannotBe) {
  const Program p = one_layer();
  Timeline t{.source = "measured", .spans = std::vector<Span>(p.ops().size())};
  t.spans.back() = {ms(1), ms(2)};
  t.load = MachineLoad{.wall = Duration::seconds(3), .cores = 2, .own = 1.5, .others = 0.25};
  const std::string json = print_timeline(p, t);
  const auto with = [&](const std::string& old, const std::string& instead) {
    std::string changed = json;
    changed.replace(changed.find(old), old.size(), instead);
    return error_of(p, changed);
  };
  EXPECT_EQ(with("\"other_cores\": 0.25", "\"other_cores\": -1"),
            "t.json: otherData.machine_load.other_cores: expected a number from 0 to 1e+06");
  EXPECT_EQ(with("\"wall_s\": 3", "\"wall_s\": 1e300"),
            "t.json: otherData.machine_load.wall_s: expected a number from 0 to 9e+06");
  EXPECT_EQ(with("\"cores\": 2", "\"cores\": 0"),
            "t.json: otherData.machine_load: expected a wall_s above 0 and at least one of cores");
  EXPECT_EQ(with("\"own_cores\": 1.5, ", "").substr(0, 30), "t.json: not a timeline of ours");
}

TEST(Timeline, RefusesAnotherPlansTimeline) {
  const Program p = one_layer();
  Timeline t{.source = "predicted", .spans = std::vector<Span>(p.ops().size())};
  const std::string json = print_timeline(p, t);
  const Program other = Program::build({.layout = {.layers_per_stage = {1}}, .micro_batches = 2});
  EXPECT_NE(error_of(other, json), "no error");
  std::string cut = json.substr(0, json.size() / 2);
  EXPECT_EQ(error_of(p, cut).substr(0, 68),
            "t.json:13:98: not a timeline of ours (Chrome trace JSON with op ids)");
  std::string negative = json;
  negative.replace(negative.find("\"dur\":0"), 7, "\"dur\":-1");
  EXPECT_EQ(error_of(p, negative), "t.json: op 0 has a negative time");
  EXPECT_EQ(error_of(p, json), "t.json: all its times are zero: nothing was measured");
  std::string moved = json;
  moved.replace(moved.find("\"tid\":0,\"ts\""), 12, "\"tid\":1,\"ts\"");
  EXPECT_EQ(error_of(p, moved).substr(0, 40), "t.json: op 0 has the lane (tid) 1 here a");
  std::string late = json;
  late.replace(late.find("\"dur\":0"), 7, "\"dur\":9");
  EXPECT_NE(error_of(p, late).find("of its lane has ended"), std::string::npos)
      << error_of(p, late);
  std::string endless = json;
  for (size_t at = 0; (at = endless.find("\"ts\":0.", at)) != std::string::npos; at += 20) {
    endless.replace(at, 8, "\"ts\":4000000000000.");
  }
  EXPECT_NE(error_of(p, endless).find("50 days"), std::string::npos) << error_of(p, endless);
}

}  // namespace
}  // namespace rehearse
