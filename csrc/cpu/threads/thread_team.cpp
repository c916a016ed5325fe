#include "thread_team.h"

#include <algorithm>
#include <thread>

#include "contention.h"
#include "float_environment.h"

#if defined(__unix__) || defined(__APPLE__)
#include <pthread.h>
#include <signal.h>
#endif
#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace tokenprune::cpu {
namespace {

// How long a helper that has nothing to do looks for work: longer than most steps that a selection does on one thread.
constexpr Nanoseconds kLookingForWork = 100'000;
// How long a caller looks for the end of pieces that others have begun. A piece takes less.
constexpr Nanoseconds kLookingForTheEnd = 50'000;
constexpr std::chrono::milliseconds kNap{50};  // of an idle caller, which has signals to look for
constexpr std::chrono::hours kUntilWoken{1};

// The fields of a slot's state, from the lowest bit on.
constexpr int kSeatShift = 12, kPieceShift = 32;
constexpr std::uint64_t kOneInside = 1, kOneSeat = 1u << kSeatShift, kOnePiece = std::uint64_t{1} << kPieceShift;
constexpr std::uint64_t kAwaited = 1u << 24;  // the caller sleeps until nobody is inside
constexpr std::uint64_t kOuter = 1u << 25;
constexpr std::uint64_t kMostPieces = (std::uint64_t{1} << 31) - 1;
static_assert(kMostThreads <= 1 << kSeatShift);

std::uint64_t inside(std::uint64_t state) { return state % kOneSeat; }
std::uint64_t seats(std::uint64_t state) { return (state >> kSeatShift) % kOneSeat; }
std::uint64_t pieces_left(std::uint64_t state) { return state >> kPieceShift; }

std::atomic<ThreadTeam*> team{nullptr};
thread_local Contention contention;
thread_local bool borrowing = false;  // the helpers of this thread's jobs are borrowed, or it is one
std::atomic<bool> forked{false};      // the pools of the parent have no threads here

#if defined(__unix__) || defined(__APPLE__)
[[maybe_unused]] const int registered = pthread_atfork(nullptr, nullptr, ThreadTeam::forget);
#endif

void pause() {
#if defined(__x86_64__)
  _mm_pause();
#elif defined(__aarch64__)
  asm volatile("isb");
#endif
}

// Returns whether the condition came true before the deadline.
template <class Condition>
bool spin_until(Nanoseconds deadline, const Condition& condition) {
  do {
    for (int i = 0; i < 16; ++i) {
      if (condition()) return true;
      pause();
    }
  } while (wall_time() < deadline);
  return false;
}

// While one exists, threads that are created handle no signals but those of their own faults: handlers run on the
// threads of the application.
class SignalsBlocked {
 public:
#if defined(__unix__) || defined(__APPLE__)
  SignalsBlocked() {
    sigset_t signals;
    sigfillset(&signals);
    for (const int fault : {SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGTRAP, SIGSYS, SIGABRT}) sigdelset(&signals, fault);
    pthread_sigmask(SIG_SETMASK, &signals, &before_);
  }
  ~SignalsBlocked() { pthread_sigmask(SIG_SETMASK, &before_, nullptr); }

 private:
  sigset_t before_;
#endif
};

}  // namespace

void Job::do_piece(std::int64_t piece, int thread) noexcept {
  if (failed.load(std::memory_order_relaxed)) return;
  try {
    function(context, piece * grain, std::min((piece + 1) * grain, count), thread);
  } catch (...) {
    fail(std::current_exception());
  }
}

void Job::fail(std::exception_ptr exception) noexcept {
  if (!failed.exchange(true)) failure = std::move(exception);
}

ThreadTeam& ThreadTeam::get() {
  ThreadTeam* current = team.load(std::memory_order_acquire);
  if (current == nullptr) {
    // Never deleted: helpers may be awake when static objects are destroyed.
    auto* const made = new ThreadTeam;
    if (team.compare_exchange_strong(current, made, std::memory_order_acq_rel)) return *made;
    delete made;
  }
  return *current;
}

void ThreadTeam::forget() {
  team.store(nullptr, std::memory_order_release);
  forked.store(true, std::memory_order_relaxed);
}

void ThreadTeam::begin_work() { contention.begin(); }

void ThreadTeam::run_with(Pool pool, int threads, const std::function<void()>& work) {
  if (threads == 1 || borrowing || forked || !contention.may_borrow() || contention.present() ||
      borrowing_.exchange(true))
    return work();
  struct Context {
    ThreadTeam& team;
    int threads;
    const std::function<void()>& work;
    std::atomic<bool> over{false};
    Nanoseconds end = 0;
    std::exception_ptr failure{};
  } context{*this, threads, work};
  struct Borrowed {
    ThreadTeam& team;
    explicit Borrowed(ThreadTeam& team) : team(team) { contention.borrow(true); }
    ~Borrowed() {
      contention.borrow(false);
      team.borrowing_.store(false);
    }
  } borrowed(*this);
  pool(
      threads,
      [](std::int64_t begin, std::int64_t end, void* pointer) {
        auto& call = *static_cast<Context*>(pointer);
        borrowing = end - begin < call.threads;  // or else the pool has no other threads
        if (begin == 0) {
          try {
            call.work();
          } catch (...) {
            call.failure = std::current_exception();
          }
          call.end = wall_time();
          call.over.store(true, std::memory_order_release);
        } else {
          call.team.serve_until(call.over);
        }
        borrowing = false;
      },
      &context);
  contention.waited(wall_time() - context.end);
  if (context.failure) std::rethrow_exception(context.failure);
}

void ThreadTeam::run(Job& job) {
  const bool outer = job.idle != nullptr;
  job.grain = std::max<std::int64_t>(job.grain, (job.count + kMostPieces - 1) / kMostPieces);
  job.threads = static_cast<int>(std::min<std::int64_t>({job.threads, job.pieces(), kMostThreads}));
  // Items of a batch are long: helpers do them in whatever time they get.
  Slot* const slot = job.threads > 1 && (outer || !contention.present()) ? open(job) : nullptr;
  if (slot == nullptr) return job.function(job.context, 0, job.count, 0);
  std::int64_t piece;
  while (take_piece(*slot, job, piece)) job.do_piece(piece, 0);
  try {
    wait_for_helpers(*slot, outer);
  } catch (...) {
    job.fail(std::current_exception());
    wait_for_helpers(*slot, false);
  }
  close(*slot);
  if (!outer && job.wakes) contention.look();
  if (job.failure) std::rethrow_exception(job.failure);
}

// Returns the slot in which helpers find the job, null where all are in use.
ThreadTeam::Slot* ThreadTeam::open(Job& job) {
  const int wanted = job.threads - 1;
  const bool wakes = job.wakes && !borrowing;
  if (wakes && helpers_.load(std::memory_order_relaxed) < wanted) add_helpers(wanted);
  std::uint64_t used = used_.load(std::memory_order_relaxed);
  int number;
  do {
    for (number = 0; number < kSlots && (used >> number & 1) != 0; ++number) {
    }
    if (number == kSlots) return nullptr;
  } while (!used_.compare_exchange_weak(used, used | std::uint64_t{1} << number, std::memory_order_acq_rel));
  Slot& slot = slots_[number];
  slot.job = &job;
  const std::uint64_t pieces = job.pieces();
  slot.state.store(pieces * kOnePiece + wanted * kOneSeat + (job.idle != nullptr ? kOuter : 0),
                   std::memory_order_release);
  announce(wakes ? std::min(wanted, 2) : 0);  // those wake the others
  return &slot;
}

// No piece is left, and nobody is inside.
void ThreadTeam::close(Slot& slot) {
  slot.state.store(0, std::memory_order_relaxed);
  used_.fetch_and(~(std::uint64_t{1} << (&slot - slots_)), std::memory_order_release);
}

void ThreadTeam::announce(int sleepers_to_wake) {
  announcements_.fetch_add(1);
  wake_sleepers(sleepers_to_wake);
}

void ThreadTeam::wake_sleepers(int count) {
  if (count > 0 && asleep_.load() > 0) wake(announcements_, count);
}

// Returns once nobody is inside the slot's job, of which no piece is left. An idle caller looks for other work
// meanwhile.
void ThreadTeam::wait_for_helpers(Slot& slot, bool idle) {
  const auto done = [&] { return inside(slot.state.load(std::memory_order_acquire)) == 0; };
  while (!done()) {
    if (idle) {
      const std::uint32_t seen = announcements_.load();
      const bool worked = help(/*inner_only=*/true, done);
      (*slot.job->idle)();
      if (!worked) wait_idly(slot, seen);
      continue;
    }
    if (spin_until(wall_time() + kLookingForTheEnd, done)) return;
    const std::uint32_t ended = slot.ended.load();
    if (inside(slot.state.fetch_or(kAwaited, std::memory_order_acq_rel)) != 0)
      sleep_while(slot.ended, ended, kUntilWoken);
  }
}

void ThreadTeam::wait_idly(Slot& slot, std::uint32_t seen) {
  asleep_.fetch_add(1);
  if (inside(slot.state.fetch_or(kAwaited, std::memory_order_acq_rel)) != 0) sleep_while(announcements_, seen, kNap);
  asleep_.fetch_sub(1);
}

// Takes a piece for a thread that is in the job already. Returns false if none is left.
bool ThreadTeam::take_piece(Slot& slot, const Job& job, std::int64_t& piece) {
  std::uint64_t state = slot.state.load(std::memory_order_relaxed);
  do {
    if (pieces_left(state) == 0) return false;
  } while (!slot.state.compare_exchange_weak(state, state - kOnePiece, std::memory_order_relaxed));
  piece = job.pieces() - static_cast<std::int64_t>(pieces_left(state));
  return true;
}

// Takes pieces of an open job until `stop` returns true or none is left. Returns whether there was one.
template <class Stop>
bool ThreadTeam::help(bool inner_only, const Stop& stop) {
  const std::uint64_t used = used_.load(std::memory_order_acquire);
  for (int number = 0; number < kSlots && used >> number != 0; ++number)
    if ((used >> number & 1) != 0 && help_with(slots_[number], inner_only, stop)) return true;
  return false;
}

template <class Stop>
bool ThreadTeam::help_with(Slot& slot, bool inner_only, const Stop& stop) {
  std::uint64_t state = slot.state.load(std::memory_order_acquire);
  do {
    if (pieces_left(state) == 0 || seats(state) == 0 || (inner_only && (state & kOuter) != 0)) return false;
  } while (!slot.state.compare_exchange_weak(state, state - kOnePiece - kOneSeat + kOneInside,
                                             std::memory_order_acq_rel, std::memory_order_acquire));
  Job& job = *slot.job;
  const int thread = static_cast<int>(seats(state));
  if (job.wakes && pieces_left(state) > 2 && thread > 1) wake_sleepers(2);
  std::int64_t piece = job.pieces() - static_cast<std::int64_t>(pieces_left(state));
  do {
    job.do_piece(piece, thread);
  } while (!stop() && take_piece(slot, job, piece));
  leave(slot);
  return true;
}

void ThreadTeam::leave(Slot& slot) {
  const std::uint64_t before = slot.state.fetch_sub(kOneInside, std::memory_order_acq_rel);
  if (inside(before) != 1 || (before & kAwaited) == 0) return;
  slot.ended.fetch_add(1);
  wake(slot.ended, 1);
  if ((before & kOuter) != 0) announce(kMostThreads);  // an idle caller sleeps there
}

void ThreadTeam::add_helpers(int wanted) {
  wanted = std::min(wanted, most_helpers_.load(std::memory_order_relaxed));
  if (helpers_.load(std::memory_order_relaxed) >= wanted || adding_.exchange(true, std::memory_order_acquire)) return;
  try {
    const SignalsBlocked blocked;
    while (helpers_.load(std::memory_order_relaxed) < wanted) {
      std::thread([this] { serve(); }).detach();
      helpers_.fetch_add(1, std::memory_order_relaxed);
    }
  } catch (const std::exception&) {
    most_helpers_.store(helpers_.load());
  }
  adding_.store(false, std::memory_order_release);
}

void ThreadTeam::serve() {
  const DefaultFloatEnvironment environment;
  Nanoseconds deadline = wall_time() + kLookingForWork;
  for (;;) {
    const std::uint32_t seen = announcements_.load();
    if (help(/*inner_only=*/false, [] { return false; })) {
      deadline = wall_time() + kLookingForWork;
    } else if (wall_time() < deadline) {
      spin_until(deadline, [&] { return announcements_.load(std::memory_order_acquire) != seen; });
    } else {
      asleep_.fetch_add(1);
      sleep_while(announcements_, seen, kUntilWoken);
      asleep_.fetch_sub(1);
      deadline = wall_time() + kLookingForWork;
    }
  }
}

// Of a borrowed thread: its caller is waiting or at work, so it looks for work all the time.
void ThreadTeam::serve_until(const std::atomic<bool>& over) {
  const DefaultFloatEnvironment environment;
  const auto is_over = [&] { return over.load(std::memory_order_acquire); };
  while (!is_over()) {
    const std::uint32_t seen = announcements_.load();
    if (help(/*inner_only=*/false, is_over)) continue;
    if (!spin_until(wall_time() + kLookingForWork,
                    [&] { return announcements_.load(std::memory_order_acquire) != seen || is_over(); }))
      std::this_thread::yield();
  }
}

}  // namespace tokenprune::cpu
