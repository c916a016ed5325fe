"""Images, videos and prompts, the same for vLLM and for transformers."""

import functools
from typing import NamedTuple

import numpy as np
from PIL import Image

from tests.vllm.tiny import FAMILIES

SIZES = ((168, 224), (224, 168), (112, 280), (280, 112), (84, 84), (300, 310))  # height, width


class Request(NamedTuple):
    """A prompt: words, and I or V with a seed for each image and video, such as ("a", "I3", "V1", "?")."""

    parts: tuple[str, ...]
    options: dict | bool | None = None  # of the request, or None


@functools.cache
def image(seed):
    height, width = SIZES[seed % len(SIZES)]
    random = np.random.default_rng(seed)
    blocks = random.integers(0, 255, (height // 20 + 1, width // 20 + 1, 3), dtype=np.uint8)
    pixels = np.kron(blocks, np.ones((20, 20, 1), dtype=np.uint8))[:height, :width].astype(int)
    return Image.fromarray((pixels + random.integers(0, 20, pixels.shape)).clip(0, 255).astype(np.uint8))


@functools.cache
def video(seed):
    """Four frames, as processors want videos of one length, and fewer than rows or columns of tokens.

    A Qwen2.5-VL video with more time steps has other positions in vLLM than in transformers: see the page on vLLM.
    """
    frame = np.array(image(6 * seed).resize((224, 168)))
    return np.stack([np.roll(frame, 7 * number, axis=1) for number in range(4)])


def metadata(frames):
    return {
        "fps": 2.0,
        "duration": len(frames) / 2.0,
        "total_num_frames": len(frames),
        "frames_indices": list(range(len(frames))),
        "video_backend": "opencv",
    }


def media(request, letter):
    make = image if letter == "I" else video
    return [make(int(part[1:])) for part in request.parts if is_media(part) and part[0] == letter]


def is_media(part):
    return part[0] in "IV" and part[1:].isdigit()


def text(family, request):
    """The prompt, with a placeholder of the family for each image and video."""
    of = FAMILIES[family]
    words = [of.placeholders[part[0]] if is_media(part) else part for part in request.parts]
    return of.start + " ".join(words)
