// How the steps of a selection are shared among threads, and the items of a batch.
#pragma once

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <functional>
#include <numeric>
#include <vector>

#include "interrupt.h"
#include "thread_team.h"

namespace tokenprune::cpu {

// Ends the work of a thread on an item after another thread has failed.
struct Stopped {};

// What an item's selection runs its steps with. Each step is a loop over rows or tiles.
class Parallel {
 public:
  // `interrupts` is null on threads that must not ask for signals; `stopped` is null outside a batch.
  Parallel(int threads, InterruptCheck* interrupts, const std::atomic<bool>* stopped)
      : threads_(threads), interrupts_(interrupts), stopped_(stopped) {
    if (threads > 1) ThreadTeam::begin_work();
  }

  // The most threads that may call a body: scratch memory is made for so many.
  int threads() const { return threads_; }

  // Calls body(begin, end, thread) for pieces of [0, count), at most `grain` long if they are shared, and returns when
  // all are done. No result depends on how the range is split, or on who does which piece.
  template <class Body>
  void operator()(std::int64_t count, std::int64_t grain, const Body& body) const {
    if (stopped_ != nullptr && stopped_->load(std::memory_order_relaxed)) throw Stopped();
    if (interrupts_ != nullptr) (*interrupts_)();
    if (count <= 0) return;
    if (threads_ == 1 || count <= grain) return body(0, count, 0);
    const auto call = [](const void* context, std::int64_t begin, std::int64_t end, int thread) {
      (*static_cast<const Body*>(context))(begin, end, thread);
    };
    // A woken thread takes about as long to begin as the caller takes for some pieces.
    constexpr std::int64_t kPiecesWorthWaking = 4;
    Job job(call, &body, count, grain, threads_, /*wakes=*/count >= kPiecesWorthWaking * grain);
    ThreadTeam::get().run(job);
  }

 private:
  int threads_;
  InterruptCheck* interrupts_;
  const std::atomic<bool>* stopped_;
};

// Calls select(item, parallel) for every item. Threads take items one by one, those with the most work first; a thread
// that finds none left helps with the steps of the others' items.
template <class Select>
void for_each_item(const std::vector<double>& work, int threads, InterruptCheck* interrupts, const Select& select) {
  const std::int64_t count = static_cast<std::int64_t>(work.size());
  if (count == 1 || threads == 1) {
    const Parallel parallel(threads, interrupts, nullptr);
    for (std::int64_t item = 0; item < count; ++item) select(item, parallel);
    return;
  }
  std::vector<std::int64_t> order(count);
  std::iota(order.begin(), order.end(), 0);
  std::stable_sort(order.begin(), order.end(), [&](std::int64_t i, std::int64_t j) { return work[i] > work[j]; });

  struct Context {
    const std::vector<std::int64_t>& order;
    const Select& select;
    int threads;
    InterruptCheck* interrupts;
    Job* job;
  } context{order, select, threads, interrupts, nullptr};
  const auto call = [](const void* pointer, std::int64_t begin, std::int64_t end, int thread) {
    const auto& batch = *static_cast<const Context*>(pointer);
    const Parallel parallel(batch.threads, thread == 0 ? batch.interrupts : nullptr, &batch.job->failed);
    for (std::int64_t i = begin; i < end; ++i) batch.select(batch.order[i], parallel);
  };
  Job job(call, &context, count, /*grain=*/1, threads, /*wakes=*/true);
  context.job = &job;
  const std::function<void()> idle = [interrupts] {
    if (interrupts != nullptr) (*interrupts)();
  };
  job.idle = &idle;
  ThreadTeam::get().run(job);
}

}  // namespace tokenprune::cpu
