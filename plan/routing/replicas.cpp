#include "plan/routing/replicas.h"

#include <algorithm>
#include <numeric>

#include <fmt/format.h>
#include <fmt/ranges.h>
#include <nlohmann/json.hpp>

#include "base/errors.h"
#include "base/file.h"
#include "base/json_error.h"

namespace rehearse {

std::vector<std::vector<int32_t>> Placement::slots_of() const {
  std::vector<std::vector<int32_t>> all(static_cast<size_t>(experts));
  for (size_t s = 0; s < expert_of.size(); ++s) {
    all[static_cast<size_t>(expert_of[s])].push_back(static_cast<int32_t>(s));
  }
  return all;
}

Placement Placement::in_order(int64_t experts, int64_t ranks) {
  Placement p{.experts = experts, .slots = experts / ranks, .expert_of = {}};
  p.expert_of.resize(static_cast<size_t>(experts));
  std::iota(p.expert_of.begin(), p.expert_of.end(), 0);
  return p;
}

std::string why_not(const Placement& p) {
  std::vector<char> seen(static_cast<size_t>(p.experts), 0);
  for (size_t s = 0; s < p.expert_of.size(); ++s) {
    const int32_t e = p.expert_of[s];
    if (e < 0 || e >= p.experts) {
      return fmt::format("slot {} holds expert {}; there are {}", s, e, p.experts);
    }
    seen[static_cast<size_t>(e)] = 1;
  }
  const auto none = std::ranges::find(seen, 0);
  if (none != seen.end()) return fmt::format("expert {} is on no rank", none - seen.begin());
  return "";
}

std::vector<Placement> read_placement(const std::string& path, int64_t experts, int64_t ranks) {
  using Json = nlohmann::json;
  Json j;
  try {
    j = Json::parse(read_file(path));
  } catch (const Json::exception& e) {
    fail_json(path, "is not JSON", e);
  }
  const auto fail = [&](const std::string& where, const std::string& what) {
    throw InputError(fmt::format("{}: {}{}", path, where, what));
  };
  constexpr const char* kExpected =
      "expected a list of experts, one per slot, or a list of such lists, one per layer";
  if (!j.is_array() || j.empty()) fail("", kExpected);
  const bool by_layer = j.front().is_array();
  std::vector<Placement> all;
  const auto add = [&](const Json& map, const std::string& where) {
    if (!map.is_array() || map.empty()) fail(where, kExpected);
    const auto size = static_cast<int64_t>(map.size());
    if (size % ranks != 0 || size < experts) {
      fail(where,
           fmt::format("{} slots; expected a multiple of the {} ranks that hold a layer's experts, "
                       "at least the {} experts",
                       size,
                       ranks,
                       experts));
    }
    Placement p{.experts = experts, .slots = size / ranks, .expert_of = {}};
    for (size_t s = 0; s < map.size(); ++s) {
      if (!map[s].is_number_integer()) {
        fail(where, fmt::format("slot {} is {}; expected an expert's number", s, map[s].dump()));
      }
      const auto e = map[s].get<int64_t>();
      p.expert_of.push_back(static_cast<int32_t>(std::clamp<int64_t>(e, -1, INT32_MAX)));
    }
    if (const std::string wrong = why_not(p); !wrong.empty()) fail(where, wrong);
    all.push_back(std::move(p));
  };
  if (!by_layer) {
    add(j, "");
    return all;
  }
  for (size_t l = 0; l < j.size(); ++l) {
    add(j[l], fmt::format("layer {}: ", l));
    if (all.back().slots != all.front().slots) {
      fail(fmt::format("layer {}: ", l), "has another number of slots than the first");
    }
  }
  return all;
}

std::string print_placement(const std::vector<Placement>& layers) {
  std::string text = "[";
  for (size_t l = 0; l < layers.size(); ++l) {
    text += fmt::format("{}[{}]", l == 0 ? "" : ",\n", fmt::join(layers[l].expert_of, ","));
  }
  return text + "]\n";
}

std::vector<double> rank_loads(const Placement& p, const std::vector<double>& loads) {
  std::vector<double> replicas(static_cast<size_t>(p.experts), 0);
  for (const int32_t e : p.expert_of) ++replicas[static_cast<size_t>(e)];
  std::vector<double> ranks(static_cast<size_t>(p.ranks()), 0);
  for (size_t s = 0; s < p.expert_of.size(); ++s) {
    const auto e = static_cast<size_t>(p.expert_of[s]);
    ranks[s / static_cast<size_t>(p.slots)] += loads[e] / replicas[e];
  }
  return ranks;
}

double imbalance(const std::vector<double>& loads) {
  const double sum = std::accumulate(loads.begin(), loads.end(), 0.0);
  return sum == 0 ? 1 : *std::ranges::max_element(loads) * static_cast<double>(loads.size()) / sum;
}

}  // namespace rehearse
