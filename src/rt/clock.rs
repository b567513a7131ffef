//! Time: monotonic nanoseconds, wall-clock milliseconds, sleeping and deadlines.
//!
//! Runs on: any thread. On a shard of the simulator all of it is virtual; outside of a runtime
//! (command line, plain tests) `now` and `unix_ms` read the machine's clocks.
//! Promises: `now` never goes back; `sleep` never ends early.

use std::future::Future;
use std::ops::{Add, AddAssign};
use std::pin::{Pin, pin};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll, Wake, Waker};
use std::time::Duration;

use futures_util::task::AtomicWaker;

use super::runtime::{self, Runtime};
use super::sim;

/// A point on the monotonic clock, in nanoseconds from an arbitrary start.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct Instant(u64);

impl Instant {
    /// The instant that lies `nanos` after the clock's arbitrary start.
    pub const fn from_nanos(nanos: u64) -> Self {
        Self(nanos)
    }

    /// Nanoseconds since the clock's arbitrary start.
    pub const fn as_nanos(self) -> u64 {
        self.0
    }

    /// Time since `earlier`, or zero when `earlier` lies ahead.
    pub fn saturating_since(self, earlier: Self) -> Duration {
        Duration::from_nanos(self.0.saturating_sub(earlier.0))
    }

    /// Time since this instant.
    pub fn elapsed(self) -> Duration {
        now().saturating_since(self)
    }
}

impl Add<Duration> for Instant {
    type Output = Self;

    fn add(self, duration: Duration) -> Self {
        Self(
            self.0
                .saturating_add(u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)),
        )
    }
}

impl AddAssign<Duration> for Instant {
    fn add_assign(&mut self, duration: Duration) {
        *self = *self + duration;
    }
}

/// The monotonic clock.
pub fn now() -> Instant {
    runtime::with(|runtime| match runtime {
        Some(Runtime::Sim(shard)) => shard.now(),
        Some(Runtime::Uring(_)) | None => machine_now(),
    })
}

/// The machine's monotonic clock, whatever runtime is entered.
pub(super) fn machine_now() -> Instant {
    static START: OnceLock<std::time::Instant> = OnceLock::new();
    // A second in hand, so that code may step back a little from the first reading.
    const LEAD_NANOS: u64 = 1_000_000_000;
    let elapsed = START
        .get_or_init(std::time::Instant::now)
        .elapsed()
        .as_nanos();
    Instant(
        u64::try_from(elapsed)
            .unwrap_or(u64::MAX)
            .saturating_add(LEAD_NANOS),
    )
}

/// Wall-clock milliseconds since the Unix epoch. May step; never used to measure.
pub fn unix_ms() -> i64 {
    runtime::with(|runtime| match runtime {
        Some(Runtime::Sim(shard)) => shard.unix_ms(),
        Some(Runtime::Uring(_)) | None => std::time::SystemTime::now()
            .duration_since(std::time::UNIX_EPOCH)
            .map_or(0, |since| {
                i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
            }),
    })
}

/// Waits for `duration`.
///
/// Cancel: safe.
pub fn sleep(duration: Duration) -> Sleep {
    sleep_until(now() + duration)
}

/// Waits until `deadline`; ready at once when it has passed.
///
/// Cancel: safe.
pub fn sleep_until(deadline: Instant) -> Sleep {
    Sleep {
        deadline,
        timer: None,
    }
}

/// Runs `future` for at most `duration`; `None` when the time is up first, and `future` is dropped.
///
/// A future that is ready in the same poll as the deadline wins.
/// Cancel: as `future`.
pub async fn timeout<F: Future>(duration: Duration, future: F) -> Option<F::Output> {
    let mut future = pin!(future);
    let mut deadline = pin!(sleep(duration));
    std::future::poll_fn(move |cx| {
        if let Poll::Ready(output) = future.as_mut().poll(cx) {
            return Poll::Ready(Some(output));
        }
        deadline.as_mut().poll(cx).map(|()| None)
    })
    .await
}

/// The longest time that is asked of glommio's timer wheel at once; a longer sleep asks again.
const WHEEL_MAX: Duration = Duration::from_hours(1);

/// The future of [`sleep`].
#[must_use = "a sleep does nothing unless awaited"]
pub struct Sleep {
    deadline: Instant,
    timer: Option<Timer>,
}

enum Timer {
    Uring {
        timer: glommio::timer::Timer,
        alarm: Arc<Alarm>,
    },
    Sim(sim::TimerHandle),
}

/// Stands between a glommio timer and the task: the timer is polled again only after it rang,
/// because every poll of it registers one more entry in the wheel.
struct Alarm {
    rang: AtomicBool,
    task: AtomicWaker,
}

impl Wake for Alarm {
    fn wake(self: Arc<Self>) {
        self.rang.store(true, Ordering::Release);
        self.task.wake();
    }
}

impl Sleep {
    /// When it ends.
    pub fn deadline(&self) -> Instant {
        self.deadline
    }
}

impl Future for Sleep {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let now = now();
        if now >= self.deadline {
            if self.timer.take().is_some() {
                runtime::note_reactor_ran();
            }
            return Poll::Ready(());
        }
        let left = self.deadline.saturating_since(now).min(WHEEL_MAX);
        let deadline = self.deadline;
        let timer = self.timer.get_or_insert_with(|| match runtime::current() {
            Runtime::Uring(_) => Timer::Uring {
                timer: glommio::timer::Timer::new(left),
                alarm: Arc::new(Alarm {
                    rang: AtomicBool::new(true),
                    task: AtomicWaker::new(),
                }),
            },
            Runtime::Sim(shard) => Timer::Sim(shard.timer(deadline)),
        });
        match timer {
            Timer::Uring { timer, alarm } => {
                alarm.task.register(cx.waker());
                if alarm.rang.swap(false, Ordering::AcqRel) {
                    let waker = Waker::from(Arc::clone(alarm));
                    let mut inner = Context::from_waker(&waker);
                    if Pin::new(timer).poll(&mut inner).is_ready() {
                        // The two clock readings may differ by a hair: never end early.
                        self.timer = None;
                        if super::now() < deadline {
                            cx.waker().wake_by_ref();
                            return Poll::Pending;
                        }
                        return Poll::Ready(());
                    }
                }
            }
            Timer::Sim(handle) => handle.register(cx.waker()),
        }
        Poll::Pending
    }
}
