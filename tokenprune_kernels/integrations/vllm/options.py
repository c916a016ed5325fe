"""The option ``tokenprune``: what it may say, and how a request's is merged over the engine's."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from ...methods import METHODS, check_method
from ..budget import budgets, check_budget

OPTION = "tokenprune"
MODALITIES = ("image", "video")
WEIGHTS = ("norm", "cls_attention", "vision_selector")
_BUDGET = ("k", "keep_ratio")
_METHOD = ("method", "importance", "relevance", "lam")
_ENGINE = ("scorer", "scorer_prefix", "scorer_revision")  # what is loaded once, when the engine starts


@dataclass(frozen=True)
class Budget:
    """How many tokens an image or video keeps: exactly one of the two is given."""

    k: int | None = None
    keep_ratio: float | None = None

    def kept(self, counts: list[int]) -> list[int]:
        """Returns how many tokens each segment keeps of ``counts``, by the rule of ``prune_inputs``."""
        return budgets(OPTION, counts, self.k, self.keep_ratio)


@dataclass(frozen=True)
class Options:
    """The options of an engine or of a request, checked.

    Attributes:
        method: a name of ``METHODS``.
        weight: one of ``WEIGHTS``, the importance or relevance; None where the method has none.
        lam: its weight against diversity; None for 0.5, or where the method has none.
        budgets: by modality; one that is missing is not pruned.
        scorer: where ``VisionSelectorScorer.from_pretrained`` finds weights, with ``prefix`` and ``revision``.
    """

    method: str = "divprune"
    weight: str | None = None
    lam: float | None = None
    budgets: Mapping[str, Budget] = field(default_factory=dict)
    scorer: Mapping[str, str] = field(default_factory=dict)

    def identity(self) -> dict[str, Any]:
        """Returns what decides a selection, in a form that vLLM's hasher takes."""
        return {
            "method": self.method,
            "weight": self.weight,
            "lam": self.lam,
            "scorer": dict(self.scorer),
            "budgets": {name: [budget.k, budget.keep_ratio] for name, budget in sorted(self.budgets.items())},
        }

    @classmethod
    def identified(cls, identity: Mapping[str, Any]) -> Options:
        """Returns the options of ``identity()``."""
        budgets = {name: Budget(*pair) for name, pair in identity["budgets"].items()}
        return cls(identity["method"], identity["weight"], identity["lam"], budgets, dict(identity["scorer"]))


def merged(engine: Any, request: Any) -> Any:
    """Returns the options of a request merged over those of its engine, both as they were given.

    A method of the request replaces that of the engine with its importance, relevance and lam. A budget of the request
    replaces those of the modalities that it is for. False switches pruning off.
    """
    if request is False or not isinstance(request, Mapping) or not isinstance(engine, Mapping):
        return request
    result = dict(engine)
    if "method" in request:
        result = {name: value for name, value in result.items() if name not in _METHOD}
    if any(name in request for name in _BUDGET):
        result = {name: value for name, value in result.items() if name not in (*_BUDGET, *MODALITIES)}
    return result | dict(request)


def parsed(given: Any) -> Options:
    """Checks options, and fills in defaults.

    Args:
        given: a mapping as on the page on vLLM, or False for pruning that is switched off.

    Raises:
        ValueError, TypeError: naming the option, what was expected and what came.
    """
    if given is False:
        return Options()
    if not isinstance(given, Mapping):
        raise TypeError(f"{OPTION}: expected a mapping of options or false, got {given!r}")
    known = (*_METHOD, *_BUDGET, *MODALITIES, *_ENGINE)
    for name in given:
        if name not in known:
            raise ValueError(f"{OPTION}: expected options among {', '.join(known)}, got {name!r}")
    method = given.get("method", "divprune")
    weights = {name: given.get(name) for name in ("relevance", "importance")}
    lam = given.get("lam")
    for name, weight in weights.items():
        _check_weight(name, weight)
        if weight is None and method in METHODS and METHODS[method].weight == name:
            raise ValueError(f"{OPTION}: expected {name} to be one of {', '.join(WEIGHTS)} with {method!r}, got none")
    check_method(OPTION, method, weights, lam)
    if lam is not None and (not isinstance(lam, int | float) or isinstance(lam, bool) or not 0 <= lam <= 1):
        raise ValueError(f"{OPTION}: expected lam to be a number in [0, 1], got {lam!r}")
    chosen = METHODS[method].weight
    weight = None if chosen is None else weights[chosen]
    if method == "dpp" and weight == "vision_selector":
        raise ValueError(f"{OPTION}: expected a relevance that is not negative with method 'dpp', got {weight!r}")
    scorer = {name: str(given[name]) for name in _ENGINE if given.get(name) is not None}
    if weight == "vision_selector" and "scorer" not in scorer:
        raise ValueError(
            f"{OPTION}: expected scorer, a safetensors file or repository, with 'vision_selector', got none"
        )
    return Options(method, weight, None if lam is None else float(lam), _budgets(given), scorer)


def _check_weight(name: str, weight: Any) -> None:
    if weight is None or weight in WEIGHTS:
        return
    expected = f"{OPTION}: expected {name} to be one of {', '.join(WEIGHTS)}, got {weight!r}"
    if weight == "text":
        raise ValueError(f"{expected}: vLLM encodes an image once for all prompts, so no prompt's text may decide")
    raise ValueError(expected)


def _budgets(given: Mapping[str, Any]) -> dict[str, Budget]:
    shared = {name: given[name] for name in _BUDGET if given.get(name) is not None}
    result = {}
    for modality in MODALITIES:
        own = given.get(modality)
        if own is False:
            continue
        if own is not None and not isinstance(own, Mapping):
            raise TypeError(
                f"{OPTION}: expected {modality} to be a mapping with k or keep_ratio, or false, got {own!r}"
            )
        for name in own or ():
            if name not in _BUDGET:
                raise ValueError(f"{OPTION}: expected {modality} to have k or keep_ratio, got {name!r}")
        if own is None and not shared and any(isinstance(given.get(other), Mapping) for other in MODALITIES):
            continue  # only the other modality is pruned
        budget = shared if own is None else dict(own)
        for name, number in budget.items():
            if isinstance(number, list | tuple):
                raise TypeError(f"{OPTION}: expected {name} to be one number, got {number!r}")
        check_budget(OPTION, budget.get("k"), budget.get("keep_ratio"))
        result[modality] = Budget(**budget)
    return result
