// SPDX-License-Identifier: GPL-2.0
/*
 * Cost of TUNGETSTATE and TUNSETSTATE, compared with the older calls:
 *  - set a device: one TUNSETSTATE, or the older ioctls, with new values each
 *    time or with those in force;
 *  - read a device: one TUNGETSTATE of all groups, or the older calls, which
 *    report less;
 *  - pass packets through the device while another CPU reads its state.
 *
 * The alternatives take turns. Print the median and the quartiles of their
 * ratios: absolute figures of an emulated CPU mean little.
 */
#include <sched.h>
#include <signal.h>
#include <time.h>
#include <sys/wait.h>

#include "tun_state_util.h"

#define ROUNDS	41
#define CALLS	100	/* per alternative and round */
#define PACKETS	1000	/* per direction, alternative and round */
#define QUEUES	4

#define ARRAY_SIZE(a) (sizeof(a) / sizeof((a)[0]))

#ifndef TUNGETDEVNETNS
#define TUNGETDEVNETNS _IO('T', 227)
#endif

static char name[IFNAMSIZ] = "bench%d";
static int tap, ifindex, inet, rtnl, packet;

static void die(const char *what)
{
	perror(what);
	exit(1);
}

static void must(bool good, const char *what)
{
	if (!good)
		die(what);
}

#define MUST(call) must((call) >= 0, #call)

static double now(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return ts.tv_sec + ts.tv_nsec / 1e9;
}

static int compare(const void *a, const void *b)
{
	double x = *(const double *)a, y = *(const double *)b;

	return x < y ? -1 : x > y;
}

static void print_ratio(const char *what, double *ratios)
{
	qsort(ratios, ROUNDS, sizeof(*ratios), compare);
	printf("%5.2f  (%.2f .. %.2f)  %s\n", ratios[ROUNDS / 2],
	       ratios[ROUNDS / 4], ratios[ROUNDS * 3 / 4], what);
	fflush(stdout);
}

/* Flows expire: restore their number before each round */
static void fill_flows(void)
{
	static struct state flows;
	int i;

	state_point(&flows);
	for (i = 0; i < MAX_FLOWS / 2; i++)
		flows.flows[i] = (struct tun_state_flow) { .rxhash = i };
	flows.s.flows.count = i;
	must(!state_set(tap, TUN_STATE_FLOWS, &flows), "TUNSETSTATE");
}

/* Set a device: two states that differ in each value both ways can set */

#define BOTH_SET (TUN_STATE_OWNER | TUN_STATE_VNET | TUN_STATE_OFFLOAD | \
		  TUN_STATE_SNDBUF | TUN_STATE_LINK | TUN_STATE_TXFILTER | \
		  TUN_STATE_SOCKFILTER | TUN_STATE_STEERING | TUN_STATE_FILTER)

static struct state first, states[2];
static unsigned int turn, flip;

static void make_states(void)
{
	struct tun_state *s;
	int i, fd;

	must(!state_get(tap, BOTH_SET, &first), "TUNGETSTATE");
	for (i = 0; i < 2; i++) {
		fd = prog_load(BPF_PROG_TYPE_SOCKET_FILTER, 0xffff);
		must(fd >= 0, "BPF_PROG_LOAD");

		states[i] = first;
		state_point(&states[i]);
		s = &states[i].s;
		s->owner.uid = 1000 + i;
		s->owner.gid = 1000 + i;
		s->vnet.hdr_size = i ? 12 : 20;
		s->vnet.flags = i ? TUN_STATE_VNET_LE : 0;
		s->offload.enabled = TUN_F_CSUM |
				     (i ? TUN_F_TSO4 : TUN_F_TSO6);
		s->sndbuf.device = 100000 + i;
		s->sndbuf.queue = 100000 + i;
		s->link.msg_enable = i;
		s->txfilter.count = 1;
		s->txfilter.addr[0][5] = i;
		s->sockfilter.count = 1;
		states[i].insns[0] = (struct sock_filter) {
			.code = BPF_RET | BPF_K, .k = 0xffff - i,
		};
		s->steering.action = TUN_STATE_PROG_FD;
		s->steering.fd = fd;
		s->filter.action = TUN_STATE_PROG_FD;
		s->filter.fd = fd;
	}
}

static void set_one(void)
{
	turn ^= flip;
	must(!state_set(tap, BOTH_SET, &states[turn]), "TUNSETSTATE");
}

static void set_many(void)
{
	struct state *state = &states[turn ^= flip];
	struct sock_fprog prog = { .len = 1, .filter = state->insns };
	struct tun_state *s = &state->s;
	int hdr_size = s->vnet.hdr_size, le = s->vnet.flags;
	struct {
		struct tun_filter head;
		unsigned char addr[6];
	} addrs = { .head.count = 1 };

	memcpy(addrs.addr, s->txfilter.addr, sizeof(addrs.addr));
	MUST(ioctl(tap, TUNSETOWNER, s->owner.uid));
	MUST(ioctl(tap, TUNSETGROUP, s->owner.gid));
	MUST(ioctl(tap, TUNSETVNETHDRSZ, &hdr_size));
	MUST(ioctl(tap, TUNSETVNETLE, &le));
	MUST(ioctl(tap, TUNSETOFFLOAD, s->offload.enabled));
	MUST(ioctl(tap, TUNSETSNDBUF, &s->sndbuf.device));
	MUST(ioctl(tap, TUNSETDEBUG, s->link.msg_enable));
	MUST(ioctl(tap, TUNSETTXFILTER, &addrs));
	MUST(ioctl(tap, TUNATTACHFILTER, &prog));
	MUST(ioctl(tap, TUNSETSTEERINGEBPF, &s->steering.fd));
	MUST(ioctl(tap, TUNSETFILTEREBPF, &s->filter.fd));
}

/* Read a device */

static void get_one(void)
{
	static struct state st;

	state_point(&st);
	st.s.mask = ALL_GROUPS;
	st.s.sockfilter.count = MAX_INSNS;
	st.s.flows.count = MAX_FLOWS;
	st.s.queues.count = MAX_QUEUES;
	MUST(ioctl(tap, TUNGETSTATE, &st.s));
}

static void get_ethtool(void *data)
{
	struct ifreq ifr = { .ifr_data = data };

	memcpy(ifr.ifr_name, name, IFNAMSIZ);
	MUST(ioctl(inet, SIOCETHTOOL, &ifr));
}

static void get_link(void)
{
	struct link_req req = {
		.nh.nlmsg_len = NLMSG_LENGTH(sizeof(req.ifi)),
		.nh.nlmsg_type = RTM_GETLINK,
		.nh.nlmsg_flags = NLM_F_REQUEST,
		.ifi.ifi_index = ifindex,
	};
	static char answer[32768];

	MUST(send(rtnl, &req, req.nh.nlmsg_len, 0));
	MUST(recv(rtnl, answer, sizeof(answer), 0));
}

/* TUNGETVNETBE is left out, as it fails in most configurations */
static void get_many(void)
{
	struct {
		struct ethtool_gfeatures head;
		struct ethtool_get_features_block blocks[4];
	} features = { .head.cmd = ETHTOOL_GFEATURES, .head.size = 4 };
	struct ethtool_coalesce coalesce = { .cmd = ETHTOOL_GCOALESCE };
	struct ethtool_value level = { .cmd = ETHTOOL_GMSGLVL };
	struct sock_fprog prog;
	struct ifreq ifr = {};
	int value, netns;
	struct stat stat;

	MUST(ioctl(tap, TUNGETIFF, &ifr));
	MUST(ioctl(tap, TUNGETFEATURES, &value));
	MUST(ioctl(tap, TUNGETSNDBUF, &value));
	MUST(ioctl(tap, TUNGETVNETHDRSZ, &value));
	MUST(ioctl(tap, TUNGETVNETLE, &value));
	MUST(ioctl(tap, TUNGETFILTER, &prog));
	MUST(ioctl(tap, SIOCGIFHWADDR, &ifr));
	MUST(netns = ioctl(tap, TUNGETDEVNETNS));
	MUST(fstat(netns, &stat));
	close(netns);
	get_link();
	get_ethtool(&features);
	get_ethtool(&coalesce);
	get_ethtool(&level);
}

static double time_of(void (*call)(void))
{
	double start = now();
	int i;

	for (i = 0; i < CALLS; i++)
		call();
	return now() - start;
}

static void compare_calls(const char *what, void (*one)(void),
			  void (*many)(void))
{
	double ratios[ROUNDS], t;
	int i;

	for (i = 0; i < ROUNDS; i++) {
		fill_flows();
		if (i & 1) {
			t = time_of(one);
			ratios[i] = t / time_of(many);
		} else {
			t = time_of(many);
			ratios[i] = time_of(one) / t;
		}
	}
	print_ratio(what, ratios);
}

/* Packets, to the host and back to the same queue */

static double time_of_packets(void)
{
	static char frame[10 + 64];
	double start = now();
	int i;

	memset(frame, 0, sizeof(frame));
	memset(frame + 10, 0xff, 6);
	frame[10 + 12] = 0x88;	/* a protocol without a receiver */
	frame[10 + 13] = 0xb5;
	for (i = 0; i < PACKETS; i++) {
		MUST(write(tap, frame, sizeof(frame)));
		MUST(send(packet, frame + 10, sizeof(frame) - 10, 0));
		MUST(read(tap, frame, sizeof(frame)));
	}
	return now() - start;
}

static void on_cpu(unsigned int nr)
{
	cpu_set_t cpus;

	CPU_ZERO(&cpus);
	CPU_SET(nr, &cpus);
	MUST(sched_setaffinity(0, sizeof(cpus), &cpus));
}

static double packets_beside(void (*call)(void))
{
	int status;
	double t;
	pid_t pid;

	MUST(pid = fork());
	if (!pid) {
		on_cpu(1);
		while (1)
			call();
	}
	usleep(20000);
	t = time_of_packets();
	kill(pid, SIGKILL);
	must(waitpid(pid, &status, 0) == pid && WIFSIGNALED(status),
	     "the process beside");
	return t;
}

static void idle(void)
{
	pause();
}

static void get_nothing(void)
{
	int value;

	MUST(ioctl(tap, TUNGETFEATURES, &value));
}

static void compare_packets(void)
{
	static const struct {
		void (*call)(void);
		const char *what;
	} beside[] = {
		{ get_one, "TUNGETSTATE" },
		{ idle, "an idle CPU" },
		{ get_nothing, "a call that looks at no device" },
		{ get_many, "the older calls" },
	};
	double times[ARRAY_SIZE(beside)], ratios[ARRAY_SIZE(beside)][ROUNDS];
	unsigned int i, n, k;
	char what[80];

	on_cpu(0);
	for (i = 0; i < ROUNDS; i++) {
		for (n = 0; n < ARRAY_SIZE(beside); n++) {
			k = (n + i) % ARRAY_SIZE(beside);
			times[k] = packets_beside(beside[k].call);
		}
		for (k = 0; k < ARRAY_SIZE(beside); k++)
			ratios[k][i] = times[k] / times[0];
	}
	for (k = 1; k < ARRAY_SIZE(beside); k++) {
		snprintf(what, sizeof(what), "packets/s beside %s to beside %s",
			 beside[0].what, beside[k].what);
		print_ratio(what, ratios[k]);
	}
}

static void make_device(void)
{
	const unsigned int flags = IFF_TAP | IFF_NO_PI | IFF_VNET_HDR |
				   IFF_MULTI_QUEUE;
	struct sockaddr_ll sll = { .sll_family = AF_PACKET };
	int i;

	MUST(tap = tun_queue(name, flags));
	for (i = 1; i < QUEUES; i++)
		MUST(tun_queue(name, flags));
	MUST(netdev_up(name));
	MUST(ifindex = netdev_index(name));
	MUST(inet = socket(AF_INET, SOCK_DGRAM, 0));
	MUST(rtnl = socket(AF_NETLINK, SOCK_RAW, NETLINK_ROUTE));
	MUST(packet = socket(AF_PACKET, SOCK_RAW, 0));
	sll.sll_ifindex = ifindex;
	MUST(bind(packet, (void *)&sll, sizeof(sll)));
}

int main(void)
{
	const char *why = tun_state_enter();

	if (why) {
		printf("%s\n", why);
		return 4;
	}
	make_device();
	make_states();

	printf("%d queues, %d flows; median of %d ratios (quartiles)\n",
	       QUEUES, MAX_FLOWS / 2, ROUNDS);
	flip = 1;
	compare_calls("time of TUNSETSTATE to the older calls, new values",
		      set_one, set_many);
	flip = 0;
	compare_calls("time of TUNSETSTATE to the older calls, same values",
		      set_one, set_many);
	compare_calls("time of TUNGETSTATE to the older calls", get_one,
		      get_many);

	must(!state_set(tap, BOTH_SET, &first), "TUNSETSTATE");
	compare_packets();
	return 0;
}
