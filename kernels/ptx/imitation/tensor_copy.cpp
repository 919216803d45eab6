// The instructions of ptx/gpu/barrier.cuh and tensor_copy.cuh, imitated. Copies happen when they
// are issued; that they may happen later shows in who has seen them: what a copy writes is seen by
// those who waited for its barrier's phase, what a store reads is free when its group was waited
// for.

#include <stdexcept>

#include "kernels/ptx/imitation/global_memory.h"
#include "kernels/ptx/imitation/instructions.h"
#include "kernels/ptx/imitation/machine.h"

namespace rehearse::kernels::imitation::ptx {
namespace {

// A TensorMap's words, as this implementation fills them.
struct Map {
  const uint8_t* base;
  std::array<uint64_t, 3> size;
  std::array<uint64_t, 2> stride;
  std::array<uint32_t, 3> box;
  uint32_t element;
  uint32_t swizzle;
  uint32_t is_float;
};
static_assert(sizeof(Map) <= sizeof(TensorMap));

Map unpack(const TensorMap& map) {
  Map m;
  std::memcpy(&m, map.words.data(), sizeof(m));
  return m;
}

// One row of a box: which bytes of device memory it is, how many of them exist.
struct BoxRow {
  const uint8_t* at = nullptr;
  uint32_t skip = 0;   // bytes before the tensor's edge: coordinates may be negative
  uint32_t bytes = 0;  // within the tensor, after skip
};

BoxRow box_row(const Map& m, int x, int64_t y, int64_t z) {
  BoxRow row;
  const auto size = [&](int d) { return static_cast<int64_t>(m.size[static_cast<size_t>(d)]); };
  if (y < 0 || z < 0 || y >= size(1) || z >= size(2)) return row;
  const int64_t begin = std::max<int64_t>(x, 0);
  const int64_t end = std::min<int64_t>(x + static_cast<int64_t>(m.box[0]), size(0));
  if (begin >= end) return row;
  row.skip = static_cast<uint32_t>(begin - x) * m.element;
  row.bytes = static_cast<uint32_t>(end - begin) * m.element;
  row.at = m.base + static_cast<uint64_t>(begin) * m.element +
           static_cast<uint64_t>(y) * m.stride[0] + static_cast<uint64_t>(z) * m.stride[1];
  return row;
}

// Where a 16-byte chunk of a box lies.
uint32_t swizzled(uint32_t address, uint32_t swizzle) {
  return swizzle == 0 ? address : address ^ ((address >> 7 & (swizzle / 16 - 1)) << 4);
}

void check_box(const Map& m, uint32_t address, Where where) {
  if (address % 128 != 0) {
    Cluster::current().fail("copies a tensor box at byte " +
                                std::to_string(address - SharedMemory::kBase) +
                                " of shared memory, which is not a multiple of 128",
                            where);
  }
  if (m.element == 0) Cluster::current().fail("copies by a map that was never made", where);
}

// Visits the box in chunks of at most 16 bytes: shared address, row of device memory, offset in
// the row, bytes.
template <class Visit>
void for_each_chunk(const Map& m, uint32_t address, int x, int y, int z, Visit visit) {
  const uint32_t row_bytes = m.box[0] * m.element;
  for (uint32_t k = 0; k < m.box[2]; ++k) {
    for (uint32_t j = 0; j < m.box[1]; ++j) {
      const BoxRow row = box_row(m, x, int64_t{y} + j, int64_t{z} + k);
      const uint32_t start = address + (k * m.box[1] + j) * row_bytes;
      for (uint32_t at = 0; at < row_bytes; at += 16) {
        visit(swizzled(start + at, m.swizzle), row, at, std::min(16u, row_bytes - at));
      }
    }
  }
}

void require_fenced(const Barrier& b, Where where) {
  if (b.fenced) return;
  Cluster::current().fail("uses " + b.name +
                              " for copies or from another block, without "
                              "fence_barrier_init after its initialisation",
                          where);
}

void load(Block& block,
          uint32_t to,
          const TensorMap& map,
          uint32_t barrier_address,
          int x,
          int y,
          int z,
          Where where) {
  Cluster& c = Cluster::current();
  const Map m = unpack(map);
  check_box(m, to, where);
  Barrier& b = c.barrier(block, barrier_address, where);
  require_fenced(b, where);
  const Access access{{b.agent, b.completed + 1}, Cluster::self().sight, true, where.line()};
  int64_t copied = 0;
  for_each_chunk(m, to, x, y, z, [&](uint32_t address, const BoxRow& row, uint32_t at, uint32_t n) {
    uint8_t* out = c.write(block, address, n, access, where);
    std::memset(out, 0, n);
    const uint32_t begin = std::max(at, row.skip);
    const uint32_t end = std::min(at + n, row.skip + row.bytes);
    if (row.bytes > 0 && begin < end) {
      try {
        std::memcpy(out + (begin - at),
                    GlobalMemory::instance().read(row.at + (begin - row.skip), end - begin),
                    end - begin);
      } catch (const ImitationError& e) {
        c.fail(e.what(), where);
      }
    }
    copied += n;
  });
  b.bytes -= copied;
  c.complete_if_done(b);
}

void store(const TensorMap& map,
           uint32_t from,
           int x,
           int y,
           int z,
           GlobalMemory::Kind kind,
           Where where) {
  Cluster& c = Cluster::current();
  Thread& t = Cluster::self();
  const Map m = unpack(map);
  check_box(m, from, where);
  if (t.store_agent == 0) t.store_agent = c.new_agent("a tensor store of " + c.name_of(t), where);
  t.group_open = true;
  t.stored = where;
  const Access access{{t.store_agent, t.groups + 1}, t.sight, true, where.line()};
  for_each_chunk(
      m, from, x, y, z, [&](uint32_t address, const BoxRow& row, uint32_t at, uint32_t n) {
        const uint8_t* in = c.read(*t.block, address, n, access, where);
        const uint32_t begin = std::max(at, row.skip);
        const uint32_t end = std::min(at + n, row.skip + row.bytes);
        if (row.bytes == 0 || begin >= end) return;
        try {
          uint8_t* out = GlobalMemory::instance().write(
              const_cast<uint8_t*>(row.at) + (begin - row.skip), end - begin, kind);
          if (kind == GlobalMemory::Kind::kStore) {
            std::memcpy(out, in + (begin - at), end - begin);
          } else {
            if (!m.is_float) c.fail("adds a tensor that is not FP32", where);
            for (uint32_t i = 0; i < end - begin; i += 4) {
              float a, b;
              std::memcpy(&a, out + i, 4);
              std::memcpy(&b, in + (begin - at) + i, 4);
              a += b;
              std::memcpy(out + i, &a, 4);
            }
          }
        } catch (const ImitationError& e) {
          c.fail(e.what(), where);
        }
      });
}

}  // namespace

void barrier_init(uint32_t address, int count, const char* name, Where where) {
  Cluster& c = Cluster::current();
  Thread& t = Cluster::self();
  if (address % 8 != 0 || count <= 0) c.fail("initialises an mbarrier wrongly", where);
  const uint64_t zero = 0;
  write_shared(address, &zero, 8, where);
  Barrier& b = t.block->barriers[address];
  if (b.agent != 0) c.fail("initialises an mbarrier twice", where);
  b.label = label_of(name);
  b.name = std::string("mbarrier ") + name + " at byte " +
           std::to_string(address - SharedMemory::kBase) + " of block " +
           std::to_string(t.block->index);
  b.count = b.pending = count;
  b.maker = t.agent;
  b.agent = c.new_agent("a tensor copy to " + b.name, where);
  b.gathering = b.released = Sight(c.agents);
}

// Whoever uses a barrier must have seen its initialisation.
namespace {
Barrier& seen_barrier(Block& block, uint32_t address, Where where) {
  Cluster& c = Cluster::current();
  Barrier& b = c.barrier(block, address, where);
  c.look(block, address, 8, where);
  return b;
}

void arrive(Barrier& b, int64_t bytes, Where where) {
  Cluster& c = Cluster::current();
  Thread& t = Cluster::self();
  if (b.pending == 0) {
    c.fail("arrives at " + b.name + " as one more than its " + std::to_string(b.count), where);
  }
  b.gathering.join(t.sight);
  ++t.sight.all[t.agent];
  b.bytes += bytes;
  --b.pending;
  c.complete_if_done(b);
}
}  // namespace

void fence_barrier_init(Where) {
  Thread& t = Cluster::self();
  for (auto& [address, b] : t.block->barriers) b.fenced = b.fenced || b.maker == t.agent;
}

void arrive_expecting(uint32_t barrier, int bytes, Where where) {
  arrive(seen_barrier(*Cluster::self().block, barrier, where), bytes, where);
}

void arrive(uint32_t barrier, Where where) {
  arrive(seen_barrier(*Cluster::self().block, barrier, where), 0, where);
}

void arrive_at_rank(uint32_t barrier, int rank, Where where) {
  Cluster& c = Cluster::current();
  if (rank < 0 || rank >= c.shape.cluster) {
    c.fail("arrives at block " + std::to_string(rank) + " of a cluster of " +
               std::to_string(c.shape.cluster),
           where);
  }
  Block& block = *c.blocks[static_cast<size_t>(rank)];
  for (const Thread& t : block.threads) {
    if (!t.finished) {
      Barrier& b = seen_barrier(block, barrier, where);
      if (rank != Cluster::self().block->rank) require_fenced(b, where);
      arrive(b, 0, where);
      return;
    }
  }
  c.fail("arrives at a barrier of a block that has ended", where);
}

void wait_barrier(uint32_t barrier, uint32_t parity, Label name, Where where) {
  Thread& t = Cluster::self();
  Barrier& b = seen_barrier(*t.block, barrier, where);
  if (name.text != b.label) {
    Cluster::current().fail("calls " + b.name + " '" + label_text(name.text) + "'", where);
  }
  if (parity > 1) Cluster::current().fail("waits for a parity that is neither 0 nor 1", where);
  Cluster::current().wait_until(
      [&b, parity] { return b.completed % 2 != parity; },
      [&b, parity] {
        return b.name + ", phase of parity " + std::to_string(parity) + " (" +
               std::to_string(b.count - b.pending) + " of " + std::to_string(b.count) +
               " arrivals" +
               (b.bytes > 0 ? ", " + std::to_string(b.bytes) + " bytes to come" : "") + ")";
      },
      where);
  if (b.completed > 0) t.sight.join(b.released);
}

void load_tensor(
    uint32_t to, const TensorMap& map, uint32_t barrier, int x, int y, int z, Where where) {
  load(*Cluster::self().block, to, map, barrier, x, y, z, where);
}

void load_tensor_multicast(uint32_t to,
                           const TensorMap& map,
                           uint32_t barrier,
                           int x,
                           int y,
                           int z,
                           uint16_t ranks,
                           Where where) {
  Cluster& c = Cluster::current();
  if (ranks == 0 || ranks >> c.shape.cluster != 0) c.fail("copies to no block that is", where);
  for (int r = 0; r < c.shape.cluster; ++r) {
    if (ranks >> r & 1) {
      load(*c.blocks[static_cast<size_t>(r)], to, map, barrier, x, y, z, where);
    }
  }
}

void store_tensor(const TensorMap& map, uint32_t from, int x, int y, int z, Where where) {
  store(map, from, x, y, z, GlobalMemory::Kind::kStore, where);
}

void add_tensor(const TensorMap& map, uint32_t from, int x, int y, int z, Where where) {
  store(map, from, x, y, z, GlobalMemory::Kind::kAdd, where);
}

void commit_stores(Where) {
  Thread& t = Cluster::self();
  ++t.groups;
  t.group_open = false;
}

void wait_stores(int pending, Where) {
  Thread& t = Cluster::self();
  if (t.groups <= static_cast<uint32_t>(pending)) return;
  t.groups_read = std::max(t.groups_read, t.groups - static_cast<uint32_t>(pending));
  if (t.store_agent != 0) t.sight.all[t.store_agent] = t.groups_read;
}

void fence_async_shared(Where) {
  Thread& t = Cluster::self();
  t.sight.fenced[t.agent] = t.sight.all[t.agent];  // whoever wrote has to fence
}

TensorMap make_tensor_map(const TensorShape& shape) {
  const auto refuse = [](const std::string& why) {
    throw std::invalid_argument("a tensor map " + why);
  };
  if (reinterpret_cast<uintptr_t>(shape.base) % 16 != 0)
    refuse("of memory not aligned to 16 bytes");
  for (const uint64_t s : shape.stride) {
    if (s % 16 != 0 || s >= uint64_t{1} << 40) {
      refuse("with a stride of " + std::to_string(s) + " bytes, not a multiple of 16");
    }
  }
  const uint32_t element = size_of(shape.element);
  for (size_t d = 0; d < 3; ++d) {
    if (shape.size[d] == 0 || shape.size[d] > uint64_t{1} << 32) {
      refuse("with a size of " + std::to_string(shape.size[d]));
    }
    if (shape.box[d] == 0 || shape.box[d] > 256) {
      refuse("with a box of " + std::to_string(shape.box[d]));
    }
  }
  if (shape.box[0] * element % 16 != 0)
    refuse("whose box has rows that are no multiple of 16 bytes");
  if (shape.swizzle != 0 && shape.swizzle != 32 && shape.swizzle != 64 && shape.swizzle != 128) {
    refuse("with a swizzle of " + std::to_string(shape.swizzle) + " bytes");
  }
  if (shape.swizzle != 0 && shape.box[0] * element > shape.swizzle) {
    refuse("whose box has longer rows than its swizzle");
  }
  const Map m{static_cast<const uint8_t*>(shape.base),
              shape.size,
              shape.stride,
              shape.box,
              element,
              shape.swizzle,
              shape.element == Element::kFloat};
  TensorMap out;
  std::memcpy(out.words.data(), &m, sizeof(m));
  return out;
}

}  // namespace rehearse::kernels::imitation::ptx
