// The sums of losses and their gradients, as linkboy/losses/_small.py asks for them. The exponentials of logits have the precision
// of these, and everything else is double. Loops over logits hold no branch and no call, so that the compiler turns them into
// vectors.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <optional>
#include <vector>

#include "python.hpp"

#if defined(__GNUC__)
#define LINKBOY_INLINE inline __attribute__((always_inline))
#else
#define LINKBOY_INLINE inline
#endif
// Twice as quick where the machine has wider vectors, and the same bits: nothing is fused.
#if defined(__x86_64__) && defined(__GLIBC__) && defined(__GNUC__) && !defined(__clang__) && !defined(__SANITIZE_ADDRESS__)
#define LINKBOY_CLONES __attribute__((target_clones("avx512f", "avx2", "default")))
#else
#define LINKBOY_CLONES
#endif

// A comparison may then become a mask. It changes no result, only which flags of the processor are raised.
#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC push_options
#pragma GCC optimize("no-trapping-math")
#endif

namespace linkboy {

template <class To, class From>
LINKBOY_INLINE To with_bits_of(From from) {
  To to;
  static_assert(sizeof to == sizeof from);
  std::memcpy(&to, &from, sizeof to);
  return to;
}

// exp(x) for x <= 0, 0 from where it is no normal number; NaN stays NaN. Adding 1.5 * 2**52 leaves a whole number in the last
// bits; ln 2 is in two parts, of which the first times that number is exact.
LINKBOY_INLINE double exponential(double x) {
  const double shifted = x * 1.4426950408889634 + 0x1.8p52, whole = shifted - 0x1.8p52;
  const double r = (x - whole * 0x1.62e42feep-1) - whole * 0x1.a39ef35793c76p-33;
  double sum = 1.0 / 479001600;
  sum = sum * r + 1.0 / 39916800;
  sum = sum * r + 1.0 / 3628800;
  sum = sum * r + 1.0 / 362880;
  sum = sum * r + 1.0 / 40320;
  sum = sum * r + 1.0 / 5040;
  sum = sum * r + 1.0 / 720;
  sum = sum * r + 1.0 / 120;
  sum = sum * r + 1.0 / 24;
  sum = sum * r + 1.0 / 6;
  sum = sum * r + 0.5;
  sum = sum * r * r + r + 1.0;
  const double power = with_bits_of<double>((with_bits_of<uint64_t>(shifted) << 52) + (uint64_t(1023) << 52));
  return x < -708.0 ? 0.0 : sum * power;
}

// exp(x - top) for x <= top, likewise, with what the difference loses by rounding: of 40 it would be two millionths.
LINKBOY_INLINE double exponential_beside(double x, double top) { return exponential(x - top); }

LINKBOY_INLINE float exponential_beside(float x, float top) {
  const float gap = x - top, back = gap - x, lost = (x - (gap - back)) - (top + back);
  const float shifted = gap * 1.44269504f + 0x1.8p23f, whole = shifted - 0x1.8p23f;
  const float r = (gap - whole * 0.693359375f) + (whole * 2.12194440e-4f + lost);
  float sum = 1.0f / 5040;
  sum = sum * r + 1.0f / 720;
  sum = sum * r + 1.0f / 120;
  sum = sum * r + 1.0f / 24;
  sum = sum * r + 1.0f / 6;
  sum = sum * r + 0.5f;
  sum = sum * r * r + r + 1.0f;
  const float power = with_bits_of<float>((with_bits_of<uint32_t>(shifted) << 23) + (uint32_t(127) << 23));
  return gap < -87.0f ? 0.0f : sum * power;
}

// log((1 + t) / (1 - t)) for |t| <= 0.172
LINKBOY_INLINE double log_of_ratio(double t) {
  const double s = t * t;
  double sum = 1.0 / 21;
  sum = sum * s + 1.0 / 19;
  sum = sum * s + 1.0 / 17;
  sum = sum * s + 1.0 / 15;
  sum = sum * s + 1.0 / 13;
  sum = sum * s + 1.0 / 11;
  sum = sum * s + 1.0 / 9;
  sum = sum * s + 1.0 / 7;
  sum = sum * s + 1.0 / 5;
  sum = sum * s + 1.0 / 3;
  return 2.0 * (t + t * s * sum);
}

// log(1 + x) for x from 0 to 1
LINKBOY_INLINE double log_of_1_plus(double x) {
  const bool near_1 = x > 0.41421356237309503;
  return (near_1 ? 0.69314718055994531 : 0.0) + log_of_ratio((near_1 ? x - 1.0 : x) / ((near_1 ? 3.0 : 2.0) + x));
}

// log(x) for x >= 1; NaN stays NaN
LINKBOY_INLINE double logarithm(double x) {
  const uint64_t bits = with_bits_of<uint64_t>(x), of_half = 0x3fe6a09e667f3bcd;  // of the root of 1/2
  const uint64_t exponent = (bits - of_half) >> 52;
  const double whole = with_bits_of<double>(exponent | 0x4330000000000000) - 0x1p52;
  const double rest = with_bits_of<double>(bits - (exponent << 52));  // between the roots of 1/2 and 2
  return whole * 0.69314718055994531 + log_of_ratio((rest - 1.0) / (rest + 1.0)) + (x - x);
}

// `q**gamma * -log(1 - q)` of `q = sigmoid(deficit)`, NaN or infinite where the deficit is, and its derivative by the deficit.
LINKBOY_INLINE void focal(double deficit, double gamma, double& loss, double& slope) {
  const double e = exponential(-std::fabs(deficit)), log = log_of_1_plus(e), inverse = 1.0 / (1.0 + e);
  const bool hard = deficit > 0;
  const double q = hard ? inverse : e * inverse, p = hard ? e * inverse : inverse;
  loss = (hard ? deficit : 0.0) + log;
  slope = q;
  if (gamma == 0) return;
  const double power = gamma == 2 ? q * q : exponential(gamma * ((hard ? 0.0 : deficit) - log));
  slope = power * (q + gamma * p * loss);
  loss *= power;
}

constexpr size_t LANES = 32;

// The same of as many numbers: each loop with its own gamma is one that the compiler turns into vectors.
LINKBOY_INLINE void focal_of_lanes(const double* deficit, double gamma, double* loss, double* slope) {
  if (gamma == 2)
    for (size_t l = 0; l < LANES; ++l) focal(deficit[l], 2.0, loss[l], slope[l]);
  else if (gamma == 0)
    for (size_t l = 0; l < LANES; ++l) focal(deficit[l], 0.0, loss[l], slope[l]);
  else
    for (size_t l = 0; l < LANES; ++l) focal(deficit[l], gamma, loss[l], slope[l]);
}

// A batch of logits (samples, classes, positions) with one label for each sample and position.
template <class T>
struct Labels {
  const T* logits;
  const int64_t* target;
  const double *weight, *class_weight;  // either may be missing
  const T* shift;                       // of each class, added to the logits; may be missing
  T* gradient;                          // may be missing
  size_t samples, classes, positions;
  double gamma, divisor;

  double weight_of(size_t sample) const {
    return (weight ? weight[sample] : 1.0) * (class_weight ? class_weight[target[sample]] : 1.0);
  }
};

// As many samples side by side, each in one lane: short rows, and maps, whose positions lie beside each other.
template <bool MAP, class T>
LINKBOY_INLINE double sum_of_lanes(const Labels<T>& batch) {
  const size_t classes = batch.classes, length = MAP ? batch.positions : batch.samples;
  const size_t class_step = MAP ? length : 1, lane_step = MAP ? 1 : classes;
  std::vector<T> shares(classes * LANES);
  double total = 0;
  for (size_t begin = 0; begin < (MAP ? batch.samples : 1) * length; begin += length)
    for (size_t first = 0; first < length; first += LANES) {
      const size_t lanes = length - first < LANES ? length - first : LANES;
      const T* from = batch.logits + begin * classes + first * lane_step;
      const int64_t* target = batch.target + begin + first;
      T top[LANES], factor[LANES];
      double own[LANES], rest[LANES], deficit[LANES], loss[LANES], slope[LANES];
      if (lanes < LANES) std::fill(shares.begin(), shares.end(), T(0));
      for (size_t c = 0; c < classes; ++c)
        for (size_t l = 0; l < lanes; ++l) shares[c * LANES + l] = from[c * class_step + l * lane_step];
      if (batch.shift)
        for (size_t c = 0; c < classes; ++c)
          for (size_t l = 0; l < LANES; ++l) shares[c * LANES + l] += batch.shift[c];
      for (size_t l = 0; l < LANES; ++l) own[l] = 0, top[l] = -std::numeric_limits<T>::infinity(), rest[l] = 0;
      for (size_t l = 0; l < lanes; ++l) {
        T& place = shares[size_t(target[l]) * LANES + l];
        own[l] = place;
        place = -std::numeric_limits<T>::infinity();
      }
      for (size_t c = 0; c < classes; ++c)
        for (size_t l = 0; l < LANES; ++l) {
          const T x = shares[c * LANES + l];
          top[l] = x > top[l] ? x : top[l];
        }
      for (size_t c = 0; c < classes; ++c)
        for (size_t l = 0; l < LANES; ++l) {
          const T share = exponential_beside(shares[c * LANES + l], top[l]);
          rest[l] += double(share);
          shares[c * LANES + l] = share;
        }
      for (size_t l = 0; l < LANES; ++l) deficit[l] = double(top[l]) - own[l] + logarithm(rest[l]);
      focal_of_lanes(deficit, batch.gamma, loss, slope);
      for (size_t l = 0; l < lanes; ++l) {
        const double weight = batch.weight_of(begin + first + l) / batch.divisor;
        if (weight != 0) total += weight * loss[l];
        slope[l] *= weight;
        factor[l] = weight != 0 ? T(slope[l] / rest[l]) : T(0);
      }
      if (!batch.gradient) continue;
      T* out = batch.gradient + (from - batch.logits);
      for (size_t c = 0; c < classes; ++c)
        for (size_t l = 0; l < lanes; ++l)
          out[c * class_step + l * lane_step] = factor[l] != 0 ? shares[c * LANES + l] * factor[l] : T(0);
      for (size_t l = 0; l < lanes; ++l)
        out[size_t(target[l]) * class_step + l * lane_step] = factor[l] != 0 ? T(-slope[l]) : T(0);
    }
  return total;
}

// Classes side by side: long rows. A few samples at a time, so that what exists once a sample is a vector too, and no more than
// stay in the cache nearest to the processor.
template <class T>
LINKBOY_INLINE double sum_of_rows(const Labels<T>& batch) {
  constexpr T lowest = -std::numeric_limits<T>::infinity();
  const size_t classes = batch.classes, step = batch.positions, padded = (classes + LANES - 1) / LANES * LANES;
  const size_t together = std::min(LANES, std::max(size_t(1), (size_t(1) << 15) / sizeof(T) / padded)), size = batch.samples * step;
  std::vector<T> buffer(padded * together, lowest);
  double total = 0;
  for (size_t first = 0; first < size; first += together) {
    const size_t rows = size - first < together ? size - first : together;
    double own[LANES] = {}, top[LANES] = {}, rest[LANES], loss[LANES], slope[LANES];
    for (size_t l = 0; l < LANES; ++l) rest[l] = 1;
    for (size_t row = 0; row < rows; ++row) {
      const size_t sample = first + row, label = size_t(batch.target[sample]);
      const T* from = batch.logits + sample / step * classes * step + sample % step;
      T* shares = buffer.data() + row * padded;
      for (size_t c = 0; c < classes; ++c) shares[c] = from[c * step];
      for (size_t c = classes; c < padded; ++c) shares[c] = lowest;
      if (batch.shift)
        for (size_t c = 0; c < classes; ++c) shares[c] += batch.shift[c];
      own[row] = shares[label];
      shares[label] = lowest;
      T tops[LANES];
      double sums[LANES];
      for (size_t l = 0; l < LANES; ++l) tops[l] = lowest, sums[l] = 0;
      for (size_t c = 0; c < padded; c += LANES)
        for (size_t l = 0; l < LANES; ++l) tops[l] = shares[c + l] > tops[l] ? shares[c + l] : tops[l];
      for (size_t l = 1; l < LANES; ++l) tops[0] = tops[l] > tops[0] ? tops[l] : tops[0];
      const T highest = tops[0];
      for (size_t c = 0; c < padded; c += LANES)
        for (size_t l = 0; l < LANES; ++l) {
          const T share = exponential_beside(shares[c + l], highest);
          sums[l] += double(share);
          shares[c + l] = share;
        }
      double sum = 0;
      for (size_t l = 0; l < LANES; ++l) sum += sums[l];
      top[row] = highest, rest[row] = sum;
    }
    for (size_t l = 0; l < LANES; ++l) top[l] = top[l] - own[l] + logarithm(rest[l]);
    focal_of_lanes(top, batch.gamma, loss, slope);
    for (size_t row = 0; row < rows; ++row) {
      const size_t sample = first + row;
      const double weight = batch.weight_of(sample) / batch.divisor;
      if (weight != 0) total += weight * loss[row];
      if (!batch.gradient) continue;
      const double scaled = slope[row] * weight;
      const T* shares = buffer.data() + row * padded;
      T* out = batch.gradient + sample / step * classes * step + sample % step;
      const T factor = weight != 0 ? T(scaled / rest[row]) : T(0);
      for (size_t c = 0; c < classes; ++c) out[c * step] = factor != 0 ? shares[c] * factor : T(0);
      out[size_t(batch.target[sample]) * step] = factor != 0 ? T(-scaled) : T(0);
    }
  }
  return total;
}

template <class T>
LINKBOY_INLINE double sum_of_labels(const Labels<T>& batch) {
  if (batch.positions >= LANES / 2) return sum_of_lanes<true>(batch);
  return batch.positions == 1 && batch.classes <= LANES ? sum_of_lanes<false>(batch) : sum_of_rows(batch);
}

// A flat batch of labels 0 and 1.
template <class T>
struct Elements {
  const T *logits, *label;
  const uint8_t* kept;   // may be missing
  const double* weight;  // may be missing
  T* gradient;           // may be missing
  size_t size;
  double positive, negative, gamma;  // the weights of label 1 and label 0 are divided already
};

template <class T>
LINKBOY_INLINE double sum_of_elements(const Elements<T>& batch) {
  double sums[LANES] = {}, sign[LANES] = {}, deficit[LANES] = {}, weight[LANES], loss[LANES], slope[LANES];
  for (size_t first = 0; first < batch.size; first += LANES) {
    const size_t lanes = batch.size - first < LANES ? batch.size - first : LANES;
    const T *logits = batch.logits + first, *label = batch.label + first;
    for (size_t l = 0; l < LANES; ++l) weight[l] = 0;
    for (size_t l = 0; l < lanes; ++l) {
      sign[l] = label[l] != 0 ? -1.0 : 1.0;
      deficit[l] = sign[l] * double(logits[l]);
      weight[l] = label[l] != 0 ? batch.positive : batch.negative;
    }
    if (batch.weight)
      for (size_t l = 0; l < lanes; ++l) weight[l] *= batch.weight[first + l];
    if (batch.kept)
      for (size_t l = 0; l < lanes; ++l) weight[l] = batch.kept[first + l] ? weight[l] : 0.0;
    focal_of_lanes(deficit, batch.gamma, loss, slope);
    for (size_t l = 0; l < LANES; ++l) sums[l] += weight[l] != 0 ? weight[l] * loss[l] : 0.0;
    if (batch.gradient)
      for (size_t l = 0; l < lanes; ++l)
        batch.gradient[first + l] = weight[l] != 0 ? T(sign[l] * weight[l] * slope[l]) : T(0);
  }
  double total = 0;
  for (size_t l = 0; l < LANES; ++l) total += sums[l];
  return total;
}

// A flat batch of predictions and true values, of which the errors are `input - target`.
template <class T>
struct Errors {
  const T *input, *target;
  const T* weight;  // may be missing
  T* gradient;      // may be missing
  size_t size;
  long shape;
  double first, second;  // what the shape takes
  bool mean, root;

  double weight_of(size_t n) const { return weight ? double(weight[n]) : 1.0; }
};

// What an error costs, and the derivative of that: its square, ...
struct Square {
  LINKBOY_INLINE double value(double error) const { return error * error; }
  LINKBOY_INLINE double slope(double error) const { return 2.0 * error; }
};

// ... half of it, but a straight line from `delta` on, ...
struct Huber {
  double delta;
  LINKBOY_INLINE double value(double error) const {
    const double size = std::fabs(error);
    return size < delta ? 0.5 * size * size : delta * (size - 0.5 * delta);
  }
  LINKBOY_INLINE double slope(double error) const { return error > delta ? delta : error < -delta ? -delta : error; }
};

// ... or two straight lines, of slope `above` where the prediction is too high, and `below` where it is too low.
struct Lines {
  double above, below;
  LINKBOY_INLINE double value(double error) const { return error > 0 ? above * error : -below * error; }
  LINKBOY_INLINE double slope(double error) const {
    return error > 0 ? above : error < 0 ? -below : 0.5 * (above - below);
  }
};

template <class Shape, class T>
LINKBOY_INLINE double sum_of_errors(const Errors<T>& batch, const Shape shape) {
  double sums[LANES] = {}, weights[LANES] = {};
  for (size_t first = 0; first < batch.size; first += LANES) {
    const size_t lanes = batch.size - first < LANES ? batch.size - first : LANES;
    for (size_t l = 0; l < lanes; ++l) {
      const double weight = batch.weight_of(first + l);
      const double value = shape.value(double(batch.input[first + l]) - double(batch.target[first + l]));
      weights[l] += weight;
      sums[l] += weight != 0 ? weight * value : 0.0;
    }
  }
  double total = 0, divisor = 0;
  for (size_t l = 0; l < LANES; ++l) total += sums[l], divisor += weights[l];
  if (!batch.mean || divisor == 0) divisor = 1;
  total /= divisor;
  if (batch.root) total = std::sqrt(total);
  if (!batch.gradient) return total;
  const double scale = !batch.root ? 1 / divisor : total == 0 ? 0.0 : 0.5 / (total * divisor);
  for (size_t n = 0; n < batch.size; ++n) {
    const double weight = scale * batch.weight_of(n);
    const double slope = shape.slope(double(batch.input[n]) - double(batch.target[n]));
    batch.gradient[n] = weight != 0 ? T(weight * slope) : T(0);
  }
  return total;
}

template <class T>
LINKBOY_INLINE double sum_of_shape(const Errors<T>& batch) {
  if (batch.shape == 0) return sum_of_errors(batch, Square{});
  return batch.shape == 1 ? sum_of_errors(batch, Huber{batch.first}) : sum_of_errors(batch, Lines{batch.first, batch.second});
}

// A batch of logits (samples, classes, positions) with shares of the classes: those of a soft target, or of one label each.
template <class T>
struct Shares {
  const T* logits;
  const double* share;                  // one of the two
  const int64_t* target;
  const double *weight, *class_weight;  // either may be missing
  T* gradient;                          // may be missing
  size_t samples, classes, positions;
  double smoothing, gamma, divisor;

  // Of a class that lies `place` numbers from the first of the logits, and is the label of its sample or not.
  double of(size_t place, size_t c, bool is_label) const {
    const double whole = share ? share[place] : is_label;
    return ((1.0 - smoothing) * whole + smoothing / double(classes)) * (class_weight ? class_weight[c] : 1.0);
  }
};

// As the class ShareBatch in linkboy/losses/_soft.py: of `1 - p` only the largest class needs care.
template <class T>
LINKBOY_INLINE double sum_of_shares(const Shares<T>& batch) {
  const size_t classes = batch.classes, step = batch.positions;
  const double gamma = batch.gamma;
  std::vector<double> gap(classes), p(classes), slope(classes);
  double total = 0;
  for (size_t sample = 0; sample < batch.samples * step; ++sample) {
    const size_t begin = sample / step * classes * step + sample % step;
    const size_t label = batch.share ? classes : size_t(batch.target[sample]);
    const double weight = (batch.weight ? batch.weight[sample] : 1.0) / batch.divisor;
    size_t best = 0;
    for (size_t c = 0; c < classes; ++c) gap[c] = double(batch.logits[begin + c * step]);
    for (size_t c = 1; c < classes; ++c) best = gap[c] > gap[best] ? c : best;
    const double top = gap[best];
    for (size_t c = 0; c < classes; ++c) gap[c] -= top, p[c] = exponential(gap[c]);
    double rest = 0, amount = 0;
    for (size_t c = 0; c < classes; ++c) rest += c == best ? 0.0 : p[c];
    const double sum = p[best] + rest, log = std::log1p(rest);
    for (size_t c = 0; c < classes; ++c) {
      p[c] /= sum;
      slope[c] = weight == 0 ? 0.0 : weight * batch.of(begin + c * step, c, c == label);
      if (slope[c] == 0) continue;
      const double loss = log - gap[c], q = c == best ? rest / sum : 1.0 - p[c];
      if (gamma == 0) {
        total += slope[c] * loss;
      } else {  // the power of gamma - 1 would be infinite at 0
        const double power = gamma == 2 ? q : std::pow(q > 1e-200 ? q : 1e-200, gamma - 1);
        total += slope[c] * power * q * loss;
        slope[c] *= power * (q + gamma * p[c] * loss);
      }
      amount += slope[c];
    }
    if (!batch.gradient) continue;
    for (size_t c = 0; c < classes; ++c) {
      const double q = c == best ? rest / sum : 1.0 - p[c];
      batch.gradient[begin + c * step] = amount == 0 ? T(0) : T(p[c] * (amount - slope[c]) - q * slope[c]);
    }
  }
  return total;
}

LINKBOY_CLONES double run(const Shares<float>& batch) { return sum_of_shares(batch); }
LINKBOY_CLONES double run(const Shares<double>& batch) { return sum_of_shares(batch); }
LINKBOY_CLONES double run(const Labels<float>& batch) { return sum_of_labels(batch); }
LINKBOY_CLONES double run(const Labels<double>& batch) { return sum_of_labels(batch); }
LINKBOY_CLONES double run(const Elements<float>& batch) { return sum_of_elements(batch); }
LINKBOY_CLONES double run(const Elements<double>& batch) { return sum_of_elements(batch); }
LINKBOY_CLONES double run(const Errors<float>& batch) { return sum_of_shape(batch); }
LINKBOY_CLONES double run(const Errors<double>& batch) { return sum_of_shape(batch); }

// The lowest and the highest number; NaN twice if one is.
template <class T>
LINKBOY_INLINE void find_bounds(const T* numbers, size_t size, double* found) {
  T low[LANES], high[LANES];
  double wrong[LANES] = {};
  for (size_t l = 0; l < LANES; ++l) low[l] = high[l] = numbers[0];
  for (size_t first = 0; first < size; first += LANES) {
    const size_t begin = first + LANES <= size ? first : size < LANES ? 0 : size - LANES;
    for (size_t l = 0; l < (size < LANES ? size : LANES); ++l) {
      const T x = numbers[begin + l];
      low[l] = x < low[l] ? x : low[l], high[l] = x > high[l] ? x : high[l];
      wrong[l] += double(x == x ? T(0) : x);
    }
  }
  for (size_t l = 1; l < LANES; ++l) {
    low[0] = low[l] < low[0] ? low[l] : low[0], high[0] = high[l] > high[0] ? high[l] : high[0];
    wrong[0] += wrong[l];
  }
  found[0] = double(low[0]) + wrong[0], found[1] = double(high[0]) + wrong[0];
}

template <class T>
LINKBOY_INLINE bool all_0_or_1(const T* numbers, size_t size) {
  for (size_t first = 0; first < size; first += 4096) {
    const size_t end = first + 4096 < size ? first + 4096 : size;
    int others = 0;
    for (size_t n = first; n < end; ++n) others |= int(numbers[n] != T(0)) & int(numbers[n] != T(1));
    if (others) return false;
  }
  return true;
}

LINKBOY_CLONES bool check(const float* numbers, size_t size) { return all_0_or_1(numbers, size); }
LINKBOY_CLONES bool check(const double* numbers, size_t size) { return all_0_or_1(numbers, size); }
LINKBOY_CLONES bool check(const int64_t* numbers, size_t size) { return all_0_or_1(numbers, size); }
LINKBOY_CLONES void find(const float* numbers, size_t size, double* found) { find_bounds(numbers, size, found); }
LINKBOY_CLONES void find(const double* numbers, size_t size, double* found) { find_bounds(numbers, size, found); }
LINKBOY_CLONES void find(const int64_t* numbers, size_t size, double* found) { find_bounds(numbers, size, found); }

template <class T>
T* address_of(PyObject* object) {
  return static_cast<T*>(PyLong_AsVoidPtr(object));
}

// Runs a batch; without the lock of Python where that takes long.
template <class Batch>
PyObject* sum_of(const Batch& batch, size_t size) {
  if (PyErr_Occurred()) return nullptr;
  return guarded([&] {
    double total;
    {
      std::optional<Unlocked> unlocked;
      if (size > 1 << 14) unlocked.emplace();
      total = run(batch);
    }
    return PyFloat_FromDouble(total);
  });
}

template <class T>
PyObject* sum_of_labels_at(PyObject* const* given) {
  Labels<T> batch{address_of<const T>(given[1]), address_of<const int64_t>(given[2]), address_of<const double>(given[3]),
                  address_of<const double>(given[4]), address_of<const T>(given[5]), address_of<T>(given[6]),
                  PyLong_AsSize_t(given[7]), PyLong_AsSize_t(given[8]), PyLong_AsSize_t(given[9]),
                  PyFloat_AsDouble(given[10]), PyFloat_AsDouble(given[11])};
  return sum_of(batch, batch.samples * batch.classes * batch.positions);
}

template <class T>
PyObject* sum_of_shares_at(PyObject* const* given) {
  Shares<T> batch{address_of<const T>(given[1]), address_of<const double>(given[2]), address_of<const int64_t>(given[3]),
                  address_of<const double>(given[4]), address_of<const double>(given[5]), address_of<T>(given[6]),
                  PyLong_AsSize_t(given[7]), PyLong_AsSize_t(given[8]), PyLong_AsSize_t(given[9]),
                  PyFloat_AsDouble(given[10]), PyFloat_AsDouble(given[11]), PyFloat_AsDouble(given[12])};
  return sum_of(batch, batch.samples * batch.classes * batch.positions);
}

template <class T>
PyObject* sum_of_elements_at(PyObject* const* given) {
  Elements<T> batch{address_of<const T>(given[1]), address_of<const T>(given[2]), address_of<const uint8_t>(given[3]),
                    address_of<const double>(given[4]), address_of<T>(given[5]), PyLong_AsSize_t(given[6]),
                    PyFloat_AsDouble(given[7]), PyFloat_AsDouble(given[8]), PyFloat_AsDouble(given[9])};
  return sum_of(batch, batch.size);
}

template <class T>
PyObject* sum_of_errors_at(PyObject* const* given) {
  Errors<T> batch{address_of<const T>(given[1]), address_of<const T>(given[2]), address_of<const T>(given[3]),
                  address_of<T>(given[4]), PyLong_AsSize_t(given[5]), PyLong_AsLong(given[6]),
                  PyFloat_AsDouble(given[7]), PyFloat_AsDouble(given[8]), PyObject_IsTrue(given[9]) == 1,
                  PyObject_IsTrue(given[10]) == 1};
  return sum_of(batch, batch.size);
}

inline PyObject* label_sum(PyObject*, PyObject* const* given, Py_ssize_t count) {
  if (!expects(12, count)) return nullptr;
  return PyObject_IsTrue(given[0]) ? sum_of_labels_at<double>(given) : sum_of_labels_at<float>(given);
}

inline PyObject* share_sum(PyObject*, PyObject* const* given, Py_ssize_t count) {
  if (!expects(13, count)) return nullptr;
  return PyObject_IsTrue(given[0]) ? sum_of_shares_at<double>(given) : sum_of_shares_at<float>(given);
}

inline PyObject* element_sum(PyObject*, PyObject* const* given, Py_ssize_t count) {
  if (!expects(10, count)) return nullptr;
  return PyObject_IsTrue(given[0]) ? sum_of_elements_at<double>(given) : sum_of_elements_at<float>(given);
}

inline PyObject* error_sum(PyObject*, PyObject* const* given, Py_ssize_t count) {
  if (!expects(11, count)) return nullptr;
  return PyObject_IsTrue(given[0]) ? sum_of_errors_at<double>(given) : sum_of_errors_at<float>(given);
}

// weight_sum(target, weight, class_weight, size): the weight may be missing
inline PyObject* weight_sum(PyObject*, PyObject* const* given, Py_ssize_t count) {
  if (!expects(4, count)) return nullptr;
  const auto *target = address_of<const int64_t>(given[0]);
  const auto *weight = address_of<const double>(given[1]), *class_weight = address_of<const double>(given[2]);
  const size_t size = PyLong_AsSize_t(given[3]);
  if (PyErr_Occurred()) return nullptr;
  double sums[4] = {};
  for (size_t n = 0; n < size; ++n) sums[n % 4] += class_weight[target[n]] * (weight ? weight[n] : 1.0);
  return PyFloat_FromDouble(sums[0] + sums[1] + sums[2] + sums[3]);
}

// Calls a body with numbers of their type, of the arguments (kind, numbers, size): int64 (0), float (1) or double (2).
template <class Body>
PyObject* with_numbers(PyObject* const* given, Body body) {
  const long kind = PyLong_AsLong(given[0]);
  const void* numbers = PyLong_AsVoidPtr(given[1]);
  const size_t size = PyLong_AsSize_t(given[2]);
  if (PyErr_Occurred()) return nullptr;
  if (kind == 0) return body(static_cast<const int64_t*>(numbers), size);
  if (kind == 1) return body(static_cast<const float*>(numbers), size);
  return body(static_cast<const double*>(numbers), size);
}

template <class T>
PyObject* bounds_of(const T* numbers, size_t size) {
  double found[2];
  find(numbers, size, found);
  return Py_BuildValue("dd", found[0], found[1]);
}

inline PyObject* bounds(PyObject*, PyObject* const* given, Py_ssize_t count) {
  if (!expects(3, count)) return nullptr;
  return with_numbers(given, [](auto numbers, size_t size) { return bounds_of(numbers, size); });
}

inline PyObject* are_0_or_1(PyObject*, PyObject* const* given, Py_ssize_t count) {
  if (!expects(3, count)) return nullptr;
  return with_numbers(given, [](auto numbers, size_t size) { return PyBool_FromLong(check(numbers, size)); });
}

// logarithms(kind, numbers, size, factor, wide, out): writes `factor * log(number)`, and returns the bounds of the numbers
inline PyObject* logarithms(PyObject*, PyObject* const* given, Py_ssize_t count) {
  if (!expects(6, count)) return nullptr;
  const double factor = PyFloat_AsDouble(given[3]);
  const bool wide = PyObject_IsTrue(given[4]) == 1;
  void* out = PyLong_AsVoidPtr(given[5]);
  if (PyErr_Occurred()) return nullptr;
  return with_numbers(given, [=](auto numbers, size_t size) {
    for (size_t n = 0; n < size; ++n) {
      const double value = factor * std::log(double(numbers[n]));
      if (wide)
        static_cast<double*>(out)[n] = value;
      else
        static_cast<float*>(out)[n] = float(value);
    }
    return bounds_of(numbers, size);
  });
}

}  // namespace linkboy
#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC pop_options
#endif
