// The kernel tables of csrc/cpu/kernels as a module of Python, without torch: tests call single kernels with it. An
// element of bfloat16 or float16 is passed as its bits, uint16.
#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <vector>

#include "kernels/isa.h"
#include "kernels/kernels.h"

namespace py = pybind11;
using namespace tokenprune::cpu;

namespace {

template <class Bits>
using Array = py::array_t<Bits, py::array::c_style>;

// The rows of a two-dimensional array.
template <class T, class Bits>
std::vector<const T*> rows(const Array<Bits>& array) {
  static_assert(sizeof(T) == sizeof(Bits));
  std::vector<const T*> result(array.shape(0));
  for (std::size_t i = 0; i < result.size(); ++i) result[i] = reinterpret_cast<const T*>(array.data(i, 0));
  return result;
}

template <class T, class Bits>
Array<float> by_rows(const Array<Bits>& a, const Array<Bits>& b) {
  const std::vector<const T*> mine = rows<T>(a), others = rows<T>(b);
  Array<float> out({a.shape(0), b.shape(0)});
  for (std::size_t i = 0; i < mine.size(); ++i)
    for (std::size_t j = 0; j < others.size(); j += 2)
      current_kernels<T>().of_row(mine[i], &others[j], std::min<std::int64_t>(2, others.size() - j), a.shape(1),
                                  out.mutable_data(i, j));
  return out;
}

// One tile, whose columns are the rows of b from `first` on.
template <class T, class Bits>
Array<float> by_tile(const Array<Bits>& a, const Array<Bits>& b, std::int64_t first) {
  const std::vector<const T*> mine = rows<T>(a), others = rows<T>(b);
  const std::int64_t count = others.size(), columns = count - first;
  if (a.shape(0) > kTileRows || columns > kTileColumns || first % kPanelGroup != 0)
    throw py::value_error("by_tile: expected at most 32 rows and 64 columns, from a multiple of 16 on");
  Panel<T> panel(a.shape(1), count);
  const Kernels<T> kernels = current_kernels<T>();
  for (std::int64_t j = 0; j < count; j += kPanelGroup)
    kernels.pack(&others[j], std::min(kPanelGroup, count - j), panel, j);
  Buffer<float> scratch(kTileScratch);
  Array<float> out({a.shape(0), static_cast<py::ssize_t>(columns)});
  kernels.of_tile(mine.data(), mine.size(), panel, first, columns, scratch.data(), out.mutable_data(), columns);
  return out;
}

template <class T, class Bits>
std::vector<Signature> signatures(const Array<Bits>& x) {
  std::vector<Signature> result;
  for (const T* row : rows<T>(x)) result.push_back(current_kernels<T>().signature(row, x.shape(1)));
  return result;
}

template <class T, class Bits>
void define_for(py::module_& module, const std::string& dtype) {
  module.def(("by_rows_" + dtype).c_str(), by_rows<T, Bits>);
  module.def(("by_tile_" + dtype).c_str(), by_tile<T, Bits>);
  module.def(("signatures_" + dtype).c_str(), [](const Array<Bits>& x) {
    std::vector<std::array<std::uint64_t, 4>> words;
    for (const Signature& each : signatures<T>(x)) words.push_back(each.words);
    return words;
  });
  module.def(("same_summation_order_" + dtype).c_str(), [] { return current_kernels<T>().same_summation_order; });
}

}  // namespace

PYBIND11_MODULE(kernel_table, module) {
  define_for<float, float>(module, "float32");
  define_for<BFloat16, std::uint16_t>(module, "bfloat16");
  define_for<Half, std::uint16_t>(module, "float16");
  module.def("force_isa", force_isa);
  module.def("supported_isas", [] {
    std::vector<std::string> names;
    for (const Isa isa : supported_isas()) names.push_back(name(isa));
    return names;
  });
  module.def("most_alike", [](std::array<std::uint64_t, 4> words,
                              const std::vector<std::array<std::uint64_t, 4>>& others, std::int64_t except) {
    std::vector<Signature> list;
    for (const auto& each : others) list.push_back({each});
    return current_kernels<BFloat16>().most_alike({words}, list.data(), list.size(), except);
  });
  module.def("subtract_products", [](Array<float> values, const Array<float>& factors, const Array<float>& matrix) {
    current_kernels<float>().subtract_products(values.mutable_data(), values.size(), factors.data(), 1, matrix.data(),
                                               matrix.shape(1), factors.size());
    return values;
  });
}
