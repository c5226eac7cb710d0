// SPDX-License-Identifier: LGPL-2.1-or-later
/* Print the state of a device as JSON, and set it, which changes nothing */
#include <stdio.h>
#include <string.h>
#include <tapstate.h>

static void left_out(uint64_t group, const char *why, void *data)
{
    fprintf(stderr, "%s%s: %s\n", (char *)data, tapstate_group_name(group), why);
}

int main(int argc, char **argv)
{
    g_autoptr(TapstateDevice) saved = NULL;
    g_autoptr(GError) err = NULL;
    unsigned int n = 0;
    int *fds = argc == 2 ? tapstate_borrow_device(argv[1], NULL, &n, &err) : NULL;
    g_autofree char *json = NULL;

    saved = fds ? tapstate_get(fds, n, &err) : NULL;
    json = saved ? tapstate_encode(saved, true) : NULL;
    if (json) {
        puts(json);
        tapstate_set(saved, fds, n, TAPSTATE_RESTORED, left_out,
                     "left out ", &err);
    }
    tapstate_close(fds, n);
    if (!json || err) {
        fprintf(stderr, "%s\n", err ? err->message : "name a device");
        return 1;
    }
    return 0;
}
