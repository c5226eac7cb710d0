/* SPDX-License-Identifier: GPL-2.0 */
/*
 * Functions of the newest tun.c, for a tun.c that lacks them.
 *
 * kernel/compat/probe looks for them in tun.c and writes tun_state_config.h.
 * lab/series/write copies the text after the #include into the series, without
 * the parts that the base does not need.
 */
#ifndef TUN_STATE_COMPAT_H
#define TUN_STATE_COMPAT_H

#include "tun_state_config.h"

#ifndef TUN_STATE_HAVE_TUN_PERMITTED
#ifdef TUN_STATE_HAVE_TUN_NOT_CAPABLE
static bool tun_permitted(struct tun_struct *tun)
{
	return !tun_not_capable(tun);
}
#else
/* Permit CAP_NET_ADMIN, and the owner: of user and group, each that is set must
 * match. Without an owner permit CAP_NET_ADMIN only.
 */
static bool tun_permitted(struct tun_struct *tun)
{
	bool has_user = uid_valid(tun->owner);
	bool has_group = gid_valid(tun->group);

	if ((has_user || has_group) &&
	    !(has_user && !uid_eq(current_euid(), tun->owner)) &&
	    !(has_group && !in_egroup_p(tun->group)))
		return true;
	return ns_capable(dev_net(tun->dev)->user_ns, CAP_NET_ADMIN);
}
#endif
#endif

#endif /* TUN_STATE_COMPAT_H */
