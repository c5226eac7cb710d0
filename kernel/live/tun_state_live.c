// SPDX-License-Identifier: GPL-2.0
/*
 * Live patch: TUNGETSTATE and TUNSETSTATE for the tun module that is loaded.
 *
 * It replaces the ioctl, compat ioctl and release functions of the file, through which
 * no packet passes. tun.c is that of the very kernel up to its ioctl handler: its structs
 * and static functions are copies of those in the loaded module. No pointer to a copy may
 * stay behind in a device.
 */
#include <linux/netdevice.h>

/* TUNSETSTATE attaches no queue but a detached one, which has its NAPI. Leave no pointer to
 * a copy of tun_napi_poll() behind in another.
 */
#define netif_napi_add_tx(...)	WARN_ON_ONCE(1)

#include "tun.c"

/* It is behind the ioctl handler, and none of the copies that are left calls it */
static void tun_default_link_ksettings(struct net_device *dev,
				       struct ethtool_link_ksettings *cmd)
{
}

#include <linux/livepatch.h>
#include <linux/static_call.h>

#include "tun_state_live_config.h"
#include "tun_state.h"
#include "tun_state_live_held.h"
#include "tun_state_live_original.h"
#include "tun_state_call.h"
#include "tun_state_core.h"
#include "tun_state_common.h"
#include "tun_state_settings.h"
#include "tun_state_live_filter.h"
#include "tun_state_filter.h"
#include "tun_state_prog.h"
#include "tun_state_queue.h"
#include "tun_state_table.h"

/* While some tasks run the replacements and others the originals, no file may get held
 * programs: an original close would leave them behind.
 */
static bool tun_live_serves;
static bool tun_live_over;

static bool tun_live_is_ioctl(unsigned int cmd)
{
	return READ_ONCE(tun_live_serves) && tun_state_is_ioctl(cmd);
}

static long tun_live_chr_ioctl(struct file *file, unsigned int cmd,
			       unsigned long arg);
DEFINE_STATIC_CALL_RET0(tun_live_old_ioctl, tun_live_chr_ioctl);

static long tun_live_chr_ioctl(struct file *file, unsigned int cmd,
			       unsigned long arg)
{
	if (tun_live_is_ioctl(cmd))
		return tun_state_ioctl(file, cmd, (void __user *)arg);
	return static_call(tun_live_old_ioctl)(file, cmd, arg);
}

#ifdef CONFIG_COMPAT
DEFINE_STATIC_CALL_RET0(tun_live_old_compat_ioctl, tun_live_chr_ioctl);

static long tun_live_chr_compat_ioctl(struct file *file, unsigned int cmd,
				      unsigned long arg)
{
	if (tun_live_is_ioctl(cmd))
		return tun_state_ioctl(file, cmd, compat_ptr(arg));
	return static_call(tun_live_old_compat_ioctl)(file, cmd, arg);
}
#endif

static int tun_live_chr_close(struct inode *inode, struct file *file);
DEFINE_STATIC_CALL_RET0(tun_live_old_close, tun_live_chr_close);

static int tun_live_chr_close(struct inode *inode, struct file *file)
{
	tun_live_free_held(file->private_data);
	return static_call(tun_live_old_close)(inode, file);
}

enum {
	TUN_LIVE_IOCTL,
	TUN_LIVE_CLOSE,
	TUN_LIVE_COMPAT_IOCTL,
	TUN_LIVE_FUNCS,
};

static struct klp_func tun_live_funcs[TUN_LIVE_FUNCS + 1] = {
	[TUN_LIVE_IOCTL] = {
		.old_name = "tun_chr_ioctl",
		.new_func = tun_live_chr_ioctl,
	},
	[TUN_LIVE_CLOSE] = {
		.old_name = "tun_chr_close",
		.new_func = tun_live_chr_close,
	},
#ifdef CONFIG_COMPAT
	[TUN_LIVE_COMPAT_IOCTL] = {
		.old_name = "tun_chr_compat_ioctl",
		.new_func = tun_live_chr_compat_ioctl,
	},
#endif
};

static int tun_live_pre_patch(struct klp_object *obj)
{
	struct klp_func *func;

	if (!tun_live_built_for(obj->mod)) {
		pr_err("not built for the tun that is loaded: build it for this kernel and its tun.ko\n");
		return -EINVAL;
	}
	for (func = tun_live_funcs; func->old_name; func++) {
		if (tun_live_original(func))
			continue;
		pr_err("%s() does not begin with a call of ftrace\n",
		       func->old_name);
		return -EINVAL;
	}

	func = tun_live_funcs;
	static_call_update(tun_live_old_ioctl,
			   tun_live_original(&func[TUN_LIVE_IOCTL]));
	static_call_update(tun_live_old_close,
			   tun_live_original(&func[TUN_LIVE_CLOSE]));
#ifdef CONFIG_COMPAT
	static_call_update(tun_live_old_compat_ioctl,
			   tun_live_original(&func[TUN_LIVE_COMPAT_IOCTL]));
#endif
	return 0;
}

/* Serve no more if removing the patch was begun and taken back: files that an original
 * close has freed may have left programs behind.
 */
static void tun_live_post_patch(struct klp_object *obj)
{
	if (tun_live_over)
		pr_warn("stays without effect: remove it and load it again\n");
	else
		WRITE_ONCE(tun_live_serves, true);
}

static void tun_live_pre_unpatch(struct klp_object *obj)
{
	WRITE_ONCE(tun_live_serves, false);
	tun_live_over = true;
}

static struct klp_object tun_live_objs[] = {
	{
		.name = DRV_NAME,
		.funcs = tun_live_funcs,
		.callbacks = {
			.pre_patch = tun_live_pre_patch,
			.post_patch = tun_live_post_patch,
			.pre_unpatch = tun_live_pre_unpatch,
		},
	},
	{ }
};

static struct klp_patch tun_live_patch = {
	.mod = THIS_MODULE,
	.objs = tun_live_objs,
};

static int __init tun_live_init(void)
{
	int err;

	/* Pin tun, which has the code that files and devices lead to */
	if (!symbol_get(tun_get_socket)) {
		pr_err("tun is not loaded: load it first\n");
		return -ENODEV;
	}
	err = register_netdevice_notifier(&tun_live_notifier);
	if (err)
		goto put;
	err = klp_enable_patch(&tun_live_patch);
	if (!err)
		return 0;
	unregister_netdevice_notifier(&tun_live_notifier);
put:
	symbol_put(tun_get_socket);
	return err;
}

/* The live patch is disabled, and no task runs its functions */
static void __exit tun_live_exit(void)
{
	unregister_netdevice_notifier(&tun_live_notifier);
	tun_live_free_all_held();
	/* Copies of the driver's callbacks */
	rcu_barrier();
	symbol_put(tun_get_socket);
}

module_init(tun_live_init);
module_exit(tun_live_exit);
MODULE_DESCRIPTION("Live patch: TUNGETSTATE and TUNSETSTATE for the loaded tun");
MODULE_LICENSE("GPL");
MODULE_INFO(livepatch, "Y");
module_param_named(over, tun_live_over, bool, 0444);
MODULE_PARM_DESC(over, "Read-only: it serves no more, as removing it was begun");
/* A version has modpost add a hash of the source, which tells builds apart */
MODULE_VERSION("1");
