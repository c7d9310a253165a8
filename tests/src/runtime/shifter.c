/*
 * Stands in for Shifter, which nobody packages. What can be seen from inside is done as Shifter does
 * it, in its order: a mount namespace and no other, a read-only tmpfs as root, with the site's
 * folders and the image's bound into it, chroot, an empty bounding set, the user's groups and IDs,
 * no_new_privs, the caller's folder. So are its rules on --volume: "from" is looked up inside, by
 * the user; "to" must exist, or its parent be of the tmpfs itself.
 *
 * IMAGES (folders NAME/root and files NAME/id) and ROOT (an empty folder) are given at compile time.
 */
#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <grp.h>
#include <limits.h>
#include <linux/openat2.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

static const char *const OPTIONS = "+hvi:V:e:w:";
static const struct option LONG[] = {
    { "help", 0, NULL, 'h' },   { "verbose", 0, NULL, 'v' }, { "image", 1, NULL, 'i' },
    { "volume", 1, NULL, 'V' }, { "env", 1, NULL, 'e' },     { "workdir", 1, NULL, 'w' },
    { "clearenv", 0, NULL, 'c' }, { NULL, 0, NULL, 0 },
};

static char image[500]; /* the image's folder */
static char request[300], id[80];
static char cwd[PATH_MAX];
static const char *volumes[64];
static int volume_count;

static void die(const char *what)
{
    fprintf(stderr, "FAILED %s: %s\n", what, errno ? strerror(errno) : "not allowed");
    exit(1);
}

static void refuse(const char *why)
{
    errno = 0;
    fprintf(stderr, "%s\n", why);
    exit(1);
}

static void find_image(const char *word)
{
    if (!word)
        refuse("No image specified, or specified incorrectly!");
    char name[200];
    const char *bare = strncmp(word, "docker:", 7) ? word : word + 7;
    snprintf(name, sizeof name, "%s", bare);
    snprintf(request, sizeof request, "docker:%s", name);
    char *tag = strrchr(name, ':');
    if (tag && !strcmp(tag, ":latest"))
        *tag = 0;
    if (!*name || *name == '.' || strchr(name, '/'))
        refuse("FAILED to find requested image.");
    snprintf(image, sizeof image, IMAGES "/%s", name);
    char path[PATH_MAX];
    snprintf(path, sizeof path, "%s/id", image);
    FILE *file = fopen(path, "re");
    if (!file || fscanf(file, "%64s", id) != 1)
        refuse("FAILED to find requested image.");
    fclose(file);
}

static int within(char *to, const char *path)
{
    struct stat st;
    snprintf(to, PATH_MAX, ROOT "%s", path);
    return !lstat(to, &st);
}

/* Binds a folder or a file to the same place inside, unless something is there already. */
static void bring(const char *from, const char *path, int rec, unsigned long flags)
{
    char to[PATH_MAX], target[PATH_MAX];
    struct stat st;
    if (lstat(from, &st) || within(to, path))
        return;
    if (S_ISLNK(st.st_mode)) {
        ssize_t n = readlink(from, target, sizeof target - 1);
        if (n < 0 || (target[n] = 0, symlink(target, to)))
            die(path);
        return;
    }
    if (S_ISDIR(st.st_mode) ? mkdir(to, 0755) : mknod(to, S_IFREG | 0644, 0))
        die(path);
    if (mount(from, to, NULL, MS_BIND | (rec ? MS_REC : 0), NULL))
        die(path);
    if (flags && mount(NULL, to, NULL, MS_REMOUNT | MS_BIND | flags, NULL))
        die(path);
}

/* The image's entries in this folder; those in `skip` are seen to elsewhere. */
static void bring_entries(const char *folder, const char *const *skip)
{
    char from[PATH_MAX], path[1000];
    snprintf(from, sizeof from, "%s/root%s", image, folder);
    DIR *entries = opendir(from);
    if (!entries)
        return;
    for (struct dirent *entry; (entry = readdir(entries));) {
        const char *name = entry->d_name;
        int skipped = !strcmp(name, ".") || !strcmp(name, "..");
        for (int i = 0; skip[i]; i++)
            skipped |= !strcmp(skip[i], name);
        if (skipped)
            continue;
        snprintf(path, sizeof path, "%s/%s", strcmp(folder, "/") ? folder : "", name);
        snprintf(from, sizeof from, "%s/root%s", image, path);
        bring(from, path, 0, MS_RDONLY | MS_NOSUID | MS_NODEV);
    }
    closedir(entries);
}

static void copy(const char *from, const char *to)
{
    pid_t child = fork();
    if (!child) {
        char *none[] = { NULL };
        execle("/bin/cp", "cp", "-dRp", from, to, NULL, none);
        _exit(127);
    }
    int status;
    if (child < 0 || waitpid(child, &status, 0) != child || status)
        refuse("FAILED to copy /etc");
}

static void folder(const char *path)
{
    char to[PATH_MAX];
    if (!within(to, path) && mkdir(to, 0755))
        die(path);
}

/* What the site has: its own folders, and the first part of the path where the caller stands. */
static void bring_site(void)
{
    static const char *const own[] = { "/sys", "/dev", "/tmp", "/proc", "/home", NULL };
    static const char *const of_image[] = { "/", "/usr", "/bin", "/sbin", "/lib", "/lib64", "/etc",
                                            "/var", "/opt", "/run", "/root", NULL };
    for (int i = 0; own[i]; i++)
        bring(own[i], own[i], 1, 0);
    char top[PATH_MAX];
    snprintf(top, sizeof top, "%s", cwd);
    char *slash = strchr(top + 1, '/');
    if (slash)
        *slash = 0;
    for (int i = 0; of_image[i]; i++)
        if (!strcmp(of_image[i], top))
            return;
    bring(top, top, 1, 0);
}

static void build_root(void)
{
    static const char *const none[] = { NULL };
    static const char *const elsewhere[] = { "etc", "var", "opt", NULL };
    if (unshare(CLONE_NEWNS) || mount(NULL, "/", NULL, MS_REC | MS_SLAVE, NULL))
        die("to make a mount namespace");
    if (mount("none", ROOT, "tmpfs", MS_NOSUID | MS_NODEV, "mode=755"))
        die("to mount rootfs on " ROOT);
    if (mount(NULL, ROOT, NULL, MS_PRIVATE, NULL))
        die("to mark the udi as a private mount");
    bring_site();
    bring_entries("/", elsewhere);
    folder("/var");
    bring_entries("/var", none);
    folder("/opt");
    bring_entries("/opt", none);
    folder("/etc");
    char from[PATH_MAX];
    snprintf(from, sizeof from, "%s/root/etc/.", image);
    if (!access(from, F_OK))
        copy(from, ROOT "/etc");
    copy("/etc/passwd", ROOT "/etc");
    copy("/etc/group", ROOT "/etc");
}

/* Opens a path as it is seen inside. */
static int inside(const char *path)
{
    struct open_how how = { .flags = O_PATH | O_DIRECTORY | O_CLOEXEC, .resolve = RESOLVE_IN_ROOT };
    int root = open(ROOT, O_PATH | O_DIRECTORY | O_CLOEXEC);
    int fd = syscall(SYS_openat2, root, path, &how, sizeof how);
    int error = errno;
    close(root);
    errno = error;
    return fd;
}

static int inside_as_user(const char *path)
{
    if (setegid(getgid()) || seteuid(getuid()))
        die("to assume the user");
    int fd = inside(path), error = errno;
    if (seteuid(0) || setegid(0))
        die("to assume root again");
    errno = error;
    return fd;
}

static int target(const char *to)
{
    int fd = inside(to);
    if (fd >= 0)
        return fd;
    char parent[PATH_MAX];
    struct stat st, root;
    snprintf(parent, sizeof parent, "%s", to);
    char *name = strrchr(parent, '/');
    *name++ = 0;
    fd = inside(*parent ? parent : "/");
    if (fd < 0 || fstat(fd, &st) || stat(ROOT, &root) || st.st_dev != root.st_dev) {
        fprintf(stderr, "FAILED to create volume \"to\": %s, cannot create mount points in that "
                        "location\n", to);
        exit(1);
    }
    mkdirat(fd, name, 0755);
    close(fd);
    return inside(to);
}

static void link_of(char *text, int fd)
{
    snprintf(text, 40, "/proc/self/fd/%d", fd);
}

static void bring_volume(char *word)
{
    char *from = strtok(word, ":"), *to = strtok(NULL, ":"), *flag = strtok(NULL, ":");
    char source[40], place[40];
    errno = 0;
    if (!from || !to || *from != '/' || *to != '/' || strstr(from, "..") || strstr(to, "..") ||
        !strncmp(to, "/etc", 4) || !strncmp(to, "/var", 4) || !strcmp(to, "/opt") ||
        (flag && strcmp(flag, "ro")))
        die("Invalid Volume Map");
    int source_fd = inside_as_user(from);
    if (source_fd < 0)
        die("to find real path for volume \"from\"");
    int fd = target(to);
    if (fd < 0)
        die("to find volume \"to\"");
    link_of(source, source_fd);
    link_of(place, fd);
    if (mount(source, place, NULL, MS_BIND, NULL))
        die("to mount a volume");
    close(source_fd);
    close(fd);
    fd = inside(to);
    link_of(place, fd);
    unsigned long flags = MS_NOSUID | MS_NODEV | (flag ? MS_RDONLY : 0);
    if (mount(NULL, place, NULL, MS_REMOUNT | MS_BIND | flags, NULL))
        die("to mount a volume");
    close(fd);
}

static void bring_volumes(void)
{
    for (int i = 0; i < volume_count; i++) {
        char *rest = strdup(volumes[i]), *word;
        while ((word = strsep(&rest, ";")))
            if (*word)
                bring_volume(word);
    }
    if (mount(NULL, ROOT, NULL, MS_REMOUNT | MS_BIND | MS_RDONLY | MS_NOSUID | MS_NODEV, NULL))
        die("to remount udi readonly");
}

static void become_the_user(void)
{
    static gid_t groups[NGROUPS_MAX];
    int count = getgroups(NGROUPS_MAX, groups);
    uid_t uid = getuid();
    gid_t gid = getgid();
    if (chdir(ROOT) || chroot(ROOT) || chdir("/"))
        die("to chroot");
    for (int cap = 0; prctl(PR_CAPBSET_READ, cap, 0, 0, 0) >= 0; cap++)
        if (prctl(PR_CAPBSET_DROP, cap, 0, 0, 0))
            die("to restrict future capabilities");
    if (count < 0 || setgroups(count, groups) || setresgid(gid, gid, gid) || setresuid(uid, uid, uid))
        die("to drop privileges");
    if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0))
        die("to fully drop privileges");
}

int main(int argc, char **argv)
{
    const char *wanted = getenv("SHIFTER"), *workdir = NULL;
    char *words[256];
    int word_count = 0, clear = 0;
    for (int c; (c = getopt_long(argc, argv, OPTIONS, LONG, NULL)) != -1;) {
        if (c == 'i')
            wanted = optarg;
        else if (c == 'V' && volume_count < 64)
            volumes[volume_count++] = optarg;
        else if (c == 'e' && word_count < 256)
            words[word_count++] = optarg;
        else if (c == 'w')
            workdir = optarg;
        else if (c == 'c')
            clear = 1;
        else if (c != 'v')
            refuse("usage: shifter --image=IMAGE [--volume=FROM:TO[:ro]] COMMAND ...");
    }
    if (optind >= argc)
        refuse("Must specify a command to run");
    if (!getuid() || geteuid())
        refuse("Failed to lookup username or attempted to run as root.");
    if (!getcwd(cwd, sizeof cwd))
        die("to determine current working directory");
    umask(022);
    find_image(wanted);
    build_root();
    bring_volumes();
    become_the_user();
    if (chdir(workdir ? workdir : cwd))
        fprintf(stderr, "Failed to switch to working dir: %s, staying in /\n",
                workdir ? workdir : cwd);
    if (clear)
        clearenv();
    setenv("SHIFTER_IMAGEREQUEST", request, 1);
    setenv("SHIFTER_IMAGE", id, 1);
    for (int i = 0; i < word_count; i++)
        putenv(words[i]);
    setenv("SHIFTER_RUNTIME", "1", 1);
    execvp(argv[optind], argv + optind);
    fprintf(stderr, "%s: %s: %s\n", argv[0], argv[optind], strerror(errno));
    return 127;
}
