# SPDX-License-Identifier: GPL-2.0-or-later
"""The host's end of the test traffic.

lab/guest/agent.c is the guest's end and describes the protocol.
"""

import collections
import dataclasses
import hashlib
import json
import os
import select
import socket
import struct
import subprocess
import threading
import time

MAGIC = 0x54415053
HEADER = struct.Struct("!IIIIQQ")
PORTS = 8
TRAIN = 4
CONTROL_PORT = 7000
STREAM_PORT = 7001
HOST_TX_PORT = 20000
GUEST_RX_PORT = 21000
HOST_RX_PORT = 23000
RCVBUF = 4 << 20
PATTERN = bytes(range(256)) * 6

# Options of asm-generic/socket.h and linux/in.h that Python lacks
SO_RCVBUFFORCE = 33
SO_TIMESTAMPNS = 35
SO_MEMINFO = 55
MEMINFO_DROPS = 8
IP_RECVERR = 11


class TrafficError(Exception):
    pass


def flow_of(number, flows):
    """Return the flow of packet NUMBER of the direction."""
    return number // TRAIN % flows


def seq_of(number, flows):
    return number // (TRAIN * flows) * TRAIN + number % TRAIN


def number_of(flow, seq, flows):
    return (seq // TRAIN * flows + flow) * TRAIN + seq % TRAIN


def packet_length(flow, seq):
    return HEADER.size + 8 + (seq * 97 + flow * 31) % 1200


def make_packet(run, flow, seq, received):
    length = packet_length(flow, seq)
    start = (seq * 13 + flow * 7) & 0xff
    return HEADER.pack(MAGIC, run, flow, length, seq, received) + \
        PATTERN[start:start + length - HEADER.size]


class Counter:
    """Counts of the packets that arrived in a set of numbered flows"""

    def __init__(self, flows):
        self.seen = [set() for _ in range(flows)]
        self.next = [0] * flows
        self.received = self.unique = 0
        self.duplicated = self.reordered = self.corrupt = 0

    def count(self, flow, seq):
        self.received += 1
        if seq in self.seen[flow]:
            self.duplicated += 1
            return
        self.seen[flow].add(seq)
        self.unique += 1
        if seq < self.next[flow]:
            self.reordered += 1
        else:
            self.next[flow] = seq + 1


class Gap:
    """The longest time between two arrivals"""

    def __init__(self):
        self.last = None
        self.longest = 0.0

    def arrived(self, when):
        if self.last is not None:
            self.longest = max(self.longest, when - self.last)
        self.last = when


@dataclasses.dataclass
class Direction:
    """Fate of the packets that went one way"""
    name: str
    sent: int
    received: int
    lost: int
    duplicated: int
    reordered: int
    corrupt: int
    send_errors: int
    overflow: int
    gap: float = 0.0

    def problems(self):
        """Return the reasons why this direction is not exact."""
        found = [f"{getattr(self, what)} {what}" for what in
                 ("lost", "duplicated", "reordered", "corrupt")
                 if getattr(self, what)]
        if self.overflow:
            found.append(f"{self.overflow} dropped by the receiver's socket: "
                         "not read in time, or the checksum was wrong")
        return found


@dataclasses.dataclass
class Report:
    to_guest: Direction
    to_host: Direction
    ping: Direction
    # Number and time of packets to the guest that are missing, at most 20
    missing: list

    def problems(self):
        # Allow a ping to be reordered: it goes both ways, so tun may move it to
        # another queue, ahead of packets that wait in the old one.
        ping = dataclasses.replace(self.ping, reordered=0)
        found = [f"{d.name}: {p}"
                 for d in (self.to_guest, self.to_host, ping)
                 for p in d.problems()]
        if self.to_guest.sent != self.to_host.sent:
            found.append("the directions did not send the same number")
        return found

    def table(self):
        columns = ("sent", "received", "lost", "duplicated", "reordered",
                   "corrupt")
        rows = [("", *columns, "longest gap")]
        for d in (self.to_guest, self.to_host, self.ping):
            rows.append((d.name, *(str(getattr(d, c)) for c in columns),
                         f"{d.gap * 1000:.0f} ms"))
        widths = [max(len(row[i]) for row in rows)
                  for i in range(len(rows[0]))]
        return "\n".join(
            "  ".join([row[0].ljust(widths[0])] +
                      [c.rjust(w) for c, w in zip(row[1:], widths[1:])])
            for row in rows)


class Agent:
    """Requests to the agent in the guest; a repeated request changes nothing"""

    def __init__(self, guest):
        self.sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.sock.connect((guest, CONTROL_PORT))
        self.id = 0

    def close(self):
        self.sock.close()

    def ask(self, word, timeout=60, **kwargs):
        self.id += 1
        text = " ".join([str(self.id), word] +
                        [f"{k}={v}" for k, v in kwargs.items()])
        deadline = time.monotonic() + timeout
        resend = 0.0
        while True:
            now = time.monotonic()
            if now > deadline:
                raise TrafficError(f"the guest's agent did not answer "
                                   f"'{word}' for {timeout} s")
            if now >= resend:
                self.sock.send(text.encode())
                resend = now + 1
            if not select.select([self.sock], [], [], resend - now)[0]:
                continue
            try:
                reply = self.sock.recv(2048).decode()
            except ConnectionRefusedError:
                # The agent has no socket yet: ask again later.
                continue
            number, status, *rest = reply.split(" ", 2)
            if number != str(self.id):
                continue
            if status != "ok":
                raise TrafficError(f"agent: {word}: {' '.join(rest)}")
            return self.parse(rest[0])

    @staticmethod
    def parse(text):
        result = {}
        for word in text.split():
            key, _, value = word.partition("=")
            if key == "missing":
                result[key] = [int(v) for v in value.split(",") if v]
            else:
                result[key] = int(value)
        return result


class Ping:
    """Numbered ICMP echo requests, at most 65536"""

    def __init__(self, guest, run):
        self.sock = socket.socket(socket.AF_INET, socket.SOCK_RAW,
                                  socket.IPPROTO_ICMP)
        self.sock.setblocking(False)
        self.sock.connect((guest, 0))
        self.ident = run & 0xffff
        self.sent = self.send_errors = 0
        self.counter = Counter(1)
        self.gap = Gap()

    @staticmethod
    def checksum(data):
        total = sum(struct.unpack(f"!{len(data) // 2}H", data))
        total = (total >> 16) + (total & 0xffff)
        return ~(total + (total >> 16)) & 0xffff

    def send(self):
        header = struct.pack("!BBHHH", 8, 0, 0, self.ident, self.sent)
        data = header + PATTERN[:56]
        try:
            self.sock.send(data[:2] + struct.pack("!H", self.checksum(data)) +
                           data[4:])
        except OSError:
            self.send_errors += 1
            return
        self.sent += 1

    def receive(self):
        while True:
            try:
                packet = self.sock.recv(2048)
            except BlockingIOError:
                return
            packet = packet[(packet[0] & 15) * 4:]
            kind, _, _, ident, seq = struct.unpack_from("!BBHHH", packet)
            if kind != 0 or ident != self.ident:
                continue
            if seq >= self.sent or packet[8:] != PATTERN[:56]:
                self.counter.corrupt += 1
                continue
            self.counter.count(0, seq)
            self.gap.arrived(time.monotonic())


def udp_socket(address, port):
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sock.setblocking(False)
    try:
        sock.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, RCVBUF)
    except PermissionError:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RCVBUF)
    sock.bind((address, port))
    return sock


class Traffic:
    """Traffic both ways, from start() to finish()"""

    def __init__(self, host, guest, rate=100, flows=64, ping_interval=0.2):
        self.host, self.guest = host, guest
        self.rate, self.flows = rate, flows
        self.ping_interval = ping_interval
        self.run = int.from_bytes(os.urandom(4), "big") | 1

        self.agent = Agent(guest)
        self.ping = Ping(guest, self.run)
        self.tx = [udp_socket(host, HOST_TX_PORT + i) for i in range(PORTS)]
        self.rx = {}
        for i in range(PORTS):
            # Have the kernel stamp packets: they may be read late.
            sock = udp_socket(host, HOST_RX_PORT + i)
            sock.setsockopt(socket.SOL_SOCKET, SO_TIMESTAMPNS, 1)
            self.rx[sock.fileno()] = sock
            # Report packets that the qdisc drops: they would count as sent.
            self.tx[i].setsockopt(socket.IPPROTO_IP, IP_RECVERR, 1)

        self.lock = threading.Lock()
        self.sent = self.send_errors = 0
        self.sent_at = []
        self.count = None
        self.counter = Counter(flows)
        self.gap_to_host, self.gap_to_guest = Gap(), Gap()
        self.guest_received = 0
        self.stop, self.stopped = os.pipe()
        self.thread = threading.Thread(target=self._work, daemon=True)
        self.error = None

    def start(self):
        self.agent.ask("start", run=self.run, flows=self.flows, rate=self.rate)
        # Send only now: the agent counts nothing before its start.
        self.thread.start()

    def progress(self):
        """Return how many packets have arrived at the guest and at the host.

        The guest's number is as old as its last packet.
        """
        if self.error:
            raise TrafficError(f"traffic stopped: {self.error!r}")
        return self.guest_received, self.counter.unique

    def wait_progress(self, packets, timeout=60):
        """Wait until as many more packets have arrived each way."""
        start = self.progress()
        deadline = time.monotonic() + timeout
        while any(now - then < packets
                  for now, then in zip(self.progress(), start)):
            if time.monotonic() > deadline:
                now = self.progress()
                raise TrafficError(
                    f"no {packets} packets each way in {timeout} s, but "
                    f"{now[0] - start[0]} to the guest and "
                    f"{now[1] - start[1]} to the host")
            time.sleep(0.02)

    def _send(self):
        flow = flow_of(self.sent, self.flows)
        seq = seq_of(self.sent, self.flows)
        packet = make_packet(self.run, flow, seq, self.counter.received)
        try:
            self.tx[flow // PORTS].sendto(
                packet, (self.guest, GUEST_RX_PORT + flow % PORTS))
        except OSError:
            # Send this packet again at the next turn.
            self.send_errors += 1
            return False
        self.sent += 1
        self.sent_at.append(time.time())
        return True

    def _send_train(self):
        while self._send() and self.sent % TRAIN and \
                self.sent != self.count:
            pass

    def _receive(self, sock):
        while True:
            try:
                data, control, _, _ = sock.recvmsg(65536, 64)
            except BlockingIOError:
                return
            self._count(data, control)

    def _count(self, data, control):
        counter = self.counter
        if len(data) < HEADER.size:
            counter.corrupt += 1
            return
        magic, run, flow, length, seq, received = HEADER.unpack_from(data)
        if magic == MAGIC and run != self.run:
            return
        start = (seq * 13 + flow * 7) & 0xff
        if magic != MAGIC or flow >= self.flows or length != len(data) or \
                length != packet_length(flow, seq) or \
                data[HEADER.size:] != PATTERN[start:
                                              start + length - HEADER.size]:
            counter.corrupt += 1
            return
        counter.count(flow, seq)

        seconds, nanoseconds = struct.unpack_from("@qq", control[0][2])
        when = seconds + nanoseconds / 1e9
        self.gap_to_host.arrived(when)
        # Use the host's clock, of packets that tell the guest's number: the
        # guest's clock stands still in the very time to be measured.
        if received > self.guest_received:
            self.guest_received = received
            self.gap_to_guest.arrived(when)

    def _work(self):
        try:
            self._loop()
        except BaseException as error:
            self.error = error
            raise

    def _loop(self):
        poll = select.epoll()
        for fd in self.rx:
            poll.register(fd, select.EPOLLIN)
        poll.register(self.ping.sock, select.EPOLLIN)
        poll.register(self.stop, select.EPOLLIN)
        next_packet = next_ping = time.monotonic()
        while True:
            now = time.monotonic()
            with self.lock:
                sending = self.count is None or self.sent < self.count
                if sending and now >= next_packet:
                    # Continue at the same rate after a stall.
                    next_packet = max(next_packet + TRAIN / self.rate, now - 1)
                    self._send_train()
            pinging = self.count is None
            if pinging and now >= next_ping:
                next_ping = max(next_ping + self.ping_interval, now)
                self.ping.send()
            wait = min(next_packet if sending else now + 1,
                       next_ping if pinging else now + 1) - time.monotonic()
            for fd, _ in poll.poll(max(wait, 0)):
                if fd == self.stop:
                    return
                if fd in self.rx:
                    self._receive(self.rx[fd])
                else:
                    self.ping.receive()

    def _agree_on_count(self):
        """Have both ends stop at the same number of packets."""
        while True:
            sent = max(self.agent.ask("status")["sent"], self.sent)
            count = sent + 2 * self.rate
            with self.lock:
                self.count = max(count, self.sent)
                count = self.count
            try:
                self.agent.ask("finish", run=self.run, count=count)
                return count
            except TrafficError as error:
                if "passed already" not in str(error):
                    raise

    def _overflow(self):
        return sum(
            struct.unpack_from("@I", sock.getsockopt(
                socket.SOL_SOCKET, SO_MEMINFO, 4 * (MEMINFO_DROPS + 1)),
                4 * MEMINFO_DROPS)[0] for sock in self.rx.values())

    def finish(self, timeout=120, patience=5):
        """Stop both ends at the same number of packets; return the Report.

        Packets that are missing when nothing has arrived for PATIENCE seconds are
        lost. A slow side may go on as long as it sends something in TIMEOUT
        seconds.
        """
        count = self._agree_on_count()
        before, since = None, time.monotonic()
        sending, deadline = None, 0
        while True:
            status = self.agent.ask("status")
            self.progress()
            now = time.monotonic()
            if (status["sent"], self.sent) != sending:
                sending, deadline = (status["sent"], self.sent), now + timeout
            state = (status["received"], status["sent"], self.sent,
                     self.counter.received, self.ping.counter.received)
            if state != before:
                before, since = state, now
            sent = status["finished"] and self.sent >= count
            arrived = status["unique"] >= count and \
                self.counter.unique >= count and \
                self.ping.counter.unique >= self.ping.sent
            # Wait one more second for duplicates when all have arrived.
            if sent and now - since > (1 if arrived else patience):
                break
            if now > deadline:
                raise TrafficError(
                    f"no end: in {timeout} s no more was sent than "
                    f"{self.sent} and {status['sent']} of {count}")
            time.sleep(0.1)

        os.write(self.stopped, b"x")
        self.thread.join()
        report = self._report(count, status)
        self.close()
        return report

    def close(self):
        if self.thread.is_alive():
            os.write(self.stopped, b"x")
            self.thread.join()
        for sock in [*self.tx, *self.rx.values(), self.ping.sock]:
            sock.close()
        self.agent.close()

    def _report(self, count, status):
        own, ping = self.counter, self.ping.counter
        return Report(
            Direction("host to guest", self.sent, status["received"],
                      count - status["unique"], status["duplicated"],
                      status["reordered"], status["corrupt"],
                      self.send_errors, status["overflow"],
                      self.gap_to_guest.longest),
            Direction("guest to host", status["sent"], own.received,
                      count - own.unique, own.duplicated, own.reordered,
                      own.corrupt, status["send_errors"], self._overflow(),
                      self.gap_to_host.longest),
            Direction("ping", self.ping.sent, ping.received,
                      self.ping.sent - ping.unique, ping.duplicated,
                      ping.reordered, ping.corrupt, self.ping.send_errors, 0,
                      self.ping.gap.longest),
            [(n, self.sent_at[n]) for n in status["missing"]])


class Stream:
    """A TCP connection to the guest, which sends everything back

    It shows that no packet was mangled and that connections survive. It does not
    show losses: TCP repeats lost packets.
    """

    CHUNK = 4096

    def __init__(self, guest, rate=50):
        """rate: chunks per second"""
        self.sock = self._connect(guest)
        self.sock.settimeout(60)
        self.interval = 1 / rate
        self.sent, self.received = hashlib.sha256(), hashlib.sha256()
        self.bytes_sent = self.bytes_received = 0
        self.stop = threading.Event()
        self.error = None
        self.threads = [threading.Thread(target=self._guard, args=(work,),
                                         daemon=True)
                        for work in (self._send, self._receive)]

    @staticmethod
    def _connect(guest, timeout=60):
        deadline = time.monotonic() + timeout
        while True:
            try:
                return socket.create_connection((guest, STREAM_PORT), timeout)
            except ConnectionRefusedError:
                # The guest is up, but does not listen yet.
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.05)

    def start(self):
        for thread in self.threads:
            thread.start()

    def _guard(self, work):
        try:
            work()
        except OSError as error:
            self.error = error

    def _send(self):
        while not self.stop.wait(self.interval):
            data = os.urandom(self.CHUNK)
            self.sock.sendall(data)
            self.sent.update(data)
            self.bytes_sent += len(data)
        self.sock.shutdown(socket.SHUT_WR)

    def _receive(self):
        while data := self.sock.recv(65536):
            self.received.update(data)
            self.bytes_received += len(data)

    def finish(self):
        """Return the problems, if anything did not come back as it was sent."""
        self.stop.set()
        for thread in self.threads:
            thread.join(120)
        self.sock.close()
        if any(thread.is_alive() for thread in self.threads):
            return ["TCP: the stream does not end"]
        if self.error:
            return [f"TCP: {self.error}"]
        if self.sent.digest() != self.received.digest():
            return [f"TCP: sent {self.bytes_sent} bytes and got "
                    f"{self.bytes_received} back, which differ"]
        return []

    def close(self):
        self.stop.set()
        self.sock.close()


Link = collections.namedtuple("Link", "mac tx_dropped")


def link(dev):
    out = subprocess.run(["ip", "-s", "-j", "link", "show", "dev", dev],
                         check=True, stdout=subprocess.PIPE).stdout
    info = json.loads(out)[0]
    return Link(info["address"], info["stats64"]["tx"]["dropped"])
