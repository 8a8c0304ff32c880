"""The part `network` of scripts/bench: the model's way between hosts whose links are what a cluster's are, not a machine's memory."""

from .cluster import Cluster
from .hosts import Hosts
from .way import BYTES, both_ways, transfers

RATE = "1gbit"
PORT = 7000


class OverNetwork:
    """Measures with what scripts/bench has: its table and its commands."""

    def __init__(self, bench, run, report, flexps, jobs, bare):
        self.bench, self.run, self.report = bench, run, report
        self.flexps, self.jobs, self.bare = flexps, jobs, bare

    def all(self):
        with Hosts(4, RATE) as hosts:
            self.transfer(hosts)
            with Cluster(self.flexps, 3, 1, hosts) as slaves:
                both_ways(self.bench, self.report, slaves, f"svrg, 3 hosts on links of {RATE}, wide on all, narrow on one")

    def transfer(self, hosts):
        """100 MB to another host."""
        with Cluster(self.jobs, 2, 1, hosts) as slaves:
            # From the one slave's host to the other's, beside them.
            server = slaves.start(2, "serve", f"tcp://{hosts.address(2)}:{PORT}", program=self.bare)
            assert server.poll() is None
            stream = hosts.command(1, [self.bare, "stream", BYTES, f"tcp://{hosts.address(2)}:{PORT}"])
            a, b, c = transfers(self.bench, self.run, self.report, slaves, stream)
        name = f"100 MB to another host on a link of {RATE}"
        self.bench.table.add(f"direct transfer of {name}", f"{a:.0f} ms", f"zeromq's bare stream {b:.0f} ms", f"{b / a:.2f}",
                             ">= 0.8", b >= 0.8 * a)
        self.bench.table.add("the same, beside reading and writing it over the shards", f"{a:.0f} ms", f"{c:.0f} ms",
                             f"{c / a:.1f}", ">= 5", c >= 5 * a)
