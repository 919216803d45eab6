#include "runtime/communicators/keys.h"

#include "base/errors.h"

namespace rehearse {

uint64_t key_of(const Op& op) {
  // Of several stages: members name the one they hold.
  const bool several = op.group == Group::kWorld || op.group == Group::kEmbeddings;
  uint64_t key = 0;
  const auto append = [&](int bits, int64_t value) {
    CHECK(value >= 0 && value < (int64_t{1} << bits)) << to_string(op) << ": " << value;
    key = (key << bits) | static_cast<uint64_t>(value);
  };
  append(6, static_cast<int64_t>(op.kind));
  append(2, static_cast<int64_t>(op.pass));
  append(4, static_cast<int64_t>(op.group));
  append(14, several ? 0 : op.stage);
  append(14, op.layer ? *op.layer + 1 : 0);
  append(22, op.micro_batch ? *op.micro_batch + 1 : 0);
  return key << 1;
}

uint64_t tag_of(const Op& op) {
  CHECK(op.micro_batch.has_value()) << to_string(op) << " has no tag";
  const bool forward = op.pass == Pass::kForward;
  // The sender's stage: under interleaved schedules a micro-batch goes from one rank to another
  // more than once.
  int64_t stage = op.stage;
  if (op.kind == OpKind::kRecv) stage += forward ? -1 : 1;
  CHECK(stage >= 0 && stage < (1 << 14)) << to_string(op);
  return (static_cast<uint64_t>(stage) << 32) | (static_cast<uint64_t>(*op.micro_batch) << 1) |
         static_cast<uint64_t>(forward);
}

}  // namespace rehearse
