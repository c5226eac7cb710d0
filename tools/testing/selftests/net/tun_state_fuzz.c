// SPDX-License-Identifier: GPL-2.0
/*
 * Random calls of TUNGETSTATE and TUNSETSTATE, valid and invalid, on files of
 * all kinds, with random other ioctls in between. Each answer is a documented
 * one, nothing else is written, an error changes nothing, and only a
 * TUNGETSTATE that asks for it changes the programs that the file holds.
 * tun_state_property sets valid states only, and compares the result.
 *
 * TUN_STATE_CALLS is the number of calls, TUN_STATE_SEED the seed. Equal seeds
 * make equal calls, except for values that the kernel has reported before
 * (program ids, ages of flows). TUN_STATE_VERIFY=1 compares the device before
 * and after every call that must not change it, instead of a few of them.
 *
 * TUN_STATE_CALLS=1000000 is for a kernel with KASAN.
 */
#include <time.h>

#include "../kselftest_harness.h"
#include "tun_state_util.h"

#define HEADER offsetof(struct tun_state, identity)
#define CALLS 20000
#define FILES 14
#define NAMES 5
#define CORPUS 64
#define PROGS 4
#define AREA 4096

enum call { GET, HOLD, SET, NR_CALLS };

static const char * const call_names[] = { "GET", "HOLD", "SET" };

/* Memory of an argument and its user buffers: each area lies between pages that
 * must not be touched, and its unused part holds a pattern.
 */
enum area { ARG, INSNS, FLOWS, QUEUES, NR_AREAS };

/* Template: gives the place and the size of a field */
static const struct tun_state t;

static const struct field {
	const void *at;		/* in the template */
	uint8_t size;
	uint8_t group;		/* number of its bit */
} fields[] = {
#define FIELD(member, group) { &(member), sizeof(member), group }
	FIELD(t.identity.netns, 0), FIELD(t.identity.ifindex, 0),
	FIELD(t.identity.type, 0), FIELD(t.identity.reserved[0], 0),
	FIELD(t.identity.reserved[1], 0), FIELD(t.netdev.mtu, 1),
	FIELD(t.netdev.up, 1), FIELD(t.netdev.addr_len, 1),
	FIELD(t.netdev.reserved[0], 1), FIELD(t.netdev.name[0], 1),
	FIELD(t.netdev.name[15], 1), FIELD(t.netdev.addr[0], 1),
	FIELD(t.netdev.addr[31], 1), FIELD(t.iff.flags, 2),
	FIELD(t.iff.reserved, 2), FIELD(t.owner.uid, 3),
	FIELD(t.owner.gid, 3), FIELD(t.owner.flags, 3),
	FIELD(t.owner.reserved, 3), FIELD(t.vnet.hdr_size, 4),
	FIELD(t.vnet.flags, 4), FIELD(t.offload.enabled, 5),
	FIELD(t.offload.wanted, 5), FIELD(t.offload.supported, 5),
	FIELD(t.offload.reserved, 5), FIELD(t.sndbuf.size, 6),
	FIELD(t.sndbuf.reserved, 6), FIELD(t.link.carrier, 7),
	FIELD(t.link.msg_enable, 7), FIELD(t.coalesce.rx_frames, 8),
	FIELD(t.coalesce.reserved, 8), FIELD(t.txfilter.count, 9),
	FIELD(t.txfilter.reserved, 9), FIELD(t.txfilter.hash, 9),
	FIELD(t.txfilter.addr[0][0], 9), FIELD(t.txfilter.addr[7][5], 9),
	FIELD(t.sockfilter.entries, 10), FIELD(t.sockfilter.count, 10),
	FIELD(t.sockfilter.entry_size, 10), FIELD(t.steering.id, 11),
	FIELD(t.steering.type, 11), FIELD(t.steering.tag[0], 11),
	FIELD(t.steering.tag[7], 11), FIELD(t.steering.action, 11),
	FIELD(t.steering.fd, 11), FIELD(t.filter.id, 12),
	FIELD(t.filter.type, 12), FIELD(t.filter.tag[0], 12),
	FIELD(t.filter.tag[7], 12), FIELD(t.filter.action, 12),
	FIELD(t.filter.fd, 12), FIELD(t.xdp.drv_prog_id, 13),
	FIELD(t.xdp.skb_prog_id, 13), FIELD(t.flows.entries, 14),
	FIELD(t.flows.count, 14), FIELD(t.flows.entry_size, 14),
	FIELD(t.queue.index, 15), FIELD(t.queue.flags, 15),
	FIELD(t.queue.ring_size, 15), FIELD(t.queue.ring_len, 15),
	FIELD(t.queues.entries, 16), FIELD(t.queues.count, 16),
	FIELD(t.queues.entry_size, 16),
};

/* A kind of call and its result, to count the different ones */
struct ending {
	enum call call;
	int err;
	uint64_t failed;
	unsigned int count;
};

static struct {
	unsigned long long seed;
	uint64_t random;
	unsigned int nr;		/* of the call */
	bool verify;
	unsigned int failures;

	int files[FILES];
	int progs[PROGS];		/* all but the last of the right type */
	uint32_t prog_ids[PROGS];
	int home, other;		/* network namespaces */

	char *memory;			/* NR_AREAS times AREA, with gaps */
	char *before;			/* copy of the memory */
	char *area[NR_AREAS];

	struct state corpus[CORPUS];
	unsigned int nr_corpus;
	struct ending endings[512];
	unsigned int nr_endings;
	unsigned int done[NR_CALLS], succeeded[NR_CALLS];
	unsigned int changed, checked, verified, others, held;
} f;

/* The call that is being made */
static struct {
	enum call call;
	int fd;
	size_t size;
	char *argp;			/* address passed to the kernel */
	bool readable, writable;	/* the whole argument */
	bool overlap;			/* buffers lie in the argument */
	struct state st;		/* argument and buffers to copy there */
	uint64_t mask;
	unsigned char tail;		/* the last byte of a long struct */
} c;

static void bad(const char *what, int err)
{
	if (f.failures++ > 10)
		return;
	printf("# seed %llu, call %u: %s: %s\n", f.seed, f.nr, what,
	       strerror(err));
	printf("# %s size %zu mask %llx flags %x failed %llx\n",
	       call_names[c.call], c.size, (unsigned long long)c.mask,
	       c.st.s.flags, (unsigned long long)
	       (c.readable ? ((struct tun_state *)c.argp)->failed : 0));
}

/* splitmix64 */
static uint64_t random64(void)
{
	uint64_t z = f.random += 0x9e3779b97f4a7c15;

	z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9;
	z = (z ^ z >> 27) * 0x94d049bb133111eb;
	return z ^ z >> 31;
}

static size_t field_offset(const struct field *field)
{
	return (const char *)field->at - (const char *)&t;
}

static unsigned int pick(unsigned int n)
{
	return random64() % n;
}

static uint64_t pick_value(uint64_t now)
{
	static const uint64_t values[] = {
		0, 1, 2, 3, 4, 5, 8, 9, 10, 12, 16, 24, 32, 63, 64, 65, 255,
		256, 257, 4095, 4096, 4097, 65535, 65536, INT_MAX,
		(uint64_t)INT_MAX + 1, UINT_MAX, (uint64_t)UINT_MAX + 1,
		INT64_MAX, (uint64_t)INT64_MAX + 1, UINT64_MAX,
	};

	switch (pick(5)) {
	case 0:
		return now ^ 1ULL << pick(64);
	case 1:
		return now ^ 1ULL << pick(16);
	case 2:
		return now + pick(3) - 1;
	case 3:
		return pick(8) ? pick(32) : random64();
	default:
		return values[pick(ARRAY_SIZE(values))];
	}
}

static const char *pick_name(void)
{
	static const char * const names[NAMES] = {
		"fuzz0", "fuzz1", "fuzz2", "fuzz3", "fuzz4"
	};

	return names[pick(NAMES)];
}

/* An address outside the area of a buffer or an argument */
static uint64_t pick_pointer(enum area area)
{
	char *start = f.area[area];

	switch (pick(8)) {
	case 0:
		return 0;
	case 1:
		return pick(65536);
	case 2:	/* into an unmapped page */
		return (uintptr_t)start + AREA - pick(64);
	case 3:
		return (uintptr_t)start + AREA;
	case 4:
		return (uintptr_t)start - 1 - pick(64);
	case 5:	/* the kernel's memory */
		return 0xffff888000000000 + pick(1 << 20);
	case 6:
		return random64();
	default:
		return UINT64_MAX - pick(4096);
	}
}

static int pick_fd(void)
{
	switch (pick(6)) {
	case 0:
	case 1:
		return f.progs[pick(PROGS)];
	case 2:
		return f.files[pick(FILES)];
	case 3:
		return f.home;
	case 4:
		return pick(1000);
	default:
		return (int)pick_value(0);
	}
}

/* Other ways to change the state of a device */

static void open_file(unsigned int i)
{
	static const short flags[] = {
		IFF_TAP, IFF_TAP | IFF_MULTI_QUEUE,
		IFF_TAP | IFF_MULTI_QUEUE | IFF_NO_PI,
		IFF_TAP | IFF_MULTI_QUEUE | IFF_NAPI,
		IFF_TAP | IFF_NAPI | IFF_NAPI_FRAGS | IFF_VNET_HDR,
		IFF_TUN, IFF_TUN | IFF_MULTI_QUEUE | IFF_NO_PI,
	};
	struct ifreq ifr = {
		.ifr_flags = flags[pick(ARRAY_SIZE(flags))]
	};

	if (f.files[i] >= 0 && pick(2))
		close(f.files[i]);
	else if (f.files[i] >= 0)
		goto attach;
	f.files[i] = tun_open();
	if (!pick(12))
		return;
attach:
	snprintf(ifr.ifr_name, IFNAMSIZ, "%s", pick_name());
	/* Half of the files on one device, for several queues */
	if (pick(2)) {
		snprintf(ifr.ifr_name, IFNAMSIZ, "fuzz0");
		ifr.ifr_flags = IFF_TAP | IFF_MULTI_QUEUE;
	}
	ioctl(f.files[i], TUNSETIFF, &ifr);
}

static void other_change(void)
{
	static const struct sock_filter insns[] = {
		{ BPF_LD | BPF_IMM, 0, 0, 1 },
		{ BPF_RET | BPF_K, 0, 0, 0xffff },
	};
	unsigned int i = pick(FILES);
	char packet[64] = { 2, [12] = 8, [14] = 0x45, [23] = 17 };
	const char *name = pick_name();
	struct {
		uint16_t flags, count;
		uint8_t addr[10][6];
	} txfilter;
	struct ifreq ifr = {};
	int fd = f.files[i];
	unsigned int what;
	int value;

	f.others++;
	what = pick(24);
	/* Operations that take long with 256 queues */
	if (what >= 19 && pick(8))
		what = pick(19);
	switch (what) {
	case 0:
	case 1:
	case 2:
		open_file(i);
		break;
	case 3:
	case 4:
		tun_set_queue(fd, pick(2) ? IFF_ATTACH_QUEUE :
					    IFF_DETACH_QUEUE);
		break;
	case 5:
		tun_attach_filter(fd, insns + pick(2), 1 + pick(2));
		break;
	case 6:
		tun_detach_filter(fd);
		break;
	case 7:
		ioctl(fd, TUNSETOFFLOAD, (unsigned long)pick(256));
		break;
	case 8:
		value = pick_value(0);
		ioctl(fd, TUNSETSNDBUF, &value);
		break;
	case 9:
		ioctl(fd, TUNSETPERSIST, (unsigned long)pick(2));
		break;
	case 10:
		ioctl(fd, pick(2) ? TUNSETOWNER : TUNSETGROUP,
		      (unsigned long)pick(3));
		break;
	case 11:
		value = pick(2);
		ioctl(fd, pick(2) ? TUNSETVNETLE : TUNSETVNETBE, &value);
		break;
	case 12:
		for (value = 0; value < (int)sizeof(txfilter); value++)
			((uint8_t *)&txfilter)[value] = pick(256);
		txfilter.flags = pick(2);
		txfilter.count = pick(11);
		ioctl(fd, TUNSETTXFILTER, &txfilter);
		break;
	case 13:
		value = pick(2);
		ioctl(fd, TUNSETCARRIER, &value);
		break;
	case 14:
		value = pick(2) ? f.progs[pick(PROGS)] : -1;
		ioctl(fd, pick(2) ? TUNSETSTEERINGEBPF : TUNSETFILTEREBPF,
		      &value);
		break;
	case 15:
		/* Link types with another length of addresses */
		ioctl(fd, TUNSETLINK, pick(2) ? ARPHRD_ETHER : pick(1000));
		break;
	case 16:
		if (setns(f.other, CLONE_NEWNET))
			break;
		open_file(i);
		if (!pick(8) && netdev_index(name) > 0)
			netdev_delete(name);
		setns(f.home, CLONE_NEWNET);
		break;
	case 17:
		if (f.files[i] >= 0)
			close(f.files[i]);
		f.files[i] = -1;
		break;
	case 18:
		packet[37] = pick(16);
		/* XDP warns about the index of a detached queue */
		if (ioctl(fd, TUNGETIFF, &ifr) ||
		    ifr.ifr_flags & IFF_DETACH_QUEUE)
			break;
		if (write(fd, packet, sizeof(packet)) < 0)
			break;
		break;
	case 19:
		if (netdev_index(name) > 0)
			netdev_delete(name);
		break;
	case 20:
		ifr.ifr_flags = pick(2) ? IFF_UP : 0;
		netdev_ioctl(name, SIOCSIFFLAGS, &ifr);
		break;
	case 21:
		ifr.ifr_qlen = 1 + pick(100);
		netdev_ioctl(name, SIOCSIFTXQLEN, &ifr);
		break;
	case 22:
		if (netdev_index(name) > 0)
			netdev_move(name, f.other);
		break;
	case 23:
		if (netdev_index(name) > 0)
			netdev_xdp(name, pick(2) ? f.progs[PROGS - 1] : -1);
		break;
	}
}

/* Arguments */

static const uint64_t groups_of_buffers[NR_AREAS] = {
	0, TUN_STATE_SOCKFILTER, TUN_STATE_FLOWS, TUN_STATE_QUEUES
};

static struct tun_state_array *array_of(struct tun_state *s, enum area area)
{
	return area == INSNS ? &s->sockfilter :
	       area == FLOWS ? &s->flows : &s->queues;
}

static size_t entry_size(enum area area)
{
	return area == INSNS ? sizeof(struct sock_filter) :
	       area == FLOWS ? sizeof(struct tun_state_flow) :
			       sizeof(struct tun_state_queue);
}

/* The size of a buffer, or of the area if that is less */
static size_t array_bytes(const struct tun_state_array *array)
{
	uint64_t bytes = (uint64_t)array->count * array->entry_size;

	return bytes < AREA ? bytes : AREA;
}

static void own_entry_sizes(struct tun_state *s)
{
	enum area area;

	for (area = INSNS; area < NR_AREAS; area++)
		array_of(s, area)->entry_size = entry_size(area);
}

static void *buffer_content(struct state *st, enum area area)
{
	return area == INSNS ? (void *)st->insns :
	       area == FLOWS ? (void *)st->flows : (void *)st->queues;
}

static size_t buffer_room(enum area area)
{
	return area == INSNS ? sizeof(c.st.insns) :
	       area == FLOWS ? sizeof(c.st.flows) : sizeof(c.st.queues);
}

/* A value of the device, an interesting one, or a random one */
static void pick_base(void)
{
	unsigned int i;

	memset(&c.st, 0, sizeof(c.st));
	switch (pick(4)) {
	case 0:
	case 1:
		if (!state_get(c.fd, ALL_GROUPS, &c.st))
			return;
		break;
	case 2:
		if (!f.nr_corpus)
			break;
		i = f.nr_corpus < CORPUS ? f.nr_corpus : CORPUS;
		c.st = f.corpus[pick(i)];
		return;
	}
	if (pick(8)) {
		own_entry_sizes(&c.st.s);
		return;
	}
	for (i = 0; i < sizeof(c.st); i += 8) {
		uint64_t r = random64();

		memcpy((char *)&c.st + i, &r,
		       sizeof(c.st) - i < 8 ? sizeof(c.st) - i : 8);
	}
}

static void pick_mask(void)
{
	switch (pick(6)) {
	case 0:
	case 1:
		c.mask = 1ULL << pick(ARRAY_SIZE(state_groups));
		break;
	case 2:
		c.mask = ALL_GROUPS;
		break;
	default:
		c.mask = random64() & random64() & ALL_GROUPS;
		break;
	}
	/* A random identity would nearly always be another device */
	if (c.call == SET && pick(8))
		c.mask &= ~TUN_STATE_IDENTITY;
	if (!pick(40))
		c.mask ^= 1ULL << pick(64);
	if (!pick(200))
		c.mask = random64();
}

static void set_field(const struct field *field, uint64_t value)
{
	/* On a big-endian machine these are other bits */
	memcpy((char *)&c.st.s + field_offset(field), &value, field->size);
}

static void mutate_field(void)
{
	const struct field *field;
	uint64_t now = 0;
	unsigned int i;

	/* Mostly a field of a group in the mask */
	for (i = 0; i < 20; i++) {
		field = &fields[pick(ARRAY_SIZE(fields))];
		if (c.mask & 1ULL << field->group)
			break;
	}
	memcpy(&now, (char *)&c.st.s + field_offset(field), field->size);
	set_field(field, pick_value(now));
}

static void mutate_buffer(void)
{
	static const struct sock_filter valid[] = {
		{ BPF_LD | BPF_IMM, 0, 0, 1 },
		{ BPF_LDX | BPF_IMM, 0, 0, 2 },
		{ BPF_RET | BPF_K, 0, 0, 0xffff },
	};
	struct tun_state *s = &c.st.s;
	unsigned int i, n;
	char *content;

	switch (pick(3)) {
	case 0:
		n = pick(4);
		s->sockfilter.count = n;
		s->sockfilter.entry_size = sizeof(valid[0]);
		for (i = 0; i < n; i++)
			c.st.insns[i] = valid[i == n - 1 ? 2 : pick(2)];
		break;
	default:
		i = 1 + pick(3);
		content = buffer_content(&c.st, i);
		content[pick(pick(2) ? 16 : buffer_room(i))] ^= 1 << pick(8);
		break;
	}
}

static void mutate_prog(void)
{
	struct tun_state_prog *prog;

	prog = pick(2) ? &c.st.s.steering : &c.st.s.filter;
	switch (pick(4)) {
	case 0:
		memset(prog, 0, sizeof(*prog));
		break;
	case 1:
		prog->action = TUN_STATE_PROG_KEEP;
		prog->fd = 0;
		break;
	default:
		prog->action = TUN_STATE_PROG_FD;
		prog->fd = pick_fd();
		break;
	}
}

static void mutate_count(void)
{
	uint32_t *count = &array_of(&c.st.s, INSNS + pick(3))->count;

	*count = pick(3) ? *count + pick(3) - 1 : pick_value(*count);
}

/* A state that TUNSETSTATE may well take */
static void mutate_well(void)
{
	static const unsigned int offloads[] = {
		0, TUN_F_CSUM, TUN_F_CSUM | TUN_F_TSO4,
		TUN_F_CSUM | TUN_F_TSO6 | TUN_F_TSO_ECN | TUN_F_UFO,
		TUN_F_CSUM | TUN_F_USO4 | TUN_F_USO6,
	};
	struct tun_state *s = &c.st.s;
	unsigned int i;

	switch (pick(9)) {
	case 0:
		s->iff.flags ^= pick(8) ? IFF_PERSIST : 1 << pick(16);
		break;
	case 1:
		s->owner.uid = pick(3) - 1;
		s->owner.gid = pick(3) - 1;
		s->owner.flags = pick(8) ? 0 : pick(8);
		s->owner.reserved = 0;
		break;
	case 2:
		s->vnet.hdr_size = 10 + pick(20);
		s->vnet.flags = pick(2);
		break;
	case 3:
		i = pick(ARRAY_SIZE(offloads));
		s->offload.enabled = offloads[i];
		i = pick(ARRAY_SIZE(offloads));
		s->offload.wanted = offloads[i] & ~TUN_F_UFO;
		s->offload.reserved = 0;
		break;
	case 4:
		s->sndbuf.size = 1 + pick(INT_MAX);
		s->sndbuf.reserved = 0;
		break;
	case 5:
		s->link.carrier = pick(2);
		break;
	case 6:
		memset(&s->txfilter, 0, sizeof(s->txfilter));
		s->txfilter.count = 1 + pick(8);
		s->txfilter.hash = random64();
		for (i = 0; i < s->txfilter.count; i++)
			s->txfilter.addr[i][5] = pick(256);
		break;
	case 7:
		s->queue.index = pick(4);
		break;
	case 8:
		s->queue.flags ^= pick(2) ? TUN_STATE_QUEUE_ATTACHED :
					    TUN_STATE_QUEUE_SOCKFILTER;
		break;
	}
}

static void pick_argument(void)
{
	struct tun_state *s = &c.st.s;
	enum area area;
	unsigned int n;

	c.call = pick(8) > 2 ? SET : pick(3) ? GET : HOLD;
	c.fd = f.files[pick(FILES)];
	pick_base();
	pick_mask();
	s->flags = c.call == HOLD ? TUN_STATE_F_HOLD : 0;
	s->reserved = 0;
	s->supported = 0;
	s->failed = 0;

	for (n = pick(4); n; n--) {
		switch (pick(8)) {
		case 0:
		case 1:
			mutate_field();
			break;
		case 2:
			mutate_buffer();
			break;
		case 3:
			mutate_prog();
			break;
		case 4:
			mutate_count();
			break;
		default:
			mutate_well();
			break;
		}
	}
	if (c.call != SET && pick(4)) {
		s->sockfilter.count = MAX_INSNS;
		s->flows.count = MAX_FLOWS;
		s->queues.count = MAX_QUEUES;
		own_entry_sizes(s);
		for (area = INSNS; !pick(3) && area < NR_AREAS; area++)
			array_of(s, area)->entry_size = 1 + pick(64);
	}
	if (!pick(60))
		s->flags ^= 1U << pick(32);
	if (!pick(60))
		s->reserved = pick_value(0);
	s->mask = c.mask;
	/* Any other message level makes each ioctl write to the kernel's log */
	s->link.msg_enable &= ~0x1fffU;
}

/* Copy the argument and its buffers to their areas */
static void place(void)
{
	static const size_t ends[] = {
		0, 8, HEADER - 1, HEADER, HEADER + 8,
		offsetof(struct tun_state, link),
		offsetof(struct tun_state, flows),
		TUN_STATE_SIZE_VER0, offsetof(struct tun_state, queues),
		sizeof(struct tun_state) - 1, sizeof(struct tun_state) + 1,
		sizeof(struct tun_state) + 8, 1024, AREA - 1, AREA, AREA + 1,
		8192, (1 << _IOC_SIZEBITS) - 1,
	};
	struct tun_state *s = &c.st.s;
	struct tun_state_array *array;
	enum area area;
	size_t bytes;

	for (area = 0; area < NR_AREAS; area++)
		memset(f.area[area], 0xa5, AREA);

	c.size = sizeof(*s);
	if (!pick(12))
		c.size = pick(2) ? pick(AREA + 100) :
			 ends[pick(ARRAY_SIZE(ends))];
	if (c.size >= 1 << _IOC_SIZEBITS)
		c.size = (1 << _IOC_SIZEBITS) - 1;
	bytes = c.size < AREA ? c.size : AREA;
	/* Place it at the end or at the start of a page */
	c.argp = f.area[ARG] + (pick(2) ? AREA - bytes : 0);
	c.readable = c.size <= AREA;
	c.writable = c.readable;
	c.tail = !pick(4) ? pick(256) : 0;
	c.overlap = false;

	for (area = INSNS; area < NR_AREAS; area++) {
		array = array_of(s, area);
		bytes = array_bytes(array);
		array->entries = (uintptr_t)f.area[area] +
				 (pick(2) ? AREA - bytes : 0);
		memcpy((void *)(uintptr_t)array->entries,
		       buffer_content(&c.st, area),
		       bytes < buffer_room(area) ? bytes : buffer_room(area));
		if (pick(40))
			continue;
		if (pick(2)) {
			array->entries = (uintptr_t)c.argp + pick(sizeof(*s));
			c.overlap = true;
		} else {
			array->entries = pick_pointer(area);
		}
	}

	bytes = c.size < sizeof(*s) ? c.size : sizeof(*s);
	if (c.readable) {
		memcpy(c.argp, s, bytes);
		memset(c.argp + bytes, 0, c.size - bytes);
		if (c.size > sizeof(*s))
			c.argp[c.size - 1 - pick(c.size - sizeof(*s))] =
				c.tail;
	}
	if (!pick(100)) {
		do	/* A short argument may fit in front of the page's end */
			c.argp = (char *)(uintptr_t)pick_pointer(ARG);
		while (c.argp >= f.area[ARG] && c.size <= AREA &&
		       (size_t)(c.argp - f.area[ARG]) <= AREA - c.size);
		c.readable = false;
		c.writable = false;
	}
}

/* Expectations */

static bool one_of(int err, const int *expected)
{
	for (; *expected; expected++)
		if (*expected == err)
			return true;
	return false;
}

static void check_errno(int err)
{
	static const int expected[NR_CALLS][12] = {
		[GET] = { EBADFD, EINVAL, E2BIG, ENOSPC, ENOMEM, EFAULT },
		[HOLD] = { EBADFD, EINVAL, E2BIG, ENOSPC, ENOMEM, EFAULT },
		[SET] = { EBADFD, EINVAL, E2BIG, EXDEV, EPERM, EBADF, ENOMEM,
			  EFAULT },
	};
	struct tun_state *s = (void *)c.argp;
	bool unknown = c.mask & ~ALL_GROUPS;
	uint64_t now;

	if (err && !one_of(err, expected[c.call]))
		bad("an errno that is not documented", err);
	if (c.size > AREA && err != E2BIG)
		bad("a size of more than a page", err);
	if (c.size < HEADER && err != EINVAL)
		bad("a size less than a header's", err);
	if (c.size < HEADER || c.size > AREA)
		return;
	if (!c.readable) {
		if (err != EFAULT && err != E2BIG)
			bad("an argument that cannot be read", err);
		return;
	}
	if (!c.writable) {
		if (err != EFAULT && err != E2BIG)
			bad("an argument that cannot be written", err);
		return;
	}
	now = c.size > sizeof(*s) && c.tail;
	if (err == E2BIG ? !now : now)
		bad("a tail", err);
	if (err == E2BIG || c.overlap)
		return;
	now = s->failed;
	if ((unknown || c.st.s.reserved ||
	     (c.st.s.flags & ~(c.call == SET ? 0U : TUN_STATE_F_HOLD))) &&
	    err != EINVAL)
		bad("an unknown bit", err);
	if (err == EFAULT)
		return;
	if (s->supported != ALL_GROUPS)
		bad("what is supported", err);
	if (!err && now)
		bad("failed without an error", err);
	if (err && s->mask != c.mask)
		bad("another mask after an error", err);
	if (now & ~c.mask)
		bad("failed is not in the mask", err);
	if (now & ALL_GROUPS && now & (now - 1))
		bad("more than one group failed", err);
	if ((err == ENOSPC || err == EXDEV || err == EPERM || err == EBADF) &&
	    !now)
		bad("no group failed", err);
	if (err == EBADFD && now)
		bad("a group failed without a device", err);
	if (err == EXDEV && now != TUN_STATE_IDENTITY)
		bad("EXDEV of another group", err);
	if (err == EPERM && now & ~(TUN_STATE_OWNER | TUN_STATE_LINK))
		bad("EPERM of another group", err);
	if (err == EBADF && now & ~(TUN_STATE_STEERING | TUN_STATE_FILTER))
		bad("EBADF of another group", err);
	if (err == ENOSPC && now & ~(TUN_STATE_SOCKFILTER | TUN_STATE_FLOWS |
				     TUN_STATE_QUEUES))
		bad("ENOSPC of another group", err);
	if (c.call == SET && now & ALL_GROUPS & GET_ONLY &&
	    c.size >= sizeof(*s))
		bad("a group failed that is only reported", err);
	if (!err && c.call == SET && s->mask != (c.mask & ~GET_ONLY))
		bad("the mask of what was set", err);
	if (!err && c.call != SET && s->mask != c.mask)
		bad("the mask of what was read", err);
}

/* Only the answer may have been written */
static void check_memory(int err)
{
	size_t start[NR_AREAS] = {}, end[NR_AREAS] = {}, i;
	const struct tun_state *s = &c.st.s;
	const struct tun_state_array *array;
	enum area area;

	if (c.readable && c.size >= HEADER && !c.overlap) {
		start[ARG] = c.argp - f.area[ARG];
		end[ARG] = start[ARG] + HEADER;
		if (c.call != SET && (!err || err == ENOSPC || err == EFAULT))
			end[ARG] = start[ARG] +
				   (c.size < sizeof(*s) ? c.size : sizeof(*s));
	} else if (c.overlap) {
		end[ARG] = AREA;
	}
	for (area = INSNS; area < NR_AREAS; area++) {
		array = array_of((struct tun_state *)s, area);
		if (c.call == SET || !(c.mask & groups_of_buffers[area]))
			continue;
		/* A buffer elsewhere may reach into this area */
		if (array->entries < (uintptr_t)f.area[area] ||
		    array->entries >= (uintptr_t)f.area[area] + AREA)
			continue;
		start[area] = array->entries - (uintptr_t)f.area[area];
		end[area] = start[area] + array_bytes(array);
		if (end[area] > AREA)
			end[area] = AREA;
	}
	for (area = 0; area < NR_AREAS; area++) {
		const char *now = f.area[area];
		const char *was = f.before + area * AREA;

		if (!memcmp(now, was, start[area]) &&
		    !memcmp(now + end[area], was + end[area],
			    AREA - end[area]))
			continue;
		for (i = 0; i < AREA - 1; i++)
			if (now[i] != was[i] &&
			    (i < start[area] || i >= end[area]))
				break;
		printf("# area %u byte %zu, answer from %zu to %zu\n", area, i,
		       start[area], end[area]);
		bad("written where it must not be", err);
	}
}

static bool all_zero(const void *start, size_t size)
{
	const char *p = start;

	return !size || (!p[0] && !memcmp(p, p + 1, size - 1));
}

/* Copy an entry, which may be shorter than the kernel's. A longer one is zero
 * behind it.
 */
static void entry_of(const struct tun_state_array *array, unsigned int i,
		     void *to, size_t size)
{
	size_t n = array->entry_size < size ? array->entry_size : size;
	const char *from = (void *)(uintptr_t)array->entries;

	from += (size_t)i * array->entry_size;
	memset(to, 0, size);
	memcpy(to, from, n);
	if (!all_zero(from + n, array->entry_size - n))
		bad("an entry that does not end in zeroes", 0);
}

static void check_flows(const struct tun_state_array *flows)
{
	struct tun_state_flow flow;
	uint32_t i, last = 0;

	for (i = 0; i < flows->count; i++) {
		entry_of(flows, i, &flow, sizeof(flow));
		if (flow.queue_index > 255 ||
		    (i && flow.rxhash <= last && flows->entry_size >= 4))
			bad("flows", 0);
		last = flow.rxhash;
	}
}

static void check_queues(const struct tun_state_array *queues)
{
	uint32_t i, selves = 0, attached = 0;
	struct tun_state_queue queue;

	for (i = 0; i < queues->count; i++) {
		entry_of(queues, i, &queue, sizeof(queue));
		if (queues->entry_size < offsetof(struct tun_state_queue,
						  ring_size))
			continue;
		if (queue.flags & TUN_STATE_QUEUE_ATTACHED && attached++ != i)
			bad("an attached queue behind a detached one", 0);
		if (queue.index !=
		    (queue.flags & TUN_STATE_QUEUE_ATTACHED ? i : i - attached))
			bad("the index of a queue", 0);
		selves += !!(queue.flags & TUN_STATE_QUEUE_SELF);
	}
	if (selves != 1 && queues->entry_size >= sizeof(queue))
		bad("queues that are this one", 0);
}

static void check_report(void)
{
	struct tun_state report = {}, *s = &report;
	struct sock_filter insn;
	size_t offset, size;
	uint32_t i;

	memcpy(s, c.argp, c.size < sizeof(*s) ? c.size : sizeof(*s));
	/* Groups outside the mask */
	for (i = 0; i < ARRAY_SIZE(fields); i++) {
		offset = field_offset(&fields[i]);
		size = offset + fields[i].size;
		if (!(c.mask & 1ULL << fields[i].group) && size <= c.size &&
		    !all_zero((char *)s + offset, fields[i].size))
			bad("a group that was not asked for", 0);
	}
	/* Limits that no call may exceed */
	if ((c.mask & TUN_STATE_VNET && s->vnet.hdr_size < 10) ||
	    (c.mask & TUN_STATE_OFFLOAD &&
	     (s->offload.enabled | s->offload.wanted) &
	     ~s->offload.supported) ||
	    (c.mask & TUN_STATE_SNDBUF && s->sndbuf.size <= 0) ||
	    s->link.carrier > 1 || s->coalesce.rx_frames > 64 ||
	    s->netdev.up > 1 || s->netdev.addr_len > 32 ||
	    s->txfilter.count > TUN_STATE_TXFILTER_ADDRS ||
	    s->owner.flags || s->steering.action || s->filter.action ||
	    s->steering.fd || s->filter.fd)
		bad("a value that cannot be", 0);
	for (i = 0; c.mask & TUN_STATE_SOCKFILTER && i < s->sockfilter.count;
	     i++)
		entry_of(&s->sockfilter, i, &insn, sizeof(insn));
	if (c.mask & TUN_STATE_FLOWS)
		check_flows(&s->flows);
	if (c.mask & TUN_STATE_QUEUES)
		check_queues(&s->queues);
}

/* The ids of the programs that a file holds, as its fdinfo shows them */
static void held_ids(int fd, unsigned int ids[2])
{
	char path[32], text[1024];
	const char *line;
	ssize_t n;
	int info;

	ids[0] = 0;
	ids[1] = 0;
	snprintf(path, sizeof(path), "/proc/self/fdinfo/%d", fd);
	info = open(path, O_RDONLY);
	n = read(info, text, sizeof(text) - 1);
	close(info);
	if (n <= 0)
		bad("no fdinfo", errno);
	text[n > 0 ? n : 0] = 0;
	line = strstr(text, "steering-held:");
	if (line)
		sscanf(line, "steering-held: %u", &ids[0]);
	line = strstr(text, "filter-held:");
	if (line)
		sscanf(line, "filter-held: %u", &ids[1]);
}

static void check_held(const unsigned int before[2], int err)
{
	const struct tun_state *s = (void *)c.argp;
	unsigned int ids[2], expected[2] = { before[0], before[1] };

	if (c.call == HOLD && !err) {
		if (c.overlap)
			return;
		expected[0] = c.mask & TUN_STATE_STEERING ? s->steering.id : 0;
		expected[1] = c.mask & TUN_STATE_FILTER ? s->filter.id : 0;
	}
	held_ids(c.fd, ids);
	f.held += ids[0] || ids[1];
	if (ids[0] != expected[0] || ids[1] != expected[1])
		bad("the file holds other programs", err);
}

/* Flows expire */
static bool flows_left(const struct state *now, const struct state *was)
{
	uint32_t i, j = 0;

	for (i = 0; i < now->s.flows.count; i++) {
		while (j < was->s.flows.count &&
		       was->flows[j].rxhash != now->flows[i].rxhash)
			j++;
		if (j == was->s.flows.count ||
		    was->flows[j].queue_index != now->flows[i].queue_index)
			return false;
	}
	return true;
}

static void check_unchanged(const struct state *was, int err)
{
	struct state now;

	if (state_snapshot(c.fd, &now)) {
		bad("no state after the call", err);
		return;
	}
	if (!flows_left(&now, was))
		bad("flows changed", err);
	now.s.flows.count = was->s.flows.count;
	memcpy(now.flows, was->flows, sizeof(now.flows));
	f.verified++;
	if (!state_equal(was, &now))
		bad("the device changed", err);
}

static bool prog_is_set(const struct tun_state_prog *prog,
			const struct tun_state_prog *now)
{
	unsigned int i;

	switch (prog->action) {
	case TUN_STATE_PROG_ID:
		return prog->id == now->id &&
		       (!prog->id || (prog->type == now->type &&
				      !memcmp(prog->tag, now->tag, 8)));
	case TUN_STATE_PROG_FD:
		for (i = 0; i < PROGS; i++)
			if (f.progs[i] == prog->fd)
				return f.prog_ids[i] == now->id;
		return false;
	default:
		return true;
	}
}

static bool insns_are_set(const struct tun_state *s, const struct state *now)
{
	const void *insns = (void *)(uintptr_t)s->sockfilter.entries;

	return s->sockfilter.count == now->s.sockfilter.count &&
	       !memcmp(insns, now->insns,
		       s->sockfilter.count * sizeof(now->insns[0]));
}

static bool offload_is_set(const struct tun_state_offload *offload,
			   const struct tun_state_offload *now)
{
	return (offload->enabled & ~TUN_F_UFO) == now->enabled &&
	       offload->wanted == now->wanted;
}

static bool queue_is_set(const struct tun_state_queue *queue,
			 const struct tun_state_queue *now)
{
	uint32_t changes = queue->flags ^ now->flags;

	return queue->index == now->index &&
	       !(changes & ~TUN_STATE_QUEUE_SELF);
}

/* Groups that are not as they were set */
static uint64_t not_set(const struct tun_state *s, const struct state *now)
{
	const uint64_t plain = TUN_STATE_IDENTITY | TUN_STATE_IFF |
			       TUN_STATE_OWNER | TUN_STATE_VNET |
			       TUN_STATE_SNDBUF | TUN_STATE_LINK |
			       TUN_STATE_TXFILTER;
	const struct tun_state *n = &now->s;
	uint64_t diff = 0;
	unsigned int i;

	for (i = 0; i < ARRAY_SIZE(state_groups); i++)
		if (memcmp((const char *)s + state_groups[i].offset,
			   (const char *)n + state_groups[i].offset,
			   state_groups[i].size))
			diff |= plain & state_groups[i].bit;
	if (!offload_is_set(&s->offload, &n->offload))
		diff |= TUN_STATE_OFFLOAD;
	if (!prog_is_set(&s->steering, &n->steering))
		diff |= TUN_STATE_STEERING;
	if (!prog_is_set(&s->filter, &n->filter))
		diff |= TUN_STATE_FILTER;
	if (!queue_is_set(&s->queue, &n->queue))
		diff |= TUN_STATE_QUEUE;
	if (c.mask & TUN_STATE_SOCKFILTER && !insns_are_set(s, now))
		diff |= TUN_STATE_SOCKFILTER;
	return diff & c.mask;
}

/* The device has the state that was set */
static void check_set(void)
{
	struct state now;
	uint64_t diff;

	f.checked++;
	if (state_get(c.fd, ALL_GROUPS, &now)) {
		bad("no state after SET", errno);
		return;
	}
	diff = not_set(&c.st.s, &now);
	if (diff) {
		printf("# differs in %llx\n", (unsigned long long)diff);
		bad("what was set is not there", 0);
	}
}

static void count_ending(int err)
{
	uint64_t failed = 0;
	struct ending *e;
	unsigned int i;

	if (err && c.writable && c.size >= HEADER && err != EFAULT &&
	    err != E2BIG && !c.overlap)
		failed = ((struct tun_state *)c.argp)->failed;
	/* Count all unknown groups as one */
	if (failed & ~ALL_GROUPS)
		failed = ~ALL_GROUPS;
	for (i = 0; i < f.nr_endings; i++) {
		e = &f.endings[i];
		if (e->call == c.call && e->err == err && e->failed == failed)
			break;
	}
	if (i == f.nr_endings) {
		if (i == ARRAY_SIZE(f.endings))
			return;
		f.nr_endings++;
		e = &f.endings[i];
		e->call = c.call;
		e->err = err;
		e->failed = failed;
	}
	/* Start from states of new devices, and from some that could be set */
	if (!e->count++ || (!err && !pick(50)))
		f.corpus[f.nr_corpus++ % CORPUS] = c.st;
}

static void make_call(void)
{
	unsigned int request, held[2];
	struct state was;
	bool compare, look, weak, read_only;
	enum area area;
	int err;

	pick_argument();
	if (c.fd < 0)
		return;
	compare = !pick(8) || f.verify;
	look = compare || (c.call == HOLD && pick(4));
	if (look)
		held_ids(c.fd, held);
	/* To read the state, too, leaves the held programs alone */
	compare = compare && !state_snapshot(c.fd, &was);
	place();
	weak = !pick(16);
	read_only = c.readable && !pick(100);
	if (read_only) {
		c.writable = false;
		mprotect(f.area[ARG], AREA, PROT_READ);
	}
	for (area = 0; area < NR_AREAS; area++)
		memcpy(f.before + area * AREA, f.area[area], AREA);
	request = c.call == SET ? TUNSETSTATE_SIZE(c.size) :
				  TUNGETSTATE_SIZE(c.size);

	if (weak)
		net_admin(false);
	err = ioctl(c.fd, request, c.argp) ? errno : 0;
	if (weak)
		net_admin(true);
	if (read_only)
		mprotect(f.area[ARG], AREA, PROT_READ | PROT_WRITE);

	/* Random flags may make it another call, or an invalid one */
	if (c.call == HOLD && !(c.st.s.flags & TUN_STATE_F_HOLD))
		c.call = GET;
	else if (c.call == GET && c.st.s.flags & TUN_STATE_F_HOLD)
		c.call = HOLD;
	f.done[c.call]++;
	f.succeeded[c.call] += !err;

	check_errno(err);
	check_memory(err);
	count_ending(err);
	if (!err && c.call != SET && !c.overlap)
		check_report();
	if (look)
		check_held(held, err);
	if (compare && (err || c.call != SET))
		check_unchanged(&was, err);
	if (!err && c.call == SET && !c.overlap) {
		f.changed += !!(c.mask & ~GET_ONLY);
		if (!pick(4) || f.verify)
			check_set();
	}
}

/* Results that must occur, or the test covers less than it claims */
static const struct {
	enum call call;
	int err;
	uint64_t failed;	/* each of these groups */
} reached[] = {
	{ GET, 0, 0 },
	{ GET, EINVAL, 0 },
	{ GET, EINVAL, ~ALL_GROUPS },
	{ GET, EINVAL, TUN_STATE_SOCKFILTER | TUN_STATE_FLOWS |
		       TUN_STATE_QUEUES },
	{ GET, ENOSPC, TUN_STATE_SOCKFILTER | TUN_STATE_FLOWS |
		       TUN_STATE_QUEUES },
	{ GET, EBADFD, 0 },
	{ GET, EFAULT, 0 },
	{ GET, E2BIG, 0 },
	{ HOLD, 0, 0 },
	{ HOLD, EINVAL, 0 },
	{ HOLD, EINVAL, ~ALL_GROUPS },
	{ HOLD, ENOSPC, TUN_STATE_QUEUES },
	{ HOLD, EBADFD, 0 },
	{ HOLD, EFAULT, 0 },
	{ HOLD, E2BIG, 0 },
	{ SET, 0, 0 },
	{ SET, EINVAL, 0 },
	{ SET, EINVAL, ~ALL_GROUPS },
	{ SET, EINVAL, TUN_STATE_IDENTITY | TUN_STATE_IFF | TUN_STATE_OWNER |
		       TUN_STATE_VNET | TUN_STATE_OFFLOAD | TUN_STATE_SNDBUF |
		       TUN_STATE_LINK | TUN_STATE_TXFILTER |
		       TUN_STATE_SOCKFILTER | TUN_STATE_STEERING |
		       TUN_STATE_FILTER | TUN_STATE_QUEUE },
	{ SET, EXDEV, TUN_STATE_IDENTITY },
	{ SET, EPERM, TUN_STATE_OWNER | TUN_STATE_LINK },
	{ SET, EBADF, TUN_STATE_STEERING | TUN_STATE_FILTER },
	{ SET, EBADFD, 0 },
	{ SET, EFAULT, 0 },
	{ SET, E2BIG, 0 },
};

static bool met(enum call call, int err, uint64_t failed)
{
	const struct ending *e;

	for (e = f.endings; e < f.endings + f.nr_endings; e++)
		if (e->call == call && e->err == err && e->failed == failed)
			return true;
	printf("# never: %s, %s, failed %llx\n", call_names[call],
	       err ? strerror(err) : "success", (unsigned long long)failed);
	return false;
}

static unsigned int missing(void)
{
	unsigned int i, bit, n = 0;
	uint64_t failed;

	for (i = 0; i < ARRAY_SIZE(reached); i++) {
		failed = reached[i].failed;
		if (!failed || failed & ~ALL_GROUPS) {
			n += !met(reached[i].call, reached[i].err, failed);
			continue;
		}
		for (bit = 0; bit < ARRAY_SIZE(state_groups); bit++)
			if (failed & 1ULL << bit)
				n += !met(reached[i].call, reached[i].err,
					  1ULL << bit);
	}
	return n;
}

static void statistics(double seconds)
{
	unsigned int errors[200] = {}, call, i;

	for (i = 0; i < f.nr_endings; i++)
		errors[f.endings[i].err % 200] += f.endings[i].count;
	for (call = 0; call < NR_CALLS; call++)
		printf("# %s: %u calls, %u succeeded\n", call_names[call],
		       f.done[call], f.succeeded[call]);
	for (i = 0; i < 200; i++)
		if (errors[i])
			printf("# %8u %s\n", errors[i],
			       i ? strerror(i) : "success");
	printf("# %u different endings, %u other changes, %u times compared, %u times checked\n",
	       f.nr_endings, f.others, f.verified, f.checked);
	printf("# %u times the file held a program\n", f.held);
	printf("# %.0f calls per second\n", f.nr / seconds);
}

static double now(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return ts.tv_sec + ts.tv_nsec / 1e9;
}

FIXTURE(fuzz)
{
	unsigned int calls;
};

FIXTURE_SETUP(fuzz)
{
	const char *calls = getenv("TUN_STATE_CALLS");
	const char *seed = getenv("TUN_STATE_SEED");
	const char *why = tun_state_enter();
	struct bpf_prog_info info;
	enum area area;
	unsigned int i;

	if (why)
		SKIP(return, "%s", why);
	self->calls = calls ? strtoul(calls, NULL, 0) : CALLS;
	f.seed = seed ? strtoull(seed, NULL, 0) : 1;
	f.verify = getenv("TUN_STATE_VERIFY");
	ASSERT_EQ(AREA, sysconf(_SC_PAGESIZE));

	f.home = open("/proc/self/ns/net", O_RDONLY);
	ASSERT_EQ(0, unshare(CLONE_NEWNET));
	f.other = open("/proc/self/ns/net", O_RDONLY);
	ASSERT_EQ(0, setns(f.home, CLONE_NEWNET));

	f.progs[0] = prog_load(BPF_PROG_TYPE_SOCKET_FILTER, 0x10001);
	f.progs[1] = prog_load(BPF_PROG_TYPE_SOCKET_FILTER, 0x10002);
	f.progs[2] = prog_load(BPF_PROG_TYPE_SOCKET_FILTER, 0x10003);
	f.progs[3] = prog_load(BPF_PROG_TYPE_XDP, 2);
	for (i = 0; i < PROGS; i++) {
		ASSERT_GE(f.progs[i], 0);
		ASSERT_EQ(0, prog_info(f.progs[i], &info));
		f.prog_ids[i] = info.id;
	}

	f.memory = mmap(NULL, (2 * NR_AREAS + 1) * AREA, PROT_NONE,
			MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	ASSERT_NE(MAP_FAILED, (void *)f.memory);
	f.before = malloc(NR_AREAS * AREA);
	ASSERT_NE(NULL, f.before);
	for (area = 0; area < NR_AREAS; area++) {
		f.area[area] = f.memory + (2 * area + 1) * AREA;
		ASSERT_EQ(0, mprotect(f.area[area], AREA,
				      PROT_READ | PROT_WRITE));
	}
	f.random = f.seed;
	for (i = 0; i < FILES; i++) {
		f.files[i] = -1;
		open_file(i);
	}
}

FIXTURE_TEARDOWN(fuzz)
{
	unsigned int i;

	/* Persistent devices go with their namespaces */
	for (i = 0; i < FILES; i++)
		if (f.files[i] >= 0)
			close(f.files[i]);
	for (i = 0; i < PROGS; i++)
		close(f.progs[i]);
	close(f.other);
	free(f.before);
}

TEST_F_TIMEOUT(fuzz, calls, 7200)
{
	double start = now();

	printf("# TUN_STATE_SEED=%llu TUN_STATE_CALLS=%u\n", f.seed,
	       self->calls);
	fflush(stdout);
	while (f.nr < self->calls && f.failures < 10) {
		/* Each call has a seed of its own */
		f.random = f.seed * 0x2545f4914f6cdd1d + f.nr;
		if (!pick(20))
			other_change();
		make_call();
		f.nr++;
	}
	statistics(now() - start);
	EXPECT_EQ(0, f.failures) {
		TH_LOG("reproduce: TUN_STATE_SEED=%llu", f.seed);
	}
	if (self->calls >= CALLS) {
		EXPECT_EQ(0, missing());
		EXPECT_LT(0, f.held);
	}
	EXPECT_GT(f.succeeded[SET] * 20, f.done[SET]);
}

TEST_HARNESS_MAIN
