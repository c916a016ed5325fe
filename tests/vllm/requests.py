"""Requests of many kinds."""

import random

from tests.vllm.media import Request, is_media
from tests.vllm.tiny import FAMILIES

CLASS_ATTENTION = {"method": "idpruner", "importance": "cls_attention", "keep_ratio": 0.3}
ENGINE = {"method": "divprune", "keep_ratio": 0.25}


def kinds(family):
    """One request of each kind that a family takes."""
    requests = [Request(("what", "is", "a", "cat", "?"))]
    of = FAMILIES[family]
    for letter in of.placeholders:
        requests += [
            Request(("a", f"{letter}1", "what", "is", "this", "?")),
            Request(("a", f"{letter}2", "and", f"{letter}3", "?")),
            Request(("the", f"{letter}1", "and", f"{letter}1", "same", "?")),
            Request(("the", f"{letter}4", "?"), {"keep_ratio": 0.05}),
            Request(("the", f"{letter}4", "?"), {"keep_ratio": 0.6}),
            Request(("the", f"{letter}4", "?"), {"k": 3}),
            Request(("the", f"{letter}4", "?"), {"k": 10_000}),
            Request(("the", f"{letter}4", "?"), False),
            Request((f"{letter}5", "?"), {"method": "idpruner", "importance": "norm", "lam": 0.3, "k": 5}),
            Request((f"{letter}5", "?"), {"method": "mmr", "relevance": "norm"}),
            Request((f"{letter}5", "?"), {"method": "dpp", "relevance": "norm", "keep_ratio": 0.4}),
        ]
        if of.class_token:
            requests += [
                Request(("a", f"{letter}1", "and", f"{letter}5", "?"), CLASS_ATTENTION),
                Request(("a", f"{letter}3", "?"), CLASS_ATTENTION),
                Request(("a", f"{letter}2", "?"), {**CLASS_ATTENTION, "lam": 1.0}),
            ]
    requests = [request for request in requests if sum(map(is_media, request.parts)) <= of.most]
    if len(of.placeholders) == 2:
        requests += [
            Request(("V1", "dog", "I2", "?")),
            Request(("I2", "dog", "V3", "and", "I1", "?")),
        ]
    return requests


def mixes(family, count, seed):
    """Random requests: words, up to three images and videos, and options."""
    rng = random.Random(f"{family} {seed}")
    return [_request(FAMILIES[family], rng) for _ in range(count)]


def batches(family, count, seed):
    """Random mixes of one to six random requests, which are in flight together."""
    rng = random.Random(f"{family} {seed}")
    return [[_request(FAMILIES[family], rng) for _ in range(rng.randint(1, 6))] for _ in range(count)]


def _request(of, rng):
    parts = _words(rng)
    for _ in range(rng.randint(0, of.most)):
        parts += [rng.choice(list(of.placeholders)) + str(rng.randint(0, 7)), *_words(rng)]
    return Request((*parts, "?"), rng.choice(_options(of, rng)))


def _words(rng):
    return [rng.choice(("a", "the", "cat", "dog", "on", "mat")) for _ in range(rng.randint(1, 5))]


def _options(of, rng):
    budget = rng.choice(({"keep_ratio": round(rng.uniform(0.05, 1), 2)}, {"k": rng.randint(1, 40)}))
    weight = rng.choice(("norm", "cls_attention") if of.class_token else ("norm",))
    lam = round(rng.uniform(0, 1), 2)
    return (
        *(None, None, False, budget),
        {"method": "idpruner", "importance": weight, "lam": lam, **budget},
        {"method": "mmr", "relevance": weight, "lam": lam, **budget},
        {"method": "dpp", "relevance": weight, **budget},
    )
