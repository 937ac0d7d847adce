#!/usr/bin/env python3
"""What a million keys cost: the time to load them, the memory of each, a reload beside the old ones, and its effect on latency.

    cargo build --release && benches/million_keys.py [--keys 1000000] [--tenants 1000] [--seconds 10] [--rate 0]

Writes a key file of JSON lines and starts a gate on it with two workers. Resident memory a key is that of this gate, once it
has rested, less that of the same gate with one key. A reload is set off by one more line in the file; its peak is the highest resident memory
from then until the new policy is in force, and what is left is read ten seconds later. With h2load (Debian's nghttp2-client)
it then sends requests of random keys at a fixed rate, half of what the gate takes at once (or `--rate`), and compares the 99th percentile of
seconds with and without a reload in turn. Traffic stays on loopback. Needs two cores, and 1 GiB of memory a million keys.
"""
import argparse
import hashlib
import os
import shutil
import statistics
import subprocess
import tempfile
import threading
import time
import urllib.error
import urllib.request

from processes import NGINX, TOLLGATE, Running, free_port, write

MOST_KEYS = 10_000_000
LONGEST = 120

POLICY = """
version: 1
listen: 127.0.0.1:%(port)d
upstream: http://127.0.0.1:%(upstream)d
admin: 127.0.0.1:%(admin)d
state: memory
workers: 2
record: { to: none }
credentials: { accept: [bearer], keys: %(keys)s }
routes:
  - { name: root, match: GET /, public: true, answer: ready }
  - { name: read, match: GET /read, scope: read }
limits:
  throttle: { rate: 1000000/minute, per: key }
"""


def secret(nth):
    return f"bench-secret-{nth}"


def key_line(nth, tenants):
    digest = hashlib.sha256(secret(nth).encode()).hexdigest()
    return f'{{"id":"key-{nth:08d}","tenant":"tenant-{nth % tenants:05d}","digest":{{"sha256":"{digest}"}},"scopes":["read"]}}\n'


def status_mib(pid, name):
    for line in open(f"/proc/{pid}/status"):
        if line.startswith(name + ":"):
            return int(line.split()[1]) / 1024
    return 0


class Gate:
    """A gate of ours, with the seconds from its start until it was ready."""

    def __init__(self, work, name, keys, upstream):
        port, admin = free_port(), free_port()
        write(f"{work}/{name}.yaml", POLICY % {"port": port, "admin": admin, "keys": keys, "upstream": upstream})
        self.log = f"{work}/{name}.log"
        log = open(self.log, "w")
        since = time.perf_counter()
        self.process = subprocess.Popen([TOLLGATE, "run", "--config", f"{work}/{name}.yaml"], stdout=log, stderr=log)
        self.port, self.admin, self.pid = port, admin, self.process.pid
        while not self.is_ready():
            if self.process.poll() is not None or time.perf_counter() - since > LONGEST:
                self.end()
                raise SystemExit(f"the gate did not get ready:\n{open(log.name).read()[-2000:]}")
            time.sleep(0.005)
        self.seconds = time.perf_counter() - since

    def is_ready(self):
        try:
            return urllib.request.urlopen(f"http://127.0.0.1:{self.admin}/readyz", timeout=5).status == 200
        except (OSError, urllib.error.URLError):
            return False

    def loads(self):
        """How many policies it has put in force, from its log: a scrape would take time of the cores that are measured."""
        return open(self.log).read().count(" policy_loaded ")

    def reload(self, file, line):
        """Appends a line, and returns seconds until it is in force and the highest resident MiB meanwhile."""
        before = self.loads()
        write(f"/proc/{self.pid}/clear_refs", "5")
        with open(file, "a") as keys:
            keys.write(line)
        since = time.perf_counter()
        while self.loads() == before:
            if time.perf_counter() - since > LONGEST:
                raise SystemExit("the gate did not take the new keys up")
            time.sleep(0.05)
        return time.perf_counter() - since, status_mib(self.pid, "VmHWM")

    def end(self):
        self.process.terminate()
        try:
            self.process.wait(30)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


def h2load(work, gate, options, seconds, rate):
    """Sends at a rate (0: as fast as it can) and returns (microseconds since the epoch, status, microseconds) of each request."""
    log = f"{work}/h2load.log"
    if os.path.exists(log):
        os.remove(log)
    clients = 32
    command = ["h2load", "--h1", f"-c{clients}", "-t1", "-D", str(seconds), "--log-file", log, "-H", f"Authorization: Bearer {secret(options.keys // 2)}"]
    if rate:
        command += ["--rps", str(max(1, rate // clients))]
    run = subprocess.run(command + [f"http://127.0.0.1:{gate.port}/read"], capture_output=True, text=True, timeout=seconds + 60)
    if not os.path.exists(log):
        raise SystemExit(f"h2load wrote nothing:\n{run.stdout}{run.stderr}")
    return [tuple(map(int, line.split())) for line in open(log) if line.strip()]


def p99(took):
    return statistics.quantiles(took, n=100)[98] / 1000 if len(took) > 100 else float("nan")


def latency(work, gate, file, options):
    """Milliseconds at the 99th percentile while policies are loaded, and in between."""
    fastest = h2load(work, gate, options, 3, 0)
    rate = options.rate or len(fastest) // 3 // 2
    loads = []

    def reloads():
        time.sleep(2)
        until = time.time() + options.seconds - 4
        nth = options.keys * 2
        while time.time() < until:
            since = time.time()
            gate.reload(file, key_line(nth, options.tenants))
            loads.append((since * 1e6, time.time() * 1e6))
            nth += 1
            time.sleep(2)

    thread = threading.Thread(target=reloads)
    thread.start()
    requests = h2load(work, gate, options, options.seconds, rate)
    thread.join()
    failed = sum(code != 200 for _, code, _ in requests)
    during = [took for at, _, took in requests if any(since <= at <= until for since, until in loads)]
    without = [took for at, _, took in requests if not any(since - 2e5 <= at <= until + 1e6 for since, until in loads)]
    return rate, len(loads), p99(without), p99(during), failed


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--keys", type=int, default=1_000_000)
    parser.add_argument("--tenants", type=int, default=1000)
    parser.add_argument("--seconds", type=int, default=30, help="how long the latency is measured; 0: not at all")
    parser.add_argument("--rate", type=int, default=0, help="requests a second (the default is half of the most)")
    options = parser.parse_args()
    if not 1 <= options.keys <= MOST_KEYS:
        raise SystemExit(f"--keys: 1 to {MOST_KEYS}")
    running = []
    with tempfile.TemporaryDirectory() as work:
        try:
            upstream = free_port()
            if options.seconds:
                for tool in ("h2load", "nginx", "taskset"):
                    if not shutil.which(tool):
                        raise SystemExit(f"{tool} is not installed: apt-get install nghttp2-client nginx util-linux (or --seconds 0)")
                write(f"{work}/backend.conf", NGINX % {"work": work, "name": "backend", "http": f"""
  server {{ listen 127.0.0.1:{upstream} backlog=4096; location / {{ return 200 'ok'; }} }}"""})
                running.append(Running("backend", 0, ["nginx", "-c", f"{work}/backend.conf"], upstream, work))
            file = f"{work}/many.jsonl"
            with open(file, "w") as keys:
                for nth in range(options.keys):
                    keys.write(key_line(nth, options.tenants))
            with open(f"{work}/one.jsonl", "w") as keys:
                keys.write(key_line(0, 1))
            one = Gate(work, "one", "one.jsonl", upstream)
            running.append(one)
            many = Gate(work, "many", "many.jsonl", upstream)
            running.append(many)
            time.sleep(12)
            base, resident = status_mib(one.pid, "VmRSS"), status_mib(many.pid, "VmRSS")
            took, peak = many.reload(file, key_line(options.keys, options.tenants))
            time.sleep(12)
            left = status_mib(many.pid, "VmRSS")
            print(f"{options.keys} keys in {os.path.getsize(file) / (1 << 20):.0f} MiB of JSON lines")
            print(f"{'ready with one key':34}{one.seconds:10.3f} s")
            print(f"{'ready with all keys':34}{many.seconds:10.3f} s")
            print(f"{'resident with one key':34}{base:10.1f} MiB")
            print(f"{'resident with all keys':34}{resident:10.1f} MiB")
            print(f"{'resident a key':34}{(resident - base) * (1 << 20) / options.keys:10.0f} B")
            print(f"{'reload':34}{took:10.3f} s")
            print(f"{'highest resident during the reload':34}{peak:10.1f} MiB")
            print(f"{'the same to resident before':34}{peak / resident:10.2f}")
            print(f"{'resident after the reload':34}{left:10.1f} MiB")
            if options.seconds:
                rate, loads, without, during, failed = latency(work, many, file, options)
                print(f"{f'p99 at {rate}/s':34}{without:10.2f} ms")
                print(f"{f'p99 during {loads} reloads':34}{during:10.2f} ms")
                if failed:
                    raise SystemExit(f"{failed} requests failed: the latencies say nothing")
        finally:
            for process in reversed(running):
                process.end()


main()
