#pragma once
// Tables of measured kernel times, comma-separated with a line of names, as published for GPUs (for
// example by github.com/ai-dynamo/aiconfigurator, Apache-2.0).

#include <map>
#include <string>

#include "plan/cluster.h"
#include "sim/price/attention_table.h"
#include "sim/price/collective_table.h"
#include "sim/price/exchange_table.h"
#include "sim/price/grouped_table.h"
#include "sim/price/product_table.h"

namespace rehearse {

// What a table's times are held against.
struct DeviceFacts {
  std::string name;
  GpuPeaks peaks;
  bool fp8 = true;  // tensor cores multiply it
  int64_t sms = 132;
  BytesPerSecond node_link;  // per device and direction; 0: none
};
DeviceFacts facts_of(const Cluster& cluster);

enum class TableKind : uint8_t { kProducts, kAttention, kGrouped, kCollectives, kExchanges };
// What `text` is, by its columns. Throws InputError where it is none.
TableKind kind_of_table(const std::string& text, const std::string& path);

// Columns dtype, m, n, k, us, one product y[m,n] = x[m,k] w[n,k]^T a row, by dtype: bfloat16; fp8
// (scales per token and channel) and fp8_block (1x128 by 128x128), whose times include the
// quantisation of x from BF16, which is taken off: 3 bytes for each element at the memory's
// bandwidth. Throws InputError with `path` and line where a column is missing, a value is none, a
// shape comes twice, or a time cannot be of `device`: faster than its peak, or no
// product of the table near it (another unit).
std::map<std::string, ProductTable::Rows> parse_product_table(const std::string& text,
                                                              const std::string& path,
                                                              const DeviceFacts& device);
// Of the dtypes above.
Format format_of_table(const std::string& dtype);

// Columns kernel, batch, sequence, heads, kv_heads, head_dim, window (0: none), us: causal
// attention forward in BF16, by kernel; head_dim 192 is 192 for queries and keys and 128 for
// values. A table may hold a shape with a window twice, with sinks and without: the faster counts.
// Throws as above.
std::map<std::string, AttentionTable::Rows> parse_attention_table(const std::string& text,
                                                                  const std::string& path,
                                                                  const DeviceFacts& device);

// Columns kernel, dtype (bfloat16, fp8_block), tokens (of all ranks), hidden, intermediate, topk,
// experts, tp, ep, distribution (balanced, or power_law_ and its exponent: the most loaded rank),
// us: a layer's experts on one rank, forward. Kernels named ..._nongated, and
// sglang_flashinfer_cutlass_moe, have experts of two matrices. Throws as above.
GroupedTable::Rows parse_grouped_table(const std::string& text,
                                       const std::string& path,
                                       const DeviceFacts& device);

// Columns op (all_gather, reduce_scatter, all_reduce, alltoall), dtype (half: of two bytes, int8),
// gpus, message (elements), us. Throws as above; `link`: what a device's links can carry.
CollectiveTable::Rows parse_collective_table(const std::string& text,
                                             const std::string& path,
                                             BytesPerSecond link);

// Columns hidden, tokens (of each rank), topk, experts, dispatch_sms, dispatch_us, combine_sms,
// combine_us: of eight ranks on a node. Throws as above.
ExchangeTable::Rows parse_exchange_table(const std::string& text,
                                         const std::string& path,
                                         const DeviceFacts& device);

// Tables as the readers take them, without what pricing does not need: products of fewer than 64
// rows or 10 us, times beyond four digits.
std::string print_products(const std::string& text, const std::string& path);

}  // namespace rehearse
