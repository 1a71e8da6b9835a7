"""`pellucid serve`: live maps equal those of the library; requests from elsewhere or of another form are refused."""

import io
import json
import os
import re
import signal
import socket
import struct
import subprocess
import sys
import threading
import zlib
from base64 import b64decode, b64encode
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import fields
from http.client import HTTPConnection
from http.server import ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import pellucid
from pellucid.attribution import METHODS, create_analyzer
from pellucid.cli import main
from pellucid.config import ServeConfig
from pellucid.core.errors import ConfigError, DataError, SaveError, ShapeError, UnknownName
from pellucid.hooks._methods import fit_to_sample
from pellucid.run import serving_http, serving_maps
from pellucid.run.serving import ServedPage, load_live_run
from pellucid.run.serving_http import LiveServer
from pellucid.run.serving_maps import Canceled, Job, LiveRun, TimeUp
from pellucid.run.serving_request import MOST_OF, options_of, picture_floats, pixel_floats, read_request
from pellucid.storage.runs import load_data_of

RUN = (
    "--dataset digits --epochs 1 --limit-train 300 --limit-test 40 --batch-size 32 --threads 1 --hooks confusion_matrix"
)


@pytest.fixture(scope="module")
def save(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("served") / "save"
    assert main(["run", *RUN.split(), "--model", "small_cnn", "--save", str(folder)]) == 0
    return folder


@pytest.fixture(scope="module")
def live(save: Path) -> LiveRun:
    return load_live_run(ServeConfig(save))


@contextmanager
def running(live: LiveRun, folder: Path, port: int | None = 0) -> Iterator[LiveServer]:
    """Serve in a thread, by default on any free port."""
    with LiveServer(live, ServedPage(folder, live), port) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@pytest.fixture
def server(live: LiveRun, save: Path) -> Iterator[LiveServer]:
    with running(live, save) as server:
        yield server


def request(server: LiveServer, method: str, path: str, body: bytes | None = None, **headers: str) -> tuple[int, bytes]:
    connection = HTTPConnection("127.0.0.1", server.server_port, timeout=60)
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    connection.request(method, path, body, named)
    answer = connection.getresponse()
    content = answer.read()
    connection.close()
    return answer.status, content


def ask(server: LiveServer, **entries: Any) -> tuple[int, Any]:
    """Ask for a map."""
    body = json.dumps(entries).encode()
    status, content = request(server, "POST", "/api/map", body, Content_Type="application/json")
    return status, json.loads(content)


def values_of(answer: Any) -> np.ndarray:
    return np.frombuffer(b64decode(answer["values"]), "<f4").reshape(answer["size"])


def png(pixels: np.ndarray) -> str:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return b64encode(file.getvalue()).decode()


# --- values -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "method", ["gradient", "lrp.epsilon", "integrated_gradients", "grad_cam", "pattern.net", "random"]
)
def test_maps_equal_those_of_the_library(server: LiveServer, save: Path, method: str) -> None:
    status, answer = ask(server, method=method, index=7, **{"class": 3})
    assert status == 200, answer
    trained = pellucid.load_run(save)
    data = load_data_of(save, trained)
    analyzer = fit_to_sample(create_analyzer(method, trained.model), data.train)
    image = data.test.floats([7])
    explanation = analyzer.explain(image, 3)
    np.testing.assert_allclose(values_of(answer), explanation.relevance[0].sum(0), rtol=0, atol=1e-6)
    with torch.no_grad():
        logits = trained.model(image)[0]
    assert answer["logit"] == pytest.approx(float(logits[3]), abs=1e-5)
    assert answer["probabilities"] == pytest.approx(logits.double().softmax(0).tolist(), abs=1e-6)
    assert answer["image"]["prediction"] == int(logits.argmax())
    assert answer["image"]["label"] == int(data.test.labels[7])
    assert answer["class"] == 3
    assert answer["verdict"] == explanation.verdict(0)
    if explanation.residual is None:
        assert answer["sums"] is None
    else:
        assert answer["sums"]["residual"] == pytest.approx(float(explanation.residual[0]), abs=1e-6)
        assert answer["sums"]["holds"] is True
        assert answer["sums"]["total"] == pytest.approx(float(explanation.relevance.sum()), abs=1e-4)


def test_the_predicted_class_is_explained_by_default(server: LiveServer) -> None:
    _, answer = ask(server, method="gradient", index=0)
    assert answer["class"] == answer["image"]["prediction"]


def test_options_change_the_map_as_in_the_library(server: LiveServer, live: LiveRun) -> None:
    assert live.data is not None
    options = {"samples": 5, "noise_share": 0.3, "seed": 4}
    _, answer = ask(server, method="smoothgrad", index=2, options=options, **{"class": "8"})
    expected = create_analyzer("smoothgrad", live.run.model, **options).analyze(live.data.test.floats([2]), 8)
    np.testing.assert_allclose(values_of(answer), expected[0].sum(0), rtol=0, atol=1e-6)


def test_an_uploaded_picture_and_raw_pixels_equal_the_test_image(server: LiveServer, live: LiveRun) -> None:
    assert live.data is not None
    pixels = live.data.test.pixels[4]
    _, first = ask(server, method="lrp.epsilon", index=4)
    _, uploaded = ask(server, method="lrp.epsilon", picture=png(pixels[0].numpy()))
    _, inverted = ask(server, method="lrp.epsilon", picture=png(255 - pixels[0].numpy()), invert=True)
    _, raw = ask(server, method="lrp.epsilon", pixels=(pixels[0].numpy() / np.float32(255)).tolist())
    np.testing.assert_array_equal(values_of(uploaded), values_of(first))
    np.testing.assert_array_equal(values_of(raw), values_of(first))
    np.testing.assert_allclose(values_of(inverted), values_of(first), atol=1e-5)
    assert uploaded["image"]["bytes"] == first["image"]["bytes"] == b64encode(pixels.numpy().tobytes()).decode()
    assert (uploaded["image"]["index"], uploaded["image"]["label"]) == (None, None)


def test_images_and_misclassified_ones_come_with_their_predictions(
    server: LiveServer, live: LiveRun, save: Path
) -> None:
    assert live.data is not None
    with torch.no_grad():
        logits = pellucid.load_run(save).model(live.data.test.floats())
    _, content = request(server, "GET", "/api/images/11")
    image = json.loads(content)
    assert image["prediction"] == int(logits[11].argmax())
    assert image["confidence"] == pytest.approx(float(logits[11].softmax(0).max()), abs=1e-5)
    _, content = request(server, "GET", "/api/misclassified")
    expected = (logits.argmax(1) != live.data.test.labels).nonzero().flatten().tolist()
    assert json.loads(content)["indices"] == expected
    # stored by the hook confusion_matrix; without it, computed
    assert live._predictions is not None
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(live, "_predictions", None)
        assert live.misclassified(Job(lambda: False)) == expected


def test_every_method_is_offered_with_options_that_it_accepts(server: LiveServer, live: LiveRun) -> None:
    _, content = request(server, "GET", "/api")
    offered = {method["name"]: method for method in json.loads(content)["methods"]}
    assert set(offered) == set(METHODS.names())
    for name, method in offered.items():
        defaults = {option.name: option.default for option in fields(METHODS[name])}
        for option in method["options"]:
            assert option["default"] == defaults[option["name"]]
            ends = [option["default"], option.get("low"), *option.get("choices", ())]
            for value in ends if option["kind"] != "text" else [None]:
                if value is not None and option["name"] not in ("keep_share", "kernel_width"):  # excluded ends
                    create_analyzer(name, live.run.model, **{option["name"]: value})
    names = {option["name"] for method in offered.values() for option in method["options"]}
    assert {"steps", "samples", "epsilon", "layer", "quadrature", "relu", "window"} <= names
    assert "rules" not in names


def test_methods_that_do_not_apply_say_why(server: LiveServer) -> None:
    status, answer = ask(server, method="cam", index=0)
    assert status == 422
    assert answer["error"]["type"] == "UnsupportedOperation"
    assert "cam needs a network that ends in global average pooling" in answer["error"]["message"]


def test_threads_return_what_a_single_one_returns(server: LiveServer) -> None:
    asked = [(method, index) for index in range(4) for method in ("gradient", "lrp.gamma", "smoothgrad")]
    alone = [values_of(ask(server, method=method, index=index)[1]) for method, index in asked]
    with ThreadPoolExecutor(4) as threads:
        together = list(threads.map(lambda one: values_of(ask(server, method=one[0], index=one[1])[1]), asked))
    for one, other in zip(alone, together, strict=True):
        np.testing.assert_array_equal(one, other)


# --- the page ---------------------------------------------------------------------------------------------------------


def test_only_the_served_page_may_send_requests(server: LiveServer, save: Path) -> None:
    _, page = request(server, "GET", "/")
    assert b"connect-src 'self'" in page
    assert b'id="live"' in page
    on_disk = (save / "report.html").read_bytes()
    assert b"connect-src" not in on_disk
    assert b"fetch(" not in on_disk


def test_the_folder_is_not_written(server: LiveServer, save: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in save.rglob("*")}
    ask(server, method="pattern.net", index=0, options={"estimator": "linear"})
    request(server, "GET", "/")
    assert {path: path.stat().st_mtime_ns for path in save.rglob("*")} == before


def test_the_page_follows_the_records_of_the_run(live: LiveRun, save: Path) -> None:
    page = ServedPage(save, live)
    first = page()
    assert page() is first
    os.utime(save / "metrics.jsonl", ns=(1, 1))
    assert page() is not first


# --- hostile requests -------------------------------------------------------------------------------------------------

JSON = "Content-Type: application/json\r\n"
BODY = '{"method": "gradient", "index": 0}'


def raw(server: LiveServer, text: str) -> tuple[int, str]:
    """Send the bytes of a request, in which PORT is the server's."""
    with socket.create_connection(("127.0.0.1", server.server_port), timeout=60) as connection:
        connection.sendall(text.replace("PORT", str(server.server_port)).encode("latin-1"))
        answer = b"".join(iter(lambda: connection.recv(65536), b"")).decode("latin-1")
    return int(answer.split()[1]), answer


def post(headers: str, body: str = BODY) -> str:
    return f"POST /api/map HTTP/1.1\r\nHost: 127.0.0.1:PORT\r\n{headers}Content-Length: {len(body)}\r\n\r\n{body}"


@pytest.mark.parametrize(
    ("text", "status", "message"),
    [
        ("GET / HTTP/1.1\r\nHost: localhost:PORT\r\n\r\n", 200, "<!doctype html>"),
        ("GET / HTTP/1.1\r\nHost: evil.example\r\n\r\n", 421, "reachable as 127.0.0.1:"),
        ("GET / HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n", 421, "reachable as"),
        ("GET / HTTP/1.1\r\nHost: 127.0.0.1:PORT.evil.example\r\n\r\n", 421, "reachable as"),
        ("GET / HTTP/1.1\r\nHost: evil.example\r\nHost: 127.0.0.1:PORT\r\n\r\n", 421, "reachable as"),
        ("GET / HTTP/1.1\r\n\r\n", 421, "reachable as"),
        (post(JSON + "Origin: http://evil.example\r\n"), 403, "other sites"),
        (post(JSON + "Origin: null\r\n"), 403, "other sites"),
        (post(JSON + "Origin: http://127.0.0.1:PORT\r\n"), 200, '"values"'),
        (post(JSON + "Sec-Fetch-Site: cross-site\r\n"), 403, "other sites"),
        (post("Content-Type: text/plain\r\n"), 415, "application/json"),
        (post(JSON + "Transfer-Encoding: chunked\r\n"), 411, "Content-Length"),
        ("GET /api HTTP/1.1\r\nHost: 127.0.0.1:PORT\r\nSec-Fetch-Site: same-site\r\n\r\n", 403, "other sites"),
        ("GET /../run.json HTTP/1.1\r\nHost: 127.0.0.1:PORT\r\n\r\n", 404, "unknown path"),
        ("GET /%2e%2e/run.json HTTP/1.1\r\nHost: 127.0.0.1:PORT\r\n\r\n", 404, "unknown path"),
        ("GET /models/best.safetensors HTTP/1.1\r\nHost: 127.0.0.1:PORT\r\n\r\n", 404, "unknown path"),
        ("GET http://[ HTTP/1.1\r\nHost: 127.0.0.1:PORT\r\n\r\n", 400, "the address is invalid"),
        ("GET //etc/passwd HTTP/1.1\r\nHost: 127.0.0.1:PORT\r\n\r\n", 404, "unknown path"),
        ("GET /api/images/-1 HTTP/1.1\r\nHost: 127.0.0.1:PORT\r\n\r\n", 404, "unknown path"),
        ("GET /api/images/40 HTTP/1.1\r\nHost: 127.0.0.1:PORT\r\n\r\n", 400, "from 0 to 39"),
        (f"GET /api/images/{'9' * 5000} HTTP/1.1\r\nHost: 127.0.0.1:PORT\r\n\r\n", 404, "unknown path"),
        ("GET /api/map HTTP/1.1\r\nHost: 127.0.0.1:PORT\r\n\r\n", 405, "accepts POST"),
        ("POST / HTTP/1.1\r\nHost: 127.0.0.1:PORT\r\nContent-Length: 0\r\n\r\n", 405, "accepts GET"),
        ("PUT / HTTP/1.1\r\nHost: 127.0.0.1:PORT\r\n\r\n", 405, "use GET, HEAD or POST"),
        ("OPTIONS /api/map HTTP/1.1\r\nHost: 127.0.0.1:PORT\r\nOrigin: http://evil.example\r\n\r\n", 405, "use GET"),
        ("GET / for me HTTP/1.1\r\n\r\n", 400, "error"),
        (f"POST /api/map HTTP/1.1\r\nHost: 127.0.0.1:PORT\r\n{JSON}\r\n", 411, "Content-Length"),
        (f"POST /api/map HTTP/1.1\r\nHost: 127.0.0.1:PORT\r\n{JSON}Content-Length: -5\r\n\r\n", 411, "Content-Length"),
        (f"GET /{'x' * 70000} HTTP/1.1\r\nHost: 127.0.0.1:PORT\r\n\r\n", 414, "error"),
    ],
)
def test_requests_from_elsewhere_or_of_another_form_are_refused(
    server: LiveServer, text: str, status: int, message: str
) -> None:
    received, answer = raw(server, text)
    assert received == status, answer[:1000]
    assert message in answer
    assert "Access-Control-Allow" not in answer


@pytest.mark.parametrize(
    ("entries", "status", "message"),
    [
        ({"method": "gradent", "index": 0}, 400, "did you mean 'gradient'"),
        ({"method": 3, "index": 0}, 400, "the entry 'method' is 3; expected the name of a method"),
        ({"index": 0}, 400, "has no method"),
        ({"method": "gradient"}, 400, "send exactly one of index, pixels and picture"),
        ({"method": "gradient", "index": 0, "pixels": []}, 400, "index and pixels; send exactly one"),
        ({"method": "gradient", "index": True}, 400, "expected the index of a test image"),
        ({"method": "gradient", "index": 40}, 400, "expected an index from 0 to 39"),
        ({"method": "gradient", "index": -1}, 400, "expected an index from 0 to 39"),
        ({"method": "gradient", "index": 0, "class": 10}, 400, "expected an index from 0 to 9"),
        ({"method": "gradient", "index": 0, "class": "ten"}, 400, "there is no class 'ten'"),
        ({"method": "gradient", "index": 0, "file": "/etc/passwd"}, 400, "unknown entry 'file'"),
        ({"method": "gradient", "index": 0, "options": {"samples": 2}}, 400, "it can set: absolute"),
        ({"method": "gradient", "index": 0, "options": {"absolute": 1}}, 400, "expected True or False"),
        ({"method": "lrp.epsilon", "index": 0, "options": {"rules": {}}}, 400, "cannot set the option"),
        ({"method": "smoothgrad", "index": 0, "options": {"samples": 0}}, 400, "at least 1"),
        ({"method": "smoothgrad", "index": 0, "options": {"samples": 10**12}}, 400, "accepts at most 4,096"),
        ({"method": "integrated_gradients", "index": 0, "options": {"steps": 513}}, 400, "accepts at most 512"),
        ({"method": "lrp.epsilon", "index": 0, "options": {"epsilon": 10**400}}, 400, "epsilon"),
        ({"method": "grad_cam", "index": 0, "options": {"layer": "absent"}}, 400, "absent"),
        ({"method": "occlusion", "index": 0, "options": {"window": 4000}}, 400, "window"),
        ({"method": "gradient", "pixels": [[1, 2], [3]]}, 400, "pixels are not nested lists"),
        ({"method": "gradient", "pixels": [[0.5]]}, 400, "pixels have the shape (1, 1)"),
        ({"method": "gradient", "pixels": [[2.0] * 28] * 28}, 400, "pixels range from 2 to 2"),
        ({"method": "gradient", "pixels": [["x"] * 28] * 28}, 400, "pixels are not nested lists"),
        ({"method": "gradient", "pixels": [["0.5"] * 28] * 28}, 400, "pixels are not nested lists"),
        ({"method": "gradient", "pixels": [[True] * 28] * 28}, 400, "pixels are not nested lists"),
        ({"method": "gradient", "pixels": [[10**400] * 28] * 28}, 400, "pixels are not nested lists"),
        ({"method": "gradient", "picture": "%%%"}, 400, "not base64"),
        ({"method": "gradient", "picture": b64encode(b"garbage" * 9).decode()}, 400, "cannot be read as an image"),
        ({"method": "gradient", "index": float("nan")}, 400, "the number NaN"),
        ([1], 400, "the request is a list"),
    ],
)
def test_invalid_requests_are_refused_with_what_was_expected(
    server: LiveServer, entries: Any, status: int, message: str
) -> None:
    body = json.dumps(entries).encode()
    received, content = request(server, "POST", "/api/map", body, Content_Type="application/json")
    assert received == status, content[:1000]
    assert message in json.loads(content)["error"]["message"]


def test_nested_json_and_other_text_are_refused() -> None:
    for body in (b"[" * 200_000, b"\xff", b"{", b"", b"9" * 5000):
        with pytest.raises(ConfigError, match="not JSON"):
            read_request(body)


def test_a_decompression_bomb_is_not_decoded(server: LiveServer) -> None:
    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = struct.pack(">IIBBBBB", 60_000, 60_000, 8, 0, 0, 0, 0)
    data = zlib.compress(bytes(1_000_000))
    bomb = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", data) + chunk(b"IEND", b"")
    status, answer = ask(server, method="gradient", picture=b64encode(bomb).decode())
    assert status == 400
    assert "at most 50 megapixels are read" in answer["error"]["message"]


def test_a_huge_body_is_not_kept(server: LiveServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(serving_http, "MOST_BYTES", 1000)
    status, answer = ask(server, method="gradient", picture="A" * 200_000)
    assert status == 413
    assert "the limit is 1,000" in answer["error"]["message"]


def test_slow_clients_are_disconnected(server: LiveServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(serving_http, "SECONDS_TO_SEND", 0.1)
    with socket.create_connection(("127.0.0.1", server.server_port), timeout=60) as connection:
        connection.sendall(b"POST /api/map HTTP/1.1\r\nHost: 127.0.0.1:")
        assert connection.recv(100) == b""
        # the place is free again, although this client still holds its end open and has not left
        for _ in range(serving_http.MOST_CONNECTIONS):
            assert server._free.acquire(timeout=5)
    for _ in range(serving_http.MOST_CONNECTIONS):
        server._free.release()
    assert ask(server, method="gradient", index=0)[0] == 200


def test_a_thread_that_cannot_be_started_leaves_its_place(server: LiveServer, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise OSError("no more threads")

    with monkeypatch.context() as patch:
        patch.setattr(ThreadingHTTPServer.__mro__[1], "process_request", fail)
        with socket.create_connection(("127.0.0.1", server.server_port), timeout=60) as connection:
            assert connection.recv(100) == b""
    assert not server._receiving
    assert server._free._value == serving_http.MOST_CONNECTIONS


def test_too_many_connections_are_closed(server: LiveServer) -> None:
    while server._free.acquire(blocking=False):
        pass
    with socket.create_connection(("127.0.0.1", server.server_port), timeout=60) as connection:
        assert connection.recv(100) == b""
    server._free.release()
    assert ask(server, method="gradient", index=0)[0] == 200
    for _ in range(serving_http.MOST_CONNECTIONS - 1):
        server._free.release()


def test_too_many_computations_are_refused(server: LiveServer, live: LiveRun, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(live, "_waiting", threading.Semaphore(0))
    status, answer = ask(server, method="gradient", index=0)
    assert status == 503
    assert "waiting already" in answer["error"]["message"]


def test_an_unexpected_error_is_an_answer_too(
    server: LiveServer, live: LiveRun, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def fail(*_: object) -> None:
        raise ZeroDivisionError("by chance")

    monkeypatch.setattr(live, "map", fail)
    status, answer = ask(server, method="gradient", index=0)
    assert status == 500
    assert answer["error"]["message"] == "unexpected ZeroDivisionError: by chance"
    assert "by chance" in capfd.readouterr().err


def test_a_head_request_gets_headers_only(server: LiveServer) -> None:
    _, answer = raw(server, "HEAD / HTTP/1.1\r\nHost: 127.0.0.1:PORT\r\n\r\n")
    headers, _, body = answer.partition("\r\n\r\n")
    assert body == ""
    assert int(re.findall(r"Content-Length: (\d+)", headers)[0]) > 100_000
    for header in ("X-Frame-Options: DENY", "X-Content-Type-Options: nosniff", "Cache-Control: no-store"):
        assert header in headers


def test_the_server_listens_on_the_loopback_address_only(server: LiveServer) -> None:
    assert server.socket.getsockname()[0] == "127.0.0.1"


def test_a_port_in_use_is_an_error_only_if_it_was_asked_for(server: LiveServer, live: LiveRun, save: Path) -> None:
    with pytest.raises(ConfigError, match=rf"port {server.server_port} cannot be used .*choose another --port"):
        LiveServer(live, ServedPage(save, live), server.server_port)
    with socket.socket() as usual:
        usual.bind(("127.0.0.1", 0))
        usual.listen()
        with pytest.MonkeyPatch.context() as patched:
            patched.setattr(serving_http, "USUAL_PORT", usual.getsockname()[1])
            with LiveServer(live, ServedPage(save, live)) as other:
                assert other.server_port not in (usual.getsockname()[1], 0)


# --- ends -------------------------------------------------------------------------------------------------------------


def test_a_client_that_leaves_stops_its_computation(server: LiveServer, live: LiveRun) -> None:
    body = json.dumps({"method": "shapley_sampling", "index": 0, "options": {"permutations": 4096, "patch": 1}})
    with socket.create_connection(("127.0.0.1", server.server_port), timeout=60) as connection:
        connection.sendall(post(JSON, body).replace("PORT", str(server.server_port)).encode())
        while live._job is None:
            pass
    # it would hold its turn for minutes
    status, _ = ask(server, method="gradient", index=0)
    assert status == 200
    assert not live.run.model.training
    assert all(parameter.requires_grad for parameter in live.run.model.parameters())


def test_a_computation_ends_when_its_time_is_up(live: LiveRun) -> None:
    with pytest.raises(TimeUp, match=r"longer than 0 s; choose options that need fewer passes"):
        live.map(read_request(BODY.encode()), Job(lambda: False, 0.0))
    assert not live._turn.locked()


def test_a_waiting_client_that_leaves_frees_its_place(live: LiveRun, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(serving_maps, "SECONDS_BETWEEN_CHECKS", 0.001)
    with live._turn, pytest.raises(Canceled):
        live.map(read_request(BODY.encode()), Job(lambda: True))
    live.map(read_request(BODY.encode()), Job(lambda: False))


@pytest.mark.slow
def test_ctrl_c_ends_the_command(save: Path) -> None:
    command = [sys.executable, "-m", "pellucid", "serve", str(save)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        line = process.stdout.readline()
        assert re.fullmatch(r"http://127\.0\.0\.1:\d+/ \(Ctrl-C stops the server\)\n", line)
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=60)
    assert process.returncode == 130
    assert errors == "pellucid: interrupted.\n"


# --- other runs -------------------------------------------------------------------------------------------------------


def copied(save: Path, folder: Path, **changes: Any) -> Path:
    """Copy the records and weights of a run, with another run.json, and without its data."""
    (folder / "models").mkdir(parents=True)
    for name in ("manifest.json", "metrics.jsonl", "models/best.safetensors"):
        (folder / name).write_bytes((save / name).read_bytes())
    record = json.loads((save / "run.json").read_text())
    (folder / "run.json").write_text(json.dumps({**record, **changes}))
    return folder


def test_without_data_other_pictures_can_be_explained(save: Path, tmp_path: Path) -> None:
    dataset = json.loads((save / "run.json").read_text())["dataset"]
    folder = copied(save, tmp_path / "mailed", dataset={**dataset, "sha256": "0" * 64})
    live = load_live_run(ServeConfig(folder))
    assert "has changed since the run started" in live.missing
    page = ServedPage(folder, live)()
    assert b"The data of this run are not available" in page
    with running(live, folder) as server:
        status, answer = ask(server, method="lrp.epsilon", picture=png(np.zeros((30, 20), np.uint8)))
        assert status == 200
        assert answer["size"] == [28, 28]
        for entries in ({"method": "gradient", "index": 0}, {"method": "pattern.net", "picture": png(np.eye(9) > 0)}):
            status, answer = ask(server, **entries)
            assert status == 400
            assert "the data of this run are not available" in answer["error"]["message"]


def test_an_interrupted_run_is_served_with_its_best_weights(save: Path, tmp_path: Path) -> None:
    live = load_live_run(ServeConfig(copied(save, tmp_path / "stopped", status="interrupted")))
    assert live.epoch == 1
    assert live.data is not None


def test_a_run_before_its_first_checkpoint_is_refused_by_name(save: Path, tmp_path: Path) -> None:
    folder = copied(save, tmp_path / "early", status="running")
    (folder / "models" / "best.safetensors").unlink()
    with pytest.raises(SaveError, match=r"has no weights in models/best\.safetensors.*after its first epoch"):
        load_live_run(ServeConfig(folder))


@pytest.mark.parametrize(
    ("record", "way"),
    [
        ({"kind": "inspect", "model": {"name": "run:/old run"}}, r"pellucid serve '/old run'"),
        ({"kind": "inspect", "model": {"name": "torchvision:resnet18"}}, r"pellucid explain"),
        ({"kind": "watch", "model": {"name": "Net"}}, r"pellucid explain"),
    ],
)
def test_folders_without_weights_are_refused_by_name(save: Path, tmp_path: Path, record: Any, way: str) -> None:
    folder = copied(save, tmp_path / "other", **record)
    with pytest.raises(SaveError, match=rf"pellucid.{record['kind']}, which stores no weights .*{way}"):
        load_live_run(ServeConfig(folder))


def test_functions_need_trust(save: Path, tmp_path: Path) -> None:
    folder = copied(save, tmp_path / "untrusted", model={"name": "os:getcwd"})
    with pytest.raises(ConfigError, match="--trust"):
        load_live_run(ServeConfig(folder))
    folder = copied(
        save, tmp_path / "data", dataset={**json.loads((save / "run.json").read_text())["dataset"], "name": "os:getcwd"}
    )
    with pytest.raises(ConfigError, match="--trust"):
        load_live_run(ServeConfig(folder))


def test_ports_have_a_range(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["serve", "save", "--port", "0"]) == 2
    assert "--port must be between 1 and 65535, got 0" in capsys.readouterr().err


def test_a_folder_without_a_run_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["serve", str(tmp_path / "absent")]) == 2
    assert "absent" in capsys.readouterr().err


# --- images and options -----------------------------------------------------------------------------------------------


def test_pictures_are_resized_like_the_data() -> None:
    gradient = np.tile(np.linspace(0, 255, 400, dtype=np.uint8), (300, 1))
    content = b64decode(png(gradient))
    squashed = picture_floats(content, (1, 20, 20), {})
    assert squashed.shape == (1, 20, 20)
    np.testing.assert_allclose(squashed[0, 10], (np.arange(20) + 0.5) / 20, atol=0.01)
    cropped = picture_floats(content, (1, 20, 20), {"crop": 20, "image_size": 30})
    # the middle half of the width: 20 of 40 pixels
    np.testing.assert_allclose(cropped[0, 10], 0.25 + (np.arange(20) + 0.5) / 40, atol=0.01)
    assert picture_floats(content, (3, 8, 8), {}).shape == (3, 8, 8)
    with pytest.raises(DataError, match="the model takes 2"):
        picture_floats(content, (2, 8, 8), {})


def test_pixels_must_be_finite_and_of_the_models_shape() -> None:
    assert pixel_floats([[[0.5, 1], [0, 0.25]]], (1, 2, 2)).tolist() == [[[0.5, 1], [0, 0.25]]]
    with pytest.raises(DataError, match="range from"):
        pixel_floats([[[float("nan"), 1], [0, 0.25]]], (1, 2, 2))
    with pytest.raises(ShapeError, match=r"the model takes \(channel, height, width\) = \(3, 2, 2\)"):
        pixel_floats([[0.5, 1], [0, 0.25]], (3, 2, 2))


def test_options_are_typed_as_in_the_dataclass() -> None:
    options = {option["name"]: option for option in options_of("integrated_gradients")}
    assert options["quadrature"]["choices"] == ["gauss_legendre", "trapezoid"]
    assert options["steps"] == {"name": "steps", "kind": "integer", "default": 64, "low": 2, "high": MOST_OF["steps"]}
    assert options["tolerance"] == {"name": "tolerance", "kind": "number", "default": None, "low": 0}
    assert read_request(b'{"method": "Saliency", "index": 0, "options": {"absolute": true}}').method == "Saliency"
    with pytest.raises(UnknownName):
        read_request(b'{"method": "../gradient", "index": 0}')
