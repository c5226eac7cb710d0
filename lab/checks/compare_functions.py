# SPDX-License-Identifier: GPL-2.0-or-later
"""Compare the machine code of two builds of tun.ko, function by function.

usage: compare_functions.py WITHOUT.ko WITH.ko [UPSTREAM.ko]

Fail for each function that differs, unless CONTROL matches its name. Print TAP, and
differences between UPSTREAM.ko and WITH.ko as comments.
"""

import bisect
import difflib
import re
import subprocess
import sys
import textwrap

from elftools.elf.constants import SH_FLAGS
from elftools.elf.elffile import ELFFile
from elftools.elf.enums import ENUM_RELOC_TYPE_x64
from elftools.elf.relocation import RelocationSection

from tap_output import Tap

# Functions that packets pass through; the compiler may inline them
HOT = '''
tun_automq_select_queue tun_build_skb tun_chr_poll tun_chr_read_iter
tun_chr_write_iter tun_do_read tun_ebpf_select_queue tun_flow_update
tun_get_user tun_napi_poll tun_napi_receive tun_net_xmit tun_ptr_free
tun_put_user tun_put_user_xdp tun_queue_purge tun_recvmsg tun_ring_recv
tun_rx_batched tun_select_queue tun_sendmsg tun_sock_write_space tun_xdp_act
tun_xdp_one tun_xdp_tx tun_xdp_xmit __tun_build_skb __tun_wake_queue
'''.split()

# Functions that no packet passes through: the patches may change them, and so may
# the compiler's choice of functions to inline
CONTROL = re.compile(r'''
    # open, close, fdinfo, the ioctls, the end of a device, and functions that only these
    # call
    tun_chr_(open|close|show_fdinfo) | tun_net_uninit | __tun_chr_ioctl |
    tun_chr_(compat_)?ioctl | tun_set_iff | tun_set_queue |
    tun_(at|de)tach(_filter|_all)? | __tun_detach | tun_set_sndbuf |
    (__)?tun_set_ebpf | tun_prog_free | set_offload | tun_offload_features | tun_flags |
    tun_net_change_carrier | tun_get_iff | tun_(en|dis)able_queue |
    tun_set_real_num_queues | update_filter | tun_free_netdev |
    tun_filter_\w+ | tun_set(_queue)?_filter | cleanup_module |
    # the feature itself
    tun_state_\w+
''', re.VERBOSE)

# Tables of the unwinder, debuggers and ftrace, which describe code
IGNORED_TABLES = re.compile(r'\.orc_|\.debug|__mcount_loc|__patchable_func')

PC_RELATIVE = (ENUM_RELOC_TYPE_x64['R_X86_64_PC32'],
               ENUM_RELOC_TYPE_x64['R_X86_64_PLT32'])

NOP = re.compile(r'(data16 |cs |ds )*(nop|nopw|nopl|xchg +%ax,%ax)\b')


class Module:
    """The functions of a relocatable x86-64 ELF file."""

    def __init__(self, path):
        self.path = path
        with open(path, 'rb') as file:
            elf = ELFFile(file)
            if elf.get_machine_arch() != 'x64':
                sys.exit(f'{path}: not an ELF file of x86-64')
            self.sections = list(elf.iter_sections())
            self.data = [sec.data() for sec in self.sections]
            self.read_symbols(elf.get_section_by_name('.symtab'))
            self.relocs = {}    # section -> {offset: (type, symbol, addend)}
            for sec in self.sections:
                if isinstance(sec, RelocationSection) and \
                        self.has(sec['sh_info'], SH_FLAGS.SHF_ALLOC):
                    self.read_relocs(sec)
        self.refs = self.referenced()
        self.steps = {}     # section -> [offsets of instructions]
        self.notes = self.patch_sites()
        self.functions = self.disassemble()

    def has(self, shndx, flags):
        """Tell if a section has all of these flags."""
        return self.sections[shndx]['sh_flags'] & flags == flags

    def read_symbols(self, table):
        """Fill in self.symbols and, by section, those that have a place."""
        self.symbols, self.placed = [], {}
        for sym in table.iter_symbols():
            name, shndx = sym.name, sym['st_shndx']
            kind = sym['st_info']['type']
            shndx = shndx if isinstance(shndx, int) else 0
            if kind == 'STT_SECTION':
                name = self.sections[shndx].name
            self.symbols.append((name, kind, shndx, sym['st_value']))
            if kind in ('STT_NOTYPE', 'STT_OBJECT', 'STT_FUNC') and shndx and \
                    not name.startswith(('__pfx_', '.L')):
                self.placed.setdefault(shndx, []).append(
                    (sym['st_value'], sym['st_size'], name))
        for places in self.placed.values():
            places.sort()

    def read_relocs(self, sec):
        """Add the relocations of one section."""
        self.relocs.setdefault(sec['sh_info'], {}).update(
            (rel['r_offset'],
             (rel['r_info_type'], rel['r_info_sym'], rel['r_addend']))
            for rel in sec.iter_relocations())

    def referenced(self):
        """{section: [offsets]} of all that something points at."""
        refs = {}
        for table in self.relocs.values():
            for kind, sym, addend in table.values():
                _, _, target, value = self.symbols[sym]
                if kind in PC_RELATIVE:
                    addend += 4
                refs.setdefault(target, set()).add(value + addend)
        for shndx, places in self.placed.items():
            refs.setdefault(shndx, set()).update(p[0] for p in places)
        return {shndx: sorted(places) for shndx, places in refs.items()}

    def content(self, shndx, offset, depth):
        """What is in data without a name: up to the next thing in use."""
        sec, refs = self.sections[shndx], self.refs.get(shndx, [])
        # Compare strings by content: the linker shares their tails.
        match = TEXT.match(self.data[shndx], offset)
        if match and sec['sh_type'] != 'SHT_NOBITS':
            return repr(match[1].decode())
        i = bisect.bisect_right(refs, offset)
        end = refs[i] if i < len(refs) else sec['sh_size']
        # Stop after the size of UBSAN's data: the next object may be unused.
        end = min(end, offset + 32)
        if sec['sh_type'] == 'SHT_NOBITS':    # .bss
            return f'{sec.name} {end - offset}'
        table, out = self.relocs.get(shndx, {}), b''
        at = offset
        while at < end:
            if at in table:
                _, sym, addend = table[at]
                name, _, target, value = self.symbols[sym]
                if target and depth < 4:
                    name = self.place(target, value + addend, depth + 1)
                out += f'<{name}>'.encode()
                at += 8
            else:
                out += self.data[shndx][at:at + 1]
                at += 1
        # Drop the line number of a location in the source, which UBSAN reports.
        out = re.sub(rb"(?s)(<'[^']*\.[ch]'>).{4}", rb'\1', out)
        # Drop padding in front of the next object.
        return repr(out.rstrip(b'\0'))[1:]

    def place(self, shndx, offset, depth=0):
        """Name what is at an offset of a section, wherever it moved to."""
        sec = self.sections[shndx]
        if self.has(shndx, SH_FLAGS.SHF_MERGE | SH_FLAGS.SHF_STRINGS):
            end = self.data[shndx].index(b'\0', offset)
            return repr(self.data[shndx][offset:end].decode())
        places = self.placed.get(shndx, [])
        i = bisect.bisect_right(places, (offset, float('inf'), '')) - 1
        while i > 0 and places[i - 1][0] == places[i][0]:
            i -= 1
        if i >= 0:
            value, size, name = places[i]
            if self.has(shndx, SH_FLAGS.SHF_EXECINSTR) and \
                    value < offset < value + size:
                # Count instructions: bytes would include padding.
                steps = self.steps.get(shndx, [])
                step = (bisect.bisect_left(steps, offset) -
                        bisect.bisect_left(steps, value))
                return f'{plain(name)} instruction {step}'
            if offset == value or offset < value + size:
                return f'{plain(name)}+{offset - value:#x}'
        if not self.has(shndx, SH_FLAGS.SHF_EXECINSTR) and \
                0 <= offset < sec['sh_size']:
            return self.content(shndx, offset, depth)
        return f'{sec.name}+{offset:#x}'

    def target(self, kind, sym, addend, to_end):
        """Name what a relocation is about; TO_END bytes end its instruction."""
        name, sort, shndx, value = self.symbols[sym]
        if kind in PC_RELATIVE:     # to the instruction's end
            addend += to_end
        if shndx and (sort == 'STT_SECTION' or shndx in self.placed):
            return self.place(shndx, value + addend)
        return f'{name}+{addend:#x}'

    def patch_sites(self):
        """{(section, offset): [notes]} from the tables that point at code."""
        notes = {}
        for shndx, table in self.relocs.items():
            name = self.sections[shndx].name
            if self.has(shndx, SH_FLAGS.SHF_EXECINSTR) or \
                    IGNORED_TABLES.match(name):
                continue
            order = sorted(table)
            for i, where in enumerate(order):
                _, sym, addend = table[where]
                _, sort, code, value = self.symbols[sym]
                if sort != 'STT_SECTION' or \
                        not self.has(code, SH_FLAGS.SHF_EXECINSTR):
                    continue
                note = name
                # The last word of such an entry names the key or the call.
                step = {'__jump_table': 2, '.static_call_sites': 1}.get(name)
                if step and where % (8 * step) == 0 and i + step < len(order):
                    kind, sym, more = table[order[i + step]]
                    note += ' ' + self.target(kind, sym, more, 0)
                notes.setdefault((code, value + addend), []).append(note)
        return notes

    def disassemble(self):
        """{name: [normalised instructions]} of all functions."""
        out = subprocess.run(
            ['objdump', '-dw', '--no-show-raw-insn', self.path],
            check=True, capture_output=True, text=True).stdout
        by_name = {s.name: i for i, s in enumerate(self.sections)}
        shndx, insns = None, {}
        for line in out.splitlines():
            match = re.match(r'Disassembly of section (.*):$', line)
            if match:
                shndx = by_name[match[1]]
                continue
            match = re.match(r' *([0-9a-f]+):\t(.*)', line)
            if match:
                insns.setdefault(shndx, []).append(
                    (int(match[1], 16), match[2].strip()))
        for shndx, code in insns.items():
            self.steps[shndx] = [a for a, text in code if not NOP.match(text)]
        functions = {}
        for shndx, code in insns.items():
            self.split(shndx, code, functions)
        return functions

    def split(self, shndx, code, functions):
        """Add the functions of one section to FUNCTIONS."""
        starts = {}
        for value, _, name in self.placed.get(shndx, []):
            starts.setdefault(value, (plain(name), value))
        ends = sorted(starts) + [self.sections[shndx]['sh_size']]
        code.append((self.sections[shndx]['sh_size'], ''))
        addrs = [a for a, _ in code]
        for start, end in zip(ends, ends[1:]):
            name, _ = starts[start]
            lo, hi = (bisect.bisect_left(addrs, x) for x in (start, end))
            part = [(*code[i], code[i + 1][0]) for i in range(lo, hi)]
            text = self.normalise(shndx, start, end, part)
            # Tell clones apart that differ only in their number.
            while name in functions:
                name += "'"
            functions[name] = text

    def normalise(self, shndx, start, end, part):
        """Instructions without anything that says where they are."""
        labels = {}
        for _, text, _ in part:
            match = JUMP.search(text)
            if match and start <= int(match[1], 16) < end:
                labels[int(match[1], 16)] = ''
        for i, addr in enumerate(sorted(labels)):
            labels[addr] = f'.L{i}'
        relocs = self.relocs.get(shndx, {})
        lines = []
        for addr, text, after in part:
            if addr in labels:
                lines.append(f'{labels[addr]}:')
            notes = sorted(set(self.notes.get((shndx, addr), [])))
            text = re.sub(r'\s+# [0-9a-f]+ <.*', '', text)
            found = [(at, relocs[at]) for at in range(addr, after)
                     if at in relocs]
            if found:
                text = JUMP.sub('', text)
                text += ''.join(
                    f' {{{self.target(*reloc, after - at)}}}'
                    for at, reloc in found)
            else:
                match = JUMP.search(text)
                if match:
                    to = int(match[1], 16)
                    text = JUMP.sub('', text) + ' ' + (
                        labels.get(to) or self.place(shndx, to))
                elif NOP.match(text) and not notes:
                    continue
            if notes:
                text += f' [{", ".join(notes)}]'
            lines.append(re.sub(r'\s+', ' ', text))
        # Drop padding after the last instruction.
        while lines and lines[-1] == 'int3':
            lines.pop()
        return lines


TEXT = re.compile(rb'([\x01\t\n -~]+)\0')
JUMP = re.compile(r'\b([0-9a-f]+) <[^>]*>$')


def plain(name):
    """A symbol's name without the numbers that compilers make up."""
    name = re.sub(r'\.\d+(?=\.|$)', '', name)
    return re.sub(r'^(__UNIQUE_ID_\w*?)\d+$', r'\1', name)


def base(name):
    """The function of the source that a function, or a part of one, is of."""
    return re.sub(r"[.'].*", '', name)


def differing(old, new):
    """Names of the functions that are not the same in both."""
    return sorted(name for name in old.functions.keys() | new.functions.keys()
                  if old.functions.get(name) != new.functions.get(name))


def is_control(name):
    """Whether the patches may change this function."""
    return bool(CONTROL.fullmatch(base(name)))


def show(name, old, new):
    """The difference of one function, as comments."""
    for which, module in (('without', old), ('with', new)):
        if name not in module.functions:
            print(f'# {name}: not a function of its own {which} the feature')
            return
    diff = list(difflib.unified_diff(
        old.functions[name], new.functions[name], f'{name} without',
        f'{name} with', lineterm='', n=3))
    for line in diff[:60]:
        print(f'# {line}')
    if len(diff) > 60:
        print(f'# ... {len(diff) - 60} more lines')


def words(names):
    """Print names as comments."""
    print(textwrap.fill(' '.join(names), 76, initial_indent='#   ',
                        subsequent_indent='#   ', break_long_words=False))


def main():
    """Compare the files that the command line names."""
    if len(sys.argv) not in (3, 4):
        sys.exit(__doc__)
    old, new, *rest = [Module(path) for path in sys.argv[1:]]
    tap = Tap()
    diff = differing(old, new)
    hot = [name for name in diff if not is_control(name)]
    for name in hot[:3]:
        show(name, old, new)
    names = {base(n) for n in old.functions} | {base(n) for n in new.functions}
    for name in sorted(names & set(HOT)):
        bad = [n for n in hot if base(n) == name]
        size = sum(len(code) for n, code in new.functions.items()
                   if base(n) == name)
        tap.result(not bad, f'{name} differs: {" ".join(bad)}' if bad
                   else f'{name} is the same ({size} lines of assembly)')
    others = [n for n in old.functions.keys() | new.functions.keys()
              if base(n) not in HOT and not is_control(n)]
    bad = [n for n in hot if base(n) not in HOT]
    tap.result(not bad, f'others differ: {" ".join(bad)}' if bad
               else f'{len(others)} other functions are the same')
    added = [n for n in diff if n not in old.functions]
    changed = [n for n in diff if is_control(n) and n in old.functions]
    print(f'# the feature adds {len(added)} functions; on control paths it '
          'changes:')
    words(changed or ['none'])
    for upstream in rest:
        diff = [n for n in differing(upstream, new) if n not in added]
        print('# with the fixes, these are not the same as upstream:')
        words(diff or ['none'])
        print('# of them on packet paths:')
        words([n for n in diff if base(n) in HOT] or ['none'])
    return tap.end()


if __name__ == '__main__':
    sys.exit(main())
