"""The tools of `scripts/bench peers`: flexps and its peers, each run as a process, with seconds, objective and memory.

Every call gives a dictionary: `whole` (seconds of the whole process; none where a peer's own reader is not what is
compared), `train` (seconds of training alone), `objective`, `memory` (peak bytes), of ours `certified`. What is found once, an optimum or the
loosest setting that reaches a goal, is kept in the cache folder.
"""

import json
import pathlib
import sys

# Settings from loose to tight, as the tools count them.
EPSILONS = [1, 0.3, 0.1, 0.03, 0.01, 0.003, 0.001, 1e-4, 1e-5]
ROUNDS = [1, 2, 3, 4, 5, 6, 7, 8, 10, 12, 15, 20, 30, 50]
# How long ours may take: what is not there then has missed the goal.
PATIENCE = "60s"


class Tools:
    def __init__(self, bench, run, report, say, root):
        self.bench, self.run, self.report, self.say, self.root = bench, run, report, say, root
        self.flexps = root / "target/release/flexps"
        self.python = bench.cache / "peers/bin/python"
        self.train_py = root / "scripts/peers/train.py"
        self.kept = bench.cache / "peers-kept.json"
        self.install()

    def install(self):
        # A mark, since an installation may end in its middle.
        mark = self.bench.cache / "peers/installed-with-vw-and-celer"
        if not mark.exists():
            self.say("installing snapml, vowpalwabbit, celer and scikit-learn from PyPI")
            self.run([sys.executable, "-m", "venv", self.bench.cache / "peers"])
            self.run([self.python, "-m", "pip", "-q", "install", "snapml", "vowpalwabbit", "celer", "scikit-learn"])
            mark.touch()
        self.official = self.bench.liblinear()
        self.multicore = self.bench.cache / "liblinear_multicore"
        if self.bench.stale(self.multicore):
            cpp = self.bench.source("liblinear-multicore")
            self.run(["g++", "-O3", "-w", "-fopenmp", "-DMULTICORE", "-fpermissive", "-I", cpp, "-o", self.multicore,
                      self.root / "scripts/peers/liblinear_train.cpp", *sorted(cpp.glob("*.cpp")),
                      *sorted((cpp / "blas").glob("*.c"))])

    def keep(self, key, make):
        """What `make` gives, made once for `key`."""
        known = json.loads(self.kept.read_text()) if self.kept.exists() else {}
        if key not in known:
            self.say(f"once: {key}")
            known[key] = make()
            self.kept.write_text(json.dumps(known, indent=1))
        return known[key]

    def converted(self, rows, kind):
        """The rows in a peer's own form."""
        target = self.bench.cache / f"{pathlib.Path(rows).name}.{kind}"
        if not target.exists():
            self.run([self.python, self.train_py, "--convert", rows, target])
        return target

    # -- one run each ---------------------------------------------------------------------------------------------

    def ours(self, rows, job, threads=2, tolerance=1e-3, more=()):
        # Badly conditioned rows take many cheap epochs: the certificate is to end the run.
        seconds, result = self.report([self.flexps, "run", *job, "--tolerance", tolerance, "--epochs", 5000, "--input", rows,
                                       "--threads", threads, "--time-limit", PATIENCE, *more])
        training = sum(s["seconds"] for s in result["stages"] if s["name"] != "measure")
        return {"whole": seconds, "train": training, "objective": result["objective"], "memory": result["peak_memory_bytes"],
                "certified": result["metrics"]["gap"] <= tolerance}

    def liblinear(self, rows, solver, epsilon, program=None, threads=1):
        program = program or self.official
        seconds, out = self.run([program, rows, solver, epsilon, *([threads] if program == self.multicore else [])])
        found = json.loads(out)
        return {"whole": seconds, "train": found["train"], "objective": found["objective"], "memory": found["memory"]}

    def python_peer(self, rows, peer, number, settings, goal="-inf", path=""):
        """The first of the settings that reaches the goal, or the last."""
        out = self.run([self.python, self.train_py, rows, peer, number, *settings],
                       env={"GOAL": str(goal), "PATH_LENGTH": str(path), "PATH": "/usr/bin:/bin"})[1]
        found = json.loads(out.strip().splitlines()[-1])
        return {"whole": None, "train": found["seconds"], "memory": None, **found}

    # -- settings -------------------------------------------------------------------------------------------------

    def loosest(self, key, settings, goal, call):
        """The first setting with which `call` reaches the goal; none if none does."""
        def search():
            return next((setting for setting in settings if call(setting)["objective"] <= goal), None)
        return self.keep(f"{key}: loosest for {goal:.9g}", search)

    def optimum(self, name, rows, solvers, job):
        """The lowest of what liblinear's solvers find and what `job` finds, independent of each other. Ours counts where
        liblinear's passes ended far from there."""
        def theirs():
            return min(self.liblinear(rows, solver, 1e-6)["objective"] for solver in solvers)
        found = self.keep(f"{name}: optimum by liblinear -s {' and '.join(map(str, solvers))}", theirs)
        ours = self.keep(f"{name}: optimum by ours", lambda: self.ours(rows, job, tolerance=1e-6)["objective"])
        return ours if ours < found * (1 - 1e-5) else found
