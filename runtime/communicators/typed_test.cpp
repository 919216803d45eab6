// Messages and collectives of every type, by known answers, and what they weigh on a link.

#include <gtest/gtest.h>

#include "runtime/communicators/local/local_communicator.h"
#include "runtime/communicators/testing.h"
#include "runtime/memory/tensor.h"

namespace rehearse {
namespace {

constexpr DType kTypes[] = {DType::kFp32, DType::kBf16, DType::kFp8};

// Two devices of a node joined by a link that is too fast to wait for.
Cluster two_linked() {
  return {.name = "two",
          .devices_per_node = 2,
          .node_link = Link{BytesPerSecond(1e12), Duration::microseconds(1)}};
}

// Whole numbers up to 7, which every type holds exactly: of FP8, with scales of 1 (a 448 per tile).
Tensor numbers(BufferPool& pool, const Extent& e, int64_t first) {
  Tensor x(pool, e.rows, e.columns);
  for (int64_t i = 0; i < x.size(); ++i) {
    x.data()[i] =
        i % e.columns % kernels::kScaleBlock == 0 ? 448.0f : static_cast<float>((first + i) % 8);
  }
  return converted(x, e.type, pool);
}

std::vector<float> values(const ConstArray& a) {
  std::vector<float> out(static_cast<size_t>(a.extent.size()));
  convert(a, Array({DType::kFp32, a.extent.rows, a.extent.columns}, out.data()));
  return out;
}

TEST(Communicator, SendsEveryTypeWithItsTrueBytes) {
  const Cluster cluster = two_linked();
  for (const DType type : kTypes) {
    LocalCommunicator c(2, std::make_unique<LinkShaper>(cluster, 2));
    BufferPool pool;
    const Extent e{type, 3, 200};
    const Tensor x = numbers(pool, e, 0);
    Tensor y(pool, e.rows, e.columns, type);
    c.send(0, 1, 7, x);
    c.recv(0, 1, 7, y, [] {});
    EXPECT_EQ(values(x), values(y));
    // 600 elements; of FP8 also two scales per row.
    const int64_t bytes = type == DType::kFp32 ? 2400 : type == DType::kBf16 ? 1200 : 600 + 24;
    EXPECT_EQ(c.links()->counts(),
              (std::map<std::pair<int64_t, int64_t>, int64_t>{{{0, 1}, bytes}}));
  }
}

TEST(Communicator, RefusesAMessageOfAnotherType) {
  LocalCommunicator c(2);
  BufferPool pool;
  Tensor bf16(pool, 2, 4, DType::kBf16), fp32(pool, 2, 4);
  c.send(0, 1, 1, bf16);
  try {
    c.recv(0, 1, 1, fp32, [] {});
    FAIL();
  } catch (const InternalError& e) {
    EXPECT_NE(
        std::string(e.what()).find("a message of bf16 [2, 4] from rank 0, expected fp32 [2, 4]"),
        std::string::npos)
        << e.what();
  }
}

TEST(Communicator, GathersEveryTypeInShards) {
  const Cluster cluster = two_linked();
  const std::vector<int64_t> members = {0, 1};
  for (const DType type : kTypes) {
    LocalCommunicator c(2, std::make_unique<LinkShaper>(cluster, 2));
    BufferPool pool;
    const Extent e{type, 4, 256};
    std::deque<Tensor> data;
    for (int64_t r = 0; r < 2; ++r) data.push_back(numbers(pool, e, 3 * r));
    // The first half of rank 0's, the second of rank 1's: rows 0 and 1, 2 and 3.
    std::vector<float> expected = values(data[0]);
    const std::vector<float> second = values(data[1]);
    std::copy(second.begin() + 512, second.end(), expected.begin() + 512);
    on_ranks(2, [&](int64_t r) {
      c.all_gather({members, 2}, r, data[static_cast<size_t>(r)], [] {});
    });
    EXPECT_EQ(values(data[0]), expected);
    EXPECT_EQ(values(data[1]), expected);
    // Each sends its half: 512 elements; of FP8 with two scales per row.
    const int64_t bytes = type == DType::kFp32 ? 2048 : type == DType::kBf16 ? 1024 : 512 + 16;
    EXPECT_EQ(c.links()->counts(),
              (std::map<std::pair<int64_t, int64_t>, int64_t>{{{0, 1}, bytes}, {{1, 0}, bytes}}));
  }
}

TEST(Communicator, ExchangesEveryTypeInOneAllToAll) {
  const Cluster cluster = two_linked();
  const std::vector<int64_t> members = {0, 1};
  LocalCommunicator c(2, std::make_unique<LinkShaper>(cluster, 2));
  BufferPool pool;
  const Tensor to_0 = numbers(pool, {DType::kFp8, 5, 130}, 1);
  const Tensor to_1 = numbers(pool, {DType::kBf16, 2, 3}, 2);
  on_ranks(2, [&](int64_t r) {
    std::vector<Message> out(2);
    const Tensor& outgoing = r == 0 ? to_1 : to_0;
    out[static_cast<size_t>(1 - r)] = Message(outgoing.array());
    const std::vector<Message> in = c.all_to_all({members, 4}, r, std::move(out), [] {});
    EXPECT_EQ(in[static_cast<size_t>(r)].bytes(), Bytes(0));
    const Message& got = in[static_cast<size_t>(1 - r)];
    const Tensor& expected = r == 0 ? to_0 : to_1;
    EXPECT_EQ(got.extent(), expected.extent());
    EXPECT_EQ(values(got.array()), values(expected));
  });
  EXPECT_EQ(c.links()->counts(),
            (std::map<std::pair<int64_t, int64_t>, int64_t>{{{0, 1}, 12}, {{1, 0}, 650 + 5 * 8}}));
}

// Three members bring 1, 2^-8 and 2^-8: summed in FP32 that is 1 + 2^-7, which BF16 holds; rounded
// to BF16 after each addition it would stay 1.
TEST(Communicator, SumsBf16InFp32AndRoundsOnce) {
  LocalCommunicator c(3);
  const std::vector<int64_t> members = {0, 1, 2};
  std::vector<std::vector<kernels::Bf16>> scattered(3), reduced(3);
  on_ranks(3, [&](int64_t r) {
    const kernels::Bf16 mine = kernels::to_bf16(r == 0 ? 1 : 0x1p-8f);
    const Extent e{DType::kBf16, 7, 1};
    auto& s = scattered[static_cast<size_t>(r)] = std::vector<kernels::Bf16>(7, mine);
    auto& a = reduced[static_cast<size_t>(r)] = std::vector<kernels::Bf16>(7, mine);
    c.reduce_scatter({members, 2}, r, Array(e, s.data()), [] {});
    c.all_reduce({members, 4}, r, Array(e, a.data()), [] {});
  });
  for (size_t r = 0; r < 3; ++r) {
    for (size_t i = 0; i < 7; ++i) {  // shards of 3, 3 and 1
      const float own = r == 0 ? 1 : 0x1p-8f;
      EXPECT_EQ(kernels::to_float(scattered[r][i]), i / 3 == r ? 1 + 0x1p-7f : own);
      EXPECT_EQ(kernels::to_float(reduced[r][i]), 1 + 0x1p-7f);
    }
  }
}

TEST(Communicator, RefusesSumsOfFp8) {
  LocalCommunicator c(1);
  const std::vector<int64_t> members = {0};
  BufferPool pool;
  Tensor x(pool, 1, 128, DType::kFp8);
  EXPECT_THROW(c.reduce_scatter({members, 2}, 0, x, [] {}), InternalError);
  EXPECT_THROW(c.all_reduce({members, 4}, 0, x, [] {}), InternalError);
}

}  // namespace
}  // namespace rehearse
