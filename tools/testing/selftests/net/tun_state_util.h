/* SPDX-License-Identifier: GPL-2.0 */
/*
 * Helpers for the tests of TUNGETSTATE and TUNSETSTATE: devices in a new
 * network namespace, and the older interfaces to the state of a device.
 */
#ifndef TUN_STATE_UTIL_H
#define TUN_STATE_UTIL_H

#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>
#include <arpa/inet.h>
#include <linux/bpf.h>
#include <linux/capability.h>
#include <linux/ethtool.h>
#include <linux/filter.h>
#include <linux/if.h>
#include <linux/if_arp.h>
#include <linux/if_ether.h>
#include <linux/if_link.h>
#include <linux/if_packet.h>
#include <linux/if_tun.h>
#include <linux/if_tun_state.h>
#include <linux/netlink.h>
#include <linux/rtnetlink.h>
#include <linux/sockios.h>

/*
 * A debug kernel, emulated on a busy machine, may need minutes where others
 * need a second.
 */
#ifdef TEST_TIMEOUT_DEFAULT
#undef TEST_TIMEOUT_DEFAULT
#define TEST_TIMEOUT_DEFAULT 600
#endif

#define MAX_QUEUES 16
#define MAX_INSNS 64
#define MAX_FLOWS 64

#define TUNGETSTATE_SIZE(size) \
	_IOC(_IOC_READ | _IOC_WRITE, 'T', _IOC_NR(TUNGETSTATE), size)
#define TUNSETSTATE_SIZE(size) \
	_IOC(_IOC_READ | _IOC_WRITE, 'T', _IOC_NR(TUNSETSTATE), size)

#define ALL_GROUPS (TUN_STATE_QUEUES * 2 - 1)
/* Groups that TUNSETSTATE ignores, and groups that it restores */
#define GET_ONLY (TUN_STATE_NETDEV | TUN_STATE_COALESCE | TUN_STATE_XDP | \
		  TUN_STATE_FLOWS | TUN_STATE_QUEUES)
#define SETTABLE (ALL_GROUPS & ~(GET_ONLY | TUN_STATE_IDENTITY))

/* Groups of struct tun_state, in the order of their bits */
static const struct {
	uint64_t bit;
	const char *name;
	size_t offset;
	size_t size;
} state_groups[] = {
#define STATE_GROUP(bit, name, field) \
	{ bit, name, (size_t)&(field), sizeof(field) }
#define STATE_GROUP_ENTRY(number, name, member) \
	STATE_GROUP(_BITULL(number), #name, (*(struct tun_state *)0).member),
	__TUN_STATE_GROUPS(STATE_GROUP_ENTRY)
};

#define NR_GROUPS (sizeof(state_groups) / sizeof(*state_groups))

/* struct tun_state with its user buffers */
struct state {
	struct tun_state s;
	struct sock_filter insns[MAX_INSNS];
	struct tun_state_flow flows[MAX_FLOWS];
	struct tun_state_queue queues[MAX_QUEUES];
};

static inline void state_point(struct state *st)
{
	st->s.sockfilter.entries = (uintptr_t)st->insns;
	st->s.sockfilter.entry_size = sizeof(st->insns[0]);
	st->s.flows.entries = (uintptr_t)st->flows;
	st->s.flows.entry_size = sizeof(st->flows[0]);
	st->s.queues.entries = (uintptr_t)st->queues;
	st->s.queues.entry_size = sizeof(st->queues[0]);
}

/* Return 0 or an errno, as do the next functions */
static inline int state_get_flags(int fd, uint64_t mask, struct state *st,
				  uint32_t flags)
{
	memset(st, 0, sizeof(*st));
	st->s.mask = mask;
	st->s.flags = flags;
	state_point(st);
	st->s.sockfilter.count = MAX_INSNS;
	st->s.flows.count = MAX_FLOWS;
	st->s.queues.count = MAX_QUEUES;
	return ioctl(fd, TUNGETSTATE, &st->s) ? errno : 0;
}

static inline int state_get(int fd, uint64_t mask, struct state *st)
{
	return state_get_flags(fd, mask, st, 0);
}

/* Read the groups, and have the file hold the eBPF programs among them */
static inline int state_hold(int fd, uint64_t mask, struct state *st)
{
	return state_get_flags(fd, mask, st, TUN_STATE_F_HOLD);
}

/* The kernel writes its answer to the header of the argument */
static inline int state_set(int fd, uint64_t mask, struct state *st)
{
	st->s.mask = mask;
	st->s.flags = 0;
	return ioctl(fd, TUNSETSTATE, &st->s) ? errno : 0;
}

/* Expect TUNSETSTATE to fail, because of these groups only */
#define STATE_SET_FAILS(err, fd, groups, st)				\
	do {								\
		uint64_t _groups = (groups);				\
		struct state *_st = (st);				\
									\
		ASSERT_EQ(err, state_set(fd, _groups, _st));		\
		EXPECT_EQ(_groups, _st->s.failed);			\
	} while (0)

/* Clear the fields that change by themselves */
static inline void state_steady(struct state *st)
{
	int i;

	st->s.queue.ring_len = 0;
	for (i = 0; i < MAX_QUEUES; i++)
		st->queues[i].ring_len = 0;
	for (i = 0; i < MAX_FLOWS; i++)
		st->flows[i].age_ms = 0;
}

/* Read all groups, without the fields that change by themselves */
static inline int state_snapshot(int fd, struct state *st)
{
	int err = state_get(fd, ALL_GROUPS, st);

	state_steady(st);
	return err;
}

/* Groups of two states that differ, but for the addresses of user buffers and
 * the fields that change by themselves
 */
static inline uint64_t state_differs(const struct state *a,
				     const struct state *b)
{
	struct state x = *a, y = *b;
	uint64_t groups = 0;
	unsigned int i;

	state_steady(&x);
	state_steady(&y);
	state_point(&x);
	state_point(&y);
	y.s.sockfilter.entries = x.s.sockfilter.entries;
	y.s.flows.entries = x.s.flows.entries;
	y.s.queues.entries = x.s.queues.entries;
	for (i = 0; i < NR_GROUPS; i++)
		if (memcmp((char *)&x.s + state_groups[i].offset,
			   (char *)&y.s + state_groups[i].offset,
			   state_groups[i].size))
			groups |= state_groups[i].bit;
	if (memcmp(x.insns, y.insns, sizeof(x.insns)))
		groups |= TUN_STATE_SOCKFILTER;
	if (memcmp(x.flows, y.flows, sizeof(x.flows)))
		groups |= TUN_STATE_FLOWS;
	if (memcmp(x.queues, y.queues, sizeof(x.queues)))
		groups |= TUN_STATE_QUEUES;
	return groups;
}

/* Compare two states, and print the groups that differ */
static inline bool state_equal(const struct state *a, const struct state *b)
{
	uint64_t groups = state_differs(a, b);
	unsigned int i;

	for (i = 0; i < NR_GROUPS; i++)
		if (groups & state_groups[i].bit)
			fprintf(stderr, "# states differ in %s\n",
				state_groups[i].name);
	return !groups;
}

/* Groups of @mask in which a device differs from a state; ~0 if it cannot be
 * read
 */
static inline uint64_t state_compare(int fd, uint64_t mask,
				     const struct state *st)
{
	struct state now;

	return state_get(fd, ALL_GROUPS, &now) ? ~0ULL :
	       state_differs(st, &now) & mask;
}

/* Forget the flows, which expire after 3 s */
static inline void state_drop_flows(struct state *st)
{
	st->s.flows.count = 0;
	memset(st->flows, 0, sizeof(st->flows));
}

static inline uint64_t now_ms(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (uint64_t)ts.tv_sec * 1000 + ts.tv_nsec / 1000000;
}

/* True if a device still has the state of a snapshot */
static inline bool state_unchanged(int fd, const struct state *before)
{
	struct state now;

	return !state_snapshot(fd, &now) && state_equal(before, &now);
}

/* Template: gives the place and the size of a field */
static const struct tun_state tmpl;

/* A change to one field of struct tun_state */
struct state_change {
	const char *what;
	uint64_t group;
	const void *field;	/* in the template */
	size_t size;
	uint64_t value;
	bool xor;		/* invert these bits instead of storing them */
};

#define STATE_FIELD(_group, member)					\
	.what = #member, .group = TUN_STATE_##_group,			\
	.field = &(member), .size = sizeof(member)

static inline void state_change(struct state *st, const struct state_change *c)
{
	size_t offset = (const char *)c->field - (const char *)&tmpl;
	union {
		uint8_t u8;
		uint16_t u16;
		uint32_t u32;
		uint64_t u64;
	} *field = (void *)&st->s + offset;
	uint64_t keep = c->xor ? ~0ULL : 0;

	if (!c->field)
		return;
	switch (c->size) {
	case 1:
		field->u8 = (field->u8 & keep) ^ c->value;
		break;
	case 2:
		field->u16 = (field->u16 & keep) ^ c->value;
		break;
	case 4:
		field->u32 = (field->u32 & keep) ^ c->value;
		break;
	case 8:
		field->u64 = (field->u64 & keep) ^ c->value;
		break;
	}
}

/* Turn the state of a device into one of two, @k being 0 or 1, that differ in
 * these groups. Programs, owner, flows and queue are left to the caller.
 */
static inline void state_alternate(struct state *st, unsigned int k)
{
	struct tun_state *s = &st->s;
	unsigned int i;

	s->iff.flags &= ~IFF_PERSIST;
	s->iff.flags |= k ? 0 : IFF_PERSIST;
	s->vnet.hdr_size = k ? 12 : 20;
	s->vnet.flags = k ? 0 : TUN_STATE_VNET_LE;
	s->offload.enabled = TUN_F_CSUM | (k ? TUN_F_TSO4 : TUN_F_TSO6);
	s->offload.wanted = TUN_F_CSUM | (k ? 0 : TUN_F_TSO6);
	s->sndbuf.size = 200000 + k;
	s->link.carrier = k;
	s->link.msg_enable = 0x1000 << k;
	if (!(s->iff.flags & IFF_TAP))
		return;
	memset(&s->txfilter, 0, sizeof(s->txfilter));
	s->txfilter.count = 2 + k;
	s->txfilter.hash = 1ULL << (32 + k);
	memset(s->txfilter.addr, 0x50 + k, s->txfilter.count * 6);
	s->sockfilter.count = 2 + k;
	for (i = 0; i < s->sockfilter.count; i++)
		st->insns[i] = (struct sock_filter){
			BPF_RET | BPF_K, 0, 0, 0xffff - k
		};
}

static inline void write_file(const char *path, const char *text)
{
	int fd = open(path, O_WRONLY);

	if (fd < 0)
		return;
	if (write(fd, text, strlen(text)) < 0)
		perror(path);
	close(fd);
}

static inline int tun_open(void)
{
	return open("/dev/net/tun", O_RDWR | O_NONBLOCK);
}

/* Open a queue; make the device if there is none, and fill in its name */
static inline int tun_queue(char *name, unsigned int flags)
{
	struct ifreq ifr = { .ifr_flags = flags };
	int fd = tun_open();

	if (fd < 0)
		return -1;
	memcpy(ifr.ifr_name, name, IFNAMSIZ);
	if (ioctl(fd, TUNSETIFF, &ifr)) {
		close(fd);
		return -1;
	}
	memcpy(name, ifr.ifr_name, IFNAMSIZ);
	return fd;
}

/* The classic filter of the device. The number of these ioctls depends on the
 * size of the kernel's pointers, so a 32-bit program must pass 64-bit ones.
 */
struct tun_fprog {
	__u16 len;
	__u16 padding[3];
	__aligned_u64 insns;
};

#define TUN_ATTACH_FILTER _IOW('T', 213, struct tun_fprog)
#define TUN_DETACH_FILTER _IOW('T', 214, struct tun_fprog)
#define TUN_GET_FILTER _IOR('T', 219, struct tun_fprog)

static inline int tun_attach_filter(int fd, const struct sock_filter *insns,
				    unsigned int n)
{
	struct tun_fprog fprog = { .len = n, .insns = (uintptr_t)insns };

	return ioctl(fd, TUN_ATTACH_FILTER, &fprog);
}

static inline int tun_detach_filter(int fd)
{
	struct tun_fprog fprog = {};

	return ioctl(fd, TUN_DETACH_FILTER, &fprog);
}

static inline int tun_set_queue(int fd, unsigned int flags)
{
	struct ifreq ifr = { .ifr_flags = flags };

	return ioctl(fd, TUNSETQUEUE, &ifr);
}

/* Enter a new network namespace. Return NULL, or why tun cannot be tested. */
static inline const char *tun_enter(void)
{
	int fd;

	if (unshare(CLONE_NEWNET))
		return "cannot unshare(CLONE_NEWNET), are you root?";
	/* Keep router solicitations out of the test's packets */
	write_file("/proc/sys/net/ipv6/conf/default/disable_ipv6", "1");

	fd = tun_open();
	if (fd < 0)
		return "cannot open /dev/net/tun";
	close(fd);
	return NULL;
}

/* Enter a new network namespace; also check for TUNGETSTATE */
static inline const char *tun_state_enter(void)
{
	char name[IFNAMSIZ] = "probe";
	struct tun_state s = {};
	const char *why;
	int fd;

	why = tun_enter();
	if (why)
		return why;
	fd = tun_queue(name, IFF_TAP | IFF_NO_PI);
	if (fd < 0)
		return "cannot make a TAP device";
	if (ioctl(fd, TUNGETSTATE, &s))
		why = "this kernel has no TUNGETSTATE";
	close(fd);
	return why;
}

/*
 * The ioctls may be a live patch of a driver that does less. Return the reason why a
 * test that needs more cannot run, or NULL.
 */
static inline const char *no_sockfilter(void)
{
	char name[IFNAMSIZ] = "probe";
	const char *why = NULL;
	struct state st = {};
	int fd;

	fd = tun_queue(name, IFF_TAP | IFF_NO_PI);
	if (fd < 0)
		return "cannot make a TAP device";
	state_point(&st);
	st.s.sockfilter.count = 1;
	st.insns[0] = (struct sock_filter){ BPF_RET | BPF_K, 0, 0, 0xffff };
	if (state_set(fd, TUN_STATE_SOCKFILTER, &st))
		why = "this driver does not restore the classic filter";
	close(fd);
	return why;
}

/* Interface flags, queue length, name: by ioctls of sockets */
static inline int netdev_ioctl(const char *name, int request,
			       struct ifreq *ifr)
{
	int fd = socket(AF_INET, SOCK_DGRAM, 0);
	int ret;

	memcpy(ifr->ifr_name, name, IFNAMSIZ);
	ret = ioctl(fd, request, ifr);
	close(fd);
	return ret;
}

static inline int netdev_up(const char *name)
{
	struct ifreq ifr = { .ifr_flags = IFF_UP };

	return netdev_ioctl(name, SIOCSIFFLAGS, &ifr);
}

static inline int netdev_index(const char *name)
{
	struct ifreq ifr = {};

	return netdev_ioctl(name, SIOCGIFINDEX, &ifr) ? -1 : ifr.ifr_ifindex;
}

static inline int netdev_ethtool(const char *name, void *data)
{
	struct ifreq ifr = { .ifr_data = data };

	return netdev_ioctl(name, SIOCETHTOOL, &ifr);
}

/* A tun device as rtnetlink reports it */
struct link_info {
	int ifindex;
	unsigned int mtu;
	unsigned int type;
	bool carrier;
	bool running;
	unsigned char addr[32];
	int addr_len;
	/* IFLA_TUN_* */
	unsigned int tun_type;
	bool pi, vnet_hdr, persist, multi_queue;
	bool has_owner, has_group;
	uint32_t owner, group;
	uint32_t queues, disabled;
	uint32_t xdp_id;
	uint8_t xdp_mode;	/* XDP_ATTACHED_* */
};

static inline void rta_tun(struct link_info *li, struct rtattr *rta, int len)
{
	for (; RTA_OK(rta, len); rta = RTA_NEXT(rta, len)) {
		uint8_t u8 = *(uint8_t *)RTA_DATA(rta);
		uint32_t u32 = 0;

		if (RTA_PAYLOAD(rta) == sizeof(u32))
			memcpy(&u32, RTA_DATA(rta), sizeof(u32));
		switch (rta->rta_type & NLA_TYPE_MASK) {
		case IFLA_TUN_OWNER:
			li->has_owner = true;
			li->owner = u32;
			break;
		case IFLA_TUN_GROUP:
			li->has_group = true;
			li->group = u32;
			break;
		case IFLA_TUN_TYPE:
			li->tun_type = u8;
			break;
		case IFLA_TUN_PI:
			li->pi = u8;
			break;
		case IFLA_TUN_VNET_HDR:
			li->vnet_hdr = u8;
			break;
		case IFLA_TUN_PERSIST:
			li->persist = u8;
			break;
		case IFLA_TUN_MULTI_QUEUE:
			li->multi_queue = u8;
			break;
		case IFLA_TUN_NUM_QUEUES:
			li->queues = u32;
			break;
		case IFLA_TUN_NUM_DISABLED_QUEUES:
			li->disabled = u32;
			break;
		}
	}
}

static inline void rta_linkinfo(struct link_info *li, struct rtattr *rta,
				int len)
{
	for (; RTA_OK(rta, len); rta = RTA_NEXT(rta, len))
		if ((rta->rta_type & NLA_TYPE_MASK) == IFLA_INFO_DATA)
			rta_tun(li, RTA_DATA(rta), RTA_PAYLOAD(rta));
}

static inline void rta_xdp(struct link_info *li, struct rtattr *rta, int len)
{
	for (; RTA_OK(rta, len); rta = RTA_NEXT(rta, len)) {
		switch (rta->rta_type & NLA_TYPE_MASK) {
		case IFLA_XDP_PROG_ID:
			memcpy(&li->xdp_id, RTA_DATA(rta), sizeof(li->xdp_id));
			break;
		case IFLA_XDP_ATTACHED:
			li->xdp_mode = *(uint8_t *)RTA_DATA(rta);
			break;
		}
	}
}

/* Return the length of the answer, or a negative errno */
static inline int rtnl_talk(void *req, size_t len, void *answer, size_t room)
{
	struct sockaddr_nl sa = { .nl_family = AF_NETLINK };
	int fd = socket(AF_NETLINK, SOCK_RAW, NETLINK_ROUTE);
	int n;

	if (fd < 0)
		return -errno;
	n = sendto(fd, req, len, 0, (void *)&sa, sizeof(sa));
	if (n >= 0)
		n = recv(fd, answer, room, 0);
	if (n < 0)
		n = -errno;
	close(fd);
	return n;
}

struct link_req {
	struct nlmsghdr nh;
	struct ifinfomsg ifi;
	char data[64];
};

static inline int netdev_info(const char *name, struct link_info *li)
{
	struct link_req req = {
		.nh.nlmsg_len = NLMSG_LENGTH(sizeof(req.ifi)),
		.nh.nlmsg_type = RTM_GETLINK,
		.nh.nlmsg_flags = NLM_F_REQUEST,
		.ifi.ifi_index = netdev_index(name),
	};
	static union {
		struct nlmsghdr nh;
		char room[32768];
	} buf;
	struct nlmsghdr *nh = &buf.nh;
	struct ifinfomsg *ifi;
	struct rtattr *rta;
	int n, len;

	memset(li, 0, sizeof(*li));
	n = rtnl_talk(&req, req.nh.nlmsg_len, &buf, sizeof(buf));
	if (n < 0 || !NLMSG_OK(nh, (unsigned int)n) ||
	    nh->nlmsg_type != RTM_NEWLINK)
		return -1;

	ifi = NLMSG_DATA(nh);
	li->ifindex = ifi->ifi_index;
	li->type = ifi->ifi_type;
	li->running = ifi->ifi_flags & IFF_RUNNING;
	len = nh->nlmsg_len - NLMSG_LENGTH(sizeof(*ifi));
	for (rta = IFLA_RTA(ifi); RTA_OK(rta, len); rta = RTA_NEXT(rta, len)) {
		switch (rta->rta_type & NLA_TYPE_MASK) {
		case IFLA_MTU:
			memcpy(&li->mtu, RTA_DATA(rta), sizeof(li->mtu));
			break;
		case IFLA_CARRIER:
			li->carrier = *(uint8_t *)RTA_DATA(rta);
			break;
		case IFLA_ADDRESS:
			li->addr_len = RTA_PAYLOAD(rta);
			memcpy(li->addr, RTA_DATA(rta), li->addr_len);
			break;
		case IFLA_LINKINFO:
			rta_linkinfo(li, RTA_DATA(rta), RTA_PAYLOAD(rta));
			break;
		case IFLA_XDP:
			rta_xdp(li, RTA_DATA(rta), RTA_PAYLOAD(rta));
			break;
		}
	}
	return 0;
}

/* Wait for the network stack to see a change of the carrier. Until then it
 * drops packets, or passes them, as before.
 */
static inline bool netdev_running(const char *name, bool running)
{
	struct link_info li;
	int i;

	for (i = 0; i < 200; i++) {
		if (!netdev_info(name, &li) && li.running == running)
			return true;
		usleep(50000);
	}
	return false;
}

/* Return 0 or a negative errno */
static inline int rtnl_ack(struct link_req *req)
{
	struct {
		struct nlmsghdr nh;
		struct nlmsgerr err;
		char data[256];
	} answer;
	int n;

	req->nh.nlmsg_flags |= NLM_F_REQUEST | NLM_F_ACK;
	n = rtnl_talk(req, req->nh.nlmsg_len, &answer, sizeof(answer));
	if (n < 0)
		return n;
	return answer.nh.nlmsg_type == NLMSG_ERROR ? answer.err.error : -EIO;
}

static inline int netdev_delete(const char *name)
{
	struct link_req req = {
		.nh.nlmsg_len = NLMSG_LENGTH(sizeof(req.ifi)),
		.nh.nlmsg_type = RTM_DELLINK,
		.ifi.ifi_index = netdev_index(name),
	};

	return rtnl_ack(&req);
}

/* Move a device to another network namespace */
static inline int netdev_move(const char *name, int netns)
{
	struct link_req req = {
		.nh.nlmsg_len = NLMSG_LENGTH(sizeof(req.ifi)),
		.nh.nlmsg_type = RTM_SETLINK,
		.ifi.ifi_index = netdev_index(name),
	};
	struct rtattr *fd = (void *)req.data;

	fd->rta_type = IFLA_NET_NS_FD;
	fd->rta_len = RTA_LENGTH(sizeof(netns));
	memcpy(RTA_DATA(fd), &netns, sizeof(netns));
	req.nh.nlmsg_len += RTA_SPACE(sizeof(netns));
	return rtnl_ack(&req);
}

/* Attach an XDP program, or detach it with -1. @flags: XDP_FLAGS_*_MODE */
static inline int netdev_xdp_mode(const char *name, int prog, uint32_t flags)
{
	struct link_req req = {
		.nh.nlmsg_len = NLMSG_LENGTH(sizeof(req.ifi)),
		.nh.nlmsg_type = RTM_SETLINK,
		.ifi.ifi_index = netdev_index(name),
	};
	struct rtattr *xdp = (void *)req.data;
	struct rtattr *attr = RTA_DATA(xdp);

	attr->rta_type = IFLA_XDP_FD;
	attr->rta_len = RTA_LENGTH(sizeof(prog));
	memcpy(RTA_DATA(attr), &prog, sizeof(prog));
	attr = (void *)attr + RTA_SPACE(sizeof(prog));
	attr->rta_type = IFLA_XDP_FLAGS;
	attr->rta_len = RTA_LENGTH(sizeof(flags));
	memcpy(RTA_DATA(attr), &flags, sizeof(flags));
	xdp->rta_type = IFLA_XDP | NLA_F_NESTED;
	xdp->rta_len = RTA_LENGTH(RTA_SPACE(sizeof(prog)) +
				  RTA_SPACE(sizeof(flags)));
	req.nh.nlmsg_len += xdp->rta_len;
	return rtnl_ack(&req);
}

static inline int netdev_xdp(const char *name, int prog)
{
	return netdev_xdp_mode(name, prog, 0);
}

/* eBPF without a library */

static inline int sys_bpf(int cmd, union bpf_attr *attr)
{
	return syscall(__NR_bpf, cmd, attr, sizeof(*attr));
}

/* A program that returns a constant */
static inline int prog_load(enum bpf_prog_type type, int ret)
{
	struct bpf_insn insns[] = {
		{ .code = BPF_ALU64 | BPF_MOV | BPF_K, .imm = ret },
		{ .code = BPF_JMP | BPF_EXIT },
	};
	union bpf_attr attr = {
		.prog_type = type,
		.insns = (uintptr_t)insns,
		.insn_cnt = 2,
		.license = (uintptr_t)"GPL",
	};

	return sys_bpf(BPF_PROG_LOAD, &attr);
}

static inline int prog_info(int fd, struct bpf_prog_info *info)
{
	union bpf_attr attr = {
		.info.bpf_fd = fd,
		.info.info = (uintptr_t)info,
		.info.info_len = sizeof(*info),
	};

	memset(info, 0, sizeof(*info));
	return sys_bpf(BPF_OBJ_GET_INFO_BY_FD, &attr);
}

/* Load a program for one of the places of a device, and describe it as
 * TUNGETSTATE does; return its fd, or -1
 */
static inline int prog_load_desc(int ret, struct tun_state_prog *desc)
{
	int prog = prog_load(BPF_PROG_TYPE_SOCKET_FILTER, ret);
	struct bpf_prog_info info;

	if (prog < 0 || prog_info(prog, &info))
		return -1;
	desc->id = info.id;
	desc->type = info.type;
	memcpy(desc->tag, info.tag, sizeof(desc->tag));
	return prog;
}

static inline bool prog_there(uint32_t id)
{
	union bpf_attr attr = { .prog_id = id };
	int fd = sys_bpf(BPF_PROG_GET_FD_BY_ID, &attr);

	if (fd >= 0)
		close(fd);
	return fd >= 0 || errno != ENOENT;
}

/* Wait for a program to be freed, after a grace period or two */
static inline bool prog_gone(uint32_t id)
{
	int i;

	for (i = 0; i < 200 && prog_there(id); i++)
		usleep(50000);
	return i < 200;
}

/* Drop or take back CAP_NET_ADMIN */
static inline int net_admin(bool on)
{
	struct __user_cap_header_struct hdr = {
		.version = _LINUX_CAPABILITY_VERSION_3,
	};
	struct __user_cap_data_struct data[2];

	if (syscall(__NR_capget, &hdr, data))
		return -1;
	if (on)
		data[0].effective |= 1U << CAP_NET_ADMIN;
	else
		data[0].effective &= ~(1U << CAP_NET_ADMIN);
	return syscall(__NR_capset, &hdr, data);
}

/* Put packets into the ring of a device that is up */
static inline int send_packets(const char *name, int n)
{
	struct sockaddr_ll sll = {
		.sll_family = AF_PACKET,
		.sll_protocol = htons(ETH_P_IP),
		.sll_ifindex = netdev_index(name),
	};
	char packet[64] = { 0x45 };
	int fd = socket(AF_PACKET, SOCK_RAW, 0);
	int sent = 0;

	if (fd < 0)
		return -1;
	packet[12] = 8;
	while (sent < n && sendto(fd, packet, sizeof(packet), 0, (void *)&sll,
				  sizeof(sll)) == sizeof(packet))
		sent++;
	close(fd);
	return sent;
}

/* A socket for the packets of a device: it sends to the reader of the device,
 * and receives packets that were written to the device.
 */
static inline int packet_socket(const char *name)
{
	struct sockaddr_ll sll = {
		.sll_family = AF_PACKET,
		.sll_protocol = htons(ETH_P_ALL),
		.sll_ifindex = netdev_index(name),
	};
	int fd = socket(AF_PACKET, SOCK_RAW | SOCK_NONBLOCK, 0);
	int one = 1;

	if (fd < 0)
		return -1;
	if (setsockopt(fd, SOL_PACKET, PACKET_IGNORE_OUTGOING, &one,
		       sizeof(one)) ||
	    bind(fd, (void *)&sll, sizeof(sll))) {
		close(fd);
		return -1;
	}
	return fd;
}

#define FRAME_SIZE 64
#define FRAME_MARK 20

/* A packet that only the test receives, and recognizes by its mark. For a TUN
 * it looks like IPv4.
 */
static inline void frame_make(unsigned char *frame, bool tap,
			      unsigned char mark)
{
	memset(frame, 0, FRAME_SIZE);
	frame[0] = tap ? 0x02 : 0x45;
	if (tap) {
		frame[12] = 0x88;
		frame[13] = 0xb5;
	}
	frame[FRAME_MARK] = mark;
}

/* A UDP packet of one of many flows; @back: from the peer of the flow */
static inline void flow_frame_make(unsigned char *frame, bool tap,
				   uint16_t flow, bool back)
{
	uint16_t ports[] = { htons(1024 + flow), htons(53) };
	unsigned char *ip = frame + (tap ? ETH_HLEN : 0);
	unsigned int len = FRAME_SIZE - (ip - frame);

	memset(frame, 0, FRAME_SIZE);
	if (tap) {
		frame[0] = 0x02;
		frame[12] = ETH_P_IP >> 8;
		frame[13] = ETH_P_IP & 0xff;
	}
	ip[0] = 0x45;
	ip[3] = len;
	ip[8] = 1;
	ip[9] = IPPROTO_UDP;
	/* Two addresses of the documentation's network */
	memcpy(ip + 12, back ? "\300\0\2\2" : "\300\0\2\1", 4);
	memcpy(ip + 16, back ? "\300\0\2\1" : "\300\0\2\2", 4);
	memcpy(ip + 20, &ports[back], 2);
	memcpy(ip + 22, &ports[!back], 2);
	ip[25] = len - 20;
}

/* Have a device that is up learn a flow, from a packet that is written to this
 * queue. @flags: those that the queue was opened with. Return 0 or an errno.
 */
static inline int flow_learn(int fd, unsigned int flags, uint16_t flow)
{
	unsigned char buf[32 + FRAME_SIZE] = {};
	struct tun_pi pi = { .proto = htons(ETH_P_IP) };
	unsigned int at = 0;

	if (!(flags & IFF_NO_PI)) {
		memcpy(buf, &pi, sizeof(pi));
		at += sizeof(pi);
	}
	if (flags & IFF_VNET_HDR)
		at += 10;
	flow_frame_make(buf + at, flags & IFF_TAP, flow, false);
	at += FRAME_SIZE;
	return write(fd, buf, at) == at ? 0 : errno;
}

/* See no_sockfilter() */
static inline const char *flows_stay(void)
{
	const unsigned int flags = IFF_TAP | IFF_NO_PI | IFF_MULTI_QUEUE;
	char name[IFNAMSIZ] = "probe";
	const char *why = NULL;
	struct state st;
	int fd[2];

	fd[0] = tun_queue(name, flags);
	fd[1] = tun_queue(name, flags);
	if (fd[1] < 0 || netdev_up(name) || flow_learn(fd[1], IFF_TAP, 1) ||
	    tun_set_queue(fd[1], IFF_DETACH_QUEUE) ||
	    state_get(fd[0], TUN_STATE_FLOWS, &st))
		why = "cannot detach a queue that has a flow";
	else if (st.s.flows.count)
		why = "this driver keeps the flows of a queue that is detached";
	close(fd[0]);
	close(fd[1]);
	return why;
}

#endif /* TUN_STATE_UTIL_H */
