# shellcheck shell=sh
# SPDX-License-Identifier: GPL-2.0-or-later
#
# Kernels that dkms has built for, and reasons why not. To be sourced by a script that
# has set name, the module's in dkms, and a function report.

# shellcheck disable=SC2154
tree=/var/lib/dkms/$name

# first FILE...: print the first that exists
first() {
	for first; do
		[ ! -e "$first" ] || { echo "$first" && return; }
	done
	return 1
}

# whole MODULE: is MODULE installed as dkms built it?
whole() {
	built=$(first "$tree/kernel-$kernel"-*/module/"$1".ko*) &&
		installed=$(first "$dir/updates/dkms/$1".ko*) &&
		cmp -s "$built" "$installed"
}

# incomplete MODULE: print the copy of a module that was built, but not installed
incomplete() {
	first "$tree"/*/"$kernel"/*/module/"$1".ko* >/dev/null &&
		first "$dir/updates/dkms/$1".ko*
}

# remove_incomplete MODULE: modprobe would take that copy
remove_incomplete() {
	! whole "$1" && copy=$(incomplete "$1") || return 0
	rm -f "$copy"
	depmod "$kernel"
}

reason() {
	if [ ! -d "$dir/build/include" ]; then
		echo "there are no headers: apt install linux-headers-$kernel"
	elif file=$(first "$tree"/*/refused-"$kernel") && [ -s "$file" ]; then
		cat "$file"
	elif [ "$(df --output=avail -k /var/lib | tail -n 1)" -lt 51200 ]; then
		echo "the disk under /var/lib is full"
	else
		echo "dkms did not build or install it: dkms install $name/VERSION -k $kernel says why"
	fi
}

# report_kernels [KERNEL]: report on KERNEL, or on all that are installed
report_kernels() {
	if [ $# = 0 ]; then
		for dir in /lib/modules/*/kernel; do
			[ ! -d "$dir" ] || set -- "$@" "$(basename "$(dirname "$dir")")"
		done
	fi
	for kernel; do
		dir=/lib/modules/$kernel
		report
	done
}
