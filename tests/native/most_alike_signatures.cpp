// Compares every instruction set's search for similar signatures with a sort of all distances. Exits with 0 when all
// agree; prints the sets.
#include <algorithm>
#include <bit>
#include <cstdio>
#include <cstdlib>
#include <random>

#include "kernels/isa.h"
#include "kernels/kernels.h"

using namespace tokenprune::cpu;

namespace {

constexpr std::int64_t kNobody = -1;

Pair expected(const Signature& signature, const std::vector<Signature>& others, std::int64_t except) {
  std::vector<std::pair<int, std::int64_t>> order;
  for (std::size_t i = 0; i < others.size(); ++i) {
    int distance = 0;
    for (std::size_t word = 0; word < signature.words.size(); ++word)
      distance += std::popcount(signature.words[word] ^ others[i].words[word]);
    if (static_cast<std::int64_t>(i) != except) order.emplace_back(distance, i);
  }
  std::sort(order.begin(), order.end());
  return {order[0].second, order[1].second};
}

}  // namespace

int main() {
  std::mt19937_64 random(0);
  // Few bits differ, so that many distances are equal.
  const auto signature = [&] {
    Signature result;
    for (std::uint64_t& word : result.words) word = random() & random() & random();
    return result;
  };
  for (const Isa isa : supported_isas()) {
    force_isa(name(isa));
    const MostAlike most_alike = current_kernels<BFloat16>().most_alike;
    for (std::size_t count = 3; count < 70; ++count)
      for (int round = 0; round < 20; ++round) {
        std::vector<Signature> others(count);
        for (Signature& other : others) other = signature();
        const Signature mine = signature();
        const std::int64_t except = round % 2 == 0 ? kNobody : static_cast<std::int64_t>(random() % count);
        if (most_alike(mine, others.data(), count, except) != expected(mine, others, except)) {
          std::printf("%s, %zu signatures, except %ld\n", name(isa).c_str(), count, static_cast<long>(except));
          return 1;
        }
      }
    std::printf("%s ", name(isa).c_str());
  }
}
