// Whether the user wants a long selection to stop, asked now and then by the thread that runs the operator.
#pragma once

#include <atomic>
#include <chrono>

namespace tokenprune::cpu {

// Throws to stop. Set by the Python module, if there is one.
inline std::atomic<void (*)()> throw_if_interrupted{nullptr};

class InterruptCheck {
 public:
  // Asks rarely enough that short selections never do: asking takes Python's lock.
  void operator()() {
    const auto now = Clock::now();
    if (now - last_ < std::chrono::milliseconds(200)) return;
    last_ = now;
    if (const auto ask = throw_if_interrupted.load()) ask();
  }

 private:
  using Clock = std::chrono::steady_clock;
  Clock::time_point last_ = Clock::now();
};

}  // namespace tokenprune::cpu
