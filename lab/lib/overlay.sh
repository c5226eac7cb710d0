# shellcheck shell=bash
# SPDX-License-Identifier: GPL-2.0-or-later
#
# Patched trees: a pristine tree, the files of an overlay, and patches. To be
# sourced after common.sh.
#
# A directory of patches has files NNNN-*.patch, applied in the order of their
# numbers. Subdirectories may have other forms of a patch, with the same number: the
# form that applies is taken. A directory that has only subdirectories has several
# series: the series that applies is taken. Patches are tried with their whole context
# first, then with two lines and one line of it; a hunk with less context must land in
# the function that it names.

FUZZED=()  # patches that applied with reduced context
REFUSED=() # the forms of the patch that did not apply

# outside_git TREE ARG...: run git in TREE, outside of any repository: inside one it
# would take paths for the repository's own
outside_git() {
	local tree=$1
	shift
	(cd "$tree" && GIT_CEILING_DIRECTORIES=$(dirname "$tree") git "$@")
}

# hunk_places: print the functions that the hunks of a diff name
hunk_places() {
	sed -nE 's/^@@ [^@]* @@ ?//p' |
		sed -E 's/^.*\b(\w+)\(.*/\1/; s/[[:space:]]+$//' | LC_ALL=C sort -u
}

# try_patch TREE CONTEXT PATCH [GLOB...]: apply PATCH to files of TREE that match a
# GLOB, with CONTEXT lines of context or, if empty, all. On failure change nothing.
try_patch() {
	local tree=$1 context=$2 patch=$3
	shift 3
	set -- "${@/#/--include=}"
	if [ -z "$context" ]; then
		outside_git "$tree" apply --allow-empty "$@" "$patch" 2>/dev/null
		return
	fi
	rm -rf "$tree.try"
	cp -rp "$tree" "$tree.try"
	outside_git "$tree.try" apply --allow-empty -C"$context" "$@" "$patch" \
		2>/dev/null || return
	outside_git "$tree" diff --no-index "$tree" "$tree.try" |
		hunk_places >"$tree.places"
	! LC_ALL=C comm -13 <(hunk_places <"$patch") "$tree.places" | grep -q . ||
		return
	rm -rf "$tree"
	mv "$tree.try" "$tree"
}

patch_numbers() { # DIR
	local p
	for p in "$1"/[0-9]*.patch; do
		[ ! -e "$p" ] || basename "$p" | cut -d- -f1
	done
}

# apply_patches TREE exact|fuzz DIR [GLOB...]: apply the patches of DIR, "exact" or with
# less context, too. Set FUZZED, and REFUSED on failure.
apply_patches() {
	local tree=$1 how=$2 dir=$3 number context forms p
	shift 3
	FUZZED=() REFUSED=()
	for number in $(patch_numbers "$dir"); do
		forms=()
		for p in "$dir/$number"-*.patch "$dir"/*/"$number"-*.patch; do
			[ ! -e "$p" ] || forms+=("$p")
		done
		for context in '' 2 1; do
			[ -z "$context" ] || [ "$how" = fuzz ] || continue
			for p in "${forms[@]}"; do
				try_patch "$tree" "$context" "$p" "$@" || continue
				[ -z "$context" ] || FUZZED+=("$p")
				continue 3
			done
		done
		REFUSED=("${forms[@]}")
		return 1
	done
}

patch_subject() { # PATCH
	sed -nE '/^Subject:/,/^(---)?$/{/^(---)?$/d;s/^Subject: *(\[[^]]*\] *)?//;p}' \
		"$1" | tr -d '\n'
}

# why_refused TREE NAME [GLOB...]: print the file and hunk of REFUSED that do not apply
# to TREE, which is called NAME, and the lines that the hunk expects
why_refused() {
	local tree=$1 what=$2 p rejects best='' fewest='' file hunk
	shift 2
	for p in "${REFUSED[@]}"; do
		rm -rf "$tree.try"
		cp -rp "$tree" "$tree.try"
		outside_git "$tree.try" apply --reject "${@/#/--include=}" "$p" \
			>/dev/null 2>"$tree.log" || :
		rejects=$(grep -c '^Rejected hunk' "$tree.log") || rejects=999
		[ -z "$fewest" ] || [ "$rejects" -lt "$fewest" ] || continue
		fewest=$rejects best=$p
		rm -rf "$tree.rejected"
		mv "$tree.try" "$tree.rejected"
		cp "$tree.log" "$tree.rejected.log"
	done
	file=$(cd "$tree.rejected" && find . -name '*.rej' -printf '%P\n' | LC_ALL=C sort | head -n 1)
	if [ -z "$file" ]; then
		sed -nE 's/^error: (.*): No such file or directory/\1/p' \
			"$tree.rejected.log" | head -n 1 |
			sed "s|.*|${best#"$REPO/"} (\"$(patch_subject "$best")\") does not apply: $what has no &|"
		return
	fi
	hunk=$(sed -n 's/^Rejected hunk #\([0-9]*\)\.$/\1/p' "$tree.rejected.log" | head -n 1)
	echo "${best#"$REPO/"} (\"$(patch_subject "$best")\") does not apply to" \
		"${file%.rej} of $what: hunk $hunk, at $(hunk_places <"$tree.rejected/$file" | head -n 1)," \
		"expects other lines"
	sed -n '/^@@/,$p' "$tree.rejected/$file" |
		awk '/^@@/ && n++ { exit } /^[ -]/ { print }' | head -n 15
}

# series_dirs PATCHES HINT: print the directories of PATCHES that have a series, HINT
# first
series_dirs() {
	local d
	if [ -n "$(patch_numbers "$1")" ] || [ -z "$(ls -A "$1")" ]; then
		echo "$1"
		return
	fi
	[ ! -d "$1/$2" ] || echo "$1/$2"
	for d in "$1"/*/; do
		d=${d%/}
		[ "$d" = "$1/$2" ] || echo "$d"
	done
}

matches() { # NAME [GLOB...]: succeed if a GLOB matches, or without a GLOB
	local name=$1 glob
	shift
	[ $# -gt 0 ] || return 0
	for glob; do
		# shellcheck disable=SC2053 # a pattern it is
		[[ $name != $glob ]] || return 0
	done
	return 1
}

# patched_copy PRISTINE OVERLAY SERIES TMP exact|fuzz [GLOB...]: copy the files of
# OVERLAY, and the files of PRISTINE that SERIES changes, to TMP, and patch them
patched_copy() {
	local pristine=$1 over=$2 series=$3 tmp=$4 how=$5 f
	shift 5
	rm -rf "$tmp"
	mkdir -p "$tmp"
	{
		if [ -d "$over" ]; then
			(cd "$over" && find . ! -type d -not -path './patches/*' \
				-not -path './compat/*' -not -path './live/*' -printf '%P\n')
		fi
		find "$series" -name '*.patch' -exec \
			sed -nE 's,^(---|\+\+\+) [ab]/([^\t]*).*,\2,p' {} +
	} | LC_ALL=C sort -u | while read -r f; do
		! matches "$f" "$@" || echo "$f"
	done >"$tmp.files"
	while read -r f; do
		mkdir -p "$tmp/$(dirname "$f")"
		if [ -f "$over/$f" ]; then
			cp "$over/$f" "$tmp/$f"
		elif [ -f "$pristine/$f" ]; then
			cp -p "$pristine/$f" "$tmp/$f"
		fi
	done <"$tmp.files"
	apply_patches "$tmp" "$how" "$series" "$@"
}

# overlay PRISTINE OVERLAY PATCHES DEST NAME [GLOB...]: add to DEST the files of OVERLAY
# and the files that PATCHES change, patched; only files that match a GLOB, if there is
# one. DEST may be a copy of PRISTINE, which messages call NAME. Files that did not
# change keep their time stamps, so that make and ninja rebuild no more than they must.
# DEST/.patched has "clean", or "fuzz" and the names of patches.
overlay() {
	local pristine=$1 over=$2 patches=$3 dest=$4 what=$5 tmp dir dirs how lines f n=0
	local done=''
	shift 5
	tmp=$(mktemp -d "${TMPDIR:-/tmp}/tapstate.XXXXXX")
	mkdir -p "$dest"
	mapfile -t dirs < <(series_dirs "$patches" "$(cut -d. -f1,2 "$pristine/VERSION" 2>/dev/null)")
	for how in exact fuzz; do
		for dir in "${dirs[@]}"; do
			patched_copy "$pristine" "$over" "$dir" "$tmp/t" "$how" "$@" &&
				done=1 && break 2
		done
	done
	if [ -z "$done" ]; then
		patched_copy "$pristine" "$over" "${dirs[0]}" "$tmp/t" fuzz "$@" || :
		mapfile -t lines < <(why_refused "$tmp/t" "$what" "$@")
		rm -rf "$tmp"
		die "${lines[0]}" "${lines[@]:1}" \
			"use a version that 'make bases' shows as built, or another tree (KSRC=, QEMU_SRC=)"
	fi

	# Remove files that only an earlier overlay added.
	if [ -f "$dest/.overlay" ]; then
		LC_ALL=C comm -23 "$dest/.overlay" "$tmp/t.files" | while read -r f; do
			if [ -f "$pristine/$f" ]; then
				cp "$pristine/$f" "$dest/$f"
			else
				rm -f "$dest/$f"
			fi
		done
	fi
	while read -r f; do
		if [ ! -f "$tmp/t/$f" ]; then # removed by a patch
			rm -f "$dest/$f"
		elif ! cmp -s "$tmp/t/$f" "$dest/$f"; then
			mkdir -p "$dest/$(dirname "$f")"
			cp --preserve=mode "$tmp/t/$f" "$dest/$f"
			n=$((n + 1))
		fi
	done <"$tmp/t.files"
	mv "$tmp/t.files" "$dest/.overlay"
	rm -rf "$tmp"
	note "$n file(s) changed in ${dest#"$REPO/"}"
	if [ ${#FUZZED[@]} = 0 ]; then
		echo clean >"$dest/.patched"
	else
		printf '%s\n' fuzz "${FUZZED[@]##*/}" >"$dest/.patched"
		for f in "${FUZZED[@]}"; do
			note "${f#"$REPO/"} applied with fuzz to $what"
		done
	fi
}
