"""A master and slaves as processes of their own, on loopback or on hosts of scripts/measure/hosts.py."""

import json
import os
import subprocess
import sys
import time


class Cluster:
    """A master and slaves of `program`, ended by their own process ids; with `hosts`, the master on the first of them and a
    slave on each of the next. Slaves are `apart` as if each were a machine of its own with cores for its slots, or share
    this one's cores."""

    def __init__(self, program, slaves, slots, hosts=None, apart=True):
        self.program, self.slaves, self.slots, self.hosts = program, slaves, slots, hosts
        self.cores = ["--cores", slots] if apart else []
        self.children = []

    def command(self, command, host=0):
        """`command` as it runs where the master does, or on another host."""
        return self.hosts.command(host, command) if self.hosts else list(command)

    def environment(self):
        """Of whatever runs in the cluster."""
        return {**os.environ, **(self.hosts.secret if self.hosts else {})}

    def address(self, host):
        return self.hosts.address(host) if self.hosts else "127.0.0.1"

    def start(self, host, *arguments, program=None):
        """Starts `program`, flexps unless another is named, on a host; it ends with the cluster."""
        command = self.command([program or self.program, *arguments], host)
        child = subprocess.Popen([str(word) for word in command], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
                                 env=self.environment())
        self.children.append(child)
        return child

    def registered(self):
        command = self.command([self.program, "slaves", "--master", self.master, "--json"])
        out = subprocess.run(command, capture_output=True, text=True, timeout=30, check=True, env=self.environment()).stdout
        return len(json.loads(out))

    def __enter__(self):
        try:
            self.begin()
        except BaseException:
            self.__exit__()
            raise
        return self

    def begin(self):
        self.master = self.start(0, "master", "--bind", f"{self.address(0)}:0").stdout.readline().split()[-1]
        for i in range(1, self.slaves + 1):
            self.start(i, "slave", "--master", self.master, "--slots", self.slots, *self.cores, "--host", f"h{i}",
                       "--bind", self.address(i))
        deadline = time.monotonic() + 20
        while self.registered() < self.slaves:
            if time.monotonic() > deadline:
                sys.exit("bench: the slaves did not register within 20 s")
            time.sleep(0.1)

    def __exit__(self, *_):
        for child in reversed(self.children):
            child.terminate()
        for child in self.children:
            try:
                child.wait(timeout=10)
            except subprocess.TimeoutExpired:
                child.kill()
