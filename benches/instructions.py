#!/usr/bin/env python3
"""Instructions per request, counted under valgrind, against a committed baseline.

    cargo build --release && benches/instructions.py [--bless] [--only CASE]

The cases:

    admitted            a key, a scope, an allowlist, three limits, a quota, metrics and an access record; limit fields as they are by default
    admitted, no fields     the same with `report:` turned off
    admitted, all fields    the same with X-RateLimit, RateLimit and identity fields
    policy off          the same route, record and metrics, but public and without limits
    refused 401, 403, 429   an unknown key, a scope that is missing, a limit that is used up; policy as in `admitted`
    replayed            the kept answer of an idempotency key
    admitted, directory     as `admitted`, its state kept in a directory

What is counted is the gate's own code and its libraries, not the kernel's: 32 keep-alive connections that ask in waves, one request
each and all at once, after a few waves that make connections, cells and records. Counting is switched on and off from outside around two
thousand requests, in one run of valgrind for each policy; where processes may not be traced, two runs of each case are subtracted. The counts hardly depend on the load of the machine, and repeat within one per
cent: what is left is hash seeds, timers, and how many of a wave the gate finds waiting at once.

They depend on the binary (the toolchain, the lock file, the release profile) and on the C library. They do not depend on the processor,
as long as it has AVX2: valgrind then shows every program the same one, a Haswell, by which the C library and Rust's crates choose their
variants of memcpy and its like. That one has no SHA instructions, so that hashing counts for more here than it takes.

Fails where a figure is more than 3 % from `benches/instructions.txt`, if that was counted with the same compiler, valgrind, C library and
kind of processor; else there is nothing to compare, and it says so. If the change is meant: `--bless` writes that file anew, and the
changelog gets a line that says why. Needs valgrind (Debian's package). Traffic stays on loopback.
"""
import argparse
import glob
import hashlib
import os
import platform
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time

from processes import ROOT, TOLLGATE, free_port, write

BASELINE = os.path.join(ROOT, "benches", "instructions.txt")
TOLERANCE = 0.03
CONNECTIONS, WARM_UP, WAVES = 32, 4, 64
COUNTED = CONNECTIONS * WAVES

HEAD = """
version: 1
listen: 127.0.0.1:%(port)d
upstream: http://127.0.0.1:%(upstream)d
admin: 127.0.0.1:0
workers: 1
record: { to: logs/records.jsonl }
"""

ON = """
credentials: { accept: [bearer], keys: bench.keys.yaml }
routes:
  - { name: items, match: GET /api/v1/items, scope: read }
  - { name: reports, match: GET /api/v1/reports, scope: reports }
  - { name: scarce, match: GET /api/v1/scarce, scope: read }
  - { name: send, match: POST /api/v1/send, scope: read, idempotency: require }
limits:
  throttle: { rate: 100000000/minute, per: key }
  window: { rate: 100000000/minute, window: sliding, per: tenant }
  address: { rate: 100000000/minute, per: address }
  monthly: { quota: 1000000000/month, per: tenant }
  scarce: { rate: 1/day, window: sliding, per: key, routes: [scarce] }
tenants:
  acme: { allow: [127.0.0.0/8, 10.0.0.0/8, 192.168.0.0/16, 2001:db8::/32] }
"""

OFF = """
routes:
  - { name: items, match: GET /api/v1/items, public: true }
  - { name: reports, match: GET /api/v1/reports, public: true }
  - { name: scarce, match: GET /api/v1/scarce, public: true }
  - { name: send, match: POST /api/v1/send, public: true }
"""

BODY = b'{"id":"0192f0c1-7d3b-7cc3-98c4-dc0c0c07398f","status":"ok"}'


def request(line, key="bench-secret", more="", body=b""):
    return f"{line} HTTP/1.1\r\nHost: api.example\r\nUser-Agent: bench/1\r\nAccept: application/json\r\nAuthorization: Bearer {key}\r\n{more}\r\n".encode() + body


ITEMS = request("GET /api/v1/items?id=42")
REPLAY = request("POST /api/v1/send", more="Idempotency-Key: one\r\nContent-Length: 5\r\n", body=b"hello")

POLICY = HEAD + ON + "state: memory\n"

# What is asked of it: name -> (the status that is expected, the request).
CASES = {
    "admitted": (200, ITEMS),
    "refused 401": (401, request("GET /api/v1/items?id=42", key="nobodys-secret")),
    "refused 403": (403, request("GET /api/v1/reports?id=42")),
    "refused 429": (429, request("GET /api/v1/scarce?id=42")),
    "replayed": (200, REPLAY),
}

# One run of the gate each: a policy, and its cases.
RUNS = (
    (POLICY, CASES),
    (POLICY + "report: { x-ratelimit: none, ratelimit: none }\n", {"admitted, no fields": (200, ITEMS)}),
    (
        POLICY + "report: { x-ratelimit: unix, retry-after: true, ratelimit: draft10 }\nidentity: { tenant: X-Tenant-Id, key: X-Key-Id }\n",
        {"admitted, all fields": (200, ITEMS)},
    ),
    (HEAD + OFF + "state: memory\n", {"policy off": (200, ITEMS)}),
    (HEAD + ON + "state: ./state\n", {"admitted, directory": (200, ITEMS)}),
)

# What one figure is held against another: (what it says, the one, the other).
RATIOS = (
    ("policy on to off", "admitted", "policy off"),
    ("policy on to off, no fields", "admitted, no fields", "policy off"),
    ("401 to admitted", "refused 401", "admitted"),
    ("403 to admitted", "refused 403", "admitted"),
    ("429 to admitted", "refused 429", "admitted"),
    ("replayed to admitted", "replayed", "admitted"),
    ("directory to memory", "admitted, directory", "admitted"),
)


def backend():
    """Answers every request on every connection, and lives as long as this process."""
    listener = socket.create_server(("127.0.0.1", 0))
    answer = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%b" % (len(BODY), BODY)

    def serve(client):
        rest = b""
        while True:
            while b"\r\n\r\n" not in rest:
                more = client.recv(65536)
                if not more:
                    return
                rest += more
            head, rest = rest.split(b"\r\n\r\n", 1)
            length = re.search(rb"(?i)content-length: *(\d+)", head)
            left = int(length.group(1)) if length else 0
            while len(rest) < left:
                rest += client.recv(65536)
            rest = rest[left:]
            client.sendall(answer)

    def accept():
        while True:
            threading.Thread(target=serve, args=(listener.accept()[0],), daemon=True).start()

    threading.Thread(target=accept, daemon=True).start()
    return listener.getsockname()[1]


def hear(client, status):
    rest = b""
    while b"\r\n\r\n" not in rest:
        more = client.recv(65536)
        if not more:
            raise SystemExit("the gate closed the connection")
        rest += more
    head, rest = rest.split(b"\r\n\r\n", 1)
    left = int(re.search(rb"(?i)content-length: *(\d+)", head).group(1))
    while len(rest) < left:
        rest += client.recv(65536)
    if status and int(head.split()[1]) != status:
        raise SystemExit(f"expected {status}: {head.decode()}")


def ask(clients, bytes_, status):
    """One wave."""
    for client in clients:
        client.sendall(bytes_)
    for client in clients:
        hear(client, status)


class NotHeard(Exception):
    """valgrind cannot be spoken to: processes may not be traced here."""


def tell(gate, *words):
    """A word to valgrind, which runs the gate."""
    done = subprocess.run(["vgdb", f"--pid={gate.pid}", "--wait=10", *words], capture_output=True, text=True, timeout=60)
    if done.returncode:
        raise NotHeard(f"{' '.join(words)}: {done.stdout}{done.stderr}")


def connected(gate, port, log):
    for _ in range(600):
        try:
            client = socket.create_connection(("127.0.0.1", port), 60)
            client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            return client
        except OSError:
            if gate.poll() is not None:
                break
            time.sleep(0.1)
    raise SystemExit(f"the gate did not start:\n{open(log).read()}")


def under_valgrind(work, upstream, policy, options, drive):
    """Runs the gate, has `drive(gate, port, log)` ask, and ends it; the file that valgrind wrote."""
    port, out, log = free_port(), f"{work}/callgrind.out", f"{work}/gate.log"
    for old in glob.glob(out + "*"):
        os.remove(old)
    write(f"{work}/policy.yaml", policy % {"port": port, "upstream": upstream})
    command = ["valgrind", "--tool=callgrind", *options, f"--callgrind-out-file={out}", TOLLGATE, "run", "--config", f"{work}/policy.yaml"]
    # Tunables of whoever runs this would choose other variants of memcpy.
    environment = {name: value for name, value in os.environ.items() if name != "GLIBC_TUNABLES"}
    with open(log, "w") as f:
        gate = subprocess.Popen(command, stdout=f, stderr=f, env=environment)
    try:
        drive(gate, port, log)
    finally:
        gate.send_signal(signal.SIGTERM)
        try:
            gate.wait(60)
        except subprocess.TimeoutExpired:
            gate.kill()
            gate.wait()
    return out


def total(path):
    return int(re.search(r"^totals: (\d+)", open(path).read(), re.M).group(1))


def warmed_up(gate, port, log, bytes_):
    clients = [connected(gate, port, log) for _ in range(CONNECTIONS)]
    # Alone, so that the answer to an idempotency key is kept before it is asked for again.
    ask(clients[:1], bytes_, None)
    for _ in range(WARM_UP):
        ask(clients, bytes_, None)
    return clients


def counted(work, upstream, policy, cases):
    """Instructions per request of each case, in one run of the gate under valgrind."""

    def drive(gate, port, log):
        for status, bytes_ in cases.values():
            clients = warmed_up(gate, port, log, bytes_)
            tell(gate, "instrumentation", "on")
            for _ in range(WAVES):
                ask(clients, bytes_, status)
            tell(gate, "instrumentation", "off")
            tell(gate, "dump")
            for client in clients:
                client.close()

    out = under_valgrind(work, upstream, policy, ["--instr-atstart=no"], drive)
    return {name: round(total(f"{out}.{at}") / COUNTED) for at, name in enumerate(cases, 1)}


def counted_by_difference(work, upstream, policy, cases):
    """The same where valgrind cannot be spoken to: a run of some waves, and one of three times as many."""
    found = {}
    for name, (status, bytes_) in cases.items():

        def whole_run(waves):
            def drive(gate, port, log):
                clients = warmed_up(gate, port, log, bytes_)
                for _ in range(waves):
                    ask(clients, bytes_, status)
                for client in clients:
                    client.close()

            return total(under_valgrind(work, upstream, policy, [], drive))

        found[name] = round((whole_run(3 * WAVES) - whole_run(WAVES)) / (2 * COUNTED))
    return found


def versions():
    """What the counts depend on beside the gate's own code."""
    rustc = subprocess.run(["rustc", "--version"], capture_output=True, text=True).stdout.split()[:2] if shutil.which("rustc") else ["rustc", "unknown"]
    valgrind = subprocess.run(["valgrind", "--version"], capture_output=True, text=True).stdout.strip()
    avx2 = "with AVX2" if " avx2 " in open("/proc/cpuinfo").read() else "without AVX2"
    return f"{' '.join(rustc)}, {valgrind}, {' '.join(platform.libc_ver())}, {platform.machine()} {avx2}"


def baseline():
    """What it was counted with, and the figures by name."""
    if not os.path.exists(BASELINE):
        return "", {}
    lines = [line.strip() for line in open(BASELINE) if line.strip()]
    figures = dict(line.rsplit(None, 1) for line in lines if not line.startswith("#"))
    return next((line.lstrip("# ") for line in lines if line.startswith("#")), ""), {name: int(figure) for name, figure in figures.items()}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bless", action="store_true", help="write the baseline anew")
    parser.add_argument("--only", action="append", metavar="CASE", help="this case alone; may be given again. The exit then says nothing of the baseline")
    options = parser.parse_args()
    # A run that is ended ends what it started.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    for tool in ("valgrind", "vgdb"):
        if not shutil.which(tool):
            raise SystemExit("valgrind is not installed: apt-get install valgrind")
    if not os.path.exists(TOLLGATE):
        raise SystemExit(f"{TOLLGATE} is not there: cargo build --release")
    counted_with, before = baseline()
    count, now, off = counted, {}, []
    with tempfile.TemporaryDirectory() as work:
        digest = hashlib.sha256(b"bench-secret").hexdigest()
        write(f"{work}/bench.keys.yaml", f"- {{ id: bench, tenant: acme, digest: {{ sha256: {digest} }}, scopes: [read] }}\n")
        # Not beside the policy, whose directory the gate watches for changes.
        os.mkdir(f"{work}/logs")
        upstream = backend()
        print("instructions a request")
        for policy, cases in RUNS:
            if options.only:
                cases = {name: case for name, case in cases.items() if name in options.only}
            if not cases:
                continue
            try:
                figures = count(work, upstream, policy, cases)
            except NotHeard as why:
                print(f"valgrind cannot be spoken to ({why}): counted by difference", file=sys.stderr)
                count = counted_by_difference
                figures = count(work, upstream, policy, cases)
            for name, figure in figures.items():
                now[name] = figure
                row = f"{name:22}{figure:8}"
                if name in before:
                    change = figure / before[name] - 1
                    row += f"  {change:+.1%} against the baseline"
                    if abs(change) > TOLERANCE:
                        off.append(name)
                else:
                    row += "  not in the baseline"
                    off.append(name)
                print(row, flush=True)
    for what, one, other in RATIOS:
        if one in now and other in now:
            print(f"{what:30}{now[one] / now[other]:5.2f}")
    if options.only:
        return
    if options.bless:
        write(BASELINE, f"# {versions()}\n" + "".join(f"{name} {count}\n" for name, count in now.items()))
        print("written: CHANGELOG.md gets a line that says why")
    elif off and counted_with != versions():
        print(f"The baseline was counted with {counted_with or 'nobody knows what'}; here are {versions()}. Nothing to compare.")
    elif off:
        sys.exit(
            f"more than {TOLERANCE:.0%} from benches/instructions.txt, or not in it: {'; '.join(off)}.\n"
            "If the change is meant: run benches/instructions.py --bless, commit the file, and add a line to CHANGELOG.md that says why."
        )


main()
