# shellcheck shell=bash
# SPDX-License-Identifier: GPL-2.0-or-later
#
# What all scripts of the lab share: paths, messages, root, locks, apt.
# To be sourced.

set -euo pipefail

REPO=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd -P)
BUILD=$REPO/build
CACHE=${XDG_CACHE_HOME:-$HOME/.cache}/tapstate
ROOT=$BUILD/root
SUITE=trixie
KEYRING=/usr/share/keyrings/debian-archive-keyring.gpg
JOBS=${JOBS:-$(nproc)}
# shellcheck disable=SC2034 # for those who source this
QEMU_BASE=10.0

# Kernels the lab knows, and those it can run today.
KERNELS_READY="6.12"
KERNELS_PLANNED="6.1 7.x debug"

if [ -t 2 ]; then
	B=$'\e[1m' R=$'\e[0m'
else
	B='' R=''
fi

say() { printf '%s==>%s %s\n' "$B" "$R" "$*" >&2; }
note() { printf '    %s\n' "$*" >&2; }
warn() { printf '%s: warning: %s\n' "${0##*/}" "$*" >&2; }
die() {
	printf '%s: error: %s\n' "${0##*/}" "$1" >&2
	shift
	for line; do
		printf '    %s\n' "$line" >&2
	done
	exit 1
}

step_start() { STEP=$1 STEP_T0=$SECONDS; say "$1"; }
step_end() { say "$STEP: done in $((SECONDS - STEP_T0)) s"; }

# mmdebstrap, mount namespaces and KVM all need root: ask for it once, here,
# and keep the caller's cache directory.
need_root() {
	[ "$(id -u)" = 0 ] && return
	command -v sudo >/dev/null ||
		die "this needs root, and there is no sudo" \
			"run make as root, or install sudo"
	local keep=(HOME="$HOME" TERM="${TERM:-dumb}") v
	for v in XDG_CACHE_HOME JOBS DEBIAN_MIRROR LAB_OUT_DIR LAB_MEM \
		LAB_ACCEL KDIR KSRC QEMU_SRC http_proxy https_proxy; do
		[ -z "${!v+x}" ] || keep+=("$v=${!v}")
	done
	exec sudo env "${keep[@]}" "$0" "$@"
}

# lock NAME: only one build of a part at a time; released when the script ends.
lock() {
	mkdir -p "$BUILD"
	exec {LOCK_FD}>"$BUILD/.lock-$1"
	if ! flock -n "$LOCK_FD"; then
		note "another build of '$1' is under way, waiting for it"
		flock "$LOCK_FD"
	fi
}

# hash_of FILE|=STRING...: names the inputs of a part, so that it is made
# again exactly when one of them changed.
hash_of() {
	local x
	for x; do
		case $x in
		=*) printf '%s\n' "$x" ;;
		*) [ ! -f "$x" ] || sha256sum <"$x" ;;
		esac
	done | sha256sum | cut -c1-16
}

# fresh STAMP KEY: was this part made from these inputs?
fresh() { [ -f "$1" ] && [ "$(cat "$1")" = "$2" ]; }
stamp() { echo "$2" >"$1.tmp" && mv "$1.tmp" "$1"; }

need_space() {
	local gb
	mkdir -p "$BUILD"
	gb=$(($(df --output=avail -k "$BUILD" | tail -1) >> 20))
	[ "$gb" -ge "$1" ] ||
		die "only $gb GB free under $BUILD, $1 GB needed"
}

# kernel_known K: complain unless K can be used now.
kernel_known() {
	case " $KERNELS_READY " in *" $1 "*) return ;; esac
	case " $KERNELS_PLANNED " in
	*" $1 "*) die "--kernel $1 is not built yet (there is: $KERNELS_READY)" ;;
	esac
	die "unknown kernel '$1' (there is: $KERNELS_READY)"
}

# The machine's own Debian mirror, from its apt configuration.
debian_mirror() {
	if [ -n "${DEBIAN_MIRROR:-}" ]; then
		echo "$DEBIAN_MIRROR"
		return
	fi
	# shellcheck disable=SC2016 # apt expands these
	apt-get indextargets --format \
		'$(LABEL)|$(COMPONENT)|$(CREATED_BY)|$(REPO_URI)' 2>/dev/null |
		awk -F'|' '$1 == "Debian" && $2 == "main" && $3 == "Packages" {
			print $4; exit }'
}

need_mirror() {
	command -v apt-get >/dev/null ||
		die "no apt-get: the lab takes its parts from Debian packages" \
			"run it on Debian, or in a Debian container with root"
	[ -r "$KEYRING" ] ||
		die "$KEYRING is missing" \
			"apt-get install debian-archive-keyring"
	MIRROR=$(debian_mirror)
	if [ -z "$MIRROR" ]; then
		note "apt knows no Debian mirror yet: apt-get update"
		apt-get update >&2 || die "apt-get update failed: is there a network?"
		MIRROR=$(debian_mirror)
	fi
	[ -n "$MIRROR" ] ||
		die "no Debian mirror in this machine's apt configuration" \
			"name one: make ... DEBIAN_MIRROR=URI"
}

# host_tool COMMAND PACKAGE: install it when it is not there.
host_tool() {
	command -v "$1" >/dev/null && return
	step_start "installing $2 on this machine"
	{ apt-get update && apt-get install -y --no-install-recommends "$2"; } >&2 ||
		die "cannot install $2" "is there a network? try: apt-get install $2"
	step_end
}

# apt-get with lists, sources and cache of our own, apart from the system's.
trixie_apt() {
	local d=$CACHE/apt-$SUITE
	need_mirror
	mkdir -p "$d"/state/lists/partial "$d"/cache/archives/partial "$d/empty"
	[ -f "$d/status" ] || : >"$d/status"
	cat >"$d/sources.list" <<-END
		deb [signed-by=$KEYRING] $MIRROR $SUITE main
		deb-src [signed-by=$KEYRING] $MIRROR $SUITE main
	END
	cat >"$d/apt.conf" <<-END
		#clear APT::Update::Post-Invoke;
		#clear APT::Update::Post-Invoke-Success;
		#clear DPkg::Post-Invoke;
		Dir::State "$d/state";
		Dir::State::status "$d/status";
		Dir::Cache "$d/cache";
		Dir::Etc::SourceList "$d/sources.list";
		Dir::Etc::SourceParts "$d/empty";
		Dir::Etc::Preferences "$d/empty/none";
		Dir::Etc::PreferencesParts "$d/empty";
		APT::Architecture "amd64";
		APT::Architectures { "amd64"; };
		APT::Sandbox::User "root";
		Acquire::Languages "none";
		Acquire::Retries "3";
	END
	apt-get -c "$d/apt.conf" "$@"
}

trixie_update() {
	say "reading the package lists of $SUITE"
	trixie_apt update >&2 ||
		die "cannot read $SUITE from $MIRROR" "is there a network?"
}

in_root() { "$REPO/lab/in-root" "$@"; }

# kernel_release K: the full release (6.12.x+...) the build root has headers
# for; kept in a file so that no glob has to be guessed later.
kernel_release() { cat "$ROOT/etc/tapstate-kernel-$1" 2>/dev/null; }

# overlay PRISTINE OVERLAY PATCHDIR DEST: make DEST what PRISTINE is with the
# files of OVERLAY and then the patches added. Files that did not change keep
# their time stamps, so that make and ninja rebuild only what they must.
# With DEST not yet a copy of PRISTINE, only the files concerned end up there.
overlay() {
	local pristine=$1 over=$2 patches=$3 dest=$4 tmp f p n=0
	tmp=$(mktemp -d "$BUILD/overlay.XXXXXX")
	mkdir -p "$dest"

	{
		if [ -d "$over" ]; then
			(cd "$over" && find . ! -type d -not -path './patches/*' \
				-printf '%P\n')
		fi
		for p in "$patches"/*.patch; do
			[ -e "$p" ] || continue
			sed -nE 's,^(---|\+\+\+) [ab]/([^\t]*).*,\2,p' "$p"
		done
	} | LC_ALL=C sort -u >"$tmp/.files"

	while read -r f; do
		mkdir -p "$tmp/$(dirname "$f")"
		if [ -f "$over/$f" ]; then
			cp "$over/$f" "$tmp/$f"
		elif [ -f "$pristine/$f" ]; then
			cp -p "$pristine/$f" "$tmp/$f"
		fi
	done <"$tmp/.files"

	for p in "$patches"/*.patch; do
		[ -e "$p" ] || continue
		# The ceiling keeps git from seeing the repository around it,
		# inside which it would take the paths for the repository's own.
		(cd "$tmp" && GIT_CEILING_DIRECTORIES=$BUILD git apply "$p") || {
			rm -rf "$tmp"
			die "$p does not apply to $pristine"
		}
	done

	# What an earlier overlay added and this one does not.
	if [ -f "$dest/.overlay" ]; then
		LC_ALL=C comm -23 "$dest/.overlay" "$tmp/.files" | while read -r f; do
			if [ -f "$pristine/$f" ]; then
				cp "$pristine/$f" "$dest/$f"
			else
				rm -f "$dest/$f"
			fi
		done
	fi
	while read -r f; do
		if [ ! -f "$tmp/$f" ]; then # removed by a patch
			rm -f "$dest/$f"
		elif ! cmp -s "$tmp/$f" "$dest/$f"; then
			mkdir -p "$dest/$(dirname "$f")"
			cp --preserve=mode "$tmp/$f" "$dest/$f"
			n=$((n + 1))
		fi
	done <"$tmp/.files"
	mv "$tmp/.files" "$dest/.overlay"
	rm -rf "$tmp"
	note "$n file(s) changed in ${dest#"$REPO/"}"
}
