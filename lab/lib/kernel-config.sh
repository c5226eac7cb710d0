# shellcheck shell=bash
# SPDX-License-Identifier: GPL-2.0-or-later
#
# Configuration of the kernels that the lab compiles. To be sourced after common.sh.

# kernel_config DIR TARGETS FRAGMENT...: write DIR/.config from kbuild's TARGETS,
# "tinyconfig" and more, and from the fragments. Take make and its arguments from
# the array kbuild. Fail unless the configuration has each option of the fragments.
kernel_config() {
	local dir=$1 targets=$2 option
	shift 2
	mkdir -p "$dir"
	# shellcheck disable=SC2086,SC2154 # one word a target; kbuild is the caller's
	"${kbuild[@]}" -s $targets >&2
	# tinyconfig says "not set" for options that the fragments set: the last one wins.
	cat "$@" >>"$dir/.config"
	"${kbuild[@]}" -s olddefconfig 2>&1 | grep -v 'override: reassigning' >&2 || :
	while read -r option; do
		grep -qxF "$option" "$dir/.config" ||
			die "Kconfig did not accept $option" "it comes from: ${*#"$REPO/"}"
	done < <(grep -h ^CONFIG_ "$@")
}
