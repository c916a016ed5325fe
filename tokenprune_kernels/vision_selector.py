"""The learned importance scorer of VisionSelector."""

from __future__ import annotations

import json
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

_TENSORS = ("q_proj.weight", "q_proj.bias", "k_proj.weight", "k_proj.bias")


class VisionSelectorScorer(nn.Module):
    """A learned importance: the mean scaled product of each token's query with the keys of all tokens of its image.

    ``score_i = mean_j (q_i . k_j) / sqrt(h)``, with ``q = x W_q^T + b_q`` and ``k = x W_k^T + b_k``.

    Args:
        dimensions: D, the number of features of a token.
        hidden: h, the number of features of a query and of a key. Their weights are random; ``from_pretrained`` loads
            trained ones.

    Attributes:
        q_proj: the linear layer of the queries, from D to h features, with bias.
        k_proj: the same for the keys.

    Complexity:
        The mean runs over keys only, so the scores are the product of the tokens with one vector: O(N D + h D)
        operations instead of O(N^2 h + N D h), equal up to rounding.

    Source:
        Zhu et al., VisionSelector, arXiv 2510.16598, section 3.

    Example:
        >>> import torch
        >>> from tokenprune_kernels.importance import VisionSelectorScorer
        >>> scorer = VisionSelectorScorer(dimensions=64, hidden=16)
        >>> scorer(torch.randn(2, 100, 64)).shape
        torch.Size([2, 100])
    """

    def __init__(self, dimensions: int, hidden: int) -> None:
        super().__init__()
        self.q_proj = nn.Linear(dimensions, hidden)
        self.k_proj = nn.Linear(dimensions, hidden)

    def forward(self, x: Tensor) -> Tensor:
        """Scores tokens.

        Args:
            x: the tokens of an image or video, ``[..., N, D]``, any floating dtype.

        Returns:
            float32 ``[..., N]``.
        """
        x = x.float()
        # Products of float64 are exempt from autocast and TF32.
        query_weight, query_bias, key_weight, key_bias = (
            parameter.double() for layer in (self.q_proj, self.k_proj) for parameter in (layer.weight, layer.bias)
        )
        mean_key = F.linear(x.mean(-2).double(), key_weight, key_bias)
        direction = (mean_key @ query_weight).float()
        constant = (mean_key @ query_bias).float()
        scores = (x * direction.unsqueeze(-2)).sum(-1) + constant.unsqueeze(-1)
        return scores / len(self.q_proj.bias) ** 0.5

    @classmethod
    def from_pretrained(
        cls, source: str | Path, *, prefix: str = "", revision: str | None = None
    ) -> VisionSelectorScorer:
        """Loads trained weights from safetensors. Nothing is unpickled and no code of the repository is run.

        Args:
            source: a safetensors file, a directory with ``model.safetensors`` (or its shards and their index), or the
                id of a repository on the Hugging Face hub with the same.
            prefix: the part of the names of the file's tensors before ``q_proj.weight`` and the others, such as
                ``"visual.importance_scorer."``.
            revision: of the repository on the hub.

        Returns:
            A scorer on the CPU, in float32.

        Raises:
            ValueError: unless the tensors under the prefix are the four of a scorer, of matching shapes.

        Example:
            >>> import tempfile
            >>> from safetensors.torch import save_file
            >>> with tempfile.TemporaryDirectory() as folder:
            ...     save_file(VisionSelectorScorer(64, 16).state_dict(), f"{folder}/model.safetensors")
            ...     scorer = VisionSelectorScorer.from_pretrained(folder)
            >>> scorer.q_proj
            Linear(in_features=64, out_features=16, bias=True)
        """
        tensors = _read(source, prefix, revision)
        if tensors.keys() != set(_TENSORS):
            raise ValueError(
                f"from_pretrained: expected the tensors under prefix {prefix!r} to be {', '.join(_TENSORS)}, "
                f"got {', '.join(sorted(tensors)[:8]) or 'none'}"
            )
        shape = list(tensors["q_proj.weight"].shape)
        if len(shape) != 2:
            raise ValueError(f"from_pretrained: expected {prefix}q_proj.weight to have shape [h, D], got shape {shape}")
        hidden, dimensions = shape
        shapes = {"weight": [hidden, dimensions], "bias": [hidden]}
        for name, tensor in tensors.items():
            expected = shapes[name.rpartition(".")[2]]
            if list(tensor.shape) != expected:
                raise ValueError(
                    f"from_pretrained: expected {prefix}{name} to have shape {expected}, got shape {list(tensor.shape)}"
                )
        with torch.device("cpu"):
            scorer = cls(dimensions, hidden).float()  # whatever torch's defaults are
        scorer.load_state_dict(tensors)
        return scorer


def _read(source: str | Path, prefix: str, revision: str | None) -> dict[str, Tensor]:
    """The tensors under the prefix, by the rest of their names."""
    from safetensors import safe_open

    tensors = {}
    for path in _files(source, prefix, revision):
        with safe_open(path, framework="pt") as file:
            for name in file.keys():  # noqa: SIM118 - the file is no mapping
                if name.startswith(prefix):
                    tensors[name.removeprefix(prefix)] = file.get_tensor(name)
    return tensors


def _files(source: str | Path, prefix: str, revision: str | None) -> list[Path]:
    """The safetensors files that hold the tensors under the prefix."""
    if Path(source).is_file():
        return [Path(source)]
    index = _locate(source, "model.safetensors.index.json", revision)
    names = {"model.safetensors"}
    if index is not None:
        weight_map = json.loads(index.read_text())["weight_map"]
        names = {file for name, file in weight_map.items() if name.startswith(prefix)}
    return [path for name in sorted(names) if (path := _locate(source, name, revision)) is not None]


def _locate(source: str | Path, name: str, revision: str | None) -> Path | None:
    """A file of a directory, or of a repository on the hub; None where there is none."""
    if Path(source).is_dir():
        path = Path(source) / name
        return path if path.is_file() else None
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError

    try:
        return Path(hf_hub_download(str(source), name, revision=revision))
    except LocalEntryNotFoundError:  # the hub was not reached
        raise
    except EntryNotFoundError:
        return None
