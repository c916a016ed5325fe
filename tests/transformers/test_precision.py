"""Scores and measures are what they are, whatever precision, device or mode the caller has set."""

import copy
import warnings

import pytest
import torch

from tests.support.inputs import gaussian_tokens, random_weight
from tests.support.vision_language import MAKERS, batch, injected, model_of
from tokenprune_kernels import baselines, metrics
from tokenprune_kernels.analysis import pictures
from tokenprune_kernels.importance import VisionSelectorScorer, norm
from tokenprune_kernels.integrations.transformers import prune_inputs
from tokenprune_kernels.integrations.transformers.class_attention import class_attention
from tokenprune_kernels.integrations.transformers.token_weights import weights
from tokenprune_kernels.verify import verify_trace


def autocast():
    return torch.autocast("cpu", dtype=torch.bfloat16)


@torch.no_grad()
def test_the_scorer_under_autocast():
    torch.manual_seed(0)
    scorer, x = VisionSelectorScorer(24, 10), gaussian_tokens(1000, 24)
    expected = scorer(x)
    with autocast():
        scores = scorer(x)
    assert scores.dtype == torch.float32
    assert torch.equal(scores, expected)
    assert len(scores.unique()) > 990


@torch.no_grad()
def test_class_attention_and_text_under_autocast():
    """From the same tokens, queries and keys: those are the model's own, in its precision."""
    model, inputs = model_of("llava"), batch("llava", "ttItt")
    states = model.model.vision_tower(inputs["pixel_values"], output_hidden_states=True).hidden_states
    expected = class_attention(model, inputs, states)
    seen = []
    prune_inputs(model, inputs, k=4, method="mmr", relevance="text")

    def record(name):
        from tokenprune_kernels.integrations.transformers.families import family_of

        features = family_of(model).encode(model, inputs, "image")
        seen.append(weights("mmr", "relevance", name, model, inputs, [features]))

    record("text")
    with autocast():
        attention = class_attention(model, inputs, states)
    assert attention.dtype == torch.float32
    torch.testing.assert_close(attention, expected, atol=2e-3, rtol=0)
    assert len(attention.unique()) == attention.numel()
    tokens = model.model.get_image_features(inputs["pixel_values"]).pooler_output
    embeddings = model.get_input_embeddings()(inputs["input_ids"])
    text = embeddings[0, inputs["input_ids"][0] != model.config.image_token_id].mean(0)
    similarity = torch.nn.functional.cosine_similarity(tokens[0], text[None])
    torch.testing.assert_close(seen[0], similarity, atol=1e-6, rtol=0)


def measures(x, weight):
    kept = torch.arange(0, 40, 3)
    return [
        norm(x),
        metrics.importance_retention(weight, kept),
        metrics.hopkins(x[kept]),
        metrics.hopkins(x[kept], within=x, draws=7),
        metrics.smallest_distance(x[kept]),
        metrics.mean_distance(x[kept]),
        *metrics.coverage(x, kept),
        metrics.angle_histogram(x[kept]),
        baselines.top_k(weight, 5),
        baselines.mixture(x, weight, 6),
        baselines.merge(x, weight, kept),
        baselines.grid(4, 10, 7),
        baselines.random(40, 7),
        x.new_tensor(bool(verify_trace("divprune", x, torch.ops.tokenprune.divprune(x, 5)))),
    ]


@pytest.mark.parametrize(
    "mode",
    [
        autocast,
        torch.inference_mode,
        lambda: torch.device("meta"),  # a default device, as torch.set_default_device sets it
    ],
    ids=["autocast", "inference", "default device"],
)
def test_measures_do_not_depend_on_the_mode(mode):
    x, weight = gaussian_tokens(40, 16), random_weight(40)
    expected = measures(x, weight)
    kept = torch.arange(0, 40, 3)
    with mode() as _, pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch, "arange", lambda *args, real=torch.arange, **kw: real(*args, **{"device": "cpu"} | kw))
        results = measures(x, weight)
    for result, other in zip(results, expected, strict=True):
        assert result.device == kept.device
        assert torch.equal(result, other)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64], ids=str)
def test_a_default_dtype_changes_nothing(dtype):
    x, weight = gaussian_tokens(40, 16), random_weight(40)
    model, inputs = model_of("llava"), batch("llava", "ttItt")
    options = {"k": 4, "method": "mmr", "relevance": "text"}
    expected, kept = measures(x, weight), injected(prune_inputs(model, inputs, **options))
    torch.set_default_dtype(dtype)
    try:
        assert all(map(torch.equal, measures(x, weight), expected))
        assert torch.equal(injected(prune_inputs(model, inputs, **options)), kept)
    finally:
        torch.set_default_dtype(torch.float32)


def test_patches_on_another_default_device():
    images = pytest.importorskip("PIL.Image")
    picture = images.new("RGB", (28, 42), (3, 5, 7))
    expected = pictures.patch_tokens(picture)
    with torch.device("meta"):
        assert torch.equal(pictures.patch_tokens(picture), expected)


def test_pruned_in_inference_mode_and_used_outside():
    model, inputs = model_of("qwen2_5_vl"), batch("qwen2_5_vl", "ttItt")
    expected = model(**prune_inputs(model, inputs, k=4)).logits
    with torch.inference_mode():
        pruned = prune_inputs(model, inputs, k=4)
    # torch takes no inference tensors where gradients are recorded.
    with torch.no_grad():
        torch.testing.assert_close(model(**pruned).logits, expected)


@pytest.mark.parametrize("value", [torch.inf, 1e30], ids=["elements", "sums of squares"])
def test_a_tower_that_overflows_is_told_once(value):
    model, inputs = copy.deepcopy(model_of("llava")), batch("llava", "ttItt", "tIIt")
    with torch.no_grad():
        model.model.multi_modal_projector.linear_2.bias.fill_(value)
    message = (
        r"^prune_inputs: expected finite values from get_image_features of LlavaForConditionalGeneration, got NaN or "
        r"infinity in 16 of 16 tokens of image or video 0;"
    )
    with pytest.warns(RuntimeWarning, match=message):
        pruned = prune_inputs(model, inputs, k=4)
    assert [indices.tolist() for indices in pruned.kept_indices] == [[0, 1, 2, 3]] * 3
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        prune_inputs(model, inputs, k=4)
        prune_inputs(copy.deepcopy(model), inputs, k=4, check_finite=False)
        prune_inputs(model_of("llava"), inputs, k=4)


@pytest.mark.parametrize("family", ["llava", "qwen3_vl"])
def test_weights_that_are_not_finite_are_told(family):
    model = MAKERS[family]().eval()
    inputs = batch(family, "ttItIt")
    scores = iter([torch.ones, lambda n: torch.full((n,), torch.nan)])
    with pytest.warns(
        RuntimeWarning, match=r"finite values from importance of .* in \d+ of \d+ tokens of image or video 1"
    ):
        prune_inputs(model, inputs, k=4, method="idpruner", importance=lambda tokens: next(scores)(len(tokens)))
