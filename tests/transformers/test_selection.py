"""Which tokens stay: the oracle's, within each budget, in their order."""

import pytest
import torch

import python_ref
from tests.support.inputs import oracle, random_weight
from tests.support.vision_language import (
    FAMILIES,
    IMAGE,
    VIDEO,
    assert_handed_over,
    batch,
    handed_over,
    images_in,
    model_of,
    own_features,
    rows_of,
    share,
)
from tests.support.vision_language import mechanism as mechanism
from tokenprune_kernels import selectors
from tokenprune_kernels.integrations.transformers import prune_inputs


def kept_rows(family, rows, select):
    """The rows that an oracle keeps of the model's own features: `select(tokens, number)` gives indices."""
    return [
        item.tokens[item.kept(lambda tokens, number=number: select(tokens, number))]
        for number, item in enumerate(own_features(family, *rows))
    ]


@pytest.mark.usefixtures("mechanism")
@pytest.mark.parametrize("method", ["divprune", "mmr", "idpruner"])
@pytest.mark.parametrize("family", FAMILIES)
def test_the_oracle_keeps_the_same(family, method):
    rows = rows_of(family)
    weights = [random_weight(len(item.tokens), seed=len(item.tokens)) for item in own_features(family, *rows)]
    options = {"divprune": {}, "mmr": {"relevance": weights}, "idpruner": {"importance": weights, "lam": 0.3}}[method]

    def select(tokens, number):
        lam = {"divprune": None, "mmr": 0.5, "idpruner": 0.3}[method]
        return oracle(method, tokens, weights[number][: len(tokens)], share(0.3, tokens), lam)[0]

    pruned = prune_inputs(model_of(family), batch(family, *rows), method=method, keep_ratio=0.3, **options)
    expected = kept_rows(family, rows, select)
    assert_handed_over(family, pruned, expected, images_in(rows))
    for token_id, items in ((IMAGE, expected[: images_in(rows)]), (VIDEO, expected[images_in(rows) :])):
        assert int((pruned["input_ids"] == token_id).sum()) == sum(len(item) for item in items)


@pytest.mark.parametrize(
    ("budget", "counts"),
    [
        ({"k": 3}, [3, 3, 3]),
        ({"k": 40}, [16, 8, 16]),
        ({"k": [1, 5, 2]}, [1, 5, 2]),
        ({"k": torch.tensor([1, 5, 2])}, [1, 5, 2]),
        ({"keep_ratio": 0.5}, [8, 4, 8]),
        ({"keep_ratio": [0.25, 1.0, 0.01]}, [4, 8, 1]),
        ({"keep_ratio": (1, 1, 0.5)}, [16, 8, 8]),
    ],
)
def test_budgets_of_each_image(budget, counts):
    rows = ("tItit", "ttIt")
    pruned = prune_inputs(model_of("qwen2_vl"), batch("qwen2_vl", *rows), **budget)
    expected = kept_rows("qwen2_vl", rows, lambda tokens, number: python_ref.divprune(tokens, counts[number])[0])
    assert_handed_over("qwen2_vl", pruned, expected, 3)
    assert (pruned["input_ids"] == IMAGE).sum(-1).tolist() == [counts[0] + counts[1], counts[2]]


def test_budgets_of_videos_follow_those_of_images():
    rows = ("tVtIt", "tit")
    counts = [5, 2, 7]
    pruned = prune_inputs(model_of("qwen3_vl"), batch("qwen3_vl", *rows), k=counts)
    expected = kept_rows("qwen3_vl", rows, lambda tokens, number: python_ref.divprune(tokens, counts[number])[0])
    assert_handed_over("qwen3_vl", pruned, expected, 2)


@pytest.mark.usefixtures("mechanism")
@pytest.mark.parametrize("options", [{}, {"num_beams": 2}])
@pytest.mark.parametrize("family", ["llava", "qwen2_5_vl", "qwen3_vl"])
def test_a_batch_may_share_one_budget(family, options):
    rows = ("tItit", "ttIt") if family == "llava" else ("tItVt", "ttitVt")
    features = torch.cat([item.tokens for item in own_features(family, *rows)])
    pruned = prune_inputs(model_of(family), batch(family, *rows), k=9, scope="batch")
    expected = features[python_ref.divprune(features, 9)[0].sort().values]
    modalities = ["image"] if family == "llava" else ["image", "video"]
    kept = torch.cat([handed_over(family, pruned, modality) for modality in modalities])
    torch.testing.assert_close(kept, expected, atol=1e-5, rtol=1e-4)
    assert int(((pruned["input_ids"] == IMAGE) | (pruned["input_ids"] == VIDEO)).sum()) == 9
    assert model_of(family).generate(**pruned, max_new_tokens=2, **options).shape[0] == 2


@pytest.mark.parametrize("scope", ["item", "batch"])
def test_one_operator_selects_for_the_whole_batch(monkeypatch, scope):
    calls, divprune_varlen = [], selectors.divprune_varlen

    def recorded(x, cu_seqlens, *arguments, **options):
        calls.append(cu_seqlens)
        return divprune_varlen(x, cu_seqlens, *arguments, **options)

    monkeypatch.setattr(selectors, "divprune_varlen", recorded)
    prune_inputs(model_of("qwen3_vl"), batch("qwen3_vl", *rows_of("qwen3_vl")), keep_ratio=0.3, scope=scope)
    (cu_seqlens,) = calls
    assert len(cu_seqlens) == (8 if scope == "item" else 2)


@pytest.mark.parametrize("family", ["llava_next", "llava_next_video", "llava_onevision"])
@pytest.mark.parametrize("protect", [True, False])
def test_newlines_are_candidates_unless_protected(family, protect):
    rows = ("tItit", "ttVt") if family != "llava_next" else ("tItit", "ttIt")
    newline = model_of(family).model.image_newline

    def select(tokens, number):
        newlines = (tokens == newline).all(-1)
        if not protect:
            return python_ref.divprune(tokens, share(0.1, tokens))[0]
        others = (~newlines).nonzero()[:, 0]
        picks = python_ref.divprune(tokens[others], share(0.1, others))[0]
        return torch.cat([newlines.nonzero()[:, 0], others[picks]])

    pruned = prune_inputs(model_of(family), batch(family, *rows), keep_ratio=0.1, protect_newlines=protect)
    assert_handed_over(family, pruned, kept_rows(family, rows, select), images_in(rows))
    assert ((handed_over(family, pruned) == newline).all(-1).sum() > 3) == protect


@torch.no_grad()
def test_several_images_of_a_prompt_may_have_one_tile_each():
    """As LLaVA-OneVision's processor has it: their tokens and one newline."""
    model, inputs = model_of("llava_onevision"), batch("llava_onevision", "tItIt")
    inputs["batch_num_images"] = torch.tensor([2])
    inputs["input_ids"] = torch.tensor([[3, *[IMAGE] * 17, 4, *[IMAGE] * 17, 5]])
    inputs["attention_mask"] = torch.ones_like(inputs["input_ids"])
    assert torch.equal(model(**prune_inputs(model, inputs, keep_ratio=1.0)).logits, model(**inputs).logits)
    pruned = prune_inputs(model, inputs, k=[2, 5], protect_newlines=True)
    assert pruned["input_ids"].tolist() == [[3, *[IMAGE] * 3, 4, *[IMAGE] * 6, 5]]
    assert "batch_num_images" not in pruned


def test_text_keeps_its_order_around_what_is_left():
    inputs = batch("llava", "tttItittt")
    pruned = prune_inputs(model_of("llava"), inputs, k=[2, 3])
    (expected,) = inputs["input_ids"]
    text = expected[expected != IMAGE].tolist()
    assert pruned["input_ids"].tolist() == [[*text[:3], *[IMAGE] * 2, text[3], *[IMAGE] * 3, *text[4:]]]


def test_protected_newlines_do_not_count_towards_a_shared_budget():
    model, inputs = model_of("llava_next"), batch("llava_next", "ttIt", "tit")

    def kept(k, scope):
        pruned = prune_inputs(model, inputs, k=k, scope=scope, protect_newlines=True)
        return int((pruned["input_ids"] == IMAGE).sum())

    newlines = kept(1, "item") - 2
    assert newlines > 0
    assert kept(5, "batch") == 5 + newlines
    everything = int((inputs["input_ids"] == IMAGE).sum())
    assert kept(10_000, "batch") == kept(10_000, "item") == everything


def test_token_type_ids_are_shortened():
    inputs = batch("llava", "ttItt", "tIt")
    pruned = prune_inputs(model_of("llava"), inputs | {"token_type_ids": inputs["input_ids"]}, k=3)
    placed = pruned["attention_mask"] != 0
    assert torch.equal(pruned["token_type_ids"][placed], pruned["input_ids"][placed])
