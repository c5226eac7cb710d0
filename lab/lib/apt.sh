# shellcheck shell=bash
# SPDX-License-Identifier: GPL-2.0-or-later
#
# Debian's archive: mirrors, package lists and downloads, kept apart from the
# system's. To be sourced after common.sh.

# For tests, SUITE=URI: another archive to read along with SUITE
LAB_EXTRA_ARCHIVE=${LAB_EXTRA_ARCHIVE:-}

# debian_mirror Debian|Debian-Security: print a mirror of this machine's apt
# configuration
debian_mirror() {
	local given=DEBIAN_MIRROR
	[ "$1" = Debian ] || given=DEBIAN_SECURITY_MIRROR
	if [ -n "${!given:-}" ]; then
		echo "${!given}"
		return
	fi
	# shellcheck disable=SC2016 # apt expands these
	apt-get indextargets --format \
		'$(LABEL)|$(COMPONENT)|$(CREATED_BY)|$(REPO_URI)' 2>/dev/null |
		awk -F'|' -v label="$1" '$1 == label && $2 == "main" &&
			$3 == "Packages" { print $4; exit }'
}

need_mirror() {
	command -v apt-get >/dev/null ||
		die "no apt-get: the lab takes its parts from Debian packages" \
			"run it on Debian, or in a Debian container with root"
	[ -r "$KEYRING" ] ||
		die "$KEYRING is missing" \
			"apt-get install debian-archive-keyring"
	MIRROR=$(debian_mirror Debian)
	if [ -z "$MIRROR" ]; then
		lock apt
		MIRROR=$(debian_mirror Debian)
		[ -n "$MIRROR" ] || {
			note "apt knows no Debian mirror yet: apt-get update"
			apt-get update >&2 ||
				die_of_download "apt-get update failed"
			MIRROR=$(debian_mirror Debian)
		}
		unlock
	fi
	[ -n "$MIRROR" ] ||
		die "no Debian mirror in this machine's apt configuration" \
			"name one: make ... DEBIAN_MIRROR=URI"
}

# die_of_download SENTENCE: end; the remedy is for the likeliest cause
die_of_download() {
	die "$1" "check the network and the mirror (DEBIAN_MIRROR= names another)," \
		"then start again: what is complete is not downloaded twice"
}

# stale_policy: print this machine's line of apt's configuration on package lists that
# have expired; a mirror may have such lists
stale_policy() {
	apt-config dump --no-empty Acquire::Check-Valid-Until | grep . ||
		echo 'Acquire::Check-Valid-Until "true";'
}

# suite_mirror SUITE
suite_mirror() {
	case $1 in
	*-security) debian_mirror Debian-Security ;;
	*) echo "$MIRROR" ;;
	esac
}

# suite_apt SUITE|src:SUITE TOOL ARG...: run apt-get or apt-cache with lists, sources
# and cache of this suite alone; one at a time. "src:" has lists of source packages.
suite_apt() {
	local suite=${1#src:} d=$CACHE/apt-${1/:/-} deb=deb mirror lock rc=0
	[ "$1" = "$suite" ] || deb='deb-src'
	shift
	[ -n "${MIRROR:-}" ] || need_mirror
	mirror=$(suite_mirror "$suite")
	[ -n "$mirror" ] || return 1
	mkdir -p "$d"/state/lists/partial "$d"/cache/archives/partial "$d/empty"
	exec {lock}>"$d/lock"
	flock "$lock"
	[ -f "$d/status" ] || : >"$d/status"
	echo "$deb [signed-by=$KEYRING] $mirror $suite main" >"$d/sources.list"
	[ "${LAB_EXTRA_ARCHIVE%%=*}" != "$suite" ] ||
		echo "$deb [trusted=yes] ${LAB_EXTRA_ARCHIVE#*=} ./" >>"$d/sources.list"
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
		Acquire::http::Timeout "20";
		Acquire::https::Timeout "20";
	END
	"$1" -c "$d/apt.conf" "${@:2}" || rc=$?
	exec {lock}>&-
	return "$rc"
}

# suite_update SUITE|src:SUITE: read its package lists; fail if the mirror has none
suite_update() {
	local d=$CACHE/apt-${1/:/-} list
	say "reading the package lists of ${1#src:}"
	suite_apt "$1" apt-get update -q >&2 || {
		rm -f "$d/packages"
		return 1
	}
	[ "${1#src:}" = "$1" ] || return 0
	# Read the lists: apt-cache shows one version of a package.
	# shellcheck disable=SC2016 # for apt
	suite_apt "$1" apt-get indextargets --format '$(FILENAME)' \
		'Created-By: Packages' | while read -r list; do
		/usr/lib/apt/apt-helper cat-file "$list"
	done | awk '
		$1 == "Package:" { p = $2 }
		$1 == "Version:" { print p, $2 }' >"$d/packages.$$" &&
		mv "$d/packages.$$" "$d/packages"
}

# suite_packages SUITE: print "PACKAGE VERSION" for each version of each package
suite_packages() {
	[ -f "$CACHE/apt-$1/packages" ] || suite_update "$1"
	cat "$CACHE/apt-$1/packages"
}

# download DIR SUITE APT-GET-ARGUMENT...: download into DIR, which appears when it is
# complete
download() {
	local dir=$1 suite=$2
	shift 2
	[ ! -d "$dir" ] || return 0
	rm -rf "$dir.tmp"
	mkdir -p "$dir.tmp"
	(cd "$dir.tmp" && suite_apt "$suite" apt-get -q "$@" >&2) || return
	mv "$dir.tmp" "$dir"
}

# need_mmdebstrap: have mmdebstrap and zstd on this machine, and a mirror
need_mmdebstrap() {
	need_mirror
	has_mmdebstrap && return
	lock apt
	if ! has_mmdebstrap; then
		step_start "installing mmdebstrap on this machine"
		{ apt-get update &&
			apt-get install -y --no-install-recommends mmdebstrap zstd; } >&2 ||
			die_of_download "cannot install mmdebstrap on this machine"
		step_end
	fi
	unlock
}
has_mmdebstrap() { command -v mmdebstrap && command -v zstd; } >/dev/null

# debian_tree SUITE VARIANT DIR PACKAGES [OPTION...]: have mmdebstrap unpack a
# Debian tree with PACKAGES, a list in one word, into DIR. Keep the packages in the
# cache, and the tree until Debian changes the suite.
debian_tree() {
	local suite=$1 variant=$2 dir=$3 packages=$4 name key cached
	shift 4
	suite_apt "$suite" apt-get update -q >&2 || return
	name=${dir#"$BUILD/"}
	name=$CACHE/trees/$(tr / - <<<"${name%.tmp}")
	key=$(hash_of "=$suite $variant $packages $MIRROR $*" \
		"=$(declare -f debian_tree_new)" "$CACHE/apt-$suite"/state/lists/*Release)
	cached=$name.$key.tar.zst
	if [ -f "$cached" ]; then
		note "unpacking the tree of the cache: $suite has not changed"
		mkdir -p "$dir" &&
			tar -C "$dir" --numeric-owner --xattrs --xattrs-include='*' -xf "$cached"
		return
	fi
	debian_tree_new "$@" || return
	mkdir -p "$CACHE/trees"
	if tar -C "$dir" --xattrs -c --zstd -f "$cached.$$" .; then
		keep_cached "$name" "$key.tar.zst"
	else
		warn "this tree is not kept in $CACHE/trees"
		rm -f "$cached.$$"
	fi
}

debian_tree_new() { # OPTION...: the part of debian_tree that mmdebstrap does
	export debs=$CACHE/debs
	mkdir -p "$debs"
	# shellcheck disable=SC2016 # $1 is the hook's
	mmdebstrap --variant="$variant" --architectures=amd64 \
		--skip=download/empty --skip=essential/unlink \
		--aptopt='Acquire::Retries "3"' --aptopt='Acquire::http::Timeout "20"' \
		--aptopt="$(stale_policy)" \
		--dpkgopt=force-unsafe-io --dpkgopt='path-exclude=/usr/share/man/*' \
		--dpkgopt='path-exclude=/usr/share/locale/*' \
		--dpkgopt='path-exclude=/usr/share/doc/*' \
		--dpkgopt='path-include=/usr/share/doc/*/copyright' "$@" \
		--setup-hook='mkdir -p "$1/var/cache/apt/archives" &&
			{ cp -lf "$debs"/*.deb "$1/var/cache/apt/archives/" 2>/dev/null ||
			  cp -f "$debs"/*.deb "$1/var/cache/apt/archives/" 2>/dev/null || :; }' \
		--customize-hook='cp -nl "$1"/var/cache/apt/archives/*.deb "$debs/" 2>/dev/null ||
			cp -n "$1"/var/cache/apt/archives/*.deb "$debs/" || :' \
		--include="${packages// /,}" \
		"$suite" "$dir" "deb [signed-by=$KEYRING] $MIRROR $suite main"
}
