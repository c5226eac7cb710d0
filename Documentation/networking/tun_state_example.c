// SPDX-License-Identifier: GPL-2.0
/*
 * Rebuild a TAP from its saved state, with new queues, in the five steps of
 * rebuild(). The old device is in another network namespace, and its owner has no
 * number in the new user namespace, as if a container had moved. The exit status
 * is 0 for success, 1 for an error, and 4 without TUNGETSTATE or namespaces.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>
#include <linux/bpf.h>
#include <linux/capability.h>
#include <linux/filter.h>
#include <linux/if.h>
#include <linux/if_arp.h>
#include <linux/if_tun.h>
#include <linux/if_tun_state.h>
#include <linux/rtnetlink.h>

#define ARRAY_SIZE(a) (sizeof(a) / sizeof((a)[0]))
#define QUEUES 4
#define SKIP 4
#define MUST(call) ((call) < 0 ? (perror(#call), exit(1)) : (void)0)

/* Groups that TUNSETSTATE restores; sndbuf and queue are those of one queue */
#define RESTORED (TUN_STATE_IFF | TUN_STATE_OWNER | TUN_STATE_VNET | \
		  TUN_STATE_OFFLOAD | TUN_STATE_LINK | TUN_STATE_TXFILTER | \
		  TUN_STATE_SOCKFILTER | TUN_STATE_STEERING | \
		  TUN_STATE_FILTER | TUN_STATE_SNDBUF | TUN_STATE_QUEUE)
#define SAVED (RESTORED | TUN_STATE_IDENTITY | TUN_STATE_NETDEV)

struct queue {
	int fd;
	struct tun_state s;
	struct sock_filter insns[BPF_MAXINSNS];
};

struct device {
	int txqueuelen;		/* which struct tun_state does not have */
	int steering, filter;	/* descriptors of the eBPF programs, or -1 */
	struct queue queue[QUEUES];
};

static __u64 left_out;		/* groups that could not be set */

/* Groups of struct tun_state, in the order of their bits */
static const struct {
	__u64 bit;
	const char *name;
	size_t offset, size;
} groups[] = {
#define MEMBER(bit, name, member) \
	{ bit, name, (size_t)&(member), sizeof(member) }
#define GROUP(nr, NAME, member) \
	MEMBER(_BITULL(nr), #NAME, (*(struct tun_state *)0).member),
	__TUN_STATE_GROUPS(GROUP)
};

static void print_groups(const char *what, __u64 mask, const char *why)
{
	unsigned int i;

	for (i = 0; i < ARRAY_SIZE(groups); i++)
		if (mask & groups[i].bit)
			printf("%s %s: %s\n", what, groups[i].name, why);
}

static void save(struct queue *q)
{
	memset(&q->s, 0, sizeof(q->s));
	MUST(ioctl(q->fd, TUNGETSTATE, &q->s));
	q->s.mask = SAVED & q->s.supported;
	q->s.sockfilter.entries = (uintptr_t)q->insns;
	q->s.sockfilter.count = BPF_MAXINSNS;
	q->s.sockfilter.entry_size = sizeof(q->insns[0]);
	MUST(ioctl(q->fd, TUNGETSTATE, &q->s));
}

/* Attached queues in the order of their index, and then the detached ones */
static int place(const struct queue *q)
{
	int detached = !(q->s.queue.flags & TUN_STATE_QUEUE_ATTACHED);

	return q->s.queue.index + detached * QUEUES;
}

static int by_place(const void *a, const void *b)
{
	return place(a) - place(b);
}

static void save_all(struct device *dev)
{
	int i;

	for (i = 0; i < QUEUES; i++)
		save(&dev->queue[i]);
	qsort(dev->queue, QUEUES, sizeof(dev->queue[0]), by_place);
}

/* NAPI is that of each queue; the device has the NAPI of its first queue */
static int open_queue(const struct tun_state *s)
{
	struct ifreq ifr = {};
	int fd;

	memcpy(ifr.ifr_name, s->netdev.name, IFNAMSIZ);
	ifr.ifr_flags = s->iff.flags & ~(IFF_NAPI | IFF_NAPI_FRAGS);
	if (s->queue.flags & TUN_STATE_QUEUE_NAPI)
		ifr.ifr_flags |= IFF_NAPI;
	if (s->queue.flags & TUN_STATE_QUEUE_NAPI_FRAGS)
		ifr.ifr_flags |= IFF_NAPI_FRAGS;
	MUST(fd = open("/dev/net/tun", O_RDWR | O_CLOEXEC));
	MUST(ioctl(fd, TUNSETIFF, &ifr));
	return fd;
}

static void leave_out(struct tun_state *s, __u64 group, const char *why)
{
	print_groups("left out", group & ~left_out, why);
	left_out |= group;
	s->mask &= ~group;
}

static void choose_prog(struct tun_state *s, __u64 group,
			struct tun_state_prog *prog, int fd)
{
	if (!prog->id)
		return;
	prog->action = TUN_STATE_PROG_FD;
	prog->fd = fd;
	if (fd < 0)
		leave_out(s, group, "no descriptor of the program");
}

static void restore(int fd, struct tun_state s, const struct device *old)
{
	s.mask &= RESTORED;
	if (s.owner.flags)
		leave_out(&s, TUN_STATE_OWNER, "not in this user namespace");
	choose_prog(&s, TUN_STATE_STEERING, &s.steering, old->steering);
	choose_prog(&s, TUN_STATE_FILTER, &s.filter, old->filter);

	while (ioctl(fd, TUNSETSTATE, &s)) {
		if (errno != EPERM || !s.failed) {
			print_groups("bad", s.failed, strerror(errno));
			exit(1);
		}
		leave_out(&s, s.failed, strerror(errno));
	}
}

static void add_attr(struct nlmsghdr *nh, int type, const void *data, int len)
{
	struct rtattr *rta = (void *)nh + nh->nlmsg_len;

	rta->rta_type = type;
	rta->rta_len = RTA_LENGTH(len);
	memcpy(RTA_DATA(rta), data, len);
	nh->nlmsg_len += RTA_SPACE(len);
}

static void set_netdev(int ifindex, const struct device *old)
{
	const struct tun_state_netdev *dev = &old->queue[0].s.netdev;
	struct {
		struct nlmsghdr nh;
		struct ifinfomsg ifi;
		char attrs[64];
	} req = {
		.nh.nlmsg_len = NLMSG_LENGTH(sizeof(req.ifi)),
		.nh.nlmsg_type = RTM_SETLINK,
		.nh.nlmsg_flags = NLM_F_REQUEST | NLM_F_ACK,
		.ifi.ifi_index = ifindex,
		.ifi.ifi_change = IFF_UP,
		.ifi.ifi_flags = dev->up ? IFF_UP : 0,
	};
	struct {
		struct nlmsghdr nh;
		struct nlmsgerr err;
		char room[256];
	} ack;
	int sock;

	add_attr(&req.nh, IFLA_MTU, &dev->mtu, sizeof(dev->mtu));
	add_attr(&req.nh, IFLA_TXQLEN, &old->txqueuelen,
		 sizeof(old->txqueuelen));
	if (dev->addr_len)
		add_attr(&req.nh, IFLA_ADDRESS, dev->addr, dev->addr_len);
	MUST(sock = socket(AF_NETLINK, SOCK_RAW, NETLINK_ROUTE));
	MUST(send(sock, &req, req.nh.nlmsg_len, 0));
	MUST(recv(sock, &ack, sizeof(ack), 0));
	close(sock);
	errno = -ack.err.error;
	MUST(ack.err.error);
}

/* Groups that differ, but for the fields that may */
static __u64 compare(const struct queue *a, const struct queue *b)
{
	struct tun_state x = a->s, y = b->s;
	__u64 mask = 0;
	unsigned int i;

	y.identity.netns = x.identity.netns;
	y.identity.ifindex = x.identity.ifindex;
	y.queue.ring_len = x.queue.ring_len;
	y.sockfilter.entries = x.sockfilter.entries;
	for (i = 0; i < ARRAY_SIZE(groups); i++)
		if (memcmp((char *)&x + groups[i].offset,
			   (char *)&y + groups[i].offset, groups[i].size))
			mask |= groups[i].bit;
	if (memcmp(a->insns, b->insns,
		   x.sockfilter.count * sizeof(a->insns[0])))
		mask |= TUN_STATE_SOCKFILTER;
	return mask;
}

/* Return the groups that differ in the end */
static __u64 rebuild(struct device *new, const struct device *old)
{
	struct queue *first = &new->queue[0];
	__u64 mask = 0;
	int i;

	/* 1. Make the device, and open its queues in order */
	for (i = 0; i < QUEUES; i++)
		new->queue[i].fd = open_queue(&old->queue[i].s);

	/* 2. Set the link type, while the device is down */
	save(first);
	if (first->s.identity.type != old->queue[0].s.identity.type)
		MUST(ioctl(first->fd, TUNSETLINK,
			   old->queue[0].s.identity.type));

	/* 3. Restore each queue, the detached ones last */
	for (i = 0; i < QUEUES; i++)
		restore(new->queue[i].fd, old->queue[i].s, old);

	/* 4. Set MTU, txqueuelen and address, and bring the device up */
	set_netdev(first->s.identity.ifindex, old);

	/* 5. Read and compare */
	save_all(new);
	for (i = 0; i < QUEUES; i++)
		mask |= compare(&old->queue[i], &new->queue[i]);
	return mask;
}

/* Test: the old device, with values other than those of a new one */

static int load_prog(void)
{
	struct bpf_insn insns[] = {
		{ .code = BPF_ALU64 | BPF_MOV | BPF_K, .imm = 0xffff },
		{ .code = BPF_JMP | BPF_EXIT },
	};
	union bpf_attr attr = {
		.prog_type = BPF_PROG_TYPE_SOCKET_FILTER,
		.insns = (uintptr_t)insns,
		.insn_cnt = 2,
		.license = (uintptr_t)"GPL",
	};

	return syscall(SYS_bpf, BPF_PROG_LOAD, &attr, sizeof(attr));
}

static void open_old(struct device *dev)
{
	struct tun_state shape = {
		.netdev.name = "example",
		.iff.flags = IFF_TAP | IFF_NO_PI | IFF_VNET_HDR |
			     IFF_MULTI_QUEUE,
		.queue.flags = TUN_STATE_QUEUE_NAPI,
	};
	int i;

	for (i = 0; i < QUEUES; i++)
		dev->queue[i].fd = open_queue(&shape);
}

static void change_old(struct device *dev)
{
	struct sock_filter pass = { .code = BPF_RET | BPF_K, .k = 0xffff };
	struct sock_fprog fprog = { .len = 1, .filter = &pass };
	struct ifreq attach = { .ifr_flags = IFF_ATTACH_QUEUE };
	struct ifreq detach = { .ifr_flags = IFF_DETACH_QUEUE };
	int fd = dev->queue[0].fd, size = 12, sndbuf = 99999;

	/* Attached are 2 and 0 then, in this order, and detached 3 and 1 */
	MUST(ioctl(dev->queue[3].fd, TUNSETQUEUE, &detach));
	MUST(ioctl(dev->queue[1].fd, TUNSETQUEUE, &detach));
	MUST(ioctl(dev->queue[0].fd, TUNSETQUEUE, &detach));
	MUST(ioctl(dev->queue[0].fd, TUNSETQUEUE, &attach));

	MUST(ioctl(fd, TUNSETOWNER, 1000));
	MUST(ioctl(fd, TUNSETPERSIST, 1));
	MUST(ioctl(fd, TUNSETVNETHDRSZ, &size));
	MUST(ioctl(fd, TUNSETOFFLOAD, TUN_F_CSUM | TUN_F_TSO4));
	MUST(ioctl(fd, TUNSETSNDBUF, &sndbuf));
	MUST(ioctl(fd, TUNATTACHFILTER, &fprog));
	MUST(dev->steering = load_prog());
	MUST(ioctl(fd, TUNSETSTEERINGEBPF, &dev->steering));
	MUST(dev->filter = load_prog());
	MUST(ioctl(fd, TUNSETFILTEREBPF, &dev->filter));
	close(dev->filter);
	dev->filter = -1;

	MUST(ioctl(fd, TUNSETLINK, ARPHRD_IEEE802));
	dev->txqueuelen = 77;
	save(&dev->queue[0]);
	dev->queue[0].s.netdev.mtu = 1400;
	dev->queue[0].s.netdev.up = 1;
	set_netdev(dev->queue[0].s.identity.ifindex, dev);
	save(&dev->queue[0]);
}

/* An owner cannot be removed without CAP_NET_ADMIN, but all else is restored */
static int test_rights(struct device *new, const struct device *old)
{
	struct __user_cap_header_struct hdr = {
		.version = _LINUX_CAPABILITY_VERSION_3,
	};
	struct __user_cap_data_struct none[2] = {};
	struct tun_state s = old->queue[0].s;
	int fd;

	MUST(fd = open("/proc/self/uid_map", O_WRONLY));
	MUST(write(fd, "0 0 1", 5));
	MUST(ioctl(new->queue[0].fd, TUNSETOWNER, 0));
	MUST(syscall(SYS_capset, &hdr, none));
	s.owner = (struct tun_state_owner) { .uid = -1, .gid = -1 };
	s.vnet.hdr_size = 20;

	left_out = 0;
	restore(new->queue[0].fd, s, old);
	save(&new->queue[0]);
	return new->queue[0].s.vnet.hdr_size == 20 &&
	       !new->queue[0].s.owner.uid;
}

int main(void)
{
	const __u64 expected = TUN_STATE_OWNER | TUN_STATE_FILTER;
	static struct device old, new;
	struct tun_state s = {};
	__u64 mask;

	if (unshare(CLONE_NEWNET) || access("/dev/net/tun", R_OK | W_OK)) {
		perror("a network namespace with /dev/net/tun");
		return SKIP;
	}
	open_old(&old);
	if (ioctl(old.queue[0].fd, TUNGETSTATE, &s)) {
		perror("TUNGETSTATE");
		return SKIP;
	}
	change_old(&old);
	s = old.queue[0].s;
	if (s.netdev.mtu != 1400 || !s.netdev.up || s.queue.ring_size != 77 ||
	    !(s.queue.flags & TUN_STATE_QUEUE_NAPI))
		return 1;
	if (unshare(CLONE_NEWUSER | CLONE_NEWNET)) {
		perror("a user namespace");
		return SKIP;
	}

	save_all(&old);
	mask = rebuild(&new, &old);
	print_groups("differs:", mask, "after the restore");
	if (mask != expected || left_out != expected)
		return 1;
	return !test_rights(&new, &old) || left_out != expected;
}
