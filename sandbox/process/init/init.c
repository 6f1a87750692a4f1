/* The parent of all processes of one execution environment.
 *
 * It starts processes when the host asks, reports how they ended, adopts and reaps whatever they leave behind, stops,
 * continues or kills all of them, and leaves when the host vanishes (end of file on the socket). It decides nothing else.
 *
 * Two ways to live:
 *   tier `namespace`: it is pid 1 of a pid namespace. "Everyone" is kill(-1), which the kernel makes complete, and the
 *     kernel kills everyone when it leaves. It makes sockets in its network namespace for the host, and what it starts can
 *     neither look into it nor signal it (see seccomp.c for what else they cannot do).
 *   tier `process`: it is a child subreaper, so the environment is exactly its tree of descendants. It walks that tree, and
 *     never says kill(-1): outside a pid namespace that would be the user's whole session.
 *
 * One SOCK_SEQPACKET descriptor, one packet a message, native byte order:
 *   request  u32 seq, op; s32 a, b; descriptors
 *     SPAWN   descriptors: the spec (see below), then the child's 0, 1, 2, ...; answer b = pid, or a = -errno, b = step
 *     SWEEP   a = signal for every descendant; b = longest wait in ms. SIGSTOP: until all are seen stopped;
 *             SIGKILL: until none is left; SIGCONT: once. Answer a = 0, -EAGAIN (not in time) or -ECANCELED (another
 *             request came first), b = descendants seen outside the process groups of what the host started
 *     SOCKET  a = backlog, b = port: listens at 127.0.0.1 (port 0: any); backlog 0: a socket to connect with
 *     NETWORK answer: its network namespace
 *   answer   u32 seq, kind; s32 a, b
 *     READY   a = protocol version, b = whether the system call filter is on; inside a namespace, our pidfd
 *     ANSWER  a = 0 or -errno; for SOCKET and NETWORK, that; for SPAWN inside a namespace, the child's pidfd
 *     EXITED  a = pid, b = wait status, seq = the most memory it ever had resident, in KB
 *
 * Spec: u32 argc, envc, nlimits, 0; nlimits times u32 resource, 0, u64 soft, hard; then NUL-ended strings: file, cwd,
 * argv, env.
 */
#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <poll.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "parts.h"

enum { VERSION = 2 };
enum { SPAWN = 1, SWEEP, SOCKET, NETWORK };
enum { READY = 1, ANSWER, EXITED };
enum { STEP_SPEC = 1, STEP_CWD, STEP_FDS, STEP_LIMITS, STEP_EXEC };
enum { MAX_FDS = 16, MAX_CHILDREN = 64, MAX_TREE = 8192, FAREWELL_MS = 2000 };

struct message { uint32_t seq, op; int32_t a, b; };
struct limit { uint32_t resource, pad; uint64_t soft, hard; };
struct spec { uint32_t argc, envc, nlimits, pad; };

static int host;                       /* the socket */
static int inside;                     /* pid 1 of a namespace */
static int groups[2], ngroups;         /* files of control groups for what it starts: who writes 0 into one is in it */
static pid_t children[MAX_CHILDREN];   /* started for the host, not yet reaped */
static pid_t tree[MAX_TREE];           /* descendants, as the last walk saw them */

/* Sends one answer, and closes the descriptor that goes with it, if there is one. Returns 0 if that could not be sent. */
static int answer_with(uint32_t seq, uint32_t kind, int32_t a, int32_t b, int fd) {
    struct message body = {seq, kind, a, b};
    int whole = 1;
    struct iovec iov = {&body, sizeof body};
    union { struct cmsghdr align; char room[CMSG_SPACE(sizeof(int))]; } control = {0};
    struct msghdr msg = {.msg_iov = &iov, .msg_iovlen = 1};
    if (fd >= 0) {
        msg.msg_control = control.room;
        msg.msg_controllen = sizeof control.room;
        struct cmsghdr *c = CMSG_FIRSTHDR(&msg);
        c->cmsg_level = SOL_SOCKET;
        c->cmsg_type = SCM_RIGHTS;
        c->cmsg_len = CMSG_LEN(sizeof(int));
        memcpy(CMSG_DATA(c), &fd, sizeof fd);
    }
    while (sendmsg(host, &msg, MSG_NOSIGNAL) < 0) {
        if (errno == EINTR) continue;
        if (fd < 0 || errno != ETOOMANYREFS) break;    /* is the host gone? the next receive says so */
        msg.msg_control = NULL;                        /* this user has too many descriptors on their way in sockets */
        msg.msg_controllen = 0;
        body.a = -ETOOMANYREFS;
        close(fd);
        fd = -1;
        whole = 0;
    }
    if (fd >= 0) close(fd);
    return whole;
}

static void answer(uint32_t seq, uint32_t kind, int32_t a, int32_t b) { answer_with(seq, kind, a, b, -1); }

static void reap(void) {
    int status;
    struct rusage used;
    for (pid_t pid; (pid = wait4(-1, &status, WNOHANG, &used)) > 0;)
        for (int i = 0; i < MAX_CHILDREN; i++)
            if (children[i] == pid) {
                children[i] = 0;
                answer(used.ru_maxrss, EXITED, pid, status);
                break;
            }
}

/* ── starting ── */

struct program { char *file, *cwd, **argv, **envp; struct limit *limits; uint32_t nlimits; };

/* Lays the spec out as execve wants it. Returns 0, or -1 with errno. The mapping is the caller's to unmap. */
static int read_spec(char *map, size_t size, struct program *out, char **list, size_t room) {
    struct spec *spec = (struct spec *)map;
    if (size < sizeof *spec || map[size - 1] != 0) { errno = EINVAL; return -1; }
    size_t words = (size_t)spec->argc + spec->envc + 2;
    char *at = map + sizeof *spec + spec->nlimits * sizeof(struct limit), *end = map + size;
    if (spec->nlimits > 16 || words + 2 > room || at >= end) { errno = EINVAL; return -1; }
    *out = (struct program){.limits = (struct limit *)(spec + 1), .nlimits = spec->nlimits, .argv = list};
    for (size_t i = 0; i < words; i++) {
        if (at >= end) { errno = EINVAL; return -1; }
        if (i == 0) out->file = at;
        else if (i == 1) out->cwd = at;
        else *list++ = at;
        at += strlen(at) + 1;
        if (i == (size_t)spec->argc + 1) { *list++ = NULL; out->envp = list; }
    }
    *list = NULL;
    return 0;
}

/* In the child, which still shares our memory (vfork): becomes the program, or leaves why not in *failed. */
static void become(struct program *p, int *fds, int nfds, volatile int *failed, volatile int *step) {
    sigset_t none;
    *step = STEP_LIMITS;
    for (int i = 0; i < ngroups; i++)  /* the child by itself: from outside it takes a lock that is had after 12 ms */
        if (write(groups[i], "0", 1) != 1) goto fail;
    *step = STEP_FDS;
    for (int i = 0; i < nfds; i++)     /* lift all out of the way first, then set 0, 1, 2, ... */
        if ((fds[i] = fcntl(fds[i], F_DUPFD_CLOEXEC, 64)) < 0) goto fail;
    for (int i = 0; i < nfds; i++)
        if (dup2(fds[i], i) < 0) goto fail;
    *step = STEP_LIMITS;
    for (uint32_t i = 0; i < p->nlimits; i++) {
        struct rlimit lim = {p->limits[i].soft, p->limits[i].hard};
        if (setrlimit(p->limits[i].resource, &lim)) goto fail;
    }
    *step = STEP_CWD;
    if (chdir(p->cwd)) goto fail;
    *step = STEP_EXEC;
    setsid();
    prctl(PR_SET_PDEATHSIG, SIGKILL);  /* should this program itself be killed */
    umask(022);
    sigemptyset(&none);
    sigprocmask(SIG_SETMASK, &none, NULL);
    /* A program that has just been copied may still be open for writing in a process that was forked meanwhile. */
    for (int tries = 0; tries < 50; tries++) {
        execve(p->file, p->argv, p->envp);
        if (errno != ETXTBSY) break;
        nanosleep(&(struct timespec){.tv_nsec = 2000000}, NULL);
    }
fail:
    *failed = errno;
    _exit(127);
}

static void spawn(uint32_t seq, int *fds, int nfds) {
    struct program program;
    struct stat st;
    volatile int failed = 0, step = STEP_SPEC;
    int slot = 0;
    while (slot < MAX_CHILDREN && children[slot]) slot++;
    if (slot == MAX_CHILDREN || nfds < 4 || fstat(fds[0], &st)) { answer(seq, ANSWER, -EINVAL, step); return; }
    size_t size = st.st_size, room = size / 2 + 8;
    char *map = mmap(NULL, size + 1, PROT_READ | PROT_WRITE, MAP_PRIVATE, fds[0], 0);
    char **list = malloc(room * sizeof *list);
    if (map == MAP_FAILED || !list || read_spec(map, size, &program, list, room)) failed = errno ? errno : ENOMEM;
    else {
        pid_t pid = vfork();
        if (pid == 0) become(&program, fds + 1, nfds - 1, &failed, &step);
        if (pid < 0) failed = errno;
        else if (failed) waitpid(pid, NULL, 0);        /* it never was the program: not an exit to report */
        else {
            children[slot] = pid;
            if (!answer_with(seq, ANSWER, 0, pid, inside ? syscall(SYS_pidfd_open, pid, 0) : -1)) {
                children[slot] = 0;                    /* the host was told that there is none */
                kill(pid, SIGKILL);
            }
        }
    }
    if (failed) answer(seq, ANSWER, -failed, step);
    free(list);
    if (map != MAP_FAILED) munmap(map, size + 1);
}

/* ── the tree ── */

/* Adds the process ids that a children file lists. A number counts only when the space behind it has been seen: a read may
 * end in the middle of one, and half a number would be somebody else's process. */
static int add_children(const char *path, int count) {
    char text[4096];
    long pid = 0;
    ssize_t n;
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0) return count;
    while ((n = read(fd, text, sizeof text)) > 0)
        for (ssize_t i = 0; i < n; i++) {
            if (text[i] >= '0' && text[i] <= '9') pid = pid * 10 + (text[i] - '0');
            else if (pid && count < MAX_TREE) {
                tree[count++] = pid;
                pid = 0;
            }
        }
    close(fd);
    return count;
}

/* All descendants, parents before their children. */
static int walk(void) {
    char path[64];
    snprintf(path, sizeof path, "/proc/self/task/%d/children", getpid());
    int count = add_children(path, 0);
    for (int i = 0; i < count; i++) {
        snprintf(path, sizeof path, "/proc/%d/task", tree[i]);
        DIR *dir = opendir(path);
        if (!dir) continue;
        for (struct dirent *e; (e = readdir(dir));) {
            if (e->d_name[0] == '.') continue;
            char child[128];
            snprintf(child, sizeof child, "/proc/%d/task/%.12s/children", tree[i], e->d_name);
            count = add_children(child, count);
        }
        closedir(dir);
    }
    return count;
}

/* The state letter of a thread, 'X' if it is gone. */
static char state_of(int pid, const char *tid) {
    char path[64], text[512];
    snprintf(path, sizeof path, "/proc/%d/task/%.12s/stat", pid, tid);
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0) return 'X';
    ssize_t n = read(fd, text, sizeof text - 1);
    close(fd);
    if (n <= 0) return 'X';
    text[n] = 0;
    char *paren = strrchr(text, ')');
    return paren && paren[1] ? paren[2] : 'X';
}

static int all_threads_in(int pid, const char *states) {
    char path[64];
    snprintf(path, sizeof path, "/proc/%d/task", pid);
    DIR *dir = opendir(path);
    int all = 1;
    if (!dir) return 1;                                /* gone */
    for (struct dirent *e; all && (e = readdir(dir));)
        if (e->d_name[0] != '.') all = strchr(states, state_of(pid, e->d_name)) != NULL;
    closedir(dir);
    return all;
}

static int is_stray(pid_t pid) {
    pid_t group = getpgid(pid);
    for (int i = 0; i < MAX_CHILDREN; i++)
        if (children[i] && children[i] == group) return 0;
    return 1;
}

static long elapsed_ms(const struct timespec *start) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (now.tv_sec - start->tv_sec) * 1000 + (now.tv_nsec - start->tv_nsec) / 1000000;
}

/* One pass: signals everybody (in a namespace: who is left). Returns how many are not yet as wanted. A thread in state D
 * counts as stopped: it cannot run a single instruction of its own before the signal takes it (a vfork keeps its parent
 * there). */
static int pass(int sig, int *strays) {
    int count = walk(), unlike = 0;
    *strays = 0;
    for (int i = 0; !inside && i < count; i++) kill(tree[i], sig);  /* first: a chain of forks is gone when it is looked at */
    for (int i = 0; i < count; i++) {
        int done = sig != SIGCONT && all_threads_in(tree[i], sig == SIGSTOP ? "TtDZX" : "X");  /* killed is who is reaped */
        if (inside && !done) kill(tree[i], sig);       /* somebody sent it SIGCONT; not kill(-1): that looks at all the machine */
        if (is_stray(tree[i])) ++*strays;
        unlike += !done;
    }
    return unlike;
}

static void sweep(uint32_t seq, int sig, int wait_ms, int give_way) {
    struct timespec start;
    int strays = 0, most = 0, quiet = 0, result = 0, passes = 0;
    clock_gettime(CLOCK_MONOTONIC, &start);
    if (inside) kill(-1, sig);                         /* everyone at once; looking only confirms it */
    else for (int i = 0; sig != SIGCONT && i < MAX_CHILDREN; i++)  /* whole groups first: nothing forks out of that */
        if (children[i]) kill(-children[i], sig);
    while (!(inside && sig == SIGCONT)) {
        int unlike = pass(sig, &strays);
        if (strays > most) most = strays;
        if (sig == SIGKILL) reap();
        quiet = unlike ? 0 : quiet + 1;
        if (sig == SIGCONT || quiet >= 2 - inside) break;  /* what was forked during one walk is seen by the next */
        if (elapsed_ms(&start) >= wait_ms) { result = -EAGAIN; break; }
        if (give_way && poll(&(struct pollfd){host, POLLIN, 0}, 1, 0) > 0) { result = -ECANCELED; break; }
        if (unlike && ++passes % 8 == 0) nanosleep(&(struct timespec){0, 50000}, NULL);  /* a chain of forks is met by haste */
    }
    if (seq) answer(seq, ANSWER, result, most);
}

/* ── the network ── */

static void make_socket(uint32_t seq, int backlog, int port) {
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons(port), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    int one = 1, fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0), failed = fd < 0 ? errno : 0;
    if (!failed && backlog) {
        setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
        if (bind(fd, (struct sockaddr *)&address, sizeof address) || listen(fd, backlog)) failed = errno;
    }
    if (failed && fd >= 0) close(fd);
    answer_with(seq, ANSWER, -failed, 0, failed ? -1 : fd);
}

/* ── the loop ── */

static void serve(void) {
    struct message req;
    struct iovec iov = {&req, sizeof req};
    union { struct cmsghdr align; char room[CMSG_SPACE(MAX_FDS * sizeof(int))]; } control;
    struct msghdr msg = {.msg_iov = &iov, .msg_iovlen = 1, .msg_control = control.room, .msg_controllen = sizeof control.room};
    int fds[MAX_FDS], nfds = 0;
    ssize_t n = recvmsg(host, &msg, MSG_CMSG_CLOEXEC);
    if (n < 0 && (errno == EINTR || errno == EAGAIN)) return;
    if (n <= 0) {                                      /* the host is gone */
        if (!inside) sweep(0, SIGKILL, FAREWELL_MS, 0);
        _exit(0);
    }
    struct cmsghdr *c = CMSG_FIRSTHDR(&msg);
    if (c && c->cmsg_level == SOL_SOCKET && c->cmsg_type == SCM_RIGHTS) {
        nfds = (c->cmsg_len - CMSG_LEN(0)) / sizeof(int);
        memcpy(fds, CMSG_DATA(c), nfds * sizeof(int));
    }
    if (n != sizeof req || msg.msg_flags & (MSG_TRUNC | MSG_CTRUNC)) answer(n == sizeof req ? req.seq : 0, ANSWER, -EMSGSIZE, 0);
    else if (req.op == SPAWN) {
        int kept[MAX_FDS];                             /* vfork: the child changes the array it is given */
        memcpy(kept, fds, sizeof kept);
        spawn(req.seq, kept, nfds);
    } else if (req.op == SWEEP) sweep(req.seq, req.a, req.b, req.a == SIGSTOP);
    else if (req.op == SOCKET) make_socket(req.seq, req.a, req.b);
    else if (req.op == NETWORK) {
        int network = open("/proc/self/ns/net", O_RDONLY | O_CLOEXEC);  /* nobody else may open it: we are not dumpable */
        answer_with(req.seq, ANSWER, network < 0 ? -errno : 0, 0, network);
    }
    else answer(req.seq, ANSWER, -ENOSYS, 0);
    for (int i = 0; i < nfds; i++) close(fds[i]);
}

/* In a namespace: nothing of the host's leaks in, nobody inside can look into this process. Returns whether the filter is on. */
static int settle_inside(void) {
    prctl(PR_SET_DUMPABLE, 0, 0, 0, 0);
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    struct rlimit many;                                /* so many descriptors a user may have on their way: all of a user */
    if (!getrlimit(RLIMIT_NOFILE, &many)) {
        many.rlim_cur = many.rlim_max;
        setrlimit(RLIMIT_NOFILE, &many);
    }
    for (int i = 0; i < ngroups; i++) groups[i] = fcntl(groups[i], F_DUPFD_CLOEXEC, 64);  /* one of them may be 3 */
    if (host != 3 && dup2(host, 3) == 3) host = 3;
    for (int i = 0; i < ngroups; i++) groups[i] = dup3(groups[i], 4 + i, O_CLOEXEC);
    syscall(SYS_close_range, 4 + ngroups, ~0U, 0);
    dup2(0, 1);
    dup2(0, 2);
    return filter_system_calls() == 0;
}

int main(int argc, char **argv) {
    sigset_t chld;
    if (argc > 2 && !strcmp(argv[1], "stage")) return stage(argc - 2, argv + 2);
    if (argc < 2) { fputs("lambda-sandbox starts this program itself\n", stderr); return 2; }
    host = atoi(argv[1]);
    for (int i = 2; i < argc && ngroups < 2; i++) {
        groups[ngroups] = atoi(argv[i]);
        fcntl(groups[ngroups++], F_SETFD, FD_CLOEXEC);
    }
    inside = getpid() == 1;
    int filtered = inside && settle_inside();
    fcntl(host, F_SETFD, FD_CLOEXEC);
    if (!inside && prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)) return 3;
    for (int sig = 1; sig < 32; sig++) signal(sig, SIG_DFL);
    sigfillset(&chld);                                 /* only SIGKILL and SIGSTOP can disturb it */
    sigprocmask(SIG_SETMASK, &chld, NULL);
    sigemptyset(&chld);
    sigaddset(&chld, SIGCHLD);
    struct pollfd ready[2] = {{host, POLLIN, 0}, {signalfd(-1, &chld, SFD_CLOEXEC | SFD_NONBLOCK), POLLIN, 0}};
    answer_with(0, READY, VERSION, filtered, inside ? syscall(SYS_pidfd_open, 1, 0) : -1);
    for (;;) {
        if (poll(ready, 2, -1) < 0 && errno != EINTR) return 1;
        if (ready[1].revents) {
            struct signalfd_siginfo drop;
            while (read(ready[1].fd, &drop, sizeof drop) > 0) {}
            reap();
        }
        if (ready[0].revents) serve();
    }
}
