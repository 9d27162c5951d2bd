/* A clock that can be set under one process, loaded into it with LD_PRELOAD: the time of day is the machine's and an offset
 * that is read from the file CLOCK_OFFSET_FILE, 8 bytes, nanoseconds. Whoever writes to the file sets the clock at that moment.
 *
 * As when a machine's clock is set: CLOCK_MONOTONIC and all that is measured by it goes on as it was; who waits on a
 * condition variable until a time of day (as librdkafka does) wakes earlier or later. Other waits until a time of day, such
 * as sem_timedwait, are not moved. libfaketime moves no wait that has begun, which is where the faults are. */

#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <threads.h>
#include <time.h>
#include <unistd.h>

#define SECOND INT64_C(1000000000)
/* How late a wait notices that the clock was set: a process has dozens of threads that wait. */
#define STEP (SECOND / 4)

static const _Atomic int64_t standing_still;
static const _Atomic int64_t *offset = &standing_still;

__attribute__((constructor)) static void open_offset(void) {
    const char *path = getenv("CLOCK_OFFSET_FILE");
    int file = path ? open(path, O_RDONLY | O_CLOEXEC) : -1;
    if (file < 0) return;
    void *there = mmap(NULL, sizeof *offset, PROT_READ, MAP_SHARED, file, 0);
    if (there != MAP_FAILED) offset = there;
    close(file);
}

static struct timespec spec(int64_t nanos) {
    struct timespec time = {nanos / SECOND, nanos % SECOND};
    return time;
}

static int64_t nanos(const struct timespec *time) { return time->tv_sec * SECOND + time->tv_nsec; }

/* The machine's. */
static int64_t told(clockid_t clock) {
    struct timespec now;
    syscall(SYS_clock_gettime, clock, &now);
    return nanos(&now);
}

static int64_t time_of_day(void) { return told(CLOCK_REALTIME) + *offset; }

int clock_gettime(clockid_t clock, struct timespec *now) {
    if (clock != CLOCK_REALTIME && clock != CLOCK_REALTIME_COARSE) return syscall(SYS_clock_gettime, clock, now);
    *now = spec(time_of_day());
    return 0;
}

int timespec_get(struct timespec *now, int base) {
    if (base != TIME_UTC) return 0;
    *now = spec(time_of_day());
    return base;
}

int gettimeofday(struct timeval *restrict now, void *restrict zone) {
    (void)zone;
    struct timespec time = spec(time_of_day());
    now->tv_sec = time.tv_sec;
    now->tv_usec = time.tv_nsec / 1000;
    return 0;
}

time_t time(time_t *where) {
    time_t now = time_of_day() / SECOND;
    if (where) *where = now;
    return now;
}

static int wait_until(pthread_cond_t *cond, pthread_mutex_t *mutex, const struct timespec *until) {
    for (;;) {
        int64_t left = nanos(until) - time_of_day();
        int64_t pause = left < 0 ? 0 : left < STEP ? left : STEP;
        struct timespec step = spec(told(CLOCK_MONOTONIC) + pause);
        int woken = pthread_cond_clockwait(cond, mutex, CLOCK_MONOTONIC, &step);
        if (woken != ETIMEDOUT || left <= STEP) return woken;
    }
}

int pthread_cond_timedwait(pthread_cond_t *restrict cond, pthread_mutex_t *restrict mutex, const struct timespec *restrict until) {
    /* glibc's own mark of a variable that waits by CLOCK_MONOTONIC. */
    if (cond->__data.__wrefs & 2) return pthread_cond_clockwait(cond, mutex, CLOCK_MONOTONIC, until);
    return wait_until(cond, mutex, until);
}

int cnd_timedwait(cnd_t *restrict cond, mtx_t *restrict mutex, const struct timespec *restrict until) {
    /* glibc's are the same under another name. */
    int woken = wait_until((pthread_cond_t *)cond, (pthread_mutex_t *)mutex, until);
    return woken == 0 ? thrd_success : woken == ETIMEDOUT ? thrd_timedout : thrd_error;
}
