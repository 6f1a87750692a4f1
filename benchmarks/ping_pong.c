/* The physical limit: caller, middle and runtime as three processes that pass blocks of the sizes of a real invoke over TCP,
 * blocking, without reading them. Prints one JSON line. Usage: ping_pong SECONDS */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

enum { INVOKE = 190, EVENT = 480, ANSWER = 260, ACCEPTED = 94, NEXT = 110, RESULT = 200, MOST = 4000000 };

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec + t.tv_nsec * 1e-9;
}

static void pair(int ends[2]) {
    struct sockaddr_in at = {.sin_family = AF_INET};
    socklen_t size = sizeof at;
    int listener = socket(AF_INET, SOCK_STREAM, 0), one = 1;
    inet_aton("127.0.0.1", &at.sin_addr);
    if (bind(listener, (void *)&at, size) || getsockname(listener, (void *)&at, &size) || listen(listener, 1)) exit(1);
    ends[0] = socket(AF_INET, SOCK_STREAM, 0);
    if (connect(ends[0], (void *)&at, sizeof at)) exit(1);
    ends[1] = accept(listener, 0, 0);
    for (int i = 0; i < 2; i++) setsockopt(ends[i], IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    close(listener);
}

static void get(int fd, int size) {
    char block[1024];
    while (size > 0) {
        int n = read(fd, block, size);
        if (n <= 0) exit(0);
        size -= n;
    }
}

static void put(int fd, int size) {
    static char block[1024];
    if (write(fd, block, size) != size) exit(0);
}

static int by_size(const void *a, const void *b) {
    float x = *(const float *)a, y = *(const float *)b;
    return x < y ? -1 : x > y;
}

int main(int argc, char **argv) {
    double seconds = argc > 1 ? atof(argv[1]) : 1;
    int front[2], back[2], status;
    pair(front);
    pair(back);
    pid_t runtime = fork();
    if (!runtime) for (;;) { put(back[1], NEXT); get(back[1], EVENT); put(back[1], ANSWER); get(back[1], ACCEPTED); }
    pid_t middle = fork();
    if (!middle) for (;;) {
        get(back[0], NEXT); get(front[1], INVOKE); put(back[0], EVENT);
        get(back[0], ANSWER); put(front[1], RESULT); put(back[0], ACCEPTED);
    }
    float *took = malloc(sizeof(float) * MOST);
    long n = 0;
    double start = now(), end = start + seconds, at = start;
    while (at < end && n < MOST) {
        double before = at;
        put(front[0], INVOKE);
        get(front[0], RESULT);
        at = now();
        took[n++] = (at - before) * 1e6;
    }
    struct rusage used;
    kill(middle, SIGKILL);
    kill(runtime, SIGKILL);
    wait4(middle, &status, 0, &used);
    waitpid(runtime, &status, 0);
    qsort(took, n, sizeof *took, by_size);
    double cpu = used.ru_utime.tv_sec + used.ru_stime.tv_sec + (used.ru_utime.tv_usec + used.ru_stime.tv_usec) * 1e-6;
    printf("{\"rate\": %.0f, \"p50\": %.1f, \"p99\": %.1f, \"cpu\": %.1f}\n", n / (at - start), took[n / 2],
           took[(long)(n * 0.99)], cpu * 1e6 / n);
}
