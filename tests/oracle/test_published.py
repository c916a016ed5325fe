"""Where the published loops depart from the contract, and that they follow it where they do not."""

import pytest
import torch
import torch.nn.functional as F

import python_ref
import tokenprune_kernels
from python_ref import published
from tests.support.inputs import gaussian_tokens, generator, random_weight
from tokenprune_kernels.verify import verify_trace


def tokens_with_a_common_part(count, depth, seed):
    """Every token shares a component with all others, as the features of a vision model do."""
    return gaussian_tokens(count, depth, seed=seed) + 3 * gaussian_tokens(depth, seed=seed + 1)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("loop", [published.published_divprune, published.running_minimum_divprune])
def test_divprune_loops_follow_the_contract_on_decisive_inputs(loop, dtype):
    decisive = 0
    for seed in range(20):
        x = tokens_with_a_common_part(60, 16, seed).to(dtype)
        picks = loop(x, 20)
        verdict = verify_trace("divprune", x, picks)
        assert verdict
        assert not verdict.decisive or torch.equal(picks, python_ref.divprune(x, 20)[0])
        decisive += verdict.decisive
    assert decisive >= 5


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_published_divprune_repeats_itself_on_duplicates(dtype):
    distinct = torch.randint(2, (40, 64), generator=generator(0)) * 2 - 1
    members = torch.cat([torch.arange(40), torch.randint(40, (536,), generator=generator(1))])
    x = distinct[members].to(dtype)
    picks = published.published_divprune(x, 144)
    assert len(picks.unique()) == 40
    # All distinct rows come first; from then on every distance is 0, and the lowest index wins again and again.
    assert len(members[picks[:40]].unique()) == 40
    assert (picks[40:] == 0).all()
    verdict = verify_trace("divprune", x, picks)
    assert (verdict.step, verdict.reason) == (40, "index 0 is repeated")

    kept, _ = python_ref.divprune(x, 144)
    assert len(kept.unique()) == 144
    assert len(members[kept[:40]].unique()) == 40


def test_published_divprune_is_lost_on_a_zero_row():
    x = gaussian_tokens(20, 8)
    x[7] = 0.0
    # Its similarities are 0/0: it is taken for the best row, and hides what every other row is worth.
    assert published.published_divprune(x, 6).tolist() == [7, 0, 0, 0, 0, 0]
    guarded = published.running_minimum_divprune(x, 6)
    assert torch.equal(guarded, python_ref.divprune(x, 6)[0])
    # At distance 1 from everything, the contract has it first here on its merits.
    assert guarded[0] == 7


def test_one_nan_decides_every_pick_of_the_divprune_loops():
    x = gaussian_tokens(20, 8)
    x[7, 3] = torch.nan
    assert published.published_divprune(x, 5).tolist() == [7, 0, 0, 0, 0]
    assert published.running_minimum_divprune(x, 5).tolist() == [0, 7, 1, 2, 3]
    others = [row for row in range(20) if row != 7]
    alone, _ = python_ref.divprune(x[others], 5)
    assert python_ref.divprune(x, 5)[0].tolist() == [others[row] for row in alone.tolist()]


def test_published_divprune_cannot_keep_a_single_row():
    with pytest.raises(RuntimeError, match="out of range"):
        published.published_divprune(torch.ones(1, 4), 1)
    assert python_ref.divprune(torch.ones(1, 4), 1)[0].tolist() == [0]


@pytest.mark.parametrize(
    ("keep_ratio", "count", "kept"),
    [(0.1, 5, 0), (0.1, 15, 2), (0.5, 5, 2), (0.5, 7, 4), (0.098, 576, 56), (0.001, 400, 0), (1.0, 9, 9)],
)
def test_published_count_rounds_half_to_even_and_may_keep_nothing(keep_ratio, count, kept):
    assert published.published_count(keep_ratio, count) == kept
    tokens = torch.empty(count, 4, device="meta")
    assert tokenprune_kernels.divprune(tokens, keep_ratio=keep_ratio).shape == (max(1, kept),)


def share_of_tied_steps(x, picks):
    """How often two unselected rows had the best distance exactly, in the dtype of x."""
    unit = F.normalize(x, dim=1)
    nearest = (1.0 - unit @ unit.mT)[picks].cummin(dim=0).values
    tied = 0
    for step in range(1, len(picks)):
        scores = nearest[step - 1].index_fill(0, picks[:step], -torch.inf)
        tied += int((scores == scores.max()).sum() > 1)
    return tied / (len(picks) - 1)


@pytest.mark.parametrize("seed", range(3))
def test_running_minimum_in_bfloat16_chooses_among_exact_ties(seed):
    x = tokens_with_a_common_part(576, 256, seed).bfloat16()
    picks = published.running_minimum_divprune(x, 58)
    exact = published.running_minimum_divprune(x.float(), 58)
    assert verify_trace("divprune", x, exact)
    assert not verify_trace("divprune", x, picks)
    # Over twelve seeds 86 to 93 % of the steps were tied, and 43 to 64 % of the tokens kept were the right ones.
    assert share_of_tied_steps(x, picks) > 0.6
    assert share_of_tied_steps(x.float(), exact) == 0.0
    kept = python_ref.divprune(x, 58)[0]
    assert torch.isin(picks, kept).float().mean() < 0.8


@pytest.mark.parametrize("lam", [0.2, 0.5, 0.9])
def test_idpruner_loop_follows_the_contract_on_decisive_inputs(lam):
    decisive = 0
    for seed in range(20):
        x, importance = gaussian_tokens(60, 16, seed=seed), random_weight(60, seed=seed + 1)
        picks = published.published_idpruner(x, importance, 20, lam)
        verdict = verify_trace("idpruner", x, picks, importance, lam)
        assert verdict
        assert not verdict.decisive or torch.equal(picks, python_ref.idpruner(x, importance, 20, lam)[0])
        decisive += verdict.decisive
    assert decisive >= 5


def test_idpruner_loop_forgets_everything_at_one_nan_of_importance():
    x, importance = gaussian_tokens(30, 8), random_weight(30)
    other_x, other_importance = gaussian_tokens(30, 8, seed=5), random_weight(30, seed=6)
    importance[11] = other_importance[23] = torch.nan
    picks = published.published_idpruner(x, importance, 10)
    assert torch.equal(picks, published.published_idpruner(other_x, other_importance, 10))
    kept, other_kept = (python_ref.idpruner(*given, 10)[0] for given in ((x, importance), (other_x, other_importance)))
    assert not torch.equal(kept, other_kept)
    assert 11 not in kept
    assert 23 not in other_kept


def test_idpruner_loop_prefers_a_nan_token():
    x, importance = gaussian_tokens(30, 8), torch.linspace(1, 0, 30)
    x[29, 0] = torch.nan
    # The least important token, picked as soon as similarities count.
    assert published.published_idpruner(x, importance, 2).tolist() == [0, 29]
    assert 29 not in python_ref.idpruner(x, importance, 29)[0]


def test_idpruner_loop_breaks_ties_as_topk_happens_to():
    first = [int(published.published_idpruner(torch.eye(count), torch.ones(count), 1)) for count in range(2, 40)]
    assert any(first)
    assert all(python_ref.idpruner(torch.eye(count), torch.ones(count), 1)[0] == 0 for count in range(2, 40))


def test_idpruner_loop_scales_importance_in_its_own_dtype():
    x, importance = torch.eye(100), torch.full((100,), 0.99609375, dtype=torch.bfloat16)
    # Less the minimum, 1 and the value before it are one bfloat16 number.
    importance[0], importance[99] = -1.0, 1.0
    assert verify_trace("idpruner", x, published.published_idpruner(x, importance, 1), importance).step == 0
    assert published.published_idpruner(x, importance.float(), 1) == 99
    assert python_ref.idpruner(x, importance, 1)[0] == 99


def test_idpruner_loop_takes_an_overflowing_range_for_nan():
    x, importance = torch.eye(5), torch.tensor([0.0, -3e38, -1e38, 3e38, 0.0])
    assert published.published_idpruner(x, importance, 1) == 3
    assert python_ref.idpruner(x, importance, 5)[0].tolist() == [0, 1, 2, 3, 4]


def test_idpruner_loop_shrinks_small_tokens():
    x, importance = gaussian_tokens(20, 8), random_weight(20)
    x[3] *= 1e-9
    verdict = verify_trace("idpruner", x, published.published_idpruner(x, importance, 20), importance)
    assert not verdict
    # A norm far below 1e-8 makes a token look unlike everything, and come too early.
    assert verdict.reason.startswith("row 3 is picked")
    assert verdict.shortfall > 0.1


def test_the_dpp_loop_follows_the_contract_while_there_are_gains():
    for seed in range(5):
        x, relevance = gaussian_tokens(60, 32, seed=seed), random_weight(60, seed=seed) + 0.1
        picks = published.cholesky_dpp(x, relevance, 20)
        assert verify_trace("dpp", x, picks, relevance)
        assert torch.equal(picks, tokenprune_kernels.dpp(x, relevance, 20))


def test_the_dpp_loop_is_lost_once_rounding_makes_a_gain_negative():
    x, relevance = gaussian_tokens(60, 8), torch.ones(60)
    assert not verify_trace("dpp", x, published.cholesky_dpp(x, relevance, 30), relevance)
    assert verify_trace("dpp", x, tokenprune_kernels.dpp(x, relevance, 30), relevance)
