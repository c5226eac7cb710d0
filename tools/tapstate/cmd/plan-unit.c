// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * Find out if the systemd unit of the source lets another process follow it
 */
#include "plan.h"
#include "unit.h"

/* Otherwise systemd ends the target together with the source */
void plan_check_unit(Plan *plan)
{
    pid_t pid = plan->source->process->pid;
    g_autofree char *unit = unit_of(pid);
    g_autofree char *access = NULL;

    if (!unit || !unit_main(unit, pid, &access)) {
        return;
    }
    if (!g_strcmp0(access, "all")) {
        plan_find(plan, FINDING_OK, "unit", "%s: systemd will be told the new "
                  "main process", unit);
    } else {
        plan_find(plan, FINDING_NO, "unit", "%s has NotifyAccess=%s: systemd "
                  "would end the target with the source; set NotifyAccess=all "
                  "in a drop-in, and run 'systemctl daemon-reload'", unit,
                  access ? access : "");
    }
}
