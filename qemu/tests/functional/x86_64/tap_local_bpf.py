# eBPF programs for a TAP, written instruction by instruction
#
# Copyright (c) 2026 tapstate developers
#
# SPDX-License-Identifier: GPL-2.0-or-later

import ctypes
import struct

import tap_local_uapi as uapi

BPF_PROG_LOAD = 5
BPF_PROG_TYPE_SOCKET_FILTER = 1


def bpf_insn(code, dst=0, src=0, off=0, imm=0):
    return struct.pack('<BBhi', code, src << 4 | dst, off, imm)


def bpf_return(value):
    """A program that returns @value"""
    return [bpf_insn(0xb7, imm=value), bpf_insn(0x95)]


def bpf_drop(ethertype):
    """A program that drops packets with @ethertype and passes all others"""
    return [bpf_insn(0xbf, dst=6, src=1),           # r6 = r1
            bpf_insn(0x28, imm=12),                 # r0 = ethertype
            bpf_insn(0x15, off=2, imm=ethertype),   # if r0 == ethertype
            bpf_insn(0x61, src=6),                  # r0 = skb->len
            bpf_insn(0x95),
            *bpf_return(0)]


def bpf_load(insns):
    """Load a program; returns its fd"""
    code = ctypes.create_string_buffer(b''.join(insns))
    gpl = ctypes.create_string_buffer(b'GPL')
    attr = ctypes.create_string_buffer(struct.pack(
        'IIQQ', BPF_PROG_TYPE_SOCKET_FILTER, len(insns),
        ctypes.addressof(code), ctypes.addressof(gpl)), 128)
    return uapi.bpf(BPF_PROG_LOAD, attr)
