// The class Encoder of the module: texts to flat ids with spans, to padded rows, or to lists.
#pragma once

#include <memory>
#include <vector>

#include "hash.hpp"
#include "python.hpp"
#include "tensor.hpp"
#include "wordpiece.hpp"

namespace linkboy {

constexpr size_t UNLOCK_FROM = 20000;  // characters from which the lock of Python is let go

// Strings are read where they are. They never change, and the references keep them alive while the lock is let go. They lie all
// over the memory: each is asked for while others are read.
struct Texts {
  static constexpr size_t AHEAD = 8;
  struct View {
    const void* data;
    size_t size;
    int width;
  };
  std::vector<View> views;
  size_t characters = 0, longest = 0;

  // Reads a list or tuple of strings; on an error sets it and returns false.
  bool read(PyObject* texts) {
    if (!PyList_Check(texts) && !PyTuple_Check(texts)) return fail("a list of strings", texts);
    const Py_ssize_t count = PySequence_Fast_GET_SIZE(texts);
    PyObject** items = PySequence_Fast_ITEMS(texts);
    views.reserve(size_t(count));
    for (Py_ssize_t n = 0; n < count; ++n) {
      if (count - n > Py_ssize_t(AHEAD)) LINKBOY_PREFETCH(items[n + Py_ssize_t(AHEAD)]);
      if (!add(items[n])) return false;
    }
    return true;
  }

  void ask_for(size_t n) const {
    if (n >= views.size()) return;
    LINKBOY_PREFETCH(views[n].data);
    LINKBOY_PREFETCH(static_cast<const char*>(views[n].data) + 64);
  }

  void hold(PyObject* texts) {
    for (Py_ssize_t n = 0; n < PySequence_Fast_GET_SIZE(texts); ++n)
      held_.emplace_back(Py_NewRef(PySequence_Fast_GET_ITEM(texts, n)));
  }

 private:
  std::vector<Reference> held_;

  bool add(PyObject* text) {
    if (!PyUnicode_Check(text)) return fail("strings", text);
#if PY_VERSION_HEX < 0x030C0000
    if (PyUnicode_READY(text) < 0) return false;
#endif
    const size_t size = size_t(PyUnicode_GET_LENGTH(text));
    views.push_back({PyUnicode_DATA(text), size, int(PyUnicode_KIND(text))});
    characters += size, longest = std::max(longest, size);
    return true;
  }

  static bool fail(const char* expected, PyObject* got) {
    PyErr_Format(PyExc_TypeError, "texts must be %s, got %.100s", expected, Py_TYPE(got)->tp_name);
    return false;
  }
};

struct Row {  // what goes around a text, and how much of it is kept
  int first, last;  // ids, or -1
  size_t room;
};

template <bool SPANS>
void encode_texts(const Tables& tables, const Literals* literals, const Texts& texts, Row row, Output& out) {
  Reader<SPANS> reader(tables, literals, out, texts.longest);
  out.ids.reserve(texts.characters / 4 + 4 * texts.views.size());
  out.ends.reserve(texts.views.size());
  for (size_t n = 0; n < texts.views.size(); ++n) {
    const Texts::View& text = texts.views[n];
    texts.ask_for(n + Texts::AHEAD);
    if (row.first >= 0) reader.emit(row.first, 0, 0);
    const size_t start = out.ids.size;
    if (text.width == 1) reader.read(static_cast<const uint8_t*>(text.data), text.size, row.room);
    if (text.width == 2) reader.read(static_cast<const uint16_t*>(text.data), text.size, row.room);
    if (text.width == 4) reader.read(static_cast<const uint32_t*>(text.data), text.size, row.room);
    if (out.ids.size - start > row.room) {
      out.ids.size = start + row.room;
      if (SPANS) out.spans.size = out.ids.size;
    }
    if (row.last >= 0) reader.emit(row.last, 0, 0);
    out.ends.push_back(out.ids.size);
  }
}

struct Encoder {
  std::shared_ptr<Tables> tables;
  std::unique_ptr<Literals> literals;  // nullptr: none
  std::vector<Reference> numbers;      // ids as Python has them, made when first asked for
};

// Encodes into `out`. Returns a list of pages where Python is to fill some first, or nullptr with an error set; None,
// borrowed, where all is well.
inline PyObject* encode_into(const Encoder& self, PyObject* list, Row row, bool spans, Output& out) {
  Texts texts;
  if (!texts.read(list)) return nullptr;
  if (spans && texts.longest > size_t(INT32_MAX)) {
    PyErr_SetString(PyExc_OverflowError, "a text must be shorter than 2 ** 31 characters for its offsets to be told");
    return nullptr;
  }
  const auto encode = [&] {
    (spans ? encode_texts<true> : encode_texts<false>)(*self.tables, self.literals.get(), texts, row, out);
  };
  if (texts.characters && self.tables->pages[0] == blank_page()) {
    out.missing.push_back(0);  // which nearly every text needs, and would be found to lack only at its end
  } else if (texts.characters < UNLOCK_FROM) {
    encode();
  } else {
    texts.hold(list);
    Unlocked unlocked;
    encode();
  }
  return out.missing.empty() ? Py_None : list_of_numbers(out.missing);
}

// Returns what goes around texts, of three numbers among the arguments: two ids, and how much is kept, -1 for all.
inline Row row_of(const Py_ssize_t* numbers) {
  return {int(numbers[0]), int(numbers[1]), numbers[2] < 0 ? SIZE_MAX : size_t(numbers[2])};
}

// flat(texts, first, last, room, spans, wide) -> pages | (ids, splits, references, spans | None); `wide`: ids of 64 bits
inline PyObject* encoder_flat(PyObject* object, PyObject* const* given, Py_ssize_t count) {
  Py_ssize_t numbers[5];
  if (!expects(6, count) || !read_numbers(given + 1, numbers)) return nullptr;
  return guarded([&]() -> PyObject* {
    Output out;
    const bool spans = numbers[3], wide = numbers[4];
    PyObject* state = encode_into(held_by<Encoder>(object), given[0], row_of(numbers), spans, out);
    if (state != Py_None) return state;
    out.ends.insert(out.ends.begin(), 0);
    Reference ids(wide ? new_bytes(8 * out.ids.size) : bytes_of(out.ids.data, out.ids.size)), splits(bytes_of(out.ends));
    Reference ranges(spans ? bytes_of(out.spans.data, out.spans.size) : Py_NewRef(Py_None));
    Reference references(list_of_numbers(out.references));
    if (!ids || !splits || !ranges || !references) return nullptr;
    if (wide) std::copy_n(out.ids.data, out.ids.size, reinterpret_cast<int64_t*>(PyByteArray_AS_STRING(ids.object)));
    return PyTuple_Pack(4, ids.object, splits.object, references.object, ranges.object);
  });
}

// Writes ids one after the other as rows of equal width.
inline void spread(const Output& out, size_t width, int64_t pad, bool left, int64_t* ids, int64_t* mask) {
  const int32_t* from = out.ids.data;
  size_t start = 0;
  for (size_t end : out.ends) {
    const size_t size = end - start, rest = width - size, at = left ? rest : 0, filled = left ? 0 : size;
    std::copy_n(from + start, size, ids + at);
    std::fill_n(mask + at, size, int64_t(1));
    std::fill_n(ids + filled, rest, pad);
    std::fill_n(mask + filled, rest, int64_t(0));
    ids += width, mask += width, start = end;
  }
}

// Returns rows of equal width, as `encoder_padded` says.
inline PyObject* padded_rows(const Encoder& self, PyObject* list, const Py_ssize_t (&numbers)[7], PyObject* take) {
  Output out;
  PyObject* state = encode_into(self, list, row_of(numbers), false, out);
  if (state != Py_None) return state;
  if (!out.references.empty()) Py_RETURN_NONE;
  const Py_ssize_t pad = numbers[3], least = numbers[4], multiple = numbers[5];
  const size_t rows = out.ends.size();
  size_t start = 0, longest = 0, shortest = SIZE_MAX;
  for (size_t end : out.ends) {
    longest = std::max(longest, end - start), shortest = std::min(shortest, end - start);
    start = end;
  }
  if (least < 0 && rows && longest != shortest) Py_RETURN_NONE;
  size_t width = std::max(longest, size_t(std::max<Py_ssize_t>(least, 0)));
  if (multiple > 1) width = (width + size_t(multiple) - 1) / size_t(multiple) * size_t(multiple);
  if (rows && width > size_t(PY_SSIZE_T_MAX) / 16 / rows) return PyErr_NoMemory();
  int64_t* filled[3];
  Reference made(PyTuple_New(3));
  for (int n = 0; made && n < 3; ++n) {
    PyObject* array = nullptr;
    if (take != Py_None) {
      Reference capsule(Tensor::make(rows, width, n == 1, &filled[n]));
      if (capsule) array = PyObject_CallOneArg(take, capsule.object);
    } else if (n == 1) {
      array = PyLong_FromSize_t(width);
    } else if ((array = new_bytes(8 * rows * width))) {
      filled[n] = reinterpret_cast<int64_t*>(PyByteArray_AS_STRING(array));
    }
    if (!array) return nullptr;
    PyTuple_SET_ITEM(made.object, n, array);
  }
  if (made) spread(out, width, pad, numbers[6], filled[0], filled[2]);
  return made.release();
}

// padded(texts, first, last, room, pad, width, multiple, left, take) -> pages | None | (ids, width, mask) or, with a function
// that takes capsules, (ids, zeros, mask) as it makes them. `width`: the least that rows are padded to, -1 for rows that must
// be of one length already. None: a text is to be read by the reference, or the rows differ.
inline PyObject* encoder_padded(PyObject* object, PyObject* const* given, Py_ssize_t count) {
  Py_ssize_t numbers[7];
  if (!expects(9, count) || !read_numbers(given + 1, numbers)) return nullptr;
  return guarded([&] { return padded_rows(held_by<Encoder>(object), given[0], numbers, given[8]); });
}

// again(text, asked, plan) -> dict | None. A call like the last one, which left its plan: what was asked of it, the numbers and
// the function for `padded`, the names of what that gives, None for what is not wanted, and of the attribute for details,
// the class of the dict, and what its details are beside the texts. None: no plan is for such a call, which goes the usual way.
inline PyObject* encoder_again(PyObject* object, PyObject* const* given, Py_ssize_t count) {
  if (!expects(3, count)) return nullptr;
  PyObject *text = given[0], *asked = given[1], *plan = given[2], *last, *rows, *take, *names, *type, *details;
  if (!PyTuple_Check(plan)) Py_RETURN_NONE;
  if (!PyArg_ParseTuple(plan, "O!O!OO!OO:again", &PyTuple_Type, &last, &PyTuple_Type, &rows, &take, &PyTuple_Type, &names, &type, &details))
    return nullptr;
  // By identity, so that 1 is not taken for True, and nothing is asked of objects of the caller.
  const auto items = [](PyObject* tuple) { return PySequence_Fast_ITEMS(tuple); };
  if (!PyTuple_Check(asked) || PyTuple_GET_SIZE(asked) != PyTuple_GET_SIZE(last) ||
      !std::equal(items(asked), items(asked) + PyTuple_GET_SIZE(asked), items(last)))
    Py_RETURN_NONE;
  if (!PyUnicode_Check(text) && !PyList_CheckExact(text)) Py_RETURN_NONE;
  Py_ssize_t numbers[7];
  if (!expects(7, PyTuple_GET_SIZE(rows)) || !expects(4, PyTuple_GET_SIZE(names)) || !read_numbers(items(rows), numbers))
    return nullptr;
  return guarded([&]() -> PyObject* {
    Reference texts(PyUnicode_Check(text) ? PyList_New(1) : PyList_GetSlice(text, 0, PY_SSIZE_T_MAX));
    if (texts && PyUnicode_Check(text)) PyList_SET_ITEM(texts.object, 0, Py_NewRef(text));
    Reference arrays(texts ? padded_rows(held_by<Encoder>(object), texts.object, numbers, take) : nullptr);
    if (!arrays && !PyErr_ExceptionMatches(PyExc_TypeError)) return nullptr;
    if (!arrays || !PyTuple_Check(arrays.object)) {  // not texts, or pages are missing, or rows differ
      PyErr_Clear();
      Py_RETURN_NONE;
    }
    Reference made(PyObject_CallNoArgs(type)), known(PyTuple_Pack(2, details, texts.object));
    bool fine = made && known && PyObject_SetAttr(made.object, items(names)[3], known.object) == 0;
    for (int n = 0; fine && n < 3; ++n)
      if (items(names)[n] != Py_None) fine = PyDict_SetItem(made.object, items(names)[n], items(arrays.object)[n]) == 0;
    return fine ? made.release() : nullptr;
  });
}

inline PyObject* number_of(Encoder& self, int32_t id) {
  if (size_t(id) >= self.numbers.size()) self.numbers.resize(size_t(id) + 1);
  PyObject*& number = self.numbers[size_t(id)].object;
  if (!number) number = PyLong_FromLong(id);
  return Py_XNewRef(number);
}

// lists(texts, first, last, room) -> pages | (lists of ids, references)
inline PyObject* encoder_lists(PyObject* object, PyObject* const* given, Py_ssize_t count) {
  auto& self = held_by<Encoder>(object);
  Py_ssize_t numbers[3];
  if (!expects(4, count) || !read_numbers(given + 1, numbers)) return nullptr;
  return guarded([&]() -> PyObject* {
    Output out;
    PyObject* state = encode_into(self, given[0], row_of(numbers), false, out);
    if (state != Py_None) return state;
    Reference lists(PyList_New(Py_ssize_t(out.ends.size())));
    if (!lists) return nullptr;
    size_t start = 0;
    for (size_t row = 0; row < out.ends.size(); ++row) {
      PyObject* ids = PyList_New(Py_ssize_t(out.ends[row] - start));
      if (!ids) return nullptr;
      PyList_SET_ITEM(lists.object, Py_ssize_t(row), ids);
      for (Py_ssize_t n = 0; start < out.ends[row]; ++n, ++start) {
        PyObject* number = number_of(self, out.ids.data[start]);
        if (!number) return nullptr;
        PyList_SET_ITEM(ids, n, number);
      }
    }
    Reference references(list_of_numbers(out.references));
    return references ? PyTuple_Pack(2, lists.object, references.object) : nullptr;
  });
}

// Asked of a Py_ssize_t, as an argument parsed as an unsigned int takes 2 ** 32 for 0.
inline bool is_page(Py_ssize_t number) { return number >= 0 && number < Py_ssize_t(PAGES); }

// fill(page, kinds, lengths, folded, classes): what the 256 characters of a page become. `folded` holds `lengths[i]` code
// points for each character, `classes` their combining classes.
inline PyObject* encoder_fill(PyObject* object, PyObject* arguments) {
  Tables& tables = *held_by<Encoder>(object).tables;
  Py_ssize_t number;
  Buffer kinds, lengths, folded, classes;
  if (!PyArg_ParseTuple(arguments, "ny*y*y*y*:fill", &number, &kinds.view, &lengths.view, &folded.view, &classes.view))
    return nullptr;
  size_t total = 0;
  bool valid = is_page(number) && kinds.size() == 256 && lengths.size() == 256;
  for (size_t i = 0; valid && i < 256; ++i) {
    const uint8_t kind = kinds.bytes()[i], length = lengths.bytes()[i];
    total += length;
    valid = kind < UNFILLED && kind != SEVERAL && length <= 8 && (length == 1 || (kind != ALONE && kind != PUNCTUATION)) && (length || kind);
  }
  if (!valid || folded.size() != 4 * total || classes.size() != total) {
    PyErr_SetString(PyExc_ValueError, "a page needs the kinds and lengths of 256 characters, and all that they fold to");
    return nullptr;
  }
  return guarded([&]() -> PyObject* {
    auto page = std::make_unique<Page>();
    const uint8_t *code_at = folded.bytes(), *class_at = classes.bytes();
    for (size_t i = 0; i < 256; ++i) {
      const uint8_t length = lengths.bytes()[i];
      uint32_t kind = kinds.bytes()[i], symbols[8] = {}, payload = 0;
      bool marks = false;
      for (uint8_t n = 0; n < length; ++n, code_at += 4) {
        uint32_t code;
        std::memcpy(&code, code_at, 4);
        symbols[n] = tables.symbol_of(code);
        marks = marks || class_at[n];
      }
      if (kind == ALONE || kind == PUNCTUATION) {
        int32_t id = tables.unknown;
        tables.trie.longest(false, [&](size_t) { return symbols[0]; }, 1, &id);
        payload = uint32_t(id);
      } else if (kind == LETTER && length == 1 && !marks) {
        payload = symbols[0];
      } else if (kind == LETTER) {
        kind = SEVERAL, payload = uint32_t(page->several.size());
        page->several.push_back(length);
        for (uint8_t n = 0; n < length; ++n) page->several.push_back(symbols[n] | uint32_t(class_at[n]) << KIND_AT);
      }
      class_at += length;
      page->entries[i] = kind << KIND_AT | payload;
    }
    if (number == 0) page->ascii = tables.case_of(*page);
    tables.pages.publish(uint32_t(number), std::move(page));
    Py_RETURN_NONE;
  });
}

inline PyObject* fill_flags_of(Shelf<Flags>& shelf, PyObject* arguments) {
  Py_ssize_t number;
  Buffer flags;
  if (!PyArg_ParseTuple(arguments, "ny*:fill_flags", &number, &flags.view)) return nullptr;
  if (!is_page(number) || flags.size() != 256) {
    PyErr_SetString(PyExc_ValueError, "a page needs the flags of 256 characters");
    return nullptr;
  }
  return guarded([&]() -> PyObject* {
    auto page = std::make_unique<Flags>();
    std::memcpy(page->of, flags.bytes(), 256);
    shelf.publish(uint32_t(number), std::move(page));
    Py_RETURN_NONE;
  });
}

// fill_flags(page, flags): which of the 256 characters are cased, and which can be ignored.
inline PyObject* encoder_fill_flags(PyObject* object, PyObject* arguments) {
  return fill_flags_of(held_by<Encoder>(object).tables->flags, arguments);
}

// with_literals(texts, ids): an encoder of the same tables with other literals, each beginning with an ASCII sign.
inline PyObject* encoder_with_literals(PyObject* object, PyObject* arguments) {
  PyObject *texts, *ids;
  if (!PyArg_ParseTuple(arguments, "O!O!:with_literals", &PyList_Type, &texts, &PyList_Type, &ids)) return nullptr;
  return guarded([&]() -> PyObject* {
    auto made = std::make_unique<Encoder>();
    made->tables = held_by<Encoder>(object).tables, made->literals = std::make_unique<Literals>();
    for (Py_ssize_t n = 0; n < PyList_GET_SIZE(texts) && n < PyList_GET_SIZE(ids); ++n) {
      PyObject* text = PyList_GET_ITEM(texts, n);
      const long id = PyLong_AsLong(PyList_GET_ITEM(ids, n));
      if (id == -1 && PyErr_Occurred()) return nullptr;
      if (!PyUnicode_Check(text) || !PyUnicode_GET_LENGTH(text) || PyUnicode_READ_CHAR(text, 0) > 127 || id < 0 ||
          id >= long(PAYLOAD)) {
        PyErr_SetString(PyExc_ValueError, "a literal must begin with an ASCII sign, and have an id");
        return nullptr;
      }
      std::u32string characters;
      for (Py_ssize_t i = 0; i < PyUnicode_GET_LENGTH(text); ++i) characters += char32_t(PyUnicode_READ_CHAR(text, i));
      made->literals->of[characters[0]].push_back({characters, int32_t(id)});
      if (!made->literals->begins[characters[0]]) made->literals->first += char(characters[0]);
      made->literals->begins[characters[0]] = true;
    }
    for (auto& some : made->literals->of)
      std::stable_sort(some.begin(), some.end(),
                       [](const Literal& a, const Literal& b) { return a.text.size() > b.text.size(); });
    return new_holder(Py_TYPE(object), std::move(made));
  });
}

// Encoder(vocabulary, limit, unknown): the dict from token to id, the longest word, and the id of words without a cut.
inline PyObject* encoder_new(PyTypeObject* type, PyObject* arguments, PyObject*) {
  PyObject* vocabulary;
  Py_ssize_t limit;
  int unknown;
  if (!PyArg_ParseTuple(arguments, "O!ni:Encoder", &PyDict_Type, &vocabulary, &limit, &unknown)) return nullptr;
  return guarded([&]() -> PyObject* {
    auto made = std::make_unique<Encoder>();
    made->tables = std::make_shared<Tables>();
    made->tables->limit = size_t(std::max<Py_ssize_t>(limit, 0)), made->tables->unknown = unknown;
    std::vector<uint32_t> codes;
    std::vector<Token> tokens;
    PyObject *token, *number;
    bool valid = unknown >= 0 && unknown < int(PAYLOAD);
    for (Py_ssize_t at = 0; valid && PyDict_Next(vocabulary, &at, &token, &number);) {
      const long id = PyLong_AsLong(number);
      if (id == -1 && PyErr_Occurred()) return nullptr;
      valid = PyUnicode_Check(token) && id >= 0 && id < long(PAYLOAD);
      if (!valid) break;
      const Py_ssize_t size = PyUnicode_GET_LENGTH(token);
      const bool continues = size >= 2 && PyUnicode_READ_CHAR(token, 0) == '#' && PyUnicode_READ_CHAR(token, 1) == '#';
      const uint32_t begin = uint32_t(codes.size());
      for (Py_ssize_t i = continues ? 2 : 0; i < size; ++i) codes.push_back(PyUnicode_READ_CHAR(token, i));
      if (begin < codes.size()) tokens.push_back({begin, uint32_t(codes.size()), continues, int32_t(id)});
    }
    if (!valid) {
      PyErr_SetString(PyExc_ValueError, "a vocabulary must map strings to ids below 2 ** 24 - 1");
      return nullptr;
    }
    made->tables->build(codes, tokens);
    return new_holder(type, std::move(made));
  });
}

}  // namespace linkboy
