#include "runtime/run.h"

#include <mutex>
#include <optional>

#include <gtest/gtest.h>

#include "base/errors.h"
#include "plan/testing.h"
#include "runtime/communicators/local/local_communicator.h"

namespace rehearse {
namespace {

// Records in which order ops ran; sends and receives pass a token, so that order holds across
// ranks.
class RecordingDevice : public Device {
 public:
  explicit RecordingDevice(const Program& p) : program_(p), communicator_(p.layout().world()) {}
  void enqueue(const OpAt& at, const std::function<void()>& ready) override {
    const Op& op = at.op;
    const int32_t data_rank = at.data_rank;
    if (op.id == fail_at) throw InputError("planted");
    std::vector<float> payload = {static_cast<float>(op.id)};
    const int64_t here = program_.global_rank({op.pp_rank, data_rank});
    const uint64_t tag = op.micro_batch ? static_cast<uint64_t>(*op.micro_batch) * 2 +
                                              (op.pass == Pass::kForward ? 1 : 0)
                                        : 0;
    if (op.kind != OpKind::kRecv) record(op, data_rank);  // a send before its message is out
    if (op.kind == OpKind::kSend) {
      communicator_.send(here, program_.global_rank({*op.peer, data_rank}), tag, payload);
    } else if (op.kind == OpKind::kRecv) {
      communicator_.recv(program_.global_rank({*op.peer, data_rank}), here, tag, payload, ready);
      record(op, data_rank);
    }
  }
  void abort() override { communicator_.abort(); }

  std::optional<int32_t> fail_at;
  std::vector<OpId> order;

 private:
  void record(const Op& op, int32_t data_rank) {
    const std::lock_guard lock(mutex_);
    order.push_back(program_.global_id(op.id, data_rank));
  }

  const Program& program_;
  LocalCommunicator communicator_;
  std::mutex mutex_;
};

TEST(Run, EveryOpOnceAfterItsDependencies) {
  const Plan plan = small_plan({.pp = 4, .schedule = ScheduleKind::kDualPipe});
  const Program program = build_program(plan);
  RecordingDevice device(program);
  Workers workers(program, device);
  for (int step = 0; step < 5; ++step) {
    device.order.clear();
    const Timeline t = workers.run_step();
    ASSERT_EQ(static_cast<int64_t>(device.order.size()), program.global_size());
    std::vector<size_t> place(device.order.size());
    for (size_t i = 0; i < device.order.size(); ++i) {
      place[static_cast<size_t>(device.order[i])] = i;
    }
    for (const Op& op : program.ops()) {
      for (const int32_t d : program.dependencies(op.id)) {
        EXPECT_LT(place[static_cast<size_t>(d)], place[static_cast<size_t>(op.id)]);
      }
      EXPECT_GE(t.spans[static_cast<size_t>(op.id)].end, t.spans[static_cast<size_t>(op.id)].begin);
    }
  }
}

TEST(Run, AFailedOpEndsTheRunWithItsError) {
  const Plan plan = small_plan({.pp = 4, .schedule = ScheduleKind::k1F1B});
  const Program program = build_program(plan);
  for (const int32_t id : {0, 57, static_cast<int32_t>(program.ops().size()) - 1}) {
    RecordingDevice device(program);
    device.fail_at = id;
    Workers workers(program, device);
    EXPECT_THROW(workers.run_step(), InputError);
  }
}

}  // namespace
}  // namespace rehearse
