//! A file system of its own whose power can be cut: ext4 on a loop-mounted image.
//!
//! Runs on: the main thread, as root.        Owner: `main`.
//! Promises: after `cut` and `restore` the file system holds what was written durably before the
//! cut (`O_DSYNC`, fsync, a committed ext4 journal) and none of what was only buffered.
//!
//! 1. `cut` = `FS_IOC_SHUTDOWN` with NOLOGFLUSH: from now on the file system writes nothing, not
//!    even its own journal; every later write or flush in it fails with EIO.
//! 2. The broker is killed; unmounting then drops the dirty pages instead of writing them.
//! 3. Mounting replays ext4's journal as after a power failure.

use std::fs::File;
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

/// `_IOR('X', 125, __u32)`: the same number for ext4, xfs and f2fs.
const FS_IOC_SHUTDOWN: u64 = 0x8004_587d;
/// Neither flush the file system's journal nor anything else.
const GOING_FLAGS_NOLOGFLUSH: u32 = 0x2;
const UNMOUNT_LIMIT: Duration = Duration::from_secs(30);

/// The mounted image.
#[derive(Debug)]
pub(crate) struct PowerDomain {
    image: PathBuf,
    mount_point: PathBuf,
    is_mounted: bool,
}

impl PowerDomain {
    /// Makes and mounts a new file system of `size_bytes` under `directory`.
    pub(crate) fn create(directory: &Path, size_bytes: u64) -> Result<Self, String> {
        // SAFETY: geteuid(2) has no preconditions.
        if unsafe { libc::geteuid() } != 0 {
            return Err("--power-cut mounts a file system and needs root".into());
        }
        let image = directory.join("disk.img");
        let mount_point = directory.join("disk");
        let explain = |error: std::io::Error| format!("{}: {error}", directory.display());
        std::fs::create_dir_all(&mount_point).map_err(explain)?;
        // a run that was interrupted leaves its file system mounted; usually there is none
        let _ = run("umount", &[&text(&mount_point)]);
        let file = File::create(&image).map_err(explain)?;
        file.set_len(size_bytes).map_err(explain)?;
        drop(file);
        run("mkfs.ext4", &["-q", "-F", &text(&image)])?;
        let mut domain = Self {
            image,
            mount_point,
            is_mounted: false,
        };
        domain.mount()?;
        Ok(domain)
    }

    /// Where the file system is mounted.
    pub(crate) fn path(&self) -> &Path {
        &self.mount_point
    }

    /// Cuts the power: nothing reaches the file system from now on.
    pub(crate) fn cut(&self) -> Result<(), String> {
        let root = File::open(&self.mount_point).map_err(|error| error.to_string())?;
        let flags = GOING_FLAGS_NOLOGFLUSH;
        // SAFETY: the descriptor is open, and the ioctl reads one u32 that outlives the call.
        let status = unsafe { libc::ioctl(root.as_raw_fd(), FS_IOC_SHUTDOWN, &raw const flags) };
        if status == 0 {
            return Ok(());
        }
        Err(format!(
            "FS_IOC_SHUTDOWN: {}",
            std::io::Error::last_os_error()
        ))
    }

    /// Power is back: unmounts what is left and mounts again. Nothing may use the files any more.
    pub(crate) fn restore(&mut self) -> Result<(), String> {
        self.unmount()?;
        self.mount()
    }

    fn mount(&mut self) -> Result<(), String> {
        run(
            "mount",
            &[
                "-t",
                "ext4",
                "-o",
                "loop",
                &text(&self.image),
                &text(&self.mount_point),
            ],
        )?;
        self.is_mounted = true;
        Ok(())
    }

    fn unmount(&mut self) -> Result<(), String> {
        let started = Instant::now();
        // the last descriptors of a killed io_uring process close a moment after its exit
        while let Err(error) = run("umount", &[&text(&self.mount_point)]) {
            if started.elapsed() > UNMOUNT_LIMIT {
                return Err(error);
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        self.is_mounted = false;
        Ok(())
    }
}

impl Drop for PowerDomain {
    fn drop(&mut self) {
        if self.is_mounted && self.unmount().is_ok() {
            // the image is large; what it held was judged before
            let _ = std::fs::remove_file(&self.image);
        }
    }
}

fn text(path: &Path) -> String {
    path.display().to_string()
}

fn run(program: &str, arguments: &[&str]) -> Result<(), String> {
    let output = Command::new(program)
        .args(arguments)
        .output()
        .map_err(|error| format!("{program}: {error} (Debian: apt-get install e2fsprogs mount)"))?;
    if output.status.success() {
        return Ok(());
    }
    let reason = String::from_utf8_lossy(&output.stderr)
        .trim()
        .replace('\n', " ");
    Err(format!("{program} {}: {reason}", arguments.join(" ")))
}
