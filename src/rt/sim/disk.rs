//! The simulated disk: outlives the machines that use it, loses power, fails.
//!
//! Runs on: the test's thread; clones are the same disk.
//! Every write, flush, truncation and change of names is numbered; the power can be made to fail at
//! any of them (`crash_after`), and `ops` tells how many a run takes, so that a test can fail it at
//! every one. At that point the write has been issued and may be torn, the flush has done nothing,
//! the name may be old or new; nothing that comes later ever completes.
//! Rules kept: buffered and direct writes are volatile until fdatasync; `O_DSYNC` writes are
//! durable on completion, and stand for no other write; names are volatile until their directory is
//! flushed; a removed file stays readable through open handles.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::ffi::{OsStr, OsString};
use std::io;
use std::path::{Component, Path, PathBuf};
use std::rc::Rc;

use super::changes::Content;
pub use super::changes::CrashMode;
use super::names::{Edit, Names};
use super::rng::Rng;
use crate::rt::file::{ALIGNMENT, OpenOptions};
use crate::rt::fs::DirEntry;

const ROOT: u64 = 1;

/// What a slow flush takes, in microseconds.
const FLUSH_STALL_MICROS: (u64, u64) = (200_000, 4_000_000);

/// Free space of a disk without a set capacity.
const FREE_SPACE: u64 = 1 << 40;

/// Kinds of calls that can be made to fail.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum DiskOp {
    /// Opening or making a file.
    Open,
    /// Reading.
    Read,
    /// Writing.
    Write,
    /// fdatasync, flushing a directory or the filesystem.
    Flush,
    /// Truncating and allocating.
    Resize,
    /// Making and removing names, renaming.
    Names,
}

impl DiskOp {
    const fn name(self) -> &'static str {
        match self {
            Self::Open => "open failed",
            Self::Read => "read failed",
            Self::Write => "write failed",
            Self::Flush => "flush failed",
            Self::Resize => "resize failed",
            Self::Names => "name change failed",
        }
    }
}

/// Calls that fail: those of kind `op` on paths that contain `path`, after `skip` of them, `times`
/// in a row.
#[derive(Clone, Debug)]
pub struct Fault {
    /// Which calls.
    pub op: DiskOp,
    /// On which paths: those that contain this.
    pub path: String,
    /// How they fail, for example `StorageFull`. `Other` is EIO, which has no kind of its own.
    pub error: io::ErrorKind,
    /// How many succeed first.
    pub skip: u64,
    /// How many fail then.
    pub times: u64,
}

/// The change at which the power failed.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct CrashPoint {
    /// What was being done.
    pub op: DiskOp,
    /// To which file or directory.
    pub path: String,
}

/// A disk; clones are the same disk.
#[derive(Clone)]
pub struct SimDisk {
    state: Rc<RefCell<State>>,
}

#[derive(Clone)]
struct State {
    rng: Rng,
    names: Names,
    dirs: BTreeSet<u64>,
    files: BTreeMap<u64, FileState>,
    next_inode: u64,
    next_change: u64,
    ops: u64,
    crash_at: Option<u64>,
    crashed: Option<CrashPoint>,
    faults: Vec<Fault>,
    capacity: Option<u64>,
    /// Once in so many flushes takes seconds.
    slow_flushes: Option<u64>,
    /// Once in so many reads returns less than there is.
    short_reads: Option<u64>,
    fired: BTreeMap<&'static str, u64>,
}

#[derive(Clone)]
struct FileState {
    path: String,
    content: Content,
    /// Space is reserved up to here.
    allocated: u64,
}

impl FileState {
    /// Bytes of the disk that it takes.
    fn size(&self) -> u64 {
        len(self.content.live()).max(self.allocated)
    }
}

impl SimDisk {
    /// An empty disk. The seed decides what crashes make of unflushed changes.
    pub fn new(seed: u64) -> Self {
        let state = State {
            rng: Rng::new(seed ^ 0xD15C),
            names: Names::default(),
            dirs: BTreeSet::from([ROOT]),
            files: BTreeMap::new(),
            next_inode: ROOT + 1,
            next_change: 0,
            ops: 0,
            crash_at: None,
            crashed: None,
            faults: Vec::new(),
            capacity: None,
            slow_flushes: None,
            short_reads: None,
            fired: BTreeMap::new(),
        };
        Self {
            state: Rc::new(RefCell::new(state)),
        }
    }

    /// Changes so far: writes, flushes, truncations, allocations, names.
    pub fn ops(&self) -> u64 {
        self.state.borrow().ops
    }

    /// Lets the power fail at the `n`-th change from here; 1 is the next one.
    pub fn crash_after(&self, n: u64) {
        let mut state = self.state.borrow_mut();
        state.crash_at = Some(state.ops + n);
    }

    /// Whether the power has failed and [`crash`](Self::crash) has not been called yet.
    pub fn is_crashed(&self) -> bool {
        self.state.borrow().crashed.is_some()
    }

    /// Where the power has failed, until [`crash`](Self::crash) is called.
    pub fn crash_point(&self) -> Option<CrashPoint> {
        self.state.borrow().crashed.clone()
    }

    /// Settles what the power failure left, and switches the disk on again. Without a failure
    /// before, the power fails here and now. Faults that were set stay set.
    pub fn crash(&self, mode: CrashMode) {
        let mut state = self.state.borrow_mut();
        let state = &mut *state;
        state.names.crash(mode, &mut state.rng);
        for file in state.files.values_mut() {
            file.content.crash(mode, &mut state.rng);
        }
        state.crashed = None;
        state.crash_at = None;
        let named = state.names.inodes();
        state.files.retain(|inode, _| named.contains(inode));
        state
            .dirs
            .retain(|inode| *inode == ROOT || named.contains(inode));
    }

    /// Makes calls fail.
    pub fn inject(&self, fault: Fault) {
        self.state.borrow_mut().faults.push(fault);
    }

    /// Takes all faults back.
    pub fn clear_faults(&self) {
        self.state.borrow_mut().faults.clear();
    }

    /// Lets writes and reservations beyond `bytes` in all files that have a name together fail with
    /// `StorageFull`.
    pub fn set_capacity(&self, bytes: Option<u64>) {
        self.state.borrow_mut().capacity = bytes;
    }

    /// Lets one in so many flushes take seconds.
    pub fn set_slow_flushes(&self, once_in: Option<u64>) {
        self.state.borrow_mut().slow_flushes = once_in;
    }

    /// Lets one in so many reads of more than a page return a part of it, whole pages, as read(2)
    /// may.
    pub fn set_short_reads(&self, once_in: Option<u64>) {
        self.state.borrow_mut().short_reads = once_in;
    }

    /// How often faults have hit since this was asked last, by kind.
    pub fn take_fired(&self) -> BTreeMap<&'static str, u64> {
        std::mem::take(&mut self.state.borrow_mut().fired)
    }

    /// Bytes of all files that have a name.
    pub fn used_bytes(&self) -> u64 {
        self.state.borrow().used()
    }

    /// The live bytes of a file, at once.
    pub fn peek(&self, path: impl AsRef<Path>) -> io::Result<Vec<u8>> {
        self.read(path.as_ref())
    }

    /// Another disk with the same files.
    #[must_use]
    pub fn copy(&self) -> Self {
        let state = self.state.borrow().clone();
        Self {
            state: Rc::new(RefCell::new(state)),
        }
    }

    /// The paths of all files.
    pub fn paths(&self) -> Vec<PathBuf> {
        let state = self.state.borrow();
        let (mut paths, mut dirs) = (Vec::new(), vec![(PathBuf::from("/"), ROOT)]);
        while let Some((path, dir)) = dirs.pop() {
            for (name, inode) in state.names.entries(dir) {
                let path = path.join(name);
                if state.dirs.contains(&inode) {
                    dirs.push((path, inode));
                } else {
                    paths.push(path);
                }
            }
        }
        paths.sort();
        paths
    }

    /// Damages a file behind everybody's back.
    pub fn poke(&self, path: impl AsRef<Path>, pos: u64, bytes: &[u8]) -> io::Result<()> {
        let mut state = self.state.borrow_mut();
        let inode = state.file(path.as_ref())?;
        state.open_file(inode)?.content.damage(index(pos), bytes);
        Ok(())
    }

    pub(in crate::rt) fn create_dir_all(&self, path: &Path) -> io::Result<()> {
        let mut state = self.state.borrow_mut();
        let mut dir = ROOT;
        for name in normal(path)? {
            let next = state.names.get(dir, name);
            dir = match next {
                Some(inode) if state.dirs.contains(&inode) => inode,
                Some(_) => return Err(io::ErrorKind::NotADirectory.into()),
                None => {
                    state.fault(DiskOp::Names, path)?;
                    let inode = state.new_inode();
                    state.dirs.insert(inode);
                    state.change_names(path, vec![edit(dir, name, Some(inode))]);
                    inode
                }
            };
        }
        Ok(())
    }

    pub(in crate::rt) fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let mut state = self.state.borrow_mut();
        state.fault(DiskOp::Names, from)?;
        let (from_dir, from_name) = state.parent(from)?;
        let (to_dir, to_name) = state.parent(to)?;
        let inode = state
            .names
            .get(from_dir, from_name)
            .ok_or_else(|| err(io::ErrorKind::NotFound))?;
        if let Some(target) = state.names.get(to_dir, to_name) {
            if state.dirs.contains(&target) && state.names.entries(target).next().is_some() {
                return Err(err(io::ErrorKind::DirectoryNotEmpty));
            }
            if state.dirs.contains(&target) != state.dirs.contains(&inode) {
                return Err(err(io::ErrorKind::IsADirectory));
            }
        }
        let text = to.display().to_string();
        if let Some(file) = state.files.get_mut(&inode) {
            file.path = text;
        }
        let edits = vec![
            edit(from_dir, from_name, None),
            edit(to_dir, to_name, Some(inode)),
        ];
        state.change_names(to, edits);
        Ok(())
    }

    pub(in crate::rt) fn remove_file(&self, path: &Path) -> io::Result<()> {
        let mut state = self.state.borrow_mut();
        state.fault(DiskOp::Names, path)?;
        state.file(path)?;
        let (dir, name) = state.parent(path)?;
        state.change_names(path, vec![edit(dir, name, None)]);
        Ok(())
    }

    pub(in crate::rt) fn remove_dir_all(&self, path: &Path) -> io::Result<()> {
        let mut state = self.state.borrow_mut();
        state.fault(DiskOp::Names, path)?;
        let inode = state.dir(path)?;
        let (dir, name) = state.parent(path)?;
        state.empty_dir(path, inode);
        state.change_names(path, vec![edit(dir, name, None)]);
        Ok(())
    }

    pub(in crate::rt) fn read_dir(&self, path: &Path) -> io::Result<Vec<DirEntry>> {
        let state = self.state.borrow();
        let dir = state.dir(path)?;
        let entries = state.names.entries(dir).map(|(name, inode)| DirEntry {
            name: name.to_owned(),
            is_dir: state.dirs.contains(&inode),
            len: state
                .files
                .get(&inode)
                .map_or(0, |file| len(file.content.live())),
        });
        Ok(entries.collect())
    }

    pub(in crate::rt) fn sync_dir(&self, path: &Path) -> io::Result<()> {
        let mut state = self.state.borrow_mut();
        state.fault(DiskOp::Flush, path)?;
        let dir = state.dir(path)?;
        if state.count(DiskOp::Flush, path) {
            state.names.sync_dir(dir);
        }
        Ok(())
    }

    pub(in crate::rt) fn sync_filesystem(&self) -> io::Result<()> {
        let mut state = self.state.borrow_mut();
        state.fault(DiskOp::Flush, Path::new("/"))?;
        if state.count(DiskOp::Flush, Path::new("/")) {
            state.names.sync_all();
            let before = state.next_change;
            state
                .files
                .values_mut()
                .for_each(|file| file.content.flush(before));
        }
        Ok(())
    }

    pub(in crate::rt) fn read(&self, path: &Path) -> io::Result<Vec<u8>> {
        let mut state = self.state.borrow_mut();
        state.fault(DiskOp::Read, path)?;
        let inode = state.file(path)?;
        Ok(state.open_file(inode)?.content.live().to_vec())
    }

    pub(in crate::rt) fn file_len(&self, path: &Path) -> io::Result<u64> {
        let mut state = self.state.borrow_mut();
        let inode = state.file(path)?;
        Ok(len(state.open_file(inode)?.content.live()))
    }

    pub(in crate::rt) fn free_space(&self) -> u64 {
        let state = self.state.borrow();
        state
            .capacity
            .map_or(FREE_SPACE, |capacity| capacity.saturating_sub(state.used()))
    }

    pub(in crate::rt) fn exists(&self, path: &Path) -> bool {
        self.state.borrow().inode(path).is_ok()
    }

    /// Finds or makes a file; its number.
    pub(super) fn open(&self, path: &Path, options: OpenOptions) -> io::Result<u64> {
        let mut state = self.state.borrow_mut();
        state.fault(DiskOp::Open, path)?;
        match state.inode(path) {
            Ok(_) if options.create_new => Err(err(io::ErrorKind::AlreadyExists)),
            Ok(inode) if state.dirs.contains(&inode) => Err(err(io::ErrorKind::IsADirectory)),
            Ok(inode) => Ok(inode),
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            Err(error) if !(options.create || options.create_new) => Err(error),
            Err(_) => {
                let (dir, name) = state.parent(path)?;
                let inode = state.new_inode();
                state.files.insert(
                    inode,
                    FileState {
                        path: path.display().to_string(),
                        content: Content::default(),
                        allocated: 0,
                    },
                );
                state.change_names(path, vec![edit(dir, name, Some(inode))]);
                Ok(inode)
            }
        }
    }

    pub(super) fn read_open(&self, inode: u64, pos: u64, buf: &mut [u8]) -> io::Result<usize> {
        let mut state = self.state.borrow_mut();
        let path = state.open_file(inode)?.path.clone();
        state.fault(DiskOp::Read, Path::new(&path))?;
        let there = state.open_file(inode)?.content.live().len();
        let count = there.saturating_sub(index(pos)).min(buf.len());
        let count = state.shortened(count);
        let live = state.open_file(inode)?.content.live();
        buf[..count].copy_from_slice(live.get(index(pos)..).unwrap_or_default()[..count].as_ref());
        Ok(count)
    }

    pub(super) fn len_open(&self, inode: u64) -> io::Result<u64> {
        Ok(len(self
            .state
            .borrow_mut()
            .open_file(inode)?
            .content
            .live()))
    }

    /// Issues a write; the number to complete it with.
    pub(super) fn begin_write(&self, inode: u64, pos: u64, bytes: &[u8]) -> io::Result<u64> {
        let mut state = self.state.borrow_mut();
        let path = state.open_file(inode)?.path.clone();
        state.room(inode, pos + len(bytes))?;
        let failed = state.fault(DiskOp::Write, Path::new(&path));
        state.count(DiskOp::Write, Path::new(&path));
        let id = state.new_change();
        // A failed write may have reached the disk in part: it stays in flight for ever.
        state
            .open_file(inode)?
            .content
            .begin_write(id, index(pos), bytes.to_vec());
        failed.map(|()| id)
    }

    /// Completes a write, unless the power failed meanwhile.
    pub(super) fn complete_write(&self, inode: u64, id: u64, durable: bool) {
        let mut state = self.state.borrow_mut();
        if state.crashed.is_some() {
            return;
        }
        if let Ok(file) = state.open_file(inode) {
            file.content.complete_write(id, durable);
        }
    }

    /// Issues a flush; the number to complete it with.
    pub(super) fn begin_flush(&self, inode: u64) -> io::Result<u64> {
        let mut state = self.state.borrow_mut();
        let path = state.open_file(inode)?.path.clone();
        state.fault(DiskOp::Flush, Path::new(&path))?;
        state.count(DiskOp::Flush, Path::new(&path));
        Ok(state.next_change)
    }

    /// What a flush takes beyond its usual time, in microseconds.
    pub(super) fn flush_stall_micros(&self) -> u64 {
        let mut state = self.state.borrow_mut();
        let Some(once_in) = state.slow_flushes else {
            return 0;
        };
        if !state.rng.chance(once_in) {
            return 0;
        }
        state.note_fired("slow flush");
        let (least, most) = FLUSH_STALL_MICROS;
        least + state.rng.below(most - least)
    }

    /// Completes a flush, unless the power failed meanwhile.
    pub(super) fn complete_flush(&self, inode: u64, before: u64) {
        let mut state = self.state.borrow_mut();
        if state.crashed.is_some() {
            return;
        }
        if let Ok(file) = state.open_file(inode) {
            file.content.flush(before);
        }
    }

    /// Makes a range read as zeros; the length stays.
    pub(super) fn zero(&self, inode: u64, pos: u64, count: u64) -> io::Result<()> {
        let mut state = self.state.borrow_mut();
        let path = state.open_file(inode)?.path.clone();
        state.fault(DiskOp::Resize, Path::new(&path))?;
        state.count(DiskOp::Resize, Path::new(&path));
        let id = state.new_change();
        let content = &mut state.open_file(inode)?.content;
        let end = len(content.live()).min(pos + count);
        let zeros = vec![0; index(end.saturating_sub(pos))];
        content.begin_write(id, index(pos), zeros);
        content.complete_write(id, false);
        Ok(())
    }

    /// Reserves space up to `end`; the length stays.
    pub(super) fn allocate(&self, inode: u64, end: u64) -> io::Result<()> {
        let mut state = self.state.borrow_mut();
        let path = state.open_file(inode)?.path.clone();
        state.fault(DiskOp::Resize, Path::new(&path))?;
        state.room(inode, end)?;
        state.count(DiskOp::Resize, Path::new(&path));
        state.new_change();
        let file = state.open_file(inode)?;
        file.allocated = file.allocated.max(end);
        Ok(())
    }

    /// Sets the length, and gives back what is reserved behind it.
    pub(super) fn set_len(&self, inode: u64, new_len: u64) -> io::Result<()> {
        let mut state = self.state.borrow_mut();
        let path = state.open_file(inode)?.path.clone();
        state.fault(DiskOp::Resize, Path::new(&path))?;
        state.count(DiskOp::Resize, Path::new(&path));
        let id = state.new_change();
        let file = state.open_file(inode)?;
        file.content.set_len(id, index(new_len));
        file.allocated = file.allocated.min(new_len);
        Ok(())
    }
}

impl State {
    /// Counts a change. False when the power fails at it.
    fn count(&mut self, op: DiskOp, path: &Path) -> bool {
        self.ops += 1;
        if self.crash_at == Some(self.ops) {
            let path = path.display().to_string();
            self.crashed = Some(CrashPoint { op, path });
        }
        self.crashed.is_none()
    }

    fn change_names(&mut self, path: &Path, edits: Vec<Edit>) {
        self.count(DiskOp::Names, path);
        self.names.change(edits);
    }

    fn fault(&mut self, op: DiskOp, path: &Path) -> io::Result<()> {
        if self.faults.is_empty() {
            return Ok(());
        }
        let path = path.display().to_string();
        let hit = self.faults.iter_mut().filter(|fault| fault.times > 0);
        for fault in hit.filter(|fault| fault.op == op && path.contains(&fault.path)) {
            if fault.skip > 0 {
                fault.skip -= 1;
                continue;
            }
            fault.times -= 1;
            let error = match fault.error {
                io::ErrorKind::Other => io::Error::from_raw_os_error(libc::EIO),
                kind => err(kind),
            };
            self.note_fired(op.name());
            return Err(error);
        }
        Ok(())
    }

    /// What a read of so many bytes returns.
    fn shortened(&mut self, count: usize) -> usize {
        let pages = count.saturating_sub(1) / ALIGNMENT;
        match self.short_reads {
            Some(once_in) if pages > 0 && self.rng.chance(once_in) => {
                self.note_fired("short read");
                ALIGNMENT * (1 + self.rng.index(pages))
            }
            _ => count,
        }
    }

    fn note_fired(&mut self, what: &'static str) {
        *self.fired.entry(what).or_default() += 1;
    }

    fn new_inode(&mut self) -> u64 {
        let inode = self.next_inode;
        self.next_inode += 1;
        inode
    }

    fn new_change(&mut self) -> u64 {
        let id = self.next_change;
        self.next_change += 1;
        id
    }

    /// Bytes of all files that have a name.
    fn used(&self) -> u64 {
        let names = self.dirs.iter().flat_map(|dir| self.names.entries(*dir));
        let files = names.filter_map(|(_, inode)| self.files.get(&inode));
        files.map(FileState::size).sum()
    }

    /// Refuses when the disk has no room for the file to reach up to `end`.
    fn room(&mut self, inode: u64, end: u64) -> io::Result<()> {
        let grows = end.saturating_sub(self.open_file(inode)?.size());
        match self.capacity {
            Some(capacity) if grows > 0 && self.used() + grows > capacity => {
                self.note_fired("disk full");
                Err(err(io::ErrorKind::StorageFull))
            }
            _ => Ok(()),
        }
    }

    fn inode(&self, path: &Path) -> io::Result<u64> {
        let mut inode = ROOT;
        for name in normal(path)? {
            if !self.dirs.contains(&inode) {
                return Err(err(io::ErrorKind::NotADirectory));
            }
            inode = self
                .names
                .get(inode, name)
                .ok_or_else(|| err(io::ErrorKind::NotFound))?;
        }
        Ok(inode)
    }

    fn dir(&self, path: &Path) -> io::Result<u64> {
        let inode = self.inode(path)?;
        if self.dirs.contains(&inode) {
            Ok(inode)
        } else {
            Err(err(io::ErrorKind::NotADirectory))
        }
    }

    fn file(&self, path: &Path) -> io::Result<u64> {
        let inode = self.inode(path)?;
        if self.dirs.contains(&inode) {
            Err(err(io::ErrorKind::IsADirectory))
        } else {
            Ok(inode)
        }
    }

    fn open_file(&mut self, inode: u64) -> io::Result<&mut FileState> {
        self.files
            .get_mut(&inode)
            .ok_or_else(|| err(io::ErrorKind::NotFound))
    }

    fn parent<'a>(&self, path: &'a Path) -> io::Result<(u64, &'a OsStr)> {
        let mut names = normal(path)?;
        let name = names
            .pop()
            .ok_or_else(|| err(io::ErrorKind::InvalidInput))?;
        let parent: std::path::PathBuf = names.into_iter().collect();
        Ok((self.dir(&parent)?, name))
    }

    fn empty_dir(&mut self, path: &Path, dir: u64) {
        let entries: Vec<(OsString, u64)> = self
            .names
            .entries(dir)
            .map(|(name, inode)| (name.to_owned(), inode))
            .collect();
        for (name, inode) in entries {
            if self.crashed.is_some() {
                return;
            }
            let path = path.join(&name);
            if self.dirs.contains(&inode) {
                self.empty_dir(&path, inode);
            }
            self.change_names(&path, vec![edit(dir, &name, None)]);
        }
    }
}

fn edit(dir: u64, name: &OsStr, inode: Option<u64>) -> Edit {
    Edit {
        dir,
        name: name.to_owned(),
        inode,
    }
}

/// The names along a path; relative paths start at the root.
fn normal(path: &Path) -> io::Result<Vec<&OsStr>> {
    let mut names = Vec::new();
    for component in path.components() {
        match component {
            Component::Normal(name) => names.push(name),
            Component::RootDir | Component::CurDir => {}
            Component::ParentDir | Component::Prefix(_) => {
                return Err(err(io::ErrorKind::InvalidInput));
            }
        }
    }
    Ok(names)
}

fn err(kind: io::ErrorKind) -> io::Error {
    kind.into()
}

fn len(bytes: &[u8]) -> u64 {
    u64::try_from(bytes.len()).unwrap_or(u64::MAX)
}

fn index(pos: u64) -> usize {
    usize::try_from(pos).expect("a simulated file fits into memory")
}
