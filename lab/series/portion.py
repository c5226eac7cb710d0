# SPDX-License-Identifier: GPL-2.0-or-later
"""usage: lab/series/portion.py TREE PORTION

Take away from the tun_state headers in TREE the portion that a later patch of the
series adds to them.

PORTION begins with lines "GLOB: NAME...". GLOB names files of TREE, and a NAME in them
goes, with its comment:
  name         a function, its prototypes, and statements that only call it; a macro; an
               included header; a member of a struct
  .name        a member in initialisers
  "words ..."  paragraphs and list entries of comments that begin with these words
So do static functions and macros of the driver that nothing refers to any more.

An ordinary diff may follow, with all other differences that the later patch makes. It
is taken back first, and so applies to files that have the NAMEs.

Fail if a line of PORTION matches nothing, or if a comment still has the name of a
definition that is gone.
"""

import glob
import os
import re
import shlex
import subprocess
import sys

WORD = re.compile(r'\w+')
# A line that separates paragraphs of a comment
EDGE = re.compile(r'/\*\*?$| \*$| \*/$')
# The begin of an entry of a list in a comment
ENTRY = re.compile(r' \*\s+(@|``|%|- )')


def die(text):
    sys.exit(f'portion.py: {text}')


def comment_end(lines, i):
    """Index behind the comments that begin at a line, if any do."""
    while i < len(lines) and lines[i].startswith('/*'):
        while '*/' not in lines[i]:
            i += 1
        i += 1
    return i


def code_end(lines, i):
    """Index behind the definition or directive that begins at a line."""
    if lines[i].startswith('#'):
        while lines[i].endswith('\\'):
            i += 1
        return i + 1
    depth = 0
    while True:
        depth += lines[i].count('{') - lines[i].count('}')
        i += 1
        if not depth and re.search(r'^}|;$', lines[i - 1]):
            return i


def without_comment(lines, words):
    """Leave out paragraphs and list entries of comments that begin with words."""
    out, i = [], 0
    begin = re.compile(r' \*\s+' + re.escape(words))
    while i < len(lines):
        entry = ENTRY.match(lines[i])
        if not begin.match(lines[i]) or not (entry or EDGE.match(lines[i - 1])):
            out.append(lines[i])
            i += 1
            continue
        i += 1
        while not EDGE.match(lines[i]) and \
                not (entry and lines[i].startswith(entry[0])):
            i += 1
        # Leave one empty line between paragraphs, and none at either end.
        if out[-1] == ' *' and EDGE.match(lines[i]):
            out.pop()
    return out


class Item:
    """A definition or directive at the top level, with the comments ahead of it."""
    def __init__(self, lines):
        self.lines = lines
        code = '\n'.join(lines[comment_end(lines, 0):])
        self.name = self.name_of(code)
        self.is_struct = bool(re.match(r'struct \w+ \{', code))
        self.is_local = bool(re.match(r'static |#define ', code))

    @staticmethod
    def name_of(code):
        if code.startswith('#'):
            m = re.match(r'#define (\w+)|#include [<"](.*)[>"]', code)
            return m and (m[1] or m[2])
        code = re.split(r'[;{=]', code)[0]
        m = re.search(r'(\w+)\(', code) or re.search(r'(\w+)(\[\w*\])?\s*$', code)
        return m and m[1]

    def references(self):
        code = re.sub(r'/\*.*?\*/', '', '\n'.join(self.lines), flags=re.S)
        return set(WORD.findall(code)) - {self.name}


class Header:
    def __init__(self, path):
        self.path = path
        self.is_uapi = '/uapi/' in path
        with open(path, encoding='utf-8') as f:
            lines = f.read().split('\n')
        self.parts = []  # items, and None for an empty line
        i = 0
        while i < len(lines):
            start, i = i, comment_end(lines, i)
            if i == start and not lines[i]:
                self.parts.append(None)
                i += 1
                continue
            if lines[i]:
                i = code_end(lines, i)
            self.parts.append(Item(lines[start:i]))

    def items(self):
        return [part for part in self.parts if part]

    def lines(self):
        return [line for part in self.parts
                for line in (part.lines if part else [''])]

    def write(self):
        with open(self.path, 'w', encoding='utf-8') as f:
            f.write('\n'.join(self.lines()))

    def edit(self, function, items=None):
        """Replace the lines of items, of all by default. Return if any changed."""
        changed = False
        for item in self.items() if items is None else items:
            lines = function(item.lines)
            changed |= lines != item.lines
            item.lines = lines
        return changed

    def drop_lines(self, pattern):
        pattern = re.compile(pattern)
        return self.edit(lambda lines: [line for line in lines
                                        if not pattern.match(line)])

    def drop_definition(self, name):
        """Leave out items with a name, and the statements that call it."""
        parts = []
        for part in self.parts:
            if part and part.name == name:
                continue
            if part or not parts or parts[-1]:
                parts.append(part)
        found = len(parts) < len(self.parts)
        self.parts = parts
        self.drop_lines(rf'\s+{re.escape(name)}\(.*\);$')
        return found

    def drop_member(self, name):
        member = re.compile(rf'\t.*\b{re.escape(name)}(\)\(.*\)|\[.*\])?;$')

        def without(lines):
            out = [line for line in lines if not member.match(line)]
            return lines if out == lines else without_comment(out, f'@{name}:')

        return self.edit(without, [i for i in self.items() if i.is_struct])


def references(headers):
    return {word for h in headers for item in h.items()
            for word in item.references()}


def drop_unused(headers, before):
    """Leave out what has lost its last reference. Return the names."""
    names = set()
    while True:
        now = references(headers)
        unused = {item.name for h in headers if not h.is_uapi
                  for item in h.items() if item.is_local}
        unused = {name for name in unused & before if name not in now}
        if not unused:
            return names
        names |= unused
        for h in headers:
            for name in unused:
                h.drop_definition(name)


def take_back(tree, diff):
    run = subprocess.run(
        ['git', 'apply', '--reverse', '-'], input=diff, text=True, cwd=tree,
        env={**os.environ, 'GIT_CEILING_DIRECTORIES': os.path.dirname(tree)},
        capture_output=True, check=False)
    if run.returncode:
        die(f'the diff does not fit the files any more:\n{run.stderr.strip()}')


def main():
    if len(sys.argv) != 3:
        die(__doc__)
    tree = os.path.abspath(sys.argv[1])
    with open(sys.argv[2], encoding='utf-8') as f:
        rules, dashes, diff = f.read().partition('--- a/')

    def headers():
        return {path: Header(path) for pattern in
                ('drivers/net/*_state*.h', 'include/uapi/linux/*_state.h')
                for path in sorted(glob.glob(f'{tree}/{pattern}'))}

    before = references(headers().values())
    if diff:
        take_back(tree, dashes + diff)
    files = headers()
    gone = set()
    for rule in rules.split('\n'):
        if not rule or rule.startswith('#'):
            continue
        where, _, names = rule.partition(': ')
        paths = [path for path in glob.glob(f'{tree}/{where}') if path in files]
        for name in shlex.split(names):
            found = False
            for h in (files[path] for path in paths):
                if name.startswith('.'):
                    found |= h.drop_lines(rf'\t{re.escape(name)}\s*=.*,(\s*\\)?$')
                elif re.fullmatch(r'[\w/.]+', name):
                    if h.drop_definition(name):
                        gone.add(name)
                        found = True
                    found |= h.drop_member(name)
                else:
                    found |= h.edit(lambda lines, n=name: without_comment(lines, n))
            if not found:
                die(f'there is no {name} in {where}')
    gone |= drop_unused(files.values(), before)
    for h in files.values():
        for i, line in enumerate(h.lines(), 1):
            left = gone & set(WORD.findall(line))
            if left:
                die(f'{left.pop()} is gone, but not from {h.path}:{i}: {line}')
        h.write()


main()
