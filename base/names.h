#pragma once
// The names of an enum's values, in one table per enum that is checked when it is compiled: entry i
// names value i, and no value is missing, so that a value that somebody adds cannot go without.

#include <array>
#include <optional>
#include <string>
#include <string_view>

#include "base/errors.h"

namespace rehearse {

template <typename E>
struct Named {
  E value;
  std::string_view name;
};

namespace internal {

// Whether some enumerator has the value V: compilers print the others as casts, "(E)15".
template <auto V>
constexpr bool is_enumerator() {
  constexpr std::string_view text = __PRETTY_FUNCTION__;
  return text[text.find("V = ") + 4] != '(';
}

}  // namespace internal

// Values must count from 0. Use, beside the enum's other functions:
//
//     constexpr NameTable kNames{std::to_array<Named<Lane>>({{Lane::kCompute, "compute"}, ...})};
//     static_assert(kNames.complete());
template <typename E, size_t N>
class NameTable {
 public:
  consteval explicit NameTable(const std::array<Named<E>, N>& entries) : entries_(entries) {
    for (size_t i = 0; i < N; ++i) {
      if (static_cast<size_t>(entries[i].value) != i) throw "entries must be in the enum's order";
    }
  }
  static constexpr size_t size() { return N; }
  // False when the enum has a value behind the last one of the table.
  template <typename Enum = E>
  static consteval bool complete() {
    return !internal::is_enumerator<static_cast<Enum>(N)>();
  }
  constexpr std::string_view operator[](E value) const {
    CHECK(static_cast<size_t>(value) < N) << "no name of value " << static_cast<int>(value);
    return entries_[static_cast<size_t>(value)].name;
  }
  constexpr std::optional<E> find(std::string_view name) const {
    for (const Named<E>& n : entries_) {
      if (n.name == name) return n.value;
    }
    return std::nullopt;
  }
  constexpr const std::array<Named<E>, N>& entries() const { return entries_; }
  // "a, b, c"
  std::string list() const {
    std::string text;
    for (const Named<E>& n : entries_) text += (text.empty() ? "" : ", ") + std::string(n.name);
    return text;
  }

 private:
  std::array<Named<E>, N> entries_;
};

}  // namespace rehearse
