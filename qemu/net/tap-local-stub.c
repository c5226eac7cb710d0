/*
 * Stubs of the hand-over of a TAP, for hosts other than Linux
 *
 * Copyright (c) 2026 tapstate developers
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include "tap-local.h"

bool tap_local_new(const NetdevTapOptions *tap, const char *id,
                   TapLocal **local, Error **errp)
{
    *local = NULL;
    return true;
}

void tap_local_unref(TapLocal *local)
{
}

bool tap_local_is_incoming(const TapLocal *local)
{
    return false;
}

unsigned int tap_shared_count(const TapLocal *local)
{
    return 0;
}

bool tap_local_add_queue(TapLocal *local, TAPState *s, Error **errp)
{
    return true;
}

void tap_local_remove_queue(TapLocalQueue *queue)
{
}

bool tap_local_may_read(const TapLocalQueue *queue)
{
    return true;
}

void tap_local_read_failed(TapLocalQueue *queue)
{
}

bool tap_local_may_change(const TapLocalQueue *queue)
{
    return true;
}

bool tap_local_set(TapLocalQueue *queue, TapSetting setting, int value)
{
    return true;
}

bool tap_local_owns_device(const TapLocalQueue *queue)
{
    return true;
}

bool tap_local_check_ready(const TapLocalQueue *queue, bool started,
                           Error **errp)
{
    return true;
}

void tap_pending_keep_received(TapLocalQueue *queue, const uint8_t *data,
                               size_t size)
{
}

bool tap_pending_has_received(const TapLocalQueue *queue)
{
    return false;
}

size_t tap_pending_take_received(TapLocalQueue *queue, uint8_t *buf)
{
    return 0;
}

void tap_pending_link_changed(TapLocalQueue *queue)
{
}

bool tap_pending_keep_sent(TapLocalQueue *queue, const struct iovec *iov,
                           int iovcnt)
{
    return false;
}

bool tap_pending_flush_sent(TapLocalQueue *queue)
{
    return true;
}
