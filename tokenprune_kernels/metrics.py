"""Measures of a selection, and of the operations that it saves.

Distances are cosine distances, ``1 - similarity``, in float64; a zero token is at distance 1 from everything. Leading
dimensions number independent items. Tokens are compared block by block: no measure keeps a matrix of all pairs.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator

import torch
import torch.nn.functional as F
from torch import Tensor

from .checks import check_dimensions
from .kept_tokens import rows_at

_BLOCK_ROWS = 512


def importance_retention(importance: Tensor, kept: Tensor) -> Tensor:
    """Returns the importance that is kept, as a share of the most that as many tokens can hold.

    The importance retention ratio of IDPruner's analysis (Tan et al., arXiv 2602.13315, section 3).

    Args:
        importance: of each token, ``[..., N]``, any floating dtype, finite and not negative.
        kept: the numbers of the kept tokens, int64 ``[..., k]``, each once.

    Returns:
        float64 ``[...]`` in [0, 1]; 1 where there is no importance to keep.

    Raises:
        ValueError: for importance that is negative or not finite, or a token that is out of range or kept twice.

    O(N log N).

    Example:
        >>> import torch
        >>> from tokenprune_kernels.metrics import importance_retention
        >>> importance_retention(torch.tensor([4.0, 1.0, 3.0]), torch.tensor([0, 1]))
        tensor(0.7143, dtype=torch.float64)
    """
    check_dimensions("importance_retention", "importance", importance, "[..., N]")
    _check_kept("importance_retention", kept, importance.shape)
    importance = importance.double()
    wrong = importance[~(importance >= 0) | ~importance.isfinite()]
    if len(wrong):
        raise ValueError(
            f"importance_retention: expected importance to be finite and at least 0, got {float(wrong[0]):.6g}"
        )
    most = importance.sort(dim=-1, descending=True).values[..., : kept.shape[-1]].sum(dim=-1)
    return torch.where(most > 0, importance.gather(-1, kept).sum(dim=-1) / most, 1.0)


def hopkins(tokens: Tensor, *, within: Tensor | None = None, draws: int | None = None, seed: int = 0) -> Tensor:
    """Returns the Hopkins statistic of the kept tokens: are they nearer to each other than to uniform draws?

    It is ``u / (u + w)``, where w is the mean distance of a kept token to the nearest other one, and u that of a
    uniform draw to the nearest kept token. Near 0, tokens are evenly spread; 1/2 is the value of uniform draws; near 1,
    tokens are clustered. IDPruner's analysis measures diversity by it (Tan et al., arXiv 2602.13315, section 3).
    Hopkins & Skellam, 1954, Annals of Botany 18; Cross & Jain, 1982, whose power of the dimension is left out: with
    hundreds of dimensions, it would leave values of 0 and 1 only.

    Args:
        tokens: the kept ones, ``[..., k, D]``, any floating dtype, k >= 2.
        within: None draws directions uniformly. Given the tokens that were dropped, ``[..., N, D]``, draws are made
            among them; then 1/2 is the value of a random selection.
        draws: the number of draws, at least 1; by default k.
        seed: the seed of the draws, which are the same for every item.

    Returns:
        float64 ``[...]``; 1/2 where all distances are 0, NaN where a token or a draw is not finite.

    Raises:
        ValueError: for fewer than two tokens or one draw, or tokens to draw among that do not fit.

    O(k (k + draws) D).

    Example:
        >>> import torch
        >>> from tokenprune_kernels.metrics import hopkins
        >>> clustered = torch.tensor([[1.0, 0.0], [1.0, 0.01], [0.0, 1.0], [0.01, 1.0]])
        >>> bool(hopkins(clustered) > 0.9)
        True
    """
    check_dimensions("hopkins", "tokens", tokens, "[..., k, D]")
    k, dimensions = tokens.shape[-2:]
    draws = k if draws is None else draws
    if k < 2:
        raise ValueError(f"hopkins: expected at least 2 tokens, got {k}")
    if draws < 1:
        raise ValueError(f"hopkins: expected at least 1 draw, got {draws}")
    generator = torch.Generator("cpu").manual_seed(seed)
    if within is None:
        points = torch.randn(draws, dimensions, generator=generator, dtype=torch.float64, device="cpu")
        points = points.to(tokens.device)
        points = points.expand(*tokens.shape[:-2], draws, dimensions)
    else:
        check_dimensions("hopkins", "within", within, "[..., N, D]")
        if (*within.shape[:-2], within.shape[-1]) != (*tokens.shape[:-2], dimensions) or within.shape[-2] < 1:
            expected = [*tokens.shape[:-2], "N", dimensions]
            raise ValueError(f"hopkins: expected within to have shape {expected}, got shape {list(within.shape)}")
        drawn = torch.randint(within.shape[-2], (draws,), generator=generator, device="cpu").to(within.device)
        points = within.index_select(-2, drawn)
    unit = _unit(tokens)
    among_kept = _nearest_distance(unit, unit, same=True).mean(dim=-1)
    from_draws = _nearest_distance(_unit(points), unit).mean(dim=-1)
    total = among_kept + from_draws
    return torch.where(total == 0, 0.5, from_draws / total)


def smallest_distance(tokens: Tensor) -> Tensor:
    """Returns the max-min diversity objective: the smallest cosine distance between two of the tokens.

    DivPrune maximises it greedily (Alvar et al., CVPR 2025, arXiv 2503.02175, section 3). O(k^2 D).

    Args:
        tokens: the kept tokens, ``[..., k, D]``, any floating dtype, k >= 2.

    Returns:
        float64 ``[...]``; NaN where a token is not finite.

    Raises:
        ValueError: for fewer than two tokens.

    Example:
        >>> import torch
        >>> from tokenprune_kernels.metrics import smallest_distance
        >>> smallest_distance(torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.6, 0.8]]))
        tensor(0.2000, dtype=torch.float64)
    """
    _check_pairs("smallest_distance", tokens)
    unit = _unit(tokens)
    return _nearest_distance(unit, unit, same=True).amin(dim=-1)


def mean_distance(tokens: Tensor) -> Tensor:
    """Returns the mean diversity objective: the mean cosine distance between two of the tokens.

    This is max-sum dispersion, divided by the number of pairs. DivPrune's authors compare max-min diversity with it
    (Alvar et al., CVPR 2025, arXiv 2503.02175, section 3). O(k D).

    Args:
        tokens: the kept tokens, ``[..., k, D]``, any floating dtype, k >= 2.

    Returns:
        float64 ``[...]``; NaN where a token is not finite.

    Raises:
        ValueError: for fewer than two tokens.

    Example:
        >>> import torch
        >>> from tokenprune_kernels.metrics import mean_distance
        >>> mean_distance(torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.6, 0.8]]))
        tensor(0.5333, dtype=torch.float64)
    """
    _check_pairs("mean_distance", tokens)
    k, unit = tokens.shape[-2], _unit(tokens)
    # The square of the sum is the sum over all pairs, including each token with itself.
    similarities = unit.sum(dim=-2).square().sum(dim=-1) - unit.square().sum(dim=(-2, -1))
    return 1.0 - similarities / (k * (k - 1))


def coverage(x: Tensor, kept: Tensor) -> tuple[Tensor, Tensor]:
    """Returns how far the dropped tokens are from the nearest kept one, on average and at worst.

    The objectives of k-medians and of k-centres on the kept tokens (Gonzalez, 1985, Theoretical Computer Science 38,
    for the latter). O(N k D).

    Args:
        x: all tokens, ``[..., N, D]``, any floating dtype.
        kept: the numbers of the kept tokens, int64 ``[..., k]``, k >= 1, each once.

    Returns:
        ``(mean, worst)``, float64 ``[...]`` each; 0 where nothing is dropped, else NaN where a token is not finite.

    Raises:
        ValueError: for no kept token, or one that is out of range or kept twice.

    Example:
        >>> import torch
        >>> from tokenprune_kernels.metrics import coverage
        >>> coverage(torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.6, 0.8]]), torch.tensor([0]))
        (tensor(0.7000, dtype=torch.float64), tensor(1., dtype=torch.float64))
    """
    check_dimensions("coverage", "x", x, "[..., N, D]")
    _check_kept("coverage", kept, x.shape[:-1])
    if kept.shape[-1] < 1:
        raise ValueError("coverage: expected at least 1 kept token, got 0")
    unit = _unit(x)
    nearest = _nearest_distance(unit, rows_at(unit, kept)).scatter(-1, kept, 0.0)
    dropped = x.shape[-2] - kept.shape[-1]
    return nearest.sum(dim=-1) / max(1, dropped), nearest.amax(dim=-1)


def angle_histogram(tokens: Tensor, bins: int = 90) -> Tensor:
    """Returns the histogram of the angles between two tokens.

    O(k^2 D) operations, in blocks of 512 rows.

    Args:
        tokens: ``[..., k, D]``, any floating dtype, finite; a zero token is at 90 degrees to everything.
        bins: the number of equal bins from 0 to 180 degrees, at least 1.

    Returns:
        int64 ``[..., bins]``: the number of pairs in each bin, each pair counted once; 180 degrees are in the last bin.

    Raises:
        ValueError: for no bins, or a token that is not finite.

    Example:
        >>> import torch
        >>> from tokenprune_kernels.metrics import angle_histogram
        >>> angle_histogram(torch.tensor([[1.0, 0.0], [0.0, 1.0], [-1.0, 0.1]]), bins=4)
        tensor([0, 1, 1, 1])
    """
    check_dimensions("angle_histogram", "tokens", tokens, "[..., k, D]")
    if bins < 1:
        raise ValueError(f"angle_histogram: expected at least 1 bin, got {bins}")
    wrong = tokens[~tokens.isfinite()]
    if len(wrong):
        raise ValueError(f"angle_histogram: expected tokens to be finite, got {float(wrong[0]):.6g}")
    k, unit = tokens.shape[-2], _unit(tokens)
    counts = torch.zeros(*tokens.shape[:-2], bins, dtype=torch.int64, device=tokens.device)
    for rows in _blocks(k):
        similarity = unit[..., rows, :] @ unit.mT
        which = (similarity.clamp(-1.0, 1.0).acos() * (bins / math.pi)).long().clamp_max(bins - 1)
        later = torch.arange(k, device=tokens.device) > torch.arange(k, device=tokens.device)[rows].unsqueeze(-1)
        counts.scatter_add_(-1, which.flatten(-2), later.long().expand_as(which).flatten(-2))
    return counts


def prefill_flops(n: int, d: int, m: int, layers: int) -> int:
    """Returns the operations of a language model's prefill, ``layers * (4 n d^2 + 2 n^2 d + 2 n d m)``.

    DivPrune's authors compare budgets by this estimate (Alvar et al., CVPR 2025, arXiv 2503.02175), for tokens that are
    dropped before the first layer. It counts four projections, attention, and a feed-forward of two matrices; a
    multiply-add is one operation. It leaves out the vision tower, the vocabulary, grouped keys and values and a third
    matrix of the feed-forward.

    Args:
        n: the number of tokens, text and kept visual tokens together.
        d: the hidden size of the layers.
        m: the intermediate size of the feed-forwards.
        layers: the number of layers.

    Returns:
        The number of multiply-adds; divided by 1e12, the TFLOPs of the paper.

    Raises:
        ValueError: for a negative argument.

    Example:
        >>> from tokenprune_kernels.metrics import prefill_flops
        >>> f"{prefill_flops(n=576 + 64, d=4096, m=11008, layers=32):.3e}"
        '3.329e+12'
    """
    for name, value in {"n": n, "d": d, "m": m, "layers": layers}.items():
        if value < 0:
            raise ValueError(f"prefill_flops: expected {name} to be at least 0, got {value}")
    return layers * (4 * n * d**2 + 2 * n**2 * d + 2 * n * d * m)


def prefill_flops_by_layer(counts: Iterable[int], d: int, m: int) -> int:
    """Returns the operations of a prefill whose layers see different numbers of tokens, as under FastV and VTW.

    It is the sum of ``4 n d^2 + 2 n^2 d + 2 n d m`` over the layers, n being the layer's number of tokens; see
    ``prefill_flops`` for what the estimate leaves out.

    Args:
        counts: the number of tokens of each layer.
        d: the hidden size of the layers.
        m: the intermediate size of the feed-forwards.

    Returns:
        The number of multiply-adds.

    Raises:
        ValueError: for a negative argument.

    Example:
        >>> from tokenprune_kernels.baselines import vtw
        >>> from tokenprune_kernels.metrics import prefill_flops_by_layer
        >>> f"{prefill_flops_by_layer([64 + n for n in vtw(576, 16, 32)], d=4096, m=11008):.3e}"
        '1.826e+12'
    """
    return sum(prefill_flops(n, d, m, 1) for n in counts)


def _check_pairs(name: str, tokens: Tensor) -> None:
    check_dimensions(name, "tokens", tokens, "[..., k, D]")
    if tokens.shape[-2] < 2:
        raise ValueError(f"{name}: expected at least 2 tokens, got {tokens.shape[-2]}")


def _check_kept(name: str, kept: Tensor, shape: torch.Size) -> None:
    """Raises unless kept is ``[..., k]`` of different numbers below N, for the shape ``[..., N]``."""
    check_dimensions(name, "kept", kept, "[..., k]")
    if kept.shape[:-1] != shape[:-1] or kept.dtype != torch.int64:
        expected = [*shape[:-1], "k"]
        raise ValueError(f"{name}: expected kept to be int64 {expected}, got {kept.dtype} {list(kept.shape)}")
    ordered = kept.sort(dim=-1).values
    outside = ordered[(ordered < 0) | (ordered >= shape[-1])]
    if len(outside):
        raise ValueError(f"{name}: expected kept to be in [0, {shape[-1]}), got {int(outside[0])}")
    repeated = ordered[..., 1:][ordered.diff(dim=-1) == 0]
    if len(repeated):
        raise ValueError(f"{name}: expected kept to hold each token once, got {int(repeated[0])} twice")


def _unit(tokens: Tensor) -> Tensor:
    return F.normalize(tokens.double(), dim=-1, eps=1e-12)


def _blocks(count: int) -> Iterator[slice]:
    return (slice(begin, min(begin + _BLOCK_ROWS, count)) for begin in range(0, count, _BLOCK_ROWS))


def _nearest_distance(unit: Tensor, others: Tensor, *, same: bool = False) -> Tensor:
    """The distance of each row of unit to the nearest of the others, float64 ``[..., N]``.

    With ``same``, both are the same tokens, and a row is not its own neighbour.
    """
    nearest = unit.new_empty(unit.shape[:-1])
    for rows in _blocks(unit.shape[-2]):
        similarity = unit[..., rows, :] @ others.mT
        if same:
            similarity.diagonal(rows.start, -2, -1).fill_(-torch.inf)
        nearest[..., rows] = 1.0 - similarity.amax(dim=-1)
    return nearest.clamp_min(0.0)
