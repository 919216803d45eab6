// The imitation by itself: small kernels that use one instruction rightly, or wrongly, with results
// and messages known beforehand. What the kernels of the product do with it:
// kernels/checking/imitation_test.cpp.

#include <regex>
#include <string>
#include <vector>

#include <gtest/gtest.h>

#include "kernels/ptx/imitation/global_memory.h"
#include "kernels/ptx/imitation/shared_memory.h"
#include "kernels/ptx/ptx.cuh"

namespace rehearse::kernels::REHEARSE_TARGET {
namespace {

using imitation::GlobalMemory;
using imitation::ImitationError;
using Kernel = void (*)();

void run(Kernel kernel, int threads, int cluster = 1, int shared_bytes = 32 * 1024) {
  LaunchShape shape;
  shape.blocks = shape.cluster = cluster;
  shape.threads = threads;
  shape.shared_bytes = shared_bytes;
  imitation::run_grid(shape, kernel);
}

// The message without file, lines and which thread of many it was.
std::string failure(Kernel kernel, int threads, int cluster = 1) {
  try {
    run(kernel, threads, cluster);
  } catch (const ImitationError& e) {
    const std::regex place("\\w+\\.cpp:\\d+: | in line \\d+");
    const std::regex thread("thread \\d+");
    return std::regex_replace(std::regex_replace(e.what(), place, ""), thread, "thread N");
  }
  return "nothing";
}

TEST(Imitation, DeadlockSaysWhoWaitsWhereForWhat) {
  const auto kernel = [] {
    const uint32_t barrier = ptx::shared_base();
    if (ptx::thread_index() == 0) ptx::barrier_init(barrier, 2, "full");
    ptx::sync_block();
    if (ptx::thread_index() == 0) ptx::arrive_expecting(barrier, 64);
    if (ptx::thread_index() < 32) {
      ptx::wait_barrier(barrier, 0, "full");
    } else if (ptx::thread_index() < 64) {
      ptx::sync_named(3, 96);
    }
  };
  EXPECT_EQ(failure(kernel, 96),
            "deadlock:\n"
            "  mbarrier full at byte 0 of block 0, phase of parity 0 (1 of 2 arrivals, 64 bytes to "
            "come): threads 0 to 31 of block 0 \n"
            "  a named barrier: 32 of 96 threads came: threads 32 to 63 of block 0 ");
}

TEST(Imitation, FindsReadsOfWhatNothingWrote) {
  EXPECT_EQ(failure([] { ptx::load_shared<float>(ptx::shared_base() + 4); }, 32),
            "thread N of block 0 reads shared memory that nothing wrote: byte 4");
  static float* memory;
  memory = static_cast<float*>(GlobalMemory::instance().allocate(8));
  EXPECT_EQ(failure([] { ptx::load_global(memory); }, 32),
            "thread N of block 0 reads byte 0 of an allocation of 8 bytes, which nothing wrote");
  EXPECT_EQ(
      failure([] { ptx::store_global(memory + 2, 1.0f); }, 32),
      "thread N of block 0 writes 4 bytes of device memory at offset 8 of an allocation of 8");
  GlobalMemory::instance().release(memory);
}

// Whatever the order of the run: the write comes first here, and the read is wrong all the same.
TEST(Imitation, FindsRaces) {
  const auto racing = [] {
    if (ptx::thread_index() == 0) ptx::store_shared(ptx::shared_base(), 1.0f);
    if (ptx::thread_index() >= 32) ptx::sync_named(1, 32);
    if (ptx::thread_index() == 32) ptx::load_shared<float>(ptx::shared_base());
  };
  EXPECT_NE(failure(racing, 64).find("of block 0 reads shared memory "), std::string::npos);
  const auto ordered = [] {
    if (ptx::thread_index() == 0) ptx::store_shared(ptx::shared_base(), 1.0f);
    ptx::sync_named(1, 64);
    if (ptx::thread_index() == 32) ptx::load_shared<float>(ptx::shared_base());
  };
  EXPECT_EQ(failure(ordered, 64), "nothing");
  // A shuffle brings lanes together and orders no memory.
  const auto shuffled = [] {
    if (ptx::thread_index() == 0) ptx::store_shared(ptx::shared_base(), 1.0f);
    ptx::shuffle_xor(0, 1);
    if (ptx::thread_index() == 1) ptx::load_shared<float>(ptx::shared_base());
  };
  EXPECT_EQ(failure(shuffled, 32),
            "thread N of block 0 reads shared memory without a barrier after its write: byte 0, by "
            "thread N of block 0");
}

TEST(Imitation, ShufflesAndStoresMatrices) {
  static float shuffled[32];
  static uint32_t word;
  run(
      [] {
        const int lane = ptx::thread_index();
        shuffled[lane] = ptx::shuffle_xor(static_cast<float>(lane), 5);
        // Matrix i, row r at 1024 - 16 (8 i + r): any place will do.
        const uint32_t values[4] = {
            0x10000u * lane, 0x10000u * lane + 1, 0x10000u * lane + 2, 0x10000u * lane + 3};
        ptx::store_matrix_x4(ptx::shared_base() + 1024 - 16 * static_cast<uint32_t>(lane), values);
        ptx::sync_warp();
        // Matrix 2, row 5, columns 4 and 5: lane 4 * 5 + 2.
        if (lane == 0) {
          word = ptx::load_shared<uint32_t>(ptx::shared_base() + 1024 - 16 * (8 * 2 + 5) + 4 * 2);
        }
      },
      32);
  for (int lane = 0; lane < 32; ++lane) EXPECT_EQ(shuffled[lane], lane ^ 5);
  EXPECT_EQ(word, 22 * 0x10000u + 2);
}

// A box of 4 rows of 128 bytes at row 6, column 16 of an 8 x 144 byte tensor: the last two rows lie
// outside. Chunk c of the row at address a lies at chunk c ^ (a / 128 mod 8).
TEST(Imitation, CopiesTensorBoxesSwizzled) {
  static uint8_t* memory;
  static TensorMap map;
  memory = static_cast<uint8_t*>(GlobalMemory::instance().allocate(8 * 144));
  std::vector<uint8_t> bytes(8 * 144);
  for (size_t i = 0; i < bytes.size(); ++i)
    bytes[i] = static_cast<uint8_t>(i / 144 * 20 + i % 144 / 16);
  GlobalMemory::instance().upload(memory, bytes.data(), bytes.size());
  TensorShape shape;
  shape.base = memory;
  shape.size = {144, 8, 1};
  shape.stride = {144, 8 * 144};
  shape.box = {128, 4, 1};
  shape.swizzle = 128;
  map = ptx::make_tensor_map(shape);
  run(
      [] {
        const uint32_t base = ptx::shared_base();
        const uint32_t barrier = base + 2048;
        if (ptx::thread_index() == 0) {
          ptx::barrier_init(barrier, 1, "full");
          ptx::fence_barrier_init();
          ptx::arrive_expecting(barrier, 512);
          ptx::load_tensor(base, map, barrier, 16, 6, 0);
        }
        ptx::sync_block();
        ptx::wait_barrier(barrier, 0, "full");
        for (int r = 0; r < 4; ++r) {
          for (int c = 0; c < 8; ++c) {
            const uint32_t word =
                ptx::load_shared<uint32_t>(base + static_cast<uint32_t>(r * 128 + (c ^ r) * 16));
            EXPECT_EQ(word & 255, r < 2 ? (6 + r) * 20 + 1 + c : 0);
          }
        }
      },
      32);
  shape.box = {256, 4, 1};
  EXPECT_THROW(ptx::make_tensor_map(shape), std::invalid_argument) << "longer than the swizzle";
  shape.box = {128, 4, 1};
  shape.stride = {140, 8 * 140};
  EXPECT_THROW(ptx::make_tensor_map(shape), std::invalid_argument);
  GlobalMemory::instance().release(memory);
}

TEST(Imitation, RegistersOfAnSmAreFinite) {
  // 384 threads have 168 each; 2 x 128 x 240 and 128 x 40 are more than 64 K.
  const auto kernel = [] {
    if (ptx::thread_index() / 128 == 2) {
      ptx::decrease_registers<40>();
    } else {
      ptx::increase_registers<240>();
    }
  };
  EXPECT_NE(
      failure(kernel, 384).find("deadlock:\n  9216 registers, of which 8192 are free: threads"),
      std::string::npos);
}

TEST(Imitation, BlocksOfAClusterWaitForEachOthersBarriers) {
  const auto unfenced = [] {
    if (ptx::thread_index() == 0) ptx::barrier_init(ptx::shared_base(), 2, "empty");
    ptx::sync_cluster();
    if (ptx::thread_index() == 0) ptx::arrive_at_rank(ptx::shared_base(), 1 - ptx::cluster_rank());
    ptx::sync_cluster();
  };
  EXPECT_NE(failure(unfenced, 32, 2).find("without fence_barrier_init after its initialisation"),
            std::string::npos);
}

}  // namespace
}  // namespace rehearse::kernels::REHEARSE_TARGET
