/* SPDX-License-Identifier: GPL-2.0-or-later */
#ifndef TAPSTATE_FINDINGS_H
#define TAPSTATE_FINDINGS_H

#include "plan.h"

/* Print those of this level and above */
void findings_print(const Plan *plan, FindingLevel level);
void findings_print_json(const Plan *plan, FindingLevel level);
/* The first reason against the update */
const char *findings_first(const Plan *plan);

#endif
