#pragma once
// Who has which part of a flat array.

#include <algorithm>
#include <cstdint>

namespace rehearse {

// A contiguous share of an array: member `index` of `count` owns [begin, end).
struct Shard {
  int64_t begin = 0;
  int64_t end = 0;
};
inline Shard shard_of(int64_t size, int64_t index, int64_t count) {
  const int64_t each = (size + count - 1) / count;
  return {std::min(size, index * each), std::min(size, (index + 1) * each)};
}

}  // namespace rehearse
