// SPDX-License-Identifier: LGPL-2.1-or-later
/*
 * Search /proc for the queues of tun, tap and macvtap devices, in one pass
 */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <linux/ethtool.h>
#include <linux/if.h>
#include <linux/if_tun.h>
#include <linux/sockios.h>

#include "private.h"

#define TUN_MAJOR 10
#define TUN_MINOR 200

/* One pass over /proc */
typedef struct Scan {
    pid_t self;
    unsigned int majors[2]; /* of macvtap and ipvtap, 0 without */
    GPtrArray *queues; /* of TapstateQueue */
    GArray *fds; /* borrowed, for each queue; NULL closes them */
    const char *name; /* of a device in @netns, or NULL for all */
    guint64 netns;
    guint closed; /* processes that the caller may not inspect */
    int err; /* errno of this process's own limits, or 0 */
    const TapstateQueue *denied, *elsewhere, *stock;
} Scan;

static int open_process(pid_t pid, GError **errp)
{
    int pidfd = syscall(SYS_pidfd_open, pid, 0);
    int err = errno;

    if (pidfd < 0) {
        g_set_error(errp, TAPSTATE_ERROR,
                    err == ESRCH || err == EINVAL ?
                    TAPSTATE_ERROR_NO_HOLDER : TAPSTATE_ERROR_SYSTEM,
                    "process %d: %s", (int)pid, g_strerror(err));
        errno = err;
    }
    return pidfd;
}

/**
 * tapstate_borrow:
 * @pid: process
 * @fd: its file descriptor
 * @errp: return location for an error
 *
 * Duplicates a descriptor of another process, which takes the right to trace
 * it. Close the duplicate soon: a device lives as long as somebody has a queue
 * open.
 *
 * Returns: the duplicate, or -1
 */
int tapstate_borrow(pid_t pid, int fd, GError **errp)
{
    int pidfd, dup, err;

    pidfd = open_process(pid, errp);
    if (pidfd < 0) {
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
                    "run as root or with CAP_SYS_PTRACE", fd, (int)pid);
    } else if (err == EBADF || err == ESRCH) {
        g_set_error(errp, TAPSTATE_ERROR, TAPSTATE_ERROR_NO_HOLDER,
                    "process %d has no file descriptor %d; see /proc/%d/fd",
                    (int)pid, fd, (int)pid);
    } else {
        g_set_error(errp, TAPSTATE_ERROR, TAPSTATE_ERROR_SYSTEM,
                    "file descriptor %d of process %d: %s", fd, (int)pid,
                    g_strerror(err));
    }
    return -1;
}

/* The numbers of macvtap and ipvtap are dynamic */
static void read_majors(Scan *scan)
{
    g_autofree char *text = NULL;
    static const char *const names[] = { " macvtap\n", " ipvtap\n" };

    if (!g_file_get_contents("/proc/devices", &text, NULL, NULL)) {
        return;
    }
    for (guint i = 0; i < G_N_ELEMENTS(names); i++) {
        const char *at = strstr(text, names[i]);

        while (at && at > text && g_ascii_isdigit(at[-1])) {
            at--;
        }
        scan->majors[i] = at ? atoi(at) : 0;
    }
}

/* Do not wait for a network file system that does not answer */
static const char *type_of(const Scan *scan, int dir, const char *fd)
{
    struct statx st;
    unsigned int major;

    if (statx(dir, fd, AT_STATX_DONT_SYNC | AT_NO_AUTOMOUNT, STATX_TYPE,
              &st) < 0 || !S_ISCHR(st.stx_mode)) {
        return NULL;
    }
    major = st.stx_rdev_major;
    if (major == TUN_MAJOR && st.stx_rdev_minor == TUN_MINOR) {
        return "tun";
    }
    return major && (major == scan->majors[0] || major == scan->majors[1]) ?
           "macvtap" : NULL;
}

static void ask_patched(TapstateQueue *q, const struct tun_state *st)
{
    memcpy(q->name, st->netdev.name, sizeof(st->netdev.name));
    q->netns = st->identity.netns;
    q->ifindex = st->identity.ifindex;
    q->index = st->queue.index;
    q->attached = !!(st->queue.flags & TUN_STATE_QUEUE_ATTACHED);
}

/* Ask the older ioctls; netns stays 0 on macvtap, and without CAP_NET_ADMIN */
static bool ask_stock(TapstateQueue *q, int dup)
{
    struct ifreq ifr = { 0 };
    struct stat st;
    int ns;

    if (ioctl(dup, TUNGETIFF, &ifr) < 0) {
        return false;
    }
    memcpy(q->name, ifr.ifr_name, IFNAMSIZ);
    q->attached = !(ifr.ifr_flags & IFF_DETACH_QUEUE);
    if (!strcmp(q->type, "tun") && ifr.ifr_flags & IFF_TAP) {
        q->type = "tap";
    }
    ns = ioctl(dup, TUNGETDEVNETNS);
    if (ns >= 0) {
        q->netns = fstat(ns, &st) == 0 ? st.st_ino : 0;
        close(ns);
    }
    return true;
}

/* Return false for a file that has no device */
static bool ask(TapstateQueue *q, int dup)
{
    struct tun_state st = {
        .mask = TUN_STATE_IDENTITY | TUN_STATE_NETDEV | TUN_STATE_IFF |
                TUN_STATE_QUEUE,
    };

    if (ioctl(dup, TUNGETSTATE, &st) == 0) {
        q->patched = 1;
        ask_patched(q, &st);
        if (st.iff.flags & IFF_TAP && st.supported & TUN_STATE_OWNER) {
            q->type = "tap";
        }
        return true;
    }
    if (errno != EINVAL || st.supported) {
        return false;
    }
    q->patched = 0;
    return ask_stock(q, dup);
}

/*
 * Without the right to borrow the descriptor, fdinfo has the name; not of
 * macvtap
 */
static bool ask_fdinfo(TapstateQueue *q)
{
    g_autofree char *path = g_strdup_printf("/proc/%d/fdinfo/%d", (int)q->pid,
                                            q->fd);
    g_autofree char *text = NULL;
    const char *iff;

    if (!strcmp(q->type, "macvtap")) {
        return true;
    }
    if (!g_file_get_contents(path, &text, NULL, NULL)) {
        return false;
    }
    iff = strstr(text, "\niff:\t");
    if (!iff || iff[6] == '\n') {
        return false;
    }
    iff += strlen("\niff:\t");
    g_strlcpy(q->name, iff, MIN(strcspn(iff, "\n") + 1, sizeof(q->name)));
    return true;
}

static bool wanted(Scan *scan, const TapstateQueue *q)
{
    if (!scan->name) {
        return true;
    }
    if (strcmp(q->name, scan->name)) {
        return false;
    }
    if (q->patched < 0) {
        scan->denied = q;
    } else if (q->netns && q->netns != scan->netns) {
        scan->elsewhere = q;
    } else if (!q->patched) {
        scan->stock = q;
    } else {
        return true;
    }
    return false;
}

/* Keep one descriptor of each queue; return its owner's duplicate, or -1 */
static int keep(Scan *scan, const TapstateQueue *q, int dup)
{
    for (guint i = 0; i < scan->fds->len; i++) {
        const TapstateQueue *other = scan->queues->pdata[i];

        if (other->index == q->index && other->attached == q->attached &&
            g_array_index(scan->fds, int, i) >= 0) {
            close(dup);
            return -1;
        }
    }
    return dup;
}

/* A duplicate that this scan has borrowed itself */
static bool is_borrowed(const Scan *scan, pid_t pid, int fd)
{
    for (guint i = 0; pid == scan->self && scan->fds && i < scan->fds->len;
         i++) {
        if (g_array_index(scan->fds, int, i) == fd) {
            return true;
        }
    }
    return false;
}

/* A list that lacks queues for want of descriptors or memory is an error */
static void note_limit(Scan *scan, int err)
{
    if (err == EMFILE || err == ENFILE || err == ENOMEM) {
        scan->err = err;
    }
}

static void scan_fd(Scan *scan, pid_t pid, int pidfd, const char *comm,
                    const char *type, int fd)
{
    TapstateQueue *q = g_new0(TapstateQueue, 1);
    int dup = syscall(SYS_pidfd_getfd, pidfd, fd, 0);
    int err = dup < 0 ? errno : 0;

    note_limit(scan, err);
    q->pid = pid;
    q->fd = fd;
    g_strlcpy(q->comm, comm, sizeof(q->comm));
    q->type = type;
    q->patched = q->attached = q->index = -1;
    if ((dup < 0 && err != EPERM) ||
        !(dup < 0 ? ask_fdinfo(q) : ask(q, dup))) {
        g_free(q);
    } else {
        bool want = wanted(scan, q);

        /* A queue that is not wanted stays for the error message */
        if (want || scan->denied == q || scan->elsewhere == q ||
            scan->stock == q) {
            if (scan->fds) {
                int kept = want ? keep(scan, q, dup) : -1;

                if (want) {
                    dup = -1;
                }
                g_array_append_val(scan->fds, kept);
            }
            g_ptr_array_add(scan->queues, q);
        } else {
            g_free(q);
        }
    }
    if (dup >= 0) {
        close(dup);
    }
}

static void read_comm(pid_t pid, char comm[16])
{
    g_autofree char *path = g_strdup_printf("/proc/%d/comm", (int)pid);
    g_autofree char *text = NULL;

    if (g_file_get_contents(path, &text, NULL, NULL)) {
        text[strcspn(text, "\n")] = 0;
        g_strlcpy(comm, text, 16);
    }
}

static void scan_process(Scan *scan, pid_t pid)
{
    g_autofree char *path = g_strdup_printf("/proc/%d/fd", (int)pid);
    char comm[16] = "";
    DIR *dir = opendir(path);
    struct dirent *entry;
    int pidfd = -1;

    if (!dir) {
        scan->closed += errno == EACCES || errno == EPERM;
        note_limit(scan, errno);
        return;
    }
    while ((entry = readdir(dir))) {
        const char *type = g_ascii_isdigit(*entry->d_name) ?
                           type_of(scan, dirfd(dir), entry->d_name) : NULL;

        if (type && pidfd < 0) {
            pidfd = open_process(pid, NULL);
            note_limit(scan, pidfd < 0 ? errno : 0);
            read_comm(pid, comm);
        }
        if (type && pidfd >= 0 &&
            !is_borrowed(scan, pid, atoi(entry->d_name))) {
            scan_fd(scan, pid, pidfd, comm, type, atoi(entry->d_name));
        }
    }
    if (pidfd >= 0) {
        close(pidfd);
    }
    closedir(dir);
}

static bool scan_processes(Scan *scan, GError **errp)
{
    struct dirent *entry;
    DIR *proc = opendir("/proc");

    if (!proc) {
        g_set_error(errp, TAPSTATE_ERROR, TAPSTATE_ERROR_SYSTEM, "/proc: %s",
                    g_strerror(errno));
        return false;
    }
    while ((entry = readdir(proc))) {
        if (g_ascii_isdigit(*entry->d_name)) {
            scan_process(scan, atoi(entry->d_name));
        }
    }
    closedir(proc);
    return true;
}

static bool scan_all(Scan *scan, pid_t pid, GError **errp)
{
    scan->self = getpid();
    read_majors(scan);
    if (pid) {
        scan_process(scan, pid);
    } else if (!scan_processes(scan, errp)) {
        return false;
    }
    if (scan->err) {
        g_set_error(errp, TAPSTATE_ERROR, TAPSTATE_ERROR_SYSTEM,
                    "not all queues could be asked: %s; raise the limit, see "
                    "'ulimit -n'", g_strerror(scan->err));
    }
    return !scan->err;
}

/**
 * tapstate_list:
 * @pid: process, or 0 for all
 * @closed: (out) (optional): number of processes that the caller may not
 *   inspect
 * @errp: return location for an error
 *
 * Lists the queues that processes have open, in one pass over /proc. A process
 * that ends meanwhile, and a descriptor that is closed, are left out. Too few
 * descriptors of the caller's own are an error.
 *
 * Returns: (transfer full): queues up to a %NULL, or %NULL after an error
 */
TapstateQueue **tapstate_list(pid_t pid, unsigned int *closed, GError **errp)
{
    Scan scan = { .queues = g_ptr_array_new_with_free_func(g_free) };
    int pidfd = pid ? open_process(pid, errp) : -1;
    bool ok = !pid || pidfd >= 0;

    if (pidfd >= 0) {
        close(pidfd);
    }
    if (!ok || !scan_all(&scan, pid, errp)) {
        g_ptr_array_unref(scan.queues);
        return NULL;
    }
    if (closed) {
        *closed = scan.closed;
    }
    g_ptr_array_add(scan.queues, NULL);
    return (TapstateQueue **)g_ptr_array_free(scan.queues, false);
}

/**
 * tapstate_list_free:
 * @queues: (nullable): list of tapstate_list()
 */
void tapstate_list_free(TapstateQueue **queues)
{
    for (TapstateQueue **q = queues; q && *q; q++) {
        g_free(*q);
    }
    g_free(queues);
}

static bool is_ours(const char *driver)
{
    return !strcmp(driver, "tun") || !strcmp(driver, "macvlan") ||
           !strcmp(driver, "macvtap") || !strcmp(driver, "ipvlan");
}

/* Require a device in this network namespace, with a driver that may be ours */
static bool check_device(const char *name, GError **errp)
{
    struct ethtool_drvinfo info = { .cmd = ETHTOOL_GDRVINFO };
    struct ifreq ifr = { .ifr_data = (void *)&info };
    g_autofree char *shown = tapstate__escape(name, strlen(name));
    int sock, ret, err;

    if (!*name || g_strlcpy(ifr.ifr_name, name, IFNAMSIZ) >= IFNAMSIZ) {
        g_set_error(errp, TAPSTATE_ERROR, TAPSTATE_ERROR_NO_DEVICE,
                    "'%s' is not the name of a network device: these have 1 to "
                    "15 bytes", shown);
        return false;
    }
    sock = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    ret = sock < 0 ? -1 : ioctl(sock, SIOCETHTOOL, &ifr);
    err = errno;
    if (sock >= 0) {
        close(sock);
    }
    if (ret < 0 && err == ENODEV) {
        g_set_error(errp, TAPSTATE_ERROR, TAPSTATE_ERROR_NO_DEVICE,
                    "there is no device '%s' in this network namespace; "
                    "see 'ip link'", shown);
        return false;
    }
    if (ret < 0 || !is_ours(info.driver)) {
        g_set_error(errp, TAPSTATE_ERROR, TAPSTATE_ERROR_NOT_TUN,
                    "'%s' is not a tun/tap device; see 'ip tuntap'", shown);
        return false;
    }
    return true;
}

static void fail_search(const Scan *scan, GError **errp)
{
    const TapstateQueue *q = scan->elsewhere;

    if (scan->stock) {
        g_set_error(errp, TAPSTATE_ERROR, TAPSTATE_ERROR_NO_KERNEL,
                    "%s: the tun driver of this kernel lacks TUNGETSTATE; "
                    "load the patched tun module or the live patch",
                    scan->name);
    } else if (scan->denied) {
        g_set_error(errp, TAPSTATE_ERROR, TAPSTATE_ERROR_PERMISSION,
                    "%s: not permitted to use file descriptor %d of process "
                    "%d; run as root or with CAP_SYS_PTRACE", scan->name,
                    scan->denied->fd, (int)scan->denied->pid);
    } else if (scan->closed) {
        g_set_error(errp, TAPSTATE_ERROR, TAPSTATE_ERROR_PERMISSION,
                    "%s: no process that you may inspect has it open, and "
                    "%u processes are closed to you; run as root or with "
                    "CAP_SYS_PTRACE", scan->name, scan->closed);
    } else if (q) {
        g_set_error(errp, TAPSTATE_ERROR, TAPSTATE_ERROR_NO_HOLDER,
                    "%s: no process has it open; process %d has a device of "
                    "that name in another network namespace; if it runs "
                    "there, use 'nsenter -n -t %d tapstate show %s'",
                    scan->name, (int)q->pid, (int)q->pid, scan->name);
    } else {
        g_set_error(errp, TAPSTATE_ERROR, TAPSTATE_ERROR_NO_HOLDER,
                    "%s: no process has it open, and the kernel reports its "
                    "state through an open queue only; "
                    "start the program that uses it", scan->name);
    }
}

/* Borrow a descriptor of each queue of @name */
static bool search(Scan *scan, const char *name, GError **errp)
{
    struct stat ns;
    guint found = 0;

    if (!check_device(name, errp)) {
        return false;
    }
    if (stat("/proc/self/ns/net", &ns) < 0) {
        g_set_error(errp, TAPSTATE_ERROR, TAPSTATE_ERROR_SYSTEM,
                    "/proc/self/ns/net: %s; is /proc mounted?",
                    g_strerror(errno));
        return false;
    }
    scan->name = name;
    scan->netns = ns.st_ino;
    if (!scan_all(scan, 0, errp)) {
        return false;
    }
    for (guint i = 0; i < scan->fds->len; i++) {
        found += g_array_index(scan->fds, int, i) >= 0;
    }
    if (!found) {
        fail_search(scan, errp);
    }
    return found;
}

static void scan_init(Scan *scan)
{
    *scan = (Scan) {
        .queues = g_ptr_array_new_with_free_func(g_free),
        .fds = g_array_new(false, false, sizeof(int)),
    };
}

static void scan_end(Scan *scan)
{
    for (guint i = 0; i < scan->fds->len; i++) {
        if (g_array_index(scan->fds, int, i) >= 0) {
            close(g_array_index(scan->fds, int, i));
        }
    }
    g_array_unref(scan->fds);
    g_ptr_array_unref(scan->queues);
}

/* Descriptors that were kept, without gaps */
static GArray *kept_fds(const Scan *scan)
{
    GArray *fds = g_array_new(false, false, sizeof(int));

    for (guint i = 0; i < scan->fds->len; i++) {
        if (g_array_index(scan->fds, int, i) >= 0) {
            g_array_append_val(fds, g_array_index(scan->fds, int, i));
        }
    }
    return fds;
}

/**
 * tapstate_get_device:
 * @name: device in the network namespace of the caller
 * @errp: return location for an error
 *
 * Reads the state of a device, through queues that it borrows from the
 * processes that have them open. They are the holders in the JSON.
 *
 * Returns: (transfer full): the state, or %NULL
 */
TapstateDevice *tapstate_get_device(const char *name, GError **errp)
{
    TapstateDevice *dev = NULL;
    Scan scan;

    scan_init(&scan);
    if (search(&scan, name, errp)) {
        g_autoptr(GArray) fds = kept_fds(&scan);

        dev = tapstate_get((int *)fds->data, fds->len, errp);
        for (guint i = 0; dev && i < scan.queues->len; i++) {
            const TapstateQueue *q = scan.queues->pdata[i];

            if (q->patched > 0 && q->netns == scan.netns) {
                tapstate__add_holder(dev, q);
            }
        }
        if (!dev) {
            g_prefix_error(errp, "%s: ", name);
        }
    }
    scan_end(&scan);
    return dev;
}

/**
 * tapstate_get_fd:
 * @pid: process
 * @fd: file descriptor of a queue in that process
 * @errp: return location for an error
 *
 * Reads the state of a device in any network namespace.
 *
 * Returns: (transfer full): the state, or %NULL
 */
TapstateDevice *tapstate_get_fd(pid_t pid, int fd, GError **errp)
{
    int dup = tapstate_borrow(pid, fd, errp);
    TapstateQueue q = { .pid = pid, .fd = fd, .type = "tun" };
    TapstateDevice *dev;

    if (dup < 0) {
        return NULL;
    }
    dev = tapstate_get(&dup, 1, errp);
    if (!dev) {
        g_prefix_error(errp, "file descriptor %d of process %d: ", fd,
                       (int)pid);
    } else if (ask(&q, dup)) {
        read_comm(pid, q.comm);
        tapstate__add_holder(dev, &q);
    }
    close(dup);
    return dev;
}

static int by_place(gconstpointer a, gconstpointer b, gpointer opaque)
{
    const Scan *scan = opaque;
    const TapstateQueue *x = scan->queues->pdata[*(const guint *)a];
    const TapstateQueue *y = scan->queues->pdata[*(const guint *)b];

    return x->attached != y->attached ? y->attached - x->attached :
                                        x->index - y->index;
}

/* Place of the descriptor in @like, or -1 */
static int place_in(const TapstateDevice *like, const TapstateQueue *q)
{
    guint attached = 0;

    for (guint i = 0; i < like->st.queues.count; i++) {
        attached += !!(like->queues[i].q.flags & TUN_STATE_QUEUE_ATTACHED);
    }
    for (guint i = 0; i < like->holders->len; i++) {
        const Holder *h = &g_array_index(like->holders, Holder, i);

        if (h->pid == q->pid && h->fd == q->fd) {
            return h->index + (h->attached ? 0 : attached);
        }
    }
    return -1;
}

/* Put the queues where their holders had them, if all are known */
static void sort_like(const Scan *scan, const TapstateDevice *like, int *fds,
                      guint n)
{
    g_autofree int *sorted = g_new(int, n);

    memset(sorted, 0xff, n * sizeof(*sorted));
    for (guint i = 0; i < scan->queues->len; i++) {
        int place = place_in(like, scan->queues->pdata[i]);

        if (g_array_index(scan->fds, int, i) < 0) {
            continue;
        }
        if (place < 0 || place >= (int)n || sorted[place] >= 0) {
            return;
        }
        sorted[place] = g_array_index(scan->fds, int, i);
    }
    memcpy(fds, sorted, n * sizeof(*sorted));
}

/**
 * tapstate_borrow_device:
 * @name: device in the network namespace of the caller
 * @like: (nullable): earlier state of the device
 * @n: (out): number of queues
 * @errp: return location for an error
 *
 * Borrows a descriptor of each queue that a process has open: attached queues
 * in the order of their index, and then detached ones. If the processes still
 * have them open as in @like, the order is that of @like.
 *
 * Returns: (transfer full): descriptors for tapstate_close(), or %NULL
 */
int *tapstate_borrow_device(const char *name, const TapstateDevice *like,
                            unsigned int *n, GError **errp)
{
    g_autoptr(GArray) order = g_array_new(false, false, sizeof(guint));
    int *fds = NULL;
    Scan scan;

    scan_init(&scan);
    if (search(&scan, name, errp)) {
        for (guint i = 0; i < scan.fds->len; i++) {
            if (g_array_index(scan.fds, int, i) >= 0) {
                g_array_append_val(order, i);
            }
        }
        g_array_sort_with_data(order, by_place, &scan);
        *n = order->len;
        fds = g_new(int, *n);
        for (guint i = 0; i < *n; i++) {
            fds[i] = g_array_index(scan.fds, int,
                                   g_array_index(order, guint, i));
        }
        if (like && like->st.queues.count == *n) {
            sort_like(&scan, like, fds, *n);
        }
        g_array_set_size(scan.fds, 0);
    }
    scan_end(&scan);
    return fds;
}

/**
 * tapstate_close:
 * @fds: (nullable): descriptors
 * @n: their number
 */
void tapstate_close(int *fds, unsigned int n)
{
    for (guint i = 0; fds && i < n; i++) {
        close(fds[i]);
    }
    g_free(fds);
}
