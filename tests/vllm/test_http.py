"""The HTTP server with the option, and requests with options of their own."""

import base64
import contextlib
import importlib.util
import io
import os
import re
import socket
import subprocess
import sys
import time

import pytest

pytest.importorskip("vllm")

import requests

from tests.vllm.media import Request, image
from tests.vllm.oracle import NEW_TOKENS, expected
from tests.vllm.tiny import saved

SERVER = ("uvicorn", "prometheus_fastapi_instrumentator", "watchfiles", "model_hosting_container_standards")
MISSING = [name for name in SERVER if importlib.util.find_spec(name) is None]
pytestmark = [pytest.mark.vllm, pytest.mark.slow, pytest.mark.skipif(bool(MISSING), reason=f"needs {MISSING}")]
LONGEST = 400  # seconds, to start or to answer on a machine that other work keeps busy
# Makes the prompts of `tests.vllm.media.text`.
TEMPLATE = """<s>{% for part in messages[0].content %} {% if part.type == "text" %}{{ part.text }}\
{% else %}<image>{% endif %}{% endfor %}"""


@contextlib.contextmanager
def serving(path, log, *options):
    """The address of a server of a checkpoint."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    template = log.with_suffix(".jinja")
    template.write_text(TEMPLATE)
    # The same server as that of `vllm serve`, which asks for the version of a distribution by the name of vllm.
    command = [sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--model", str(path), "--port", str(port)]
    command += ["--host", "127.0.0.1", "--dtype", "float32", "--max-model-len", "512", "--enforce-eager"]
    command += ["--chat-template", str(template), "--chat-template-content-format", "openai", *options]
    environment = os.environ | {"VLLM_LOGGING_LEVEL": "DEBUG", "VLLM_ENABLE_V1_MULTIPROCESSING": "1"}
    address = f"http://127.0.0.1:{port}"
    with log.open("w") as output:
        server = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT, env=environment)
        try:
            wait(server, address, log)
            yield address
        finally:
            server.terminate()
            try:
                server.wait(30)
            except subprocess.TimeoutExpired:
                server.kill()


def wait(server, address, log):
    end = time.monotonic() + LONGEST
    while time.monotonic() < end and server.poll() is None:
        with contextlib.suppress(requests.ConnectionError, requests.Timeout):
            if requests.get(f"{address}/health", timeout=10).ok:
                return
        time.sleep(0.5)
    pytest.fail(f"expected a server, got:\n{log.read_text()[-3000:]}")


def asked(address, request, tokenprune=None):
    """The answer to a chat of one turn."""
    content = []
    for part in request.parts:
        if part[0] == "I":
            file = io.BytesIO()
            image(int(part[1:])).save(file, "PNG")
            url = "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()
            content.append({"type": "image_url", "image_url": {"url": url}})
        else:
            content.append({"type": "text", "text": part})
    chat = {"messages": [{"role": "user", "content": content}], "max_tokens": NEW_TOKENS, "temperature": 0}
    chat |= {"ignore_eos": True, "return_token_ids": True, "add_special_tokens": False}
    if tokenprune is not None:
        chat["mm_processor_kwargs"] = {"tokenprune": tokenprune}
    return requests.post(f"{address}/v1/chat/completions", json=chat, timeout=LONGEST)


def test_requests_over_http(checkpoints, tmp_path):
    path = saved("llava", checkpoints)
    log = tmp_path / "server.log"
    engine = {"method": "divprune", "keep_ratio": 0.25}
    option = '{"tokenprune": {"method": "divprune", "keep_ratio": 0.25}}'
    request = Request(("a", "I1", "and", "I2", "?"))
    with serving(path, log, "--mm-processor-kwargs", option, "--trust-request-mm-kwargs") as address:
        prompt_tokens = 0
        for own, arguments in ((None, engine), ({"k": 3}, {"k": 3}), (False, None), (None, engine)):
            answer = asked(address, request, own).json()
            oracle = expected("llava", path, request, arguments)
            assert answer["usage"]["prompt_tokens"] == oracle.length
            assert answer["choices"][0]["token_ids"] == oracle.tokens
            prompt_tokens += oracle.length
        for wrong, message in (
            ({"keep_ratio": 2}, r"tokenprune: expected keep_ratio to be in \(0, 1\], got 2"),
            ({"ratio": 0.5}, "tokenprune: expected options among .*, got 'ratio'"),
            ({"method": "mmr", "relevance": "text"}, "encodes an image once for all prompts"),
        ):
            answer = asked(address, request, wrong)
            assert answer.status_code == 400
            assert re.search(message, answer.json()["error"]["message"])
        prompt_tokens += asked(address, request).json()["usage"]["prompt_tokens"]
        metrics = requests.get(f"{address}/metrics", timeout=LONGEST).text
    assert re.search(rf"^vllm:prompt_tokens_total\{{.*\}} {prompt_tokens}\.0$", metrics, re.MULTILINE)
    kept = {
        name: float(number)
        for name, number in re.findall(r'^(tokenprune\w*_total)\{modality="image"\} (\S+)$', metrics, re.MULTILINE)
    }
    # Two images by three kinds of options; then the processor cache has them.
    assert kept == {"tokenprune_tokens_total": 2 * 3 * 144, "tokenprune_kept_tokens_total": 2 * (36 + 3 + 144)}
    lines = log.read_text()
    assert re.search(r"DEBUG .*image keeps 36 of 144 tokens by divprune", lines)
    assert re.search(r"DEBUG .*6 of 288 tokens of 2 images and videos selected in [0-9.]+ ms", lines)
