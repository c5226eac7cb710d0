// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * tapstate: see, compare, save and restore the state of tun/tap devices
 */
#include <locale.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>

#include "command.h"

typedef struct Command {
    const char *name;
    const char *usage;
    const char *summary;
    CommandFunc *run;
} Command;

int fail(GError *err)
{
    fprintf(stderr, "tapstate: %s\n", err->message);
    g_error_free(err);
    return STATUS_ERROR;
}

int fail_usage(const char *problem, const char *usage)
{
    fprintf(stderr, "tapstate: %s\nusage: tapstate %s\n", problem, usage);
    return STATUS_ERROR;
}

bool parse_options(int *argc, char ***argv, const GOptionEntry *entries,
                          const char *usage, GError **errp)
{
    const char *args = strchr(usage, ' ');
    g_autoptr(GOptionContext) context = g_option_context_new(args + 1);

    g_option_context_add_main_entries(context, entries, NULL);
    g_option_context_set_description(context, "See tapstate(8).");
    return g_option_context_parse(context, argc, argv, errp);
}

TapstateDevice *load_file(const char *path, GError **errp)
{
    g_autofree char *text = NULL;
    TapstateDevice *dev;
    gsize len;

    if (!g_file_get_contents(path, &text, &len, errp)) {
        return NULL;
    }
    dev = tapstate_decode(text, len, errp);
    if (!dev) {
        g_prefix_error(errp, "%s: ", path);
    }
    return dev;
}

/* No device can have a name with a colon */
TapstateDevice *load_source(const char *source, GError **errp)
{
    g_autofree char *sys = g_strdup_printf("/sys/class/net/%s", source);
    int pid, fd, end = 0;

    if (sscanf(source, "%d:%d%n", &pid, &fd, &end) == 2 && !source[end]) {
        return tapstate_get_fd(pid, fd, errp);
    }
    if (!strchr(source, '/') &&
        (g_file_test(sys, G_FILE_TEST_EXISTS) ||
         !g_file_test(source, G_FILE_TEST_EXISTS))) {
        return tapstate_get_device(source, errp);
    }
    return load_file(source, errp);
}

static const Command commands[] = {
    { "list", "list [-j] [--qmp SOCKET...]",
      "list the queues of all devices", cmd_list },
    { "show", "show [-j|-p] [--watch] DEV | --pid PID [--fd FD]",
      "print the state of a device", cmd_show },
    { "diff", "diff [-a] [-d] A B",
      "compare two states, each a device, PID:FD or a file", cmd_diff },
    { "save", "save DEV -o FILE",
      "write the state of a device to a file", cmd_save },
    { "restore", "restore FILE DEV [--check] [--create] [--groups G,...]",
      "give a device the state in a file", cmd_restore },
};

static void help(void)
{
    puts("tapstate - see, compare, save and restore the state of tun/tap "
         "devices\n\nusage:");
    for (guint i = 0; i < G_N_ELEMENTS(commands); i++) {
        printf("  tapstate %s\n      %s\n", commands[i].usage,
               commands[i].summary);
    }
    puts("  tapstate --help | --version\n"
         "\n"
         "'tapstate COMMAND --help' lists the options of a command.\n"
         "Exit status: 0 yes, 1 no (differs, or not all restored), 2 error.\n"
         "See tapstate(8).");
}

/* A device has up to 256 queues, and each takes a descriptor */
static void raise_limit(void)
{
    struct rlimit limit;

    if (getrlimit(RLIMIT_NOFILE, &limit) == 0) {
        limit.rlim_cur = limit.rlim_max;
        setrlimit(RLIMIT_NOFILE, &limit);
    }
}

int main(int argc, char **argv)
{
    setlocale(LC_ALL, "");
    raise_limit();

    if (argc < 2) {
        return fail_usage("name a command", "COMMAND ... | --help");
    }
    if (!strcmp(argv[1], "--help") || !strcmp(argv[1], "-h") ||
        !strcmp(argv[1], "help")) {
        help();
        return STATUS_OK;
    }
    if (!strcmp(argv[1], "--version") || !strcmp(argv[1], "-V")) {
        puts("tapstate " VERSION);
        return STATUS_OK;
    }
    for (guint i = 0; i < G_N_ELEMENTS(commands); i++) {
        if (!strcmp(argv[1], commands[i].name)) {
            g_autofree char *name = g_strdup_printf("tapstate %s", argv[1]);

            g_set_prgname(name);
            return commands[i].run(argc - 1, argv + 1, commands[i].usage);
        }
    }
    fprintf(stderr, "tapstate: no command '%s'; see 'tapstate --help'\n",
            argv[1]);
    return STATUS_ERROR;
}
