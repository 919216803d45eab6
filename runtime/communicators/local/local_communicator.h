#pragma once
// Ranks as threads of one process: messages are copied through memory, collectives read each
// other's buffers in place. With a LinkShaper, every byte between ranks also takes its time on an
// emulated link: a message is there when the link has delivered it, and a ring's steps of a
// collective travel before the sum is made.

#include <algorithm>
#include <condition_variable>
#include <deque>
#include <map>
#include <memory>
#include <mutex>
#include <tuple>

#include "runtime/communicators/communicator.h"
#include "runtime/communicators/local/link_shaper.h"
#include "runtime/memory/shard.h"

namespace rehearse {

class LocalCommunicator : public Communicator {
 public:
  // links: null for none.
  explicit LocalCommunicator(int64_t ranks, std::unique_ptr<LinkShaper> links = nullptr);

  // The emulated links; null where ranks share memory.
  LinkShaper* links() { return links_.get(); }

  std::span<const int64_t> local_ranks() const override { return ranks_; }
  void send(int64_t from, int64_t to, uint64_t tag, const ConstArray& data) override;
  void recv(int64_t from, int64_t to, uint64_t tag, const Array& data, const Ready& ready) override;
  void reduce_scatter(const Collective& c,
                      int64_t rank,
                      const Array& data,
                      const Ready& ready) override;
  void all_gather(const Collective& c,
                  int64_t rank,
                  const Array& data,
                  const Ready& ready) override;
  void all_reduce(const Collective& c,
                  int64_t rank,
                  const Array& data,
                  const Ready& ready) override;
  void barrier(const Collective& c, int64_t rank, const Ready& ready) override;
  std::vector<Message> all_to_all(const Collective& c,
                                  int64_t rank,
                                  std::vector<Message> outgoing,
                                  const Ready& ready) override;
  void sum(const Collective& c,
           int64_t rank,
           std::span<double> values,
           const Ready& ready) override {
    sum_values(c, rank, values, ready);
  }
  void sum(const Collective& c,
           int64_t rank,
           std::span<int64_t> values,
           const Ready& ready) override {
    sum_values(c, rank, values, ready);
  }
  void sum_over_processes(std::span<double>) override {}
  void sum_over_processes(std::span<int64_t>) override {}
  void abort() override;

 private:
  using Address = std::tuple<int64_t, uint64_t>;  // from, tag

  struct Posted {
    Message message;
    bool delivered = false;
  };

  // What has been sent to one rank; its lanes wait here.
  struct Mailbox {
    std::mutex mutex;
    std::condition_variable changed;
    std::map<Address, std::deque<Posted>> messages;  // deque: places stay when others are added
    bool aborted = false;
  };

  // Where the members of one collective meet. Each brings a pointer and sees everybody's; all
  // leave together, so nobody changes what another still reads.
  struct Meeting {
    std::vector<const void*> brought;  // by member
    size_t arrived = 0;
    size_t finished = 0;
    size_t left = 0;
  };

  static size_t index_of(const Collective& c, int64_t rank);
  // Puts the message on its way; `sent` (if any) is called when it has been delivered.
  void post(int64_t from, int64_t to, uint64_t tag, Message message, std::function<void()> sent);
  void wait_posted(int64_t from, int64_t to, uint64_t tag);
  Message take(int64_t from, int64_t to, uint64_t tag);
  // Lets the bytes of this member's ring steps travel; returns when they have arrived.
  void travel_ring(const Collective& c, int64_t rank, const Extent& extent);
  static Shard shard_of_member(const Collective& c, const Extent& extent, size_t member);
  // Brings `mine`, waits for all, calls `work` with everybody's pointers, waits for all again.
  void meet(const Collective& c,
            int64_t rank,
            const void* mine,
            const Ready& ready,
            const std::function<void(const std::vector<const void*>&)>& work);
  template <typename T>
  void sum_values(const Collective& c, int64_t rank, std::span<T> values, const Ready& ready) {
    std::vector<T> total(values.size(), T{0});
    meet(c, rank, values.data(), ready, [&](const std::vector<const void*>& all) {
      for (const void* p : all) {
        const auto* theirs = static_cast<const T*>(p);
        for (size_t i = 0; i < total.size(); ++i) total[i] += theirs[i];
      }
    });
    std::copy(total.begin(), total.end(), values.begin());
  }
  void wait(std::unique_lock<std::mutex>& lock, const std::function<bool()>& condition);

  std::vector<int64_t> ranks_;     // all
  std::deque<Mailbox> mailboxes_;  // by receiving rank
  std::mutex mutex_;               // of what follows
  std::condition_variable changed_;
  std::map<std::pair<int64_t, uint64_t>, Meeting> meetings_;  // by first member and key
  bool aborted_ = false;
  std::unique_ptr<LinkShaper> links_;  // last: its thread writes into the mailboxes
};

}  // namespace rehearse
