// The local communicator's calls, of FP32; other types are in typed_test.cpp.

#include "runtime/communicators/local/local_communicator.h"

#include <atomic>
#include <thread>

#include <gtest/gtest.h>

#include "runtime/communicators/testing.h"

namespace rehearse {
namespace {

TEST(Communicator, ReduceScatterThenAllGatherIsASum) {
  constexpr int64_t kRanks = 3, kSize = 10;  // shards of 4, 4 and 2
  LocalCommunicator c(8);
  const std::vector<int64_t> members = {0, 1, 2};
  std::vector<std::vector<float>> data(kRanks);
  on_ranks(kRanks, [&](int64_t r) {
    auto& mine = data[static_cast<size_t>(r)];
    for (int64_t i = 0; i < kSize; ++i) mine.push_back(static_cast<float>(i + 100 * r));
    for (uint64_t round = 0; round < 50; ++round) {
      c.reduce_scatter({members, 2 * round}, r, mine, [] {});
      c.all_gather({members, 2 * round + 1}, r, mine, [] {});
      const float total = mine[1] - mine[0];  // grows by a factor of the ranks each round
      for (int64_t i = 0; i < kSize; ++i) mine[static_cast<size_t>(i)] /= (total == 0 ? 1 : 3);
    }
  });
  EXPECT_EQ(data[0], data[1]);
  EXPECT_EQ(data[0], data[2]);
  EXPECT_EQ(data[0][3] - data[0][2], 1.0f);
}

TEST(Communicator, SumsAreTheSameBitsEverywhere) {
  LocalCommunicator c(8);
  const std::vector<int64_t> members = {4, 5, 6, 7};
  std::vector<double> sums(8);
  std::vector<std::vector<int64_t>> counts(8);
  on_ranks(4, [&](int64_t r) {
    const int64_t rank = r + 4;
    const auto i = static_cast<size_t>(rank);
    sums[i] = r == 0 ? 1e16 : 1.0;
    c.sum({members, 1}, rank, std::span(&sums[i], 1), [] {});
    counts[i] = {rank, 1};
    c.sum({members, 2}, rank, std::span(counts[i]), [] {});
  });
  for (size_t i = 4; i < 8; ++i) {
    EXPECT_EQ(sums[i], ((1e16 + 1.0) + 1.0) + 1.0);
    EXPECT_EQ(counts[i], (std::vector<int64_t>{22, 4}));
  }
}

TEST(Communicator, AllReduceGivesEverybodyTheSameSum) {
  LocalCommunicator c(3);
  const std::vector<int64_t> members = {0, 1, 2};
  std::vector<std::vector<float>> data(3);
  on_ranks(3, [&](int64_t r) {
    auto& mine = data[static_cast<size_t>(r)];
    for (int64_t i = 0; i < 7; ++i) mine.push_back(static_cast<float>(i * (r + 1)));
    c.barrier({members, 100}, r, [] {});
    c.all_reduce({members, 2}, r, mine, [] {});
  });
  for (int64_t i = 0; i < 7; ++i)
    EXPECT_EQ(data[0][static_cast<size_t>(i)], static_cast<float>(6 * i));
  EXPECT_EQ(data[0], data[1]);
  EXPECT_EQ(data[0], data[2]);
}

TEST(Communicator, AllToAllWithAnyLengths) {
  LocalCommunicator c(3);
  const std::vector<int64_t> members = {0, 1, 2};
  on_ranks(3, [&](int64_t r) {
    for (uint64_t round = 0; round < 20; ++round) {
      // Rank r sends r + i values of 10 r + i to rank i, and nothing from 0 to 0.
      std::vector<Message> out;
      for (int64_t i = 0; i < 3; ++i) {
        const std::vector<float> values(static_cast<size_t>(r + i), static_cast<float>(10 * r + i));
        out.emplace_back(ConstArray(values));
      }
      const auto in = c.all_to_all({members, round}, r, std::move(out), [] {});
      for (int64_t i = 0; i < 3; ++i) {
        const Message& m = in[static_cast<size_t>(i)];
        EXPECT_EQ(std::vector<float>(m.fp32(), m.fp32() + m.rows()),
                  std::vector<float>(static_cast<size_t>(i + r), static_cast<float>(10 * i + r)));
      }
    }
  });
}

TEST(Communicator, BarrierHoldsUntilAllHaveCome) {
  LocalCommunicator c(4);
  const std::vector<int64_t> members = {0, 1, 2, 3};
  std::atomic<int> come = 0;
  on_ranks(4, [&](int64_t r) {
    for (uint64_t round = 0; round < 50; ++round) {
      ++come;
      c.barrier({members, round}, r, [] {});
      EXPECT_GE(come, 4 * static_cast<int>(round + 1));
    }
  });
}

TEST(Communicator, MessagesKeepTheirOrderPerTagAndAbortWakes) {
  LocalCommunicator c(8);
  const std::vector<float> first = {1}, second = {2}, other = {3};
  c.send(0, 1, 7, first);
  c.send(0, 1, 7, second);
  c.send(0, 1, 8, other);
  std::vector<float> got(1);
  c.recv(0, 1, 8, got, [] {});
  EXPECT_EQ(got, other);
  c.recv(0, 1, 7, got, [] {});
  EXPECT_EQ(got, first);
  c.recv(0, 1, 7, got, [] {});
  EXPECT_EQ(got, second);
  std::thread waiting([&] { EXPECT_THROW(c.recv(0, 1, 9, got, [] {}), RunAborted); });
  c.abort();
  waiting.join();
}

TEST(Communicator, ShardsCoverEverythingOnce) {
  for (const int64_t size : {0, 1, 7, 16, 1000}) {
    for (const int64_t count : {1, 2, 3, 8, 17}) {
      int64_t next = 0;
      for (int64_t i = 0; i < count; ++i) {
        const Shard s = shard_of(size, i, count);
        EXPECT_EQ(s.begin, std::min(next, size));
        next = s.end;
      }
      EXPECT_EQ(next, size);
    }
  }
}

}  // namespace
}  // namespace rehearse
