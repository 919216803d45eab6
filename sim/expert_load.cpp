#include "sim/expert_load.h"

#include <algorithm>
#include <cmath>
#include <numbers>

#include <fmt/format.h>

#include "base/random.h"
#include "plan/routing/expected.h"
#include "plan/routing/routing_file.h"

namespace rehearse {
namespace {

double uniform(uint64_t x) {  // in (0, 1)
  return (static_cast<double>(x >> 11) + 0.5) * 0x1.0p-53;
}

// Sources that the library holds: enough that two all-to-alls never draw the same ones.
constexpr size_t kLibrary = 128;
// Counts that are kept: what a few layers of all stages have under way.
constexpr size_t kKept = 512;

// Chooses experts by scores, as the gate does.
class Chooser {
 public:
  explicit Chooser(const Architecture& a)
      : a_(a), size_(a.experts / a.groups), groups_(static_cast<size_t>(a.groups)) {}

  void choose(std::span<const float> scores, std::span<int32_t> chosen) {
    for (int64_t g = 0; g < a_.groups; ++g) {
      float first = -INFINITY;
      float second = -INFINITY;
      for (int64_t e = g * size_; e < (g + 1) * size_; ++e) {
        const float s = scores[static_cast<size_t>(e)];
        second = std::max(second, std::min(first, s));
        first = std::max(first, s);
      }
      groups_[static_cast<size_t>(g)] = {size_ > 1 ? first + second : first, g};
    }
    std::partial_sort(groups_.begin(),
                      groups_.begin() + static_cast<ptrdiff_t>(a_.kept_groups),
                      groups_.end(),
                      std::greater<>());
    candidates_.clear();
    for (int64_t k = 0; k < a_.kept_groups; ++k) {
      const int64_t g = groups_[static_cast<size_t>(k)].second;
      for (int64_t e = g * size_; e < (g + 1) * size_; ++e) {
        candidates_.emplace_back(scores[static_cast<size_t>(e)], static_cast<int32_t>(e));
      }
    }
    std::nth_element(candidates_.begin(),
                     candidates_.begin() + static_cast<ptrdiff_t>(chosen.size()) - 1,
                     candidates_.end(),
                     std::greater<>());
    for (size_t i = 0; i < chosen.size(); ++i) chosen[i] = candidates_[i].second;
  }

 private:
  const Architecture& a_;
  int64_t size_;
  std::vector<std::pair<float, int64_t>> groups_;
  std::vector<std::pair<float, int32_t>> candidates_;
};

// Empty when recorded routing is of a model like this; else what differs.
std::string differs(const RoutingShape& recorded, const Architecture& a) {
  const auto differ = [](std::string_view what, int64_t there, int64_t here) {
    return fmt::format("was recorded with {} {}, the model has {}", there, what, here);
  };
  if (recorded.experts != a.experts) return differ("experts", recorded.experts, a.experts);
  if (recorded.active != a.active_experts) {
    return differ("active experts", recorded.active, a.active_experts);
  }
  const int64_t layers = a.layers - a.dense_layers();
  // MTP modules' are there or not.
  if (recorded.layers != layers && recorded.layers != layers + a.mtp_depth) {
    return differ("layers with experts", recorded.layers, layers);
  }
  return "";
}

// Throws at the first token whose experts stand in more groups than the model lets it keep.
void require_kept_groups(const std::vector<int32_t>& choices,
                         const Architecture& a,
                         const ExpertLoadSpec& spec,
                         int64_t micro_batch,
                         int64_t layer) {
  if (a.kept_groups >= a.groups) return;
  const int64_t size = a.experts / a.groups;
  std::vector<int64_t> seen_by(static_cast<size_t>(a.groups), -1);  // the last token there
  const auto tokens = static_cast<int64_t>(choices.size()) / a.active_experts;
  for (int64_t token = 0; token < tokens; ++token) {
    int64_t groups = 0;
    for (int64_t i = token * a.active_experts; i < (token + 1) * a.active_experts; ++i) {
      int64_t& seen = seen_by[static_cast<size_t>(choices[static_cast<size_t>(i)] / size)];
      groups += seen != token;
      seen = token;
    }
    if (groups <= a.kept_groups) continue;
    spec.recorded_at.fail(
        "expert_load.file",
        fmt::format("'{}': token {} of micro-batch {} of layer {} chooses experts of {} groups; "
                    "the model keeps {} of {}",
                    spec.recorded,
                    token,
                    micro_batch,
                    layer,
                    groups,
                    a.kept_groups,
                    a.groups));
  }
}

}  // namespace

bool replays_exactly(const Plan& plan, const RoutingShape& recorded) {
  return recorded.tokens == plan.micro_batch_tokens() && plan.layout.token_ranks() == 1 &&
         recorded.micro_batches == plan.layout.dp * plan.training.micro_batches;
}

ExpertLoad::ExpertLoad(const Plan& plan, const ReplayedRouting* replay)
    : spec_(plan.expert_load),
      group_(plan, 0, 0),
      layout_(plan.layout),
      micro_batches_(plan.training.micro_batches),
      experts_(plan.model.architecture.experts) {
  if (replay != nullptr && experts_ > 0) {
    first_layer_ = static_cast<int32_t>(plan.model.architecture.first_moe_layer());
    architecture_ = plan.model.architecture;
    spec_ = {.recorded = "replayed", .seed = spec_.seed, .varies = LoadVaries::kMicroBatch};
    replay_library(plan, *replay);
  } else if (experts_ == 0) {
    known_.emplace(0, GroupLoad{.flows = {}, .members = {MemberLoad{}}, .symmetric = true});
  } else if (spec_.balanced()) {
    known_.emplace(0,
                   plan.cluster.of_gpus() ? expected_load(plan, group_)
                                          : group_load(0, group_, balanced_routing(plan, group_)));
  } else {
    first_layer_ = static_cast<int32_t>(plan.model.architecture.first_moe_layer());
    architecture_ = plan.model.architecture;
    spec_.synthetic ? draw_library(plan) : read_library(plan);
    if (uniform()) {
      known_.emplace(0, make(0, first_layer_, 0, 0, split_mix(static_cast<uint64_t>(spec_.seed))));
    }
  }
}

void ExpertLoad::draw_library(const Plan& plan) {
  const Architecture& a = plan.model.architecture;
  const auto experts = static_cast<size_t>(a.experts);
  uint64_t state = split_mix(static_cast<uint64_t>(spec_.seed) ^ 0x6c62272e07bb0142ULL);
  const auto next = [&] { return state = split_mix(state); };
  std::vector<float> popularity(experts);
  for (float& p : popularity) {
    const double radius = std::sqrt(-2 * std::log(rehearse::uniform(next())));
    p = static_cast<float>(spec_.skew * radius *
                           std::cos(2 * std::numbers::pi * rehearse::uniform(next())));
  }
  const std::vector<float>& gumbel = gumbel_table();
  auto library = std::make_unique<std::vector<Source>>();
  const auto active = static_cast<size_t>(a.active_experts);
  const auto tokens = static_cast<size_t>(plan.micro_batch_tokens());
  // A long micro-batch's counts are those of fewer tokens, scaled: drawing more would not change
  // their relative spread by anything that shows.
  constexpr size_t kDrawn = 4096;
  const size_t drawn = std::min(tokens, kDrawn);
  std::vector<float> scores(experts);
  std::vector<int32_t> chosen(drawn * active);
  Chooser gate(a);
  for (size_t s = 0; s < kLibrary; ++s) {
    for (size_t t = 0; t < drawn; ++t) {
      uint64_t bits = 0;
      for (size_t e = 0; e < experts; ++e) {
        if (e % 4 == 0) bits = next();
        scores[e] = popularity[e] + gumbel[bits & 0xffff];
        bits >>= 16;
      }
      gate.choose(scores, std::span(chosen).subspan(t * active, active));
    }
    library->push_back(count(plan, chosen, static_cast<int64_t>(drawn)));
  }
  library_ = std::make_shared<const std::vector<std::vector<Source>>>(1, std::move(*library));
}

// What is recorded, layer by layer, counted as it is read.
void ExpertLoad::read_library(const Plan& plan) {
  const RoutingReader reader(spec_.recorded);
  const RoutingShape& shape = reader.shape();
  if (const std::string other = differs(shape, plan.model.architecture); !other.empty()) {
    spec_.recorded_at.fail("expert_load.file", fmt::format("'{}' {}", spec_.recorded, other));
  }
  std::vector<std::vector<Source>> library(static_cast<size_t>(shape.layers));
  const std::vector<Placement> placements = placements_of(plan);
  const int64_t used = std::min<int64_t>(shape.micro_batches * shape.steps, kLibrary);
  for (int64_t layer = 0; layer < shape.layers; ++layer) {
    const Placement* const placed = placement_of(placements, layer);
    const auto slots = placed == nullptr ? std::vector<std::vector<int32_t>>() : placed->slots_of();
    for (int64_t m = 0; m < used; ++m) {
      std::vector<int32_t> choices =
          reader.read(m % shape.micro_batches, layer, m / shape.micro_batches);
      require_kept_groups(choices, plan.model.architecture, spec_, m, layer);
      if (placed != nullptr) {
        for (int32_t& c : choices) c = slots[static_cast<size_t>(c)].front();
      }
      library[static_cast<size_t>(layer)].push_back(count(plan, choices, shape.tokens));
    }
  }
  library_ = std::make_shared<const std::vector<std::vector<Source>>>(std::move(library));
}

void ExpertLoad::replay_library(const Plan& plan, const ReplayedRouting& replay) {
  const RecordedStep& step = *replay.step;
  const RoutingShape& shape = step.shape;
  const Architecture& a = plan.model.architecture;
  if (const std::string other = differs(shape, a); !other.empty()) {
    throw InputError(fmt::format("{}: the trace {}", plan.path, other));
  }
  exact_ = replays_exactly(plan, shape);
  const int64_t used =
      exact_ ? shape.micro_batches : std::min<int64_t>(shape.micro_batches, kLibrary);
  std::vector<std::vector<Source>> library(static_cast<size_t>(shape.layers));
  std::vector<int32_t> slots(static_cast<size_t>(shape.choices()));
  for (int64_t layer = 0; layer < shape.layers; ++layer) {
    const Placement in_order = Placement::in_order(a.experts, plan.layout.ep);
    const Placement& placement =
        replay.placements.empty()
            ? in_order
            : replay.placements[replay.placements.size() == 1 ? 0 : static_cast<size_t>(layer)];
    CHECK(placement.ranks() == plan.layout.ep) << placement.ranks() << " ranks";
    group_.experts_per_member = placement.slots;
    const auto slots_of = placement.slots_of();
    for (int64_t m = 0; m < used; ++m) {
      choose_slots(placement, slots_of, replay.replicas, step.of(m, layer), slots);
      library[static_cast<size_t>(layer)].push_back(count(plan, slots, shape.tokens));
    }
  }
  library_ = std::make_shared<const std::vector<std::vector<Source>>>(std::move(library));
}

// `tokens` that chose so, as many as a micro-batch has.
ExpertLoad::Source ExpertLoad::count(const Plan& plan,
                                     std::span<const int32_t> choices,
                                     int64_t counted) const {
  const Architecture& a = plan.model.architecture;
  const int64_t tokens = plan.micro_batch_tokens();
  const RoutingCounts one =
      count_routing(group_, group_.size * group_.experts_per_member, a.active_experts, {choices});
  const auto scaled = [&](const std::vector<int64_t>& counts) {
    std::vector<int32_t> all;
    for (const int64_t c : counts) {
      all.push_back(static_cast<int32_t>((c * tokens + counted / 2) / counted));
    }
    return all;
  };
  return {scaled(one.to_node.front()), scaled(one.to_rank.front()), scaled(one.rows.front())};
}

GroupLoad ExpertLoad::make(
    int64_t id, int32_t layer, int64_t micro_batch, int64_t group, uint64_t seed) const {
  const auto nodes = static_cast<size_t>(group_.nodes);
  const auto positions = static_cast<size_t>(group_.per_node);
  const auto per_member = static_cast<size_t>(group_.experts_per_member);
  // One load for all layers is drawn as it comes; drawn layers differ in where hot experts stand.
  const uint64_t turn = uniform() ? 0 : split_mix(static_cast<uint64_t>(layer));
  const size_t turn_node = spec_.synthetic ? split_mix(turn) % nodes : 0;
  const size_t turn_position = spec_.synthetic ? split_mix(turn + 1) % positions : 0;
  const auto place = static_cast<size_t>(architecture_.moe_layers_before(layer));
  const std::vector<Source>& library = (*library_)[std::min(place, library_->size() - 1)];
  RoutingCounts counts;
  for (int64_t src = 0; src < group_.size; ++src) {
    const int64_t first = layout_.first_of_group(group);
    const int64_t data_rank = layout_.expert_group().member(first, src);
    const Source& drawn =
        library[exact_ ? static_cast<size_t>(data_rank * micro_batches_ + micro_batch)
                       : split_mix(seed + static_cast<uint64_t>(src)) % library.size()];
    std::vector<int64_t> to_node(nodes), to_rank(nodes * positions), rows(drawn.rows.size());
    for (size_t n = 0; n < nodes; ++n) {
      const size_t node = (n + turn_node) % nodes;
      to_node[node] = drawn.to_node[n];
      for (size_t p = 0; p < positions; ++p) {
        const size_t from = n * positions + p;
        const size_t to = node * positions + (p + turn_position) % positions;
        to_rank[to] = drawn.to_rank[from];
        std::copy_n(drawn.rows.begin() + static_cast<ptrdiff_t>(from * per_member),
                    per_member,
                    rows.begin() + static_cast<ptrdiff_t>(to * per_member));
      }
    }
    counts.to_node.push_back(std::move(to_node));
    counts.to_rank.push_back(std::move(to_rank));
    counts.rows.push_back(std::move(rows));
  }
  return group_load(id, group_, counts);
}

const GroupLoad& ExpertLoad::of(int32_t layer, int32_t micro_batch, int64_t group) {
  if (uniform() || experts_ == 0) return known_.at(0);
  int64_t id = layer;
  if (spec_.varies == LoadVaries::kMicroBatch) {
    id = (id << 44) | (static_cast<int64_t>(micro_batch) << 24) | group;
  }
  const auto found = known_.find(id);
  if (found != known_.end()) return found->second;
  if (order_.size() >= kKept) {
    known_.erase(order_.front());
    order_.pop_front();
  }
  order_.push_back(id);
  const uint64_t seed =
      split_mix(static_cast<uint64_t>(id) ^ split_mix(static_cast<uint64_t>(spec_.seed)));
  return known_.emplace(id, make(id, layer, micro_batch, group, seed)).first->second;
}

}  // namespace rehearse
