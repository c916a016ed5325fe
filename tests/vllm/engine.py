"""Engines of vLLM in this process, one at a time."""

from tests.vllm.media import WITH_METADATA, media, metadata, text
from tests.vllm.oracle import NEW_TOKENS, TOP, Answer


def start(path, **options):
    """An engine in float32, small enough for a test."""
    from vllm import LLM

    arguments = {
        "dtype": "float32",
        "max_model_len": 1024,
        "max_num_seqs": 16,
        "block_size": 32,
        "enforce_eager": True,
        "max_logprobs": TOP,
        "disable_log_stats": True,
    }
    return LLM(str(path), **(arguments | options))


def answers(llm, family, requests):
    """The answers to requests that are in flight together."""
    from vllm import SamplingParams

    sampling = SamplingParams(
        temperature=0, max_tokens=NEW_TOKENS, logprobs=TOP, ignore_eos=True, min_tokens=NEW_TOKENS
    )
    outputs = llm.generate([prompt(family, request) for request in requests], sampling, use_tqdm=False)
    return [
        Answer(
            len(output.prompt_token_ids),
            list(output.outputs[0].token_ids),
            [{token: each.logprob for token, each in step.items()} for step in output.outputs[0].logprobs],
        )
        for output in outputs
    ]


def prompt(family, request):
    images, videos = media(request, "I"), media(request, "V")
    if family in WITH_METADATA:
        videos = [(frames, metadata(frames) | {"do_sample_frames": False}) for frames in videos]
    data = {name: items for name, items in (("image", images), ("video", videos)) if items}
    result = {"prompt": text(family, request)}
    if data:
        result["multi_modal_data"] = data
    if request.options is not None:
        result["mm_processor_kwargs"] = {"tokenprune": request.options}
    return result


def difference(answer, oracle):
    """The largest difference of two answers' log-probabilities; infinite where prompt lengths or tokens differ."""
    if answer.length != oracle.length or answer.tokens != oracle.tokens:
        return float("inf")
    return max(
        abs(logprob - theirs[token])
        for ours, theirs in zip(answer.logprobs, oracle.logprobs, strict=True)
        for token, logprob in ours.items()
    )
