"""The scenes of the accuracy benchmark, its questions, its words and its material."""

from collections import Counter

import numpy as np
import pytest
import torch

pytest.importorskip("bench.accuracy.scenes", reason="needs the source tree and Pillow")

from bench.accuracy import mixing, on_digits, questions, scenes, words
from bench.accuracy.settings import TASKS

SPLITS = ("training", "held-out")
SOME = [scenes.scene("held-out", number) for number in range(300)]
ASKED = [question for given in SOME for question in questions.asked(given)]


def test_a_scene_follows_from_its_split_and_number():
    assert scenes.scene("training", 3) == scenes.scene("training", 3)
    assert scenes.scene("training", 3) != scenes.scene("training", 4)
    assert scenes.scene("training", 3).things != scenes.scene("held-out", 3).things


def test_things_are_in_reading_order_and_no_two_shapes_are_the_same():
    for given in SOME:
        assert list(given.things) == [cell for cell in scenes.CELLS if cell in given.things]
        assert len(set(given.shapes.values())) == len(given.shapes) > 0
        assert scenes.DIGITS[0] <= len(given.digits) <= scenes.DIGITS[1]


def test_what_is_absent_is_not_there_while_something_like_it_is():
    for given in SOME:
        assert given.absent not in given.things.values()
        there = {word for pair in given.shapes.values() for word in pair.split()}
        assert there & set(given.absent.split())


def test_answers_are_those_of_the_scene():
    given = scenes.Scene(
        "training", 0, {"b one": "7", "c two": "red disc", "a three": "2", "d three": "blue disc"}, "disc", "red ring"
    )
    found = {(question.task, question.text): question.answer for question in questions.asked(given)}
    assert found["read", "read the digits"] == "7 2"
    assert found["count", "how many disc"] == "2"
    assert found["present", "is there a red ring"] == "no"
    (where,) = [(text, answer) for (task, text), answer in found.items() if task == "where"]
    assert where in (("where is the red disc", "c two"), ("where is the blue disc", "d three"))
    taught = {question.text: question.answer for seed in range(30) for question in taught_at(given, seed)}
    assert taught["what is at b one"] == "7"
    assert taught["what is at a one"] == "nothing"
    assert taught["what is at d three"] == "blue disc"
    assert taught["read the digits at one"] == "7"
    assert taught["read the digits at two"] == "nothing"


def taught_at(given, seed):
    return questions.taught(given, np.random.default_rng(seed))


@pytest.mark.parametrize("task", TASKS)
def test_no_guess_is_right_on_more_than_30_percent(task):
    if task == "present":  # both questions of a scene have to be answered, one with yes and one with no
        pairs = [[each.answer for each in questions.asked(given) if each.task == task] for given in SOME]
        assert all(pair == ["yes", "no"] for pair in pairs)
        return
    answers = Counter(question.answer for question in ASKED if question.task == task)
    assert sum(answers.values()) == len(SOME)
    assert answers.most_common(1)[0][1] / len(SOME) <= 0.3


def test_the_questions_of_a_task_have_one_length():
    """So that a batch of them needs no padding."""
    for task in TASKS:
        assert len({len(question.text.split()) for question in ASKED if question.task == task}) == 1


def test_only_all_right_answers_count():
    assert questions.all_right([("yes", "yes"), ("no", "no")]) == 1.0
    assert questions.all_right([("yes", "yes"), ("yes", "no")]) == 0.0


@pytest.mark.parametrize(
    ("answer", "share"), [("1 2 3 4", 1.0), ("1 2 4", 0.75), ("", 0.0), ("1 2 3 4 5", 0.8), ("4 3 2 1", 0.0)]
)
def test_the_share_of_digits_that_are_read(answer, share):
    assert questions.read_share(answer, "1 2 3 4") == pytest.approx(share)


def test_every_word_has_one_number():
    assert len(set(words.WORDS)) == len(words.WORDS)
    for question in ASKED:
        assert words.decode([*words.encode(question.answer), words.NUMBERS[words.END], 7]) == question.answer
        words.encode(question.text)


def test_the_tokenizer_of_checkpoints_makes_the_prompts_that_were_trained_on():
    pytest.importorskip("transformers")
    tokenizer = words.tokenizer()
    messages = [{"role": "user", "content": [{"type": "text", "text": "is there a red ring ?"}, {"type": "image"}]}]
    text = tokenizer.apply_chat_template(messages, tokenize=False, chat_template=words.CHAT_TEMPLATE)
    text = text.replace(words.IMAGE, words.IMAGE * 5)  # as the processor does
    assert tokenizer(text)["input_ids"] == words.prompt("is there a red ring", 5)
    assert tokenizer.decode([*words.encode("b three"), words.NUMBERS[words.END]], skip_special_tokens=True) == "b three"


def test_no_digit_and_no_photograph_is_in_both_splits():
    pytest.importorskip("sklearn")
    from sklearn.datasets import load_digits

    from bench.accuracy import material

    training, held_out = (material.digits(split) for split in SPLITS)
    counts = [len(ours) + len(theirs) for ours, theirs in zip(training, held_out, strict=True)]
    assert counts == np.bincount(load_digits().target).tolist()
    assert min(len(images) for images in held_out) >= 40
    assert not set(material.PHOTOGRAPHS["training"]) & set(material.PHOTOGRAPHS["held-out"])
    for split in SPLITS:
        assert all(picture.mode == "RGB" for picture in material.photographs(split))


def test_a_picture_shows_the_scene():
    pytest.importorskip("sklearn")
    given = scenes.Scene("training", 0, {"a one": "red square", "d four": "blue square"}, "square", "red ring")
    picture = scenes.render(given)
    assert picture.size == (scenes.SIDE, scenes.SIDE)
    pixels = np.asarray(picture).astype(int)
    cell = scenes.SIDE // scenes.GRID
    red, blue = pixels[:cell, :cell], pixels[-cell:, -cell:]
    assert ((red[..., 0] > 150) & (red[..., 2] < 90)).mean() > 0.15
    assert ((blue[..., 2] > 150) & (blue[..., 0] < 90)).mean() > 0.15
    assert np.array_equal(pixels, np.asarray(scenes.render(given)))
    assert scenes.resized(picture, 84, 98).size == (98, 84)
    assert scenes.resized(picture, scenes.SIDE, scenes.SIDE) is picture


def test_what_is_asked_for_as_absent_has_colour_and_shape_of_what_is_there():
    found = 0
    for number in range(60):
        given = scenes.scene("held-out", number)
        colours, shapes = ({pair.split()[place] for pair in given.shapes.values()} for place in (0, 1))
        absent = questions.asked(given)[-1].text.removeprefix("is there a ")
        assert absent not in given.things.values()
        if given.swapped:
            found += 1
            assert absent.split()[0] in colours
            assert absent.split()[1] in shapes
        else:
            assert absent == given.absent
    assert found > 50


def test_a_joined_scene_has_the_cells_of_both():
    first = scenes.Scene("training", 0, {"a one": "1", "b one": "2", "c one": "3", "a four": "red disc"}, "disc", "")
    second = scenes.Scene("training", 1, {"a one": "9", "d four": "blue ring", "b four": "red disc"}, "ring", "")
    rng = np.random.default_rng(0)
    of_second = [cell in ("a one", "d four") for cell in scenes.CELLS]
    made = scenes.joined(first, second, of_second, rng)
    assert list(made.things.items()) == [
        ("a one", "9"),
        ("b one", "2"),
        ("c one", "3"),
        ("a four", "red disc"),
        ("d four", "blue ring"),
    ]
    assert made.absent not in made.things.values()
    for cells in (("b four",), ("b one", "c one"), ("a four",)):  # two red discs, one digit, no shape
        assert scenes.joined(first, second, [cell in cells for cell in scenes.CELLS], rng) is None


def test_tokens_on_digits_are_those_of_their_cells():
    given = scenes.Scene("training", 0, {"b one": "7", "d four": "blue ring"}, "ring", "")
    found = on_digits.tokens_on_digits(given, 8).reshape(8, 8)
    assert found[:2, 2:4].all()
    assert found.sum() == 4


@pytest.mark.parametrize("side", [8, 16])
def test_mixed_pictures_have_the_tokens_of_what_is_in_them(side):
    """A token of these pictures says which scene it is of, and which cell it lies in."""
    given = [scenes.scene("training", number) for number in range(40)]
    cells = torch.from_numpy(scenes.cells_of_tokens(side)).flatten()
    numbers = torch.stack([torch.cat([torch.tensor([-1]), 100 * row + cells]) for row in range(len(given))])
    made, states = mixing.mixed(given, numbers[:, None, :, None].float(), np.random.default_rng(0))
    assert states.shape == (40, 1, 1 + side * side, 1)
    changed = 0
    for row, scene in enumerate(made):
        assert float(states[row, 0, 0, 0]) == -1
        for token, cell in zip(states[row, 0, 1:, 0].tolist(), cells.tolist(), strict=True):
            source, place = divmod(int(token), 100)
            assert place == cell
            assert source in (row, (row + 1) % len(given))
            name = scenes.CELLS[cell]
            assert scene.things.get(name) == given[source].things.get(name)
        shapes = list(scene.shapes.values())
        assert len(set(shapes)) == len(shapes) > 0
        assert scenes.DIGITS[0] <= len(scene.digits) <= scenes.DIGITS[1]
        changed += scene.things != given[row].things
    assert changed == pytest.approx(mixing.MIXED * len(given), abs=6)


def test_every_number_of_shapes_is_asked_for_in_training():
    drawn = [scenes.scene("training", number) for number in range(400)]
    states = torch.zeros(len(drawn), 1, 17, 1)
    made, _ = mixing.mixed(drawn, states, np.random.default_rng(0))
    numbers = [sum(pair.endswith(each.counted) for pair in each.shapes.values()) for each in made]
    for number in range(scenes.MOST_COUNTED + 1):
        assert numbers.count(number) >= 0.08 * len(made)
