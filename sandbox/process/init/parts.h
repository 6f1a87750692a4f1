/* The parts of sandbox-init that have files of their own. */

/* seccomp.c. Returns 0, or -1 if this kernel or processor has no such filter. */
int filter_system_calls(void);

/* stage.c: `sandbox-init stage …`, started by a host that runs as root. Returns only if it failed. */
int stage(int argc, char **argv);
