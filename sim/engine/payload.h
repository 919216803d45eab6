#pragma once
// What an event carries, in 63 bits: who takes it, the walk or the work (sim/engine/walk.h), in the
// lowest bits; of the work a kind in the next; and a value, or two halves of one.

#include <cstdint>

namespace rehearse::payload {

enum class Owner : uint8_t {
  kWork,        // Work::event
  kWalkOp,      // the walk: an op may start
  kWalkMeeting  // the walk: a collective's members have met
};

constexpr int kOwnerBits = 2;
constexpr int kKindBits = 4;
constexpr int kHalfBits = 32;  // of a value's lower half

constexpr uint64_t of_walk(Owner owner, int64_t op) {
  return static_cast<uint64_t>(op) << kOwnerBits | static_cast<uint64_t>(owner);
}
// Kind: an enum of at most 2^kKindBits values.
template <typename Kind>
constexpr uint64_t of_work(Kind kind, uint64_t value) {
  return (value << kKindBits | static_cast<uint64_t>(kind)) << kOwnerBits;
}
template <typename Kind>
constexpr uint64_t of_work(Kind kind, uint64_t high, uint64_t low) {
  return of_work(kind, high << kHalfBits | low);
}

constexpr Owner owner(uint64_t payload) {
  return static_cast<Owner>(payload & ((1U << kOwnerBits) - 1));
}
constexpr int64_t walk_op(uint64_t payload) {
  return static_cast<int64_t>(payload >> kOwnerBits);
}
template <typename Kind>
constexpr Kind kind(uint64_t payload) {
  return static_cast<Kind>(payload >> kOwnerBits & ((1U << kKindBits) - 1));
}
constexpr uint64_t value(uint64_t payload) {
  return payload >> (kOwnerBits + kKindBits);
}
constexpr uint64_t high(uint64_t payload) {
  return value(payload) >> kHalfBits;
}
constexpr uint64_t low(uint64_t payload) {
  return value(payload) & ((uint64_t{1} << kHalfBits) - 1);
}

}  // namespace rehearse::payload
