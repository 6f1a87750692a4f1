/* What nobody in an environment may ask of the kernel. All of it would fail on Lambda, too.
 *
 * The namespaces already hold what is inside; this takes away the kernel's larger doors, and keeps a function from changing
 * the limits of its neighbours, or how pid 1 is scheduled.
 */
#include <errno.h>
#include <linux/audit.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <stddef.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/syscall.h>

#include "parts.h"

#if defined(__x86_64__)
#define ARCHITECTURE AUDIT_ARCH_X86_64
#elif defined(__aarch64__)
#define ARCHITECTURE AUDIT_ARCH_AARCH64
#endif

#define FIELD(name) (offsetof(struct seccomp_data, name))
#define LOAD(offset) (struct sock_filter) BPF_STMT(BPF_LD | BPF_W | BPF_ABS, (offset))
#define SKIP_UNLESS(value, count) (struct sock_filter) BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, (value), 0, (count))
#define SKIP_BELOW(value, count) (struct sock_filter) BPF_JUMP(BPF_JMP | BPF_JGE | BPF_K, (value), 0, (count))
#define RETURN(value) (struct sock_filter) BPF_STMT(BPF_RET | BPF_K, (value))
#define REFUSE(error) RETURN(SECCOMP_RET_ERRNO | (error))

static const int refused[] = {
    SYS_unshare, SYS_setns, SYS_ptrace, SYS_process_vm_readv, SYS_process_vm_writev, SYS_bpf, SYS_keyctl, SYS_add_key,
    SYS_request_key, SYS_mount, SYS_umount2, SYS_pivot_root,
#ifdef SYS_move_mount
    SYS_move_mount, SYS_open_tree, SYS_fsopen, SYS_fspick, SYS_fsconfig, SYS_fsmount,
#endif
#ifdef SYS_mount_setattr
    SYS_mount_setattr,
#endif
};
enum { REFUSED = sizeof refused / sizeof *refused };

/* What would push pid 1 behind a function's own processes, by the argument that may not be 1, and for some the kind of target
 * that may not be "all of a user". */
static const struct { int number, pid, kind, user; } of_others[] = {
    {SYS_sched_setscheduler, 0, 0, -1}, {SYS_sched_setparam, 0, 0, -1}, {SYS_sched_setattr, 0, 0, -1},
    {SYS_sched_setaffinity, 0, 0, -1}, {SYS_setpriority, 1, 0, PRIO_USER}, {SYS_ioprio_set, 1, 0, 3 /* IOPRIO_WHO_USER */},
};
enum { OF_OTHERS = sizeof of_others / sizeof *of_others };

static const int families[] = {AF_UNIX, AF_INET, AF_INET6, AF_NETLINK};
enum { FAMILIES = sizeof families / sizeof *families };

int filter_system_calls(void) {
#ifdef ARCHITECTURE
    struct sock_filter code[REFUSED * 2 + OF_OTHERS * 7 + 30];
    unsigned short at = 0;
    code[at++] = LOAD(FIELD(arch));
    code[at++] = (struct sock_filter) BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, ARCHITECTURE, 1, 0);
    code[at++] = REFUSE(ENOSYS);                       /* 32-bit programs have other numbers */
    code[at++] = LOAD(FIELD(nr));
#ifdef __x86_64__
    code[at++] = SKIP_BELOW(0x40000000, 1);
    code[at++] = REFUSE(ENOSYS);                       /* so have x32's */
#endif
    for (int i = 0; i < REFUSED; i++) {
        code[at++] = SKIP_UNLESS(refused[i], 1);
        code[at++] = REFUSE(EPERM);
    }
    for (int i = 0; i < OF_OTHERS; i++) {
        code[at++] = SKIP_UNLESS(of_others[i].number, 6);
        code[at++] = LOAD(FIELD(args) + 8 * of_others[i].kind);
        code[at++] = (struct sock_filter) BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, of_others[i].user, 2, 0);
        code[at++] = LOAD(FIELD(args) + 8 * of_others[i].pid);
        code[at++] = SKIP_UNLESS(1, 1);
        code[at++] = REFUSE(EPERM);
        code[at++] = RETURN(SECCOMP_RET_ALLOW);
    }
    code[at++] = SKIP_UNLESS(SYS_io_uring_setup, 1);   /* it makes sockets, too */
    code[at++] = REFUSE(ENOSYS);
    code[at++] = SKIP_UNLESS(SYS_socket, 7);           /* not every other family is held by a network namespace */
    code[at++] = LOAD(FIELD(args[0]));
    for (int i = 0; i < FAMILIES; i++)
        code[at++] = (struct sock_filter) BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, families[i], FAMILIES - i, 0);
    code[at++] = REFUSE(EAFNOSUPPORT);
    code[at++] = RETURN(SECCOMP_RET_ALLOW);
    code[at++] = SKIP_UNLESS(SYS_prlimit64, 7);        /* for oneself (pid 0), or only to read: as ever */
    code[at++] = LOAD(FIELD(args[0]));
    code[at++] = (struct sock_filter) BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, 0, 5, 0);
    code[at++] = LOAD(FIELD(args[2]));
    code[at++] = SKIP_UNLESS(0, 2);
    code[at++] = LOAD(FIELD(args[2]) + 4);
    code[at++] = (struct sock_filter) BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, 0, 1, 0);
    code[at++] = REFUSE(EPERM);
    code[at++] = RETURN(SECCOMP_RET_ALLOW);
    struct sock_fprog program = {at, code};
    return prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program, 0, 0);
#else
    return -1;
#endif
}
