"""Attention implementations and compilation: pruned inputs give each what it needs, and all agree."""

import pytest
import torch
import torch.nn.functional as F

from tests.support.vision_language import NO_TEXT, batch, model_of, transformers
from tokenprune_kernels.integrations.transformers import enable_pruning

CASES = [("llava", "contiguous"), ("llava", "original"), ("llava_next", "original"), ("qwen3_vl", "original")]
ROWS = [("ttItitt",), ("ttItt", "tttt")]


def unpadding(module, query, key, value, attention_mask, position_ids=None, **_):
    """Attention that reads its inputs as FlashAttention's binding does: a 2-D mask or none, and packed sequences where
    the positions of a single row do not rise one by one."""
    from transformers.modeling_flash_attention_utils import _is_packed_sequence

    if attention_mask is None:
        assert not _is_packed_sequence(position_ids, query.shape[0])
        attention_mask = torch.ones(key.shape[0], key.shape[2], dtype=torch.bool)
    assert attention_mask.dim() == 2
    length, total = query.shape[2], key.shape[2]
    causal = torch.ones(length, total, dtype=torch.bool).tril(total - length)
    mask = causal & attention_mask[:, None, None].bool()
    groups = query.shape[1] // key.shape[1]
    key, value = key.repeat_interleave(groups, dim=1), value.repeat_interleave(groups, dim=1)
    mask = mask | ~mask.any(-1, keepdim=True)  # a padded query attends to anything
    return F.scaled_dot_product_attention(query, key, value, attn_mask=mask).transpose(1, 2), None


@pytest.fixture
def language_model_with():
    """Gives the language model of a model another attention implementation, until the test ends."""
    changed = []

    def change(model, implementation):
        language_model = model.model.language_model
        changed.append((language_model, language_model.config._attn_implementation))
        language_model.set_attn_implementation(implementation)

    yield change
    for language_model, implementation in changed:
        language_model.set_attn_implementation(implementation)


@pytest.mark.parametrize("rows", ROWS, ids=["one", "two"])
@pytest.mark.parametrize("implementation", ["eager", "unpadding"])
@pytest.mark.parametrize(("family", "positions"), CASES)
@torch.no_grad()
def test_attention_implementations_agree(language_model_with, family, positions, implementation, rows):
    from transformers.masking_utils import flash_attention_mask

    transformers.AttentionInterface.register("unpadding", unpadding)
    transformers.AttentionMaskInterface.register("unpadding", flash_attention_mask)
    model, inputs = model_of(family), batch(family, *rows)
    greedy = {"max_new_tokens": 3, "do_sample": False, "suppress_tokens": NO_TEXT}
    with enable_pruning(model, keep_ratio=0.3, positions=positions):
        kept = model(**inputs, use_cache=False).logits
        expected = [kept[:, -1:], model.generate(**inputs, **greedy)]
        language_model_with(model, implementation)
        torch.testing.assert_close(model(**inputs, use_cache=False).logits[:, -1:], expected[0], atol=2e-5, rtol=1e-4)
        assert torch.equal(model.generate(**inputs, **greedy), expected[1])


@pytest.mark.parametrize("family", ["llava", pytest.param("qwen3_vl", marks=pytest.mark.slow)])
@torch.no_grad()
def test_a_compiled_language_model_gives_the_same(family):
    model = model_of(family)
    rows = ("ttItt", "tttt") if family == "llava" else ("ttItt", "tVtt")
    with enable_pruning(model, keep_ratio=0.3):
        expected = model(**batch(family, *rows)).logits
        whole = model.model.language_model
        model.model.language_model = torch.compile(whole, backend="eager")
        try:
            torch.testing.assert_close(model(**batch(family, *rows)).logits, expected)
        finally:
            model.model.language_model = whole
