# shellcheck shell=bash
# SPDX-License-Identifier: GPL-2.0-or-later
#
# Paths, root rights and locks of all scripts of the lab. To be sourced.

set -euo pipefail

REPO=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd -P)
# The script's name in messages, e.g. lab/build/qemu
SELF=$(cd "$(dirname "$0")" && pwd -P)/${0##*/}
SELF=${SELF#"$REPO/"}
BUILD=$REPO/build
CACHE=${XDG_CACHE_HOME:-$HOME/.cache}/tapstate
ROOT=$BUILD/root
SUITE=trixie
KEYRING=/usr/share/keyrings/debian-archive-keyring.gpg
JOBS=${JOBS:-$(nproc)}
QEMU_BASE=${QEMU_BASE:-10.0}
# End of the names of directories for another QEMU than the first: "-10.2"
# shellcheck disable=SC2034
QEMU_SUFFIX=${QEMU_BASE/#/-} QEMU_SUFFIX=${QEMU_SUFFIX/%-10.0/}

# Kernels that the lab can run: Debian's, and debug kernels, which it builds from the
# source of the first one
KERNELS="6.12 6.1 7.x"
KERNELS_DEBUG="debug kcsan"

# Disks that a message names when they are full
DISKS=("$BUILD" "$CACHE")
. "$REPO/lab/lib/messages.sh"

# Name a full disk also when another command failed: its message may not.
trap '[ $? = 0 ] || [ -n "$DIED" ] || ! full_disk >/dev/null || die "this step failed"' EXIT

step_start() { STEP=$1 STEP_T0=$SECONDS; say "$1"; }
step_end() { say "$STEP: done in $((SECONDS - STEP_T0)) s"; }

# need_root ARG...: start the script again as root, if need be, with the caller's
# settings. mmdebstrap, mount namespaces and KVM need root.
need_root() {
	[ "$(id -u)" = 0 ] && return
	command -v sudo >/dev/null ||
		die "this needs root, and there is no sudo" \
			"run make as root, or install sudo"
	local keep=(HOME="$HOME" TERM="${TERM:-dumb}") v
	for v in XDG_CACHE_HOME JOBS DEBIAN_MIRROR DEBIAN_SECURITY_MIRROR \
		LAB_EXTRA_ARCHIVE REASON_FILE QEMU_BASE LAB_OUT_DIR LAB_MEM LAB_ACCEL \
		LAB_ICOUNT LAB_TUN LAB_DISK QUICK TESTS KDIR KSRC TUN_KO VMLINUX QEMU_SRC KERNEL \
		http_proxy https_proxy; do
		[ -z "${!v+x}" ] || keep+=("$v=${!v}")
	done
	exec sudo env "${keep[@]}" "$0" "$@"
}

# lock NAME: wait for other builds of a part; hold the lock until the script ends
lock() {
	mkdir -p "$BUILD"
	exec {LOCK_FD}>"$BUILD/.lock-$1"
	if ! flock -n "$LOCK_FD"; then
		note "another build of '$1' is under way, waiting for it"
		flock "$LOCK_FD"
	fi
}
unlock() { exec {LOCK_FD}>&-; } # the last one

# hash_of FILE|=STRING...: print a key for the inputs of a part, which is made again
# when its key has changed
hash_of() {
	local x
	# shellcheck disable=SC2030 # the loop is all of it
	for x; do
		case $x in
		=*) printf '%s\n' "$x" ;;
		*) [ ! -f "$x" ] || sha256sum <"$x" ;;
		esac
	done | sha256sum | cut -c1-16
}

# fresh STAMP KEY: succeed if STAMP has this key
fresh() { [ -f "$1" ] && [ "$(cat "$1")" = "$2" ]; }
stamp() { echo "$2" >"$1.tmp" && mv "$1.tmp" "$1"; }

# keep_cached NAME KEY: keep NAME.KEY.PID in the cache as NAME.KEY, for which other clones
# look, too; remove what had another key and is an hour old
keep_cached() {
	mv "$1.$2.$$" "$1.$2"
	find "${1%/*}" -name "${1##*/}.*" ! -name "${1##*/}.$2" -mmin +60 -delete
}

need_space() {
	local gb
	mkdir -p "$BUILD"
	gb=$(($(df --output=avail -k "$BUILD" | tail -1) >> 20))
	[ "$gb" -ge "$1" ] ||
		die "only $gb GB free under $BUILD, $1 GB needed" \
			"make room, or put the repository on another disk"
}

# kernel_known KERNEL: end unless the lab knows it
kernel_known() {
	case " $KERNELS $KERNELS_DEBUG " in
	*" $1 "*) return ;;
	esac
	[ -f "$BUILD/base-$1" ] || [ -f "$BUILD/kernel/$1/release" ] || [ -n "${BUILDING_BASE:-}" ] ||
		die "unknown kernel '$1' (there is: $KERNELS $KERNELS_DEBUG)" \
			"another series of Debian's, e.g. 7.2: make bases KERNEL=7.2"
}

# kernel_target KERNEL: print the make target that builds it
kernel_target() {
	case $1 in
	6.12) echo lab ;;
	debug | kcsan) echo lab-debug ;;
	6.1 | 7.x) echo lab-kernels ;;
	host) echo test-install ;;
	*) echo "bases KERNEL=$1" ;;
	esac
}

in_root() { "$REPO/lab/lib/chroot" "$@"; }

# out_dir: have a directory for what a run writes, and set "out" to its path: LAB_OUT_DIR,
# or build/lab-out, or while another run uses that, one of its own
out_dir() {
	local lock
	if [ -n "${LAB_OUT_DIR:-}" ]; then
		out=$LAB_OUT_DIR
	else
		out=$BUILD/lab-out
		# The lock ends with the run.
		exec {lock}>"$BUILD/.lock-lab-out"
		if ! flock -n "$lock"; then
			out=$BUILD/lab-out.$$
			note "another lab is running: output goes to ${out#"$REPO/"}"
		fi
		rm -rf "$out"
	fi
	mkdir -p "$out"
	out=$(cd "$out" && pwd -P)
}

. "$REPO/lab/lib/apt.sh"
. "$REPO/lab/lib/bases.sh"
. "$REPO/lab/lib/overlay.sh"
