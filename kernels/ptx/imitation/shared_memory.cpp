#include "kernels/ptx/imitation/shared_memory.h"

#include <algorithm>
#include <map>

namespace rehearse::kernels::imitation {

SharedMemory::SharedMemory(int bytes)
    : bytes_(static_cast<size_t>(bytes), 0xff), words_(static_cast<size_t>(bytes) / 4) {}

void SharedMemory::check_range(uint32_t address, uint32_t bytes) const {
  if (address % 4 != 0 || bytes % 4 != 0) {
    throw Conflict{"accesses shared memory that is not aligned to 4 bytes", address, {}, 0};
  }
  if (address < kBase || address - kBase + bytes > bytes_.size()) {
    throw Conflict{"accesses " + std::to_string(bytes) + " bytes outside the block's " +
                       std::to_string(bytes_.size()) + " of shared memory",
                   address,
                   {},
                   0};
  }
}

void SharedMemory::check_read(uint32_t w, const Access& access) const {
  const Word& word = words_[w];
  if (word.written.time == 0) {
    throw Conflict{"reads shared memory that nothing wrote", kBase + 4 * w, {}, 0};
  }
  if (!access.sight.all.has_seen(word.written)) {
    throw Conflict{"reads shared memory without a barrier after its write",
                   kBase + 4 * w,
                   word.written,
                   word.line};
  }
  if (access.async && !word.async && !access.sight.fenced.has_seen(word.written)) {
    throw Conflict{
        "reads by tensor core or copy engine what ordinary stores wrote, without "
        "fence_async_shared after them",
        kBase + 4 * w,
        word.written,
        word.line};
  }
}

void SharedMemory::look(uint32_t address, uint32_t bytes, const Access& access) {
  check_range(address, bytes);
  const uint32_t offset = address - kBase;
  for (uint32_t w = offset / 4; w < (offset + bytes) / 4; ++w) check_read(w, access);
}

// Who reads again is mostly among the last. Others stand twice until there are many.
void SharedMemory::note_reader(std::vector<Reader>& readers, const Reader& reader) {
  constexpr size_t kLast = 4;
  constexpr size_t kMany = 2048;
  const auto same = [&](const Reader& r) { return r.epoch.agent == reader.epoch.agent; };
  const size_t last = std::min(kLast, readers.size());
  const auto found =
      std::find_if(readers.rbegin(), readers.rbegin() + static_cast<long>(last), same);
  if (found != readers.rbegin() + static_cast<long>(last)) {
    *found = reader;
    return;
  }
  if (readers.size() >= kMany) {  // of each agent the last
    std::map<uint16_t, Reader> latest;
    for (const Reader& r : readers) latest[r.epoch.agent] = r;
    readers.clear();
    for (const auto& [agent, r] : latest) readers.push_back(r);
  }
  readers.push_back(reader);
}

const uint8_t* SharedMemory::read(uint32_t address, uint32_t bytes, const Access& access) {
  check_range(address, bytes);
  const uint32_t offset = address - kBase;
  for (uint32_t w = offset / 4; w < (offset + bytes) / 4; ++w) {
    check_read(w, access);
    Word& word = words_[w];
    note_reader(word.readers, {access.epoch, access.line});
  }
  return bytes_.data() + offset;
}

uint8_t* SharedMemory::write(uint32_t address, uint32_t bytes, const Access& access) {
  check_range(address, bytes);
  const uint32_t offset = address - kBase;
  for (uint32_t w = offset / 4; w < (offset + bytes) / 4; ++w) {
    Word& word = words_[w];
    if (!access.sight.all.has_seen(word.written)) {
      throw Conflict{"writes shared memory without a barrier after another write",
                     kBase + 4 * w,
                     word.written,
                     word.line};
    }
    for (const Reader& r : word.readers) {
      if (!access.sight.all.has_seen(r.epoch)) {
        throw Conflict{
            "writes shared memory that may still be read", kBase + 4 * w, r.epoch, r.line};
      }
    }
    word.written = access.epoch;
    word.line = access.line;
    word.async = access.async;
    word.readers.clear();
  }
  return bytes_.data() + offset;
}

}  // namespace rehearse::kernels::imitation
