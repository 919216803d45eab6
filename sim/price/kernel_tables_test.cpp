#include "sim/price/kernel_tables.h"

#include <cmath>
#include <filesystem>

#include <fmt/format.h>
#include <gtest/gtest.h>

#include "base/errors.h"
#include "base/file.h"

namespace rehearse {
namespace {

// Rows that take at least so many microseconds.
template <int kMicroseconds>
bool from(const auto& row) {
  return row.time >= Duration::microseconds(kMicroseconds);
}

Cluster h100() {
  Cluster c;
  c.name = "h100";
  c.peak = FlopsPerSecond(989.5e12);
  c.peak_fp8 = FlopsPerSecond(1979e12);
  c.memory_bandwidth = BytesPerSecond(3.35e12);
  c.sms = 132;
  return c;
}

const std::string kGood =
    "dtype,m,n,k,us\nbfloat16,4096,4096,4096,200.5\nbfloat16,8192,4096,4096,390\n"
    "fp8_block,4096,4096,4096,150\n";

std::string refused(const std::string& text, const Cluster& cluster = h100()) {
  try {
    parse_product_table(text, "t.csv", facts_of(cluster));
  } catch (const InputError& e) {
    return e.what();
  }
  return "";
}
std::string with(const std::string& from, const std::string& to) {
  std::string text = kGood;
  return text.replace(text.find(from), from.size(), to);
}

TEST(KernelTables, Products) {
  const auto tables = parse_product_table(kGood, "t.csv", facts_of(h100()));
  ASSERT_EQ(tables.at("bfloat16").size(), 2u);
  EXPECT_EQ(tables.at("bfloat16")[1].call.m, 8192);
  EXPECT_NEAR(tables.at("bfloat16")[0].time.seconds(), 200.5e-6, 1e-12);
  // Less the quantisation of x: 3 bytes of each of its elements.
  EXPECT_NEAR(
      tables.at("fp8_block")[0].time.seconds(), 150e-6 - 3.0 * 4096 * 4096 / 3.35e12, 1e-12);
  // Columns are found by their names.
  EXPECT_EQ(refused("us,k,n,m,dtype,by\n200,4096,4096,4096,bfloat16,me\n"), "");
}

TEST(KernelTables, WhatIsNoneIsRefused) {
  const auto has = [](const std::string& text, const char* why) {
    EXPECT_NE(refused(text).find(why), std::string::npos) << "says: " << refused(text);
  };
  has("", "t.csv:1: is empty");
  has("dtype,m,n,k,us\n", "has no rows");
  has("dtype,m,n,k,ms\nbfloat16,1,1,1,1\n", "t.csv:1: has no column 'us'");
  has(with("200.5", "nan"), "t.csv:2: us: expected a number");
  has(with("200.5", "-3"), "t.csv:2: us: expected a number");
  has(with("8192,4096", "8192.5,4096"), "t.csv:3: m: expected a whole number");
  has(with("8192,4096,4096", "4096,4096,4096"), "t.csv:3: a second time of bfloat16");
  has(with("fp8_block", "int8"), "dtype: expected one of bfloat16, fp8, fp8_block");
  has(with(",390\n", "\n"), "t.csv:3: has 4 values for 5 columns");
  // Milliseconds and nanoseconds.
  has(with("200.5", "0.2005"), "above the peak of 'h100'");
  has("dtype,m,n,k,us\nbfloat16,4096,4096,4096,200500\n", "in another unit");
  // An H200's or a B200's rows, where they are faster than this device can be.
  has(with("200.5", "100"), "it is of another device");
  Cluster a100 = h100();
  a100.peak_fp8.reset();
  EXPECT_NE(refused(kGood, a100).find("fp8_block, and 'h100' has no FP8"), std::string::npos);
}

// Products whose factor depends on how full their waves are alone are told to a few percent from
// other families; the table's own come back as they are.
TEST(KernelTables, ProductsAreToldFromLikeOnes) {
  ProductTable::Rows products;
  for (const int64_t m : {256, 512, 1024, 1536, 2048, 3072, 4096, 8192}) {
    for (const int64_t n : {1024, 1536, 2048, 3072, 4096, 5120, 7168}) {
      for (const int64_t k : {1024, 2048, 4096, 7168}) {
        const double waves = std::ceil(std::ceil(static_cast<double>(m) / 128) *
                                       std::ceil(static_cast<double>(n) / 256) / 132);
        const double us = 5 + waves * 132 * 128 * 256 * 2.0 * static_cast<double>(k) / 600e6;
        products.push_back({{m, n, k}, Duration::seconds(us * 1e-6)});
      }
    }
  }
  const ProductTable table(
      products,
      Format::kBf16,
      {FlopsPerSecond(989.5e12), FlopsPerSecond(1979e12), BytesPerSecond(3.35e12)},
      132);
  EXPECT_EQ(table.time({1536, 3072, 4096}),
            Duration::seconds((5 + 2 * 132 * 128 * 256 * 2.0 * 4096 / 600e6) * 1e-6));
  const TableErrors e = table.judge([](const auto& row) { return from<20>(row); });
  EXPECT_GT(e.rows, 100);
  EXPECT_LT(e.mean_absolute, 0.08);
  EXPECT_LT(std::abs(e.bias), 0.03);
}

// Measured tables, whole families of n and k left out: mean absolute error and 95th percentile.
TEST(KernelTables, MeasuredProductsAreToldWithinTheirBounds) {
  const std::string folder = std::string(REHEARSE_SOURCE_DIR) + "/../shared/data/measured/";
  if (!std::filesystem::exists(folder)) GTEST_SKIP() << "no " << folder;
  Cluster a100 = h100();
  a100.peak = FlopsPerSecond(312e12);
  a100.peak_fp8.reset();
  a100.memory_bandwidth = BytesPerSecond(2.039e12);
  a100.sms = 108;
  for (const auto& [name, cluster] : {std::pair{"h100", h100()}, {"a100", a100}}) {
    const std::string path = folder + "gemm-" + name + ".csv";
    for (const auto& [dtype, products] :
         parse_product_table(read_file(path), path, facts_of(cluster))) {
      const ProductTable table(
          products,
          format_of_table(dtype),
          {cluster.peak, cluster.peak_fp8.value_or(cluster.peak), cluster.memory_bandwidth},
          cluster.sms);
      const TableErrors e = table.judge([](const auto& row) { return from<50>(row); });
      EXPECT_GT(e.rows, 5000);
      EXPECT_LT(e.mean_absolute, 0.06) << name << " " << dtype;
      EXPECT_LT(e.percentile_95, 0.17) << name << " " << dtype;
    }
    const std::string attention = folder + "attention-forward-" + name + ".csv";
    for (const auto& [kernel, rows] :
         parse_attention_table(read_file(attention), attention, facts_of(cluster))) {
      if (rows.size() < 1000) continue;
      const AttentionTable table(
          rows,
          {cluster.peak, cluster.peak_fp8.value_or(cluster.peak), cluster.memory_bandwidth},
          cluster.sms);
      const TableErrors e = table.judge([](const auto& row) { return from<50>(row); });
      EXPECT_GT(e.rows, 2000);
      EXPECT_LT(e.mean_absolute, 0.06) << name << " " << kernel;
      EXPECT_LT(e.percentile_95, 0.15) << name << " " << kernel;
    }
  }
}

TEST(KernelTables, Attention) {
  const std::string good =
      "kernel,batch,sequence,heads,kv_heads,head_dim,window,us\nfa3,2,4096,128,128,192,0,2074\n"
      "fa3,1,8192,16,8,128,1024,300\nfa3,1,8192,16,8,128,1024,280\n";
  EXPECT_EQ(kind_of_table(good, "a.csv"), TableKind::kAttention);
  EXPECT_EQ(kind_of_table(kGood, "t.csv"), TableKind::kProducts);
  const auto tables = parse_attention_table(good, "a.csv", facts_of(h100()));
  ASSERT_EQ(tables.at("fa3").size(), 2u);
  const AttentionTable table(
      tables.at("fa3"), {h100().peak, h100().peak, h100().memory_bandwidth}, 132);
  EXPECT_EQ(table.time({1, 8192, 16, 8, 128, 128, 1024}), Duration::microseconds(280));
  // Twice the batch of V3's shape: about twice the time.
  const double twice =
      table.time({4, 4096, 128, 128, 192, 128, 0}) / table.time({2, 4096, 128, 128, 192, 128, 0});
  EXPECT_NEAR(twice, 2, 0.1);
  const auto why = [&](const std::string& from, const std::string& to) {
    std::string text = good;
    try {
      parse_attention_table(
          text.replace(text.find(from), from.size(), to), "a.csv", facts_of(h100()));
    } catch (const InputError& e) {
      return std::string(e.what());
    }
    return std::string();
  };
  EXPECT_NE(why("2074", "2.074").find("a.csv:2: us: 2.074 is"), std::string::npos);
  EXPECT_NE(why("16,8,128", "16,3,128").find("3 do not divide 16 heads"), std::string::npos);
  EXPECT_NE(why("2074", "inf").find("us: expected a number"), std::string::npos);
  EXPECT_NE(why("window", "win").find("has no column 'window'"), std::string::npos);
}

}  // namespace
}  // namespace rehearse

namespace rehearse {
namespace {

template <typename Parse>
void expect_refusals(const std::string& good,
                     Parse parse,
                     const std::vector<std::array<std::string, 3>>& refusals) {
  const auto said = [&](const std::string& text) -> std::string {
    try {
      parse(text);
    } catch (const InputError& e) {
      return e.what();
    }
    return "";
  };
  EXPECT_EQ(said(good), "");
  for (const auto& [what, with, why] : refusals) {
    std::string text = good;
    text.replace(text.find(what), what.size(), with);
    EXPECT_NE(said(text).find(why), std::string::npos) << text << "says: " << said(text);
  }
}

// 940 MB of weights in 235 us: an H200's memory, not an H100's.
TEST(KernelTables, ProductsFasterThanTheMemoryAreRefused) {
  expect_refusals(
      kGood + "bfloat16,64,57344,8192,300\n",
      [](const std::string& text) { parse_product_table(text, "t.csv", facts_of(h100())); },
      {{"8192,300", "8192,235", "t.csv:5: us: 235 is"},
       {"8192,300", "8192,235", "above the memory bandwidth of 'h100'"}});
}

TEST(KernelTables, CollectivesThatAreNoneAreRefused) {
  expect_refusals(
      "op,dtype,gpus,message,us\nall_gather,half,8,67108864,425\nall_reduce,int8,4,1048576,20\n",
      [](const std::string& text) { parse_collective_table(text, "c.csv", BytesPerSecond(340e9)); },
      {{"all_gather", "broadcast", "c.csv:2: op: expected one of"},
       {"half", "float", "dtype: expected half or int8"},
       {",8,", ",1,", "gpus: expected a number from 2"},
       {"425", "nan", "us: expected a number"},
       {"425", "4.25", "another device, or in another unit"},
       {",us", ",ms", "has no column 'us'"},
       {",20\n", ",20,1\n", "has 6 values for 5 columns"},
       {"425\nall_reduce,int8,4,1048576,20", "425000", "another device, or in another unit"}});
}

TEST(KernelTables, ExchangesThatAreNoneAreRefused) {
  expect_refusals(
      "hidden,tokens,topk,experts,dispatch_sms,dispatch_us,combine_sms,combine_us\n"
      "7168,4096,8,256,20,500,20,900\n",
      [](const std::string& text) { parse_exchange_table(text, "e.csv", facts_of(h100())); },
      {{",256,", ",255,", "do not divide over 8 ranks"},
       {",20,500", ",200,500", "200 SMs of a device of 132"},
       {"500", "5", "above the memory bandwidth"},
       {"500", "inf", "dispatch_us: expected a number"},
       {"4096", "-1", "tokens: expected a number"}});
}

TEST(KernelTables, ExpertsThatAreNoneAreRefused) {
  expect_refusals(
      "kernel,dtype,tokens,hidden,intermediate,topk,experts,tp,ep,distribution,us\n"
      "cutlass,bfloat16,16384,7168,2048,8,256,1,8,power_law_1.2,3000\n",
      [](const std::string& text) { parse_grouped_table(text, "g.csv", facts_of(h100())); },
      {{"bfloat16", "int4", "dtype: expected bfloat16 or fp8_block"},
       {",8,256,", ",8,4,", "do not divide"},
       {"power_law_1.2", "zipf", "distribution: expected balanced"},
       {"power_law_1.2", "power_law_x", "power_law_ and an exponent"},
       {"3000", "3", "above the peak of 'h100'"},
       {"3000", "3000000", "another device, or in another unit"}});
}

// Of each kind, told from other families: what the shipped tables reach.
TEST(KernelTables, ShippedTablesTellWhatIsLeftOut) {
  const std::string folder = std::string(REHEARSE_SOURCE_DIR) + "/topologies/devices/h100-";
  const DeviceFacts facts = facts_of(h100());
  const ExchangeTable exchanges(
      parse_exchange_table(read_file(folder + "exchanges.csv"), "e.csv", facts));
  for (const bool dispatch : {true, false}) {
    const TableErrors e = exchanges.judge([&](const Measured<ExchangeCall>& row) {
      return from<50>(row) && row.call.dispatch == dispatch;
    });
    EXPECT_LT(e.mean_absolute, 0.06);
    EXPECT_LT(e.percentile_95, 0.13);
  }
  const CollectiveTable collectives(
      parse_collective_table(read_file(folder + "collectives.csv"), "c.csv", BytesPerSecond(340e9)),
      BytesPerSecond(340e9));
  const TableErrors e = collectives.judge(
      [](const Measured<CollectiveCall>& row) { return row.call.size >= Bytes(1'000'000); });
  EXPECT_LT(e.mean_absolute, 0.08);
  EXPECT_LT(e.percentile_95, 0.2);
  const GroupedTable grouped(parse_grouped_table(read_file(folder + "grouped.csv"), "g.csv", facts),
                             facts.peaks);
  const TableErrors experts = grouped.judge([](const Measured<GroupedCall>& row) {
    return from<50>(row) && row.call.format == Format::kFp8;
  });
  EXPECT_LT(experts.mean_absolute, 0.12);
  // What is in the table is told from itself and others near it.
  EXPECT_NEAR(exchanges.per_sm().value(), 18e9, 3e9);
}

}  // namespace
}  // namespace rehearse
