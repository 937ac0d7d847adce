#!/usr/bin/env python3
"""Instructions per request, counted under valgrind, against a committed baseline.

    cargo build --release && benches/instructions.py [--bless]

A gate with everything on (key, scope, allowlist, three limits, a quota, access records, limit and identity headers, metrics, state in
memory) answers so many requests and three times as many; the difference, divided, is what one request takes. What is counted is the
gate's own code and its libraries, not the kernel's. valgrind hides the processor's SHA instructions, so that hashing counts for more
here than it takes. Fails where a figure is more than 3 % from `benches/instructions.txt`; `--bless` writes that file, and the changelog
says why. Needs valgrind (Debian's package). Traffic stays on loopback.
"""
import argparse
import hashlib
import os
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
FEW, MANY = 1_000, 3_000

POLICY = """
version: 1
listen: 127.0.0.1:%(port)d
upstream: http://127.0.0.1:%(upstream)d
admin: none
state: memory
workers: 1
record: { to: records.jsonl }
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
report: { x-ratelimit: unix, retry-after: true, ratelimit: draft10 }
identity: { tenant: X-Tenant-Id, key: X-Key-Id }
"""

BODY = b'{"id":"0192f0c1-7d3b-7cc3-98c4-dc0c0c07398f","status":"ok"}'


def request(line, key="bench-secret", more="", body=b""):
    return f"{line} HTTP/1.1\r\nHost: api.example\r\nUser-Agent: bench/1\r\nAccept: application/json\r\nAuthorization: Bearer {key}\r\n{more}\r\n".encode() + body


CASES = {
    "admitted": (200, request("GET /api/v1/items?id=42")),
    "refused 401": (401, request("GET /api/v1/items?id=42", key="nobodys-secret")),
    "refused 403": (403, request("GET /api/v1/reports?id=42")),
    "refused 429": (429, request("GET /api/v1/scarce?id=42")),
    "replayed": (200, request("POST /api/v1/send", more="Idempotency-Key: one\r\nContent-Length: 5\r\n", body=b"hello")),
}


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


def ask(client, bytes_, status):
    client.sendall(bytes_)
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


def counted(work, upstream, status, bytes_, times):
    port = free_port()
    write(f"{work}/policy.yaml", POLICY % {"port": port, "upstream": upstream})
    out = f"{work}/valgrind.out"
    command = ["valgrind", "--tool=cachegrind", "--cache-sim=no", "--cachegrind-out-file=/dev/null", f"--log-file={out}", TOLLGATE, "run", "--config", f"{work}/policy.yaml"]
    with open(f"{work}/gate.log", "w") as log:
        gate = subprocess.Popen(command, stdout=log, stderr=log)
    try:
        for _ in range(300):
            try:
                client = socket.create_connection(("127.0.0.1", port), 30)
                break
            except OSError:
                if gate.poll() is not None:
                    raise SystemExit(open(f"{work}/gate.log").read())
                time.sleep(0.1)
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        # The first ones make connections, cells and records.
        for _ in range(50):
            ask(client, bytes_, None)
        for _ in range(times):
            ask(client, bytes_, status)
        client.close()
    finally:
        gate.send_signal(signal.SIGTERM)
        try:
            gate.wait(60)
        except subprocess.TimeoutExpired:
            gate.kill()
    return int(re.search(r"I +refs: +([\d,]+)", open(out).read()).group(1).replace(",", ""))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bless", action="store_true", help="write the baseline anew")
    options = parser.parse_args()
    if not shutil.which("valgrind"):
        raise SystemExit("valgrind is not installed: apt-get install valgrind")
    before = {}
    if os.path.exists(BASELINE):
        before = {line.rsplit(None, 1)[0]: int(line.rsplit(None, 1)[1]) for line in open(BASELINE) if line.strip()}
    now, off = {}, []
    with tempfile.TemporaryDirectory() as work:
        digest = hashlib.sha256(b"bench-secret").hexdigest()
        write(f"{work}/bench.keys.yaml", f"- {{ id: bench, tenant: acme, digest: {{ sha256: {digest} }}, scopes: [read] }}\n")
        upstream = backend()
        for name, (status, bytes_) in CASES.items():
            few, many = (counted(work, upstream, status, bytes_, times) for times in (FEW, MANY))
            now[name] = round((many - few) / (MANY - FEW))
            row = f"{name:14}{now[name]:8} instructions  {now[name] / now['admitted']:.2f} of an admitted one"
            if name in before:
                change = now[name] / before[name] - 1
                row += f"  {change:+.1%} against the baseline"
                if abs(change) > TOLERANCE:
                    off.append(name)
            print(row, flush=True)
    if options.bless:
        write(BASELINE, "".join(f"{name} {count}\n" for name, count in now.items()))
    elif off:
        sys.exit(f"more than {TOLERANCE:.0%} from the baseline: {', '.join(off)}. If that is meant: --bless, and a line in the changelog")


main()
