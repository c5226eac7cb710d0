// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * The guest's end of the test traffic; lab/tests/traffic.py is the host's.
 *
 * Either end sends numbered UDP packets in many flows and counts, exactly,
 * what it received of the other's. Flows go one way only: tun moves a flow to
 * the queue that the packets of its opposite came from last, without waiting
 * for the old queue to drain, and would so reorder a flow that goes both ways
 * with no hand-over at all. Packets go out in trains of one flow: only what is
 * under way at the same time can be seen to change places.
 *
 * Data packets, in network byte order:
 *
 *	u32 magic, run, flow, length;	length: of all of this
 *	u64 seq;			per flow, from 0
 *	u64 received;			from the other end so far
 *	u8 pattern[];			so that a mangled packet shows
 *
 * Requests come from the host in UDP packets "ID WORD KEY=VALUE..." and are
 * answered by "ID ok KEY=VALUE..." or "ID error TEXT". All of them may be
 * repeated: an answer that got lost must not change what is counted.
 *
 *	hello
 *	start run=N flows=N rate=N	send to the host that asks
 *	finish run=N count=N		stop after packet N
 *	status
 *
 * usage: tapstate-agent [DEV]
 *
 * The guest's clock paces the packets and is used for nothing else: it stands
 * still while the machine is stopped.
 */
#include <arpa/inet.h>
#include <endian.h>
#include <errno.h>
#include <glob.h>
#include <inttypes.h>
#include <linux/sock_diag.h>
#include <poll.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum {
	MAGIC = 0x54415053,
	HEADER = 32,
	PORTS = 8,			/* per group; flows = pairs of ports */
	MAX_FLOWS = PORTS * PORTS,
	TRAIN = 4,			/* packets of a flow in a row */
	MAX_MISSING = 20,		/* to report */
	MAX_PACKETS = 1 << 24,		/* of a run, each way */
	CONTROL_PORT = 7000,
	HOST_TX_PORT = 20000,
	GUEST_RX_PORT = 21000,
	GUEST_TX_PORT = 22000,
	HOST_RX_PORT = 23000,
	RCVBUF = 4 << 20,
	BURST = 32,
};

#define NSEC 1000000000LL

/* HEADER bytes, and the pattern */
struct packet {
	uint32_t magic, run, flow, length;
	uint64_t seq, received;
	uint8_t pattern[65536];
};

static struct {
	uint32_t run;
	uint32_t flows;
	int64_t interval;
	int64_t due;
	uint64_t count;
	uint64_t sent;
	uint64_t send_errors;
	uint64_t received, unique, duplicated, reordered, corrupt;
	struct sockaddr_in host;
	uint64_t next[MAX_FLOWS];	/* of a flow, one past the highest seq */
	bool *seen;			/* by the number of the packet */
} t;

static const char *ifname = "eth0";
static int control, rx[PORTS], tx[PORTS];

static void die(const char *what)
{
	printf("tapstate-agent: %s: %s\n", what, strerror(errno));
	exit(1);
}

static int64_t now(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return ts.tv_sec * NSEC + ts.tv_nsec;
}

/* Which packet is the Nth of all */
static uint32_t flow_of(uint64_t n)
{
	return n / TRAIN % t.flows;
}

static uint64_t seq_of(uint64_t n)
{
	return n / (TRAIN * t.flows) * TRAIN + n % TRAIN;
}

static uint64_t number_of(uint32_t flow, uint64_t seq)
{
	return (seq / TRAIN * t.flows + flow) * TRAIN + seq % TRAIN;
}

static size_t packet_length(uint32_t flow, uint64_t seq)
{
	return HEADER + 8 + (seq * 97 + flow * 31) % 1200;
}

static uint8_t pattern(uint32_t flow, uint64_t seq, size_t i)
{
	return seq * 13 + flow * 7 + i;
}

static int udp_socket(uint16_t port)
{
	struct sockaddr_in addr = {
		.sin_family = AF_INET,
		.sin_port = htons(port),
	};
	int size = RCVBUF;
	int fd = socket(AF_INET, SOCK_DGRAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);

	if (fd < 0)
		die("socket");
	if (setsockopt(fd, SOL_SOCKET, SO_RCVBUFFORCE, &size, sizeof(size)) &&
	    setsockopt(fd, SOL_SOCKET, SO_RCVBUF, &size, sizeof(size)))
		die("SO_RCVBUF");
	if (bind(fd, (struct sockaddr *)&addr, sizeof(addr)))
		die("bind");
	return fd;
}

static void open_sockets(void)
{
	int one = 1;

	control = udp_socket(CONTROL_PORT);
	for (int i = 0; i < PORTS; i++) {
		rx[i] = udp_socket(GUEST_RX_PORT + i);
		tx[i] = udp_socket(GUEST_TX_PORT + i);
		/* Without it, a packet that the qdisc drops counts as sent */
		if (setsockopt(tx[i], IPPROTO_IP, IP_RECVERR, &one, sizeof(one)))
			die("IP_RECVERR");
	}
}

static uint64_t socket_drops(void)
{
	uint64_t drops = 0;

	for (int i = 0; i < PORTS; i++) {
		uint32_t info[SK_MEMINFO_VARS] = { 0 };
		socklen_t len = sizeof(info);

		if (getsockopt(rx[i], SOL_SOCKET, SO_MEMINFO, info, &len))
			die("SO_MEMINFO");
		drops += info[SK_MEMINFO_DROPS];
	}
	return drops;
}

/* Pairs of queues in use */
static size_t get_queues(void)
{
	char pattern[64];
	glob_t queues;
	size_t count;

	snprintf(pattern, sizeof(pattern), "/sys/class/net/%s/queues/tx-*",
		 ifname);
	count = glob(pattern, 0, NULL, &queues) ? 0 : queues.gl_pathc;
	globfree(&queues);
	return count;
}

static bool is_intact(const struct packet *p, size_t len, uint32_t flow,
		      uint64_t seq)
{
	if (flow >= t.flows || seq >= MAX_PACKETS ||
	    number_of(flow, seq) >= MAX_PACKETS ||
	    be32toh(p->length) != len || len != packet_length(flow, seq))
		return false;
	len -= HEADER;
	for (size_t i = 0; i < len; i++) {
		if (p->pattern[i] != pattern(flow, seq, i))
			return false;
	}
	return true;
}

static void count_packet(const struct packet *p, size_t len)
{
	uint32_t flow = be32toh(p->flow);
	uint64_t seq = be64toh(p->seq);
	bool *seen;

	if (len < HEADER || be32toh(p->magic) != MAGIC) {
		t.corrupt++;
		return;
	}
	if (!t.run || be32toh(p->run) != t.run)
		return;
	if (!is_intact(p, len, flow, seq)) {
		t.corrupt++;
		return;
	}

	t.received++;
	seen = &t.seen[number_of(flow, seq)];
	if (*seen) {
		t.duplicated++;
		return;
	}
	*seen = true;
	t.unique++;
	if (seq < t.next[flow])
		t.reordered++;
	else
		t.next[flow] = seq + 1;
}

static void receive(int fd)
{
	static struct packet packet;
	ssize_t len;

	while ((len = recv(fd, &packet, sizeof(packet), 0)) >= 0)
		count_packet(&packet, len);
}

static bool send_one(void)
{
	uint32_t flow = flow_of(t.sent);
	uint64_t seq = seq_of(t.sent);
	size_t len = packet_length(flow, seq);
	struct packet p;

	p.magic = htobe32(MAGIC);
	p.run = htobe32(t.run);
	p.flow = htobe32(flow);
	p.length = htobe32(len);
	p.seq = htobe64(seq);
	p.received = htobe64(t.received);
	for (size_t i = 0; i < len - HEADER; i++)
		p.pattern[i] = pattern(flow, seq, i);

	t.host.sin_port = htons(HOST_RX_PORT + flow % PORTS);
	if (sendto(tx[flow / PORTS], &p, len, 0, (struct sockaddr *)&t.host,
		   sizeof(t.host)) != (ssize_t)len) {
		t.send_errors++;
		return false;
	}
	t.sent++;
	return true;
}

/* How long to sleep, in ms */
static int send_due(void)
{
	int64_t time = now();

	if (!t.run || t.sent >= t.count)
		return -1;
	/* After a stall go on at the same rate: no burst to fill a queue */
	if (time - t.due > NSEC)
		t.due = time;
	for (int i = 0; i < BURST && t.sent < t.count; i++) {
		if (t.due > time && t.sent % TRAIN == 0)
			break;
		if (!send_one())
			break;
		t.due += t.interval;
	}
	if (t.sent >= t.count)
		return -1;
	time = now();
	/* Not at once after a failure: what is full needs time to drain */
	return t.due <= time ? 1 : (t.due - time + 999999) / 1000000;
}

static const char *start(const char *request, const struct sockaddr_in *host)
{
	uint32_t run, flows, rate;

	if (sscanf(request, "%*u start run=%u flows=%u rate=%u",
		   &run, &flows, &rate) != 3 ||
	    !run || !rate || !flows || flows > MAX_FLOWS)
		return "start needs run, flows and rate";
	if (run == t.run)
		return NULL;

	free(t.seen);
	memset(&t, 0, sizeof(t));
	t.seen = calloc(MAX_PACKETS, sizeof(*t.seen));
	if (!t.seen)
		die("calloc");
	t.run = run;
	t.flows = flows;
	t.interval = NSEC / rate;
	t.due = now();
	t.count = MAX_PACKETS;
	t.host = *host;
	return NULL;
}

static const char *finish(const char *request)
{
	uint32_t run;
	uint64_t count;

	if (sscanf(request, "%*u finish run=%u count=%" SCNu64, &run, &count) != 2 ||
	    !run || run != t.run)
		return "no such run";
	if (count < t.sent)
		return "count was passed already";
	if (count >= MAX_PACKETS)
		return "too many packets to count";
	t.count = count;
	return NULL;
}

/* Numbers of packets that did not arrive, once the count is known */
static void print_missing(FILE *reply)
{
	unsigned int found = 0;

	fputs(" missing=", reply);
	if (t.count == MAX_PACKETS)
		return;
	for (uint64_t n = 0; n < t.count && found < MAX_MISSING; n++) {
		if (!t.seen[n])
			fprintf(reply, "%s%" PRIu64, found++ ? "," : "", n);
	}
}

static void print_status(FILE *reply)
{
	fprintf(reply, " run=%" PRIu32 " sent=%" PRIu64 " finished=%d"
		" send_errors=%" PRIu64 " received=%" PRIu64
		" unique=%" PRIu64 " duplicated=%" PRIu64
		" reordered=%" PRIu64 " corrupt=%" PRIu64
		" overflow=%" PRIu64 " clock=%" PRIi64 " due=%" PRIi64,
		t.run, t.sent, t.run && t.sent >= t.count, t.send_errors,
		t.received, t.unique, t.duplicated, t.reordered, t.corrupt,
		socket_drops(), now() / 1000000, t.due / 1000000);
	print_missing(reply);
}

static void answer(void)
{
	char request[1500], text[1400], word[16];
	struct sockaddr_in from;
	socklen_t fromlen = sizeof(from);
	const char *error = NULL;
	unsigned int id;
	FILE *reply;
	ssize_t n;

	n = recvfrom(control, request, sizeof(request) - 1, 0,
		     (struct sockaddr *)&from, &fromlen);
	if (n < 0)
		return;
	request[n] = 0;
	if (sscanf(request, "%u %15s", &id, word) != 2)
		return;

	if (!strcmp(word, "start"))
		error = start(request, &from);
	else if (!strcmp(word, "finish"))
		error = finish(request);
	else if (strcmp(word, "hello") && strcmp(word, "status"))
		error = "no such request";

	reply = fmemopen(text, sizeof(text), "w");
	if (!reply)
		die("fmemopen");
	if (error) {
		fprintf(reply, "%u error %s", id, error);
	} else {
		fprintf(reply, "%u ok queues=%zu", id, get_queues());
		print_status(reply);
	}
	n = ftell(reply);
	fclose(reply);
	/* If this fails the host asks again */
	sendto(control, text, n, 0, (struct sockaddr *)&from, fromlen);
}

int main(int argc, char **argv)
{
	struct pollfd fds[1 + PORTS];

	setvbuf(stdout, NULL, _IOLBF, 0);
	if (argc > 1)
		ifname = argv[1];

	open_sockets();
	fds[0] = (struct pollfd) { .fd = control, .events = POLLIN };
	for (int i = 0; i < PORTS; i++)
		fds[1 + i] = (struct pollfd) { .fd = rx[i], .events = POLLIN };

	printf("tapstate-agent: ready on %s, %zu queues\n", ifname,
	       get_queues());

	for (;;) {
		if (poll(fds, 1 + PORTS, send_due()) < 0 && errno != EINTR)
			die("poll");
		for (int i = 0; i < PORTS; i++) {
			if (fds[1 + i].revents)
				receive(rx[i]);
		}
		if (fds[0].revents)
			answer();
	}
}
