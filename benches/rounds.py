"""Interleaved rounds and their tables: candidates take turns, and what is told of two of them is the median of the rounds' own ratios."""
import glob
import json
import os
import resource
import shutil
import signal
import statistics
import subprocess
import sys

from processes import ROOT, Running, cpu_us, forget_peak, peak_rss, write

LOAD = os.environ.get("LOAD") or os.path.join(ROOT, "target", "benches", "release", "load")
GENERATOR_CORE, PROXY_CORE = 0, 1

WRK = """
local requests, at = {}, 0
init = function()
  for line in io.lines("%(work)s/keys.txt") do
    requests[#requests + 1] = wrk.format("GET", "/api/v1/items?id=42", { ["X-API-Key"] = line:match("%%S+"), ["Accept"] = "application/json", ["User-Agent"] = "wrk" })
  end
end
request = function()
  at = (at + 7919) %% #requests
  return requests[at + 1]
end
done = function(summary)
  local e = summary.errors
  io.write(string.format("DONE %%d %%d %%d\\n", summary.requests, e.connect + e.read + e.write + e.status + e.timeout, summary.duration))
end
"""


def ready_machine(*tools):
    """Two cores, these tools, as many open files as may be, and this script off the proxies' core."""
    if (os.cpu_count() or 1) < 2:
        raise SystemExit("this needs two cores: one for the proxies, one for who asks and answers")
    packages = {"h2load": "nghttp2-client", "taskset": "util-linux"}
    missing = [tool for tool in ("taskset", *tools) if not shutil.which(tool)]
    if missing:
        raise SystemExit("not installed: apt-get install " + " ".join(packages.get(tool, tool) for tool in missing))
    os.sched_setaffinity(0, {GENERATOR_CORE})
    # A run that is ended ends what it started.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def answering(site, *more):
    """The backend of a site, which `benches/load` is."""
    return Running("backend", GENERATOR_CORE, [LOAD, "answer", "--http", f"127.0.0.1:{site.http}", *more], site.http, site.work)


def build_load():
    """Makes `benches/load`, the generator and the backend, unless it is there."""
    if os.environ.get("LOAD"):
        return
    if not shutil.which("cargo"):
        if os.path.exists(LOAD):
            return
        raise SystemExit("cargo is not installed: it builds benches/load, or name a binary of it in $LOAD")
    manifest, target = os.path.join(ROOT, "benches", "load", "Cargo.toml"), os.path.join(ROOT, "target", "benches")
    os.sched_setaffinity(0, range(os.cpu_count() or 1))
    try:
        subprocess.run(["cargo", "build", "--quiet", "--release", "--locked", "--manifest-path", manifest, "--target-dir", target], check=True)
    finally:
        os.sched_setaffinity(0, {GENERATOR_CORE})


def generate(command, seconds, *more):
    """One run of the project's own generator; what it told, with `requests` and `failed`."""
    words = [LOAD, *command.split(), "--seconds", str(seconds), *map(str, more)]
    done = subprocess.run(["taskset", "-c", str(GENERATOR_CORE), *words], capture_output=True, text=True, timeout=seconds + 60)
    try:
        return json.loads(done.stdout.splitlines()[-1])
    except (IndexError, ValueError):
        return {"requests": 0, "failed": 1, "seconds": seconds, "why": done.stderr.strip()}


def wrk(work, port, connections, seconds):
    """One run of wrk over all keys: requests, failures, seconds."""
    write(f"{work}/wrk.lua", WRK % {"work": work})
    command = ["taskset", "-c", str(GENERATOR_CORE), "wrk", "-t1", f"-c{connections}", f"-d{seconds}s", "--timeout", "30s", "-s", f"{work}/wrk.lua", f"http://127.0.0.1:{port}/"]
    out = subprocess.run(command, capture_output=True, text=True, timeout=seconds + 60).stdout
    done = [line.split() for line in out.splitlines() if line.startswith("DONE")]
    if not done:
        return {"requests": 0, "failed": 1, "seconds": seconds, "why": out}
    return {"requests": int(done[0][1]), "failed": int(done[0][2]), "seconds": int(done[0][3]) / 1e6}


class Failures:
    """What went wrong in a run, told at its end: figures of requests that fail say nothing."""

    def __init__(self):
        self.told = {}

    def count(self, name, outcome):
        if outcome["failed"]:
            before, why = self.told.get(name, (0, ""))
            self.told[name] = (before + outcome["failed"], why or outcome.get("why", ""))

    def end(self):
        for name, (failed, why) in self.told.items():
            print(f"{name}: {failed} requests failed, its figures say nothing. {why}", file=sys.stderr)
        if self.told:
            raise SystemExit(1)


def empty_logs(work):
    """Access logs grow by gigabytes in a long run, and nobody reads these."""
    for log in glob.glob(f"{work}/logs/*.log"):
        os.truncate(log, 0)


def interleaved(candidates, rounds, measure, failures, what):
    """`measure(candidate)` gives what a generator told. By candidate's name, a list with an outcome a round, to which are added the
    candidate's CPU time in µs a request (`cpu`), and the most MiB it was resident in (`peak`)."""
    figures = {candidate.name: [] for candidate in candidates}
    for at in range(rounds + 1):
        for candidate in candidates:
            forget_peak(candidate.pid)
            before = cpu_us(candidate.pid)
            outcome = measure(candidate)
            outcome["total_cpu"] = cpu_us(candidate.pid) - before
            outcome["cpu"] = outcome["total_cpu"] / max(outcome["requests"], 1)
            outcome["peak"] = peak_rss(candidate.pid)
            failures.count(f"{candidate.name} ({what})", outcome)
            empty_logs(candidate.site.work)
            # The first round warms up: connections, caches, lazily made state.
            if at:
                figures[candidate.name].append(outcome)
        if at:
            print(f"{what}: round {at} of {rounds}", file=sys.stderr, flush=True)
    return figures


def spread(values, digits=1):
    """`median (least–most)`."""
    return f"{statistics.median(values):.{digits}f} ({min(values):.{digits}f}–{max(values):.{digits}f})"


def ratios(figures, one, other, of="cpu"):
    """The ratio of two candidates in each round, as `spread`; `–` where one is missing."""
    if not figures.get(one) or not figures.get(other):
        return "–"
    return spread([a[of] / max(b[of], 1e-9) for a, b in zip(figures[one], figures[other])], 2)


def table(head, rows):
    """Markdown whose columns stand under each other."""
    lines = [head] + rows
    widths = [max(len(str(line[at])) for line in lines) for at in range(len(head))]

    def line(cells):
        return "| " + " | ".join(str(cell).ljust(width) for cell, width in zip(cells, widths)) + " |"

    print(line(head))
    print("|" + "|".join("-" * (width + 2) for width in widths) + "|")
    for row in rows:
        print(line(row))
    print(flush=True)
