// What the library was built with, and what it runs on, as JSON.
#pragma once

#include <torch/headeronly/version.h>

#include <string>
#include <vector>

#include "kernels/isa.h"
#include "threads/processors.h"

namespace tokenprune::cpu {

inline std::string build_info() {
  const auto quoted = [](const std::string& text) { return '"' + text + '"'; };
  std::string supported;
  for (const Isa isa : supported_isas()) supported += (supported.empty() ? "" : ", ") + quoted(name(isa));
  return "{\"torch\": " + quoted(TORCH_VERSION) + ", \"compiler\": " + quoted(__VERSION__) +
         ", \"isa\": " + quoted(name(current_isa())) +                                //
         ", \"isa_by_dtype\": {\"bfloat16\": " + quoted(name(isa_for<BFloat16>())) +  //
         ", \"float16\": " + quoted(name(isa_for<Half>())) +                          //
         ", \"float32\": " + quoted(name(isa_for<float>())) +                         //
         "}, \"supported_isas\": [" + supported +
         "], \"available_processors\": " + std::to_string(available_processors()) + "}";
}

}  // namespace tokenprune::cpu
