// The instructions of ptx/gpu/thread.cuh and memory.cuh, imitated.

#include "kernels/ptx/imitation/global_memory.h"
#include "kernels/ptx/imitation/instructions.h"
#include "kernels/ptx/imitation/machine.h"

namespace rehearse::kernels::imitation::ptx {

int thread_index(Where) {
  return Cluster::self().index;
}
int block_index(Where) {
  return Cluster::self().block->index;
}
int block_count(Where) {
  return Cluster::current().shape.blocks;
}
int cluster_rank(Where) {
  return Cluster::self().block->rank;
}

void sync_block(Where where) {
  Cluster& c = Cluster::current();
  c.meet(Cluster::self().block->named[0], c.shape.threads, "the block's barrier", where);
}

void sync_warp(Where where) {
  Thread& t = Cluster::self();
  Cluster::current().meet(t.block->warps[static_cast<size_t>(t.warp())], kWarp, "its warp", where);
}

namespace {
void come_to_named(int id, int threads, bool waits, Where where) {
  Cluster& c = Cluster::current();
  if (id < 1 || id > 15 || threads <= 0 || threads % kWarp != 0) {
    c.fail("meets " + std::to_string(threads) + " threads at barrier " + std::to_string(id), where);
  }
  c.meet(Cluster::self().block->named[static_cast<size_t>(id)],
         threads,
         "a named barrier",
         where,
         waits);
}
}  // namespace

void sync_named(int id, int threads, Where where) {
  come_to_named(id, threads, true, where);
}
void arrive_named(int id, int threads, Where where) {
  come_to_named(id, threads, false, where);
}

void sync_cluster(Where where) {
  Cluster& c = Cluster::current();
  c.meet(c.everyone, c.shape.threads * c.shape.cluster, "the cluster's barrier", where);
}

// Lanes meet, but an exchange of registers orders no memory.
namespace {
const std::array<float, kWarp>& exchange(float value, const char* what, Where where) {
  Thread& t = Cluster::self();
  Meeting& m = t.block->warps[static_cast<size_t>(t.warp())];
  m.given[static_cast<size_t>(t.lane())] = value;
  Cluster::current().meet(m, kWarp, what, where, /*waits=*/true, /*orders=*/false);
  return m.shown;
}
}  // namespace

float shuffle_xor(float value, int mask, Where where) {
  const int lane = Cluster::self().lane();
  return exchange(value, "a shuffle of its warp", where)[static_cast<size_t>(lane ^ mask)];
}

float shuffle(float value, int lane, Where where) {
  return exchange(value, "a shuffle of its warp", where)[static_cast<size_t>(lane)];
}

int uniform(int value, Where where) {
  const float first = exchange(std::bit_cast<float>(value), "a shuffle of its warp", where)[0];
  if (std::bit_cast<int>(first) != value) {
    Cluster::current().fail("takes for the same in its warp what is not", where);
  }
  return value;
}

bool elect_one(Where where) {
  exchange(0, "an election of its warp", where);
  return Cluster::self().lane() == 0;
}

void set_registers(int count, bool increase, Where where) {
  Cluster& c = Cluster::current();
  Thread& t = Cluster::self();
  WarpGroup& group = t.block->warp_groups[static_cast<size_t>(t.warp_group())];
  if (count < 24 || count > 256 || count % 8 != 0) {
    c.fail("sets " + std::to_string(count) + " registers; 24 to 256 in steps of 8", where);
  }
  // All its warps change them or none may; the first thread acts for all. No memory is ordered.
  c.meet(group.meeting,
         kWarpGroup,
         "a change of its warp group's registers",
         where,
         /*waits=*/true,
         /*orders=*/false);
  if (t.index % kWarpGroup == 0) {
    const int more = (count - group.registers) * kWarpGroup;
    if (increase != (more > 0)) {
      c.fail(
          "sets " + std::to_string(count) + " registers and has " + std::to_string(group.registers),
          where);
    }
    Block& block = *t.block;
    c.wait_until([&block, more] { return block.free_registers >= more; },
                 [&block, more] {
                   return std::to_string(more) + " registers, of which " +
                          std::to_string(block.free_registers) + " are free";
                 },
                 where);
    block.free_registers -= more;
    group.registers = count;
  }
}

uint32_t shared_base(Where) {
  return SharedMemory::kBase;
}

void read_shared(void* to, uint32_t address, uint32_t bytes, Where where) {
  Cluster& c = Cluster::current();
  if (address % bytes != 0) c.fail("reads shared memory that is not aligned", where);
  std::memcpy(
      to, c.read(*Cluster::self().block, address, bytes, c.own_access(where), where), bytes);
}

void write_shared(uint32_t address, const void* from, uint32_t bytes, Where where) {
  Cluster& c = Cluster::current();
  if (address % bytes != 0) c.fail("writes shared memory that is not aligned", where);
  std::memcpy(
      c.write(*Cluster::self().block, address, bytes, c.own_access(where), where), from, bytes);
}

// Every lane gives its words and the address of one row; the words of row r of matrix i lie with
// lanes 4 r to 4 r + 3. A lane's own words go to the row whose address lane 8 i + r gives.
void store_matrix_x4(uint32_t address, const uint32_t (&values)[4], Where where) {
  Cluster& c = Cluster::current();
  Thread& t = Cluster::self();
  if (address % 16 != 0) c.fail("stores matrix rows that are not aligned to 16 bytes", where);
  const int lane = t.lane();
  const std::array<float, kWarp> addresses =
      exchange(std::bit_cast<float>(address), "a matrix store of its warp", where);
  for (int i = 0; i < 4; ++i) {
    const auto row = std::bit_cast<uint32_t>(addresses[static_cast<size_t>(8 * i + lane / 4)]);
    write_shared(row + 4 * static_cast<uint32_t>(lane % 4), &values[i], 4, where);
  }
}

void read_global(void* to, const void* from, size_t bytes, Where where) {
  try {
    if (reinterpret_cast<uintptr_t>(from) % bytes != 0) throw ImitationError("reads unaligned");
    std::memcpy(to, GlobalMemory::instance().read(from, bytes), bytes);
  } catch (const ImitationError& e) {
    Cluster::current().fail(e.what(), where);
  }
}

void write_global(void* to, const void* from, size_t bytes, Where where) {
  try {
    if (reinterpret_cast<uintptr_t>(to) % bytes != 0) throw ImitationError("writes unaligned");
    std::memcpy(GlobalMemory::instance().write(to, bytes, GlobalMemory::Kind::kStore), from, bytes);
  } catch (const ImitationError& e) {
    Cluster::current().fail(e.what(), where);
  }
}

}  // namespace rehearse::kernels::imitation::ptx
