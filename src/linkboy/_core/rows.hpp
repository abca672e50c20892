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
#include <vector>

#include "growing.hpp"
#include "hash.hpp"
#include "python.hpp"

namespace linkboy {

// The wanted words, looked for by their bytes. A slot holds a part of the hash, and which word it is.
class WantedWords {
 public:
  bool holds_all = true;

  // Reads a list of bytes; on an error sets it and returns false.
  bool read(PyObject* list) {
    holds_all = false;
    const size_t count = size_t(PyList_GET_SIZE(list));
    while ((slots_.size() >> 1) < count || slots_.size() < 16) slots_.resize(std::max<size_t>(16, 2 * slots_.size()));
    for (size_t n = 0; n < count; ++n) {
      PyObject* word = PyList_GET_ITEM(list, Py_ssize_t(n));
      if (!PyBytes_Check(word) || count >= UINT32_MAX) {
        PyErr_SetString(PyExc_TypeError, "words must be a list of bytes");
        return false;
      }
      words_.emplace_back(Py_NewRef(word));
      const uint64_t hash = hash_of(PyBytes_AS_STRING(word), size_t(PyBytes_GET_SIZE(word)));
      size_t at = hash & (slots_.size() - 1);
      while (slots_[at].number) at = (at + 1) & (slots_.size() - 1);
      slots_[at] = {uint32_t(hash >> 32), uint32_t(n + 1)};
    }
    return true;
  }

  // Returns the number of a word from 1 on, or 0. May be called without the lock of Python: bytes never change.
  uint32_t find(const char* text, size_t size) const {
    const uint64_t hash = hash_of(text, size);
    for (size_t at = hash & (slots_.size() - 1); slots_[at].number; at = (at + 1) & (slots_.size() - 1)) {
      if (slots_[at].part != uint32_t(hash >> 32)) continue;
      PyObject* word = words_[slots_[at].number - 1].object;
      if (size_t(PyBytes_GET_SIZE(word)) == size && !std::memcmp(PyBytes_AS_STRING(word), text, size))
        return slots_[at].number;
    }
    return 0;
  }

  PyObject* object(uint32_t number) const { return words_[number - 1].object; }

 private:
  struct Slot {
    uint32_t part = 0, number = 0;
  };
  std::vector<Slot> slots_;
  std::vector<Reference> words_;
  const uint64_t seed_ = uint64_t(std::random_device()()) << 32 | GOLDEN >> 32;  // nobody can choose words that collide

  uint64_t hash_of(const char* text, size_t size) const {
    uint64_t hash = seed_ ^ size, part;
    for (; size >= 8; text += 8, size -= 8) std::memcpy(&part, text, 8), hash = mix(hash ^ part) * GOLDEN;
    part = 0;
    for (size_t n = 0; n < size; ++n) part = part << 8 | uint8_t(text[n]);
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
  double longer;
  const std::from_chars_result result = std::from_chars(begin, end, longer);
  at = result.ptr, value = T(longer);
  return result.ec == std::errc() && std::isfinite(value);
#else
  return static_cast<void>(begin), false;  // a library from before 2021, such as that of clang up to 19
#endif
}

struct Found {  // a row that was read: its word, where that is and which of the wanted ones, and its line or record
  const char* word;
  size_t size;
  uint32_t number;
  size_t line;
};

struct Odd {  // a line for Python to judge: where it is, its number, and how many rows were read before it
  const char* begin;
  size_t size, line, before;
};

struct Rows {
  WantedWords wanted;
  size_t dim, line;  // numbers of a row; the number of the next line
  char separator;
  int wide;  // float64

  bool wants(const char* word, size_t size, uint32_t& number) const {
    number = wanted.holds_all ? 0 : wanted.find(word, size);
    return wanted.holds_all || number;
  }
};

// Reads the lines of a text as far as they are whole; those of words that nobody wants are passed over.
template <class T>
class TextReader {
 public:
  Growing<T> values;
  std::vector<Found> found;
  std::vector<Odd> odd;
  bool blank = true;  // the last line is

  explicit TextReader(Rows& rows) : rows_(rows) {}

  // Returns where it stopped.
  const char* read(const char* at, const char* end, bool at_end) {
    while (at < end) {
      auto next = static_cast<const char*>(std::memchr(at, '\n', size_t(end - at)));
      if (!next && !at_end) break;
      next = next ? next + 1 : end;
      read_line(at, next);
      last_ = at, at = next, ++rows_.line;
    }
    blank = !last_ || trimmed(last_, at) == last_;
    return at;
  }

 private:
  Rows& rows_;
  const char* last_ = nullptr;

  // Returns the end of a line without what may stand behind its last number.
  const char* trimmed(const char* begin, const char* end) const {
    while (end > begin && (end[-1] == ' ' || end[-1] == '\r' || end[-1] == '\n' || end[-1] == rows_.separator)) --end;
    return end;
  }

  void read_line(const char* begin, const char* end) {
    auto border = static_cast<const char*>(std::memchr(begin, rows_.separator, size_t(end - begin)));
    const size_t size = size_t((border ? border : end) - begin);
    uint32_t number;
    if (!rows_.wants(begin, size, number)) return;
    if (border && read_numbers(border + 1, trimmed(border + 1, end)))
      found.push_back({begin, size, number, rows_.line});
    else
      odd.push_back({begin, size_t(end - begin), rows_.line, found.size()});
  }

  bool read_numbers(const char* at, const char* end) {
    values.reserve(rows_.dim);
    T* to = values.data + values.size;
    for (size_t n = 0; n < rows_.dim; ++n) {
      if (n && (at == end || *at++ != rows_.separator)) return false;
      if (!read_number(at, end, to[n])) return false;
    }
    values.size += at == end ? rows_.dim : 0;
    return at == end;
  }
};

// Returns a list of the words of rows, as bytes.
inline PyObject* list_of_words(const WantedWords& wanted, const std::vector<Found>& found) {
  Reference list(PyList_New(Py_ssize_t(found.size())));
  for (size_t n = 0; list && n < found.size(); ++n) {
    PyObject* word = found[n].number ? Py_NewRef(wanted.object(found[n].number))
                                     : PyBytes_FromStringAndSize(found[n].word, Py_ssize_t(found[n].size));
    if (!word) return nullptr;
    PyList_SET_ITEM(list.object, Py_ssize_t(n), word);
  }
  return list.release();
}

inline PyObject* list_of_lines(const std::vector<Found>& found) {
  std::vector<size_t> lines;
  for (const Found& row : found) lines.push_back(row.line);
  return list_of_numbers(lines);
}

template <class T>
PyObject* read_text(Rows& rows, const Buffer& text, size_t size, bool at_end) {
  TextReader<T> reader(rows);
  auto begin = reinterpret_cast<const char*>(text.bytes()), stop = begin;
  const size_t first = rows.line;
  {
    Unlocked unlocked;
    stop = reader.read(begin, begin + size, at_end);
  }
  Reference values(bytes_of(reader.values.data, reader.values.size)), words(list_of_words(rows.wanted, reader.found));
  Reference lines(list_of_lines(reader.found)), odd(PyList_New(0));
  if (!values || !words || !lines || !odd) return nullptr;
  for (const Odd& line : reader.odd) {
    Reference item(Py_BuildValue("nny#", Py_ssize_t(line.before), Py_ssize_t(line.line), line.begin, Py_ssize_t(line.size)));
    if (!item || PyList_Append(odd.object, item.object)) return nullptr;
  }
  return Py_BuildValue("OOOOnni", values.object, words.object, lines.object, odd.object, Py_ssize_t(stop - begin),
                       Py_ssize_t(rows.line - first), int(reader.blank));
}

// text(buffer, size, at_end) -> (values, words, lines, odd lines, bytes read, lines read, whether the last was blank)
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
  std::vector<Found> found;
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
      uint32_t number;
      if (rows.wants(at, size_t(space - at), number)) found.push_back({at, size_t(space - at), number, count});
      before = stop, stop = space + 1 + size, ++count;
    }
    if (!at_end && count) {
      --count, stop = before;
      if (!found.empty() && found.back().line == count) found.pop_back();
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

// records(chunk, at_end) -> None | (values, words, their numbers, records, bytes read)
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
    Reference values(new_bytes(size * records.found.size())), words(list_of_words(rows.wanted, records.found));
    Reference numbers(list_of_lines(records.found));
    if (!values || !words || !numbers) return nullptr;
    char* to = PyByteArray_AS_STRING(values.object);
    for (const Found& row : records.found) std::memcpy(to, row.word + row.size + 1, size), to += size;
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
    rows->dim = size_t(dim), rows->line = size_t(line);
    if (words != Py_None && !rows->wanted.read(words)) return nullptr;
    return new_holder(type, std::move(rows));
  });
}

}  // namespace linkboy
