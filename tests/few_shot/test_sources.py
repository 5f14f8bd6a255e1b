"""Data sets on disk: where they are looked for, and how they are downloaded."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import pytest

from meta_rl.few_shot.data.sources import Source, obtain, open_zip


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("META_RL_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("META_RL_DATA", raising=False)


@pytest.fixture
def address(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The address of a server of the file ``upstream.txt``."""
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    (tmp_path / "upstream.txt").write_bytes(b"content")
    handler = partial(SimpleHTTPRequestHandler, directory=str(tmp_path))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/upstream.txt"
        server.shutdown()


def source(address: str, content: bytes = b"content") -> Source:
    return Source("set/file.txt", address, f"sha256:{hashlib.sha256(content).hexdigest()}")


def test_a_file_is_found_under_the_root_then_the_variable_then_the_cache(
    tmp_path: Path, address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("META_RL_DATA", str(tmp_path / "variable"))
    wanted = source(address)
    for place in ("cache/data", "variable", "root"):
        file = tmp_path / place / "set" / "file.txt"
        file.parent.mkdir(parents=True)
        file.touch()
        assert obtain(wanted, tmp_path / "root", download=False) == file


def test_a_missing_file_is_downloaded_into_the_root(tmp_path: Path, address: str) -> None:
    path = obtain(source(address), tmp_path / "root")
    assert path == tmp_path / "root" / "set" / "file.txt"
    assert path.read_bytes() == b"content"
    assert [file.name for file in path.parent.iterdir()] == ["file.txt"]


def test_a_changed_download_is_refused_and_leaves_nothing(tmp_path: Path, address: str) -> None:
    with pytest.raises(ValueError, match=r"hash of downloaded file \(file.txt\) does not match"):
        obtain(source(address, b"other content"), tmp_path / "root")
    assert list((tmp_path / "root" / "set").iterdir()) == []


def test_what_cannot_be_found_says_where_it_was_looked_for_and_how_to_get_it(
    tmp_path: Path, address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("META_RL_DATA", str(tmp_path / "variable"))
    wanted = source(address)
    (tmp_path / "upstream.txt").unlink()
    with pytest.raises(FileNotFoundError) as caught:
        obtain(wanted, tmp_path / "root")
    message = str(caught.value)
    for place in ("root", "variable", "cache/data"):
        assert str(tmp_path / place / "set" / "file.txt") in message
    assert "it could not be downloaded" in message
    assert f"Download {wanted.url}" in message
    assert "META_RL_DATA" in message
    assert not list((tmp_path / "root" / "set").iterdir())


def test_a_broken_zip_is_named(tmp_path: Path) -> None:
    (tmp_path / "broken.zip").write_bytes(b"PK no zip")
    with pytest.raises(ValueError, match=r"broken.zip is no readable zip file"):
        open_zip(tmp_path / "broken.zip")
