// ticker KIND MIB DUMP: memory of that kind and size in small pages, its bytes also in the file DUMP,
// then a tick every millisecond. Says how long a bare fork() takes ("fork SECONDS"), and of every tick
// that comes late by when it should have come and how late it is ("late WHEN SECONDS").
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

static double now(clockid_t clock) {
    struct timespec t;
    clock_gettime(clock, &t);
    return t.tv_sec + t.tv_nsec * 1e-9;
}

static void fill(uint64_t *words, size_t count, int mixed) {
    uint64_t state = 88172645463325252u;
    for (size_t i = 0; i < count; i++) {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        double smooth = 1.0 + i * 1e-6;
        switch (mixed ? i * 4 / count : 0) {
        case 0: words[i] = state; break;
        case 1: memcpy(&words[i], &smooth, 8); break;
        case 2: words[i] = i * 7 % 97; break;
        default: words[i] = 0;
        }
    }
}

int main(int argc, char **argv) {
    if (argc < 4) return 2;
    size_t bytes = (size_t)atoi(argv[2]) << 20;
    uint64_t *words = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (words == MAP_FAILED) return 1;
    madvise(words, bytes, MADV_NOHUGEPAGE);
    fill(words, bytes / 8, !strcmp(argv[1], "mixed"));
    int dump = open(argv[3], O_WRONLY | O_CREAT | O_TRUNC, 0644);
    for (size_t at = 0; at < bytes;) {
        ssize_t n = write(dump, (char *)words + at, bytes - at);
        if (n <= 0) return 1;
        at += n;
    }
    close(dump);
    setvbuf(stdout, NULL, _IOLBF, 0);
    double least = 1e9;
    for (int i = 0; i < 5; i++) {
        double before = now(CLOCK_MONOTONIC);
        pid_t child = fork();
        if (child == 0) _exit(0);
        double took = now(CLOCK_MONOTONIC) - before;
        waitpid(child, NULL, 0);
        if (took < least) least = took;
    }
    printf("fork %.6f\n", least);
    for (double last = now(CLOCK_MONOTONIC);;) {
        nanosleep(&(struct timespec){0, 1000000}, NULL);
        double here = now(CLOCK_MONOTONIC);
        if (here - last > 0.002) printf("late %.6f %.6f\n", now(CLOCK_REALTIME), here - last);
        last = here;
    }
}
