// The ids of words that the trie had to cut, which is slow: many of them come again soon.
#pragma once

#include <atomic>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <new>

#include "hash.hpp"

namespace linkboy {

// A table of fixed size for each thread, so that there is no lock. A word takes a place of it when it comes for the second
// time, from another one of its hash: most new words never come again, and to write them down would cost more than it saves.
class RecentWords {
 public:
  static constexpr size_t LONGEST = 16, MOST = 9;  // bytes of a word, and ids

  struct Key {
    uint64_t low, high;  // the bytes of the word
    uint64_t kind;       // how many they are, of which width, and the number of the tables that cut it

    bool operator==(const Key& other) const { return low == other.low && high == other.high && kind == other.kind; }
  };

  struct alignas(64) Word : Key {  // in one line of the processor's cache
    int32_t count, ids[MOST];      // -1: not known yet
  };

  static RecentWords& of_this_thread() {
    static thread_local Zeros zeros;
    return *zeros.words;
  }

  static uint32_t next_owner() {
    static std::atomic<uint32_t> owners{0};
    return ++owners;
  }

  static uint64_t kind_of(size_t bytes, size_t width, uint32_t owner) { return uint64_t(owner) << 16 | width << 8 | bytes; }

  // `readable`: the bytes from the first of the word on that may be read.
  static Key key_of(const void* text, size_t bytes, size_t readable, size_t width, uint32_t owner) {
    if (bytes > LONGEST) return {0, 0, LONGEST + 1};
    uint64_t parts[2] = {0, 0};
    if (readable >= LONGEST && little_endian()) {  // without a branch for its length, which cannot be predicted
      std::memcpy(parts, text, LONGEST);
      parts[0] &= first_bytes(bytes < 8 ? bytes : 8), parts[1] &= first_bytes(bytes < 8 ? 0 : bytes - 8);
    } else {
      std::memcpy(parts, text, bytes);
    }
    return {parts[0], parts[1], kind_of(bytes, width, owner)};
  }

  // Returns the place of a word that was asked for before, nullptr for one that is new. `soon`: it is not looked at before others
  // were asked for; then there is no branch for which of its two places it is, which cannot be predicted.
  Word* place_of(const Key& key, bool soon) {
    const uint64_t hash = mix(key.low ^ key.high * GOLDEN ^ key.kind);
    const uint8_t mark = uint8_t(hash) + !uint8_t(hash);  // 0 is a place that nothing was seen at
    size_t at = hash >> (64 - BITS);
    if (!soon && seen_[at] == mark) return &words_[at];
    at ^= seen_[at] != mark;
    if (seen_[at] == mark) {
      LINKBOY_PREFETCH(&words_[at]);
      return &words_[at];
    }
    seen_[at ^ (++turn_ & 1)] = mark;
    return nullptr;
  }

 private:
  static constexpr int BITS = 16;

  // Zeros from the operating system, which takes a page of memory only where something is written.
  struct Zeros {
    void* const memory = std::calloc(1, sizeof(RecentWords) + alignof(RecentWords));
    RecentWords* words = nullptr;

    Zeros() {
      if (!memory) throw std::bad_alloc();
      constexpr uintptr_t LINE = alignof(RecentWords);
      words = reinterpret_cast<RecentWords*>((uintptr_t(memory) + LINE) & ~(LINE - 1));
    }
    ~Zeros() { std::free(memory); }
  };

  static bool little_endian() {
    const uint16_t one = 1;
    uint8_t first;
    std::memcpy(&first, &one, 1);
    return first == 1;
  }

  static uint64_t first_bytes(size_t count) { return count < 8 ? (uint64_t(1) << 8 * count) - 1 : ~uint64_t(0); }

  size_t turn_;
  uint8_t seen_[1 << BITS];
  Word words_[1 << BITS];
};

}  // namespace linkboy
