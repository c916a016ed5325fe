"""The judge's two entry points: batches, and packed ragged batches."""

from __future__ import annotations

import torch
from torch import Tensor

from .replay import GainReplay, Replay
from .rows import segments
from .verdict import Verdict, all_correct, inexcusable

_METHODS = ("divprune", "mmr", "idpruner", "dpp")


def verify_trace(
    method: str,
    x: Tensor,
    indices: Tensor,
    weight: Tensor | None = None,
    lam: float = 0.5,
    scores: Tensor | None = None,
    k: int | None = None,
    initial: Tensor | None = None,
) -> Verdict:
    """Replays a selection in float64 and says whether it is correct.

    Args:
        method: ``"divprune"``, ``"mmr"``, ``"idpruner"`` or ``"dpp"``.
        x: the tokens that were selected from, ``[..., N, D]``, in the dtype that the selection was given.
        indices: the picks in selection order, int64 ``[..., k]``.
        weight: relevance or importance, ``[..., N]``; None for ``"divprune"``.
        lam: weight of relevance, in [0, 1]: 1 ranks by relevance alone, 0 by diversity alone. Ignored for
            ``"divprune"`` and ``"dpp"``.
        scores: the float32 scores ``[..., k]`` that were reported with the picks, which must be within eps of the
            replay's. None leaves them unchecked.
        k: how many picks were asked for; None takes as many as there are.
        initial: the rows that were selected before the first pick, int64 ``[..., M]``. Not of ``"dpp"``.

    Returns:
        The verdict on the first wrong item, or on the whole batch when all items are correct.

    Raises:
        ValueError: for an unknown method, a lam outside [0, 1], a weight that is missing or that the method does not
            have, or initial rows that break the contract.

    A result of the wrong shape or dtype is a wrong selection: the verdict says so, and nothing is raised.

    DivPrune's first pick compares all pairs in float64 up to 16,384 rows. Above, a float32 pass finds the rows within
    1e-4 of the best, and float64 decides among these. Each other pick takes O(N D) operations, of the DPP O(N (D + k)).
    The tolerances are those of ``CONTRACT.md`` in this package.

    Example:
        >>> import torch
        >>> from tokenprune_kernels.verify import verify_trace
        >>> x = torch.tensor([[1.0, 0.0], [0.0, 2.0], [-3.0, 0.0], [4.0, 0.0]])
        >>> bool(verify_trace("divprune", x, torch.tensor([1, 0, 2])))
        True
        >>> verdict = verify_trace("divprune", x, torch.tensor([1, 0, 3]))
        >>> verdict.step, verdict.reason
        (2, 'row 3 is picked where row 2 is better')
    """
    _check_method(method, weight, lam)
    if initial is not None:
        _check_initial(method, x, initial)
    wrong = _wrong_form(indices, scores, [*x.shape[:-2], *(indices.shape[-1:] if k is None else [k])])
    if wrong is not None:
        return wrong
    verdicts = []
    for position in torch.ones(x.shape[:-2], device="cpu").nonzero().tolist():
        item = tuple(position)
        replay = _replay(method, x[item], None if weight is None else weight[item], lam, item)
        if initial is not None:
            replay.start_from(initial[item])
        verdict = replay.run(indices[item], None if scores is None else scores[item])
        if not verdict:
            return verdict
        verdicts.append(verdict)
    return all_correct(verdicts)


def verify_trace_varlen(
    method: str,
    x: Tensor,
    indices: Tensor,
    cu_seqlens: Tensor,
    cu_k: Tensor,
    weight: Tensor | None = None,
    lam: float = 0.5,
    scores: Tensor | None = None,
    total_k: int | None = None,
) -> Verdict:
    """Replays the selection from a packed ragged batch in float64, segment by segment.

    Args:
        method: ``"divprune"``, ``"mmr"``, ``"idpruner"`` or ``"dpp"``.
        x: the tokens of all segments, ``[T, D]``, in the dtype that the selection was given.
        indices: the picks as row numbers of x, int64 ``[total_k]``, segment by segment in selection order. Those from
            ``cu_k[S]`` on must be -1.
        cu_seqlens: ``[S + 1]``, prefix sums of the segment lengths.
        cu_k: ``[S + 1]``, prefix sums of how many rows each segment keeps.
        weight: relevance or importance, ``[T]``; None for ``"divprune"``.
        lam: weight of relevance, in [0, 1]: 1 ranks by relevance alone, 0 by diversity alone. Ignored for
            ``"divprune"`` and ``"dpp"``.
        scores: the float32 scores ``[total_k]`` that were reported with the picks, -inf from ``cu_k[S]`` on. None
            leaves them unchecked.
        total_k: the length of the result that was asked for; None stands for ``cu_k[S]``.

    Returns:
        The verdict on the first wrong segment, or on all when they are correct.

    Raises:
        ValueError: for an unknown method, a lam outside [0, 1], a weight that is missing or that the method does not
            have, or prefix sums that break the contract.

    Costs what ``verify_trace`` costs for each segment.

    Example:
        >>> import torch
        >>> from tokenprune_kernels.verify import verify_trace_varlen
        >>> x, sums = torch.eye(5), torch.tensor([0, 2, 5])
        >>> bool(verify_trace_varlen("divprune", x, torch.tensor([0, 2]), sums, torch.tensor([0, 1, 2])))
        True
        >>> verify_trace_varlen("divprune", x, torch.tensor([0, 1]), sums, torch.tensor([0, 1, 2])).reason
        'index 1 is not in [2, 5)'
    """
    _check_method(method, weight, lam)
    used = int(cu_k[-1])
    total_k = used if total_k is None else total_k
    all_segments = segments(cu_seqlens, cu_k, len(x), total_k)
    wrong = _wrong_form(indices, scores, [total_k])
    if wrong is not None:
        return wrong
    verdicts = []
    for s, (rows, out) in enumerate(all_segments):
        replay = _replay(method, x[rows], None if weight is None else weight[rows], lam, (s,), rows.start)
        verdict = replay.run(indices[out], None if scores is None else scores[out])
        if not verdict:
            return verdict
        verdicts.append(verdict)
    for name, values, filler in (("index", indices, -1), ("score", scores, -torch.inf)):
        for row, value in enumerate([] if values is None else values[used:].tolist(), start=used):
            if value != filler:
                return inexcusable(row, f"slot {row} past cu_k[S] = {used} holds {name} {value}, not {filler}")
    return all_correct(verdicts)


def _check_method(method: str, weight: Tensor | None, lam: float) -> None:
    if method not in _METHODS:
        raise ValueError(f"expected method to be divprune, mmr, idpruner or dpp, got {method!r}")
    if (weight is None) != (method == "divprune"):
        raise ValueError(f"expected a weight with mmr, idpruner and dpp only, got method {method!r}")
    if not 0.0 <= lam <= 1.0:
        raise ValueError(f"expected lam to be in [0, 1], got {lam:.12g}")


def _check_initial(method: str, x: Tensor, initial: Tensor) -> None:
    if method == "dpp":
        raise ValueError("expected initial to be None with method 'dpp', got a tensor")
    if initial.dtype != torch.int64 or initial.dim() != x.dim() - 1 or initial.shape[:-1] != x.shape[:-2]:
        raise ValueError(
            f"expected initial to be int64 [..., M] beside x of shape {list(x.shape)}, got {initial.dtype} of shape "
            f"{list(initial.shape)}"
        )
    rows = initial.sort(dim=-1).values
    if rows.numel() and not (int(rows.min()) >= 0 and int(rows.max()) < x.shape[-2]):
        raise ValueError(f"expected initial to hold rows in [0, N) with N = {x.shape[-2]}, got others")
    if bool((rows.diff(dim=-1) == 0).any()):
        raise ValueError("expected initial to hold different rows, got one twice")


def _wrong_form(indices: Tensor, scores: Tensor | None, shape: list[int]) -> Verdict | None:
    """Returns the verdict on a result of the wrong shape or dtype; None when both are right."""
    if indices.dim() == 0:
        return inexcusable(0, "expected indices of at least one dimension, got a single number")
    for name, tensor, dtype in (("indices", indices, torch.int64), ("scores", scores, torch.float32)):
        if tensor is not None and list(tensor.shape) != shape:
            return inexcusable(0, f"expected {name} of shape {shape}, got {list(tensor.shape)}")
        if tensor is not None and tensor.dtype != dtype:
            return inexcusable(0, f"expected {name} of {dtype}, got {tensor.dtype}")
    return None


def _replay(
    method: str, x: Tensor, weight: Tensor | None, lam: float, item: tuple[int, ...], first_row: int = 0
) -> Replay:
    if method == "dpp" and weight is not None:
        return GainReplay(x, weight, item, first_row)
    return Replay(x, weight, lam, item, first_row, scale_weight=method == "idpruner")
