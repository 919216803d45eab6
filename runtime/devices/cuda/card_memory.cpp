#include "runtime/devices/cuda/card_memory.h"

#include <algorithm>
#include <new>

#include <fmt/format.h>
#include <fmt/ranges.h>

#include "base/errors.h"
#include "plan/program/memory.h"

namespace rehearse {
namespace {

std::string text_of(size_t bytes) {
  return to_string(Bytes(static_cast<int64_t>(bytes)));
}

// What a plan may say to hold less, and by how much of what it holds now.
struct Less {
  std::string said;
  Plan plan;
};
std::vector<Less> smaller(const Plan& plan) {
  std::vector<Less> all;
  const auto add = [&](std::string said, auto change) {
    Less less{std::move(said), plan};
    change(less.plan.training);
    all.push_back(std::move(less));
  };
  if (plan.training.moments != Moments::kBf16) {
    add("training.moments: bf16", [](Training& t) { t.moments = Moments::kBf16; });
  }
  if (plan.training.precision == Precision::kFp32) {
    add("training.precision: bf16", [](Training& t) { t.precision = Precision::kBf16; });
  }
  const Recompute& r = plan.training.recompute;
  if (!r.norms || !r.up_projections || !r.activations) {
    add("training.recompute: [norms, up_projections, activations]", [](Training& t) {
      t.recompute.norms = t.recompute.up_projections = t.recompute.activations = true;
    });
  }
  if (plan.training.micro_batch_size > 1) {
    add(fmt::format("training.micro_batch_size: {}", plan.training.micro_batch_size / 2),
        [](Training& t) { t.micro_batch_size /= 2; });
  }
  return all;
}

// Of all ranks, on one card.
Bytes need_of(const Plan& plan) {
  Bytes all;
  for (int64_t r = 0; r < plan.layout.pp; ++r) all += card_memory(plan, r).total();
  return all * (plan.layout.world() / plan.layout.pp);
}

// The other plans that would do. share_left: of what is held now, that there is room for.
std::string advice(const Plan& plan, double share_left) {
  const auto now = static_cast<double>(need_of(plan).count());
  std::vector<std::string> fit, less;
  for (const Less& l : smaller(plan)) {
    const Bytes need = need_of(l.plan);
    const double share = static_cast<double>(need.count()) / now;
    if (share >= 1) continue;
    (share <= share_left ? fit : less).push_back(fmt::format("{} ({})", l.said, to_string(need)));
  }
  std::string text;
  if (!fit.empty())
    text += fmt::format("\nWould fit, as far as is known: {}.", fmt::join(fit, "; "));
  if (!less.empty()) text += fmt::format("\nTakes less: {}.", fmt::join(less, "; "));
  if (fit.empty()) text += "\nElse: fewer ranks on the card, or a smaller model.";
  return text;
}

}  // namespace

std::byte* CardMemory::allocate(size_t bytes) {
  try {
    std::byte* const memory = gpu_.memory().allocate(bytes);
    held_[memory] = bytes;
    held_bytes_ += bytes;
    return memory;
  } catch (const std::bad_alloc&) {
    throw InputError(no_more(bytes));
  }
}

void CardMemory::release(std::byte* memory) noexcept {
  if (const auto found = held_.find(memory); found != held_.end()) {
    held_bytes_ -= found->second;
    held_.erase(found);
  }
  gpu_.memory().release(memory);
}

std::string CardMemory::no_more(size_t bytes) const {
  const size_t of_ops = pool_ == nullptr ? 0 : pool_->held();
  const RankMemory now = card_memory(plan_, plan_.layout.place_of(rank_).pp_rank);
  std::string text = fmt::format(
      "{}: the card is out of memory: rank {} asks for {} beside the {} that it holds (weights, "
      "gradients and moments {}, buffers of ops {}); the card has {}, {} of them free.\nThe plan's "
      "own count for the rank: weights {}, gradients {}, moments and masters {}, activations {}.",
      plan_.path,
      rank_,
      text_of(bytes),
      text_of(held_bytes_),
      text_of(held_bytes_ - of_ops),
      text_of(of_ops),
      text_of(gpu_.memory_size().total),
      text_of(gpu_.memory_size().free),
      to_string(now.parameters),
      to_string(now.gradients),
      to_string(now.optimizer),
      to_string(now.activations));
  const double there = static_cast<double>(held_bytes_ + gpu_.memory_size().free);
  return text + advice(plan_, there / static_cast<double>(held_bytes_ + bytes));
}

void require_room(const Plan& plan, Gpu& gpu) {
  const Bytes need = need_of(plan);
  const Gpu::MemorySize card = gpu.memory_size();
  const Bytes free(static_cast<int64_t>(card.free));
  if (need <= free) return;
  int64_t fullest = 0;
  for (int64_t r = 1; r < plan.layout.pp; ++r) {
    if (card_memory(plan, r).total() > card_memory(plan, fullest).total()) fullest = r;
  }
  const RankMemory m = card_memory(plan, fullest);
  const std::pair<Bytes, const char*> kinds[] = {{m.parameters, "weights"},
                                                 {m.gradients, "gradients"},
                                                 {m.optimizer, "moments and masters"},
                                                 {m.activations, "activations"}};
  const auto& most = *std::max_element(std::begin(kinds), std::end(kinds));
  throw InputError(fmt::format(
      "{}: {} ranks on one card need {}; the card has {}, {} of them free: of the fullest, rank "
      "{}, "
      "{}, most of it {} ({}).{}",
      plan.path,
      plan.layout.world(),
      to_string(need),
      text_of(card.total),
      text_of(card.free),
      plan.layout.rank_of({static_cast<int32_t>(fullest), 0}),
      to_string(m.total()),
      most.second,
      to_string(most.first),
      advice(plan, static_cast<double>(free.count()) / static_cast<double>(need.count()))));
}

}  // namespace rehearse
