#pragma once
// Plain text as training data: one token per byte, the end of the file held out for validation. A
// text of several documents is packed: one behind the other, each with an end-of-sentence token,
// attention going across (DeepSeek-V3 technical report, section 4.1); of a share of the training
// documents the middle is moved to the end (FIM in its prefix-suffix-middle form, of whole
// documents before they are packed).

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "plan/plan.h"

namespace rehearse {

// Input tokens and, for each, the token that follows it. Both: [sequences x length].
struct Batch {
  std::vector<int32_t> inputs;
  std::vector<int32_t> targets;
};

// What an MTP module is given of a batch: the tokens `module` places ahead of the inputs, and their
// targets as many places ahead; negative where the sequence has none (report, equation 24: the last
// `module` tokens predict nothing). module: from 1.
Batch ahead(const Batch& batch, int64_t length, int64_t module);

// Tokens behind those of bytes.
enum class SpecialToken : uint16_t {
  kEndOfSentence = 256,
  kFimBegin = 257,  // <|fim_begin|> prefix <|fim_hole|> suffix <|fim_end|> middle
  kFimHole = 258,
  kFimEnd = 259,
};

class TextData {
 public:
  // Throws InputError when the file is missing, too short for one training and one validation
  // sequence, or holds a token that is not in the model's vocabulary.
  TextData(const std::string& path, const Plan& plan);

  // Training sequences `first` to `first` + `count` of `step`: windows at random places that depend
  // on seed, step and sequence alone, so that every layout trains on the same text.
  Batch training(int64_t step, int64_t first, int64_t count) const;

  // Validation windows, one after the other without overlap; past the last one it starts again.
  Batch validation(int64_t first, int64_t count) const;
  int64_t validation_sequences() const;

  // Mean loss on the validation text, nats per token, of bigram counts of the training text with
  // add-one smoothing: what a model must beat to have learnt more than letter pairs.
  double bigram_loss() const;

  int64_t bytes() const { return bytes_; }  // of the file
  // CRC-32 of the text and, of packed documents, of their tokens.
  uint32_t checksum() const { return checksum_; }
  std::span<const uint16_t> training_text() const { return train_; }  // tokens
  int64_t training_tokens() const { return static_cast<int64_t>(train_.size()); }
  int64_t validation_tokens() const { return static_cast<int64_t>(held_out_.size()); }

 private:
  using Tokens = std::vector<uint16_t>;
  Tokens packed(std::string_view text, const DataSource& how, double fim_rate) const;
  Batch windows(const Tokens& text, const std::vector<int64_t>& starts) const;

  Tokens train_, held_out_;
  int64_t bytes_ = 0;
  uint32_t checksum_ = 0;
  int64_t length_;
  int64_t seed_;
  int64_t vocabulary_;
};

}  // namespace rehearse
