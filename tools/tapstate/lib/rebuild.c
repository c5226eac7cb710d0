// SPDX-License-Identifier: LGPL-2.1-or-later
/*
 * Make a device anew from its saved state, in the five steps of
 * Documentation/networking/tun_state.rst
 */
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <string.h>
#include <unistd.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <linux/ethtool.h>
#include <linux/if.h>
#include <linux/if_tun.h>
#include <linux/rtnetlink.h>
#include <linux/sockios.h>

#include "private.h"

#define TUN_EXCL 0x8000 /* IFF_TUN_EXCL: fail if there is such a device */

static bool fail(GError **errp, const char *what)
{
    g_set_error(errp, TAPSTATE_ERROR,
                errno == EPERM || errno == EACCES ?
                TAPSTATE_ERROR_PERMISSION : TAPSTATE_ERROR_RESTORE,
                "%s: %s%s", what, g_strerror(errno),
                errno == EPERM ? "; run as root or with CAP_NET_ADMIN" :
                errno == EBUSY ? "; there is a device of that name: restore "
                                 "it without making it" : "");
    return false;
}

/* NAPI is that of each queue; the device has the NAPI of its first queue */
static int open_queue(const TapstateDevice *dev, const char *name, guint i,
                      GError **errp)
{
    const struct tun_state_queue *q = &dev->queues[i].q;
    struct ifreq ifr = { 0 };
    int fd;

    g_strlcpy(ifr.ifr_name, name, IFNAMSIZ);
    ifr.ifr_flags = dev->st.iff.flags & ~(IFF_NAPI | IFF_NAPI_FRAGS |
                                          IFF_PERSIST);
    ifr.ifr_flags |= i ? 0 : TUN_EXCL;
    if (q->flags & TUN_STATE_QUEUE_NAPI) {
        ifr.ifr_flags |= IFF_NAPI;
    }
    if (q->flags & TUN_STATE_QUEUE_NAPI_FRAGS) {
        ifr.ifr_flags |= IFF_NAPI_FRAGS;
    }
    fd = open("/dev/net/tun", O_RDWR | O_CLOEXEC);
    if (fd < 0) {
        fail(errp, "/dev/net/tun");
        return -1;
    }
    if (ioctl(fd, TUNSETIFF, &ifr) < 0) {
        fail(errp, name);
        close(fd);
        return -1;
    }
    return fd;
}

static int *open_queues(const TapstateDevice *dev, const char *name,
                        GError **errp)
{
    guint n = dev->st.queues.count;
    int *fds = g_new(int, n);

    for (guint i = 0; i < n; i++) {
        fds[i] = open_queue(dev, name, i, errp);
        if (fds[i] < 0) {
            tapstate_close(fds, i);
            return NULL;
        }
    }
    return fds;
}

static bool set_link_type(const TapstateDevice *dev, int fd, GError **errp)
{
    struct tun_state st = { .mask = TUN_STATE_IDENTITY };

    if (!tapstate__ioctl_get(fd, &st, errp)) {
        return false;
    }
    return !(dev->st.mask & TUN_STATE_IDENTITY) ||
           st.identity.type == dev->st.identity.type ||
           ioctl(fd, TUNSETLINK, dev->st.identity.type) == 0 ||
           fail(errp, "TUNSETLINK");
}

static void add_attr(struct nlmsghdr *nh, int type, const void *data, int len)
{
    struct rtattr *rta = (void *)((char *)nh + NLMSG_ALIGN(nh->nlmsg_len));

    rta->rta_type = type;
    rta->rta_len = RTA_LENGTH(len);
    memcpy(RTA_DATA(rta), data, len);
    nh->nlmsg_len = NLMSG_ALIGN(nh->nlmsg_len) + RTA_SPACE(len);
}

/* Send a request of rtnetlink; return 0 or an errno */
static int rtnetlink(struct nlmsghdr *nh)
{
    struct {
        struct nlmsghdr nh;
        struct nlmsgerr err;
        char room[512];
    } ack = { 0 };
    int sock = socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, NETLINK_ROUTE);
    int err = 0;

    if (sock < 0 || send(sock, nh, nh->nlmsg_len, 0) < 0 ||
        recv(sock, &ack, sizeof(ack), 0) < 0) {
        err = errno;
    } else {
        err = -ack.err.error;
    }
    if (sock >= 0) {
        close(sock);
    }
    return err;
}

static int set_netdev(const TapstateDevice *dev, guint32 ifindex)
{
    const struct tun_state_netdev *d = &dev->st.netdev;
    struct {
        struct nlmsghdr nh;
        struct ifinfomsg ifi;
        char attrs[128];
    } req = {
        .nh.nlmsg_len = NLMSG_LENGTH(sizeof(req.ifi)),
        .nh.nlmsg_type = RTM_SETLINK,
        .nh.nlmsg_flags = NLM_F_REQUEST | NLM_F_ACK,
        .ifi.ifi_index = ifindex,
        .ifi.ifi_change = IFF_UP,
        .ifi.ifi_flags = d->up ? IFF_UP : 0,
    };
    guint32 ring = dev->queues[0].q.ring_size;

    add_attr(&req.nh, IFLA_MTU, &d->mtu, sizeof(d->mtu));
    add_attr(&req.nh, IFLA_TXQLEN, &ring, sizeof(ring));
    if (d->addr_len) {
        add_attr(&req.nh, IFLA_ADDRESS, d->addr, d->addr_len);
    }
    return rtnetlink(&req.nh);
}

static int set_coalesce(const TapstateDevice *dev, const char *name)
{
    struct ethtool_coalesce coalesce = {
        .cmd = ETHTOOL_SCOALESCE,
        .rx_max_coalesced_frames = dev->st.coalesce.rx_frames,
    };
    struct ifreq ifr = { .ifr_data = (void *)&coalesce };
    int sock = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    int err;

    g_strlcpy(ifr.ifr_name, name, IFNAMSIZ);
    err = ioctl(sock, SIOCETHTOOL, &ifr) < 0 ? errno : 0;
    if (sock >= 0) {
        close(sock);
    }
    return err;
}

static void report_error(guint64 group, const char *remedy, int err,
                         TapstateReport report, void *data)
{
    g_autofree char *why = g_strdup_printf("%s; %s", g_strerror(err), remedy);

    if (err && report) {
        report(group, why, data);
    }
}

/* Settings of rtnetlink and ethtool; report those that fail */
static void set_others(const TapstateDevice *dev, const char *name, int fd,
                       TapstateReport report, void *data)
{
    struct tun_state st = { .mask = TUN_STATE_IDENTITY };

    if (dev->st.mask & TUN_STATE_NETDEV) {
        report_error(TUN_STATE_NETDEV, "set it with 'ip link'",
                     tapstate__ioctl_get(fd, &st, NULL) ?
                     set_netdev(dev, st.identity.ifindex) : errno,
                     report, data);
    }
    if (dev->st.mask & TUN_STATE_COALESCE && dev->st.coalesce.rx_frames) {
        report_error(TUN_STATE_COALESCE, "set it with 'ethtool -C'",
                     set_coalesce(dev, name), report, data);
    }
    if (report && (dev->st.xdp.drv_prog_id || dev->st.xdp.skb_prog_id)) {
        report(TUN_STATE_XDP, "attach the program with 'ip link set DEV xdp'",
               data);
    }
}

/* TUNSETIFF takes 16 bits, some of which are commands */
static bool are_flags(guint32 flags)
{
    for (const Name *n = tapstate__flags; n->bit; n++) {
        flags &= ~n->bit;
    }
    return !flags;
}

static bool check_rebuild(const TapstateDevice *dev, const char *name,
                          GError **errp)
{
    const guint64 needed = TUN_STATE_IFF | TUN_STATE_QUEUES;

    if (IS_MACVTAP(&dev->st)) {
        g_set_error(errp, TAPSTATE_ERROR, TAPSTATE_ERROR_RESTORE,
                    "the saved device is macvtap or ipvtap; make it with 'ip "
                    "link add', open its queues, and restore it then");
    } else if (needed & ~dev->st.mask || !dev->st.queues.count) {
        g_set_error(errp, TAPSTATE_ERROR, TAPSTATE_ERROR_RESTORE,
                    "a device cannot be made without 'iff' and 'queues'");
    } else if (!are_flags(dev->st.iff.flags) ||
               (dev->st.queues.count > 1 &&
                !(dev->st.iff.flags & IFF_MULTI_QUEUE))) {
        g_set_error(errp, TAPSTATE_ERROR, TAPSTATE_ERROR_RESTORE,
                    "no device has these 'iff.flags' and %u queues; the file "
                    "was edited, or is of a later kernel",
                    dev->st.queues.count);
    } else if (!*name || strlen(name) >= IFNAMSIZ || strchr(name, '%')) {
        g_set_error(errp, TAPSTATE_ERROR, TAPSTATE_ERROR_NO_DEVICE,
                    "'%s' is not the name of a network device", name);
    } else {
        return true;
    }
    return false;
}

/**
 * tapstate_rebuild:
 * @dev: saved state
 * @name: name of the new device
 * @groups: TUN_STATE_* groups to restore, such as %TAPSTATE_RESTORED
 * @n: (out): number of queues
 * @report: (nullable): called for each group that could not be restored
 * @data: passed to @report
 * @errp: return location for an error
 *
 * Makes a device with as many queues as the saved one, restores each, and sets
 * link type, MTU, address, length of the queues, batching and "up". To see
 * what differs in the end, read the state through the descriptors, and
 * compare. After an error there is no device.
 *
 * The device ends with the last descriptor, unless it is persistent.
 *
 * Returns: (transfer full): descriptors for tapstate_close(), or %NULL
 */
int *tapstate_rebuild(const TapstateDevice *dev, const char *name,
                      uint64_t groups, unsigned int *n, TapstateReport report,
                      void *data, GError **errp)
{
    int *fds;

    /* 1. Make the device, and open its queues in order */
    fds = check_rebuild(dev, name, errp) ? open_queues(dev, name, errp) : NULL;
    if (!fds) {
        return NULL;
    }
    *n = dev->st.queues.count;

    /* 2. Set the link type, while the device is down */
    /* 3. Restore each queue, the detached ones last */
    if (!set_link_type(dev, fds[0], errp) ||
        !tapstate_set(dev, fds, *n, groups, report, data, errp)) {
        ioctl(fds[0], TUNSETPERSIST, 0);
        tapstate_close(fds, *n);
        return NULL;
    }

    /* 4. Set all that rtnetlink and ethtool own, and bring the device up */
    set_others(dev, name, fds[0], report, data);
    return fds;
}
