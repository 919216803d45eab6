// The instructions of ptx/gpu/wgmma.cuh, imitated. A product is worked out when the first thread
// waits for it; until then the sums in registers hold NaN, and its reads of shared memory count as
// not yet made to all who have not met a thread that waited.

#include <limits>

#include "kernels/formats/tensor_core.h"
#include "kernels/ptx/imitation/instructions.h"
#include "kernels/ptx/imitation/machine.h"

namespace rehearse::kernels::imitation::ptx {
namespace {

constexpr int kRowBytes = 32;  // of a product, along K
constexpr int kWarps = kWarpGroup / kWarp;

WarpGroup& own_group() {
  Thread& t = Cluster::self();
  return t.block->warp_groups[static_cast<size_t>(t.warp_group())];
}

// Row r of an operand, 32 bytes, read for a warp. The matrix descriptor's fields: PTX ISA,
// "asynchronous warpgroup level matrix shared memory layout".
void read_row(uint8_t* to, uint64_t descriptor, int r, const Access& access, Where where) {
  Cluster& c = Cluster::current();
  const auto start = static_cast<uint32_t>((descriptor & 0x3fff) << 4);
  const auto stride = static_cast<uint32_t>((descriptor >> 32 & 0x3fff) << 4);
  const uint32_t mode = static_cast<uint32_t>(descriptor >> 62);
  const uint32_t mask = mode == 1 ? 7 : mode == 2 ? 3 : mode == 3 ? 1 : 0;
  if (mode != 1) c.fail("multiplies an operand that is not swizzled by 128 bytes", where);
  // The swizzle follows address bits 7 to 9: an operand begins where they are 0, but for the
  // advance along K, unless the descriptor's base offset says otherwise, which these do not set.
  if (start % 1024 >= 128) c.fail("multiplies an operand that is not aligned to 1024 bytes", where);
  const uint32_t row =
      start + static_cast<uint32_t>(r / 8) * stride + static_cast<uint32_t>(r % 8) * 128;
  for (uint32_t at = 0; at < kRowBytes; at += 16) {
    const uint32_t address = (row + at) ^ ((((row + at) >> 7) & mask) << 4);
    std::memcpy(to + at, c.read(*Cluster::self().block, address, 16, access, where), 16);
  }
}

void execute(WarpGroup& group, size_t index) {
  Product& p = *group.products[index];
  Cluster& c = Cluster::current();
  Thread& self = Cluster::self();
  const int first_warp = self.warp_group() * kWarps;
  std::vector<uint8_t> a(64 * kRowBytes);
  std::vector<uint8_t> b(static_cast<size_t>(p.n) * kRowBytes);
  for (int w = 0; w < kWarps; ++w) {
    const Access access{
        {c.tensor_core_agent(*self.block, first_warp + w), static_cast<uint32_t>(index) + 1},
        p.sight[static_cast<size_t>(w)],
        true,
        p.where.line()};
    for (int r = 16 * w; r < 16 * w + 16; ++r) {
      read_row(a.data() + r * kRowBytes, p.a, r, access, p.where);
    }
    for (int r = 0; r < p.n; ++r) read_row(b.data() + r * kRowBytes, p.b, r, access, p.where);
  }
  // Rows and columns of thread t: see ptx/gpu/wgmma.cuh.
  std::vector<float> d(static_cast<size_t>(64 * p.n));
  const auto for_each = [&](auto visit) {
    for (int t = 0; t < kWarpGroup; ++t) {
      for (int i = 0; i < p.n / 2; ++i) {
        const int row = t / 32 * 16 + t % 32 / 4 + i % 4 / 2 * 8;
        const int column = i / 4 * 8 + t % 4 * 2 + i % 2;
        visit(t, i, d[static_cast<size_t>(row * p.n + column)]);
      }
    }
  };
  if (p.accumulate) {
    for_each([&](int t, int i, float& x) {
      const std::vector<float>& before = p.before[static_cast<size_t>(t)];
      x = before.empty() ? p.sums[static_cast<size_t>(t)][i] : before[static_cast<size_t>(i)];
    });
  }
  tensor_core_e4m3(a.data(), b.data(), p.n, p.accumulate, d.data());
  for_each([&](int t, int i, float& x) { p.sums[static_cast<size_t>(t)][i] = x; });
  p.done = true;
}

}  // namespace

void fence_products(Where) {
  Cluster::self().fenced = true;
}

void issue_product(float* sums, int n, uint64_t a, uint64_t b, bool accumulate, Where where) {
  Cluster& c = Cluster::current();
  Thread& t = Cluster::self();
  WarpGroup& group = own_group();
  if (!t.fenced) c.fail("multiplies without fence_products after its last wait", where);
  const auto index = static_cast<size_t>(t.issued++);
  if (index >= group.products.size()) {
    auto p = std::make_unique<Product>();
    p->a = a, p->b = b, p->n = n, p->accumulate = accumulate, p->where = where;
    for (Sight& s : p->sight) s = Sight(c.agents);
    group.products.push_back(std::move(p));
  }
  Product& p = *group.products[index];
  if (p.a != a || p.b != b || p.n != n || p.accumulate != accumulate) {
    c.fail("issues another product than the rest of its warp group", where);
  }
  const auto own = static_cast<size_t>(t.index % kWarpGroup);
  bool in_flight = false;
  for (size_t i = static_cast<size_t>(t.waited); i < index; ++i) {
    in_flight = in_flight || group.products[i]->sums[own] == sums;
  }
  if (!in_flight) {
    if (accumulate) p.before[own].assign(sums, sums + n / 2);
    std::fill_n(sums, n / 2, std::numeric_limits<float>::quiet_NaN());
  }
  p.sums[own] = sums;
  p.sight[own / kWarp].join(t.sight);
  ++t.sight.all[t.agent];
  ++p.issued;
}

void commit_products(Where) {
  Thread& t = Cluster::self();
  t.group_ends.push_back(t.issued);
}

void wait_groups(int pending, Where where) {
  Cluster& c = Cluster::current();
  Thread& t = Cluster::self();
  WarpGroup& group = own_group();
  const int groups = static_cast<int>(t.group_ends.size());
  if (groups <= pending) return;
  const int end = t.group_ends[static_cast<size_t>(groups - 1 - pending)];
  const auto warp = static_cast<size_t>(t.warp() % kWarps);
  for (int i = t.waited; i < end; ++i) {
    Product& p = *group.products[static_cast<size_t>(i)];
    c.wait_until([&p] { return p.done || p.issued == kWarpGroup; },
                 [&p] {
                   return "a product that " + std::to_string(p.issued) +
                          " of the warp group's 128 threads issued";
                 },
                 where);
    if (!p.done) execute(group, static_cast<size_t>(i));
    t.sight.join(p.sight[warp]);
    if (++p.waited == kWarpGroup) group.products[static_cast<size_t>(i)].reset();
  }
  t.waited = std::max(t.waited, end);
  t.sight.all[c.tensor_core_agent(*t.block, t.warp())] = static_cast<uint32_t>(t.waited);
  t.fenced = false;
}

}  // namespace rehearse::kernels::imitation::ptx
