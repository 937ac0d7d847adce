#!/usr/bin/env python3
"""What a promise costs: requests with an idempotency key and a price, state in a directory against state in memory.

    cargo build --release && benches/keyed.py [--rounds 5] [--seconds 3] [--connections 64] [--against NAME=BINARY ...]

Every request carries a key of its own and costs credit, so that each is reserved and claimed durably before it is forwarded. The
gate runs one worker and its journal on core 1; wrk and the backend (an nginx that answers 201) share core 0. The candidates take
turns in one run, and so does the backend without a gate: its latency is what the generator and the backend make of one core by
themselves. With --against there are also gates from other binaries, each with a directory.

Beside requests per second and latency it prints the CPU time of a request, what the journal's threads have of it, syncs per
request (from the gate's own counter), and what one sync of a small write takes on this disk right now, to which the latency is to
be held: two syncs and 5 ms at the 99th percentile.
Traffic stays on loopback. Needs wrk, nginx, util-linux (Debian's packages) and two cores.
"""
import argparse
import hashlib
import json
import os
import re
import shutil
import statistics
import subprocess
import tempfile
import time
import urllib.request

from processes import NGINX, TOLLGATE, Running, cpu_us, free_port, write

WRK = """
local n = 0
local seed = "%(seed)s-"
request = function()
  n = n + 1
  return wrk.format("POST", "/sms/send", { ["Authorization"] = "Bearer bench-secret", ["Idempotency-Key"] = seed .. n, ["Content-Type"] = "application/json" }, '{"to":"31600000000","text":"hello"}')
end
done = function(summary, latency)
  local e = summary.errors
  io.write(string.format("DONE %%d %%d %%d %%d %%d\\n", summary.requests, summary.duration, latency:percentile(50), latency:percentile(99), e.connect + e.read + e.write + e.status + e.timeout))
end
"""

POLICY = """
version: 1
listen: 127.0.0.1:%(port)d
upstream: http://127.0.0.1:%(upstream)d
admin: 127.0.0.1:%(admin)d
state: %(state)s
workers: 1
record: { to: none }
credentials: { accept: [bearer], keys: bench.keys.yaml }
idempotency: { keep: 1h, records: 20000000, records_per_tenant: 20000000, memory: 8GiB }
routes:
  - { name: sms-send, match: POST /sms/send, idempotency: require, cost: 0.05 }
  - { name: root, match: GET /, public: true, answer: ready }
limits:
  throttle: { rate: 100000000/minute, per: key }
  monthly: { quota: 900000000000/month, per: tenant }
  wallet: { credit: prepaid, unit: EUR, per: tenant }
"""


def metric(port, name):
    text = urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=5).read().decode()
    return sum(float(line.rsplit(" ", 1)[1]) for line in text.splitlines() if re.match(rf"{name}(\{{| )", line))


def top_up(port):
    body = json.dumps({"limit": "wallet", "tenant": "acme", "add": "1000000000"}).encode()
    request = urllib.request.Request(f"http://127.0.0.1:{port}/v1/credit", body, {"Content-Type": "application/json"})
    for _ in range(50):
        try:
            return urllib.request.urlopen(request, timeout=5).read()
        except OSError:
            # The admin listener may come after the other.
            time.sleep(0.1)
    raise SystemExit("the admin listener does not answer")


def one_sync(directory):
    """Milliseconds that a small write and its sync take here, the median of fifty."""
    took = []
    with open(os.path.join(directory, "probe"), "wb", buffering=0) as f:
        for _ in range(50):
            f.write(b"x" * 4096)
            since = time.perf_counter()
            os.fdatasync(f.fileno())
            took.append((time.perf_counter() - since) * 1000)
    return statistics.median(took)


def journal_us(pid):
    """CPU time of the journal's threads so far; none where state is in memory."""
    nanos = 0
    for task in os.listdir(f"/proc/{pid}/task"):
        if open(f"/proc/{pid}/task/{task}/comm").read().strip() in ("state", "tables"):
            nanos += int(open(f"/proc/{pid}/task/{task}/schedstat").read().split()[0])
    return nanos / 1000


def spent(gate):
    """Syncs, and microseconds of CPU of the gate and of its journal, so far; nothing where there is no gate."""
    if not gate:
        return 0, 0, 0
    return metric(gate.admin, "tollgate_store_syncs_total"), cpu_us(gate.process.pid), journal_us(gate.process.pid)


def load(work, port, connections, seconds, seed):
    write(f"{work}/wrk.lua", WRK % {"seed": seed})
    command = ["taskset", "-c", "0", "wrk", "-t1", f"-c{connections}", f"-d{seconds}s", "--latency", "-s", f"{work}/wrk.lua", f"http://127.0.0.1:{port}/"]
    out = subprocess.run(command, capture_output=True, text=True, timeout=seconds + 30).stdout
    done = [line.split() for line in out.splitlines() if line.startswith("DONE")]
    if not done:
        raise SystemExit(f"wrk said nothing useful:\n{out}")
    requests, duration, p50, p99, errors = map(int, done[0][1:])
    return requests, requests / (duration / 1e6), p50 / 1000, p99 / 1000, errors


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=int, default=3)
    parser.add_argument("--connections", type=int, default=64)
    parser.add_argument("--cores", default="1", help="where the gate may run (the default is core 1 alone, beside nobody)")
    parser.add_argument("--against", action="append", default=[], metavar="NAME=BINARY", help="another gate that takes turns, with a directory")
    parser.add_argument("--disk", help="where the state goes (the default is the system's temporary directory)")
    options = parser.parse_args()
    for tool in ("wrk", "taskset", "nginx"):
        if not shutil.which(tool):
            raise SystemExit(f"{tool} is not installed: apt-get install wrk nginx util-linux")
    running = []
    with tempfile.TemporaryDirectory(dir=options.disk) as work:
        try:
            upstream = free_port()
            write(f"{work}/backend.conf", NGINX % {"work": work, "name": "backend", "http": f"""
  server {{ listen 127.0.0.1:{upstream} backlog=4096; location / {{ default_type application/json; return 201 '{{"id":"0192f0c1-7d3b-7cc3-98c4"}}'; }} }}"""})
            running.append(Running("backend", 0, ["nginx", "-c", f"{work}/backend.conf"], upstream, work))
            digest = hashlib.sha256(b"bench-secret").hexdigest()
            write(f"{work}/bench.keys.yaml", f"- {{ id: bench, tenant: acme, digest: {{ sha256: {digest} }} }}\n")
            candidates = {"no gate": None}
            gates = [("memory", TOLLGATE), ("directory", TOLLGATE)] + [other.split("=", 1) for other in options.against]
            for name, binary in gates:
                port, admin = free_port(), free_port()
                state = "memory" if name == "memory" else f"./state-of-{name}"
                write(f"{work}/{name}.yaml", POLICY % {"port": port, "upstream": upstream, "admin": admin, "state": state})
                gate = Running(name, options.cores, [binary, "run", "--config", f"{work}/{name}.yaml"], port, work)
                gate.admin = admin
                top_up(admin)
                running.append(gate)
                candidates[name] = gate
            rows = {name: [] for name in candidates}
            failed = 0
            for at in range(options.rounds + 1):
                for name, gate in candidates.items():
                    syncs, cpu, journal = spent(gate)
                    requests, rate, p50, p99, errors = load(work, gate.port if gate else upstream, options.connections, options.seconds, f"{name}{at}")
                    failed += errors
                    # The first round warms up.
                    if at:
                        syncs, cpu, journal = (after - before for after, before in zip(spent(gate), (syncs, cpu, journal)))
                        rows[name].append((rate, cpu / requests, journal / requests, p50, p99, syncs / requests, one_sync(work)))
            print(f"{options.connections} connections, medians of {options.rounds} rounds of {options.seconds} s; of p99 the least and the most beside it")
            print(f"{'state':12}{'requests/s':>12}{'CPU us':>9}{'journal us':>12}{'p50 ms':>9}{'p99 ms':>9}{'least-most':>14}{'syncs/request':>15}{'one sync ms':>13}{'2 syncs + 5 ms':>16}")
            for name, row in rows.items():
                columns = list(zip(*row))
                rate, cpu, journal, p50, p99, syncs, sync = (statistics.median(column) for column in columns)
                span = f"{min(columns[4]):.2f}-{max(columns[4]):.2f}"
                print(f"{name:12}{rate:12.0f}{cpu:9.1f}{journal:12.1f}{p50:9.2f}{p99:9.2f}{span:>14}{syncs:15.4f}{sync:13.2f}{2 * sync + 5:16.2f}")
            if failed:
                raise SystemExit(f"{failed} requests failed: the figures say nothing")
        finally:
            for process in reversed(running):
                process.end()


main()
