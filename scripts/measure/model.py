"""The part `model` of scripts/bench: how workers keep in step, and what that costs under each consistency model."""

import subprocess
import tempfile
import threading
import time
from statistics import median

from .curve import picture

MODELS = ["asp", "ssp:2", "bsp", "sparse-ssp:2:8"]
# Seconds a pass of FlexPS, as measured on this size of machine; in two processes the models were not told apart.
QUOTED = {"asp": 0.65, "ssp:2": 0.68, "bsp": 0.78}
QUOTED_TWO = {"sparse-ssp:2:8": 1.04}
# Epochs that svrg and lr may take.
EPOCHS = 40
CONFLICTS = [0.01, 0.03, 0.1, 0.2, 0.3, 0.5, 0.7, 1]


class Model:
    """Measures with what scripts/bench has: its table, its commands, its clusters."""

    def __init__(self, bench, report, cluster, flexps, jobs, folder):
        self.bench, self.report, self.cluster = bench, report, cluster
        self.flexps, self.jobs, self.folder = flexps, jobs, folder

    def all(self):
        self.passes()
        self.clocks()
        self.stragglers()
        self.snapshots()

    def snapshots(self):
        """What it costs the workers of a running job that snapshots of its model are taken, one after the other."""
        rows = self.bench.generated("lr.libsvm", "webspam", "--rows", 200000, "--features", 1000000, "--nonzeros", 50)
        seconds, took = {False: [], True: []}, []
        with self.cluster(self.flexps, slaves=2, slots=1) as two, tempfile.TemporaryDirectory() as folder:

            def snapshots(job, ended):
                while not ended.is_set():
                    start = time.monotonic()
                    command = [self.flexps, "snapshot", job, "--model", f"{folder}/{job}", "--overwrite", "--master", two.master]
                    if subprocess.run(command, capture_output=True, timeout=60, check=False).returncode == 0:
                        took.append(time.monotonic() - start)
                    else:
                        # Before its first stage, or behind its last one.
                        time.sleep(0.05)

            for number in range(2 * self.bench.runs):
                taken, ended = number % 2 == 1, threading.Event()
                taker = threading.Thread(target=snapshots, args=(f"j{number + 1}", ended))
                if taken:
                    taker.start()
                _, result = self.report([self.flexps, "run", "lr", "--solver", "sgd", "--input", rows, "--threads", 2, "--batch", 100,
                                         "--consistency", "bsp", "--epochs", 12, "--tolerance", 0, "--reproducible",
                                         "--model", f"{folder}/m{number}", "--master", two.master])
                ended.set()
                if taken:
                    taker.join()
                seconds[taken].extend(s["seconds"] for s in result["stages"] if s["name"] == "train" and s["epoch"] > 1)
        without, with_them = median(seconds[False]), median(seconds[True])
        self.bench.table.add(f"lr, batches of 100, two processes, bsp: a pass while snapshots are taken one after the other "
                             f"({len(took) / self.bench.runs:.0f} a run of 12 passes, {1e3 * median(took):.0f} ms each)",
                             f"{with_them:.3f} s", f"without {without:.3f} s", f"{with_them / without:.2f}", "-", True)

    def passes(self):
        """lr's mini-batches through the store, under each model, in one process and in two."""
        rows = self.bench.generated("lr.libsvm", "webspam", "--rows", 200000, "--features", 1000000, "--nonzeros", 50)
        found = {}
        with self.cluster(self.flexps, slaves=2, slots=1) as two:
            for _ in range(self.bench.runs):
                for model in MODELS:
                    for processes, where in [(1, ["--slots", 2]), (2, ["--master", two.master])]:
                        _, result = self.report([self.flexps, "run", "lr", "--solver", "sgd", "--input", rows, "--threads", 2,
                                                 "--batch", 100, "--consistency", model, "--epochs", 3, "--tolerance", 0, *where])
                        # The first pass also waits for rows that are still being read.
                        passes = [s["seconds"] for s in result["stages"] if s["name"] == "train" and s["epoch"] > 1]
                        found.setdefault((processes, model), []).extend(passes)
        for (processes, model), seconds in sorted(found.items()):
            ours, bar = median(seconds), 0.10 if processes == 1 else 0.20
            quoted = QUOTED.get(model) if processes == 1 else QUOTED_TWO.get(model, 0.87)
            other = (f"FlexPS {quoted} s (quoted)", f"{ours / quoted:.2f}") if quoted else ("", "")
            where = "one process" if processes == 1 else "two processes of a slot"
            self.bench.table.add(f"lr, batches of 100, 200k x 50 of 1M, 2 workers, {where}, {model}: a pass", f"{ours:.3f} s",
                                 *other, f"<= {bar:.2f} s", ours <= bar)

    def clocks(self):
        """Clocks in which nothing happens: their time, and how many messages tell of them."""
        found = {}
        with self.cluster(self.jobs, slaves=2, slots=64) as slaves:
            for _ in range(self.bench.runs):
                for threads in [2, 128]:
                    command = [self.jobs, "run", "clocks", "--threads", threads, "--clocks", 1000, "--master", slaves.master]
                    _, result = self.report(command)
                    stage = next(s for s in result["stages"] if s["name"] == "clocks")
                    figures = found.setdefault(threads, {"clock": [], "trip": [], "messages": []})
                    figures["clock"].append(result["metrics"]["clock_us"] / 1e3)
                    figures["trip"].append(result["metrics"]["round_trip_us"] / 1e3)
                    figures["messages"].append(stage["pace"]["control_messages"] / 1000)
        trips = 2 * median(found[2]["trip"] + found[128]["trip"])
        for threads, bar in [(2, None), (128, 0.3)]:
            clock = median(found[threads]["clock"])
            self.bench.table.add(f"an empty BSP clock of 2 slaves x {threads // 2} workers", f"{clock:.3f} ms",
                                 f"two channel round trips {trips:.3f} ms", f"{clock / trips:.2f}",
                                 f"<= {bar} ms" if bar else "-", bar is None or clock <= bar)
        few, many = (median(found[threads]["messages"]) for threads in [2, 128])
        self.bench.table.add("control messages a clock of 2 slaves x 64 workers", f"{many:.2f}", f"2 slaves x 1 worker {few:.2f}",
                             f"{many / few:.2f}", "<= 1.01", many <= 1.01 * few)

    def stragglers(self):
        """SparseSSP beside SSP: workers take turns at being four times as slow, and keys meet now and then."""
        found, conflicts = {}, {}
        for _ in range(self.bench.runs):
            for model in ["bsp", "ssp", "asp", *CONFLICTS]:
                which = ["--conflict", model] if model in CONFLICTS else ["--model", model]
                _, result = self.report([self.jobs, "run", "meet", *which, "--slots", 4])
                found.setdefault(model, []).append(result["stages"][0]["seconds"])
                conflicts.setdefault(model, []).append(result["stages"][0]["pace"]["conflicts"])
        seconds = {model: median(values) for model, values in found.items()}
        print("\n4 workers, 240 clocks of 1 ms each, of which each worker in turn takes three clocks four times as long; "
              "staleness 1, speculation 16\n")
        print("| model | conflict probability | seconds | of SSP | conflicts |\n|---|---|---|---|---|")
        for model, value in seconds.items():
            name, probability = ("sparse-ssp", model) if model in CONFLICTS else (model, "")
            print(f"| {name} | {probability} | {value:.3f} | {value / seconds['ssp']:.2f} | {median(conflicts[model]):.0f} |")
        curve = [(p, seconds[p]) for p in CONFLICTS]
        levels = [(name.upper(), seconds[name]) for name in ["bsp", "ssp", "asp"]]
        (self.folder / "sparse-ssp.svg").write_text(picture(curve, levels))
        gain, none = seconds["ssp"] / seconds[CONFLICTS[0]], seconds["ssp"] / seconds[1]
        rising = all(a[1] <= b[1] * 1.05 for a, b in zip(curve, curve[1:]))
        self.bench.table.add("SparseSSP beside workers slow in turn, conflicts 0.01: SSP's time over its own", f"{gain:.2f}",
                             f"conflicts 1: {none:.2f}", "", "> 1.2, shrinking with conflicts", gain > 1.2 and rising)


class Convergence:
    """svrg and lr to 1e-4 of the optimum under each model, beside a worker that is four times as slow."""

    def __init__(self, bench, report, flexps):
        self.bench, self.report, self.flexps = bench, report, flexps

    def of(self, name, rows):
        _, best = self.report([self.flexps, "run", "svrg", "--input", rows, "--epochs", 100, "--tolerance", 0])
        optimum = best["objective"]
        print(f"\n{name}, 2 workers; seconds are those of the stage that learns, waiting is a worker's part of them\n")
        print("| job | model | straggler | epochs to 1e-4 | seconds an epoch | worker 0 waits | worker 1 waits | reached |\n"
              "|---|---|---|---|---|---|---|---|")
        reached = {}
        for job, stage in [("svrg", "stochastic"), ("lr", "train")]:
            flags = ["--narrow", 2] if job == "svrg" else ["--solver", "sgd", "--optimizer", "saga", "--batch", 10]
            for slow in [[], ["--inject", "slow:worker=1,factor=4"]]:
                for model in MODELS:
                    _, result = self.report([self.flexps, "run", job, *flags, "--slots", 2, "--input", rows, "--epochs", EPOCHS,
                                             "--tolerance", 0, "--consistency", model, *slow])
                    stages = [s for s in result["stages"] if s["name"] == stage]
                    each = median([s["seconds"] for s in stages])
                    total = sum(s["seconds"] for s in stages)
                    waits = [sum(s["pace"]["worker_waits"][worker] for s in stages) / total for worker in [0, 1]]
                    hit = next((e["epoch"] for e in result["epochs"] if e["objective"] <= optimum * (1 + 1e-4)), None)
                    reached[job, model, bool(slow)] = hit
                    when = hit or f"not in {EPOCHS}"
                    above = max(result["objective"] / optimum - 1, 0)
                    print(f"| {job} | {model} | {'x 4' if slow else ''} | {when} | {each:.3f} | {waits[0]:.0%} | "
                          f"{waits[1]:.0%} | {above:.0e} |", flush=True)
        slowest = max((hit or 10**6 for hit in reached.values()))
        self.bench.table.add(f"{name}: svrg and lr to 1e-4 under four models, with and without a straggler: most epochs", f"{slowest}",
                             "", "", f"<= {EPOCHS}", slowest <= EPOCHS)
