// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * tapstate: see, compare, save and restore the state of tun/tap devices, and
 * replace the QEMU of running guests
 */
#include <errno.h>
#include <locale.h>
#include <net/if.h>
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

static const Command commands[] = {
    { "list", "list [-j] [--qmp SOCKET]...",
      "list the queues of all devices", cmd_list },
    { "show", "show [-j|-p] [--watch] DEV | --pid PID [--fd FD]",
      "print the state of a device", cmd_show },
    { "diff", "diff [-a] [-d] A B",
      "compare two states, each a device, PID:FD or a file", cmd_diff },
    { "save", "save DEV|PID:FD -o FILE",
      "write the state of a device to a file", cmd_save },
    { "restore", "restore [--check] [--create] [--groups G,...] "
      "[--steering PIN|ID] [--filter PIN|ID] FILE DEV",
      "give a device the state in a file", cmd_restore },
    { "check", "check [-j] [--qmp SOCKET | --pid PID] [--qemu BINARY]",
      "find out if a live update will work", cmd_check },
    { "update", "update [-n] [-j|-q] [--qemu BINARY] [--timeout SECONDS] "
      "[--target-arg OLD=NEW]... --qmp SOCKET [--pid PID] | --all DIR|PATTERN "
      "[--parallel N] [--keep-going] | --resume --qmp SOCKET",
      "replace the QEMU of a running guest", cmd_update },
};

char *printable(const char *text, bool backslash)
{
    g_autoptr(GString) s = g_string_new(NULL);

    while (*text) {
        gunichar c = g_utf8_get_char_validated(text, -1);

        if (c >= (gunichar)-2 || !g_unichar_isprint(c) ||
            (backslash && c == '\\')) {
            g_string_append_printf(s, "\\x%02x", (guint8)*text++);
        } else {
            g_string_append_unichar(s, c);
            text = g_utf8_next_char(text);
        }
    }
    return g_string_free(g_steal_pointer(&s), false);
}

/* One line, although names of files and devices may have any byte */
int fail(GError *err)
{
    g_autofree char *message = printable(err->message, false);

    fprintf(stderr, "tapstate: %s\n", message);
    g_error_free(err);
    return STATUS_ERROR;
}

int fail_usage(const char *problem, const char *usage)
{
    fprintf(stderr, "tapstate: %s\nusage: tapstate %s\n", problem, usage);
    return STATUS_ERROR;
}

/* Print a problem, and the usage, unless the options are right */
bool parse_options(int *argc, char ***argv, const GOptionEntry *entries,
                   const char *usage)
{
    const char *args = strchr(usage, ' ');
    g_autoptr(GOptionContext) context = NULL;
    g_autoptr(GError) err = NULL;

    /* GOptionContext writes "[OPTION...]" itself */
    while (g_str_has_prefix(args, " [-")) {
        args += strcspn(args, "]") + 1;
        args += strspn(args, ".");
    }
    context = g_option_context_new(*args ? args + 1 : NULL);
    for (guint i = 0; i < G_N_ELEMENTS(commands); i++) {
        if (commands[i].usage == usage) {
            g_option_context_set_summary(context, commands[i].summary);
        }
    }
    g_option_context_add_main_entries(context, entries, NULL);
    g_option_context_set_description(context, "See tapstate(8).");
    if (!g_option_context_parse(context, argc, argv, &err)) {
        g_autofree char *problem = printable(err->message, false);

        fail_usage(problem, usage);
        return false;
    }
    return true;
}

/* More than the state of a device with all queues, instructions and flows */
#define MAX_FILE (16 << 20)

/* A pipe, too, and no more of it than that */
static char *read_file(const char *path, gsize *len, GError **errp)
{
    g_autofree char *text = g_malloc(MAX_FILE + 1);
    FILE *file = fopen(path, "re");
    int err = file ? 0 : errno;

    *len = 0;
    if (file) {
        *len = fread(text, 1, MAX_FILE + 1, file);
        err = ferror(file) ? errno : 0;
        fclose(file);
    }
    if (err) {
        g_set_error(errp, TAPSTATE_ERROR, TAPSTATE_ERROR_SYSTEM, "%s: %s", path,
                    g_strerror(err));
        return NULL;
    }
    if (*len > MAX_FILE) {
        g_set_error(errp, TAPSTATE_ERROR, TAPSTATE_ERROR_FORMAT,
                    "%s: too large for the state of a device; take a file of "
                    "'tapstate save'", path);
        return NULL;
    }
    return g_steal_pointer(&text);
}

TapstateDevice *load_file(const char *path, GError **errp)
{
    g_autofree char *text = NULL;
    TapstateDevice *dev;
    gsize len;

    text = read_file(path, &len, errp);
    if (!text) {
        return NULL;
    }
    dev = tapstate_decode(text, len, errp);
    if (!dev) {
        g_prefix_error(errp, "%s: ", path);
    }
    return dev;
}

/* No device can have a name with a colon */
static bool parse_pid_fd(const char *source, int *pid, int *fd)
{
    int end = 0;

    return g_ascii_isdigit(*source) &&
           sscanf(source, "%9d:%9d%n", pid, fd, &end) == 2 && !source[end];
}

TapstateDevice *load_device(const char *source, GError **errp)
{
    int pid, fd;

    return parse_pid_fd(source, &pid, &fd) ?
           tapstate_get_fd(pid, fd, errp) : tapstate_get_device(source, errp);
}

/* /sys may be that of another network namespace; if_nametoindex() is not */
TapstateDevice *load_source(const char *source, GError **errp)
{
    bool file = g_file_test(source, G_FILE_TEST_EXISTS);
    int pid, fd;

    if (parse_pid_fd(source, &pid, &fd) || if_nametoindex(source)) {
        return load_device(source, errp);
    }
    if (!file && !strchr(source, '/')) {
        g_set_error(errp, TAPSTATE_ERROR, TAPSTATE_ERROR_NO_DEVICE,
                    "there is no device '%s' in this network namespace, and no "
                    "file; see 'ip link'", source);
        return NULL;
    }
    return load_file(source, errp);
}

static void help(void)
{
    puts("tapstate - see, compare, save and restore the state of tun/tap "
         "devices,\nand replace the QEMU of running guests\n\nusage:");
    for (guint i = 0; i < G_N_ELEMENTS(commands); i++) {
        printf("  tapstate %s\n      %s\n", commands[i].usage,
               commands[i].summary);
    }
    puts("  tapstate --help | --version\n"
         "\n"
         "'tapstate COMMAND --help' lists the options of a command.\n"
         "Exit status: 0 done; 1 differs, not all restored, not ready or not "
         "updated;\n2 error; 3 the guest does not run.\n"
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

/* A full disk must not look like success */
static int flush(int status)
{
    if (fflush(stdout) == 0 && !ferror(stdout)) {
        return status;
    }
    fprintf(stderr, "tapstate: standard output: %s\n", g_strerror(errno));
    return STATUS_ERROR;
}

static int run(int argc, char **argv)
{
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

int main(int argc, char **argv)
{
    setlocale(LC_ALL, "");
    raise_limit();
    return flush(run(argc, argv));
}
