#pragma once
// The instructions of ptx/gpu/, imitated: same names, same arguments, same effects, with checks of
// what hardware leaves undefined. What each does is said there.

#include <bit>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <functional>
#include <source_location>

#include "kernels/formats/formats.h"
#include "kernels/ptx/label.h"
#include "kernels/ptx/tensor_map.h"

// The language extensions in kernel sources.
#define __global__
#define __device__
#define __forceinline__ inline
#define __grid_constant__
#define __launch_bounds__(...)

namespace rehearse::kernels::imitation {

void run_grid(const LaunchShape& shape, const std::function<void()>& kernel);

namespace ptx {

using Where = std::source_location;

// thread.cuh
int thread_index(Where where = Where::current());
int block_index(Where where = Where::current());
int block_count(Where where = Where::current());
int cluster_rank(Where where = Where::current());
void sync_block(Where where = Where::current());
void sync_warp(Where where = Where::current());
void sync_named(int id, int threads, Where where = Where::current());
void arrive_named(int id, int threads, Where where = Where::current());
void sync_cluster(Where where = Where::current());
float shuffle_xor(float value, int mask, Where where = Where::current());
float shuffle(float value, int lane, Where where = Where::current());
int uniform(int value, Where where = Where::current());
bool elect_one(Where where = Where::current());
inline void wait_for_kernel_before() {}  // kernels run one after the other here
inline void let_next_kernel_start() {}
void set_registers(int count, bool increase, Where where);
template <int kCount>
void increase_registers(Where where = Where::current()) {
  set_registers(kCount, true, where);
}
template <int kCount>
void decrease_registers(Where where = Where::current()) {
  set_registers(kCount, false, where);
}

// memory.cuh
uint32_t shared_base(Where where = Where::current());
void read_shared(void* to, uint32_t address, uint32_t bytes, Where where);
void write_shared(uint32_t address, const void* from, uint32_t bytes, Where where);
void read_global(void* to, const void* from, size_t bytes, Where where);
void write_global(void* to, const void* from, size_t bytes, Where where);
template <class T>
T load_shared(uint32_t address, Where where = Where::current()) {
  T value;
  read_shared(&value, address, sizeof(T), where);
  return value;
}
template <class T>
void store_shared(uint32_t address, const T& value, Where where = Where::current()) {
  write_shared(address, &value, sizeof(T), where);
}
void store_matrix_x4(uint32_t address, const uint32_t (&values)[4], Where where = Where::current());
template <class T>
T load_global(const T* p, Where where = Where::current()) {
  T value;
  read_global(&value, p, sizeof(T), where);
  return value;
}
template <class T>
T load_own(const T* p, Where where = Where::current()) {
  return load_global(p, where);
}
template <class T>
void store_global(T* p, const T& value, Where where = Where::current()) {
  write_global(p, &value, sizeof(T), where);
}
inline uint32_t to_bf16x2(float low, float high) {
  return to_bf16(low).bits | static_cast<uint32_t>(to_bf16(high).bits) << 16;
}
inline uint16_t to_e4m3x2(float low, float high) {
  return static_cast<uint16_t>(to_e4m3(low) | to_e4m3(high) << 8);
}
inline void from_e4m3x2(uint16_t packed, float& low, float& high) {
  low = from_e4m3(static_cast<uint8_t>(packed));
  high = from_e4m3(static_cast<uint8_t>(packed >> 8));
}
inline float max_magnitude(float amax, float x) {
  return std::fmax(amax, std::abs(x));
}
inline uint32_t multiply_high(uint32_t a, uint32_t b) {
  return static_cast<uint32_t>(uint64_t{a} * b >> 32);
}
inline float multiply_add(float a, float b, float c) {
  return std::fma(a, b, c);
}

// barrier.cuh
void barrier_init(uint32_t barrier, int count, const char* name, Where where = Where::current());
void fence_barrier_init(Where where = Where::current());
void arrive_expecting(uint32_t barrier, int bytes, Where where = Where::current());
void arrive(uint32_t barrier, Where where = Where::current());
void arrive_at_rank(uint32_t barrier, int rank, Where where = Where::current());
void wait_barrier(uint32_t barrier, uint32_t parity, Label name, Where where = Where::current());

// tensor_copy.cuh
inline void prefetch_map(const TensorMap&) {}
void load_tensor(uint32_t to,
                 const TensorMap& map,
                 uint32_t barrier,
                 int x,
                 int y,
                 int z,
                 Where where = Where::current());
void load_tensor_multicast(uint32_t to,
                           const TensorMap& map,
                           uint32_t barrier,
                           int x,
                           int y,
                           int z,
                           uint16_t ranks,
                           Where where = Where::current());
void store_tensor(
    const TensorMap& map, uint32_t from, int x, int y, int z, Where where = Where::current());
void add_tensor(
    const TensorMap& map, uint32_t from, int x, int y, int z, Where where = Where::current());
void commit_stores(Where where = Where::current());
void wait_stores(int pending, Where where);
template <int kPending>
void wait_stores_read(Where where = Where::current()) {
  wait_stores(kPending, where);
}
void fence_async_shared(Where where = Where::current());

// wgmma.cuh
void fence_products(Where where = Where::current());
void commit_products(Where where = Where::current());
void wait_groups(int pending, Where where);
template <int kPending>
void wait_products(Where where = Where::current()) {
  wait_groups(kPending, where);
}
template <int kCount>
void keep(float (&)[kCount]) {}
inline uint64_t operand(uint32_t address) {
  return static_cast<uint64_t>((address & 0x3ffff) >> 4) | (uint64_t{1024 >> 4} << 32) |
         (uint64_t{1} << 62);
}
inline uint64_t advance(uint64_t operand, int bytes) {
  return operand + static_cast<uint64_t>(bytes >> 4);
}
void issue_product(float* sums, int n, uint64_t a, uint64_t b, bool accumulate, Where where);
template <int kN>
void multiply_e4m3(
    float (&d)[kN / 2], uint64_t a, uint64_t b, bool accumulate, Where where = Where::current()) {
  issue_product(d, kN, a, b, accumulate, where);
}

// launch.cuh
TensorMap make_tensor_map(const TensorShape& shape);
template <auto kKernel, class Argument>
void launch(const LaunchShape& shape, Stream, const Argument& argument) {
  run_grid(shape, [&] { kKernel(argument); });
}

}  // namespace ptx
}  // namespace rehearse::kernels::imitation
