/* SPDX-License-Identifier: GPL-2.0 */
/*
 * TUNGETSTATE and TUNSETSTATE of tun.c. tun_state_call.h says what tun.c provides,
 * tun_state_core.h has the ioctls, tun_state_table.h the table of groups, and each of
 * the other files has groups of one theme.
 */
#ifndef TUN_STATE_IOCTL_H
#define TUN_STATE_IOCTL_H

#include "tun_state_call.h"
#include "tun_state_core.h"
#include "tun_state_common.h"
#include "tun_state_settings.h"
#include "tun_state_sockfilter.h"
#include "tun_state_filter.h"
#include "tun_state_prog.h"
#include "tun_state_queue.h"
#include "tun_state_table.h"

#endif /* TUN_STATE_IOCTL_H */
