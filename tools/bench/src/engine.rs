//! The loop: one thread, one epoll, every connection of the run.
//!
//! Runs on: one thread, for the time of a run.
//! Promises: a connection is served when something is due on it or arrives on it, and costs nothing
//! otherwise; waiting is exact to the timer slack of the thread, which is set to one nanosecond.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::num::NonZero;
use std::os::fd::OwnedFd;

use rustix::buffer::spare_capacity;
use rustix::event::epoll;
use rustix::event::{Timespec, epoll::EventFlags};

use crate::clock::{Clock, Nanos};
use crate::consumer::{ConsumeShared, Consumer};
use crate::link::{Link, Pool};
use crate::numbers::SECOND_NS;
use crate::producer::{ProduceShared, Producer};
use crate::recorder::Window;

const EVENTS_MAX: usize = 256;

/// What a connection is for.
#[derive(Debug)]
pub(crate) enum Role {
    Produce(Box<Producer>),
    Consume(Box<Consumer>),
    /// Open, and nothing else.
    Idle,
}

/// What all connections of a kind share; there where a run has such connections.
#[derive(Debug, Default)]
pub(crate) struct Shared {
    pub(crate) produce: Option<ProduceShared>,
    pub(crate) consume: Option<ConsumeShared>,
}

#[derive(Debug)]
struct Connection {
    link: Link,
    role: Role,
    /// When it is to be woken; entries of the heap that say otherwise are old.
    wake_at: Nanos,
    asks_for_room: bool,
}

/// The loop and what it serves.
#[derive(Debug)]
pub(crate) struct Engine {
    clock: Clock,
    epoll: OwnedFd,
    connections: Vec<Connection>,
    wakes: BinaryHeap<Reverse<(Nanos, usize)>>,
    pool: Pool,
    pub(crate) shared: Shared,
    spin: bool,
}

/// What the engine tells while it runs.
pub(crate) trait Observer {
    /// The window opens: nothing before counts.
    fn on_start(&mut self);
    /// The window closes.
    fn on_end(&mut self);
    /// A second has passed.
    fn on_second(&mut self, now: Nanos, shared: &mut Shared);
}

impl Engine {
    pub(crate) fn new(clock: Clock, shared: Shared, spin: bool) -> Result<Self, String> {
        let slack = rustix::thread::set_current_timer_slack(NonZero::new(1));
        slack.map_err(|error| format!("timer slack: {error}"))?;
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)
            .map_err(|error| format!("epoll: {error}"))?;
        Ok(Self {
            clock,
            epoll,
            connections: Vec::new(),
            wakes: BinaryHeap::new(),
            pool: Pool::default(),
            shared,
            spin,
        })
    }

    /// Adds a connection.
    pub(crate) fn add(&mut self, link: Link, role: Role) -> Result<(), String> {
        let number = self.connections.len();
        let data = epoll::EventData::new_u64(number as u64);
        epoll::add(&self.epoll, &link.stream, data, EventFlags::IN)
            .map_err(|error| format!("epoll: {error}"))?;
        self.connections.push(Connection {
            link,
            role,
            wake_at: 0,
            asks_for_room: false,
        });
        Ok(())
    }

    /// Serves until the window is over and everything is done, or until `drain` after it. Consumers
    /// that read up to an end may end it earlier. Returns the end of what was measured.
    pub(crate) fn run(
        &mut self,
        window: Window,
        drain: Nanos,
        observer: &mut impl Observer,
    ) -> Result<Nanos, String> {
        for number in 0..self.connections.len() {
            self.wakes.push(Reverse((0, number)));
        }
        let mut phases = Phases::new(window);
        let mut events = Vec::with_capacity(EVENTS_MAX);
        loop {
            let now = self.clock.now();
            phases.pass(now, observer, &mut self.shared);
            let is_over = now >= window.end;
            if (is_over || self.reads_to_an_end()) && self.is_done(now) {
                let end = now.min(window.end);
                phases.close(now, observer, &mut self.shared);
                return Ok(end);
            }
            if now >= window.end + drain || self.has_fallen_silent(now, drain) {
                self.abandon(now, window);
                phases.close(now, observer, &mut self.shared);
                return Ok(now.min(window.end));
            }
            self.wake(now)?;
            self.wait(phases.next, &mut events)?;
            for event in events.drain(..) {
                let event: epoll::Event = event;
                let number = usize::try_from({ event.data }.u64()).unwrap_or(usize::MAX);
                let flags = event.flags;
                self.serve(number, flags)?;
            }
        }
    }

    /// Without producers, the ends of the partitions at the start are a goal.
    fn reads_to_an_end(&self) -> bool {
        self.shared.produce.is_none() && self.shared.consume.as_ref().is_some_and(|c| c.to_end)
    }

    /// Reading to an end, and nothing comes any more.
    fn has_fallen_silent(&self, now: Nanos, patience: Nanos) -> bool {
        let received_at = self
            .shared
            .consume
            .as_ref()
            .map(|shared| shared.last_received_at);
        self.reads_to_an_end() && received_at.is_some_and(|at| now > at + patience)
    }

    fn is_done(&self, now: Nanos) -> bool {
        let Shared { produce, consume } = &self.shared;
        let has_offsets = produce
            .as_ref()
            .is_some_and(|shared| shared.writer.acks != 0);
        let received_at = consume.as_ref().map_or(0, |shared| shared.last_received_at);
        self.connections
            .iter()
            .all(|connection| match &connection.role {
                Role::Produce(producer) => producer.is_done(now),
                Role::Consume(consumer) => match produce {
                    Some(shared) if has_offsets => consumer.is_done(Some(&shared.acked_ends)),
                    // without acks nobody knows the end: a second of silence is one
                    Some(_) => now > received_at + SECOND_NS,
                    None => !self.reads_to_an_end() || consumer.is_done(None),
                },
                Role::Idle => true,
            })
    }

    /// Counts what is outstanding when patience is over.
    fn abandon(&mut self, now: Nanos, window: Window) {
        let Shared { produce, consume } = &mut self.shared;
        for connection in &self.connections {
            match (&connection.role, &mut *produce, &mut *consume) {
                (Role::Produce(producer), Some(shared), _) => producer.abandon(now, shared),
                (Role::Consume(consumer), Some(produce), Some(shared)) => {
                    let missing = consumer.missing(&produce.acked_ends);
                    if let Some(recorder) = &mut shared.end_to_end {
                        recorder.never_received(missing, now - window.end);
                    }
                }
                (Role::Consume(consumer), None, Some(shared)) => {
                    shared.recorder.error("Unread", consumer.missing_to_end());
                }
                _ => {}
            }
        }
    }

    /// Serves every connection that is due.
    fn wake(&mut self, now: Nanos) -> Result<(), String> {
        while let Some(Reverse((at, number))) = self.wakes.peek().copied() {
            if at > now {
                break;
            }
            self.wakes.pop();
            if self.connections[number].wake_at == at {
                self.connections[number].wake_at = Nanos::MAX;
                self.pump(number, now)?;
            }
        }
        Ok(())
    }

    fn wait(&self, tick: Nanos, events: &mut Vec<epoll::Event>) -> Result<(), String> {
        let due = self
            .wakes
            .peek()
            .map_or(tick, |Reverse((at, _))| tick.min(*at));
        let wait = match self.spin {
            true => 0,
            false => due.saturating_sub(self.clock.now()),
        };
        let timeout = Timespec {
            tv_sec: i64::try_from(wait / SECOND_NS).unwrap_or(i64::MAX),
            tv_nsec: i64::try_from(wait % SECOND_NS).unwrap_or(0),
        };
        match epoll::wait(&self.epoll, spare_capacity(events), Some(&timeout)) {
            Ok(_) | Err(rustix::io::Errno::INTR) => Ok(()),
            Err(error) => Err(format!("epoll: {error}")),
        }
    }

    fn serve(&mut self, number: usize, flags: EventFlags) -> Result<(), String> {
        let connection = &mut self.connections[number];
        if flags.contains(EventFlags::OUT) {
            connection.link.flush(&mut self.pool)?;
        }
        let is_input = flags.intersects(EventFlags::IN | EventFlags::HUP | EventFlags::ERR);
        if is_input {
            let (link, role) = (&mut connection.link, &mut connection.role);
            let Shared { produce, consume } = &mut self.shared;
            link.receive(&mut self.pool, |frame| {
                match (&mut *role, &mut *produce, &mut *consume) {
                    (Role::Produce(producer), Some(shared), _) => {
                        producer.on_response(frame, shared)
                    }
                    (Role::Consume(consumer), _, Some(shared)) => {
                        consumer.on_response(frame, shared)
                    }
                    _ => Err("an answer that nobody waits for".to_owned()),
                }
            })?;
        }
        let now = self.clock.now();
        self.pump(number, now)
    }

    fn pump(&mut self, number: usize, now: Nanos) -> Result<(), String> {
        let connection = &mut self.connections[number];
        let link = &mut connection.link;
        let Shared { produce, consume } = &mut self.shared;
        let next = match (&mut connection.role, produce, consume) {
            (Role::Produce(producer), Some(shared), _) => {
                producer.pump(now, link, &mut self.pool, shared)?
            }
            (Role::Consume(consumer), _, Some(shared)) => {
                consumer.pump(now, link, &mut self.pool, shared)?
            }
            _ => None,
        };
        if link.is_blocked != connection.asks_for_room {
            connection.asks_for_room = link.is_blocked;
            let wanted = match link.is_blocked {
                true => EventFlags::IN | EventFlags::OUT,
                false => EventFlags::IN,
            };
            let data = epoll::EventData::new_u64(number as u64);
            epoll::modify(&self.epoll, &link.stream, data, wanted)
                .map_err(|error| format!("epoll: {error}"))?;
        }
        if let Some(at) = next
            && at < connection.wake_at
        {
            connection.wake_at = at;
            self.wakes.push(Reverse((at, number)));
        }
        Ok(())
    }
}

/// Where the run is: seconds and the edges of the window.
struct Phases {
    window: Window,
    next: Nanos,
    has_started: bool,
    has_ended: bool,
}

impl Phases {
    fn new(window: Window) -> Self {
        // whole seconds before and after the start of the window
        let first = window.start % SECOND_NS;
        Self {
            window,
            next: if first == 0 { SECOND_NS } else { first },
            has_started: false,
            has_ended: false,
        }
    }

    /// The run is over, perhaps before the window.
    fn close(&mut self, now: Nanos, observer: &mut impl Observer, shared: &mut Shared) {
        if !self.has_ended {
            self.has_ended = true;
            observer.on_end();
            observer.on_second(now, shared);
        }
    }

    fn pass(&mut self, now: Nanos, observer: &mut impl Observer, shared: &mut Shared) {
        if !self.has_started && now >= self.window.start {
            self.has_started = true;
            observer.on_start();
        }
        if !self.has_ended && now >= self.window.end {
            self.has_ended = true;
            observer.on_end();
        }
        if now >= self.next {
            observer.on_second(now, shared);
            while self.next <= now {
                self.next += SECOND_NS;
            }
        }
    }
}
