// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * tapstate diff
 */
#include <stdio.h>

#include "command.h"

int cmd_diff(int argc, char **argv, const char *usage)
{
    gboolean all = false, device = false;
    const GOptionEntry entries[] = {
        { "all", 'a', 0, G_OPTION_ARG_NONE, &all,
          "print equal fields, too", NULL },
        { "device", 'd', 0, G_OPTION_ARG_NONE, &device,
          "also count fields that TUNSETSTATE never sets: identity, netdev, "
          "coalesce, XDP programs, ring size, supported offloads", NULL },
        G_OPTION_ENTRY_NULL
    };
    g_autoptr(TapstateDevice) a = NULL, b = NULL;
    g_autofree char *text = NULL;
    GError *err = NULL;
    guint differ;

    if (!parse_options(&argc, &argv, entries, usage)) {
        return STATUS_ERROR;
    }
    if (argc != 3) {
        return fail_usage("name two states", usage);
    }
    a = load_source(argv[1], &err);
    b = a ? load_source(argv[2], &err) : NULL;
    if (!b) {
        return fail(err);
    }
    text = diff_text(a, b, all, device, &differ);
    fputs(text, stdout);
    return differ ? STATUS_NO : STATUS_OK;
}
