// The ids of words that the trie had to cut, which is slow: many of them come again soon.
#pragma once

#include <atomic>
#include <cstdint>
#include <cstring>

#include "hash.hpp"

namespace linkboy {

// A table of fixed size for each thread, so that there is no lock. A word takes a place of it when it comes for the second
// time, from another one of its hash: most new words never come again, and to write them down would cost more than it saves.
class RecentWords {
 public:
  static constexpr size_t LONGEST = 16, MOST = 9;  // bytes of a word, and ids

  struct alignas(64) Word {  // in one line of the processor's cache
    uint64_t low, high;        // its bytes
    uint64_t kind;             // how many they are, of which width, and the number of the tables that cut it
    int32_t count, ids[MOST];  // -1: not known yet

    bool is(const Word& other) const { return low == other.low && high == other.high && kind == other.kind; }
  };

  static RecentWords& of_this_thread() {
    static thread_local RecentWords words;
    return words;
  }

  static uint32_t next_owner() {
    static std::atomic<uint32_t> owners{0};
    return ++owners;
  }

  // Returns a word as it is asked for and kept, without its ids. `readable`: the bytes from its first on that may be read.
  static Word word_of(const void* text, size_t bytes, size_t readable, size_t width, uint32_t owner) {
    Word word;
    uint64_t parts[2] = {0, 0};
    if (readable >= LONGEST && little_endian()) {  // without a branch for its length, which cannot be predicted
      std::memcpy(parts, text, LONGEST);
      parts[0] &= first_bytes(bytes < 8 ? bytes : 8), parts[1] &= first_bytes(bytes < 8 ? 0 : bytes - 8);
    } else {
      std::memcpy(parts, text, bytes);
    }
    word.low = parts[0], word.high = parts[1];
    word.kind = uint64_t(owner) << 16 | width << 8 | bytes, word.count = -1;
    return word;
  }

  // Returns the place of a word that was asked for before, nullptr for one that is new.
  Word* place_of(const Word& word) {
    const uint64_t hash = mix(word.low ^ word.high * GOLDEN ^ word.kind);
    const size_t at = hash >> (64 - BITS);
    const uint16_t mark = uint16_t(hash) | 1;
    if (seen_[at] == mark) return &words_[at];
    seen_[at] = mark;
    return nullptr;
  }

 private:
  static constexpr int BITS = 14;

  static bool little_endian() {
    const uint16_t one = 1;
    uint8_t first;
    std::memcpy(&first, &one, 1);
    return first == 1;
  }

  static uint64_t first_bytes(size_t count) { return count < 8 ? (uint64_t(1) << 8 * count) - 1 : ~uint64_t(0); }

  uint16_t seen_[1 << BITS];
  Word words_[1 << BITS];
};

}  // namespace linkboy
