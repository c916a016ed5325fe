// Whether helpers pay. On a machine whose processors are all in use, a caller loses time by its helpers: they take its
// processor, or they are taken off theirs with a piece of the work in hand. Then callers work alone for a while.
#pragma once

#include <time.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdint>

namespace tokenprune::cpu {

class HelpBalance {
 public:
  using Nanoseconds = std::int64_t;

  // Set by tests: helpers are asked whatever they cost.
  static inline std::atomic<bool> insists{false};

  bool pays() const { return insists || now() >= alone_until_.load(std::memory_order_relaxed); }

  // Processor time that a helper has spent on a job.
  void saved(Nanoseconds time) { saved_.fetch_add(time, std::memory_order_relaxed); }

  // Time during a job in which its caller did not run, since it waited for a processor or for a helper.
  void lost(Nanoseconds time) {
    const Nanoseconds lost = lost_.fetch_add(std::max<Nanoseconds>(time, 0), std::memory_order_relaxed) + time;
    const Nanoseconds saved = saved_.load(std::memory_order_relaxed);
    if (saved + lost < kWindow) return;
    saved_.store(0, std::memory_order_relaxed);
    lost_.store(0, std::memory_order_relaxed);
    const Nanoseconds pause = pause_.load(std::memory_order_relaxed);
    if (lost > saved * kMostLoss) {
      alone_until_.store(now() + pause, std::memory_order_relaxed);
      pause_.store(std::min(2 * pause, kLongestPause), std::memory_order_relaxed);
    } else {
      pause_.store(std::max(pause - pause / 16, kShortestPause), std::memory_order_relaxed);
    }
  }

  static Nanoseconds now() {
    return std::chrono::nanoseconds(std::chrono::steady_clock::now().time_since_epoch()).count();
  }
  // The processor time of this thread.
  static Nanoseconds thread_time() {
    timespec time;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &time);
    return std::int64_t{1'000'000'000} * time.tv_sec + time.tv_nsec;
  }

 private:
  // Measured on two processors, idle and beside busy processes. Where both processors are in use, helpers lose from a
  // third to all of what they save; where one is idle, a hundredth.
  static constexpr double kMostLoss = 0.15;
  static constexpr Nanoseconds kMillisecond = 1'000'000;
  static constexpr Nanoseconds kWindow = kMillisecond;  // of time saved and lost, after which they are compared
  static constexpr Nanoseconds kShortestPause = 4 * kMillisecond, kLongestPause = 200 * kMillisecond;

  std::atomic<Nanoseconds> alone_until_{0}, pause_{kShortestPause}, saved_{0}, lost_{0};
};

}  // namespace tokenprune::cpu
