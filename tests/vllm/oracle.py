"""What transformers does with `prune_inputs`, which vLLM has to do too."""

import functools
from typing import NamedTuple

import torch
import transformers

from tests.vllm import chat_model
from tests.vllm.media import media, metadata, text
from tests.vllm.tiny import FAMILIES
from tokenprune_kernels.integrations.transformers import prune_inputs

NEW_TOKENS = 6
TOP = 20


class Answer(NamedTuple):
    """What a model says to a prompt."""

    length: int  # of the prompt
    tokens: list[int]
    logprobs: list[dict[int, float]]  # of the likeliest tokens at each place


@functools.cache
def loaded(family, path):
    name = type(FAMILIES[family].make()[0]).__name__
    if family == "internvl_chat":
        model = getattr(transformers, name).from_pretrained(path.with_suffix(".transformers"), dtype=torch.float32)
        return model.eval(), transformers.AutoTokenizer.from_pretrained(path)
    model = getattr(transformers, name).from_pretrained(path, dtype=torch.float32).eval()
    return model, transformers.AutoProcessor.from_pretrained(path)


@torch.no_grad()
def expected(family, path, request, options):
    """The answer to a request, pruned by the arguments of `prune_inputs`; unpruned where they are None."""
    model, _ = loaded(family, path)
    pruned = prepared(family, path, request)
    if options is not None:
        pruned = prune_inputs(model, pruned, **options)
    length = pruned["input_ids"].shape[1]
    result = model.generate(
        **pruned,
        max_new_tokens=NEW_TOKENS,
        min_new_tokens=NEW_TOKENS,
        do_sample=False,
        output_logits=True,
        return_dict_in_generate=True,
        eos_token_id=None,
    )
    logprobs = [step[0].float().log_softmax(-1) for step in result.logits]
    return Answer(length, result.sequences[0, length:].tolist(), [dict(enumerate(step.tolist())) for step in logprobs])


def prepared(family, path, request):
    """The inputs that the processor makes of a request."""
    _, processor = loaded(family, path)
    images, videos = media(request, "I"), media(request, "V")
    if family == "internvl_chat":
        return chat_model.inputs(processor, text(family, request), images, videos)
    arguments = {"images": images} if images else {}
    if videos:
        arguments["videos"] = videos
        arguments["do_sample_frames"] = False
        if FAMILIES[family].video_metadata:
            arguments["video_metadata"] = [metadata(frames) for frames in videos]
    return dict(processor(text=text(family, request), return_tensors="pt", **arguments))
