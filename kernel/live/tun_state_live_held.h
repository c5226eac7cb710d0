/* SPDX-License-Identifier: GPL-2.0 */
/*
 * The eBPF programs that a file holds, in a shadow variable: struct tun_file has no
 * room for them.
 */
#define TUN_LIVE_HELD	0x74756e68

static struct tun_state_held *tun_state_held(struct tun_file *tfile)
{
	return klp_shadow_get_or_alloc(tfile, TUN_LIVE_HELD,
				       sizeof(struct tun_state_held),
				       GFP_KERNEL_ACCOUNT, NULL, NULL);
}

/* Under RTNL: the file leaves its device */
static void tun_live_leave(struct tun_file *tfile)
{
	struct tun_state_held *held = klp_shadow_get(tfile, TUN_LIVE_HELD);

	if (held)
		tun_state_leave(held);
}

/* The file is closed. Take RTNL only for files that have had a call. */
static void tun_live_free_held(struct tun_file *tfile)
{
	if (!klp_shadow_get(tfile, TUN_LIVE_HELD))
		return;
	rtnl_lock();
	tun_live_leave(tfile);
	klp_shadow_free(tfile, TUN_LIVE_HELD, NULL);
	rtnl_unlock();
}

static void tun_live_put_held(void *tfile, void *held)
{
	tun_state_put_progs(((struct tun_state_held *)held)->progs);
}

static void tun_live_free_all_held(void)
{
	klp_shadow_free_all(TUN_LIVE_HELD, tun_live_put_held);
}

/* All files leave a device that is deleted. A device that moves to another network
 * namespace sends the same event, and is not unregistered.
 */
static int tun_live_event(struct notifier_block *nb, unsigned long event,
			  void *ptr)
{
	struct net_device *dev = netdev_notifier_info_to_dev(ptr);
	struct tun_struct *tun = netdev_priv(dev);
	struct tun_file *tfile;
	int i;

	if (event != NETDEV_UNREGISTER ||
	    dev->reg_state != NETREG_UNREGISTERING ||
	    !dev->rtnl_link_ops || strcmp(dev->rtnl_link_ops->kind, DRV_NAME))
		return NOTIFY_DONE;

	for (i = 0; i < tun->numqueues; i++)
		tun_live_leave(rtnl_dereference(tun->tfiles[i]));
	list_for_each_entry(tfile, &tun->disabled, next)
		tun_live_leave(tfile);
	return NOTIFY_DONE;
}

static struct notifier_block tun_live_notifier = {
	.notifier_call = tun_live_event,
};
