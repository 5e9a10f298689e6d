"""Gzip in blocks: what comes out, whoever packs it."""

import gzip
import io
import random
import subprocess
import sys
import threading
import zlib
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from medseg3d.io import packing
from medseg3d.io.packing import gzipped


def packed(pieces: list[bytes], threads: int) -> bytes:
    file = io.BytesIO()
    with gzipped(file, threads=threads) as sink:
        for piece in pieces:
            assert sink.write(piece) == len(piece)
    return file.getvalue()


@given(st.lists(st.binary(max_size=500), max_size=8), st.integers(1, 4), st.integers(1, 700))
def test_what_was_written_comes_out(pieces: list[bytes], threads: int, block: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(packing, "BLOCK", block)
        found = packed(pieces, threads)
    content = b"".join(pieces)
    assert gzip.decompress(found) == content
    one_member = zlib.decompressobj(wbits=31)
    assert one_member.decompress(found) == content
    assert one_member.eof
    assert not one_member.unused_data


def test_bytes_depend_neither_on_threads_nor_on_how_it_is_written() -> None:
    content = bytes(range(256)) * 9000 + bytes(1 << 20)
    assert packed([content], 1) == packed([content], 3)
    assert packed([content], 1) == packed(
        [content[:100], content[100:2000001], content[2000001:]], 2
    )


def test_blocks_use_what_came_before() -> None:
    part = random.Random(0).randbytes(20_000)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(packing, "BLOCK", 20_000)
        assert len(packed([part] * 10, 2)) < 2 * len(part)


def test_another_program_unpacks_it(tmp_path: Path) -> None:
    content = b"labels" * 500_000
    (tmp_path / "a.gz").write_bytes(packed([content], 2))
    code = "import gzip, sys; sys.stdout.buffer.write(gzip.open(sys.argv[1]).read())"
    found = subprocess.run(
        [sys.executable, "-I", "-c", code, str(tmp_path / "a.gz")], capture_output=True, check=True
    )
    assert found.stdout == content


class Full(io.BytesIO):
    def write(self, data: object, /) -> int:
        if self.tell() > 100_000:
            raise OSError(28, "No space left on device")
        return super().write(data)  # type: ignore[arg-type]


def test_a_full_disk_is_told_and_no_thread_stays() -> None:
    content = random.Random(0).randbytes(8 << 20)
    before = set(threading.enumerate())
    with pytest.raises(OSError, match="No space"), gzipped(Full(), threads=3) as sink:
        sink.write(content)
    assert set(threading.enumerate()) <= before


def test_nothing_is_finished_after_an_exception() -> None:
    file = io.BytesIO()
    with suppress(KeyError), gzipped(file, threads=2) as sink:
        sink.write(bytes(100))
        raise KeyError
    with pytest.raises(EOFError):
        gzip.decompress(file.getvalue())
