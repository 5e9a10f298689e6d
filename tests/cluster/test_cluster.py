"""Jobs on real worker processes: each once, again after a death, and nothing left at the end."""

import logging
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any, TypeVar

import cluster_jobs
import pytest
from cluster_jobs import Deadly, Faulty

from medseg3d.cluster import Cluster, connection, runner, versions
from medseg3d.errors import RunError

J = TypeVar("J")
HERE = Path(__file__).parent


def run(
    cluster: Cluster, function: Callable[[J], Any], jobs: list[J], **options: str
) -> tuple[dict[J, Any], dict[J, str]]:
    """Results and reasons of failure, by job; each job ends once."""
    ended: list[J] = []
    results: dict[J, Any] = {}
    failures: dict[J, str] = {}

    def on_result(job: J, result: Any) -> None:
        ended.append(job)
        results[job] = result

    def on_failure(job: J, error: Exception) -> None:
        ended.append(job)
        failures[job] = str(error)

    cluster.run(function, jobs, on_result=on_result, on_failure=on_failure, **options)
    assert sorted(map(repr, ended)) == sorted(map(repr, jobs))
    return results, failures


def test_jobs_are_done_one_at_a_time_by_workers_that_keep_the_model(cluster: Cluster) -> None:
    results, failures = run(cluster, cluster_jobs.remember, list(range(30)))
    assert failures == {}
    assert {done.job for done in results.values()} == set(range(30))
    assert all(done.loads == 1 and done.was_alone for done in results.values())
    assert {done.threads for done in results.values()} == {str(cluster.threads)}
    assert os.getpid() not in {done.process for done in results.values()}
    assert run(cluster, cluster_jobs.remember, []) == ({}, {})


def test_a_job_that_raises_fails_alone_and_once(cluster: Cluster, tmp_path: Path) -> None:
    tries = tmp_path / "tries"
    kinds = ["disagree", "leave", "surprise", "return_a_lock", "say"]
    results, failures = run(cluster, cluster_jobs.fail, [Faulty(kind, tries) for kind in kinds])
    assert [job.kind for job in results] == ["say"]
    told = {job.kind: reason for job, reason in failures.items()}
    assert told["disagree"] == "case a: the masks differ; draw them again"
    assert told["leave"].startswith("unexpected SystemExit: 3;")
    assert told["surprise"].startswith("unexpected StubbornError: a b;")
    assert told["return_a_lock"].startswith("unexpected TypeError: ")
    assert sorted(tries.read_text().split()) == sorted(kinds)


def test_what_a_job_logs_is_logged_here(
    cluster: Cluster,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(logging.getLogger("medseg3d"), "handlers", [])  # other tests' prints too
    with caplog.at_level(logging.INFO, "medseg3d"):
        run(cluster, cluster_jobs.fail, [Faulty("say", tmp_path / "tries")])
    assert caplog.record_tuples == [("medseg3d", logging.WARNING, "50 %")]
    assert "50 %" not in capfd.readouterr().err, "the worker itself prints nothing"


def test_a_full_disk_ends_all(cluster: Cluster, tmp_path: Path) -> None:
    tries = tmp_path / "tries"
    with pytest.raises(RunError, match=r"^/out/a\.nii: No space left on device$"):
        run(cluster, cluster_jobs.fail, [Faulty("fill_disk", tries)] * 9)
    assert len(tries.read_text().split()) < 9


def test_a_killed_workers_job_is_tried_again_and_fails_with_the_third(
    cluster: Cluster, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    deaths = [0, 1, 9, 0, 0]
    jobs = [Deadly(tmp_path / f"case{number}", count) for number, count in enumerate(deaths)]
    results, failures = run(cluster, cluster_jobs.risk, jobs)
    assert results == {jobs[0]: 1, jobs[1]: 2, jobs[3]: 1, jobs[4]: 1}
    assert list(failures) == [jobs[2]]
    assert failures[jobs[2]].startswith("3 workers died while they worked on it")
    assert len(jobs[2].tries.read_text().split()) == 3
    assert [record.message for record in caplog.records] == [
        "a worker died at its work, which is tried again"
    ] * 3
    results, _ = run(cluster, cluster_jobs.remember, [1, 2])
    assert len(results) == 2, "the workers are back"


def test_a_worker_that_is_killed_between_its_job_and_the_taking_of_it_costs_nothing(
    cluster: Cluster, workers: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runner, "SECONDS_BETWEEN_LOOKS", 60)  # it learns of the death by the job
    futures = cluster._connection.client.futures
    earlier = set(futures)
    results: dict[int, int] = {}

    def wait_for(*statuses: str) -> None:
        until = time.monotonic() + 60
        while sorted(futures[key].status for key in futures.keys() - earlier) != [*statuses]:
            assert time.monotonic() < until, statuses
            time.sleep(0.01)

    def on_result(job: int, done: cluster_jobs.Done) -> None:
        if not results:
            wait_for("finished", "finished")
            [other] = set(workers) - {done.process}
            os.kill(other, signal.SIGKILL)
            wait_for("finished", "lost")
        results[job] = done.process

    def on_failure(job: int, error: Exception) -> None:
        raise AssertionError(f"{job}: {error}")

    cluster.run(cluster_jobs.remember, [0, 1], on_result=on_result, on_failure=on_failure)
    assert sorted(results) == [0, 1]


def test_workers_do_not_hear_ctrl_c(cluster: Cluster, workers: list[int]) -> None:
    assert len(workers) == 2
    for process in workers:
        os.kill(process, signal.SIGINT)
    results, _ = run(cluster, cluster_jobs.remember, [1, 2, 3])
    assert {done.process for done in results.values()} <= set(workers)


def test_nobody_listens_to_other_machines(cluster: Cluster, workers: list[int]) -> None:
    found = list(_listening([os.getpid(), *workers]))
    assert len(found) >= 3
    assert {address for address, _ in found} == {"0100007F"}


def _listening(processes: list[int]) -> Iterator[tuple[str, str]]:
    inodes = set()
    for process in processes:
        for link in Path(f"/proc/{process}/fd").iterdir():
            target = str(link.readlink()) if link.is_symlink() else ""
            inodes.add(target.removeprefix("socket:[").removesuffix("]"))
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        for line in Path(table).read_text().splitlines()[1:] if Path(table).exists() else ():
            parts = line.split()
            if parts[3] == "0A" and parts[9] in inodes:
                address, _, port = parts[1].partition(":")
                yield address, port


def test_the_workers_of_a_scheduler_are_used_and_stay(scheduler: str, workers: list[int]) -> None:
    with Cluster(scheduler.removeprefix("tcp://")) as cluster:
        assert cluster.num_local == 0
        assert cluster.threads is None
        results, failures = run(cluster, cluster_jobs.remember, [1, 2, 3])
    assert failures == {}
    assert {done.process for done in results.values()} <= set(workers)
    assert all(Path(f"/proc/{process}").exists() for process in workers)


def test_other_versions_are_refused(scheduler: str, monkeypatch: pytest.MonkeyPatch) -> None:
    ours = dict(versions.versions_here())
    monkeypatch.setattr(versions, "versions_here", lambda: ours | {"medseg3d": "9.9"})
    told = rf"^the scheduler has medseg3d {ours['medseg3d']} in place of medseg3d 9\.9; install"
    with Cluster(scheduler) as cluster, pytest.raises(RunError, match=told):
        run(cluster, cluster_jobs.remember, [1])


def test_a_worker_of_other_versions_is_refused_or_left_out(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    found = {"scheduler": "", "a": "", "b": "no medseg3d in place of medseg3d 1"}
    monkeypatch.setattr(runner, "differences", lambda *_: found)
    cluster = Cluster("local:1")
    cluster._connection = connection.Connection(None)
    cluster._compare_versions({"a", "b", "silent"})
    assert cluster._fit == {"a"}
    assert caplog.messages == [
        "the worker at b has no medseg3d in place of medseg3d 1, so it gets no work"
    ]
    found["a"] = found["b"]
    other = Cluster("local:1")
    other._connection = cluster._connection
    with pytest.raises(RunError, match=r"^the worker at a has no medseg3d in place of .*; install"):
        other._compare_versions({"a", "b"})


@contextmanager
def stranger(answer: bytes | None) -> Iterator[str]:
    """A service that is no scheduler: refusing, silent, or saying something else."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"127.0.0.1:{server.getsockname()[1]}"
        if answer is None:
            server.close()
        elif answer:

            def serve() -> None:
                with closing(server.accept()[0]) as peer:
                    peer.sendall(answer)

            threading.Thread(target=serve, daemon=True).start()
        yield address


@pytest.mark.parametrize(
    ("answer", "told"),
    [
        (None, "^no Dask scheduler answers at tcp://127.* within 0.5 s; check the address"),
        (b"", "^no Dask scheduler answers at tcp://127.* within 0.5 s; check the address"),
        (b"HTTP/1.1 400 Bad Request\r\n" * 9, "^what answers at tcp://127.* is no Dask scheduler"),
    ],
)
def test_a_scheduler_that_is_not_there_is_told_soon(
    answer: bytes | None, told: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert connection.SECONDS_TO_CONNECT + 1 < 15
    monkeypatch.setattr(connection, "SECONDS_TO_CONNECT", 0.5)
    begun = time.monotonic()
    with stranger(answer) as address, pytest.raises(RunError, match=told), Cluster(address):
        pass
    assert time.monotonic() - begun < 20


@pytest.fixture
def idle_scheduler() -> Iterator[Any]:
    """A scheduler without workers."""
    from distributed import LocalCluster

    quiet = {"dashboard_address": "127.0.0.1:0", "scheduler_kwargs": {"dashboard": False}}
    with connection._quiet(), LocalCluster(n_workers=0, threads_per_worker=1, **quiet) as found:
        yield found


def test_a_scheduler_without_workers_is_given_up(
    idle_scheduler: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runner, "PATIENCE", 0.2)
    told = "has had no worker that takes work for 0.2 s; start some with: dask worker"
    address = idle_scheduler.scheduler_address
    with Cluster(address) as cluster, pytest.raises(RunError, match=told):
        run(cluster, cluster_jobs.remember, [1])


def test_a_scheduler_that_ends_is_told(idle_scheduler: Any) -> None:
    with Cluster(idle_scheduler.scheduler_address) as cluster:
        ending = threading.Timer(0.5, idle_scheduler.close)
        ending.start()
        with pytest.raises(RunError, match=r"any more; nothing is kept, begin anew$"):
            run(cluster, cluster_jobs.remember, [1], if_lost="nothing is kept, begin anew")
        ending.join()


def test_without_the_extra_it_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "distributed", None)
    with pytest.raises(RunError, match=re.escape('pip install "medseg3d[cluster]"')):
        Cluster("local:1").__enter__()


def test_no_more_workers_than_jobs_and_threads_are_shared(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr(connection, "num_processors", lambda: 8)
    assert (Cluster("local:4", at_most=2).num_local, Cluster("local:4").threads) == (2, 2)
    assert Cluster("local:99").threads == 1
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    assert Cluster("local:2").threads == 1


ENDED = """
import sys, time
from pathlib import Path
sys.path.insert(0, sys.argv[1])
import cluster_jobs
from medseg3d.cluster import Cluster
from medseg3d.process import handle_signals

if __name__ == "__main__":
    handle_signals()
    try:
        with Cluster("local:1") as cluster:
            print("begun", flush=True)
            cluster.run(cluster_jobs.nap, [Path(sys.argv[2])], on_result=print, on_failure=print)
    except KeyboardInterrupt as error:
        sys.exit(type(error).__name__)
"""


def test_however_it_ends_no_process_is_left(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(ENDED)
    ways = {
        "ctrl_c": (signal.SIGINT, os.killpg, True, "KeyboardInterrupt\n"),
        "early": (signal.SIGINT, os.killpg, False, "KeyboardInterrupt\n"),
        "terminated": (signal.SIGTERM, os.kill, True, "Terminated\n"),
        "killed": (signal.SIGKILL, os.kill, True, None),
    }
    processes = {name: _started(script, tmp_path / name) for name in ways}
    for name, (number, send, is_at_work, _) in ways.items():
        process = processes[name]
        assert process.stdout is not None
        process.stdout.readline()
        while is_at_work and not (tmp_path / name).exists():
            time.sleep(0.02)
        if is_at_work:
            assert len(_session(process.pid)) >= 2
        send(process.pid, number)
    begun = time.monotonic()
    for name, (_, _, _, told) in ways.items():
        _, errors = processes[name].communicate(timeout=30)
        assert errors == told or (told is None and "Traceback" not in errors), name
    while any(_session(process.pid) for process in processes.values()):
        assert time.monotonic() - begun < 30
        time.sleep(0.02)
    left = {path.parent.stem for path in tmp_path.glob("*.scratch/*")}
    assert left <= {"killed"}


def _started(script: Path, place: Path) -> subprocess.Popen[str]:
    (scratch := place.with_suffix(".scratch")).mkdir()
    return subprocess.Popen(
        [sys.executable, script, str(HERE), str(place)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        env=os.environ | {"TMPDIR": str(scratch)},
    )


def _session(leader: int) -> list[str]:
    """Processes of a session that live, wherever they hang in the tree."""
    found = []
    for place in Path("/proc").iterdir():
        if place.name.isdigit():
            try:
                state = (place / "stat").read_text().rpartition(")")[2].split()
            except OSError:
                continue
            if int(state[3]) == leader and state[0] != "Z":
                found.append(place.name)
    return found
