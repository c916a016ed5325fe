"""All mutants, and the rooms whose tests they meet first."""

from typing import NamedTuple

from tests.mutants import distributed, native, python, triton

NATIVE = "not slow and not gpu and not interpret and not alone"
INTERPRETED = "interpret and not slow"


class Room(NamedTuple):
    """The tests that are responsible for a part of the source."""

    marks: str
    tests: tuple[str, ...]
    needs_build: bool = False  # whether the tests run the compiled extension of the part


ROOMS = {
    "threads": Room(
        NATIVE,
        ("tests/native/test_thread_team.py", "tests/native/test_interrupt.py", "tests/operators/test_properties.py"),
        needs_build=True,
    ),
    "selection": Room(
        NATIVE,
        (
            "tests/native/test_block_sizes.py",
            "tests/operators/test_edge_rows.py",
            "tests/operators/test_initial.py",
            "tests/operators/test_dpp.py",
            "tests/operators/test_selection.py",
            "tests/operators/test_varlen.py",
        ),
        needs_build=True,
    ),
    "kernels": Room(
        NATIVE,
        ("tests/native/test_kernel_table.py", "tests/native/test_isa.py", "tests/native/test_block_sizes.py"),
        needs_build=True,
    ),
    "operators": Room(
        NATIVE,
        ("tests/native/test_parallel_region.py", "tests/operators/test_errors.py", "tests/operators/test_varlen.py"),
        needs_build=True,
    ),
    "triton": Room(
        INTERPRETED,
        (
            "tests/triton/test_forms.py",
            "tests/triton/test_dpp.py",
            "tests/operators/test_edge_rows.py",
            "tests/triton/test_triton.py",
        ),
    ),
    "triton segments": Room(INTERPRETED, ("tests/operators/test_hostile_varlen.py", "tests/operators/test_varlen.py")),
    "triton grid": Room(INTERPRETED, ("tests/triton/test_grid.py",)),
    "distributed": Room(NATIVE, ("tests/distributed",)),
    "triton distributed": Room(INTERPRETED, ("tests/distributed",)),
    "judge": Room(NATIVE, ("tests/oracle", "tests/operators/test_dpp.py")),
    "transformers": Room(NATIVE, ("tests/transformers",)),
}

MUTANTS = (*native.MUTANTS, *triton.MUTANTS, *distributed.MUTANTS, *python.MUTANTS)
