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
#include <errno.h>
#include <glob.h>
#include <inttypes.h>
#include <poll.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#ifndef SO_MEMINFO
#define SO_MEMINFO 55
#endif

enum {
	MAGIC = 0x54415053,
	HEADER = 32,
	PORTS = 8,			/* per group; flows = pairs of ports */
	MAX_FLOWS = PORTS * PORTS,
	TRAIN = 4,			/* packets of a flow in a row */
	MAX_QUEUES = 256,
	MAX_MISSING = 20,		/* to report */
	MAX_PACKET = 1400,
	CONTROL_PORT = 7000,
	HOST_TX_PORT = 20000,
	GUEST_RX_PORT = 21000,
	GUEST_TX_PORT = 22000,
	HOST_RX_PORT = 23000,
	RCVBUF = 4 << 20,
	MEMINFO_DROPS = 8,
	BURST = 32,
};

#define NSEC 1000000000LL

struct flow {
	uint8_t *seen;
	size_t size;
	uint64_t next;			/* one past the highest */
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
	struct flow flow[MAX_FLOWS];
} t;

static const char *ifname = "eth0";
static int control, rx[PORTS], tx[PORTS];

static void die(const char *what)
{
	printf("tapstate-agent: %s: %s\n", what, strerror(errno));
	exit(1);
}

static void put(uint8_t *p, uint64_t value, int bytes)
{
	while (bytes--) {
		p[bytes] = value;
		value >>= 8;
	}
}

static uint64_t get(const uint8_t *p, int bytes)
{
	uint64_t value = 0;

	while (bytes--)
		value = value << 8 | *p++;
	return value;
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
		uint32_t info[MEMINFO_DROPS + 1] = { 0 };
		socklen_t len = sizeof(info);

		if (getsockopt(rx[i], SOL_SOCKET, SO_MEMINFO, info, &len))
			die("SO_MEMINFO");
		drops += info[MEMINFO_DROPS];
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

/* Interrupts per queue show which queues were in use */
static size_t count_interrupts(uint64_t *counts, const char *direction)
{
	char line[4096];
	size_t queues = 0;
	FILE *f = fopen("/proc/interrupts", "r");

	if (!f)
		return 0;
	while (fgets(line, sizeof(line), f)) {
		char *name = strstr(line, direction);
		char *p = strchr(line, ':');
		unsigned int queue;
		uint64_t sum = 0, n;
		int used;

		if (!name || !p ||
		    sscanf(name + strlen(direction), ".%u", &queue) != 1 ||
		    queue >= MAX_QUEUES)
			continue;
		while (sscanf(++p, "%" SCNu64 "%n", &n, &used) == 1) {
			sum += n;
			p += used;
		}
		counts[queue] = sum;
		if (queue >= queues)
			queues = queue + 1;
	}
	fclose(f);
	return queues;
}

/* Whether the bit was set before */
static bool test_and_set(struct flow *f, uint64_t seq)
{
	size_t byte = seq / 8;
	bool was;

	if (byte >= f->size) {
		size_t size = byte * 2 + 64;

		f->seen = realloc(f->seen, size);
		if (!f->seen)
			die("realloc");
		memset(f->seen + f->size, 0, size - f->size);
		f->size = size;
	}
	was = f->seen[byte] & 1 << seq % 8;
	f->seen[byte] |= 1 << seq % 8;
	return was;
}

static void count_packet(const uint8_t *p, size_t len)
{
	uint32_t flow;
	uint64_t seq;
	struct flow *f;

	if (len < HEADER || get(p, 4) != MAGIC) {
		t.corrupt++;
		return;
	}
	if (!t.run || get(p + 4, 4) != t.run)
		return;

	flow = get(p + 8, 4);
	seq = get(p + 16, 8);
	/* A wrong seq must not make the bitmap huge */
	if (flow >= t.flows || seq >> 32 || get(p + 12, 4) != len ||
	    len != packet_length(flow, seq)) {
		t.corrupt++;
		return;
	}
	for (size_t i = HEADER; i < len; i++) {
		if (p[i] != pattern(flow, seq, i - HEADER)) {
			t.corrupt++;
			return;
		}
	}

	f = &t.flow[flow];
	t.received++;
	if (test_and_set(f, seq)) {
		t.duplicated++;
		return;
	}
	t.unique++;
	if (seq < f->next)
		t.reordered++;
	else
		f->next = seq + 1;
}

static void receive(int fd)
{
	uint8_t packet[65536];
	ssize_t len;

	while ((len = recv(fd, packet, sizeof(packet), 0)) >= 0)
		count_packet(packet, len);
}

static bool send_one(void)
{
	uint32_t flow = flow_of(t.sent);
	uint64_t seq = seq_of(t.sent);
	size_t len = packet_length(flow, seq);
	uint8_t p[MAX_PACKET];

	put(p, MAGIC, 4);
	put(p + 4, t.run, 4);
	put(p + 8, flow, 4);
	put(p + 12, len, 4);
	put(p + 16, seq, 8);
	put(p + 24, t.received, 8);
	for (size_t i = HEADER; i < len; i++)
		p[i] = pattern(flow, seq, i - HEADER);

	t.host.sin_port = htons(HOST_RX_PORT + flow % PORTS);
	if (sendto(tx[flow / PORTS], p, len, 0, (struct sockaddr *)&t.host,
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

static uint64_t number(const char *text, const char *key)
{
	size_t len = strlen(key);

	for (const char *p = text; (p = strstr(p, key)); p += len) {
		if (p > text && p[-1] == ' ' && p[len] == '=')
			return strtoull(p + len + 1, NULL, 10);
	}
	return 0;
}

static const char *start(const char *text, const struct sockaddr_in *host)
{
	uint64_t run = number(text, "run"), rate = number(text, "rate");
	uint64_t flows = number(text, "flows");

	if (!run || run > UINT32_MAX || !rate || !flows || flows > MAX_FLOWS)
		return "start needs run, flows and rate";
	if (run == t.run)
		return NULL;

	for (int i = 0; i < MAX_FLOWS; i++)
		free(t.flow[i].seen);
	memset(&t, 0, sizeof(t));
	t.run = run;
	t.flows = flows;
	t.interval = NSEC / (int64_t)rate;
	t.due = now();
	t.count = UINT64_MAX;
	t.host = *host;
	return NULL;
}

static const char *finish(const char *text)
{
	uint64_t count = number(text, "count");

	if (!t.run || number(text, "run") != t.run)
		return "no such run";
	if (count < t.sent)
		return "count was passed already";
	t.count = count;
	return NULL;
}

static size_t append(char *buf, size_t size, size_t len, const char *format, ...)
{
	va_list ap;
	int n;

	va_start(ap, format);
	n = vsnprintf(buf + len, size - len, format, ap);
	va_end(ap);
	return len + n < size ? len + n : size - 1;
}

static size_t append_interrupts(char *buf, size_t size, size_t len,
				const char *key, const char *direction)
{
	uint64_t counts[MAX_QUEUES] = { 0 };
	size_t queues = count_interrupts(counts, direction);

	len = append(buf, size, len, " %s=", key);
	for (size_t i = 0; i < queues; i++)
		len = append(buf, size, len, "%s%" PRIu64, i ? "," : "",
			     counts[i]);
	return len;
}

/* What is not there yet, of packets that are numbered below count */
static size_t append_missing(char *buf, size_t size, size_t len)
{
	uint64_t found = 0;

	len = append(buf, size, len, " missing=");
	for (uint64_t n = 0; t.count != UINT64_MAX && n < t.count; n++) {
		struct flow *f = &t.flow[flow_of(n)];
		uint64_t seq = seq_of(n);

		if (seq / 8 < f->size && f->seen[seq / 8] & 1 << seq % 8)
			continue;
		len = append(buf, size, len, "%s%" PRIu64, found ? "," : "", n);
		if (++found == MAX_MISSING)
			break;
	}
	return len;
}

/* Of the guest's own network stack, to tell its drops from the host's */
static uint64_t device_drops(void)
{
	static const char *const names[] = {
		"rx_dropped", "rx_errors", "rx_missed_errors", "tx_dropped",
		"tx_errors",
	};
	uint64_t drops = 0, n;

	for (size_t i = 0; i < sizeof(names) / sizeof(*names); i++) {
		char path[128];
		FILE *f;

		snprintf(path, sizeof(path), "/sys/class/net/%s/statistics/%s",
			 ifname, names[i]);
		f = fopen(path, "r");
		if (!f)
			continue;
		if (fscanf(f, "%" SCNu64, &n) == 1)
			drops += n;
		fclose(f);
	}
	return drops;
}

static size_t append_status(char *buf, size_t size, size_t len)
{
	len = append(buf, size, len, " run=%" PRIu32 " sent=%" PRIu64
		     " finished=%d send_errors=%" PRIu64 " received=%" PRIu64
		     " unique=%" PRIu64 " duplicated=%" PRIu64
		     " reordered=%" PRIu64 " corrupt=%" PRIu64
		     " overflow=%" PRIu64 " device_drops=%" PRIu64
		     " clock=%" PRIi64 " due=%" PRIi64,
		     t.run, t.sent,
		     t.run && t.sent >= t.count, t.send_errors, t.received,
		     t.unique, t.duplicated, t.reordered, t.corrupt,
		     socket_drops(), device_drops(), now() / 1000000,
		     t.due / 1000000);
	len = append_missing(buf, size, len);
	len = append_interrupts(buf, size, len, "input", "-input");
	return append_interrupts(buf, size, len, "output", "-output");
}

static void answer(void)
{
	char request[1500], reply[1400], word[16];
	struct sockaddr_in from;
	socklen_t fromlen = sizeof(from);
	const char *error = NULL;
	unsigned int id;
	size_t len;
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

	len = append(reply, sizeof(reply), 0, "%u %s", id,
		     error ? "error " : "ok");
	if (error) {
		len = append(reply, sizeof(reply), len, "%s", error);
	} else {
		len = append(reply, sizeof(reply), len, " queues=%zu",
			     get_queues());
		len = append_status(reply, sizeof(reply), len);
	}
	/* If this fails the host asks again */
	sendto(control, reply, len, 0, (struct sockaddr *)&from, fromlen);
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
