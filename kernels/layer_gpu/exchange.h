#pragma once
// On a GPU that several ranks share: tokens to the ranks of their experts and sums back, and sums
// over members of a group. A member's kernels read its peers' arrays, write its own, and wait for
// nobody: they are started behind the events that say that the peers' arrays are there.
//
// One hop of an exchange: every peer has a map (GpuRowMap) of which of its tokens go to which part,
// a peer each; a member gathers what the peers have for its part, one peer behind the other, each
// peer's rows in the order of its tokens; and on the way back every peer adds up what the parts
// made of its tokens, in the order of parts.

#include "kernels/layer_gpu/row_counts.h"
#include "kernels/layer_gpu/values.h"
#include "kernels/ptx/tensor_map.h"

namespace rehearse::kernels {

// Of a hop, itself among them.
inline constexpr int kMostPeers = 48;
// Of a group whose values are summed.
inline constexpr int kMostMembers = 256;

// goes[t, p] = p where a choice of the token is held by part p of the hop, else -1: slots are dealt
// out to members, `per_member` each; parts are `members_per_part` members each, from the
// `first_member` on.
struct GpuDestinations {
  const int32_t* slots = nullptr;  // [tokens, active]; negative: no expert
  int32_t* goes = nullptr;         // [tokens, parts]
  int64_t tokens = 0, active = 0, parts = 0;
  int32_t per_member = 1, first_member = 0, members_per_part = 1;
};

// What a hop moves beside its values, and what is counted of it.
struct GpuTraffic {
  int64_t* bytes = nullptr;  // [ranks]: grows by what comes from each; null: not counted
  int64_t row_bytes = 0;     // of a row, as it travels
};

struct GpuGather {
  struct Peer {
    const int32_t* rows = nullptr;          // [peers]: how many of its tokens go to each part
    const int32_t* token_of_row = nullptr;  // by part, each padded to 128
    const void* x = nullptr;                // [tokens, width]
    const float* x_scales = nullptr;        // of codes: [ceil(width / 128), x_scale_stride]
    const float* weights = nullptr;         // [tokens, active], or null
    const int32_t* slots = nullptr;         // [tokens, active], or null
    int32_t rank = 0;
  };
  Peer peer[kMostPeers];
  int peers = 0;
  int part = 0;           // whose rows: this member's place among the peers
  int element_bytes = 4;  // of x: FP32, BF16, or E4M3 codes
  void* x = nullptr;      // [capacity, width]
  float* x_scales = nullptr;
  int64_t from_scale_stride = 0, x_scale_stride = 0;  // the peers', and its own
  float* weights = nullptr;
  int32_t* slots = nullptr;  // -1 in rows that nobody sent
  // Of slots below first_slot or not below first_slot + own_slots -1 is made, the others count from
  // 0; own_slots 0: as they came.
  int32_t first_slot = 0, own_slots = 0;
  int64_t width = 0, active = 0, capacity = 0;
  int64_t* overflowed = nullptr;  // [1]: grows by the rows that found no room; null: all do
  GpuTraffic traffic;
};

// y[t, c] = the sum over parts j, in their order, to which t went, of peer[j].values[its row there,
// c]; but for the last `exact` columns, values are rounded to BF16 as they come (round_in) and as
// they are stored (round_out).
struct GpuSumParts {
  struct Peer {
    const float* values = nullptr;  // [capacity, width]: what it gathered
    const int32_t* rows = nullptr;  // [peers]: its own map's
    int32_t rank = 0;
  };
  Peer peer[kMostPeers];
  int peers = 0;
  int me = 0;
  const int32_t* row_of = nullptr;  // [tokens, peers], of this member's map
  float* y = nullptr;               // [tokens, width]
  int64_t tokens = 0, width = 0, exact = 0, capacity = 0;
  bool round_in = false, round_out = false;
  GpuTraffic traffic;
};

// y = x[0] + x[1] + ..., in this order: FP32 and BF16 summed in FP32 and rounded once. y may be one
// of them.
struct GpuSumMembers {
  enum class Of : int32_t { kFp32, kBf16, kFp64, kInt64 };
  Of of = Of::kFp32;
  const void* x[kMostMembers];
  int members = 0;
  void* y = nullptr;
  int64_t elements = 0;
};

// Throw std::invalid_argument, naming what is wrong, before anything is started. Of nothing:
// nothing is.
namespace gpu {
void destinations(const GpuDestinations& d, Stream stream);
void gather(const GpuGather& g, Stream stream);
void sum_parts(const GpuSumParts& s, Stream stream);
void sum_members(const GpuSumMembers& s, Stream stream);
}  // namespace gpu
namespace imitated {
void destinations(const GpuDestinations& d, Stream stream);
void gather(const GpuGather& g, Stream stream);
void sum_parts(const GpuSumParts& s, Stream stream);
void sum_members(const GpuSumMembers& s, Stream stream);
}  // namespace imitated

}  // namespace rehearse::kernels
