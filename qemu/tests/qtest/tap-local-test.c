/*
 * QTest testcase for the hand-over of a TAP to another QEMU on the same host
 *
 * Each packet has a number. Each packet that arrives must have the next number:
 * the tests fail if one is lost, duplicated, reordered or damaged.
 *
 * Copyright (c) 2026 tapstate developers
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"

#include <sched.h>
#include <glib/gstdio.h>
#include <net/ethernet.h>
#include <net/if.h>
#include <netinet/ip.h>
#include <netinet/udp.h>
#include <sys/ioctl.h>
#include <linux/if_packet.h>
#include <linux/if_tun.h>
#include <linux/pkt_cls.h>
#include <linux/pkt_sched.h>
#include <linux/rtnetlink.h>
#include <linux/tc_act/tc_mirred.h>

#include "libqtest.h"
#include "libqos/e1000e.h"
#include "libqos/malloc-pc.h"
#include "libqos/pci-pc.h"
#include "libqos/qgraph_internal.h"
#include "libqos/virtio-net.h"
#include "migration/migration-qmp.h"
#include "migration/migration-util.h"
#include "hw/net/e1000_regs.h"
#include "hw/pci/pci_ids.h"
#include "hw/virtio/virtio-net.h"
#include "qemu/bswap.h"
#include "qemu/module.h"
#include "qemu/rcu.h"
#include "qobject/qdict.h"

#define TAP "tap0"
#define OUT "out0"
#define NIC_SLOT 4
#define MAX_QUEUES 4
#define RING_SIZE 256
#define BUFFER_SIZE 2048
#define TIMEOUT_US (30 * G_USEC_PER_SEC)

#define TX_PACKETS 30
/* Send buffer with room for a few of the packets */
#define TX_SNDBUF ",sndbuf=10000"
#define VHOST ",vhost=on"

/* Reason to skip all tests, or NULL */
static const char *skip_reason;

/* Packets of one queue, in one direction */
typedef struct Flow {
    uint16_t port;
    uint32_t sent;
    uint32_t received;
    bool lossy;             /* allow lost packets, not duplicated ones */
} Flow;

typedef struct QEMU_PACKED Packet {
    struct ether_header eth;
    struct iphdr ip;
    struct udphdr udp;
    uint32_t number;
    uint8_t pattern[960];
} Packet;

typedef struct Test Test;

/* Functions of the guest's driver for a NIC model */
typedef struct Nic {
    const char *device;
    void (*start)(Test *t);
    void (*add_buffer)(Test *t, int queue);
    bool (*receive)(Test *t, int queue, Packet *packet);
    void (*send)(Test *t, int queue, const Packet *packet);
} Nic;

struct Test {
    const Nic *nic;
    int queues;
    int slot;               /* PCI slot of the NIC */
    bool vhost;

    char *dir;
    int serial;             /* number of the next QEMU */
    int host;               /* packet socket on the TAP */
    int out;                /* TAP to which the kernel redirects, or -1 */
    int meanwhile;          /* packets to send while a target waits */
    bool silent;            /* targets send no announcement */

    QTestState *qts;        /* QEMU with the guest */
    QPCIBus *bus;
    QGuestAllocator alloc;
    QOSGraphObject *obj;
    QVirtioNet *virtio;
    QE1000E_PCI *e1000e;
    uint64_t buffer[MAX_QUEUES][RING_SIZE];
    int buffers[MAX_QUEUES];            /* receive buffers of the NIC */
    int rx_next;                        /* e1000e */

    Flow to_guest[MAX_QUEUES];
    Flow to_host[MAX_QUEUES];
};

/* Packets */

static void packet_make(Packet *packet, uint16_t port, uint32_t number)
{
    *packet = (Packet) {
        .eth = {
            .ether_dhost = E1000E_ADDRESS,
            .ether_shost = { 0x02, 0, 0, 0, 0, 0x01 },
            .ether_type = htons(ETHERTYPE_IP),
        },
        .ip = {
            .version = IPVERSION,
            .ihl = sizeof(struct iphdr) / 4,
            .tot_len = htons(sizeof(Packet) - offsetof(Packet, ip)),
            .ttl = 64,
            .protocol = IPPROTO_UDP,
            .saddr = htonl(0x0a000001),
            .daddr = htonl(0x0a000002),
        },
        .udp = {
            .source = htons(port),
            .dest = htons(port),
            .len = htons(sizeof(Packet) - offsetof(Packet, udp)),
        },
        .number = htonl(number),
    };
    for (int i = 0; i < sizeof(packet->pattern); i++) {
        packet->pattern[i] = number * 7 + i;
    }
}

/* Check that @packet is the next one of @flow */
static void packet_check(const Packet *packet, Flow *flow)
{
    uint32_t number = ntohl(packet->number);
    Packet expected;

    if (flow->lossy) {
        g_assert_cmpuint(number, >=, flow->received);
        g_assert_cmpuint(number, <, flow->sent);
    } else {
        g_assert_cmpuint(number, ==, flow->received);
    }
    packet_make(&expected, flow->port, number);
    g_assert_cmpmem(packet, sizeof(*packet), &expected, sizeof(expected));
    flow->received = number + 1;
}

/* The guest */

static void virtio_start(Test *t)
{
    QPCIAddress addr = { .devfn = QPCI_DEVFN(NIC_SLOT, 0) };

    t->obj = qos_driver_new(qos_graph_get_node("virtio-net-pci"),
                            (QOSGraphObject *)t->bus, &t->alloc, &addr);
    qos_object_start_hw(t->obj);
    t->virtio = t->obj->get_driver(t->obj, "virtio-net");
    g_assert_cmpint(t->virtio->n_queues, ==, 2 * t->queues + 1);
}

static void virtio_add_buffer(Test *t, int queue)
{
    QVirtQueue *vq = t->virtio->queues[2 * queue];
    uint64_t addr = guest_alloc(&t->alloc, BUFFER_SIZE);
    uint32_t head;

    g_assert_cmpuint(vq->num_free, >, 0);
    head = qvirtqueue_add(t->qts, vq, addr, BUFFER_SIZE, true, false);
    t->buffer[queue][head] = addr;
    qvirtqueue_kick(t->qts, t->virtio->vdev, vq, head);
}

static bool virtio_receive(Test *t, int queue, Packet *packet)
{
    QVirtQueue *vq = t->virtio->queues[2 * queue];
    size_t hdr_len = sizeof(struct virtio_net_hdr_mrg_rxbuf);
    uint32_t head, len;

    if (!qvirtqueue_get_buf(t->qts, vq, &head, &len)) {
        return false;
    }
    g_assert_cmpuint(head, <, RING_SIZE);
    g_assert_cmpuint(len, ==, hdr_len + sizeof(*packet));
    qtest_memread(t->qts, t->buffer[queue][head] + hdr_len, packet,
                  sizeof(*packet));
    return true;
}

static void virtio_send(Test *t, int queue, const Packet *packet)
{
    QVirtQueue *vq = t->virtio->queues[2 * queue + 1];
    size_t hdr_len = sizeof(struct virtio_net_hdr_mrg_rxbuf);
    uint64_t addr = guest_alloc(&t->alloc, BUFFER_SIZE);
    uint32_t head;

    g_assert_cmpuint(vq->num_free, >, 0);
    qtest_memset(t->qts, addr, 0, hdr_len);
    qtest_memwrite(t->qts, addr + hdr_len, packet, sizeof(*packet));
    head = qvirtqueue_add(t->qts, vq, addr, hdr_len + sizeof(*packet), false,
                          false);
    qvirtqueue_kick(t->qts, t->virtio->vdev, vq, head);
}

static const Nic virtio_nic = {
    .device = "virtio-net-pci",
    .start = virtio_start,
    .add_buffer = virtio_add_buffer,
    .receive = virtio_receive,
    .send = virtio_send,
};

/* Return the number of packets that the NIC has taken from the guest */
static int virtio_sent(Test *t, int queue)
{
    QVirtQueue *vq = t->virtio->queues[2 * queue + 1];

    return qtest_readw(t->qts, vq->used + offsetof(struct vring_used, idx));
}

static void virtio_set_queue_pairs(Test *t, uint16_t pairs)
{
    QVirtQueue *vq = t->virtio->queues[t->virtio->n_queues - 1];
    uint64_t addr = guest_alloc(&t->alloc, BUFFER_SIZE);
    uint8_t command[4] = { VIRTIO_NET_CTRL_MQ, VIRTIO_NET_CTRL_MQ_VQ_PAIRS_SET,
                           pairs, pairs >> 8 };
    uint32_t head;

    qtest_memwrite(t->qts, addr, command, sizeof(command));
    qtest_writeb(t->qts, addr + sizeof(command), VIRTIO_NET_ERR);
    head = qvirtqueue_add(t->qts, vq, addr, sizeof(command), false, true);
    qvirtqueue_add(t->qts, vq, addr + sizeof(command), 1, true, false);
    qvirtqueue_kick(t->qts, t->virtio->vdev, vq, head);
    qvirtio_wait_used_elem(t->qts, t->virtio->vdev, vq, head, NULL,
                           TIMEOUT_US);
    g_assert_cmpint(qtest_readb(t->qts, addr + sizeof(command)), ==,
                    VIRTIO_NET_OK);
}

static void e1000e_start(Test *t)
{
    QPCIAddress addr = {
        .vendor_id = PCI_VENDOR_ID_INTEL,
        .device_id = E1000_DEV_ID_82574L,
    };

    t->obj = qos_driver_new(qos_graph_get_node("e1000e"),
                            (QOSGraphObject *)t->bus, &t->alloc, &addr);
    qos_object_start_hw(t->obj);
    t->e1000e = (QE1000E_PCI *)t->obj;
    /* Strip the checksum: the buffer may have no room for it */
    e1000e_macreg_write(&t->e1000e->e1000e, E1000_RCTL,
                        E1000_RCTL_EN | E1000_RCTL_UPE | E1000_RCTL_MPE |
                        E1000_RCTL_SECRC);
    t->rx_next = 0;
}

static void e1000e_add_buffer(Test *t, int queue)
{
    QE1000E *d = &t->e1000e->e1000e;
    uint32_t tail = e1000e_macreg_read(d, E1000_RDT);
    union e1000_rx_desc_extended descr = {};

    t->buffer[queue][tail] = guest_alloc(&t->alloc, BUFFER_SIZE);
    descr.read.buffer_addr = cpu_to_le64(t->buffer[queue][tail]);
    e1000e_rx_ring_push(d, &descr);
}

static bool e1000e_receive(Test *t, int queue, Packet *packet)
{
    union e1000_rx_desc_extended descr;

    qtest_memread(t->qts, t->e1000e->e1000e.rx_ring +
                  t->rx_next * E1000_RING_DESC_LEN, &descr, sizeof(descr));
    if (!(le32_to_cpu(descr.wb.upper.status_error) & E1000_RXD_STAT_DD)) {
        return false;
    }
    g_assert_cmpuint(le16_to_cpu(descr.wb.upper.length), ==,
                     sizeof(*packet));
    qtest_memread(t->qts, t->buffer[queue][t->rx_next], packet,
                  sizeof(*packet));
    t->rx_next++;
    g_assert_cmpint(t->rx_next, <, RING_SIZE);
    return true;
}

static void e1000e_send(Test *t, int queue, const Packet *packet)
{
    uint64_t addr = guest_alloc(&t->alloc, BUFFER_SIZE);
    struct e1000_tx_desc descr = {
        .buffer_addr = cpu_to_le64(addr),
        .lower.data = cpu_to_le32(E1000_TXD_CMD_RS | E1000_TXD_CMD_EOP |
                                  E1000_TXD_CMD_DEXT | E1000_TXD_DTYP_D |
                                  sizeof(*packet)),
    };

    qtest_memwrite(t->qts, addr, packet, sizeof(*packet));
    e1000e_tx_ring_push(&t->e1000e->e1000e, &descr);
    g_assert_true(le32_to_cpu(descr.upper.data) & E1000_TXD_STAT_DD);
}

static const Nic e1000e_nic = {
    .device = "e1000e",
    .start = e1000e_start,
    .add_buffer = e1000e_add_buffer,
    .receive = e1000e_receive,
    .send = e1000e_send,
};

static void guest_start(Test *t)
{
    t->nic->start(t);
    if (t->queues > 1) {
        virtio_set_queue_pairs(t, t->queues);
    }
    memset(t->buffers, 0, sizeof(t->buffers));
}

/* Continue the guest in @qts, which has its memory and devices */
static void guest_move(Test *t, QTestState *qts)
{
    t->qts = qts;
    t->bus->qts = qts;
}

static void guest_add_buffers(Test *t, int queue, int n)
{
    for (int i = 0; i < n; i++) {
        t->nic->add_buffer(t, queue);
        t->buffers[queue]++;
    }
}

static bool guest_poll(Test *t, int queue, Packet *packet)
{
    if (!t->nic->receive(t, queue, packet)) {
        return false;
    }
    t->buffers[queue]--;
    return true;
}

static void guest_receive_one(Test *t, int queue)
{
    gint64 end = g_get_monotonic_time() + TIMEOUT_US;
    Packet packet;

    while (!guest_poll(t, queue, &packet)) {
        if (g_get_monotonic_time() > end) {
            g_error("queue %d: packet %u does not come", queue,
                    t->to_guest[queue].received);
        }
    }
    packet_check(&packet, &t->to_guest[queue]);
}

static void guest_receive(Test *t, int queue, int n)
{
    for (int i = 0; i < n; i++) {
        guest_receive_one(t, queue);
    }
}

/* Check that all packets have arrived; a lossy flow may have gaps */
static void guest_receive_rest(Test *t, int queue)
{
    while (t->to_guest[queue].received < t->to_guest[queue].sent) {
        guest_receive_one(t, queue);
    }
}

static void guest_send(Test *t, int queue, int n)
{
    Flow *flow = &t->to_host[queue];
    Packet packet;

    for (int i = 0; i < n; i++) {
        packet_make(&packet, flow->port, flow->sent++);
        t->nic->send(t, queue, &packet);
    }
}

/* The host */

static int host_ioctl(unsigned long request, void *arg)
{
    int sock = socket(AF_INET, SOCK_DGRAM, 0);
    int ret;

    g_assert_cmpint(sock, >=, 0);
    ret = ioctl(sock, request, arg) ? -errno : 0;
    close(sock);
    return ret;
}

static void host_link_up(const char *ifname)
{
    struct ifreq ifr = {};

    g_strlcpy(ifr.ifr_name, ifname, IFNAMSIZ);
    g_assert_cmpint(host_ioctl(SIOCGIFFLAGS, &ifr), ==, 0);
    ifr.ifr_flags |= IFF_UP;
    g_assert_cmpint(host_ioctl(SIOCSIFFLAGS, &ifr), ==, 0);
}

/* Keep the kernel from sending IPv6 packets */
static bool host_disable_ipv6(void)
{
    const char *dir = "/proc/sys/net/ipv6";
    g_autofree char *path = g_strdup_printf("%s/conf/default/disable_ipv6",
                                            dir);
    int fd = open(path, O_WRONLY);
    bool ok;

    if (fd < 0) {
        return !g_file_test(dir, G_FILE_TEST_EXISTS);
    }
    ok = write(fd, "1", 1) == 1;
    close(fd);
    return ok;
}

static int host_packet_socket(const char *ifname)
{
    int sock = socket(AF_PACKET, SOCK_RAW, 0);
    struct sockaddr_ll addr = {
        .sll_family = AF_PACKET,
        .sll_protocol = htons(ETHERTYPE_IP),
        .sll_ifindex = if_nametoindex(ifname),
    };

    g_assert_cmpint(sock, >=, 0);
    g_assert_cmpint(addr.sll_ifindex, >, 0);
    g_assert_cmpint(bind(sock, (struct sockaddr *)&addr, sizeof(addr)), ==, 0);
    return sock;
}

static void host_send(Test *t, int queue, int n)
{
    Flow *flow = &t->to_guest[queue];
    Packet packet;

    for (int i = 0; i < n; i++) {
        packet_make(&packet, flow->port, flow->sent++);
        g_assert_cmpint(send(t->host, &packet, sizeof(packet), 0), ==,
                        sizeof(packet));
    }
}

static bool host_poll(Test *t)
{
    Packet packet;
    ssize_t size;

    do {
        size = t->out >= 0 ? read(t->out, &packet, sizeof(packet)) :
               recv(t->host, &packet, sizeof(packet), MSG_DONTWAIT);
        if (size < 0) {
            g_assert_cmpint(errno, ==, EAGAIN);
            return false;
        }
    } while (packet.eth.ether_type != htons(ETHERTYPE_IP));

    g_assert_cmpint(size, ==, sizeof(packet));
    for (int i = 0; i < t->queues; i++) {
        if (packet.udp.source == htons(t->to_host[i].port)) {
            packet_check(&packet, &t->to_host[i]);
            return true;
        }
    }
    g_assert_not_reached();
}

static void host_receive(Test *t, int n)
{
    gint64 end = g_get_monotonic_time() + TIMEOUT_US;

    while (n) {
        if (host_poll(t)) {
            n--;
        } else if (g_get_monotonic_time() > end) {
            g_error("%d packets do not come", n);
        }
    }
}

/*
 * A TAP that blocks
 *
 * The send buffer of a TAP counts packets that the host has not consumed yet.
 * Redirect the packets to another device, in whose slow qdisc they wait.
 */

typedef struct TcRequest {
    struct nlmsghdr n;
    struct tcmsg t;
    char attrs[512];
} TcRequest;

/* Returns: the new attribute */
static struct rtattr *tc_put(TcRequest *req, int type, const void *data,
                             size_t len)
{
    struct rtattr *rta = (void *)req + req->n.nlmsg_len;

    g_assert_cmpint(req->n.nlmsg_len + RTA_SPACE(len), <=, sizeof(*req));
    rta->rta_type = type;
    rta->rta_len = RTA_LENGTH(len);
    memcpy(RTA_DATA(rta), data, len);
    req->n.nlmsg_len += RTA_SPACE(len);
    return rta;
}

/* End @rta: later attributes are not nested in it */
static void tc_end(TcRequest *req, struct rtattr *rta)
{
    rta->rta_len = (void *)req + req->n.nlmsg_len - (void *)rta;
}

static void tc_init(TcRequest *req, const char *ifname, int type, int flags,
                    uint32_t parent, const char *kind)
{
    *req = (TcRequest) {
        .n.nlmsg_len = NLMSG_LENGTH(sizeof(struct tcmsg)),
        .n.nlmsg_type = type,
        .n.nlmsg_flags = NLM_F_REQUEST | NLM_F_ACK | flags,
        .t.tcm_family = AF_UNSPEC,
        .t.tcm_ifindex = if_nametoindex(ifname),
        .t.tcm_parent = parent,
    };
    tc_put(req, TCA_KIND, kind, strlen(kind) + 1);
}

/* Returns: 0 or -errno */
static int tc_send(TcRequest *req)
{
    struct {
        struct nlmsghdr n;
        struct nlmsgerr err;
        char more[1024];
    } reply;
    int sock = socket(AF_NETLINK, SOCK_RAW, NETLINK_ROUTE);

    g_assert_cmpint(sock, >=, 0);
    g_assert_cmpint(send(sock, req, req->n.nlmsg_len, 0), ==,
                    req->n.nlmsg_len);
    g_assert_cmpint(recv(sock, &reply, sizeof(reply), 0), >=,
                    NLMSG_LENGTH(sizeof(struct nlmsgerr)));
    close(sock);
    g_assert_cmpint(reply.n.nlmsg_type, ==, NLMSG_ERROR);
    return reply.err.error;
}

/* Limit @ifname to @rate bytes a second, after a burst of @burst bytes */
static int tc_limit(const char *ifname, uint32_t rate, uint32_t burst,
                    int flags)
{
    struct tc_tbf_qopt qopt = {
        .rate = { .rate = rate, .linklayer = TC_LINKLAYER_ETHERNET },
        .limit = 1000000,
    };
    struct rtattr *options;
    TcRequest req;

    tc_init(&req, ifname, RTM_NEWQDISC, flags, TC_H_ROOT, "tbf");
    req.t.tcm_handle = 0x10000;
    options = tc_put(&req, TCA_OPTIONS, "", 0);
    tc_put(&req, TCA_TBF_PARMS, &qopt, sizeof(qopt));
    tc_put(&req, TCA_TBF_BURST, &burst, sizeof(burst));
    tc_end(&req, options);
    return tc_send(&req);
}

/* Redirect packets that arrive on @ifname to @to */
static int tc_redirect(const char *ifname, const char *to)
{
    struct {
        struct tc_u32_sel sel;
        struct tc_u32_key any;
    } match = { .sel = { .flags = TC_U32_TERMINAL, .nkeys = 1 } };
    struct tc_mirred mirred = {
        .action = TC_ACT_STOLEN,
        .eaction = TCA_EGRESS_REDIR,
        .ifindex = if_nametoindex(to),
    };
    struct rtattr *options, *actions, *action, *action_options;
    TcRequest req;
    int ret;

    tc_init(&req, ifname, RTM_NEWQDISC, NLM_F_CREATE, TC_H_INGRESS, "ingress");
    req.t.tcm_handle = TC_H_MAKE(TC_H_INGRESS, 0);
    ret = tc_send(&req);
    if (ret) {
        return ret;
    }

    tc_init(&req, ifname, RTM_NEWTFILTER, NLM_F_CREATE,
            TC_H_MAKE(TC_H_INGRESS, 0), "u32");
    req.t.tcm_info = TC_H_MAKE(1 << 16, htons(ETH_P_ALL));
    options = tc_put(&req, TCA_OPTIONS, "", 0);
    tc_put(&req, TCA_U32_SEL, &match, sizeof(match));
    actions = tc_put(&req, TCA_U32_ACT, "", 0);
    action = tc_put(&req, 1, "", 0);
    tc_put(&req, TCA_ACT_KIND, "mirred", sizeof("mirred"));
    action_options = tc_put(&req, TCA_ACT_OPTIONS, "", 0);
    tc_put(&req, TCA_MIRRED_PARMS, &mirred, sizeof(mirred));
    tc_end(&req, action_options);
    tc_end(&req, action);
    tc_end(&req, actions);
    tc_end(&req, options);
    return tc_send(&req);
}

/* Returns: false when the kernel cannot redirect packets */
static bool host_block(Test *t)
{
    struct ifreq ifr = { .ifr_flags = IFF_TAP | IFF_NO_PI };

    g_strlcpy(ifr.ifr_name, OUT, IFNAMSIZ);
    t->out = open("/dev/net/tun", O_RDWR | O_NONBLOCK);
    g_assert_cmpint(t->out, >=, 0);
    g_assert_cmpint(ioctl(t->out, TUNSETIFF, &ifr), ==, 0);
    host_link_up(OUT);

    /* The first packet passes, the next one waits for minutes */
    if (tc_limit(OUT, 1, 1600, NLM_F_CREATE | NLM_F_REPLACE) ||
        tc_redirect(TAP, OUT)) {
        g_test_skip("qdiscs tbf and ingress, classifier u32 or action mirred "
                    "are not available");
        return false;
    }
    return true;
}

static void host_set_rate(Test *t, uint32_t rate, uint32_t burst)
{
    struct ether_header kick = { .ether_type = htons(0x88b5) };
    int sock = host_packet_socket(OUT);

    g_assert_cmpint(tc_limit(OUT, rate, burst, 0), ==, 0);
    /* The qdisc notices its new rate with the next packet */
    g_assert_cmpint(send(sock, &kick, sizeof(kick), 0), ==, sizeof(kick));
    close(sock);
}

/* Let one packet out: too little for the TAP to wake its writers */
static void host_pass_one(Test *t)
{
    host_set_rate(t, 1, 1600);
    host_receive(t, 1);
}

static void host_unblock(Test *t)
{
    host_set_rate(t, 1000000000, 100000);
}

/* QEMUs */

static QTestState *start_qemu(Test *t, const char *netdev, const char *args)
{
    g_autofree char *queues = t->queues == 1 ? g_strdup("") :
        g_strdup_printf(",mq=on,vectors=%d", 2 * t->queues + 2);
    QTestState *qts;

    qts = qtest_initf("-machine pc,memory-backend=ram -nodefaults "
                      "-object memory-backend-file,id=ram,size=128M,"
                      "mem-path=%s/ram,share=on "
                      "-netdev tap,id=net0,queues=%d,"
                      "local-migration-supported=on,%s "
                      "-device %s,id=nic0,netdev=net0,mac=52:54:00:12:34:56,"
                      "romfile=,addr=%d%s %s",
                      t->dir, t->queues, netdev, t->nic->device, t->slot,
                      queues, args);
    migrate_set_capability(qts, "events", true);
    migrate_set_capability(qts, "x-ignore-shared", true);
    /* Let the target tell the source about a failure */
    migrate_set_capability(qts, "return-path", true);
    migrate_set_parameter_bool(qts, "local", true);
    return qts;
}

/* Returns: a QEMU that waits for a migration, and then stays paused */
static QTestState *start_target(Test *t)
{
    g_autofree char *uri = g_strdup_printf("unix:%s/%d", t->dir, t->serial++);
    QTestState *qts = start_qemu(t, t->vhost ? "incoming-fds=on" VHOST :
                                 "incoming-fds=on", "-S -incoming defer");

    if (t->silent) {
        migrate_set_parameter_int(qts, "announce-rounds", 0);
    }
    /* migrate_incoming_qmp() differs between versions in 'exit-on-error' */
    qtest_qmp_assert_success(qts, "{ 'execute': 'migrate-incoming', "
                             "'arguments': { 'uri': %s, "
                             "'exit-on-error': false } }", uri);
    return qts;
}

static void qemu_cont(QTestState *qts)
{
    qtest_qmp_assert_success(qts, "{ 'execute': 'cont' }");
}

static void qemu_wait_running(QTestState *qts)
{
    gint64 end = g_get_monotonic_time() + TIMEOUT_US;
    bool running;

    do {
        QDict *status = qtest_qmp_assert_success_ref(
            qts, "{ 'execute': 'query-status' }");

        g_assert_cmpint(g_get_monotonic_time(), <, end);
        running = qdict_get_bool(status, "running");
        qobject_unref(status);
    } while (!running);
}

/* Wait until QEMU has read all packets that it can read */
static void qemu_settle(QTestState *qts)
{
    /* The main loop polls all file descriptors between two commands */
    for (int i = 0; i < 3; i++) {
        qtest_qmp_assert_success(qts, "{ 'execute': 'query-status' }");
    }
}

/* Migrate the VM, which stays paused; returns: the target */
static QTestState *migrate_guest(Test *t)
{
    QTestState *target = start_target(t);

    migrate_qmp(t->qts, target, NULL, NULL, "{}");
    wait_for_migration_complete(t->qts);
    wait_for_migration_complete(target);
    return target;
}

/* Let the guest run in @target, and end the source */
static void finish_hand_over(Test *t, QTestState *target)
{
    QTestState *source = t->qts;

    qemu_cont(target);
    guest_move(t, target);
    qtest_quit(source);
}

static void hand_over(Test *t)
{
    finish_hand_over(t, migrate_guest(t));
}

/* Tests */

/* Returns: false when the test is skipped */
static bool test_begin(Test *t, const Nic *nic, int queues,
                       const char *options)
{
    g_autofree char *netdev = NULL;

    *t = (Test) {
        .nic = nic,
        .queues = queues,
        .slot = NIC_SLOT,
        .vhost = g_str_equal(options, VHOST),
        .out = -1,
    };
    if (skip_reason) {
        g_test_skip(skip_reason);
        return false;
    }
    if (!qtest_has_device(nic->device)) {
        g_test_skip("the NIC is not available");
        return false;
    }

    /* Leave the devices of earlier tests behind */
    g_assert_cmpint(unshare(CLONE_NEWNET), ==, 0);
    if (!host_disable_ipv6()) {
        g_test_skip("IPv6 cannot be switched off");
        return false;
    }

    t->dir = g_dir_make_tmp("tap-local-test-XXXXXX", NULL);
    g_assert_nonnull(t->dir);
    for (int i = 0; i < queues; i++) {
        t->to_guest[i].port = 1000 + i;
        t->to_host[i].port = 2000 + i;
    }

    netdev = g_strdup_printf("ifname=" TAP ",script=no,downscript=no%s",
                             options);
    t->qts = start_qemu(t, netdev, "");
    host_link_up(TAP);
    t->host = host_packet_socket(TAP);

    pc_alloc_init(&t->alloc, t->qts, ALLOC_NO_FLAGS);
    t->bus = qpci_new_pc(t->qts, &t->alloc);
    guest_start(t);
    return true;
}

static void test_end(Test *t)
{
    g_autofree char *ram = NULL;
    Packet packet;

    /* All packets have arrived, and no other follows */
    qemu_settle(t->qts);
    g_assert_false(host_poll(t));
    for (int i = 0; i < t->queues; i++) {
        g_assert_cmpuint(t->to_host[i].received, ==, t->to_host[i].sent);
        guest_add_buffers(t, i, 2);
    }
    qemu_settle(t->qts);
    for (int i = 0; i < t->queues; i++) {
        g_assert_cmpuint(t->to_guest[i].received, ==, t->to_guest[i].sent);
        g_assert_false(guest_poll(t, i, &packet));
    }

    close(t->host);
    if (t->out >= 0) {
        close(t->out);
    }
    qos_object_destroy(t->obj);
    qpci_free_pc(t->bus);
    alloc_destroy(&t->alloc);
    qtest_quit(t->qts);
    ram = g_strdup_printf("%s/ram", t->dir);
    unlink(ram);
    g_assert_cmpint(rmdir(t->dir), ==, 0);
    g_free(t->dir);
}

/*
 * Send a packet for each buffer of the guest, and @more packets, of which QEMU
 * reads one that it cannot deliver
 */
static void overfill(Test *t, int queue, int more)
{
    int n = t->buffers[queue];
    Packet packet;

    host_send(t, queue, n + more);
    guest_receive(t, queue, n);
    qemu_settle(t->qts);
    g_assert_false(guest_poll(t, queue, &packet));
}

/* Send packets in both directions, no more than the guest has buffers for */
static void check_traffic(Test *t)
{
    for (int i = 0; i < t->queues; i++) {
        guest_add_buffers(t, i, MAX(4 - t->buffers[i], 0));
        host_send(t, i, 4);
        guest_receive(t, i, 4);
        guest_send(t, i, 4);
        host_receive(t, 4);
    }
}

/* Find a flow for each queue that the kernel steers to it */
static void find_flows(Test *t)
{
    int left = t->queues;
    Packet packet;

    for (int i = 0; i < t->queues; i++) {
        t->to_guest[i] = (Flow) {};
    }
    for (uint16_t port = 1000; left; port++) {
        Flow flow = { .port = port };
        int queue = 0;

        g_assert_cmpint(port, <, 1064);
        for (int i = 0; i < t->queues; i++) {
            guest_add_buffers(t, i, !t->buffers[i]);
        }
        packet_make(&packet, port, flow.sent++);
        g_assert_cmpint(send(t->host, &packet, sizeof(packet), 0), ==,
                        sizeof(packet));
        while (!guest_poll(t, queue, &packet)) {
            queue = (queue + 1) % t->queues;
        }
        packet_check(&packet, &flow);
        if (!t->to_guest[queue].port) {
            t->to_guest[queue] = flow;
            left--;
        }
    }
}

static void test_idle(const void *nic)
{
    Test t;

    if (!test_begin(&t, nic, 1, "")) {
        return;
    }
    guest_add_buffers(&t, 0, 8);
    hand_over(&t);
    check_traffic(&t);
    test_end(&t);
}

/* Pending packets to the guest: one in QEMU, the others in the kernel */
static void test_rx_pending(const void *nic)
{
    QTestState *target;
    Packet packet;
    Test t;

    if (!test_begin(&t, nic, 1, "")) {
        return;
    }
    guest_add_buffers(&t, 0, 4);
    overfill(&t, 0, 5);
    target = migrate_guest(&t);
    host_send(&t, 0, 3);
    finish_hand_over(&t, target);
    qemu_settle(t.qts);
    g_assert_false(guest_poll(&t, 0, &packet));

    guest_add_buffers(&t, 0, 2);
    guest_receive(&t, 0, 2);
    guest_add_buffers(&t, 0, 10);
    guest_receive_rest(&t, 0);
    check_traffic(&t);
    test_end(&t);
}

/* The VM has been stopped before */
static void test_rx_pending_stopped(void)
{
    QTestState *target;
    Packet packet;
    Test t;

    if (!test_begin(&t, &virtio_nic, 1, "")) {
        return;
    }
    guest_add_buffers(&t, 0, 4);
    overfill(&t, 0, 5);
    qtest_qmp_assert_success(t.qts, "{ 'execute': 'stop' }");
    host_send(&t, 0, 1);
    /* Nobody is to take these */
    guest_add_buffers(&t, 0, 8);
    qemu_settle(t.qts);
    g_assert_false(guest_poll(&t, 0, &packet));

    target = migrate_guest(&t);
    finish_hand_over(&t, target);
    guest_receive_rest(&t, 0);
    check_traffic(&t);
    test_end(&t);
}

/* A migration that fails, after which the source resumes */
typedef struct Failure {
    const char *name;
    void (*run)(Test *t);
} Failure;

/* Wait until the migration has @status */
static void wait_for_status(QTestState *qts, const char *status)
{
    const char *ungoals[] = { "completed", NULL };

    wait_for_migration_status(qts, status, ungoals);
}

/* The target fails to load a section behind the TAP's */
static void fail_load(Test *t)
{
    QTestState *target;

    t->slot = NIC_SLOT + 1;
    target = start_target(t);
    t->slot = NIC_SLOT;

    migrate_qmp(t->qts, target, NULL, NULL, "{}");
    wait_for_status(t->qts, "failed");
    wait_for_status(target, "failed");
    qemu_wait_running(t->qts);
    qtest_quit(target);
}

static void fail_cancel(Test *t)
{
    QTestState *target = start_target(t);

    migrate_set_capability(t->qts, "pause-before-switchover", true);
    migrate_qmp(t->qts, target, NULL, NULL, "{}");
    wait_for_status(t->qts, "pre-switchover");
    migrate_cancel(t->qts);
    wait_for_status(t->qts, "cancelled");
    qemu_wait_running(t->qts);
    migrate_set_capability(t->qts, "pause-before-switchover", false);
    /* Quit only then: a target that fails has removed its socket */
    wait_for_status(target, "failed");
    qtest_quit(target);
}

/* The target exits after the load */
static void fail_quit(Test *t)
{
    QTestState *target = migrate_guest(t);

    host_send(t, 0, t->meanwhile);
    qemu_settle(target);
    qtest_quit(target);
    qemu_cont(t->qts);
}

/* The target is ready, but does not run */
static void fail_resume(Test *t)
{
    QTestState *target = migrate_guest(t);

    host_send(t, 0, t->meanwhile);
    qemu_settle(target);
    qemu_cont(t->qts);
    qemu_settle(target);
    qtest_quit(target);
}

static const Failure failures[] = {
    { "load-fails", fail_load },
    { "cancelled", fail_cancel },
    { "target-quits", fail_quit },
    { "source-resumes", fail_resume },
};

static void test_rx_pending_failure(const void *opaque)
{
    const Failure *failure = opaque;
    Packet packet;
    Test t;

    if (!test_begin(&t, &virtio_nic, 1, "")) {
        return;
    }
    t.meanwhile = 3;

    /* First without pending packets, then with them */
    guest_add_buffers(&t, 0, 4);
    failure->run(&t);
    guest_receive_rest(&t, 0);
    check_traffic(&t);

    guest_add_buffers(&t, 0, 4);
    overfill(&t, 0, 5);
    failure->run(&t);
    host_send(&t, 0, 3);
    qemu_settle(t.qts);
    g_assert_false(guest_poll(&t, 0, &packet));
    guest_add_buffers(&t, 0, 12);
    guest_receive_rest(&t, 0);
    check_traffic(&t);

    overfill(&t, 0, 5);
    hand_over(&t);
    guest_add_buffers(&t, 0, 10);
    guest_receive_rest(&t, 0);
    check_traffic(&t);
    test_end(&t);
}

static void test_to_and_fro(void)
{
    Test t;

    if (!test_begin(&t, &virtio_nic, 1, "")) {
        return;
    }
    for (int i = 0; i < 10; i++) {
        overfill(&t, 0, 2);
        hand_over(&t);
        guest_send(&t, 0, 2);
        host_receive(&t, 2);
        /* Else the packet is handed over again */
        if (i % 2) {
            guest_add_buffers(&t, 0, 5);
            guest_receive_rest(&t, 0);
        }
    }
    check_traffic(&t);
    test_end(&t);
}

static void test_multiqueue(void)
{
    Packet packet;
    Test t;

    if (!test_begin(&t, &virtio_nic, MAX_QUEUES, "")) {
        return;
    }
    find_flows(&t);
    for (int i = 0; i < t.queues; i++) {
        overfill(&t, i, 1 + i);
    }
    hand_over(&t);
    qemu_settle(t.qts);
    for (int i = 0; i < t.queues; i++) {
        g_assert_false(guest_poll(&t, i, &packet));
        guest_add_buffers(&t, i, 1 + i);
        guest_receive_rest(&t, i);
    }
    check_traffic(&t);
    test_end(&t);
}

static void host_send_all(Test *t, int n)
{
    for (int i = 0; i < t->queues; i++) {
        host_send(t, i, n);
    }
}

/* Check that vhost has the queues, and that all packets arrive */
static void check_vhost(Test *t)
{
    QDict *status = qtest_qmp_assert_success_ref(
        t->qts, "{ 'execute': 'x-query-virtio-status', 'arguments': {"
        "  'path': '/machine/peripheral/nic0/virtio-backend' } }");

    g_assert_true(qdict_get_bool(status, "vhost-started"));
    qobject_unref(status);
    for (int i = 0; i < t->queues; i++) {
        Flow *flow = &t->to_guest[i];
        int left = flow->sent - flow->received;

        guest_add_buffers(t, i, MAX(left - t->buffers[i], 0));
        guest_receive_rest(t, i);
    }
    check_traffic(t);
}

/* Packets come when the guest stops, while it waits, and when it goes on */
static void test_vhost(void)
{
    QTestState *target;
    Test t;

    if (access("/dev/vhost-net", R_OK | W_OK)) {
        g_test_skip("vhost-net is not available");
        return;
    }
    if (!test_begin(&t, &virtio_nic, MAX_QUEUES, VHOST)) {
        return;
    }
    t.meanwhile = 4;
    find_flows(&t);
    for (int i = 0; i < ARRAY_SIZE(failures); i++) {
        check_vhost(&t);
        host_send_all(&t, 4);
        failures[i].run(&t);
        host_send_all(&t, 4);
        check_vhost(&t);

        for (int queue = 0; queue < t.queues; queue++) {
            guest_add_buffers(&t, queue, 12);
        }
        host_send_all(&t, 4);
        target = migrate_guest(&t);
        host_send_all(&t, 4);
        finish_hand_over(&t, target);
        host_send_all(&t, 4);
    }
    check_vhost(&t);
    test_end(&t);
}

static bool tx_begin(Test *t, const Nic *nic)
{
    if (!test_begin(t, nic, 1, TX_SNDBUF)) {
        return false;
    }
    /* An announcement would make the TAP send its pending packets */
    t->silent = true;
    if (!host_block(t)) {
        test_end(t);
        return false;
    }
    guest_send(t, 0, TX_PACKETS);
    qemu_settle(t->qts);
    return true;
}

static void tx_end(Test *t)
{
    host_unblock(t);
    host_receive(t, t->to_host[0].sent - t->to_host[0].received);
    test_end(t);
}

/* Pending packets of the guest: one in QEMU, the others in the ring */
static void test_tx_blocked(void)
{
    Test t;

    if (!tx_begin(&t, &virtio_nic)) {
        return;
    }
    g_assert_cmpint(virtio_sent(&t, 0), >, 0);
    g_assert_cmpint(virtio_sent(&t, 0), <, TX_PACKETS - 1);
    hand_over(&t);
    guest_send(&t, 0, 2);
    qemu_settle(t.qts);
    g_assert_cmpint(virtio_sent(&t, 0), <, TX_PACKETS - 1);
    hand_over(&t);
    tx_end(&t);
}

/* The TAP takes packets again before the target runs */
static void test_tx_unblocked(void)
{
    QTestState *target;
    Test t;

    if (!tx_begin(&t, &virtio_nic)) {
        return;
    }
    target = migrate_guest(&t);
    host_unblock(&t);
    finish_hand_over(&t, target);
    tx_end(&t);
}

/* Pending packets of the guest: all are in QEMU */
static void test_tx_blocked_e1000e(void)
{
    Test t;

    if (!tx_begin(&t, &e1000e_nic)) {
        return;
    }
    hand_over(&t);
    /* The first packet has left already */
    host_receive(&t, 1);
    host_pass_one(&t);
    guest_send(&t, 0, 2);
    hand_over(&t);
    tx_end(&t);
}

static void test_tx_blocked_failure(const void *opaque)
{
    const Failure *failure = opaque;
    Test t;

    if (!tx_begin(&t, &virtio_nic)) {
        return;
    }
    g_assert_cmpint(virtio_sent(&t, 0), <, TX_PACKETS - 1);
    failure->run(&t);
    tx_end(&t);
}

/* Actions of the guest or the operator while a packet is pending */
typedef struct Disturbance {
    const char *name;
    int queues;
    bool guest_runs;        /* an action of the guest, which has to run */
    void (*begin)(Test *t);
    void (*end)(Test *t);
} Disturbance;

typedef enum Phase {
    PHASE_SOURCE,
    PHASE_WAITING,          /* the target is ready, and does not run */
    PHASE_TARGET,
    PHASE__MAX
} Phase;

static const char *const phases[] = { "source", "waiting", "target" };

typedef struct DisturbedCase {
    const Disturbance *disturbance;
    Phase phase;
} DisturbedCase;

static void set_link(Test *t, bool up)
{
    qtest_qmp_assert_success(t->qts, "{ 'execute': 'set_link', 'arguments':"
                             " { 'name': 'nic0', 'up': %i } }", up);
}

static void link_down(Test *t)
{
    set_link(t, false);
}

static void link_up(Test *t)
{
    set_link(t, true);
}

static void queue_off(Test *t)
{
    virtio_set_queue_pairs(t, 1);
}

static void queue_on(Test *t)
{
    virtio_set_queue_pairs(t, t->queues);
}

static void device_reset(Test *t)
{
    qvirtio_reset(t->virtio->vdev);
}

static void system_reset(Test *t)
{
    qtest_system_reset(t->qts);
}

static void driver_start(Test *t)
{
    qos_object_destroy(t->obj);
    guest_start(t);
}

static const Disturbance disturbances[] = {
    { "link-down", 1, false, link_down, link_up },
    { "queue-off", 2, true, queue_off, queue_on },
    { "device-reset", 1, true, device_reset, driver_start },
    { "system-reset", 1, false, system_reset, driver_start },
};

/* Packets may be lost, as on any NIC, but not duplicated or reordered */
static void test_disturbed(const void *opaque)
{
    const DisturbedCase *c = opaque;
    const Disturbance *d = c->disturbance;
    int last = d->queues - 1;
    QTestState *source, *target;
    Test t;

    if (!test_begin(&t, &virtio_nic, d->queues, "")) {
        return;
    }
    if (d->queues > 1) {
        find_flows(&t);
    }
    t.to_guest[last].lossy = true;
    guest_add_buffers(&t, last, 4);
    overfill(&t, last, 3);

    source = t.qts;
    if (c->phase == PHASE_SOURCE) {
        d->begin(&t);
    }
    target = migrate_guest(&t);
    guest_move(&t, target);
    if (c->phase == PHASE_WAITING) {
        d->begin(&t);
    }
    qemu_cont(target);
    qtest_quit(source);
    if (c->phase == PHASE_TARGET) {
        d->begin(&t);
    }
    d->end(&t);

    for (int i = 0; i < t.queues; i++) {
        guest_add_buffers(&t, i, 8);
    }
    qemu_settle(t.qts);
    for (int i = 0; i < t.queues; i++) {
        host_send(&t, i, 1);
        guest_receive_rest(&t, i);
        t.to_guest[i].lossy = false;
    }
    check_traffic(&t);
    hand_over(&t);
    check_traffic(&t);
    test_end(&t);
}

static void add_disturbed(const Disturbance *d)
{
    for (Phase phase = 0; phase < PHASE__MAX; phase++) {
        g_autofree char *path = g_strdup_printf("/tap-local/virtio-net/%s/%s",
                                                d->name, phases[phase]);
        DisturbedCase *c;

        if (d->guest_runs && phase == PHASE_WAITING) {
            continue;
        }
        c = g_new(DisturbedCase, 1);
        *c = (DisturbedCase) { .disturbance = d, .phase = phase };
        qtest_add_data_func_full(path, c, test_disturbed, g_free);
    }
}

/*
 * TAPs need CAP_NET_ADMIN in a network namespace. A user other than root gets
 * it in a user namespace, which only a process with one thread can enter: go
 * on in a child, without the RCU thread.
 */

#define IN_CHILD "TAP_LOCAL_TEST_IN_CHILD"
#define STATUS_SKIP 77

static void enter_user_namespace(void)
{
    g_autofree char *uid_map = g_strdup_printf("0 %u 1", getuid());
    g_autofree char *gid_map = g_strdup_printf("0 %u 1", getgid());
    const char *files[][2] = {
        { "/proc/self/setgroups", "deny" },
        { "/proc/self/uid_map", uid_map },
        { "/proc/self/gid_map", gid_map },
    };

    if (unshare(CLONE_NEWUSER | CLONE_NEWNET)) {
        _exit(STATUS_SKIP);
    }
    for (int i = 0; i < ARRAY_SIZE(files); i++) {
        int fd = open(files[i][0], O_WRONLY);

        if (fd < 0 || write(fd, files[i][1], strlen(files[i][1])) < 0) {
            _exit(STATUS_SKIP);
        }
        close(fd);
    }
}

static void enter_namespace(char **argv)
{
    int status;
    pid_t pid;

    if (getenv(IN_CHILD) || !unshare(CLONE_NEWNET)) {
        return;
    }

    g_setenv(IN_CHILD, "1", true);
    rcu_disable_atfork();
    pid = fork();
    rcu_enable_atfork();
    g_assert_cmpint(pid, >=, 0);
    if (!pid) {
        enter_user_namespace();
        execv("/proc/self/exe", argv);
        _exit(STATUS_SKIP);
    }
    g_assert_cmpint(RETRY_ON_EINTR(waitpid(pid, &status, 0)), ==, pid);
    if (!WIFEXITED(status)) {
        exit(EXIT_FAILURE);
    }
    if (WEXITSTATUS(status) != STATUS_SKIP) {
        exit(WEXITSTATUS(status));
    }
    skip_reason = "a new network namespace is not permitted";
}

int main(int argc, char **argv)
{
    int ret;

    /* Needs all arguments: g_test_init() takes some from argv */
    enter_namespace(argv);
    g_test_init(&argc, &argv, NULL);

    if (!skip_reason && access("/dev/net/tun", R_OK | W_OK)) {
        skip_reason = "/dev/net/tun cannot be opened";
    }
    if (!skip_reason && !qtest_has_machine("pc")) {
        skip_reason = "machine pc is not available";
    }
    qos_graph_init();
    module_call_init(MODULE_INIT_QOM);
    module_call_init(MODULE_INIT_LIBQOS);

    qtest_add_data_func("/tap-local/virtio-net/idle", &virtio_nic, test_idle);
    qtest_add_data_func("/tap-local/virtio-net/rx-pending/running",
                        &virtio_nic, test_rx_pending);
    qtest_add_func("/tap-local/virtio-net/rx-pending/stopped",
                   test_rx_pending_stopped);
    qtest_add_func("/tap-local/virtio-net/to-and-fro", test_to_and_fro);
    qtest_add_func("/tap-local/virtio-net/multiqueue", test_multiqueue);
    qtest_add_func("/tap-local/virtio-net/vhost", test_vhost);
    qtest_add_func("/tap-local/virtio-net/tx-blocked/twice", test_tx_blocked);
    qtest_add_func("/tap-local/virtio-net/tx-blocked/unblocked",
                   test_tx_unblocked);
    for (int i = 0; i < ARRAY_SIZE(failures); i++) {
        g_autofree char *rx = g_strdup_printf(
            "/tap-local/virtio-net/rx-pending/%s", failures[i].name);
        g_autofree char *tx = g_strdup_printf(
            "/tap-local/virtio-net/tx-blocked/%s", failures[i].name);

        qtest_add_data_func(rx, &failures[i], test_rx_pending_failure);
        qtest_add_data_func(tx, &failures[i], test_tx_blocked_failure);
    }
    for (int i = 0; i < ARRAY_SIZE(disturbances); i++) {
        add_disturbed(&disturbances[i]);
    }
    qtest_add_data_func("/tap-local/e1000e/idle", &e1000e_nic, test_idle);
    qtest_add_data_func("/tap-local/e1000e/rx-pending", &e1000e_nic,
                        test_rx_pending);
    qtest_add_func("/tap-local/e1000e/tx-blocked", test_tx_blocked_e1000e);

    ret = g_test_run();
    qos_graph_destroy();
    return ret;
}
