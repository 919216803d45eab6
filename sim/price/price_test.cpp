// One question, three who answer.

#include "sim/price/price.h"

#include <gtest/gtest.h>

#include "plan/testing.h"
#include "sim/price/what_if.h"
#include "sim/simulate.h"

namespace rehearse {
namespace {

Plan on(DeviceKind device) {
  Plan plan = small_plan({});
  plan.cluster.device = device;
  if (device == DeviceKind::kGpu) {
    plan.training.precision = Precision::kFp8;
    plan.cluster.peak_fp8 = FlopsPerSecond(2e10);
  }
  return plan;
}

const Op& op_of(const Program& program, OpKind kind, Pass pass) {
  for (const Op& op : program.ops()) {
    if (op.kind == kind && op.pass == pass) return op;
  }
  throw std::out_of_range("no such op");
}

// The head's forward pass of 32 tokens on an emulated device, by hand: a norm, a product of
// 2 x 32 x 256 x 32 flops at 10 GFLOP/s, and the loss; each at the larger of flops over peak and
// FP32 bytes over 10 GB/s.
TEST(Price, EmulatedDevicesTakeTheirStatedTime) {
  const Plan plan = on(DeviceKind::kEmulated);
  const Program program = build_program(plan);
  const OpWork work(plan);
  const auto price = make_price(plan, work, std::nullopt, {});
  CostSources sources;
  const MemberLoad load;
  const OpCost cost = price->of({op_of(program, OpKind::kHead, Pass::kForward), load}, sources);
  const double norm = std::max(4.0 * 32 * 32, 2 * 32 * 32 * 4.0) / 1e10;
  const double product =
      std::max(2.0 * 32 * 256 * 32, 4.0 * (32 * 256 + 256 * 32 + 32 * 32)) / 1e10;
  const double loss = std::max(4.0 * 32 * 256, 4.0 * 32 * 256) / 1e10;
  EXPECT_EQ(cost.work.alone, Duration());  // no core is in the way
  EXPECT_NEAR(cost.work.held.seconds(), norm + product + loss, 3e-12);
  EXPECT_EQ(sources.stated, 3);
  EXPECT_EQ(sources.roofline, 0);
}

// With one, cores compute what devices hold: what takes them longer than the stated time shows.
TEST(Price, CoresThatEmulateTakeWhatTheyWereMeasuredTo) {
  Plan plan = small_plan({.pp = 2, .dp = 2});
  plan.cluster.device = DeviceKind::kEmulated;
  const Program program = build_program(plan);
  const auto step_on = [&](int64_t cores, double times) {
    Calibration c{.cores = cores};
    for (const KernelCall& call : kernels_of(plan, program)) {
      const Duration t = roofline(plan, call).scaled(times);
      c.kernels[call] = {.alone = t, .mean = t, .low = t, .high = t, .busy = t};
    }
    return simulate(plan, program, c).timeline.step().seconds();
  };
  const double stated = simulate(plan, program, std::nullopt).timeline.step().seconds();
  EXPECT_NEAR(step_on(1, 1e-3), stated, 1e-3 * stated);  // cores that are never late
  EXPECT_NEAR(step_on(64, 1), stated, 1e-6 * stated);    // each lane's just in time
  EXPECT_NEAR(step_on(64, 3), 3 * stated, 1e-6 * stated);
  // Four ranks, three quarters of the time at work, on one core.
  EXPECT_GT(step_on(1, 1), 2 * stated);
}

// Without a calibration a GPU takes its ideal times: FP8 products against the FP8 peak, the rest
// against memory; and says that nothing was measured.
TEST(Price, UncalibratedGpusTakeTheirIdealTime) {
  Plan plan = on(DeviceKind::kGpu);
  const Program program = build_program(plan);
  const Op& op = op_of(program, OpKind::kAttn, Pass::kForward);
  const auto seconds = [&](Precision precision) {
    plan.training.precision = precision;
    const OpWork work(plan);
    CostSources sources;
    const MemberLoad load;
    const Duration t = make_price(plan, work, std::nullopt, {})->of({op, load}, sources).work.alone;
    EXPECT_EQ(sources.measured + sources.interpolated, 0);
    EXPECT_GT(sources.roofline, 0);
    Duration expected;
    for (const GpuTask& task : work.tasks(op, load)) {
      expected += ideal_time(
          task, {plan.cluster.peak, *plan.cluster.peak_fp8, plan.cluster.memory_bandwidth});
    }
    EXPECT_EQ(t, expected);
    return t.seconds();
  };
  EXPECT_LT(seconds(Precision::kFp8), seconds(Precision::kBf16));
}

TEST(Price, CalibrationsOfOtherDevicesAreRefused) {
  const Plan gpu = on(DeviceKind::kGpu);
  const OpWork work(gpu);
  EXPECT_THROW(make_price(gpu, work, Calibration{}, {}), InputError);
  const Plan cores = small_plan({});
  const OpWork other(cores);
  const Calibration of_gpus{.gpu =
                                std::make_shared<const GpuCalibration>(uncalibrated(gpu.cluster))};
  EXPECT_THROW(make_price(cores, other, of_gpus, {}), InputError);
  EXPECT_NO_THROW(make_price(gpu, work, of_gpus, {}));
}

TEST(Price, WhatIfAKindTookLonger) {
  GpuCalibration c;
  c.entries = {{.kind = WorkKind::kCast, .samples = {{Duration::microseconds(10), {}, Bytes(1)}}},
               {.kind = WorkKind::kNorm, .samples = {{Duration::microseconds(10), {}, Bytes(1)}}}};
  const GpuCalibration longer = scaled(c, WorkKind::kCast, 1.5);
  EXPECT_EQ(longer.entries[0].samples[0].time, Duration::microseconds(15));
  EXPECT_EQ(longer.entries[1].samples[0].time, Duration::microseconds(10));
}

}  // namespace
}  // namespace rehearse
