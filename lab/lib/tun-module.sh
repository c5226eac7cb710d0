# shellcheck shell=bash
# SPDX-License-Identifier: GPL-2.0-or-later
#
# Builds of tun.ko. To be sourced after common.sh.

. "$REPO/lab/lib/tun-source.sh"

# tun_kernel KERNEL: set REL to its release and SRC to its source
tun_kernel() {
	kernel_known "$1"
	REL=$(kernel_release "$1") ||
		die "Linux $1 is not there: run make $(kernel_target "$1")"
	SRC=$BUILD/src/linux-$1
	[ -f "$SRC/drivers/net/tun.c" ] ||
		die "${SRC#"$REPO/"} is not there: run make $(kernel_target "$1")"
}

# tun_make ROOT RELEASE DIR ARG...: run "make ARG..." on a tree of tun_tree. Mount it
# at the same path for every tree, so that objects can be compared.
tun_make() {
	in_root -r "$1" -b "$3:/tun" \
		make -C "/usr/lib/modules/$2/build" M=/tun/drivers/net "${@:4}"
}

# tun_module ROOT RELEASE DIR: build DIR/drivers/net/tun.ko; on failure end with the
# compiler's reason
tun_module() {
	tun_make "$1" "$2" "$3" modules >"$3/log" 2>&1 && return
	die "$(cd "$REPO" && "$COMPAT/explain" "Linux $2" "${3#"$REPO/"}/log")" \
		"use a version that 'make bases' shows as built, or another tree (KSRC=, KDIR=)"
}

# tun_uapi FROM TO: install a UAPI header as "make headers_install" does; both are
# paths in the build root
tun_uapi() {
	in_root -C "/usr/lib/modules/$REL/build" \
		sh scripts/headers_install.sh "$1" "$2"
}

# custom_kernel: check that KDIR= and KSRC= name directories
custom_kernel() {
	KDIR=$(cd "$KDIR" 2>/dev/null && pwd -P) || die "KDIR: no such directory" \
		"name the build directory of a kernel, e.g. /lib/modules/\$(uname -r)/build"
	[ -n "${KSRC:-}" ] || [ ! -f "$KDIR/drivers/net/tun.c" ] || KSRC=$KDIR
	[ -n "${KSRC:-}" ] || die "KDIR=$KDIR has no drivers/net/tun.c" \
		"say where the kernel's source is: KSRC=DIR"
	KSRC=$(cd "$KSRC" 2>/dev/null && pwd -P) || die "KSRC: no such directory" \
		"name the source of the kernel of KDIR"
}
