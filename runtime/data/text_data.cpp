#include "runtime/data/text_data.h"

#include <algorithm>
#include <cmath>

#include <fmt/format.h>
#include <zlib.h>

#include "base/errors.h"
#include "base/file.h"
#include "base/random.h"

namespace rehearse {

namespace {

// Between a training text and a held-out one: at the end of a document, where it has several.
size_t split_of(std::string_view text, const DataSource& how) {
  const auto held = static_cast<size_t>(static_cast<double>(text.size()) * how.validation_fraction);
  size_t at = text.size() - held;
  if (how.document_separator.empty() || held == 0) return at;
  const size_t end = text.find(how.document_separator, at);
  return end == std::string_view::npos ? at : end + how.document_separator.size();
}

constexpr uint16_t id(SpecialToken t) {
  return static_cast<uint16_t>(t);
}

}  // namespace

TextData::Tokens TextData::packed(std::string_view text,
                                  const DataSource& how,
                                  double fim_rate) const {
  const auto add = [](Tokens& to, std::string_view part) {
    for (const char c : part) to.push_back(static_cast<uint8_t>(c));
  };
  Tokens tokens;
  if (how.document_separator.empty()) {
    add(tokens, text);
    return tokens;
  }
  int64_t document = 0;
  for (size_t at = 0; at < text.size();) {
    const size_t end = std::min(text.find(how.document_separator, at), text.size());
    const std::string_view one = text.substr(at, end - at);
    at = end + how.document_separator.size();
    if (one.empty()) continue;
    Random random(
        stream_seed(static_cast<uint64_t>(seed_), fmt::format("document {}", document++)));
    if (random.uniform() < fim_rate) {
      // Two cuts anywhere.
      size_t first = random.next() % (one.size() + 1);
      size_t second = random.next() % (one.size() + 1);
      if (first > second) std::swap(first, second);
      tokens.push_back(id(SpecialToken::kFimBegin));
      add(tokens, one.substr(0, first));
      tokens.push_back(id(SpecialToken::kFimHole));
      add(tokens, one.substr(second));
      tokens.push_back(id(SpecialToken::kFimEnd));
      add(tokens, one.substr(first, second - first));
    } else {
      add(tokens, one);
    }
    tokens.push_back(id(SpecialToken::kEndOfSentence));
  }
  return tokens;
}

TextData::TextData(const std::string& path, const Plan& plan)
    : length_(plan.training.sequence_length),
      seed_(plan.training.seed),
      vocabulary_(plan.model.architecture.vocabulary) {
  const std::string text = read_file(path);
  bytes_ = static_cast<int64_t>(text.size());
  const int64_t need = length_ + 1;
  if (text.empty()) {
    throw InputError(fmt::format(
        "{}:1:1: data: the text is empty; expected plain text of more than {} bytes", path, need));
  }
  const DataSource& how = plan.data;
  const int64_t tokens = how.fim_rate > 0 ? 260 : !how.document_separator.empty() ? 257 : 0;
  if (vocabulary_ < tokens) {
    throw InputError(fmt::format(
        "{}: {} needs a vocabulary of {}, 256 bytes and the special tokens; the model's is {}",
        plan.path,
        how.fim_rate > 0 ? "data.fim_rate" : "data.document_separator",
        tokens,
        vocabulary_));
  }
  for (size_t i = 0; i < text.size(); ++i) {
    if (static_cast<uint8_t>(text[i]) >= vocabulary_) {
      throw InputError(fmt::format(
          "{}: byte {} is {}, but the model's vocabulary is {}; byte-level text needs 256",
          path,
          i,
          static_cast<uint8_t>(text[i]),
          vocabulary_));
    }
  }
  const size_t split = split_of(text, how);
  train_ = packed(std::string_view(text).substr(0, split), how, how.fim_rate);
  held_out_ = packed(std::string_view(text).substr(split), how, 0);
  const bool validate = how.validation_fraction > 0;
  if (training_tokens() < need || (validate && validation_tokens() < need)) {
    throw InputError(fmt::format(
        "{}:1:1: data: {} bytes of text are too few: training and validation each need at least "
        "{} bytes (sequence_length + 1), and validation_fraction {} leaves {} and {}",
        path,
        bytes_,
        need,
        how.validation_fraction,
        training_tokens(),
        validation_tokens()));
  }
  uLong checksum = ::crc32_z(0, reinterpret_cast<const Bytef*>(text.data()), text.size());
  if (!how.document_separator.empty()) {
    for (const Tokens* part : {&train_, &held_out_}) {
      checksum = ::crc32_z(
          checksum, reinterpret_cast<const Bytef*>(part->data()), part->size() * sizeof(uint16_t));
    }
  }
  checksum_ = static_cast<uint32_t>(checksum);
}

Batch ahead(const Batch& batch, int64_t length, int64_t module) {
  Batch out = batch;
  const auto count = static_cast<int64_t>(batch.inputs.size());
  for (int64_t i = 0; i < count; ++i) {
    const int64_t left = length - 1 - i % length;  // tokens behind this one in its sequence
    // What is `n` places ahead is a target: of the token before it.
    const int64_t at = i + std::min(module, left + 1) - 1;
    out.inputs[static_cast<size_t>(i)] = batch.targets[static_cast<size_t>(at)];
    out.targets[static_cast<size_t>(i)] =
        module <= left ? batch.targets[static_cast<size_t>(i + module)] : -1;
  }
  return out;
}

Batch TextData::windows(const Tokens& text, const std::vector<int64_t>& starts) const {
  Batch batch;
  for (const int64_t start : starts) {
    const auto window =
        std::span(text).subspan(static_cast<size_t>(start), static_cast<size_t>(length_ + 1));
    batch.inputs.insert(batch.inputs.end(), window.begin(), window.end() - 1);
    batch.targets.insert(batch.targets.end(), window.begin() + 1, window.end());
  }
  return batch;
}

Batch TextData::training(int64_t step, int64_t first, int64_t count) const {
  std::vector<int64_t> starts;
  for (int64_t s = first; s < first + count; ++s) {
    Random random(stream_seed(static_cast<uint64_t>(seed_), fmt::format("text {} {}", step, s)));
    starts.push_back(
        static_cast<int64_t>(random.next() % static_cast<uint64_t>(training_tokens() - length_)));
  }
  return windows(train_, starts);
}

int64_t TextData::validation_sequences() const {
  return (validation_tokens() - 1) / length_;
}

Batch TextData::validation(int64_t first, int64_t count) const {
  std::vector<int64_t> starts;
  for (int64_t s = first; s < first + count; ++s) {
    starts.push_back(s % validation_sequences() * length_);
  }
  return windows(held_out_, starts);
}

double TextData::bigram_loss() const {
  const auto v = static_cast<size_t>(vocabulary_);
  std::vector<double> pairs(v * v, 1.0);
  std::vector<double> singles(v, static_cast<double>(v));
  for (size_t i = 0; i + 1 < train_.size(); ++i) {
    pairs[train_[i] * v + train_[i + 1]] += 1;
    singles[train_[i]] += 1;
  }
  double loss = 0;
  for (size_t i = 0; i + 1 < held_out_.size(); ++i) {
    loss -= std::log(pairs[held_out_[i] * v + held_out_[i + 1]] / singles[held_out_[i]]);
  }
  return loss / static_cast<double>(std::max<size_t>(held_out_.size(), 2) - 1);
}

}  // namespace rehearse
