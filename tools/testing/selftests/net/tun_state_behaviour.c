// SPDX-License-Identifier: GPL-2.0
/*
 * Effect of a restored state on packets: set each group on an old device with
 * the older interfaces, carry it over to a new one with TUNGETSTATE and
 * TUNSETSTATE, and look at the packets of the new device. Groups that are only
 * reported must agree with the packets. tun_state_groups compares values instead.
 */
#include <grp.h>
#include <limits.h>
#include <poll.h>
#include <sys/epoll.h>
#include <sys/wait.h>
#include <linux/virtio_net.h>

#include "../kselftest_harness.h"
#include "tun_state_util.h"

/* Devices with many queues are slow to make on a kernel with all its checks */
#undef TEST_TIMEOUT_DEFAULT
#define TEST_TIMEOUT_DEFAULT 120

/* Not in all kernels' headers */
#define TEST_IFF_BACKPRESSURE	0x0080
#define TEST_F_TUNNEL_GSO	0x0080
#define TEST_F_TUNNEL_GSO_CSUM	0x0100
#ifndef VIRTIO_NET_HDR_GSO_UDP_L4
#define VIRTIO_NET_HDR_GSO_UDP_L4 5
#endif

#define OLD 0
#define NEW 1
#define QUEUES 4

struct pair {
	unsigned int flags;	/* as for TUNSETIFF */
	unsigned int queues;
	char name[2][IFNAMSIZ];
	int fd[2][QUEUES];
	int sock;		/* for packets of the new device */
	struct state st;
};

/* With @direct, packets are in the ring of the device when send() returns */
static int sock_direct(int sock, int direct)
{
	return setsockopt(sock, SOL_PACKET, PACKET_QDISC_BYPASS, &direct,
			  sizeof(direct));
}

/* Two devices with defaults; the new one is up */
static const char *pair_make(struct pair *p, unsigned int flags,
			     unsigned int queues)
{
	static const char * const names[] = { [OLD] = "old", [NEW] = "new" };
	const char *why = tun_state_enter();
	unsigned int i, q;

	if (why)
		return why;
	p->flags = flags;
	p->queues = queues;
	for (i = 0; i < 2; i++) {
		memcpy(p->name[i], names[i], strlen(names[i]) + 1);
		for (q = 0; q < queues; q++) {
			p->fd[i][q] = tun_queue(p->name[i], flags);
			if (p->fd[i][q] < 0)
				exit(KSFT_FAIL);
		}
	}
	p->sock = -1;
	if (!netdev_up(p->name[NEW]))
		p->sock = packet_socket(p->name[NEW]);
	if (p->sock < 0 || sock_direct(p->sock, true))
		exit(KSFT_FAIL);
	return NULL;
}

static void pair_close(struct pair *p)
{
	unsigned int i, q;

	for (i = 0; i < 2; i++) {
		/* Delete the device: faster than queue by queue */
		netdev_delete(p->name[i]);
		for (q = 0; q < p->queues; q++)
			close(p->fd[i][q]);
	}
	close(p->sock);
}

#define ST (self->p.st.s)
#define OLD_FD (self->p.fd[OLD][0])
#define NEW_FD (self->p.fd[NEW][0])

#define GET(fd, groups)							\
	ASSERT_EQ(0, state_get((fd), (groups), &self->p.st))
#define HOLD(fd, groups)						\
	ASSERT_EQ(0, state_hold((fd), (groups), &self->p.st))
#define SET(fd, groups)							\
	ASSERT_EQ(0, state_set((fd), (groups), &self->p.st))
#define SET_FAILS(err, groups, group)					\
	do {								\
		struct state _before;					\
									\
		ASSERT_EQ(0, state_snapshot(NEW_FD, &_before));		\
		ASSERT_EQ(err, state_set(NEW_FD, (groups), &self->p.st)); \
		EXPECT_EQ(group, ST.failed);				\
		EXPECT_TRUE(state_unchanged(NEW_FD, &_before));		\
	} while (0)
/* Carry groups over from a queue of the old device to the new one */
#define RESTORE_QUEUE(i, groups)					\
	do {								\
		int _q = (i);						\
		uint64_t _groups = (groups);				\
									\
		GET(self->p.fd[OLD][_q], _groups);			\
		ASSERT_EQ(_groups, ST.mask);				\
		SET(self->p.fd[NEW][_q], _groups);			\
		EXPECT_EQ(_groups & ~GET_ONLY, ST.mask);		\
		EXPECT_EQ(0, state_compare(self->p.fd[NEW][_q],		\
					   _groups & SETTABLE,		\
					   &self->p.st));		\
	} while (0)
#define RESTORE(groups) RESTORE_QUEUE(0, groups)

/* The length that a packet sent to the device has for the reader, or -1 */
static int pass(struct pair *p, int queue, const void *packet, size_t len,
		void *data, size_t room)
{
	if (send(p->sock, packet, len, 0) != (ssize_t)len)
		return -1;
	return read(p->fd[NEW][queue], data, room);
}

/* True if a marked packet is read unchanged, behind its headers */
static bool mark_passes(struct pair *p, int queue, int mark)
{
	unsigned char frame[FRAME_SIZE], buf[2 * FRAME_SIZE];
	int n;

	frame_make(frame, p->flags & IFF_TAP, mark);
	n = pass(p, queue, frame, sizeof(frame), buf, sizeof(buf));
	return n >= FRAME_SIZE &&
	       !memcmp(buf + n - FRAME_SIZE, frame, FRAME_SIZE);
}

/* True if a packet that is written to the device reaches the host */
static bool mark_received(struct pair *p, int queue, int mark)
{
	struct pollfd pfd = { .fd = p->sock, .events = POLLIN };
	int header = p->flags & IFF_VNET_HDR ? 10 : 0;
	unsigned char buf[2 * FRAME_SIZE] = {};

	frame_make(buf + header, p->flags & IFF_TAP, mark);
	if (write(p->fd[NEW][queue], buf, header + FRAME_SIZE) < 0)
		return false;
	if (p->flags & IFF_NAPI)
		poll(&pfd, 1, 10000);
	return recv(p->sock, buf, sizeof(buf), 0) == FRAME_SIZE &&
	       buf[FRAME_MARK] == mark;
}

/* Packets that the device has dropped on their way to the reader, or -1 */
static long tx_dropped(const char *name)
{
	FILE *f = fopen("/proc/net/dev", "r");
	char line[512], *numbers;
	long dropped = -1;

	if (!f)
		return -1;
	while (dropped < 0 && fgets(line, sizeof(line), f)) {
		numbers = strchr(line, ':');
		if (!numbers)
			continue;
		*numbers++ = 0;
		if (!strcmp(line + strspn(line, " "), name) &&
		    sscanf(numbers, "%*u %*u %*u %*u %*u %*u %*u %*u %*u %*u %*u %ld",
			   &dropped) != 1)
			break;
	}
	fclose(f);
	return dropped;
}

/* A device with one queue */

FIXTURE(dev)
{
	struct pair p;
};

FIXTURE_VARIANT(dev)
{
	unsigned int flags;
};

FIXTURE_VARIANT_ADD(dev, tap)
{
	.flags = IFF_TAP | IFF_NO_PI,
};

FIXTURE_VARIANT_ADD(dev, tun)
{
	.flags = IFF_TUN | IFF_NO_PI,
};

FIXTURE_SETUP(dev)
{
	const char *why = pair_make(&self->p, variant->flags, 1);

	if (why)
		SKIP(return, "%s", why);
}

FIXTURE_TEARDOWN(dev)
{
	pair_close(&self->p);
}

/* Another device has another identity: nothing is restored */
TEST_F(dev, identity_of_another)
{
	ASSERT_EQ(0, ioctl(OLD_FD, TUNSETOWNER, 1234));
	GET(OLD_FD, TUN_STATE_IDENTITY | TUN_STATE_OWNER);
	SET_FAILS(EXDEV, TUN_STATE_IDENTITY | TUN_STATE_OWNER,
		  TUN_STATE_IDENTITY);
}

/* Headers in front of a packet, in both directions */
static void expect_headers(struct __test_metadata *_metadata, struct pair *p,
			   unsigned int flags, size_t vnet_size)
{
	unsigned char frame[FRAME_SIZE], buf[4 * FRAME_SIZE];
	bool tap = p->flags & IFF_TAP;
	struct tun_pi pi = { .proto = htons(tap ? 0x88b5 : ETH_P_IP) };
	size_t pi_size = flags & IFF_NO_PI ? 0 : sizeof(pi);
	size_t header;

	if (!(flags & IFF_VNET_HDR))
		vnet_size = 0;
	header = pi_size + vnet_size;
	frame_make(frame, tap, 7);

	memset(buf, 0xaa, sizeof(buf));
	ASSERT_EQ(header + FRAME_SIZE, pass(p, 0, frame, FRAME_SIZE, buf,
					    sizeof(buf)));
	EXPECT_EQ(0, memcmp(buf, &pi, pi_size));
	EXPECT_EQ(0, memcmp(buf + header, frame, FRAME_SIZE));
	EXPECT_EQ(0xaa, buf[header + FRAME_SIZE]);

	memset(buf, 0, sizeof(buf));
	memcpy(buf, &pi, pi_size);
	memcpy(buf + header, frame, FRAME_SIZE);
	ASSERT_EQ(header + FRAME_SIZE, write(p->fd[NEW][0], buf,
					     header + FRAME_SIZE));
	ASSERT_EQ(FRAME_SIZE, recv(p->sock, buf, sizeof(buf), 0));
	EXPECT_EQ(0, memcmp(buf, frame, FRAME_SIZE));
}

/* Make the new device once more, with other flags */
static int remake_new(struct pair *p, unsigned int flags)
{
	unsigned int q;

	for (q = 0; q < p->queues; q++)
		close(p->fd[NEW][q]);
	for (q = 0; q < p->queues; q++) {
		p->fd[NEW][q] = tun_queue(p->name[NEW], flags);
		if (p->fd[NEW][q] < 0)
			return -1;
	}
	close(p->sock);
	if (netdev_up(p->name[NEW]))
		return -1;
	p->sock = packet_socket(p->name[NEW]);
	return sock_direct(p->sock, true);
}

/* TUNSETIFF, when the device is made, decides about the headers */
TEST_F(dev, iff_headers)
{
	static const unsigned int changes[] = {
		0, IFF_NO_PI, IFF_VNET_HDR, IFF_NO_PI | IFF_VNET_HDR,
	};
	unsigned int type = variant->flags & (IFF_TAP | IFF_TUN), i;

	for (i = 0; i < ARRAY_SIZE(changes); i++) {
		close(OLD_FD);
		OLD_FD = tun_queue(self->p.name[OLD], type | changes[i]);
		ASSERT_GE(OLD_FD, 0);
		GET(OLD_FD, TUN_STATE_IFF);
		if ((type | changes[i]) != variant->flags)
			SET_FAILS(EINVAL, TUN_STATE_IFF, TUN_STATE_IFF);
		expect_headers(_metadata, &self->p, variant->flags, 10);

		/* The new device as it is to be made */
		ASSERT_EQ(0, remake_new(&self->p, type | changes[i]));
		RESTORE(TUN_STATE_IFF);
		expect_headers(_metadata, &self->p, changes[i], 10);
		ASSERT_EQ(0, remake_new(&self->p, variant->flags));
	}
}

TEST_F(dev, iff_persist)
{
	int i;

	ASSERT_EQ(0, ioctl(OLD_FD, TUNSETPERSIST, 1));
	RESTORE(TUN_STATE_IFF);
	for (i = 0; i < 2; i++)
		close(self->p.fd[i][0]);
	for (i = 0; i < 2; i++) {
		EXPECT_LT(0, netdev_index(self->p.name[i]));
		self->p.fd[i][0] = tun_queue(self->p.name[i], variant->flags);
		ASSERT_GE(self->p.fd[i][0], 0);
	}

	ASSERT_EQ(0, ioctl(OLD_FD, TUNSETPERSIST, 0));
	RESTORE(TUN_STATE_IFF);
	for (i = 0; i < 2; i++) {
		close(self->p.fd[i][0]);
		EXPECT_EQ(-1, netdev_index(self->p.name[i]));
		self->p.fd[i][0] = -1;
	}
}

/* Another NAPI, or a flag without an effect: to be chosen by TUNSETIFF, too */
TEST_F(dev, iff_others)
{
	static const unsigned int others[] = {
		IFF_ONE_QUEUE, IFF_NAPI, IFF_NAPI | IFF_NAPI_FRAGS,
	};
	struct ifreq ifr;
	unsigned int i;

	for (i = 0; i < ARRAY_SIZE(others); i++) {
		if (others[i] & IFF_NAPI_FRAGS && !(variant->flags & IFF_TAP))
			continue;
		close(OLD_FD);
		OLD_FD = tun_queue(self->p.name[OLD],
				   variant->flags | others[i]);
		ASSERT_GE(OLD_FD, 0);
		GET(OLD_FD, TUN_STATE_IFF);
		EXPECT_EQ(variant->flags | others[i], ST.iff.flags);
		SET_FAILS(EINVAL, TUN_STATE_IFF, TUN_STATE_IFF);
		ASSERT_EQ(0, ioctl(NEW_FD, TUNGETIFF, &ifr));
		EXPECT_EQ(variant->flags, (uint16_t)ifr.ifr_flags);
		EXPECT_TRUE(mark_received(&self->p, 0, 1));
	}
}

static int send_marks(struct pair *p, int from, int to)
{
	unsigned char frame[FRAME_SIZE];

	for (; from < to; from++) {
		frame_make(frame, p->flags & IFF_TAP, from);
		if (send(p->sock, frame, FRAME_SIZE, 0) != FRAME_SIZE)
			return -1;
	}
	return 0;
}

/* Wait for the next packet and return its mark, or -1 */
static int next_mark(struct pair *p, int queue)
{
	struct pollfd pfd = { .fd = p->fd[NEW][queue], .events = POLLIN };
	unsigned char buf[2 * FRAME_SIZE];
	int n;

	if (poll(&pfd, 1, 10000) != 1)
		return -1;
	n = read(p->fd[NEW][queue], buf, sizeof(buf));
	return n == FRAME_SIZE ? buf[FRAME_MARK] : -1;
}

static int ring_len(int fd)
{
	struct state st;

	return state_get(fd, TUN_STATE_QUEUE, &st) ? -1 : st.s.queue.ring_len;
}

#define WAIT_FOR(condition)						\
	do {								\
		int _i;							\
									\
		for (_i = 0; _i < 200; _i++) {				\
			if (condition)					\
				break;					\
			usleep(50000);					\
		}							\
		EXPECT_LT(_i, 200);					\
	} while (0)

TEST_F(dev, link_carrier)
{
	unsigned int carrier = 0;

	EXPECT_TRUE(mark_passes(&self->p, 0, 1));
	ASSERT_EQ(0, ioctl(OLD_FD, TUNSETCARRIER, &carrier));
	RESTORE(TUN_STATE_LINK);
	ASSERT_TRUE(netdev_running(self->p.name[NEW], false));
	EXPECT_FALSE(mark_passes(&self->p, 0, 2));

	carrier = 1;
	ASSERT_EQ(0, ioctl(OLD_FD, TUNSETCARRIER, &carrier));
	RESTORE(TUN_STATE_LINK);
	ASSERT_TRUE(netdev_running(self->p.name[NEW], true));
	EXPECT_TRUE(mark_passes(&self->p, 0, 3));
}

TEST_F(dev, link_tuning)
{
	struct ethtool_coalesce coal = {
		.cmd = ETHTOOL_SCOALESCE,
		.rx_max_coalesced_frames = 48,
	};
	struct ethtool_value level = { .cmd = ETHTOOL_GMSGLVL };

	ASSERT_EQ(0, ioctl(OLD_FD, TUNSETDEBUG, 0x2004));
	ASSERT_EQ(0, netdev_ethtool(self->p.name[OLD], &coal));
	coal.rx_max_coalesced_frames = 16;
	ASSERT_EQ(0, netdev_ethtool(self->p.name[NEW], &coal));
	RESTORE(TUN_STATE_LINK | TUN_STATE_COALESCE);
	EXPECT_EQ(48, ST.coalesce.rx_frames);
	/* ethtool's own */
	coal.rx_max_coalesced_frames = 0;
	coal.cmd = ETHTOOL_GCOALESCE;
	ASSERT_EQ(0, netdev_ethtool(self->p.name[NEW], &coal));
	EXPECT_EQ(16, coal.rx_max_coalesced_frames);
	ASSERT_EQ(0, netdev_ethtool(self->p.name[NEW], &level));
	EXPECT_EQ(0x2004, level.data);
	/* Packets of write() are batches of one */
	EXPECT_TRUE(mark_received(&self->p, 0, 1));
}

/* A full send buffer blocks the writer. With two bytes it is always full: an
 * empty socket counts as one, and half is kept free.
 */
TEST_F(dev, sndbuf)
{
	struct pollfd pfd = { .fd = NEW_FD, .events = POLLOUT };
	static const int size[] = { 2, 4, 3, INT_MAX };
	unsigned int i;

	ASSERT_EQ(1, poll(&pfd, 1, 0));
	for (i = 0; i < ARRAY_SIZE(size); i++) {
		ASSERT_EQ(0, ioctl(OLD_FD, TUNSETSNDBUF, &size[i]));
		RESTORE(TUN_STATE_SNDBUF);
		EXPECT_EQ(size[i] >= 4, poll(&pfd, 1, 0));
	}
}

/* A writer that waits for room goes on: no packet leaves to wake it */
TEST_F(dev, sndbuf_wakes)
{
	struct epoll_event event = { .events = EPOLLOUT };
	int poller = epoll_create1(0), size = 2;

	ASSERT_GE(poller, 0);
	ASSERT_EQ(0, ioctl(NEW_FD, TUNSETSNDBUF, &size));
	/* This looks at the file once; a wake-up has it look again */
	ASSERT_EQ(0, epoll_ctl(poller, EPOLL_CTL_ADD, NEW_FD, &event));
	EXPECT_EQ(0, epoll_wait(poller, &event, 1, 0));
	size = 3;
	ASSERT_EQ(0, ioctl(OLD_FD, TUNSETSNDBUF, &size));
	RESTORE(TUN_STATE_SNDBUF);
	EXPECT_EQ(0, epoll_wait(poller, &event, 1, 0));
	size = 4;
	ASSERT_EQ(0, ioctl(OLD_FD, TUNSETSNDBUF, &size));
	RESTORE(TUN_STATE_SNDBUF);
	EXPECT_EQ(1, epoll_wait(poller, &event, 1, 0));
	close(poller);
}

/* Programs are restored by an fd on another device, by their id on this one if
 * the file holds them
 */
TEST_F(dev, filter)
{
	static const int len[] = { 0, FRAME_SIZE, 40 };
	unsigned char frame[FRAME_SIZE], buf[2 * FRAME_SIZE];
	struct state held;
	int none = -1, prog;
	unsigned int i;

	frame_make(frame, variant->flags & IFF_TAP, 1);
	for (i = 0; i < ARRAY_SIZE(len); i++) {
		prog = prog_load(BPF_PROG_TYPE_SOCKET_FILTER, len[i]);
		ASSERT_GE(prog, 0);
		ASSERT_EQ(0, ioctl(OLD_FD, TUNSETFILTEREBPF, &prog));
		GET(OLD_FD, TUN_STATE_FILTER);
		SET_FAILS(EBADF, TUN_STATE_FILTER, TUN_STATE_FILTER);
		ST.filter.action = TUN_STATE_PROG_FD;
		ST.filter.fd = prog;
		SET(NEW_FD, TUN_STATE_FILTER);
		close(prog);
		EXPECT_EQ(len[i] ?: -1, pass(&self->p, 0, frame, FRAME_SIZE,
					     buf, sizeof(buf)));

		HOLD(NEW_FD, TUN_STATE_FILTER);
		ASSERT_EQ(0, ioctl(NEW_FD, TUNSETFILTEREBPF, &none));
		/* To read lets go of nothing */
		ASSERT_EQ(0, state_get(NEW_FD, ALL_GROUPS, &held));
		EXPECT_EQ(FRAME_SIZE, pass(&self->p, 0, frame, FRAME_SIZE, buf,
					   sizeof(buf)));
		SET(NEW_FD, TUN_STATE_FILTER);
		EXPECT_EQ(len[i] ?: -1, pass(&self->p, 0, frame, FRAME_SIZE,
					     buf, sizeof(buf)));
	}
	/* Hold none: the id alone gives no access to the program */
	GET(NEW_FD, TUN_STATE_FILTER);
	ASSERT_EQ(0, state_hold(NEW_FD, 0, &held));
	ASSERT_EQ(0, ioctl(NEW_FD, TUNSETFILTEREBPF, &none));
	SET_FAILS(EBADF, TUN_STATE_FILTER, TUN_STATE_FILTER);
	EXPECT_TRUE(mark_passes(&self->p, 0, 1));
	/* Restore no program */
	ASSERT_EQ(0, ioctl(OLD_FD, TUNSETFILTEREBPF, &none));
	RESTORE(TUN_STATE_FILTER);
	EXPECT_TRUE(mark_passes(&self->p, 0, 1));
}

/* Filters of the TAP that a TUN does not have */
TEST_F(dev, tap_only)
{
	const int err = variant->flags & IFF_TAP ? 0 : EINVAL;
	const uint64_t groups = TUN_STATE_TXFILTER | TUN_STATE_OWNER;

	GET(NEW_FD, TUN_STATE_TXFILTER | TUN_STATE_SOCKFILTER |
		    TUN_STATE_OWNER);
	EXPECT_EQ(0, ST.txfilter.count);
	EXPECT_EQ(0, ST.sockfilter.count);
	ST.owner.uid = 77;
	ST.txfilter.count = 1;
	ST.txfilter.addr[0][0] = 2;
	if (err)
		SET_FAILS(err, groups, TUN_STATE_TXFILTER);
	else
		SET(NEW_FD, groups);

	if (!err && no_sockfilter())
		SKIP(return, "%s", no_sockfilter());
	ST.sockfilter.count = 1;
	self->p.st.insns[0] = (struct sock_filter)BPF_STMT(BPF_RET, 0xffff);
	if (err)
		SET_FAILS(err, TUN_STATE_OWNER | TUN_STATE_SOCKFILTER,
			  TUN_STATE_SOCKFILTER);
	else
		SET(NEW_FD, TUN_STATE_OWNER | TUN_STATE_SOCKFILTER);
}

/* A TAP with one queue and a virtio-net header in front of each packet */

FIXTURE(tap)
{
	struct pair p;
};

FIXTURE_SETUP(tap)
{
	const char *why = pair_make(&self->p,
				    IFF_TAP | IFF_NO_PI | IFF_VNET_HDR, 1);

	if (why)
		SKIP(return, "%s", why);
}

FIXTURE_TEARDOWN(tap)
{
	pair_close(&self->p);
}

TEST_F(tap, vnet_size)
{
	static const int size[] = { 12, 20, 11, 24, 10 };
	unsigned int i;

	expect_headers(_metadata, &self->p, self->p.flags, 10);
	for (i = 0; i < ARRAY_SIZE(size); i++) {
		ASSERT_EQ(0, ioctl(OLD_FD, TUNSETVNETHDRSZ, &size[i]));
		RESTORE(TUN_STATE_VNET);
		expect_headers(_metadata, &self->p, self->p.flags, size[i]);
	}
}

/* TCP and UDP packets */

#define PACKET_ROOM 4096

struct packet {
	bool v6;
	int proto;
	unsigned int l4, payload, len;
	unsigned char data[PACKET_ROOM];
};

static void put16(unsigned char *where, uint16_t value)
{
	where[0] = value >> 8;
	where[1] = value;
}

static uint32_t sum16(const unsigned char *data, unsigned int len, uint32_t sum)
{
	unsigned int i;

	for (i = 0; i < len; i++)
		sum += i & 1 ? data[i] : data[i] << 8;
	while (sum >> 16)
		sum = (sum & 0xffff) + (sum >> 16);
	return sum;
}

static unsigned int csum_offset(const struct packet *pkt)
{
	return pkt->proto == IPPROTO_TCP ? 16 : 6;
}

static uint32_t pseudo_sum(const struct packet *pkt)
{
	const unsigned char *addr = pkt->data + (pkt->v6 ? 22 : 26);

	return sum16(addr, pkt->v6 ? 32 : 8,
		     pkt->proto + pkt->len - pkt->l4);
}

/* With a checksum that lacks the part behind the pseudo header */
static void packet_make(struct packet *pkt, bool v6, int proto,
			unsigned int payload)
{
	unsigned char *ip = pkt->data + ETH_HLEN, *l4;
	unsigned int i;

	memset(pkt, 0, sizeof(*pkt));
	pkt->v6 = v6;
	pkt->proto = proto;
	pkt->payload = payload;
	pkt->l4 = ETH_HLEN + (v6 ? 40 : 20);
	pkt->len = pkt->l4 + (proto == IPPROTO_TCP ? 20 : 8) + payload;
	pkt->data[0] = 2;
	pkt->data[6] = 2;
	pkt->data[11] = 1;
	put16(pkt->data + 12, v6 ? ETH_P_IPV6 : ETH_P_IP);
	if (v6) {
		ip[0] = 0x60;
		put16(ip + 4, pkt->len - pkt->l4);
		ip[6] = proto;
		ip[7] = 64;
		ip[8] = 0xfd;
		ip[23] = 1;
		ip[24] = 0xfd;
		ip[39] = 2;
	} else {
		ip[0] = 0x45;
		put16(ip + 2, pkt->len - ETH_HLEN);
		ip[6] = 0x40;
		ip[8] = 64;
		ip[9] = proto;
		ip[12] = 10;
		ip[15] = 1;
		ip[16] = 10;
		ip[19] = 2;
		put16(ip + 10, ~sum16(ip, 20, 0));
	}
	l4 = pkt->data + pkt->l4;
	put16(l4, 1000);
	put16(l4 + 2, 2000);
	if (proto == IPPROTO_TCP) {
		l4[12] = 0x50;
		l4[13] = 0x10;
	} else {
		put16(l4 + 4, pkt->len - pkt->l4);
	}
	for (i = pkt->len - payload; i < pkt->len; i++)
		pkt->data[i] = i * 7;
	put16(l4 + csum_offset(pkt), pseudo_sum(pkt));
}

/* A packet with a header in front, as PACKET_VNET_HDR and the device have it */
struct vnet_packet {
	struct virtio_net_hdr hdr;
	struct packet pkt;
};

static struct virtio_net_hdr needs_csum(const struct packet *pkt)
{
	return (struct virtio_net_hdr) {
		.flags = VIRTIO_NET_HDR_F_NEEDS_CSUM,
		.csum_start = pkt->l4,
		.csum_offset = csum_offset(pkt),
	};
}

static int vnet_socket(const char *name)
{
	int sock = packet_socket(name), one = 1;

	if (setsockopt(sock, SOL_PACKET, PACKET_VNET_HDR, &one, sizeof(one))) {
		close(sock);
		return -1;
	}
	return sock;
}

static ssize_t vnet_send(int sock, const struct virtio_net_hdr *hdr,
			 const struct packet *pkt)
{
	unsigned char buf[sizeof(*hdr) + PACKET_ROOM];

	memcpy(buf, hdr, sizeof(*hdr));
	memcpy(buf + sizeof(*hdr), pkt->data, pkt->len);
	return send(sock, buf, sizeof(*hdr) + pkt->len, 0) -
	       (ssize_t)sizeof(*hdr);
}

/* Wait for a packet and return its length without the header, or -1 */
static int vnet_read(int fd, struct virtio_net_hdr *hdr, struct packet *pkt)
{
	struct pollfd pfd = { .fd = fd, .events = POLLIN };
	unsigned char buf[sizeof(*hdr) + PACKET_ROOM];
	int n;

	if (poll(&pfd, 1, 10000) != 1)
		return -1;
	n = read(fd, buf, sizeof(buf));
	if (n < (int)sizeof(*hdr))
		return -1;
	n -= sizeof(*hdr);
	memcpy(hdr, buf, sizeof(*hdr));
	memcpy(pkt->data, buf + sizeof(*hdr), n);
	pkt->len = n;
	return n;
}

/* The byte order of the header */
TEST_F(tap, vnet_byte_order)
{
	int sock = vnet_socket(self->p.name[NEW]), off = 0, on = 1, n;
	unsigned char buf[sizeof(struct virtio_net_hdr) + PACKET_ROOM];
	struct virtio_net_hdr hdr, got;
	struct packet pkt, copy;
	enum { NATIVE, LE, BE } order;

	ASSERT_GE(sock, 0);
	ASSERT_EQ(0, ioctl(NEW_FD, TUNSETOFFLOAD, TUN_F_CSUM));
	packet_make(&pkt, false, IPPROTO_UDP, 100);
	for (order = NATIVE; order <= BE; order++) {
		hdr = needs_csum(&pkt);
		ASSERT_EQ(0, ioctl(OLD_FD, TUNSETVNETLE,
				   order == LE ? &on : &off));
		if (order == BE && ioctl(OLD_FD, TUNSETVNETBE, &on))
			break; /* not with this kernel's configuration */
		RESTORE(TUN_STATE_VNET);

		ASSERT_EQ(pkt.len, vnet_send(sock, &hdr, &pkt));
		copy = pkt;
		ASSERT_EQ(pkt.len, vnet_read(NEW_FD, &got, &copy));
		if (order == LE) {
			hdr.csum_start = htole16(hdr.csum_start);
			hdr.csum_offset = htole16(hdr.csum_offset);
		} else if (order == BE) {
			hdr.csum_start = htobe16(hdr.csum_start);
			hdr.csum_offset = htobe16(hdr.csum_offset);
		}
		EXPECT_EQ(VIRTIO_NET_HDR_F_NEEDS_CSUM, got.flags);
		EXPECT_EQ(hdr.csum_start, got.csum_start);
		EXPECT_EQ(hdr.csum_offset, got.csum_offset);

		memcpy(buf, &hdr, sizeof(hdr));
		memcpy(buf + sizeof(hdr), pkt.data, pkt.len);
		ASSERT_EQ(sizeof(hdr) + pkt.len,
			  write(NEW_FD, buf, sizeof(hdr) + pkt.len));
		n = recv(sock, buf, sizeof(buf), 0);
		ASSERT_EQ(sizeof(hdr) + pkt.len, n);
		memcpy(&got, buf, sizeof(got));
		EXPECT_EQ(VIRTIO_NET_HDR_F_NEEDS_CSUM, got.flags);
		EXPECT_EQ(pkt.l4, got.csum_start);
		EXPECT_EQ(6, got.csum_offset);
	}
	close(sock);
}

/* With TUN_F_CSUM the reader completes a checksum, without it the host */
TEST_F(tap, offload_csum)
{
	static const int proto[] = { IPPROTO_TCP, IPPROTO_UDP };
	int sock = vnet_socket(self->p.name[NEW]);
	struct virtio_net_hdr hdr, got;
	struct packet pkt, copy;
	unsigned int i, csum;

	ASSERT_GE(sock, 0);
	for (i = 0; i < 16; i++) {
		csum = i / 4 % 2 ? TUN_F_CSUM : 0;
		ASSERT_EQ(0, ioctl(OLD_FD, TUNSETOFFLOAD, csum));
		RESTORE(TUN_STATE_OFFLOAD);
		packet_make(&pkt, i & 1, proto[i / 2 % 2], 333);
		hdr = needs_csum(&pkt);
		ASSERT_EQ(pkt.len, vnet_send(sock, &hdr, &pkt));
		copy = pkt;
		ASSERT_EQ(pkt.len, vnet_read(NEW_FD, &got, &copy));
		if (csum) {
			EXPECT_EQ(VIRTIO_NET_HDR_F_NEEDS_CSUM, got.flags);
			EXPECT_EQ(pkt.l4, got.csum_start);
			EXPECT_EQ(0, memcmp(pkt.data, copy.data, pkt.len));
		} else {
			EXPECT_EQ(0, got.flags);
			EXPECT_EQ(0xffff, sum16(copy.data + copy.l4,
						copy.len - copy.l4,
						pseudo_sum(&copy)));
		}
	}
	close(sock);
}

#define GSO_SIZE 800
#define SEGMENTS 3

static const struct gso {
	const char *what;
	uint32_t needs;		/* other offloads than TUN_F_CSUM */
	bool v6;
	int proto;
	int type;
} gso[] = {
	{ "TSO4", TUN_F_TSO4, false, IPPROTO_TCP, VIRTIO_NET_HDR_GSO_TCPV4 },
	{ "TSO6", TUN_F_TSO6, true, IPPROTO_TCP, VIRTIO_NET_HDR_GSO_TCPV6 },
	{ "TSO4 with ECN", TUN_F_TSO4 | TUN_F_TSO_ECN, false, IPPROTO_TCP,
	  VIRTIO_NET_HDR_GSO_TCPV4 | VIRTIO_NET_HDR_GSO_ECN },
	{ "TSO6 with ECN", TUN_F_TSO6 | TUN_F_TSO_ECN, true, IPPROTO_TCP,
	  VIRTIO_NET_HDR_GSO_TCPV6 | VIRTIO_NET_HDR_GSO_ECN },
	{ "USO4", TUN_F_USO4 | TUN_F_USO6, false, IPPROTO_UDP,
	  VIRTIO_NET_HDR_GSO_UDP_L4 },
	{ "USO6", TUN_F_USO4 | TUN_F_USO6, true, IPPROTO_UDP,
	  VIRTIO_NET_HDR_GSO_UDP_L4 },
};

static void expect_segments(struct __test_metadata *_metadata,
			    struct pair *p, int sock, const struct gso *g,
			    uint32_t offload)
{
	bool whole = offload & TUN_F_CSUM &&
		     (offload & g->needs) == g->needs;
	int segments = whole ? 1 : SEGMENTS, i, len;
	struct virtio_net_hdr hdr, got = {};
	struct packet pkt, seg;

	packet_make(&pkt, g->v6, g->proto, SEGMENTS * GSO_SIZE);
	len = whole ? pkt.len : pkt.len - (SEGMENTS - 1) * GSO_SIZE;
	hdr = needs_csum(&pkt);
	hdr.gso_type = g->type;
	hdr.gso_size = GSO_SIZE;
	hdr.hdr_len = pkt.len - pkt.payload;
	ASSERT_EQ(pkt.len, vnet_send(sock, &hdr, &pkt));
	for (i = 0; i < segments; i++) {
		seg = pkt;
		ASSERT_EQ(len, vnet_read(p->fd[NEW][0], &got, &seg)) {
			TH_LOG("%s with offloads %#x, segment %d", g->what,
			       offload, i);
		}
		EXPECT_EQ(whole ? g->type : 0, got.gso_type);
		EXPECT_EQ(whole ? GSO_SIZE : 0, got.gso_size);
		EXPECT_EQ(offload & TUN_F_CSUM ?
			  VIRTIO_NET_HDR_F_NEEDS_CSUM : 0, got.flags);
		if (!offload)
			EXPECT_EQ(0xffff, sum16(seg.data + seg.l4,
						seg.len - seg.l4,
						pseudo_sum(&seg)));
		EXPECT_EQ(0, memcmp(pkt.data + pkt.len - pkt.payload +
				    i * GSO_SIZE,
				    seg.data + len - (whole ? SEGMENTS : 1) *
				    GSO_SIZE, GSO_SIZE));
	}
	EXPECT_EQ(-1, read(p->fd[NEW][0], &got, sizeof(got)));
}

/* A large packet arrives whole or in segments */
TEST_F(tap, offload_segmentation)
{
	int sock = vnet_socket(self->p.name[NEW]);
	unsigned int i, j;
	uint32_t offload, supported;

	ASSERT_GE(sock, 0);
	GET(OLD_FD, TUN_STATE_OFFLOAD);
	supported = ST.offload.supported;
	for (i = 0; i < ARRAY_SIZE(gso); i++) {
		offload = TUN_F_CSUM | gso[i].needs;
		if (offload & ~supported)
			continue;
		ASSERT_EQ(0, ioctl(OLD_FD, TUNSETOFFLOAD, offload));
		RESTORE(TUN_STATE_OFFLOAD);
		for (j = 0; j < ARRAY_SIZE(gso); j++) {
			if (!(gso[j].needs & ~supported))
				expect_segments(_metadata, &self->p, sock,
						&gso[j], offload);
		}
	}
	/* All offloads of this header, the checksum only, and none */
	supported &= ~(TUN_F_UFO | TEST_F_TUNNEL_GSO | TEST_F_TUNNEL_GSO_CSUM);
	for (i = 0; i < 3; i++) {
		offload = i ? 0 : supported;
		if (i == 1)
			offload = TUN_F_CSUM;
		ASSERT_EQ(0, ioctl(OLD_FD, TUNSETOFFLOAD, offload));
		RESTORE(TUN_STATE_OFFLOAD);
		for (j = 0; j < ARRAY_SIZE(gso); j++) {
			if (!(gso[j].needs & ~supported))
				expect_segments(_metadata, &self->p, sock,
						&gso[j], offload);
		}
	}
	close(sock);
}

/* An offload that ethtool has turned off stays off, and can be turned on again */
TEST_F(tap, offload_wanted)
{
	const uint32_t offload = TUN_F_CSUM | TUN_F_TSO4 | TUN_F_TSO6;
	struct ethtool_value tso = { .cmd = ETHTOOL_STSO };
	int sock = vnet_socket(self->p.name[NEW]);

	ASSERT_GE(sock, 0);
	ASSERT_EQ(0, ioctl(OLD_FD, TUNSETOFFLOAD, offload));
	ASSERT_EQ(0, netdev_ethtool(self->p.name[OLD], &tso));
	RESTORE(TUN_STATE_OFFLOAD);
	EXPECT_EQ(offload, ST.offload.enabled);
	EXPECT_EQ(TUN_F_CSUM, ST.offload.wanted);
	expect_segments(_metadata, &self->p, sock, &gso[0], TUN_F_CSUM);

	tso.data = 1;
	ASSERT_EQ(0, netdev_ethtool(self->p.name[NEW], &tso));
	expect_segments(_metadata, &self->p, sock, &gso[0], offload);
	/* Off again, as the state still has it */
	SET(NEW_FD, TUN_STATE_OFFLOAD);
	expect_segments(_metadata, &self->p, sock, &gso[0], TUN_F_CSUM);
	close(sock);
}

/* Offloads of tunnels, which need a larger header */
TEST_F(tap, offload_tunnel)
{
	static const uint32_t tunnel[] = {
		TEST_F_TUNNEL_GSO, TEST_F_TUNNEL_GSO | TEST_F_TUNNEL_GSO_CSUM,
	};
	uint32_t offload;
	unsigned int i;
	int size = 24;

	ASSERT_EQ(0, ioctl(OLD_FD, TUNSETVNETHDRSZ, &size));
	for (i = 0; i < ARRAY_SIZE(tunnel); i++) {
		offload = TUN_F_CSUM | TUN_F_TSO4 | TUN_F_TSO6 | tunnel[i];
		if (ioctl(OLD_FD, TUNSETOFFLOAD, offload)) {
			GET(NEW_FD, TUN_STATE_OFFLOAD);
			EXPECT_EQ(0, ST.offload.supported & tunnel[i]);
			ST.offload.enabled = offload;
			SET_FAILS(EINVAL, TUN_STATE_OFFLOAD,
				  TUN_STATE_OFFLOAD);
			continue;
		}
		RESTORE(TUN_STATE_OFFLOAD | TUN_STATE_VNET);
		expect_headers(_metadata, &self->p, self->p.flags, size);
		GET(NEW_FD, TUN_STATE_OFFLOAD);
		EXPECT_EQ(offload, ST.offload.enabled);
		EXPECT_EQ(tunnel[i], ST.offload.supported & tunnel[i]);
	}
}

/* txfilter */

/* The Ethernet CRC, computed bit by bit */
static unsigned int address_hash(const unsigned char *addr)
{
	uint32_t crc = 0xffffffff;
	int i, bit;

	for (i = 0; i < ETH_ALEN; i++) {
		for (bit = 0; bit < 8; bit++) {
			bool xor = (crc >> 31) ^ (addr[i] >> bit & 1);

			crc = crc << 1 ^ (xor ? 0x04c11db7 : 0);
		}
	}
	return crc >> 26;
}

/* One of the multicast addresses with a hash */
static void hashed_address(unsigned char *addr, unsigned int hash)
{
	static const unsigned char first[ETH_ALEN] = { 0x01, 0x00, 0x5e };

	memcpy(addr, first, ETH_ALEN);
	while (address_hash(addr) != hash)
		if (!++addr[5])
			addr[4]++;
}

static bool address_passes(struct pair *p, const unsigned char *addr)
{
	unsigned char frame[FRAME_SIZE], buf[2 * FRAME_SIZE];

	frame_make(frame, true, 0);
	memcpy(frame, addr, ETH_ALEN);
	return pass(p, 0, frame, FRAME_SIZE, buf, sizeof(buf)) > 0;
}

static bool unicast_passes(struct pair *p, unsigned char last)
{
	unsigned char addr[ETH_ALEN] = { 2, 0, 0, 0, 0, last };

	return address_passes(p, addr);
}

/* The hashes whose multicast addresses pass */
static uint64_t hashes_passing(struct pair *p)
{
	unsigned char addr[ETH_ALEN];
	uint64_t hashes = 0;
	unsigned int hash;

	for (hash = 0; hash < 64; hash++) {
		hashed_address(addr, hash);
		if (address_passes(p, addr))
			hashes |= 1ULL << hash;
	}
	return hashes;
}

struct address_list {
	struct tun_filter head;
	unsigned char addr[24][ETH_ALEN];
};

static void add_unicast(struct address_list *list, unsigned char last)
{
	unsigned char *addr = list->addr[list->head.count++];

	memset(addr, 0, ETH_ALEN);
	addr[0] = 2;
	addr[5] = last;
}

TEST_F(tap, txfilter_exact)
{
	unsigned char addr[ETH_ALEN] = { 0x01, 0, 0x5e, 1, 2, 3 };
	struct address_list list = {};
	int i;

	for (i = 0; i < 7; i++)
		add_unicast(&list, 10 + i);
	memcpy(list.addr[list.head.count++], addr, ETH_ALEN);
	ASSERT_EQ(8, ioctl(OLD_FD, TUNSETTXFILTER, &list));
	RESTORE(TUN_STATE_TXFILTER);
	EXPECT_EQ(8, ST.txfilter.count);
	EXPECT_EQ(0, ST.txfilter.hash);
	EXPECT_EQ(0, memcmp(list.addr, ST.txfilter.addr,
			    sizeof(ST.txfilter.addr)));
	for (i = 0; i < 30; i++)
		EXPECT_EQ(i >= 10 && i < 17, unicast_passes(&self->p, i));
	EXPECT_TRUE(address_passes(&self->p, addr));
	addr[5]++;
	EXPECT_FALSE(address_passes(&self->p, addr));

	/* Fewer addresses: the remains of the others have no effect */
	list.head.count = 2;
	ASSERT_EQ(2, ioctl(OLD_FD, TUNSETTXFILTER, &list));
	RESTORE(TUN_STATE_TXFILTER);
	EXPECT_EQ(2, ST.txfilter.count);
	for (i = 0; i < 30; i++)
		EXPECT_EQ(i == 10 || i == 11, unicast_passes(&self->p, i));

	list.head.count = 0;
	ASSERT_EQ(0, ioctl(OLD_FD, TUNSETTXFILTER, &list));
	RESTORE(TUN_STATE_TXFILTER);
	EXPECT_EQ(0, ST.txfilter.count);
	EXPECT_TRUE(unicast_passes(&self->p, 20));
}

TEST_F(tap, txfilter_hashed)
{
	static const unsigned int hashes[] = { 0, 5, 31, 32, 40, 63 };
	struct address_list list = {};
	uint64_t expected = 0;
	unsigned int i;

	for (i = 0; i < 8; i++)
		add_unicast(&list, 10 + i);
	for (i = 0; i < ARRAY_SIZE(hashes); i++) {
		hashed_address(list.addr[list.head.count++], hashes[i]);
		expected |= 1ULL << hashes[i];
		ASSERT_EQ(8, ioctl(OLD_FD, TUNSETTXFILTER, &list));
		RESTORE(TUN_STATE_TXFILTER);
		EXPECT_EQ(8, ST.txfilter.count);
		EXPECT_EQ(expected, ST.txfilter.hash);
		EXPECT_EQ(expected, hashes_passing(&self->p));
		EXPECT_TRUE(unicast_passes(&self->p, 17));
		EXPECT_FALSE(unicast_passes(&self->p, 18));
	}
}

TEST_F(tap, txfilter_allmulti)
{
	struct address_list list = { .head.flags = TUN_FLT_ALLMULTI };

	add_unicast(&list, 10);
	ASSERT_EQ(1, ioctl(OLD_FD, TUNSETTXFILTER, &list));
	RESTORE(TUN_STATE_TXFILTER);
	EXPECT_EQ(1, ST.txfilter.count);
	EXPECT_EQ(UINT64_MAX, ST.txfilter.hash);
	EXPECT_EQ(UINT64_MAX, hashes_passing(&self->p));
	EXPECT_TRUE(unicast_passes(&self->p, 10));
	EXPECT_FALSE(unicast_passes(&self->p, 11));
}

/* The kernel turns the filter off; TUNSETSTATE restores it as off */
TEST_F(tap, txfilter_ninth_unicast)
{
	struct address_list list = {};
	int i;

	add_unicast(&list, 10);
	ASSERT_EQ(1, ioctl(NEW_FD, TUNSETTXFILTER, &list));
	EXPECT_FALSE(unicast_passes(&self->p, 50));
	for (i = 1; i < 9; i++)
		add_unicast(&list, 10 + i);
	ASSERT_EQ(0, ioctl(OLD_FD, TUNSETTXFILTER, &list));
	RESTORE(TUN_STATE_TXFILTER);
	EXPECT_EQ(0, ST.txfilter.count);
	EXPECT_EQ(0, ST.txfilter.hash);
	EXPECT_TRUE(unicast_passes(&self->p, 50));
	EXPECT_EQ(UINT64_MAX, hashes_passing(&self->p));
}

TEST_F(tap, txfilter_invalid)
{
	const uint64_t groups = TUN_STATE_OWNER | TUN_STATE_TXFILTER;
	struct tun_state_txfilter good, *txfilter = &ST.txfilter;
	struct address_list list = {};

	add_unicast(&list, 10);
	ASSERT_EQ(1, ioctl(NEW_FD, TUNSETTXFILTER, &list));
	GET(NEW_FD, groups);
	good = *txfilter;
	ST.owner.uid = 99;
#define INVALID(field, value)						\
	do {								\
		*txfilter = good;					\
		(field) = (value);					\
		SET_FAILS(EINVAL, groups, TUN_STATE_TXFILTER);		\
	} while (0)
	INVALID(txfilter->count, 9);
	INVALID(txfilter->count, UINT_MAX);
	INVALID(txfilter->count, 0);	/* with an address */
	INVALID(txfilter->addr[1][0], 2);
	INVALID(txfilter->addr[7][5], 1);
	INVALID(txfilter->reserved, 1);
	*txfilter = good;
	memset(txfilter->addr, 0, sizeof(txfilter->addr));
	txfilter->count = 0;
	txfilter->hash = 1ULL << 63;
	SET_FAILS(EINVAL, groups, TUN_STATE_TXFILTER);
#undef INVALID
	EXPECT_TRUE(unicast_passes(&self->p, 10));
	EXPECT_FALSE(unicast_passes(&self->p, 11));
}

/* sockfilter */

/* Each mark has another length: 0 is dropped, 255 is whole */
static const struct sock_filter by_mark[] = {
	BPF_STMT(BPF_LD | BPF_B | BPF_ABS, FRAME_MARK),
	BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, 255, 0, 1),
	BPF_STMT(BPF_RET | BPF_K, 0xffff),
	BPF_STMT(BPF_RET | BPF_A, 0),
};

static int mark_length(struct pair *p, int queue, int mark)
{
	int header = p->flags & IFF_VNET_HDR ? 10 : 0, n;
	unsigned char frame[FRAME_SIZE], buf[2 * FRAME_SIZE];

	frame_make(frame, true, mark);
	n = pass(p, queue, frame, FRAME_SIZE, buf, sizeof(buf));
	return n < header ? 0 : n - header;
}

static void expect_by_mark(struct __test_metadata *_metadata, struct pair *p,
			   int queue, bool filtered)
{
	static const int marks[] = { 0, 15, 20, 63, 64, 200, 255 };
	unsigned int i;

	for (i = 0; i < ARRAY_SIZE(marks); i++)
		EXPECT_EQ(filtered && marks[i] < FRAME_SIZE ? marks[i] :
			  FRAME_SIZE, mark_length(p, queue, marks[i]));
}

TEST_F(tap, sockfilter)
{
	struct tun_fprog fprog;
	struct ifreq ifr;

	if (no_sockfilter())
		SKIP(return, "%s", no_sockfilter());
	ASSERT_EQ(0, tun_attach_filter(OLD_FD, by_mark, ARRAY_SIZE(by_mark)));
	RESTORE(TUN_STATE_SOCKFILTER);
	expect_by_mark(_metadata, &self->p, 0, true);
	ASSERT_EQ(0, ioctl(NEW_FD, TUN_GET_FILTER, &fprog));
	EXPECT_EQ(ARRAY_SIZE(by_mark), fprog.len);
	EXPECT_EQ((uintptr_t)self->p.st.insns, fprog.insns);
	ASSERT_EQ(0, ioctl(NEW_FD, TUNGETIFF, &ifr));
	EXPECT_EQ(self->p.flags & ~IFF_NO_PI,
		  ifr.ifr_flags & ~IFF_NO_PI);

	/* Overwrite the memory that the program was read from */
	memset(&self->p.st, 0xff, sizeof(self->p.st));
	GET(NEW_FD, TUN_STATE_SOCKFILTER);
	EXPECT_EQ(ARRAY_SIZE(by_mark), ST.sockfilter.count);
	EXPECT_EQ(0, memcmp(by_mark, self->p.st.insns, sizeof(by_mark)));
	expect_by_mark(_metadata, &self->p, 0, true);

	ASSERT_EQ(0, tun_detach_filter(OLD_FD));
	RESTORE(TUN_STATE_SOCKFILTER);
	expect_by_mark(_metadata, &self->p, 0, false);
	/* The state after TUNDETACHFILTER */
	ASSERT_EQ(0, ioctl(NEW_FD, TUN_GET_FILTER, &fprog));
	EXPECT_EQ(ARRAY_SIZE(by_mark), fprog.len);
}

TEST_F(tap, sockfilter_room)
{
	static const struct sock_filter none[ARRAY_SIZE(by_mark)];
	unsigned int room;

	ASSERT_EQ(0, tun_attach_filter(NEW_FD, by_mark, ARRAY_SIZE(by_mark)));
	for (room = 0; room < ARRAY_SIZE(by_mark); room++) {
		memset(&self->p.st, 0, sizeof(self->p.st));
		state_point(&self->p.st);
		ST.mask = TUN_STATE_SOCKFILTER | TUN_STATE_OWNER;
		ST.sockfilter.count = room;
		EXPECT_EQ(-1, ioctl(NEW_FD, TUNGETSTATE, &ST));
		EXPECT_EQ(ENOSPC, errno);
		EXPECT_EQ(TUN_STATE_SOCKFILTER, ST.failed);
		EXPECT_EQ(TUN_STATE_SOCKFILTER | TUN_STATE_OWNER, ST.mask);
		EXPECT_EQ(ARRAY_SIZE(by_mark), ST.sockfilter.count);
		EXPECT_EQ((uintptr_t)self->p.st.insns, ST.sockfilter.entries);
		EXPECT_EQ(0, memcmp(none, self->p.st.insns, sizeof(none)));
	}
	/* The returned size is enough */
	ASSERT_EQ(0, ioctl(NEW_FD, TUNGETSTATE, &ST));
	EXPECT_EQ(0, memcmp(by_mark, self->p.st.insns, sizeof(by_mark)));
	ST.sockfilter.entries = 8;
	EXPECT_EQ(-1, ioctl(NEW_FD, TUNGETSTATE, &ST));
	EXPECT_EQ(EFAULT, errno);
}

TEST_F(tap, sockfilter_invalid)
{
	const uint64_t groups = TUN_STATE_OWNER | TUN_STATE_SOCKFILTER;
	static struct sock_filter insns[BPF_MAXINSNS + 1];
	struct tun_state_array *sockfilter = &ST.sockfilter;
	struct tun_fprog before, after;
	unsigned int i;

	if (no_sockfilter())
		SKIP(return, "%s", no_sockfilter());
	ASSERT_EQ(0, tun_attach_filter(NEW_FD, by_mark, ARRAY_SIZE(by_mark)));
	ASSERT_EQ(0, ioctl(NEW_FD, TUN_GET_FILTER, &before));
	GET(NEW_FD, groups);
	ST.owner.uid = 99;
	sockfilter->entries = (uintptr_t)insns;

	/* No return at the end, no instruction at all, a jump to nowhere */
	sockfilter->count = 1;
	insns[0] = (struct sock_filter)BPF_STMT(BPF_LD | BPF_IMM, 0);
	SET_FAILS(EINVAL, groups, TUN_STATE_SOCKFILTER);
	insns[0].code = 0xffff;
	SET_FAILS(EINVAL, groups, TUN_STATE_SOCKFILTER);
	sockfilter->count = 2;
	insns[0] = (struct sock_filter)BPF_STMT(BPF_JMP | BPF_JA, 1);
	insns[1] = (struct sock_filter)BPF_STMT(BPF_RET, 0xffff);
	SET_FAILS(EINVAL, groups, TUN_STATE_SOCKFILTER);

	for (i = 0; i < ARRAY_SIZE(insns); i++)
		insns[i] = (struct sock_filter)BPF_STMT(BPF_RET, 0xffff);
	sockfilter->count = ARRAY_SIZE(insns);
	SET_FAILS(EINVAL, groups, TUN_STATE_SOCKFILTER);
	sockfilter->count = 0x10001;
	SET_FAILS(EINVAL, groups, TUN_STATE_SOCKFILTER);
	sockfilter->count = 1;
	sockfilter->entry_size++;
	SET_FAILS(EINVAL, groups, TUN_STATE_SOCKFILTER);
	sockfilter->entry_size--;
	sockfilter->entries = 8;
	ASSERT_EQ(EFAULT, state_set(NEW_FD, groups, &self->p.st));

	/* More memory than a socket may have, see net.core.optmem_max */
	for (i = 0; i < BPF_MAXINSNS - 1; i++)
		insns[i] = (struct sock_filter)
			BPF_STMT(BPF_LD | BPF_W | BPF_ABS, 0);
	sockfilter->entries = (uintptr_t)insns;
	sockfilter->count = BPF_MAXINSNS;
	SET_FAILS(ENOMEM, groups, TUN_STATE_SOCKFILTER);
	ASSERT_EQ(-1, tun_attach_filter(NEW_FD, insns, BPF_MAXINSNS));
	EXPECT_EQ(ENOMEM, errno);

	expect_by_mark(_metadata, &self->p, 0, true);
	ASSERT_EQ(0, ioctl(NEW_FD, TUN_GET_FILTER, &after));
	EXPECT_EQ(before.len, after.len);
	EXPECT_EQ(before.insns, after.insns);
}

/* A queue is charged for a program while it has it. The old one makes room for the
 * new one.
 */
TEST_F_TIMEOUT(tap, sockfilter_charge, 300)
{
	static struct sock_filter insns[BPF_MAXINSNS];
	unsigned int i, n, low = 1, high = BPF_MAXINSNS;
	struct tun_state_array *sockfilter = &ST.sockfilter;

	if (no_sockfilter())
		SKIP(return, "%s", no_sockfilter());
	for (i = 0; i < BPF_MAXINSNS; i++)
		insns[i] = (struct sock_filter)
			BPF_STMT(BPF_LD | BPF_W | BPF_ABS, 0);
#define SET_LONG(n) ({							\
	unsigned int _n = (n);						\
	struct sock_filter _last = insns[_n ? _n - 1 : 0];		\
	int _err;							\
									\
	sockfilter->entries = (uintptr_t)insns;				\
	sockfilter->entry_size = sizeof(insns[0]);			\
	sockfilter->count = _n;						\
	if (_n)								\
		insns[_n - 1] = (struct sock_filter)			\
			BPF_STMT(BPF_RET | BPF_K, 0xffff);		\
	_err = state_set(NEW_FD, TUN_STATE_SOCKFILTER, &self->p.st);	\
	if (_n)								\
		insns[_n - 1] = _last;					\
	_err;								\
})
	while (high - low > 1) {
		n = (low + high) / 2;
		if (SET_LONG(n)) {
			high = n;
		} else {
			ASSERT_EQ(0, SET_LONG(0));
			low = n;
		}
	}
	for (i = 0; i < 100; i++) {
		ASSERT_EQ(0, SET_LONG(low));
		ASSERT_EQ(0, SET_LONG(low));
		ASSERT_EQ(0, SET_LONG(low - 1));
		ASSERT_EQ(0, SET_LONG(low));
		EXPECT_EQ(ENOMEM, SET_LONG(high));
		ASSERT_EQ(0, i % 2 ? SET_LONG(0) : tun_detach_filter(NEW_FD));
		ASSERT_EQ(0, SET_LONG(low / 3));
		ASSERT_EQ(0, SET_LONG(low / 3 - 1));
		ASSERT_EQ(0, SET_LONG(0));
	}
	EXPECT_EQ(ENOMEM, SET_LONG(high));
	/* TUNATTACHFILTER has the same limit */
	insns[low - 1] = (struct sock_filter)BPF_STMT(BPF_RET, 0xffff);
	EXPECT_EQ(0, tun_attach_filter(NEW_FD, insns, low));
	EXPECT_EQ(0, SET_LONG(low - 1));
	ASSERT_EQ(0, tun_detach_filter(NEW_FD));
	insns[low - 1] = insns[0];
	insns[high - 1] = (struct sock_filter)BPF_STMT(BPF_RET, 0xffff);
	EXPECT_EQ(-1, tun_attach_filter(NEW_FD, insns, high));
	EXPECT_EQ(ENOMEM, errno);
#undef SET_LONG
}

/* xdp: TUNSETSTATE cannot restore the program, and leaves it alone */
TEST_F(tap, xdp)
{
	int prog = prog_load(BPF_PROG_TYPE_XDP, XDP_DROP);
	struct bpf_prog_info info;

	ASSERT_GE(prog, 0);
	ASSERT_EQ(0, prog_info(prog, &info));
	EXPECT_TRUE(mark_received(&self->p, 0, 1));
	GET(OLD_FD, TUN_STATE_XDP);
	ASSERT_EQ(0, netdev_xdp(self->p.name[NEW], prog));
	close(prog);
	EXPECT_FALSE(mark_received(&self->p, 0, 2));
	EXPECT_TRUE(mark_passes(&self->p, 0, 3));
	SET(NEW_FD, TUN_STATE_XDP);
	EXPECT_EQ(0, ST.mask);
	EXPECT_FALSE(mark_received(&self->p, 0, 4));
	GET(NEW_FD, TUN_STATE_XDP);
	EXPECT_EQ(info.id, ST.xdp.drv_prog_id);

	ASSERT_EQ(0, netdev_xdp(self->p.name[NEW], -1));
	EXPECT_TRUE(mark_received(&self->p, 0, 5));
	SET(NEW_FD, TUN_STATE_XDP);
	EXPECT_TRUE(mark_received(&self->p, 0, 6));
}

/* Devices with several queues */

FIXTURE(queues)
{
	struct pair p;
	uint32_t hash[16];	/* of flows */
};

FIXTURE_VARIANT(queues)
{
	unsigned int flags;
};

FIXTURE_VARIANT_ADD(queues, tap)
{
	.flags = IFF_TAP | IFF_NO_PI | IFF_MULTI_QUEUE,
};

FIXTURE_VARIANT_ADD(queues, tap_napi)
{
	.flags = IFF_TAP | IFF_NO_PI | IFF_MULTI_QUEUE | IFF_NAPI,
};

FIXTURE_SETUP(queues)
{
	const char *why = pair_make(&self->p, variant->flags, QUEUES);

	if (why)
		SKIP(return, "%s", why);
}

FIXTURE_TEARDOWN(queues)
{
	pair_close(&self->p);
}

/* Open a queue as another user, with a file from root */
static int attach_as(const struct pair *p, uid_t uid, gid_t gid)
{
	struct ifreq ifr = { .ifr_flags = p->flags };
	int fd = tun_open(), status;
	pid_t pid = fork();

	if (!pid) {
		if (fd < 0 || setgroups(0, NULL) ||
		    setresgid(gid, gid, gid) || setresuid(uid, uid, uid))
			_exit(255);
		memcpy(ifr.ifr_name, p->name[NEW], IFNAMSIZ);
		_exit(ioctl(fd, TUNSETIFF, &ifr) ? errno : 0);
	}
	close(fd);
	if (pid < 0 || waitpid(pid, &status, 0) != pid || !WIFEXITED(status))
		return -1;
	return WEXITSTATUS(status);
}

TEST_F(queues, owner)
{
	ASSERT_EQ(0, ioctl(OLD_FD, TUNSETOWNER, 1234));
	RESTORE(TUN_STATE_OWNER);
	EXPECT_EQ(0, attach_as(&self->p, 1234, 1));
	EXPECT_EQ(EPERM, attach_as(&self->p, 1235, 1));

	ASSERT_EQ(0, ioctl(OLD_FD, TUNSETGROUP, 5678));
	RESTORE(TUN_STATE_OWNER);
	EXPECT_EQ(0, attach_as(&self->p, 1234, 5678));
	EXPECT_EQ(EPERM, attach_as(&self->p, 1234, 1));
	EXPECT_EQ(EPERM, attach_as(&self->p, 1235, 5678));

	/* An owner that the older ioctls cannot set */
	ST.owner.uid = -1;
	SET(OLD_FD, TUN_STATE_OWNER);
	RESTORE(TUN_STATE_OWNER);
	EXPECT_EQ(0, attach_as(&self->p, 1235, 5678));
	EXPECT_EQ(EPERM, attach_as(&self->p, 1235, 1));
}

TEST_F(queues, sndbuf_per_queue)
{
	struct pollfd pfd[2] = {
		{ .fd = NEW_FD, .events = POLLOUT },
		{ .fd = self->p.fd[NEW][1], .events = POLLOUT },
	};
	int size = 2;

	ASSERT_EQ(0, ioctl(OLD_FD, TUNSETSNDBUF, &size));
	RESTORE(TUN_STATE_SNDBUF);
	EXPECT_EQ(1, poll(pfd, 2, 0));
	EXPECT_EQ(0, pfd[0].revents);
	EXPECT_EQ(POLLOUT, pfd[1].revents);
}

/* The queue of the new device that has the only packet, or -1 */
static int only_queue(struct pair *p)
{
	unsigned char buf[2 * FRAME_SIZE];
	int found = -1;
	unsigned int q;

	for (q = 0; q < QUEUES; q++) {
		while (read(p->fd[NEW][q], buf, sizeof(buf)) > 0) {
			if (found >= 0)
				return -1;
			found = q;
		}
	}
	return found;
}

static int mark_queue(struct pair *p, int mark)
{
	if (send_marks(p, mark, mark + 1))
		return -1;
	return only_queue(p);
}

static int steering_prog(int fd, int index)
{
	int prog = prog_load(BPF_PROG_TYPE_SOCKET_FILTER, index);

	if (prog < 0 || ioctl(fd, TUNSETSTEERINGEBPF, &prog)) {
		close(prog);
		return -1;
	}
	return prog;
}

TEST_F(queues, steering)
{
	int none = -1, prog, q;

	for (q = QUEUES; q >= 0; q--) {
		prog = steering_prog(OLD_FD, q);
		ASSERT_GE(prog, 0);
		GET(OLD_FD, TUN_STATE_STEERING);
		SET_FAILS(EBADF, TUN_STATE_STEERING, TUN_STATE_STEERING);
		ST.steering.action = TUN_STATE_PROG_FD;
		ST.steering.fd = prog;
		SET(NEW_FD, TUN_STATE_STEERING);
		close(prog);
		EXPECT_EQ(q % QUEUES, mark_queue(&self->p, 1));

		/* Remove the program, and restore it by its id */
		HOLD(NEW_FD, TUN_STATE_STEERING);
		ASSERT_EQ(0, ioctl(NEW_FD, TUNSETSTEERINGEBPF, &none));
		ASSERT_LE(0, mark_queue(&self->p, 1));
		SET(NEW_FD, TUN_STATE_STEERING);
		EXPECT_EQ(q % QUEUES, mark_queue(&self->p, 1));
	}
}

/* Queues with and without the program */
TEST_F(queues, sockfilter_per_queue)
{
	const uint64_t groups = TUN_STATE_SOCKFILTER | TUN_STATE_QUEUE;
	const uint32_t has = TUN_STATE_QUEUE_SOCKFILTER;
	int prog, q, round;

	if (no_sockfilter())
		SKIP(return, "%s", no_sockfilter());
	ASSERT_EQ(0, tun_attach_filter(OLD_FD, by_mark, ARRAY_SIZE(by_mark)));
	/* A queue that is attached with IFF_NO_PI has none */
	close(self->p.fd[OLD][3]);
	self->p.fd[OLD][3] = tun_queue(self->p.name[OLD], variant->flags);
	ASSERT_GE(self->p.fd[OLD][3], 0);
	/* Take it from another queue */
	GET(self->p.fd[OLD][1], TUN_STATE_QUEUE);
	EXPECT_EQ(has, ST.queue.flags & has);
	ST.queue.flags &= ~has;
	SET(self->p.fd[OLD][1], TUN_STATE_QUEUE);

	/* The first queue brings the program, and has it or not */
	for (round = 0; round < 2; round++) {
		ASSERT_EQ(0, tun_detach_filter(NEW_FD));
		for (q = 0; q < QUEUES; q++)
			RESTORE_QUEUE(round ? QUEUES - 1 - q : q, groups);
		for (q = 0; q < QUEUES; q++) {
			prog = steering_prog(NEW_FD, q);
			ASSERT_GE(prog, 0);
			close(prog);
			expect_by_mark(_metadata, &self->p, q, q % 2 == 0);
		}
	}

	/* Give it to a queue that has none */
	GET(self->p.fd[NEW][3], TUN_STATE_QUEUE);
	EXPECT_EQ(0, ST.queue.flags & has);
	ST.queue.flags |= has;
	SET(self->p.fd[NEW][3], TUN_STATE_QUEUE);
	expect_by_mark(_metadata, &self->p, 3, true);

	/* No program, but this queue has it */
	GET(NEW_FD, groups);
	EXPECT_EQ(has, ST.queue.flags & has);
	ST.sockfilter.count = 0;
	SET_FAILS(EINVAL, groups, TUN_STATE_SOCKFILTER);
	expect_by_mark(_metadata, &self->p, 3, true);
	ST.queue.flags &= ~has;
	SET(NEW_FD, groups);
	expect_by_mark(_metadata, &self->p, 3, false);
	/* The device has no program to give to a queue */
	ST.queue.flags |= has;
	SET_FAILS(EINVAL, TUN_STATE_QUEUE, TUN_STATE_QUEUE);
}

/* flows */

#define FLOWS ARRAY_SIZE(((FIXTURE_DATA(queues) *)0)->hash)

/* A device learns a flow from packets that are written to it, and steers the
 * packets of that flow to the same queue
 */
static void flow_packet(struct packet *pkt, unsigned int flow, bool back)
{
	unsigned char *ip = pkt->data + ETH_HLEN, *l4, addr[4];

	packet_make(pkt, false, IPPROTO_UDP, 10);
	l4 = pkt->data + pkt->l4;
	put16(l4, back ? 53 : 10000 + flow);
	put16(l4 + 2, back ? 10000 + flow : 53);
	/* None */
	put16(l4 + 6, 0);
	if (back) {
		memcpy(addr, ip + 12, 4);
		memcpy(ip + 12, ip + 16, 4);
		memcpy(ip + 16, addr, 4);
	}
}

static int flow_write(int fd, unsigned int flow)
{
	struct packet pkt;

	flow_packet(&pkt, flow, false);
	return write(fd, pkt.data, pkt.len) == (ssize_t)pkt.len ? 0 : -1;
}

/* The queue that a packet of a flow is put on */
static int flow_queue(struct pair *p, unsigned int flow)
{
	struct packet pkt;

	flow_packet(&pkt, flow, true);
	if (send(p->sock, pkt.data, pkt.len, 0) != (ssize_t)pkt.len)
		return -1;
	return only_queue(p);
}

/* The queue of an unknown flow: reciprocal_scale() */
static int default_queue(uint32_t hash, unsigned int queues)
{
	return (uint64_t)hash * queues >> 32;
}

static struct tun_state_flow *find_flow(struct state *st, uint32_t hash)
{
	unsigned int i;

	for (i = 0; i < st->s.flows.count; i++)
		if (st->flows[i].rxhash == hash)
			return &st->flows[i];
	return NULL;
}

/* Learn the hash of each flow, on the old device */
#define LEARN_HASHES()							\
	do {								\
		unsigned int _f, _i, _j;				\
									\
		ASSERT_EQ(0, netdev_up(self->p.name[OLD]));		\
		for (_f = 0; _f < FLOWS; _f++) {			\
			ASSERT_EQ(0, flow_write(OLD_FD, _f));		\
			GET(OLD_FD, TUN_STATE_FLOWS);			\
			for (_i = 0; _i < ST.flows.count; _i++) {	\
				self->hash[_f] = self->p.st.flows[_i].rxhash; \
				for (_j = 0; _j < _f; _j++)		\
					if (self->hash[_j] == self->hash[_f]) \
						break;			\
				if (_j == _f)				\
					break;				\
			}						\
			ASSERT_LT(_i, ST.flows.count);			\
		}							\
	} while (0)

/* An unused flow expires after some seconds: a test must check that its flows
 * are still there at the end, or else start again.
 */
#define RETRIES 20

/* Write a packet of each flow to a queue of the new device, read the flows, and
 * send packets back; none has expired meanwhile.
 */
static int flow_queues(struct pair *p, const int *queue, int *seen)
{
	unsigned int f;
	int try;

	for (try = 0; try < RETRIES; try++) {
		for (f = 0; f < FLOWS; f++)
			if (flow_write(p->fd[NEW][queue[f]], f))
				return -1;
		for (f = 0; f < FLOWS; f++)
			seen[f] = flow_queue(p, f);
		if (state_get(p->fd[NEW][0], TUN_STATE_FLOWS, &p->st))
			return -1;
		if (p->st.s.flows.count == FLOWS)
			return 0;
	}
	return -1;
}

/* A packet goes where the report says, and TUNSETSTATE leaves the table alone */
TEST_F(queues, flows)
{
	int queue[FLOWS], seen[FLOWS], shift;
	struct tun_state_flow *flow;
	unsigned int f;

	LEARN_HASHES();
	for (shift = 0; shift < QUEUES; shift++) {
		for (f = 0; f < FLOWS; f++)
			queue[f] = (f + shift) % QUEUES;
		ASSERT_EQ(0, flow_queues(&self->p, queue, seen));
		for (f = 0; f < FLOWS; f++) {
			flow = find_flow(&self->p.st, self->hash[f]);
			ASSERT_NE(NULL, flow);
			EXPECT_EQ(queue[f], flow->queue_index);
			EXPECT_EQ(queue[f], seen[f]);
			flow->queue_index = 0;
		}
		SET(NEW_FD, TUN_STATE_FLOWS);
		EXPECT_EQ(0, ST.mask);
		ASSERT_EQ(0, flow_queues(&self->p, queue, seen));
		for (f = 0; f < FLOWS; f++)
			EXPECT_EQ(queue[f], seen[f]);
	}
}

/* A packet renews the age of its flow, and moves it to its queue */
TEST_F(queues, flows_age)
{
	struct tun_state_flow *old, *used;
	int try;

	LEARN_HASHES();
	for (try = 0; try < RETRIES; try++) {
		ASSERT_EQ(0, flow_write(self->p.fd[NEW][3], 0));
		ASSERT_EQ(0, flow_write(self->p.fd[NEW][3], 1));
		usleep(200000);
		ASSERT_EQ(0, flow_write(self->p.fd[NEW][1], 1));
		GET(NEW_FD, TUN_STATE_FLOWS);
		old = find_flow(&self->p.st, self->hash[0]);
		used = find_flow(&self->p.st, self->hash[1]);
		if (old && used)
			break;
	}
	ASSERT_LT(try, RETRIES);
	EXPECT_EQ(3, old->queue_index);
	EXPECT_LE(190, old->age_ms);
	EXPECT_GT(60000, old->age_ms);
	EXPECT_EQ(1, used->queue_index);
	EXPECT_LT(used->age_ms, old->age_ms);
}

TEST_F(queues, flows_room)
{
	static const struct tun_state_flow none;
	unsigned int room, f;
	int try;

	for (room = 0; room < 3; room++) {
		for (try = 0; try < RETRIES; try++) {
			for (f = 0; f < 3; f++)
				ASSERT_EQ(0, flow_write(NEW_FD, f));
			memset(&self->p.st, 0, sizeof(self->p.st));
			state_point(&self->p.st);
			ST.mask = TUN_STATE_FLOWS | TUN_STATE_OWNER;
			ST.flows.count = room;
			if (ioctl(NEW_FD, TUNGETSTATE, &ST) &&
			    ST.flows.count == 3)
				break;
		}
		ASSERT_LT(try, RETRIES);
		EXPECT_EQ(ENOSPC, errno);
		EXPECT_EQ(TUN_STATE_FLOWS, ST.failed);
		EXPECT_EQ(TUN_STATE_FLOWS | TUN_STATE_OWNER, ST.mask);
		EXPECT_EQ((uintptr_t)self->p.st.flows, ST.flows.entries);
		EXPECT_EQ(0, memcmp(&none, self->p.st.flows, sizeof(none)));
	}
}

static int detach(int fd, bool by_state)
{
	struct state st;

	if (!by_state)
		return tun_set_queue(fd, IFF_DETACH_QUEUE);
	if (state_get(fd, TUN_STATE_QUEUE, &st))
		return -1;
	st.s.queue.flags &= ~TUN_STATE_QUEUE_ATTACHED;
	st.s.queue.index = 0;
	return state_set(fd, TUN_STATE_QUEUE, &st);
}

/* Attach a queue at the index that it had */
static int attach_at(int fd, unsigned int index)
{
	struct state st;

	if (tun_set_queue(fd, IFF_ATTACH_QUEUE) ||
	    state_get(fd, TUN_STATE_QUEUE, &st))
		return -1;
	st.s.queue.index = index;
	return state_set(fd, TUN_STATE_QUEUE, &st);
}

/* The flows of a queue go when it is detached, and those of the last queue,
 * which takes its index. Without their flows packets go to one of the queues that
 * are there; with them they would go to a queue that is not.
 */
static void detach_with_flows(struct __test_metadata *_metadata,
			      struct _test_data_queues *self, int gone,
			      bool by_state)
{
	int queue[FLOWS], seen[FLOWS], expected[FLOWS], try;
	int fd = self->p.fd[NEW][gone];
	unsigned int f, stay = 0;

	for (f = 0; f < FLOWS; f++) {
		queue[f] = f % QUEUES;
		expected[f] = queue[f];
		if (queue[f] != gone && queue[f] != QUEUES - 1) {
			stay++;
			continue;
		}
		expected[f] = default_queue(self->hash[f], QUEUES - 1);
		if (expected[f] == gone)
			expected[f] = QUEUES - 1;
	}
	for (try = 0; try < RETRIES; try++) {
		ASSERT_EQ(0, flow_queues(&self->p, queue, seen));
		ASSERT_EQ(0, detach(fd, by_state));
		for (f = 0; f < FLOWS; f++)
			seen[f] = flow_queue(&self->p, f);
		GET(fd, TUN_STATE_FLOWS);
		ASSERT_EQ(0, attach_at(fd, gone));
		for (f = 0; f < ST.flows.count; f++) {
			EXPECT_NE(gone, self->p.st.flows[f].queue_index);
			EXPECT_GT(QUEUES - 1,
				  self->p.st.flows[f].queue_index);
		}
		EXPECT_GE(stay, ST.flows.count);
		/* Others may have expired */
		if (ST.flows.count >= stay)
			break;
	}
	ASSERT_LT(try, RETRIES);
	for (f = 0; f < FLOWS; f++)
		EXPECT_EQ(expected[f], seen[f]);
}

TEST_F(queues, flows_of_detached)
{
	int gone;

	if (flows_stay())
		SKIP(return, "%s", flows_stay());
	LEARN_HASHES();
	for (gone = 0; gone < QUEUES; gone++) {
		detach_with_flows(_metadata, self, gone, false);
		detach_with_flows(_metadata, self, gone, true);
	}
}

/* Order of the queues */

#define ATTACHED TUN_STATE_QUEUE_ATTACHED

/* Detach and attach some queues of the old device */
static int scramble(struct pair *p, unsigned int seed)
{
	static const int moves[][8] = {
		{ 0 }, { 0, 0 }, { 1, 3, 1, 3, 0 }, { 3, 2, 1, 0, 3, 1 },
		{ 2, 0, 1, 3 }, { 0, 1, 1, 2 }, { 3, 0, 2, 0, 3 },
	};
	static const unsigned int n[] = { 0, 2, 5, 6, 4, 4, 5 };
	bool detached[QUEUES] = {};
	unsigned int i;

	if (seed >= ARRAY_SIZE(n))
		return -1;
	for (i = 0; i < n[seed]; i++) {
		int q = moves[seed][i];

		if (tun_set_queue(p->fd[OLD][q], detached[q] ?
				  IFF_ATTACH_QUEUE : IFF_DETACH_QUEUE))
			return -1;
		detached[q] = !detached[q];
	}
	return 0;
}

/* Restore the attached queues in ascending order, then the detached ones */
#define RESTORE_ORDER()							\
	do {								\
		struct state _q[QUEUES];				\
		unsigned int _i, _n, _attached;				\
									\
		for (_i = 0; _i < QUEUES; _i++)				\
			ASSERT_EQ(0, state_get(self->p.fd[OLD][_i],	\
					       TUN_STATE_QUEUE, &_q[_i])); \
		for (_n = 0; _n < 2 * QUEUES; _n++) {			\
			_attached = _n < QUEUES ? ATTACHED : 0;		\
			for (_i = 0; _i < QUEUES; _i++) {		\
				struct tun_state_queue *_queue =	\
					&_q[_i].s.queue;		\
									\
				if ((_queue->flags & ATTACHED) != _attached || \
				    _queue->index != _n % QUEUES)	\
					continue;			\
				ASSERT_EQ(0, state_set(self->p.fd[NEW][_i], \
						       TUN_STATE_QUEUE,	\
						       &_q[_i]));	\
			}						\
		}							\
	} while (0)

static struct tun_state_queue queue_state(int fd)
{
	struct state st;

	if (state_get(fd, TUN_STATE_QUEUE, &st))
		st.s.queue.index = UINT_MAX;
	st.s.queue.ring_len = 0;
	return st.s.queue;
}

TEST_F(queues, queue_order)
{
	unsigned int seed, q, attached;
	struct tun_state_queue old, new;
	struct link_info li;
	int prog;

	for (seed = 0; !scramble(&self->p, seed); seed++) {
		RESTORE_ORDER();
		attached = 0;
		for (q = 0; q < QUEUES; q++) {
			old = queue_state(self->p.fd[OLD][q]);
			new = queue_state(self->p.fd[NEW][q]);
			EXPECT_EQ(0, memcmp(&old, &new, sizeof(old))) {
				TH_LOG("seed %u, queue %u: %u", seed, q,
				       new.index);
			}
			attached += !!(new.flags & ATTACHED);
		}
		ASSERT_EQ(0, netdev_info(self->p.name[NEW], &li));
		EXPECT_EQ(attached, li.queues);
		EXPECT_EQ(QUEUES - attached, li.disabled);

		/* Packets are steered by this order, too */
		ASSERT_TRUE(!attached ||
			    netdev_running(self->p.name[NEW], true));
		for (q = 0; q < QUEUES; q++) {
			new = queue_state(self->p.fd[NEW][q]);
			if (!(new.flags & ATTACHED))
				continue;
			prog = steering_prog(NEW_FD, new.index);
			ASSERT_GE(prog, 0);
			close(prog);
			EXPECT_EQ(q, mark_queue(&self->p, q));
			EXPECT_TRUE(mark_received(&self->p, q, q));
		}
		for (q = 0; q < QUEUES; q++) {
			old = queue_state(self->p.fd[OLD][q]);
			if (!(old.flags & ATTACHED))
				ASSERT_EQ(0, tun_set_queue(self->p.fd[OLD][q],
							   IFF_ATTACH_QUEUE));
		}
	}
	EXPECT_LT(5, seed);
}

/* Flows belong to the index, not to the queue that had it */
TEST_F(queues, queue_swap_flows)
{
	int queue[FLOWS], seen[FLOWS], try;
	unsigned int f;

	LEARN_HASHES();
	for (f = 0; f < FLOWS; f++)
		queue[f] = f % QUEUES;
	for (try = 0; try < RETRIES; try++) {
		ASSERT_EQ(0, flow_queues(&self->p, queue, seen));
		GET(self->p.fd[NEW][1], TUN_STATE_QUEUE);
		ST.queue.index = 3;
		SET(self->p.fd[NEW][1], TUN_STATE_QUEUE);
		for (f = 0; f < FLOWS; f++)
			seen[f] = flow_queue(&self->p, f);
		GET(self->p.fd[NEW][1], TUN_STATE_FLOWS);
		if (ST.flows.count == FLOWS)
			break;
		/* Swap them back */
		GET(self->p.fd[NEW][1], TUN_STATE_QUEUE);
		ST.queue.index = 1;
		SET(self->p.fd[NEW][1], TUN_STATE_QUEUE);
	}
	ASSERT_LT(try, RETRIES);
	for (f = 0; f < FLOWS; f++)
		EXPECT_EQ(queue[f] % 2 ? 4 - queue[f] : queue[f], seen[f]);
}

TEST_F(queues, queue_beyond)
{
	const uint64_t groups = TUN_STATE_OWNER | TUN_STATE_QUEUE;

	GET(NEW_FD, groups);
	ST.owner.uid = 99;
	ST.queue.index = QUEUES;
	SET_FAILS(EINVAL, groups, TUN_STATE_QUEUE);
	ST.queue.index = UINT_MAX;
	SET_FAILS(EINVAL, groups, TUN_STATE_QUEUE);
	ST.queue.index = 1;
	ST.queue.flags &= ~ATTACHED;
	SET_FAILS(EINVAL, groups, TUN_STATE_QUEUE);
	ST.queue.flags |= ATTACHED | 0x20;
	SET_FAILS(EINVAL, groups, TUN_STATE_QUEUE);
	ST.queue.flags &= ~0x20;
	ASSERT_EQ(0, tun_set_queue(self->p.fd[NEW][2], IFF_DETACH_QUEUE));
	ST.queue.index = QUEUES - 1;
	SET_FAILS(EINVAL, groups, TUN_STATE_QUEUE);
}

/* NAPI is fixed when a queue is made: the new queue must be of the same kind */
TEST_F(queues, queue_napi_mismatch)
{
	char name[IFNAMSIZ] = "other";
	int fd = tun_queue(name, variant->flags ^ IFF_NAPI);

	ASSERT_GE(fd, 0);
	GET(fd, TUN_STATE_QUEUE);
	EXPECT_EQ(variant->flags & IFF_NAPI ? 0 : TUN_STATE_QUEUE_NAPI,
		  ST.queue.flags & TUN_STATE_QUEUE_NAPI);
	SET_FAILS(EINVAL, TUN_STATE_QUEUE, TUN_STATE_QUEUE);
	ST.queue.flags ^= TUN_STATE_QUEUE_NAPI;
	SET(NEW_FD, TUN_STATE_QUEUE);
	ST.queue.flags ^= TUN_STATE_QUEUE_NAPI_FRAGS;
	SET_FAILS(EINVAL, TUN_STATE_QUEUE, TUN_STATE_QUEUE);
	close(fd);
}

/* A queue takes the place of a full one: packets that wait for it go on */
TEST_F(queues, queue_swap_stopped)
{
	struct ifreq ifr = { .ifr_qlen = 4 };
	struct pair *p = &self->p;
	unsigned int features;
	int i, prog;

	ASSERT_EQ(0, ioctl(NEW_FD, TUNGETFEATURES, &features));
	if (!(features & TEST_IFF_BACKPRESSURE))
		return;
	ASSERT_EQ(0, remake_new(p, variant->flags | TEST_IFF_BACKPRESSURE));
	GET(NEW_FD, TUN_STATE_IFF);
	EXPECT_EQ(TEST_IFF_BACKPRESSURE,
		  ST.iff.flags & TEST_IFF_BACKPRESSURE);
	ASSERT_EQ(0, netdev_ioctl(p->name[NEW], SIOCSIFTXQLEN, &ifr));
	ASSERT_EQ(0, sock_direct(p->sock, false));
	prog = steering_prog(NEW_FD, 1);
	ASSERT_GE(prog, 0);
	close(prog);

	ASSERT_EQ(0, send_marks(p, 0, 6));
	WAIT_FOR(ring_len(p->fd[NEW][1]) == 4);
	GET(p->fd[NEW][3], TUN_STATE_QUEUE);
	EXPECT_EQ(0, ST.queue.ring_len);
	ST.queue.index = 1;
	SET(p->fd[NEW][3], TUN_STATE_QUEUE);
	for (i = 4; i < 6; i++)
		EXPECT_EQ(i, next_mark(p, 3));
	for (i = 0; i < 4; i++)
		EXPECT_EQ(i, next_mark(p, 1));
	EXPECT_EQ(0, tx_dropped(p->name[NEW]));
	/* No reader wakes the queue at the old index any more */
	ASSERT_EQ(0, send_marks(p, 10, 12));
	for (i = 10; i < 12; i++)
		EXPECT_EQ(i, next_mark(p, 3));
}

/* Queues swap places while packets arrive: none is lost */
TEST_F(queues, queue_swap_traffic)
{
	const int packets = 4000;
	struct ifreq ifr = { .ifr_qlen = packets };
	unsigned int q, swaps = 0;
	unsigned char buf[256];
	int status, i, n = 0;
	struct packet pkt;
	pid_t pid;

	/* The ring of each queue has room for all of them */
	ASSERT_EQ(0, netdev_ioctl(self->p.name[NEW], SIOCSIFTXQLEN, &ifr));
	pid = fork();
	ASSERT_GE(pid, 0);
	if (!pid) {
		for (i = 0; i < packets; i++) {
			flow_packet(&pkt, i % FLOWS, true);
			if (send(self->p.sock, pkt.data, pkt.len, 0) < 0)
				_exit(1);
		}
		_exit(0);
	}
	do {
		q = swaps++ % QUEUES;
		GET(self->p.fd[NEW][q], TUN_STATE_QUEUE);
		ST.queue.index = (ST.queue.index + 1) % QUEUES;
		SET(self->p.fd[NEW][q], TUN_STATE_QUEUE);
		i = waitpid(pid, &status, WNOHANG);
		ASSERT_LE(0, i);
	} while (!i);
	EXPECT_EQ(0, status);
	EXPECT_LT(1, swaps);

	for (q = 0; q < QUEUES; q++)
		while (read(self->p.fd[NEW][q], buf, sizeof(buf)) > 0)
			n++;
	EXPECT_EQ(packets, n);
	EXPECT_EQ(0, tx_dropped(self->p.name[NEW]));
	for (q = 0; q < QUEUES; q++) {
		GET(self->p.fd[NEW][q], TUN_STATE_QUEUE);
		n = steering_prog(NEW_FD, ST.queue.index);
		ASSERT_GE(n, 0);
		close(n);
		EXPECT_EQ(q, mark_queue(&self->p, 1));
	}
}

TEST_HARNESS_MAIN
