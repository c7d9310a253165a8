/* Heat that spreads along a rod. Killed at any moment, the program goes on from its newest checkpoint when it is
 * started again, and ends with the same last bit.
 *
 *     cc heat.c $(pkg-config --cflags --libs ckpt) -o heat
 *     ./heat DIR CELLS STEPS [EVERY]
 */
#include <ckpt.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static void must(ckpt_status status) {
    if (status == CKPT_OK) return;
    fprintf(stderr, "heat: %s\n", ckpt_error());
    exit(status);
}

int main(int argc, char **argv) {
    if (argc < 4) return CKPT_USAGE;
    uint64_t cells = strtoull(argv[2], NULL, 10), steps = strtoull(argv[3], NULL, 10);
    uint64_t every = argc > 4 ? strtoull(argv[4], NULL, 10) : 100, done = 0;
    double *heat = calloc(cells, sizeof *heat), *next = calloc(cells, sizeof *next);
    if (!heat || !next || !every) return CKPT_OS;

    ckpt_store *store;
    must(ckpt_open(argv[1], "heat", NULL, &store));
    must(ckpt_protect(store, "heat", CKPT_FLOAT, sizeof *heat, &cells, 1, heat));
    must(ckpt_protect(store, "done", CKPT_UNSIGNED, sizeof done, NULL, 0, &done));
    uint64_t version;
    ckpt_status loaded = ckpt_load(store, CKPT_NEWEST, &version);
    if (loaded == CKPT_OK) {
        fprintf(stderr, "goes on from version %llu\n", (unsigned long long)version);
    } else if (loaded == CKPT_NOT_FOUND) {
        for (uint64_t cell = 0; cell < cells; cell += 7) heat[cell] = 100;
    } else {
        must(loaded);
    }

    while (done < steps) {
        for (uint64_t cell = 0; cell < cells; cell++) {
            double left = cell ? heat[cell - 1] : 0, right = cell + 1 < cells ? heat[cell + 1] : 0;
            next[cell] = heat[cell] + 0.25 * (left - 2 * heat[cell] + right);
        }
        memcpy(heat, next, cells * sizeof *heat);
        done++;
        if (done % every == 0) {
            /* The arrays may change as soon as this returns. */
            must(ckpt_save_async(store, done));
            fprintf(stderr, "version %llu\n", (unsigned long long)done);
        }
    }
    must(ckpt_wait(store));
    ckpt_close(store);
    uint64_t sum = 0, bits;
    for (uint64_t cell = 0; cell < cells; cell++) {
        memcpy(&bits, &heat[cell], sizeof bits);
        sum = (sum << 5 | sum >> 59) ^ bits;
    }
    printf("%016llx\n", (unsigned long long)sum);
    free(heat);
    free(next);
    return 0;
}
