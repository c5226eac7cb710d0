/* SPDX-License-Identifier: GPL-2.0 */
/*
 * State that TUNGETSTATE and TUNSETSTATE keep in an open file: the eBPF programs
 * that it holds. A driver includes this file ahead of its struct tun_file, and
 * tun_state_ioctl.h ahead of its ioctl function.
 */
#ifndef TUN_STATE_H
#define TUN_STATE_H

#include <linux/bpf.h>
#include <linux/rtnetlink.h>
#include <linux/seq_file.h>

#define TUN_STATE_PROGS	2	/* steering and filter */

/**
 * struct tun_state_held - eBPF programs that a file holds, under RTNL
 * @progs: a reference to each, or NULL
 * @left: number of times that the file has left a device
 */
struct tun_state_held {
	struct bpf_prog *progs[TUN_STATE_PROGS];
	unsigned int left;
};

static inline void tun_state_put_progs(struct bpf_prog **progs)
{
	int i;

	for (i = 0; i < TUN_STATE_PROGS; i++) {
		if (progs[i])
			bpf_prog_put(progs[i]);
		progs[i] = NULL;
	}
}

/* Drop the held programs when the file leaves its device, so that no other device
 * gets them.
 */
static inline void tun_state_leave(struct tun_state_held *held)
{
	ASSERT_RTNL();
	tun_state_put_progs(held->progs);
	held->left++;
}

static inline void tun_state_show_fdinfo(struct seq_file *m,
					 const struct tun_state_held *held)
{
	static const char * const names[] = { "steering", "filter" };
	int i;

	rtnl_lock();
	for (i = 0; i < TUN_STATE_PROGS; i++)
		if (held->progs[i])
			seq_printf(m, "%s-held:\t%u\n", names[i],
				   held->progs[i]->aux->id);
	rtnl_unlock();
}

#endif /* TUN_STATE_H */
