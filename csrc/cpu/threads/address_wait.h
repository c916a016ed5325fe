// Sleeping until a word in memory changes.
#pragma once

#include <atomic>
#include <chrono>
#include <cstdint>

#if defined(__linux__)
#include <linux/futex.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>
#else
#include <condition_variable>
#include <mutex>
#endif

namespace tokenprune::cpu {

using Word = std::atomic<std::uint32_t>;

#if defined(__linux__)

// Returns when somebody wakes the sleepers of `word`, when `timeout` is over, at once if the word is not `expected`,
// and sometimes for no reason: callers check again.
inline void sleep_while(Word& word, std::uint32_t expected, std::chrono::nanoseconds timeout) {
  static_assert(sizeof(Word) == sizeof(std::uint32_t));
  constexpr std::int64_t kSecond = 1'000'000'000;
  const timespec limit{static_cast<time_t>(timeout.count() / kSecond), static_cast<long>(timeout.count() % kSecond)};
  syscall(SYS_futex, reinterpret_cast<std::uint32_t*>(&word), FUTEX_WAIT_PRIVATE, expected, &limit, nullptr, 0);
}

// Wakes at most `count` sleepers. The word need not exist any more.
inline void wake(Word& word, int count) {
  syscall(SYS_futex, reinterpret_cast<std::uint32_t*>(&word), FUTEX_WAKE_PRIVATE, count, nullptr, nullptr, 0);
}

#else

// One condition variable for all words: sleepers of other words wake for nothing and sleep again.
struct Sleepers {
  std::mutex mutex;
  std::condition_variable condition;
};

inline Sleepers& sleepers() {
  static Sleepers* const instance = new Sleepers;  // threads may sleep when static objects are destroyed
  return *instance;
}

inline void sleep_while(Word& word, std::uint32_t expected, std::chrono::nanoseconds timeout) {
  std::unique_lock lock(sleepers().mutex);
  if (word.load() == expected) sleepers().condition.wait_for(lock, timeout);
}

inline void wake(Word&, int) {
  {
    const std::lock_guard lock(sleepers().mutex);
  }
  sleepers().condition.notify_all();
}

#endif

}  // namespace tokenprune::cpu
