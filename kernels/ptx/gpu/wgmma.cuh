#pragma once
// Matrix multiplication by the tensor cores on whole warp groups (128 threads), both operands in
// shared memory, E4M3 in and FP32 out. Asynchronous: between issue and wait_products nobody may
// touch the sums in registers or the operands.

#include <cstdint>

namespace rehearse::kernels::gpu::ptx {

// Before the first product, and after any access to sums in registers.
__device__ __forceinline__ void fence_products() {
  asm volatile("wgmma.fence.sync.aligned;" ::: "memory");
}

// Closes the open group of products.
__device__ __forceinline__ void commit_products() {
  asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory");
}

// Waits for all but the last kPending groups.
template <int kPending>
__device__ __forceinline__ void wait_products() {
  asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(kPending) : "memory");
}

// Keeps the compiler from moving accesses to these registers across this point.
template <int kCount>
__device__ __forceinline__ void keep(float (&d)[kCount]) {
#pragma unroll
  for (int i = 0; i < kCount; ++i) asm volatile("" : "+f"(d[i])::"memory");
}

// An operand in shared memory: rows of 128 bytes along K, swizzled by 128 bytes, 8 rows per 1024
// bytes. PTX ISA, "matrix descriptor": address / 16, stride of 8 rows / 16, swizzle mode 1.
__device__ __forceinline__ uint64_t operand(uint32_t address) {
  return static_cast<uint64_t>((address & 0x3ffff) >> 4) | (uint64_t{1024 >> 4} << 32) |
         (uint64_t{1} << 62);
}

// The operand `bytes` further along K, a multiple of 32 within the 128.
__device__ __forceinline__ uint64_t advance(uint64_t operand, int bytes) {
  return operand + static_cast<uint64_t>(bytes >> 4);
}

// d[64, kN] (+)= a[64, 32] b[kN, 32]^T; adds where accumulate. Thread t of the warp group holds in
// d[4 i + 2 r + c] row 16 (t / 32) + (t % 32) / 4 + 8 r, column 8 i + 2 (t % 4) + c.
template <int kN>
__device__ __forceinline__ void multiply_e4m3(float (&d)[kN / 2],
                                              uint64_t a,
                                              uint64_t b,
                                              bool accumulate);

// clang-format off
#define REHEARSE_NAMES_0 "%0, %1, %2, %3, %4, %5, %6, %7"
#define REHEARSE_NAMES_1 "%8, %9, %10, %11, %12, %13, %14, %15"
#define REHEARSE_NAMES_2 "%16, %17, %18, %19, %20, %21, %22, %23"
#define REHEARSE_NAMES_3 "%24, %25, %26, %27, %28, %29, %30, %31"
#define REHEARSE_NAMES_4 "%32, %33, %34, %35, %36, %37, %38, %39"
#define REHEARSE_NAMES_5 "%40, %41, %42, %43, %44, %45, %46, %47"
#define REHEARSE_NAMES_6 "%48, %49, %50, %51, %52, %53, %54, %55"
#define REHEARSE_NAMES_7 "%56, %57, %58, %59, %60, %61, %62, %63"
#define REHEARSE_NAMES_8 "%64, %65, %66, %67, %68, %69, %70, %71"
#define REHEARSE_NAMES_9 "%72, %73, %74, %75, %76, %77, %78, %79"
#define REHEARSE_NAMES_10 "%80, %81, %82, %83, %84, %85, %86, %87"
#define REHEARSE_NAMES_11 "%88, %89, %90, %91, %92, %93, %94, %95"
#define REHEARSE_SUMS_0 "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3]), "+f"(d[4]), "+f"(d[5]), "+f"(d[6]), "+f"(d[7])
#define REHEARSE_SUMS_1 "+f"(d[8]), "+f"(d[9]), "+f"(d[10]), "+f"(d[11]), "+f"(d[12]), "+f"(d[13]), "+f"(d[14]), "+f"(d[15])
#define REHEARSE_SUMS_2 "+f"(d[16]), "+f"(d[17]), "+f"(d[18]), "+f"(d[19]), "+f"(d[20]), "+f"(d[21]), "+f"(d[22]), "+f"(d[23])
#define REHEARSE_SUMS_3 "+f"(d[24]), "+f"(d[25]), "+f"(d[26]), "+f"(d[27]), "+f"(d[28]), "+f"(d[29]), "+f"(d[30]), "+f"(d[31])
#define REHEARSE_SUMS_4 "+f"(d[32]), "+f"(d[33]), "+f"(d[34]), "+f"(d[35]), "+f"(d[36]), "+f"(d[37]), "+f"(d[38]), "+f"(d[39])
#define REHEARSE_SUMS_5 "+f"(d[40]), "+f"(d[41]), "+f"(d[42]), "+f"(d[43]), "+f"(d[44]), "+f"(d[45]), "+f"(d[46]), "+f"(d[47])
#define REHEARSE_SUMS_6 "+f"(d[48]), "+f"(d[49]), "+f"(d[50]), "+f"(d[51]), "+f"(d[52]), "+f"(d[53]), "+f"(d[54]), "+f"(d[55])
#define REHEARSE_SUMS_7 "+f"(d[56]), "+f"(d[57]), "+f"(d[58]), "+f"(d[59]), "+f"(d[60]), "+f"(d[61]), "+f"(d[62]), "+f"(d[63])
#define REHEARSE_SUMS_8 "+f"(d[64]), "+f"(d[65]), "+f"(d[66]), "+f"(d[67]), "+f"(d[68]), "+f"(d[69]), "+f"(d[70]), "+f"(d[71])
#define REHEARSE_SUMS_9 "+f"(d[72]), "+f"(d[73]), "+f"(d[74]), "+f"(d[75]), "+f"(d[76]), "+f"(d[77]), "+f"(d[78]), "+f"(d[79])
#define REHEARSE_SUMS_10 "+f"(d[80]), "+f"(d[81]), "+f"(d[82]), "+f"(d[83]), "+f"(d[84]), "+f"(d[85]), "+f"(d[86]), "+f"(d[87])
#define REHEARSE_SUMS_11 "+f"(d[88]), "+f"(d[89]), "+f"(d[90]), "+f"(d[91]), "+f"(d[92]), "+f"(d[93]), "+f"(d[94]), "+f"(d[95])
// clang-format on

// NAMES and the last arguments: the kN / 2 registers of the sums; A, B, ACCUMULATE: the numbers of
// the three operands after them.
#define REHEARSE_MULTIPLY(N, NAMES, A, B, ACCUMULATE, ...)                                        \
  template <>                                                                                     \
  __device__ __forceinline__ void multiply_e4m3<N>(                                               \
      float(&d)[N / 2], uint64_t a, uint64_t b, bool accumulate) {                                \
    asm volatile("{\n.reg .pred add;\nsetp.ne.b32 add, " ACCUMULATE                               \
                 ", 0;\nwgmma.mma_async.sync.aligned.m64n" #N "k32.f32.e4m3.e4m3 {" NAMES "}, " A \
                 ", " B ", add, 1, 1;\n}"                                                         \
                 : __VA_ARGS__                                                                    \
                 : "l"(a), "l"(b), "r"(static_cast<int>(accumulate)));                            \
  }
REHEARSE_MULTIPLY(64,
                  REHEARSE_NAMES_0 ", " REHEARSE_NAMES_1 ", " REHEARSE_NAMES_2
                                   ", " REHEARSE_NAMES_3,
                  "%32",
                  "%33",
                  "%34",
                  REHEARSE_SUMS_0,
                  REHEARSE_SUMS_1,
                  REHEARSE_SUMS_2,
                  REHEARSE_SUMS_3)
REHEARSE_MULTIPLY(128,
                  REHEARSE_NAMES_0 ", " REHEARSE_NAMES_1 ", " REHEARSE_NAMES_2 ", " REHEARSE_NAMES_3
                                   ", " REHEARSE_NAMES_4 ", " REHEARSE_NAMES_5 ", " REHEARSE_NAMES_6
                                   ", " REHEARSE_NAMES_7,
                  "%64",
                  "%65",
                  "%66",
                  REHEARSE_SUMS_0,
                  REHEARSE_SUMS_1,
                  REHEARSE_SUMS_2,
                  REHEARSE_SUMS_3,
                  REHEARSE_SUMS_4,
                  REHEARSE_SUMS_5,
                  REHEARSE_SUMS_6,
                  REHEARSE_SUMS_7)
REHEARSE_MULTIPLY(160,
                  REHEARSE_NAMES_0 ", " REHEARSE_NAMES_1 ", " REHEARSE_NAMES_2 ", " REHEARSE_NAMES_3
                                   ", " REHEARSE_NAMES_4 ", " REHEARSE_NAMES_5 ", " REHEARSE_NAMES_6
                                   ", " REHEARSE_NAMES_7 ", " REHEARSE_NAMES_8
                                   ", " REHEARSE_NAMES_9,
                  "%80",
                  "%81",
                  "%82",
                  REHEARSE_SUMS_0,
                  REHEARSE_SUMS_1,
                  REHEARSE_SUMS_2,
                  REHEARSE_SUMS_3,
                  REHEARSE_SUMS_4,
                  REHEARSE_SUMS_5,
                  REHEARSE_SUMS_6,
                  REHEARSE_SUMS_7,
                  REHEARSE_SUMS_8,
                  REHEARSE_SUMS_9)
REHEARSE_MULTIPLY(192,
                  REHEARSE_NAMES_0 ", " REHEARSE_NAMES_1 ", " REHEARSE_NAMES_2 ", " REHEARSE_NAMES_3
                                   ", " REHEARSE_NAMES_4 ", " REHEARSE_NAMES_5 ", " REHEARSE_NAMES_6
                                   ", " REHEARSE_NAMES_7 ", " REHEARSE_NAMES_8 ", " REHEARSE_NAMES_9
                                   ", " REHEARSE_NAMES_10 ", " REHEARSE_NAMES_11,
                  "%96",
                  "%97",
                  "%98",
                  REHEARSE_SUMS_0,
                  REHEARSE_SUMS_1,
                  REHEARSE_SUMS_2,
                  REHEARSE_SUMS_3,
                  REHEARSE_SUMS_4,
                  REHEARSE_SUMS_5,
                  REHEARSE_SUMS_6,
                  REHEARSE_SUMS_7,
                  REHEARSE_SUMS_8,
                  REHEARSE_SUMS_9,
                  REHEARSE_SUMS_10,
                  REHEARSE_SUMS_11)
#undef REHEARSE_NAMES_0
#undef REHEARSE_SUMS_0
#undef REHEARSE_NAMES_1
#undef REHEARSE_SUMS_1
#undef REHEARSE_NAMES_2
#undef REHEARSE_SUMS_2
#undef REHEARSE_NAMES_3
#undef REHEARSE_SUMS_3
#undef REHEARSE_NAMES_4
#undef REHEARSE_SUMS_4
#undef REHEARSE_NAMES_5
#undef REHEARSE_SUMS_5
#undef REHEARSE_NAMES_6
#undef REHEARSE_SUMS_6
#undef REHEARSE_NAMES_7
#undef REHEARSE_SUMS_7
#undef REHEARSE_NAMES_8
#undef REHEARSE_SUMS_8
#undef REHEARSE_NAMES_9
#undef REHEARSE_SUMS_9
#undef REHEARSE_NAMES_10
#undef REHEARSE_SUMS_10
#undef REHEARSE_NAMES_11
#undef REHEARSE_SUMS_11
#undef REHEARSE_MULTIPLY

}  // namespace rehearse::kernels::gpu::ptx
