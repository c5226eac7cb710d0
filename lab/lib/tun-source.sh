# shellcheck shell=bash
# SPDX-License-Identifier: GPL-2.0-or-later
#
# Sources of tun.ko: upstream's tun.c with the overlay and the patches of kernel/. The
# lab uses this, and tapstate-dkms. To be sourced after overlay.sh.

COMPAT=$REPO/kernel/compat

source_version() { # MAKEFILE: VERSION.PATCHLEVEL.SUBLEVEL
	sed -nE 's/^(VERSION|PATCHLEVEL|SUBLEVEL) *= *([0-9]+).*/\2/p' "$1" 2>/dev/null |
		head -n 3 | paste -sd. || :
}
kdir_version() { # DIR: version of a configured kernel, or of its headers
	sed -nE 's/^#define LINUX_VERSION_(MAJOR|PATCHLEVEL|SUBLEVEL) ([0-9]+)/\2/p' \
		"$1/include/generated/uapi/linux/version.h" 2>/dev/null | paste -sd. || :
}

# source_fits KSRC KDIR: end unless the source and the build directory are of the same
# series
source_fits() {
	local source built
	built=$(kdir_version "$2")
	[ -n "$built" ] || die "KDIR=$2 is not the build directory of a kernel" \
		"it must have been configured and built, or be the headers of a package"
	source=$(source_version "$1/Makefile")
	[ -z "$source" ] || [ "${source%.*}" = "${built%.*}" ] ||
		die "KSRC=$1 is Linux $source, but KDIR=$2 is Linux $built" \
			"name the source of Linux ${built%.*}: KSRC=DIR"
	[ -z "$source" ] || [ "$source" = "$built" ] ||
		warn "KSRC is Linux $source, KDIR is Linux $built: close enough to try"
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
