// Selects in a program without torch: METHOD ELEMENT N D K THREADS, and on standard input the tokens [N, D], then the
// weights [N] in float32. Prints the indices, then the scores as hexadecimal floats.
#include <cstdio>
#include <cstdlib>
#include <string>

#include "kernels/isa.h"
#include "selection/divprune.h"
#include "selection/dpp.h"
#include "selection/idpruner.h"
#include "selection/mmr.h"
#include "threads/contention.h"

using namespace tokenprune::cpu;

namespace {

constexpr double kLam = 0.5;

template <class T>
std::vector<T> read(std::size_t count) {
  std::vector<T> values(count);
  if (std::fread(values.data(), sizeof(T), count, stdin) != count) std::exit(1);
  return values;
}

template <class T>
void select(const std::string& method, long count, long depth, long k, int threads) {
  const std::vector<T> tokens = read<T>(count * depth);
  const std::vector<float> weights = read<float>(count);
  const Rows<T> rows{tokens.data(), depth, count, depth};
  std::vector<std::int64_t> indices(k);
  std::vector<float> scores(k);
  const Picks picks{indices.data(), scores.data(), k, 0};
  for_each_item({1.0}, threads, nullptr, [&](std::int64_t, const Parallel& parallel) {
    if (method == "divprune") return divprune(rows, picks, parallel);
    if (method == "mmr") return mmr(rows, weights.data(), kLam, picks, parallel);
    if (method == "idpruner") return idpruner(rows, weights.data(), kLam, picks, parallel);
    if (method == "dpp") return dpp(rows, weights.data(), picks, parallel);
    std::exit(1);
  });
  for (const std::int64_t index : indices) std::printf("%ld ", static_cast<long>(index));
  for (const float score : scores) std::printf("%a ", score);
}

}  // namespace

int main(int, char** arguments) {
  const std::string method = arguments[1], element = arguments[2];
  const long count = std::atol(arguments[3]), depth = std::atol(arguments[4]), k = std::atol(arguments[5]);
  const int threads = std::atoi(arguments[6]);
  Contention::ignored = true;
  if (element == "float32") select<float>(method, count, depth, k, threads);
  if (element == "bfloat16") select<BFloat16>(method, count, depth, k, threads);
  if (element == "float16") select<Half>(method, count, depth, k, threads);
  std::printf("%s\n", name(current_isa()).c_str());
}
