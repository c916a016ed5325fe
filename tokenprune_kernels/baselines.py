"""The selectors that papers compare with: by importance, by a mixture, by position, by chance, and inside the model.

Indices are int64 ``[..., k]``, in the order of selection. As for the operators, ties go to the lowest index, and tokens
whose importance is not finite come last, lowest index first. Leading dimensions number independent items.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from .arguments import check_tensor, exact_integer
from .checks import check_dimensions
from .kept_tokens import rows_at
from .selectors import divprune


def top_k(importance: Tensor, k: int) -> Tensor:
    """Selects the k most important tokens, as FastV and VisionSelector do once they have their scores.

    FastV: Chen et al., ECCV 2024, arXiv 2403.06764, section 4. VisionSelector: arXiv 2510.16598, section 3.

    Args:
        importance: of each token, ``[..., N]``, any floating dtype, turned into float32.
        k: how many tokens to keep of each item, ``0 <= k <= N``.

    Returns:
        int64 ``[..., k]``, the kept tokens, the most important one first.

    Raises:
        ValueError: for another k, or importance without a dimension of tokens.

    O(N log N).

    Example:
        >>> import torch
        >>> from tokenprune_kernels.baselines import top_k
        >>> top_k(torch.tensor([0.1, 0.7, 0.3, 0.7]), 3)
        tensor([1, 3, 2])
    """
    check_dimensions("top_k", "importance", importance, "[..., N]")
    k = _checked_k("top_k", k, importance.shape[-1])
    importance = importance.float()
    importance = importance.masked_fill(~importance.isfinite(), -torch.inf)
    return importance.argsort(dim=-1, descending=True, stable=True)[..., :k]


def mixture(x: Tensor, importance: Tensor, k: int, share: float = 0.5) -> Tensor:
    """Selects by the naive mixture: a share of the budget by importance, the rest by DivPrune among the other tokens.

    DivPrune ignores the tokens that importance has kept. IDPruner's authors compare with this combination (Tan et al.,
    arXiv 2602.13315, section 3).

    Args:
        x: tokens, ``[..., N, D]``, float16, bfloat16 or float32.
        importance: of each token, ``[..., N]``, any floating dtype.
        k: how many tokens to keep of each item, ``0 <= k <= N``.
        share: in [0, 1]; ``round_half_even(share * k)`` tokens are kept by importance.

    Returns:
        int64 ``[..., k]``: those kept by importance, then those kept by DivPrune.

    Raises:
        ValueError: naming the argument, what was expected and what came.

    Costs what ``top_k`` and ``divprune`` cost, and a copy of x.

    Example:
        >>> import torch
        >>> from tokenprune_kernels.baselines import mixture
        >>> x = torch.tensor([[1.0, 0.0], [0.9, 0.1], [0.0, 1.0], [-1.0, 0.2]])
        >>> mixture(x, torch.tensor([0.2, 0.9, 0.3, 0.1]), 3, share=0.4)
        tensor([1, 0, 3])
    """
    check_dimensions("mixture", "x", x, "[..., N, D]")
    k = _checked_k("mixture", k, x.shape[-2])
    check_tensor("mixture", "importance", importance)
    if importance.shape != x.shape[:-1]:
        raise ValueError(
            f"mixture: expected importance to have shape {list(x.shape[:-1])} (x without its last dimension), "
            f"got shape {list(importance.shape)}"
        )
    if not 0.0 <= share <= 1.0:
        raise ValueError(f"mixture: expected share to be in [0, 1], got {share:.12g}")
    important = top_k(importance, round(share * k))
    others = _complement(important, x.shape[-2])
    diverse = divprune(rows_at(x, others), k - important.shape[-1])
    return torch.cat([important, others.gather(-1, diverse)], dim=-1)


def grid(rows: int, columns: int, k: int) -> Tensor:
    """Selects patches that are spread evenly over a picture, whatever it shows.

    About ``sqrt(k * rows / columns)`` rows of patches hold an equal share of the k, evenly spaced, so that the gaps are
    as near to squares as the picture allows.

    Args:
        rows: the number of rows of the picture's patches.
        columns: the number of their columns.
        k: how many patches to keep, ``0 <= k <= rows * columns``.

    Returns:
        int64 ``[k]`` on the CPU, ascending patch numbers, counted row by row.

    Raises:
        ValueError: for another k.

    O(k).

    Example:
        >>> from tokenprune_kernels.baselines import grid
        >>> grid(4, 4, 4)
        tensor([ 5,  7, 13, 15])
    """
    k = _checked_k("grid", k, rows * columns)
    if k == 0:
        return torch.empty(0, dtype=torch.int64, device="cpu")
    lines = min(max(round((k * rows / columns) ** 0.5), -(-k // columns), 1), rows, k)
    kept = []
    for line in range(lines):
        row = (2 * line + 1) * rows // (2 * lines)
        count = k * (line + 1) // lines - k * line // lines
        kept += [row * columns + (2 * i + 1) * columns // (2 * count) for i in range(count)]
    return torch.tensor(kept, dtype=torch.int64, device="cpu")


def random(count: int, k: int, seed: int = 0) -> Tensor:
    """Selects k tokens at random, without replacement.

    Args:
        count: N, the number of tokens.
        k: how many tokens to keep, ``0 <= k <= N``.
        seed: the seed of the choice.

    Returns:
        int64 ``[k]`` on the CPU, in random order. The selection for a smaller k is the beginning of that for a
        larger one.

    Raises:
        ValueError: for another k.

    O(N).

    Example:
        >>> import torch
        >>> from tokenprune_kernels.baselines import random
        >>> torch.equal(random(576, 64)[:10], random(576, 10))
        True
    """
    k = _checked_k("random", k, count)
    return torch.randperm(count, generator=torch.Generator("cpu").manual_seed(seed), device="cpu")[:k]


def fastv(attention: Tensor, layer: int, ratio: float) -> tuple[Tensor, tuple[int, ...]]:
    """Selects by FastV: after K layers, the language model drops the visual tokens that receive the least attention.

    The first K layers see all tokens, the others a share 1 - R of them. Chen et al., ECCV 2024, arXiv 2403.06764,
    section 4. The operations are ``metrics.prefill_flops_by_layer`` of the returned counts with the text tokens added.

    Args:
        attention: the attention that each visual token receives in each layer, mean over heads and queries,
            ``[layers, ..., N]``, any floating dtype.
        layer: K, how many layers see all tokens, in [1, layers]; the attention of the last of them ranks.
        ratio: R, the share of tokens that is dropped, in [0, 1).

    Returns:
        ``(indices, counts)``: the kept tokens, int64 ``[..., k]`` with ``k = max(1, round_half_even((1 - R) * N))``,
        and the number of visual tokens that each layer sees.

    Raises:
        ValueError: naming the argument, what was expected and what came.

    O(N log N).

    Example:
        >>> import torch
        >>> from tokenprune_kernels.baselines import fastv
        >>> fastv(torch.tensor([[0.1, 0.2, 0.3, 0.4]] * 3), layer=2, ratio=0.5)
        (tensor([3, 2]), (4, 4, 2))
    """
    check_dimensions("fastv", "attention", attention, "[layers, ..., N]")
    layers, count = attention.shape[0], attention.shape[-1]
    if not 1 <= layer <= layers:
        raise ValueError(f"fastv: expected layer to be in [1, {layers}], got {layer}")
    if not 0.0 <= ratio < 1.0:
        raise ValueError(f"fastv: expected ratio to be in [0, 1), got {ratio:.12g}")
    # 1 - R would be rounded before the half is.
    k = min(count, max(1, round(count - ratio * count)))
    return top_k(attention[layer - 1], k), (count,) * layer + (k,) * (layers - layer)


def vtw(count: int, layer: int, layers: int) -> tuple[int, ...]:
    """Returns what VTW keeps: after K layers, the language model drops all visual tokens.

    Lin et al., AAAI 2025, arXiv 2405.05803, section 3.

    Args:
        count: N, the number of visual tokens.
        layer: K, how many layers see them, in [0, layers].
        layers: the number of layers.

    Returns:
        The number of visual tokens that each layer sees.

    Raises:
        ValueError: for another layer.

    Example:
        >>> from tokenprune_kernels.baselines import vtw
        >>> vtw(576, layer=2, layers=4)
        (576, 576, 0, 0)
    """
    if not 0 <= layer <= layers:
        raise ValueError(f"vtw: expected layer to be in [0, {layers}], got {layer}")
    return (count,) * layer + (0,) * (layers - layer)


def outliers(attention: Tensor) -> Tensor:
    """Selects as PruMerge does: all tokens whose class attention is an outlier.

    These exceed the upper quartile by more than 1.5 times the interquartile range (Shang et al., ICCV 2025, arXiv
    2403.15388, section 3.2). Quartiles are interpolated linearly, in float64.

    Args:
        attention: of the vision tower's class token to each patch, ``[..., N]``, N >= 1, any floating dtype, finite.

    Returns:
        bool ``[..., N]``, True for the kept tokens. Their number follows from the attention.

    Raises:
        ValueError: for no tokens.

    O(N log N).

    Example:
        >>> import torch
        >>> from tokenprune_kernels.baselines import outliers
        >>> outliers(torch.tensor([0.1, 0.1, 0.12, 0.1, 0.9]))
        tensor([False, False, False, False,  True])
    """
    check_dimensions("outliers", "attention", attention, "[..., N]")
    if attention.shape[-1] < 1:
        raise ValueError("outliers: expected at least 1 token, got 0")
    ordered = attention.double().sort(dim=-1).values
    lower, upper = _quantile(ordered, 0.25), _quantile(ordered, 0.75)
    return attention.double() > (upper + 1.5 * (upper - lower)).unsqueeze(-1)


def merge(x: Tensor, attention: Tensor, kept: Tensor, keys: Tensor | None = None, neighbours: int = 32) -> Tensor:
    """Merges tokens as PruMerge does: adds to each kept token its most similar ones, weighted by class attention.

    As in the published code, the neighbours of a token are among all others, kept ones too, and the sum is not divided
    by the sum of the weights. Shang et al., ICCV 2025, arXiv 2403.15388, section 3.3.

    Args:
        x: tokens, ``[..., N, D]``, any floating dtype, finite.
        attention: of the vision tower's class token to each token, ``[..., N]``, any floating dtype.
        kept: the numbers of the kept tokens, int64 ``[..., k]``.
        keys: the vectors whose cosine similarity counts, the vision tower's attention keys, ``[..., N, E]``; by default
            x.
        neighbours: how many tokens are added to each, at least 0; all others where there are fewer.

    Returns:
        The kept tokens with their neighbours added, ``[..., k, D]``, of x's dtype. Sums are in float32.

    Raises:
        ValueError: for too few dimensions, attention or keys that do not fit x, or a negative number of neighbours.

    O(N k E + N k log N) operations and O(N k) memory.

    Example:
        >>> import torch
        >>> from tokenprune_kernels.baselines import merge
        >>> x = torch.tensor([[1.0, 0.0], [0.8, 0.2], [0.0, 1.0]])
        >>> merge(x, torch.tensor([0.2, 0.5, 0.3]), torch.tensor([0]), neighbours=1)
        tensor([[1.4000, 0.1000]])
    """
    check_dimensions("merge", "x", x, "[..., N, D]")
    check_dimensions("merge", "kept", kept, "[..., k]")
    keys = x if keys is None else keys
    for name, tensor in (("attention", attention), ("keys", keys)):
        check_tensor("merge", name, tensor)
    for name, shape in (("attention", attention.shape), ("keys", keys.shape[:-1])):
        if shape != x.shape[:-1]:
            expected = list(x.shape[:-1])
            raise ValueError(f"merge: expected {name} to have shape {expected} over tokens, got {list(shape)}")
    if neighbours < 0:
        raise ValueError(f"merge: expected neighbours to be at least 0, got {neighbours}")
    unit = F.normalize(keys.float(), dim=-1, eps=1e-12)
    with torch.autocast(x.device.type, enabled=False):  # it would multiply in a lower precision
        similarity = (rows_at(unit, kept) @ unit.mT).scatter(-1, kept.unsqueeze(-1), -torch.inf)
        nearest = similarity.argsort(dim=-1, descending=True, stable=True)[..., : min(neighbours, x.shape[-2] - 1)]
        weights = attention.float().unsqueeze(-2).expand(similarity.shape).gather(-1, nearest)
        weighted = torch.zeros_like(similarity).scatter(-1, nearest, weights)
        return (rows_at(x, kept).float() + weighted @ x.float()).to(x.dtype)


def _checked_k(name: str, k: Any, count: int) -> int:
    k = exact_integer(name, "k", k)
    if not 0 <= k <= count:
        raise ValueError(f"{name}: expected k to be in [0, N] with N = {count}, got {k}")
    return k


def _complement(indices: Tensor, count: int) -> Tensor:
    """Returns the tokens that are not among the indices ``[..., j]``, ascending, ``[..., N - j]``."""
    chosen = torch.zeros(*indices.shape[:-1], count, dtype=torch.uint8, device=indices.device).scatter(-1, indices, 1)
    return chosen.argsort(dim=-1, stable=True)[..., : count - indices.shape[-1]]


def _quantile(ordered: Tensor, share: float) -> Tensor:
    position = share * (ordered.shape[-1] - 1)
    below = int(position)
    above = min(below + 1, ordered.shape[-1] - 1)
    return ordered[..., below] + (position - below) * (ordered[..., above] - ordered[..., below])
