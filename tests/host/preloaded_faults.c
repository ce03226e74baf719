/*
 * Faults that a test turns on and off while a process runs; preloaded into a server.
 *
 * FAULTS_ROOT   directory whose files have the disk faults, with everything below it
 * FAULTS_SYNC   while this file exists, fsync and fdatasync of those files fail with EIO
 * FAULTS_HANG   while this file exists, fsync and fdatasync of those files do not return
 * FAULTS_CLOCK  file of 8 bytes: signed number of seconds by which the wall clock is ahead
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

static const volatile int64_t *ahead;

#define HANG_MICROSECONDS 10000

static int befallen(int descriptor, const char *fault) {
    const char *root = getenv("FAULTS_ROOT"), *flag = getenv(fault);
    char link[64], path[PATH_MAX];
    if (!root || !flag || access(flag, F_OK)) return 0;
    snprintf(link, sizeof link, "/proc/self/fd/%d", descriptor);
    ssize_t length = readlink(link, path, sizeof path - 1);
    if (length < 0) return 0;
    path[length] = 0;
    return !strncmp(path, root, strlen(root));
}

static int sync_or_fail(int descriptor, long call) {
    while (befallen(descriptor, "FAULTS_HANG")) usleep(HANG_MICROSECONDS);
    if (befallen(descriptor, "FAULTS_SYNC")) {
        errno = EIO;
        return -1;
    }
    return (int)syscall(call, descriptor);
}

int fsync(int descriptor) { return sync_or_fail(descriptor, SYS_fsync); }

int fdatasync(int descriptor) { return sync_or_fail(descriptor, SYS_fdatasync); }

static int shifted(clockid_t clock) { return ahead && (clock == CLOCK_REALTIME || clock == CLOCK_REALTIME_COARSE); }

int clock_gettime(clockid_t clock, struct timespec *now) {
    int status = (int)syscall(SYS_clock_gettime, clock, now);
    if (!status && shifted(clock)) now->tv_sec += *ahead;
    return status;
}

int gettimeofday(struct timeval *restrict now, void *restrict zone) {
    struct timespec found;
    (void)zone;
    if (clock_gettime(CLOCK_REALTIME, &found)) return -1;
    now->tv_sec = found.tv_sec;
    now->tv_usec = found.tv_nsec / 1000;
    return 0;
}

time_t time(time_t *now) {
    struct timespec found;
    if (clock_gettime(CLOCK_REALTIME, &found)) return -1;
    if (now) *now = found.tv_sec;
    return found.tv_sec;
}

__attribute__((constructor)) static void begin(void) {
    const char *path = getenv("FAULTS_CLOCK");
    if (!path) return;
    int file = open(path, O_RDONLY | O_CLOEXEC);
    void *content = file < 0 ? MAP_FAILED : mmap(NULL, sizeof *ahead, PROT_READ, MAP_SHARED, file, 0);
    if (content == MAP_FAILED) {
        fprintf(stderr, "faults: %s: %s\n", path, strerror(errno));
        _exit(99);
    }
    close(file);
    ahead = content;
}
