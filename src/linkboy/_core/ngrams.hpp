// The class Grams of the module: texts to weighted n-grams, as linkboy/classify/encoding/_features.py defines them. The hashes are
// those of the NumPy path bit for bit, and so are the weights: sums go in the same order, logarithms come from NumPy.
#pragma once

#include <cmath>

#include "encoder.hpp"
#include "hash.hpp"

#if defined(__GNUC__)
#define LINKBOY_PREFETCH(address) __builtin_prefetch(address)
#else
#define LINKBOY_PREFETCH(address) (void)(address)
#endif

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

  void build() {
    int bits = 1;
    while (bits < 22 && size_t(1) << bits <= 2 * size()) ++bits;
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

// Reads texts, one after the other.
class GramReader {
 public:
  Growing<int64_t> ids;
  Growing<float> weights;
  std::vector<int64_t> lengths;
  Numbers missing;

  GramReader(const Grams& grams, const double* logs, size_t log_count) : grams_(grams), logs_(logs), log_count_(log_count) {}

  template <class Char>
  void read(const Char* text, size_t size) {
    codes_.resize(size + 2), mixed_.resize(size + 2), rolling_.resize(size + 2);
    codes_[0] = 2, codes_[size + 1] = 3;
    for (size_t i = 0; i < size; ++i) codes_[i + 1] = uint32_t(text[i]);
    uint64_t column = 0;  // in the upper half, so that columns share no n-gram
    for (size_t i = 0; i < codes_.size(); ++i) {
      column += codes_[i] == grams_.border;
      rolling_[i] = mixed_[i] = mix(codes_[i] | column << 32);
      if (codes_[i] > 3) look_up(mixed_[i]);
    }
    for (size_t n = 2; n <= size_t(grams_.longest); ++n)
      for (size_t i = 0; i + n <= codes_.size(); ++i) {
        rolling_[i] = mix(rolling_[i] * GOLDEN + mixed_[i + n - 1]);
        look_up(rolling_[i]);
      }
    if (grams_.words) read_words();
    find_all();
    weigh();
  }

 private:
  const Grams& grams_;
  const double* logs_;
  size_t log_count_;
  std::vector<uint32_t> codes_;
  std::vector<uint64_t> mixed_, rolling_, wanted_;
  std::vector<uint32_t> found_, sorted_;
  std::vector<double> row_;

  void look_up(uint64_t hash) { wanted_.push_back(hash); }

  // Finds all hashes of a text. They are all over the memory: each is asked for while others are still looked at.
  void find_all() {
    const size_t count = wanted_.size();
    wanted_.resize(count + 16);
    found_.resize(count);
    size_t size = 0;
    for (size_t i = 0; i < count; ++i) {
      LINKBOY_PREFETCH(&grams_.begin[wanted_[i + 16] >> grams_.shift]);
      LINKBOY_PREFETCH(grams_.hash() + grams_.begin[wanted_[i + 8] >> grams_.shift]);
      const int64_t id = grams_.find(wanted_[i]);
      found_[size] = uint32_t(id);
      size += id >= 0;
    }
    found_.resize(size);
    wanted_.clear();
  }

  bool in_word(uint32_t code) {
    const Flags* flags = grams_.flags[code >> 8];
    if (flags) return flags->of[code & 255];
    return note(missing, code >> 8), false;
  }

  void read_words() {
    uint64_t before = 0;
    bool is_first = true;
    for (size_t i = 0; i < codes_.size(); ++i) {
      if (!in_word(codes_[i])) continue;
      uint64_t sum = 0;
      for (uint64_t power = 1; i < codes_.size() && in_word(codes_[i]); ++i, power *= GOLDEN) sum += mixed_[i] * power;
      const uint64_t word = mix(sum + SECOND);
      look_up(word);
      if (!is_first) look_up(mix(before * SECOND + word));
      before = word, is_first = false;
    }
  }

  // By bytes, the lowest first: some hundred numbers are too few to wait for the branches of a sort by comparison.
  void sort_found() {
    if (found_.size() < 48) return std::sort(found_.begin(), found_.end());
    sorted_.resize(found_.size());
    for (int at = 0; at < 32 && grams_.size() >> at; at += 8) {
      uint32_t places[257] = {};
      for (uint32_t id : found_) ++places[(id >> at & 255) + 1];
      for (int n = 0; n < 255; ++n) places[n + 1] += places[n];
      for (uint32_t id : found_) sorted_[places[id >> at & 255]++] = id;
      found_.swap(sorted_);
    }
  }

  // The distinct n-grams in order, each with its weight, scaled to a length of 1.
  void weigh() {
    sort_found();
    ids.reserve(found_.size()), weights.reserve(found_.size()), row_.clear();
    const float* idf = reinterpret_cast<const float*>(grams_.idf.bytes());
    double squares = 0;
    for (size_t low = 0, high; low < found_.size(); low = high) {
      for (high = low + 1; high < found_.size() && found_[high] == found_[low];) ++high;
      const double log = high - low < log_count_ ? logs_[high - low] : std::log(double(high - low));
      const double weight = grams_.binary ? 1 : (1 + log) * double(idf[found_[low]]);
      squares += weight * weight;
      ids.data[ids.size++] = int64_t(found_[low]);
      row_.push_back(weight);
    }
    const double norm = std::sqrt(squares);
    for (double weight : row_) weights.data[weights.size++] = float(weight / norm);
    lengths.push_back(int64_t(row_.size()));
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
    GramReader reader(grams, reinterpret_cast<const double*>(logs.bytes()), logs.size() / 8);
    {
      Unlocked unlocked;
      for (const Texts::View& text : texts.views) {
        if (text.width == 1) reader.read(static_cast<const uint8_t*>(text.data), text.size);
        if (text.width == 2) reader.read(static_cast<const uint16_t*>(text.data), text.size);
        if (text.width == 4) reader.read(static_cast<const uint32_t*>(text.data), text.size);
      }
    }
    if (!reader.missing.empty()) return list_of_numbers(reader.missing);
    Reference ids(bytes_of(reader.ids.data, reader.ids.size)), weights(bytes_of(reader.weights.data, reader.weights.size));
    Reference lengths(bytes_of(reader.lengths.data(), reader.lengths.size()));
    return ids && weights && lengths ? PyTuple_Pack(3, ids.object, weights.object, lengths.object) : nullptr;
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
    if (grams->hashes.size() % 8 || grams->idf.size() != 4 * grams->size() || grams->size() > UINT32_MAX ||
        !std::is_sorted(hash, hash + grams->size())) {
      PyErr_SetString(PyExc_ValueError, "hashes must be sorted, and idf have a number for each of them");
      return nullptr;
    }
    grams->build();
    return new_holder(type, std::move(grams));
  });
}

}  // namespace linkboy
