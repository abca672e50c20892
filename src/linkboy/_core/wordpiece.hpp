// From the characters of a text to the ids of its pieces, in one pass. What is exact here is what the reference in
// linkboy/text/_characters.py and _wordpiece.py says, which the tests hold it to.
#pragma once

#include <algorithm>
#include <cstdint>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "ascii.hpp"
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

  // Printable ASCII keeps its numbers, the rest is numbered by how many tokens it is in: most short words are below 256 then.
  void build(std::vector<uint32_t>& codes, std::vector<Token>& tokens) {
    std::vector<uint32_t> sorted(codes);
    std::sort(sorted.begin(), sorted.end());
    std::vector<std::pair<int64_t, uint32_t>> counted;  // least first: the negative count, then the code point
    for (size_t low = 0, high; low < sorted.size(); low = high) {
      for (high = low; high < sorted.size() && sorted[high] == sorted[low];) ++high;
      counted.push_back({-int64_t(high - low), sorted[low]});
    }
    std::sort(counted.begin(), counted.end());
    uint32_t next = 1;
    for (const auto& [count, code] : counted) {
      const bool printable = code >= ' ' && code < 0x7F;
      symbols.push_back({code, printable ? code : next});
      if (!printable && ++next == ' ') next = 0x7F;
    }
    std::sort(symbols.begin(), symbols.end());
    for (uint32_t& code : codes) code = symbol_of(code);
    short_words.build(codes, tokens, limit);
    trie.build(codes, tokens);
  }

  // Returns how ASCII stands in a first page.
  Case case_of(const Page& page) const {
    bool plain = true, lower = true, kept = true;
    for (uint32_t code = '\t'; code < 0x7F; ++code) {
      const uint32_t entry = page.entries[code], small = code | 32;
      const bool is_letter = small >= 'a' && small <= 'z', is_digit = code >= '0' && code <= '9';
      if (is_letter || is_digit)
        kept &= entry == symbol_of(code), lower &= entry == symbol_of(is_letter ? small : code);
      else if (code == ' ' || code == '\t' || code == '\n' || code == '\r')
        plain &= entry >> KIND_AT == SPACE;
      else if (code > ' ')
        plain &= entry >> KIND_AT == PUNCTUATION;
    }
    if (!plain) return Case::other;
    return lower ? Case::lower : kept ? Case::kept : Case::other;
  }
};

struct Literal {  // an added token such as [MASK], found in the raw text
  std::u32string text;
  int32_t id;
};

struct Literals {  // by their first character, which is an ASCII sign; the longest first
  std::vector<Literal> of[128];
  bool begins[128] = {};  // whether there are some
  std::string first;      // the characters for which there are
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
    reserve((room < size ? std::min(size, room + MOST_AHEAD) : size) + limit_ + BLOCK + 2 * RecentWords::MOST);
    size_t part = 0;  // where the text begins, or the last literal ended: nothing looks over this border
    size_t count = begin;  // of ids: in a register, but where another function appends some
    const auto put = [&](int32_t id, size_t start, size_t end) {
      out_.ids.data[count] = id;
      if (SPANS) out_.spans.data[count] = {int32_t(start), int32_t(end)};
    };
    const auto leave = [&] { out_.ids.size = count, out_.spans.size = SPANS ? count : 0; };
    const auto entry_at = entries_of(text);
    for (size_t i = 0; i < size;) {
      if (sizeof(Char) == 1 || is_letter(text[i])) {
        leave();
        if ((i = read_plain(text, i, size, full)) == size) return;
        count = out_.ids.size;
      }
      uint32_t entry = entry_at(i);
      if (entry >> KIND_AT < SPACE) {
        const size_t start = i;
        uint64_t key = 0;
        uint32_t any = 0;
        for (; entry <= PAYLOAD; entry = ++i < size ? entry_at(i) : uint32_t(SPACE) << KIND_AT)
          key |= uint64_t(entry) << (8 * (i - start) & 63), any |= entry;
        int32_t id;
        if (const size_t length = i - start; entry >> KIND_AT < SPACE) {
          leave();
          i = read_odd_word(text, start, part, size);
          count = out_.ids.size;
          if (i < size) entry = entry_at(i);
        } else if (length <= 8 && any < 256 && (id = tables_.short_words.find(key)) >= 0) {
          put(id, start, i), ++count;
        } else {
          const RecentWords::Key word = key_of(text, start, length, size);
          leave();
          read_rare_word(text, start, length, word, may_be_kept(word) ? recent_.place_of(word, false) : nullptr);
          count = out_.ids.size;
        }
        if (i == size) break;
      }
      const uint32_t kind = entry >> KIND_AT;
      // Not where it is not known yet whether the last word ends here.
      if (count >= full && kind <= PUNCTUATION) break;
      if (uint32_t(text[i]) < 128 && literals_ && literals_->begins[size_t(text[i])] && kind == PUNCTUATION)
        if (const Literal* literal = literal_at(text, i, size)) {
          put(literal->id, i, i + literal->text.size()), ++count;
          part = i += literal->text.size();
          continue;
        }
      if (kind <= PUNCTUATION) {  // written for a space, too, and then forgotten, which is quicker than to ask
        put(int32_t(entry & PAYLOAD), i, i + 1);
        count += kind != SPACE;
      } else if (kind == UNFILLED) {
        note(out_.missing, uint32_t(text[i]) >> 8);
      } else {
        count = begin;
        out_.references.push_back(out_.ends.size());
        break;
      }
      ++i;
    }
    leave();
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
  // Words whose memory was asked for, and which are read a little later; so many, and so many ids from the first of them on, are
  // there at most.
  struct RareWord {
    RecentWords::Key key;
    RecentWords::Word* place;
    size_t number, at;  // which of the ids it is, and where in the text
    uint32_t length;
  };
  static constexpr size_t MOST_RARE = 2 * BLOCK, MOST_IDS = 4 * BLOCK, MOST_AHEAD = MOST_RARE * BLOCK;
  RareWord rare_[MOST_RARE];
  size_t rare_count_ = 0;
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

  // Reads on from `i` as far as there is nothing but plain ASCII, and returns how far that was. No branch depends on where words
  // end, which cannot be predicted.
  template <class Char>
  LINKBOY_APART size_t read_plain(const Char* text, size_t i, size_t size, size_t full) {
#if LINKBOY_BLOCKS
    const Case letters = tables_.pages[0]->ascii;
    uint8_t copy[BLOCK + BEHIND];
    while (letters != Case::other && i < size && out_.ids.size < full) {
      const bool whole = sizeof(Char) == 1 && size - i >= sizeof copy;
      const uint8_t* block = whole ? reinterpret_cast<const uint8_t*>(text + i) : narrowed(text + i, size - i, copy);
      Kinds64 kinds(block);
      if (kinds.odd) {
        block = static_cast<uint8_t*>(std::memmove(copy, block, sizeof copy));
        fold_odd(text + i, copy, kinds);
      }
      uint64_t stops = kinds.odd;
      if (literals_)
        for (char first : literals_->first) stops |= Kinds64::equal(block, first);
      size_t end = stops ? trailing_zeros(stops) : BLOCK;
      // A word that goes on behind the end is left for the next time.
      if (end == BLOCK || kinds.odd >> end & 1)
        while (end && kinds.letters >> (end - 1) & 1) --end;
      if (!end) break;
      read_block(text, i, block, kinds, ~uint64_t(0) >> (BLOCK - end));
      i = std::min(i + end, size);
      if (rare_count_ > MOST_RARE - BLOCK || (rare_count_ && out_.ids.size - rare_[0].number > MOST_IDS - BLOCK))
        read_rare_words(text);
    }
    read_rare_words(text);
#else
    static_cast<void>(text), static_cast<void>(size), static_cast<void>(full);
#endif
    return i;
  }

#if LINKBOY_BLOCKS
  // Returns a copy of the next characters, with spaces behind the last; what does not fit a byte becomes 255.
  template <class Char>
  static const uint8_t* narrowed(const Char* text, size_t left, uint8_t (&copy)[BLOCK + BEHIND]) {
    const size_t count = std::min(left, sizeof copy);
    for (size_t n = 0; n < count; ++n) copy[n] = uint8_t(std::min<uint32_t>(text[n], 255));
    std::memset(copy + count, ' ', sizeof copy - count);
    return copy;
  }

  // Puts into a block what its odd letters fold to, as far as that is one symbol of a byte, and counts other signs and spaces
  // among theirs. What is left is odd.
  template <class Char>
  void fold_odd(const Char* text, uint8_t* block, Kinds64& kinds) const {
    for (; kinds.odd; kinds.odd &= kinds.odd - 1) {
      const size_t at = trailing_zeros(kinds.odd);
      const uint32_t entry = entry_of(uint32_t(text[at]));
      if (entry >= 256 && entry >> KIND_AT != PUNCTUATION && entry >> KIND_AT != SPACE) return;
      block[at] = entry < 256 ? uint8_t(entry) : 0;
      (entry < 256 ? kinds.letters : entry >> KIND_AT == SPACE ? kinds.spaces : kinds.signs) |= kinds.odd & (~kinds.odd + 1);
    }
  }

  // Reads those words and signs of a block that begin in `part`. What is not among the short words is in memory that no near
  // cache holds: it is asked for here, and read later.
  template <class Char>
  void read_block(const Char* text, size_t i, const uint8_t* block, const Kinds64& kinds, uint64_t part) {
    const bool lower = tables_.pages[0]->ascii == Case::lower;
    const uint64_t starts = kinds.letters & ~(kinds.letters << 1);
    int32_t* const ids = out_.ids.data;
    size_t size = out_.ids.size;
    for (uint64_t left = (starts | kinds.signs) & part; left; left &= left - 1) {
      const size_t at = trailing_zeros(left);
      size_t length = trailing_zeros(~(kinds.letters >> at));
      length += !length;
      uint64_t key = characters(block + at, std::min<size_t>(length, 8));
      if (lower) key = in_lower_case(key);
      int32_t id = length <= 8 ? tables_.short_words.find(key) : -1;
      if (id < 0 && kinds.signs >> at & 1) {
        id = int32_t(entry_of(uint32_t(text[i + at])) & PAYLOAD);
      } else if (id < 0) {
        uint64_t high = length > 8 ? characters(block + at + 8, std::min<size_t>(length - 8, 8)) : 0;
        if (lower) high = in_lower_case(high);
        const RecentWords::Key whole{key, high, RecentWords::kind_of(length, 0, tables_.number)};
        rare_[rare_count_++] = {whole, may_be_kept(whole) ? recent_.place_of(whole, true) : nullptr, size, i + at, uint32_t(length)};
      }
      if (SPANS) out_.spans.data[size] = {int32_t(i + at), int32_t(i + at + length)};
      ids[size++] = id;
    }
    out_.ids.size = size, out_.spans.size = SPANS ? size : 0;
  }

  // Puts the ids of the rare words that were passed over in their places.
  template <class Char>
  void read_rare_words(const Char* text) {
    if (!rare_count_) return;
    constexpr size_t AT_ONCE = RecentWords::MOST;  // mostly all that there are: then there is no branch for their number
    int32_t ids[MOST_IDS + AT_ONCE];
    Range spans[MOST_IDS + AT_ONCE];
    const size_t first = rare_[0].number, all = out_.ids.size;
    std::copy(out_.ids.data + first, out_.ids.data + all, ids);
    if (SPANS) std::copy(out_.spans.data + first, out_.spans.data + all, spans);
    out_.ids.size = first, out_.spans.size = SPANS ? first : 0;
    const auto append = [&](size_t from, size_t to) {
      for (size_t at = from; at < to; at += AT_ONCE) {
        std::copy_n(ids + at - first, AT_ONCE, out_.ids.data + out_.ids.size + at - from);
        if (SPANS) std::copy_n(spans + at - first, AT_ONCE, out_.spans.data + out_.spans.size + at - from);
      }
      out_.ids.size += to - from;
      if (SPANS) out_.spans.size += to - from;
    };
    size_t done = first;
    for (const RareWord* word = rare_; word < rare_ + rare_count_; ++word) {
      append(done, word->number);
      read_rare_word(text, word->at, word->length, word->key, word->place);
      done = word->number + 1;
    }
    append(done, all);
    rare_count_ = 0;
  }
#endif

  // Reads a word of plain letters that is not among the short ones.
  template <class Char>
  LINKBOY_APART void read_rare_word(const Char* text, size_t start, size_t length, const RecentWords::Key& key,
                                    RecentWords::Word* place) {
    if (recall(key, place)) return;
    const size_t first = out_.ids.size;
    const auto entry_at = entries_of(text);
    cut(length, [&](size_t n) { return entry_at(start + n); }, [&](size_t n) { return start + n; }, false);
    keep(place, first);
  }

  template <class Char>
  RecentWords::Key key_of(const Char* text, size_t start, size_t length, size_t size) const {
    return RecentWords::key_of(text + start, length * sizeof(Char), (size - start) * sizeof(Char), sizeof(Char), tables_.number);
  }

  static bool may_be_kept(const RecentWords::Key& key) { return !SPANS && (key.kind & 255) <= RecentWords::LONGEST; }

  // Pushes the ids of a word that was cut a while ago, and returns whether it was. `place`: where the ids of a word that comes
  // for the second time belong. What a word becomes follows from its characters alone, but for a capital sigma.
  bool recall(const RecentWords::Key& key, RecentWords::Word* place) {
    if (!place) return false;
    if (*place == key && place->count >= 0) {
      std::copy_n(place->ids, RecentWords::MOST, out_.ids.data + out_.ids.size);
      out_.ids.size += place->count;
      return true;
    }
    static_cast<RecentWords::Key&>(*place) = key, place->count = -1;
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
    const RecentWords::Key key = key_of(text, i, end - i, size);
    RecentWords::Word* const place = !depends && may_be_kept(key) ? recent_.place_of(key, false) : nullptr;
    if (recall(key, place)) return end;
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
