// The class Rows of the module: vectors, as text or in the binary form of word2vec, of the words that are wanted. Only what
// is plain is read here. Every other line is handed back as it is, for linkboy/embeddings/_text.py to judge: it alone says
// what a bad row is, and what is said about it.
#pragma once

#include <cfloat>
#include <charconv>
#include <cmath>
#include <cstring>
#include <limits>
#include <random>
#include <string_view>
#include <vector>

#include "hash.hpp"
#include "python.hpp"

namespace linkboy {

// The wanted words, looked for by their bytes. A slot holds a part of the hash, and which word it is, from 1 on.
class WantedWords {
 public:
  explicit operator bool() const { return bool(words_); }

  // Reads a list of bytes. Returns false on an error, which it sets.
  bool read(PyObject* list) {
    words_.object = PyList_AsTuple(list);
    if (!words_) return false;
    const size_t count = size_t(PyTuple_GET_SIZE(words_.object));
    size_t room = 16;
    while (room < 2 * count) room *= 2;
    slots_.resize(room);
    for (size_t n = 0; n < count; ++n) {
      if (!PyBytes_Check(object(n)) || count >= UINT32_MAX) {
        PyErr_SetString(PyExc_TypeError, "words must be a list of bytes");
        return false;
      }
      const uint64_t hash = hash_of(text(n));
      Slot& slot = slots_[place_of(text(n), hash)];
      if (!slot.number) slot = {uint32_t(hash >> 32), uint32_t(n + 1)};
    }
    return true;
  }

  // Returns a word, borrowed, or nullptr. May be called without the lock of Python: bytes never change.
  PyObject* find(std::string_view word) const {
    const Slot& slot = slots_[place_of(word, hash_of(word))];
    return slot.number ? object(slot.number - 1) : nullptr;
  }

 private:
  struct Slot {
    uint32_t part = 0, number = 0;
  };
  Reference words_;  // a tuple
  std::vector<Slot> slots_;
  const uint64_t seed_ = uint64_t(std::random_device()()) << 32 | GOLDEN >> 32;  // nobody can choose words that collide

  PyObject* object(size_t n) const { return PyTuple_GET_ITEM(words_.object, Py_ssize_t(n)); }
  std::string_view text(size_t n) const { return {PyBytes_AS_STRING(object(n)), size_t(PyBytes_GET_SIZE(object(n)))}; }

  // Returns the slot of a word, or the empty one where it would be.
  size_t place_of(std::string_view word, uint64_t hash) const {
    size_t at = hash & (slots_.size() - 1);
    while (slots_[at].number && (slots_[at].part != uint32_t(hash >> 32) || text(slots_[at].number - 1) != word))
      at = (at + 1) & (slots_.size() - 1);
    return at;
  }

  uint64_t hash_of(std::string_view word) const {
    uint64_t hash = seed_ ^ word.size(), part;
    for (; word.size() >= 8; word.remove_prefix(8)) std::memcpy(&part, word.data(), 8), hash = mix(hash ^ part) * GOLDEN;
    part = 0;
    for (char byte : word) part = part << 8 | uint8_t(byte);
    return mix(hash ^ part);
  }
};

// Reads a decimal number at `at`, and moves behind it. The value is what `float` of Python gives, rounded once more where T
// is float. Up to 2 ** 53, and with at most 22 digits behind the point, the digits and the power of ten are exact in a
// double, so that their quotient is rounded once, as it should be; the standard library reads what is longer. Returns false
// for what Python is to look at: what is not a number, `nan`, `inf`, and what is outside of the range.
template <class T>
bool read_number(const char*& at, const char* end, T& value) {
  static constexpr double POWERS[] = {1e0,  1e1,  1e2,  1e3,  1e4,  1e5,  1e6,  1e7,  1e8,  1e9,  1e10, 1e11,
                                      1e12, 1e13, 1e14, 1e15, 1e16, 1e17, 1e18, 1e19, 1e20, 1e21, 1e22};
  static_assert(std::numeric_limits<T>::is_iec559, "a value beyond the range of float must become infinite");
  const char* const begin = at;
  const bool negative = at < end && *at == '-';
  uint64_t digits = 0;
  const auto read_digits = [&] {
    const char* const first = at;
    for (uint8_t digit; at < end && (digit = uint8_t(*at - '0')) < 10; ++at) digits = 10 * digits + digit;
    return at - first;
  };
  at += negative;
  ptrdiff_t count = read_digits(), behind = 0;
  if (at < end && *at == '.') ++at, count += behind = read_digits();
  if (!count) return false;
  const bool goes_on = at < end && (*at | 32) == 'e';
  if (FLT_EVAL_METHOD == 0 && !goes_on && count <= 19 && behind <= 22 && digits <= uint64_t(1) << 53) {
    const double quotient = double(digits) / POWERS[behind];
    value = T(negative ? -quotient : quotient);
    return true;
  }
#ifdef __cpp_lib_to_chars
  double longer = 0;
  const std::from_chars_result result = std::from_chars(begin, end, longer);
  at = result.ptr, value = T(longer);
  return result.ec == std::errc() && std::isfinite(value);
#else
  return static_cast<void>(begin), false;  // a library from before 2021, such as that of clang up to 19
#endif
}

struct Word {
  std::string_view text;
  PyObject* object = nullptr;  // the wanted one that it is, where words are asked for
};

// The rows that were read: their words, and their lines or records.
struct Found {
  std::vector<Word> words;
  std::vector<int64_t> lines;

  void add(const Word& word, int64_t line) { words.push_back(word), lines.push_back(line); }

  PyObject* list_of_words() const {
    Reference list(PyList_New(Py_ssize_t(words.size())));
    for (size_t n = 0; list && n < words.size(); ++n) {
      const auto [text, object] = words[n];
      PyObject* word = object ? Py_NewRef(object) : PyBytes_FromStringAndSize(text.data(), Py_ssize_t(text.size()));
      if (!word) return nullptr;
      PyList_SET_ITEM(list.object, Py_ssize_t(n), word);
    }
    return list.release();
  }
};

struct Rows {
  WantedWords wanted;  // all words are where none are given
  size_t dim;
  int64_t line;  // the number of the next one
  char separator;
  int wide;  // float64

  // Returns whether a word is wanted, and says which one it is.
  bool wants(Word& word) const { return !wanted || (word.object = wanted.find(word.text)); }
};

// Reads the lines of a text as far as they are whole; those of words that nobody wants are passed over.
template <class T>
class TextReader {
 public:
  Found found;
  std::vector<int64_t> odd;  // for each line that Python is to judge: rows read before it, its number, begin and end

  TextReader(Rows& rows, T* values) : rows_(rows), to_(values) {}

  // Returns where it stopped.
  const char* read(const char* const text, const char* end, bool at_end) {
    const char* at = text;
    while (at < end) {
      auto next = static_cast<const char*>(std::memchr(at, '\n', size_t(end - at)));
      if (!next && !at_end) break;
      next = next ? next + 1 : end;
      if (!read_line(at, next))
        odd.insert(odd.end(), {int64_t(found.lines.size()), rows_.line, int64_t(at - text), int64_t(next - text)});
      at = next, ++rows_.line;
    }
    return at;
  }

 private:
  Rows& rows_;
  T* to_;

  bool read_line(const char* at, const char* end) {
    auto border = static_cast<const char*>(std::memchr(at, rows_.separator, size_t(end - at)));
    Word word{{at, size_t((border ? border : end) - at)}};
    if (!rows_.wants(word)) return true;
    if (!border || !read_numbers(border, end)) return false;
    return found.add(word, rows_.line), true;
  }

  // Reads what stands from a separator on; behind the last number there may be more of them.
  bool read_numbers(const char* at, const char* end) {
    while (end > at && (end[-1] == ' ' || end[-1] == '\r' || end[-1] == '\n' || end[-1] == rows_.separator)) --end;
    for (size_t n = 0; n < rows_.dim; ++n)
      if (at >= end || *at++ != rows_.separator || !read_number(at, end, to_[n])) return false;
    to_ += at == end ? rows_.dim : 0;
    return at == end;
  }
};

template <class T>
PyObject* read_text(Rows& rows, const Buffer& text, size_t size, bool at_end) {
  // A number takes two bytes at least.
  Reference values(new_bytes(sizeof(T) * (size / 2 + 1)));
  if (!values) return nullptr;
  TextReader<T> reader(rows, reinterpret_cast<T*>(PyByteArray_AS_STRING(values.object)));
  auto begin = reinterpret_cast<const char*>(text.bytes()), stop = begin;
  const int64_t first = rows.line;
  {
    Unlocked unlocked;
    stop = reader.read(begin, begin + size, at_end);
  }
  if (PyByteArray_Resize(values.object, Py_ssize_t(sizeof(T) * rows.dim * reader.found.lines.size()))) return nullptr;
  Reference words(reader.found.list_of_words()), lines(bytes_of(reader.found.lines)), odd(bytes_of(reader.odd));
  if (!words || !lines || !odd) return nullptr;
  return Py_BuildValue("OOOOnn", values.object, words.object, lines.object, odd.object, Py_ssize_t(stop - begin),
                       Py_ssize_t(rows.line - first));
}

// text(buffer, size, at_end) -> (values, words, lines, odd lines, bytes read, lines read)
inline PyObject* rows_text(PyObject* object, PyObject* arguments) {
  Rows& rows = held_by<Rows>(object);
  Buffer text;
  Py_ssize_t size;
  int at_end;
  if (!PyArg_ParseTuple(arguments, "y*np:text", &text.view, &size, &at_end)) return nullptr;
  if (size < 0 || size_t(size) > text.size()) {
    PyErr_SetString(PyExc_ValueError, "size must be at most that of the buffer");
    return nullptr;
  }
  return guarded([&] { return (rows.wide ? read_text<double> : read_text<float>)(rows, text, size_t(size), at_end); });
}

// Returns whether bytes are UTF-8 as Python reads it, without control characters but tabs and ends of lines.
inline bool is_text(const char* text, size_t size) {
  auto at = reinterpret_cast<const uint8_t*>(text), end = at + size;
  while (at < end) {
    const uint8_t first = *at++;
    if (first < 32 && first != '\t' && first != '\n' && first != '\r') return false;
    if (first < 0x80) continue;
    const int more = first < 0xC2 || first > 0xF4 ? 0 : first < 0xE0 ? 1 : first < 0xF0 ? 2 : 3;
    if (!more || end - at < more) return false;
    // The second byte decides that a character is not written longer than needed, is no surrogate, and is in range.
    const uint8_t low = first == 0xE0 ? 0xA0 : first == 0xF0 ? 0x90 : 0x80;
    const uint8_t high = first == 0xED ? 0x9F : first == 0xF4 ? 0x8F : 0xBF;
    if (*at < low || *at > high) return false;
    for (int n = 1; n < more; ++n)
      if (at[n] >> 6 != 2) return false;
    at += more;
  }
  return true;
}

// Cuts binary records, each a word, a space and numbers, at their first spaces.
struct Records {
  Found found;
  size_t count = 0;
  const char* stop;

  // Returns false where words or numbers do not look like those of vectors: a word may hold a space then. The last record
  // is left for the next chunk, whose beginning shows whether it ends where it seems to.
  bool cut(const Rows& rows, const char* at, const char* end, bool at_end) {
    constexpr size_t LONGEST_WORD = 4096, LOOKED_AT = 4;
    const size_t size = 4 * rows.dim;
    const char* before = stop = at;
    for (; size_t(end - at) > size; at = stop) {
      auto space = static_cast<const char*>(std::memchr(at, ' ', std::min(LONGEST_WORD + 1, size_t(end - at) - size)));
      if (!space) break;
      if (!is_text(at, size_t(space - at)) || !is_usual(space + 1, std::min(rows.dim, LOOKED_AT))) return false;
      while (*at == '\n') ++at;
      Word word{{at, size_t(space - at)}};
      if (rows.wants(word)) found.add(word, int64_t(count));
      before = stop, stop = space + 1 + size, ++count;
    }
    if (!at_end && count) {
      --count, stop = before;
      if (!found.lines.empty() && size_t(found.lines.back()) == count) found.words.pop_back(), found.lines.pop_back();
    }
    return true;
  }

 private:
  static bool is_usual(const char* at, size_t count) {
    for (float number; count; --count, at += 4) {
      std::memcpy(&number, at, 4);
      number = std::fabs(number);
      if (!(number == 0 || (number > 1e-10f && number < 1e6f))) return false;
    }
    return true;
  }
};

// records(chunk, at_end) -> None | (values, words, their records, records, bytes read)
inline PyObject* rows_records(PyObject* object, PyObject* arguments) {
  const Rows& rows = held_by<Rows>(object);
  Buffer chunk;
  int at_end;
  if (!PyArg_ParseTuple(arguments, "y*p:records", &chunk.view, &at_end)) return nullptr;
  return guarded([&]() -> PyObject* {
    Records records;
    auto begin = reinterpret_cast<const char*>(chunk.bytes());
    if (!records.cut(rows, begin, begin + chunk.size(), at_end)) Py_RETURN_NONE;
    const size_t size = 4 * rows.dim;
    Reference values(new_bytes(size * records.found.words.size())), words(records.found.list_of_words());
    Reference numbers(bytes_of(records.found.lines));
    if (!values || !words || !numbers) return nullptr;
    char* to = PyByteArray_AS_STRING(values.object);
    for (const Word& word : records.found.words) std::memcpy(to, word.text.data() + word.text.size() + 1, size), to += size;
    return Py_BuildValue("OOOnn", values.object, words.object, numbers.object, Py_ssize_t(records.count),
                         Py_ssize_t(records.stop - begin));
  });
}

// Rows(words | None, dim, separator, wide, line)
inline PyObject* rows_new(PyTypeObject* type, PyObject* arguments, PyObject*) {
  return guarded([&]() -> PyObject* {
    auto rows = std::make_unique<Rows>();
    PyObject* words;
    Py_ssize_t dim, line;
    if (!PyArg_ParseTuple(arguments, "Oncpn:Rows", &words, &dim, &rows->separator, &rows->wide, &line)) return nullptr;
    if (dim < 1 || dim > INT32_MAX || line < 0 || (words != Py_None && !PyList_Check(words))) {
      PyErr_SetString(PyExc_ValueError, "Rows needs a list of words or None, and a number of numbers from 1 on");
      return nullptr;
    }
    rows->dim = size_t(dim), rows->line = line;
    if (words != Py_None && !rows->wanted.read(words)) return nullptr;
    return new_holder(type, std::move(rows));
  });
}

}  // namespace linkboy
