# SPDX-License-Identifier: GPL-2.0-or-later
"""Make __LINE__ the same in a changed file as in the original.

usage: keep_line_numbers.py ORIGINAL CHANGED OUTPUT

Add a #line directive after each change, so that lines of the original keep their
numbers. Warnings and assertions then compile to the same code in both.
"""

import difflib
import sys


def keep(old, new):
    """NEW with the line numbers of OLD."""
    out = []
    for tag, start, end, first, last in difflib.SequenceMatcher(
            None, old, new, autojunk=False).get_opcodes():
        out += new[first:last]
        # A directive inside a macro would become part of it.
        if tag != 'equal' and end < len(old) and \
                not (out and out[-1].endswith('\\\n')):
            out.append(f'#line {end + 1}\n')
    return out


def main():
    """Do what the usage says."""
    if len(sys.argv) != 4:
        sys.exit(__doc__)
    old, new = [open(name, encoding='utf-8').readlines()
                for name in sys.argv[1:3]]
    with open(sys.argv[3], 'w', encoding='utf-8') as file:
        file.writelines(keep(old, new))


if __name__ == '__main__':
    main()
