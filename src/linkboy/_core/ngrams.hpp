// The class Grams of the module: texts to weighted n-grams, as linkboy/classify/encoding/_features.py defines them. The hashes are
// those of the NumPy path bit for bit, and so are the weights: sums go in the same order, logarithms come from NumPy.
#pragma once

#include <algorithm>
#include <cmath>

#include "encoder.hpp"
#include "hash.hpp"

namespace linkboy {

struct Grams {
  Buffer hashes, idf;  // sorted uint64, and float32 of each
  int longest, words, binary;
  uint32_t border;  // the character between the columns of a table
  Shelf<Flags> flags{nullptr};
  std::vector<uint32_t> begin;  // by the first bits of a hash, where to look for it
  int shift = 63;

  const uint64_t* hash() const { return reinterpret_cast<const uint64_t*>(hashes.bytes()); }
  size_t size() const { return hashes.size() / 8; }

  // At most so many n-grams has a text: those of each length, and words with pairs of them.
  size_t most(size_t size) const { return (size_t(longest) + 1) * (size + 2); }

  void build() {
    int bits = 1;
    while (bits < 22 && size_t(1) << bits <= size()) ++bits;
    shift = 64 - bits;
    begin.resize((size_t(1) << bits) + 1);
    size_t at = 0;
    for (size_t prefix = 0; prefix + 1 < begin.size(); ++prefix) {
      begin[prefix] = uint32_t(at);
      while (at < size() && hash()[at] >> shift == prefix) ++at;
    }
    begin.back() = uint32_t(size());
  }

  // Hashes spread evenly, so mostly one is looked at; those of a forged file may not, and are halved.
  int64_t find(uint64_t value) const {
    const size_t prefix = size_t(value >> shift);
    const uint64_t *low = hash() + begin[prefix], *high = hash() + begin[prefix + 1];
    if (high - low > 16) low = std::lower_bound(low, high, value);
    while (low < high && *low < value) ++low;
    return low < high && *low == value ? low - hash() : -1;
  }
};

// Reads texts, one after the other; the n-grams of each go behind those of the texts before.
class GramReader {
 public:
  static constexpr size_t AHEAD = 16;
  Numbers missing;

  GramReader(const Grams& grams, const Buffer& logs, size_t longest)
      : grams_(grams), logs_(reinterpret_cast<const double*>(logs.bytes())), last_log_(logs.size() / 8 - 1),
        codes_(longest + 2), mixed_(longest + 2), hashes_(grams.most(longest) + AHEAD), sorted_(hashes_.size()),
        row_(grams.most(longest)) {}

  // Returns how many n-grams of the text are known.
  template <class Char>
  size_t read(const Char* text, size_t size, int64_t* ids, float* weights) {
    size_ = size + 2, count_ = 0;
    codes_[0] = 2, codes_[size + 1] = 3;
    for (size_t i = 0; i < size; ++i) codes_[i + 1] = uint32_t(text[i]);
    uint64_t column = 0;  // in the upper half, so that columns share no n-gram
    for (size_t i = 0; i < size_; ++i) {
      column += codes_[i] == grams_.border;
      hashes_[count_] = mixed_[i] = mix(codes_[i] | column << 32);
      count_ += codes_[i] > 3;
    }
    const uint64_t* shorter = mixed_.data();
    for (size_t n = 2; n <= std::min(size_t(grams_.longest), size_); ++n) {
      uint64_t* const longer = &hashes_[count_];
      for (size_t i = 0; i + n <= size_; ++i) longer[i] = mix(shorter[i] * GOLDEN + mixed_[i + n - 1]);
      shorter = longer, count_ += size_ - n + 1;
    }
    if (grams_.words) read_words();
    if (!missing.empty()) return 0;
    sort_hashes();
    return weigh(ids, weights);
  }

 private:
  const Grams& grams_;
  const double* logs_;
  size_t last_log_, size_ = 0, count_ = 0;  // characters of the text, and its n-grams so far
  std::vector<uint32_t> codes_, places_;
  std::vector<uint64_t> mixed_, hashes_, sorted_;
  std::vector<double> row_;

  bool in_word(uint32_t code) {
    const Flags* flags = grams_.flags[code >> 8];
    if (flags) return flags->of[code & 255];
    return note(missing, code >> 8), false;
  }

  void read_words() {
    uint64_t before = 0;
    bool is_first = true;
    for (size_t i = 0; i < size_; ++i) {
      if (!in_word(codes_[i])) continue;
      uint64_t sum = 0;
      for (uint64_t power = 1; i < size_ && in_word(codes_[i]); ++i, power *= GOLDEN) sum += mixed_[i] * power;
      const uint64_t word = hashes_[count_++] = mix(sum + SECOND);
      if (!is_first) hashes_[count_++] = mix(before * SECOND + word);
      before = word, is_first = false;
    }
  }

  // Hashes spread evenly, so the first bits bring each almost to its place; those of few n-grams in a long text may not.
  void sort_hashes() {
    int bits = 1;
    while (bits < 16 && count_ >> bits) ++bits;
    places_.assign((size_t(1) << bits) + 1, 0);
    for (size_t i = 0; i < count_; ++i) ++places_[(hashes_[i] >> (64 - bits)) + 1];
    for (size_t n = 1; n < places_.size(); ++n) places_[n] += places_[n - 1];
    for (size_t i = 0; i < count_; ++i) sorted_[places_[hashes_[i] >> (64 - bits)]++] = hashes_[i];
    hashes_.swap(sorted_);
    for (size_t i = 1; i < count_; ++i) {
      const uint64_t hash = hashes_[i], bucket = hash >> (64 - bits);
      size_t at = i;
      for (; at && hashes_[at - 1] > hash; --at) hashes_[at] = hashes_[at - 1];
      hashes_[at] = hash;
      if (i - at > 32) std::sort(&hashes_[bucket ? places_[bucket - 1] : 0], &hashes_[places_[bucket]]);
    }
  }

  // Writes the distinct n-grams that are known, each with its weight, scaled to a length of 1. What is looked for is all over
  // the memory: each is asked for while others are still looked at.
  size_t weigh(int64_t* ids, float* weights) {
    std::fill_n(&hashes_[count_], AHEAD, 0);
    const float* idf = reinterpret_cast<const float*>(grams_.idf.bytes());
    double squares = 0;
    size_t size = 0;
    for (size_t i = 0, repeated; i < count_; i += repeated) {
      LINKBOY_PREFETCH(&grams_.begin[hashes_[i + AHEAD] >> grams_.shift]);
      LINKBOY_PREFETCH(grams_.hash() + grams_.begin[hashes_[i + AHEAD / 2] >> grams_.shift]);
      for (repeated = 1; i + repeated < count_ && hashes_[i + repeated] == hashes_[i];) ++repeated;
      const int64_t id = grams_.find(hashes_[i]);
      if (id < 0) continue;
      const double weight = grams_.binary ? 1 : (1 + logs_[std::min(repeated, last_log_)]) * double(idf[id]);
      squares += weight * weight;
      ids[size] = id, row_[size++] = weight;
    }
    const double norm = std::sqrt(squares);
    for (size_t n = 0; n < size; ++n) weights[n] = float(row_[n] / norm);
    return size;
  }
};

// encode(texts, logs) -> pages | (ids, weights, lengths). The texts are in lower case; logs[n] is the logarithm of n.
inline PyObject* grams_encode(PyObject* object, PyObject* arguments) {
  const Grams& grams = held_by<Grams>(object);
  PyObject* list;
  Buffer logs;
  if (!PyArg_ParseTuple(arguments, "Oy*:encode", &list, &logs.view)) return nullptr;
  return guarded([&]() -> PyObject* {
    Texts texts;
    if (!texts.read(list)) return nullptr;
    texts.hold(list);
    if (logs.size() / 8 < texts.longest + 2) {
      PyErr_SetString(PyExc_ValueError, "logs must hold one for each count of an n-gram in the longest text");
      return nullptr;
    }
    size_t room = 0, size = 0;
    for (const Texts::View& text : texts.views) room += grams.most(text.size);
    Reference ids(new_bytes(8 * room)), weights(new_bytes(4 * room)), lengths(new_bytes(8 * texts.views.size()));
    if (!ids || !weights || !lengths) return nullptr;
    auto id = reinterpret_cast<int64_t*>(PyByteArray_AS_STRING(ids.object));
    auto weight = reinterpret_cast<float*>(PyByteArray_AS_STRING(weights.object));
    auto length = reinterpret_cast<int64_t*>(PyByteArray_AS_STRING(lengths.object));
    GramReader reader(grams, logs, texts.longest);
    {
      Unlocked unlocked;
      for (const Texts::View& text : texts.views) {
        const auto read = [&](auto data) { return reader.read(data, text.size, id + size, weight + size); };
        const size_t count = text.width == 1   ? read(static_cast<const uint8_t*>(text.data))
                             : text.width == 2 ? read(static_cast<const uint16_t*>(text.data))
                                               : read(static_cast<const uint32_t*>(text.data));
        *length++ = int64_t(count), size += count;
      }
    }
    if (!reader.missing.empty()) return list_of_numbers(reader.missing);
    if (PyByteArray_Resize(ids.object, Py_ssize_t(8 * size)) || PyByteArray_Resize(weights.object, Py_ssize_t(4 * size)))
      return nullptr;
    return PyTuple_Pack(3, ids.object, weights.object, lengths.object);
  });
}

// fill_flags(page, flags): which of the 256 characters are part of a word.
inline PyObject* grams_fill_flags(PyObject* object, PyObject* arguments) {
  return fill_flags_of(held_by<Grams>(object).flags, arguments);
}

// Grams(hashes, idf, longest, words, binary, border)
inline PyObject* grams_new(PyTypeObject* type, PyObject* arguments, PyObject*) {
  return guarded([&]() -> PyObject* {
    auto grams = std::make_unique<Grams>();
    if (!PyArg_ParseTuple(arguments, "y*y*ippI:Grams", &grams->hashes.view, &grams->idf.view, &grams->longest,
                          &grams->words, &grams->binary, &grams->border))
      return nullptr;
    const uint64_t* hash = grams->hash();
    if (grams->longest < 1 || grams->hashes.size() % 8 || grams->idf.size() != 4 * grams->size() || grams->size() > UINT32_MAX ||
        !std::is_sorted(hash, hash + grams->size())) {
      PyErr_SetString(PyExc_ValueError, "hashes must be sorted, idf have a number for each of them, and longest be at least 1");
      return nullptr;
    }
    grams->build();
    return new_holder(type, std::move(grams));
  });
}

}  // namespace linkboy
