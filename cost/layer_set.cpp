#include "cost/layer_set.h"

#include <algorithm>
#include <charconv>

#include <fmt/format.h>

namespace rehearse {

LayerSet LayerSet::leading(int64_t count) {
  LayerSet s;
  if (count > 0) s.runs_.push_back({0, count - 1});
  return s;
}

void LayerSet::insert(int64_t layer) {
  // The first run that ends at or behind the layer before it.
  auto at = std::ranges::lower_bound(runs_, layer - 1, {}, &Run::last);
  if (at == runs_.end() || at->first > layer + 1) {
    runs_.insert(at, {layer, layer});
    return;
  }
  at->first = std::min(at->first, layer);
  at->last = std::max(at->last, layer);
  const auto next = at + 1;
  if (next != runs_.end() && next->first == at->last + 1) {
    at->last = next->last;
    runs_.erase(next);
  }
}

bool LayerSet::contains(int64_t layer) const {
  const auto at = std::ranges::lower_bound(runs_, layer, {}, &Run::last);
  return at != runs_.end() && at->first <= layer;
}

int64_t LayerSet::count_below(int64_t end) const {
  int64_t sum = 0;
  for (const Run& r : runs_) sum += std::max<int64_t>(0, std::min(r.last + 1, end) - r.first);
  return sum;
}
int64_t LayerSet::count() const {
  return count_below(last() + 1);
}

bool LayerSet::is_leading() const {
  return runs_.empty() || (runs_.size() == 1 && runs_.front().first == 0);
}

std::string LayerSet::print() const {
  if (runs_.empty()) return "none";
  std::string out;
  for (const Run& r : runs_) {
    if (!out.empty()) out += ",";
    out += r.first == r.last ? std::to_string(r.first) : fmt::format("{}-{}", r.first, r.last);
  }
  return out;
}

std::optional<LayerSet> LayerSet::parse(std::string_view text) {
  LayerSet s;
  if (text == "none") return s;
  const char* at = text.data();
  const char* const end = at + text.size();
  const auto number = [&]() -> std::optional<int64_t> {
    int64_t value = 0;
    const auto read = std::from_chars(at, end, value);
    if (read.ec != std::errc() || value < 0 || value > 1'000'000) return std::nullopt;
    at = read.ptr;
    return value;
  };
  for (;;) {
    const auto first = number();
    auto last = first;
    if (first && at != end && *at == '-') {
      ++at;
      last = number();
    }
    if (!first || !last || *last < *first) return std::nullopt;
    s.runs_.push_back({*first, *last});
    if (at == end) break;
    if (*at++ != ',') return std::nullopt;
  }
  for (size_t i = 1; i < s.runs_.size(); ++i) {
    if (s.runs_[i].first <= s.runs_[i - 1].last + 1) return std::nullopt;
  }
  return s.print() == text ? std::optional(s) : std::nullopt;
}

}  // namespace rehearse
