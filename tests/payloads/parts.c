// Some memory that changes in parts, each when it is told to by OUTPUT.1, OUTPUT.2 … : the first, the second,
// the first again, and so on. With $WITH=child there is a child from OUTPUT.2 on, with a copy of all.
#include "payload.h"

enum { PARTS = 3, WORDS = 1 << 20 };

static uint64_t *parts[PARTS];

static uint64_t sum_of(int part) { return fnv(1, parts[part], WORDS * 8); }

// Changes a word, and tells the sums when there is nothing more to read.
static void child(int in, int out) {
    parts[1][WORDS / 2] ^= 1;
    uint64_t sums[PARTS] = {0};
    while (read(in, sums, 1) < 0 && errno == EINTR) {}
    for (int i = 0; i < PARTS; i++) sums[i] = sum_of(i);
    _exit(write(out, sums, sizeof sums) != sizeof sums);
}

int main(int argc, char **argv) {
    begin(argc, argv, 1);
    uint64_t state = 88172645463325252u;
    for (int i = 0; i < PARTS; i++) {
        parts[i] = must(mmap(NULL, WORDS * 8, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
        ok(madvise(parts[i], WORDS * 8, MADV_NOHUGEPAGE));
    }
    int down[2], up[2];
    ok(pipe(down)), ok(pipe(up));
    pid_t pid = 0;
    for (int told = 0; told <= 4; told++) {
        char name[4200];
        snprintf(name, sizeof name, "%s.%d", argv[1], told);
        // At first as well: a function that is called for the first time changes memory, too.
        do nanosleep(&(struct timespec){0, 1000000}, NULL);
        while (access(name, F_OK) && told);
        for (int i = 0; i < PARTS; i++)
            // The last part only in the beginning.
            for (int at = 0; at < WORDS && (!told || told % 2 == 1 - i); at++) {
                state ^= state << 13, state ^= state >> 7, state ^= state << 17;
                parts[i][at] = state;
            }
        if (told == 2 && getenv("WITH")) {
            pid = ok(fork());
            if (pid == 0) close(down[1]), child(down[0], up[1]);
        }
        say("part %d", told);
    }
    for (int i = 0; i < PARTS; i++) say("%016llx", (unsigned long long)sum_of(i));
    if (pid) {
        uint64_t sums[PARTS];
        close(down[1]);
        check("the child's sums", read(up[0], sums, sizeof sums), sizeof sums);
        for (int i = 0; i < PARTS; i++) say("%016llx", (unsigned long long)sums[i]);
        while (waitpid(pid, NULL, 0) < 0 && errno == EINTR) {}
    }
    return finish(0);
}
