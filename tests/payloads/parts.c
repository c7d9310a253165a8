// Some memory that changes in parts, each when it is told to by OUTPUT.1, OUTPUT.2 … : the first, the second,
// the first again, and so on.
#include "payload.h"

enum { PARTS = 3, WORDS = 1 << 20 };

int main(int argc, char **argv) {
    begin(argc, argv, 1);
    uint64_t *parts[PARTS], state = 88172645463325252u;
    for (int i = 0; i < PARTS; i++) {
        parts[i] = must(mmap(NULL, WORDS * 8, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
        ok(madvise(parts[i], WORDS * 8, MADV_NOHUGEPAGE));
    }
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
        say("part %d", told);
    }
    for (int i = 0; i < PARTS; i++) say("%016llx", (unsigned long long)fnv(1, parts[i], WORDS * 8));
    return finish(0);
}
