"""Scores and verdicts in Python floats, which the judge is held to."""

import math

import torch

import python_ref
from tests.support.inputs import random_weight

LAM = 0.3
BY_RUNNING_MAXIMUM = ("divprune", "mmr", "idpruner")  # whose scores are restated here; test_dpp.py has the DPP's


def weight_for(method, *shape, seed=0):
    return None if method == "divprune" else random_weight(*shape, seed=seed)


def relevance_for(method, weight):
    if method == "divprune":
        return None
    relevance = (
        weight if method == "mmr" else python_ref.relevance_of(weight, torch.ones(len(weight), dtype=torch.bool))
    )
    return relevance.tolist()


def cosine(a, b):
    return math.fsum(p * q for p, q in zip(a, b, strict=True)) / (math.hypot(*a) * math.hypot(*b))


def scores_at(rows, selected, relevance=None, lam=LAM):
    """The score of every unselected row, in Python floats."""
    scores = {}
    for i in set(range(len(rows))) - set(selected):
        if relevance is not None and not selected:
            scores[i] = relevance[i]
            continue
        nearest = max(cosine(rows[i], rows[j]) for j in selected or range(len(rows)) if j != i)
        scores[i] = 1 - nearest if relevance is None else lam * relevance[i] - (1 - lam) * nearest
    return scores


def shortfalls(rows, picks, relevance=None, lam=LAM):
    """By how much each pick falls short of the best score at its step."""
    amounts = []
    for step, pick in enumerate(picks):
        scores = scores_at(rows, picks[:step], relevance, lam)
        amounts.append(max(scores.values()) - scores[pick])
    return amounts


def leads(rows, picks, relevance=None, lam=LAM):
    """By how much the best score beats the runner-up at each step."""
    amounts = []
    for step in range(len(picks)):
        best, *others = sorted(scores_at(rows, picks[:step], relevance, lam).values(), reverse=True)
        amounts.append(best - others[0] if others else math.inf)
    return amounts


def first_beyond(amounts, tolerance=2e-5):
    return next((step for step, amount in enumerate(amounts) if amount > tolerance), None)
