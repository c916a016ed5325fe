// Scratch memory, aligned to cache lines and not initialised.
#pragma once

#include <cstdint>
#include <memory>
#include <new>

namespace tokenprune::cpu {

constexpr std::int64_t kCacheLine = 64;

template <class T>
class Buffer {
 public:
  Buffer() = default;
  explicit Buffer(std::int64_t count)
      : data_(static_cast<T*>(::operator new(count * sizeof(T), std::align_val_t{kCacheLine}))) {}

  T* data() { return data_.get(); }
  const T* data() const { return data_.get(); }
  T& operator[](std::int64_t i) { return data_.get()[i]; }
  const T& operator[](std::int64_t i) const { return data_.get()[i]; }

 private:
  struct Delete {
    void operator()(T* p) const { ::operator delete(p, std::align_val_t{kCacheLine}); }
  };
  std::unique_ptr<T, Delete> data_;
};

}  // namespace tokenprune::cpu
