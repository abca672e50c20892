// Hashes of 64 bits, and what compilers are told.
#pragma once

#include <cstdint>

#if defined(__GNUC__)
#define LINKBOY_PREFETCH(address) __builtin_prefetch(address)
#define LINKBOY_APART __attribute__((noinline))  // so that the loop it is called from keeps its registers
#else
#define LINKBOY_PREFETCH(address) (void)(address)
#define LINKBOY_APART
#endif

namespace linkboy {

constexpr uint64_t GOLDEN = 0x9E3779B97F4A7C15, SECOND = 0xC2B2AE3D27D4EB4F, THIRD = 0xFF51AFD7ED558CCD;

inline uint64_t mix(uint64_t value) {
  value *= THIRD, value ^= value >> 32, value *= SECOND;
  return value ^ value >> 29;
}

}  // namespace linkboy
