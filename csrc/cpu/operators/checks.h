// The checks of declaration.py and of checks.py once more, in the same words, for callers that come without Python. The
// stable interface has no classes of errors: some releases of torch turn all into RuntimeError. So all are
// std::runtime_error, and native.py tells a wrong value from others by its words.
#pragma once

#include <cmath>
#include <cstdio>
#include <span>
#include <sstream>
#include <stdexcept>
#include <string>
#include <vector>

#include "stable.h"

namespace tokenprune::cpu {

enum class Method { divprune, mmr, idpruner, dpp };

struct Operator {
  const char* name;
  Method method;
  const char* weight_name = nullptr;
};

template <class... Parts>
std::string message(const Operator& op, const Parts&... parts) {
  std::ostringstream text;
  text << op.name << ": expected ";
  (text << ... << parts);
  return text.str();
}

#define TOKENPRUNE_CHECK(condition, op, ...) \
  if (!(condition)) throw std::runtime_error(message(op, __VA_ARGS__))

inline std::string text(Shape shape, const std::string& last = "") {
  std::string dimensions;
  for (const std::int64_t size : shape) dimensions += (dimensions.empty() ? "" : ", ") + std::to_string(size);
  if (!last.empty()) dimensions += (dimensions.empty() ? "" : ", ") + last;
  return "[" + dimensions + "]";
}

// The name in Python.
inline std::string dtype_name(const Tensor& tensor) {
  const DType dtype = tensor.scalar_type();
  switch (dtype) {
    case DType::Bool:
      return "bool";
    case DType::Byte:
      return "uint8";
    case DType::Char:
      return "int8";
    case DType::Short:
      return "int16";
    case DType::Int:
      return "int32";
    case DType::Long:
      return "int64";
    case DType::Half:
      return "float16";
    case DType::BFloat16:
      return "bfloat16";
    case DType::Float:
      return "float32";
    case DType::Double:
      return "float64";
    case DType::ComplexFloat:
      return "complex64";
    case DType::ComplexDouble:
      return "complex128";
    default:
      return torch::headeronly::toString(dtype);
  }
}

inline void check_tokens(const Operator& op, const Tensor& x, bool varlen) {
  const bool shaped = varlen ? x.dim() == 2 : x.dim() >= 2;
  TOKENPRUNE_CHECK(shaped && x.size(-1) >= 1, op, "x to have shape ", varlen ? "[T, D]" : "[..., N, D]",
                   " with D >= 1, got shape ", text(x.sizes()));
  const DType dtype = x.scalar_type();
  TOKENPRUNE_CHECK(dtype == DType::Half || dtype == DType::BFloat16 || dtype == DType::Float, op,
                   "x to be float16, bfloat16 or float32, got ", dtype_name(x));
}

inline void check_weight(const Operator& op, const Tensor* weight, const Tensor& x) {
  if (weight == nullptr) return;
  const Shape expected = x.sizes().slice(0, x.dim() - 1);
  TOKENPRUNE_CHECK(weight->sizes().equals(expected), op, op.weight_name, " to have shape ", text(expected),
                   " (x without its last dimension), got shape ", text(weight->sizes()));
  const DType dtype = weight->scalar_type();
  TOKENPRUNE_CHECK(dtype == DType::Half || dtype == DType::BFloat16 || dtype == DType::Float || dtype == DType::Double,
                   op, op.weight_name, " to be float16, bfloat16, float32 or float64, got ", dtype_name(*weight));
}

inline void check_lam(const Operator& op, double lam) {
  if (lam >= 0.0 && lam <= 1.0) return;
  char digits[32];
  std::snprintf(digits, sizeof digits, "%.12g", lam);
  TOKENPRUNE_CHECK(false, op, "lam to be in [0, 1], got ", digits);
}

inline void check_initial(const Operator& op, const Tensor* initial, const Tensor& x) {
  if (initial == nullptr) return;
  const Shape leading = x.sizes().slice(0, x.dim() - 2);
  const bool shaped = initial->dim() == x.dim() - 1 && initial->sizes().slice(0, x.dim() - 2).equals(leading);
  TOKENPRUNE_CHECK(shaped, op, "initial to have shape ", text(leading, "M"),
                   " (x without its last two dimensions, and M rows), got shape ", text(initial->sizes()));
  TOKENPRUNE_CHECK(initial->scalar_type() == DType::Long, op, "initial to be int64, got ", dtype_name(*initial));
}

inline void check_k(const Operator& op, int64_t k, int64_t count, const Tensor* initial) {
  if (initial == nullptr) {
    TOKENPRUNE_CHECK(k >= 0 && k <= count, op, "k to be in [0, N] with N = ", count, ", got ", k);
    return;
  }
  const int64_t given = initial->size(-1);
  TOKENPRUNE_CHECK(k >= 0 && k <= count - given, op, "k to be in [0, N - M] with N = ", count, " and M = ", given,
                   " initial rows, got ", k);
}

inline void check_prefix_sums(const Operator& op, const Tensor& cu_seqlens, const Tensor& cu_k) {
  TOKENPRUNE_CHECK(cu_seqlens.dim() == 1 && cu_seqlens.size(0) >= 1, op,
                   "cu_seqlens to have shape [S + 1] with S >= 0, got shape ", text(cu_seqlens.sizes()));
  TOKENPRUNE_CHECK(cu_k.sizes().equals(cu_seqlens.sizes()), op, "cu_k to have the shape of cu_seqlens, ",
                   text(cu_seqlens.sizes()), ", got shape ", text(cu_k.sizes()));
  TOKENPRUNE_CHECK(cu_seqlens.scalar_type() == DType::Int, op, "cu_seqlens to be int32, got ", dtype_name(cu_seqlens));
  TOKENPRUNE_CHECK(cu_k.scalar_type() == DType::Int, op, "cu_k to be int32, got ", dtype_name(cu_k));
}

inline void check_capacity(const Operator& op, const char* name, int64_t capacity) {
  TOKENPRUNE_CHECK(capacity >= 0, op, name, " to be at least 0, got ", capacity);
}

// What only the contents show: these are errors on the CPU, where reading them costs nothing.

inline void check_prefix_sum_contents(const Operator& op, const char* name, const std::vector<int64_t>& sums,
                                      const char* capacity_name, int64_t capacity) {
  TOKENPRUNE_CHECK(sums[0] == 0, op, name, " to start at 0, got ", sums[0]);
  for (size_t i = 1; i < sums.size(); ++i)
    TOKENPRUNE_CHECK(sums[i] >= sums[i - 1], op, name, " not to decrease, got ", sums[i], " after ", sums[i - 1],
                     " at position ", i);
  TOKENPRUNE_CHECK(sums.back() <= capacity, op, name, " to end at or below ", capacity_name, " = ", capacity, ", got ",
                   sums.back());
}

// An infinite weight makes a row non-finite, whatever its sign.
inline void check_signs(const Operator& op, const float* values, int64_t count) {
  if (op.method != Method::dpp) return;
  for (int64_t i = 0; i < count; ++i)
    TOKENPRUNE_CHECK(!(values[i] < 0.0f) || std::isinf(values[i]), op, op.weight_name, " to be at least 0, got ",
                     values[i]);
}

// The initial rows of one item.
inline void check_rows(const Operator& op, std::span<const int64_t> initial, int64_t count) {
  std::vector<bool> given(count);
  for (const int64_t row : initial) {
    TOKENPRUNE_CHECK(row >= 0 && row < count, op, "initial to hold rows in [0, N) with N = ", count, ", got ", row);
    TOKENPRUNE_CHECK(!given[row], op, "initial to hold different rows, got ", row, " twice");
    given[row] = true;
  }
}

inline void check_segments(const Operator& op, const std::vector<int64_t>& starts, const std::vector<int64_t>& kept,
                           int64_t rows, int64_t total_k, int64_t max_seqlen) {
  check_prefix_sum_contents(op, "cu_seqlens", starts, "T", rows);
  check_prefix_sum_contents(op, "cu_k", kept, "total_k", total_k);
  for (size_t s = 0; s + 1 < starts.size(); ++s) {
    const int64_t length = starts[s + 1] - starts[s], k = kept[s + 1] - kept[s];
    TOKENPRUNE_CHECK(length <= max_seqlen, op, "segments of at most max_seqlen = ", max_seqlen, " rows, got ", length,
                     " in segment ", s);
    TOKENPRUNE_CHECK(k <= length, op, "cu_k to keep at most the ", length, " rows of segment ", s, ", got ", k);
  }
}

}  // namespace tokenprune::cpu
