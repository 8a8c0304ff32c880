"""Contests: flexps and some peers on the way to one goal, all contests' runs interleaved."""

import statistics

# Who takes so many times as long as the best peer in the first run does not run again.
HOPELESS = 1.5


class Contest:
    """`ours` and `peers` (by name) are calls that give what tools.py says; each objective must be at most `goal`. `lines` are
    (what, which seconds, bar): `train` or `whole`, and how many times faster than the best peer we mean to be. Who misses the
    goal in a run is told and has lost."""

    def __init__(self, goal, ours, peers, lines, memory=None):
        self.goal, self.ours, self.peers, self.lines, self.memory = goal, ours, peers, lines, memory
        self.found, self.missed = {}, set()

    def run(self):
        for name, call in [("ours", self.ours), *self.peers.items()]:
            if self.hopeless(name):
                continue
            one = call()
            if one["objective"] > self.goal or not one.get("certified", True):
                self.missed.add(name)
            self.found.setdefault(name, []).append(one)

    def hopeless(self, name):
        """Whether a peer missed the goal, or is not near the best of those that came there by any of the lines."""
        if name == "ours" or any(peer not in self.found for peer in self.peers):
            return False
        def near(seconds):
            times = {peer: self.found[peer][0][seconds] for peer in self.peers if peer not in self.missed}
            times = {peer: time for peer, time in times.items() if time is not None}
            return name in times and times[name] <= HOPELESS * min(times.values())
        return name in self.missed or not any(near(seconds) for _, seconds, _ in self.lines)

    def print(self, table):
        def middle(name, what):
            values = [one[what] for one in self.found[name] if one[what] is not None]
            return statistics.median(values) if values else None
        for what, seconds, bar in self.lines:
            mine = middle("ours", seconds)
            theirs = {name: middle(name, seconds) for name in self.peers if name not in self.missed}
            theirs = {name: value for name, value in theirs.items() if value is not None}
            if "ours" in self.missed:
                best = min(theirs, key=theirs.get, default="no peer came there")
                table.add(what, f"missed the goal in {mine:.1f} s", f"{best} {theirs[best]:.3f} s" if theirs else best, "",
                          f">= {bar} times" if bar else "-", False)
                continue
            if not theirs:
                table.add(what, f"{mine:.3f} s", "no peer came there", "", "-", True)
                continue
            best = min(theirs, key=theirs.get)
            times = theirs[best] / mine
            met = bar is None or times >= bar
            table.add(what, f"{mine:.3f} s", f"{best} {theirs[best]:.3f} s", f"{times:.1f} times", f">= {bar} times" if bar else "-", met)
        if self.memory and "ours" not in self.missed:
            mine = middle("ours", "memory") / 2**20
            theirs = {name: middle(name, "memory") for name in self.peers if name not in self.missed}
            theirs = {name: value / 2**20 for name, value in theirs.items() if value is not None and name.startswith("liblinear -s")}
            if not theirs:
                return
            best = min(theirs, key=theirs.get)
            table.add(self.memory, f"{mine:.0f} MiB", f"{best} {theirs[best]:.0f} MiB", f"{mine / theirs[best]:.2f}", "<= 1", mine <= theirs[best])
