"""The part `network` of scripts/bench: the model's way, and packed values, between hosts whose links are what a cluster's are, not a
machine's memory."""

from statistics import median

from .cluster import Cluster
from .hosts import Hosts
from .way import BYTES, both_ways, transfers

RATE = "1gbit"
# Links on which each way of values is tried.
RATES = ["100mbit", "1gbit", "10gbit"]
COMPRESSIONS = ["none", "auto", "lz4", "f16"]
PORT = 7000
# Processes in other network namespaces could still read one another's memory, as those on other hosts can't.
STRAIGHT = "messages"


class OverNetwork:
    """Measures with what scripts/bench has: its table and its commands."""

    def __init__(self, bench, run, report, flexps, jobs, bare):
        self.bench, self.run, self.report = bench, run, report
        self.flexps, self.jobs, self.bare = flexps, jobs, bare

    def all(self):
        with Hosts(4, RATE) as hosts:
            self.transfer(hosts)
            with Cluster(self.flexps, 3, 1, hosts) as slaves:
                both_ways(self.bench, self.report, slaves, f"svrg, 3 hosts on links of {RATE}, wide on all, narrow on one", STRAIGHT)

        print("\nlr, batches of 1000 through the store, 200k x 50 of 1M, 2 hosts of one worker, bsp: a pass\n")
        print("| link | --compress | seconds | of none | values raw | as they went | objective |\n|---|---|---|---|---|---|---|")
        for rate in RATES:
            with Hosts(3, rate) as hosts, Cluster(self.flexps, 2, 1, hosts) as slaves:
                self.compression(slaves, rate)

    def compression(self, slaves, rate):
        """lr's mini-batches between two hosts, with values packed in each way."""
        rows = self.bench.generated("lr.libsvm", "webspam", "--rows", 200000, "--features", 1000000, "--nonzeros", 50)
        found, last = {how: [] for how in COMPRESSIONS}, {}
        for _ in range(self.bench.runs):
            for how, seconds in found.items():
                command = [slaves.program, "run", "lr", "--solver", "sgd", "--input", rows, "--threads", 2, "--batch", 1000,
                           "--consistency", "bsp", "--epochs", 4, "--tolerance", 0, "--reproducible", "--compress", how,
                           "--master", slaves.master]
                _, last[how] = self.report(slaves.command(command), env=slaves.environment())
                # The first pass also waits for rows that are still being read.
                seconds.extend(s["seconds"] for s in last[how]["stages"] if s["name"] == "train" and s["epoch"] > 1)
        for how, seconds in found.items():
            packed = [s["packed"] for s in last[how]["stages"] if s["name"] == "train"]
            raw, went = (sum(p[name] for p in packed) / 1e6 for name in ["raw_bytes", "bytes"])
            sizes = f"{raw:.1f} MB | {went:.1f} MB" if raw else "|"
            print(f"| {rate} | {how} | {median(seconds):.3f} | {median(seconds) / median(found['none']):.2f} | {sizes} | "
                  f"{last[how]['objective']:.6f} |")
        auto, best = median(found["auto"]), min(median(found["none"]), median(found["lz4"]))
        self.bench.table.add(f"--compress auto on a link of {rate}, lr in batches: a pass", f"{auto:.3f} s",
                             f"the better of none and lz4 {best:.3f} s", f"{auto / best:.2f}", "<= 1.1", auto <= 1.1 * best)

    def transfer(self, hosts):
        """100 MB to another host."""
        with Cluster(self.jobs, 2, 1, hosts) as slaves:
            # From the one slave's host to the other's, beside them.
            server = slaves.start(2, "serve", f"tcp://{hosts.address(2)}:{PORT}", program=self.bare)
            assert server.poll() is None
            stream = hosts.command(1, [self.bare, "stream", BYTES, f"tcp://{hosts.address(2)}:{PORT}"])
            a, b, c = transfers(self.bench, self.run, self.report, slaves, stream, STRAIGHT)
        name = f"100 MB to another host on a link of {RATE}"
        self.bench.table.add(f"direct transfer of {name}", f"{a:.0f} ms", f"zeromq's bare stream {b:.0f} ms", f"{b / a:.2f}",
                             ">= 0.8", b >= 0.8 * a)
        self.bench.table.add("the same, beside reading and writing it over the shards", f"{a:.0f} ms", f"{c:.0f} ms",
                             f"{c / a:.1f}", ">= 5", c >= 5 * a)
