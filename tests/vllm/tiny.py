"""Tiny random checkpoints of every family, which vLLM and transformers both load."""

import functools
from collections.abc import Callable
from typing import NamedTuple

import torch
import transformers
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, models, pre_tokenizers, trainers

from tests.vllm import chat_model

WORDS = "a the cat dog sits on mat what is in this image video USER ASSISTANT : . ? and compare of same seconds < >"
LLAVA = ["<unk>", "<s>", "</s>", "<pad>", "<image>", "<video>"]
INTERNVL = [*LLAVA, "<img>", "</img>", "<IMG_CONTEXT>", "<|video_pad|>"]
QWEN = ["<unk>", "<|im_start|>", "<|im_end|>", "<|endoftext|>", "<|vision_start|>", "<|vision_end|>"]
QWEN += ["<|vision_pad|>", "<|image_pad|>", "<|video_pad|>"]
LAYERS = {"num_hidden_layers": 2, "num_attention_heads": 2, "num_key_value_heads": 2, "intermediate_size": 128}
TEXT = {"hidden_size": 64, "head_dim": 32, "vocab_size": 128, "max_position_embeddings": 4096, **LAYERS}
SPECIAL = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 3}
TOWER = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 3, "num_attention_heads": 4}
PINPOINTS = [[56, 112], [112, 56], [112, 112]]


def tokenizer(special, **names):
    vocabulary = Tokenizer(models.WordLevel(unk_token="<unk>"))
    vocabulary.pre_tokenizer = pre_tokenizers.Whitespace()
    words = WORDS.split() + [f"w{number}" for number in range(40)] + [f"{n}" for n in range(10)]
    vocabulary.train_from_iterator([" ".join(words)], trainers.WordLevelTrainer(special_tokens=special))
    ends = {"eos_token": special[2], "pad_token": special[3], "unk_token": "<unk>"}
    if "<s>" in special:
        ends["bos_token"] = "<s>"
    return transformers.PreTrainedTokenizerFast(tokenizer_object=vocabulary, **ends, extra_special_tokens=names)


def image_processor(name):
    """The processor of transformers that does without torchvision, where there are two."""
    return getattr(transformers, f"{name}Pil", None) or getattr(transformers, name)


def clip_tower(size):
    return transformers.CLIPVisionConfig(**TOWER, image_size=size, patch_size=14)


def llava():
    words = tokenizer(LLAVA, image_token="<image>")
    token = words.convert_tokens_to_ids("<image>")
    pixels = image_processor("CLIPImageProcessor")(size={"shortest_edge": 168}, crop_size={"height": 168, "width": 168})
    processor = transformers.LlavaProcessor(
        image_processor=pixels,
        tokenizer=words,
        patch_size=14,
        vision_feature_select_strategy="default",
        image_token="<image>",
        num_additional_image_tokens=1,
    )
    config = transformers.LlavaConfig(
        vision_config=clip_tower(168),
        text_config=transformers.LlamaConfig(**TEXT, **SPECIAL),
        image_token_index=token,
        image_seq_length=144,
    )
    return transformers.LlavaForConditionalGeneration(config), processor


def llava_next():
    words = tokenizer(LLAVA, image_token="<image>", video_token="<video>")
    pixels = image_processor("LlavaNextImageProcessor")(
        size={"shortest_edge": 56}, crop_size={"height": 56, "width": 56}, image_grid_pinpoints=PINPOINTS
    )
    processor = transformers.LlavaNextProcessor(
        image_processor=pixels,
        tokenizer=words,
        patch_size=14,
        vision_feature_select_strategy="default",
        image_token="<image>",
        num_additional_image_tokens=1,
    )
    config = transformers.LlavaNextConfig(
        vision_config=clip_tower(56),
        text_config=transformers.LlamaConfig(**TEXT, **SPECIAL),
        image_token_index=words.convert_tokens_to_ids("<image>"),
        image_seq_length=16,
        image_grid_pinpoints=PINPOINTS,
    )
    return transformers.LlavaNextForConditionalGeneration(config), processor


def llava_next_video():
    words = tokenizer(LLAVA, image_token="<image>", video_token="<video>")
    # vLLM divides by the image size over the patch size squared.
    size = {"size": {"shortest_edge": 224}, "crop_size": {"height": 224, "width": 224}}
    processor = transformers.LlavaNextVideoProcessor(
        image_processor=image_processor("LlavaNextImageProcessor")(**size, image_grid_pinpoints=PINPOINTS),
        video_processor=transformers.LlavaNextVideoVideoProcessor(**size, do_sample_frames=False),
        tokenizer=words,
        patch_size=14,
        vision_feature_select_strategy="default",
        image_token="<image>",
        video_token="<video>",
        num_additional_image_tokens=1,
    )
    config = transformers.LlavaNextVideoConfig(
        vision_config=clip_tower(224),
        text_config=transformers.LlamaConfig(**TEXT, **SPECIAL),
        image_token_index=words.convert_tokens_to_ids("<image>"),
        video_token_index=words.convert_tokens_to_ids("<video>"),
        image_grid_pinpoints=PINPOINTS,
    )
    return transformers.LlavaNextVideoForConditionalGeneration(config), processor


def llava_onevision():
    words = tokenizer(LLAVA, image_token="<image>", video_token="<video>")
    size = {"height": 56, "width": 56}
    processor = transformers.LlavaOnevisionProcessor(
        image_processor=image_processor("LlavaOnevisionImageProcessor")(size=size, image_grid_pinpoints=PINPOINTS),
        video_processor=transformers.LlavaOnevisionVideoProcessor(size=size, do_sample_frames=False),
        tokenizer=words,
        num_image_tokens=16,
        vision_feature_select_strategy="full",
        image_token="<image>",
        video_token="<video>",
        vision_aspect_ratio="anyres_max_9",
    )
    config = transformers.LlavaOnevisionConfig(
        vision_config=transformers.SiglipVisionConfig(**TOWER, image_size=56, patch_size=14),
        text_config=transformers.Qwen2Config(**TEXT, **SPECIAL),
        image_token_index=words.convert_tokens_to_ids("<image>"),
        video_token_index=words.convert_tokens_to_ids("<video>"),
        image_grid_pinpoints=PINPOINTS,
    )
    return transformers.LlavaOnevisionForConditionalGeneration(config), processor


def internvl():
    names = {"start_image_token": "<img>", "end_image_token": "</img>", "context_image_token": "<IMG_CONTEXT>"}
    words = tokenizer(INTERNVL, **names, video_token="<video>")
    size = {"height": 112, "width": 112}
    processor = transformers.InternVLProcessor(
        image_processor=image_processor("GotOcr2ImageProcessor")(
            size=size, crop_to_patches=True, max_patches=4, min_patches=1
        ),
        tokenizer=words,
        video_processor=transformers.InternVLVideoProcessor(size=size),
        image_seq_length=16,
    )
    config = transformers.InternVLConfig(
        vision_config={**TOWER, "num_hidden_layers": 2, "image_size": [112, 112], "patch_size": [14, 14]},
        text_config=transformers.Qwen2Config(**TEXT, **SPECIAL),
        image_token_id=words.convert_tokens_to_ids("<IMG_CONTEXT>"),
        image_seq_length=16,
        downsample_ratio=0.5,
    )
    return transformers.InternVLForConditionalGeneration(config), processor


def qwen_parts(patch, video_processor, **normalization):
    """The tokenizer and the two pixel processors of a Qwen-VL model, which vLLM normalizes alike."""
    side = (4 * patch) ** 2
    options = {"patch_size": patch, "merge_size": 2, "temporal_patch_size": 2, **normalization}
    options["size"] = {"shortest_edge": side, "longest_edge": 64 * side}
    pixels = image_processor("Qwen2VLImageProcessor")(**options)
    return tokenizer(QWEN), pixels, video_processor(**options, do_sample_frames=False)


def qwen_tokens(words):
    names = {"image_token_id": "<|image_pad|>", "video_token_id": "<|video_pad|>"}
    names |= {"vision_start_token_id": "<|vision_start|>", "vision_end_token_id": "<|vision_end|>"}
    return {name: words.convert_tokens_to_ids(token) for name, token in names.items()}


def qwen_text(section, **rope):
    parameters = {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": section, **rope}
    ends = {"bos_token_id": None, "eos_token_id": 2, "pad_token_id": 3}
    return {**TEXT, **ends, "rope_parameters": parameters, "use_sliding_window": False}


def qwen2_vl():
    words, pixels, videos = qwen_parts(14, transformers.Qwen2VLVideoProcessor)
    processor = transformers.Qwen2VLProcessor(image_processor=pixels, tokenizer=words, video_processor=videos)
    vision = {"depth": 2, "embed_dim": 64, "hidden_size": 64, "num_heads": 2, "mlp_ratio": 2, "patch_size": 14}
    config = transformers.Qwen2VLConfig(vision_config=vision, text_config=qwen_text([4, 6, 6]), **qwen_tokens(words))
    return transformers.Qwen2VLForConditionalGeneration(config), processor


def qwen2_5_vl():
    words, pixels, videos = qwen_parts(14, transformers.Qwen2VLVideoProcessor)
    processor = transformers.Qwen2_5_VLProcessor(image_processor=pixels, tokenizer=words, video_processor=videos)
    vision = {"depth": 2, "hidden_size": 64, "out_hidden_size": 64, "intermediate_size": 128, "num_heads": 2}
    vision |= {"patch_size": 14, "window_size": 112, "fullatt_block_indexes": [1], "tokens_per_second": 2}
    config = transformers.Qwen2_5_VLConfig(vision_config=vision, text_config=qwen_text([4, 6, 6]), **qwen_tokens(words))
    return transformers.Qwen2_5_VLForConditionalGeneration(config), processor


def qwen3_vl():
    words, pixels, videos = qwen_parts(
        16, transformers.Qwen3VLVideoProcessor, image_mean=[0.5] * 3, image_std=[0.5] * 3
    )
    processor = transformers.Qwen3VLProcessor(image_processor=pixels, tokenizer=words, video_processor=videos)
    vision = {"depth": 3, "hidden_size": 64, "out_hidden_size": 64, "intermediate_size": 128, "num_heads": 2}
    vision |= {"patch_size": 16, "num_position_embeddings": 256, "deepstack_visual_indexes": [0, 1]}
    config = transformers.Qwen3VLConfig(
        vision_config=vision, text_config=qwen_text([6, 5, 5], mrope_interleaved=True), **qwen_tokens(words)
    )
    return transformers.Qwen3VLForConditionalGeneration(config), processor


class Family(NamedTuple):
    """A tiny model, and what vLLM takes of it."""

    make: Callable  # returns the model of transformers and its processor
    placeholders: dict[str, str]  # of an image (I) and of a video (V), if it takes them
    start: str = ""  # of a prompt
    most: int = 3  # images and videos that the tests put into a prompt
    class_token: bool = False  # of the tower
    mrope: bool = False
    video_metadata: bool = False  # whether vLLM takes videos with metadata


PLACES = {"I": "<image>", "V": "<video>"}
QWEN_PLACES = {"I": "<|vision_start|><|image_pad|><|vision_end|>", "V": "<|vision_start|><|video_pad|><|vision_end|>"}
FAMILIES = {
    "llava": Family(llava, {"I": "<image>"}, "<s> ", class_token=True),
    "llava_next": Family(llava_next, {"I": "<image>"}, "<s> ", class_token=True),
    "llava_next_video": Family(llava_next_video, {"V": "<video>"}, "<s> ", most=1, class_token=True),
    "llava_onevision": Family(llava_onevision, PLACES, "<s> "),
    "internvl": Family(internvl, {"I": "<IMG_CONTEXT>", "V": "<video>"}, "<s> ", class_token=True),
    # The same model, which `saved` writes as it was published.
    "internvl_chat": Family(internvl, PLACES, "<s> ", class_token=True),
    "qwen2_vl": Family(qwen2_vl, QWEN_PLACES, mrope=True),
    "qwen2_5_vl": Family(qwen2_5_vl, QWEN_PLACES, mrope=True, video_metadata=True),
    "qwen3_vl": Family(qwen3_vl, QWEN_PLACES, mrope=True, video_metadata=True),
}


@functools.cache
def saved(family, folder):
    """Saves the checkpoint of a family, and returns its folder."""
    path = folder / family
    torch.manual_seed(0)
    model, processor = FAMILIES[family].make()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.dim() > 1:  # spread out, so that tokens differ
                parameter.normal_(0, 0.4 if "embed" in name else 1.1 / parameter[0].numel() ** 0.5)
            elif "newline" in name or "lambda" in name:
                parameter.normal_(0, 0.4)
    if family == "internvl_chat":
        model.float().save_pretrained(path.with_suffix(".transformers"))
        chat_model.save(model, processor.tokenizer, path)
        return path
    model.float().save_pretrained(path)
    processor.save_pretrained(path)
    processor.tokenizer.save_pretrained(path)
    if "llava" in family:
        # The names of the towers' weights in published checkpoints, by which vLLM loads them.
        weights = load_file(path / "model.safetensors")
        renamed = {
            name if "vision_model" in name else name.replace("vision_tower.", "vision_tower.vision_model."): value
            for name, value in weights.items()
        }
        save_file(renamed, path / "model.safetensors", metadata={"format": "pt"})
    return path
