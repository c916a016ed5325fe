// Whether other processes want the processors that a thread and its helpers run on. Then helpers cost more than they
// do: they take the processor of their caller, or lose their own with a piece in hand.
//
// The sign of it is that the calling thread does not run although it has work. On an idle machine that is 1 to 3
// percent of the time. With as many busy threads as processors beside it, it is a fifth to a half. Waiting for threads
// of another pool at the end of a call is a sign too.
#pragma once

#include <time.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdint>

namespace tokenprune::cpu {

using Nanoseconds = std::int64_t;

inline Nanoseconds wall_time() {
  return std::chrono::nanoseconds(std::chrono::steady_clock::now().time_since_epoch()).count();
}

// The time that this thread has spent on a processor.
inline Nanoseconds thread_time() {
  timespec time;
  clock_gettime(CLOCK_THREAD_CPUTIME_ID, &time);
  return Nanoseconds{1'000'000'000} * time.tv_sec + time.tv_nsec;
}

// A time in which something is not tried. One that did not help for long is followed by one of four times the length:
// each try under contention costs some milliseconds.
class Pause {
 public:
  constexpr Pause(Nanoseconds shortest, Nanoseconds longest) : shortest_(shortest), longest_(longest) {}
  bool over(Nanoseconds now) const { return now >= until_; }
  void begin(Nanoseconds now) {
    length_ = now < until_ + kLongTime ? std::min(4 * length_, longest_) : shortest_;
    until_ = now + length_;
  }

 private:
  static constexpr Nanoseconds kLongTime = 60'000'000;
  Nanoseconds shortest_, longest_, length_ = shortest_, until_ = 0;
};

// Belongs to one calling thread. While there is contention, it works alone for a while.
class Contention {
 public:
  // Set by tests: there is none, whatever is seen.
  static inline std::atomic<bool> ignored{false};

  bool present() const { return !alone_.over(wall_time()) && !ignored; }

  // Whether threads that have to be waited for may help: not for some time after they met contention.
  bool may_borrow() const { return own_helpers_.over(wall_time()) || ignored; }
  void borrow(bool borrowed) { borrowed_ = borrowed; }

  // The thread begins to work; what it did before is no sign of anything.
  void begin() {
    wall_ = wall_time();
    running_ = thread_time();
  }

  // The thread has worked with helpers since begin() or the last look.
  void look() {
    const Nanoseconds wall = wall_time(), running = thread_time();
    const Nanoseconds elapsed = wall - wall_, absent = elapsed - (running - running_);
    wall_ = wall;
    running_ = running;
    add(wall, elapsed, absent);
  }

  // The thread has waited for threads that had nothing left to do.
  void waited(Nanoseconds time) { add(wall_time(), time, time); }

 private:
  static constexpr Nanoseconds kMillisecond = 1'000'000;
  static constexpr Nanoseconds kMemory = 20 * kMillisecond, kLeastTime = 2 * kMillisecond;
  static constexpr double kMostAbsent = 0.12;

  void add(Nanoseconds wall, Nanoseconds elapsed, Nanoseconds absent) {
    // Sums of the recent past: what was before fades.
    const double kept = std::max(0.0, 1.0 - static_cast<double>(elapsed) / kMemory);
    elapsed_sum_ = elapsed_sum_ * kept + static_cast<double>(elapsed);
    absent_sum_ = absent_sum_ * kept + static_cast<double>(absent);
    if (elapsed_sum_ < kLeastTime || absent_sum_ < kMostAbsent * elapsed_sum_) return;
    alone_.begin(wall);
    if (borrowed_) own_helpers_.begin(wall);
    elapsed_sum_ = absent_sum_ = 0.0;
  }

  Pause alone_{20 * kMillisecond, 1000 * kMillisecond}, own_helpers_{250 * kMillisecond, 4000 * kMillisecond};
  bool borrowed_ = false;
  Nanoseconds wall_ = 0, running_ = 0;
  double elapsed_sum_ = 0.0, absent_sum_ = 0.0;
};

}  // namespace tokenprune::cpu
