#include "cli/replay_page.h"

#include <algorithm>
#include <functional>
#include <numeric>

#include <fmt/format.h>

#include "base/integers.h"

namespace rehearse::cli {
namespace {

// Three digits are more than a colour tells.
Value rounded(double x) {
  return {fmt::format("{:.3g}", x), std::stod(fmt::format("{:.3g}", x))};
}

void put_matrix(Report& page,
                const std::string& key,
                size_t rows,
                size_t columns,
                const std::function<double(size_t, size_t)>& at) {
  Report& m = page.section(key);
  m.put("rows", rows);
  m.put("columns", columns);
  std::vector<Value> values;
  for (size_t r = 0; r < rows; ++r) {
    for (size_t c = 0; c < columns; ++c) values.push_back(rounded(at(r, c)));
  }
  m.put("values", std::move(values));
}

}  // namespace

void ReplayPictures::add(const RecordedStep& step, const std::vector<LayerReplay>& layers) {
  tokens_.resize(layers.size());
  layers_.clear();
  worst_.emplace_back();
  numbers_.push_back(step.number);
  for (size_t l = 0; l < layers.size(); ++l) {
    const std::vector<int64_t> tokens = step.expert_tokens(static_cast<int64_t>(l));
    tokens_[l].resize(tokens.size());
    for (size_t e = 0; e < tokens.size(); ++e) tokens_[l][e] += static_cast<double>(tokens[e]);
    layers_.push_back(layers[l].layer);
    worst_.back().push_back(layers[l].experts.max);
  }
}

void ReplayPictures::put(Report& page, const Plan& plan) const {
  std::vector<Value> layers(layers_.begin(), layers_.end());
  page.put("layer_numbers", std::move(layers));
  put_matrix(page,
             "expert_load",
             tokens_.size(),
             tokens_.empty() ? 0 : tokens_.front().size(),
             [&](size_t l, size_t e) {
               const double sum = std::accumulate(tokens_[l].begin(), tokens_[l].end(), 0.0);
               return sum > 0 ? tokens_[l][e] * static_cast<double>(tokens_[l].size()) / sum : 0;
             });
  // Of very many steps some.
  constexpr size_t kMost = 400;
  const size_t stride = std::max<size_t>(1, (worst_.size() + kMost - 1) / kMost);
  const size_t shown = (worst_.size() + stride - 1) / stride;
  std::vector<Value> numbers;
  for (size_t i = 0; i < shown; ++i) numbers.emplace_back(numbers_[i * stride]);
  page.put("step_numbers", std::move(numbers));
  put_matrix(page, "load_over_time", tokens_.size(), shown, [&](size_t l, size_t i) {
    return worst_[i * stride][l];
  });
  // Of many ranks their nodes.
  constexpr int64_t kRanks = 128;
  const int64_t ep = traffic_.members();
  const int64_t together = ep > kRanks ? ExpertGroup(plan, 0, 0).per_node : 1;
  const auto count = static_cast<size_t>(ceil_div(ep, together));
  std::vector<double> bytes(count * count, 0);
  for (int64_t from = 0; from < ep; ++from) {
    for (int64_t to = 0; to < ep; ++to) {
      bytes[static_cast<size_t>(from / together) * count + static_cast<size_t>(to / together)] +=
          traffic_.at(from, to) / static_cast<double>(steps_);
    }
  }
  put_matrix(page, "traffic_bytes", count, count, [&](size_t r, size_t c) {
    return bytes[r * count + c];
  });
  page.put("traffic_between", together > 1 ? "nodes" : "ranks");
}

}  // namespace rehearse::cli
