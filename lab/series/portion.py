# SPDX-License-Identifier: GPL-2.0-or-later
"""usage: lab/series/portion.py TREE PORTION

Take away from the state headers in TREE the portion that a later patch of the series
adds to them. PORTION is a diff without line numbers, in which "..." stands for text that
need not be repeated:

  --- GLOB   The hunks that follow are for the state headers that match GLOB.
  @@         A hunk begins. It fits wherever its lines " " and "+" are.
  ...        As a whole line of a hunk: any lines, as few as possible.
             Within a line: any text.
  #          A comment.

Take back one hunk after another, in each place that it fits. Fail if there is none, or if
the name of a function or macro is left, as in a comment, but not its definition.
"""

import fnmatch
import pathlib
import re
import sys


def die(text):
    sys.exit(f'portion.py: {text}')


def hunks(portion):
    """Yield glob, number of the first line, and lines of each hunk."""
    glob, first, lines = '', 0, []
    for number, line in enumerate([*portion.read_text().splitlines(), '@@'], 1):
        if line == '@@' or line.startswith('--- '):
            if lines:
                yield glob, first, lines
            glob, first, lines = line[4:] or glob, number, []
        elif first and line.startswith(('-', '+', ' ')):
            lines.append(line)
        elif line and line[0] != '#':
            die(f'{portion}:{number}: no line of a hunk: {line}')


def regex(line):
    """Return a group that a line of a hunk matches; nothing for "-"."""
    if line[0] == '-':
        return '()'
    if line[1:] == '...':
        return r'((?:.*\n)*?)'
    return '(' + '.*'.join(map(re.escape, line[1:].split('...'))) + r'\n)'


def take_back(lines, text):
    """Return text without the hunk, and the number of places where it was."""
    def old(place):
        return ''.join(line[1:] + '\n' if line[0] == '-' else place[group]
                       for group, line in enumerate(lines, 1) if line[0] != '+')

    return re.subn('^' + ''.join(map(regex, lines)), old, text, flags=re.M)


def definitions(texts):
    """Return the names of functions and macros."""
    return {macro or function for text in texts for macro, function in
            re.findall(r'^(?:#define (\w+)|(?=\w).*?(\w+)\()', text, flags=re.M)}


def main():
    if len(sys.argv) != 3:
        die(__doc__)
    tree, portion = map(pathlib.Path, sys.argv[1:])
    texts = {str(path.relative_to(tree)): path.read_text()
             for path in sorted(tree.glob('**/*_state*.h'))}
    before = definitions(texts.values())
    for glob, first, lines in hunks(portion):
        places = 0
        for name in fnmatch.filter(texts, glob):
            texts[name], here = take_back(lines, texts[name])
            places += here
        if not places:
            die(f'{portion}:{first}: the hunk fits nowhere in {glob}')
    gone = before - definitions(texts.values())
    for name, text in texts.items():
        for number, line in enumerate(text.splitlines(), 1):
            for word in gone.intersection(re.findall(r'\w+', line)):
                die(f'{portion} takes {word} away, but not from {name}:{number}: {line}')
    for name, text in texts.items():
        (tree / name).write_text(text)


main()
