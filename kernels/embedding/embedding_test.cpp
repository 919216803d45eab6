#include "kernels/embedding/embedding.h"

#include "kernels/add/add.h"
#include "kernels/reduce/reduce.h"
#include "kernels/testing/check.h"

namespace rehearse::kernels {
namespace {

TEST(Embedding, GathersAndScatters) {
  const std::vector<int32_t> tokens = {2, 0, 2};
  const std::vector<float> table = {1, 2, 3, 4, 5, 6};
  Guarded x(6);
  embedding(tokens, 2, table.data(), x.data());
  EXPECT_EQ(std::vector<float>(x.data(), x.data() + 6), (std::vector<float>{5, 6, 1, 2, 5, 6}));
  const std::vector<float> dx = {1, 2, 10, 20, 100, 200};
  Guarded d_table(6, 0);
  embedding_backward(tokens, 2, dx.data(), d_table.data());
  EXPECT_EQ(std::vector<float>(d_table.data(), d_table.data() + 6),
            (std::vector<float>{10, 20, 0, 0, 101, 202}));
}

TEST(Reduce, SumsInTheOrderGiven) {
  // (1e8 + 1) - 1e8 is 0 in FP32, (1e8 - 1e8) + 1 is 1: order shows.
  std::vector<float> a(3000, 1e8f), b(3000, 1.0f), c(3000, -1e8f);
  const std::vector<const float*> one = {a.data(), b.data(), c.data()};
  const std::vector<const float*> two = {a.data(), c.data(), b.data()};
  Guarded x(3000), y(3000);
  reduce(one, 3000, x.data());
  reduce(two, 3000, y.data());
  for (int64_t i = 0; i < 3000; ++i) {
    ASSERT_EQ(x[i], 0.0f);
    ASSERT_EQ(y[i], 1.0f);
  }
}

TEST(Add, InPlace) {
  std::vector<float> a = {1, 2, 3};
  const std::vector<float> b = {10, 20, 30};
  add(3, a.data(), b.data(), a.data());
  EXPECT_EQ(a, (std::vector<float>{11, 22, 33}));
}

}  // namespace
}  // namespace rehearse::kernels
