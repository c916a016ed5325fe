// The tensors of a call as the selection takes them: tokens, weights, picks.
#pragma once

#include <optional>
#include <span>
#include <tuple>
#include <vector>

#include "kernels/elements.h"
#include "selection/lazy_greedy.h"
#include "stable.h"

namespace tokenprune::cpu {

// Calls function(T{}) with the element type of x.
template <class Function>
void with_element_type(const Tensor& x, const Function& function) {
  switch (x.scalar_type()) {
    case DType::Half:
      return function(Half{});
    case DType::BFloat16:
      return function(BFloat16{});
    default:
      return function(float{});
  }
}

// x with adjacent elements in a row: x itself, or a copy.
class Tokens {
 public:
  explicit Tokens(const Tensor& x) : tensor_(x), strides_(x.strides().vec()) {
    if (strides_.back() == 1 || x.size(-1) == 1) return;
    // An expanded batch is copied once, not once per item.
    std::vector<bool> expanded(x.dim());
    for (int64_t dim = 0; dim < x.dim() - 2; ++dim) {
      expanded[dim] = strides_[dim] == 0 && x.size(dim) > 1;
      if (expanded[dim]) tensor_ = torch::stable::narrow(tensor_, dim, 0, 1);
    }
    tensor_ = torch::stable::contiguous(tensor_);
    strides_ = tensor_.strides().vec();
    for (int64_t dim = 0; dim < x.dim(); ++dim)
      if (expanded[dim]) strides_[dim] = 0;
  }

  template <class T>
  const T* data() const {
    return static_cast<const T*>(tensor_.const_data_ptr());
  }
  int64_t row_stride() const { return strides_[strides_.size() - 2]; }

  // Elements between the start and item number `item`, with the leading dimensions of `shape` in row-major order.
  int64_t item_offset(Shape shape, int64_t item) const {
    int64_t offset = 0;
    for (int64_t dim = static_cast<int64_t>(shape.size()) - 3; dim >= 0; --dim) {
      offset += item % shape[dim] * strides_[dim];
      item /= shape[dim];
    }
    return offset;
  }

 private:
  Tensor tensor_;
  std::vector<int64_t> strides_;
};

// One float32 per row, contiguous; none for a method without weights.
class Weights {
 public:
  explicit Weights(const Tensor* weight) {
    if (weight != nullptr) tensor_ = torch::stable::contiguous(torch::stable::to(*weight, DType::Float));
  }

  // Null without weights.
  const float* from(int64_t row) const {
    return tensor_ ? static_cast<const float*>(tensor_->const_data_ptr()) + row : nullptr;
  }

 private:
  std::optional<Tensor> tensor_;
};

using Result = std::tuple<Tensor, Tensor>;

// Without scores the second tensor is the first one.
inline Result allocate(const std::vector<int64_t>& shape, bool with_scores) {
  const Tensor indices = torch::stable::empty(shape, DType::Long);
  return {indices, with_scores ? torch::stable::empty(shape, DType::Float) : indices};
}

inline Picks picks_into(const Result& result, bool with_scores, int64_t begin, int64_t k, int64_t offset,
                        std::span<const int64_t> initial = {}) {
  return {static_cast<int64_t*>(std::get<0>(result).mutable_data_ptr()) + begin,
          with_scores ? static_cast<float*>(std::get<1>(result).mutable_data_ptr()) + begin : nullptr, k, offset,
          initial};
}

}  // namespace tokenprune::cpu
