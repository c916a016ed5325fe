// How the library asks a Python that it runs in about signals. The library itself needs no Python: backends/native.py
// hands it the functions of the interpreter.
#include <stdexcept>

#include "threads/interrupt.h"

namespace {

struct Python {
  unsigned long (*thread_ident)();
  int (*take_lock)();
  int (*check_signals)();
  void (*release_lock)(int);
  unsigned long main_thread;
} python;

// Python runs signal handlers, that of Ctrl-C among them, on its main thread and only when that thread checks for
// signals. Other threads must not check: taking Python's lock while the interpreter shuts down ends the thread.
void run_signal_handlers() {
  if (python.thread_ident() != python.main_thread) return;
  const int lock = python.take_lock();
  const int raised = python.check_signals();
  python.release_lock(lock);
  // What the handler raised stays pending in Python, and becomes the cause of the error that this is there.
  if (raised != 0) throw std::runtime_error("a signal handler has ended the selection");
}

}  // namespace

// Takes PyThread_get_thread_ident, PyGILState_Ensure, PyErr_CheckSignals, PyGILState_Release and the main thread.
extern "C" __attribute__((visibility("default"))) void tokenprune_check_signals(unsigned long (*thread_ident)(),
                                                                                int (*take_lock)(),
                                                                                int (*check_signals)(),
                                                                                void (*release_lock)(int),
                                                                                unsigned long main_thread) {
  python = {thread_ident, take_lock, check_signals, release_lock, main_thread};
  tokenprune::cpu::throw_if_interrupted = run_signal_handlers;
}
