# SPDX-License-Identifier: GPL-2.0-or-later
"""Join the TAP of several programs into one, and count what TAP says."""

import re
import sys

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

    def take(self, name, run):
        """Pass on what a running program prints; its exit status counts."""
        seen = bad = 0
        print(f'# {name}', flush=True)
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
        """Print the plan; what the program is to exit with."""
        print(f'1..{self.number}')
        return 1 if self.failed else 0


def count(lines):
    """Return (passed, failed, [skipped lines]) of TAP.

    kselftest's runner prints the TAP of each test program behind "# ", then a
    line of its own for the program, "ok N selftests: ...". That line counts
    only for a program that said nothing itself, or failed without saying so.
    """
    passed = failed = inner = inner_bad = 0
    skipped = []
    for line in lines:
        line = line.rstrip()
        # Not "#ok": a plain comment may say that.
        match = re.match(r'(# +)?(not ok|ok) \d+(.*)', line)
        if not match:
            continue
        good, rest = match[2] == 'ok', match[3]
        if re.match(r' selftests: ', rest):
            if not inner or (not good and not inner_bad):
                if re.search(r'# SKIP', rest):
                    skipped.append(line)
                elif good:
                    passed += 1
                else:
                    failed += 1
            inner = inner_bad = 0
            continue
        if match[1]:
            inner += 1
            inner_bad += not good
        if re.search(r'# SKIP', rest, re.IGNORECASE):
            skipped.append(line)
        elif good:
            passed += 1
        else:
            failed += 1
    return passed, failed, skipped


def main():
    """usage: tap.py LOG...: print "passed failed skipped" of the logs."""
    total = [0, 0, 0]
    for name in sys.argv[1:]:
        with open(name, encoding='utf-8', errors='replace') as log:
            passed, failed, skipped = count(log)
        total = [total[0] + passed, total[1] + failed,
                 total[2] + len(skipped)]
        for line in skipped:
            print(f'skipped: {line}', file=sys.stderr)
    print(*total)


if __name__ == '__main__':
    main()
