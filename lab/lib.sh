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
QEMU_BASES="10.0 10.2"
QEMU_BASE=${QEMU_BASE:-10.0}
# What is made from another base than the first has its name at the end.
# shellcheck disable=SC2034
Q=${QEMU_BASE/#/-} Q=${Q/%-10.0/}

# Kernels the lab can run: Debian's, and those it builds itself from the source
# of the first one.
KERNELS="6.12 6.1 7.x"
KERNELS_DEBUG="debug kcsan"

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
	for v in XDG_CACHE_HOME JOBS DEBIAN_MIRROR QEMU_BASE LAB_OUT_DIR LAB_MEM \
		LAB_ACCEL LAB_TUN TESTS KDIR KSRC QEMU_SRC http_proxy https_proxy; do
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

# kernel_known K: complain unless the lab knows it.
kernel_known() {
	case " $KERNELS $KERNELS_DEBUG " in
	*" $1 "*) ;;
	*) die "unknown kernel '$1' (there is: $KERNELS $KERNELS_DEBUG)" ;;
	esac
}

# qemu_suite: where the source of QEMU_BASE comes from
qemu_suite() {
	case $QEMU_BASE in
	10.0) echo "$SUITE" ;;
	10.2) echo sid ;;
	*) die "QEMU_BASE=$QEMU_BASE: there are patches for $QEMU_BASES" \
		"another tree: QEMU_SRC=DIR" ;;
	esac
}

# kernel_target K: the make target that builds it.
kernel_target() {
	case $1 in
	6.12) echo lab ;;
	debug | kcsan) echo lab-debug ;;
	*) echo lab-kernels ;;
	esac
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

# suite_apt SUITE TOOL ARG...: apt-get or apt-cache with lists, sources and
# cache of our own, apart from the system's and from other suites'.
suite_apt() {
	local suite=$1 tool=$2 d=$CACHE/apt-$1
	shift 2
	[ -n "${MIRROR:-}" ] || need_mirror
	mkdir -p "$d"/state/lists/partial "$d"/cache/archives/partial "$d/empty"
	[ -f "$d/status" ] || : >"$d/status"
	echo "deb [signed-by=$KEYRING] $MIRROR $suite main" >"$d/sources.list"
	[ "$suite" != "$SUITE" ] && [ "$suite" != sid ] ||
		echo "deb-src [signed-by=$KEYRING] $MIRROR $suite main" \
			>>"$d/sources.list"
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
		APT::Update::Error-Mode "any";
		Acquire::Languages "none";
		Acquire::Retries "3";
	END
	"$tool" -c "$d/apt.conf" "$@"
}

suite_update() {
	say "reading the package lists of $1"
	suite_apt "$1" apt-get update >&2
}

# suite_versions SUITE: "PACKAGE VERSION" for each package its lists offer;
# names that only others mention are not among them.
suite_versions() {
	suite_apt "$1" apt-cache dumpavail |
		awk '$1 == "Package:" { p = $2 } $1 == "Version:" { print p, $2 }'
}

in_root() { "$REPO/lab/in-root" "$@"; }

# kernel_suite K, kernel_root K: where it comes from, and the build root with
# its headers and its suite's compiler.
kernel_suite() {
	case $1 in
	6.1) echo bookworm ;;
	7.x) echo "$SUITE-backports" ;;
	*) echo "$SUITE" ;;
	esac
}
kernel_root() {
	case $1 in
	6.1) suite_root bookworm ;;
	*) echo "$ROOT" ;;
	esac
}
suite_root() { [ "$1" = "$SUITE" ] && echo "$ROOT" || echo "$ROOT-$1"; }

# kernel_release K: the full release (6.12.x+...) the build root has headers
# for; kept in a file so that no glob has to be guessed later.
kernel_release() { cat "$(kernel_root "$1")/etc/tapstate-kernel-$1" 2>/dev/null; }
no_release() {
	[ "$1" != 7.x ] || [ ! -f "$ROOT/etc/tapstate-root" ] ||
		die "the build root was made without Linux $1" \
			"when the mirror has it by now: rm build/.root, then again"
	die "the build root for Linux $1 is not there: run make $(kernel_target "$1")"
}

# kernel_patches K: the series for its source. That of the primary base serves
# where no other is needed.
kernel_patches() {
	local d=$REPO/kernel/patches
	[ -d "$d/$1" ] && echo "$d/$1" || echo "$d"
}

# kernel_packages K RELEASE: "PACKAGE VERSION" of those that hold the kernel,
# its modules and its source, if all are there in the version of its headers.
# From 7.x on the image package is empty: kernel, modules, and the lists of
# them, are packages of their own, and the newest kernel may not be signed yet.
kernel_packages() {
	suite_versions "$(kernel_suite "$1")" | awk -v rel="$2" '
		{ version[$1] = $2 }
		function have(p) { return v != "" && version[p] == v }
		function show(p) { print p, v }
		END {
			split(rel, part, ".")
			v = version["linux-headers-" rel]
			source = "linux-source-" part[1] "." part[2]
			modules = "linux-modules-" rel
			kernel = "linux-image-" rel
			if (have(modules)) {
				kernel = "linux-binary-" rel
				if (!have(kernel))
					kernel = "linux-binary-unsigned-" rel
			}
			if (!have(source) || !have(kernel))
				exit 1
			show(source)
			show(kernel)
			if (have(modules)) {
				show(modules)
				show("linux-base-" rel)
			}
		}'
}

# kernel_newest K: the newest release of which all parts are there.
kernel_newest() {
	local re rel best=''
	re=${1//./'\.'}
	re=${re/x/[0-9]+}
	# Without "cloud" and "rt" before the architecture.
	while read -r rel; do
		kernel_packages "$1" "$rel" >/dev/null || continue
		if [ -z "$best" ] || dpkg --compare-versions "$rel" gt "$best"; then
			best=$rel
		fi
	done < <(suite_versions "$(kernel_suite "$1")" |
		sed -nE "s/^linux-headers-($re\.[^-]+(-[0-9]+)?-amd64) .*/\1/p")
	[ -n "$best" ] && echo "$best"
}

# matches NAME [GLOB...]: does a GLOB match it, if there are any?
matches() {
	local name=$1 glob
	shift
	[ $# -gt 0 ] || return 0
	for glob; do
		# shellcheck disable=SC2053 # a pattern it is
		[[ $name != $glob ]] || return 0
	done
	return 1
}

# overlay PRISTINE OVERLAY PATCHDIR DEST [GLOB...]: make DEST what PRISTINE is
# with the files of OVERLAY and then the patches added, of both only what
# matches a GLOB if there is one. Files that did not change keep their time
# stamps, so that make and ninja rebuild only what they must. With DEST not yet
# a copy of PRISTINE, only the files concerned end up there.
overlay() {
	local pristine=$1 over=$2 patches=$3 dest=$4 tmp f p n=0
	shift 4
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
	} | LC_ALL=C sort -u | while read -r f; do
		! matches "$f" "$@" || echo "$f"
	done >"$tmp/.files"

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
		(cd "$tmp" && GIT_CEILING_DIRECTORIES=$BUILD \
			git apply --allow-empty "${@/#/--include=}" "$p") || {
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
