"""The kernels of every instruction set, called one by one, without an operator and without torch's dispatcher."""

import importlib.util
import shutil
import subprocess
import sysconfig
from pathlib import Path

import numpy as np
import pytest
import torch

SOURCES = Path(__file__).parents[2] / "csrc" / "cpu"
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
DEPTHS = (1, 7, 31, 33, 64, 1_000, 4_099)  # shorter than a vector, tails, several chunks
NOBODY = -1

pytestmark = [
    pytest.mark.slow,  # compiles the kernels
    pytest.mark.skipif(not SOURCES.exists(), reason="needs the source tree"),
]


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    pybind11 = pytest.importorskip("pybind11")
    compiler = shutil.which("c++") or pytest.skip("needs a C++ compiler")
    library = tmp_path_factory.mktemp("kernel_table") / "kernel_table.so"
    flags = ["-std=c++20", "-O1", "-ffp-contract=off", "-fno-math-errno", "-fPIC", "-shared"]
    folders = [f"-I{folder}" for folder in (SOURCES, pybind11.get_include(), sysconfig.get_path("include"))]
    files = [Path(__file__).with_name("kernel_table.cpp"), *sorted((SOURCES / "kernels").glob("*.cpp"))]
    jobs = [
        subprocess.Popen(
            [compiler, *flags[:-1], *folders, "-c", str(file), "-o", str(library.with_name(f"{file.stem}.o"))]
        )
        for file in files
    ]
    assert [job.wait(timeout=600) for job in jobs] == [0] * len(jobs)
    subprocess.run([compiler, "-shared", *map(str, library.parent.glob("*.o")), "-o", str(library)], check=True)
    spec = importlib.util.spec_from_file_location("kernel_table", library)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(params=["portable", "avx2", "avx512", "avx512_bf16", "amx"])
def isa(request, table):
    if request.param not in table.supported_isas():
        pytest.skip(f"the processor has no {request.param}")
    table.force_isa(request.param)
    yield request.param
    table.force_isa("")


def rows(count, depth, dtype, seed=0):
    """Gaussian rows: as the kernels take them, and as float64."""
    x = torch.randn(count, depth, generator=torch.Generator().manual_seed(seed)).to(DTYPES[dtype])
    return (x if dtype == "float32" else x.view(torch.uint16)).numpy(), x.double().numpy()


@pytest.mark.parametrize("depth", DEPTHS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_dot_products_are_within_their_rounding_error(table, isa, dtype, depth):
    a, exact_a = rows(5, depth, dtype)
    b, exact_b = rows(19, depth, dtype, seed=1)
    # Of d terms that are added in any order: d roundings of half a unit in the last place, of products and sums.
    bound = (depth + 1) * 2.0**-24 * (np.abs(exact_a) @ np.abs(exact_b).T)
    for found in (getattr(table, f"by_rows_{dtype}")(a, b), getattr(table, f"by_tile_{dtype}")(a, b, 0)):
        assert (np.abs(found - exact_a @ exact_b.T) <= bound).all()


@pytest.mark.parametrize("depth", DEPTHS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_a_dot_product_has_the_same_bits_wherever_it_is_computed(table, isa, dtype, depth):
    by_rows, by_tile = (getattr(table, f"by_{way}_{dtype}") for way in ("rows", "tile"))
    x, _ = rows(40, depth, dtype)
    products = by_rows(x, x)
    assert (products == products.T).all()
    assert (by_rows(x, x[3:]) == products[:, 3:]).all()  # the other place of a pair
    tile = by_tile(x[:32], x, 0)
    for first in (0, 16, 32):
        for height in (1, 5, 6, 7, 32):
            assert (by_tile(x[32 - height : 32], x, first) == tile[32 - height :, first:]).all()
    assert (by_tile(x[8:], x[:16], 0) == by_tile(x[:16], x[8:], 0).T).all()
    if getattr(table, f"same_summation_order_{dtype}")():
        assert (tile == products[:32]).all()


@pytest.mark.parametrize("dtype", DTYPES)
def test_signatures_agree_where_rows_are_alike(table, isa, dtype):
    depth, signatures = 4_096, getattr(table, f"signatures_{dtype}")
    generator = torch.Generator().manual_seed(2)
    x = torch.randn(depth, generator=generator)
    noise = torch.randn(depth, generator=generator)
    family = torch.stack([x, 2 * x, x + 0.2 * noise, x + noise, noise, -x]).to(DTYPES[dtype])
    words = signatures((family if dtype == "float32" else family.view(torch.uint16)).numpy())
    distances = [sum((mine ^ first).bit_count() for mine, first in zip(each, words[0], strict=True)) for each in words]
    assert distances[0] == distances[1] == 0
    assert distances[5] == 256
    # The share of bits that differ is the angle over pi (Charikar 2002): 11, 45 and 90 degrees.
    for distance, degrees in zip(distances[2:5], (11.3, 45.0, 90.0), strict=True):
        expected = degrees / 180
        assert abs(distance / 256 - expected) < 4 * (expected * (1 - expected) / 256) ** 0.5


def test_the_most_alike_are_the_first_of_the_sorted_distances(table, isa):
    random = np.random.default_rng(0)

    def signatures(count):
        """Few bits are set, so that many distances are equal."""
        drawn = random.integers(0, 2**64, size=(3, count, 4), dtype=np.uint64)
        return np.bitwise_and.reduce(drawn).tolist()

    for count in range(3, 70):
        for _ in range(5):
            (mine,), others = signatures(1), signatures(count)
            order = sorted(
                (sum((a ^ b).bit_count() for a, b in zip(mine, other, strict=True)), i)
                for i, other in enumerate(others)
            )
            for left_out in (NOBODY, int(random.integers(count))):
                expected = [i for _, i in order if i != left_out][:2]
                assert table.most_alike(mine, others, left_out) == expected, (count, left_out)


@pytest.mark.parametrize("width", [1, 5, 16, 67])
def test_products_are_subtracted_one_by_one(table, isa, width):
    random = np.random.default_rng(1)
    values, factors, matrix = (random.normal(size=size).astype(np.float32) for size in (width, 9, (9, width)))
    expected = values.copy()
    for factor, row in zip(factors, matrix, strict=True):
        expected -= factor * row
    assert table.subtract_products(values, factors, matrix).tolist() == expected.tolist()
