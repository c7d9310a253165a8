// Large memory of all kinds: of huge pages and of none, sparse, in odd places, and not to be written to. Once
// OUTPUT.go is there: what all of it has, how large it is, and whether it can grow.
#define _GNU_SOURCE
#include "payload.h"
#include <glob.h>

enum { PAGE = 4096, MIB = 1 << 20, HUGE = 2 * MIB, LENGTH = 24 * MIB, AREAS = 6 };

static const char *const names[AREAS] = {"plain", "advised", "against", "sparse", "read-only", "odd"};

// A figure of the smaps entry that an address is the beginning of.
static long figure(const void *area, const char *wanted) {
    FILE *smaps = must(fopen("/proc/self/smaps", "r"));
    char line[4200];
    long value = 0;
    unsigned long start, end;
    int within = 0;
    while (fgets(line, sizeof line, smaps)) {
        if (sscanf(line, "%lx-%lx ", &start, &end) == 2)
            within = start < (uintptr_t)area + LENGTH && (uintptr_t)area < end;
        else if (within && !strncmp(line, wanted, strlen(wanted)))
            value += atol(line + strlen(wanted) + 1);
    }
    fclose(smaps);
    return value;
}

// Of any size: the kernel gives more memory then than was asked for.
static int huge_by_default(void) {
    glob_t found;
    int is = 0, none = glob("/sys/kernel/mm/transparent_hugepage/enabled", 0, NULL, &found);
    if (none || glob("/sys/kernel/mm/transparent_hugepage/*/enabled", GLOB_APPEND, NULL, &found) == GLOB_NOSPACE)
        return 0;
    for (size_t i = 0; i < found.gl_pathc; i++) {
        char text[64] = "";
        FILE *file = fopen(found.gl_pathv[i], "r");
        is |= file && fgets(text, sizeof text, file) && strstr(text, "[always]");
        if (file) fclose(file);
    }
    globfree(&found);
    return is;
}

int main(int argc, char **argv) {
    begin(argc, argv, 1);
    char *areas[AREAS], go[4200];
    snprintf(go, sizeof go, "%s.go", argv[1]);
    for (int i = 0; i < AREAS; i++) {
        // Apart, so that none becomes one with another.
        char *room = must(mmap(NULL, LENGTH + 3 * HUGE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
        room = (char *)(((uintptr_t)room + 2 * HUGE) & ~(uintptr_t)(HUGE - 1));
        if (!strcmp(names[i], "odd")) room += 5 * PAGE;
        areas[i] = room;
        ok(mprotect(room, LENGTH, PROT_READ | PROT_WRITE));
        if (!strcmp(names[i], "advised")) ok(madvise(room, LENGTH, MADV_HUGEPAGE));
        if (!strcmp(names[i], "against")) ok(madvise(room, LENGTH, MADV_NOHUGEPAGE));
        int apart = strcmp(names[i], "sparse") ? 1 : 2;
        uint64_t seed = 88172645463325252u + i;
        for (size_t page = 0; page < LENGTH / PAGE; page += apart)
            for (size_t at = 0; at < PAGE; at += 8) {
                seed ^= seed << 13, seed ^= seed >> 7, seed ^= seed << 17;
                *(uint64_t *)(room + page * PAGE + at) = seed;
            }
        if (!strcmp(names[i], "read-only")) ok(mprotect(room, LENGTH, PROT_READ));
    }
    say("ready");
    while (access(go, F_OK)) nanosleep(&(struct timespec){0, 1000000}, NULL);
    for (int i = 0; i < AREAS; i++) {
        say("%s %016llx", names[i], (unsigned long long)fnv(1, areas[i], LENGTH));
        if (!huge_by_default() && strcmp(names[i], "advised"))
            check("its kB", figure(areas[i], "Rss:"), LENGTH / 1024 / (strcmp(names[i], "sparse") ? 1 : 2));
        if (!strcmp(names[i], "against"))
            check("its kB of huge pages", figure(areas[i], "AnonHugePages:"), 0);
        if (!strcmp(names[i], "read-only")) continue;
        for (size_t at = 0; at < LENGTH; at += HUGE + 9 * PAGE) areas[i][at + 1] ^= 0x55;
        say("%s %016llx", names[i], (unsigned long long)fnv(1, areas[i], LENGTH));
        // Only as one area it can.
        areas[i] = must(mremap(areas[i], LENGTH, LENGTH + HUGE, MREMAP_MAYMOVE));
        say("%s %016llx", names[i], (unsigned long long)fnv(1, areas[i], LENGTH + HUGE));
    }
    return finish(0);
}
