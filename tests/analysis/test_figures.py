"""The figures of an analysis."""

import dataclasses
import itertools

import pytest

from tests.support.measurements import measured_of
from tokenprune_kernels import metrics
from tokenprune_kernels.analysis import figures, pictures, selections

np = pytest.importorskip("numpy")
FigureCanvasAgg = pytest.importorskip("matplotlib.backends.backend_agg").FigureCanvasAgg


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
