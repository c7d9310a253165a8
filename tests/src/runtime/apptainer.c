/*
 * Runs the apptainer of another Debian as if it were this machine's own.
 *
 * It is set-user-ID root only to lay that Debian's folders over this machine's, in a mount namespace
 * of its own, and to pivot into them (a chroot would forbid user namespaces). Everything after that
 * is done by the user: real UID, no capabilities, environment and folder as they were.
 *
 * ROOT is given at compile time.
 */
#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

static void die(const char *what)
{
    fprintf(stderr, "apptainer (of the tests): %s: %s\n", what, strerror(errno));
    exit(255);
}

/* These stay the other Debian's. */
static int theirs(const char *name)
{
    static const char *const names[] = { ".",   "..",   "bin",   "sbin", "lib",        "lib32",
                                         "lib64", "libx32", "usr", "etc", "var", "lost+found", NULL };
    for (int i = 0; names[i]; i++)
        if (!strcmp(names[i], name))
            return 1;
    return 0;
}

static void bind(const char *path, int folder, unsigned long rec)
{
    char to[4096];
    snprintf(to, sizeof to, ROOT "%s", path);
    if (folder)
        mkdir(to, 0755);
    if (mount(path, to, NULL, MS_BIND | rec, NULL))
        die(path);
}

static void bind_ours(void)
{
    static const char *const files[] = { "/etc/passwd", "/etc/group", "/etc/hosts", "/etc/hostname",
                                         "/etc/resolv.conf", NULL };
    /* Before the others are below it, as ROOT may be in there. */
    bind("/var/tmp", 1, 0);
    bind("/usr/local", 1, MS_REC);
    DIR *top = opendir("/");
    if (!top)
        die("/");
    for (struct dirent *entry; (entry = readdir(top));) {
        char path[512];
        struct stat st;
        snprintf(path, sizeof path, "/%s", entry->d_name);
        if (!theirs(entry->d_name) && !lstat(path, &st) && S_ISDIR(st.st_mode))
            bind(path, 1, MS_REC);
    }
    closedir(top);
    for (int i = 0; files[i]; i++)
        if (!access(files[i], F_OK) && !access(ROOT "/etc", F_OK)) {
            char to[4096];
            snprintf(to, sizeof to, ROOT "%s", files[i]);
            close(open(to, O_CREAT | O_WRONLY | O_NOFOLLOW, 0644));
            bind(files[i], 0, 0);
        }
}

/* The C library takes some variables from a set-user-ID program; apptainer is none. */
static char **environment(void)
{
    size_t size = 1 << 22, used = 0, count = 0;
    char *text = malloc(size);
    int fd = open("/proc/self/environ", O_RDONLY | O_CLOEXEC);
    if (!text || fd < 0)
        die("environment");
    for (ssize_t n; used < size - 1 && (n = read(fd, text + used, size - 1 - used)) > 0;)
        used += n;
    close(fd);
    text[used] = 0;
    char **words = calloc(used / 2 + 2, sizeof *words);
    if (!words)
        die("environment");
    for (size_t at = 0; at < used; at += strlen(text + at) + 1)
        words[count++] = text + at;
    return words;
}

int main(int argc, char **argv)
{
    (void)argc;
    char cwd[4096];
    uid_t uid = getuid();
    gid_t gid = getgid();
    char **words = environment();
    if (!getcwd(cwd, sizeof cwd))
        die("the current folder");
    if (unshare(CLONE_NEWNS) || mount(NULL, "/", NULL, MS_REC | MS_SLAVE, NULL))
        die("a mount namespace");
    if (mount(ROOT, ROOT, NULL, MS_BIND, NULL))
        die(ROOT);
    bind_ours();
    if (chdir(ROOT) || syscall(SYS_pivot_root, ".", ".") || umount2(".", MNT_DETACH))
        die("pivot_root");
    if (setresgid(gid, gid, gid) || setresuid(uid, uid, uid))
        die("the user");
    if (chdir(cwd))
        die(cwd);
    execve("/usr/bin/apptainer", argv, words);
    die("/usr/bin/apptainer");
}
