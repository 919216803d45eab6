#pragma once
// What tells the messages and collectives of one step from each other, worked out by every rank for
// itself from the Program's ops.

#include <cstdint>

#include "plan/program/op.h"

namespace rehearse {

// Key of a collective op: alike on all of its members, and no other collective of the step that a
// rank takes part in has it. Even, since an op of two phases uses the next one too. Below 2^62.
// Throws InternalError for an op whose indices do not fit.
// REQUIRES: op.group, or an all-to-all of a rank that holds all experts.
uint64_t key_of(const Op& op);

// Tag of a send and of its recv: no other message of the step between the two ranks has it.
// REQUIRES: op.micro_batch.
uint64_t tag_of(const Op& op);

}  // namespace rehearse
