# shellcheck shell=bash
# SPDX-License-Identifier: GPL-2.0-or-later
#
# Builds of tun.ko that are there to be looked at, not to be used. To be sourced
# after lib.sh.

# tun_kernel K: set REL, the release, and SRC, the source of kernel K.
tun_kernel() {
	kernel_known "$1"
	REL=$(kernel_release "$1") || die "the build root is not there: run make lab"
	SRC=$BUILD/src/linux-$1
	[ -f "$SRC/drivers/net/tun.c" ] ||
		die "${SRC#"$REPO/"} is not there: run make modules"
}

# put FROM TO: copy a file if that changes anything, so that make sees only
# what changed.
put() {
	cmp -s "$1" "$2" && return
	mkdir -p "$(dirname "$2")"
	cp "$1" "$2"
}

# tun_tree TREE DIR: make DIR what kbuild needs of the partial kernel tree TREE,
# with all else of the driver from $SRC.
tun_tree() {
	local f
	for f in tun.c tun_vnet.h; do
		if [ -f "$1/drivers/net/$f" ]; then
			put "$1/drivers/net/$f" "$2/drivers/net/$f"
		elif [ -f "$SRC/drivers/net/$f" ]; then
			put "$SRC/drivers/net/$f" "$2/drivers/net/$f"
		fi
	done
	for f in drivers/net/tun_state.h include/uapi/linux/if_tun_state.h; do
		if [ -f "$1/$f" ]; then
			put "$1/$f" "$2/$f"
		else
			rm -f "$2/$f"
		fi
	done
	mkdir -p "$2/include/uapi"
	# shellcheck disable=SC2016 # for make
	printf '%s\n' '# SPDX-License-Identifier: GPL-2.0' 'obj-m := tun.o' \
		'LINUXINCLUDE := -I$(src)/../../include -I$(src)/../../include/uapi $(LINUXINCLUDE)' \
		>"$2/.Kbuild"
	put "$2/.Kbuild" "$2/drivers/net/Kbuild"
}

# tun_make K DIR ARG...: make ARG... on a tree of tun_tree, which is at the same
# place for the compiler whatever it is called outside.
tun_make() {
	local k=$1 dir=$2
	shift 2
	in_root -r "$(kernel_root "$k")" -b "$dir:/tun" \
		make -C "/usr/lib/modules/$REL/build" M=/tun/drivers/net "$@"
}

# tun_uapi FROM TO: a UAPI header as "make headers_install" would install it;
# names as in the build root.
tun_uapi() {
	in_root -C "/usr/lib/modules/$REL/build" \
		sh scripts/headers_install.sh "$1" "$2"
}
