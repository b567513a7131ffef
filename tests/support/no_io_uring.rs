//! A process in which io_uring is forbidden, as in many container profiles (seccomp).

/// Loads the number of the system call; is it `io_uring_setup`? then EPERM, else allowed.
const FILTER: [libc::sock_filter; 4] = [
    filter(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, (0, 0), 0),
    filter(
        libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K,
        (0, 1),
        IO_URING_SETUP,
    ),
    filter(
        libc::BPF_RET | libc::BPF_K,
        (0, 0),
        libc::SECCOMP_RET_ERRNO | EPERM,
    ),
    filter(libc::BPF_RET | libc::BPF_K, (0, 0), libc::SECCOMP_RET_ALLOW),
];
/// The same number on every architecture.
const IO_URING_SETUP: u32 = 425;
const EPERM: u32 = 1;

const fn filter(code: u32, (jt, jf): (u8, u8), k: u32) -> libc::sock_filter {
    let [low, high, ..] = code.to_le_bytes();
    libc::sock_filter {
        code: u16::from_le_bytes([low, high]),
        jt,
        jf,
        k,
    }
}

/// Forbids io_uring to this process, for good.
pub(crate) fn forbid_io_uring() -> std::io::Result<()> {
    let mut filter = FILTER;
    let program = libc::sock_fprog {
        len: 4,
        filter: filter.as_mut_ptr(),
    };
    // SAFETY: `program` points to four instructions, which the kernel copies before it returns.
    let outcome = unsafe {
        if libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0 {
            libc::prctl(
                libc::PR_SET_SECCOMP,
                libc::SECCOMP_MODE_FILTER,
                &raw const program,
            )
        } else {
            -1
        }
    };
    if outcome == 0 {
        Ok(())
    } else {
        Err(std::io::Error::last_os_error())
    }
}
