"""What a model does with the rows of its encoder, without vLLM."""

from types import SimpleNamespace

import pytest
import torch

import python_ref
from tests.support.inputs import oracle
from tokenprune_kernels.importance import VisionSelectorScorer, norm
from tokenprune_kernels.integrations.vllm.digits import decoded, encoded
from tokenprune_kernels.integrations.vllm.item import FIELD, Item, popped_items
from tokenprune_kernels.integrations.vllm.options import Options
from tokenprune_kernels.integrations.vllm.remembered import RememberedRows
from tokenprune_kernels.integrations.vllm.selection import RowSelection


def item(number=0, counts=(12,), kept=(4,), method="divprune", weight=None, lam=None):
    return Item(bytes([number]) * 16, method, weight, lam, counts, kept)


def tokens(rows=12, seed=0):
    return torch.randn(rows, 16, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize(
    "given",
    [
        item(255),
        item(128, (16, 16, 4), (3, 3, 1), "idpruner", "cls_attention", 0.3),
        item(1, method="mmr", weight="norm", lam=0.0),
    ],
)
def test_an_item_travels_as_integers(given):
    assert Item.unpacked(given.packed().tolist()) == given


@pytest.mark.parametrize("stack", [torch.stack, list])
def test_items_are_taken_out_of_the_arguments(stack):
    items = [item(1), item(2)]
    kwargs = {"pixel_values": 0, FIELD.format("video"): stack([each.packed() for each in items])}
    assert popped_items(kwargs, ("image", "video")) == items
    assert kwargs == {"pixel_values": 0}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_numbers_are_exact_in_every_dtype(dtype):
    numbers = torch.tensor([[0, 255, 256], [257, 65_535, 16_777_215]])
    assert torch.equal(decoded(encoded(numbers, dtype)), numbers)


def test_rows_are_those_of_the_oracle_and_ascend():
    given = [item(1), item(2, (9,), (9,)), item(3, (7, 5), (2, 3))]
    x = [tokens(12, 1), tokens(9, 2), tokens(12, 3)]
    rows = RowSelection(Options(), 16)(given, x, [])
    first, second = (python_ref.divprune(part, k)[0] for part, k in zip(x[2].split([7, 5]), (2, 3), strict=True))
    assert rows[0].tolist() == sorted(python_ref.divprune(x[0], 4)[0].tolist())
    assert rows[1].tolist() == list(range(9))
    assert rows[2].tolist() == sorted([*first.tolist(), *(second + 7).tolist()])


def test_methods_may_differ_among_the_items_of_a_step():
    x = [tokens(12, seed) for seed in range(3)]
    attention = [torch.rand(12, generator=torch.Generator().manual_seed(seed)) for seed in range(3)]
    given = [
        item(0, method="mmr", weight="norm", lam=0.2),
        item(1, method="idpruner", weight="cls_attention"),
        item(2),
    ]
    rows = RowSelection(Options(), 16)(given, x, attention)
    weights = [norm(x[0]), attention[1], None]
    for number, (each, lam) in enumerate(zip(given, (0.2, 0.5, 0.5), strict=True)):
        expected = oracle(each.method, x[number], weights[number], 4, lam)[0]
        assert rows[number].tolist() == sorted(expected.tolist())


def test_the_scorer_is_that_of_the_options(tmp_path):
    from safetensors.torch import save_file

    torch.manual_seed(0)
    scorer = VisionSelectorScorer(16, 8)
    save_file({f"head.{name}": value for name, value in scorer.state_dict().items()}, tmp_path / "model.safetensors")
    options = Options(scorer={"scorer": str(tmp_path), "scorer_prefix": "head."})
    given = item(1, method="idpruner", weight="vision_selector", lam=0.5)
    (rows,) = RowSelection(options, 16)([given], [tokens()], [])
    expected = python_ref.idpruner(tokens(), scorer(tokens()).detach(), 4, 0.5)[0]
    assert rows.tolist() == sorted(expected.tolist())


def test_a_scorer_of_another_width_is_refused(tmp_path):
    from safetensors.torch import save_file

    save_file(VisionSelectorScorer(24, 8).state_dict(), tmp_path / "model.safetensors")
    with pytest.raises(
        ValueError, match="expected scorer to have weights for tokens with 16 features, got those for 24 "
    ):
        RowSelection(Options(scorer={"scorer": str(tmp_path)}), 16)


def test_an_item_that_is_encoded_again_keeps_the_same_rows():
    select = RowSelection(Options(), 16)
    (rows,) = select([item(1)], [tokens(seed=1)], [])
    again, other = select([item(1), item(2)], [tokens(seed=2), tokens(seed=2)], [])
    assert torch.equal(again, rows)
    assert not torch.equal(other, rows)
    more, *_ = select([item(1, kept=(5,))], [tokens(seed=2)], [])
    assert len(more) == 5


def test_other_weights_select_anew():
    select = RowSelection(Options(), 16)
    (rows,) = select([item(1)], [tokens(seed=1)], [])
    select.forget()
    (again,) = select([item(1)], [tokens(seed=2)], [])
    assert not torch.equal(again, rows)


def test_an_item_that_is_twice_in_a_step_keeps_the_same_rows():
    first, second = RowSelection(Options(), 16)([item(1), item(1)], [tokens(seed=1), tokens(seed=2)], [])
    assert torch.equal(first, second)


def test_the_first_rank_selects_for_all():
    class Group:
        world_size = 2

        def broadcast(self, indices, src):
            assert src == 0
            return torch.tensor([11, 2, 5, 7])

    (rows,) = RowSelection(Options(), 16, Group())([item(1)], [tokens()], [])
    assert rows.tolist() == [2, 5, 7, 11]
    (rows,) = RowSelection(Options(), 16, SimpleNamespace(world_size=1))([item(1)], [tokens()], [])
    assert rows.tolist() == sorted(python_ref.divprune(tokens(), 4)[0].tolist())


def test_what_was_not_asked_for_longest_is_forgotten():
    remembered = RememberedRows(capacity=2 * (4 + 128))
    for number in range(3):
        assert remembered.get(item(number)) is None
        if number == 2:
            assert remembered.get(item(0)) is not None
        remembered.add(item(number), torch.arange(4))
    assert [remembered.get(item(number)) is None for number in range(3)] == [False, True, False]
