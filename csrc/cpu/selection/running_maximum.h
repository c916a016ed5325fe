// What DivPrune and MMR keep of the picks: for each row, its largest similarity to one of them.
#pragma once

#include <algorithm>
#include <cstdint>
#include <vector>

#include "item.h"
#include "order.h"

namespace tokenprune::cpu {

// The part of the policy (see lazy_greedy.h) that the two methods share.
class RunningMaximum {
 public:
  static constexpr bool kOrderIndependent = true;

  explicit RunningMaximum(std::int64_t count) : maximum_(count, -kInfinity) {}

  void start(Key) {}

  void update(std::int64_t i, const float* similarities, std::int64_t, std::int64_t count) {
    for (std::int64_t j = 0; j < count; ++j) maximum_[i] = std::max(maximum_[i], similarities[j]);
  }

  void open(const std::vector<std::int64_t>&) {}

  void pick_candidate(const std::vector<std::int64_t>& rows, std::int64_t, const float* similarities) {
    for (std::size_t a = 0; a < rows.size(); ++a) maximum_[rows[a]] = std::max(maximum_[rows[a]], similarities[a]);
  }

  void close(const std::vector<std::int64_t>&) {}

  bool exhausted(Key) const { return false; }
  float reported(float score) const { return score; }

 protected:
  float maximum(std::int64_t i) const { return maximum_[i]; }

 private:
  std::vector<float> maximum_;
};

}  // namespace tokenprune::cpu
