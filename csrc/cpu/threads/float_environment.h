// Round to nearest and keep subnormals while computing, whatever the calling thread has set: worker threads do not
// inherit torch.set_flush_denormal, and bits must not depend on which thread computes.
#pragma once

#if defined(__x86_64__)
#include <xmmintrin.h>
#endif

namespace tokenprune::cpu {

class DefaultFloatEnvironment {
 public:
#if defined(__x86_64__)
  DefaultFloatEnvironment() : saved_(_mm_getcsr()) { _mm_setcsr(0x1f80); }
  ~DefaultFloatEnvironment() { _mm_setcsr(saved_); }

 private:
  unsigned int saved_;

 public:
#else
  DefaultFloatEnvironment() = default;
#endif
  DefaultFloatEnvironment(const DefaultFloatEnvironment&) = delete;
  DefaultFloatEnvironment& operator=(const DefaultFloatEnvironment&) = delete;
};

}  // namespace tokenprune::cpu
