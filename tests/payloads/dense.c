// Memory that a restart may make of huge pages, and memory that it may not: by advice, as it is sparse, as it
// may not be written to, or in odd places. Once OUTPUT.go is there: what all of it has, and how large it is.
#include "payload.h"

enum { PAGE = 4096, MIB = 1 << 20, HUGE = 2 * MIB, LENGTH = 24 * MIB, AREAS = 6 };

static const char *const names[AREAS] = {"dense", "advised", "against", "sparse", "read-only", "odd"};

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

static int huge_by_default(void) {
    char text[64] = "";
    FILE *file = fopen("/sys/kernel/mm/transparent_hugepage/enabled", "r");
    if (!file) return 0;
    int is = fgets(text, sizeof text, file) && strstr(text, "[always]");
    fclose(file);
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
    }
    return finish(0);
}
