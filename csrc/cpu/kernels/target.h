// How a function is compiled for one instruction set in a build for any processor. A file defines TOKENPRUNE_TARGET,
// the attribute that names its instructions, before the first function that uses them.
#pragma once

// A short function that must be inlined into its caller, so that vectors stay in registers.
#define TOKENPRUNE_INLINE TOKENPRUNE_TARGET __attribute__((always_inline)) inline
