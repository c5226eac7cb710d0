# shellcheck shell=bash
# SPDX-License-Identifier: GPL-2.0-or-later
#
# Messages of the lab's scripts, and of the scripts that packages install. To be
# sourced by a script that has set SELF, its name, and the array DISKS: directories
# whose disk is named when it is full.

# shellcheck disable=SC2034 # traps of the scripts read it
DIED=
if [ -t 2 ]; then
	bold=$'\e[1m' plain=$'\e[0m'
else
	bold='' plain=''
fi

say() { printf '%s==>%s %s\n' "$bold" "$plain" "$*" >&2; }
note() { printf '    %s\n' "$*" >&2; }
warn() { printf '%s: warning: %s\n' "$SELF" "$*" >&2; }
# full_disk: print which disk is full; fail if none is
full_disk() {
	local d mb
	for d in "${DISKS[@]}"; do
		[ -d "$d" ] || continue
		mb=$(($(df --output=avail -k "$d" | tail -1) >> 10))
		[ "$mb" -ge 50 ] || {
			echo "the disk under $d is full ($mb MB left)"
			return
		}
	done
	return 1
}

# die SENTENCE [REMEDY...]: print an error and end. Name a full disk instead of
# REMEDY. Write the sentence to $REASON_FILE, too, where lab/build/base reads it.
die() {
	local line full
	DIED=1
	if full=$(full_disk); then
		set -- "$1" "$full:" "make room, then start again; what is complete is kept"
	fi
	[ -z "${REASON_FILE:-}" ] || echo "$1" >"$REASON_FILE" 2>/dev/null || :
	printf '%s: error: %s\n' "$SELF" "$1" >&2
	shift
	for line; do
		printf '    %s\n' "$line" >&2
	done
	exit 1
}
