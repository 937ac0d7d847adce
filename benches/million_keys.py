#!/usr/bin/env python3
"""What a million keys cost: the time to load them, the memory of each, a reload beside the old ones, and its effect on latency.

    cargo build --release && benches/million_keys.py [--keys 1000000] [--tenants 1000] [--rounds 5] [--seconds 4] [--rate 0]

Writes a key file of JSON lines and starts a gate on it with two workers. Resident memory a key is that of this gate, once it
has rested, less that of the same gate with one key. A reload is set off by one more line in the file; its peak is the highest resident memory
from then until the new policy is in force, and what is left is read ten seconds later. Then `benches/load`, `open`, sends requests of random
keys at a fixed rate, half of what the gate takes at once (or `--rate`), and measures from the time each was meant to leave: in each round some
seconds without a reload and as many in which one follows another. What differs by less than the rounds do among themselves is no difference.
Nothing is pinned: generator, backend, two workers and the reload share the machine. Traffic stays on loopback.
Needs cargo, two cores, and 1 GiB of memory a million keys.
"""
import argparse
import hashlib
import json
import os
import random
import statistics
import subprocess
import tempfile
import threading
import time
import urllib.error
import urllib.request

from processes import TOLLGATE, Running, free_port, write
from rounds import LOAD, build_load, spread

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
credentials: { accept: [{ header: X-API-Key }], keys: %(keys)s }
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


def ask(gate, work, command, seconds, *more):
    """What the generator told of one run of its `command`."""
    words = [LOAD, command, "--to", f"127.0.0.1:{gate.port}", "--connections", "32", "--keys", f"{work}/keys.txt", "--path", "/read", "--seconds", str(seconds)]
    done = subprocess.run([*words, *map(str, more)], capture_output=True, text=True, timeout=seconds + 60)
    try:
        return json.loads(done.stdout.splitlines()[-1])
    except (IndexError, ValueError):
        raise SystemExit(f"the generator told nothing:\n{done.stderr}") from None


class Reloads:
    """One reload behind the other, from beginning to end of the block."""

    def __init__(self, gate, file, options):
        self.gate, self.file, self.options = gate, file, options
        self.many, self.is_over = 0, threading.Event()
        self.thread = threading.Thread(target=self.run)

    def run(self):
        while not self.is_over.is_set():
            self.gate.reload(self.file, key_line(random.randrange(1 << 40) + self.options.keys, self.options.tenants))
            self.many += 1

    def __enter__(self):
        self.thread.start()
        # The watch waits for files to rest before it reads them.
        time.sleep(0.2)
        return self

    def __exit__(self, *_):
        self.is_over.set()
        self.thread.join()


def latency(work, gate, file, options):
    """What the generator told of each round without reloads and with them, its rate, and how many reloads there were."""
    write(f"{work}/keys.txt", "".join(secret(random.randrange(options.keys)) + "\n" for _ in range(10_000)))
    fastest = ask(gate, work, "closed", 3)
    rate = options.rate or fastest["requests"] / fastest["seconds"] / 2
    without, during, many = [], [], 0
    for _ in range(options.rounds):
        without.append(ask(gate, work, "open", options.seconds, "--rate", f"{rate:.0f}"))
        with Reloads(gate, file, options) as reloads:
            during.append(ask(gate, work, "open", options.seconds, "--rate", f"{rate:.0f}"))
        many += reloads.many
    return without, during, rate, many


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--keys", type=int, default=1_000_000)
    parser.add_argument("--tenants", type=int, default=1000)
    parser.add_argument("--rounds", type=int, default=5, help="of latency, without reloads and with them; 0: none")
    parser.add_argument("--seconds", type=int, default=4, help="of each of the two in a round")
    parser.add_argument("--rate", type=int, default=0, help="requests a second (the default is half of the most)")
    options = parser.parse_args()
    if not 1 <= options.keys <= MOST_KEYS:
        raise SystemExit(f"--keys: 1 to {MOST_KEYS}")
    running = []
    with tempfile.TemporaryDirectory() as work:
        try:
            upstream = free_port()
            if options.rounds:
                build_load()
                os.sched_setaffinity(0, range(os.cpu_count() or 1))
                running.append(Running("backend", f"0-{(os.cpu_count() or 1) - 1}", [LOAD, "answer", "--http", f"127.0.0.1:{upstream}"], upstream, work))
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
            if options.rounds:
                without, during, rate, many = latency(work, gate=many, file=file, options=options)
                print(f"at {rate:.0f} requests a second, ms, median of {options.rounds} rounds (least–most):")
                for percentile, name in (("p50", "p50"), ("p99", "p99"), ("p999", "p99.9")):
                    of = lambda outcomes: spread([outcome[percentile] / 1000 for outcome in outcomes], 2)
                    print(f"{name:6}without {of(without):24}during {many} reloads {of(during)}")
                if any(outcome["failed"] or outcome["unanswered"] for outcome in without + during):
                    raise SystemExit("requests failed: the latencies say nothing")
        finally:
            for process in reversed(running):
                process.end()


main()
