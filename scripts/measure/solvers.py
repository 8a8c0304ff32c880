"""How near `--solver auto` comes to the best solver that certifies: training of each, interleaved, to the same distance from the optimum.

`svrg` and SAGA, which don't know how near they are, stand beside with the time at which they were there, known in hindsight.
"""

import pathlib
import statistics

# Job, its flags, and its solvers beside `auto`.
JOBS = {
    "lr": (["lr"], ["sdca", "newton", "svrg", "saga"]),
    "svm, squared hinge": (["svm"], ["sdca", "newton"]),
    "svm, squared": (["svm", "--loss", "squared"], ["sdca", "newton"]),
    "svm, hinge": (["svm", "--loss", "hinge"], ["sdca", "newton"]),
}
TOLERANCES = {"lr": [1e-3, 1e-6], "svm, squared hinge": [1e-3], "svm, squared": [1e-3], "svm, hinge": [1e-3]}
UNCERTIFIED = {"svrg", "saga"}
# Who needs more has lost.
SECONDS = 10
# Stages that wait for rows that are still being read.
READING = {"measure", "first-pass"}


class Solvers:
    """A figure is the median over the runs of the seconds in stages behind the first pass."""

    def __init__(self, bench, report, flexps, sets):
        self.bench, self.report, self.flexps, self.sets = bench, report, flexps, sets

    def all(self):
        for name, rows in self.sets.items():
            for job, (flags, solvers) in JOBS.items():
                for tolerance in TOLERANCES[job]:
                    self.of(f"{name}: {job} to {tolerance:.0e}", rows, flags, solvers, tolerance)

    def run(self, rows, flags, tolerance):
        return self.report([self.flexps, "run", *flags, "--tolerance", tolerance, "--epochs", 100000, "--time-limit", SECONDS,
                            "--threads", 2, "--input", rows])[1]

    @staticmethod
    def seconds(result, epoch=None):
        return sum(s["seconds"] for s in result["stages"] if s["name"] not in READING and (epoch is None or s["epoch"] <= epoch))

    def certified(self, rows, flags, solver, tolerance):
        """Seconds of a solver that ends with a certificate, if it came there, and its report."""
        try:
            result = self.run(rows, [*flags, "--solver", solver], tolerance)
        except SystemExit as refused:
            # Of the hinge `newton` learns no more features than a matrix has room for.
            if getattr(refused, "returncode", None) != 2:
                raise
            return None, None
        return (self.seconds(result) if result["metrics"]["gap"] <= tolerance else None), result

    def watched(self, rows, solver, tolerance, goal):
        """Seconds until the objective of a solver without one was at the goal, if it came there."""
        own = ["svrg", "--wide", 2] if solver == "svrg" else ["lr", "--solver", "sgd", "--optimizer", "saga", "--batch", 10, "--threads", 2]
        result = self.report([self.flexps, "run", *own, "--tolerance", tolerance / 100, "--epochs", 300, "--time-limit", SECONDS,
                              "--input", rows])[1]
        there = next((e["epoch"] for e in result["epochs"] if e["objective"] <= goal), None)
        return None if there is None else self.seconds(result, there)

    def of(self, what, rows, flags, solvers, tolerance):
        found, chosen, lost = {solver: [] for solver in ["auto", *solvers]}, set(), set()
        goal = None
        if UNCERTIFIED & set(solvers):
            goal = self.run(rows, [*flags, "--solver", "newton"], tolerance / 10)["objective"] * (1 + tolerance)
        for _ in range(self.bench.runs):
            for solver in found:
                if solver in lost:
                    continue
                if solver in UNCERTIFIED:
                    seconds = self.watched(rows, solver, tolerance, goal)
                else:
                    seconds, result = self.certified(rows, flags, solver, tolerance)
                    if solver == "auto":
                        chosen |= {note.split()[1].rstrip(":") for note in result["notes"] if note.startswith("solver ")}
                if seconds is None:
                    lost.add(solver)
                else:
                    found[solver].append(seconds)
        middle = {solver: statistics.median(times) for solver, times in found.items() if solver not in lost}
        others = sorted((seconds, solver) for solver, seconds in middle.items() if solver != "auto")
        told = ", ".join([f"{solver} {seconds:.3f} s" for seconds, solver in others if solver not in UNCERTIFIED]
                         + [f"in hindsight {solver} {seconds:.3f} s" for seconds, solver in others if solver in UNCERTIFIED]
                         + [f"{solver} not in {SECONDS} s" for solver in sorted(lost)])
        others = [one for one in others if one[1] not in UNCERTIFIED]
        if "auto" in lost or not others:
            self.bench.table.add(what, "missed the goal", told, "", "<= 1.3", False)
            return
        ratio = middle["auto"] / others[0][0]
        self.bench.table.add(what, f"auto {middle['auto']:.3f} s ({'/'.join(sorted(chosen))})", told, f"{ratio:.2f}", "<= 1.3", ratio <= 1.3)


def shrunk(shape, times):
    """The shape of a generated set with fewer rows."""
    at = shape.index("--rows") + 1
    return [*shape[:at], shape[at] // times, *shape[at + 1:]]


def sets(bench, shapes, trigrams, shrink):
    """The made sets, with fewer rows if asked for, and the real ones."""
    suffix = f"-{shrink}th" if shrink > 1 else ""
    made = {f"{name}{suffix}": bench.generated(f"solvers-{name}{suffix}.libsvm", *shrunk(shape, shrink)) for name, shape in shapes.items()}
    real = {pathlib.Path(path).name.removesuffix(".libsvm"): path for path in bench.real}
    return {**made, "SpamAssassin trigrams": trigrams, **real}
