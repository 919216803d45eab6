#include "runtime/communicators/local/local_communicator.h"

#include <algorithm>
#include <future>
#include <numeric>

#include "base/errors.h"
#include "plan/program/op_work.h"

namespace rehearse {
namespace {

// Tells the messages of collectives from those of pipelines.
constexpr uint64_t kCollectiveTag = uint64_t{1} << 63;

}  // namespace

LocalCommunicator::LocalCommunicator(int64_t ranks, std::unique_ptr<LinkShaper> links)
    : ranks_(static_cast<size_t>(ranks)),
      mailboxes_(static_cast<size_t>(ranks)),
      links_(std::move(links)) {
  std::iota(ranks_.begin(), ranks_.end(), 0);
}

void LocalCommunicator::wait(std::unique_lock<std::mutex>& lock,
                             const std::function<bool()>& condition) {
  changed_.wait(lock, [&] { return aborted_ || condition(); });
  if (aborted_) throw RunAborted();
}

void LocalCommunicator::post(
    int64_t from, int64_t to, uint64_t tag, Message message, std::function<void()> sent) {
  Mailbox& box = mailboxes_[static_cast<size_t>(to)];
  const Bytes size = message.bytes();
  Posted* posted = nullptr;
  {
    const std::lock_guard lock(box.mutex);
    if (box.aborted) throw RunAborted();
    auto& queue = box.messages[{from, tag}];
    queue.push_back({.message = std::move(message), .delivered = links_ == nullptr});
    posted = &queue.back();
  }
  box.changed.notify_all();
  if (links_ == nullptr) return;
  links_->transfer(from, to, size, [&box, posted, sent = std::move(sent)] {
    {
      const std::lock_guard lock(box.mutex);
      posted->delivered = true;
    }
    box.changed.notify_all();
    if (sent) sent();
  });
}

void LocalCommunicator::wait_posted(int64_t from, int64_t to, uint64_t tag) {
  Mailbox& box = mailboxes_[static_cast<size_t>(to)];
  std::unique_lock lock(box.mutex);
  box.changed.wait(lock, [&] { return box.aborted || box.messages.contains({from, tag}); });
  if (box.aborted) throw RunAborted();
}

Message LocalCommunicator::take(int64_t from, int64_t to, uint64_t tag) {
  Mailbox& box = mailboxes_[static_cast<size_t>(to)];
  std::unique_lock lock(box.mutex);
  box.changed.wait(lock, [&] {
    const auto queue = box.messages.find({from, tag});
    return box.aborted || (queue != box.messages.end() && queue->second.front().delivered);
  });
  if (box.aborted) throw RunAborted();
  const auto queue = box.messages.find({from, tag});
  Message message = std::move(queue->second.front().message);
  queue->second.pop_front();
  if (queue->second.empty()) box.messages.erase(queue);
  return message;
}

void LocalCommunicator::send(int64_t from, int64_t to, uint64_t tag, const ConstArray& data) {
  // On an emulated link the sender's lane is busy until the message is there.
  const auto there = std::make_shared<std::promise<void>>();
  post(from, to, tag, Message(data), [there] { there->set_value(); });
  if (links_ != nullptr) there->get_future().wait();
}

void LocalCommunicator::recv(
    int64_t from, int64_t to, uint64_t tag, const Array& data, const Ready& ready) {
  const Message message = take(from, to, tag);
  ready();
  CHECK(message.extent() == data.extent)
      << "a message of " << to_string(message.extent()) << " from rank " << from << ", expected "
      << to_string(data.extent);
  copy(message.array(), data);
}

void LocalCommunicator::travel_ring(const Collective& c, int64_t rank, const Extent& extent) {
  if (links_ == nullptr || c.members.size() < 2) return;
  const auto members = static_cast<int64_t>(c.members.size());
  const int64_t next = c.members[(index_of(c, rank) + 1) % c.members.size()];
  const Bytes size = ring_bytes(shard_units(extent), members, shard_unit_bytes(extent));
  const auto there = std::make_shared<std::promise<void>>();
  links_->transfer(rank, next, size, [there] { there->set_value(); });
  there->get_future().wait();
}

Shard LocalCommunicator::shard_of_member(const Collective& c, const Extent& extent, size_t member) {
  return shard_of(
      shard_units(extent), static_cast<int64_t>(member), static_cast<int64_t>(c.members.size()));
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
                                       const Array& data,
                                       const Ready& ready) {
  const Extent& extent = data.extent;
  CHECK(!is_scaled(extent.type)) << "FP8 cannot be summed, only sent and gathered: "
                                 << to_string(extent);
  const Shard mine = shard_of_member(c, extent, index_of(c, rank));
  const int64_t size = mine.end - mine.begin;
  meet(c, rank, &data, ready, [&](const std::vector<const void*>& all) {
    travel_ring(c, rank, extent);
    std::vector<ConstArray> copies;
    for (const void* p : all) {
      const auto& theirs = *static_cast<const Array*>(p);
      CHECK(theirs.extent == extent) << to_string(theirs.extent) << " beside " << to_string(extent);
      copies.push_back(part_of(ConstArray(theirs), mine.begin, size));
    }
    sum_in_order(copies, part_of(data, mine.begin, size));
  });
}

void LocalCommunicator::all_gather(const Collective& c,
                                   int64_t rank,
                                   const Array& data,
                                   const Ready& ready) {
  const size_t mine = index_of(c, rank);
  meet(c, rank, &data, ready, [&](const std::vector<const void*>& all) {
    travel_ring(c, rank, data.extent);
    for (size_t i = 0; i < all.size(); ++i) {
      if (i == mine) continue;
      const auto& theirs = *static_cast<const Array*>(all[i]);
      CHECK(theirs.extent == data.extent)
          << to_string(theirs.extent) << " beside " << to_string(data.extent);
      const Shard s = shard_of_member(c, data.extent, i);
      copy(part_of(ConstArray(theirs), s.begin, s.end - s.begin),
           part_of(data, s.begin, s.end - s.begin));
    }
  });
}

void LocalCommunicator::all_reduce(const Collective& c,
                                   int64_t rank,
                                   const Array& data,
                                   const Ready& ready) {
  reduce_scatter(c, rank, data, ready);
  all_gather({c.members, c.key + 1}, rank, data, [] {});
}

void LocalCommunicator::barrier(const Collective& c, int64_t rank, const Ready& ready) {
  meet(c, rank, nullptr, ready, [](const std::vector<const void*>&) {});
}

std::vector<Message> LocalCommunicator::all_to_all(const Collective& c,
                                                   int64_t rank,
                                                   std::vector<Message> outgoing,
                                                   const Ready& ready) {
  const size_t me = index_of(c, rank);
  CHECK(outgoing.size() == c.members.size()) << outgoing.size() << " messages";
  std::vector<Message> incoming(outgoing.size());
  incoming[me] = std::move(outgoing[me]);
  const uint64_t tag = kCollectiveTag | c.key;
  for (size_t i = 0; i < outgoing.size(); ++i) {
    if (i != me) post(rank, c.members[i], tag, std::move(outgoing[i]), {});
  }
  // Skew between ranks is waiting: the op begins when everybody has come.
  for (size_t i = 0; i < incoming.size(); ++i) {
    if (i != me) wait_posted(c.members[i], rank, tag);
  }
  ready();
  for (size_t i = 0; i < incoming.size(); ++i) {
    if (i != me) incoming[i] = take(c.members[i], rank, tag);
  }
  return incoming;
}

void LocalCommunicator::abort() {
  for (Mailbox& box : mailboxes_) {
    const std::lock_guard lock(box.mutex);
    box.aborted = true;
    box.changed.notify_all();
  }
  const std::lock_guard lock(mutex_);
  aborted_ = true;
  changed_.notify_all();
}

}  // namespace rehearse
