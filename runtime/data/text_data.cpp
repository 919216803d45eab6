#include "runtime/data/text_data.h"

#include <algorithm>
#include <cmath>

#include <fmt/format.h>
#include <zlib.h>

#include "base/errors.h"
#include "base/file.h"
#include "base/random.h"

namespace rehearse {

TextData::TextData(const std::string& path, const Plan& plan)
    : length_(plan.training.sequence_length),
      seed_(plan.training.seed),
      vocabulary_(plan.model.architecture.vocabulary) {
  const std::string text = read_file(path);
  text_.assign(text.begin(), text.end());
  const auto size = static_cast<int64_t>(text_.size());
  const auto held = static_cast<int64_t>(static_cast<double>(size) * plan.data.validation_fraction);
  const int64_t need = length_ + 1;
  const bool validate = plan.data.validation_fraction > 0;
  if (size == 0) {
    throw InputError(fmt::format(
        "{}:1:1: data: the text is empty; expected plain text of more than {} bytes", path, need));
  }
  if (size - held < need || (validate && held < need)) {
    throw InputError(fmt::format(
        "{}:1:1: data: {} bytes of text are too few: training and validation each need at least "
        "{} bytes (sequence_length + 1), and validation_fraction {} leaves {} and {}",
        path,
        size,
        need,
        plan.data.validation_fraction,
        size - held,
        held));
  }
  for (size_t i = 0; i < text_.size(); ++i) {
    if (text_[i] >= vocabulary_) {
      throw InputError(fmt::format(
          "{}: byte {} is {}, but the model's vocabulary is {}; byte-level text needs 256",
          path,
          i,
          text_[i],
          vocabulary_));
    }
  }
  train_ = std::span(text_).first(static_cast<size_t>(size - held));
  held_out_ = std::span(text_).last(static_cast<size_t>(held));
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

uint32_t TextData::checksum() const {
  return static_cast<uint32_t>(::crc32_z(0, text_.data(), text_.size()));
}

Batch TextData::windows(std::span<const uint8_t> text, const std::vector<int64_t>& starts) const {
  Batch batch;
  for (const int64_t start : starts) {
    const auto window = text.subspan(static_cast<size_t>(start), static_cast<size_t>(length_ + 1));
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
        static_cast<int64_t>(random.next() % static_cast<uint64_t>(training_bytes() - length_)));
  }
  return windows(train_, starts);
}

int64_t TextData::validation_sequences() const {
  return (validation_bytes() - 1) / length_;
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
