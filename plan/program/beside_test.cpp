#include "plan/program/beside.h"

#include <gtest/gtest.h>

namespace rehearse {
namespace {

using Ops = std::vector<OpName>;

// What the report's overlapped pair hides each all-to-all under (section 3.2.1 and its profile).
TEST(Beside, IsWhatThePairHidesAnAllToAllUnder) {
  EXPECT_EQ(ops_beside({OpKind::kCombine, Pass::kInput}), (Ops{{OpKind::kAttn, Pass::kForward}}));
  EXPECT_EQ(ops_beside({OpKind::kDispatch, Pass::kForward}), (Ops{{OpKind::kMlp, Pass::kInput}}));
  EXPECT_EQ(ops_beside({OpKind::kDispatch, Pass::kInput}),
            (Ops{{OpKind::kMlp, Pass::kWeight}, {OpKind::kMlp, Pass::kForward}}));
  EXPECT_EQ(ops_beside({OpKind::kCombine, Pass::kForward}), (Ops{{OpKind::kAttn, Pass::kInput}}));
}

}  // namespace
}  // namespace rehearse
