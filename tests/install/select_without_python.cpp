// Loads the compiled operators and selects, in a process without Python: LIBRARY N D K, and float32 tokens [N, D] on
// standard input. Prints the indices, then the scores as hexadecimal floats.
#include <dlfcn.h>
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include <array>
#include <cstdio>
#include <cstdlib>
#include <optional>

using torch::stable::Tensor;
namespace values = torch::stable::detail;

int main(int, char** arguments) {
  if (dlopen(arguments[1], RTLD_NOW) == nullptr) return std::fprintf(stderr, "%s\n", dlerror()), 1;
  if (dlsym(RTLD_DEFAULT, "Py_IsInitialized") != nullptr) return std::fprintf(stderr, "Python is there\n"), 1;
  const long count = std::atol(arguments[2]), depth = std::atol(arguments[3]), k = std::atol(arguments[4]);

  const std::array<std::int64_t, 2> shape{count, depth};
  const Tensor x = torch::stable::empty(shape, torch::headeronly::ScalarType::Float);
  const std::size_t elements = count * depth;
  if (std::fread(x.mutable_data_ptr(), sizeof(float), elements, stdin) != elements) return 1;

  const std::optional<Tensor> no_initial;
  std::array<StableIValue, 3> stack{values::from(x), values::from(k), values::from(no_initial)};
  TORCH_ERROR_CODE_CHECK(
      torch_call_dispatcher("tokenprune_native::divprune", "scores", stack.data(), TORCH_ABI_VERSION));
  const auto indices = values::to<Tensor>(stack[0]), scores = values::to<Tensor>(stack[1]);
  for (long i = 0; i < k; ++i) std::printf("%ld ", static_cast<const long*>(indices.const_data_ptr())[i]);
  for (long i = 0; i < k; ++i) std::printf("%a ", static_cast<const float*>(scores.const_data_ptr())[i]);

  std::array<StableIValue, 3> too_many{values::from(x), values::from(count + 1), values::from(no_initial)};
  const bool refused =
      torch_call_dispatcher("tokenprune_native::divprune", "", too_many.data(), TORCH_ABI_VERSION) != 0;
  std::printf("%s\n", refused ? "refused" : "accepted");
}
