"""How near `auto` threads come to the best count, found by exhaustive search, for stages of five shapes."""

import statistics

# Runs of the stage, and pairs of jobs for each run of the bench: the shorter the stage, the more a few slow runs weigh in its mean.
SHAPES = {"compute": (200, 1), "locks": (200, 1), "memory": (300, 3), "communication": (300, 3), "tiny": (2000, 5)}
SLOTS = 8


class Auto:
    """Each count in turn, then the best of them beside `auto`, in pairs; the ratio is the median over the pairs."""

    def __init__(self, bench, report, jobs):
        self.bench, self.report, self.jobs = bench, report, jobs

    def all(self):
        for shape, (rounds, pairs) in SHAPES.items():
            self.of(shape, rounds, pairs * self.bench.runs)

    def stage(self, shape, rounds, threads):
        """Milliseconds of a run of the stage on average, and what was found of its threads."""
        _, result = self.report([self.jobs, "run", "shapes", "--slots", SLOTS, "--shape", shape, "--rounds", rounds, "--threads", threads])
        # The first finds caches cold, and what the workers share not made.
        runs = [stage["seconds"] for stage in result["stages"]][1:]
        return 1e3 * sum(runs) / len(runs), result["threads"]

    def of(self, shape, rounds, pairs):
        # The search: what a run takes is known after fewer of them.
        counts = range(1, SLOTS + 1)
        search = [{p: self.stage(shape, rounds // 8, p)[0] for p in counts} for _ in range(self.bench.runs)]
        means = {p: statistics.median(times[p] for times in search) for p in counts}
        best = min(means, key=means.get)
        # The least of several noisy figures is too low: the best count is measured again beside `auto`, as long. Who is first
        # changes, and each is compared with the one that ran next to it, since the machine is not the same all the time.
        fixed, auto, found, order = [], [], [], []
        for pair in range(pairs):
            for threads in ([best, "auto"] if pair % 2 == 0 else ["auto", best]):
                mean, tuned = self.stage(shape, rounds, threads)
                (auto if threads == "auto" else fixed).append(mean)
                order.append((threads, mean))
                found += tuned
        ratios = sorted(ours / theirs for ours, theirs in zip(auto, fixed))
        # Where a pair ends with the best count the next one begins with it: what measuring alone makes of the same count.
        following = list(zip(order, order[1:]))
        itself = [max(a, b) / min(a, b) for (first, a), (then, b) in following if first == then == best]
        off = f", off itself by {100 * (statistics.median(itself) - 1):.0f} %" if itself else ""
        ours, theirs, ratio = statistics.median(auto), statistics.median(fixed), statistics.median(ratios)
        tried = statistics.median(f["tried_seconds"] / f["seconds"] for f in found)
        chosen = "/".join(str(p) for p in sorted({f["threads"] for f in found}))
        self.bench.table.add(f"auto threads, {shape}, a run on average over {rounds}", f"{ours:.2f} ms on {chosen} of {SLOTS}",
                             f"best of all counts: {theirs:.2f} ms on {best}{off}",
                             f"{ratio:.2f} ({pairs} pairs, {ratios[0]:.2f} to {ratios[-1]:.2f})", "<= 1.10", ratio <= 1.1)
        self.bench.table.add(f"auto threads, {shape}, time spent on trying", f"{100 * tried:.1f} %", "", "", "<= 5 %", tried <= 0.05)
