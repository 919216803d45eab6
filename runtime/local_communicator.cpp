#include "runtime/local_communicator.h"

#include <algorithm>

#include "base/errors.h"
#include "kernels/reduce/reduce.h"
#include "runtime/parameters.h"

namespace rehearse {
namespace {

// Tells the messages of collectives from those of pipelines.
constexpr uint64_t kCollectiveTag = uint64_t{1} << 63;

}  // namespace

void LocalCommunicator::wait(std::unique_lock<std::mutex>& lock,
                             const std::function<bool()>& condition) {
  changed_.wait(lock, [&] { return aborted_ || condition(); });
  if (aborted_) throw RunAborted();
}

void LocalCommunicator::send(int64_t from, int64_t to, uint64_t tag, std::span<const float> data) {
  std::vector<float> buffer;
  {
    const std::lock_guard lock(mutex_);
    if (aborted_) throw RunAborted();
    if (!spare_.empty()) {
      buffer = std::move(spare_.back());
      spare_.pop_back();
    }
  }
  buffer.assign(data.begin(), data.end());
  post({from, to, tag}, std::move(buffer));
}

void LocalCommunicator::post(const Address& address, std::vector<float> message) {
  {
    const std::lock_guard lock(mutex_);
    messages_[address].push_back(std::move(message));
  }
  changed_.notify_all();
}

std::vector<float> LocalCommunicator::take(const Address& address) {
  std::unique_lock lock(mutex_);
  wait(lock, [&] { return messages_.contains(address); });
  const auto queue = messages_.find(address);
  std::vector<float> message = std::move(queue->second.front());
  queue->second.erase(queue->second.begin());
  if (queue->second.empty()) messages_.erase(queue);
  return message;
}

void LocalCommunicator::recv(
    int64_t from, int64_t to, uint64_t tag, std::span<float> data, const Ready& ready) {
  std::vector<float> buffer = take({from, to, tag});
  ready();
  CHECK(buffer.size() == data.size()) << "a message of " << buffer.size() << " elements from rank "
                                      << from << ", expected " << data.size();
  std::copy(buffer.begin(), buffer.end(), data.begin());
  const std::lock_guard lock(mutex_);
  spare_.push_back(std::move(buffer));
}

size_t LocalCommunicator::index_of(const Collective& c, int64_t rank) {
  const auto found = std::find(c.members.begin(), c.members.end(), rank);
  CHECK(found != c.members.end()) << "rank " << rank << " is not of the group";
  return static_cast<size_t>(found - c.members.begin());
}

void LocalCommunicator::meet(const Collective& c,
                             int64_t rank,
                             const void* mine,
                             const Ready& ready,
                             const std::function<void(const std::vector<const void*>&)>& work) {
  const std::pair<int64_t, uint64_t> key{c.members.front(), c.key};
  const size_t count = c.members.size();
  std::unique_lock lock(mutex_);
  Meeting& meeting = meetings_[key];
  meeting.brought.resize(count);
  meeting.brought[index_of(c, rank)] = mine;
  ++meeting.arrived;
  if (meeting.arrived == count) changed_.notify_all();
  wait(lock, [&] { return meeting.arrived == count; });
  lock.unlock();
  ready();
  work(meeting.brought);
  lock.lock();
  ++meeting.finished;
  if (meeting.finished == count) changed_.notify_all();
  wait(lock, [&] { return meeting.finished == count; });
  if (++meeting.left == count) meetings_.erase(key);
}

void LocalCommunicator::reduce_scatter(const Collective& c,
                                       int64_t rank,
                                       std::span<float> data,
                                       const Ready& ready) {
  const Shard mine = shard_of(static_cast<int64_t>(data.size()),
                              static_cast<int64_t>(index_of(c, rank)),
                              static_cast<int64_t>(c.members.size()));
  meet(c, rank, data.data(), ready, [&](const std::vector<const void*>& all) {
    std::vector<const float*> copies;
    for (const void* p : all) copies.push_back(static_cast<const float*>(p) + mine.begin);
    kernels::reduce(copies, mine.end - mine.begin, data.data() + mine.begin);
  });
}

void LocalCommunicator::all_gather(const Collective& c,
                                   int64_t rank,
                                   std::span<float> data,
                                   const Ready& ready) {
  const size_t mine = index_of(c, rank);
  meet(c, rank, data.data(), ready, [&](const std::vector<const void*>& all) {
    for (size_t i = 0; i < all.size(); ++i) {
      if (i == mine) continue;
      const Shard theirs = shard_of(static_cast<int64_t>(data.size()),
                                    static_cast<int64_t>(i),
                                    static_cast<int64_t>(all.size()));
      const auto* source = static_cast<const float*>(all[i]);
      std::copy(source + theirs.begin, source + theirs.end, data.data() + theirs.begin);
    }
  });
}

std::vector<std::vector<float>> LocalCommunicator::all_to_all(
    const Collective& c,
    int64_t rank,
    std::vector<std::vector<float>> outgoing,
    const Ready& ready) {
  const size_t me = index_of(c, rank);
  CHECK(outgoing.size() == c.members.size()) << outgoing.size() << " messages";
  std::vector<std::vector<float>> incoming(outgoing.size());
  incoming[me] = std::move(outgoing[me]);
  for (size_t i = 0; i < outgoing.size(); ++i) {
    if (i != me) post({rank, c.members[i], kCollectiveTag | c.key}, std::move(outgoing[i]));
  }
  for (size_t i = 0; i < incoming.size(); ++i) {
    if (i != me) incoming[i] = take({c.members[i], rank, kCollectiveTag | c.key});
  }
  ready();
  return incoming;
}

double LocalCommunicator::sum(const Collective& c, int64_t rank, double value, const Ready& ready) {
  double total = 0;
  meet(c, rank, &value, ready, [&](const std::vector<const void*>& all) {
    for (const void* p : all) total += *static_cast<const double*>(p);
  });
  return total;
}

std::vector<int64_t> LocalCommunicator::sum(const Collective& c,
                                            int64_t rank,
                                            std::span<const int64_t> values,
                                            const Ready& ready) {
  std::vector<int64_t> total(values.size(), 0);
  meet(c, rank, values.data(), ready, [&](const std::vector<const void*>& all) {
    for (const void* p : all) {
      const auto* theirs = static_cast<const int64_t*>(p);
      for (size_t i = 0; i < total.size(); ++i) total[i] += theirs[i];
    }
  });
  return total;
}

void LocalCommunicator::abort() {
  const std::lock_guard lock(mutex_);
  aborted_ = true;
  changed_.notify_all();
}

}  // namespace rehearse
