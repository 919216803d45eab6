// Lines of Megatron-LM's router tracer, written again: valid JSON whatever the trace's attributes
// hold, which may come from anywhere.

#include <algorithm>
#include <array>
#include <set>

#include <fmt/format.h>
#include <fmt/ranges.h>
#include <nlohmann/json.hpp>

#include "base/errors.h"
#include "plan/routing/foreign.h"

namespace rehearse {
namespace {

// Of a line: step, layer, rank, whether of the decoder, MTP module or -1, and which call of the
// trace it is.
constexpr size_t kNumbersOfLine = 6;

constexpr auto kNeeded =
    std::to_array<std::string_view>({"step", "layer", "rank", "num_tokens", "topk", "top_indices"});
constexpr auto kOptional = std::to_array<std::string_view>({"stage", "block", "mtp_idx"});

std::string about(const ForeignTrace& trace, const std::string& name) {
  const auto found = trace.about.find(name);
  return found == trace.about.end() ? "" : found->second;
}

// In double quotes, with escapes; bytes that are no UTF-8 as U+FFFD.
std::string quoted_json(const std::string& text) {
  return nlohmann::json(text).dump(-1, ' ', false, nlohmann::json::error_handler_t::replace);
}

struct Keys {
  std::vector<std::string> written;  // each once
  std::vector<std::string> left_out;
  std::string stage;
};

// The keys of a file's lines, in their order.
Keys keys_of(const ForeignTrace& trace, const std::string& name) {
  Keys keys;
  keys.stage = about(trace, name + "_stage");
  std::set<std::string> seen;
  const std::string text = about(trace, name + "_keys");
  for (std::string_view list = text; !list.empty();) {
    const size_t end = std::min(list.find(' '), list.size());
    std::string key(list.substr(0, end));
    list.remove_prefix(std::min(end + 1, list.size()));
    const size_t equals = key.find('=');
    if (equals != std::string::npos) {  // as older traces have the stage
      if (key.starts_with("stage=")) keys.stage = key.substr(equals + 1);
      key.resize(equals);
    }
    if (key.empty() || !seen.insert(key).second) continue;
    const bool known = std::ranges::find(kNeeded, key) != kNeeded.end() ||
                       std::ranges::find(kOptional, key) != kOptional.end();
    (known ? keys.written : keys.left_out).push_back(key);
  }
  for (const std::string_view key : kNeeded) {
    if (seen.contains(std::string(key))) continue;
    throw InputError(
        fmt::format("the trace's attribute {}_keys does not hold '{}': its lines "
                    "cannot be written again",
                    name,
                    key));
  }
  return keys;
}

}  // namespace

std::vector<std::string> left_out_of_megatron(const ForeignTrace& trace) {
  std::vector<std::string> names;
  const int64_t count = std::stoll(trace.about.at("megatron_files"));
  for (int64_t f = 0; f < count; ++f) {
    for (std::string& key : keys_of(trace, fmt::format("megatron_{}", f)).left_out) {
      if (std::ranges::find(names, key) == names.end()) names.push_back(std::move(key));
    }
  }
  return names;
}

std::vector<std::pair<std::string, std::string>> print_megatron(const ForeignTrace& trace) {
  std::vector<std::pair<std::string, std::string>> files;
  const RoutingShape& shape = trace.steps.front().shape;
  const auto rows = static_cast<size_t>(shape.micro_batches * shape.layers);
  const int64_t count = std::stoll(trace.about.at("megatron_files"));
  for (int64_t f = 0; f < count; ++f) {
    const std::string name = fmt::format("megatron_{}", f);
    const std::vector<int64_t>& lines = trace.numbers.at(name);
    if (lines.size() % kNumbersOfLine != 0) {
      throw InputError(
          fmt::format("the trace's list {} is damaged: {} numbers, not {} of each line",
                      name,
                      lines.size(),
                      kNumbersOfLine));
    }
    const bool spaced = about(trace, name + "_spaced") == "yes";
    const char* const comma = spaced ? ", " : ",";
    const char* const colon = spaced ? ": " : ":";
    const Keys keys = keys_of(trace, name);
    const bool has_module = std::ranges::find(keys.written, "mtp_idx") != keys.written.end();
    std::string text;
    for (size_t l = 0; l < lines.size(); l += kNumbersOfLine) {
      const int64_t told = lines[l + 5];
      const int64_t at = told < 0 ? -1 - told : told;  // of a repeated call, the first one's
      const RecordedStep& step = trace.steps[static_cast<size_t>(at) / rows];
      const auto row = static_cast<int64_t>(static_cast<size_t>(at) % rows);
      const auto choices = step.of(row / shape.layers, row % shape.layers);
      const int64_t module = lines[l + 4];
      text += '{';
      bool first = true;
      const auto put = [&](std::string_view key, const std::string& value) {
        text += fmt::format("{}\"{}\"{}{}", first ? "" : comma, key, colon, value);
        first = false;
      };
      for (const std::string& key : keys.written) {
        if (key == "step") put(key, std::to_string(lines[l]));
        if (key == "layer") put(key, std::to_string(lines[l + 1]));
        if (key == "rank") put(key, std::to_string(lines[l + 2]));
        if (key == "stage") put(key, quoted_json(keys.stage));
        if (key == "block") {
          put(key, lines[l + 3] != 0 ? "\"decoder\"" : "\"mtp\"");
          // Lines of MTP modules have it, whether or not the first line does.
          if (module >= 0 && !has_module) put("mtp_idx", std::to_string(module));
        }
        if (key == "mtp_idx" && module >= 0) put(key, std::to_string(module));
        if (key == "num_tokens") put(key, std::to_string(shape.tokens));
        if (key == "topk") put(key, std::to_string(shape.active));
        if (key != "top_indices") continue;
        std::string indices;
        for (int64_t t = 0; t < shape.tokens; ++t) {
          const auto token = choices.subspan(static_cast<size_t>(t * shape.active),
                                             static_cast<size_t>(shape.active));
          indices += fmt::format("{}[{}]", t == 0 ? "" : comma, fmt::join(token, comma));
        }
        put(key, "[" + indices + "]");
      }
      text += "}\n";
    }
    files.emplace_back(about(trace, name + "_file"), std::move(text));
  }
  return files;
}

}  // namespace rehearse
