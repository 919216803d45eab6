#include "runtime/devices/cuda/card_memory.h"

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
  const RankMemory now = rank_memory(plan_, plan_.layout.place_of(rank_).pp_rank);
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
  std::vector<std::string> fit, less;
  for (const Less& l : smaller(plan_)) {
    const Bytes need = rank_memory(l.plan, plan_.layout.place_of(rank_).pp_rank).total();
    if (need >= now.total()) continue;
    // The card holds what the count leaves out too: in the same proportion.
    const double share =
        static_cast<double>(need.count()) / static_cast<double>(now.total().count());
    const double there = static_cast<double>(held_bytes_ + gpu_.memory_size().free);
    const bool fits = share * static_cast<double>(held_bytes_ + bytes) <= there;
    (fits ? fit : less).push_back(fmt::format("{} ({})", l.said, to_string(need)));
  }
  if (!fit.empty())
    text += fmt::format("\nWould fit, as far as is known: {}.", fmt::join(fit, "; "));
  if (!less.empty()) text += fmt::format("\nTakes less: {}.", fmt::join(less, "; "));
  if (fit.empty()) {
    text += "\nElse: more ranks that share out the weights (ep, pp), or a smaller model.";
  }
  return text;
}

}  // namespace rehearse
