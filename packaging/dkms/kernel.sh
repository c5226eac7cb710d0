# shellcheck shell=bash
# SPDX-License-Identifier: GPL-2.0-or-later
#
# The kernel that dkms builds for, and its source. To be sourced by a script that dkms
# runs, which has set KERNEL. The script ends with 77 when it fails: dkms then skips the
# kernel. The reason is in refused-KERNEL of the version's directory in dkms's tree, where
# packaging/dkms/report finds it.

# shellcheck disable=SC2034 # the scripts use what this sets

set -euo pipefail

REPO=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd -P)
# The version's directory in dkms's tree, which has this in "build" and in "source"
TREE=${0%/*/packaging/dkms/*}
SELF=${TREE%/*}-dkms
SELF=${SELF##*/} # the package: tapstate-dkms or tapstate-livepatch-dkms
KDIR=/lib/modules/$KERNEL/build
DISKS=("$TREE" "/lib/modules/$KERNEL" "${TMPDIR:-/tmp}")
. "$REPO/lab/lib/messages.sh"
. "$REPO/lab/lib/overlay.sh"
. "$REPO/lab/lib/tun-source.sh"

REASON_FILE=$TREE/refused-$KERNEL
rm -f "$REASON_FILE"
trap 'refuse $?' EXIT
refuse() { # STATUS
	[ "$1" != 0 ] || return 0
	[ -n "$DIED" ] || (die "a step failed, see $PWD/make.log") || :
	exit 77
}

# An administrator's KSRC=, unless the caller of dkms has set it
if [ -z "${KSRC+x}" ] && [ -r "/etc/default/$SELF" ]; then
	# shellcheck disable=SC1090 # of the host
	. "/etc/default/$SELF"
fi

# need_disk: end if a disk is full, before anything is written
need_disk() {
	local full
	full=$(full_disk) || return 0
	die "$full"
}

# is_source DIR SERIES: does DIR have the source of a kernel of SERIES?
is_source() {
	local version
	[ -f "$1/drivers/net/tun.c" ] || return
	version=$(source_version "$1/Makefile")
	[ "${version%.*}" = "$2" ]
}

# kernel_source DIR: set SRC to the source of the kernel: KSRC, its build directory, or
# Debian's linux-source, of which DIR gets the files of tun
kernel_source() {
	local version series name f
	version=$(kdir_version "$KDIR")
	[ -n "$version" ] || die "there are no headers: apt install linux-headers-$KERNEL"
	series=${version%.*} name=/usr/src/linux-source-${version%.*}
	for SRC in ${KSRC:+"$KSRC"} "$KDIR"; do
		! is_source "$SRC" "$series" || return 0
	done
	# A directory may be of an older point release than the tarball.
	SRC=$name
	[ "$(source_version "$SRC/Makefile")" != "$version" ] || return 0
	for f in "$name".tar.*; do
		[ -f "$f" ] || break
		mkdir -p "$1"
		tar -x -f "$f" -C "$1" --strip-components=1 --wildcards \
			--no-wildcards-match-slash '*/Makefile' '*/drivers/net/tun*' \
			'*/drivers/net/tap.c' || die "$f cannot be unpacked: reinstall its package"
		is_source "$1" "$series" || die "$f is not the source of Linux $series"
		SRC=$1
		return
	done
	is_source "$SRC" "$series" || die "there is no source of Linux $series: apt install \
linux-source-$series, or set KSRC= in /etc/default/$SELF"
}
