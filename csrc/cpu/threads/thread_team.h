// Threads that help a caller with its work. A caller waits for a helper only if the helper has begun a piece of the
// work.
//
// A job is a loop that is cut into pieces. The calling thread takes pieces until none is left. Helpers that are awake
// take pieces of the same job. Taking a piece is one atomic operation on the slot of the job, so whoever holds none is
// not waited for. If no helper gets a processor, the caller has done everything itself.
//
// Helpers look for open jobs for some microseconds, then sleep. Waking one is a system call. So small jobs wake nobody:
// they are there for helpers that are awake. Where other processes want the processors, callers work alone
// (contention.h).
//
// Behind an operator of torch the threads of torch's pool are awake and look for work for some milliseconds, on the
// processors that helpers need. So a call borrows them in the place of helpers. It has to wait for them once, when it
// ends. Where other processes want the processors, it does not borrow.
//
// Jobs may be nested. The items of a batch are the pieces of an outer job, and the steps of an item are inner jobs. A
// caller that waits for others' items helps with inner jobs meanwhile.
#pragma once

#include <atomic>
#include <cstdint>
#include <exception>
#include <functional>

#include "address_wait.h"

namespace tokenprune::cpu {

// Threads of one job at most, the caller included.
constexpr int kMostThreads = 1024;

struct Job {
  using Function = void (*)(const void* context, std::int64_t begin, std::int64_t end, int thread);

  // Called for each piece of [0, count), at most `grain` long, or once for all of it where nobody helps. Threads are
  // numbered from 0, the caller.
  Function function;
  const void* context;
  std::int64_t count;
  std::int64_t grain;
  int threads;  // at most, the caller included
  bool wakes;   // whether the job is large enough to wake helpers for
  // Of an outer job: called now and then while the caller waits. It may throw.
  const std::function<void()>* idle = nullptr;

  std::atomic<bool> failed{false};  // a piece threw: those that are left are skipped
  std::exception_ptr failure{};     // what the first such piece threw

  Job(Function function, const void* context, std::int64_t count, std::int64_t grain, int threads, bool wakes)
      : function(function), context(context), count(count), grain(grain), threads(threads), wakes(wakes) {}

  std::int64_t pieces() const { return (count + grain - 1) / grain; }
  void do_piece(std::int64_t piece, int thread) noexcept;
  void fail(std::exception_ptr exception) noexcept;
};

class ThreadTeam {
 public:
  // The team of this process. A forked child has one of its own, without the helpers of its parent.
  static ThreadTeam& get();

  // The calling thread begins to work on an item.
  static void begin_work();

  // Calls function(0, 1, context) on the calling thread and function(i, i + 1, context) on others, for i < threads. It
  // may call them for longer ranges, on fewer threads. It returns when all have returned.
  using Pool = void (*)(int threads, void (*function)(std::int64_t begin, std::int64_t end, void* context),
                        void* context);

  // Calls `work` on this thread. Threads of `pool` help with its jobs unless that has lately met contention, or another
  // call does so: then the team's own threads do.
  void run_with(Pool pool, int threads, const std::function<void()>& work);

  // Does the job and rethrows what one of its pieces, or `idle`, threw.
  void run(Job& job);

  // Forgets the team without ending its threads, of which a forked child has none.
  static void forget();

 private:
  static constexpr int kSlots = 64;

  // An open job. `state` holds how many pieces are left, how many more helpers may enter, how many are inside, and
  // flags.
  struct alignas(64) Slot {
    std::atomic<std::uint64_t> state{0};
    Word ended{0};       // counts jobs whose last helper has left while the caller slept
    Job* job = nullptr;  // read by threads that hold a piece
  };

  ThreadTeam() = default;
  Slot* open(Job& job);
  void close(Slot& slot);
  void wait_for_helpers(Slot& slot, bool idle);
  void wait_idly(Slot& slot, std::uint32_t seen);
  bool take_piece(Slot& slot, const Job& job, std::int64_t& piece);
  template <class Stop>
  bool help(bool inner_only, const Stop& stop);
  template <class Stop>
  bool help_with(Slot& slot, bool inner_only, const Stop& stop);
  void leave(Slot& slot);
  void announce(int sleepers_to_wake);
  void wake_sleepers(int count);
  void add_helpers(int wanted);
  void serve();
  void serve_until(const std::atomic<bool>& over);

  Slot slots_[kSlots];
  alignas(64) std::atomic<std::uint64_t> used_{0};  // a bit for each slot
  alignas(64) Word announcements_{0};               // counts what idle threads have to look at
  alignas(64) std::atomic<int> asleep_{0};
  alignas(64) std::atomic<int> helpers_{0};
  std::atomic<int> most_helpers_{kMostThreads};  // fewer once the system has refused to make another
  std::atomic<bool> adding_{false};
  std::atomic<bool> borrowing_{false};  // one call at a time, lest each caller has threads of its own
};

}  // namespace tokenprune::cpu
