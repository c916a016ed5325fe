"""Which tokens stay: the oracle's, within each budget, in their order."""

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

import python_ref
from tests.support.inputs import oracle, random_weight
from tests.support.vision_language import (
    FAMILIES,
    IMAGE,
    VIDEO,
    assert_injected,
    batch,
    images_in,
    injected,
    model_of,
    own_features,
    rows_of,
    share,
)
from tokenprune_kernels.integrations.transformers import prune_inputs
from tokenprune_kernels.methods import METHODS


def kept_rows(family, rows, select):
    """The rows that an oracle keeps of the model's own features: `select(tokens, number)` gives indices."""
    return [
        item.tokens[select(item.tokens, number).sort().values]
        for number, item in enumerate(own_features(family, *rows))
    ]


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("family", FAMILIES)
def test_the_oracle_keeps_the_same(family, method):
    rows, takes = rows_of(family), METHODS[method]
    weights = [random_weight(len(item.tokens), seed=len(item.tokens)) for item in own_features(family, *rows)]
    options = ({takes.weight: weights} if takes.weight else {}) | ({"lam": 0.3} if takes.has_lam else {})

    def select(tokens, number):
        return oracle(method, tokens, weights[number], share(0.3, tokens), 0.3)[0]

    pruned = prune_inputs(model_of(family), batch(family, *rows), method=method, keep_ratio=0.3, **options)
    expected = kept_rows(family, rows, select)
    assert_injected(pruned, expected, images_in(rows))
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
    assert_injected(pruned, expected, 3)
    assert (pruned["input_ids"] == IMAGE).sum(-1).tolist() == [counts[0] + counts[1], counts[2]]


def test_budgets_of_videos_follow_those_of_images():
    rows = ("tVtIt", "tit")
    counts = [5, 2, 7]
    pruned = prune_inputs(model_of("qwen3_vl"), batch("qwen3_vl", *rows), k=counts)
    expected = kept_rows("qwen3_vl", rows, lambda tokens, number: python_ref.divprune(tokens, counts[number])[0])
    assert_injected(pruned, expected, 2)


@pytest.mark.parametrize("options", [{}, {"num_beams": 2}])
@pytest.mark.parametrize("family", ["llava", "qwen2_5_vl", "qwen3_vl"])
def test_a_batch_may_share_one_budget(family, options):
    rows = ("tItit", "ttIt") if family == "llava" else ("tItVt", "ttitVt")
    features = torch.cat([item.tokens for item in own_features(family, *rows)])
    pruned = prune_inputs(model_of(family), batch(family, *rows), k=9, scope="batch")
    expected = features[python_ref.divprune(features, 9)[0].sort().values]
    modalities = ["image"] if family == "llava" else ["image", "video"]
    kept = torch.cat([injected(pruned, modality) for modality in modalities])
    torch.testing.assert_close(kept, expected, atol=1e-5, rtol=1e-4)
    assert int(((pruned["input_ids"] == IMAGE) | (pruned["input_ids"] == VIDEO)).sum()) == 9
    assert model_of(family).generate(**pruned, max_new_tokens=2, **options).shape[0] == 2


class Recorder(TorchDispatchMode):
    """Records the calls of this package's operators: each one's name and arguments."""

    def __init__(self):
        super().__init__()
        self.calls = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func.namespace == "tokenprune":
            self.calls.append((func._schema.name, args))
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("scope", ["item", "batch"])
def test_one_operator_selects_for_the_whole_batch(scope):
    with Recorder() as recorder:
        prune_inputs(model_of("qwen3_vl"), batch("qwen3_vl", *rows_of("qwen3_vl")), keep_ratio=0.3, scope=scope)
    ((name, (_, cu_seqlens, *_)),) = recorder.calls
    assert name == "tokenprune::divprune_varlen"
    assert len(cu_seqlens) == (8 if scope == "item" else 2)


def test_lam_is_a_half_unless_given():
    def kept(**options):
        options |= {"k": 5, "method": "idpruner", "importance": random_weight(16)}
        return injected(prune_inputs(model_of("llava"), batch("llava", "tIt"), **options))

    assert torch.equal(kept(), kept(lam=0.5))
    assert not torch.equal(kept(), kept(lam=0.0))
    assert not torch.equal(kept(), kept(lam=1.0))


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
    assert_injected(pruned, kept_rows(family, rows, select), images_in(rows))
    assert ((injected(pruned) == newline).all(-1).sum() > 3) == protect


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
