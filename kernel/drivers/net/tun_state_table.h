/* SPDX-License-Identifier: GPL-2.0 */
/*
 * The table of groups of a device of tun.c, and the device and file of a call.
 */

#define TUN_STATE_ENTRY(_nr, _name, _member)				\
	TUN_STATE_GROUP(_nr, _name, _member, &tun_state_##_member##_ops),

/* The identity comes first: no other group is validated on the wrong device. */
static const struct tun_state_group tun_state_groups[TUN_STATE_NR_GROUPS] = {
	__TUN_STATE_GROUPS(TUN_STATE_ENTRY)
};

static int tun_state_open(struct tun_state_call *call)
{
	call->tfile = call->file->private_data;
	if (!rcu_access_pointer(call->tfile->tun))
		return -EBADFD;
	call->held = tun_state_held(call->tfile);
	return call->held ? 0 : -ENOMEM;
}

static struct net_device *tun_state_dev(struct tun_state_call *call)
{
	call->tun = rtnl_dereference(call->tfile->tun);
	call->left = call->held->left;
	return call->tun ? call->tun->dev : NULL;
}

static void tun_state_release(struct tun_state_call *call)
{
	tun_state_free_progs(call);
	tun_filter_put(call->sockfilter);
}
