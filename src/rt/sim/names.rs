//! The simulated directories: which names are live, which are durable, and the changes between.
//!
//! Pure: no async, no clock, no IO. A change edits one name, or two at once (rename), as a whole.
//! `sync_dir` makes the changes of that directory durable, with those that they build upon. A crash
//! keeps the durable names and does with the rest what its mode says.
//! Invariant: [sim-names] a change is kept only with every earlier change of the same names.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::{OsStr, OsString};

use super::changes::CrashMode;
use super::rng::Rng;

/// A directory's number and a name in it.
type Key = (u64, OsString);

/// What a name means from now on: an inode, or nothing.
#[derive(Clone, Debug)]
pub(super) struct Edit {
    pub(super) dir: u64,
    pub(super) name: OsString,
    pub(super) inode: Option<u64>,
}

/// The names of all directories.
#[derive(Clone, Debug, Default)]
pub(super) struct Names {
    live: BTreeMap<Key, u64>,
    durable: BTreeMap<Key, u64>,
    pending: Vec<Vec<Edit>>,
}

impl Names {
    pub(super) fn get(&self, dir: u64, name: &OsStr) -> Option<u64> {
        self.live.get(&(dir, name.to_owned())).copied()
    }

    /// Name and inode of everything in `dir`, by name.
    pub(super) fn entries(&self, dir: u64) -> impl Iterator<Item = (&OsStr, u64)> {
        self.live
            .range((dir, OsString::new())..(dir + 1, OsString::new()))
            .map(|((_, name), inode)| (name.as_os_str(), *inode))
    }

    /// Changes names, all of `edits` as a whole; not durable yet.
    pub(super) fn change(&mut self, edits: Vec<Edit>) {
        for edit in &edits {
            apply(&mut self.live, edit);
        }
        self.pending.push(edits);
    }

    /// Makes the changes of `dir` durable.
    pub(super) fn sync_dir(&mut self, dir: u64) {
        let mut keys = BTreeSet::new();
        let mut taken = vec![false; self.pending.len()];
        for (index, edits) in self.pending.iter().enumerate().rev() {
            let needed = edits
                .iter()
                .any(|edit| edit.dir == dir || keys.contains(&key(edit)));
            if needed {
                taken[index] = true;
                keys.extend(edits.iter().map(key));
            }
        }
        let mut taken = taken.into_iter();
        let durable = &mut self.durable;
        self.pending.retain(|edits| {
            let take = taken.next().unwrap_or(false);
            if take {
                for edit in edits {
                    apply(durable, edit);
                }
            }
            !take
        });
    }

    pub(super) fn sync_all(&mut self) {
        self.pending.clear();
        self.durable.clone_from(&self.live);
    }

    /// Loses power: the durable names are all there are.
    pub(super) fn crash(&mut self, mode: CrashMode, rng: &mut Rng) {
        let mut lost = BTreeSet::new();
        for edits in std::mem::take(&mut self.pending) {
            let builds_on_lost = edits.iter().any(|edit| lost.contains(&key(edit)));
            let keep = !builds_on_lost
                && match mode {
                    CrashMode::Lose => false,
                    CrashMode::Keep => true,
                    CrashMode::Torn => rng.chance(2),
                };
            if keep {
                for edit in &edits {
                    apply(&mut self.durable, edit);
                }
            } else {
                lost.extend(edits.iter().map(key));
            }
        }
        self.live.clone_from(&self.durable);
    }

    /// Every inode that some durable or live name means.
    pub(super) fn inodes(&self) -> BTreeSet<u64> {
        self.live
            .values()
            .chain(self.durable.values())
            .copied()
            .collect()
    }
}

fn key(edit: &Edit) -> Key {
    (edit.dir, edit.name.clone())
}

fn apply(names: &mut BTreeMap<Key, u64>, edit: &Edit) {
    match edit.inode {
        Some(inode) => {
            names.insert(key(edit), inode);
        }
        None => {
            names.remove(&key(edit));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn edit(dir: u64, name: &str, inode: Option<u64>) -> Edit {
        Edit {
            dir,
            name: name.into(),
            inode,
        }
    }

    #[test]
    fn a_name_is_volatile_until_its_directory_is_flushed() {
        let mut names = Names::default();
        names.change(vec![edit(1, "a", Some(10))]);
        names.change(vec![edit(2, "b", Some(11))]);
        names.sync_dir(1);
        names.crash(CrashMode::Lose, &mut Rng::new(1));
        assert_eq!(names.get(1, OsStr::new("a")), Some(10));
        assert_eq!(names.get(2, OsStr::new("b")), None);
    }

    #[test]
    fn flushing_one_directory_of_a_rename_makes_all_of_it_durable() {
        let mut names = Names::default();
        names.change(vec![edit(1, "a", Some(10))]);
        names.change(vec![edit(1, "a", None), edit(2, "b", Some(10))]);
        names.sync_dir(2);
        names.crash(CrashMode::Keep, &mut Rng::new(1));
        assert_eq!(names.get(1, OsStr::new("a")), None);
        assert_eq!(names.get(2, OsStr::new("b")), Some(10));
    }

    #[test]
    fn a_lost_change_takes_those_that_build_on_it_along() {
        for seed in 0..100 {
            let mut names = Names::default();
            names.change(vec![edit(1, "tmp", Some(10))]);
            names.change(vec![edit(1, "tmp", None), edit(1, "final", Some(10))]);
            names.crash(CrashMode::Torn, &mut Rng::new(seed));
            let found = names.entries(1).count();
            assert!(found <= 1, "seed {seed}: never both names");
        }
    }

    #[test]
    fn a_removed_name_may_come_back() {
        let mut names = Names::default();
        names.change(vec![edit(1, "a", Some(10))]);
        names.sync_dir(1);
        names.change(vec![edit(1, "a", None)]);
        assert_eq!(names.get(1, OsStr::new("a")), None);
        names.crash(CrashMode::Lose, &mut Rng::new(1));
        assert_eq!(names.get(1, OsStr::new("a")), Some(10));
    }
}
