// Exchanges between ranks of a card, held to the same worked out token by token.

#include <algorithm>

#include "kernels/layer_gpu/layer_checking.h"
namespace rehearse::kernels {
namespace {

// One hop among `peers` of `tokens` each, and the way back: what every member gathers, and what
// every peer adds up, beside the same worked out token by token. room: of rows that a member
// gathers; less than come: the last are counted, and lost on the way back too.
struct Hop {
  int64_t peers, tokens, active, per_member, members_per_part, width, room;
};
class HopCheck {
 public:
  HopCheck(Target& target, const Hop& hop, bool narrow, Judge& judge, Draw& draw)
      : target_(target), h_(hop), narrow_(narrow), judge_(judge) {
    const int64_t slots = h_.peers * h_.members_per_part * h_.per_member;
    for (int64_t p = 0; p < h_.peers; ++p) {
      Peer& peer = peers_.emplace_back();
      for (int64_t i = 0; i < h_.tokens * h_.active; ++i) {
        // Some choices are of no expert, and the last part gets none.
        peer.slots.push_back(static_cast<int32_t>(draw.below(slots - h_.per_member + 1)) - 1);
      }
      peer.x = std::make_unique<Numbers>(target, draw.normal(h_.tokens * h_.width), narrow);
      peer.weights = std::make_unique<Numbers>(target, draw.normal(h_.tokens * h_.active), false);
      peer.made = std::make_unique<Numbers>(target, draw.normal(h_.room * h_.width), false);
      peer.device_slots = std::make_unique<Ints>(target, peer.slots);
      make_map(peer);
    }
  }

  void run() {
    for (int64_t me = 0; me < h_.peers; ++me) gather(me);
    for (int64_t me = 0; me < h_.peers; ++me) sum(me);
  }

 private:
  using Ints = DeviceArray<int32_t>;
  struct Peer {
    std::vector<int32_t> slots;
    std::unique_ptr<Numbers> x, weights, made;
    std::unique_ptr<Ints> device_slots, rows, token_of_row, row_of;
  };
  bool goes(const Peer& peer, int64_t token, int64_t part) const {
    for (int64_t k = 0; k < h_.active; ++k) {
      const int32_t slot = peer.slots[static_cast<size_t>(token * h_.active + k)];
      if (slot >= 0 && slot / h_.per_member / h_.members_per_part == part) return true;
    }
    return false;
  }
  void make_map(Peer& peer) {
    const auto cells = static_cast<size_t>(h_.tokens * h_.peers);
    const int64_t capacity = h_.peers * ((h_.tokens + 127) / 128) * 128;
    const Ints to(target_, cells), choice(target_, static_cast<size_t>(capacity)),
        starts(target_, static_cast<size_t>((map_chunks(h_.tokens) + 1) * h_.peers));
    const DeviceArray<int64_t> lost(target_, std::vector<int64_t>{0});
    peer.rows = std::make_unique<Ints>(target_, static_cast<size_t>(h_.peers));
    peer.token_of_row = std::make_unique<Ints>(target_, static_cast<size_t>(capacity));
    peer.row_of = std::make_unique<Ints>(target_, cells);
    target_.kernels.destinations({.slots = peer.device_slots->get(),
                                  .goes = to.get(),
                                  .tokens = h_.tokens,
                                  .active = h_.active,
                                  .parts = h_.peers,
                                  .per_member = static_cast<int32_t>(h_.per_member),
                                  .members_per_part = static_cast<int32_t>(h_.members_per_part)},
                                 {});
    target_.kernels.map_rows({.slots = to.get(),
                              .expert_rows = peer.rows->get(),
                              .token_of_row = peer.token_of_row->get(),
                              .choice_of_row = choice.get(),
                              .row_of = peer.row_of->get(),
                              .overflowed = lost.get(),
                              .starts = starts.get(),
                              .tokens = h_.tokens,
                              .active = h_.peers,
                              .experts = h_.peers,
                              .capacity = capacity},
                             {});
    target_.synchronize();
  }
  void exact(const char* what, double got, double want) {
    judge_.expect(what, got, want, 0, false);
  }

  void gather(int64_t me) {
    GpuGather g;
    for (int64_t p = 0; p < h_.peers; ++p) {
      const Peer& peer = peers_[static_cast<size_t>(p)];
      const ConstValues x = *peer.x;
      g.peer[p] = {.rows = peer.rows->get(),
                   .token_of_row = peer.token_of_row->get(),
                   .x = narrow_ ? static_cast<const void*>(x.bf16) : x.fp32,
                   .weights = peer.weights->fp32(),
                   .slots = peer.device_slots->get(),
                   .rank = static_cast<int32_t>(p)};
    }
    const auto all = static_cast<size_t>(h_.room);
    Numbers x(target_, all * static_cast<size_t>(h_.width), narrow_),
        weights(target_, all * static_cast<size_t>(h_.active), false);
    const Ints slots(target_, all * static_cast<size_t>(h_.active));
    const DeviceArray<int64_t> lost(target_, std::vector<int64_t>{5}),
        bytes(target_, std::vector<int64_t>(static_cast<size_t>(h_.peers), 7));
    g.peers = static_cast<int>(h_.peers);
    g.part = static_cast<int>(me);
    g.element_bytes = narrow_ ? 2 : 4;
    g.x = narrow_ ? static_cast<void*>(x.to().bf16) : x.to().fp32;
    g.weights = weights.fp32();
    g.slots = slots.get();
    g.own_slots = static_cast<int32_t>(h_.per_member * h_.members_per_part);
    g.first_slot = static_cast<int32_t>(me) * g.own_slots;
    g.width = h_.width, g.active = h_.active, g.capacity = h_.room;
    g.overflowed = lost.get();
    g.traffic = {bytes.get(), 3};
    target_.kernels.gather(g, {});
    target_.synchronize();
    int64_t row = 0, beyond = 0;
    const std::vector<int32_t> got_slots = slots.values();
    for (int64_t p = 0; p < h_.peers; ++p) {
      const Peer& peer = peers_[static_cast<size_t>(p)];
      int64_t came = 0;
      for (int64_t t = 0; t < h_.tokens; ++t) {
        if (!goes(peer, t, me)) continue;
        ++came;
        if (row >= h_.room) {
          ++beyond;
          continue;
        }
        const auto got = x.read(static_cast<size_t>(row * h_.width), static_cast<size_t>(h_.width));
        for (int64_t c = 0; c < h_.width; ++c) {
          exact("x", static_cast<double>(got[static_cast<size_t>(c)]), (*peer.x)[t * h_.width + c]);
        }
        for (int64_t k = 0; k < h_.active; ++k) {
          const auto at = static_cast<size_t>(row * h_.active + k);
          exact("a weight",
                static_cast<double>(weights.read(at, 1)[0]),
                (*peer.weights)[t * h_.active + k]);
          const int32_t slot = peer.slots[static_cast<size_t>(t * h_.active + k)] - g.first_slot;
          exact("a slot", got_slots[at], slot >= 0 && slot < g.own_slots ? slot : -1);
        }
        ++row;
      }
      exact("bytes",
            static_cast<double>(bytes.values()[static_cast<size_t>(p)]),
            static_cast<double>(p == me ? 7 : 7 + 3 * came));
    }
    for (size_t at = static_cast<size_t>(row * h_.active); at < got_slots.size(); ++at) {
      exact("no row's slot", got_slots[at], -1);
    }
    exact("lost", static_cast<double>(lost.values()[0]), static_cast<double>(5 + beyond));
    came_.push_back(row);
  }

  void sum(int64_t me) {
    const Peer& own = peers_[static_cast<size_t>(me)];
    GpuSumParts s;
    for (int64_t p = 0; p < h_.peers; ++p) {
      const Peer& peer = peers_[static_cast<size_t>(p)];
      s.peer[p] = {peer.made->fp32(), peer.rows->get(), static_cast<int32_t>(p)};
    }
    Numbers y(target_, static_cast<size_t>(h_.tokens * h_.width), false);
    s.peers = static_cast<int>(h_.peers);
    s.me = static_cast<int>(me);
    s.row_of = own.row_of->get();
    s.y = y.fp32();
    s.tokens = h_.tokens, s.width = h_.width, s.capacity = h_.room;
    s.exact = std::min<int64_t>(1, h_.width - 1);
    s.round_in = narrow_;
    target_.kernels.sum_parts(s, {});
    target_.synchronize();
    const std::vector<float> got = y.read(0, static_cast<size_t>(h_.tokens * h_.width));
    std::vector<int64_t> next(static_cast<size_t>(h_.peers), 0);  // row in every part
    for (int64_t p = 0; p < me; ++p) {
      for (int64_t t = 0; t < h_.tokens; ++t) {
        for (int64_t j = 0; j < h_.peers; ++j) {
          next[static_cast<size_t>(j)] += goes(peers_[static_cast<size_t>(p)], t, j);
        }
      }
    }
    for (int64_t t = 0; t < h_.tokens; ++t) {
      std::vector<float> want(static_cast<size_t>(h_.width), 0);
      for (int64_t j = 0; j < h_.peers; ++j) {
        if (!goes(own, t, j)) continue;
        const int64_t row = next[static_cast<size_t>(j)]++;
        if (row >= h_.room) continue;
        for (int64_t c = 0; c < h_.width; ++c) {
          const auto x =
              static_cast<float>((*peers_[static_cast<size_t>(j)].made)[row * h_.width + c]);
          const bool rounded = narrow_ && c < h_.width - s.exact;
          want[static_cast<size_t>(c)] += rounded ? to_float(to_bf16(x)) : x;
        }
      }
      for (int64_t c = 0; c < h_.width; ++c) {  // the same sums in the same order
        exact("a sum",
              static_cast<double>(got[static_cast<size_t>(t * h_.width + c)]),
              static_cast<double>(want[static_cast<size_t>(c)]));
      }
    }
  }

  Target& target_;
  const Hop h_;
  const bool narrow_;
  Judge& judge_;
  std::vector<Peer> peers_;
  std::vector<int64_t> came_;
};
Outcome exchange_check(Target& target, const Hop& hop, bool narrow) {
  const std::string name = named("exchange", hop.peers * hop.tokens, hop.width, narrow) + " for " +
                           std::to_string(hop.room);
  Judge judge(name);
  Draw draw(name);
  HopCheck(target, hop, narrow, judge, draw).run();
  return judge.outcome();
}

template <class T>
void sum_members_as(Target& target, Judge& judge, Draw& draw, GpuSumMembers::Of of, int64_t n) {
  constexpr int64_t kMembers = 3;
  std::vector<std::vector<T>> values;
  std::vector<std::unique_ptr<DeviceArray<T>>> x;
  for (int64_t m = 0; m < kMembers; ++m) {
    values.emplace_back();
    for (int64_t i = 0; i < n; ++i) {
      values.back().push_back(static_cast<T>(draw.normal(1, 100)[0]));
    }
    x.push_back(std::make_unique<DeviceArray<T>>(target, values.back()));
  }
  GpuSumMembers s;
  s.of = of;
  s.members = kMembers;
  for (size_t m = 0; m < kMembers; ++m) s.x[m] = x[m]->get();
  s.y = x[1]->get();  // in place
  s.elements = n;
  target.kernels.sum_members(s, {});
  target.synchronize();
  const std::vector<T> got = x[1]->values();
  for (size_t i = 0; i < static_cast<size_t>(n); ++i) {
    const T want = values[0][i] + values[1][i] + values[2][i];
    judge.expect("a sum", static_cast<double>(got[i]), static_cast<double>(want), 0, false);
  }
}
Outcome sum_members_check(Target& target, int64_t n) {
  const std::string name = "members' sum of " + std::to_string(n);
  Judge judge(name);
  Draw draw(name);
  using Of = GpuSumMembers::Of;
  sum_members_as<float>(target, judge, draw, Of::kFp32, n);
  sum_members_as<double>(target, judge, draw, Of::kFp64, n);
  sum_members_as<int64_t>(target, judge, draw, Of::kInt64, n);
  const Numbers a(target, draw.normal(n), true), b(target, draw.normal(n), true);
  Numbers y(target, static_cast<size_t>(n), true);
  GpuSumMembers s;
  s.of = Of::kBf16;
  s.members = 2;
  s.x[0] = ConstValues(a).bf16;
  s.x[1] = ConstValues(b).bf16;
  s.y = y.to().bf16;
  s.elements = n;
  target.kernels.sum_members(s, {});
  target.synchronize();
  const std::vector<float> got = y.read(0, static_cast<size_t>(n));
  for (int64_t i = 0; i < n; ++i) {
    judge.expect("a BF16 sum",
                 static_cast<double>(got[static_cast<size_t>(i)]),
                 a[i] + b[i],
                 (std::abs(a[i]) + std::abs(b[i])) * kEpsilon,
                 true);
  }
  return judge.outcome();
}

}  // namespace

void add_exchange_checks(std::vector<LayerCheck>& all) {
  const auto add = [&](const std::string& name, auto run) { add_check(all, name, run); };
  // Two and three peers, one, parts of several members, one token, top 1, no room for all.
  for (const bool narrow : {false, true}) {
    for (const Hop& h : {Hop{2, 9, 3, 2, 1, 5, 20},
                         Hop{3, 130, 2, 1, 2, 3, 400},
                         Hop{1, 4, 2, 3, 1, 1, 8},
                         Hop{4, 1, 1, 1, 1, 130, 4},
                         Hop{3, 20, 4, 2, 1, 2, 25}}) {
      add(named("exchange", h.peers * h.tokens, h.width, narrow),
          [=](Target& t) { return exchange_check(t, h, narrow); });
    }
  }
  for (const int64_t n : {1, 300}) {
    add("members' sum of " + std::to_string(n), [=](Target& t) { return sum_members_check(t, n); });
  }
}

}  // namespace rehearse::kernels
