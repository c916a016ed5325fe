"""A wrong argument on one rank is one error on all of them, and a rank that ends is an error, not a hang."""

import argparse
import os
import time
from fractions import Fraction

import pytest
import torch

from tests.distributed.ranks import Ranks
from tokenprune_kernels import distributed, select_command

X = torch.eye(6)


@pytest.fixture(scope="module")
def ranks():
    made = Ranks(2)
    yield made
    made.end()


def divprune(x, k):
    return distributed.divprune(x, k).indices


def mmr(x, relevance, k, lam):
    return distributed.mmr(x, relevance, k, lam).indices


def goes_on(x, k, initial):
    return distributed.divprune(x, k, initial=initial).indices


def late(x, seconds):
    time.sleep(seconds)
    return distributed.divprune(x, 3).indices


def ends(x, leaves):
    if leaves:
        os._exit(1)
    return distributed.divprune(x, 3).indices


@pytest.mark.parametrize(
    ("x", "k", "message"),
    [
        ([X, X], [3, 4], "distributed.divprune: expected the same k on all ranks, got 3 on rank 0 and 4 on rank 1"),
        ([X, X[:, :5]], [3, 3], "expected the same D on all ranks, got 6 on rank 0 and 5 on rank 1"),
        ([X, X.half()], [3, 3], "expected the same dtype on all ranks, got torch.float32 on rank 0 and torch.float16"),
        ([X, X], [13, 13], r"expected k to be in \[0, N\] with N = 12 rows of all ranks, got 13"),
        ([X, X], [-1, -1], "expected k to be at least 0, got -1"),
        ([X, X], [10**1200, 10**1200], r"expected k to be in \[0, N\], got a number of 3987 bits"),
    ],
)
def test_arguments_that_differ_or_are_too_large_are_an_error_on_all_ranks(ranks, x, k, message):
    for error in ranks.call(divprune, x, k):
        with pytest.raises(ValueError, match=message):
            raise error


@pytest.mark.parametrize(
    ("x", "k", "kind", "message"),
    [
        (X.double(), 3, TypeError, "expected x to be float16, bfloat16 or float32, got float64"),
        (X[0], 3, ValueError, r"expected x_local to have shape \[n, D\], got shape \[6\]"),
        (X, 2.5, TypeError, "expected k to be an integer, got 2.5"),
        ([[1.0]], 1, TypeError, r"expected x_local to be a tensor, got list \(torch.tensor makes one\)"),
        (X.to("meta"), 1, RuntimeError, "expected tensors on a device of cpu, cuda, got meta"),
    ],
)
def test_a_rank_that_is_given_nonsense_says_so_and_the_others_say_which_one(ranks, x, k, kind, message):
    other, mine = ranks.call(divprune, [X, x], [3, k])
    with pytest.raises(kind, match=message):
        raise mine
    with pytest.raises(ValueError, match=f"expected valid arguments on all ranks, got on rank 1: .*{message}"):
        raise other


def test_weights_and_lam_are_checked_too(ranks):
    relevance = torch.ones(6)
    for error in ranks.call(mmr, [X, X], [relevance, relevance], [2, 2], [0.5, 0.25]):
        with pytest.raises(
            ValueError, match=r"expected the same lam on all ranks, got 0\.5 on rank 0 and 0\.25 on rank 1"
        ):
            raise error
    other, error = ranks.call(mmr, [X, X], [relevance] * 2, [2, 2], [0.5, Fraction(10**400)])
    assert isinstance(error, OverflowError)
    with pytest.raises(ValueError, match="expected valid arguments on all ranks, got on rank 1: integer division"):
        raise other
    _, error = ranks.call(mmr, [X, X], [relevance, relevance[:5]], [2, 2], [0.5, 0.5])
    with pytest.raises(ValueError, match=r"distributed.mmr: expected relevance_local to have shape \[6\]"):
        raise error


@pytest.mark.parametrize(
    ("initial", "k", "message"),
    [
        ([[0, 7], [0, 8]], 3, "expected the same initial rows on all ranks, got 2 with the digest "),
        ([[0], None], 3, "expected the same initial rows on all ranks, got 1 with the digest .* and none on rank 1"),
        ([[0, 12], [0, 12]], 3, r"expected initial to hold rows in \[0, N\) with N = 12, got 12"),
        ([[-1], [-1]], 3, r"expected initial to hold rows in \[0, N\) with N = 12, got -1"),
        ([[3, 0, 3], [3, 0, 3]], 3, "expected initial to hold different rows, got 3 twice"),
        ([[3, 0], [3, 0]], 11, r"k to be in \[0, N - M\] with N = 12 rows of all ranks and M = 2 initial rows, got 11"),
        ([[[3]], [[3]]], 1, r"expected initial to have shape \[M\] .*, got shape \[1, 1\]"),
    ],
)
def test_initial_rows_are_the_same_on_all_ranks_different_and_in_range(ranks, initial, k, message):
    given = [rows if rows is None else torch.tensor(rows) for rows in initial]
    for error in ranks.call(goes_on, [X, X], [k, k], given):
        with pytest.raises(ValueError, match=message):
            raise error


def test_initial_rows_of_another_type_are_a_type_error_of_their_rank(ranks):
    rows = torch.tensor([3])
    for wrong, error, message in (
        (rows.int(), TypeError, "expected initial to be int64, got int32"),
        (rows.float(), TypeError, "expected initial to be int64, got float32"),
        ([3], TypeError, "expected initial to be a tensor, got list"),
        (rows.to("meta"), ValueError, "expected initial to be on the device of x, cpu, got meta"),
    ):
        other, mine = ranks.call(goes_on, [X, X], [1, 1], [rows, wrong])
        with pytest.raises(error, match=f"^distributed.divprune: {message}"):
            raise mine
        with pytest.raises(ValueError, match=f"expected valid arguments on all ranks, got on rank 1: .*{message}"):
            raise other


def test_no_initial_rows_are_as_none(ranks):
    none = torch.empty(0, dtype=torch.int64)
    first, second = ranks.call(goes_on, [X, X], [3, 3], [none, None])
    assert torch.equal(first, second)
    assert torch.equal(first, ranks.call(divprune, [X, X], [3, 3])[0])


def test_another_instruction_set_is_an_error(ranks):
    for error in ranks.call(on_another_set, [X, X], ["", "portable"]):
        with pytest.raises(
            ValueError, match=r"expected the same instruction set on all ranks, got .* portable on rank 1"
        ):
            raise error


def on_another_set(x, name):
    force = torch.ops.tokenprune_native._force_isa
    force(name)
    try:
        return distributed.divprune(x, 3).indices
    finally:
        force("")


def selects(arguments):
    parser = argparse.ArgumentParser()
    select_command.add(parser.add_subparsers())
    select_command.run(parser.parse_args(["select", *arguments]))


def test_a_file_that_one_rank_cannot_read_is_an_error_on_all_ranks(ranks, tmp_path):
    np = pytest.importorskip("numpy")
    np.save(tmp_path / "x.npy", X.numpy())
    names = [str(tmp_path / "x.npy"), str(tmp_path / f"{'é' * 200}.npy")]
    given = [[name, "--k", "3", "--out", str(tmp_path / "out.npy")] for name in names]
    whole, cut = ranks.call(selects, given)
    with pytest.raises(ValueError, match=r"é\.npy: expected a file that can be read"):
        raise cut
    with pytest.raises(ValueError, match=r"select: expected valid arguments on all ranks, got on rank 1: .*é"):
        raise whole
    assert not (tmp_path / "out.npy").exists()
    assert ranks.call(selects, [given[0]] * 2) == [None, None]
    assert np.load(tmp_path / "out.npy").tolist() == torch.ops.tokenprune.divprune(X, 3).tolist()


def test_the_command_is_given_the_same_on_all_ranks(ranks, tmp_path):
    np = pytest.importorskip("numpy")
    for name, array in {"x": X, "longer": torch.eye(6).repeat(2, 1), "w": X[0], "v": torch.arange(6).half()}.items():
        np.save(tmp_path / f"{name}.npy", array.numpy())
    x, longer, w, v, out = (str(tmp_path / f"{name}.npy") for name in ("x", "longer", "w", "v", "out"))
    rest = ["--k", "3", "--out", out]
    weighted = [x, *rest, "--weights", w, "--method"]
    for given, message in (
        ([[*weighted, "mmr"], [*weighted, "idpruner"]], "the same method on all ranks, got mmr on rank 0 and idpruner"),
        ([[*weighted, "mmr"], [x, *rest]], "the same method on all ranks, got mmr on rank 0 and divprune"),
        ([[x, *rest], [longer, *rest]], "the same files on all ranks, got 1 with the digest"),
        ([[*weighted, "mmr"], [x, *rest, "--weights", v, "--method", "mmr"]], "the same weights on all ranks"),
        ([[x, *rest], [x, *rest, "--method", "mmr"]], "argument --weights: expected a file with relevance with mmr"),
    ):
        for error in ranks.call(selects, given):
            with pytest.raises(ValueError, match=message):
                raise error


class OfAMesh(torch.Tensor):
    def to_local(self):
        return self


def test_a_tensor_of_all_ranks_is_a_type_error():
    with pytest.raises(TypeError, match=r"expected x_local to be of this rank alone, got a DTensor; pass its to_local"):
        distributed.divprune(X.as_subclass(OfAMesh), 3)


def test_after_an_error_the_next_selection_is_right(ranks):
    ranks.call(divprune, [X, X], [3, 4])
    expected = torch.ops.tokenprune.divprune(torch.cat([X, X]), 5)
    for found in ranks.call(divprune, [X, X], [5, 5]):
        assert found.tolist() == expected.tolist()


def test_a_rank_may_be_late(ranks):
    for found in ranks.call(late, [X, X], [0.0, 2.0]):
        assert found.tolist() == torch.ops.tokenprune.divprune(torch.cat([X, X]), 3).tolist()


@pytest.mark.slow
def test_a_rank_that_ends_is_an_error_of_torch_on_the_others():
    ranks = Ranks(3)
    try:
        ranks.call(divprune, [X] * 3, [1] * 3)  # starting processes takes as long as it takes
        begun = time.monotonic()
        *others, ended = ranks.call(ends, [X, X, X], [False, False, True])
        assert isinstance(ended, ProcessLookupError)
        for error in others:
            assert isinstance(error, RuntimeError)
            assert "tokenprune" not in str(error)
        assert time.monotonic() - begun < 30
    finally:
        ranks.end()
