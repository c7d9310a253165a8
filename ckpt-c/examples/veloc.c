/* The same by VeloC's functions: a program that uses these is built against ckpt as it is.
 *
 *     cc veloc.c $(pkg-config --cflags --libs ckpt) -o veloc
 *     ./veloc CONFIGURATION CELLS STEPS [EVERY]
 */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <veloc.h>

int main(int argc, char **argv) {
    if (argc < 4) return 64;
    int cells = atoi(argv[2]), steps = atoi(argv[3]), every = argc > 4 ? atoi(argv[4]) : 100, done = 0;
    double *heat = calloc(cells, sizeof *heat), *next = calloc(cells, sizeof *next);
    if (!heat || !next || every < 1) return 71;
    if (VELOC_Init_single(0, argv[1]) != VELOC_SUCCESS) return 1;
    VELOC_Mem_protect(0, &done, 1, sizeof done);
    VELOC_Mem_protect(1, heat, cells, sizeof *heat);
    int version = VELOC_Restart_test("heat", 0);
    if (version > 0) {
        if (VELOC_Restart("heat", version) != VELOC_SUCCESS) return 2;
        fprintf(stderr, "goes on from version %d\n", version);
    } else {
        for (int cell = 0; cell < cells; cell += 7) heat[cell] = 100;
    }
    while (done < steps) {
        for (int cell = 0; cell < cells; cell++) {
            double left = cell ? heat[cell - 1] : 0, right = cell + 1 < cells ? heat[cell + 1] : 0;
            next[cell] = heat[cell] + 0.25 * (left - 2 * heat[cell] + right);
        }
        memcpy(heat, next, cells * sizeof *heat);
        done++;
        if (done % every == 0) {
            if (VELOC_Checkpoint("heat", done) != VELOC_SUCCESS) return 3;
            fprintf(stderr, "version %d\n", done);
        }
    }
    if (VELOC_Finalize(0) != VELOC_SUCCESS) return 4;
    uint64_t sum = 0, bits;
    for (int cell = 0; cell < cells; cell++) {
        memcpy(&bits, &heat[cell], sizeof bits);
        sum = (sum << 5 | sum >> 59) ^ bits;
    }
    printf("%016llx\n", (unsigned long long)sum);
    return 0;
}
