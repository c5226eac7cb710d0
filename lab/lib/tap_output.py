# SPDX-License-Identifier: GPL-2.0-or-later
"""Print TAP: single results, and the TAP of several programs as one stream."""

import re
import subprocess

RESULT = re.compile(r'(not ok|ok)\b\s*\d*\s*(?:-\s*)?(.*)')


class Tap:
    """One TAP stream on stdout, numbered through."""

    def __init__(self):
        self.number = 0
        self.failed = 0

    def result(self, good, text):
        """Print one result."""
        self.number += 1
        self.failed += not good
        print(f'{"ok" if good else "not ok"} {self.number} - {text}',
              flush=True)

    def run(self, name, command, **options):
        """Run a program and print its TAP; its exit status counts, too."""
        seen = bad = 0
        print(f'# {name}', flush=True)
        # pylint: disable=consider-using-with
        run = subprocess.Popen(command, text=True, errors='replace',
                               stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                               stderr=subprocess.STDOUT, **options)
        for line in run.stdout:
            line = line.rstrip()
            match = RESULT.fullmatch(line)
            if match:
                seen += 1
                bad += match[1] != 'ok'
                self.result(match[1] == 'ok', f'{name}: {match[2]}')
            elif not re.fullmatch(r'1\.\.\d+|TAP version \d+', line):
                print(line if line.startswith('#') else f'# {line}',
                      flush=True)
        code = run.wait()
        if not seen and code == 77:
            self.result(True, f'{name} # SKIP')
        elif not seen or (code and not bad):
            self.result(code == 0, f'{name}: exit status {code}')

    def end(self):
        """Print the plan; return the program's exit status."""
        print(f'1..{self.number}')
        return 1 if self.failed else 0
