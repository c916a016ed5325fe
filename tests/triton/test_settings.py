"""The settings of the Triton backend, and what a warm-up is given."""

import threading

import pytest

import tokenprune_kernels
from tokenprune_kernels.backends import triton as backend_package
from tokenprune_kernels.backends.triton import configs

pytest.importorskip("triton", reason="the Triton backend needs triton")

from tokenprune_kernels.backends.triton import runtime


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"shapes": [(0, 8)]}, r"shapes: expected N and D of at least 1, got \(0, 8\)"),
        ({"shapes": [(8, 0)]}, r"shapes: expected N and D of at least 1, got \(8, 0\)"),
        ({"shapes": [(8, 8)], "methods": ["topk"]}, "methods: expected divprune, mmr, idpruner or dpp, got 'topk'"),
    ],
)
def test_a_mistaken_warmup_is_an_error(options, message):
    with pytest.raises(ValueError, match=f"^warmup: {message}$"):
        tokenprune_kernels.warmup(device="cpu", **options)


@pytest.fixture
def process_settings(monkeypatch):
    """Settings of the process that end with the test."""
    monkeypatch.setattr(runtime, "_default", runtime.Settings(workspace_limit=2**30))


def in_a_thread(function):
    results = []
    thread = threading.Thread(target=lambda: results.append(function()))
    thread.start()
    thread.join()
    return results[0]


def test_the_workspace_limit_is_set_and_told(process_settings):
    assert backend_package.set_workspace_limit(2**20) == 2**30
    assert runtime.current().workspace_limit == 2**20
    for size, error, message in (
        (0, ValueError, "expected size to be at least 1, got 0"),
        (1.5, TypeError, "expected size to be an int, got float"),
        (True, TypeError, "expected size to be an int, got bool"),
    ):
        with pytest.raises(error, match=f"^set_workspace_limit: {message}$"):
            backend_package.set_workspace_limit(size)
    assert runtime.current().workspace_limit == 2**20


def test_the_workspace_limit_holds_in_every_thread(process_settings):
    in_a_thread(lambda: backend_package.set_workspace_limit(7))
    assert runtime.current().workspace_limit == 7
    assert in_a_thread(runtime.current).workspace_limit == 7


def test_settings_hold_in_one_context_and_for_the_named_fields(process_settings):
    with runtime.settings(form="lazy_greedy", workspace_limit=5):
        with runtime.settings(max_candidates=3):
            assert runtime.current() == runtime.Settings(5, "lazy_greedy", 3)
            assert in_a_thread(runtime.current) == runtime.Settings(2**30)
        assert runtime.current() == runtime.Settings(5, "lazy_greedy")
    with runtime.settings(form="materialised"):
        backend_package.set_workspace_limit(9)
        assert runtime.current() == runtime.Settings(9, "materialised")
    assert runtime.current() == runtime.Settings(9)


def test_a_mistaken_setting_is_an_error():
    message = "^Settings: form: expected one of materialised, lazy_greedy, dpp, got 'candidates'$"
    with pytest.raises(ValueError, match=message), runtime.settings(form="candidates"):
        pass
    with pytest.raises(TypeError, match="most_candidates"), runtime.settings(most_candidates=3):
        pass
    assert runtime.current().form is None


def test_the_workspace_limit_comes_from_the_environment():
    assert configs.workspace_limit({}) == 2**30
    assert configs.workspace_limit({"TOKENPRUNE_WORKSPACE_LIMIT": ""}) == 2**30
    assert configs.workspace_limit({"TOKENPRUNE_WORKSPACE_LIMIT": "1000"}) == 1_000
    for text in ("0", "-5", "1e9", "1 GiB"):
        with pytest.raises(ValueError, match=f"^TOKENPRUNE_WORKSPACE_LIMIT: expected a number of bytes.*got '{text}'"):
            configs.workspace_limit({"TOKENPRUNE_WORKSPACE_LIMIT": text})
