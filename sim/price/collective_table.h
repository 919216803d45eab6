#pragma once
// Times of collectives on one node, told from a table of measured ones.

#include <cstdint>
#include <vector>

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

// What nccl-tests call the size: of all_gather the gathered buffer, of the others the input; of
// alltoall what one rank sends, its own part included.
struct MeasuredCollective {
  CollectiveKind kind = CollectiveKind::kAllGather;
  int64_t ranks = 0;
  Bytes size;
  Duration time;
};

class CollectiveTable {
 public:
  // REQUIRES: some.
  CollectiveTable(std::vector<MeasuredCollective> rows, BytesPerSecond link);

  Duration time(CollectiveKind kind, int64_t ranks, Bytes size) const;
  // The most that a rank of `ranks` sends over the links per second in any row.
  BytesPerSecond best(int64_t ranks) const;
  int64_t most_ranks() const;
  // Of rows of at least 1 MB; of each kind and number of ranks, sizes left out.
  TableErrors judge() const;
  // Rows of another table, told from all of this one.
  TableErrors judge(const std::vector<MeasuredCollective>& rows) const;

 private:
  ShapePoint point(CollectiveKind kind, int64_t ranks, Bytes size) const;
  Duration ideal(CollectiveKind kind, int64_t ranks, Bytes size) const;

  std::vector<MeasuredCollective> rows_;
  BytesPerSecond link_;
  NearestFactors factors_;
};

// Bytes that each rank sends: (n - 1) / n of the size, of an all-reduce twice that.
double sent_bytes(CollectiveKind kind, int64_t ranks, Bytes size);

}  // namespace rehearse
