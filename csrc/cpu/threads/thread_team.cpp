#include "thread_team.h"

#include <algorithm>
#include <thread>

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

using Clock = std::chrono::steady_clock;

// A helper that finds no work looks on for this long: longer than most steps that a selection does on one thread.
constexpr std::chrono::microseconds kLookingForWork{100};
// Waiting for a piece that another thread has begun, which is about as long.
constexpr std::chrono::microseconds kLookingForTheEnd{50};
// How often an idle caller looks for signals.
constexpr std::chrono::milliseconds kNap{50};
constexpr std::chrono::hours kForever{1};

constexpr std::uint32_t kUsed = 1u << 31, kOpen = 1u << 30, kAwaited = 1u << 29;
constexpr std::uint32_t kInside = (1u << 14) - 1, kOneMore = 1u << 14, kRoom = kInside << 14;
static_assert(kMostThreads <= static_cast<int>(kInside));

std::atomic<ThreadTeam*> team{nullptr};

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

// Whether the condition came true within the time.
template <class Condition>
bool spin_until(std::chrono::nanoseconds time, const Condition& condition) {
  const auto end = Clock::now() + time;
  do {
    for (int i = 0; i < 16; ++i) {
      if (condition()) return true;
      pause();
    }
  } while (Clock::now() < end);
  return false;
}

// While one exists, threads that are created handle no signals but those of their own faults: handlers belong to the
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

void Job::take_pieces(int thread) noexcept {
  try {
    while (!failed.load(std::memory_order_relaxed)) {
      const std::int64_t begin = next.fetch_add(grain, std::memory_order_relaxed);
      if (begin >= count) return;
      function(context, begin, std::min(begin + grain, count), thread);
    }
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

void ThreadTeam::forget() { team.store(nullptr, std::memory_order_release); }

void ThreadTeam::run(Job& job, const std::function<void()>* idle) {
  const std::int64_t pieces = (job.count + job.grain - 1) / job.grain;
  job.threads = static_cast<int>(std::min<std::int64_t>({job.threads, pieces, kMostThreads}));
  const bool outer = idle != nullptr;  // its pieces are whole items, which other threads do in their own time
  Slot* const slot = job.threads > 1 && (outer || balance_.pays()) ? open(job) : nullptr;
  if (slot == nullptr) {
    job.take_pieces(0);
  } else {
    const bool measured = job.wakes && !outer;
    const auto started = measured ? HelpBalance::now() - HelpBalance::thread_time() : 0;
    job.take_pieces(0);
    close(*slot, job, idle);
    if (measured) balance_.lost(HelpBalance::now() - HelpBalance::thread_time() - started);
  }
  if (job.failure) std::rethrow_exception(job.failure);
}

void ThreadTeam::close(Slot& slot, Job& job, const std::function<void()>* idle) {
  slot.state.fetch_and(~(kOpen | kRoom), std::memory_order_acq_rel);
  try {
    wait_until_empty(slot, idle);
  } catch (...) {
    job.fail(std::current_exception());
    wait_until_empty(slot, nullptr);
  }
  slot.state.store(0, std::memory_order_release);
}

// Null where all slots are in use.
ThreadTeam::Slot* ThreadTeam::open(Job& job) {
  const int wanted = job.threads - 1;
  if (job.wakes && helpers_.load(std::memory_order_relaxed) < wanted) add_helpers(wanted);
  for (Slot& slot : slots_) {
    std::uint32_t unused = 0;
    if (slot.state.load(std::memory_order_relaxed) != 0 ||
        !slot.state.compare_exchange_strong(unused, kUsed, std::memory_order_acq_rel))
      continue;
    slot.job = &job;
    slot.state.store(kUsed | kOpen | kOneMore * static_cast<std::uint32_t>(wanted), std::memory_order_release);
    announce(job.wakes ? wanted : 0);
    return &slot;
  }
  return nullptr;
}

void ThreadTeam::announce(int sleepers_to_wake) {
  announcements_.fetch_add(1);
  if (sleepers_to_wake > 0 && asleep_.load() > 0) wake(announcements_, sleepers_to_wake);
}

// Returns once nobody is inside the slot's job, which is closed.
void ThreadTeam::wait_until_empty(Slot& slot, const std::function<void()>* idle) {
  const auto inside = [&] { return slot.state.load(std::memory_order_acquire) & kInside; };
  if (idle != nullptr) slot.state.fetch_or(kAwaited, std::memory_order_acq_rel);
  while (inside() != 0) {
    if (idle != nullptr) {
      const std::uint32_t seen = announcements_.load();
      if (help()) continue;
      (*idle)();
      asleep_.fetch_add(1);
      if (inside() != 0) sleep_while(announcements_, seen, kNap);
      asleep_.fetch_sub(1);
      continue;
    }
    if (spin_until(kLookingForTheEnd, [&] { return inside() == 0; })) return;
    const std::uint32_t state = slot.state.fetch_or(kAwaited, std::memory_order_acq_rel) | kAwaited;
    if ((state & kInside) != 0) sleep_while(slot.state, state, kForever);
  }
}

void ThreadTeam::add_helpers(int wanted) {
  if (adding_.exchange(true, std::memory_order_acquire)) return;
  try {
    const SignalsBlocked blocked;
    while (helpers_.load(std::memory_order_relaxed) < wanted) {
      std::thread([this] { serve(); }).detach();
      helpers_.fetch_add(1, std::memory_order_relaxed);
    }
  } catch (const std::exception&) {
    // The system has no more threads to give. Those that there are do the work.
  }
  adding_.store(false, std::memory_order_release);
}

void ThreadTeam::serve() {
  const DefaultFloatEnvironment environment;
  for (;;) {
    const std::uint32_t seen = announcements_.load();
    if (help() || spin_until(kLookingForWork, [&] { return announcements_.load(std::memory_order_acquire) != seen; }))
      continue;
    asleep_.fetch_add(1);
    sleep_while(announcements_, seen, kForever);
    asleep_.fetch_sub(1);
  }
}

// Takes pieces of one open job. Returns whether there was one.
bool ThreadTeam::help() {
  for (Slot& slot : slots_) {
    const int thread = enter(slot);
    if (thread == 0) continue;
    const auto started = HelpBalance::thread_time();
    slot.job->take_pieces(thread);
    balance_.saved(HelpBalance::thread_time() - started);
    leave(slot);
    return true;
  }
  return false;
}

// Returns the number of this thread in the slot's job, 0 where it is not let in.
int ThreadTeam::enter(Slot& slot) {
  std::uint32_t state = slot.state.load(std::memory_order_acquire);
  do {
    if ((state & kOpen) == 0 || (state & kRoom) == 0) return 0;
  } while (!slot.state.compare_exchange_weak(state, state - kOneMore + 1, std::memory_order_acq_rel,
                                             std::memory_order_acquire));
  return static_cast<int>((state & kRoom) / kOneMore);
}

void ThreadTeam::leave(Slot& slot) {
  const std::uint32_t before = slot.state.fetch_sub(1, std::memory_order_acq_rel);
  if ((before & kInside) != 1 || (before & kAwaited) == 0) return;
  wake(slot.state, 1);
  announce(kMostThreads);
}

}  // namespace tokenprune::cpu
