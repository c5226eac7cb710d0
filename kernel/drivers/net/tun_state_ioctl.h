/* SPDX-License-Identifier: GPL-2.0 */
/*
 * TUNGETSTATE and TUNSETSTATE of tun.c: the table of its groups. tun_state_call.h says
 * what tun.c provides, tun_state_core.h has the ioctls, and each of the other files
 * has groups of one theme.
 */
#ifndef TUN_STATE_IOCTL_H
#define TUN_STATE_IOCTL_H

#include "tun_state_call.h"
#include "tun_state_core.h"
#include "tun_state_common.h"
#include "tun_state_settings.h"
#include "tun_state_filter.h"
#include "tun_state_prog.h"
#include "tun_state_queue.h"

#define TUN_STATE_ENTRY(_nr, _name, _member)				\
	TUN_STATE_GROUP(_nr, _name, _member, &tun_state_##_member##_ops),

/* The identity comes first: no other group is validated on the wrong device. */
static const struct tun_state_group tun_state_groups[TUN_STATE_NR_GROUPS] = {
	__TUN_STATE_GROUPS(TUN_STATE_ENTRY)
};

static int tun_state_open(struct tun_state_call *call)
{
	call->tfile = call->file->private_data;
	return rcu_access_pointer(call->tfile->tun) ? 0 : -EBADFD;
}

static struct net_device *tun_state_dev(struct tun_state_call *call)
{
	call->tun = rtnl_dereference(call->tfile->tun);
	call->left = tun_state_held(call->tfile)->left;
	return call->tun ? call->tun->dev : NULL;
}

static void tun_state_release(struct tun_state_call *call)
{
	tun_state_free_progs(call);
	tun_filter_put(call->sockfilter);
}

#endif /* TUN_STATE_IOCTL_H */
