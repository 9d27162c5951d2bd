//! Waits of librdkafka that end in time though somebody sets the system's clock back.
//!
//! librdkafka waits on condition variables until a time of day ([its issue 2145]): once the clock is set back by hours, its
//! threads, and all that ask it for something, wait for as many hours longer unless an answer comes meanwhile, which a
//! server that is away does not give. It calls C11's `cnd_timedwait`. The linker takes the one of this file for that of the
//! C library, and this one measures the wait by the clock that nobody sets.
//!
//! [its issue 2145]: https://github.com/confluentinc/librdkafka/issues/2145

use libc::{
    CLOCK_MONOTONIC, CLOCK_REALTIME, ETIMEDOUT, c_int, c_long, clock_gettime, clockid_t,
    pthread_cond_t, pthread_mutex_t, time_t, timespec,
};

/// What glibc's `<threads.h>` calls `thrd_success`, `thrd_error` and `thrd_timedout`.
const SUCCESS: c_int = 0;
const ERROR: c_int = 2;
const TIMED_OUT: c_int = 4;

const SECOND: i128 = 1_000_000_000;

unsafe extern "C" {
    /// glibc's since 2.30: like `pthread_cond_timedwait`, by the clock that is named.
    fn pthread_cond_clockwait(
        condition: *mut pthread_cond_t,
        mutex: *mut pthread_mutex_t,
        clock: clockid_t,
        until: *const timespec,
    ) -> c_int;
}

/// Waits until it is woken, or for as long as it is until the time of day `until`, as of now.
///
/// # Safety
/// As C11 has it: both are initialised, this thread holds the mutex, and `until` is readable.
#[unsafe(no_mangle)]
unsafe extern "C" fn cnd_timedwait(
    // glibc's `cnd_t` and `mtx_t` are these under other names.
    condition: *mut pthread_cond_t,
    mutex: *mut pthread_mutex_t,
    until: *const timespec,
) -> c_int {
    // SAFETY: the caller's promise.
    let left = nanos(unsafe { &*until }) - now(CLOCK_REALTIME);
    let until = spec(now(CLOCK_MONOTONIC) + left.max(0));
    // SAFETY: the caller's promise; `until` lives until this has returned.
    let woken =
        unsafe { pthread_cond_clockwait(condition, mutex, CLOCK_MONOTONIC, &raw const until) };
    match woken {
        0 => SUCCESS,
        ETIMEDOUT => TIMED_OUT,
        _ => ERROR,
    }
}

fn now(clock: clockid_t) -> i128 {
    let mut told = spec(0);
    // SAFETY: it writes to `told`; it fails only for clocks that there are not.
    unsafe { clock_gettime(clock, &raw mut told) };
    nanos(&told)
}

fn nanos(time: &timespec) -> i128 {
    i128::from(time.tv_sec) * SECOND + i128::from(time.tv_nsec)
}

fn spec(nanos: i128) -> timespec {
    timespec {
        tv_sec: time_t::try_from(nanos.div_euclid(SECOND)).unwrap_or(time_t::MAX),
        tv_nsec: c_long::try_from(nanos.rem_euclid(SECOND)).unwrap_or_default(),
    }
}
