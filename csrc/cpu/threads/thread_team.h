// Threads that help a caller with its work. A caller never waits for a thread that is not running, unless that thread
// has begun a piece of the work.
//
// A job is a loop over [0, count). Its caller takes pieces of the loop from a counter until none is left. Meanwhile the
// job is open: helpers that come in time take pieces from the same counter. Then the caller closes the job and waits
// for those helpers alone that are inside. If no helper gets a processor, the caller has done everything itself.
//
// Helpers look for open jobs for some microseconds, then sleep. Waking one costs the caller a system call, so small
// jobs are open to helpers that are awake, and wake nobody.
//
// Jobs may be nested. A caller whose outer job is closed helps with the jobs of the threads inside it.
#pragma once

#include <atomic>
#include <cstdint>
#include <exception>
#include <functional>

#include "address_wait.h"
#include "help_balance.h"

namespace tokenprune::cpu {

// Threads of one job at most, the caller included.
constexpr int kMostThreads = 1024;

struct Job {
  using Function = void (*)(const void* context, std::int64_t begin, std::int64_t end, int thread);

  Function function;  // called for each piece, at most `grain` long; threads are numbered from 0, the caller
  const void* context;
  std::int64_t count;
  std::int64_t grain;
  int threads;  // at most, the caller included
  bool wakes;   // whether the job is worth waking helpers for

  std::atomic<std::int64_t> next{0};
  std::atomic<bool> failed{false};  // a piece threw: no other is begun
  std::exception_ptr failure{};     // what the first such piece threw

  Job(Function function, const void* context, std::int64_t count, std::int64_t grain, int threads, bool wakes)
      : function(function), context(context), count(count), grain(grain), threads(threads), wakes(wakes) {}

  void take_pieces(int thread) noexcept;
  void fail(std::exception_ptr exception) noexcept;
};

class ThreadTeam {
 public:
  // The team of this process. A forked child has one of its own, without the helpers of its parent.
  static ThreadTeam& get();

  // Does the job and rethrows what its pieces threw. Where `idle` is given, the caller does not only wait for the
  // helpers that are inside: it helps with other jobs and calls `idle` now and then, which may throw.
  void run(Job& job, const std::function<void()>* idle = nullptr);

  // Forgets the team without ending its threads, of which a forked child has none.
  static void forget();

 private:
  static constexpr int kSlots = 64;

  // Where helpers find an open job. The bits of `state`: whether the slot is in use, whether the job is open, whether
  // the caller sleeps until nobody is inside, how many more helpers may enter, and how many are inside.
  struct alignas(64) Slot {
    Word state{0};
    Job* job = nullptr;  // read by helpers that have entered
  };

  ThreadTeam() = default;
  void add_helpers(int wanted);
  void serve();
  bool help();
  int enter(Slot& slot);
  void leave(Slot& slot);
  Slot* open(Job& job);
  void announce(int sleepers_to_wake);
  void close(Slot& slot, Job& job, const std::function<void()>* idle);
  void wait_until_empty(Slot& slot, const std::function<void()>* idle);

  Slot slots_[kSlots];
  Word announcements_{0};  // counts what idle threads have to look at: jobs opened, outer jobs left
  std::atomic<int> helpers_{0};
  std::atomic<int> asleep_{0};
  std::atomic<bool> adding_{false};
  HelpBalance balance_;
};

}  // namespace tokenprune::cpu
