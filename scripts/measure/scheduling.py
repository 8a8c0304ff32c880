"""Scheduling: where splits are read, decisions, simulations, a live master's stages, and live runs beside simulated ones."""

import json
import os
import statistics

POLICIES = ["sequential", "greedy", "prioritized", "backfill", "fair"]
# How many times as fast each is run: long stages, so that what starts them is small beside them.
LIVE = {"six-tasks": 4, "stream-beside-wide": 10, "giant-among-smalls": 10, "bursts": 8}
# Rounds of 100,000 stages.
ROUNDS = 9


class Scheduling:
    def __init__(self, bench, run, run_with_peak, report, cluster, flexps, jobs, root):
        self.bench, self.run, self.run_with_peak, self.report = bench, run, run_with_peak, report
        self.cluster, self.flexps, self.jobs, self.root = cluster, flexps, jobs, root
        self.add = bench.table.add
        self.examples = root / "target/release/examples"

    def all(self):
        self.locality()
        self.decisions()
        self.simulations()
        self.stages()
        self.live()

    def lines(self, *command):
        return [json.loads(line) for line in self.run(command)[1].splitlines()]

    def locality(self):
        """Which bytes slaves read on their own hosts, on a real HDFS; a slow slave, in virtual time."""
        rows = self.bench.generated("locality.libsvm", "webspam", "--rows", 2800, "--features", 500000, "--nonzeros", 1500)
        tool = [self.root / "scripts/hdfs", "--dir", self.bench.cache / "hdfs"]
        self.run([*tool, "up", "--datanodes", 4, "--replication", 2, "--block-size", 1 << 20])
        before = os.environ.get("HADOOP_CONF_DIR")
        try:
            url = self.run([*tool, "url"])[1].strip()
            os.environ["HADOOP_CONF_DIR"] = self.run([*tool, "conf"])[1].strip()
            self.run([*tool, "put", rows, "/rows.libsvm"])
            with self.cluster(self.jobs, slaves=4, slots=1) as cluster:
                command = [self.jobs, "run", "read", "--input", f"{url}/rows.libsvm", "--master", cluster.master]
                # Each takes 0.3 s, and where four slaves and four DataNodes share few cores, some are fast and others slow.
                reads = {way: [self.report([*command, "--splits", way])[1]["read"] for _ in range(5 * self.bench.runs)]
                         for way in ["near", "random"]}
        finally:
            os.environ.pop("HADOOP_CONF_DIR")
            if before is not None:
                os.environ["HADOOP_CONF_DIR"] = before
            self.run([*tool, "down"])
        for read in [*reads["near"], *reads["random"]]:
            assert read["rows"] == 2800, f"{read['rows']} rows of 2800 were read"
        near, random = (statistics.median([r["local_bytes"] / r["bytes"] for r in reads[way]]) for way in ["near", "random"])
        splits = statistics.median([r["splits"] for r in reads["near"]])
        self.add(f"HDFS, 4 hosts, 2 replicas, {splits} splits: bytes read on their own host", f"{100 * near:.0f} %",
                 f"--splits random {100 * random:.0f} %", "", ">= 95 %", near >= 0.95)
        ways = {way["what"]: way for way in self.lines(self.examples / "reading")}
        even, lots = ways["even"], ways["even, random"]
        self.add("the same in virtual time, 64 splits in 100 placements", f"{100 * even['local']:.0f} % (worst {100 * even['worst_local']:.0f})",
                 f"random {100 * lots['local']:.0f} %", "", ">= 95 %", even["worst_local"] >= 0.95)
        slow, planned = ways["one slow"], ways["one slow, as planned"]
        self.add("one slave of 4 four times slower, in virtual time: reading over the ideal",
                 f"{slow['over_ideal']:.2f} (worst {slow['worst_over_ideal']:.2f})", f"without stealing {planned['over_ideal']:.2f}",
                 f"{slow['over_ideal'] / planned['over_ideal']:.2f}", "<= 1.25", slow["worst_over_ideal"] <= 1.25)

    def decisions(self):
        for one in self.lines(self.examples / "decisions"):
            self.add(f"a decision over 1,000 slaves and 10,000 stages, {one['policy']}, p99 of {one['decisions']}",
                     f"{one['p99_ms']:.2f} ms (median {one['p50_ms']:.2f})", "", "", "<= 5 ms", one["p99_ms"] <= 5)

    def simulations(self):
        big = self.bench.cache / "hundred-thousand-stages.toml"
        big.write_text("[cluster]\nslaves = 1000\nslots = 16\n[luck]\njitter = 0.3\n[[job]]\nname = 'job'\ncopies = 1000\n"
                       "every = 0.05\nrounds = 100\n[[job.stage]]\nname = 'work'\nthreads = '8..64'\nwork = 160.0\ncost = 0.01\n")
        for policy in POLICIES:
            seconds, peak, _ = self.run_with_peak([self.flexps, "workload", "simulate", big, "--policies", policy, "--json"])
            self.add(f"simulating 100,000 stages on 1,000 slaves, {policy}",
                     f"{seconds:.1f} s, {peak / 2**20:.0f} MiB", "", "", "<= 20 s", seconds <= 20)
        six = self.report([self.flexps, "workload", "simulate", self.root / "jobs/workloads/six-tasks.toml"])[1]
        over = {p["policy"]: p["measures"]["over_bound"] for p in six["policies"]}
        self.add("six tasks on 300 slots, prioritized: makespan over its lower bound", f"{over['prioritized']:.3f}",
                 f"greedy {over['greedy']:.3f}, sequential {over['sequential']:.3f}", "", "<= 1.05", over["prioritized"] <= 1.05)

    def stages(self):
        """A live master: 200 slaves with sockets in its process, 100,000 empty stages of 200 jobs a round."""
        rounds = self.lines(self.examples / "stages", "prioritized", ROUNDS)
        rate = statistics.median([one["stages_a_second"] for one in rounds])
        self.add(f"a live master, 200 slaves in one process, {len(rounds)} x 100,000 empty stages of 200 jobs", f"{rate:.0f} stages/s",
                 "", "", ">= 5,000", rate >= 5000)
        # From the second round on the lists of jobs that ended and the history are full; what the allocator holds back beside
        # them takes some rounds more, and differs between rounds.
        first, last = (statistics.mean(one["resident_mib"] for one in two) for two in (rounds[4:6], rounds[-2:]))
        self.add(f"its resident memory after rounds {ROUNDS - 1} and {ROUNDS} beside that after 5 and 6", f"{last:.0f} MiB",
                 f"{first:.0f} MiB", f"{last / first:.2f}", "<= 1.1", last <= 1.1 * first)

    def live(self):
        for name, speed in LIVE.items():
            file = self.root / f"jobs/workloads/{name}.toml"
            played = self.report([self.flexps, "workload", "simulate", file, "--policies", "prioritized"])[1]["policies"][0]["measures"]
            run = [self.flexps, "workload", "run", file, "--policies", "prioritized", "--speed", speed]
            live = [self.report(run)[1]["policies"][0]["measures"]["makespan"] for _ in range(self.bench.runs)]
            a, b = statistics.median(live) * speed, played["makespan"]
            self.add(f"{name}, prioritized: makespan live ({speed} times as fast) over simulated",
                     f"{a:.1f} s", f"{b:.1f} s", f"{a / b:.3f}", "within 10 %", abs(a - b) <= 0.1 * b)
