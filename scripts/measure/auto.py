"""How near `auto` threads come to the best count, found by exhaustive search, for stages of five shapes."""

import statistics

SHAPES = {"compute": 200, "locks": 200, "memory": 300, "communication": 300, "tiny": 2000}
SLOTS = 8


class Auto:
    """Each count in turn, then the best of them beside `auto`, again and again; a figure is the median over these."""

    def __init__(self, bench, report, jobs):
        self.bench, self.report, self.jobs = bench, report, jobs

    def all(self):
        for shape, rounds in SHAPES.items():
            self.of(shape, rounds)

    def stage(self, shape, rounds, threads):
        """Milliseconds of a run of the stage on average, and what was found of its threads."""
        _, result = self.report([self.jobs, "run", "shapes", "--slots", SLOTS, "--shape", shape, "--rounds", rounds, "--threads", threads])
        # The first finds caches cold, and what the workers share not made.
        runs = [stage["seconds"] for stage in result["stages"]][1:]
        return 1e3 * sum(runs) / len(runs), result["threads"]

    def of(self, shape, rounds):
        # The search: what a run takes is known after fewer of them.
        counts = range(1, SLOTS + 1)
        search = [{p: self.stage(shape, rounds // 8, p)[0] for p in counts} for _ in range(self.bench.runs)]
        means = {p: statistics.median(times[p] for times in search) for p in counts}
        best = min(means, key=means.get)
        # The least of several noisy figures is too low: the best count is measured again beside `auto`, as long.
        fixed, auto, found = [], [], []
        for _ in range(self.bench.runs):
            fixed.append(self.stage(shape, rounds, best)[0])
            mean, threads = self.stage(shape, rounds, "auto")
            auto.append(mean)
            found.append(threads[0])
        ours, theirs = statistics.median(auto), statistics.median(fixed)
        tried = statistics.median(f["tried_seconds"] / f["seconds"] for f in found)
        chosen = "/".join(str(p) for p in sorted({f["threads"] for f in found}))
        self.bench.table.add(f"auto threads, {shape}, a run on average over {rounds}", f"{ours:.2f} ms on {chosen} of {SLOTS}",
                             f"best of all counts: {theirs:.2f} ms on {best}", f"{ours / theirs:.2f}", "<= 1.10",
                             ours <= 1.1 * theirs)
        self.bench.table.add(f"auto threads, {shape}, time spent on trying", f"{100 * tried:.1f} %", "", "", "<= 5 %", tried <= 0.05)
