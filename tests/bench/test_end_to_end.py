"""The end-to-end benchmark's own parts, on models of small width."""

import json

import pytest
import torch

transformers = pytest.importorskip("transformers")
main = pytest.importorskip("bench.end_to_end.run", reason="the benchmarks are only in the source tree")

from bench import files, render  # noqa: E402
from bench.end_to_end import clock, measure, models, selection, table  # noqa: E402
from tests.support.vision_language import CLIP, TEXT  # noqa: E402
from tokenprune_kernels.integrations.transformers import prune_inputs, pruning  # noqa: E402

NAMES = [case.name for case in models.MODELS]
PARAMETERS = dict(zip(NAMES, (7_063_427_072, 7_063_431_168, 7_063_431_168, 8_292_166_656), strict=True))


def case_of(name):
    return models.MODELS[NAMES.index(name)]


@pytest.fixture(autouse=True)
def brief(monkeypatch):
    monkeypatch.setattr(clock, "SHORT_SAMPLES", 2)
    monkeypatch.setattr(clock, "SHORT_SAMPLE_MILLISECONDS", 0.0)


@pytest.fixture
def narrow(monkeypatch):
    """The models as they are, in small widths."""
    for sizes, small in (
        (models.CLIP, {"hidden_size": 16, "intermediate_size": 16, "num_attention_heads": 1}),
        (models.VICUNA, {"hidden_size": 16, "num_attention_heads": 1, "num_key_value_heads": 1}),
        (models.QWEN_TEXT, {"hidden_size": 128, "num_attention_heads": 1, "num_key_value_heads": 1}),
        (models.QWEN_VISION, {"hidden_size": 16, "intermediate_size": 16, "num_heads": 1, "out_hidden_size": 128}),
    ):
        for name, value in small.items():
            monkeypatch.setitem(sizes, name, value)


def tiny_config(layers, vision_layers):
    return transformers.LlavaConfig(
        vision_config=CLIP | {"num_hidden_layers": vision_layers},
        text_config={"model_type": "llama"} | TEXT | {"vocab_size": 1_100, "num_hidden_layers": layers},
        image_token_index=1_050,
    )


TINY = models.FullSize(
    "tiny",
    "an image of 16 x 16",
    "image",
    16,
    0.25,
    8,
    6,
    tiny_config,
    lambda: {"pixel_values": torch.randn(1, 3, 16, 16, generator=torch.Generator().manual_seed(0))},
)


def measurement():
    reported = []
    made = measure.Measurement(TINY, "cpu", 4, 3, 3, 2, reported.append)
    made.reported = reported
    return made


def times(median):
    return clock.Times(median, median - 1, median + 1, 3)


def rows():
    """Rows as they would be, with round numbers."""
    full = measure.PrunedRun(
        "none", 100, 2.0, prefill=times(100.0), full_depth=1_000.0, generation=times(300.0), memory=10**9
    )
    pruned = measure.PrunedRun("DivPrune 10 %", 10, 0.2, False, True, "", times(40.0), 400.0, times(240.0), 8 * 10**8)
    loop = measure.PrunedRun("published DivPrune loop 10 %", 9, 0.19, True, False, "pick 3: row 5 is repeated")
    pruned.operator, pruned.step = times(4.0), times(6.0)
    loop.prefill, loop.full_depth, loop.operator, loop.step = times(60.0), 500.0, times(100.0), times(110.0)
    return [full, pruned, loop]


def result(device="cpu", modality="video", layers=(4, 32), rows=None):
    return json.loads(
        json.dumps(
            {
                "device": device,
                "machine": dict.fromkeys(("name", "threads", "cuda", "torch", "transformers", "python"), "1.0"),
                "text_tokens": 64,
                "new_tokens": 8,
                "runs": 3,
                "models": [
                    {
                        "name": "LLaVA",
                        "visual": "a video of 8 frames",
                        "modality": modality,
                        "layers": layers,
                        "vision_layers": (layers[0] - 2, layers[1] - 2),
                        "rows": [main.dataclasses.asdict(row) for row in rows],
                    }
                ],
            }
        )
    )


@pytest.mark.parametrize("name", NAMES)
def test_models_have_their_published_sizes(name):
    case = case_of(name)
    with torch.device("meta"):
        model = transformers.AutoModelForImageTextToText.from_config(case.config(case.layers, case.vision_layers))
    assert sum(parameter.numel() for parameter in model.parameters()) == PARAMETERS[name]
    assert [len(stack) for stack in models.stacks(model)] == [case.layers, case.vision_layers]


@pytest.mark.parametrize("name", NAMES)
def test_prompts_have_a_placeholder_for_every_visual_token(narrow, name):
    case = case_of(name)
    model = models.build(case, 1, 1, "cpu")
    inputs = models.prompt(case, model.config, "cpu")
    assert inputs["input_ids"].shape == (1, models.TEXT_TOKENS + case.visual_tokens)
    pruned = prune_inputs(model, inputs, keep_ratio=case.divprune_ratio)
    kept = round(case.divprune_ratio * case.visual_tokens)
    assert pruned["input_ids"].shape == (1, models.TEXT_TOKENS + kept)


def test_a_model_has_a_row_for_every_pruner():
    made = measurement()
    assert made.model.dtype == torch.bfloat16
    all_rows = made.rows(measure.pruners_of(0.25))
    assert len(made.reported) == 2 + 2 * len(all_rows)
    assert [(row.pruner, row.visual_tokens, row.correct) for row in all_rows[:4]] == [
        ("none", 16, None),
        ("DivPrune 25 %", 4, True),
        ("IDPruner 25 %", 4, True),
        ("IDPruner 10 %", 2, True),
    ]
    assert all_rows[4].pruner == "published DivPrune loop 25 %"
    assert [row.published for row in all_rows] == [False] * 4 + [True]
    for row in all_rows:
        assert 0 < row.prefill.median < row.generation.median
        assert row.full_depth > row.prefill.median
        assert row.prefill.samples == 2
        assert row.memory > 0
    assert all_rows[0].operator is all_rows[0].step is None
    for row in all_rows[1:]:
        assert 0 < row.operator.least <= row.operator.median
        assert row.step.median > 0
    n, d, m, all_layers = 64 + 4, 32, 48, 8
    assert all_rows[1].teraflops == 1e-12 * all_layers * (4 * n * d**2 + 2 * n**2 * d + 2 * n * d * m)


def test_there_is_no_time_for_a_wrong_selection(monkeypatch):
    made = measurement()
    divprune = measure.pruners_of(0.25)[1]
    found = selection.Selection
    monkeypatch.setattr(
        selection,
        "Selection",
        lambda method, x, weight, indices, repeat: found(method, x, weight, indices.flip(0), repeat),
    )
    (row,) = made.rows([divprune])
    assert row.correct is False
    assert row.note.startswith("pick 0: ")
    assert row.prefill is row.generation is row.memory is row.operator is row.step is None


def test_there_is_no_time_for_a_prompt_with_other_tokens_than_were_picked(monkeypatch):
    made = measurement()
    monkeypatch.setattr(measure, "placeholder_id", lambda case, config: -1)
    (row,) = made.rows([measure.pruners_of(0.25)[1]])
    assert row.correct is False
    assert row.note == "0 visual tokens in the prompt instead of 4"
    assert row.prefill is row.operator is None


def test_a_loop_stands_in_for_the_operator_and_goes_again():
    select = pruning.select_rows
    x = torch.randn(20, 8)
    with selection.selecting_by(lambda x, k: torch.arange(k)) as instead:
        assert pruning.select_rows(x, [20], [5], "divprune", None, None).tolist() == [0, 1, 2, 3, 4]
        assert instead.selection is None
        with instead:
            pruning.select_rows(x, [20], [5], "divprune", None, None)
        assert instead.selection.x is x
        assert instead.selection.repeat().tolist() == [0, 1, 2, 3, 4]
    assert pruning.select_rows is select
    with selection.selecting_by(None) as recorder, recorder:
        picks = torch.ops.tokenprune.idpruner(x, x[:, 0], 5)
    assert recorder.selection.method == "idpruner"
    assert torch.equal(recorder.selection.weight, x[:, 0])
    assert torch.equal(recorder.selection.repeat(), picks)


def test_the_encoder_runs_once():
    class Inner:
        def get_image_features(self, pixel_values, image_sizes=None):
            return object()

    inner, features = Inner(), {}
    with selection.encoded_once(inner, "image", features):
        assert inner.get_image_features(1) is inner.get_image_features(2) is features["image"]
    assert inner.get_image_features(1) is not features["image"]


@pytest.mark.parametrize(
    ("kept", "whole", "counts"),
    [("aaaa", "a" * 32, [8.0] * 4), ("wwwf", "wwwwwwwf" * 4, [28 / 3] * 3 + [4.0]), ("wf", "wf", [1.0, 1.0])],
)
def test_kept_layers_stand_for_all_of_their_kind(kept, whole, counts):
    assert clock.stands_for(kept, whole) == counts
    assert sum(clock.stands_for(kept, whole)) == len(whole)


def test_qwen_s_tower_keeps_a_block_that_sees_the_whole_picture():
    assert models.qwen_vision_kinds(4) == ["windows"] * 3 + ["whole picture"]
    assert models.qwen_vision_kinds(32) == (["windows"] * 7 + ["whole picture"]) * 4


def test_missing_layers_take_what_those_take_that_stand_for_them(monkeypatch):
    ticks = iter([1.0, 3.0, 10.0, 14.0])
    monkeypatch.setattr(clock, "milliseconds", lambda device: next(ticks))
    layers = torch.nn.ModuleList(torch.nn.Identity() for _ in range(3))
    watch = clock.LayerClock("cpu")

    def run():
        for layer in layers:
            layer(torch.ones(1))

    with watch.watching(layers, [8.0, 1.0, 4.0]):
        run()
        assert watch.missing == 0.0
        watch.start()
        run()
        watch.stop()
        run()
    run()
    assert watch.missing == (8 - 1) * (3.0 - 1.0) + (4 - 1) * (14.0 - 10.0)
    watch.start()
    assert watch.missing == 0.0


def test_a_table_has_a_line_for_each_pruner():
    written = table.summary(result(rows=rows())).splitlines()
    assert written[0] == "**LLaVA**, a video of 8 frames, 4 of 32 layers, 2 of 30 in the vision tower"
    assert written[4:7] == [
        "| none | 100 | 2.00 | 100 (99.0 to 101) | 1,000 | 300 (299 to 301) | 1.00 | - | - |",
        "| DivPrune 10 % | 10 | 0.200 | 40.0 (39.0 to 41.0) | 400 | 240 (239 to 241) | 0.80 | 4.00 (1.00 %) "
        "| 6.00 (1.50 %) |",
        "| published DivPrune loop 10 % (wrong) | 9 | 0.190 | 60.0 (59.0 to 61.0) | 500 | - | - | 100 (20.0 %) "
        "| 110 (22.0 %) |",
    ]
    assert written[2].count("|") == written[3].count("|") == written[4].count("|")
    assert written[8:13] == [
        "| DivPrune 10 % against none | prefill | end to end | peak memory |",
        "| --- | --- | --- | --- |",
        "| here, 4 of 32 layers, 2 of 30 in the vision tower | -60 % | -20 % | -200 MB |",
        "| here, extrapolated to full depth | -60 % | - | - |",
        "| as the paper reports, of its machine | -55 % | -22 % | -400 MB |",
    ]
    assert "selection 1.00 % (target: under 3 %), whole step 1.50 %." in written[-2]
    assert "extrapolated" in written[-4]


def test_nothing_is_extrapolated_at_full_depth():
    text = table.summary(result("cuda", "image", (32, 32), rows()[:2]))
    assert "extrapolated" not in text
    assert "paper reports" not in text
    assert "wrong" not in text.lower()
    assert "selection 1.00 % (target: under 1 %), whole step 1.50 % (target: under 8 %)." in text


def test_rows_without_times_are_shown_as_such():
    unmeasured = measure.PrunedRun(
        "DivPrune 10 %", 10, 0.2, False, False, "pick 0: row 1 is picked where row 2 is better"
    )
    text = table.summary(result(rows=[rows()[0], unmeasured]))
    assert "| DivPrune 10 % (wrong) | 10 | 0.200 | - | - | - | - | - | - |" in text
    assert "paper reports" not in text


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--layers", "3"], "expected --layers to be at least 4, got 3"),
        (["--new-tokens", "0"], "expected --new-tokens to be at least 1, got 0"),
        (["--runs", "0"], "expected --runs to be at least 1, got 0"),
        (["--models", "GPT"], "invalid choice: 'GPT'"),
    ],
)
def test_options_are_checked(arguments, message, capsys):
    with pytest.raises(SystemExit):
        main.parsed(arguments)
    assert message in capsys.readouterr().err


def test_a_graphics_processor_runs_the_full_depth(monkeypatch, capsys):
    assert (main.parsed([]).layers, main.parsed([]).new_tokens) == (4, 8)
    assert (main.parsed(["--device", "cuda"]).layers, main.parsed(["--device", "cuda"]).new_tokens) == (None, 64)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert main.main(["--device", "cuda"]) == 2
    assert capsys.readouterr().err == "bench e2e: expected a CUDA device, got none\n"


def test_results_become_a_file(tmp_path, monkeypatch, capsys):
    def measured(case, options, report):
        report(case.name)
        return result(rows=rows()[:2])["models"][0]

    rendered = []
    monkeypatch.setattr(main, "measured", measured)
    monkeypatch.setattr(files, "RESULTS", tmp_path)
    monkeypatch.setattr(render, "write", lambda: rendered.append(1))
    assert main.main(["--models", "Qwen2.5-VL-7B"]) == 0
    assert "1/12 Qwen2.5-VL-7B\n" in capsys.readouterr().err
    assert rendered == []
    assert main.main([]) == 0
    shown = table.summary(json.loads((tmp_path / "end-to-end-cpu.json").read_text()))
    assert shown in capsys.readouterr().out
    assert rendered == [1]
    unmeasured = result(rows=[rows()[0], measure.PrunedRun("DivPrune 10 %", 10, 0.2)])["models"][0]
    monkeypatch.setattr(main, "measured", lambda case, options, report: unmeasured)
    assert main.main(["--models", "LLaVA-1.5-7B"]) == 1
