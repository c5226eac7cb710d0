# shellcheck shell=bash
# SPDX-License-Identifier: GPL-2.0-or-later
#
# Results of a script, as TAP. To be sourced.

tap_count=0 tap_failed=0
tap_log='' # a file that explains a failed check better than its output

# tap_result STATUS TEXT [LOG]: print a result, and the end of LOG if it failed
tap_result() {
	tap_count=$((tap_count + 1))
	if [ "$1" = 0 ]; then
		echo "ok $tap_count - $2"
		return
	fi
	# Two "#" keep results in LOG from counting.
	[ -z "${3:-}" ] || tail -n 60 "$3" | sed 's/^/## /'
	echo "not ok $tap_count - $2"
	tap_failed=$((tap_failed + 1))
}

# check TEXT COMMAND...: run COMMAND, in a subshell, and print the result
check() {
	local status=0 out
	out=$("${@:2}" 2>&1) || status=1
	tap_result "$status" "$1" "${tap_log:-/dev/stdin}" <<<"$out"
}

not() { ! "$@"; }

# tap_end: print the plan; fail if a result was a failure
tap_end() {
	echo "1..$tap_count"
	[ "$tap_failed" = 0 ]
}
