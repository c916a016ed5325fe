"""Samples of pictures, of saved features and of vision towers."""

import re

import pytest
import torch

from tests.support.inputs import gaussian_tokens, random_weight
from tokenprune_kernels import analysis, importance
from tokenprune_kernels.analysis import pictures

np = pytest.importorskip("numpy")
safetensors = pytest.importorskip("safetensors.torch")

ROWS, COLUMNS = 6, 8


def saved(tmp_path, **tensors):
    path = tmp_path / "features.safetensors"
    safetensors.save_file({name: tensor.clone() for name, tensor in tensors.items()}, path)
    return str(path)


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


def test_values_whose_norm_overflows_are_refused_where_they_are_read(tmp_path):
    path = saved(tmp_path, features=gaussian_tokens(9, 4) * 1e20)
    with pytest.raises(ValueError, match=r"^features: expected values whose norms are finite in float32"):
        analysis.from_features(path)
