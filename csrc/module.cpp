// How the library asks a Python that it runs in about signals. The library itself needs no Python: backends/native.py
// hands it the functions of the interpreter.
#include <cstring>
#include <stdexcept>
#include <utility>

#include "threads/interrupt.h"

namespace {

// Their names in Python's C interface stand beside them. An object is known by its address alone.
struct Python {
  unsigned long (*thread_ident)();                         // PyThread_get_thread_ident
  int (*take_lock)();                                      // PyGILState_Ensure
  void (*release_lock)(int);                               // PyGILState_Release
  int (*check_signals)();                                  // PyErr_CheckSignals
  void (*take_exception)(void**, void**, void**);          // PyErr_Fetch
  void (*make_whole)(void**, void**, void**);              // PyErr_NormalizeException
  int (*set_traceback)(void* exception, void* traceback);  // PyException_SetTraceback
  void (*forget)(void*);                                   // Py_DecRef
};

Python python;
unsigned long main_thread;
void* raised;  // by a signal handler; looked at on the main thread alone, which alone throws, with Python's lock
constexpr char kEnded[] = "a signal handler has ended the selection";

// Takes what the handler raised. It cannot stay pending: some releases of torch drop it on the way to their caller.
void keep_exception() {
  void *type = nullptr, *value = nullptr, *traceback = nullptr;
  python.take_exception(&type, &value, &traceback);
  python.make_whole(&type, &value, &traceback);
  if (traceback != nullptr) python.set_traceback(value, traceback);
  for (void* object : {type, traceback, std::exchange(raised, value)})
    if (object != nullptr) python.forget(object);
}

// Python runs signal handlers, that of Ctrl-C among them, on its main thread and only when that thread checks for
// signals. Other threads must not check: taking Python's lock while the interpreter shuts down ends the thread.
void run_signal_handlers() {
  if (python.thread_ident() != main_thread) return;
  const int lock = python.take_lock();
  const bool ended = python.check_signals() != 0;
  if (ended) keep_exception();
  python.release_lock(lock);
  if (ended) throw std::runtime_error(kEnded);
}

}  // namespace

extern "C" __attribute__((visibility("default"))) void tokenprune_check_signals(const Python* functions,
                                                                                unsigned long thread) {
  python = *functions;
  main_thread = thread;
  tokenprune::cpu::throw_if_interrupted = run_signal_handlers;
}

// Returns what a signal handler raised, once, if `error` says that it ended the selection, in whatever words torch puts
// around it; otherwise null. An earlier exception may still be here: a direct call by torch.ops does not take it.
extern "C" __attribute__((visibility("default"))) void* tokenprune_take_exception(const char* error) {
  return std::strstr(error, kEnded) != nullptr ? std::exchange(raised, nullptr) : nullptr;
}
