// Which items of a batch get a thread each, and which all threads work on together, one after the other.
#pragma once

#include <algorithm>
#include <cstdint>
#include <functional>
#include <numeric>
#include <queue>
#include <vector>

namespace tokenprune::cpu {

struct Schedule {
  std::vector<std::int64_t> alone;   // the most work first: the first free thread takes the next
  std::vector<std::int64_t> shared;  // among them whatever would keep one thread busy longer than the others
};

// `work` is that of each item, in any unit.
inline Schedule schedule(const std::vector<double>& work, std::int64_t threads) {
  constexpr double kSharing = 1.1;  // what meeting after every step costs, so that sharing is no end in itself
  const std::int64_t count = work.size();
  std::vector<std::int64_t> order(count);
  std::iota(order.begin(), order.end(), 0);
  std::stable_sort(order.begin(), order.end(), [&](std::int64_t i, std::int64_t j) { return work[i] > work[j]; });

  double rest = std::accumulate(work.begin(), work.end(), 0.0);
  std::int64_t large = 0;
  for (; large < count && work[order[large]] * threads > rest; ++large) rest -= work[order[large]];

  // The time of each number of items done alone, the others being shared.
  std::priority_queue<double, std::vector<double>, std::greater<>> loads;
  for (std::int64_t thread = 0; thread < threads; ++thread) loads.push(0.0);
  double longest = 0.0, best_time = rest * kSharing / threads;
  std::int64_t end = large;
  for (std::int64_t i = large; i < count; ++i) {
    const double load = loads.top() + work[order[i]];
    loads.pop();
    loads.push(load);
    longest = std::max(longest, load);
    rest -= work[order[i]];
    const double time = longest + rest * kSharing / threads;
    if (time <= best_time) {
      best_time = time;
      end = i + 1;
    }
  }

  Schedule result;
  result.alone.assign(order.begin() + large, order.begin() + end);
  result.shared.assign(order.begin(), order.begin() + large);
  result.shared.insert(result.shared.end(), order.begin() + end, order.end());
  return result;
}

}  // namespace tokenprune::cpu
