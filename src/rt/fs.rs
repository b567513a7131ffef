//! Names and directories, and small whole files: off the shard, on a disk or the simulated one.
//!
//! Runs on: a shard; the calls themselves run on the blocking pool.
//! Promises: `write_atomic` leaves the old content or the new, never a mixture, and is durable when
//! it returns. Nothing else here is durable before `sync_dir` or `sync_filesystem`, except that the
//! bytes of `write_new` are.
//! Every error names the file and what was tried. Cancelling abandons the wait, not the work.

use std::ffi::OsString;
use std::io::{self, IoSlice, Seek, SeekFrom, Write};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};

use bytes::Bytes;

use super::blocking::{self, Kind};
use super::file::{OpenOptions, named};
use super::runtime::{self, Runtime};
use super::sim::{SimDisk, SimFile};
use super::sys;

/// One entry of a directory.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct DirEntry {
    /// Its name within the directory.
    pub name: OsString,
    /// Whether it is a directory itself.
    pub is_dir: bool,
    /// Length of the file; zero for directories.
    pub len: u64,
}

/// Runs `machine` on the blocking pool, or `sim` on the simulated disk after some virtual time.
async fn on_disk<T: Send + 'static>(
    what: &'static str,
    path: &Path,
    machine: impl FnOnce(&Path) -> io::Result<T> + Send + 'static,
    sim: impl FnOnce(&SimDisk, &Path) -> io::Result<T>,
) -> io::Result<T> {
    let result = match runtime::current() {
        Runtime::Uring(_) => {
            let owned = path.to_owned();
            blocking::run(Kind::Files, what, move || machine(&owned)).await
        }
        Runtime::Sim(shard) => {
            shard.disk_delay().await;
            let result = sim(shard.disk(), path);
            shard.halt_if_crashed().await;
            result
        }
    };
    result.map_err(|error| named(&error, what, path))
}

/// Makes the directory and those above it.
pub async fn create_dir_all(path: impl AsRef<Path>) -> io::Result<()> {
    on_disk(
        "create directory",
        path.as_ref(),
        |path| std::fs::create_dir_all(path),
        SimDisk::create_dir_all,
    )
    .await
}

/// Gives the file or directory another name, replacing a file that has it.
pub async fn rename(from: impl AsRef<Path>, to: impl AsRef<Path>) -> io::Result<()> {
    let (to, sim_to) = (to.as_ref().to_owned(), to.as_ref().to_owned());
    on_disk(
        "rename",
        from.as_ref(),
        move |from| std::fs::rename(from, &to),
        move |disk, from| disk.rename(from, &sim_to),
    )
    .await
}

/// Gives the file another name, which nothing may have.
pub async fn rename_new(from: impl AsRef<Path>, to: impl AsRef<Path>) -> io::Result<()> {
    let (to, sim_to) = (to.as_ref().to_owned(), to.as_ref().to_owned());
    on_disk(
        "rename",
        from.as_ref(),
        move |from| sys::rename_new(from, &to),
        move |disk, from| {
            if disk.exists(&sim_to) {
                return Err(io::ErrorKind::AlreadyExists.into());
            }
            disk.rename(from, &sim_to)
        },
    )
    .await
}

/// Removes the file's name.
pub async fn remove_file(path: impl AsRef<Path>) -> io::Result<()> {
    on_disk(
        "remove",
        path.as_ref(),
        |path| std::fs::remove_file(path),
        SimDisk::remove_file,
    )
    .await
}

/// Removes the directory and everything in it.
pub async fn remove_dir_all(path: impl AsRef<Path>) -> io::Result<()> {
    on_disk(
        "remove directory",
        path.as_ref(),
        |path| std::fs::remove_dir_all(path),
        SimDisk::remove_dir_all,
    )
    .await
}

/// The directory's entries, sorted by name.
pub async fn read_dir(path: impl AsRef<Path>) -> io::Result<Vec<DirEntry>> {
    on_disk("list", path.as_ref(), list, SimDisk::read_dir).await
}

fn list(path: &Path) -> io::Result<Vec<DirEntry>> {
    let mut entries = Vec::new();
    for entry in std::fs::read_dir(path)? {
        let entry = entry?;
        let metadata = match entry.metadata() {
            Ok(metadata) => metadata,
            // Removed while we looked.
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            Err(error) => return Err(error),
        };
        let is_dir = metadata.is_dir();
        let len = if is_dir { 0 } else { metadata.len() };
        entries.push(DirEntry {
            name: entry.file_name(),
            is_dir,
            len,
        });
    }
    entries.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(entries)
}

/// Makes the names in the directory durable.
pub async fn sync_dir(path: impl AsRef<Path>) -> io::Result<()> {
    on_disk(
        "flush directory",
        path.as_ref(),
        |path| std::fs::File::open(path)?.sync_all(),
        SimDisk::sync_dir,
    )
    .await
}

/// Makes everything on the filesystem of `path` durable.
pub async fn sync_filesystem(path: impl AsRef<Path>) -> io::Result<()> {
    on_disk(
        "flush filesystem of",
        path.as_ref(),
        |path| sys::syncfs(std::fs::File::open(path)?.as_fd()),
        |disk, _| disk.sync_filesystem(),
    )
    .await
}

/// The whole file.
pub async fn read(path: impl AsRef<Path>) -> io::Result<Vec<u8>> {
    on_disk(
        "read",
        path.as_ref(),
        |path| std::fs::read(path),
        SimDisk::read,
    )
    .await
}

/// Makes a file that must not exist yet and flushes its bytes; its name is durable after
/// `sync_dir`.
pub async fn write_new(path: impl AsRef<Path>, bytes: impl Into<Vec<u8>>) -> io::Result<()> {
    write_file(path.as_ref(), bytes.into(), true).await
}

async fn write_file(path: &Path, bytes: Vec<u8>, new: bool) -> io::Result<()> {
    let flush = match runtime::current() {
        Runtime::Uring(_) => None,
        Runtime::Sim(shard) => Some(shard),
    };
    let Some(shard) = flush else {
        let owned = path.to_owned();
        let written = blocking::run(Kind::Files, "write", move || {
            let mut options = std::fs::OpenOptions::new();
            options.write(true);
            if new {
                options.create_new(true)
            } else {
                options.create(true).truncate(true)
            };
            let mut file = options.open(owned)?;
            file.write_all(&bytes)?;
            file.sync_data()
        })
        .await;
        return written.map_err(|error| named(&error, "write", path));
    };
    let written = shard.disk().write_file(&shard, path, &bytes, new).await;
    written.map_err(|error| named(&error, "write", path))
}

/// Replaces the file's content: the old or the new is there at any time, the new one durably when
/// this returns. A crash may leave a file named like it with `.tmp` behind.
pub async fn write_atomic(path: impl AsRef<Path>, bytes: impl Into<Vec<u8>>) -> io::Result<()> {
    let path = path.as_ref();
    let mut temporary = path.as_os_str().to_owned();
    temporary.push(".tmp");
    let temporary = PathBuf::from(temporary);
    let directory = path
        .parent()
        .filter(|parent| !parent.as_os_str().is_empty());
    let mut written = write_file(&temporary, bytes.into(), false).await;
    if written.is_ok() {
        written = rename(&temporary, path).await;
    }
    if let Err(error) = written {
        drop(remove_file(&temporary).await); // on a full disk, its space is needed
        return Err(error);
    }
    sync_dir(directory.unwrap_or(Path::new("."))).await
}

/// Bytes for one place of a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FileWrite {
    /// The file, which is made if it is not there.
    pub path: PathBuf,
    /// Where the bytes go.
    pub position: u64,
    /// The bytes, in parts.
    pub parts: Vec<Bytes>,
    /// Whether the file ends behind them from then on.
    pub is_end: bool,
}

/// Carries out `writes` in order, in one go off the shard, through the page cache. Nothing is
/// flushed, and no file is open before or after.
pub async fn write_parts(writes: Vec<FileWrite>) -> io::Result<()> {
    match runtime::current() {
        Runtime::Uring(_) => {
            blocking::run(Kind::Files, "write", move || {
                writes.iter().try_for_each(|write| {
                    write_one(write).map_err(|error| named(&error, "write", &write.path))
                })
            })
            .await
        }
        Runtime::Sim(_) => {
            for write in writes {
                let written = write_one_simulated(&write).await;
                written.map_err(|error| named(&error, "write", &write.path))?;
            }
            Ok(())
        }
    }
}

fn write_one(write: &FileWrite) -> io::Result<()> {
    let mut options = std::fs::OpenOptions::new();
    options.write(true).create(true).truncate(false);
    let mut file = options.open(&write.path)?;
    file.seek(SeekFrom::Start(write.position))?;
    let mut slices: Vec<IoSlice<'_>> = write.parts.iter().map(|part| IoSlice::new(part)).collect();
    let mut rest = slices.as_mut_slice();
    IoSlice::advance_slices(&mut rest, 0);
    while !rest.is_empty() {
        match file.write_vectored(rest) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(count) => IoSlice::advance_slices(&mut rest, count),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    if write.is_end {
        let end = file.stream_position()?;
        file.set_len(end)?;
    }
    Ok(())
}

async fn write_one_simulated(write: &FileWrite) -> io::Result<()> {
    let options = OpenOptions {
        write: true,
        create: true,
        ..OpenOptions::default()
    };
    let file = SimFile::open(&write.path, options).await?;
    let mut position = write.position;
    for part in &write.parts {
        file.write_at(position, part).await?;
        position += u64::try_from(part.len()).unwrap_or(u64::MAX / 2);
    }
    if write.is_end {
        file.truncate(position).await?;
    }
    Ok(())
}

/// The whole files, in the order asked; none for one that is not there.
pub async fn read_each(paths: Vec<PathBuf>) -> io::Result<Vec<Option<Vec<u8>>>> {
    fn found(path: &Path, bytes: io::Result<Vec<u8>>) -> io::Result<Option<Vec<u8>>> {
        match bytes {
            Ok(bytes) => Ok(Some(bytes)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(named(&error, "read", path)),
        }
    }
    match runtime::current() {
        Runtime::Uring(_) => {
            blocking::run(Kind::Files, "read", move || {
                let files = paths.iter().map(|path| found(path, std::fs::read(path)));
                files.collect()
            })
            .await
        }
        Runtime::Sim(shard) => {
            shard.disk_delay().await;
            let files = paths
                .iter()
                .map(|path| found(path, shard.disk().read(path)));
            files.collect()
        }
    }
}

/// The directory's entries, sorted by name, and the content of those of `names` that are there.
pub async fn read_dir_with(
    path: impl AsRef<Path>,
    names: &'static [&'static str],
) -> io::Result<(Vec<DirEntry>, Vec<Option<Vec<u8>>>)> {
    fn contents(
        path: &Path,
        entries: &[DirEntry],
        names: &[&str],
        read: impl Fn(&Path) -> io::Result<Vec<u8>>,
    ) -> io::Result<Vec<Option<Vec<u8>>>> {
        let one = |name: &&str| {
            let is_there = entries.iter().any(|entry| entry.name == **name);
            is_there.then(|| read(&path.join(name))).transpose()
        };
        names.iter().map(one).collect()
    }
    on_disk(
        "list",
        path.as_ref(),
        move |path| {
            let entries = list(path)?;
            let found = contents(path, &entries, names, |file| std::fs::read(file))?;
            Ok((entries, found))
        },
        move |disk, path| {
            let entries = disk.read_dir(path)?;
            let found = contents(path, &entries, names, |file| disk.read(file))?;
            Ok((entries, found))
        },
    )
    .await
}

/// Length of the file.
pub async fn file_len(path: impl AsRef<Path>) -> io::Result<u64> {
    on_disk(
        "measure",
        path.as_ref(),
        |path| std::fs::metadata(path).map(|metadata| metadata.len()),
        SimDisk::file_len,
    )
    .await
}

/// Whether room on the disk, or in somebody's part of it, would have cured it.
pub fn is_disk_full(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded
    )
}

/// Bytes that an ordinary user may still write to the filesystem of `path`.
pub async fn free_space(path: impl AsRef<Path>) -> io::Result<u64> {
    on_disk(
        "measure the free space of",
        path.as_ref(),
        |path| sys::statfs(path).map(|stat| stat.free_bytes),
        |disk, _| Ok(disk.free_space()),
    )
    .await
}

/// Whether there is a file or directory of that name.
pub async fn exists(path: impl AsRef<Path>) -> io::Result<bool> {
    on_disk("look for", path.as_ref(), Path::try_exists, |disk, path| {
        Ok(disk.exists(path))
    })
    .await
}
