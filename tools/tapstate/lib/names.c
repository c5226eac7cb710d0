// SPDX-License-Identifier: LGPL-2.1-or-later
/*
 * Names of groups and bits, and names that others chose, as JSON has them
 */
#include <string.h>
#include <linux/if_tun.h>

#include "private.h"

/* The member of struct tun_state is the name in the JSON */
#define GROUP_NAME(number, name, member) { TUN_STATE_ ## name, #member },
const Name tapstate__groups[] = {
    __TUN_STATE_GROUPS(GROUP_NAME)
    { 0 }
};

/* IFF_BACKPRESSURE is a number: older linux/if_tun.h lack its name */
const Name tapstate__flags[] = {
    { IFF_TUN, "tun" },
    { IFF_TAP, "tap" },
    { IFF_NAPI, "napi" },
    { IFF_NAPI_FRAGS, "napi_frags" },
    { 0x80, "backpressure" },
    { IFF_MULTI_QUEUE, "multi_queue" },
    { IFF_PERSIST, "persist" },
    { IFF_NO_PI, "no_pi" },
    { IFF_ONE_QUEUE, "one_queue" },
    { IFF_VNET_HDR, "vnet_hdr" },
    { 0 }
};

/* Four are numbers: older linux/if_tun.h lack their names */
const Name tapstate__offloads[] = {
    { TUN_F_CSUM, "csum" },
    { TUN_F_TSO4, "tso4" },
    { TUN_F_TSO6, "tso6" },
    { TUN_F_TSO_ECN, "tso_ecn" },
    { TUN_F_UFO, "ufo" },
    { 0x20, "uso4" },
    { 0x40, "uso6" },
    { 0x80, "udp_tunnel_gso" },
    { 0x100, "udp_tunnel_gso_csum" },
    { 0 }
};

/**
 * tapstate_group_name:
 * @group: one TUN_STATE_* bit
 *
 * Returns: name of the group as in the JSON, or %NULL if it is not known
 */
const char *tapstate_group_name(uint64_t group)
{
    for (const Name *n = tapstate__groups; n->bit; n++) {
        if (n->bit == group) {
            return n->name;
        }
    }
    return NULL;
}

/**
 * tapstate_group_bit:
 * @name: name of a group, as in the JSON
 *
 * Returns: its TUN_STATE_* bit, or 0 if there is no such group
 */
uint64_t tapstate_group_bit(const char *name)
{
    for (const Name *n = tapstate__groups; n->bit; n++) {
        if (!strcmp(n->name, name)) {
            return n->bit;
        }
    }
    return 0;
}

/* Write bytes that a terminal or JSON cannot have, and "\", as "\xNN" */
char *tapstate__escape(const char *bytes, size_t max)
{
    g_autoptr(GString) s = g_string_new(NULL);
    size_t len = strnlen(bytes, max);

    for (size_t i = 0; i < len;) {
        gunichar c = g_utf8_get_char_validated(bytes + i, len - i);

        if (c >= (gunichar)-2 || !g_unichar_isprint(c) || c == '\\') {
            g_string_append_printf(s, "\\x%02x", (guint8)bytes[i++]);
        } else {
            g_string_append_unichar(s, c);
            i += g_unichar_to_utf8(c, NULL);
        }
    }
    return g_string_free(g_steal_pointer(&s), false);
}

/* Undo tapstate__escape(); fail if there is no room for the terminator */
bool tapstate__unescape(const char *text, char *bytes, size_t size)
{
    size_t len = 0;

    memset(bytes, 0, size);
    for (; *text; text++) {
        char c = *text;

        if (c == '\\') {
            if (text[1] != 'x' || !g_ascii_isxdigit(text[2]) ||
                !g_ascii_isxdigit(text[3])) {
                return false;
            }
            c = g_ascii_xdigit_value(text[2]) << 4 |
                g_ascii_xdigit_value(text[3]);
            text += 3;
        }
        if (!c || len + 1 >= size) {
            return false;
        }
        bytes[len++] = c;
    }
    return true;
}
