// What stands between Python and the classes of the module: references, buffers, the lock, errors.
#pragma once

#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include <chrono>
#include <exception>
#include <memory>
#include <new>
#include <thread>
#include <utility>
#include <vector>

namespace linkboy {

struct Reference {  // one reference to an object, given back at the end
  PyObject* object = nullptr;
  explicit Reference(PyObject* owned = nullptr) : object(owned) {}
  Reference(Reference&& other) noexcept : object(other.object) { other.object = nullptr; }
  Reference(const Reference&) = delete;
  ~Reference() { Py_XDECREF(object); }
  explicit operator bool() const { return object != nullptr; }
  PyObject* release() { return std::exchange(object, nullptr); }
};

// While it lives, other threads of Python may run, and no object of Python may be touched.
struct Unlocked {
  PyThreadState* state = PyEval_SaveThread();
  Unlocked() = default;
  Unlocked(const Unlocked&) = delete;
  ~Unlocked() {
    try {
      PyEval_RestoreThread(state);
    } catch (...) {  // Python has ended and up to 3.13 unwinds daemon threads, which would end in std::terminate
      for (;;) std::this_thread::sleep_for(std::chrono::hours(1));
    }
  }
};

struct Buffer {  // the bytes of an object, given back at the end
  Py_buffer view{};
  Buffer() = default;
  Buffer(const Buffer&) = delete;
  ~Buffer() { PyBuffer_Release(&view); }
  size_t size() const { return size_t(view.len); }
  const uint8_t* bytes() const { return static_cast<const uint8_t*>(view.buf); }
};

template <class T>
struct Holder {  // the Python object around a T
  PyObject_HEAD
  T* held;
};

template <class T>
T& held_by(PyObject* object) {
  return *reinterpret_cast<Holder<T>*>(object)->held;
}

template <class T>
PyObject* new_holder(PyTypeObject* type, std::unique_ptr<T> made) {
  PyObject* object = type->tp_alloc(type, 0);
  if (object) reinterpret_cast<Holder<T>*>(object)->held = made.release();
  return object;
}

template <class T>
void free_holder(PyObject* object) {
  delete reinterpret_cast<Holder<T>*>(object)->held;
  PyTypeObject* type = Py_TYPE(object);
  type->tp_free(object);
  Py_DECREF(type);
}

// Runs a body that may throw; sets the Python error and returns nullptr then.
template <class Body>
PyObject* guarded(Body body) noexcept {
  try {
    return body();
  } catch (const std::bad_alloc&) {
    return PyErr_NoMemory();
  } catch (const std::exception& error) {
    PyErr_SetString(PyExc_RuntimeError, error.what());
    return nullptr;
  }
}

inline bool expects(Py_ssize_t wanted, Py_ssize_t count) {
  if (count == wanted) return true;
  PyErr_Format(PyExc_TypeError, "expected %zd arguments, got %zd", wanted, count);
  return false;
}

// Reads arguments that are numbers; on an error sets it and returns false.
template <size_t N>
bool read_numbers(PyObject* const* given, Py_ssize_t (&numbers)[N]) {
  for (size_t n = 0; n < N; ++n)
    if ((numbers[n] = PyLong_AsSsize_t(given[n])) == -1 && PyErr_Occurred()) return false;
  return true;
}

inline PyObject* list_of_numbers(const std::vector<size_t>& numbers) {
  Reference list(PyList_New(Py_ssize_t(numbers.size())));
  if (!list) return nullptr;
  for (size_t n = 0; n < numbers.size(); ++n) {
    PyObject* number = PyLong_FromSize_t(numbers[n]);
    if (!number) return nullptr;
    PyList_SET_ITEM(list.object, Py_ssize_t(n), number);
  }
  return list.release();
}

inline PyObject* new_bytes(size_t size) {
  if (size > size_t(PY_SSIZE_T_MAX)) return PyErr_NoMemory();
  return PyByteArray_FromStringAndSize(nullptr, Py_ssize_t(size));
}

template <class T>
PyObject* bytes_of(const T* data, size_t size) {
  return PyByteArray_FromStringAndSize(reinterpret_cast<const char*>(data), Py_ssize_t(size * sizeof(T)));
}

template <class T>
PyObject* bytes_of(const std::vector<T>& numbers) {
  return bytes_of(numbers.data(), numbers.size());
}

}  // namespace linkboy
