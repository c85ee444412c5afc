"""The hub: nothing is sent without a login, and an upload arrives whole, over real HTTP on this machine."""

from __future__ import annotations

import base64
import json
import socket
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest

from tessera import hub
from tessera.core.errors import UserError


class FakeHub(BaseHTTPRequestHandler):
    """The few answers that a repository needs: made, files announced, committed. Keeps what it was sent."""

    files: dict[str, bytes]
    asked: list[tuple[str, str | None]]
    status: int

    def do_POST(self) -> None:
        """Every call of an upload is a POST."""
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.asked.append((self.path, self.headers.get("Authorization")))
        if self.status != 200:
            self._answer({"error": "no room for it"}, self.status)
        elif self.path.endswith("/repos/create"):
            self._answer({"url": "https://huggingface.co/owner/name", "name": json.loads(body)["name"]})
        elif "/preupload/" in self.path:
            wanted = [
                {"path": f["path"], "uploadMode": "regular", "shouldIgnore": False} for f in json.loads(body)["files"]
            ]
            self._answer({"files": wanted})
        elif self.path.endswith("/validate-yaml"):
            self._answer({"errors": [], "warnings": []})
        else:
            lines = [json.loads(line) for line in body.splitlines()]
            files = [line["value"] for line in lines if line["key"] == "file"]
            self.files.update({f["path"]: base64.b64decode(f["content"]) for f in files})
            self._answer({"commitUrl": "https://huggingface.co/owner/name/commit/1", "commitOid": "1", "success": True})

    def do_GET(self) -> None:
        """Nothing is there yet."""
        self.asked.append((self.path, self.headers.get("Authorization")))
        self._answer({"siblings": [], "sha": "0", "id": "owner/name"}, self.status)

    def log_message(self, *_: Any) -> None:
        """Quiet."""

    def _answer(self, value: Any, status: int = 200) -> None:
        data = json.dumps(value).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> Iterator[type[FakeHub]]:
    """A hub on loopback, and somebody who is logged in there."""
    FakeHub.files, FakeHub.asked, FakeHub.status = {}, [], 200
    server = ThreadingHTTPServer(("127.0.0.1", 0), FakeHub)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    endpoint = f"http://127.0.0.1:{server.server_port}"

    class Api(huggingface_hub.HfApi):  # the endpoint is read from the environment when the package is imported
        def __init__(self, token: str) -> None:
            super().__init__(endpoint=endpoint, token=token)

    monkeypatch.setattr(huggingface_hub, "HfApi", Api)
    monkeypatch.setattr(huggingface_hub, "get_token", lambda: "hf_secret")
    yield FakeHub
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """An export of two files."""
    (tmp_path / "export").mkdir()
    (tmp_path / "export" / "README.md").write_text("---\nlicense: mit\n---\n# x\n")
    (tmp_path / "export" / "adapter_model.safetensors").write_bytes(b"\x00\x01weights")
    return tmp_path / "export"


def test_every_file_arrives(fake: type[FakeHub], folder: Path) -> None:
    assert hub.push(folder, "owner/name").endswith("/owner/name")
    assert fake.files == {path.name: path.read_bytes() for path in folder.iterdir()}
    assert {token for _, token in fake.asked} == {"Bearer hf_secret"}


def test_what_the_hub_refuses_is_one_line(fake: type[FakeHub], folder: Path) -> None:
    fake.status = 403
    with pytest.raises(UserError, match=r"is written, and the hub did not take it as owner/name: .*403") as caught:
        hub.push(folder, "owner/name")
    assert "\n" not in str(caught.value)
    with pytest.raises(UserError, match="did not take it as no/such/name"):
        hub.push(folder, "no/such/name")
    assert fake.files == {}


def test_without_a_login_nothing_is_sent(fake: type[FakeHub], folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(huggingface_hub, "get_token", lambda: None)
    with pytest.raises(UserError, match="--push needs a login"):
        hub.push(folder, "owner/name")
    assert fake.asked == []


def test_the_licence_of_a_card(folder: Path, tmp_path: Path) -> None:
    assert hub.licence_of(folder / "README.md") == "mit"
    assert hub.licence_of(tmp_path / "none") is None
    for text in ("no front matter", "---\nlicense: [\n---\n", "---\ntags: [a]\n---\n"):
        (tmp_path / "README.md").write_text(text)
        assert hub.licence_of(tmp_path / "README.md") is None
    assert hub.cached_card("owner/that-was-never-fetched", None) is None


def test_without_a_network_it_is_one_line(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as taken:  # bound, and nobody listens
        taken.bind(("127.0.0.1", 0))
        api = huggingface_hub.HfApi(endpoint=f"http://127.0.0.1:{taken.getsockname()[1]}", token="hf_secret")
        monkeypatch.setattr(huggingface_hub, "HfApi", lambda token: api)
        monkeypatch.setattr(huggingface_hub, "get_token", lambda: "hf_secret")
        with pytest.raises(UserError, match=r"is written, and the hub did not take it as owner/name: .*refused"):
            hub.push(folder, "owner/name")
