"""Requests of many kinds."""

import random

from tests.vllm.media import IMAGES, VIDEOS, Request, is_media

WITH_CLASS_TOKEN = ("llava", "llava_next", "llava_next_video", "internvl", "internvl_chat")
CLASS_ATTENTION = {"method": "idpruner", "importance": "cls_attention", "keep_ratio": 0.3}
ENGINE = {"method": "divprune", "keep_ratio": 0.25}


def kinds(family):
    """One request of each kind that a family takes."""
    requests = [Request(("what", "is", "a", "cat", "?"))]
    for letter, families in (("I", IMAGES), ("V", VIDEOS)):
        if family not in families:
            continue
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
        if family in WITH_CLASS_TOKEN:
            requests += [
                Request(("a", f"{letter}1", "and", f"{letter}5", "?"), CLASS_ATTENTION),
                Request(("a", f"{letter}3", "?"), CLASS_ATTENTION),
                Request(("a", f"{letter}2", "?"), {**CLASS_ATTENTION, "lam": 1.0}),
            ]
    if family == "llava_next_video":  # vLLM takes one video a prompt
        requests = [request for request in requests if sum(map(is_media, request.parts)) <= 1]
    if family in IMAGES and family in VIDEOS:
        requests += [
            Request(("V1", "dog", "I2", "?")),
            Request(("I2", "dog", "V3", "and", "I1", "?")),
        ]
    return requests


def mixes(family, count, seed):
    """Random requests: words, up to three images and videos, and options."""
    rng = random.Random(f"{family} {seed}")
    letters = "I" * (family in IMAGES) + "V" * (family in VIDEOS)
    requests = []
    for _ in range(count):
        parts = _words(rng)
        for _ in range(rng.randint(0, 1 if family == "llava_next_video" else 3)):
            parts += [rng.choice(letters) + str(rng.randint(0, 7)), *_words(rng)]
        requests.append(Request((*parts, "?"), rng.choice(_options(rng))))
    return requests


def _words(rng):
    return [rng.choice(("a", "the", "cat", "dog", "on", "mat")) for _ in range(rng.randint(1, 5))]


def _options(rng):
    budget = rng.choice(({"keep_ratio": round(rng.uniform(0.05, 1), 2)}, {"k": rng.randint(1, 40)}))
    return (None, None, False, budget, {"method": "idpruner", "importance": "norm", "lam": 0.7, **budget})
