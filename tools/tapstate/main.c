// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * tapstate: the command that shows and compares states of tun/tap devices
 */
#include <locale.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tapstate-device.h"
#include "tapstate-fields.h"
#include "tapstate-find.h"

enum { EXIT_SAME = 0, EXIT_DIFFER = 1, EXIT_ERROR = 2 };

typedef struct Command {
    const char *name;
    const char *usage;
    const char *summary;
    int (*run)(int argc, char **argv, const char *usage);
} Command;

static int fail(GError *err)
{
    fprintf(stderr, "tapstate: %s\n", err->message);
    g_error_free(err);
    return EXIT_ERROR;
}

static int fail_usage(const char *problem, const char *usage)
{
    fprintf(stderr, "tapstate: %s\nusage: tapstate %s\n", problem, usage);
    return EXIT_ERROR;
}

static bool parse_options(int *argc, char ***argv, const GOptionEntry *entries,
                          const char *usage, GError **errp)
{
    const char *args = strchr(usage, ' ');
    g_autoptr(GOptionContext) context = g_option_context_new(args + 1);

    g_option_context_add_main_entries(context, entries, NULL);
    return g_option_context_parse(context, argc, argv, errp);
}

static int cmd_show(int argc, char **argv, const char *usage)
{
    gboolean json = false, pretty = false;
    int pid = -1, fd = -1;
    const GOptionEntry entries[] = {
        { "json", 'j', 0, G_OPTION_ARG_NONE, &json, "print JSON", NULL },
        { "pretty", 'p', 0, G_OPTION_ARG_NONE, &pretty,
          "print indented JSON", NULL },
        { "pid", 0, 0, G_OPTION_ARG_INT, &pid,
          "process that has the device open", "PID" },
        { "fd", 0, 0, G_OPTION_ARG_INT, &fd,
          "file descriptor in that process", "FD" },
        G_OPTION_ENTRY_NULL
    };
    g_autoptr(TapstateDevice) state = NULL;
    g_autoptr(JsonNode) node = NULL;
    g_autofree char *text = NULL;
    GError *err = NULL;

    if (!parse_options(&argc, &argv, entries, usage, &err)) {
        return fail(err);
    }
    if ((pid >= 0) != (fd >= 0)) {
        return fail_usage("--pid and --fd go together", usage);
    }
    if (argc != (pid >= 0 ? 1 : 2)) {
        return fail_usage("name one device, or --pid and --fd", usage);
    }

    state = pid >= 0 ? tapstate_find_fd(pid, fd, &err) :
                       tapstate_find_device(argv[1], &err);
    if (!state) {
        return fail(err);
    }
    node = tapstate_device_to_json(state);
    if (json || pretty) {
        text = json_to_string(node, pretty);
        puts(text);
        return EXIT_SUCCESS;
    }
    text = tapstate_fields_show(node, &err);
    if (!text) {
        return fail(err);
    }
    fputs(text, stdout);
    return EXIT_SUCCESS;
}

static JsonNode *load(const char *path, GError **errp)
{
    g_autoptr(JsonParser) parser = json_parser_new();

    if (!json_parser_load_from_file(parser, path, errp)) {
        return NULL;
    }
    if (!json_parser_get_root(parser)) {
        g_set_error(errp, TAPSTATE_ERROR, TAPSTATE_ERROR_FORMAT,
                    "%s is empty; make it with 'tapstate show -j DEV'", path);
        return NULL;
    }
    return json_parser_steal_root(parser);
}

static int cmd_diff(int argc, char **argv, const char *usage)
{
    gboolean device = false;
    const GOptionEntry entries[] = {
        { "device", 'd', 0, G_OPTION_ARG_NONE, &device,
          "also count fields that TUNSETSTATE never sets: identity, netdev, "
          "coalesce, XDP programs, ring size, supported offloads", NULL },
        G_OPTION_ENTRY_NULL
    };
    g_autoptr(JsonNode) before = NULL, after = NULL;
    g_autofree char *text = NULL;
    GError *err = NULL;
    guint differ;

    if (!parse_options(&argc, &argv, entries, usage, &err)) {
        return fail(err);
    }
    if (argc != 3) {
        return fail_usage("name two files", usage);
    }

    before = load(argv[1], &err);
    after = before ? load(argv[2], &err) : NULL;
    if (!after) {
        return fail(err);
    }
    text = tapstate_fields_diff(before, after, device, &differ, &err);
    if (!text) {
        g_prefix_error(&err, "%s, %s: ", argv[1], argv[2]);
        return fail(err);
    }
    fputs(text, stdout);
    return differ ? EXIT_DIFFER : EXIT_SAME;
}

static const Command commands[] = {
    { "show", "show [-j] [-p] DEV | --pid PID --fd FD",
      "print the state of a tun/tap device", cmd_show },
    { "diff", "diff [-d] BEFORE.json AFTER.json",
      "compare two files that 'show -j' printed; exit status 0: equal, "
      "1: different, 2: error", cmd_diff },
};

static void help(void)
{
    puts("tapstate - see and compare the state of tun/tap devices\n"
         "\n"
         "usage:");
    for (guint i = 0; i < G_N_ELEMENTS(commands); i++) {
        printf("  tapstate %s\n      %s\n", commands[i].usage,
               commands[i].summary);
    }
    puts("  tapstate --help | --version\n"
         "\n"
         "'tapstate COMMAND --help' lists the options of a command.");
}

int main(int argc, char **argv)
{
    setlocale(LC_ALL, "");

    if (argc < 2) {
        return fail_usage("name a command", "--help");
    }
    if (!strcmp(argv[1], "--help") || !strcmp(argv[1], "-h") ||
        !strcmp(argv[1], "help")) {
        help();
        return EXIT_SUCCESS;
    }
    if (!strcmp(argv[1], "--version") || !strcmp(argv[1], "-V")) {
        puts("tapstate " VERSION);
        return EXIT_SUCCESS;
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
    return EXIT_ERROR;
}
