// Stress of csrc/cpu/threads: threads, jobs, batches and processors, without torch. Exits with 0 when every check
// holds. test_thread_team.py builds and runs it, under sanitizers too.
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <random>
#include <stdexcept>
#include <string>
#include <thread>

#include "contention.h"
#include "parallel.h"
#include "processors.h"

using namespace tokenprune::cpu;

#define CHECK(condition)                                                    \
  do {                                                                      \
    if (!(condition)) {                                                     \
      std::fprintf(stderr, "line %d: expected %s\n", __LINE__, #condition); \
      std::_Exit(1);                                                        \
    }                                                                       \
  } while (false)

namespace {

constexpr int kThreads = 4;

// Every element of a loop is done once, and a thread number belongs to one thread at a time.
void check_loop(const Parallel& parallel, std::int64_t count, std::int64_t grain,
                std::chrono::microseconds pause = {}) {
  std::vector<int> visits(count);
  std::vector<std::int64_t> sums(parallel.threads());
  std::vector<std::atomic<int>> inside(parallel.threads());
  parallel(count, grain, [&](std::int64_t begin, std::int64_t end, int thread) {
    CHECK(thread >= 0 && thread < parallel.threads());
    CHECK(inside[thread].fetch_add(1) == 0);
    const bool alone = begin == 0 && end == count && thread == 0;
    CHECK(begin < end && end <= count && (end - begin <= grain || alone));
    if (pause.count() > 0) std::this_thread::sleep_for(pause);
    for (std::int64_t i = begin; i < end; ++i) {
      ++visits[i];
      sums[thread] += i;  // a data race if two threads had one number
    }
    inside[thread].fetch_sub(1);
  });
  for (const int visit : visits) CHECK(visit == 1);
  CHECK(std::accumulate(sums.begin(), sums.end(), std::int64_t{0}) == count * (count - 1) / 2);
}

void loops(unsigned seed, int rounds) {
  std::mt19937 random(seed);
  for (int round = 0; round < rounds; ++round)
    check_loop(Parallel(1 + random() % kThreads, nullptr, nullptr), random() % 300, 1 + random() % 40);
}

// While a piece sleeps, other threads begin pieces, however few processors there are.
void slow_loops(int rounds) {
  for (int round = 0; round < rounds; ++round)
    check_loop(Parallel(kThreads - round % 3, nullptr, nullptr), 40, 1, std::chrono::microseconds(500));
}

// Items whose selections share their steps, as in a batch.
void batches(unsigned seed, int rounds) {
  std::mt19937 random(seed);
  for (int round = 0; round < rounds; ++round) {
    std::vector<double> work(random() % 12);
    for (double& each : work) each = random() % 5;
    std::vector<std::atomic<int>> done(work.size());
    InterruptCheck interrupts;
    for_each_item(work, kThreads, &interrupts, [&](std::int64_t item, const Parallel& parallel) {
      for (int step = 0; step < 3; ++step) check_loop(parallel, 20 + item * 17, 5);
      ++done[item];
    });
    for (const auto& each : done) CHECK(each == 1);
  }
}

// After a piece has thrown, no thread begins another one.
void pieces_after_a_failure(int rounds) {
  for (int round = 0; round < rounds; ++round) {
    std::atomic<int> begun{0};
    bool caught = false;
    try {
      Parallel(kThreads, nullptr, nullptr)(100, 1, [&](std::int64_t, std::int64_t, int) {
        ++begun;
        throw std::runtime_error("piece");
      });
    } catch (const std::runtime_error&) {
      caught = true;
    }
    CHECK(caught);
    CHECK(begun <= kThreads);
  }
}

void failures(int rounds) {
  for (int round = 0; round < rounds; ++round) {
    int caught = 0;
    try {
      Parallel(kThreads, nullptr, nullptr)(100, 1, [&](std::int64_t begin, std::int64_t, int) {
        if (begin % 10 == round % 10) throw std::runtime_error("piece");
      });
    } catch (const std::runtime_error& error) {
      CHECK(std::string(error.what()) == "piece");
      ++caught;
    }
    // A failing item ends the others at their next step, and it is the item's own exception that comes out.
    std::atomic<int> steps{0};
    try {
      for_each_item(std::vector<double>(8, 1.0), kThreads, nullptr, [&](std::int64_t item, const Parallel& parallel) {
        if (item == round % kThreads) throw std::runtime_error("item");
        for (int step = 0; step < 100'000; ++step) {
          ++steps;
          parallel(1, 1, [](std::int64_t, std::int64_t, int) {});
          std::this_thread::sleep_for(std::chrono::microseconds(10));
        }
      });
    } catch (const std::runtime_error& error) {
      CHECK(std::string(error.what()) == "item");
      ++caught;
    }
    CHECK(caught == 2);
    CHECK(steps < 8 * 100'000);
    loops(round, 3);
  }
}

struct Interrupted {};

// A caller that waits for others' items still asks whether the user wants to stop.
void interruptions() {
  throw_if_interrupted = [] { throw Interrupted(); };
  for (const std::int64_t pieces : {1, 40}) {  // steps on one thread, and steps that are shared
    bool caught = false;
    try {
      InterruptCheck interrupts;
      for_each_item({2.0, 1.0}, 2, &interrupts, [&](std::int64_t item, const Parallel& parallel) {
        for (int step = 0; step < (item == 0 ? 1 : 1'000'000); ++step)
          parallel(pieces, 1, [](std::int64_t, std::int64_t, int) {
            std::this_thread::sleep_for(std::chrono::microseconds(100));
          });
      });
    } catch (const Interrupted&) {
      caught = true;
    }
    CHECK(caught);
  }
  throw_if_interrupted = nullptr;
}

template <class Function>
void from_threads(int callers, const Function& function) {
  std::vector<std::thread> threads;
  for (int caller = 0; caller < callers; ++caller) threads.emplace_back([&, caller] { function(caller); });
  for (std::thread& thread : threads) thread.join();
}

// A caller that waits for the last of its own items does no items of others.
void batches_of_two_callers() {
  const std::thread::id caller = std::this_thread::get_id();
  for (int round = 0; round < 20; ++round) {
    std::atomic<bool> helped{false};
    std::atomic<int> done{0};
    std::thread other([&] {
      while (!helped) std::this_thread::yield();
      for_each_item(std::vector<double>(30, 1.0), kThreads, nullptr, [&](std::int64_t, const Parallel&) {
        CHECK(std::this_thread::get_id() != caller);
        std::this_thread::sleep_for(std::chrono::microseconds(100));
        ++done;
      });
    });
    // A helper does one of the two items until the other batch is done.
    for_each_item({1.0, 1.0}, kThreads, nullptr, [&](std::int64_t, const Parallel&) {
      const bool helper = std::this_thread::get_id() != caller;
      if (helper) helped = true;
      while (helper ? done < 30 : !helped) std::this_thread::yield();
    });
    other.join();
  }
}

thread_local bool ours = false;
std::atomic<int> handled_elsewhere{0}, handled{0};

// Signals are handled by the application's threads.
void signals() {
  ours = true;
  struct sigaction action{};
  action.sa_handler = [](int) { ++(ours ? handled : handled_elsewhere); };
  sigaction(SIGUSR1, &action, nullptr);
  std::atomic<bool> stop{false};
  std::thread sender([&] {
    ours = true;
    while (!stop) {
      kill(getpid(), SIGUSR1);
      std::this_thread::sleep_for(std::chrono::microseconds(200));
    }
  });
  for (unsigned seed = 0; seed < 100'000 && handled + handled_elsewhere < 50; ++seed) loops(seed, 10);
  stop = true;
  sender.join();
  CHECK(handled > 0 && handled_elsewhere == 0);
}

// Whether a helper does a piece of a loop, sooner or later.
bool helped() {
  std::atomic<int> pieces{0};
  for (int attempt = 0; attempt < 100 && pieces == 0; ++attempt)
    Parallel(kThreads, nullptr, nullptr)(40, 1, [&](std::int64_t, std::int64_t, int thread) {
      if (thread != 0) ++pieces;
      std::this_thread::sleep_for(std::chrono::microseconds(500));
    });
  return pieces > 0;
}

using PoolFunction = void (*)(std::int64_t begin, std::int64_t end, void* context);

// Its threads begin late, some after the work is done.
void pool_of_threads(int threads, PoolFunction function, void* context) {
  std::vector<std::thread> others;
  for (int i = 1; i < threads; ++i)
    others.emplace_back([=] {
      std::this_thread::sleep_for(std::chrono::microseconds(300 * (i - 1)));
      function(i, i + 1, context);
    });
  function(0, 1, context);
  for (std::thread& other : others) other.join();
}

void pool_of_one(int threads, PoolFunction function, void* context) { function(0, threads, context); }

void no_pool(int, PoolFunction, void*) { CHECK(!"a pool whose threads may not exist is not asked"); }

// Work is done once, by threads of a pool, whatever these do and whoever else works.
void borrowed_threads(unsigned seed, int rounds, bool only_caller) {
  for (int round = 0; round < rounds; ++round) {
    const auto pool = round % 4 == 3 ? pool_of_one : pool_of_threads;
    int calls = 0;
    ThreadTeam::get().run_with(pool, kThreads, [&] {
      ++calls;
      loops(seed + round, 20);
      batches(seed + round, 3);
      ThreadTeam::get().run_with(only_caller ? no_pool : pool, kThreads, [&] { ++calls; });  // nested
    });
    CHECK(calls == 2);
    bool caught = false;
    try {
      ThreadTeam::get().run_with(pool, kThreads, [] { throw std::runtime_error("work"); });
    } catch (const std::runtime_error& error) {
      caught = std::string(error.what()) == "work";
    }
    CHECK(caught);
  }
  ThreadTeam::get().run_with(no_pool, 1, [] {});
}

// Other threads than the caller's do pieces: those of the pool, or the team's where the pool has none.
void borrowed_threads_help(void (*pool)(int, PoolFunction, void*)) {
  std::atomic<bool> helped{false};
  const std::thread::id caller = std::this_thread::get_id();
  for (int round = 0; round < 100 && !helped; ++round)
    ThreadTeam::get().run_with(pool, 2, [&] {
      Parallel(2, nullptr, nullptr)(20, 1, [&](std::int64_t, std::int64_t, int) {
        std::this_thread::sleep_for(std::chrono::microseconds(500));
        if (std::this_thread::get_id() != caller) helped = true;
      });
    });
  CHECK(helped);
}

// Whoever has waited for borrowed threads works alone for a while, then with threads of the team.
void contention() {
  constexpr Nanoseconds kLong = 5'000'000;
  Contention::ignored = false;
  Contention own, borrower;
  own.waited(kLong);
  CHECK(own.present() && own.may_borrow());
  borrower.borrow(true);
  CHECK(!borrower.present() && borrower.may_borrow());
  borrower.waited(kLong);
  CHECK(borrower.present() && !borrower.may_borrow());
  std::this_thread::sleep_for(std::chrono::milliseconds(30));
  CHECK(!borrower.present() && !borrower.may_borrow());
  std::this_thread::sleep_for(std::chrono::milliseconds(250));
  CHECK(borrower.may_borrow());
  Contention::ignored = true;
}

// A child makes helpers of its own.
void forks() {
  CHECK(helped());
  for (int child = 0; child < 5; ++child) {
    const pid_t pid = fork();
    if (pid == 0) {
      alarm(20);
      CHECK(helped());
      loops(child, 50);
      batches(child, 5);
      ThreadTeam::get().run_with(no_pool, kThreads, [] { loops(5, 20); });
      std::_Exit(0);
    }
    int status = 0;
    CHECK(waitpid(pid, &status, 0) == pid && WIFEXITED(status) && WEXITSTATUS(status) == 0);
  }
  loops(2, 20);
}

void write(const std::string& path, const std::string& text) {
  for (auto slash = path.find('/', 1); slash != std::string::npos; slash = path.find('/', slash + 1))
    mkdir(path.substr(0, slash).c_str(), 0700);
  std::ofstream(path) << text;
}

void control_groups(const std::string& root) {
  CHECK(control_group_limit(root + "/nothing") == 0);
  const std::string two = root + "/two", one = root + "/one", both = root + "/both";
  write(two + "/proc/self/cgroup", "0::/a/b\n");
  write(two + "/sys/fs/cgroup/cpu.max", "max 100000\n");
  CHECK(control_group_limit(two) == 0);
  write(two + "/sys/fs/cgroup/a/cpu.max", "250000 100000\n");
  write(two + "/sys/fs/cgroup/a/b/cpu.max", "max 100000\n");
  CHECK(control_group_limit(two) == 3);
  write(two + "/sys/fs/cgroup/a/b/cpu.max", "50000 100000\n");
  CHECK(control_group_limit(two) == 1);
  write(one + "/proc/self/cgroup", "5:cpuset:/\n3:cpu,cpuacct:/c\n0::/\n");
  write(one + "/sys/fs/cgroup/cpu,cpuacct/c/cpu.cfs_quota_us", "-1\n");
  write(one + "/sys/fs/cgroup/cpu,cpuacct/c/cpu.cfs_period_us", "100000\n");
  CHECK(control_group_limit(one) == 0);
  write(one + "/sys/fs/cgroup/cpu,cpuacct/c/cpu.cfs_quota_us", "400000\n");
  CHECK(control_group_limit(one) == 4);
  write(both + "/proc/self/cgroup", "3:cpu:/\n0::/\n");
  write(both + "/sys/fs/cgroup/cpu/cpu.cfs_quota_us", "600000\n");
  write(both + "/sys/fs/cgroup/cpu/cpu.cfs_period_us", "100000\n");
  write(both + "/sys/fs/cgroup/cpu.max", "200000 100000\n");
  CHECK(control_group_limit(both) == 2);
  CHECK(available_processors() >= 1);
}

}  // namespace

int main(int, char** arguments) {
  const bool forking = std::string(arguments[2]) == "fork";
  Contention::ignored = true;
  control_groups(arguments[1]);
  loops(0, 10'000);
  slow_loops(12);
  from_threads(8, [](int caller) { loops(caller, 2'000); });
  from_threads(80, [](int caller) { loops(caller, 50); });  // more callers than slots
  batches(0, 300);
  from_threads(4, [](int caller) { batches(caller, 100); });
  batches_of_two_callers();
  borrowed_threads(0, 30, true);
  from_threads(4, [](int caller) { borrowed_threads(caller, 10, false); });
  borrowed_threads_help(pool_of_threads);
  borrowed_threads_help(pool_of_one);
  contention();
  failures(30);
  pieces_after_a_failure(30);
  interruptions();
  signals();
  if (forking) forks();
  // Helpers are still awake when the process ends.
  loops(3, 10);
  std::puts("done");
}
