"""What is compared: ways to make a prompt with fewer visual tokens, or to drop them inside the decoder."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from transformers.modeling_outputs import BaseModelOutputWithPooling

from bench.accuracy import in_decoder, loops
from bench.accuracy.settings import RATIOS, Settings
from tokenprune_kernels import baselines
from tokenprune_kernels.calls import kept_count
from tokenprune_kernels.integrations.transformers import prune_inputs
from tokenprune_kernels.integrations.transformers.class_attention import class_attention

Inputs = Mapping[str, Tensor]
Ready = Mapping[str, Any]
"""Inputs of ``generate``."""

TOP_K = {"method": "idpruner", "importance": "cls_attention", "lam": 1.0}
FASTV, FASTV_LAST, VTW = "FastV", "FastV, last token's attention", "VTW"
"""FastV's paper averages the attention of all tokens, its code takes that of the prompt's last one."""
FASTV_LAYERS = 2
"""How many layers see all tokens, as in FastV's paper."""

SCENES_OF_A_SEED = 1_000_000
"""What tells the random choices of a seed from those of the next."""

DIVPRUNE, RANDOM, DOWNSAMPLED, UNPRUNED = "DivPrune", "random", "downsampled picture", "no pruning"
UNIFORM = "uniform grid"
PRUMERGE, PRUMERGE_RANDOM = "PruMerge", "random, as many as PruMerge"


@dataclass(frozen=True)
class Method:
    """One way, at any share of the tokens.

    Attributes:
        name: for the table.
        prepare: from the model, its inputs and the share to the inputs of ``generate``.
        during: wraps ``generate``, given the model, the inputs and the share.
        ratios: the shares that it is run at; 1 for a method that decides itself how many stay.
        seed: of a random choice.
        instead_of: the method whose selection this computes in another way.
        by_scorer: whether VisionSelector's scorer decides.
        by_picture: whether the prompt up to the question is the same for all questions about a picture, and nothing
            in it is padded or keeps the position it had.
    """

    name: str
    prepare: Callable[[Any, Inputs, float], Ready]
    during: Callable[[Any, Inputs, float], contextlib.AbstractContextManager[Any]] = field(
        default=lambda made, inputs, ratio: contextlib.nullcontext()
    )
    ratios: tuple[float, ...] = RATIOS
    seed: int | None = None
    instead_of: str | None = None
    by_scorer: bool = False
    by_picture: bool = True


def methods(settings: Settings, scorer: Callable[[Tensor], Tensor] | None = None) -> list[Method]:
    """All of them, the unpruned model first; those that need the trained scorer cannot run without it."""
    return [
        Method(UNPRUNED, lambda made, inputs, ratio: inputs, ratios=(1.0,)),
        _package(DIVPRUNE, method="divprune"),
        _package("IDPruner, class attention", method="idpruner", importance="cls_attention"),
        _package("IDPruner, norm", method="idpruner", importance="norm"),
        _package("MMR, text relevance", method="mmr", relevance="text"),
        _package("DPP, text relevance", method="dpp", relevance="text"),
        _package("DPP, class attention", method="dpp", relevance="cls_attention"),
        _package("top k by class attention", **TOP_K),
        _package("top k by VisionSelector's scorer", by_scorer=True, method="idpruner", importance=scorer, lam=1.0),
        _package("IDPruner, VisionSelector's scorer", by_scorer=True, method="idpruner", importance=scorer),
        _in_decoder(FASTV, _fastv),
        _in_decoder(FASTV_LAST, functools.partial(_fastv, of_last_token=True)),
        # A share of 5 % would be that of 10 %: no fewer than one layer sees the tokens.
        _in_decoder(VTW, _vtw, ratios=RATIOS[:3]),
        Method(PRUMERGE, _prumerge, ratios=(1.0,), by_picture=False),
        Method(PRUMERGE_RANDOM, _random_outliers, ratios=(1.0,), by_picture=False),
        Method(UNIFORM, lambda made, inputs, ratio: _given(made, inputs, ratio, _grid)),
        *(_random(seed) for seed in range(settings.random_seeds)),
        Method(DOWNSAMPLED, lambda made, inputs, ratio: inputs),
        _package("DivPrune, original positions", method="divprune", positions="original"),
        _random(0, f"{RANDOM}, original positions", positions="original"),
        _package("top k by class attention, original positions", positions="original", **TOP_K),
        *(_instead(instead) for instead in loops.INSTEAD),
    ]


def vtw_layers(ratio: float, layers: int) -> int:
    """How many of the decoder's layers see the visual tokens under VTW, the share of layers nearest to the ratio."""
    return max(1, round(ratio * layers))


def _package(name: str, *, by_scorer: bool = False, **options: Any) -> Method:
    """What users run."""
    return Method(
        name,
        lambda made, inputs, ratio: prune_inputs(made, inputs, keep_ratio=ratio, **options),
        by_scorer=by_scorer,
        by_picture=options.get("relevance") != "text" and "positions" not in options,
    )


def _in_decoder(
    name: str,
    during: Callable[[Any, Inputs, float], contextlib.AbstractContextManager[Any]],
    ratios: tuple[float, ...] = RATIOS,
) -> Method:
    """What drops tokens of the whole prompt, inside the decoder."""
    return Method(name, lambda made, inputs, ratio: inputs, during, ratios, by_picture=False)


def _instead(instead: loops.Instead) -> Method:
    """A published loop in the place of an operator, or the operator in another dtype."""

    def prepare(made: Any, inputs: Inputs, ratio: float) -> Ready:
        with loops.selecting(instead):
            return prune_inputs(made, inputs, keep_ratio=ratio, **instead.options)

    return Method(instead.name, prepare, ratios=loops.RATIOS, instead_of=instead.of)


def _given(made: Any, inputs: Inputs, ratio: float, choose: Callable[..., Tensor], **options: Any) -> Ready:
    """Prunes to rows that do not depend on the tokens: those with importance 1, the others having 0.

    ``choose`` makes them of the number of tokens, k and the number of the scene.
    """
    count = _image_tokens(made, inputs)
    k = kept_count("accuracy", count, ratio)
    scenes = inputs["pixel_values"].flatten().tolist()
    wanted = torch.stack([torch.zeros(count).index_fill(0, choose(count, k, scene), 1.0) for scene in scenes])
    return prune_inputs(made, inputs, method="idpruner", lam=1.0, k=k, importance=wanted, **options)


def _grid(count: int, k: int, scene: int) -> Tensor:
    side = round(count**0.5)
    return baselines.grid(side, side, k)


def _random(seed: int, name: str = RANDOM, **options: Any) -> Method:
    """Another choice for each scene, the same for all questions about it."""

    def choose(count: int, k: int, scene: int) -> Tensor:
        return baselines.random(count, k, SCENES_OF_A_SEED * seed + scene)

    return Method(
        name,
        lambda made, inputs, ratio: _given(made, inputs, ratio, choose, **options),
        seed=seed,
        by_picture="positions" not in options,
    )


def _image_tokens(made: Any, inputs: Inputs) -> int:
    return int((inputs["input_ids"][0] == made.config.image_token_id).sum())


def _visual(made: Any, inputs: Inputs) -> Tensor:
    return inputs["input_ids"] == made.config.image_token_id


def _fastv(
    made: Any, inputs: Inputs, ratio: float, *, of_last_token: bool = False
) -> contextlib.AbstractContextManager[None]:
    choose = in_decoder.fastv(kept_count("accuracy", _image_tokens(made, inputs), ratio))
    visual = _visual(made, inputs)
    return in_decoder.dropping(made, visual, FASTV_LAYERS, choose, of_last_token=of_last_token)


def _vtw(made: Any, inputs: Inputs, ratio: float) -> contextlib.AbstractContextManager[None]:
    layer = vtw_layers(ratio, made.config.text_config.num_hidden_layers)
    choose = in_decoder.vtw(len(inputs["input_ids"]), _image_tokens(made, inputs))
    return in_decoder.dropping(made, _visual(made, inputs), layer, choose)


def _prumerge(made: Any, inputs: Inputs, ratio: float) -> Ready:
    """The outliers of class attention, each with its nearest neighbours by the tower's keys merged into it.

    PruMerge merges the tower's tokens, before the projector (arXiv 2403.15388, section 3.3). Its code adds one more
    token, the sum of all others, which the paper does not have.
    """
    inner = made.model
    with torch.no_grad():
        output, attention, outliers = _outliers(made, inputs)
        joined = torch.cat([output.hidden_states[place] for place in made.config.vision_feature_layer], dim=-1)
        layer = [each for each in inner.vision_tower.modules() if hasattr(each, "norm1")][-2]
        keys = layer.attention.k_proj(layer.norm1(output.hidden_states[-3]))[:, 1:]
        merged = []
        for x, weight, key, kept in zip(joined[:, 1:], attention, keys, outliers, strict=True):
            x = x.clone()
            rows = kept.nonzero().squeeze(-1)
            x[rows] = baselines.merge(x, weight, rows, key)
            merged.append(inner.multi_modal_projector(x))
    pruned = _kept(made, inputs, outliers)
    kept_tokens = [tokens[rows] for tokens, rows in zip(merged, pruned.kept_indices, strict=True)]
    return _with_tokens(pruned, kept_tokens)


def _random_outliers(made: Any, inputs: Inputs, ratio: float) -> Ready:
    """What PruMerge is compared with: as many tokens of each picture as it keeps, chosen at random and not merged."""
    with torch.no_grad():
        _, _, outliers = _outliers(made, inputs)
    pictures = inputs["pixel_values"].flatten().tolist()
    for row, picture in zip(outliers, pictures, strict=True):
        chosen = baselines.random(len(row), int(row.sum()), picture)
        row.zero_()[chosen] = True
    return _kept(made, inputs, outliers)


def _outliers(made: Any, inputs: Inputs) -> tuple[Any, Tensor, Tensor]:
    """The tower's output, its class attention, and which tokens are outliers of that, ``[B, N]``."""
    output = made.model.vision_tower(inputs["pixel_values"], output_hidden_states=True, return_dict=True)
    attention = class_attention(made, inputs, output.hidden_states)
    outliers = baselines.outliers(attention)
    # A picture without outliers would keep nothing: its most attended token stays.
    outliers |= ~outliers.any(-1, keepdim=True) & (attention == attention.amax(-1, keepdim=True))
    return output, attention, outliers


def _kept(made: Any, inputs: Inputs, kept: Tensor) -> Any:
    """Prunes to the tokens of a mask ``[B, N]``."""
    k = kept.sum(-1).tolist()
    return prune_inputs(made, inputs, method="idpruner", lam=1.0, k=k, importance=kept.float())


def _with_tokens(pruned: Any, tokens: list[Tensor]) -> Ready:
    """Puts other tokens in the places of those that were kept."""
    ready = dict(pruned)
    ready["mm_encoder_outputs"] = {"image": BaseModelOutputWithPooling(pooler_output=tokens)}
    return ready
