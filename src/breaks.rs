//! Faults of this program on request: each breaks one promise, so that a test can see whether what
//! checks that promise would notice.
//!
//! Runs on: any thread; what is on is on for the thread that chose it, so for one simulation.
//! Promises: without the feature `breaks` nothing can be switched on, and `is_on` is a constant: no
//! trace of any break is in the program. With it, one break at most is on, and none before a test
//! chooses it.
//! Deliberately absent: breaks of the machine. A disk or a network that fails or lies is the
//! simulation's; here the program itself is wrong, on a machine that keeps its word.
//!
//! A break is one condition at the place where the promise is kept, found by its name.

#[cfg(feature = "breaks")]
use std::cell::Cell;
use std::fmt;
use std::str::FromStr;

#[cfg(feature = "breaks")]
thread_local! {
    static CHOSEN: Cell<Option<Break>> = const { Cell::new(None) };
}

/// Whether the program is to make this mistake.
#[cfg(feature = "breaks")]
pub fn is_on(which: Break) -> bool {
    CHOSEN.get() == Some(which)
}

/// Whether the program is to make this mistake: never.
#[cfg(not(feature = "breaks"))]
pub const fn is_on(_which: Break) -> bool {
    false
}

/// Lets this thread make one mistake from here on, or none.
#[cfg(feature = "breaks")]
pub fn switch_on(which: Option<Break>) {
    CHOSEN.set(which);
}

/// Declares the breaks once: the variant, its docs, its name.
macro_rules! breaks {
    ($($(#[doc = $doc:literal])+ $variant:ident = $name:literal,)+) => {
        /// A mistake that the program can be told to make.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum Break {
            $($(#[doc = $doc])+ $variant,)+
        }

        impl Break {
            /// Every one of them.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)+];

            /// Its name on a command line.
            pub const fn name(self) -> &'static str {
                match self {
                    $(Self::$variant => $name,)+
                }
            }
        }
    };
}

breaks! {
    // ---- the journal as it is written

    /// A block is reported durable when its write begins. Breaks [durable-prefix]: what is
    /// acknowledged is on the disk.
    AckBeforeWrite = "ack-before-write",
    /// A block that is written vouches for those before it, whose writes are still under way.
    /// Breaks [durable-order].
    AcksReordered = "acks-reordered",
    /// A write that lacks space counts as written, in the journal and in segments. Breaks
    /// [fail-stop], and that destaged bytes are in their segment.
    EnospcSwallowed = "enospc-swallowed",
    /// The ring's space is given back as its checkpoint begins to be written. Breaks
    /// [checkpoint-first]: until it is durable, replay starts at the old one.
    RingReusedBeforeCheckpoint = "ring-reused-before-checkpoint",

    // ---- the journal as it is read back

    /// Replay takes whatever valid block lies at the next place. Breaks [block-chain]: blocks of
    /// an earlier lap or run come again.
    ChainCheckOff = "chain-check-off",
    /// Replay leaves out the last block of the chain, which may have been acknowledged.
    ReplayStopsABlockEarly = "replay-stops-a-block-early",
    /// Replay takes a block of which only a part was written, as far as its entries are whole, and
    /// goes on behind it. Breaks the promise of `block::check`.
    TornBlockAccepted = "torn-block-accepted",
    /// Checksums of journal entries and of record batches are not looked at as a start reads them.
    CrcUnchecked = "crc-unchecked",

    // ---- segments and checkpoints

    /// A checkpoint covers bytes that were written to a segment and not flushed. Breaks
    /// [flush-pinned].
    CheckpointBeforeDestageFlush = "checkpoint-before-destage-flush",
    /// The names of a new segment and of its partition's directory are not flushed before what is
    /// in them counts as destaged.
    DirectoryNotSynced = "directory-not-synced",
    /// A checkpoint has the producers of the log end, not of the batches that it covers. Breaks
    /// [producer-prefix]: a batch that is lost is taken for a duplicate.
    ProducerSnapshotAhead = "producer-snapshot-ahead",
    /// A checkpoint says where the segments begin instead of where the log does: deleted records
    /// come back.
    LogStartForgotten = "log-start-forgotten",
    /// Replay passes over moved log starts: deleted records come back.
    ControlEntrySkipped = "control-entry-skipped",
    /// Replay passes over truncations: records that were cut off come back.
    TruncationSkipped = "truncation-skipped",

    // ---- partitions

    /// Produce is answered as soon as a batch has its offset, not when it is durable.
    ProduceAnsweredEarly = "produce-answered-early",
    /// The repetition of a batch is answered before the batch is durable.
    DuplicateAnsweredEarly = "duplicate-answered-early",
    /// The repetition of a batch is appended once more (KIP-98).
    DuplicateAppended = "duplicate-appended",
    /// A batch is appended although batches of its producer before it are missing (KIP-98).
    SequenceGapAccepted = "sequence-gap-accepted",
    /// A fetch reads up to the log end. Breaks [visible-durable].
    VisibleBeforeDurable = "visible-before-durable",
    /// A log start is in force, answered, and its segments removed before it is durable.
    LogStartAnsweredEarly = "log-start-answered-early",

    // ---- groups

    /// OffsetCommit is answered before the offsets are durable.
    OffsetCommitAnsweredEarly = "offset-commit-answered-early",
    /// Offsets are taken from members of an earlier generation.
    GenerationUnchecked = "generation-unchecked",
    /// The log of committed offsets is cut before what is live was copied behind the cut.
    OffsetsCutBeforeCopied = "offsets-cut-before-copied",

    // ---- metadata

    /// Changes of the metadata are announced when they are written, not when they are durable.
    MetadataNotSynced = "metadata-not-synced",
}

impl Break {
    /// The break of this name.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|one| one.name() == name)
    }
}

impl fmt::Display for Break {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.name().fmt(f)
    }
}

/// No break has this name.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("no break is named {0:?}")]
pub struct UnknownBreak(String);

impl FromStr for Break {
    type Err = UnknownBreak;

    fn from_str(name: &str) -> Result<Self, Self::Err> {
        Self::from_name(name).ok_or_else(|| UnknownBreak(name.to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_break_has_a_name_of_its_own_and_is_found_by_it() {
        for one in Break::ALL {
            let name = one.name();
            assert_eq!(name.parse(), Ok(*one));
            assert_eq!(one.to_string(), name);
            let kebab = |c: char| c.is_ascii_lowercase() || c == '-';
            assert!(name.chars().all(kebab), "{name}");
        }
        assert!("ack".parse::<Break>().is_err());
    }

    #[test]
    fn nothing_is_on_before_it_is_chosen() {
        assert!(!Break::ALL.iter().any(|one| is_on(*one)));
    }

    #[cfg(feature = "breaks")]
    #[test]
    fn one_break_at_a_time_is_on_and_only_on_this_thread() {
        switch_on(Some(Break::CrcUnchecked));
        assert!(is_on(Break::CrcUnchecked) && !is_on(Break::AckBeforeWrite));
        std::thread::scope(|scope| {
            scope.spawn(|| assert!(!is_on(Break::CrcUnchecked)));
        });
        switch_on(None);
        assert!(!is_on(Break::CrcUnchecked));
    }
}

#[cfg(all(test, feature = "breaks"))]
pub(crate) mod testing {
    //! For tests of what shall notice a break.

    use std::any::Any;
    use std::ops::Range;
    use std::panic::{AssertUnwindSafe, catch_unwind};

    use super::{Break, switch_on};
    use crate::rt::testing::say;

    /// Runs `check` under one seed after the other with the break on, until it fails; says at which
    /// seed and how. Without the break the same seed has to pass.
    ///
    /// # Panics
    /// When no seed fails: the check does not see the break.
    #[track_caller]
    pub(crate) fn assert_noticed(which: Break, seeds: Range<u64>, check: impl Fn(u64)) {
        let end = seeds.end;
        for seed in seeds {
            switch_on(Some(which));
            let outcome = catch_unwind(AssertUnwindSafe(|| check(seed)));
            switch_on(None);
            if let Err(panic) = outcome {
                say(&format!(
                    "{which}: noticed at seed {seed}: {}",
                    text_of(&*panic)
                ));
                check(seed);
                return;
            }
        }
        panic!("{which}: not noticed below seed {end}");
    }

    /// As [`assert_noticed`], for a check that has no seed.
    #[track_caller]
    pub(crate) fn assert_story_notices(which: Break, story: impl Fn()) {
        assert_noticed(which, 0..1, |_| story());
    }

    /// The beginning of what was said; models show all that they hold.
    fn text_of(panic: &(dyn Any + Send)) -> String {
        let text = panic.downcast_ref::<String>().map(String::as_str);
        let text = text.or_else(|| panic.downcast_ref::<&str>().copied());
        let words = text.unwrap_or_default().split_whitespace();
        let text = words.collect::<Vec<_>>().join(" ");
        text.chars().take(160).collect()
    }
}
