"""Engines of vLLM in this process, one at a time, and what they answer."""

import contextlib
import functools
import gc

from tests.vllm.media import Request, media, metadata, text
from tests.vllm.oracle import NEW_TOKENS, TOP, Answer, expected
from tests.vllm.tiny import FAMILIES, saved
from tokenprune_kernels.integrations.vllm import registration

MEASURED = []  # the differences of all answers so far


class Engine:
    """An engine that serves the checkpoint of a family."""

    def __init__(self, family, checkpoints, tokenprune, **options):
        from vllm import LLM
        from vllm.model_executor.model_loader.utils import _MODEL_ARCH_BY_HASH

        load_classes()
        _MODEL_ARCH_BY_HASH.clear()  # the class of the last engine with this checkpoint
        self.family = family
        self.tokenprune = tokenprune
        self.objects = {}  # what `prune_inputs` takes for the name of an importance
        self.path = saved(family, checkpoints)
        if tokenprune is not None:
            options["mm_processor_kwargs"] = {"tokenprune": tokenprune}
        if family == "internvl_chat":
            options["trust_remote_code"] = True  # of the configuration that the test writes
        defaults = {"dtype": "float32", "max_model_len": 1024, "max_num_seqs": 16, "block_size": 32}
        self.llm = LLM(str(self.path), **(defaults | {"max_logprobs": TOP, "enforce_eager": True} | options))

    def answers(self, requests):
        """The answers to requests that are in flight together."""
        from vllm import SamplingParams

        sampling = SamplingParams(temperature=0, max_tokens=NEW_TOKENS, logprobs=TOP, ignore_eos=True)
        prompts = [prompt(self.family, request) for request in requests]
        return [
            Answer(
                len(output.prompt_token_ids),
                list(output.outputs[0].token_ids),
                [{token: each.logprob for token, each in step.items()} for step in output.outputs[0].logprobs],
            )
            for output in self.llm.generate(prompts, sampling, use_tqdm=False)
        ]

    def differences(self, requests):
        """How far each answer is from that of transformers with `prune_inputs`."""
        oracles = [expected(self.family, self.path, request, self.arguments(request)) for request in requests]
        differences = [difference(*pair) for pair in zip(self.answers(requests), oracles, strict=True)]
        MEASURED.extend(differences)
        return differences

    def arguments(self, request):
        """The arguments of `prune_inputs` for a request; None where nothing is pruned."""
        options = self.tokenprune if request.options is None else request.options
        if options is None or options is False:
            return None
        merged = dict(options)
        if "method" not in merged and self.tokenprune:
            merged = {name: value for name, value in self.tokenprune.items() if name in METHOD} | merged
        if not {"k", "keep_ratio"} & merged.keys():
            merged |= {name: value for name, value in self.tokenprune.items() if name in ("k", "keep_ratio")}
        return {
            name: self.objects.get(value, value) if name in WEIGHTS else value
            for name, value in merged.items()
            if not name.startswith("scorer")
        }

    @property
    def model(self):
        return self.llm.llm_engine.model_executor.driver_worker.worker.model_runner.model


@functools.cache
def load_classes():
    """Registers the classes themselves, once: vLLM inspects a class that it knows by name in a new process."""
    from vllm import ModelRegistry
    from vllm.plugins import load_general_plugins

    load_general_plugins()
    for architecture in registration.ARCHITECTURES:
        ModelRegistry.register_model(architecture, registration.model_class(architecture))


WEIGHTS = ("importance", "relevance")
METHOD = ("method", "importance", "relevance", "lam")


@contextlib.contextmanager
def running(family, checkpoints, tokenprune, **options):
    """An engine, whose memory is freed at the end."""
    from vllm.distributed.parallel_state import cleanup_dist_env_and_memory

    engine = Engine(family, checkpoints, tokenprune, **options)
    try:
        yield engine
    finally:
        del engine.llm
        gc.collect()
        cleanup_dist_env_and_memory()


def prompt(family, request: Request):
    images, videos = media(request, "I"), media(request, "V")
    if FAMILIES[family].video_metadata:
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
