// SPDX-License-Identifier: LGPL-2.1-or-later
/*
 * Find out if the kernel has TUNGETSTATE, without a device
 */
#include <errno.h>
#include <fcntl.h>
#include <unistd.h>
#include <sys/ioctl.h>

#include "private.h"

/**
 * tapstate_probe:
 * @groups: (out): TUN_STATE_* groups that the tun driver has; 0 without
 *   TUNGETSTATE
 * @errp: return location for an error
 *
 * Asks a file that has no device: the kernel reports its groups with the error.
 * It takes the right to open /dev/net/tun, and changes nothing.
 *
 * Returns: %false if nothing could be asked
 */
bool tapstate_probe(uint64_t *groups, GError **errp)
{
    struct tun_state st = { 0 };
    int fd = open("/dev/net/tun", O_RDWR | O_CLOEXEC);

    if (fd < 0) {
        g_set_error(errp, TAPSTATE_ERROR,
                    errno == EACCES || errno == EPERM ?
                    TAPSTATE_ERROR_PERMISSION : TAPSTATE_ERROR_SYSTEM,
                    "/dev/net/tun: %s; run as root with the module tun loaded",
                    g_strerror(errno));
        return false;
    }
    ioctl(fd, TUNGETSTATE, &st);
    close(fd);
    *groups = st.supported;
    return true;
}
