#pragma once
// Shared memory by 32-bit address, device memory by pointer, and conversions of formats.

#include <cstdint>
#include <type_traits>

namespace rehearse::kernels::gpu::ptx {

// Address of the block's dynamic shared memory, aligned to 1024 bytes.
__device__ __forceinline__ uint32_t shared_base() {
  extern __shared__ __align__(1024) uint8_t shared[];
  return static_cast<uint32_t>(__cvta_generic_to_shared(shared));
}

// T: 4, 8 or 16 bytes.
template <class T>
__device__ __forceinline__ T load_shared(uint32_t address) {
  static_assert(sizeof(T) == 4 || sizeof(T) == 8 || sizeof(T) == 16);
  uint32_t w[4];
  if constexpr (sizeof(T) == 4) {
    asm volatile("ld.shared.b32 %0, [%1];" : "=r"(w[0]) : "r"(address));
  } else if constexpr (sizeof(T) == 8) {
    asm volatile("ld.shared.v2.b32 {%0, %1}, [%2];" : "=r"(w[0]), "=r"(w[1]) : "r"(address));
  } else {
    asm volatile("ld.shared.v4.b32 {%0, %1, %2, %3}, [%4];"
                 : "=r"(w[0]), "=r"(w[1]), "=r"(w[2]), "=r"(w[3])
                 : "r"(address));
  }
  T value;
  memcpy(&value, w, sizeof(T));
  return value;
}

template <class T>
__device__ __forceinline__ void store_shared(uint32_t address, const T& value) {
  static_assert(sizeof(T) == 4 || sizeof(T) == 8 || sizeof(T) == 16);
  uint32_t w[4];
  memcpy(w, &value, sizeof(T));
  if constexpr (sizeof(T) == 4) {
    asm volatile("st.shared.b32 [%0], %1;" ::"r"(address), "r"(w[0]) : "memory");
  } else if constexpr (sizeof(T) == 8) {
    asm volatile("st.shared.v2.b32 [%0], {%1, %2};" ::"r"(address), "r"(w[0]), "r"(w[1])
                 : "memory");
  } else {
    asm volatile("st.shared.v4.b32 [%0], {%1, %2, %3, %4};" ::"r"(address),
                 "r"(w[0]),
                 "r"(w[1]),
                 "r"(w[2]),
                 "r"(w[3])
                 : "memory");
  }
}

// Four 8x8 matrices of 16-bit values: lane l holds words (row l / 4, columns 2 (l % 4) and + 1) of
// matrix i in values[i]; the address is that of row l % 8 of matrix l / 8, 16 bytes.
__device__ __forceinline__ void store_matrix_x4(uint32_t address, const uint32_t (&values)[4]) {
  asm volatile("stmatrix.sync.aligned.m8n8.x4.shared.b16 [%0], {%1, %2, %3, %4};" ::"r"(address),
               "r"(values[0]),
               "r"(values[1]),
               "r"(values[2]),
               "r"(values[3])
               : "memory");
}

// Device memory that nobody writes during the kernel.
template <class T>
__device__ __forceinline__ T load_global(const T* p) {
  static_assert(sizeof(T) <= 16);
  if constexpr (sizeof(T) == 16) {
    uint32_t w[4];
    asm volatile("ld.global.nc.v4.b32 {%0, %1, %2, %3}, [%4];"
                 : "=r"(w[0]), "=r"(w[1]), "=r"(w[2]), "=r"(w[3])
                 : "l"(p));
    T value;
    memcpy(&value, w, sizeof(T));
    return value;
  } else if constexpr (sizeof(T) == 8) {
    uint32_t w[2];
    asm volatile("ld.global.nc.v2.b32 {%0, %1}, [%2];" : "=r"(w[0]), "=r"(w[1]) : "l"(p));
    T value;
    memcpy(&value, w, sizeof(T));
    return value;
  } else {
    return __ldg(p);
  }
}

// Device memory that this thread alone writes in the kernel, and later.
template <class T>
__device__ __forceinline__ T load_own(const T* p) {
  return *p;
}

template <class T>
__device__ __forceinline__ void store_global(T* p, const T& value) {
  *p = value;
}

// Two FP32 values as BF16, rounded to nearest even, the first in the low half.
__device__ __forceinline__ uint32_t to_bf16x2(float low, float high) {
  uint32_t packed;
  asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(packed) : "f"(high), "f"(low));
  return packed;
}

// Two FP32 values as E4M3, rounded to nearest even, saturated, the first in the low byte.
__device__ __forceinline__ uint16_t to_e4m3x2(float low, float high) {
  uint16_t packed;
  asm("cvt.rn.satfinite.e4m3x2.f32 %0, %1, %2;" : "=h"(packed) : "f"(high), "f"(low));
  return packed;
}

// And back: the low byte's value in low.
__device__ __forceinline__ void from_e4m3x2(uint16_t packed, float& low, float& high) {
  asm("{\n"
      ".reg .b32 halves;\n"
      ".reg .b16 a, b;\n"
      "cvt.rn.f16x2.e4m3x2 halves, %2;\n"
      "mov.b32 {a, b}, halves;\n"
      "cvt.f32.f16 %0, a;\n"
      "cvt.f32.f16 %1, b;\n"
      "}"
      : "=f"(low), "=f"(high)
      : "h"(packed));
}

// The larger of amax and |x|; amax where x is NaN.
__device__ __forceinline__ float max_magnitude(float amax, float x) {
  return fmaxf(amax, fabsf(x));
}

// The upper half of the 64-bit product.
__device__ __forceinline__ uint32_t multiply_high(uint32_t a, uint32_t b) {
  return __umulhi(a, b);
}

// a * b + c, rounded once.
__device__ __forceinline__ float multiply_add(float a, float b, float c) {
  return __fmaf_rn(a, b, c);
}

}  // namespace rehearse::kernels::gpu::ptx
