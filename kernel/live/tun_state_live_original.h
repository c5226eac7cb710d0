/* SPDX-License-Identifier: GPL-2.0 */
/*
 * The tun module that is loaded: is it that of the build, and where do its functions
 * go on behind the instruction that a live patch redirects?
 */
#include <asm/ftrace.h>
#include <asm/ibt.h>
#include <asm/nops.h>

/* The build ID is a note in the module's read-only data. KASAN may not check how it is
 * searched: it has zones between variables there that nothing else reads.
 */
static noinline __no_sanitize_address bool
tun_live_built_for(const struct module *mod)
{
	static const u8 id[] = TUN_LIVE_BUILD_ID;
#ifdef for_each_mod_mem_type
	const u8 *start = mod->mem[MOD_RODATA].base;
	const u8 *end = start + mod->mem[MOD_RODATA].size;
#else
	const u8 *start = mod->core_layout.base + mod->core_layout.text_size;
	const u8 *end = mod->core_layout.base + mod->core_layout.ro_size;
#endif
	size_t i;

	for (; start + sizeof(id) <= end; start += sizeof(u32)) {
		for (i = 0; i < sizeof(id) && start[i] == id[i]; i++)
			;
		if (i == sizeof(id))
			return true;
	}
	return false;
}

/* Address of a function behind the call of ftrace, or the NOP in its place: a call of
 * it runs the original. There is no ENDBR for an indirect call.
 */
static void *tun_live_original(const struct klp_func *func)
{
	static const u8 nop[] = { BYTES_NOP5 };
	const u8 *site = func->old_func + ENDBR_INSN_SIZE;

	BUILD_BUG_ON(sizeof(nop) != MCOUNT_INSN_SIZE);
	if (*site != CALL_INSN_OPCODE && memcmp(site, nop, sizeof(nop)))
		return NULL;
	return (void *)site + MCOUNT_INSN_SIZE;
}
