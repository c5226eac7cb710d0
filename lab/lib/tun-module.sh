# shellcheck shell=bash
# SPDX-License-Identifier: GPL-2.0-or-later
#
# Builds of tun.ko. To be sourced after common.sh.

COMPAT=$REPO/kernel/compat

# tun_kernel KERNEL: set REL to its release and SRC to its source
tun_kernel() {
	kernel_known "$1"
	REL=$(kernel_release "$1") ||
		die "Linux $1 is not there: run make $(kernel_target "$1")"
	SRC=$BUILD/src/linux-$1
	[ -f "$SRC/drivers/net/tun.c" ] ||
		die "${SRC#"$REPO/"} is not there: run make $(kernel_target "$1")"
}

# put FROM TO: copy a file unless both are the same, so that make sees only changes
put() {
	cmp -s "$1" "$2" && return
	mkdir -p "$(dirname "$2")"
	cp "$1" "$2"
}

# compat PROGRAM ARG...: run a program of kernel/compat; end with its message if it fails
compat() {
	local out
	out=$("$COMPAT/$1" "${@:2}" 2>&1) || die "${out#probe: }"
}

# tun_patched SRC TREE NAME: write to TREE the files of kernel/, and the files of SRC
# that its patches change, patched; messages call SRC NAME
tun_patched() {
	[ -f "$1/drivers/net/tun.c" ] || die "$3 has no drivers/net/tun.c" \
		"KSRC= must name the source of a kernel, not its headers alone"
	compat probe --unpatched "$1/drivers/net"
	overlay "$1" "$REPO/kernel" "$REPO/kernel/patches" "$2" "$3" \
		'drivers/*' 'include/*'
}

# tun_tree SRC TREE DIR: write to DIR the files that kbuild needs for tun.ko, and for
# tap.ko if the kernel has it as a module, from the partial kernel tree TREE, or else
# from SRC
tun_tree() {
	local f
	for f in tun.c tap.c tun_vnet.h; do
		if [ -f "$2/drivers/net/$f" ]; then
			put "$2/drivers/net/$f" "$3/drivers/net/$f"
		elif [ -f "$1/drivers/net/$f" ]; then
			put "$1/drivers/net/$f" "$3/drivers/net/$f"
		fi
	done
	# Remove headers that the tree has no more; the probe keeps its own.
	for f in "$3"/drivers/net/{tun,tap}_state*.h; do
		[ -f "$2/drivers/net/${f##*/}" ] || [ "${f##*/}" = tun_state_config.h ] ||
			rm -f "$f"
	done
	[ -f "$2/include/uapi/linux/if_tun_state.h" ] ||
		rm -f "$3/include/uapi/linux/if_tun_state.h"
	for f in "$2"/drivers/net/{tun,tap}_state*.h "$2/include/uapi/linux/if_tun_state.h"; do
		[ ! -f "$f" ] || put "$f" "$3/${f#"$2/"}"
	done
	if grep -qs tun_state_config.h "$3"/drivers/net/tun_state_group.h; then
		compat probe "$3/drivers/net"
	fi
	mkdir -p "$3/include/uapi"
	# Prefer the overlay's headers to the kernel's.
	# shellcheck disable=SC2016 # for make
	printf '%s\n' '# SPDX-License-Identifier: GPL-2.0' 'obj-m := tun.o' \
		'obj-$(CONFIG_TAP) += tap.o' \
		'LINUXINCLUDE := -I$(src)/../../include -I$(src)/../../include/uapi $(LINUXINCLUDE)' \
		>"$3/.Kbuild"
	put "$3/.Kbuild" "$3/drivers/net/Kbuild"
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
