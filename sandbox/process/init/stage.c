/* `sandbox-init stage UID GID IMAGE COUNT SOURCE... PROGRAM ARGS...`, for a host that runs as root.
 *
 * Environments of such a host are started by an unprivileged user (a namespace that real root makes keeps root's rights to
 * /proc/sys). That user cannot read what is below /root, or in a folder of mode 0700. So this program, still as root, shows
 * the sources where that user can reach them, at /tmp/0, /tmp/1, ... of a mount namespace of its own, then becomes that user
 * and PROGRAM. What is in a source must still be readable for everybody.
 *
 * IMAGE, unless it is "-", is an ext4 file system, mounted at /tmp/tmp: see process/disk.py.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <linux/loop.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include "parts.h"

enum { MAX_SOURCES = 16, LOOP_TRIES = 100 };

static int failed(const char *what, const char *which) {
    fprintf(stderr, "sandbox-init: %s %s: %s\n", what, which, strerror(errno));
    return 1;
}

/* Attaches the image to a free loop device, which lets go of it by itself when it is unmounted. */
static int attach(const char *image, char *device, size_t room) {
    int control = open("/dev/loop-control", O_RDWR | O_CLOEXEC), file = open(image, O_RDWR | O_CLOEXEC), loop = -1;
    for (int tries = 0; control >= 0 && file >= 0 && loop < 0 && tries < LOOP_TRIES; tries++) {
        int number = ioctl(control, LOOP_CTL_GET_FREE);
        if (number < 0) break;
        snprintf(device, room, "/dev/loop%d", number);
        struct loop_config config = {.fd = file, .info.lo_flags = LO_FLAGS_AUTOCLEAR};
        loop = open(device, O_RDWR | O_CLOEXEC);
        if (loop < 0) break;
        if (!ioctl(loop, LOOP_CONFIGURE, &config)) break;
        close(loop);
        loop = -1;
        if (errno != EBUSY) break;                     /* EBUSY: another host was quicker */
    }
    return loop;                                       /* kept open until it is mounted: else it would let go now */
}

static int show(int source, const char *target) {
    struct stat about;
    char path[64];
    snprintf(path, sizeof path, "/proc/self/fd/%d", source);
    if (fstat(source, &about)) return -1;
    if (S_ISDIR(about.st_mode) ? mkdir(target, 0755) : mknod(target, S_IFREG | 0644, 0)) return -1;
    return mount(path, target, NULL, MS_BIND, NULL);
}

int stage(int argc, char **argv) {
    char target[64], device[32];
    int sources[MAX_SOURCES], count = argc > 4 ? atoi(argv[3]) : -1, loop = -1;
    if (count < 0 || count > MAX_SOURCES || argc < 5 + count) { fputs("sandbox-init: wrong arguments\n", stderr); return 2; }
    uid_t uid = atoi(argv[0]);
    gid_t gid = atoi(argv[1]);
    const char *image = strcmp(argv[2], "-") ? argv[2] : NULL;
    char **named = argv + 4, **program = named + count;
    if (unshare(CLONE_NEWNS) || mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL)) return failed("mount namespace", "");
    for (int i = 0; i < count; i++)                    /* some are below the /tmp that is about to be hidden */
        if ((sources[i] = open(named[i], O_PATH | O_CLOEXEC)) < 0) return failed("open", named[i]);
    if (image && (loop = attach(image, device, sizeof device)) < 0) return failed("loop device for", image);
    if (mount("stage", "/tmp", "tmpfs", MS_NOSUID | MS_NODEV, "mode=755,size=64k")) return failed("mount", "/tmp");
    for (int i = 0; i < count; i++) {
        snprintf(target, sizeof target, "/tmp/%d", i);
        if (show(sources[i], target)) return failed("show", named[i]);
    }
    if (image) {
        if (mkdir("/tmp/tmp", 0755) || mount(device, "/tmp/tmp", "ext4", MS_NOSUID | MS_NODEV, "")) return failed("mount", image);
        if (chown("/tmp/tmp", uid, gid)) return failed("chown", image);
        rmdir("/tmp/tmp/lost+found");                  /* on Lambda /tmp is empty */
        close(loop);
    }
    setrlimit(RLIMIT_NOFILE, &(struct rlimit){65536, 65536});  /* for pid 1: see settle_inside in init.c */
    if (setgroups(0, NULL) || setresgid(gid, gid, gid) || setresuid(uid, uid, uid)) return failed("become", argv[0]);
    execv(program[0], program);
    return failed("execute", program[0]);
}
