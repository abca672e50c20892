// What characters become, 256 at a time. Python says it when a page is first met, so no table of Unicode is compiled in.
#pragma once

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <memory>
#include <vector>

namespace linkboy {

// The high byte of an entry; the low 24 bits are its payload. A letter is 0, so that one comparison tells it.
enum Kind : uint32_t {
  LETTER,       // payload: its symbol
  SEVERAL,      // payload: where in the list of the page its number of symbols stands, then these with their classes
  SIGMA,        // the capital sigma
  DROPPED,      // vanishes: its neighbours join
  STRIPPED,     // folds to nothing, and does not end a run of combining marks
  BREAK,        // folds to nothing, and ends such a run
  SPACE,        // ends a word, as all that follow do
  ALONE,        // a token by itself, decided on the raw character; payload: its id
  PUNCTUATION,  // a token by itself, decided on the folded character; payload: its id
  REFERENCE,    // its text is to be read by the reference
  UNFILLED,     // Python was not asked yet
};
constexpr int KIND_AT = 24;
constexpr uint32_t PAYLOAD = (1u << KIND_AT) - 1;
constexpr uint32_t PAGES = 0x1100;  // 0x110000 code points
constexpr uint8_t CASED = 1, IGNORABLE = 2;  // what the capital sigma asks of its neighbours

// How the letters of ASCII stand in the first page, where all of ASCII is as in ordinary text: digits are letters, signs stand
// alone, spaces end a word.
enum class Case { other, kept, lower };

struct Page {
  uint32_t entries[256];
  std::vector<uint32_t> several;
  Case ascii = Case::other;  // of the first page
};

struct Flags {
  uint8_t of[256];
};

using Numbers = std::vector<size_t>;

inline void note(Numbers& numbers, size_t number) {
  if (std::find(numbers.begin(), numbers.end(), number) == numbers.end()) numbers.push_back(number);
}

// One pointer for each page. A page is made whole, then published, then never changed: readers need no lock, a fork
// cannot catch one held, and of two threads that make the same page at once one throws its own away.
template <class T>
class Shelf {
 public:
  explicit Shelf(const T* blank) : blank_(blank), pages_(new std::atomic<const T*>[PAGES]) {
    for (uint32_t i = 0; i < PAGES; ++i) pages_[i].store(blank, std::memory_order_relaxed);
  }
  ~Shelf() {
    for (uint32_t i = 0; i < PAGES; ++i)
      if (const T* page = pages_[i].load(std::memory_order_relaxed); page != blank_) delete page;
  }
  Shelf(const Shelf&) = delete;
  Shelf& operator=(const Shelf&) = delete;

  const T* operator[](uint32_t page) const { return pages_[page].load(std::memory_order_acquire); }

  void publish(uint32_t page, std::unique_ptr<T> made) {
    const T* expected = blank_;
    if (pages_[page].compare_exchange_strong(expected, made.get(), std::memory_order_release)) made.release();
  }

 private:
  const T* blank_;
  std::unique_ptr<std::atomic<const T*>[]> pages_;
};

inline const Page* blank_page() {
  static const Page page = [] {
    Page blank{};
    for (uint32_t& entry : blank.entries) entry = uint32_t(UNFILLED) << KIND_AT;
    return blank;
  }();
  return &page;
}

}  // namespace linkboy
