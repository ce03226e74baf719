/*
 * Maintains an image of what a power cut would leave of a directory. Preloaded into a process, it stands in for the
 * disk's cache. Only synced data gets into the image: a sync of a file writes its content, a sync of a directory
 * writes its names. Nothing else changes the image: neither time nor a rename.
 *
 * POWER_LOSS_ROOT   directory that is watched, with everything below it
 * POWER_LOSS_IMAGE  directory of the image: `file-ID` and `names-ID`, where ID is the inode with its creation time,
 *                   because inode numbers are reused. Each line of names has a type (f or d), an ID and a name. `root`
 *                   has the ID of the watched directory.
 *
 * Everything that exists when the first process starts counts as synced. Files grow only at the end, except those of at
 * most REWRITE_BYTES, which may be written in place.
 */
#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <limits.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define REWRITE_BYTES 4096
#define CHUNK_BYTES (1 << 16)

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;

/* Ends the process, because a wrong image would prove nothing. */
static void give_up(const char *what) {
    fprintf(stderr, "power_loss: %s: %s\n", what, strerror(errno));
    _exit(99);
}

static void identify(int directory, const char *name, char *id, size_t size, char *type) {
    struct statx found;
    int flags = AT_SYMLINK_NOFOLLOW | (*name ? 0 : AT_EMPTY_PATH);
    *type = 0;
    if (statx(directory, name, flags, STATX_BASIC_STATS | STATX_BTIME, &found)) return;
    if (!(found.stx_mask & STATX_BTIME)) {
        errno = ENOTSUP;
        give_up("the file system tells no time of birth");
    }
    *type = S_ISDIR(found.stx_mode) ? 'd' : S_ISREG(found.stx_mode) ? 'f' : 0;
    snprintf(id, size, "%llu-%lld-%u", (unsigned long long)found.stx_ino, (long long)found.stx_btime.tv_sec,
             found.stx_btime.tv_nsec);
}

static int open_image(const char *kind, const char *id, int flags) {
    char path[PATH_MAX];
    snprintf(path, sizeof path, "%s/%s-%s", getenv("POWER_LOSS_IMAGE"), kind, id);
    int image = open(path, flags | O_CREAT | O_CLOEXEC, 0600);
    if (image < 0) give_up(path);
    return image;
}

static void keep_content(int source, const char *id, off_t size) {
    static char chunk[CHUNK_BYTES];
    int image = open_image("file", id, O_RDWR);
    struct stat kept;
    if (fstat(image, &kept)) give_up("stat");
    off_t at = size <= REWRITE_BYTES ? 0 : kept.st_size > size ? size : kept.st_size;
    while (at < size) {
        size_t want = size - at < CHUNK_BYTES ? (size_t)(size - at) : CHUNK_BYTES;
        ssize_t got = pread(source, chunk, want, at);
        if (got <= 0 || pwrite(image, chunk, (size_t)got, at) != got) give_up("copy");
        at += got;
    }
    if (ftruncate(image, size)) give_up("truncate");
    close(image);
}

static void keep_names(int source, const char *id) {
    char draft[80], from[PATH_MAX], to[PATH_MAX], entry_id[64], type;
    snprintf(draft, sizeof draft, "%s.new", id);
    FILE *names = fdopen(open_image("names", draft, O_RDWR | O_TRUNC), "w");
    int again = openat(source, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    DIR *directory = again < 0 ? NULL : fdopendir(again);
    if (!names || !directory) give_up("list");
    for (struct dirent *entry; (entry = readdir(directory));) {
        if (!strcmp(entry->d_name, ".") || !strcmp(entry->d_name, "..")) continue;
        identify(again, entry->d_name, entry_id, sizeof entry_id, &type);
        if (type) fprintf(names, "%c %s %s\n", type, entry_id, entry->d_name);
    }
    closedir(directory);
    if (fclose(names)) give_up("list");
    snprintf(from, sizeof from, "%s/names-%s", getenv("POWER_LOSS_IMAGE"), draft);
    snprintf(to, sizeof to, "%s/names-%s", getenv("POWER_LOSS_IMAGE"), id);
    if (rename(from, to)) give_up("list");
}

static void keep_now(int descriptor) {
    char id[64], type, link[64];
    struct stat found;
    identify(descriptor, "", id, sizeof id, &type);
    /* A write-only descriptor cannot be read, so the file is opened again. */
    snprintf(link, sizeof link, "/proc/self/fd/%d", descriptor);
    int source = open(link, O_RDONLY | O_CLOEXEC);
    if (source < 0) give_up("open");
    pthread_mutex_lock(&lock);
    if (fstat(source, &found)) give_up("stat");
    if (type == 'd') keep_names(source, id);
    else if (type == 'f') keep_content(source, id, found.st_size);
    pthread_mutex_unlock(&lock);
    close(source);
}

static int keep(int descriptor) {
    const char *root = getenv("POWER_LOSS_ROOT");
    char link[64], path[PATH_MAX];
    snprintf(link, sizeof link, "/proc/self/fd/%d", descriptor);
    ssize_t length = readlink(link, path, sizeof path - 1);
    if (length < 0) {
        errno = EBADF;
        return -1;
    }
    path[length] = 0;
    size_t prefix = root ? strlen(root) : 0;
    if (prefix && !strncmp(path, root, prefix) && (!path[prefix] || path[prefix] == '/')) keep_now(descriptor);
    return 0;
}

int fsync(int descriptor) { return keep(descriptor); }

int fdatasync(int descriptor) { return keep(descriptor); }

static int keep_path(const char *path, const struct stat *found, int flag, struct FTW *place) {
    (void)found, (void)flag, (void)place;
    int descriptor = open(path, O_RDONLY | O_CLOEXEC);
    if (descriptor < 0) give_up(path);
    keep_now(descriptor);
    close(descriptor);
    return 0;
}

__attribute__((constructor)) static void begin(void) {
    const char *root = getenv("POWER_LOSS_ROOT");
    char path[PATH_MAX], id[64], type;
    if (!root) return;
    snprintf(path, sizeof path, "%s/root", getenv("POWER_LOSS_IMAGE"));
    if (!access(path, F_OK)) return;
    if (nftw(root, keep_path, 16, FTW_PHYS)) give_up(root);
    identify(AT_FDCWD, root, id, sizeof id, &type);
    FILE *file = fopen(path, "w");
    if (!file || fprintf(file, "%s\n", id) < 0 || fclose(file)) give_up(path);
}
