"""The write log in processes that are killed, run into a full file system, or get errors from the kernel."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import textwrap
import time
from collections import defaultdict
from pathlib import Path
from random import Random

import pytest

from matching.live import Appended, WriteLog

ROOT = Path(__file__).resolve().parents[2]
N_THREADS = 4

# forks a writer for each life that it is told of; each of its threads appends batches `life:thread:i:record:of how many:filling`,
# and tells of each answer in one line
WRITER = """
import os, random, sys, threading
from matching.live import WriteLog

def work(log, life, seed, thread):
    rng = random.Random(seed * 1000 + thread)
    for i in range(100_000):
        n = rng.choice([1, 1, 2, 5])
        filling = "x" * rng.randrange(300)
        batch = [f"{life}:{thread}:{i}:{r}:{n}:{filling}".encode() for r in range(n)]
        answer = log.append(batch, request_id=f"{life}:{thread}:{i}")
        os.write(1, f"{answer.first_sequence} {life}:{thread}:{i}\\n".encode())
        if rng.random() < 0.02:
            log.truncate(max(0, answer.first_sequence - 2000))

def live(life, seed):
    log = WriteLog.open(sys.argv[1], segment_bytes=20_000)
    threads = [threading.Thread(target=work, args=(log, life, seed, t)) for t in range(int(sys.argv[2]))]
    for t in threads: t.start()
    for t in threads: t.join()

for line in sys.stdin:
    life, seed = map(int, line.split())
    pid = os.fork()
    if not pid:
        live(life, seed)
    os.write(1, f"writer {pid}\\n".encode())
    _, status = os.waitpid(pid, 0)
    os.write(1, f"ended {os.waitstatus_to_exitcode(status)}\\n".encode())
"""


def acknowledged_until_killed(writers: subprocess.Popen[str], life: int, chosen: Random) -> dict[str, int]:
    """Let a writer live, kill it at some moment, and return the first sequence of each append that it told of."""
    assert writers.stdin
    assert writers.stdout
    writers.stdin.write(f"{life} {chosen.randrange(1 << 30)}\n")
    writers.stdin.flush()
    told: dict[str, int] = {}
    process = 0
    while True:
        first, second = writers.stdout.readline().split()
        if first == "ended":
            assert int(second) == -signal.SIGKILL
            return told
        if first == "writer":
            process = int(second)
        else:
            told[second] = int(first)
        if process and told:
            time.sleep(chosen.random() * 0.15)
            os.kill(process, signal.SIGKILL)
            process = 0


def batches(log: WriteLog) -> dict[str, tuple[int, int]]:
    """Return the first sequence and the size of each append in the log, having proved that each is whole and there once."""
    found: dict[str, list[tuple[int, int, int]]] = defaultdict(list)
    for record in log.read(log.first_sequence):
        life, thread, i, r, n, filling = record.payload.decode().split(":")
        assert set(filling) <= {"x"}
        found[f"{life}:{thread}:{i}"].append((record.sequence, int(r), int(n)))
    for name, records in found.items():
        first = records[0][0]
        assert records == [(first + r, r, len(records)) for r in range(records[0][2])], name
    return {name: (records[0][0], len(records)) for name, records in found.items()}


@pytest.mark.timeout(7200)
@pytest.mark.parametrize("n_kills", [4, pytest.param(2000, marks=pytest.mark.slow)])
def test_a_kill_loses_nothing_that_was_acknowledged(tmp_path: Path, n_kills: int) -> None:
    chosen = Random(n_kills)
    acknowledged: dict[str, int] = {}
    command = [sys.executable, "-c", WRITER, str(tmp_path), str(N_THREADS)]
    writers = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT)
    for life in range(n_kills):
        told = acknowledged_until_killed(writers, life, chosen)
        acknowledged.update(told)
        assert len(told) > 0
        with WriteLog.open(tmp_path) as log:
            found = batches(log)
            for name, first in acknowledged.items():
                assert found.get(name, (0,))[0] == first if first >= log.first_sequence else name not in found, name
            threads: dict[str, list[int]] = defaultdict(list)
            for name in found:
                if name.startswith(f"{life}:"):
                    threads[name.rpartition(":")[0]].append(int(name.rpartition(":")[2]))
            for thread in range(N_THREADS):
                numbers = threads[f"{life}:{thread}"]
                last = numbers[-1] if numbers else -1
                assert numbers == list(range(last + 1 - len(numbers), last + 1)), "the order of each thread is kept"
                n_told = sum(name.startswith(f"{life}:{thread}:") for name in told)
                assert last + 1 - n_told in (0, 1), "no more than one append of a thread is unknown to it"
                for name in (f"{life}:{thread}:{i}" for i in range(max(0, last - 3), last + 1)):
                    again = log.append([b"again"], request_id=name)
                    assert again.is_repeat
                    assert again == Appended(found[name][0], sum(found[name]) - 1, is_repeat=True)
        acknowledged = {name: first for name, first in acknowledged.items() if first > log.last_sequence - 10_000}
    writers.communicate()
    assert writers.returncode == 0


FULL = """
import resource, sys
from matching.errors import StorageFull
from matching.live import WriteLog

log = WriteLog.open(sys.argv[1])
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, resource.RLIM_INFINITY))
n = 0
try:
    while n < 1000:
        log.append([b"%%d" %% n + b"x" * 999])
        n += 1
except StorageFull:
    print(log.failure)
assert [r.payload[:3] for r in log.read(1)] == [(b"%%d" %% i + b"xx")[:3] for i in range(n)]
if %d:
    resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    assert log.append([b"%%d" %% n + b"x" * 999]).first_sequence == n + 1
    assert log.failure is None
    n += 1
print(n)
%s
"""


@pytest.mark.parametrize("end", ["log.close()", ""])
@pytest.mark.parametrize("is_mended", [False, True])
def test_a_file_that_may_not_grow_refuses_and_goes_on_with_space(tmp_path: Path, is_mended: bool, end: str) -> None:
    command = [sys.executable, "-c", FULL % (is_mended, end), tmp_path]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    told, n = done.stdout.splitlines()
    assert told == "File too large; writes go on once there is space"
    assert 90 < int(n) < 100
    with WriteLog.open(tmp_path) as log:
        assert log.last_sequence == int(n)
        assert log.cut_bytes == 0, "half of the record that did not fit was taken back"
        assert [record.payload[:2] for record in log.read(1)] == [(b"%d" % i + b"x")[:2] for i in range(int(n))]
        assert log.append([b"on"]).last_sequence == int(n) + 1


TRACED = """
import os, sys
from matching.errors import StorageFull, Unavailable
from matching.live import WriteLog

log = WriteLog.open(sys.argv[1], segment_bytes=2000)
for i in range(40):
    payloads = [b"%d" % i + b"x" * 200]
    try:
        try:
            first = log.append(payloads, request_id=str(i)).first_sequence
        except StorageFull:  # one call fails, so there is space again
            first = log.append(payloads, request_id=str(i)).first_sequence
    except Unavailable:
        first = 0
    os.write(1, f"{first}\\n".encode())
    if i % 15 == 14 and log.failure is None:
        try:
            log.truncate(i - 10)
        except Unavailable:
            pass
"""


CALLS = ["fdatasync", "fsync", "pwrite64", "rename", "ftruncate", "unlink", "openat"]
EVERY = [(call, fault, 200) for call in CALLS for fault in ("error=EIO", "error=ENOSPC", "signal=KILL")]


@pytest.mark.timeout(3600)
@pytest.mark.skipif(not shutil.which("strace"), reason="needs strace, which fails a system call for us")
@pytest.mark.parametrize(
    ("call", "fault", "n_most"),
    [
        ("fdatasync", "error=EIO", 2),
        ("pwrite64", "error=ENOSPC", 2),
        ("rename", "signal=KILL", 2),
        *(pytest.param(*each, marks=pytest.mark.slow) for each in EVERY),
    ],
)
def test_a_fault_at_any_system_call(tmp_path: Path, call: str, fault: str, n_most: int) -> None:
    """The Nth of each kind fails, or the process dies there, for N from 1 on until there is none left."""
    script = tmp_path / "traced.py"
    script.write_text(textwrap.dedent(TRACED))
    # files are opened all day long in Python: only those of the log count
    only = ["-P", str(tmp_path)] if call == "openat" else []
    n_hit = 0
    for n in range(1, n_most + 1):
        folder = tmp_path / str(n)
        inject = f"inject={call}:{fault}:when={n}"
        command = ["strace", "-f", "-o", str(tmp_path / "trace"), *only, "-e", f"trace={call}", "-e", inject]
        done = subprocess.run([*command, sys.executable, script, folder], cwd=ROOT, capture_output=True, text=True)
        if "INJECTED" not in (tmp_path / "trace").read_text() and done.returncode != -9:
            break  # there are no more of them
        n_hit += 1
        told = [int(line) for line in done.stdout.split()]
        acknowledged = [first for first in told if first]
        assert acknowledged == list(range(1, len(acknowledged) + 1))
        if 0 in told:
            assert not any(told[told.index(0) :]), "nothing is acknowledged after an error"
        with WriteLog.open(folder) as log:
            assert log.last_sequence - len(acknowledged) in (0, 1)
            for record in log.read(log.first_sequence):
                assert record.payload == b"%d" % (record.sequence - 1) + b"x" * 200
            for i in range(len(acknowledged), 42):
                assert log.append([b"%d" % i + b"x" * 200], request_id=str(i)).first_sequence == i + 1
    assert n_hit > 0
