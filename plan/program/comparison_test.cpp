#include "plan/program/comparison.h"

#include <gtest/gtest.h>

#include "plan/testing.h"

namespace rehearse {
namespace {

// A Program of one rank and one micro-batch whose ops follow each other, each `length` long.
Timeline chain(const Program& program, Duration length) {
  Timeline t{.source = "predicted"};
  Duration now;
  for (int64_t i = 0; i < program.global_size(); ++i) {
    t.spans.push_back({now, now + length});
    now += length;
  }
  return t;
}

Program one_rank() {
  Plan plan = small_plan({});
  plan.training.micro_batches = 1;
  return build_program(plan);
}

const Comparison::Pair& named(const std::vector<Comparison::Pair>& pairs, const std::string& name) {
  for (const Comparison::Pair& p : pairs) {
    if (p.name == name) return p;
  }
  throw std::out_of_range(name);
}

TEST(Comparison, SlowerOpsAreFoundOut) {
  const Program program = one_rank();
  const Timeline predicted = chain(program, Duration::microseconds(10));
  Timeline measured = predicted;
  // Every mlp.B takes 5 us longer, and moves what follows.
  Duration later;
  int64_t slower = 0;
  for (const Op& op : program.ops()) {
    Span& s = measured.spans[static_cast<size_t>(op.id)];
    s.begin += later;
    if (op.kind == OpKind::kMlp && op.pass == Pass::kInput) {
      later += Duration::microseconds(5);
      ++slower;
    }
    s.end += later;
  }
  const Comparison c = compare_timelines(program, predicted, measured);
  EXPECT_EQ(slower, 4);
  EXPECT_EQ(c.measured_step - c.predicted_step, Duration::microseconds(20));
  EXPECT_NEAR(c.step_error, c.predicted_step / c.measured_step - 1, 1e-15);
  EXPECT_EQ(named(c.kinds, "mlp.B").count, 4);
  EXPECT_EQ(named(c.kinds, "mlp.B").difference(), Duration::microseconds(20));
  EXPECT_EQ(named(c.kinds, "attn.F").difference(), Duration());
  const Comparison::Cause cause = c.cause();
  EXPECT_TRUE(cause.mostly_ops);
  EXPECT_EQ(cause.in_ops, Duration::microseconds(20));
  EXPECT_EQ(cause.in_waiting, Duration());
  ASSERT_NE(cause.most, nullptr);
  EXPECT_EQ(cause.most->name, "mlp.B");
}

TEST(Comparison, WaitingIsFoundOut) {
  const Program program = one_rank();
  const Timeline predicted = chain(program, Duration::microseconds(10));
  Timeline measured = predicted;
  // The gradient's norm takes 70 us longer; the optimizer waits for it.
  Duration later;
  for (const Op& op : program.ops()) {
    Span& s = measured.spans[static_cast<size_t>(op.id)];
    s.begin += later;
    if (op.kind == OpKind::kGradNorm) later += Duration::microseconds(70);
    s.end += later;
  }
  const Comparison c = compare_timelines(program, predicted, measured);
  const Comparison::Cause cause = c.cause();
  EXPECT_FALSE(cause.mostly_ops);
  EXPECT_EQ(cause.in_ops, Duration());
  EXPECT_EQ(cause.in_waiting, Duration::microseconds(70));
  ASSERT_NE(cause.most, nullptr);
  EXPECT_EQ(cause.most->name, "waiting for grad_norm");
  Duration phases;
  for (const Comparison::Pair& p : c.phases()) {
    if (p.name != "exposed communication") phases += p.measured;
  }
  EXPECT_EQ(phases, c.measured_step);
}

}  // namespace
}  // namespace rehearse
