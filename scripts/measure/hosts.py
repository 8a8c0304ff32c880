"""Hosts of their own on this machine: network namespaces behind one switch, each link held to a rate.

Needs root, and `ip` and `tc` (Debian's iproute2). Whoever makes hosts ends them: use them as a context.
"""

import os
import subprocess
import tempfile

# Of the private network inside the namespaces; nothing outside them sees it.
PREFIX = "10.77.0."


class Hosts:
    """`count` hosts, the first of them number 0, whose links carry `rate` (as `tc` has it: 1gbit) each way."""

    def __init__(self, count, rate):
        self.count, self.rate = count, rate
        self.names = [f"flexps-{os.getpid()}-{i}" for i in range(count)]
        self.switch = f"flexps-{os.getpid()}-s"
        self.secret = {"FLEXPS_SECRET": os.urandom(16).hex()}

    def __enter__(self):
        self.scratch = tempfile.mkdtemp(prefix="flexps-hosts-")
        try:
            self._make()
        except BaseException:
            self.__exit__()
            raise
        return self

    def _make(self):
        call("ip netns add", self.switch)
        inside(self.switch, "ip link add br0 type bridge")
        inside(self.switch, "ip link set br0 up")
        for at, name in enumerate(self.names):
            call("ip netns add", name)
            call(f"ip link add e0 netns {name} type veth peer name p{at} netns {self.switch}")
            inside(self.switch, f"ip link set p{at} master br0 up")
            inside(name, f"ip address add {self.address(at)}/24 dev e0")
            inside(name, "ip link set e0 up")
            inside(name, "ip link set lo up")
            for where, link in [(name, "e0"), (self.switch, f"p{at}")]:
                inside(where, f"tc qdisc add dev {link} root tbf rate {self.rate} burst 256kb latency 200ms")

    def __exit__(self, *_):
        for name in [*self.names, self.switch]:
            # One that was never made is no fault here.
            subprocess.run(["ip", "netns", "delete", name], stderr=subprocess.DEVNULL, check=False)
        os.rmdir(self.scratch)

    def address(self, host):
        """The address of a host."""
        return f"{PREFIX}{10 + host}"

    def command(self, host, command):
        """`command` as it runs on a host: with a folder for temporary files of its own, so that processes of two hosts find
        no socket file of one another and really talk over the network."""
        script = f'mount -t tmpfs tmpfs {self.scratch} && TMPDIR={self.scratch} exec "$0" "$@"'
        return ["ip", "netns", "exec", self.names[host], "sh", "-c", script, *command]


def call(*words):
    subprocess.run(" ".join(words).split(), check=True)


def inside(name, command):
    call("ip netns exec", name, command)
