// LocalRanks: what is held for every parameter, under Hugging Face's names, whatever the layout.

#include <algorithm>

#include <fmt/format.h>

#include "runtime/step/local_ranks.h"
#include "runtime/step/step_end.h"

namespace rehearse {
namespace {

// A parameter's tensors: gate_proj and up_proj stand in one matrix here, and so do q_proj, k_proj
// and v_proj of grouped-query attention.
struct Piece {
  std::string name;
  std::vector<int64_t> shape;
  int64_t offset = 0;  // in the parameter, elements
};

std::vector<Piece> pieces_of(const Architecture& a, const Parameter& p) {
  if (p.is_gain) return {{p.name + ".weight", {p.columns}, 0}};
  std::vector<Piece> pieces;
  // A matrix of this name as several, one's rows behind the other's.
  const auto cut = [&](std::string_view whole,
                       std::initializer_list<std::pair<std::string_view, int64_t>> parts) {
    if (!pieces.empty() || !p.name.ends_with(whole)) return;
    const std::string prefix = p.name.substr(0, p.name.size() - whole.size());
    int64_t row = 0;
    for (const auto& [name, rows] : parts) {
      pieces.push_back(
          {fmt::format("{}{}.weight", prefix, name), {rows, p.columns}, row * p.columns});
      row += rows;
    }
  };
  cut("gate_up_proj", {{"gate_proj", p.rows / 2}, {"up_proj", p.rows / 2}});
  cut("qkv_proj",
      {{"q_proj", a.heads * a.qk_head()},
       {"k_proj", a.kv_heads * a.qk_head()},
       {"v_proj", a.kv_heads * a.v_head}});
  if (pieces.empty()) pieces.push_back({p.name + ".weight", {p.rows, p.columns}, 0});
  return pieces;
}

std::string bias_name(int64_t layer) {
  return fmt::format("model.layers.{}.mlp.gate.e_score_correction_bias", layer);
}

// The moments' array, or the gradients' or weights': of these the masters.
FlatValues& values_of(Stage& s, StateKind kind, Arena arena) {
  switch (kind) {
    case StateKind::kWeights:
      if (FlatValues& master = s.master[static_cast<size_t>(arena)]; !master.empty()) return master;
      return s.weights.arena(arena);
    case StateKind::kGradients:
      return s.gradients.arena(arena);
    case StateKind::kFirstMoments:
      return s.m[static_cast<size_t>(arena)];
    case StateKind::kSecondMoments:
      return s.v[static_cast<size_t>(arena)];
    case StateKind::kAverages:
      return s.average[static_cast<size_t>(arena)];
  }
  return s.weights.arena(arena);
}

}  // namespace

std::vector<LocalRanks::Holder> LocalRanks::holders(int64_t stage) const {
  std::vector<Holder> all;
  for (const int64_t global : communicator_.local_ranks()) {
    RankState& rank = rank_at(global);
    for (size_t slot = 0; slot < rank.copies.size(); ++slot) {
      if (rank.copies[slot].index == stage) {
        all.push_back({plan_.layout.place_of(global), &rank.copies[slot]});
      }
    }
  }
  return all;
}

size_t LocalRanks::state(StateKind kind, std::vector<NamedTensor>& out, size_t at) const {
  const Layout& l = plan_.layout;
  CHECK(static_cast<int64_t>(communicator_.local_ranks().size()) == l.world())
      << "state of ranks on other processes";
  // The next tensor, whose values are undefined.
  const auto next = [&](Piece piece) -> NamedTensor& {
    if (at == out.size()) out.emplace_back();
    NamedTensor& t = out[at++];
    int64_t count = 1;
    for (const int64_t n : piece.shape) count *= n;
    t.values.resize(static_cast<size_t>(count));
    t.name = std::move(piece.name);
    t.shape = std::move(piece.shape);
    return t;
  };
  // Some of an arena's values, and where they begin in it.
  struct Part {
    const FlatValues* values = nullptr;
    Shard covers;
    int64_t origin = 0;
  };
  for (int64_t stage = 0; stage < l.stages(); ++stage) {
    const std::vector<Holder> of_stage = holders(stage);
    const auto add = [&](Arena arena, int64_t expert_index) {
      // Of the same weights: whole on each, or in shards.
      std::vector<Holder> same;
      for (const Holder& h : of_stage) {
        if (arena == Arena::kDense || l.expert_index_of(h.place.data_rank) == expert_index) {
          same.push_back(h);
        }
      }
      Stage& first = *same.front().stage;
      const FlatValues& own = values_of(first, kind, arena);
      const int64_t size = first.where.arena_size(arena);
      const bool weights = kind == StateKind::kWeights && own.size() == size;
      std::vector<Part> parts;
      if (weights || l.zero_stage == 0 || same.size() == 1) {
        parts.push_back({&own, {0, own.size()}, 0});  // before the first step none
      } else {
        for (const Holder& h : same) {
          const FlatValues& values = values_of(*h.stage, kind, arena);
          if (values.empty()) continue;
          const Shard shard = owned_shard(program_, h.place, *h.stage, arena);
          // Moments are a shard's; gradients an arena's, of which the shard is summed.
          parts.push_back({&values, shard, kind == StateKind::kGradients ? 0 : shard.begin});
        }
      }
      for (const Parameter& p : first.where.list) {
        if (p.arena != arena) continue;
        const bool copy = first.where.embedding_is_copy &&
                          &p == &first.where.list[static_cast<size_t>(*first.where.embedding)];
        if (copy) continue;  // the first stage's
        for (Piece& piece : pieces_of(plan_.model.architecture, p)) {
          const int64_t begin = p.offset + piece.offset;
          std::vector<float>& values = next(std::move(piece)).values;
          const int64_t end = begin + static_cast<int64_t>(values.size());
          int64_t copied = 0;
          for (const Part& part : parts) {
            const int64_t from = std::max(begin, part.covers.begin);
            const int64_t count = std::min(end, part.covers.end) - from;
            if (count <= 0) continue;
            part.values->get(from - part.origin,
                             std::span(values).subspan(static_cast<size_t>(from - begin),
                                                       static_cast<size_t>(count)));
            copied += count;
          }
          if (copied < end - begin) std::fill(values.begin(), values.end(), 0.0f);
        }
      }
    };
    add(Arena::kDense, 0);
    if (of_stage.front().stage->where.expert_size > 0) {
      for (int64_t e = 0; e < l.ep; ++e) add(Arena::kExpert, e);
    }
    if (kind != StateKind::kWeights) continue;
    const Stage& s = *of_stage.front().stage;
    for (size_t i = 0; i < s.expert_bias.size(); ++i) {
      const FlatValues& bias = s.expert_bias[i];
      if (bias.empty()) continue;
      const std::string name = bias_name(s.first_layer + static_cast<int64_t>(i));
      next({name, {bias.size()}, 0}).values = bias.get(0, bias.size());
    }
  }
  return at;
}

void LocalRanks::set_state(StateKind kind, const TensorLookup& lookup) {
  for (const int64_t global : communicator_.local_ranks()) {
    const Place place = plan_.layout.place_of(global);
    for (Stage& s : rank_at(global).copies) {
      for (const Arena arena : {Arena::kDense, Arena::kExpert}) {
        const int64_t size = s.where.arena_size(arena);
        const bool weights = kind == StateKind::kWeights;
        const Shard owned = optimizer_shard(program_, place, s, arena);
        const Shard shard = weights ? Shard{0, size} : owned;
        if (!weights) values_of(s, kind, arena).resize(shard.end - shard.begin);
        for (const Parameter& p : s.where.list) {
          if (p.arena != arena) continue;
          for (const Piece& piece : pieces_of(plan_.model.architecture, p)) {
            const int64_t begin = p.offset + piece.offset;
            int64_t count = 1;
            for (const int64_t n : piece.shape) count *= n;
            const int64_t from = std::max(begin, shard.begin);
            const int64_t to = std::min(begin + count, shard.end);
            if (from >= to) continue;
            const std::vector<float> read = lookup(piece.name, piece.shape);
            const auto part = std::span(read).subspan(static_cast<size_t>(from - begin),
                                                      static_cast<size_t>(to - from));
            if (weights) {
              s.set_weights(arena, from, part, owned);
            } else {
              values_of(s, kind, arena).set(from - shard.begin, part);
            }
          }
        }
      }
      if (kind != StateKind::kWeights) continue;
      for (const Arena arena : {Arena::kDense, Arena::kExpert}) {
        s.weights.encode_operands(rank_at(global).compute, arena);
      }
      for (size_t i = 0; i < s.expert_bias.size(); ++i) {
        if (s.expert_bias[i].empty()) continue;
        s.expert_bias[i].set(
            0,
            lookup(bias_name(s.first_layer + static_cast<int64_t>(i)), {s.expert_bias[i].size()}));
      }
    }
  }
}

std::span<const float> LocalRanks::recorded_logits(int32_t data_rank, int64_t micro_batch) const {
  for (const Holder& h : holders(plan_.layout.stages() - 1)) {
    if (h.place.data_rank != data_rank) continue;
    const auto& logits = h.stage->chunks[static_cast<size_t>(micro_batch)].kept_logits;
    if (!logits.empty()) return logits;
  }
  return {};
}

}  // namespace rehearse
