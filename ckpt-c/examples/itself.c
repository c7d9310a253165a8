/* A program that takes checkpoints of itself as a whole; `ckpt-restore DIR` brings it back.
 *
 *     cc itself.c $(pkg-config --cflags --libs ckpt) -o itself
 *     ./itself DIR STEPS [EVERY]
 */
#include <ckpt.h>
#include <stdio.h>
#include <stdlib.h>

static void say(void *word) { fprintf(stderr, "%s\n", (const char *)word); }

int main(int argc, char **argv) {
    if (argc < 3) return CKPT_USAGE;
    uint64_t steps = strtoull(argv[2], NULL, 10), every = argc > 3 ? strtoull(argv[3], NULL, 10) : 100;
    uint64_t x = 1;
    ckpt_hook(CKPT_BEFORE, say, "about to be frozen");
    ckpt_hook(CKPT_RESTARTED, say, "brought back");
    for (uint64_t step = 1; step <= steps; step++) {
        for (int i = 0; i < 100000; i++) {
            x = x * 6364136223846793005u + 1442695040888963407u;
            x ^= x >> 29;
        }
        if (every && step % every == 0) {
            int restarted;
            ckpt_status status = ckpt_checkpoint_self(argv[1], NULL, &restarted);
            if (status != CKPT_OK) {
                fprintf(stderr, "itself: %s\n", ckpt_error());
                return status;
            }
            fprintf(stderr, restarted ? "goes on\n" : "generation\n");
        }
    }
    printf("%016llx\n", (unsigned long long)x);
    return 0;
}
