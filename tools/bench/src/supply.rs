//! Which records are due, and when enough of them are there for a batch.
//!
//! Pure: no async, no clock, no IO.
//! Promises: a record's due time depends on the rate alone, never on what the broker does.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap, VecDeque};
use std::rc::Rc;

use crate::clock::Nanos;
use crate::numbers::{float, whole};
use crate::template::Random;

/// The records of one connection: due at equal distances from `start` to `end` (exclusive).
#[derive(Clone, Copy, Debug)]
pub(crate) struct Lane {
    /// When the first record is due.
    first: f64,
    step: f64,
    end: Nanos,
}

impl Lane {
    /// Lane `number` of `count` that share `rate` records per second.
    pub(crate) fn new(start: Nanos, end: Nanos, rate: f64, number: usize, count: usize) -> Self {
        let between = 1e9 / rate;
        Self {
            first: float(start) + between * crate::numbers::float_len(number),
            step: between * crate::numbers::float_len(count),
            end,
        }
    }

    /// When record `index` is due.
    pub(crate) fn due(&self, index: u64) -> Nanos {
        whole(self.first + self.step * float(index))
    }

    /// Records due until now.
    pub(crate) fn due_count(&self, now: Nanos) -> u64 {
        let now = float(now.min(self.end.saturating_sub(1)));
        let mut count = match now - self.first {
            past if past >= 0.0 => whole(past / self.step) + 1,
            _ => 0,
        };
        // rounding must not call a record due that `due` says is not, nor the other way round
        while count > 0 && float(self.due(count - 1)) > now {
            count -= 1;
        }
        while float(self.due(count)) <= now {
            count += 1;
        }
        count
    }

    fn has_ended(&self, index: u64) -> bool {
        self.due(index) >= self.end
    }
}

/// When each record of a batch was due.
#[derive(Clone, Debug)]
pub(crate) enum Dues {
    /// `--rate max`: when it was sent.
    AtSend,
    /// Consecutive records of a lane.
    Line { lane: Lane, first: u64 },
    /// Each its own.
    Each(Vec<Nanos>),
}

impl Dues {
    /// When record `number` of the batch was due.
    pub(crate) fn due(&self, number: usize, sent_at: Nanos) -> Nanos {
        match self {
            Self::AtSend => sent_at,
            Self::Line { lane, first } => lane.due(first + number as u64),
            Self::Each(dues) => dues[number],
        }
    }
}

/// A batch that may be sent.
#[derive(Clone, Debug)]
pub(crate) struct Ready {
    /// Place in the connection's list of targets.
    pub(crate) target: usize,
    pub(crate) count: usize,
    pub(crate) dues: Dues,
    /// Of each record; empty without keys.
    pub(crate) keys: Vec<u32>,
}

/// What to do next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Next {
    /// Batches were given.
    Send,
    /// Nothing until then.
    At(Nanos),
    /// Nothing any more.
    Never,
}

/// How records become batches.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Batching {
    pub(crate) count_max: usize,
    pub(crate) linger: Nanos,
    pub(crate) batches_max: usize,
    pub(crate) targets: usize,
}

/// The supply of one connection.
#[derive(Debug)]
pub(crate) enum Supply {
    Plain(PlainSupply),
    Keyed(KeyedSupply),
}

impl Supply {
    /// Fills `ready` with the batches of one request, if it is time for one.
    pub(crate) fn take(&mut self, now: Nanos, ready: &mut Vec<Ready>) -> Next {
        match self {
            Self::Plain(supply) => supply.take(now, ready),
            Self::Keyed(supply) => supply.take(now, ready),
        }
    }

    /// Nothing is due and nothing will be.
    pub(crate) fn has_ended(&self, now: Nanos) -> bool {
        match self {
            Self::Plain(supply) => supply.has_ended(now),
            Self::Keyed(supply) => supply.has_ended(now),
        }
    }

    /// Calls `each` with the due times of records that were due and never taken.
    pub(crate) fn leftover(&self, now: Nanos, each: impl FnMut(Nanos)) {
        match self {
            Self::Plain(supply) => supply.leftover(now, each),
            Self::Keyed(supply) => supply.leftover(now, each),
        }
    }
}

/// Without keys: one batch fills at a time, partition after partition.
#[derive(Clone, Debug)]
pub(crate) struct PlainSupply {
    batching: Batching,
    /// None: as fast as it goes, until `end`.
    lane: Option<Lane>,
    end: Nanos,
    taken: u64,
    rotation: usize,
}

impl PlainSupply {
    pub(crate) fn new(batching: Batching, lane: Option<Lane>, end: Nanos, first: usize) -> Self {
        Self {
            batching,
            lane,
            end,
            taken: 0,
            rotation: first % batching.targets,
        }
    }

    fn take(&mut self, now: Nanos, ready: &mut Vec<Ready>) -> Next {
        let Batching {
            count_max,
            linger,
            batches_max,
            targets,
        } = self.batching;
        let batches_max = batches_max.min(targets);
        let Some(lane) = self.lane else {
            if now >= self.end {
                return Next::Never;
            }
            for _ in 0..batches_max {
                self.push(ready, count_max, Dues::AtSend);
            }
            return Next::Send;
        };
        if self.has_ended(now) {
            return Next::Never;
        }
        let full = (count_max * batches_max) as u64;
        let waiting = lane.due_count(now) - self.taken;
        let lingered = lane.due(self.taken) + linger;
        if waiting < full && (waiting == 0 || now < lingered) {
            let filled = lane.due(self.taken + full - 1);
            return Next::At(lingered.min(filled).max(now + 1));
        }
        let mut left = usize::try_from(waiting.min(full)).unwrap_or(usize::MAX);
        let share = left.div_ceil(batches_max);
        while left > 0 {
            let count = share.min(left);
            let first = self.taken;
            self.push(ready, count, Dues::Line { lane, first });
            self.taken += count as u64;
            left -= count;
        }
        Next::Send
    }

    fn push(&mut self, ready: &mut Vec<Ready>, count: usize, dues: Dues) {
        let target = self.rotation;
        self.rotation = (target + 1) % self.batching.targets;
        ready.push(Ready {
            target,
            count,
            dues,
            keys: Vec::new(),
        });
    }

    fn has_ended(&self, now: Nanos) -> bool {
        match &self.lane {
            Some(lane) => lane.has_ended(self.taken),
            None => now >= self.end,
        }
    }

    fn leftover(&self, now: Nanos, mut each: impl FnMut(Nanos)) {
        if let Some(lane) = &self.lane {
            for index in self.taken..lane.due_count(now) {
                each(lane.due(index));
            }
        }
    }
}

/// The keys whose partitions one broker leads.
#[derive(Debug)]
pub(crate) struct Keys {
    /// Key and place in the connection's list of targets.
    all: Vec<(u32, usize)>,
    by_target: Vec<Vec<u32>>,
}

impl Keys {
    pub(crate) fn new(all: Vec<(u32, usize)>, targets: usize) -> Self {
        let mut by_target = vec![Vec::new(); targets];
        for (key, target) in &all {
            by_target[*target].push(*key);
        }
        Self { all, by_target }
    }
}

/// Records of one partition that wait for company.
#[derive(Debug, Default)]
struct Waiting {
    records: VecDeque<(Nanos, u32)>,
    is_ready: bool,
}

/// With keys: every record goes where its key belongs, a batch fills for each partition.
#[derive(Debug)]
pub(crate) struct KeyedSupply {
    batching: Batching,
    lane: Option<Lane>,
    end: Nanos,
    keys: Rc<Keys>,
    random: Random,
    drawn: u64,
    waiting: HashMap<usize, Waiting>,
    waiting_count: u64,
    /// When the first record of a target has waited long enough.
    lingering: BinaryHeap<Reverse<(Nanos, usize)>>,
    ready: VecDeque<usize>,
    rotation: usize,
}

impl KeyedSupply {
    pub(crate) fn new(
        batching: Batching,
        lane: Option<Lane>,
        end: Nanos,
        keys: Rc<Keys>,
        number: usize,
    ) -> Self {
        Self {
            batching,
            lane,
            end,
            keys,
            random: Random(number as u64),
            drawn: 0,
            waiting: HashMap::new(),
            waiting_count: 0,
            lingering: BinaryHeap::new(),
            ready: VecDeque::new(),
            rotation: number,
        }
    }

    fn take(&mut self, now: Nanos, ready: &mut Vec<Ready>) -> Next {
        let Some(lane) = self.lane else {
            return self.take_full(now, ready);
        };
        self.draw(&lane, now);
        self.expire(now);
        while ready.len() < self.batching.batches_max
            && let Some(target) = self.ready.pop_front()
        {
            self.drain(target, now, ready);
        }
        if !ready.is_empty() {
            return Next::Send;
        }
        let lingered = self.lingering.peek().map(|Reverse((at, _))| *at);
        let drawn = (!lane.has_ended(self.drawn)).then(|| lane.due(self.drawn));
        match lingered.into_iter().chain(drawn).min() {
            Some(at) => Next::At(at.max(now + 1)),
            None => Next::Never,
        }
    }

    /// `--rate max`: full batches, partition after partition, each with the keys that belong there.
    fn take_full(&mut self, now: Nanos, ready: &mut Vec<Ready>) -> Next {
        if now >= self.end {
            return Next::Never;
        }
        let targets = self.batching.targets;
        for _ in 0..targets {
            let target = self.rotation % targets;
            self.rotation = (target + 1) % targets;
            let keys = &self.keys.by_target[target];
            if keys.is_empty() {
                continue;
            }
            let first = usize::try_from(self.drawn).unwrap_or(0);
            let count = self.batching.count_max;
            self.drawn += count as u64;
            let keys = (first..first + count).map(|at| keys[at % keys.len()]);
            ready.push(Ready {
                target,
                count,
                dues: Dues::AtSend,
                keys: keys.collect(),
            });
            if ready.len() == self.batching.batches_max {
                break;
            }
        }
        Next::Send
    }

    /// Gives every record that is due its key.
    fn draw(&mut self, lane: &Lane, now: Nanos) {
        let due = lane.due_count(now);
        while self.drawn < due {
            let at = lane.due(self.drawn);
            self.drawn += 1;
            self.waiting_count += 1;
            let number = self.random.next() % self.keys.all.len() as u64;
            let (key, target) = self.keys.all[usize::try_from(number).unwrap_or(0)];
            let waiting = self.waiting.entry(target).or_default();
            waiting.records.push_back((at, key));
            let count = waiting.records.len();
            if count >= self.batching.count_max && !waiting.is_ready {
                waiting.is_ready = true;
                self.ready.push_back(target);
            } else if count == 1 {
                let expires = at + self.batching.linger;
                self.lingering.push(Reverse((expires, target)));
            }
        }
    }

    fn expire(&mut self, now: Nanos) {
        let linger = self.batching.linger;
        while let Some(Reverse((at, target))) = self.lingering.peek().copied() {
            if at > now {
                break;
            }
            self.lingering.pop();
            if let Some(waiting) = self.waiting.get_mut(&target)
                && !waiting.is_ready
                && let Some((first, _)) = waiting.records.front()
                && first + linger <= now
            {
                waiting.is_ready = true;
                self.ready.push_back(target);
            }
        }
    }

    fn drain(&mut self, target: usize, now: Nanos, ready: &mut Vec<Ready>) {
        let Some(waiting) = self.waiting.get_mut(&target) else {
            return;
        };
        let count = waiting.records.len().min(self.batching.count_max);
        self.waiting_count -= count as u64;
        let (dues, keys) = waiting.records.drain(..count).unzip();
        ready.push(Ready {
            target,
            count,
            dues: Dues::Each(dues),
            keys,
        });
        waiting.is_ready = false;
        let Some((first, _)) = waiting.records.front() else {
            return;
        };
        let expires = first + self.batching.linger;
        if waiting.records.len() >= self.batching.count_max || expires <= now {
            waiting.is_ready = true;
            self.ready.push_back(target);
        } else {
            self.lingering.push(Reverse((expires, target)));
        }
    }

    fn has_ended(&self, now: Nanos) -> bool {
        match &self.lane {
            Some(lane) => lane.has_ended(self.drawn) && self.waiting_count == 0,
            None => now >= self.end,
        }
    }

    fn leftover(&self, now: Nanos, mut each: impl FnMut(Nanos)) {
        let records = self.waiting.values().flat_map(|waiting| &waiting.records);
        records.for_each(|(due, _)| each(*due));
        if let Some(lane) = &self.lane {
            for index in self.drawn..lane.due_count(now) {
                each(lane.due(index));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn batching(count_max: usize, linger: Nanos) -> Batching {
        Batching {
            count_max,
            linger,
            batches_max: 1,
            targets: 4,
        }
    }

    fn dues(ready: &[Ready]) -> Vec<Vec<Nanos>> {
        let dues = |batch: &Ready| (0..batch.count).map(|at| batch.dues.due(at, 0)).collect();
        ready.iter().map(dues).collect()
    }

    #[test]
    fn lanes_share_a_rate_without_gaps() {
        let lanes: Vec<Lane> = (0..3)
            .map(|lane| Lane::new(0, 1_000, 1e8, lane, 3))
            .collect();
        let mut all: Vec<Nanos> = Vec::new();
        for lane in &lanes {
            assert_eq!(lane.due_count(999), lane.due_count(u64::MAX));
            all.extend((0..lane.due_count(999)).map(|index| lane.due(index)));
        }
        all.sort_unstable();
        assert_eq!(all, (0..100).map(|record| record * 10).collect::<Vec<_>>());
    }

    #[test]
    fn a_count_of_due_records_is_exactly_those_with_such_due_times() {
        let lane = Lane::new(17, 1_000_000, 7.3e6, 1, 3);
        for now in (0..3_000).chain(999_000..1_000_500) {
            let count = lane.due_count(now);
            assert!(count == 0 || lane.due(count - 1) <= now.min(999_999));
            assert!(lane.due(count) > now.min(999_999));
        }
    }

    #[test]
    fn a_batch_leaves_when_it_is_full_or_has_lingered() {
        let lane = Lane::new(0, 1_000, 1e8, 0, 1);
        let mut supply = PlainSupply::new(batching(3, 50), Some(lane), 1_000, 2);
        let mut ready = Vec::new();
        assert_eq!(supply.take(0, &mut ready), Next::At(20));
        assert_eq!(supply.take(20, &mut ready), Next::Send);
        assert_eq!((dues(&ready), ready[0].target), (vec![vec![0, 10, 20]], 2));
        ready.clear();
        let mut slow = PlainSupply::new(batching(100, 50), Some(lane), 1_000, 3);
        assert_eq!(slow.take(49, &mut ready), Next::At(50));
        assert_eq!(slow.take(50, &mut ready), Next::Send);
        assert_eq!(dues(&ready), [[0, 10, 20, 30, 40, 50]]);
        assert_eq!(slow.take(51, &mut ready), Next::At(110));
    }

    #[test]
    fn what_a_stall_held_up_keeps_its_due_times() {
        let lane = Lane::new(0, 100, 1e8, 0, 1);
        let mut supply = PlainSupply::new(batching(4, 0), Some(lane), 100, 0);
        let mut ready = Vec::new();
        while supply.take(5_000, &mut ready) == Next::Send {}
        assert_eq!(
            dues(&ready).concat(),
            (0..10).map(|at| at * 10).collect::<Vec<_>>()
        );
        assert!(supply.has_ended(5_000));
    }

    #[test]
    fn several_partitions_share_a_request() {
        let lane = Lane::new(0, 1_000, 1e8, 0, 1);
        let batching = Batching {
            batches_max: 3,
            ..batching(10, 50)
        };
        let mut supply = PlainSupply::new(batching, Some(lane), 1_000, 0);
        let mut ready = Vec::new();
        assert_eq!(supply.take(60, &mut ready), Next::Send);
        let batches: Vec<_> = ready
            .iter()
            .map(|batch| (batch.target, batch.count))
            .collect();
        assert_eq!(batches, [(0, 3), (1, 3), (2, 1)]);
    }

    #[test]
    fn keyed_records_go_where_their_keys_belong() {
        let lane = Lane::new(0, 10_000, 1e8, 0, 1);
        let all = (0..40)
            .map(|key| (key, usize::try_from(key % 4).expect("small")))
            .collect();
        let keys = Rc::new(Keys::new(all, 4));
        let mut supply = KeyedSupply::new(batching(5, 200), Some(lane), 10_000, keys, 1);
        let (mut ready, mut sent, mut now) = (Vec::new(), Vec::new(), 0);
        loop {
            match supply.take(now, &mut ready) {
                Next::Send => {
                    for batch in ready.drain(..) {
                        let target = u32::try_from(batch.target).expect("small");
                        assert!(batch.keys.iter().all(|key| key % 4 == target));
                        let first = batch.dues.due(0, 0);
                        assert!(batch.count == 5 || now == first + 200, "{first} at {now}");
                        sent.extend((0..batch.count).map(|at| batch.dues.due(at, 0)));
                    }
                }
                Next::At(at) => now = at,
                Next::Never => break,
            }
        }
        sent.sort_unstable();
        assert_eq!(sent, (0..1_000).map(|at| at * 10).collect::<Vec<_>>());
        assert!(supply.has_ended(now));
    }
}
