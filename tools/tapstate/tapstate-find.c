// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * Search /proc for the queues of a tun/tap device
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <linux/ethtool.h>
#include <linux/if.h>
#include <linux/sockios.h>

#include "tapstate-find.h"

/* Search for @dev: holders of its queues, and obstacles on the way */
typedef struct Scan {
    const char *dev;
    guint64 netns;
    TapstateDevice *state;
    GArray *holders;
    guint64 other_netns;
    pid_t other_pid;
    guint unreadable;
    GError *error;
} Scan;

static int open_pid_fd(pid_t pid, int fd, GError **errp)
{
    int pidfd, dup, err;

    pidfd = syscall(SYS_pidfd_open, pid, 0);
    if (pidfd < 0) {
        g_set_error(errp, TAPSTATE_ERROR,
                    errno == ESRCH ? TAPSTATE_ERROR_NO_HOLDER :
                                     TAPSTATE_ERROR_SYSTEM,
                    "process %d: %s", (int)pid, g_strerror(errno));
        return -1;
    }

    dup = syscall(SYS_pidfd_getfd, pidfd, fd, 0);
    err = errno;
    close(pidfd);
    if (dup >= 0) {
        return dup;
    }
    if (err == EPERM) {
        g_set_error(errp, TAPSTATE_ERROR, TAPSTATE_ERROR_PERMISSION,
                    "not permitted to use file descriptor %d of process %d; "
                    "run as root", fd, (int)pid);
    } else if (err == EBADF) {
        g_set_error(errp, TAPSTATE_ERROR, TAPSTATE_ERROR_NO_HOLDER,
                    "process %d has no file descriptor %d; "
                    "see /proc/%d/fd", (int)pid, fd, (int)pid);
    } else {
        g_set_error(errp, TAPSTATE_ERROR, TAPSTATE_ERROR_SYSTEM,
                    "file descriptor %d of process %d: %s", fd, (int)pid,
                    g_strerror(err));
    }
    return -1;
}

static void read_comm(pid_t pid, char comm[16])
{
    g_autofree char *path = g_strdup_printf("/proc/%d/comm", (int)pid);
    g_autofree char *text = NULL;

    if (g_file_get_contents(path, &text, NULL, NULL)) {
        g_strlcpy(comm, g_strchomp(text), 16);
    }
}

static void add_holder(GArray *holders, pid_t pid, int fd,
                       const struct tun_state *st)
{
    TapstateHolder h = {
        .pid = pid,
        .fd = fd,
        .index = st->queue.index,
        .attached = st->queue.flags & TUN_STATE_QUEUE_ATTACHED,
        .sndbuf = st->sndbuf.size,
    };

    read_comm(pid, h.comm);
    g_array_append_val(holders, h);
}

char *tapstate_find_parse_fdinfo(const char *fdinfo)
{
    const char *iff = g_str_has_prefix(fdinfo, "iff:\t") ?
                      fdinfo : strstr(fdinfo, "\niff:\t");
    const char *name;

    if (!iff) {
        return NULL;
    }
    name = strchr(iff, '\t') + 1;
    return g_strndup(name, strcspn(name, "\n"));
}

static void scan_fd(Scan *scan, pid_t pid, int fd)
{
    g_autofree char *path = g_strdup_printf("/proc/%d/fdinfo/%d", (int)pid, fd);
    g_autofree char *text = NULL, *name = NULL;
    g_autoptr(GError) err = NULL;
    struct tun_state st;
    int dup;

    if (!g_file_get_contents(path, &text, NULL, NULL)) {
        return;
    }
    name = tapstate_find_parse_fdinfo(text);
    if (g_strcmp0(name, scan->dev)) {
        return;
    }

    dup = open_pid_fd(pid, fd, &err);
    if (dup < 0) {
        /* Ignore a descriptor that was closed in the meantime */
        if (err->code != TAPSTATE_ERROR_NO_HOLDER && !scan->error) {
            scan->error = g_steal_pointer(&err);
        }
        return;
    }

    if (!tapstate_device_read_queue(dup, &st, &err)) {
        if (!scan->error) {
            scan->error = g_steal_pointer(&err);
        }
    } else if (st.identity.netns != scan->netns) {
        scan->other_netns = st.identity.netns;
        scan->other_pid = pid;
    } else {
        /* A queue has several holders if processes share its file */
        add_holder(scan->holders, pid, fd, &st);
        if (!scan->state) {
            scan->state = tapstate_device_read(dup, scan->error ? NULL :
                                                    &scan->error);
        }
    }
    close(dup);
}

static void scan_process(Scan *scan, pid_t pid)
{
    g_autofree char *path = g_strdup_printf("/proc/%d/fdinfo", (int)pid);
    g_autoptr(GDir) dir = g_dir_open(path, 0, NULL);
    const char *name;

    if (!dir) {
        if (errno == EACCES || errno == EPERM) {
            scan->unreadable++;
        }
        return;
    }
    while ((name = g_dir_read_name(dir))) {
        scan_fd(scan, pid, atoi(name));
    }
}

/* Require a tun/tap device @dev in this network namespace */
static bool check_device(const char *dev, GError **errp)
{
    struct ethtool_drvinfo info = { .cmd = ETHTOOL_GDRVINFO };
    struct ifreq ifr = { .ifr_data = (void *)&info };
    int sock, ret, err;

    if (g_strlcpy(ifr.ifr_name, dev, IFNAMSIZ) >= IFNAMSIZ) {
        g_set_error(errp, TAPSTATE_ERROR, TAPSTATE_ERROR_NO_DEVICE,
                    "'%s' is too long for the name of a network device", dev);
        return false;
    }

    sock = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    if (sock < 0) {
        g_set_error(errp, TAPSTATE_ERROR, TAPSTATE_ERROR_SYSTEM, "socket: %s",
                    g_strerror(errno));
        return false;
    }
    ret = ioctl(sock, SIOCETHTOOL, &ifr);
    err = errno;
    close(sock);

    if (ret < 0 && err == ENODEV) {
        g_set_error(errp, TAPSTATE_ERROR, TAPSTATE_ERROR_NO_DEVICE,
                    "there is no device '%s' in this network namespace; "
                    "see 'ip link'", dev);
        return false;
    }
    if (ret < 0 || strcmp(info.driver, "tun")) {
        g_set_error(errp, TAPSTATE_ERROR, TAPSTATE_ERROR_NOT_TUN,
                    "'%s' is not a tun/tap device; see 'ip tuntap'", dev);
        return false;
    }
    return true;
}

TapstateDevice *tapstate_find_device(const char *dev, GError **errp)
{
    g_autoptr(GArray) holders = g_array_new(false, true,
                                            sizeof(TapstateHolder));
    Scan scan = { .dev = dev, .holders = holders };
    g_autoptr(GDir) dir = NULL;
    const char *name;
    struct stat ns;

    if (!check_device(dev, errp)) {
        return NULL;
    }
    if (stat("/proc/self/ns/net", &ns) < 0) {
        g_set_error(errp, TAPSTATE_ERROR, TAPSTATE_ERROR_SYSTEM,
                    "/proc/self/ns/net: %s; is /proc mounted?",
                    g_strerror(errno));
        return NULL;
    }
    scan.netns = ns.st_ino;

    dir = g_dir_open("/proc", 0, errp);
    if (!dir) {
        return NULL;
    }
    while ((name = g_dir_read_name(dir))) {
        if (g_ascii_isdigit(*name)) {
            scan_process(&scan, atoi(name));
        }
    }

    if (scan.state) {
        g_array_append_vals(scan.state->holders, holders->data, holders->len);
        g_clear_error(&scan.error);
    } else if (scan.error) {
        g_propagate_prefixed_error(errp, scan.error, "%s: ", dev);
    } else if (scan.unreadable) {
        g_set_error(errp, TAPSTATE_ERROR, TAPSTATE_ERROR_PERMISSION,
                    "%s: no process that you may inspect has it open, and "
                    "%u processes are closed to you; run as root",
                    dev, scan.unreadable);
    } else if (scan.other_netns) {
        g_set_error(errp, TAPSTATE_ERROR, TAPSTATE_ERROR_NO_HOLDER,
                    "%s: no process has it open; process %d has a device of "
                    "that name in another network namespace; if it runs "
                    "there, use 'nsenter -n -t %d tapstate show %s'",
                    dev, (int)scan.other_pid, (int)scan.other_pid, dev);
    } else {
        g_set_error(errp, TAPSTATE_ERROR, TAPSTATE_ERROR_NO_HOLDER,
                    "%s: no process has it open, and the kernel reports its "
                    "state through an open queue only; "
                    "start the program that uses it", dev);
    }
    return scan.state;
}

TapstateDevice *tapstate_find_fd(pid_t pid, int fd, GError **errp)
{
    int dup = open_pid_fd(pid, fd, errp);
    TapstateDevice *s;

    if (dup < 0) {
        return NULL;
    }
    s = tapstate_device_read(dup, errp);
    if (s) {
        add_holder(s->holders, pid, fd, &s->st);
    } else {
        g_prefix_error(errp, "file descriptor %d of process %d: ", fd,
                       (int)pid);
    }
    close(dup);
    return s;
}
