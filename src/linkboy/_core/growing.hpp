#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdlib>
#include <new>

namespace linkboy {

// Numbers appended one after the other. Room is asked for once a word, so that appending is a plain store.
template <class T>
struct Growing {
  T* data = nullptr;
  size_t size = 0, capacity = 0;

  Growing() = default;
  Growing(const Growing&) = delete;
  ~Growing() { std::free(data); }

  void reserve(size_t more) {
    if (size + more <= capacity) return;
    const size_t wanted = std::max(2 * capacity, size + more + 256);
    void* larger = std::realloc(data, wanted * sizeof(T));
    if (!larger) throw std::bad_alloc();
    data = static_cast<T*>(larger), capacity = wanted;
  }
};

}  // namespace linkboy
