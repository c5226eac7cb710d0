# SPDX-License-Identifier: GPL-2.0-or-later
"""Count the results in a log of TAP.

usage: count_results.py LOG

Print "passed failed skipped"; say on stderr which are skipped.
"""

import re
import sys


def count(lines):
    """Return (passed, failed, [skipped lines]) of TAP.

    kselftest's runner prints the TAP of each test program behind "# ", then a
    line of its own for the program, "ok N selftests: ...". That line counts
    only for a program that said nothing itself, or failed without saying so.
    """
    results = {'passed': [], 'failed': [], 'skipped': []}
    inner = inner_bad = 0
    for line in lines:
        line = line.rstrip()
        # "#ok" may be a plain comment.
        match = re.match(r'(# +)?(not ok|ok) \d+(.*)', line)
        if not match:
            continue
        good = match[2] == 'ok'
        kind = 'skipped' if re.search(r'# SKIP', match[3], re.IGNORECASE) else \
            'passed' if good else 'failed'
        if match[3].startswith(' selftests: '):
            if not inner or (not good and not inner_bad):
                results[kind].append(line)
            inner = inner_bad = 0
            continue
        if match[1]:
            inner += 1
            inner_bad += not good
        results[kind].append(line)
    return len(results['passed']), len(results['failed']), results['skipped']


def main():
    """Count the results of the log on the command line."""
    with open(sys.argv[1], encoding='utf-8', errors='replace') as log:
        passed, failed, skipped = count(log)
    for line in skipped:
        print(f'skipped: {line}', file=sys.stderr)
    print(passed, failed, len(skipped))


if __name__ == '__main__':
    main()
