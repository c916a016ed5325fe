"""Tiny randomly initialised models of every family that the transformers integration supports, and inputs for them."""

import functools
from typing import NamedTuple

import pytest
import torch

transformers = pytest.importorskip("transformers")

TEXT = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 120,
    "max_position_embeddings": 512,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 119,
}
IMAGE, VIDEO, VISION_START, VISION_END = 100, 101, 102, 103
NO_TEXT = [IMAGE, VIDEO, TEXT["eos_token_id"]]  # what random weights would say too, but no sensible model
CLIP = {
    "model_type": "clip_vision_model",
    "hidden_size": 24,
    "intermediate_size": 32,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "image_size": 16,
    "patch_size": 4,
    "projection_dim": 24,
}
SIGLIP = {key: value for key, value in CLIP.items() if key != "projection_dim"} | {"model_type": "siglip_vision_model"}
MROPE = {"rope_type": "default", "mrope_section": [2, 1, 1], "rope_theta": 10000.0}
PINPOINTS = [[16, 32], [32, 16], [32, 32]]


def llava():
    config = transformers.LlavaConfig(
        vision_config=CLIP, text_config={"model_type": "llama"} | TEXT, image_token_index=IMAGE
    )
    return transformers.LlavaForConditionalGeneration(config)


def pixtral():
    vision = {key: CLIP[key] for key in ("hidden_size", "intermediate_size", "num_attention_heads", "patch_size")}
    config = transformers.LlavaConfig(
        vision_config=vision | {"model_type": "pixtral", "num_hidden_layers": 2, "image_size": 32, "head_dim": 12},
        text_config={"model_type": "llama"} | TEXT,
        image_token_index=IMAGE,
        vision_feature_layer=-1,
        vision_feature_select_strategy="full",
    )
    return transformers.LlavaForConditionalGeneration(config)


def llava_next():
    config = transformers.LlavaNextConfig(
        vision_config=CLIP,
        text_config={"model_type": "llama"} | TEXT,
        image_token_index=IMAGE,
        image_grid_pinpoints=PINPOINTS,
    )
    return transformers.LlavaNextForConditionalGeneration(config)


def llava_next_video():
    config = transformers.LlavaNextVideoConfig(
        vision_config=CLIP,
        text_config={"model_type": "llama"} | TEXT,
        image_token_index=IMAGE,
        video_token_index=VIDEO,
        image_grid_pinpoints=PINPOINTS,
    )
    return transformers.LlavaNextVideoForConditionalGeneration(config)


def llava_onevision():
    config = transformers.LlavaOnevisionConfig(
        vision_config=SIGLIP,
        text_config={"model_type": "qwen2"} | TEXT,
        image_token_index=IMAGE,
        video_token_index=VIDEO,
        image_grid_pinpoints=PINPOINTS,
    )
    return transformers.LlavaOnevisionForConditionalGeneration(config)


def internvl():
    vision = {
        "model_type": "internvl_vision",
        "hidden_size": 24,
        "intermediate_size": 32,
        "num_hidden_layers": 3,
        "num_attention_heads": 2,
        "image_size": [32, 32],
        "patch_size": [4, 4],
    }
    config = transformers.InternVLConfig(
        vision_config=vision, text_config={"model_type": "qwen2"} | TEXT, image_token_id=IMAGE
    )
    return transformers.InternVLForConditionalGeneration(config)


QWEN_TOKENS = {
    "image_token_id": IMAGE,
    "video_token_id": VIDEO,
    "vision_start_token_id": VISION_START,
    "vision_end_token_id": VISION_END,
}


def qwen2_vl():
    vision = {"depth": 2, "embed_dim": 24, "hidden_size": 32, "num_heads": 2, "mlp_ratio": 2, "patch_size": 4}
    config = transformers.Qwen2VLConfig(
        text_config=TEXT | {"rope_parameters": MROPE}, vision_config=vision, **QWEN_TOKENS
    )
    return transformers.Qwen2VLForConditionalGeneration(config)


def qwen2_5_vl():
    vision = {
        "depth": 2,
        "hidden_size": 24,
        "out_hidden_size": 32,
        "intermediate_size": 32,
        "num_heads": 2,
        "patch_size": 4,
        "window_size": 16,
        "fullatt_block_indexes": [1],
        "tokens_per_second": 2,
    }
    config = transformers.Qwen2_5_VLConfig(
        text_config=TEXT | {"rope_parameters": MROPE}, vision_config=vision, **QWEN_TOKENS
    )
    return transformers.Qwen2_5_VLForConditionalGeneration(config)


def qwen3_vl():
    vision = {
        "depth": 3,
        "hidden_size": 24,
        "out_hidden_size": 32,
        "intermediate_size": 32,
        "num_heads": 2,
        "patch_size": 4,
        "num_position_embeddings": 64,
        "deepstack_visual_indexes": [0, 1],
    }
    config = transformers.Qwen3VLConfig(
        text_config=TEXT | {"head_dim": 8, "rope_parameters": MROPE}, vision_config=vision, **QWEN_TOKENS
    )
    return transformers.Qwen3VLForConditionalGeneration(config)


MAKERS = {
    maker.__name__: maker
    for maker in (
        llava,
        pixtral,
        llava_next,
        llava_next_video,
        llava_onevision,
        internvl,
        qwen2_vl,
        qwen2_5_vl,
        qwen3_vl,
    )
}
FAMILIES = tuple(MAKERS)
WITH_VIDEOS = ("llava_next_video", "llava_onevision", "qwen2_vl", "qwen2_5_vl", "qwen3_vl")
MROPE_FAMILIES = ("qwen2_vl", "qwen2_5_vl", "qwen3_vl")


def every_family_slow_but(*families):
    """Parameters for all families: those named, and the others under the mark ``slow``."""
    return [family if family in families else pytest.param(family, marks=pytest.mark.slow) for family in FAMILIES]


def rows_of(family):
    """Prompts of many kinds for ``batch``."""
    if family in WITH_VIDEOS:
        return "tttttttttttIt", "ttItVt", "tt", "tVtitVtt", "tVtt"
    return "ttItit", "tttItttttttt", "ttttt", "tIttt"


@functools.cache
def model_of(family):
    torch.manual_seed(0)
    model = MAKERS[family]().eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.dim() > 1 and "norm" not in name:
                parameter.normal_(0, parameter.shape[-1] ** -0.5)
    return model


def batch(family, *rows):
    """Model inputs for prompts such as "ttItVt": t is a text token, I and i are a large and a small image, V a video.

    A row's text and pixels depend on nothing but the row. Shorter rows are padded on the left.
    """
    token_rows = [_prompt(family, row)[0] for row in rows]
    length = max(map(len, token_rows))
    input_ids = torch.tensor([[0] * (length - len(tokens)) + tokens for tokens in token_rows])
    mask = torch.tensor([[0] * (length - len(tokens)) + [1] * len(tokens) for tokens in token_rows])
    inputs = {"input_ids": input_ids, "attention_mask": mask}
    if family in MROPE_FAMILIES:
        inputs["mm_token_type_ids"] = (input_ids == IMAGE).int() + 2 * (input_ids == VIDEO).int()
    for modality in ("image", "video"):
        visuals = [
            visual for row in rows for letter, visual in _prompt(family, row)[1] if _modality(letter) == modality
        ]
        if visuals:
            inputs |= _pixels(family, modality, visuals)
    return inputs


class Visual(NamedTuple):
    """What the model's own encoder makes of an image or a video."""

    tokens: torch.Tensor  # [n, D]
    deepstack: list  # of [n, D], for each layer


def own_features(family, *rows):
    """The images of the rows, then their videos."""
    visuals = [visual for row in rows for visual in _row_features(family, row)]
    return [visual for modality in ("image", "video") for of, visual in visuals if of == modality]


@functools.cache
def _row_features(family, row):
    """The images and videos of a row in their order, each with its modality."""
    features = []
    for letter, visual in _prompt(family, row)[1]:
        modality = _modality(letter)
        output = _encoded(model_of(family).model, modality, _pixels(family, modality, [visual]))
        tokens = torch.cat([tile.flatten(0, -2) for tile in output.pooler_output])
        deepstack = [torch.cat(layer) for layer in getattr(output, "deepstack_features", None) or []]
        features.append((modality, Visual(tokens, deepstack)))
    return features


def images_in(rows):
    return sum(letter in "Ii" for row in rows for letter in row)


def share(ratio, tokens):
    return max(1, round(ratio * len(tokens)))


@functools.cache
def _prompt(family, row):
    """The token ids of a row, and its images and videos with their letters."""
    seeds = torch.Generator().manual_seed(sum(ord(letter) * (place + 1) for place, letter in enumerate(row)))
    tokens, visuals = [], []
    for letter in row:
        if letter == "t":
            tokens += torch.randint(2, 100, (1,), generator=seeds).tolist()
        else:
            visual = _visual(family, letter, seeds)
            visuals.append((letter, visual))
            tokens += _placeholders(family, letter, visual)
    return tokens, visuals


def _modality(letter):
    return "video" if letter == "V" else "image"


@torch.no_grad()
def _encoded(inner, modality, inputs):
    pixels = inputs["pixel_values_videos" if modality == "video" else "pixel_values"]
    sizes = {name: inputs[name] for name in ("image_sizes", f"{modality}_grid_thw") if name in inputs}
    return getattr(inner, f"get_{modality}_features")(pixels, **sizes, return_dict=True)


def _visual(family, letter, seeds):
    """One image or video: its size as the family's processor gives it, and its pixels."""
    if family in MROPE_FAMILIES:
        size = {"I": (1, 8, 8), "i": (1, 4, 8), "V": (3, 4, 6)}[letter]
        return size, torch.randn(size[0] * size[1] * size[2], 3 * 2 * 4 * 4, generator=seeds)
    if letter == "V":
        return None, torch.randn(3, 3, 16, 16, generator=seeds)
    if family == "internvl":
        return None, torch.randn({"I": 3, "i": 1}[letter], 3, 32, 32, generator=seeds)
    if family == "pixtral":
        size = {"I": (16, 32), "i": (12, 16)}[letter]
        return size, torch.randn(1, 3, *size, generator=seeds)
    if family == "llava":
        return None, torch.randn(1, 3, 16, 16, generator=seeds)
    size = {"I": (32, 32), "i": (12, 32)}[letter]
    return size, torch.randn({"I": 5, "i": 3}[letter], 3, 16, 16, generator=seeds)


def _placeholders(family, letter, visual):
    token = VIDEO if letter == "V" else IMAGE
    size, pixels = visual
    if family in MROPE_FAMILIES:
        per_frame = size[1] * size[2] // 4
        if family == "qwen3_vl" and letter == "V":  # a timestamp before each frame
            return [
                token_id for _ in range(size[0]) for token_id in (50, VISION_START, *[token] * per_frame, VISION_END)
            ]
        return [VISION_START, *[token] * (size[0] * per_frame), VISION_END]
    if family == "internvl":
        return [token] * (16 * len(pixels))
    if family == "pixtral":  # a break after each row of patches
        return [token_id for _ in range(size[0] // 4) for token_id in (*[token] * (size[1] // 4), 50)]
    return [token] * _count(family, letter)


@functools.cache
def _count(family, letter):
    """How many tokens the model makes of an image or video of this size."""
    visual = _visual(family, letter, torch.Generator())
    output = _encoded(model_of(family).model, _modality(letter), _pixels(family, _modality(letter), [visual]))
    return output.pooler_output[0].flatten(0, -2).shape[0]


def _pixels(family, modality, visuals):
    sizes, pixels = zip(*visuals, strict=True)
    if modality == "video":
        if family in MROPE_FAMILIES:
            return {"pixel_values_videos": torch.cat(pixels), "video_grid_thw": torch.tensor(sizes)}
        return {"pixel_values_videos": torch.stack(pixels)}
    if family in MROPE_FAMILIES:
        return {"pixel_values": torch.cat(pixels), "image_grid_thw": torch.tensor(sizes)}
    if family in ("llava", "internvl"):
        return {"pixel_values": torch.cat(pixels)}
    if family == "pixtral":
        padded = [torch.nn.functional.pad(each, (0, 32 - each.shape[3], 0, 16 - each.shape[2])) for each in pixels]
        return {"pixel_values": torch.cat(padded), "image_sizes": torch.tensor(sizes)}
    padded = torch.nn.utils.rnn.pad_sequence(pixels, batch_first=True)
    return {"pixel_values": padded, "image_sizes": torch.tensor(sizes)}


def injected(pruned, modality="image"):
    """The kept tokens that pruned inputs bring, [K, D]."""
    output = pruned["mm_encoder_outputs"][modality]
    return torch.cat([group.flatten(0, -2) for group in output.pooler_output])


def assert_injected(pruned, expected, images):
    """The kept tokens of each item are as expected; the first `images` items are images, the others videos."""
    for modality, items in (("image", expected[:images]), ("video", expected[images:])):
        if items:
            torch.testing.assert_close(injected(pruned, modality), torch.cat(items), atol=1e-5, rtol=1e-4)
