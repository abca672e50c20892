// Plain ASCII text, of which most is: where its words and signs are, for 64 characters at once.
#pragma once

#include <cstdint>
#include <cstring>

#if defined(__SSE2__) || defined(_M_X64)
#define LINKBOY_BLOCKS 1
#include <emmintrin.h>
#else
#define LINKBOY_BLOCKS 0
#endif
#ifdef _MSC_VER
#include <intrin.h>
#endif

namespace linkboy {

constexpr size_t BLOCK = 64, BEHIND = 16;  // characters of a block, and those behind it that may be read

inline bool is_letter(uint32_t code) { return (code | 32) - 'a' < 26; }

inline size_t trailing_zeros(uint64_t value) {  // of a number that is not 0
#ifdef _MSC_VER
  unsigned long lowest;
  _BitScanForward64(&lowest, value);
  return lowest;
#else
  return size_t(__builtin_ctzll(value));
#endif
}

#if LINKBOY_BLOCKS
// A bit for each of 64 characters; `odd` are control characters and what is not ASCII.
struct Kinds64 {
  uint64_t letters = 0, spaces = 0, odd = 0, signs = 0;  // digits are letters

  explicit Kinds64(const uint8_t* text) {
    for (int at = 0; at < 64; at += 16) {
      const __m128i v = _mm_loadu_si128(reinterpret_cast<const __m128i*>(text + at));
      const __m128i letter = _mm_or_si128(in(_mm_or_si128(v, all(0x20)), 'a', 26), in(v, '0', 10));
      const __m128i space = _mm_or_si128(_mm_or_si128(is(v, ' '), is(v, '\r')), in(v, '\t', 2));
      const __m128i other = _mm_or_si128(_mm_cmplt_epi8(v, all(' ')), is(v, 0x7F));
      letters |= bits(letter) << at, spaces |= bits(space) << at, odd |= bits(_mm_andnot_si128(space, other)) << at;
    }
    signs = ~(letters | spaces | odd);
  }

  static uint64_t equal(const uint8_t* text, char wanted) {
    uint64_t found = 0;
    for (int at = 0; at < 64; at += 16)
      found |= bits(is(_mm_loadu_si128(reinterpret_cast<const __m128i*>(text + at)), wanted)) << at;
    return found;
  }

 private:
  static __m128i all(int value) { return _mm_set1_epi8(char(value)); }
  static __m128i is(__m128i v, char value) { return _mm_cmpeq_epi8(v, all(value)); }
  // Compares as signed numbers, which is all there is: the range is moved to where they begin.
  static __m128i in(__m128i v, char first, int count) {
    return _mm_cmplt_epi8(_mm_sub_epi8(v, all(first + 128)), all(count - 128));
  }
  static uint64_t bits(__m128i v) { return uint64_t(uint32_t(_mm_movemask_epi8(v))); }
};

// Up to eight ASCII characters from `text` on as a number, the first lowest.
inline uint64_t characters(const uint8_t* text, size_t count) {
  uint64_t eight;
  std::memcpy(&eight, text, 8);
  return eight & (~uint64_t(0) >> (64 - 8 * count));
}

// The same with the letters of ASCII in lower case.
inline uint64_t in_lower_case(uint64_t eight) {
  constexpr uint64_t EACH = 0x0101010101010101;
  const uint64_t ascii = eight & EACH * 127, from_a = ascii + EACH * (128 - 'A'), behind_z = ascii + EACH * (127 - 'Z');
  return eight | (from_a & ~behind_z & ~eight & EACH * 128) >> 2;
}
#endif

}  // namespace linkboy
