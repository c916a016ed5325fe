"""The analysis: what it reads, what it runs, how it compares trade-offs, and what it leaves."""

from __future__ import annotations

import csv
import dataclasses
import io
import itertools
import math
import re

import pytest
import torch

from tests.support.inputs import gaussian_tokens, generator, random_weight
from tokenprune_kernels import analysis, baselines, importance, metrics
from tokenprune_kernels.analysis import figures, frontier, pictures, report, selections
from tokenprune_kernels.analysis.progress import Progress
from tokenprune_kernels.analysis.samples import Sample
from tokenprune_kernels.analysis.selections import Measurement

np = pytest.importorskip("numpy")
Image = pytest.importorskip("PIL.Image")
safetensors = pytest.importorskip("safetensors.torch")
FigureCanvasAgg = pytest.importorskip("matplotlib.backends.backend_agg").FigureCanvasAgg

ROWS, COLUMNS = 6, 8
ops = torch.ops.tokenprune


@pytest.fixture
def picture(tmp_path):
    path = tmp_path / "picture.png"
    pixels = np.random.default_rng(0).integers(0, 256, (ROWS * 14 + 3, COLUMNS * 14 + 5, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)
    return str(path)


def saved(tmp_path, **tensors):
    path = tmp_path / "features.safetensors"
    safetensors.save_file({name: tensor.clone() for name, tensor in tensors.items()}, path)
    return str(path)


# How trade-offs compare.

CROSSING = [(0.2, 0.3), (0.6, 0.5), (1.0, 0.9)], [(0.1, 0.35), (0.5, 0.4), (1.0, 0.95)]


def test_only_what_nothing_else_beats_is_on_the_frontier():
    points = [(0.5, 0.5), (0.4, 0.5), (0.5, 0.6), (0.9, 0.8), (0.7, 0.9), (0.9, 0.8), (0.2, 0.1)]
    assert frontier.frontier(points) == [(0.2, 0.1), (0.5, 0.5), (0.9, 0.8)]


@pytest.mark.parametrize("seed", range(6))
def test_areas_are_those_of_a_fine_sum(seed):
    first, second = (
        [tuple(point) for point in torch.rand(8, 2, generator=generator(10 * seed + i)).double().tolist()]
        for i in range(2)
    )
    against = analysis.compare(first, second)
    first, second = frontier.frontier(first), frontier.frontier(second)
    assert against.start == min(first[0][0], second[0][0])
    assert against.end == min(first[-1][0], second[-1][0])
    places = [against.start + (against.end - against.start) * (i + 0.5) / 20_000 for i in range(20_000)]
    gains = [
        np.interp(place, *zip(*second, strict=True)) - np.interp(place, *zip(*first, strict=True)) for place in places
    ]
    assert against.mean == pytest.approx(sum(gains) / len(gains), abs=1e-4)
    assert against.area == pytest.approx(against.mean * (against.end - against.start))
    assert against.lower == pytest.approx(sum(gain > 0 for gain in gains) / len(gains), abs=1e-3)
    assert against.higher == pytest.approx(sum(gain < 0 for gain in gains) / len(gains), abs=1e-3)


def test_a_comparison_by_hand():
    against = analysis.compare([(0.0, 0.0), (1.0, 1.0)], [(0.0, 0.5), (1.0, 1.0)])
    assert (against.start, against.end, against.lower, against.higher) == (0.0, 1.0, 1.0, 0.0)
    assert against.area == pytest.approx(0.25)
    assert analysis.compare(*CROSSING).area == pytest.approx(-analysis.compare(*CROSSING[::-1]).area)
    assert analysis.compare(*CROSSING).lower == pytest.approx(analysis.compare(*CROSSING[::-1]).higher)
    same = analysis.compare(CROSSING[0], CROSSING[0])
    assert (same.area, same.lower, same.higher) == (0.0, 0.0, 0.0)
    point = analysis.compare([(0.5, 0.2)], [(0.5, 0.7)])
    assert (point.area, point.mean, point.lower) == (0.0, pytest.approx(0.5), 0.0)
    apart = analysis.compare([(0.2, 0.1)], [(0.8, 0.7)])
    assert (apart.start, apart.end) == (0.2, 0.2)


# What is read.


def test_a_picture_is_its_patches(picture):
    sample = analysis.from_picture(picture)
    opened = pictures.open_picture(picture)
    assert torch.equal(sample.x, pictures.patch_tokens(opened))
    assert torch.equal(sample.importance, importance.norm(sample.x))
    assert (sample.name, sample.grid, sample.weighed_by) == ("picture", (ROWS, COLUMNS), "norm")
    assert sample.picture.size == (14 * COLUMNS, 14 * ROWS)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32], ids=str)
def test_saved_features_of_one_item_and_of_several(tmp_path, picture, dtype):
    features = gaussian_tokens(2, 48, 5, dtype=dtype)
    (only,) = analysis.from_features(saved(tmp_path, anything=features[0]))
    assert (only.name, only.grid, only.picture, only.weighed_by) == ("features", None, None, "norm")
    assert torch.equal(only.x, features[0])
    assert torch.equal(only.importance, importance.norm(features[0]))
    weights = random_weight(2, 48)
    path = saved(tmp_path, features=features, importance=weights, grid=torch.tensor([ROWS, COLUMNS]))
    both = analysis.from_features(path)
    assert [sample.name for sample in both] == ["features 0", "features 1"]
    assert torch.equal(both[1].importance, weights[1])
    assert both[1].weighed_by == "saved importance"
    assert np.asarray(both[1].picture).std() == 0
    drawn = analysis.from_features(path, [picture, picture], names=["a", "b"])
    assert [sample.name for sample in drawn] == ["a", "b"]
    assert drawn[0].picture.size == (14 * COLUMNS, 14 * ROWS)
    assert np.asarray(drawn[0].picture).std() > 0
    (square,) = analysis.from_features(saved(tmp_path, features=gaussian_tokens(36, 4)))
    assert square.grid == (6, 6)


F = gaussian_tokens(2, 12, 4)


@pytest.mark.parametrize(
    ("tensors", "images", "message"),
    [
        ({"a": F, "b": F}, 0, "expected a tensor named features, or a single one, got a, b"),
        ({"features": F[0, 0]}, 0, "expected shape [N, D] or [B, N, D], got [4]"),
        ({"features": F[:0]}, 0, "expected shape [N, D] or [B, N, D], got [0, 12, 4]"),
        ({"features": F.double()}, 0, "expected float16, bfloat16 or float32, got torch.float64"),
        ({"features": F / 0}, 0, "expected finite values, got NaN or infinity"),
        ({"features": F, "importance": torch.ones(12)}, 0, "expected importance to be floating, [2, 12], got"),
        ({"features": F, "importance": torch.ones(2, 12).int()}, 0, "expected importance to be floating, [2, 12], got"),
        ({"features": F, "importance": -torch.ones(2, 12)}, 0, "expected importance to be finite and not negative"),
        ({"features": F, "importance": torch.ones(2, 12) / 0}, 0, "expected importance to be finite and not negative"),
        ({"features": F, "grid": torch.tensor([3, 5])}, 0, "expected grid to hold the rows and columns of 12 patches"),
        ({"features": F, "grid": torch.tensor([12])}, 0, "expected grid to hold the rows and columns of 12 patches"),
        ({"features": F, "grid": torch.tensor([-3, -4])}, 0, "expected grid to hold the rows and columns of 12"),
        ({"features": F, "grid": torch.tensor([1.5, 8])}, 0, "expected grid to hold the rows and columns of 12"),
        ({"features": F, "grid": torch.tensor([3j, 4])}, 0, "expected grid to hold the rows and columns of 12 patches"),
        ({"features": F[0, :1], "importance": torch.tensor(1.0)}, 0, "expected importance to be floating, [1, 1], got"),
        ({"features": F}, 1, "expected as many items as pictures, 1, got 2"),
        ({"features": F}, 2, "expected a tensor named grid to draw N = 12 tokens, got none"),
    ],
)
def test_what_saved_features_must_be(tmp_path, picture, tensors, images, message):
    with pytest.raises(ValueError, match=f"^{re.escape(f'features: {message}')}"):
        analysis.from_features(saved(tmp_path, **tensors), [picture] * images)


def test_a_pickle_is_not_read(tmp_path):
    path = tmp_path / "features.safetensors"
    torch.save({"features": F}, path)
    with pytest.raises(ValueError, match=r"^features: expected a readable safetensors file, got"):
        analysis.from_features(path)


@pytest.fixture(scope="module")
def towers(tmp_path_factory):
    """Directories of tiny random towers, as safetensors, and the models that they hold."""
    transformers = pytest.importorskip("transformers")
    sizes = {
        "hidden_size": 16,
        "intermediate_size": 32,
        "num_hidden_layers": 3,
        "num_attention_heads": 2,
        "image_size": 56,
        "patch_size": 14,
    }
    made = {}
    torch.manual_seed(0)
    for name, config, model in (
        ("clip", transformers.CLIPVisionConfig(**sizes), transformers.CLIPVisionModel),
        ("siglip", transformers.SiglipVisionConfig(**sizes), transformers.SiglipVisionModel),
        ("one layer", transformers.CLIPVisionConfig(**{**sizes, "num_hidden_layers": 1}), transformers.CLIPVisionModel),
    ):
        path = tmp_path_factory.mktemp("tower") / name
        made[name] = (path, model(config).eval())
        made[name][1].save_pretrained(path)
    return made


@pytest.mark.parametrize("name", ["clip", "siglip", "one layer"])
def test_a_vision_tower_gives_its_patches(towers, picture, name):
    path, model = towers[name]
    sample = analysis.load_vision_tower(path)(picture)
    pixels = torch.from_numpy(np.array(pictures.open_picture(picture).resize((56, 56)))).permute(2, 0, 1) / 255
    model.set_attn_implementation("eager")
    with torch.no_grad():
        out = model(2 * pixels[None] - 1, output_hidden_states=True, output_attentions=True)
    tokens = out.hidden_states[-2][0]
    if name != "siglip":
        layer = out.attentions[0 if name == "one layer" else -2]
        torch.testing.assert_close(sample.importance, layer[0, :, 0, 1:].mean(dim=0))
        tokens = tokens[1:]
    else:
        torch.testing.assert_close(sample.importance, tokens.norm(dim=-1))
    torch.testing.assert_close(sample.x, tokens)
    assert (sample.grid, sample.picture.size) == ((4, 4), (56, 56))
    assert sample.weighed_by == ("norm" if name == "siglip" else "class attention")


def test_a_vision_tower_is_normalised_as_its_processor_says(towers, picture, tmp_path):
    path, _ = towers["clip"]
    plain = analysis.load_vision_tower(path)(picture)
    (path / "preprocessor_config.json").write_text('{"image_mean": [0.1, 0.2, 0.3], "image_std": [0.2, 0.3, 0.4]}')
    try:
        assert not torch.equal(analysis.load_vision_tower(path)(picture).x, plain.x)
        (path / "preprocessor_config.json").write_text('{"image_mean": [0.5, 0.5, 0.5], "image_std": null}')
        assert torch.equal(analysis.load_vision_tower(path)(picture).x, plain.x)
    finally:
        (path / "preprocessor_config.json").unlink()


def test_a_vision_tower_that_cannot_be_used_is_named(towers, tmp_path, picture):
    with pytest.raises(ValueError, match=r"^vision tower: expected a directory with config.json, got 'openai/clip"):
        analysis.load_vision_tower("openai/clip-vit-large-patch14")
    path, model = towers["clip"]
    (tmp_path / "pickled").mkdir()
    (tmp_path / "pickled" / "config.json").write_text((path / "config.json").read_text())
    torch.save(model.state_dict(), tmp_path / "pickled" / "pytorch_model.bin")
    with pytest.raises(ValueError, match=r"^vision tower: expected a model that loads from safetensors, got"):
        analysis.load_vision_tower(tmp_path / "pickled")
    transformers = pytest.importorskip("transformers")
    text = transformers.CLIPTextModel(transformers.CLIPTextConfig(vocab_size=99, hidden_size=8, num_attention_heads=2))
    text.save_pretrained(tmp_path / "text")
    with pytest.raises(ValueError, match=r"^vision tower: expected one with image_size and patch_size, got clip_text"):
        analysis.load_vision_tower(tmp_path / "text")


def test_a_vision_tower_with_other_tokens_is_named(picture, tmp_path):
    transformers = pytest.importorskip("transformers")
    sizes = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "image_size": 28, "patch_size": 14}
    config = transformers.Dinov2WithRegistersConfig(**sizes, num_register_tokens=3)
    transformers.Dinov2WithRegistersModel(config).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=r"^vision tower: expected 4 patches and at most a class token, got 8"):
        analysis.load_vision_tower(tmp_path)(picture)


# What is run and measured.


@pytest.fixture(scope="module")
def samples():
    x = gaussian_tokens(48, 24) + 1
    blank = Image.new("RGB", (14 * COLUMNS, 14 * ROWS))
    return [
        Sample("first", x, random_weight(48), "norm", (ROWS, COLUMNS), blank),
        Sample("second", x.flip(0).bfloat16(), random_weight(48, seed=1), "class attention"),
    ]


@pytest.fixture(scope="module")
def measurements(samples):
    return [analysis.measure(sample, step) for sample in samples for step in analysis.steps(sample, 9)]


def test_every_selector_is_run_over_its_parameter(samples, measurements):
    first, second = (list(group) for _, group in itertools.groupby(measurements, key=lambda each: each.sample))
    x, weights = samples[0].x, samples[0].importance
    relevance = (weights - weights.min()) / (weights.max() - weights.min() + 1e-6)
    expected = {
        ("DivPrune", None): ops.divprune(x, 9),
        ("top-k importance", None): baselines.top_k(weights, 9),
        ("IDPruner", None): ops.idpruner(x, weights, 9),
        ("random", None): baselines.random(48, 9),
        ("uniform grid", None): baselines.grid(ROWS, COLUMNS, 9),
        **{("MMR", i / 40): ops.mmr(x, relevance, 9, i / 40) for i in range(41)},
        **{("naive mixture", i / 40): baselines.mixture(x, weights, 9, i / 40) for i in range(41)},
        **{("DPP", t): ops.dpp(x, (relevance / t).exp(), 9) for t in selections.TEMPERATURES},
    }
    assert [(each.selector, each.parameter) for each in first] == list(expected)
    for each in first:
        assert torch.equal(each.kept, expected[each.selector, each.parameter])
    # Without a grid there is no uniform one.
    assert len(second) == len(first) - 1


def test_what_is_measured(samples, measurements):
    each = next(each for each in measurements if (each.sample, each.selector, each.parameter) == ("first", "MMR", 0.25))
    x, kept = samples[0].x, each.kept
    dropped = x[[i for i in range(48) if i not in kept.tolist()]]
    assert each.k == 9
    assert each.importance_retention == pytest.approx(float(metrics.importance_retention(samples[0].importance, kept)))
    assert each.hopkins == pytest.approx(float(metrics.hopkins(x[kept])))
    assert each.hopkins_among_tokens == pytest.approx(float(metrics.hopkins(x[kept], within=dropped, draws=256)))
    assert each.smallest_distance == pytest.approx(float(metrics.smallest_distance(x[kept])))
    assert each.mean_distance == pytest.approx(float(metrics.mean_distance(x[kept])))
    mean, worst = metrics.coverage(x, kept)
    assert (each.coverage_mean, each.coverage_worst) == (pytest.approx(float(mean)), pytest.approx(float(worst)))
    assert 0 < each.milliseconds < 1e4


def test_nothing_dropped_has_no_draws(samples):
    step = next(step for step in analysis.steps(samples[0], 48) if step.selector == "DivPrune")
    assert math.isnan(analysis.measure(samples[0], step).hopkins_among_tokens)


# What is left.


def test_the_report(samples, measurements, tmp_path):
    files = analysis.write_report(samples, measurements, tmp_path / "new" / "report")
    assert [path.name for path in files] == ["measurements.csv", "pareto.png", "kept.png", "angles.png"]
    for path in files[1:]:
        assert min(Image.open(path).size) > 300
    with files[0].open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == len(measurements)
    for row, each in zip(rows, measurements, strict=True):
        assert (row["sample"], row["selector"], row["k"]) == (each.sample, each.selector, "9")
        assert row["parameter"] == ("" if each.parameter is None else str(each.parameter))
        assert float(row["hopkins"]) == each.hopkins
    assert "kept" not in rows[0]
    without_grid = analysis.write_report(samples[1:], measurements, tmp_path / "other")
    assert [path.name for path in without_grid] == ["measurements.csv", "pareto.png", "angles.png"]


def test_a_picture_of_an_earlier_run_does_not_stay(samples, measurements, tmp_path):
    analysis.write_report(samples, measurements, tmp_path)
    (tmp_path / "notes.txt").write_text("mine")
    files = analysis.write_report(samples[1:], measurements, tmp_path)
    assert sorted(tmp_path.iterdir()) == sorted([*files, tmp_path / "notes.txt"])


def test_a_directory_that_cannot_be_made_is_named(samples, measurements, tmp_path):
    (tmp_path / "file").write_text("")
    (tmp_path / "taken" / "measurements.csv").mkdir(parents=True)
    for out in ("file", "taken"):
        with pytest.raises(ValueError, match=r"^out: expected a directory that can be written to, got"):
            analysis.write_report(samples, measurements, tmp_path / out)


def test_the_table_has_a_line_for_each_selector(samples, measurements):
    first, second = (block.splitlines() for block in analysis.table(samples, measurements).split("\n\n"))
    assert first[0] == "first: 9 of 48 tokens, importance is norm"
    assert [line[2:20].strip() for line in first[1:8]] == [
        "selector",
        "DivPrune",
        "top-k importance",
        "IDPruner",
        "DPP at 1",
        "random",
        "uniform grid",
    ]
    assert len({len(line) for line in first[1:8]}) == 1
    assert "1.000" in first[3]
    against = report.comparisons(measurements, "first")["naive mixture"]
    assert first[8].startswith(f"  MMR against naive mixture: lower Hopkins statistic on {100 * against.lower:.0f} %")
    assert f"{against.area:+.4f}" in first[8]
    assert first[9].startswith("  MMR against DPP: ")
    assert len(second) == len(first) - 1


def made(selector, retention, statistic, parameter=0.5, sample="made"):
    """A selection with the given trade-off, whose other measures say the opposite."""
    opposite = 1 - statistic
    return Measurement(sample, selector, parameter, 9, retention, statistic, *[opposite] * 5, 1.0, None)


def test_comparisons_are_of_mmr_against_the_others():
    measured = [
        *(made("MMR", retention, statistic) for retention, statistic in ((0.5, 0.2), (1.0, 0.4))),
        *(made("naive mixture", retention, statistic) for retention, statistic in ((0.5, 0.3), (1.0, 0.6))),
        *(made("DPP", retention, statistic) for retention, statistic in ((0.5, 0.1), (1.0, 0.3))),
        made("MMR", 1.0, 0.0, sample="another"),
        made("naive mixture", 1.0, 0.0, sample="another"),
        made("DPP", 1.0, 0.9, sample="another"),
    ]
    against = report.comparisons(measured, "made")
    assert list(against) == ["naive mixture", "DPP"]
    mixture, dpp = against.values()
    assert (mixture.start, mixture.end, mixture.lower, mixture.higher) == (0.5, 1.0, 1.0, 0.0)
    assert (mixture.area, mixture.mean) == (pytest.approx(0.075), pytest.approx(0.15))
    assert (dpp.start, dpp.end, dpp.lower, dpp.higher) == (0.5, 1.0, 0.0, 1.0)
    assert (dpp.area, dpp.mean) == (pytest.approx(-0.05), pytest.approx(-0.1))
    measured += [made(selector, 0.7, 0.5, None) for selector in ("DivPrune", "top-k importance", "IDPruner")]
    measured.append(made("DPP", 0.4, 0.9, 1.0))
    sample = Sample("made", torch.ones(48, 2), torch.ones(48), "norm")
    assert [line.strip() for line in analysis.table([sample], measured).splitlines()[-2:]] == [
        "MMR against naive mixture: lower Hopkins statistic on 100 % of the retentions from 0.500 to 1.000, "
        "higher on 0 %; area between the frontiers +0.0750, +0.1500 on average",
        "MMR against DPP: lower Hopkins statistic on 0 % of the retentions from 0.500 to 1.000, "
        "higher on 100 %; area between the frontiers -0.0500, -0.1000 on average",
    ]


def test_the_table_has_each_measure_under_its_heading(samples, measurements):
    for sample, block in zip(samples, analysis.table(samples, measurements).split("\n\n"), strict=True):
        headings, *lines = (
            [line[:20].strip(), *(line[i : i + 13].strip() for i in range(20, len(line), 13))]
            for line in block.splitlines()[1:-2]
        )
        for line in lines:
            cells = dict(zip(headings, line, strict=True))
            selector, _, parameter = cells["selector"].partition(" at ")
            each = measured_of(measurements, sample, selector, float(parameter) if parameter else None)
            assert cells == {
                "selector": cells["selector"],
                "retention": f"{each.importance_retention:.3f}",
                "Hopkins": f"{each.hopkins:.3f}",
                "among tokens": f"{each.hopkins_among_tokens:.3f}",
                "smallest d.": f"{each.smallest_distance:.3f}",
                "mean d.": f"{each.mean_distance:.3f}",
                "coverage": f"{each.coverage_mean:.3f}",
                "worst": f"{each.coverage_worst:.3f}",
                "ms": f"{each.milliseconds:.2f}",
            }


def measured_of(measurements, sample, selector, parameter=None):
    (only,) = (
        each
        for each in measurements
        if (each.sample, each.selector, each.parameter) == (sample.name, selector, parameter)
    )
    return only


def drawn(panel):
    """The lines of a panel by their labels, as points."""
    return {line.get_label(): line.get_xydata().tolist() for line in panel.get_lines()}


def test_the_trade_offs_are_drawn_as_measured(samples, measurements):
    for sample, panel in zip(samples, figures.pareto(samples, measurements).axes, strict=False):
        expected = {"MMR, over lambda": [], "naive mixture, over share": [], "DPP, over temperature": []}
        for each in measurements:
            if each.sample == sample.name:
                label = next((label for label in expected if label.startswith(f"{each.selector}, ")), each.selector)
                expected.setdefault(label, []).append([each.importance_retention, each.hopkins])
        assert drawn(panel) == expected
        assert len(expected) == (8 if sample.grid else 7)


def test_the_angles_are_drawn_as_measured(samples, measurements):
    degrees = [4 * (i + 0.5) for i in range(45)]

    def shares(tokens):
        counts = metrics.angle_histogram(tokens, 45)
        return (100 * counts / counts.sum()).tolist()

    labels = {
        "DivPrune": ("DivPrune", None),
        "top-k importance": ("top-k importance", None),
        "IDPruner": ("IDPruner", None),
        "DPP at temperature 1": ("DPP", 1.0),
    }
    for sample, panel in zip(samples, figures.pairwise_angles(samples, measurements).axes, strict=False):
        lines = drawn(panel)
        assert list(lines) == list(labels)
        for label, selection in labels.items():
            kept = measured_of(measurements, sample, *selection).kept
            expected = zip(degrees, shares(sample.x[kept]), strict=True)
            np.testing.assert_allclose(lines[label], list(expected), rtol=1e-6)
        (background,) = panel.collections
        outline = background.get_paths()[0].vertices.tolist()
        heights = [max(height for place, height in outline if place == degree) for degree in degrees]
        np.testing.assert_allclose(heights, shares(sample.x), rtol=1e-6)


def test_a_name_is_no_formula(samples, measurements):
    name = r"a$\frac$b"
    named = [dataclasses.replace(sample, name=name + sample.name) for sample in samples]
    renamed = [dataclasses.replace(each, sample=name + each.sample) for each in measurements]
    for draw in (figures.pareto, figures.kept_patches, figures.pairwise_angles):
        figure = draw(named, renamed)
        FigureCanvasAgg(figure).draw()
        assert any(name in text for panel in figure.axes for text in (panel.get_title(), panel.get_ylabel()))


def texts(figure):
    return [text.get_text() for legend in figure.legends for text in legend.get_texts()]


@pytest.mark.parametrize("count", [1, 2, 4])
def test_figures_are_labelled_and_nothing_overlaps(samples, measurements, count):
    shown = [samples[i % 2] for i in range(count)]
    for draw, entries in (
        (figures.pareto, 8),
        (figures.pairwise_angles, 5),
        (figures.kept_patches, 0),
    ):
        figure = draw(shown, measurements)
        canvas = FigureCanvasAgg(figure)
        canvas.draw()
        renderer = canvas.get_renderer()
        assert len(texts(figure)) == entries == len(set(texts(figure)))
        boxes = [panel.get_tightbbox(renderer) for panel in figure.axes if panel.axison and panel.has_data()]
        boxes += [legend.get_window_extent(renderer) for legend in figure.legends]
        for box in boxes:
            assert box.x0 >= -1
            assert box.y0 >= -1
            assert box.x1 <= figure.bbox.x1 + 1
            assert box.y1 <= figure.bbox.y1 + 1
        for one, other in itertools.combinations(boxes, 2):
            assert not one.padded(-1).overlaps(other.padded(-1))
        if draw is not figures.kept_patches:
            for panel in figure.axes[:count]:
                assert panel.get_xlabel()
                assert panel.get_ylabel()
                assert panel.get_title()


def test_kept_patches_are_titled_by_selector(samples, measurements):
    figure = figures.kept_patches(samples, measurements)
    titles = ["DivPrune", "top-k importance", "IDPruner", "DPP at temperature 1"]
    assert [panel.get_title() for panel in figure.axes] == titles
    assert figure.axes[0].get_ylabel() == "first, 9 of 48"
    assert figures.kept_patches(samples[1:], measurements) is None
    for panel, selector in zip(figure.axes, selections.SHOWN, strict=True):
        kept = selections.shown(measurements, "first", selector).kept
        expected = np.asarray(pictures.draw_kept(samples[0].picture, kept))
        assert (np.asarray(panel.images[0].get_array()) == expected).all()


@pytest.mark.parametrize("styles", [figures._CURVE_STYLES, figures._ANGLE_STYLES])
def test_lines_differ_without_colour(styles):
    assert len({style.dashes for style in styles.values()}) == len(styles)
    to_rgb = pytest.importorskip("matplotlib.colors").to_rgb
    light = sorted(np.dot(to_rgb(style.colour), (0.299, 0.587, 0.114)) for style in styles.values())
    assert min(np.diff(light)) > 0.1


def test_marks_differ_without_colour():
    marks = [style.mark for style in [*figures._CURVE_STYLES.values(), *figures._POINT_STYLES.values()]]
    assert len(set(marks)) == len(marks)


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_progress_is_drawn_on_a_terminal_and_wiped():
    terminal = Terminal()
    with Progress(2, terminal) as progress:
        progress.step("a long name")
        progress.step("short")
    frames = terminal.getvalue().split("\r")
    assert frames[1] == f"[{'.' * 30}] 0/2 a long name"
    assert frames[2] == f"[{'#' * 15}{'.' * 15}] 1/2 short      "
    assert frames[3].strip() == ""
    assert frames[4] == ""


def test_progress_is_silent_elsewhere():
    stream = io.StringIO()
    with Progress(1, stream) as progress:
        progress.step("anything")
    assert stream.getvalue() == ""
