// What every binding file shares: arguments checked and borrowed, results that own their memory. Messages match those
// of reference.py word for word.
#pragma once

#define NPY_NO_DEPRECATED_API NPY_2_0_API_VERSION
#define PY_ARRAY_UNIQUE_SYMBOL likewise_numpy
#ifndef LIKEWISE_IMPORTS_NUMPY
#define NO_IMPORT_ARRAY
#endif
#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/string.h>
#include <numpy/arrayobject.h>

#include <cstddef>
#include <cstdint>
#include <initializer_list>
#include <memory>
#include <span>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

#include "scan.h"

#define LIKEWISE_F32 "numpy.typing.NDArray[numpy.float32]"
#define LIKEWISE_I32 "numpy.typing.NDArray[numpy.int32]"
#define LIKEWISE_I64 "numpy.typing.NDArray[numpy.int64]"
#define LIKEWISE_U64 "numpy.typing.NDArray[numpy.uint64]"
#define LIKEWISE_VECTORS LIKEWISE_F32 " | numpy.typing.NDArray[numpy.int8]"
#define LIKEWISE_FOUND "tuple[" LIKEWISE_I64 ", " LIKEWISE_F32 "]"

namespace nb = nanobind;

namespace likewise {

inline constexpr int64_t max_k = int64_t{1} << 20;
inline constexpr int64_t max_threads = 256;
inline constexpr int64_t max_rows = int64_t{1} << 40;

using Borrowed = nb::ndarray<nb::ro>;
template <class T, size_t n_dims>
using Matrix = nb::ndarray<const T, nb::ndim<n_dims>, nb::c_contig, nb::device::cpu>;

// A length the caller must match, or any when below 0, and how the message calls it.
struct Extent {
  const char* name;
  int64_t length = -1;
};

[[noreturn]] inline void wrong_value(const std::string& message) { throw nb::value_error(message.c_str()); }
[[noreturn]] inline void wrong_type(const std::string& message) { throw nb::type_error(message.c_str()); }

inline std::string text(nb::handle object) { return nb::steal<nb::str>(PyObject_Str(object.ptr())).c_str(); }

inline std::string class_name(nb::handle object) { return text(object.type().attr("__name__")); }

inline std::string shown(nb::handle object) { return nb::steal<nb::str>(PyObject_Repr(object.ptr())).c_str(); }

template <class T>
constexpr const char* dtype_name();
template <>
constexpr const char* dtype_name<float>() {
  return "float32";
}
template <>
constexpr const char* dtype_name<double>() {
  return "float64";
}
template <>
constexpr const char* dtype_name<int8_t>() {
  return "int8";
}
template <>
constexpr const char* dtype_name<int32_t>() {
  return "int32";
}
template <>
constexpr const char* dtype_name<int64_t>() {
  return "int64";
}
template <>
constexpr const char* dtype_name<uint64_t>() {
  return "uint64";
}

inline std::string tuple_of(const std::vector<std::string>& parts) {
  std::string out = "(";
  for (size_t i = 0; i < parts.size(); ++i) out += (i == 0 ? "" : ", ") + parts[i];
  return out + (parts.size() == 1 ? ",)" : ")");
}

// One argument that must be an array; `operation` and `name` speak in its messages.
class Argument {
 public:
  Argument(const char* operation, const char* name, nb::handle object)
      : operation_(operation), name_(name), object_(object) {}

  bool is_none() const { return object_.is_none(); }

  template <class... Ts>
  void check(std::initializer_list<Extent> extents) {
    if (!nb::hasattr(object_, "dtype") || !nb::try_cast<Borrowed>(object_, array_, false)) {
      fail_type<Ts...>(nb::hasattr(object_, "dtype") ? "has dtype " + dtype() : "is " + class_name(object_));
    }
    if (!((array_.dtype() == nb::dtype<Ts>()) || ...)) fail_type<Ts...>("has dtype " + dtype());
    bool fits = array_.ndim() == extents.size();
    for (size_t i = 0; fits && i < extents.size(); ++i) {
      const int64_t wanted = extents.begin()[i].length;
      fits = wanted < 0 || static_cast<int64_t>(array_.shape(i)) == wanted;
    }
    if (!fits) {
      std::vector<std::string> wanted;
      for (const Extent& e : extents) {
        wanted.push_back(e.length < 0 ? e.name : std::string(e.name) + "=" + std::to_string(e.length));
      }
      wrong_value(prefix() + "has shape " + shape() + "; expected " + tuple_of(wanted));
    }
    int64_t stride = 1;
    for (size_t i = array_.ndim(); array_.size() != 0 && i-- > 0; stride *= static_cast<int64_t>(array_.shape(i))) {
      if (array_.shape(i) != 1 && array_.stride(i) != stride) fail_layout("C-contiguous", "C order");
    }
    if (array_.size() != 0 && reinterpret_cast<uintptr_t>(array_.data()) % array_.itemsize() != 0) {
      fail_layout("aligned", "an aligned array");
    }
  }

  // The rows of a bitmap are changed in place: the memory must be writable.
  std::span<uint64_t> check_writable_bitmap() {
    check<uint64_t>({{"words"}});
    nb::ndarray<uint64_t> writable;
    if (!nb::try_cast<nb::ndarray<uint64_t>>(object_, writable, false)) {
      wrong_value(prefix() + "is read-only; expected a writable array, it is changed in place");
    }
    return {writable.data(), writable.size()};
  }

  template <class T>
  bool holds() const {
    return array_.dtype() == nb::dtype<T>();
  }

  template <class T>
  std::span<const T> span() const {
    return {static_cast<const T*>(array_.data()), array_.size()};
  }

  size_t length(size_t axis) const { return array_.shape(axis); }
  int64_t extent(size_t axis) const { return static_cast<int64_t>(array_.shape(axis)); }
  std::string prefix() const { return std::string("[") + operation_ + "] " + name_ + " "; }

 private:
  template <class... Ts>
  [[noreturn]] void fail_type(const std::string& what) const {
    std::string wanted;
    size_t left = sizeof...(Ts);
    ((wanted += std::string(dtype_name<Ts>()) + (--left == 0 ? "" : " or ")), ...);
    wrong_type(prefix() + what + "; expected a NumPy array of " + wanted);
  }
  [[noreturn]] void fail_layout(const char* what, const char* wanted) const {
    wrong_value(prefix() + "is not " + what + " (shape " + shape() + "); expected " + wanted +
                "; copy it with numpy.array(..., order='C')");
  }
  std::string dtype() const { return text(object_.attr("dtype")); }
  std::string shape() const { return text(object_.attr("shape")); }

  const char* operation_;
  const char* name_;
  nb::handle object_;
  Borrowed array_;
};

inline int64_t check_integer(const char* operation, const char* name, nb::handle object, int64_t lowest,
                             int64_t highest) {
  const nb::object index = nb::steal(PyNumber_Index(object.ptr()));
  if (!index.is_valid()) {
    PyErr_Clear();
    wrong_type(std::string("[") + operation + "] " + name + " is " + class_name(object) + "; expected an int");
  }
  int overflow = 0;
  const int64_t value = PyLong_AsLongLongAndOverflow(index.ptr(), &overflow);
  if (overflow != 0 || value < lowest || value > highest) {
    wrong_value(std::string("[") + operation + "] " + name + " is " + text(index) + "; expected " +
                std::to_string(lowest) + " <= " + name + " <= " + std::to_string(highest));
  }
  return value;
}

inline std::string check_name(const char* operation, const char* name, nb::handle object,
                              std::initializer_list<const char*> known) {
  std::string value;
  std::string names;
  if (nb::isinstance<nb::str>(object)) value = nb::cast<std::string>(object);
  for (const char* each : known) {
    if (value == each) return value;
    names += (names.empty() ? "'" : ", '") + std::string(each) + "'";
  }
  wrong_value(std::string("[") + operation + "] " + name + " is " + shown(object) + "; expected one of " + names);
}

inline Metric check_metric(const char* operation, nb::handle object) {
  const std::string name = check_name(operation, "metric", object, {"ip", "cosine", "l2"});
  return name == "ip" ? Metric::ip : name == "cosine" ? Metric::cosine : Metric::l2;
}

// A new array of this shape that owns `data`.
template <class T>
nb::object owning(std::unique_ptr<T[]> data, std::initializer_list<size_t> shape) {
  T* const memory = data.get();
  nb::capsule owner(memory, [](void* p) noexcept { delete[] static_cast<T*>(p); });
  data.release();
  return nb::cast(nb::ndarray<nb::numpy, T>(memory, shape, owner));
}

template <class T>
std::unique_ptr<T[]> uninitialised(size_t n) {
  return std::make_unique_for_overwrite<T[]>(n);
}

// An array of T as NumPy itself sees it, at a tenth of what nb::ndarray costs; anything else is not valid. The caller
// keeps it alive.
template <class T>
class View {
 public:
  View(nb::handle object, int n_dims) {
    if (PyArray_Check(object.ptr()) == 0) return;
    array_ = reinterpret_cast<PyArrayObject*>(object.ptr());
    is_valid_ = PyArray_NDIM(array_) == n_dims && holds_type() && PyArray_IS_C_CONTIGUOUS(array_) &&
                PyArray_ISALIGNED(array_) && PyArray_ISNOTSWAPPED(array_);
  }

  bool is_valid() const { return is_valid_; }
  size_t length(int axis) const { return static_cast<size_t>(PyArray_DIM(array_, axis)); }
  size_t size() const { return static_cast<size_t>(PyArray_SIZE(array_)); }
  const T* data() const { return static_cast<const T*>(PyArray_DATA(array_)); }

 private:
  // long and long long are two types of NumPy's and one of ours
  bool holds_type() const {
    const char kind = PyArray_DESCR(array_)->kind;
    const char wanted = std::is_floating_point_v<T> ? 'f' : std::is_signed_v<T> ? 'i' : 'u';
    return kind == wanted && PyArray_ITEMSIZE(array_) == sizeof(T);
  }

  PyArrayObject* array_ = nullptr;
  bool is_valid_ = false;
};

// A new matrix of float or int64_t for a search to fill.
template <class T>
class NewMatrix {
 public:
  NewMatrix(size_t n_rows, size_t n_columns) {
    npy_intp shape[] = {static_cast<npy_intp>(n_rows), static_cast<npy_intp>(n_columns)};
    const int type = std::is_same_v<T, float> ? NPY_FLOAT32 : NPY_INT64;
    object_ = nb::steal(PyArray_SimpleNew(2, shape, type));
    if (!object_.is_valid()) throw nb::python_error();
    values_ = {static_cast<T*>(PyArray_DATA(reinterpret_cast<PyArrayObject*>(object_.ptr()))), n_rows * n_columns};
  }

  std::span<T> values() { return values_; }
  nb::object take() { return std::move(object_); }

 private:
  nb::object object_;
  std::span<T> values_;
};

// One a binding file.
void bind_diversity(nb::module_& m);
void bind_graph(nb::module_& m);
void bind_space(nb::module_& m);

}  // namespace likewise
