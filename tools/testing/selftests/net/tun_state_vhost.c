// SPDX-License-Identifier: GPL-2.0
/*
 * TUNGETSTATE and TUNSETSTATE while vhost-net reads and writes the packets of
 * the queues. The test is the driver of the virtqueues: it keeps buffers in them
 * as a guest does, and looks at the packets.
 *
 * The test loads vhost_net if there is no /dev/vhost-net.
 *
 * TUN_STATE_CALLS is the number of calls that each thread makes.
 */
#include <endian.h>
#include <poll.h>
#include <sys/eventfd.h>
#include <linux/vhost.h>
#include <linux/virtio_config.h>
#include <linux/virtio_ring.h>

#include "../kselftest_harness.h"
#include "tun_state_threads.h"
#include "tun_state_util.h"

#define QUEUES 3
#define TYPE (IFF_TAP | IFF_MULTI_QUEUE | IFF_NO_PI | IFF_VNET_HDR)
#define HDR_SIZE 12		/* with VIRTIO_F_VERSION_1 */
#define RING_SIZE 32
#define BUF_SIZE 2048
#define WAIT_MS 20000		/* more than vhost ever takes */

enum direction { RX, TX, NR_RINGS };

/* The memory of a guest */
struct ring_memory {
	struct vring_desc desc[RING_SIZE];
	struct {
		__virtio16 flags;
		__virtio16 idx;
		__virtio16 ring[RING_SIZE];
	} avail;
	struct {
		__virtio16 flags;
		__virtio16 idx;
		struct vring_used_elem ring[RING_SIZE];
	} used;
	unsigned char buf[RING_SIZE][BUF_SIZE];
};

struct ring {
	struct ring_memory *mem;
	int kick, call;
	uint16_t next;		/* number of buffers given to vhost, in all */
	uint16_t seen;		/* of those that were taken back */
};

struct vhost {
	int fd;
	struct ring rings[NR_RINGS];
};

/* One test; each has a process of its own */
static struct {
	char name[IFNAMSIZ];
	unsigned int flags;
	int fd[QUEUES];
	struct vhost vhost[QUEUES];
	int sock;		/* for packets of the device */
	bool loaded;		/* the module, by this test */
} t;

/* Virtqueues */

static uint16_t used_idx(const struct ring *ring)
{
	return le16toh(__atomic_load_n(&ring->mem->used.idx,
				       __ATOMIC_ACQUIRE));
}

/* Buffers come back in order, so the next one is free if any is */
static bool ring_full(const struct ring *ring)
{
	return (uint16_t)(ring->next - ring->seen) == RING_SIZE;
}

static void ring_give(struct ring *ring, unsigned int len, uint16_t flags)
{
	unsigned int i = ring->next % RING_SIZE;

	ring->mem->desc[i] = (struct vring_desc){
		.addr = htole64((uintptr_t)ring->mem->buf[i]),
		.len = htole32(len), .flags = htole16(flags),
	};
	ring->mem->avail.ring[i] = htole16(i);
	ring->next++;
	__atomic_store_n(&ring->mem->avail.idx, htole16(ring->next),
			 __ATOMIC_RELEASE);
}

static void ring_kick(const struct ring *ring)
{
	uint64_t one = 1;

	if (write(ring->kick, &one, sizeof(one)) != sizeof(one))
		fail("kick: %m");
}

static void rx_fill(struct ring *ring)
{
	if (ring_full(ring))
		return;
	while (!ring_full(ring))
		ring_give(ring, BUF_SIZE, VRING_DESC_F_WRITE);
	ring_kick(ring);
}

/* Give a packet with an empty header to vhost, without a kick */
static void tx_give(struct ring *ring, unsigned char mark)
{
	unsigned char *buf = ring->mem->buf[ring->next % RING_SIZE];

	memset(buf, 0, HDR_SIZE);
	frame_make(buf + HDR_SIZE, true, mark);
	ring_give(ring, HDR_SIZE + FRAME_SIZE, 0);
}

/* Wait for vhost to give back this many buffers in all, or more */
static bool ring_wait(const struct ring *ring, uint16_t idx)
{
	struct pollfd pfd = { .fd = ring->call, .events = POLLIN };
	uint64_t count;

	while ((int16_t)(used_idx(ring) - idx) < 0) {
		if (poll(&pfd, 1, WAIT_MS) != 1)
			return false;
		if (read(ring->call, &count, sizeof(count)) < 0)
			return false;
	}
	return true;
}

/* vhost */

static int vhost_ring(struct vhost *vhost, enum direction dir)
{
	struct ring *ring = &vhost->rings[dir];
	struct vhost_vring_state state = { .index = dir, .num = RING_SIZE };
	struct vhost_vring_addr addr = {
		.index = dir,
		.desc_user_addr = (uintptr_t)&ring->mem->desc,
		.avail_user_addr = (uintptr_t)&ring->mem->avail,
		.used_user_addr = (uintptr_t)&ring->mem->used,
	};
	struct vhost_vring_file file = { .index = dir };

	ring->kick = eventfd(0, EFD_NONBLOCK);
	ring->call = eventfd(0, EFD_NONBLOCK);
	if (ring->kick < 0 || ring->call < 0 ||
	    ioctl(vhost->fd, VHOST_SET_VRING_NUM, &state))
		return -1;
	state.num = 0;
	if (ioctl(vhost->fd, VHOST_SET_VRING_BASE, &state) ||
	    ioctl(vhost->fd, VHOST_SET_VRING_ADDR, &addr))
		return -1;
	file.fd = ring->kick;
	if (ioctl(vhost->fd, VHOST_SET_VRING_KICK, &file))
		return -1;
	file.fd = ring->call;
	return ioctl(vhost->fd, VHOST_SET_VRING_CALL, &file);
}

/* Give a queue to vhost, or take it back with -1 */
static int vhost_backend(struct vhost *vhost, int fd)
{
	struct vhost_vring_file file = { .fd = fd };

	for (file.index = 0; file.index < NR_RINGS; file.index++)
		if (ioctl(vhost->fd, VHOST_NET_SET_BACKEND, &file))
			return -1;
	return 0;
}

static int vhost_open(struct vhost *vhost, int fd)
{
	const size_t size = NR_RINGS * sizeof(struct ring_memory);
	uint64_t features = 1ULL << VIRTIO_F_VERSION_1;
	struct ring_memory *mem;
	struct {
		struct vhost_memory head;
		struct vhost_memory_region region;
	} table = { .head.nregions = 1 };
	enum direction dir;

	mem = mmap(NULL, size, PROT_READ | PROT_WRITE,
		   MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (mem == MAP_FAILED)
		return -1;
	table.region.guest_phys_addr = (uintptr_t)mem;
	table.region.userspace_addr = (uintptr_t)mem;
	table.region.memory_size = size;
	vhost->fd = open("/dev/vhost-net", O_RDWR);
	if (vhost->fd < 0 || ioctl(vhost->fd, VHOST_SET_OWNER, NULL) ||
	    ioctl(vhost->fd, VHOST_SET_FEATURES, &features) ||
	    ioctl(vhost->fd, VHOST_SET_MEM_TABLE, &table))
		return -1;
	for (dir = RX; dir < NR_RINGS; dir++) {
		vhost->rings[dir].mem = &mem[dir];
		if (vhost_ring(vhost, dir))
			return -1;
	}
	rx_fill(&vhost->rings[RX]);
	return vhost_backend(vhost, fd);
}

/* As a driver that resets the virtqueues. It fails if there is no device. */
static int vhost_restart(struct vhost *vhost, int fd)
{
	struct vhost_vring_state state = {};
	struct ring *ring;

	if (vhost_backend(vhost, -1))
		return -1;
	for (; state.index < NR_RINGS; state.index++) {
		ring = &vhost->rings[state.index];
		ring->mem->avail.idx = 0;
		ring->mem->used.idx = 0;
		ring->next = 0;
		ring->seen = 0;
		if (ioctl(vhost->fd, VHOST_SET_VRING_BASE, &state))
			return -1;
	}
	rx_fill(&vhost->rings[RX]);
	return vhost_backend(vhost, fd);
}

/* Packets */

#define OTHER_LENGTH 256	/* a packet that is not as long as it should be */

/* Wait for a packet that vhost has written to the device; return its mark, or -1 */
static int host_receives(void)
{
	struct pollfd pfd = { .fd = t.sock, .events = POLLIN };
	unsigned char frame[2 * FRAME_SIZE] = {};
	ssize_t n;

	if (poll(&pfd, 1, WAIT_MS) != 1)
		return -1;
	n = recv(t.sock, frame, sizeof(frame), 0);
	if (n < 0)
		return -1;
	return n == FRAME_SIZE ? frame[FRAME_MARK] : OTHER_LENGTH;
}

static bool host_sends(unsigned char mark)
{
	unsigned char frame[FRAME_SIZE];

	frame_make(frame, true, mark);
	return send(t.sock, frame, sizeof(frame), 0) == sizeof(frame);
}

/* Wait for the next packet that a guest receives; return its mark, or -1 */
static int guest_receives(struct vhost *vhost)
{
	struct ring *ring = &vhost->rings[RX];
	unsigned int i = ring->seen % RING_SIZE;
	int mark;

	if (!ring_wait(ring, ring->seen + 1))
		return -1;
	mark = ring->mem->buf[i][HDR_SIZE + FRAME_MARK];
	if (le32toh(ring->mem->used.ring[i].len) != HDR_SIZE + FRAME_SIZE)
		mark = OTHER_LENGTH;
	ring->seen++;
	rx_fill(ring);
	return mark;
}

/* Have the device put all packets on one queue */
static int steer(unsigned int index)
{
	int prog = prog_load(BPF_PROG_TYPE_SOCKET_FILTER, index);
	int ret;

	if (prog < 0)
		return -1;
	ret = ioctl(t.fd[0], TUNSETSTEERINGEBPF, &prog);
	close(prog);
	return ret;
}

static int set_sndbuf(int fd, int size)
{
	struct state st = { .s.sndbuf.size = size };

	return state_set(fd, TUN_STATE_SNDBUF, &st);
}

static int set_vnet(int fd, unsigned int size)
{
	struct state st = { .s.vnet.hdr_size = size };

	return state_set(fd, TUN_STATE_VNET, &st);
}

static int open_packet_socket(void)
{
	int one = 1;

	t.sock = packet_socket(t.name);
	if (t.sock < 0)
		return -1;
	/* The packets are in the ring when send() returns */
	return setsockopt(t.sock, SOL_PACKET, PACKET_QDISC_BYPASS, &one,
			  sizeof(one));
}

FIXTURE(vhost)
{
};

FIXTURE_VARIANT(vhost)
{
	unsigned int flags;
};

FIXTURE_VARIANT_ADD(vhost, plain)
{
	.flags = 0,
};

FIXTURE_VARIANT_ADD(vhost, napi)
{
	.flags = IFF_NAPI,
};

FIXTURE_SETUP(vhost)
{
	const char *why = tun_state_enter();
	unsigned int i;

	if (why)
		SKIP(return, "%s", why);
	/* Do not keep the module, which would keep tun */
	t.loaded = access("/dev/vhost-net", F_OK) &&
		   !system("modprobe -q vhost_net");
	if (access("/dev/vhost-net", F_OK))
		SKIP(return, "cannot use vhost-net: no /dev/vhost-net");
	threads.calls = calls_of_thread();
	ASSERT_GT(threads.calls, 0);
	t.flags = TYPE | variant->flags;
	memcpy(t.name, "vhost", 6);
	for (i = 0; i < QUEUES; i++) {
		t.fd[i] = tun_queue(t.name, t.flags);
		ASSERT_GE(t.fd[i], 0);
	}
	ASSERT_EQ(0, set_vnet(t.fd[0], HDR_SIZE));
	ASSERT_EQ(0, netdev_up(t.name));
	ASSERT_EQ(0, open_packet_socket());
	for (i = 0; i < QUEUES; i++)
		ASSERT_EQ(0, vhost_open(&t.vhost[i], t.fd[i]));
}

FIXTURE_TEARDOWN(vhost)
{
	unsigned int i;

	for (i = 0; i < QUEUES; i++) {
		close(t.vhost[i].fd);
		close(t.fd[i]);
	}
	EXPECT_EQ(-1, netdev_index(t.name));
	/* modprobe -r would take tun along */
	if (t.loaded)
		EXPECT_EQ(0, syscall(__NR_delete_module, "vhost_net",
				     O_NONBLOCK));
}

static void expect_packets(struct __test_metadata *_metadata, unsigned int i)
{
	struct vhost *vhost = &t.vhost[i];

	tx_give(&vhost->rings[TX], 10 + i);
	ring_kick(&vhost->rings[TX]);
	EXPECT_EQ(10 + i, host_receives());
	EXPECT_TRUE(host_sends(20 + i));
	EXPECT_EQ(20 + i, guest_receives(vhost));
}

/* The size of the header that the device and vhost agree on */
TEST_F(vhost, vnet)
{
	struct state st;
	unsigned int i;

	ASSERT_EQ(0, state_get(t.fd[0], TUN_STATE_VNET, &st));
	ASSERT_EQ(HDR_SIZE, st.s.vnet.hdr_size);
	for (i = 0; i < QUEUES; i++) {
		ASSERT_EQ(0, steer(i));
		expect_packets(_metadata, i);
	}
	/* With a finite send buffer tun takes the header off, and leaves two bytes
	 * of vhost's longer one. Otherwise vhost takes it off.
	 */
	ASSERT_EQ(0, set_sndbuf(t.fd[0], 1000000));
	ASSERT_EQ(0, set_vnet(t.fd[1], 10));
	tx_give(&t.vhost[0].rings[TX], 1);
	ring_kick(&t.vhost[0].rings[TX]);
	EXPECT_EQ(OTHER_LENGTH, host_receives());
	ASSERT_EQ(0, state_set(t.fd[2], TUN_STATE_VNET, &st));
	ASSERT_EQ(0, steer(0));
	expect_packets(_metadata, 0);
}

/* vhost goes with the queue, and packets with the place */
TEST_F(vhost, queue_place)
{
	struct state st;
	unsigned int i;

	for (i = 0; i < QUEUES; i++) {
		ASSERT_EQ(0, steer(i));
		ASSERT_TRUE(host_sends(1 + i));
		EXPECT_EQ(1 + i, guest_receives(&t.vhost[i]));
	}
	/* 2, 1, 0 */
	ASSERT_EQ(0, state_get(t.fd[0], TUN_STATE_QUEUE, &st));
	ASSERT_EQ(0, st.s.queue.index);
	st.s.queue.index = QUEUES - 1;
	ASSERT_EQ(0, state_set(t.fd[0], TUN_STATE_QUEUE, &st));
	for (i = 0; i < QUEUES; i++) {
		ASSERT_EQ(0, steer(QUEUES - 1 - i));
		expect_packets(_metadata, i);
	}
}

/* A detached queue gets no packets, and vhost goes on when it is attached */
TEST_F(vhost, queue_attach)
{
	struct state st;
	unsigned int i;

	ASSERT_EQ(0, state_get(t.fd[1], TUN_STATE_QUEUE, &st));
	st.s.queue.flags &= ~TUN_STATE_QUEUE_ATTACHED;
	st.s.queue.index = 0;
	ASSERT_EQ(0, state_set(t.fd[1], TUN_STATE_QUEUE, &st));
	for (i = 0; i < QUEUES; i += 2) {
		ASSERT_EQ(0, steer(i / 2));
		expect_packets(_metadata, i);
	}
	st.s.queue.flags |= TUN_STATE_QUEUE_ATTACHED;
	st.s.queue.index = 1;
	ASSERT_EQ(0, state_set(t.fd[1], TUN_STATE_QUEUE, &st));
	for (i = 0; i < QUEUES; i++) {
		ASSERT_EQ(0, steer(i));
		expect_packets(_metadata, i);
	}
}

/* vhost says that more packets follow, so NAPI leaves the first one in the queue.
 * It fills the send buffer: the second one has to wait, until only a larger send
 * buffer can make room.
 */
TEST_F(vhost, sndbuf_wakes)
{
	static const int large[] = { INT32_MAX, 1000000 };
	struct ring *tx = &t.vhost[0].rings[TX];
	struct state st;
	unsigned int i;

	for (i = 0; i < ARRAY_SIZE(large); i++) {
		ASSERT_EQ(0, set_sndbuf(t.fd[0], 1));
		tx_give(tx, 1 + i);
		tx_give(tx, 3 + i);
		ring_kick(tx);
		if (variant->flags & IFF_NAPI) {
			ASSERT_TRUE(ring_wait(tx, tx->next - 1));
			ASSERT_EQ(0, state_get(t.fd[0], TUN_STATE_SNDBUF, &st));
			EXPECT_EQ(1, st.s.sndbuf.size);
		} else {
			ASSERT_EQ(1 + i, host_receives());
		}
		ASSERT_EQ(0, set_sndbuf(t.fd[0], large[i]));
		EXPECT_TRUE(ring_wait(tx, tx->next));
		if (variant->flags & IFF_NAPI)
			EXPECT_EQ(1 + i, host_receives());
		EXPECT_EQ(3 + i, host_receives());
	}
}

/* The programs of XDP see the packets of vhost, and TUNSETSTATE leaves them */
TEST_F(vhost, xdp)
{
	int prog = prog_load(BPF_PROG_TYPE_XDP, XDP_DROP);
	struct ring *tx = &t.vhost[0].rings[TX];
	struct bpf_prog_info info;
	struct state st;

	ASSERT_GE(prog, 0);
	ASSERT_EQ(0, prog_info(prog, &info));
	ASSERT_EQ(0, steer(0));
	expect_packets(_metadata, 0);
	ASSERT_EQ(0, netdev_xdp(t.name, prog));
	ASSERT_EQ(0, state_get(t.fd[0], ALL_GROUPS, &st));
	EXPECT_EQ(info.id, st.s.xdp.drv_prog_id);
	st.s.xdp.drv_prog_id = 0;
	ASSERT_EQ(0, state_set(t.fd[0], ALL_GROUPS, &st));
	tx_give(tx, 1);
	ring_kick(tx);
	EXPECT_TRUE(ring_wait(tx, tx->next));
	ASSERT_EQ(0, netdev_xdp(t.name, -1));
	/* The packet before this one has not arrived */
	expect_packets(_metadata, 0);
	close(prog);
}

/* Stress */

/* A guest: packets, and buffers for those that come. vhost never gives back the
 * buffers of packets that it could not send all at once, as the device had gone.
 */
static void guest_job(struct job *job)
{
	struct vhost *vhost = &t.vhost[job->nr];
	struct ring *tx = &vhost->rings[TX];
	struct ring *rx = &vhost->rings[RX];
	unsigned int stuck = 0;

	do {
		stuck = tx->seen == used_idx(tx) && ring_full(tx) ?
			stuck + 1 : 0;
		if (stuck > 1000) {
			vhost_restart(vhost, t.fd[job->nr]);
			stuck = 0;
		}
		tx->seen = used_idx(tx);
		while (!ring_full(tx) && pick(job, 16))
			tx_give(tx, pick(job, 250));
		ring_kick(tx);
		rx->seen = used_idx(rx);
		rx_fill(rx);
		job->rounds++;
		sched_yield();
	} while (go_on(job));
}

static void host_job(struct job *job)
{
	int fd = socket(AF_PACKET, SOCK_RAW, 0);
	unsigned char frame[FRAME_SIZE];

	do {
		frame_make(frame, true, pick(job, 250));
		send_packet(fd, t.name, frame, sizeof(frame));
		job->rounds++;
	} while (go_on(job));
	close(fd);
}

/* Set the groups that vhost depends on. EINVAL: the queue has changed since. */
static void set_job(struct job *job)
{
	static const int32_t sizes[] = { 1, 100, 4000, 1000000, INT32_MAX };
	static const unsigned int headers[] = { 10, HDR_SIZE, 20 };
	const uint64_t groups = TUN_STATE_VNET | TUN_STATE_SNDBUF |
				TUN_STATE_OFFLOAD | TUN_STATE_QUEUE;
	unsigned int i, queue;
	struct state st;
	int err = 0;

	for (i = 0; calls_left(i); i += err != EBADFD) {
		queue = pick(job, QUEUES);
		err = state_get(t.fd[queue], groups, &st);
		if (no_device(err))
			continue;
		if (err) {
			fail("GET: %s", strerror(err));
			return;
		}
		st.s.vnet.hdr_size = headers[pick(job, ARRAY_SIZE(headers))];
		st.s.sndbuf.size = sizes[pick(job, ARRAY_SIZE(sizes))];
		st.s.offload.enabled = pick(job, 2) ?
				       TUN_F_CSUM | TUN_F_TSO4 : 0;
		st.s.offload.wanted = pick(job, 2) ? TUN_F_CSUM : 0;
		st.s.queue.index = pick(job, QUEUES);
		if (queue && pick(job, 2))
			st.s.queue.flags ^= TUN_STATE_QUEUE_ATTACHED;
		err = state_set(t.fd[queue], groups, &st);
		if (!err)
			job->rounds++;
		else if (err != EINVAL && !no_device(err))
			fail("SET: %s, failed %llx", strerror(err),
			     (unsigned long long)st.s.failed);
	}
}

static void get_job(struct job *job)
{
	struct state st;
	unsigned int i;
	int err = 0;

	for (i = 0; calls_left(i); i += err != EBADFD) {
		err = state_get_flags(t.fd[pick(job, QUEUES)], ALL_GROUPS, &st,
				      pick(job, 2) ? TUN_STATE_F_HOLD : 0);
		if (no_device(err))
			continue;
		/* Packets with another header than expected look like many */
		if (err == ENOSPC && st.s.failed == TUN_STATE_FLOWS &&
		    st.s.flows.count > MAX_FLOWS)
			err = 0;
		if (err)
			fail("GET: %s, failed %llx", strerror(err),
			     (unsigned long long)st.s.failed);
		else if (st.s.queue.ring_len > st.s.queue.ring_size)
			fail("%u packets in %u places", st.s.queue.ring_len,
			     st.s.queue.ring_size);
		job->rounds++;
	}
}

/* While queues are detached, tun may run the program on their packets in the way
 * of the generic mode. Then the kernel warns, stock tun or patched: "received packet
 * on queue 2, but number of RX queues is 2".
 *
 * Another device has each program, too. Otherwise the kernel patches its code with
 * every change (bpf_dispatcher_xdp), which emulated processors have not survived.
 */
static void xdp_job(struct job *job)
{
	char other[2][IFNAMSIZ] = { "xdp0", "xdp1" };
	int prog[2], fd[2], i, err;

	for (i = 0; i < 2; i++) {
		prog[i] = prog_load(BPF_PROG_TYPE_XDP, i ? XDP_TX : XDP_PASS);
		fd[i] = tun_queue(other[i], IFF_TAP);
		if (netdev_xdp(other[i], prog[i]))
			fail("XDP of %s", other[i]);
	}
	do {
		for (i = 0; i < 3; i++) {
			err = netdev_xdp(t.name, i < 2 ? prog[i] : -1);
			/* EINVAL: the index 0 of a device that is not there */
			if (err && !threads.recreated)
				fail("XDP: %s", strerror(-err));
			job->rounds += !err;
		}
	} while (go_on(job));
	for (i = 0; i < 2; i++) {
		close(fd[i]);
		close(prog[i]);
	}
}

/* Take a queue from vhost, and give it back */
static void backend_job(struct job *job)
{
	unsigned int i;

	do {
		i = pick(job, QUEUES);
		if (vhost_backend(&t.vhost[i], -1) ||
		    vhost_backend(&t.vhost[i], t.fd[i]))
			fail("VHOST_NET_SET_BACKEND: %m");
		job->rounds++;
	} while (go_on(job));
}

/* Make the device again, through the files that have lost it and that vhost still
 * reads
 */
static void delete_job(struct job *job)
{
	const unsigned int flags[QUEUES] = { t.flags, t.flags, t.flags };
	int err;

	do {
		usleep(5000);
		err = netdev_delete(t.name);
		if (err) {
			fail("cannot delete the device: %s", strerror(-err));
			return;
		}
		remake_device(t.name, t.fd, flags, QUEUES);
		if (netdev_up(t.name))
			fail("up: %m");
		job->rounds++;
	} while (go_on(job));
}

/* Check that all queues work as before */
static void finish(struct __test_metadata *_metadata)
{
	struct state st;
	unsigned int i;
	int mark;

	for (i = 0; i < QUEUES; i++)
		tun_set_queue(t.fd[i], IFF_ATTACH_QUEUE);
	ASSERT_EQ(0, netdev_up(t.name));
	close(t.sock);
	ASSERT_EQ(0, open_packet_socket());
	for (i = 0; i < QUEUES; i++) {
		ASSERT_EQ(0, state_get(t.fd[i], TUN_STATE_QUEUE, &st));
		st.s.vnet.hdr_size = HDR_SIZE;
		st.s.sndbuf.size = INT32_MAX;
		st.s.queue.index = i;
		ASSERT_EQ(0, state_set(t.fd[i], TUN_STATE_VNET |
				       TUN_STATE_SNDBUF | TUN_STATE_QUEUE,
				       &st));
		ASSERT_EQ(0, vhost_restart(&t.vhost[i], t.fd[i]));
	}
	for (i = 0; i < QUEUES; i++) {
		ASSERT_EQ(0, steer(i));
		/* Older packets may come first */
		tx_give(&t.vhost[i].rings[TX], 253);
		ring_kick(&t.vhost[i].rings[TX]);
		do
			mark = host_receives();
		while (mark >= 0 && mark != 253);
		EXPECT_EQ(253, mark);
		ASSERT_TRUE(host_sends(254));
		do
			mark = guest_receives(&t.vhost[i]);
		while (mark >= 0 && mark != 254);
		EXPECT_EQ(254, mark);
	}
	EXPECT_EQ(0, threads.failures);
}

#define STRESS(name) TEST_F_TIMEOUT(vhost, name, TIMEOUT)

static void start(void)
{
	callers(set_job, 2);
	callers(get_job, 2);
	meanwhile(guest_job, QUEUES);
	meanwhile(host_job, 1);
}

STRESS(stress)
{
	start();
	meanwhile(xdp_job, 1);
	run_all();
	finish(_metadata);
}

STRESS(stress_backend)
{
	start();
	meanwhile(backend_job, 1);
	run_all();
	finish(_metadata);
}

STRESS(stress_delete)
{
	threads.recreated = true;
	start();
	meanwhile(xdp_job, 1);
	meanwhile(delete_job, 1);
	run_all();
	finish(_metadata);
}

TEST_HARNESS_MAIN
