// Keys and tags of whole Programs.

#include "runtime/communicators/keys.h"

#include <map>
#include <set>

#include <gtest/gtest.h>

#include "base/errors.h"
#include "plan/program/program.h"
#include "plan/testing.h"

namespace rehearse {
namespace {

std::vector<Layout> layouts() {
  std::vector<Layout> list;
  for (const ScheduleKind kind : {ScheduleKind::k1F1B,
                                  ScheduleKind::kInterleaved,
                                  ScheduleKind::kZB1P,
                                  ScheduleKind::kDualPipe,
                                  ScheduleKind::kDualPipeV}) {
    for (const int64_t zero : {0, 1}) {
      list.push_back({.pp = 2, .dp = 4, .ep = 2, .schedule = kind, .zero_stage = zero});
    }
  }
  return list;
}

// An op of two phases uses its key and the next: both are the op's own. What a rank meets under a
// key must be one collective, since a rank that is ahead would meet another one's members there.
TEST(Keys, NoTwoCollectivesOfARankShareOne) {
  for (const Layout& layout : layouts()) {
    const Program program = build_program(small_plan(layout));
    size_t collectives = 0;
    for (int32_t d = 0; d < program.replicas(); ++d) {
      std::map<int64_t, std::set<uint64_t>> used;  // by rank
      for (const Op& op : program.ops()) {
        if (op.group == Group::kNone) continue;
        ++collectives;
        for (const uint64_t key : {key_of(op), key_of(op) + 1}) {
          const bool fresh = used[program.global_rank({op.pp_rank, d})].insert(key).second;
          EXPECT_TRUE(fresh) << testing::PrintToString(layout) << ": " << to_string(op);
        }
      }
    }
    EXPECT_GT(collectives, 100u);
  }
}

TEST(Keys, AllMembersOfACollectiveHaveTheSame) {
  for (const Layout& layout : layouts()) {
    const Program program = build_program(small_plan(layout));
    for (int32_t d = 0; d < program.replicas(); ++d) {
      for (const Op& op : program.ops()) {
        if (op.group == Group::kNone) continue;
        for (const OpId member : program.collective(program.global_id(op.id, d))) {
          EXPECT_EQ(key_of(program.op(member)), key_of(op)) << to_string(op);
        }
      }
    }
  }
}

// Also under interleaved schedules, where a micro-batch goes from one rank to another more than
// once.
TEST(Keys, AMessageHasItsTagForItselfAndItsReceiverKnowsIt) {
  for (const Layout& layout : layouts()) {
    const Program program = build_program(small_plan(layout));
    std::set<std::tuple<int32_t, int32_t, uint64_t>> sent, received;  // from, to, tag
    for (const Op& op : program.ops()) {
      if (op.kind == OpKind::kSend) {
        EXPECT_TRUE(sent.emplace(op.pp_rank, *op.peer, tag_of(op)).second) << to_string(op);
      } else if (op.kind == OpKind::kRecv) {
        EXPECT_TRUE(received.emplace(*op.peer, op.pp_rank, tag_of(op)).second) << to_string(op);
      }
    }
    EXPECT_FALSE(sent.empty());
    EXPECT_EQ(sent, received);
  }
}

TEST(Keys, RefuseIndicesThatDoNotFit) {
  const Op op{.kind = OpKind::kDispatch,
              .pass = Pass::kForward,
              .group = Group::kExpertParallel,
              .stage = 1 << 14};
  EXPECT_THROW(key_of(op), InternalError);
  EXPECT_THROW(tag_of({.kind = OpKind::kSend}), InternalError);
}

}  // namespace
}  // namespace rehearse
