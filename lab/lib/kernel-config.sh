# shellcheck shell=bash
# SPDX-License-Identifier: GPL-2.0-or-later
#
# Configuration of the kernels that the lab compiles. To be sourced after common.sh.

# kernel_config DIR FRAGMENT...: write DIR/.config with the options of the fragments,
# the defaults that have no prompt, and nothing else. Take make and its arguments from
# the array kbuild. Fail unless the configuration has each option of the fragments in
# this repository.
kernel_config() {
	local dir=$1 option file
	shift
	mkdir -p "$dir"
	cat "$@" >"$dir/all.config"
	# shellcheck disable=SC2154 # kbuild is the caller's
	"${kbuild[@]}" -s KCONFIG_ALLCONFIG="/tapstate/${dir#"$REPO/"}/all.config" \
		allnoconfig 2>&1 | grep -v 'override: reassigning' >&2 || :
	for file; do
		[[ $file == "$REPO"/lab/* ]] || continue
		while read -r option; do
			grep -qxF "$option" "$dir/.config" ||
				die "Kconfig did not accept $option" "it comes from ${file#"$REPO/"}"
		done < <(grep ^CONFIG_ "$file")
	done
}
