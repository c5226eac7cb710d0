# SPDX-License-Identifier: GPL-2.0-or-later
"""Write a C program that prints the layout of all structs of a UAPI header.

usage: uapi_layout.py HEADER

The program prints a line for each member and each ioctl, and fails when there
is padding that nobody sees.
"""

import re
import sys

STRUCT = re.compile(r'^struct (\w+) \{\n(.*?)^\};', re.M | re.S)
MEMBER = re.compile(r'^\t[\w ]+? (\w+)(?:\[\w+\])*;', re.M)
IOCTL = re.compile(r'^#define (\w+)\s+_IO\w*\(', re.M)


def program(header):
    """The text of the program."""
    with open(header, encoding='utf-8') as file:
        text = re.sub(r'/\*.*?\*/', '', file.read(), flags=re.S)
    body = []
    for name, members in STRUCT.findall(text):
        names = MEMBER.findall(members)
        if len(names) != members.count(';'):
            sys.exit(f'struct {name} has a member this does not understand')
        body.append(f'STRUCT({name});')
        body += [f'MEMBER({name}, {member});' for member in names]
        body.append(f'END({name});')
    body += [f'printf("{name} %#lx\\n", (unsigned long){name});'
             for name in IOCTL.findall(text)]
    if not body:
        sys.exit(f'{header} has no structs')
    lines = '\n\t'.join(body)
    return f'''#include <stddef.h>
#include <stdio.h>
#include "{header}"

static size_t end;
static int holes;

static void at(const char *name, size_t offset, size_t size)
{{
	if (offset != end) {{
		printf("hole before %s\\n", name);
		holes = 1;
	}}
	end = offset + size;
	printf("%s %zu %zu\\n", name, offset, size);
}}

#define STRUCT(s) (printf("struct %s\\n", #s), end = 0)
#define MEMBER(s, m) at(#s "." #m, offsetof(struct s, m), \\
			sizeof(((struct s *)0)->m))
#define END(s) at("end of " #s, sizeof(struct s), 0)

int main(void)
{{
	{lines}
	return holes;
}}
'''


if __name__ == '__main__':
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    print(program(sys.argv[1]), end='')
