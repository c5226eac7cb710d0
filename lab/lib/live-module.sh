# shellcheck shell=bash
# SPDX-License-Identifier: GPL-2.0-or-later
#
# Builds of tun_state_live.ko, the live patch. The lab uses this, and
# tapstate-livepatch-dkms. To be sourced after tun-source.sh.

LIVE=$REPO/kernel/live

# live_tree SRC DIR NAME: write to DIR the files that kbuild needs for the live patch, from
# SRC, which messages call NAME: tun.c up to its ioctl handler, its parser of TUNSETOFFLOAD
# split off as in the driver, and the tun_state headers
live_tree() {
	local net=$2/src/drivers/net patches=$2/patches f
	[ -f "$1/drivers/net/tun.c" ] || die "$3 has no drivers/net/tun.c" \
		"KSRC= must name the source of a kernel, not its headers alone"
	compat probe --unpatched "$1/drivers/net"
	rm -rf "$patches"
	mkdir -p "$patches"
	cp "$REPO"/kernel/patches/*-tun-split-the-parser-of-TUNSETOFFLOAD-*.patch "$patches"
	overlay "$1" "$REPO/kernel" "$patches" "$2/tree" "$3" 'drivers/*' 'include/*'
	"$LIVE/cut" "$2/tree/drivers/net/tun.c" >"$2/tun.c" ||
		die "the live patch does not fit drivers/net/tun.c of $3, which has no __tun_chr_ioctl()" \
			"use a kernel that 'make bases' shows as built, or another tree (KSRC=, KDIR=)"
	put "$2/tun.c" "$net/tun.c"
	[ ! -f "$1/drivers/net/tun_vnet.h" ] ||
		put "$1/drivers/net/tun_vnet.h" "$net/tun_vnet.h"
	for f in "$net"/tun_state*.h; do
		[ -f "$2/tree/drivers/net/${f##*/}" ] || [ -f "$LIVE/${f##*/}" ] ||
			[[ $f == *_config.h ]] || rm -f "$f"
	done
	# Leave out what sets the shared filter, which the unpatched driver does not have.
	for f in "$2"/tree/drivers/net/tun_state*.h; do
		case ${f##*/} in
		tun_state_ioctl.h | tun_state_sockfilter.h) ;;
		*) put "$f" "$net/${f##*/}" ;;
		esac
	done
	for f in "$LIVE"/{Kbuild,tun_state_live*.[ch]}; do
		put "$f" "$net/${f##*/}"
	done
	put "$2/tree/include/uapi/linux/if_tun_state.h" "$2/src/include/uapi/linux/if_tun_state.h"
	compat probe "$net"
}

# live_config DIR: tell the live patch the build ID of DIR/tun.ko
live_config() {
	local id
	id=$(readelf -n "$1/tun.ko" 2>/dev/null | sed -n 's/^ *Build ID: //p')
	[[ $id =~ ^([0-9a-f]{2})+$ ]] || die "tun.ko has no build ID" \
		"the live patch could not tell it from another tun.ko"
	echo "#define TUN_LIVE_BUILD_ID { $(fold -w 2 <<<"$id" | sed 's/.*/0x&,/' | paste -sd ' ') }" \
		>"$1/config.h"
	put "$1/config.h" "$1/src/drivers/net/tun_state_live_config.h"
}

# live_unpack KO DIR: write DIR/tun.ko, uncompressed
live_unpack() {
	case $1 in
	*.xz) xz -dc "$1" ;;
	*.zst) zstd -dcq "$1" ;;
	*.gz) gzip -dc "$1" ;;
	*) cat "$1" ;;
	esac >"$2/tun.ko" || die "$1 cannot be unpacked"
}

# tun_ko MODULES...: print the path of the first tun.ko in these directories
tun_ko() {
	local found
	for found; do
		compgen -G "$found/drivers/net/tun.ko*" && return
	done | grep -m 1 . || die "there is no tun.ko in $1" \
		"the live patch is for a tun that is a module; TUN_KO= names another place"
}

# btf_of RELEASE DIR: print the path of the BTF of a kernel that KDIR names; unpack
# its vmlinux to DIR if need be
btf_of() {
	if [ -n "${VMLINUX:-}" ]; then
		echo "$VMLINUX"
	elif [ "$1" = "$(uname -r)" ] && [ -f /sys/kernel/btf/vmlinux ]; then
		echo /sys/kernel/btf/vmlinux
	elif [ -f "$KDIR/vmlinux" ]; then
		echo "$KDIR/vmlinux"
	else
		unpack_vmlinux "/boot/vmlinuz-$1" "$2/vmlinux" ||
			die "there is no BTF of Linux $1" \
				"name its vmlinux, or its /sys/kernel/btf/vmlinux: VMLINUX=FILE"
		echo "$2/vmlinux"
	fi
}

# unpack_vmlinux VMLINUZ FILE: write to FILE the compressed kernel of VMLINUZ, which
# its header tells the place of. The decompressor may complain of what follows it.
unpack_vmlinux() {
	local at size unpack
	[ -r "$1" ] || return
	at=$(((1 + $(number_at "$1" 0x1f1 1)) * 512 + $(number_at "$1" 0x248 4)))
	size=$(number_at "$1" 0x24c 4)
	case $(od -An -tx1 -j "$at" -N 4 "$1" | tr -d ' ') in
	fd377a58) unpack=(xz -dc) ;;
	28b52ffd) unpack=(zstd -dcq) ;;
	1f8b*) unpack=(gzip -dc) ;;
	*) return 1 ;;
	esac
	tail -c "+$((at + 1))" "$1" 2>/dev/null | head -c "$size" |
		"${unpack[@]}" >"$2" 2>/dev/null || :
	[ "$(od -An -tx1 -N 4 "$2" | tr -d ' ')" = 7f454c46 ]
}
number_at() { od -An "-tu$3" -j "$(($2))" -N "$3" "$1" | tr -d ' '; }

# live_check DIR VMLINUX RUN...: check what was compiled in DIR: no pointer to a copy, and
# the structs of DIR/tun.ko, whose BTF is based on that of VMLINUX, or is not there if
# VMLINUX is empty. Paths are relative to the repository, or absolute, for a program that
# RUN runs.
live_check() {
	local object=$1/src/drivers/net/tun_state_live.o btf=(-F btf "--btf_base=$2" "$1/tun.ko") out
	out=$("${@:3}" kernel/live/pointers "$object" 2>&1) ||
		die "${out:-there is no $object}" \
			"this kernel needs a change of kernel/live: use one that 'make bases' shows as built"
	[ -n "$2" ] || return 0
	out=$(diff <("${@:3}" kernel/live/layouts "$object" 2>&1) \
		<("${@:3}" kernel/live/layouts "${btf[@]}" 2>&1)) || {
		# A line that only one of them has; first of all, why there are none
		out=$(grep -m 1 '^[<>] layouts:' <<<"$out" || grep -m 1 '^[<>]' <<<"$out")
		die "the structs of this tun.c are not those of tun.ko: ${out#? }" \
			"build from the source of exactly that kernel, with its configuration"
	}
	[ -n "$("${@:3}" kernel/live/layouts "$object" 2>/dev/null)" ] ||
		die "the structs of tun.c cannot be compared" "install pahole (package dwarves)"
}
