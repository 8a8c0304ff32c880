"""The part `way` of scripts/bench: how a model goes from one stage's slaves to the next one's, and what that is worth."""

import json
from statistics import median

BYTES = 100_000_000
# Threads of the two stages of svrg: the model's own, and one count for both.
COUNTS = [(100, 10), (10, 10), (50, 50), (100, 100)]


class Way:
    """Measures with what scripts/bench has: its table, its commands, its clusters."""

    def __init__(self, bench, run, report, cluster, flexps, jobs, bare, root):
        self.bench, self.run, self.report, self.cluster = bench, run, report, cluster
        self.flexps, self.jobs, self.bare, self.root = flexps, jobs, bare, root

    def all(self):
        self.transfer()
        self.narrow_on_one()
        self.threads()

    def transfer(self):
        """100 MB to another slave of this machine."""
        with self.cluster(self.jobs, slaves=2, slots=1) as slaves:
            a, b, c = transfers(self.bench, self.run, self.report, slaves, [self.bare, "stream", BYTES])
        self.bench.table.add("direct transfer of 100 MB to another slave", f"{a:.0f} ms", f"zeromq's bare stream {b:.0f} ms",
                             f"{b / a:.2f}", ">= 0.8", b >= 0.8 * a)
        self.bench.table.add("the same, beside reading and writing it over the shards", f"{a:.0f} ms", f"{c:.0f} ms",
                             f"{c / a:.1f}", ">= 5", c >= 5 * a)

    def narrow_on_one(self):
        """svrg on three slaves, wide on all and narrow on one, directly and over the shards."""
        with self.cluster(self.flexps, slaves=3, slots=1) as slaves:
            both_ways(self.bench, self.report, slaves, "svrg, 3 slaves, wide on all, narrow on one")

    def threads(self):
        """svrg with its own thread counts and with one for both stages, on more slots than cores, and simulated."""
        rows = self.bench.generated("webspam-small.libsvm", "webspam", "--rows", 4000, "--features", 100000, "--nonzeros", 300)
        found = {counts: [] for counts in COUNTS}
        with self.cluster(self.flexps, slaves=5, slots=20) as slaves:
            for _ in range(self.bench.runs):
                for (wide, narrow), figures in found.items():
                    _, result = self.report([self.flexps, "run", "svrg", "--input", rows, "--wide", wide, "--narrow", narrow,
                                             "--epochs", 10, "--tolerance", 0, "--master", slaves.master])
                    stages = [s for s in result["stages"] if s["name"] in ("stochastic", "full-gradient")]
                    figures.append((sum(s["seconds"] for s in stages), sum(s["worker_seconds"] for s in stages), result["objective"]))
        print("\nsvrg on 5 slaves of 20 slots, on this machine's cores, 10 epochs: its two stages\n")
        print("| wide | narrow | elapsed | worker time | objective |\n|---|---|---|---|---|")
        for (wide, narrow), figures in found.items():
            elapsed, worker, objective = (median([f[i] for f in figures]) for i in range(3))
            print(f"| {wide} | {narrow} | {elapsed:.2f} s | {worker:.1f} s | {objective:.6f} |")
        file = self.root / "jobs/workloads/wide-and-narrow.toml"
        picture = self.root / "scripts/measure/wide-and-narrow.svg"
        played = self.report([self.flexps, "workload", "simulate", file, "--policies", "greedy", "--picture", picture])[1]
        print("\nthe same simulated, where every slot is a core (jobs/workloads/wide-and-narrow.toml)\n")
        print("| threads | elapsed | of the first |\n|---|---|---|")
        start, first = 0.0, None
        for job in played["policies"][0]["jobs"]:
            elapsed, start = job["end"] - start, job["end"]
            first = first or elapsed
            print(f"| {job['name']} | {elapsed:.1f} s | {elapsed / first:.2f} |")


def both_ways(bench, report, slaves, what, straight="direct"):
    """svrg's two stages, 20 epochs, its narrow one on one slave: the model goes straight, by `--transfer` as given, and over the shards."""
    rows = bench.generated("kdd.libsvm", "kdd", "--rows", 300000, "--features", 3000000)
    found, bits = {straight: [], "kv": []}, set()
    for _ in range(bench.runs):
        for way, seconds in found.items():
            command = [slaves.program, "run", "svrg", "--input", rows, "--sample-share", 1, "--inner", 0.05, "--epochs", 20,
                       "--tolerance", 0, "--reproducible", "--transfer", way, "--master", slaves.master]
            _, result = report(slaves.command(command), env=slaves.environment())
            # The first stages wait for rows, whatever the way.
            stages = [s for s in result["stages"] if s["name"] in ("stochastic", "full-gradient")]
            # Transfers go on beside them: what was waited for is in these seconds.
            seconds.append(sum(s["seconds"] for s in stages[2:]))
            bits.add(result["objective"])
    a, b = median(found[straight]), median(found["kv"])
    bench.table.add(f"{what}: its two stages, 20 epochs of 0.05 passes", f"{a:.2f} s",
                    f"--transfer kv {b:.2f} s" + ("" if len(bits) == 1 else ", other bits"), f"{b / a:.2f}", ">= 1.3", b >= 1.3 * a)


def transfers(bench, run, report, slaves, bare, straight="direct"):
    """100 MB to another slave: beside zeromq's bare stream, which the command `bare` times, and beside reading and writing it
    over the shards. Milliseconds of each, medians."""
    direct, shards, streams = [], [], []
    command = [slaves.program, "run", "transfer", "--megabytes", 2 * BYTES // 1_000_000, "--master", slaves.master]
    for _ in range(bench.runs):
        _, result = report(slaves.command([*command, "--transfer", straight]), env=slaves.environment())
        moved = next(t for t in result["transfers"] if t["stage"] == "use")
        direct.append(moved["milliseconds"] * BYTES / moved["bytes"])
        here = result["metrics"]
        there = report(slaves.command([*command, "--transfer", "kv"]), env=slaves.environment())[1]["metrics"]
        # Workers start beside a transfer: what they waited for it is no reading.
        shards.append(sum(there[part] - here[part] for part in ["read_ms", "write_ms"]) + moved["waited_milliseconds"])
        streams.append(json.loads(run(bare)[1])["median_us"] / 1e3)
    return median(direct), median(streams), median(shards)
