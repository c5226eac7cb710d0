// SPDX-License-Identifier: GPL-2.0
/*
 * Save the state of a TAP device, change the device, compare it with the saved
 * state, and restore it. The exit status is 0 for success, 1 for an error, and
 * 4 without a device or on a kernel without TUNGETSTATE.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>
#include <linux/filter.h>
#include <linux/if.h>
#include <linux/if_ether.h>
#include <linux/if_tun.h>
#include <linux/if_tun_state.h>

#define ARRAY_SIZE(a) (sizeof(a) / sizeof((a)[0]))
#define SKIP 4

/* All groups but the flows, which come and go with the packets */
#define WANTED (TUN_STATE_IDENTITY | TUN_STATE_FLAGS | TUN_STATE_OWNER | \
		TUN_STATE_VNET | TUN_STATE_OFFLOAD | TUN_STATE_SNDBUF | \
		TUN_STATE_LINK | TUN_STATE_TXFILTER | TUN_STATE_SOCKFILTER | \
		TUN_STATE_STEERING | TUN_STATE_FILTER | TUN_STATE_XDP | \
		TUN_STATE_QUEUE | TUN_STATE_QUEUES)

static void print_groups(const char *what, __u64 mask)
{
	static const char * const names[] = {
		"identity", "flags", "owner", "vnet", "offload", "sndbuf",
		"link", "txfilter", "sockfilter", "steering", "filter", "xdp",
		"flows", "queue", "queues",
	};
	unsigned int i;

	printf("%s:%s", what, mask ? "" : " nothing");
	for (i = 0; i < ARRAY_SIZE(names); i++) {
		if (mask & 1ULL << i)
			printf(" %s", names[i]);
	}
	printf("\n");
}

static void print_error(const char *call, const struct tun_state *s)
{
	perror(call);
	if (s->failed)
		print_groups("because of", s->failed);
}

/* Make room for the number of entries that the kernel asks for */
static int grow(__u64 *buffer, __u32 count, size_t entry_size)
{
	void *p = realloc((void *)(uintptr_t)*buffer, count * entry_size);

	if (!p)
		return -1;
	*buffer = (uintptr_t)p;
	return 0;
}

static void forget(struct tun_state *s)
{
	free((void *)(uintptr_t)s->sockfilter.insns);
	free((void *)(uintptr_t)s->queues.queues);
	memset(s, 0, sizeof(*s));
}

/*
 * Return 0, or -1 on an error. A kernel without TUNGETSTATE is no error: the mask
 * is 0 then, and there is nothing to restore.
 */
static int save(int fd, struct tun_state *s)
{
	int err;

	memset(s, 0, sizeof(*s));
	if (ioctl(fd, TUNGETSTATE, s)) {
		if (errno == EINVAL)
			return 0;
		print_error("TUNGETSTATE", s);
		return -1;
	}

	/* The kernel refuses groups that it does not know */
	s->mask = WANTED & s->supported;
	s->queues.entry_size = sizeof(struct tun_state_queue);
	while (ioctl(fd, TUNGETSTATE, s)) {
		err = -1;
		if (errno == ENOSPC && s->failed == TUN_STATE_SOCKFILTER)
			err = grow(&s->sockfilter.insns, s->sockfilter.count,
				   sizeof(struct sock_filter));
		else if (errno == ENOSPC && s->failed == TUN_STATE_QUEUES)
			err = grow(&s->queues.queues, s->queues.count,
				   sizeof(struct tun_state_queue));
		if (err) {
			print_error("TUNGETSTATE", s);
			forget(s);
			return -1;
		}
	}
	return 0;
}

/* Find the groups in which the device differs from the saved state */
static int compare(int fd, const struct tun_state *saved, __u64 *differ)
{
	struct tun_state s = *saved;

	s.flags = TUN_STATE_F_CHECK;
	if (ioctl(fd, TUNSETSTATE, &s)) {
		print_error("TUNSETSTATE with CHECK", &s);
		return -1;
	}
	*differ = s.mask;
	return 0;
}

static int restore(int fd, const struct tun_state *saved)
{
	struct tun_state s = *saved;

	if (ioctl(fd, TUNSETSTATE, &s)) {
		print_error("TUNSETSTATE", &s);
		return -1;
	}
	return 0;
}

/* Change the device, as another program might */
static int change(int fd)
{
	struct {
		struct tun_filter head;
		__u8 addr[ETH_ALEN];
	} broadcasts = { { 0, 1 }, { 255, 255, 255, 255, 255, 255 } };
	int size = 12;

	if (ioctl(fd, TUNSETTXFILTER, &broadcasts) < 0 ||
	    ioctl(fd, TUNSETVNETHDRSZ, &size) ||
	    ioctl(fd, TUNSETOFFLOAD, TUN_F_CSUM | TUN_F_TSO4)) {
		perror("changing the device");
		return -1;
	}
	return 0;
}

static int open_tap(void)
{
	struct ifreq ifr = { .ifr_flags = IFF_TAP | IFF_NO_PI | IFF_VNET_HDR };
	int fd = open("/dev/net/tun", O_RDWR);

	if (fd < 0) {
		perror("/dev/net/tun");
		return -1;
	}
	if (ioctl(fd, TUNSETIFF, &ifr)) {
		perror("TUNSETIFF");
		close(fd);
		return -1;
	}
	return fd;
}

int main(void)
{
	const __u64 changed = TUN_STATE_VNET | TUN_STATE_OFFLOAD |
			      TUN_STATE_TXFILTER;
	struct tun_state saved;
	__u64 differ;
	int fd, ret = 1;

	fd = open_tap();
	if (fd < 0)
		return SKIP;
	if (save(fd, &saved))
		goto close;
	if (!saved.mask) {
		printf("this kernel has no TUNGETSTATE\n");
		ret = SKIP;
		goto close;
	}
	print_groups("saved", saved.mask);

	if (change(fd) || compare(fd, &saved, &differ))
		goto forget;
	print_groups("changed", differ);
	if (differ != changed)
		goto forget;

	if (restore(fd, &saved) || compare(fd, &saved, &differ))
		goto forget;
	print_groups("still changed", differ);
	ret = differ != 0;

forget:
	forget(&saved);
close:
	close(fd);
	return ret;
}
