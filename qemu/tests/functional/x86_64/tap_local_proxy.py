# Forward a migration stream with file descriptors, and tamper with it
#
# Copyright (c) 2026 tapstate developers
#
# SPDX-License-Identifier: GPL-2.0-or-later

import os
import select
import socket
import threading

from tap_local_stream import MAX_FDS, HeldStream


class FdProxy(threading.Thread):
    """
    Forward one connection from UNIX socket @listen to UNIX socket @connect

    Hold the stream back from the first message with fds on. After @messages of
    those call @tamper with a HeldStream. When it returns None, forward the
    stream. When it returns a number, forward that many messages with fds, call
    @sent, and close both connections.
    """

    def __init__(self, listen, connect, messages, tamper, sent=None):
        super().__init__(name='proxy', daemon=True)
        self.error = None
        self._connect = connect
        self._messages = messages
        self._tamper = tamper
        self._sent = sent
        self._ended, self._end = os.pipe()
        self._server = socket.socket(socket.AF_UNIX)
        self._server.bind(listen)
        self._server.listen(1)
        self.start()

    def close(self):
        """Stop forwarding at once"""
        if self._end is not None:
            os.close(self._end)
            self._end = None
            self.join()
            os.close(self._ended)

    def __enter__(self):
        return self

    def __exit__(self, exc_type, exc_val, exc_tb):
        self.close()

    def run(self):
        try:
            with self._server:
                if not self._wait(self._server):
                    return
                source = self._server.accept()[0]
            with source, socket.socket(socket.AF_UNIX) as target:
                target.connect(self._connect)
                self._forward(source, target)
        except (BrokenPipeError, ConnectionResetError):
            # One side is gone; closing both sockets tells the other side
            pass
        except Exception as e:
            self.error = e

    def _wait(self, *socks):
        """Returns the readable ones of @socks, or none after close()"""
        ready = select.select([*socks, self._ended], [], [])[0]
        return [] if self._ended in ready else ready

    def _forward(self, source, target):
        held = HeldStream()
        try:
            while ready := self._wait(source, target):
                if target in ready:
                    data = target.recv(65536)
                    if not data:
                        return
                    source.sendall(data)
                if source in ready and not self._take(source, target, held):
                    return
        finally:
            held.close()

    def _take(self, source, target, held):
        data, fds, _, _ = socket.recv_fds(source, 65536, MAX_FDS)
        if not data:
            held.send(target)
            return False
        if not self._messages or not (fds or held.marks):
            target.sendall(data) if not fds else socket.send_fds(
                target, [data], fds)
            for fd in fds:
                os.close(fd)
            return True

        held.add(data, fds)
        if held.has(self._messages):
            passing = self._tamper(held)
            held.send(target, passing)
            if passing is not None:
                if self._sent:
                    self._sent()
                return False
            held.close()
            held.__init__()
            self._messages = 0
        return True
