// From the characters of a text to the ids of its pieces, in one pass. What is exact here is what the reference in
// linkboy/text/_characters.py and _wordpiece.py says, which the tests hold it to.
#pragma once

#include <algorithm>
#include <cstdint>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "growing.hpp"
#include "pages.hpp"
#include "trie.hpp"

namespace linkboy {

// All that is made from a vocabulary; shared by encoders that differ in their literals only. Nothing here is written
// after construction but the pages: there is no cache of words, which was tried and cost more than it saved.
struct Tables {
  Trie trie;
  ShortWords short_words;
  std::vector<std::pair<uint32_t, uint32_t>> symbols;  // code point and symbol, sorted
  Shelf<Page> pages{blank_page()};
  Shelf<Flags> flags{nullptr};
  size_t limit;
  int32_t unknown;

  uint32_t symbol_of(uint32_t code) const {  // 0: in no piece, so that its word ends as unknown
    auto at = std::lower_bound(symbols.begin(), symbols.end(), std::make_pair(code, 0u));
    return at != symbols.end() && at->first == code ? at->second : 0;
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
    short_words.build(codes, tokens);
    trie.build(codes, tokens);
  }
};

struct Literal {  // an added token such as [MASK], found in the raw text
  std::u32string text;
  int32_t id;
};

struct Literals {  // by their first character, which is an ASCII sign; the longest first
  std::vector<Literal> of[128];
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

// Reads texts, one after the other, of one width of characters; with or without the spans of pieces.
template <bool SPANS>
class Reader {
 public:
  // `longest`: the most characters that a text has. No character folds to more than eight, so a limit above eight times
  // that is never met, however large it is.
  Reader(const Tables& tables, const Literals* literals, Output& out, size_t longest)
      : tables_(tables), literals_(literals), out_(out), limit_(std::min(tables.limit, 8 * longest + 1)),
        word_(limit_ + 2), source_(SPANS ? limit_ + 2 : 0), class_(limit_ + 2) {}

  // Appends the ids of a text; stops where it has `room` of them, or a few more.
  template <class Char>
  void read(const Char* text, size_t size, size_t room) {
    const size_t start = out_.ids.size, full = room > SIZE_MAX - start ? SIZE_MAX : start + room;
    size_t part = 0;  // where the text begins, or the last literal ended: nothing looks over this border
    const uint32_t* const narrow = tables_.pages[0]->entries;  // one-byte characters stay in it
    const auto look_up = [&](Char c) { return sizeof(Char) == 1 ? narrow[uint8_t(c)] : entry_of(uint32_t(c)); };
    for (size_t i = 0; i < size;) {
      uint32_t entry = look_up(text[i]);
      if (entry <= PAYLOAD) {
        // The locals matter: kept in members, which any store might change, they cost a tenth of the whole.
        uint64_t key = key_;
        uint32_t any = any_;
        size_t length = length_;
        do {
          word_[length] = entry;
          if (SPANS) source_[length] = int32_t(i);
          key = key << 8 | entry, any |= entry;
          length += length <= limit_;  // a word that is too long overwrites its last slot on and on
          if (++i == size) break;
          entry = look_up(text[i]);
        } while (entry <= PAYLOAD);
        key_ = key, any_ = any, length_ = length;
        if (i == size) break;
      }
      switch (entry >> KIND_AT) {
        case PUNCTUATION:
          if (literals_ && uint32_t(text[i]) < 128)
            if (const Literal* literal = literal_at(text, i, size)) {
              cut();
              if (out_.ids.size >= full) return reset();
              emit(literal->id, i, i + literal->text.size());
              part = i += literal->text.size();
              continue;
            }
          [[fallthrough]];
        case ALONE:
          cut();
          if (out_.ids.size >= full) return reset();
          emit(int32_t(entry & PAYLOAD), i, i + 1);
          break;
        case SPACE:
          cut();
          if (out_.ids.size >= full) return reset();
          break;
        case SEVERAL: {
          const uint32_t* list = &tables_.pages[uint32_t(text[i]) >> 8]->several[entry & PAYLOAD];
          for (uint32_t n = 1; n <= list[0]; ++n) append(list[n] & PAYLOAD, uint8_t(list[n] >> KIND_AT), i);
          break;
        }
        case SIGMA:
          append(is_final_sigma(text, i, part, size) ? final_sigma_ : inner_sigma_, 0, i);
          break;
        case BREAK:
          run_end_ = 0;
          break;
        case REFERENCE:
          out_.ids.size = start, out_.spans.size = SPANS ? start : 0;
          out_.references.push_back(out_.ends.size());
          return reset();
        case UNFILLED:
          note(out_.missing, uint32_t(text[i]) >> 8);
          break;
        default:  // DROPPED and STRIPPED leave nothing
          break;
      }
      ++i;
    }
    cut();
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
  const uint32_t inner_sigma_ = tables_.symbol_of(0x3C3), final_sigma_ = tables_.symbol_of(0x3C2);
  // The word being read: its symbols, where each came from, and, for the run of combining marks at its end, their classes.
  std::vector<uint32_t> word_;
  std::vector<int32_t> source_;
  std::vector<uint8_t> class_;
  size_t length_ = 0, run_start_ = 0, run_end_ = 0;
  uint64_t key_ = 0;
  uint32_t any_ = 0;
  bool shuffled_ = false;

  uint32_t entry_of(uint32_t code) const { return tables_.pages[code >> 8]->entries[code & 255]; }

  void reserve(size_t more) {
    out_.ids.reserve(more);
    if (SPANS) out_.spans.reserve(more);
  }

  void push(int32_t id, size_t start, size_t end) {
    out_.ids.data[out_.ids.size++] = id;
    if (SPANS) out_.spans.data[out_.spans.size++] = {int32_t(start), int32_t(end)};
  }

  // Appends a symbol of which a class is known. Marks are put in canonical order: each goes before those of a higher class
  // in the run that it stands in. A run goes on only where the word still ends as it did after the last mark.
  void append(uint32_t symbol, uint8_t combining, size_t source) {
    size_t at = length_;
    if (combining && length_ <= limit_) {
      if (run_end_ != length_) run_start_ = length_;
      for (; at > run_start_ && class_[at - 1] > combining; --at) {
        word_[at] = word_[at - 1], class_[at] = class_[at - 1];
        if (SPANS) source_[at] = source_[at - 1];
        shuffled_ = true;
      }
      class_[at] = combining;
      run_end_ = length_ + 1;
    }
    word_[at] = symbol;
    if (SPANS) source_[at] = int32_t(source);
    any_ |= symbol;
    length_ += length_ <= limit_;
    key_ = key_ << 8 | symbol;
    if (at + 1 < length_ && length_ <= 8) {  // the key follows the new order
      key_ = 0;
      for (size_t n = 0; n < length_; ++n) key_ = key_ << 8 | word_[n];
    }
  }

  void reset() {
    if (SPANS) source_[limit_ + 1] = 0;
    length_ = run_start_ = run_end_ = 0, key_ = 0, any_ = 0, shuffled_ = false;
  }

  // Ends the word: whole if it is a short one that the vocabulary has, otherwise by the longest pieces from the left.
  void cut() {
    if (!length_) {
      run_end_ = 0;
      return;
    }
    reserve(length_);
    int32_t id = -1;
    if (length_ > limit_) {
      push_pieces(tables_.unknown, 0, length_ + (source_at(limit_ + 1) > 0));
    } else if (length_ <= 8 && any_ < 256 && (id = tables_.short_words.find(key_, length_)) >= 0) {
      push_pieces(id, 0, length_);
    } else {
      const size_t before = out_.ids.size;
      for (size_t at = 0, taken; at < length_; at += taken) {
        taken = tables_.trie.longest(at > 0, &word_[at], length_ - at, &id);
        if (!taken) {  // a dead end: the whole word is unknown
          out_.ids.size = before;
          if (SPANS) out_.spans.size = before;
          push_pieces(tables_.unknown, 0, length_);
          break;
        }
        push_pieces(id, at, at + taken);
      }
    }
    reset();
  }

  int32_t source_at(size_t at) const { return SPANS ? source_[at] : 0; }

  void push_pieces(int32_t id, size_t first, size_t last) {
    if (!SPANS) return push(id, 0, 0);
    int32_t least = source_[first], most = source_[last - 1];
    if (shuffled_)
      for (size_t n = first; n < last; ++n) least = std::min(least, source_[n]), most = std::max(most, source_[n]);
    push(id, size_t(least), size_t(most) + 1);
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
