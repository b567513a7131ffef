//! Cores and CPU time of this process.

use std::io;

/// CPU time of this process, its ring's kernel threads included.
pub(crate) struct Usage {
    pub(crate) cpu_seconds: f64,
}

impl Usage {
    pub(crate) fn now() -> Usage {
        // SAFETY: an all-zero rusage is a valid value of that plain structure.
        let mut usage: libc::rusage = unsafe { std::mem::zeroed() };
        // SAFETY: `usage` is a valid place for one rusage.
        unsafe { libc::getrusage(libc::RUSAGE_SELF, &raw mut usage) };
        Usage {
            cpu_seconds: seconds(usage.ru_utime) + seconds(usage.ru_stime),
        }
    }

    pub(crate) fn since(&self) -> Usage {
        Usage {
            cpu_seconds: Usage::now().cpu_seconds - self.cpu_seconds,
        }
    }
}

#[expect(
    clippy::cast_precision_loss,
    reason = "seconds of CPU time are far below 2^52"
)]
fn seconds(time: libc::timeval) -> f64 {
    time.tv_sec as f64 + time.tv_usec as f64 / 1e6
}

/// Keeps this thread, and those that it starts, on one core.
pub(crate) fn pin(core: usize) -> io::Result<()> {
    // SAFETY: an all-zero cpu_set_t is the empty set.
    let mut set: libc::cpu_set_t = unsafe { std::mem::zeroed() };
    // SAFETY: CPU_SET checks nothing; the assertion keeps `core` inside of the set.
    unsafe {
        assert!(core < 1024, "a core of cpu_set_t");
        libc::CPU_SET(core, &mut set);
    }
    // SAFETY: `set` is a valid cpu_set_t of the size that is given.
    let code = unsafe { libc::sched_setaffinity(0, size_of::<libc::cpu_set_t>(), &raw const set) };
    if code == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}
