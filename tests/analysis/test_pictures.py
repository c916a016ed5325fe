from __future__ import annotations

import struct
import sys
import zlib

import pytest
import torch

from tokenprune_kernels.analysis import pictures

np = pytest.importorskip("numpy")
Image = pytest.importorskip("PIL.Image")

ROWS, COLUMNS = 4, 6


def colourful(width: int = COLUMNS * 14, height: int = ROWS * 14, seed: int = 0):
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


def patch_of(pixels, number: int, margin: int = 0):
    """The pixels of one patch without its outermost ones."""
    top, left = (number // COLUMNS) * 14, (number % COLUMNS) * 14
    return np.asarray(pixels).astype(int)[top + margin : top + 14 - margin, left + margin : left + 14 - margin]


def test_tokens_are_bfloat16_one_per_patch():
    tokens = pictures.patch_tokens(colourful())
    assert tokens.shape == (ROWS * COLUMNS, 1024)
    assert tokens.dtype == torch.bfloat16
    assert tokens.isfinite().all()


def test_same_picture_gives_same_tokens():
    tokens = pictures.patch_tokens(colourful())
    torch.manual_seed(1)  # the embedding must not depend on the global generator
    assert torch.equal(pictures.patch_tokens(colourful()), tokens)
    assert not torch.equal(pictures.patch_tokens(colourful(seed=1)), tokens)


def test_same_tokens_with_another_number_of_threads():
    tokens = pictures.patch_tokens(colourful())
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        assert torch.equal(pictures.patch_tokens(colourful()), tokens)
    finally:
        torch.set_num_threads(threads)


def test_tokens_are_a_seeded_linear_map_of_normalised_pixels():
    picture = colourful()
    number = COLUMNS + 2
    pixels = torch.from_numpy(patch_of(picture, number)).double().flatten()
    generator = torch.Generator().manual_seed(0)
    embedding = torch.randn(588, 1024, generator=generator, dtype=torch.float64) / 588**0.5
    expected = ((pixels / 255 - 0.5) / 0.25) @ embedding
    torch.testing.assert_close(pictures.patch_tokens(picture)[number].double(), expected, rtol=2**-8, atol=1e-12)


def test_equal_patches_give_equal_tokens():
    pixels = np.asarray(colourful()).copy()
    pixels[14:28, 28:42] = pixels[0:14, 0:14]
    tokens = pictures.patch_tokens(Image.fromarray(pixels))
    assert torch.equal(tokens[0], tokens[COLUMNS + 2])


@pytest.mark.parametrize(("wider", "higher"), [(0, 0), (1, 0), (0, 13), (13, 1)])
def test_what_exceeds_whole_patches_is_left_out(wider, higher):
    larger = colourful(COLUMNS * 14 + wider, ROWS * 14 + higher)
    cropped = larger.crop((0, 0, COLUMNS * 14, ROWS * 14))
    assert pictures.patch_grid(larger) == (ROWS, COLUMNS)
    assert torch.equal(pictures.patch_tokens(larger), pictures.patch_tokens(cropped))
    assert pictures.draw_kept(larger, torch.tensor([3])).size == cropped.size


@pytest.mark.parametrize(("width", "height"), [(13, 14), (14, 13), (1, 1), (200, 5)])
def test_picture_smaller_than_a_patch(width, height):
    small = colourful(width, height)
    for use in (
        pictures.patch_grid,
        pictures.patch_tokens,
        lambda picture: pictures.draw_kept(picture, torch.tensor([])),
    ):
        with pytest.raises(ValueError, match=f"expected at least 14 x 14 pixels, got {width} x {height}"):
            use(small)


def test_picture_of_one_patch():
    assert pictures.patch_tokens(colourful(14, 14)).shape == (1, 1024)


def test_kept_patches_are_as_they_were_and_dropped_ones_dim():
    picture = colourful()
    kept = [9, 0, 10, 23]
    drawing = pictures.draw_kept(picture, torch.tensor(kept))
    assert drawing.mode == "RGB"
    for number in range(ROWS * COLUMNS):
        if number in kept:
            assert (patch_of(drawing, number) == patch_of(picture, number)).all()
        else:
            inside = patch_of(drawing, number, margin=1)
            assert inside.max() < 128
            assert np.ptp(inside, axis=-1).max() < 24  # nearly grey
            assert np.ptp(inside) > 0  # still recognisable


@pytest.mark.parametrize("colour", [(0, 0, 0), (255, 255, 255), (40, 40, 48), (230, 40, 20)])
def test_kept_patch_stands_out_in_any_colour(colour):
    drawing = np.asarray(pictures.draw_kept(Image.new("RGB", (42, 42), colour), torch.tensor([4]))).astype(int)
    assert (drawing[14:28, 14:28] == colour).all()
    outline = drawing[13, 13:29]
    assert (outline == outline[0]).all()
    assert abs(outline[0] - drawing[5, 5]).min() > 100


def test_nothing_and_everything_kept():
    picture = colourful()
    everything = pictures.draw_kept(picture, torch.arange(ROWS * COLUMNS))
    assert (np.asarray(everything) == np.asarray(picture)).all()
    nothing = pictures.draw_kept(picture, torch.empty(0, dtype=torch.int64))
    assert np.asarray(nothing).max() < 128


@pytest.mark.parametrize("number", [-1, ROWS * COLUMNS])
def test_patch_number_outside_the_picture(number):
    with pytest.raises(ValueError, match=rf"expected patch numbers in \[0, 24\), got {number}"):
        pictures.draw_kept(colourful(), torch.tensor([0, number]))


@pytest.mark.parametrize("mode", ["1", "L", "P", "RGBA", "CMYK"])
def test_any_mode_opens_as_rgb(tmp_path, mode):
    path = tmp_path / "picture.tiff"
    colourful().convert(mode).save(path)
    picture = pictures.open_picture(path)
    assert (picture.mode, picture.size) == ("RGB", (COLUMNS * 14, ROWS * 14))


def test_picture_is_opened_upright(tmp_path):
    path = tmp_path / "picture.png"
    orientation = Image.Exif()
    orientation[0x0112] = 6  # to be turned by a quarter
    colourful().save(path, exif=orientation)
    assert pictures.open_picture(path).size == (ROWS * 14, COLUMNS * 14)


def missing(path):
    pass


def directory(path):
    path.mkdir()


def text(path):
    path.write_text("not a picture\n")


def empty(path):
    path.touch()


def truncated(path):
    colourful().save(path)
    path.write_bytes(path.read_bytes()[:2000])


def sixteen_bits(path):
    Image.fromarray(np.full((28, 28), 1000, dtype=np.uint16)).save(path)


@pytest.mark.parametrize("make", [missing, directory, text, empty, truncated, sixteen_bits])
def test_unreadable_picture(tmp_path, make):
    path = tmp_path / "picture.png"
    make(path)
    with pytest.raises(ValueError, match=r"expected a readable picture file, got '.*picture\.png' \(.+\)$") as raised:
        pictures.open_picture(path)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("name", "rule"),
    [
        ("missing/kept.png", "a path that can be written"),
        ("kept.unknown", "a path that ends like a picture file"),
        ("kept.psd", "a path that ends like a picture file"),  # Pillow reads it only
        ("kept", "a path that ends like a picture file"),
    ],
)
def test_unwritable_picture(tmp_path, name, rule):
    path = tmp_path / name
    with pytest.raises(ValueError, match=f"expected {rule}.*, got '.*{name}'") as raised:
        pictures.save_picture(colourful(), path)
    assert "\n" not in str(raised.value)
    assert not path.exists()


def test_missing_package_is_named(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "PIL.Image", None)
    with pytest.raises(ImportError, match=r"expected numpy and Pillow .*tokenprune_kernels\[demo\]"):
        pictures.open_picture(tmp_path / "picture.png")


@pytest.mark.parametrize("mode", [2, 6], ids=["RGB", "RGBA"])
def test_sixteen_bits_per_channel_are_refused(tmp_path, mode):
    """Pillow reads such a PNG as 8 bits, and writes none, so it is made by hand."""

    def chunk(name, data):
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    channels = {2: 3, 6: 4}[mode]
    header = struct.pack(">IIBBBBB", 14, 14, 16, mode, 0, 0, 0)
    rows = b"".join(b"\0" + bytes(14 * channels * 2) for _ in range(14))
    path = tmp_path / "deep.png"
    path.write_bytes(
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    )
    with pytest.raises(ValueError, match="more than 8 bits per channel"):
        pictures.open_picture(path)


def test_blocks_of_rows_make_the_same_tokens_and_drawing(monkeypatch):
    generator = np.random.default_rng(1)
    picture = Image.fromarray(generator.integers(0, 256, (7 * 14 + 5, 3 * 14, 3), dtype=np.uint8))
    tokens, kept = pictures.patch_tokens(picture), torch.tensor([0, 4, 11])
    drawn = np.asarray(pictures.draw_kept(picture, kept))
    monkeypatch.setattr(pictures, "_BLOCK_PATCHES", 6)
    monkeypatch.setattr(pictures, "_BLOCK_LINES", 9)
    assert torch.equal(pictures.patch_tokens(picture), tokens)
    assert (np.asarray(pictures.draw_kept(picture, kept)) == drawn).all()
