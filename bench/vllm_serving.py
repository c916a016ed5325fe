"""``python -m bench vllm``: requests to a vLLM engine with and without pruning.

Needs the environment of ``make test-vllm``, or another with vLLM. A LLaVA model of realistic width and reduced depth,
with random weights, answers requests with one image each. Writes ``bench/results/vllm-PROCESSOR.json`` and the table
of docs/vllm.md.
"""

from __future__ import annotations

import argparse
import gc
import os
import statistics
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from bench import files, render
from bench.markdown import heading, line, number

KEEP_RATIOS = (None, 0.25, 0.1)  # None for an engine without the option
IN_FLIGHT = (1, 8, 32)
WARM_UP = 4  # requests of a round that is not measured
LEAST = 4  # requests of each setting
# A CPU without instructions for bfloat16 takes ten times as long for it.
DTYPE = torch.bfloat16 if torch.cuda.is_available() else torch.float32
NEW_TOKENS = 16
REPEATS = 3


def main(arguments: Sequence[str]) -> int:
    """Measures, and writes the result."""
    parser = argparse.ArgumentParser(prog="python -m bench vllm", description=__doc__)
    parser.add_argument("--layers", type=int, default=2, help="of the language model and of the tower's part in use")
    parser.add_argument("--repeats", type=int, default=REPEATS, help="rounds of each setting")
    parser.add_argument("--quick", action="store_true", help="one layer, few requests; no result")
    options = parser.parse_args(arguments)
    in_flights = IN_FLIGHT
    if options.quick:
        options.layers, options.repeats, in_flights = 1, 1, (1, 2)
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    os.environ.setdefault("TORCH_COMPILE_DISABLE", "1")
    os.environ.setdefault("VLLM_ENABLE_V1_MULTIPROCESSING", "0")
    import vllm

    rows = []
    with tempfile.TemporaryDirectory() as folder:
        tokens = save_model(Path(folder), options.layers)
        for keep_ratio in KEEP_RATIOS:
            for row in served(folder, keep_ratio, in_flights, options.repeats):
                rows.append(row)
                print(row, flush=True)
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else files.processor()
    result = {
        "machine": {"processor": device, "threads": torch.get_num_threads()},
        "versions": {"torch": torch.__version__, "vllm": vllm.__version__},
        "model": {"layers": options.layers, "hidden_size": 4096, "image_tokens": tokens, "new_tokens": NEW_TOKENS}
        | {"dtype": str(DTYPE).removeprefix("torch.")},
        "rows": rows,
    }
    if options.quick:
        print(table(result))
        return 0
    print(files.write(files.file_name("vllm", device), result))
    render.write()
    return 0


def save_model(folder: Path, layers: int) -> int:
    """Saves LLaVA-1.5 in its own width, with fewer layers and random weights; returns the tokens of an image."""
    import transformers
    from safetensors.torch import load_file, save_file
    from tokenizers import Tokenizer, models, pre_tokenizers

    words = {
        word: token for token, word in enumerate(("<unk>", "<s>", "</s>", "<pad>", "<image>", "what", "is", "this"))
    }
    vocabulary = Tokenizer(models.WordLevel(words, unk_token="<unk>"))
    vocabulary.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer = transformers.PreTrainedTokenizerFast(
        tokenizer_object=vocabulary,
        unk_token="<unk>",
        bos_token="<s>",
        eos_token="</s>",
        pad_token="<pad>",
        extra_special_tokens={"image_token": "<image>"},
    )
    pixels = getattr(transformers, "CLIPImageProcessorPil", transformers.CLIPImageProcessor)
    processor = transformers.LlavaProcessor(
        image_processor=pixels(size={"shortest_edge": 336}, crop_size={"height": 336, "width": 336}),
        tokenizer=tokenizer,
        patch_size=14,
        vision_feature_select_strategy="default",
        image_token="<image>",
        num_additional_image_tokens=1,
    )
    vision = transformers.CLIPVisionConfig(
        hidden_size=1024,
        intermediate_size=4096,
        num_hidden_layers=layers + 1,  # the tokens are made of the last layer but one
        num_attention_heads=16,
        image_size=336,
        patch_size=14,
    )
    text = transformers.LlamaConfig(num_hidden_layers=layers, vocab_size=1024, bos_token_id=1, eos_token_id=2)
    config = transformers.LlavaConfig(vision_config=vision, text_config=text, image_token_index=words["<image>"])
    torch.manual_seed(0)
    with torch.device("cpu"):
        model = transformers.LlavaForConditionalGeneration(config).to(DTYPE)
    model.save_pretrained(folder)
    # The names of the tower's weights in published checkpoints, by which vLLM loads them.
    weights = load_file(folder / "model.safetensors")
    renamed = {name.replace("vision_tower.", "vision_tower.vision_model."): value for name, value in weights.items()}
    save_file(renamed, folder / "model.safetensors", metadata={"format": "pt"})
    processor.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return (336 // 14) ** 2


def served(folder: str, keep_ratio: float | None, in_flights: Sequence[int], repeats: int) -> Iterator[dict[str, Any]]:
    """The rows of one engine. Nothing may hold an engine when the next one starts: its end takes that one's groups."""
    with engine(folder, keep_ratio) as (llm, selection):
        measured(llm, selection, keep_ratio, WARM_UP, 1)
        for in_flight in in_flights:
            yield measured(llm, selection, keep_ratio, in_flight, repeats)


@contextmanager
def engine(folder: str, keep_ratio: float | None) -> Iterator[tuple[Any, list[float]]]:
    """An engine, and a list to which every selection adds its seconds."""
    from vllm import LLM
    from vllm.distributed.parallel_state import cleanup_dist_env_and_memory

    from tokenprune_kernels.integrations.vllm.selection import RowSelection

    seconds: list[float] = []
    select = RowSelection.__call__

    def timed(self: RowSelection, *args: Any) -> Any:
        started = time.perf_counter()
        rows = select(self, *args)
        if rows and rows[0].is_cuda:
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - started)
        return rows

    RowSelection.__call__ = timed  # type: ignore[method-assign]
    arguments: dict[str, Any] = {}
    if keep_ratio is not None:
        arguments["mm_processor_kwargs"] = {"tokenprune": {"keep_ratio": keep_ratio}}
    llm = LLM(
        folder,
        dtype=DTYPE,
        max_model_len=1024,
        max_num_seqs=max(IN_FLIGHT),
        max_num_batched_tokens=4096,
        enable_prefix_caching=False,
        mm_processor_cache_gb=0,
        disable_log_stats=False,
        **arguments,
    )
    try:
        yield llm, seconds
    finally:
        RowSelection.__call__ = select  # type: ignore[method-assign]
        del llm
        gc.collect()
        cleanup_dist_env_and_memory()


def measured(
    llm: Any, selection: list[float], keep_ratio: float | None, in_flight: int, repeats: int
) -> dict[str, Any]:
    """Serves rounds of requests that arrive together, each with an image of its own."""
    import numpy as np
    from PIL import Image
    from vllm import SamplingParams

    random = np.random.default_rng(in_flight)  # other images than before: an image's selection is remembered
    sampling = SamplingParams(temperature=0, max_tokens=NEW_TOKENS, ignore_eos=True)
    rounds, first_tokens, shares = [], [], []
    prompt_tokens = 0
    for _ in range(max(repeats, LEAST // in_flight)):
        prompts = [
            {
                "prompt": "<s> <image> what is this",
                "multi_modal_data": {"image": Image.fromarray(random.integers(0, 255, (336, 336, 3), dtype=np.uint8))},
            }
            for _ in range(in_flight)
        ]
        selection.clear()
        started = time.perf_counter()
        outputs = llm.generate(prompts, sampling, use_tqdm=False)
        rounds.append(time.perf_counter() - started)
        first_tokens.append(statistics.median(output.metrics.first_token_latency for output in outputs))
        shares.append(sum(selection) / rounds[-1])
        prompt_tokens = len(outputs[0].prompt_token_ids)
    return {
        "keep_ratio": keep_ratio,
        "in_flight": in_flight,
        "prompt_tokens": prompt_tokens,
        "rounds": len(rounds),
        "requests_per_second": in_flight / statistics.median(rounds),
        "slowest_and_fastest": [in_flight / max(rounds), in_flight / min(rounds)],
        "first_token_seconds": statistics.median(first_tokens),
        "selection_share": statistics.median(shares),
    }


def table(result: dict[str, Any]) -> str:
    """The table of a result."""
    rows = result["rows"]
    whole = {row["in_flight"]: row for row in rows if row["keep_ratio"] is None}
    lines = heading(("kept", "in flight", "prompt tokens", "requests/s", "to unpruned", "first token, s", "selection"))
    for row in rows:
        unpruned = row["keep_ratio"] is None
        lines.append(
            line(
                (
                    "all" if unpruned else f"{100 * row['keep_ratio']:.0f} %",
                    str(row["in_flight"]),
                    str(row["prompt_tokens"]),
                    number(row["requests_per_second"]),
                    number(row["requests_per_second"] / whole[row["in_flight"]]["requests_per_second"]),
                    number(row["first_token_seconds"]),
                    "-" if unpruned else f"{100 * row['selection_share']:.1f} %",
                )
            )
        )
    machine, model, versions = result["machine"], result["model"], result["versions"]
    lines += [
        "",
        f"LLaVA-1.5 in its own width, {model['dtype']}, random weights; layers: {model['layers']}; new tokens: "
        f"{model['new_tokens']}; rounds of requests that arrive together: {min(row['rounds'] for row in rows)}, and "
        f"{rows[0]['rounds']} of single ones; vLLM {versions['vllm']}, torch {versions['torch']}, "
        f"{machine['threads']} threads.",
        "",
        "EVS, the pruning of vLLM itself, is not beside it: it prunes videos alone, and fails on vLLM's CPU runner, as "
        "that does not take off the columns that EVS adds to embeddings.",
    ]
    return "\n".join(lines)
