"""Archives of data sets, and caches of decoded data: damage, bombs and links are refused."""

from __future__ import annotations

import gzip
import hashlib
import io
import re
import tarfile
import tracemalloc
import zipfile
from pathlib import Path

import hypothesis.strategies as st
import numpy as np
import pytest
import torch
from hypothesis import given

from meta_rl.few_shot.data import omniglot, sources
from meta_rl.few_shot.data.babi import read_questions
from meta_rl.few_shot.data.sources import ArchiveCheck, Source, obtain, open_zip

from .small_files import QUICK

LEAVING = ["/etc/passwd", "../above", "a/../../above", "C:\\windows", "..\\above", "//host/share"]
LINK = 0o120777 << 16


def zipped(path: Path, *infos: zipfile.ZipInfo) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for info in infos:
            archive.writestr(info, b"content")
    return path


def tarred(path: Path, *members: tarfile.TarInfo) -> Path:
    with tarfile.open(path, "w:gz") as archive:
        for member in members:
            archive.addfile(member, io.BytesIO(bytes(member.size)))
    return path


class TestZips:
    @pytest.mark.parametrize("name", LEAVING)
    def test_paths_that_lead_out(self, name: str, tmp_path: Path) -> None:
        info = zipfile.ZipInfo("x")
        info.filename = name
        with pytest.raises(ValueError, match="leads out of the archive"):
            open_zip(zipped(tmp_path / "a.zip", info))

    def test_links(self, tmp_path: Path) -> None:
        info = zipfile.ZipInfo("link")
        info.external_attr = LINK
        with pytest.raises(ValueError, match="'link' is no plain file"):
            open_zip(zipped(tmp_path / "a.zip", info))

    def test_bombs(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """Sizes are told by the directory, and no more is ever read."""
        path = tmp_path / "a.zip"
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            for i in range(11):
                archive.writestr(f"{i}", bytes(100_000))
        open_zip(path).close()
        assert path.stat().st_size < 10_000
        monkeypatch.setattr(sources, "LARGEST", 1_000_000)
        with pytest.raises(ValueError, match=r"a\.zip is too large: .* more than 1000000 bytes"):
            open_zip(path)

    @QUICK
    @given(content=st.binary(max_size=300), at=st.integers(0, 400))
    def test_noise(self, tmp_path_factory: pytest.TempPathFactory, content: bytes, at: int) -> None:
        """A zip file with noise in it opens, or it is refused with its name."""
        path = zipped(tmp_path_factory.mktemp("a") / "a.zip", zipfile.ZipInfo("x"))
        whole = path.read_bytes()
        path.write_bytes(whole[:at] + content + whole[at + len(content) :])
        try:
            open_zip(path).close()
        except ValueError as error:
            assert "a.zip" in str(error)  # noqa: PT017


class TestTars:
    @pytest.mark.parametrize("name", LEAVING)
    def test_paths_that_lead_out(self, name: str, tmp_path: Path) -> None:
        with pytest.raises(ValueError, match="leads out of the archive"):
            read_questions(tarred(tmp_path / "a.tar.gz", tarfile.TarInfo(name)), "en", 1)

    @pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE])
    def test_links(self, kind: bytes, tmp_path: Path) -> None:
        member = tarfile.TarInfo("en/qa1_x_train.txt")
        member.type, member.linkname = kind, "/etc/passwd"
        with pytest.raises(ValueError, match="is no plain file"):
            read_questions(tarred(tmp_path / "a.tar.gz", member), "en", 1)

    def test_bombs(self, tmp_path: Path) -> None:
        """A member of a petabyte, and a header that tells to read one; neither is unpacked."""
        member = tarfile.TarInfo("en/qa1_x_train.txt")
        header = tarfile.TarInfo("header")
        header.type = tarfile.XHDTYPE
        member.size = header.size = 1 << 50
        for info in (member, header):
            path = tmp_path / "a.tar.gz"
            path.write_bytes(gzip.compress(info.tobuf(tarfile.GNU_FORMAT) + bytes(10_000_000)))
            tracemalloc.start()
            with pytest.raises(ValueError, match=r"a\.tar\.gz is too large"):
                read_questions(path, "en", 1)
            assert tracemalloc.get_traced_memory()[1] < 5_000_000
            tracemalloc.stop()

    def test_many_files(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        members = [tarfile.TarInfo(f"{i}") for i in range(11)]
        for member in members:
            member.size = 100_000
        path = tarred(tmp_path / "a.tar.gz", *members)
        with pytest.raises(ValueError, match="has no train and no test file of task 1"):
            read_questions(path, "en", 1)
        monkeypatch.setattr(sources, "LARGEST", 1_000_000)
        with pytest.raises(ValueError, match="is too large"):
            read_questions(path, "en", 1)


@QUICK
@given(name=st.text("./\\:ab", min_size=1, max_size=12))
def test_no_accepted_name_leaves_a_folder(name: str) -> None:
    try:
        ArchiveCheck(Path("a")).member(name, 0, True)
    except ValueError:
        return
    assert Path("/folder", name).resolve().is_relative_to("/folder")


class TestKnownFiles:
    def test_a_file_of_another_hash_is_refused(self, tmp_path: Path) -> None:
        """Where the hash is known and contents are not compared otherwise."""
        (tmp_path / "x").write_bytes(b"content")
        digest = hashlib.sha256(b"content").hexdigest()
        wanted = Source("x", "http://host/x", f"sha256:{digest}")
        assert obtain(wanted, tmp_path, compare=True) == tmp_path / "x"
        (tmp_path / "x").write_bytes(b"contents")
        with pytest.raises(ValueError, match=r"x is not the file of http.*expected.*delete it"):
            obtain(wanted, tmp_path, compare=True)

    def test_lakes_runs_are_compared(self, tmp_path: Path) -> None:
        (tmp_path / "omniglot").mkdir()
        zipped(tmp_path / "omniglot" / "all_runs.zip", zipfile.ZipInfo("x"))
        with pytest.raises(ValueError, match=re.escape(omniglot.RUNS.digest.partition(":")[2])):
            omniglot.lake_runs(tmp_path)


class TestTheCache:
    def test_every_flipped_bit_is_seen(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A damaged cache is not read; the data are decoded again."""
        monkeypatch.setenv("META_RL_CACHE", str(tmp_path))
        monkeypatch.delenv("META_RL_DATA", raising=False)
        images = torch.arange(2 * 20 * 4, dtype=torch.uint8).view(2, 20, 1, 2, 2)
        key = "".join(omniglot.CONTENTS[part][:8] for part in omniglot.IMAGES)
        path = tmp_path / f"omniglot-2-{key}.zip"
        omniglot._write_cache(path, omniglot.Characters(["a", "b"], images))
        loaded = omniglot.load_characters(tmp_path, 2, download=False)
        assert loaded.names == ["a", "b"]
        assert torch.equal(loaded.images, images)
        content = path.read_bytes()
        for bit in np.random.default_rng(0).integers(8 * len(content), size=200):
            damaged = bytearray(content)
            damaged[bit // 8] ^= 1 << bit % 8
            path.write_bytes(damaged)
            with pytest.raises(FileNotFoundError, match="no omniglot"):
                omniglot.load_characters(tmp_path, 2, download=False)
