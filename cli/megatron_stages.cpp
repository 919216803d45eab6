#include "cli/megatron_stages.h"

#include <algorithm>
#include <numeric>

#include <fmt/format.h>

#include "base/errors.h"

namespace rehearse::cli {
namespace {

constexpr const char* kFirst = "--decoder-first-pipeline-num-layers";
constexpr const char* kLast = "--decoder-last-pipeline-num-layers";
constexpr const char* kEmbedding = "--account-for-embedding-in-pipeline-split";
constexpr const char* kLoss = "--account-for-loss-in-pipeline-split";
constexpr const char* kPerVirtual = "--num-layers-per-virtual-pipeline-stage";
constexpr const char* kVirtual = "--num-virtual-stages-per-pipeline-rank";
constexpr const char* kLayout = "--pipeline-model-parallel-layout";

template <typename... T>
[[noreturn]] void refuse(fmt::format_string<T...> text, T&&... values) {
  throw InputError(fmt::format(text, std::forward<T>(values)...));
}

// At most one of those that are there.
void refuse_together(std::initializer_list<std::pair<const char*, bool>> arguments) {
  const char* before = nullptr;
  for (const auto& [name, there] : arguments) {
    if (!there) continue;
    if (before != nullptr) refuse("{} beside {}: Megatron-LM takes one of them", before, name);
    before = name;
  }
}

void check_together(const StageArguments& a) {
  const bool ends = a.embedding || a.loss;
  const char* end = a.embedding ? kEmbedding : kLoss;
  refuse_together({{kPerVirtual, a.per_virtual.has_value()},
                   {kVirtual, a.virtual_stages.has_value()},
                   {kLayout, a.layout.has_value()}});
  for (const auto& [name, there] :
       {std::pair(kFirst, a.first.has_value()), {kLast, a.last.has_value()}}) {
    refuse_together({{name, there}, {end, ends}});
    refuse_together({{name, there}, {kLayout, a.layout.has_value()}});
    if (there && a.per_virtual) {
      refuse("{} beside {}: Megatron-LM wants {}", name, kPerVirtual, kVirtual);
    }
  }
  refuse_together({{end, ends}, {kLayout, a.layout.has_value()}});
}

// Layers of each rank, over its virtual stages.
std::vector<int64_t> over_chunks(const StageArguments& a,
                                 const std::vector<int64_t>& ranks,
                                 int64_t chunks) {
  std::vector<int64_t> layers(static_cast<size_t>(a.pp * chunks));
  for (int64_t r = 0; r < a.pp; ++r) {
    const int64_t of_rank = ranks[static_cast<size_t>(r)];
    if (of_rank % chunks != 0) {
      const bool first = r == 0 && a.first;
      const bool last = r == a.pp - 1 && a.last;
      refuse(
          "{} {}: {} layers of {} do not divide over its {} virtual stages, and Megatron-LM "
          "refuses them",
          first  ? kFirst
          : last ? kLast
                 : kVirtual,
          first || last ? of_rank : chunks,
          of_rank,
          first  ? "the first rank"
          : last ? "the last rank"
                 : "a rank",
          chunks);
    }
    for (int64_t c = 0; c < chunks; ++c) {
      layers[static_cast<size_t>(c * a.pp + r)] = of_rank / chunks;
    }
  }
  return layers;
}

std::vector<int64_t> of_first_and_last(const StageArguments& a) {
  if (a.pp == 1) {
    refuse("{} on one pipeline rank, which has all layers: remove it", a.first ? kFirst : kLast);
  }
  const int64_t ends = a.first.value_or(0) + a.last.value_or(0);
  const int64_t ranks = a.pp - (a.first ? 1 : 0) - (a.last ? 1 : 0);
  const int64_t rest = a.layers - ends;
  if (ranks == 0 && rest != 0) {
    refuse(
        "{} {} and {} {} on two pipeline ranks: together {} layers of the model's {}, which "
        "Megatron-LM refuses",
        kFirst,
        *a.first,
        kLast,
        *a.last,
        ends,
        a.layers);
  }
  if (ranks > 0 && (rest < ranks || rest % ranks != 0)) {
    refuse("{}: leaves {} of {} layers for {} other rank{}: they must divide, one each at least",
           a.first ? fmt::format("{} {}", kFirst, *a.first) : fmt::format("{} {}", kLast, *a.last),
           std::max<int64_t>(0, rest),
           a.layers,
           ranks,
           ranks == 1 ? "" : "s");
  }
  std::vector<int64_t> all(static_cast<size_t>(a.pp), ranks > 0 ? rest / ranks : 0);
  if (a.first) all.front() = *a.first;
  if (a.last) all.back() = *a.last;
  return all;
}

// --- the layout in letters

// x*n, or (xyz)*n, told out.
std::string told_out(const std::string& text, bool groups) {
  constexpr size_t kLongest = 1'000'000;
  std::string out;
  for (size_t at = 0; at < text.size();) {
    size_t close = at;
    if (groups && text[at] == '(') {
      close = text.find(')', at);
      if (close == std::string::npos) refuse("{}: a '(' is never closed", kLayout);
    }
    size_t end = close + 1;
    const bool group = close > at + 1;
    if ((group || !groups) && end < text.size() && text[end] == '*') {
      size_t digits = end + 1;
      size_t times = 0;
      for (; digits < text.size() && text[digits] >= '0' && text[digits] <= '9'; ++digits) {
        times = std::min<size_t>(kLongest, times * 10 + static_cast<size_t>(text[digits] - '0'));
      }
      if (digits > end + 1) {
        const std::string unit =
            group ? text.substr(at + 1, close - at - 1) : std::string(1, text[at]);
        if (unit.size() * times + out.size() > kLongest) refuse("{}: too long", kLayout);
        for (size_t i = 0; i < times; ++i) out += unit;
        at = digits;
        continue;
      }
    }
    // A group that is not repeated stays, and its bracket is no letter.
    out += text[at++];
  }
  return out;
}

std::vector<std::string> letters_of(std::string text) {
  std::erase(text, ',');
  text = told_out(told_out(text, true), false);
  std::vector<std::string> stages(1);
  for (const char c : text) {
    if (c == '|') {
      stages.emplace_back();
    } else if (c == 'E' || c == 't' || c == 'm' || c == 'L') {
      stages.back() += c;
    } else {
      refuse(
          "{}: '{}' is none of E (embedding), t (layer), m (MTP), L (loss), '|' between stages, "
          "x*n and (...)*n",
          kLayout,
          c);
    }
  }
  return stages;
}

MegatronStages of_layout(const StageArguments& a) {
  const std::vector<std::string> stages = letters_of(*a.layout);
  const auto count = static_cast<int64_t>(stages.size());
  if (count % a.pp != 0) {
    refuse("{}: its {} stages do not divide over {} pipeline ranks", kLayout, count, a.pp);
  }
  std::string all;
  for (const std::string& s : stages) all += s;
  const auto many = [&](char c) { return static_cast<int64_t>(std::ranges::count(all, c)); };
  if (!stages.front().starts_with('E') || many('E') != 1 || !stages.back().ends_with('L') ||
      many('L') != 1) {
    refuse("{}: one E, at the beginning of the first stage, and one L, at the end of the last",
           kLayout);
  }
  if (many('t') != a.layers) {
    refuse("{}: has {} layers (t), and the model {}", kLayout, many('t'), a.layers);
  }
  if (many('m') != a.mtp) {
    refuse("{}: has {} MTP modules (m), and the model {}", kLayout, many('m'), a.mtp);
  }
  const std::string end = std::string(static_cast<size_t>(a.mtp), 'm') + "L";
  if (!stages.back().ends_with(end)) {
    refuse(
        "{}: MTP modules (m) stand with the loss (L), behind all layers, in the last stage of a "
        "plan; another place of theirs cannot be told",
        kLayout);
  }
  MegatronStages result{.chunks = count / a.pp};
  for (const std::string& s : stages) {
    result.layers_per_stage.push_back(std::ranges::count(s, 't'));
  }
  return result;
}

// --- and written

bool says(const StageArguments& arguments, const std::vector<int64_t>& layers) {
  try {
    return stages_of(arguments).layers_per_stage == layers;
  } catch (const InputError&) {
    return false;
  }
}

std::string in_letters(const std::vector<int64_t>& layers, int64_t mtp) {
  const auto letters = [](int64_t n) {
    return n > 2 ? fmt::format("t*{}", n) : std::string(static_cast<size_t>(n), 't');
  };
  std::string text = "E" + letters(layers.front()) + "|";
  for (size_t i = 1; i + 1 < layers.size();) {
    size_t end = i;
    while (end + 1 < layers.size() && layers[end] == layers[i]) ++end;
    const std::string stage = letters(layers[i]) + "|";
    text += end - i > 1 ? fmt::format("({})*{}", stage, end - i) : stage;
    i = end;
  }
  return text + letters(layers.back()) + std::string(static_cast<size_t>(mtp), 'm') + "L";
}

}  // namespace

MegatronStages stages_of(const StageArguments& a) {
  check_together(a);
  if (a.layout) return of_layout(a);
  const int64_t counted = a.layers + (a.embedding ? 1 : 0) + (a.loss ? 1 : 0);
  const bool uneven = a.first || a.last;
  const std::string what =
      counted == a.layers ? fmt::format("the model's {} layers", a.layers)
                          : fmt::format("{} layers, ends that count as one among them,", counted);
  if (!uneven && counted % a.pp != 0) {
    refuse(
        "--pipeline-model-parallel-size {}: {} do not divide over the ranks, and Megatron-LM "
        "refuses them: say {} and {}, or {}",
        a.pp,
        what,
        kFirst,
        kLast,
        kLayout);
  }
  int64_t chunks = a.virtual_stages.value_or(1);
  if (a.per_virtual) {
    if (counted / a.pp % *a.per_virtual != 0) {
      refuse(
          "{} {}: {} layers of a rank do not divide into virtual stages of {}, and Megatron-LM "
          "refuses them",
          kPerVirtual,
          *a.per_virtual,
          counted / a.pp,
          *a.per_virtual);
    }
    chunks = counted / a.pp / *a.per_virtual;
  }
  if (chunks > 1 && a.pp == 1) {
    refuse("{}: {} virtual stages on one pipeline rank: Megatron-LM wants more ranks",
           a.per_virtual ? kPerVirtual : kVirtual,
           chunks);
  }
  if (chunks > counted) {
    refuse("{} {}: more than the model has layers", kVirtual, chunks);
  }
  MegatronStages result{.chunks = chunks};
  const std::vector<int64_t> ranks =
      uneven ? of_first_and_last(a)
             : std::vector<int64_t>(static_cast<size_t>(a.pp), counted / a.pp);
  result.layers_per_stage = over_chunks(a, ranks, chunks);
  if (a.embedding) --result.layers_per_stage.front();
  if (a.loss) --result.layers_per_stage.back();
  return result;
}

std::string stage_arguments(const std::vector<int64_t>& layers,
                            int64_t pp,
                            int64_t chunks,
                            int64_t mtp) {
  StageArguments a{
      .layers = std::accumulate(layers.begin(), layers.end(), int64_t{0}), .mtp = mtp, .pp = pp};
  std::string text;
  if (chunks > 1) {
    a.virtual_stages = chunks;
    text = fmt::format(" {} {}", kVirtual, chunks);
  }
  if (says(a, layers)) return text;
  const auto of_rank = [&](int64_t rank) {
    int64_t sum = 0;
    for (int64_t c = 0; c < chunks; ++c) sum += layers[static_cast<size_t>(c * pp + rank)];
    return sum;
  };
  StageArguments ends = a;
  ends.first = of_rank(0);
  ends.last = of_rank(pp - 1);
  if (*ends.first > 0 && *ends.last > 0 && says(ends, layers)) {
    return text + fmt::format(" {} {} {} {}", kFirst, *ends.first, kLast, *ends.last);
  }
  for (const auto& [embedding, loss] : {std::pair(true, true), {true, false}, {false, true}}) {
    StageArguments counted = a;
    counted.embedding = embedding;
    counted.loss = loss;
    if (!says(counted, layers)) continue;
    if (embedding) text += fmt::format(" {}", kEmbedding);
    if (loss) text += fmt::format(" {}", kLoss);
    return text;
  }
  return fmt::format(" {} '{}'", kLayout, in_letters(layers, mtp));
}

}  // namespace rehearse::cli
