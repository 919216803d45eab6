#pragma once
// Communication between ranks. Every call blocks its lane until its part is done. All members of a
// group must make the group's calls in the same order, with the same keys.

#include <cstdint>
#include <functional>
#include <span>
#include <stdexcept>
#include <vector>

namespace rehearse {

// Thrown out of waiting calls when another rank has failed.
class RunAborted : public std::runtime_error {
 public:
  RunAborted() : std::runtime_error("the run was aborted by another rank's failure") {}
};

// Called when a waiting call has what it waited for and starts to work: where an op's time begins.
using Ready = std::function<void()>;

// A collective: who takes part (global ranks, ascending, the caller among them) and a key that
// tells it from every other collective of the step.
struct Collective {
  std::span<const int64_t> members;
  uint64_t key = 0;
};

class Communicator {
 public:
  virtual ~Communicator() = default;

  // Buffered: returns when `data` may be used again.
  virtual void send(int64_t from, int64_t to, uint64_t tag, std::span<const float> data) = 0;
  // Throws InternalError when the message's length is another.
  virtual void recv(
      int64_t from, int64_t to, uint64_t tag, std::span<float> data, const Ready& ready) = 0;

  // Member i ends with the sum over members, in their order, of shard i; the rest of `data` is
  // unchanged. Shards as shard_of cuts them.
  virtual void reduce_scatter(const Collective& c,
                              int64_t rank,
                              std::span<float> data,
                              const Ready& ready) = 0;
  // Member i's shard i reaches everybody.
  virtual void all_gather(const Collective& c,
                          int64_t rank,
                          std::span<float> data,
                          const Ready& ready) = 0;
  // Every member ends with the whole sum, the same bits everywhere. Uses c.key and c.key + 1.
  virtual void all_reduce(const Collective& c,
                          int64_t rank,
                          std::span<float> data,
                          const Ready& ready) = 0;
  // Returns when all members have come.
  virtual void barrier(const Collective& c, int64_t rank, const Ready& ready) = 0;
  // Member i gets outgoing[i]; returns what each member sent here, in the order of members. All of
  // a group call it, with any lengths; what a member sends itself does not travel.
  virtual std::vector<std::vector<float>> all_to_all(const Collective& c,
                                                     int64_t rank,
                                                     std::vector<std::vector<float>> outgoing,
                                                     const Ready& ready) = 0;
  // Sums in the order of members; every member gets the same bits.
  virtual double sum(const Collective& c, int64_t rank, double value, const Ready& ready) = 0;
  virtual std::vector<int64_t> sum(const Collective& c,
                                   int64_t rank,
                                   std::span<const int64_t> values,
                                   const Ready& ready) = 0;

  // Makes every waiting and future call throw RunAborted.
  virtual void abort() = 0;
};

}  // namespace rehearse
