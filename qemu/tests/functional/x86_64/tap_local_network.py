# The host's network devices, and its end of the guest's network
#
# Copyright (c) 2026 tapstate developers
#
# SPDX-License-Identifier: GPL-2.0-or-later

import json
import socket
import struct
import subprocess

HOST_IP = '10.0.0.1'
GUEST_IP = '10.0.0.2'
GUEST_MAC = '52:54:00:12:34:56'

# Local experimental ethertype, used by send_packet()
ETHERTYPE = 0x88b5


def ip(*args):
    subprocess.run(['ip', *args], check=True)


def link_up(ifname):
    ip('link', 'set', ifname, 'up')


def set_address(ifname):
    """Set up @ifname as the host's end of the guest's network"""
    link_up(ifname)
    ip('address', 'replace', f'{HOST_IP}/24', 'dev', ifname)
    # A stopped guest does not answer ARP requests
    ip('neighbour', 'replace', GUEST_IP, 'lladdr', GUEST_MAC,
       'nud', 'permanent', 'dev', ifname)


def make_bridge(ifname, *ports):
    ip('link', 'add', ifname, 'type', 'bridge')
    for port in ports:
        ip('link', 'set', port, 'master', ifname)
        link_up(port)
    link_up(ifname)


def active_features(ifname):
    """Returns the names of the offloads that are on, as in ethtool -k"""
    output = subprocess.run(['ethtool', '--json', '-k', ifname], check=True,
                            stdout=subprocess.PIPE).stdout
    return {name for name, feature in json.loads(output)[0].items()
            if name != 'ifname' and feature['active']}


def send_packet(ifname):
    """Send a broadcast packet from the host to the guest"""
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW) as sock:
        sock.bind((ifname, 0))
        sock.send(struct.pack('>6s6sH46x', b'\xff' * 6, b'\2\0\0\0\0\1',
                              ETHERTYPE))


class Capture:
    """
    Announcements that a TAP gets from its guest, or from QEMU for the guest

    @match: function that is given a packet
    """

    ETH_P_ALL = 3

    def __init__(self, ifname, match):
        self._match = match
        self._count = 0
        self._sock = socket.socket(socket.AF_PACKET, socket.SOCK_RAW,
                                   socket.htons(self.ETH_P_ALL))
        self._sock.bind((ifname, self.ETH_P_ALL))
        self._sock.setblocking(False)

    def close(self):
        self._sock.close()

    def count(self):
        """Returns their number so far"""
        while True:
            try:
                packet, address = self._sock.recvfrom(2048)
            except BlockingIOError:
                return self._count
            if address[2] != socket.PACKET_OUTGOING:
                self._count += self._match(packet)

    @staticmethod
    def RARP(packet):
        return packet[12:14] == b'\x80\x35'

    @staticmethod
    def GRATUITOUS_ARP(packet):
        """Sender and target have the same IP address"""
        return (packet[12:14] == b'\x08\x06' and
                packet[28:32] == packet[38:42])
