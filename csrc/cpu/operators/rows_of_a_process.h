// What tokenprune_kernels.distributed asks of the rows of one process, x [N, D].
#pragma once

#include <vector>

#include "checks.h"
#include "on_threads.h"
#include "selection/divprune.h"
#include "selection/pairwise.h"
#include "tensors.h"
#include "threads/float_environment.h"

namespace tokenprune::cpu {

template <class T>
Rows<T> rows_of(const Tensor& x, const Tokens& tokens) {
  return {tokens.data<T>(), tokens.row_stride(), x.size(0), x.size(1)};
}

inline Tensor reciprocal_norms_op(const Tensor& x) {
  check_tokens({"_reciprocal_norms"}, x, /*varlen=*/true);
  const DefaultFloatEnvironment environment;
  const Tokens tokens(x);
  const Tensor norms = torch::stable::empty({x.size(0)}, DType::Float);
  with_element_type(x, [&](auto element) {
    for_each_item({1.0}, [&](int64_t, const Parallel& parallel) {
      reciprocal_norms(rows_of<decltype(element)>(x, tokens), static_cast<float*>(norms.mutable_data_ptr()), parallel);
    });
  });
  return norms;
}

// The similarities of the rows of x to those of y, given their reciprocal norms: float32 [N of x, N of y].
inline Tensor similarities_op(const Tensor& x, const Tensor& norms_x, const Tensor& y, const Tensor& norms_y) {
  const Operator op{"_similarities"};
  for (const Tensor* rows : {&x, &y}) check_tokens(op, *rows, /*varlen=*/true);
  TOKENPRUNE_CHECK(x.size(1) == y.size(1) && x.scalar_type() == y.scalar_type(), op, "rows of one D and one dtype");
  TOKENPRUNE_CHECK(norms_x.numel() == x.size(0) && norms_y.numel() == y.size(0), op, "a norm for each row");
  const DefaultFloatEnvironment environment;
  const Tokens tokens_x(x), tokens_y(y);
  const Weights weights_x(&norms_x), weights_y(&norms_y);
  const Tensor result = torch::stable::empty({x.size(0), y.size(0)}, DType::Float);
  with_element_type(x, [&](auto element) {
    using T = decltype(element);
    for_each_item({1.0}, [&](int64_t, const Parallel& parallel) {
      pairwise_similarities(rows_of<T>(x, tokens_x), weights_x.from(0), rows_of<T>(y, tokens_y), weights_y.from(0),
                            static_cast<float*>(result.mutable_data_ptr()), parallel);
    });
  });
  return result;
}

// The rows whose nearest other rows are farthest, and these distances: `count` of them, as far as rows are finite.
inline Result outliers_op(const Tensor& x, int64_t count) {
  const Operator op{"_outliers"};
  check_tokens(op, x, /*varlen=*/true);
  TOKENPRUNE_CHECK(count >= 1, op, "count to be at least 1, got ", count);
  const DefaultFloatEnvironment environment;
  const Tokens tokens(x);
  std::vector<Key> found;
  with_element_type(x, [&](auto element) {
    for_each_item({1.0}, [&](int64_t, const Parallel& parallel) {
      found = outliers(rows_of<decltype(element)>(x, tokens), count, parallel);
    });
  });
  const Result result = allocate({static_cast<int64_t>(found.size())}, /*with_scores=*/true);
  Picks picks = picks_into(result, /*with_scores=*/true, 0, found.size(), 0);
  for (const Key key : found) picks.add(key);
  return result;
}

}  // namespace tokenprune::cpu
