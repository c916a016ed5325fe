"""The weights of visual tokens by name, by tensor and by callable, the learned scorer among them."""

import pytest
import torch
import torch.nn.functional as F
import transformers

import python_ref
from tests.support.inputs import random_weight
from tests.support.vision_language import (
    FAMILIES,
    IMAGE,
    assert_injected,
    batch,
    images_in,
    injected,
    model_of,
    own_features,
    share,
)
from tokenprune_kernels.integrations.transformers import VisionSelectorScorer, prune_inputs

WITH_CLASS_TOKEN = ("llava", "llava_next", "llava_next_video", "internvl")


def assert_idpruner_keeps(family, rows, importance, weights, **options):
    """With weights, one [n] for each item, given or worked out here, the oracle keeps the same."""
    pruned = prune_inputs(
        model_of(family), batch(family, *rows), method="idpruner", keep_ratio=0.3, importance=importance, **options
    )
    expected = [
        item.tokens[python_ref.idpruner(item.tokens, weight, share(0.3, item.tokens))[0].sort().values]
        for item, weight in zip(own_features(family, *rows), weights, strict=True)
    ]
    assert_injected(pruned, expected, images_in(rows))


@pytest.mark.parametrize("family", FAMILIES)
def test_norm(family):
    rows = ("tItit", "ttIt")
    assert_idpruner_keeps(family, rows, "norm", [item.tokens.norm(dim=-1) for item in own_features(family, *rows)])


@pytest.mark.parametrize("family", ["llava", "internvl", "qwen3_vl"])
def test_text_is_the_cosine_to_the_mean_embedding_of_the_prompts_own_text(family):
    rows = ("tItit", "tttttttttItttttttttttt", "tt")
    model, weights, number = model_of(family), [], 0
    for row in rows:
        input_ids = batch(family, row)["input_ids"]
        mean = model.get_input_embeddings()(input_ids[input_ids != IMAGE]).mean(0, keepdim=True)
        for _ in row.replace("t", ""):
            weights.append(F.cosine_similarity(own_features(family, *rows)[number].tokens, mean).detach())
            number += 1
    assert_idpruner_keeps(family, rows, "text", weights)


@pytest.mark.parametrize("family", WITH_CLASS_TOKEN)
def test_class_attention_is_that_of_the_vision_tower(family):
    """Against the attention maps of the eager implementation, brought into the order of the tokens by hand."""
    row = {"llava": "tIt", "llava_next": "tit", "llava_next_video": "tVt", "internvl": "tIt"}[family]
    model, inputs = model_of(family), batch(family, row)
    tower = model.model.vision_tower
    pixels = inputs["pixel_values_videos"] if row == "tVt" else inputs["pixel_values"]
    implementation = tower.config._attn_implementation
    tower.set_attn_implementation("eager")
    with torch.no_grad():
        maps = tower(pixels.flatten(0, -4), output_attentions=True, return_dict=True).attentions
    tower.set_attn_implementation(implementation)
    layer = model.config.vision_feature_layer
    attention = maps[layer].mean(1)[:, 0, 1:]
    if family == "llava":
        weights = attention.flatten()
    elif family == "internvl":  # a token is a square of four patches
        weights = F.avg_pool2d(attention.view(-1, 1, 8, 8), 2).flatten()
    elif family == "llava_next_video":  # frames are pooled two by two
        weights = F.avg_pool2d(attention.view(-1, 1, 4, 4), 2).flatten()
    else:  # the overview, then two tiles side by side, of which rows above and below show nothing of the image
        tiles = torch.cat([attention[1].view(4, 4), attention[2].view(4, 4)], dim=1)
        height = (len(own_features(family, row)[0].tokens) - 16) // 9
        cut = (4 - height) // 2
        tiles = F.pad(tiles[cut : 4 - cut], (0, 1))
        weights = torch.cat([attention[0], tiles.flatten()])
    assert_idpruner_keeps(family, [row], "cls_attention", [weights])
    order = weights.argsort(descending=True)
    assert not torch.equal(order, own_features(family, row)[0].tokens.norm(dim=-1).argsort(descending=True))


@pytest.mark.parametrize("family", ["llava_onevision", "qwen2_5_vl"])
def test_class_attention_needs_a_class_token(family):
    message = "expected a model whose vision tower has a class token with importance 'cls_attention', got "
    with pytest.raises(ValueError, match=message):
        prune_inputs(model_of(family), batch(family, "tIt"), method="idpruner", k=3, importance="cls_attention")


def test_tensors_and_callables():
    rows = ("tItIt", "tIt")
    weights = [random_weight(16, seed=seed) for seed in range(3)]
    for importance in (
        torch.cat(weights),
        torch.stack(weights),
        weights,
        tuple(weights),
        torch.stack(weights).double(),
    ):
        assert_idpruner_keeps("llava", rows, importance, weights)
    first = [item.tokens[:, 0] for item in own_features("llava", *rows)]
    assert_idpruner_keeps("llava", rows, lambda tokens: tokens[:, 0], first)


def test_weights_of_videos_follow_those_of_images():
    rows = ("tVtIt", "tit")
    weights = [random_weight(len(item.tokens), seed=len(item.tokens)) for item in own_features("qwen3_vl", *rows)]
    assert_idpruner_keeps("qwen3_vl", rows, torch.cat(weights), weights)


def test_protected_newlines_take_no_part_in_the_scaling_of_importance():
    row, family = "tit", "llava_next"
    tokens = own_features(family, row)[0].tokens
    newlines = (tokens == model_of(family).model.image_newline).all(-1)
    weight = random_weight(len(tokens)).masked_fill(newlines, 1e6)
    pruned = prune_inputs(
        model_of(family), batch(family, row), method="idpruner", k=5, importance=weight, protect_newlines=True
    )
    others = (~newlines).nonzero()[:, 0]
    picks = others[python_ref.idpruner(tokens[others], weight[others], 5)[0]]
    expected = tokens[torch.cat([newlines.nonzero()[:, 0], picks]).sort().values]
    torch.testing.assert_close(injected(pruned), expected, atol=1e-5, rtol=1e-4)


@torch.no_grad()
def test_the_scorer_scores_each_image_on_its_own():
    torch.manual_seed(0)
    scorer, rows = VisionSelectorScorer(32, 8), ("tItit", "ttIt")
    weights = [scorer(item.tokens) for item in own_features("qwen2_5_vl", *rows)]
    assert_idpruner_keeps("qwen2_5_vl", rows, scorer, weights)


def test_class_attention_counts_layers_from_both_ends():
    model, inputs = model_of("llava"), batch("llava", "ttItt")
    options = {"k": 5, "method": "idpruner", "importance": "cls_attention"}
    last = model.config.vision_config.num_hidden_layers
    pruned = [prune_inputs(model, inputs | {"vision_feature_layer": layer}, **options) for layer in (-2, last - 1)]
    assert torch.equal(*(injected(each) for each in pruned))


def test_a_prompt_without_text_has_no_similarity_to_it():
    model, inputs = model_of("llava"), batch("llava", "I", "ttI")
    pruned = prune_inputs(model, inputs, k=3, method="idpruner", importance="text")
    assert ((pruned["input_ids"] == IMAGE).sum(1) == 3).all()


@pytest.mark.parametrize("family", FAMILIES)
def test_text_relevance_for_the_dpp_is_scaled_to_one_for_each_item(family):
    rows = ("tItIt", "tttI")
    model, inputs = model_of(family), batch(family, *rows)
    pruned = prune_inputs(model, inputs, method="dpp", keep_ratio=0.3, relevance="text")
    expected = []
    for number, item in enumerate(own_features(family, *rows)):
        ids = inputs["input_ids"][0 if number < 2 else 1]
        shown = ids[(ids != IMAGE) & (inputs["attention_mask"][0 if number < 2 else 1] != 0)]
        mean = model.get_input_embeddings()(shown).mean(0, keepdim=True).detach()
        similarity = F.cosine_similarity(item.tokens.detach(), mean)
        relevance = (similarity - similarity.min() + 1e-6) / (similarity.max() - similarity.min() + 1e-6)
        kept = python_ref.dpp(item.tokens.detach(), relevance, share(0.3, item.tokens))[0]
        expected.append(item.tokens.detach()[kept.sort().values])
    assert_injected(pruned, expected, images_in(rows))


def test_other_signed_weights_are_refused_for_the_dpp_in_the_name_of_the_function():
    model, inputs = model_of("llava"), batch("llava", "ttItt")
    message = "^prune_inputs: expected relevance to be at least 0 with method 'dpp', got "
    for signed in (lambda tokens: tokens[:, 0], torch.linspace(-1, 1, 16), VisionSelectorScorer(32, 8)):
        with pytest.raises(ValueError, match=message):
            prune_inputs(model, inputs, method="dpp", k=4, relevance=signed)
    with pytest.raises(ValueError, match=message + "VisionSelectorScorer, whose scores are signed$"):
        prune_inputs(model, {}, method="dpp", k=4, relevance=VisionSelectorScorer(32, 8))


def test_weights_of_whole_numbers_are_refused_in_the_name_of_the_function():
    message = "^prune_inputs: expected importance to be float16, bfloat16, float32 or float64, got int64"
    with pytest.raises(TypeError, match=message):
        prune_inputs(model_of("llava"), {}, method="idpruner", k=4, importance=torch.ones(16, dtype=torch.int64))


def test_class_attention_of_another_length_is_refused(monkeypatch):
    monkeypatch.setattr(
        "tokenprune_kernels.integrations.transformers.llava.Llava.class_attention_items",
        lambda self, model, inputs, modality, attention: [torch.cat([each, each]) for each in attention],
    )
    message = r"expected class attention to have \[16\] values, one for each token of an image or video, got \[32\]"
    with pytest.raises(ValueError, match=message):
        prune_inputs(model_of("llava"), batch("llava", "tIt"), method="idpruner", k=3, importance="cls_attention")


def test_class_attention_of_a_dinov2_tower():
    """LLaVA takes any tower of transformers; DINOv2 has other names for its norms, its heads and its scale."""
    torch.manual_seed(0)
    size = {"hidden_size": 16, "num_hidden_layers": 3, "num_attention_heads": 2}
    vision = transformers.Dinov2Config(image_size=56, patch_size=14, mlp_ratio=2, **size)
    text = transformers.LlamaConfig(vocab_size=8, intermediate_size=16, num_key_value_heads=2, **size)
    config = transformers.LlavaConfig(vision_config=vision, text_config=text, image_token_index=7)
    model = transformers.LlavaForConditionalGeneration(config).eval()
    model.model.vision_tower.set_attn_implementation("eager")
    inputs = {"input_ids": torch.tensor([[1, *[7] * 16, 2]]), "pixel_values": torch.randn(1, 3, 56, 56)}
    with torch.no_grad():
        maps = model.model.vision_tower(inputs["pixel_values"], output_attentions=True).attentions
    expected = maps[config.vision_feature_layer].mean(1)[0, 0, 1:]
    pruned = prune_inputs(model, inputs, method="idpruner", k=5, importance="cls_attention", lam=1.0)
    assert pruned.kept_indices[0].tolist() == expected.topk(5).indices.sort().values.tolist()
