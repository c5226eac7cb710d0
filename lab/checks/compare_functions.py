# SPDX-License-Identifier: GPL-2.0-or-later
"""Compare the compiler's output for two versions of tun.c, function by function.

usage: compare_functions.py WITHOUT.s WITH.s [UPSTREAM.s]

Fail for each function that differs, unless CONTROL matches its name. Print TAP, and
differences between UPSTREAM.s and WITH.s as comments.
"""

import difflib
import itertools
import re
import sys
import textwrap

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
    tun_filter_\w+ | tun_set(_queue)?_filter | tun_cleanup |
    # the feature itself
    tun_state_\w+
''', re.VERBOSE)

# A function, to the end of its .cold part
FUNCTION = re.compile(r'^([A-Za-z_][\w.]*):\n((?:.*\n)*?)\t\.size\t\1, ', re.M)
# A constant without a name, in most cases a string
CONSTANT = re.compile(
    r'^(\.L\w+):\n((?:\t\.(?:string|ascii|quad|long|value|byte|zero)\t.*\n)+)', re.M)


def read_functions(path):
    """Return {name: [lines]}, without anything that says where something is."""
    with open(path, encoding='utf-8') as file:
        text = file.read()
    # Drop comments, but not strings.
    text = re.sub(r'^#.*\n|[ \t]+#[^"\n]*$', '', text, flags=re.M)
    # Drop the line number of a location in the source, which UBSAN reports.
    constants = {label: re.sub(r'(\.quad \.LC\d+ \.long) \d+', r'\1',
                               ' '.join(content.split()))
                 for label, content in CONSTANT.findall(text)}

    def expand(code):
        return re.sub(r'\.L\w+', lambda label: expand(constants[label[0]])
                      if label[0] in constants else label[0], code)

    functions = {}
    for name, code in FUNCTION.findall(text):
        name = plain(name)
        # Tell clones apart that differ only in their number.
        while name in functions:
            name += "'"
        # Number labels in the order of the function; some have the compiler's count.
        labels = {}
        code = re.sub(r'\.L\w+|^\d+(?=:)|\b\d+(?=[bf]\b)',
                      lambda m: labels.setdefault(m[0], f'L{len(labels)}'),
                      plain(expand(code)), flags=re.M)
        functions[name] = [' '.join(line.split()) for line in code.splitlines()]
    return functions


def plain(text):
    """Return text without the numbers that compilers add to names."""
    return re.sub(r'(?<=\w)\.\d+\b|(?<=\b__UNIQUE_ID)(\w*?)\d+\b', r'\1', text)


def base(name):
    """Return the name in the source of a function, or of a part of one."""
    return re.sub(r"[.'].*", '', name)


def differing(old, new):
    """Return the names of the functions that are not the same in both."""
    return sorted(name for name in old.keys() | new.keys()
                  if old.get(name) != new.get(name))


def is_control(name):
    """Tell if the patches may change this function."""
    return bool(CONTROL.fullmatch(base(name)))


def show(name, old, new):
    """Print the difference of one function, as comments."""
    for which, functions in (('without', old), ('with', new)):
        if name not in functions:
            print(f'# {name}: not a function of its own {which} the feature')
            return
    diff = difflib.unified_diff(old[name], new[name], f'{name} without',
                                f'{name} with', lineterm='')
    for line in itertools.islice(diff, 60):
        print(f'# {line}')


def words(names):
    """Print names as comments."""
    print(textwrap.fill(' '.join(names or ['none']), 76, initial_indent='#   ',
                        subsequent_indent='#   ', break_long_words=False))


def main():
    """Compare the files that the command line names."""
    if len(sys.argv) not in (3, 4):
        sys.exit(__doc__)
    old, new, *rest = map(read_functions, sys.argv[1:])
    tap = Tap()
    diff = differing(old, new)
    hot = [name for name in diff if not is_control(name)]
    for name in hot[:3]:
        show(name, old, new)
    for name in sorted({base(n) for n in old.keys() | new.keys()} & set(HOT)):
        bad = [n for n in hot if base(n) == name]
        size = sum(len(code) for n, code in new.items() if base(n) == name)
        tap.result(not bad, f'{name} differs: {" ".join(bad)}' if bad
                   else f'{name} is the same ({size} lines of assembly)')
    others = [n for n in old.keys() | new.keys()
              if base(n) not in HOT and not is_control(n)]
    bad = [n for n in hot if base(n) not in HOT]
    tap.result(not bad, f'others differ: {" ".join(bad)}' if bad
               else f'{len(others)} other functions are the same')
    added = [n for n in diff if n not in old]
    print(f'# the feature adds {len(added)} functions; on control paths it '
          'changes:')
    words([n for n in diff if is_control(n) and n in old])
    for upstream in rest:
        diff = [n for n in differing(upstream, new) if n not in added]
        print('# with the fixes, these are not the same as upstream:')
        words(diff)
        print('# of them on packet paths:')
        words([n for n in diff if base(n) in HOT])
    return tap.end()


if __name__ == '__main__':
    sys.exit(main())
