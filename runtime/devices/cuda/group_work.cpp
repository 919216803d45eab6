#include "runtime/devices/cuda/group_work.h"

#include "base/errors.h"

namespace rehearse {

void GroupWork::join(
    size_t size, size_t index, int64_t first_rank, uint64_t key, std::unique_ptr<GroupPart> part) {
  const int32_t lane = order_.current();
  Meeting& m = meetings_[{first_rank, key}];
  m.members.resize(size);
  m.parts.resize(size);
  CHECK(m.parts[index] == nullptr) << "member " << index << " comes twice: " << gpu_.name();
  m.members[index] = {lane, gpu_.name(), order_.snapshot()};
  m.parts[index] = std::move(part);
  order_.advance();  // what the lane gives back from now on is later than what it waited for
  if (++m.came < size) {
    gpu_.hold(lane);
    return;
  }
  all_have_come(m);
  meetings_.erase({first_rank, key});
}

void GroupWork::all_have_come(Meeting& m) {
  const int32_t last = order_.current();
  const std::string name = gpu_.name();
  const int stages = m.parts.front()->stages();
  for (int s = 0; s <= stages; ++s) {
    wait_for_each_other(m, s);
    for (size_t i = 0; i < m.members.size(); ++i) {
      Gpu& card = gpu_.card_on(m.members[i].lane, m.members[i].name);
      if (s == 0) ready_(card, m.members[i].lane);
      if (s < stages) m.parts[i]->stage(s, card, m.parts);
    }
  }
  for (size_t i = 0; i < m.members.size(); ++i) {
    order_.set_current(m.members[i].lane);
    for (const Member& other : m.members) order_.wait(other.there);
    m.parts[i].reset();  // its scratch, given back on its lane
  }
  for (const Member& member : m.members) {
    if (member.lane != last) gpu_.let_go(member.lane);
  }
  order_.set_current(last);
  gpu_.on(last, name);
}

void GroupWork::wait_for_each_other(const Meeting& m, int stage) {
  if (m.members.size() == 1) return;
  const int64_t first = next_event_;
  next_event_ += std::ssize(m.members);
  for (size_t i = 0; i < m.members.size(); ++i) {
    gpu_.card_on(m.members[i].lane, m.members[i].name).record(first + static_cast<int64_t>(i));
  }
  for (size_t i = 0; i < m.members.size(); ++i) {
    Gpu& card = gpu_.card_on(m.members[i].lane, m.members[i].name);
    for (size_t j = 0; j < m.members.size(); ++j) {
      if (i != j && m.parts[i]->waits_for(stage, j)) card.wait(first + static_cast<int64_t>(j));
    }
  }
}

}  // namespace rehearse
