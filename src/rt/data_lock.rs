//! One process per data directory: an advisory lock on a file in it.
//!
//! Runs on: start-up code. The lock is the kernel's (flock): it ends with the process, however that
//! ends, and leaves nothing to clean up.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek, Write};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};

use super::sys;

/// Name of the lock file.
pub const LOCK_FILE: &str = ".lock";

/// Why the directory could not be locked.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Another process holds it.
    #[error("{path} is in use by another process (pid {pid}): stop it or choose another directory")]
    Held {
        /// The directory.
        path: PathBuf,
        /// Who says to hold it.
        pid: String,
    },
    /// The lock file could not be made or read.
    #[error("cannot lock {path}: {source}{}", remedy(.source))]
    Io {
        /// The directory.
        path: PathBuf,
        /// What the filesystem said.
        source: io::Error,
    },
}

fn remedy(source: &io::Error) -> &'static str {
    match source.kind() {
        io::ErrorKind::PermissionDenied => {
            ": give the directory to the user that runs the broker, or choose another one"
        }
        io::ErrorKind::AlreadyExists | io::ErrorKind::NotADirectory => {
            ": a file is in the way, or a link that leads nowhere; --data-dir must name a directory"
        }
        io::ErrorKind::ReadOnlyFilesystem => ": choose a directory that can be written",
        io::ErrorKind::NotFound => {
            ": nothing can be made there (below /proc or /sys, or the working directory is gone); \
             choose another directory"
        }
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
            ": free some space, or choose a directory on another disk"
        }
        _ => ": check the disk, or choose another directory",
    }
}

/// The lock; the directory is free again when it is dropped.
#[derive(Debug)]
pub struct DataLock {
    _file: File,
    /// What was not there before, deepest first.
    made: Vec<PathBuf>,
}

impl DataLock {
    /// Locks the directory `dir`, which is made if it does not exist, without waiting.
    pub fn acquire(dir: &Path) -> Result<Self, Error> {
        let io = |source| Error::Io {
            path: dir.to_owned(),
            source,
        };
        let lock_file = dir.join(LOCK_FILE);
        let made: Vec<PathBuf> = lock_file
            .ancestors()
            .take_while(|path| !path.as_os_str().is_empty() && !path.exists())
            .map(Path::to_owned)
            .collect();
        std::fs::create_dir_all(dir).map_err(io)?;
        let mut options = OpenOptions::new();
        options.read(true).write(true).create(true).truncate(false);
        let mut file = options.open(&lock_file).map_err(io)?;
        match sys::try_lock_exclusive(file.as_fd()) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                let mut pid = String::new();
                file.read_to_string(&mut pid).map_err(io)?;
                let pid = pid.trim();
                let pid = if pid.is_empty() { "unknown" } else { pid }.to_owned();
                return Err(Error::Held {
                    path: dir.to_owned(),
                    pid,
                });
            }
            Err(error) => return Err(io(error)),
        }
        // For the message above only; the lock itself is the kernel's.
        file.set_len(0).map_err(io)?;
        file.rewind().map_err(io)?;
        writeln!(file, "{}", std::process::id()).map_err(io)?;
        Ok(Self { _file: file, made })
    }

    /// Gives the lock up and removes what `acquire` made, as far as nothing else is in it: a start
    /// that is refused leaves nothing behind.
    pub fn undo(self) {
        for path in &self.made {
            let removed = match path.is_dir() {
                true => std::fs::remove_dir(path),
                false => std::fs::remove_file(path),
            };
            if removed.is_err() {
                return; // somebody put something there meanwhile
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rt::testing::dir;

    #[test]
    fn a_directory_is_locked_once_and_free_after_the_drop() {
        let dir = dir();
        let lock = DataLock::acquire(dir.path()).unwrap();
        let error = DataLock::acquire(dir.path()).unwrap_err();
        let pid = std::process::id().to_string();
        assert!(
            matches!(&error, Error::Held { pid: held, .. } if *held == pid),
            "{error}"
        );
        drop(lock);
        DataLock::acquire(dir.path()).unwrap();
    }

    #[test]
    fn a_missing_directory_is_made() {
        let dir = dir();
        let missing = dir.path().join("one/two");
        let _lock = DataLock::acquire(&missing).unwrap();
        assert!(missing.join(LOCK_FILE).is_file());
    }

    #[test]
    fn a_directory_that_cannot_be_is_named() {
        let dir = dir();
        let file = dir.path().join("file");
        std::fs::write(&file, "a file").unwrap();
        let below = file.join("data");
        let error = DataLock::acquire(&below).unwrap_err();
        assert!(error.to_string().starts_with("cannot lock "), "{error}");
        assert!(
            error.to_string().contains(below.to_str().unwrap()),
            "{error}"
        );
        assert!(
            error.to_string().contains("a file is in the way"),
            "{error}"
        );
    }

    #[test]
    fn every_refusal_of_the_file_system_says_what_to_do() {
        let nowhere = dir();
        std::os::unix::fs::symlink("missing", nowhere.path().join("link")).unwrap();
        for (path, remedy) in [
            (PathBuf::from("/proc/corelog"), "choose another directory"),
            (nowhere.path().join("link"), "a link that leads nowhere"),
        ] {
            let error = DataLock::acquire(&path).unwrap_err().to_string();
            assert!(error.starts_with("cannot lock "), "{error}");
            assert!(error.contains(remedy), "{error}");
        }
        for number in [
            libc::EACCES,
            libc::EROFS,
            libc::ENOSPC,
            libc::EDQUOT,
            libc::EIO,
        ] {
            let source = io::Error::from_raw_os_error(number);
            assert!(!remedy(&source).is_empty(), "{source}");
        }
    }

    #[test]
    fn what_was_made_is_removed_again_and_nothing_else() {
        let dir = dir();
        DataLock::acquire(&dir.path().join("one/two"))
            .unwrap()
            .undo();
        assert!(!dir.path().join("one").exists());
        std::fs::write(dir.path().join("mine"), "kept").unwrap();
        DataLock::acquire(dir.path()).unwrap().undo();
        assert!(dir.path().join("mine").exists());
        assert!(!dir.path().join(LOCK_FILE).exists());
        drop(DataLock::acquire(dir.path()).unwrap());
        DataLock::acquire(dir.path()).unwrap().undo();
        assert!(dir.path().join(LOCK_FILE).exists(), "it was there before");
    }
}
