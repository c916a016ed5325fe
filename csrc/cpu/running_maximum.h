// What a row knows of the picks in DivPrune and MMR: the largest of its similarities to them.
#pragma once

#include "block.h"

namespace tokenprune::cpu {

struct RunningMaximum {
  // Whether a row may take in picks in any order, and one more than once.
  static constexpr bool kAnyOrder = true;

  template <class T>
  void start(Item<T>& item, Key) {
    std::fill(item.running_maximum.begin(), item.running_maximum.end(), -kInfinity);
  }

  template <class T>
  void take_in(Item<T>& item, std::int64_t i, const float* similarities, std::int64_t, std::int64_t count) {
    for (std::int64_t j = 0; j < count; ++j)
      item.running_maximum[i] = std::max(item.running_maximum[i], similarities[j]);
  }

  template <class T>
  void open(const Item<T>&, const std::vector<std::int64_t>&) {}

  template <class T>
  void pick_candidate(Item<T>& item, const std::vector<std::int64_t>& rows, std::int64_t, const float* similarities) {
    for (std::size_t a = 0; a < rows.size(); ++a)
      item.running_maximum[rows[a]] = std::max(item.running_maximum[rows[a]], similarities[a]);
  }

  void close(const std::vector<std::int64_t>&) {}

  bool exhausted(Key) const { return false; }
  float reported(float score) const { return score; }
};

}  // namespace tokenprune::cpu
