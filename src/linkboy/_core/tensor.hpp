// Arrays of int64 for torch, which takes them over without a copy in the form of DLPack: https://dmlc.github.io/dlpack
#pragma once

#include "python.hpp"

#include <cstdint>
#include <cstdlib>
#ifdef __linux__
#include <sys/mman.h>
#endif

namespace linkboy {

struct DLTensor {
  void* data;
  int32_t device_type, device_id;
  int32_t dimensions;
  uint8_t type_code, type_bits;
  uint16_t type_lanes;
  int64_t *shape, *strides;
  uint64_t byte_offset;
};

struct DLManagedTensor {
  DLTensor tensor;
  void* context;
  void (*deleter)(DLManagedTensor*);
};

// One block of memory: what DLPack wants to know, then the numbers.
struct Tensor {
  DLManagedTensor managed;
  int64_t shape[2];

  static constexpr size_t ALIGNED = 64, HUGE_FROM = size_t(1) << 22;

  // Returns a capsule around a `(rows, width)` array, zeros or not yet set, and where its numbers are.
  static PyObject* make(size_t rows, size_t width, bool zeros, int64_t** numbers) {
    const size_t size = sizeof(Tensor) + ALIGNED + 8 * rows * width;
    auto* made = static_cast<Tensor*>(zeros ? std::calloc(1, size) : std::malloc(size));
    if (!made) return PyErr_NoMemory();
#ifdef MADV_HUGEPAGE
    // Memory that is new to the process comes a page at a time, which costs more than to fill it.
    if (const uintptr_t first = (uintptr_t(made) + 4095) & ~uintptr_t(4095); size >= HUGE_FROM)
      madvise(reinterpret_cast<void*>(first), uintptr_t(made) + size - first, MADV_HUGEPAGE);
#endif
    *numbers = reinterpret_cast<int64_t*>((uintptr_t(made + 1) + ALIGNED - 1) & ~uintptr_t(ALIGNED - 1));
    made->shape[0] = int64_t(rows), made->shape[1] = int64_t(width);
    made->managed = {{*numbers, 1, 0, 2, 0, 64, 1, made->shape, nullptr, 0}, made, [](DLManagedTensor* self) { std::free(self->context); }};
    PyObject* capsule = PyCapsule_New(&made->managed, NAME, [](PyObject* object) {
      if (!PyCapsule_IsValid(object, NAME)) return;  // renamed by who took it over
      auto* self = static_cast<DLManagedTensor*>(PyCapsule_GetPointer(object, NAME));
      self->deleter(self);
    });
    if (!capsule) std::free(made);
    return capsule;
  }

 private:
  static constexpr const char* NAME = "dltensor";
};

}  // namespace linkboy
