// Large arrays: of their own memory, which grows without copying and asks for huge pages, or borrowed and read only.
#pragma once

#include <sys/mman.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <new>
#include <span>
#include <type_traits>
#include <utility>

namespace likewise {

// T is trivially copyable; new elements are zero bytes. Not thread-safe. Throws std::bad_alloc.
template <class T>
class HugeArray {
  static_assert(std::is_trivially_copyable_v<T>);

 public:
  HugeArray() = default;
  HugeArray(HugeArray&& other) noexcept { swap(other); }
  HugeArray& operator=(HugeArray&& other) noexcept {
    swap(other);
    return *this;
  }
  ~HugeArray() { release(); }

  const T* data() const { return data_; }
  T* writable() { return const_cast<T*>(data_); }  // of an owned array only
  size_t size() const { return size_; }
  const T& operator[](size_t i) const { return data_[i]; }
  bool is_owned() const { return bytes_ != 0 || size_ == 0; }
  size_t owned_bytes() const { return bytes_; }
  std::span<const T> span() const { return {data_, size_}; }

  // The caller keeps the memory alive and unchanged.
  void borrow(std::span<const T> values) {
    release();
    data_ = values.data();
    size_ = values.size();
  }

  // Copies what is borrowed.
  void own() {
    if (is_owned()) return;
    HugeArray copy;
    copy.resize(size_);
    std::memcpy(copy.writable(), data_, size_ * sizeof(T));
    swap(copy);
  }

  void resize(size_t size) {
    if (size > capacity()) reserve(std::max(size, size_ + size_ / 2));
    if (size < size_) std::memset(static_cast<void*>(writable() + size), 0, (size_ - size) * sizeof(T));
    size_ = size;
  }

  void reserve(size_t size) {
    const size_t wanted = (size * sizeof(T) + huge - 1) / huge * huge;
    if (wanted <= bytes_) return;
    if (bytes_ == 0) {
      data_ = static_cast<const T*>(map(wanted));
    } else {
#if defined(__linux__)
      // Page tables move, not bytes. The new place may miss the alignment of huge pages: reserve keeps growth rare.
      void* moved = mremap(const_cast<T*>(data_), bytes_, wanted, MREMAP_MAYMOVE);
      if (moved == MAP_FAILED) throw std::bad_alloc();
#else
      void* moved = map(wanted);
      std::memcpy(moved, data_, size_ * sizeof(T));
      munmap(const_cast<T*>(data_), bytes_);
#endif
      data_ = static_cast<const T*>(moved);
      advise(moved, wanted);
    }
    bytes_ = wanted;
  }

  void swap(HugeArray& other) noexcept {
    std::swap(data_, other.data_);
    std::swap(size_, other.size_);
    std::swap(bytes_, other.bytes_);
  }

 private:
  static constexpr size_t huge = size_t{2} << 20;

  size_t capacity() const { return bytes_ / sizeof(T); }

  static void advise([[maybe_unused]] void* at, [[maybe_unused]] size_t bytes) {
#if defined(MADV_HUGEPAGE)
    madvise(at, bytes, MADV_HUGEPAGE);
#endif
  }

  static void* map(size_t bytes) {
    void* at = mmap(nullptr, bytes + huge, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (at == MAP_FAILED) throw std::bad_alloc();
    auto* start = static_cast<char*>(at);
    auto* aligned = reinterpret_cast<char*>((reinterpret_cast<uintptr_t>(start) + huge - 1) / huge * huge);
    if (aligned != start) munmap(start, static_cast<size_t>(aligned - start));
    char* end = start + bytes + huge;
    if (aligned + bytes != end) munmap(aligned + bytes, static_cast<size_t>(end - aligned - bytes));
    advise(aligned, bytes);
    return aligned;
  }

  void release() {
    if (bytes_ != 0) munmap(const_cast<T*>(data_), bytes_);
    data_ = nullptr;
    size_ = bytes_ = 0;
  }

  const T* data_ = nullptr;
  size_t size_ = 0;
  size_t bytes_ = 0;  // owned; 0 = borrowed or empty
};

}  // namespace likewise
