"""Download of a task: from a server of this process, and every way it can go wrong."""

import errno
import hashlib
import http.server
import io
import logging
import os
import socket
import tarfile
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from monai.apps import DecathlonDataset
from typer.testing import CliRunner, Result

from medseg3d import api, cli
from medseg3d.api import downloading
from medseg3d.api.downloading import known_task
from medseg3d.errors import ConfigError, DataError, RunError

TASK = "Task04_Hippocampus"
FILES = {
    f"{TASK}/dataset.json": b'{"labels": {"0": "background"}}',
    f"{TASK}/imagesTr/hippocampus_001.nii.gz": bytes(range(256)) * 40,
    f"{TASK}/labelsTr/hippocampus_001.nii.gz": b"labels",
}


class Server:
    """Gives one answer, whatever is asked for; ``length`` may promise more than comes."""

    def __init__(self) -> None:
        self.content, self.status, self.length = b"", 200, -1
        outer = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self.send_response(outer.status)
                length = outer.length if outer.length >= 0 else len(outer.content)
                self.send_header("Content-Length", str(length))
                self.end_headers()
                self.wfile.write(outer.content)

            def log_message(self, *args: object) -> None:
                pass

        self.server = http.server.HTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}/{TASK}.tar"
        self.thread = threading.Thread(target=self.server.serve_forever, args=(0.01,))
        self.thread.start()

    def close(self) -> None:
        self.server.shutdown()
        self.thread.join()
        self.server.server_close()


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    """Stands where MONAI says that the task lies."""
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    server = Server()
    monkeypatch.setitem(DecathlonDataset.resource, TASK, server.url)
    yield server
    server.close()


def archive(files: dict[str, bytes], *others: tarfile.TarInfo) -> bytes:
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as tar:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
        for member in others:
            tar.addfile(member)
    return packed.getvalue()


def offer(server: Server, content: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the server give this, and let MONAI's digest be its."""
    server.content = content
    monkeypatch.setitem(DecathlonDataset.md5, TASK, hashlib.md5(content).hexdigest())


def everything_in(folder: Path) -> dict[str, bytes]:
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("hippocampus", TASK),
        ("Task04_Hippocampus", TASK),
        ("task04", TASK),
        ("4", TASK),
        ("04", TASK),
        ("10", "Task10_Colon"),
        ("hepatic_vessel", "Task08_HepaticVessel"),
        ("brain tumor", "Task01_BrainTumour"),
    ],
)
def test_a_task_has_several_names(text: str, name: str) -> None:
    assert known_task(text) == (name, DecathlonDataset.resource[name], DecathlonDataset.md5[name])


@pytest.mark.parametrize(
    ("text", "hint"),
    [
        ("livre", "did you mean Task03_Liver?"),
        ("11", "known: Task01_BrainTumour, Task02_Heart"),
        ("Task03_Hippocampus", "did you mean Task04_Hippocampus?"),
        ("task", "known: Task01_BrainTumour"),
    ],
)
def test_an_unknown_task_is_refused_with_a_hint(text: str, hint: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=f"no task '{text}'; {hint[:-1]}"):
        api.download(text, out=tmp_path / "new")
    assert not (tmp_path / "new").exists()


def test_a_task_arrives_whole_and_without_what_macos_adds(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    extra = {f"._{TASK}": b"?", f"{TASK}/imagesTr/._hippocampus_001.nii.gz": b"?"}
    folder = tarfile.TarInfo(f"{TASK}/imagesTr")
    folder.type = tarfile.DIRTYPE
    offer(server, archive(extra | FILES, folder), monkeypatch)
    found = api.download("hippocampus", out=tmp_path / "data")
    assert everything_in(tmp_path / "data") == FILES
    assert [path.name for path in (tmp_path / "data").iterdir()] == [TASK]
    assert found.folder == tmp_path / "data" / TASK
    assert (found.num_files, found.num_bytes) == (3, sum(map(len, FILES.values())))
    with pytest.raises(RunError, match=f"{TASK} is there already; learn from it"):
        api.download("hippocampus", out=tmp_path / "data")


def refused(out: Path, error: type[Exception], message: str) -> None:
    """It is refused, and leaves neither the folder nor anything in one that was there."""
    with pytest.raises(error, match=message):
        api.download("4", out=out / "new" / "data")
    assert not (out / "new" / "data").exists()
    (out / "old").mkdir()
    (out / "old" / "notes.txt").write_text("mine")
    with pytest.raises(error, match=message):
        api.download("4", out=out / "old")
    assert everything_in(out) == {"old/notes.txt": b"mine"}


def test_without_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    monkeypatch.setitem(DecathlonDataset.resource, TASK, f"http://127.0.0.1:{port}/a.tar")
    refused(tmp_path, RunError, r"a\.tar cannot be downloaded \(Connection refused\); check")


def test_a_server_that_refuses(server: Server, tmp_path: Path) -> None:
    server.status = 403
    refused(tmp_path, RunError, r"cannot be downloaded \(the server says 403 Forbidden\)")


def test_a_connection_that_ends_early(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    offer(server, archive(FILES), monkeypatch)
    server.length = len(server.content) + 1
    refused(tmp_path, RunError, rf"after {len(server.content)} of {server.length} bytes|Incomplete")


def test_an_archive_with_another_digest(server: Server, tmp_path: Path) -> None:
    server.content = archive(FILES)
    refused(tmp_path, RunError, f"is damaged: .* expected {DecathlonDataset.md5[TASK]}; repeat")


def member(name: str, kind: bytes = tarfile.REGTYPE, target: str = "") -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, target
    return info


@pytest.mark.parametrize(
    "evil",
    [
        member("../escaped"),
        member(f"{TASK}/../../escaped"),
        member("/tmp/medseg3d-escaped"),
        member("Task05_Prostate/dataset.json"),
        member(f"{TASK}-more/file"),
        member(f"{TASK}/link", tarfile.SYMTYPE, "/etc/hostname"),
        member(f"{TASK}/hard", tarfile.LNKTYPE, f"{TASK}/dataset.json"),
        member(f"{TASK}/pipe", tarfile.FIFOTYPE),
    ],
    ids=lambda info: f"{info.name} {info.type!r}",
)
def test_nothing_but_files_of_the_task_is_unpacked(
    evil: tarfile.TarInfo, server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    offer(server, archive(FILES, evil), monkeypatch)
    refused(tmp_path, DataError, "which is no file in the folder Task04_Hippocampus")
    assert not Path("/tmp/medseg3d-escaped").exists()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"no archive", "cannot be unpacked"),
        (archive({f"{TASK}/notes.txt": b""}), f"holds no {TASK}/dataset.json"),
    ],
)
def test_an_archive_of_something_else(
    content: bytes,
    message: str,
    server: Server,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    offer(server, content, monkeypatch)
    refused(tmp_path, DataError, message)


def test_a_disk_that_is_too_small(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    offer(server, archive(FILES), monkeypatch)
    monkeypatch.setattr("medseg3d.machine.free_disk", lambda _: 2 * len(server.content) - 1)
    refused(tmp_path, RunError, "has .* free, but .* are needed to download and unpack")


def test_a_folder_that_cannot_be_written(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    offer(server, archive(FILES), monkeypatch)
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(RunError, match="file/data cannot be written: a part of the path is not"):
        api.download("4", out=tmp_path / "file" / "data")


def test_ctrl_c_leaves_nothing(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(*args: object, **kwargs: object) -> None:
        raise KeyboardInterrupt

    offer(server, archive(FILES), monkeypatch)
    for moment in ("set_progress", "advance"):  # while it arrives, while it is unpacked
        with monkeypatch.context() as patch:
            patch.setattr(downloading.Progress, moment, interrupt)
            with pytest.raises(KeyboardInterrupt):
                api.download("4", out=tmp_path / "data")
        assert not (tmp_path / "data").exists()


def test_what_a_killed_download_left_is_removed_and_what_runs_is_not(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    offer(server, archive(FILES), monkeypatch)
    left = tmp_path / ".medseg3d-00000000-1-000000000000-part"  # of another machine
    left.mkdir()
    (left / "archive").write_bytes(b"half")
    for path in (left / "archive", left):
        os.utime(path, (0, 0))
    with downloading._working_folder(tmp_path) as running:
        (running / "archive").write_bytes(b"half")
        assert not left.exists()
        api.download("4", out=tmp_path)
        assert set(tmp_path.iterdir()) == {tmp_path / TASK, running}
        assert (running / "archive").read_bytes() == b"half"


def test_all_is_on_the_disk_before_it_gets_its_name(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    flushed: set[str] = set()
    sync = os.fsync

    def note(descriptor: int) -> None:
        if not (tmp_path / TASK).exists():
            flushed.add(Path(f"/proc/self/fd/{descriptor}").readlink().name)
        sync(descriptor)

    offer(server, archive(FILES), monkeypatch)
    monkeypatch.setattr(os, "fsync", note)
    api.download("4", out=tmp_path)
    assert flushed >= {part for name in FILES for part in Path(name).parts}


def test_a_disk_that_fails_while_it_is_flushed_leaves_nothing(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(_: int) -> None:
        raise OSError(errno.EIO, "no")

    offer(server, archive(FILES), monkeypatch)
    monkeypatch.setattr(os, "fsync", fail)
    refused(tmp_path, RunError, "cannot be written: the disk reports an error")


@pytest.fixture
def quiet_logger() -> Iterator[None]:
    yield
    for handler in list(cli.LOGGER.handlers):
        if isinstance(handler, cli.StderrHandler):
            cli.LOGGER.removeHandler(handler)
    cli.LOGGER.setLevel(logging.NOTSET)


def run(*arguments: str | Path) -> Result:
    return CliRunner().invoke(cli.app, [str(argument) for argument in arguments])


@pytest.mark.usefixtures("quiet_logger")
def test_the_command_prints_the_folder_and_says_what_is_next(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    offer(server, archive(FILES), monkeypatch)
    out = tmp_path / "my data"
    result = run("download", "hippocampus", "-o", out)
    assert (result.exit_code, result.stdout) == (0, f"{out / TASK}\n"), result.output
    told = result.stderr.splitlines()
    assert f"downloading {server.url}, 20.0 KiB" in told
    assert f"learn from it: medseg3d fit '{out / TASK}'" in told


@pytest.mark.usefixtures("quiet_logger")
def test_the_command_without_network_is_one_sentence(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.status = 503
    result = run("download", "hippocampus", "-o", tmp_path / "data")
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr.startswith(f"medseg3d download: {server.url} cannot be downloaded (the")
    assert len(result.stderr.splitlines()) == 1
    assert list(tmp_path.iterdir()) == []
