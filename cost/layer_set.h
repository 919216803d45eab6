#pragma once
// Some of a model's layers, by their numbers: those without experts, those with a window.

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace rehearse {

class LayerSet {
 public:
  LayerSet() = default;
  // The first `count` layers.
  static LayerSet leading(int64_t count);
  void insert(int64_t layer);

  bool contains(int64_t layer) const;
  int64_t count() const;
  // Of those below `end`.
  int64_t count_below(int64_t end) const;
  bool empty() const { return runs_.empty(); }
  // The highest, -1 where there is none.
  int64_t last() const { return runs_.empty() ? -1 : runs_.back().last; }
  // Whether these are the first count() layers.
  bool is_leading() const;

  // "0-2,5,7", "none".
  std::string print() const;
  // Empty where `text` is not what print() gives.
  static std::optional<LayerSet> parse(std::string_view text);

  bool operator==(const LayerSet&) const = default;

 private:
  struct Run {
    int64_t first = 0, last = 0;
    bool operator==(const Run&) const = default;
  };
  std::vector<Run> runs_;  // ascending, with a gap between any two
};

}  // namespace rehearse
