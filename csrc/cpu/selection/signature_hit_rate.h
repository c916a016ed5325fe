// Whether it pays to look for similar rows by signature.
#pragma once

#include <algorithm>
#include <cstdint>

namespace tokenprune::cpu {

// Counts how often signatures rule out a row, in one search for the first pick or in one lazy greedy selection. Turns
// signatures off when they rarely do, as in noise.
class SignatureHitRate {
 public:
  // Returns how many of `count` rows to try by signature.
  std::int64_t attempts(std::int64_t count) const {
    if (attempts_ < kFirstAttempts) return std::min(kFirstAttempts, count);
    return hits_ < attempts_ / 4 ? 0 : count;
  }
  // Records that `attempts` rows were tried and `hits` of them were ruled out.
  void add(std::int64_t attempts, std::int64_t hits) { attempts_ += attempts, hits_ += hits; }

 private:
  static constexpr std::int64_t kFirstAttempts = 64;
  std::int64_t attempts_ = 0, hits_ = 0;
};

}  // namespace tokenprune::cpu
