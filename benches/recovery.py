#!/usr/bin/env python3
"""How long a gate takes from its start until it is ready: without state, with state after an orderly end, and after a kill.

    cargo build --release --bin tollgate --example fill_state && benches/recovery.py [--mib 1024] [--rounds 3] [--body 300]

State is idempotency records with answers of `--body` bytes, written through the gate's own store until the journal has so many
MiB; then its writer is killed. Each round starts a gate on a copy of that (after a kill), ends it in order, and starts it once
more. Ready is the moment at which /readyz says so; CPU is what all threads took until then. Resident memory is that of the gate when it is ready: answers are kept in
memory as well. Traffic stays on loopback. Needs twice the size on the disk of `--disk`, and as much memory.
"""
import argparse
import os
import shutil
import signal
import statistics
import subprocess
import tempfile
import time
import urllib.error
import urllib.request

from processes import ROOT, TOLLGATE, cpu_us, free_port, write

FILL = os.path.join(ROOT, "target", "release", "examples", "fill_state")
MOST_MIB = 8192
LONGEST = 120

POLICY = """
version: 1
listen: 127.0.0.1:%(port)d
upstream: http://127.0.0.1:9
admin: 127.0.0.1:%(admin)d
state: ./state
record: { to: none }
idempotency: { keep: 1d, records: 50000000, records_per_tenant: 50000000, memory: 64GiB }
routes:
  - { name: root, match: GET /, public: true, answer: ready }
"""


def is_ready(admin):
    try:
        return urllib.request.urlopen(f"http://127.0.0.1:{admin}/readyz", timeout=5).status == 200
    except (OSError, urllib.error.URLError):
        return False


def status(pid, name):
    for line in open(f"/proc/{pid}/status"):
        if line.startswith(name + ":"):
            return int(line.split()[1]) * 1024
    return 0


class Gate:
    """A gate on the state in `work`, with the seconds that it took to be ready."""

    def __init__(self, work):
        port, admin = free_port(), free_port()
        write(f"{work}/policy.yaml", POLICY % {"port": port, "admin": admin})
        log = open(f"{work}/gate.log", "w")
        since = time.perf_counter()
        self.process = subprocess.Popen([TOLLGATE, "run", "--config", f"{work}/policy.yaml"], stdout=log, stderr=log)
        while not is_ready(admin):
            if self.process.poll() is not None or time.perf_counter() - since > LONGEST:
                self.end()
                raise SystemExit(f"the gate did not get ready:\n{open(log.name).read()[-2000:]}")
            time.sleep(0.002)
        self.seconds = time.perf_counter() - since
        self.cpu = cpu_us(self.process.pid) / 1000
        self.resident = status(self.process.pid, "VmRSS")

    def end(self):
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            try:
                self.process.wait(LONGEST)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()


def fill(work, mib, body):
    """Fills `work`/filled and kills whoever did it; returns how many records there are."""
    filler = subprocess.Popen([FILL, f"{work}/filled", str(mib), str(body)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    said = filler.stdout.readline()
    filler.kill()
    filler.wait()
    if not said:
        raise SystemExit("fill_state did not fill the directory")
    return int(said)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mib", type=int, default=1024, help=f"size of the journal, at most {MOST_MIB}")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--body", type=int, default=300, help="bytes of a kept answer")
    parser.add_argument("--disk", help="where the state goes (the default is the system's temporary directory)")
    options = parser.parse_args()
    if not 2 <= options.mib <= MOST_MIB:
        raise SystemExit(f"--mib: 2 to {MOST_MIB}")
    for binary in (TOLLGATE, FILL):
        if not os.path.exists(binary):
            raise SystemExit(f"{binary} is missing: cargo build --release --bin tollgate --example fill_state")
    rows = {"no state": [], "after a kill": [], "after an orderly end": []}
    with tempfile.TemporaryDirectory(dir=options.disk) as work:
        records = fill(work, options.mib, options.body)
        for _ in range(options.rounds):
            shutil.rmtree(f"{work}/state", ignore_errors=True)
            for name in rows:
                if name == "after a kill":
                    shutil.rmtree(f"{work}/state")
                    shutil.copytree(f"{work}/filled", f"{work}/state")
                gate = Gate(work)
                rows[name].append((gate.seconds * 1000, gate.cpu, gate.resident / (1 << 20)))
                gate.end()
        size = os.path.getsize(f"{work}/filled/journal") / (1 << 20)
    print(f"{records} records, a journal of {size:.0f} MiB, medians of {options.rounds} starts")
    print(f"{'state':22}{'ready after ms':>16}{'CPU ms':>9}{'resident MiB':>14}")
    for name, row in rows.items():
        took, cpu, resident = (statistics.median(column) for column in zip(*row))
        print(f"{name:22}{took:16.0f}{cpu:9.0f}{resident:14.0f}")


main()
