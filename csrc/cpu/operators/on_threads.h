// The items of a call on the threads that torch allows it.
#pragma once

#include <algorithm>
#include <atomic>
#include <vector>

#include "stable.h"
#include "threads/contention.h"
#include "threads/interrupt.h"
#include "threads/parallel.h"
#include "threads/processors.h"

namespace tokenprune::cpu {

// Set by tests; 0 where the machine decides.
inline std::atomic<int> forced_threads{0};

// As many threads as torch is allowed, but no more than there are processors for.
inline int thread_count() {
  if (const int forced = forced_threads; forced > 0) return forced;
  const int allowed = static_cast<int>(torch::stable::get_num_threads());
  return allowed == 1 ? 1 : std::min({allowed, available_processors(), kMostThreads});
}

inline void run_on_threads_of_torch(int threads, ParallelFunc function, void* context) {
  TORCH_ERROR_CODE_CHECK(torch_parallel_for(0, threads, 1, function, context));
}

template <class Select>
void for_each_item(const std::vector<double>& work, const Select& select) {
  // In a parallel region of torch, its other threads have the rest of the processors, and one of them may be waiting
  // with Python's lock.
  const bool alone = in_parallel_region();
  InterruptCheck interrupts;
  InterruptCheck* const checked = alone ? nullptr : &interrupts;
  const int threads = alone ? 1 : thread_count();
  const auto select_all = [&] { for_each_item(work, threads, checked, select); };
  // A region of torch's pool has all of its threads, and each of them has to get a processor before the region ends.
  if (torch::stable::get_num_threads() > static_cast<std::uint32_t>(threads)) return select_all();
  ThreadTeam::get().run_with(run_on_threads_of_torch, threads, select_all);
}

inline void force_threads(int64_t threads) {
  forced_threads = static_cast<int>(threads);
  Contention::ignored = threads > 0;
}

}  // namespace tokenprune::cpu
