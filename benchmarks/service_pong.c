/* ping_pong.c, with a pause after each round and with payloads: bytes that go with the invoke, the event, the answer and the
 * result. The middle passes a payload on when it has all of it. Usage: service_pong SECONDS GAP_US PAYLOAD */
#define main ping_pong
#include "ping_pong.c"
#undef main

static char *payload;

static void take(int fd, int size, long more) {
    get(fd, size);
    for (long at = 0; at < more;) {
        ssize_t n = read(fd, payload + at, more - at);
        if (n <= 0) exit(0);
        at += n;
    }
}

static void give(int fd, int size, long more) {
    put(fd, size);
    for (long at = 0; at < more;) {
        ssize_t n = write(fd, payload + at, more - at);
        if (n <= 0) exit(0);
        at += n;
    }
}

int main(int argc, char **argv) {
    if (argc < 4) return 1;
    double seconds = atof(argv[1]);
    long gap = atol(argv[2]), more = atol(argv[3]), n = 0;
    int front[2], back[2], status;
    payload = calloc(1, more + 1);
    pair(front);
    pair(back);
    pid_t runtime = fork();
    if (!runtime) for (;;) { put(back[1], NEXT); take(back[1], EVENT, more); give(back[1], ANSWER, more); get(back[1], ACCEPTED); }
    pid_t middle = fork();
    if (!middle) for (;;) {
        get(back[0], NEXT); take(front[1], INVOKE, more); give(back[0], EVENT, more);
        take(back[0], ANSWER, more); give(front[1], RESULT, more); put(back[0], ACCEPTED);
    }
    float *took = malloc(sizeof(float) * MOST);
    double start = now(), end = start + seconds, at = start;
    struct timespec pause = {.tv_nsec = gap * 1000};
    while (at < end && n < MOST) {
        double before = now();
        give(front[0], INVOKE, more);
        take(front[0], RESULT, more);
        took[n++] = (now() - before) * 1e6;
        if (gap) nanosleep(&pause, NULL);
        at = now();
    }
    struct rusage used;
    kill(middle, SIGKILL);
    kill(runtime, SIGKILL);
    wait4(middle, &status, 0, &used);
    waitpid(runtime, &status, 0);
    qsort(took, n, sizeof *took, by_size);
    double cpu = used.ru_utime.tv_sec + used.ru_stime.tv_sec + (used.ru_utime.tv_usec + used.ru_stime.tv_usec) * 1e-6;
    printf("{\"rate\": %.1f, \"p50\": %.1f, \"p99\": %.1f, \"cpu\": %.1f}\n", n / (at - start), took[n / 2],
           took[(long)(n * 0.99)], cpu * 1e6 / n);
}
