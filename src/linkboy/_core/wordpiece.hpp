// From the characters of a text to the ids of its pieces, in one pass. What is exact here is what the reference in
// linkboy/text/_characters.py and _wordpiece.py says, which the tests hold it to.
#pragma once

#include <algorithm>
#include <cstdint>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#ifdef _MSC_VER
#include <intrin.h>
#endif

#include "growing.hpp"
#include "pages.hpp"
#include "recent.hpp"
#include "trie.hpp"

namespace linkboy {

// All that is made from a vocabulary; shared by encoders that differ in their literals only. Nothing here is written
// after construction but the pages.
struct Tables {
  Trie trie;
  ShortWords short_words;
  std::vector<std::pair<uint32_t, uint32_t>> symbols;  // code point and symbol, sorted
  Shelf<Page> pages{blank_page()};
  Shelf<Flags> flags{nullptr};
  size_t limit;
  int32_t unknown;
  uint32_t number = RecentWords::next_owner();

  uint32_t symbol_of(uint32_t code) const {  // the highest of all: in no piece, so that its word ends as unknown
    auto at = std::lower_bound(symbols.begin(), symbols.end(), std::make_pair(code, 0u));
    return at != symbols.end() && at->first == code ? at->second : PAYLOAD;
  }

  // Numbers the characters by how many tokens they are in, so that those of most short words are below 256.
  void build(std::vector<uint32_t>& codes, std::vector<Token>& tokens) {
    std::vector<uint32_t> sorted(codes);
    std::sort(sorted.begin(), sorted.end());
    std::vector<std::pair<int64_t, uint32_t>> counted;  // least first: the negative count, then the code point
    for (size_t low = 0, high; low < sorted.size(); low = high) {
      for (high = low; high < sorted.size() && sorted[high] == sorted[low];) ++high;
      counted.push_back({-int64_t(high - low), sorted[low]});
    }
    std::sort(counted.begin(), counted.end());
    for (uint32_t n = 0; n < counted.size(); ++n) symbols.push_back({counted[n].second, n + 1});
    std::sort(symbols.begin(), symbols.end());
    for (uint32_t& code : codes) code = symbol_of(code);
    short_words.build(codes, tokens, limit);
    trie.build(codes, tokens);
  }
};

// Returns how many bytes, from the highest on, come before the first that is zero.
inline size_t bytes_before_zero(uint64_t value) {
  constexpr uint64_t LOW = 0x7F7F7F7F7F7F7F7F;
  const uint64_t zeros = ~(((value & LOW) + LOW) | value | LOW);  // the highest bit of each byte that is zero
  if (!zeros) return 8;
#ifdef _MSC_VER
  unsigned long highest;
  _BitScanReverse64(&highest, zeros);
  return (63 - highest) / 8;
#else
  return size_t(__builtin_clzll(zeros)) / 8;
#endif
}

struct Literal {  // an added token such as [MASK], found in the raw text
  std::u32string text;
  int32_t id;
};

struct Literals {  // by their first character, which is an ASCII sign; the longest first
  std::vector<Literal> of[128];
  bool begins[128] = {};  // whether there are some
};

struct Range {
  int32_t start, end;
};

// What becomes of some texts: their ids one after the other, and where each text ends.
struct Output {
  Growing<int32_t> ids;
  Growing<Range> spans;
  std::vector<size_t> ends;
  Numbers missing;     // pages to be filled; those of flags have bit 16. With some, all else is void.
  Numbers references;  // texts left empty, which the reference is to read
};

// Reads texts, one after the other; with or without the spans of pieces.
template <bool SPANS>
class Reader {
 public:
  // `longest`: the most characters that a text has. No character folds to more than eight, so a limit above eight times
  // that is never met, however large it is.
  Reader(const Tables& tables, const Literals* literals, Output& out, size_t longest)
      : tables_(tables), literals_(literals), out_(out), limit_(std::min(tables.limit, 8 * longest + 1)) {}

  // Appends the ids of a text; stops where it has `room` of them, or a few more.
  template <class Char>
  void read(const Char* text, size_t size, size_t room) {
    const size_t begin = out_.ids.size, full = room > SIZE_MAX - begin ? SIZE_MAX : begin + room;
    reserve(std::min(size, room) + limit_ + RecentWords::MOST + 1);
    size_t part = 0;  // where the text begins, or the last literal ended: nothing looks over this border
    const auto entry_at = entries_of(text);
    const uint8_t* const narrow = tables_.pages[0]->narrow;
    for (size_t i = 0; i < size;) {
      uint32_t entry = entry_at(i);
      if (entry >> KIND_AT < SPACE) {
        const size_t start = i;
        uint64_t key = 0;
        uint32_t any = 0;
        // A word of plain letters, as nearly all are. The first eight without a branch, as where a word ends cannot be predicted.
        if (sizeof(Char) == 1 && size - i > 8) {
          const auto symbol = [&](size_t n) { return uint64_t(narrow[uint8_t(text[i + n])]) << (56 - 8 * n); };
          key = ((symbol(0) | symbol(1)) | (symbol(2) | symbol(3))) | ((symbol(4) | symbol(5)) | (symbol(6) | symbol(7)));
          const size_t length = bytes_before_zero(key);
          key = length ? key >> (64 - 8 * length) : 0;  // none where the first character is no plain letter
          i += length, entry = entry_at(i);
        }
        while (entry <= PAYLOAD) {
          key = key << 8 | entry, any |= entry;
          entry = ++i < size ? entry_at(i) : uint32_t(SPACE) << KIND_AT;
        }
        int32_t id;
        if (const size_t length = i - start; entry >> KIND_AT < SPACE) {
          i = read_odd_word(text, start, part, size);
          if (i < size) entry = entry_at(i);
        } else if (length <= 8 && any < 256 && (id = tables_.short_words.find(key)) >= 0) {
          push(id, start, i);
        } else if (RecentWords::Word* place = nullptr; !recall(text + start, length, size - start, &place)) {
          const size_t first = out_.ids.size;
          cut(length, [&](size_t n) { return entry_at(start + n); }, [&](size_t n) { return start + n; }, false);
          keep(place, first);
        }
        if (i == size) return;
      }
      if (out_.ids.size >= full) return;
      const uint32_t kind = entry >> KIND_AT;
      if (literals_ && uint32_t(text[i]) < 128 && literals_->begins[size_t(text[i])] && kind == PUNCTUATION)
        if (const Literal* literal = literal_at(text, i, size)) {
          push(literal->id, i, i + literal->text.size());
          part = i += literal->text.size();
          continue;
        }
      if (kind <= PUNCTUATION) {  // written for a space, too, and then forgotten, which is quicker than to ask
        push(int32_t(entry & PAYLOAD), i, i + 1);
        out_.ids.size -= kind == SPACE;
        if (SPANS) out_.spans.size -= kind == SPACE;
      } else if (kind == UNFILLED) {
        note(out_.missing, uint32_t(text[i]) >> 8);
      } else {
        out_.ids.size = begin, out_.spans.size = SPANS ? begin : 0;
        out_.references.push_back(out_.ends.size());
        return;
      }
      ++i;
    }
  }

  void emit(int32_t id, size_t start, size_t end) {
    reserve(1);
    push(id, start, end);
  }

 private:
  const Tables& tables_;
  const Literals* literals_;
  Output& out_;
  const size_t limit_;
  RecentWords& recent_ = RecentWords::of_this_thread();
  // A word that is not of plain letters alone: its symbols, where each came from, and, for the run of combining marks at its
  // end, their classes.
  std::vector<uint32_t> word_;
  std::vector<size_t> source_;
  std::vector<uint8_t> class_;
  size_t length_ = 0, run_start_ = 0, run_end_ = 0;
  bool shuffled_ = false;

  uint32_t entry_of(uint32_t code) const { return tables_.pages[code >> 8]->entries[code & 255]; }

  template <class Char>
  auto entries_of(const Char* text) const {  // one-byte characters stay in one page
    return [this, text, narrow = tables_.pages[0]->entries](size_t i) {
      return sizeof(Char) == 1 ? narrow[uint8_t(text[i])] : entry_of(uint32_t(text[i]));
    };
  }

  void reserve(size_t more) {
    out_.ids.reserve(more);
    if (SPANS) out_.spans.reserve(more);
  }

  void push(int32_t id, size_t start, size_t end) {
    out_.ids.data[out_.ids.size++] = id;
    if (SPANS) out_.spans.data[out_.spans.size++] = {int32_t(start), int32_t(end)};
  }

  // Pushes the ids of a word that was cut a while ago, and returns whether it was. `left`: the characters
  // from its first to the end of the text. `place`: where the ids of a word that comes for the second time belong. What a word becomes follows from its characters alone, but for a capital sigma.
  template <class Char>
  bool recall(const Char* text, size_t length, size_t left, RecentWords::Word** place) {
    if (SPANS || length * sizeof(Char) > RecentWords::LONGEST) return false;
    RecentWords::Word word = RecentWords::word_of(text, length * sizeof(Char), left * sizeof(Char), sizeof(Char), tables_.number);
    *place = recent_.place_of(word);
    if (!*place) return false;
    if ((*place)->is(word) && (*place)->count >= 0) {
      std::copy_n((*place)->ids, RecentWords::MOST, out_.ids.data + out_.ids.size);
      out_.ids.size += (*place)->count;
      return true;
    }
    **place = word;
    return false;
  }

  // Keeps the ids from `first` on at a place that `recall` gave.
  void keep(RecentWords::Word* place, size_t first) {
    const size_t count = out_.ids.size - first;
    if (!place || count > RecentWords::MOST) return;
    std::copy_n(out_.ids.data + first, count, place->ids);
    place->count = int32_t(count);
  }

  // Cuts a word into the longest pieces from the left. `symbol` and `source` say what stands at a place of the word, and where
  // in the text that came from; `shuffled` whether sources may be out of order.
  template <class Symbol, class Source>
  void cut(size_t length, const Symbol& symbol, const Source& source, bool shuffled) {
    const size_t before = out_.ids.size;
    const auto push_piece = [&](int32_t id, size_t first, size_t last) {
      if (!SPANS) return push(id, 0, 0);
      size_t least = source(first), most = source(last - 1);
      for (size_t n = first; shuffled && n < last; ++n) least = std::min(least, source(n)), most = std::max(most, source(n));
      push(id, least, most + 1);
    };
    for (size_t at = 0, taken; at < length; at += taken) {
      int32_t id;
      taken = length > limit_ ? 0 : tables_.trie.longest(at > 0, [&](size_t n) { return symbol(at + n); }, length - at, &id);
      if (!taken) {  // too long, or a dead end: the whole word is unknown
        out_.ids.size = before;
        if (SPANS) out_.spans.size = before;
        return push_piece(tables_.unknown, 0, length);
      }
      push_piece(id, at, at + taken);
    }
  }

  // Reads a word in which characters vanish, become several or are put in another order, up to what ends it, and returns
  // where that is.
  template <class Char>
  size_t read_odd_word(const Char* text, size_t i, size_t part, size_t size) {
    const auto entry_at = entries_of(text);
    size_t end = i;
    bool depends = false;  // on more than its characters
    for (uint32_t kind; end < size && (kind = entry_at(end) >> KIND_AT) < SPACE; ++end) depends |= kind == SIGMA;
    reserve(8 * (end - i) + (size - i) + RecentWords::MOST + 1);
    RecentWords::Word* place = nullptr;
    if (!depends && recall(text + i, end - i, size - i, &place)) return end;
    word_.resize(limit_ + 1), source_.resize(limit_ + 1), class_.resize(limit_ + 1);
    length_ = run_start_ = run_end_ = 0, shuffled_ = false;
    for (; i < end; ++i) append_all(text, i, part, size, entry_at(i));
    const size_t first = out_.ids.size;
    cut(length_, [&](size_t n) { return word_[n]; }, [&](size_t n) { return source_[n]; }, shuffled_);
    keep(place, first);
    return end;
  }

  // Appends what a character of such a word becomes.
  template <class Char>
  void append_all(const Char* text, size_t i, size_t part, size_t size, uint32_t entry) {
    switch (entry >> KIND_AT) {
      case LETTER:
        return append(entry, i);
      case SEVERAL: {
        const uint32_t* list = &tables_.pages[uint32_t(text[i]) >> 8]->several[entry & PAYLOAD];
        for (uint32_t n = 1; n <= list[0]; ++n) {
          const uint8_t combining = uint8_t(list[n] >> KIND_AT);
          combining ? append_mark(list[n] & PAYLOAD, combining, i) : append(list[n], i);
        }
        return;
      }
      case SIGMA:
        return append(tables_.symbol_of(is_final_sigma(text, i, part, size) ? 0x3C2 : 0x3C3), i);
      case BREAK:
        run_end_ = 0;
        return;
      default:  // DROPPED and STRIPPED leave nothing
        return;
    }
  }

  void append(uint32_t symbol, size_t source) {
    const size_t at = std::min(length_, limit_);  // a word that is too long overwrites its last symbol on and on
    word_[at] = symbol, source_[at] = source;
    length_ = at + 1;
  }

  // Appends a combining mark. Marks are put in canonical order: each goes before those of a higher class in the run that it
  // stands in. A run goes on only where the word still ends as it did after the last mark.
  void append_mark(uint32_t symbol, uint8_t combining, size_t source) {
    if (length_ > limit_) return append(symbol, source);
    if (run_end_ != length_) run_start_ = length_;
    size_t at = length_;
    for (; at > run_start_ && class_[at - 1] > combining; --at) {
      word_[at] = word_[at - 1], class_[at] = class_[at - 1], source_[at] = source_[at - 1];
      shuffled_ = true;
    }
    word_[at] = symbol, class_[at] = combining, source_[at] = source;
    run_end_ = ++length_;
  }

  template <class Char>
  const Literal* literal_at(const Char* text, size_t at, size_t size) const {
    for (const Literal& literal : literals_->of[size_t(text[at])]) {
      if (literal.text.size() > size - at) continue;
      if (std::equal(literal.text.begin(), literal.text.end(), text + at,
                     [](char32_t a, Char b) { return uint32_t(a) == uint32_t(b); }))
        return &literal;
    }
    return nullptr;
  }

  // As `str.lower` decides: final if a cased character stands before it in its token and none after, passing over what
  // can be ignored. The token is that before punctuation is split off, so only spaces and characters alone end it.
  template <class Char>
  bool is_final_sigma(const Char* text, size_t at, size_t part, size_t size) {
    bool before = false;
    for (size_t i = at; i-- > part;)
      if (int cased = is_cased(text[i]); cased >= 0) {
        before = cased;
        break;
      }
    if (!before) return false;
    for (size_t i = at + 1; i < size; ++i) {
      if (literals_ && uint32_t(text[i]) < 128 && literal_at(text, i, size)) break;
      if (int cased = is_cased(text[i]); cased >= 0) return !cased;
    }
    return true;
  }

  // Returns 1 for a cased character, 0 for another or a border, -1 for one to pass over.
  int is_cased(uint32_t code) {
    const uint32_t kind = entry_of(code) >> KIND_AT;
    if (kind == UNFILLED) return note(out_.missing, code >> 8), 0;
    if (kind == DROPPED) return -1;
    if (kind == SPACE || kind == ALONE) return 0;
    const Flags* flags = tables_.flags[code >> 8];
    if (!flags) return note(out_.missing, code >> 8 | 1u << 16), 0;
    const uint8_t of = flags->of[code & 255];
    return of & CASED ? 1 : of & IGNORABLE ? -1 : 0;
  }
};

}  // namespace linkboy
