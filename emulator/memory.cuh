// Emulator counterpart of cuda/memory.cuh: pointers with bounds and, in shared memory, the last accesses.
#pragma once

#include <cuda_runtime.h>

#include <type_traits>

#include "core/tensor.h"

namespace openalpaca::cuda {

// A pointer into one tensor's device memory.
template <class T>
class Global {
 public:
  Global() = default;
  Global(std::nullptr_t) {}
  Global(T* begin, size_t count) : p_(begin), begin_(begin), count_(static_cast<int64_t>(count)) {}
  operator Global<const T>() const
    requires(!std::is_const_v<T>)
  {
    Global<const T> copy;
    copy.p_ = p_;
    copy.begin_ = begin_;
    copy.count_ = count_;
    copy.argument_ = argument_;
    return copy;
  }
  explicit operator bool() const { return p_ != nullptr; }
  bool operator==(std::nullptr_t) const { return p_ == nullptr; }

  T& operator[](int64_t i) const { return *at(i, 1); }
  T& operator*() const { return *at(0, 1); }
  Global operator+(int64_t n) const {
    Global moved = *this;
    moved.p_ += n;
    return moved;
  }
  Global operator-(int64_t n) const { return *this + -n; }
  Global& operator+=(int64_t n) { return *this = *this + n; }
  Global& operator-=(int64_t n) { return *this = *this + -n; }
  Global& operator++() { return *this += 1; }

  // `elements` elements from i on, as one access.
  T* at(int64_t i, int elements) const {
    const int64_t first = p_ - begin_ + i;
    if (first < 0 || first > count_ - elements) [[unlikely]] {
      emulator::fail_global_bounds(argument_, first, count_, sizeof(T), elements);
    }
    return begin_ + first;
  }
  T* aligned(int elements) const {
    T* first = at(0, elements);
    const int bytes = elements * static_cast<int>(sizeof(T));
    if (reinterpret_cast<uintptr_t>(first) % static_cast<uintptr_t>(bytes)) [[unlikely]] {
      emulator::fail_alignment("device", first, bytes);
    }
    return first;
  }
  void set_argument(int number) { argument_ = number; }

 private:
  template <class U>
  friend class Global;
  T *p_ = nullptr, *begin_ = nullptr;
  int64_t count_ = 0;
  int argument_ = 0;  // the position among the kernel's arguments, from 1
};

template <class T>
Global<T> global(const Tensor& tensor) {
  return {static_cast<T*>(tensor.raw()), tensor ? tensor.bytes() / sizeof(T) : 0};
}
template <class T>
Global<T> global(void* data, size_t count) {
  return {static_cast<T*>(data), count};
}

// One element of shared memory, read on conversion and written on assignment. To keep its value, write its type (`float
// x = tile[i]`, not `auto`).
template <class T>
class SharedElement {
 public:
  explicit SharedElement(T* p) : p_(p) {}
  operator T() && { return get(); }
  SharedElement&& operator=(T value) && {
    emulator::check_write(p_, sizeof(T));
    *p_ = value;
    return std::move(*this);
  }
  SharedElement&& operator=(SharedElement&& other) && { return std::move(*this) = other.get(); }
  SharedElement(const SharedElement&) = delete;
  SharedElement&& operator+=(T value) && { return std::move(*this) = static_cast<T>(get() + value); }
  SharedElement&& operator-=(T value) && { return std::move(*this) = static_cast<T>(get() - value); }
  SharedElement&& operator*=(T value) && { return std::move(*this) = static_cast<T>(get() * value); }

 private:
  T get() const {
    emulator::check_read(p_, sizeof(T));
    return *p_;
  }
  T* p_;
};

// A pointer into one piece of the block's shared memory.
template <class T>
class Shared {
  static_assert(sizeof(T) % emulator::kGranule == 0, "the emulator watches shared memory in units of two bytes");

 public:
  Shared() = default;
  Shared(const emulator::Piece* piece) : offset_(piece->begin), piece_(piece) {}

  SharedElement<T> operator[](int64_t i) const { return SharedElement<T>(at(i, 1)); }
  SharedElement<T> operator*() const { return SharedElement<T>(at(0, 1)); }
  Shared operator+(int64_t n) const {
    Shared moved = *this;
    moved.offset_ += n * static_cast<int64_t>(sizeof(T));
    return moved;
  }
  Shared operator-(int64_t n) const { return *this + -n; }
  Shared& operator+=(int64_t n) { return *this = *this + n; }
  Shared& operator-=(int64_t n) { return *this = *this + -n; }
  Shared& operator++() { return *this += 1; }

  T* at(int64_t i, int elements) const {
    const int64_t offset = offset_ + i * static_cast<int64_t>(sizeof(T));
    const int64_t bytes = elements * static_cast<int64_t>(sizeof(T));
    if (offset < piece_->begin || offset > piece_->begin + piece_->bytes - bytes) [[unlikely]] {
      emulator::fail_shared_bounds(*piece_, offset, static_cast<int>(bytes));
    }
    return reinterpret_cast<T*>(emulator::current->shared + offset);
  }
  T* aligned(int elements) const {
    T* first = at(0, elements);
    const int bytes = elements * static_cast<int>(sizeof(T));
    if (offset_ % bytes) [[unlikely]]
      emulator::fail_alignment("shared", first, bytes);
    return first;
  }

 private:
  int64_t offset_ = 0;
  const emulator::Piece* piece_ = nullptr;
};

class SharedMemory {
 public:
  template <class T>
  Shared<T> take(int count, const char* name) {
    const int bytes = count * static_cast<int>(sizeof(T));
    const emulator::Piece* piece = emulator::take_piece(pieces_++, used_, bytes, sizeof(T), name);
    used_ += round_up(bytes);
    return piece;
  }
  static constexpr int round_up(int bytes) { return (bytes + 127) / 128 * 128; }

 private:
  int used_ = 0, pieces_ = 0;
};

template <class T, int N>
struct alignas(sizeof(T) * N) Vec {
  T lanes[N];
  T& operator[](int i) { return lanes[i]; }
  const T& operator[](int i) const { return lanes[i]; }
};

template <int N, class T>
inline Vec<std::remove_const_t<T>, N> load(Global<T> p) {
  return *reinterpret_cast<const Vec<std::remove_const_t<T>, N>*>(p.aligned(N));
}
template <int N, class T>
inline Vec<T, N> load(Shared<T> p) {
  const T* from = p.aligned(N);
  emulator::check_read(from, sizeof(T) * N);
  return *reinterpret_cast<const Vec<T, N>*>(from);
}
template <int N, class T>
inline void store(Global<T> p, const Vec<T, N>& values) {
  *reinterpret_cast<Vec<T, N>*>(p.aligned(N)) = values;
}
template <int N, class T>
inline void store(Shared<T> p, const Vec<T, N>& values) {
  T* to = p.aligned(N);
  emulator::check_write(to, sizeof(T) * N);
  *reinterpret_cast<Vec<T, N>*>(to) = values;
}

// ---- atomic operations: each returns the previous value -------------------------------------------------------------

template <class T>
T* atomic_address(Global<T> p) {
  return p.at(0, 1);
}
template <class T>
T* atomic_address(Shared<T> p) {
  T* at = p.at(0, 1);
  emulator::check_atomic(at, sizeof(T));
  return at;
}
template <template <class> class P, class T>
T atomic_add(P<T> p, std::type_identity_t<T> value) {
  return atomicAdd(atomic_address(p), value);
}
template <template <class> class P, class T>
T atomic_max(P<T> p, std::type_identity_t<T> value) {
  return atomicMax(atomic_address(p), value);
}
template <template <class> class P, class T>
T atomic_min(P<T> p, std::type_identity_t<T> value) {
  return atomicMin(atomic_address(p), value);
}
template <template <class> class P, class T>
T atomic_cas(P<T> p, std::type_identity_t<T> expected, std::type_identity_t<T> desired) {
  return atomicCAS(atomic_address(p), expected, desired);
}

}  // namespace openalpaca::cuda
