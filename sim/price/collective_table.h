#pragma once
// Times of collectives on one node, told from a table of measured ones.

#include "base/names.h"
#include "sim/price/nearest.h"

namespace rehearse {

enum class CollectiveKind : uint8_t { kAllGather, kReduceScatter, kAllReduce, kAllToAll };
inline constexpr NameTable kCollectiveKinds{std::to_array<Named<CollectiveKind>>({
    {CollectiveKind::kAllGather, "all_gather"},
    {CollectiveKind::kReduceScatter, "reduce_scatter"},
    {CollectiveKind::kAllReduce, "all_reduce"},
    {CollectiveKind::kAllToAll, "alltoall"},
})};
static_assert(kCollectiveKinds.complete());

// size: what nccl-tests call so: of all_gather the gathered buffer, of the others the input; of
// alltoall what one rank sends, its own part included.
struct CollectiveCall {
  CollectiveKind kind = CollectiveKind::kAllGather;
  int64_t ranks = 0;
  Bytes size;
  auto operator<=>(const CollectiveCall&) const = default;
};

// Families are of sizes, to a quarter of an octave.
class CollectiveTable : public NearestTable<CollectiveCall> {
 public:
  // link: of the device. REQUIRES: some rows.
  CollectiveTable(Rows rows, BytesPerSecond link);
  int64_t most_ranks() const { return most_ranks_; }

 private:
  int64_t most_ranks_ = 0;
};

// Bytes that each rank sends: (n - 1) / n of the size, of an all-reduce twice that.
double sent_bytes(const CollectiveCall& call);

}  // namespace rehearse
