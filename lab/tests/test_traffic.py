#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""Test that the test traffic counts exactly.

Lose, double, swap and damage packets between a pair of network namespaces.
$TAPSTATE_AGENT is the agent's program. The exit status is 77 without the rights to
make namespaces.
"""

import os
import shutil
import subprocess
import sys
import unittest

from traffic import HEADER, TRAIN, Counter, Traffic, TrafficError, \
    flow_of, number_of, seq_of

FLOWS = 4


class Damaged(Traffic):
    """Traffic that damages chosen packets, by number and direction"""

    def __init__(self, to_guest=None, to_host=None):
        super().__init__("10.0.0.1", "10.0.0.2", rate=200, flows=FLOWS)
        self.to_guest, self.to_host = to_guest or {}, to_host or {}
        self.tx = [DamagedSocket(sock, self) for sock in self.tx]
        self.held = {}

    def damage(self, what, data, deliver, key):
        if what == "double":
            deliver(data)
        elif what == "corrupt":
            data = data[:-1] + bytes([data[-1] ^ 1])
        elif what == "cut":
            data = data[:-1]
        elif what == "short":
            data = data[:7]
        elif what == "hold":
            self.held[key] = data
            return
        elif what == "lose":
            return
        deliver(data)
        if what == "release":
            deliver(self.held.pop(key))

    def _count(self, data, control):
        # Find the packet by its number: sockets are read in any order.
        _, _, flow, _, seq, _ = HEADER.unpack_from(data)
        what = self.to_host.get(number_of(flow, seq, FLOWS))
        self.damage(what, data, lambda d: Traffic._count(self, d, control),
                    "to host")


class DamagedSocket:
    def __init__(self, sock, traffic):
        self.sock, self.traffic = sock, traffic

    def sendto(self, data, address):
        self.traffic.damage(self.traffic.to_guest.get(self.traffic.sent), data,
                            lambda d: self.sock.sendto(d, address), "to guest")

    def close(self):
        self.sock.close()


def ip(*args, netns_of=None):
    enter = ["nsenter", "-n", "-t", str(netns_of)] if netns_of else []
    subprocess.run([*enter, "ip", *args], check=True)


class CounterTest(unittest.TestCase):
    def test_counter(self):
        counter = Counter(2)
        for flow, seq in ((0, 0), (0, 1), (1, 0), (0, 3), (0, 2), (0, 2),
                          (0, 4), (1, 1)):
            counter.count(flow, seq)
        self.assertEqual((counter.received, counter.unique, counter.duplicated,
                          counter.reordered), (8, 7, 1, 1))


class NumberTest(unittest.TestCase):
    def test_numbers(self):
        next_seq = [0] * FLOWS
        for n in range(10 * FLOWS * TRAIN):
            flow, seq = flow_of(n, FLOWS), seq_of(n, FLOWS)
            self.assertEqual(seq, next_seq[flow])
            next_seq[flow] += 1
            self.assertEqual(number_of(flow, seq, FLOWS), n)


class TrafficTest(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.agent = subprocess.Popen(
            ["unshare", "-n", "sh", "-c", "echo; read _; exec \"$0\"",
             os.environ["TAPSTATE_AGENT"]],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        cls.agent.stdout.readline()
        pid = cls.agent.pid
        ip("link", "set", "lo", "up")
        ip("link", "add", "tap0", "type", "veth", "peer", "name", "eth0",
           "netns", str(pid))
        ip("addr", "add", "10.0.0.1/24", "dev", "tap0")
        ip("link", "set", "tap0", "up")
        ip("addr", "add", "10.0.0.2/24", "dev", "eth0", netns_of=pid)
        ip("link", "set", "eth0", "up", netns_of=pid)
        cls.agent.stdin.write("\n")
        cls.agent.stdin.flush()
        cls.ready = cls.agent.stdout.readline()

    @classmethod
    def tearDownClass(cls):
        ip("link", "del", "tap0")
        cls.agent.kill()
        cls.agent.communicate()

    def run_traffic(self, to_guest=None, to_host=None):
        traffic = Damaged(to_guest, to_host)
        try:
            traffic.start()
            traffic.wait_progress(40)
            return traffic.finish(patience=2)
        finally:
            traffic.close()

    def check(self, direction, extra=0, **expected):
        names = ("lost", "duplicated", "reordered", "corrupt")
        self.assertEqual({n: getattr(direction, n) for n in names},
                         {n: expected.get(n, 0) for n in names})
        self.assertEqual(direction.received, direction.sent + extra)

    def test_ready(self):
        self.assertRegex(self.ready, "^tapstate-agent: ready on eth0")

    def test_exact(self):
        report = self.run_traffic()
        self.assertEqual(report.problems(), [])
        for direction in report.to_guest, report.to_host, report.ping:
            self.check(direction)
        self.assertEqual(report.to_guest.sent, report.to_host.sent)
        self.assertGreater(report.ping.sent, 0)

    def test_damage(self):
        # 5 and 6 are of the same flow
        cases = (
            ({5: "lose", 6: "lose"}, -2, {"lost": 2}),
            ({5: "double", 9: "double", 11: "double"}, 3, {"duplicated": 3}),
            ({5: "hold", 6: "release"}, 0, {"reordered": 1}),
            ({5: "hold", 7: "release"}, 0, {"reordered": 1}),
            ({5: "corrupt"}, -1, {"lost": 1, "corrupt": 1}),
            ({5: "cut"}, -1, {"lost": 1, "corrupt": 1}),
            ({5: "short"}, -1, {"lost": 1, "corrupt": 1}),
        )
        for damage, extra, expected in cases:
            with self.subTest(damage):
                report = self.run_traffic(damage, damage)
                self.check(report.to_guest, extra, **expected)
                self.check(report.to_host, extra, **expected)
                self.assertEqual(bool(report.problems()), bool(expected))

    def test_order_of_flows(self):
        """Check that a single packet has no gap."""
        report = self.run_traffic(to_guest={7: "hold", 8: "release"})
        self.check(report.to_guest)

    def test_bad_requests(self):
        traffic = Damaged()
        try:
            for word, args in (("nonsense", {}), ("start", {"run": 1}),
                               ("finish", {"run": 77, "count": 1})):
                with self.subTest(word), self.assertRaises(TrafficError):
                    traffic.agent.ask(word, **args)
        finally:
            traffic.close()


def main():
    if os.geteuid() or not os.environ.get("TAPSTATE_AGENT") or \
            not shutil.which("ip"):
        print("SKIP: needs root, iproute2, and TAPSTATE_AGENT")
        sys.exit(77)
    # Enter a network namespace, which no packet can leave.
    if sys.argv[1:2] != ["--in-netns"]:
        os.execvp("unshare", ["unshare", "-n", sys.executable, sys.argv[0],
                              "--in-netns", *sys.argv[1:]])
    del sys.argv[1]
    # Stay on one CPU: a veth has a backlog per CPU, so a sender that moves
    # overtakes its own packets.
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    unittest.main()


if __name__ == "__main__":
    main()
