#pragma once
// Communication between ranks, some of which are threads of this process (local), the others of
// other processes. Every call blocks its lane until its part is done. All members of a group must
// make the group's calls in the same order, with the same keys and the same types.
//
// A communicator is a folder of its own here; make_communicator.cpp chooses it from the plan.

#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <stdexcept>
#include <vector>

#include "plan/plan.h"
#include "runtime/communicators/message.h"

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

  // Global ranks of this process, ascending, at least one: `rank` and `from` of the calls below are
  // among them, and `to` of recv.
  virtual std::span<const int64_t> local_ranks() const = 0;

  // Any type. Buffered: returns when `data` may be used again.
  virtual void send(int64_t from, int64_t to, uint64_t tag, const ConstArray& data) = 0;
  // Throws InternalError when the message's extent is another.
  virtual void recv(
      int64_t from, int64_t to, uint64_t tag, const Array& data, const Ready& ready) = 0;

  // Member i ends with the sum over members, in their order, of shard i (sum_in_order: FP32 or
  // BF16); the rest of `data` is unchanged. Shards as shard_of cuts shard_units. Throws
  // InternalError for FP8.
  virtual void reduce_scatter(const Collective& c,
                              int64_t rank,
                              const Array& data,
                              const Ready& ready) = 0;
  // Member i's shard i reaches everybody. Any type.
  virtual void all_gather(const Collective& c,
                          int64_t rank,
                          const Array& data,
                          const Ready& ready) = 0;
  // Every member ends with the whole sum, the same bits everywhere. Uses c.key and c.key + 1. Types
  // as reduce_scatter.
  virtual void all_reduce(const Collective& c,
                          int64_t rank,
                          const Array& data,
                          const Ready& ready) = 0;
  // Returns when all members have come.
  virtual void barrier(const Collective& c, int64_t rank, const Ready& ready) = 0;
  // Member i gets outgoing[i]; returns what each member sent here, in the order of members. All of
  // a group call it, with messages of any extent and type; what a member sends itself does not
  // travel.
  virtual std::vector<Message> all_to_all(const Collective& c,
                                          int64_t rank,
                                          std::vector<Message> outgoing,
                                          const Ready& ready) = 0;
  // Values, entry by entry, become their sums in the order of members: the same bits for each.
  virtual void sum(const Collective& c,
                   int64_t rank,
                   std::span<double> values,
                   const Ready& ready) = 0;
  virtual void sum(const Collective& c,
                   int64_t rank,
                   std::span<int64_t> values,
                   const Ready& ready) = 0;

  // Between processes, entry by entry: every process ends with the sums over all of them, the same
  // bits everywhere. Called by one thread of every process, between steps, with equally many
  // entries; with none it is a barrier. The only process keeps its values.
  virtual void sum_over_processes(std::span<double> values) = 0;
  virtual void sum_over_processes(std::span<int64_t> values) = 0;

  // Makes every waiting and future call throw RunAborted, on every process.
  virtual void abort() = 0;
};

// The communicator of the plan's ranks: threads of this process, with emulated links where the
// cluster has some. The plan must outlive it.
std::unique_ptr<Communicator> make_communicator(const Plan& plan);

}  // namespace rehearse
