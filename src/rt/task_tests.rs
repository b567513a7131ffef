//! Tasks, time, blocking work, shards, and the queues between them.

use std::cell::Cell;
use std::io::{self, Write};
use std::rc::Rc;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use super::executor::{self, Error, ShardSpec};
use super::testing::{on_both, on_uring, run_on_cores};
use super::{
    Lane, blocking, cross, machine, now, sleep, spawn, timeout, yield_if_needed, yield_now,
};

/// Tells when it is dropped.
struct OnDrop(Rc<Cell<bool>>);

impl Drop for OnDrop {
    fn drop(&mut self) {
        self.0.set(true);
    }
}

#[test]
fn a_task_is_awaited_detached_or_cancelled() {
    on_both(|_| async move {
        for lane in Lane::ALL {
            assert_eq!(spawn(lane, "value", async { 5 }).await, 5);
        }
        let ran = Rc::new(Cell::new(false));
        let theirs = Rc::clone(&ran);
        spawn(Lane::Read, "detached", async move { theirs.set(true) }).detach();
        while !ran.get() {
            yield_now().await;
        }
        let dropped = Rc::new(Cell::new(false));
        let guard = OnDrop(Rc::clone(&dropped));
        let task = spawn(Lane::Commit, "endless", async move {
            let _guard = guard;
            std::future::pending::<()>().await;
        });
        sleep(Duration::from_millis(1)).await;
        assert_eq!(task.cancel().await, None);
        assert!(dropped.get());
        let guard = OnDrop(Rc::clone(&dropped));
        dropped.set(false);
        drop(spawn(
            Lane::Commit,
            "never polled",
            async move { drop(guard) },
        ));
        while !dropped.get() {
            yield_now().await;
        }
    });
}

#[test]
fn sleeps_never_end_early() {
    on_both(|_| async move {
        let tasks = [30_u64, 10, 20].map(|millis| {
            spawn(Lane::Network, "sleeper", async move {
                let start = now();
                sleep(Duration::from_millis(millis)).await;
                assert!(start.elapsed() >= Duration::from_millis(millis));
            })
        });
        for task in tasks {
            task.await;
        }
    });
}

#[test]
fn a_task_that_always_has_work_lets_completions_in() {
    on_uring(|| async {
        let stop = Rc::new(Cell::new(false));
        let theirs = Rc::clone(&stop);
        let busy = spawn(Lane::Network, "busy", async move {
            while !theirs.get() {
                yield_if_needed().await;
            }
        });
        let slept = now();
        sleep(Duration::from_millis(5)).await;
        assert!(slept.elapsed() < Duration::from_secs(1));
        stop.set(true);
        busy.await;
    });
}

#[test]
fn a_timeout_cuts_off_what_is_late_and_nothing_else() {
    on_both(|_| async move {
        let late = timeout(Duration::from_millis(2), std::future::pending::<()>()).await;
        assert_eq!(late, None);
        let in_time = timeout(Duration::from_secs(5), async {
            for _ in 0..1000 {
                yield_now().await;
            }
            7
        });
        assert_eq!(in_time.await, Some(7));
        assert_eq!(
            timeout(Duration::ZERO, async { 1 }).await,
            Some(1),
            "ready at once"
        );
    });
}

#[test]
fn blocking_work_returns_its_value() {
    on_both(|_| async move {
        assert_eq!(blocking("add", || 1 + 2).await, 3);
        let many: Vec<_> = (0..500_u64)
            .map(|index| spawn(Lane::Read, "job", blocking("square", move || index * index)))
            .collect();
        let mut sum = 0;
        for task in many {
            sum += task.await;
        }
        assert_eq!(sum, (0..500).map(|index| index * index).sum::<u64>());
    });
}

#[test]
fn blocking_work_does_not_hold_the_shard() {
    on_uring(|| async {
        let start = now();
        let slow = spawn(
            Lane::Read,
            "slow",
            blocking("nap", || {
                std::thread::sleep(Duration::from_millis(200));
            }),
        );
        sleep(Duration::from_millis(5)).await;
        assert!(start.elapsed() < Duration::from_millis(150));
        slow.await;
        assert!(start.elapsed() >= Duration::from_millis(200));
    });
}

#[test]
fn a_panic_in_blocking_work_resumes_at_the_awaiter() {
    let ended = run_on_cores(vec![ShardSpec::default()], |_| async {
        blocking("bad", || panic!("as expected by this test")).await;
    });
    assert!(matches!(ended, Err(Error::Panicked { shard: 0 })));
}

#[test]
fn shards_return_in_order_and_know_their_index() {
    let specs = vec![ShardSpec::default(); 3];
    let ended = run_on_cores(specs, |index| async move {
        assert_eq!(executor::shard_index(), index);
        index * 10
    });
    assert_eq!(ended.unwrap(), [0, 10, 20]);
}

#[test]
fn a_shard_is_pinned_to_its_core() {
    let core = machine::allowed_cores().unwrap()[0];
    let spec = ShardSpec {
        core: Some(core),
        ..ShardSpec::default()
    };
    let ended = run_on_cores(vec![spec], |_| async { machine::allowed_cores().unwrap() });
    assert_eq!(ended.unwrap(), [vec![core]]);
}

#[test]
fn no_shard_runs_when_one_cannot_start() {
    let started = Arc::new(Mutex::new(0));
    let theirs = Arc::clone(&started);
    let bad = ShardSpec {
        ring_depth: 1 << 24,
        ..ShardSpec::default()
    };
    let ended = run_on_cores(vec![ShardSpec::default(), bad], move |_| {
        *theirs.lock().unwrap() += 1;
        async {}
    });
    let error = ended.unwrap_err();
    assert!(matches!(error, Error::Start { shard: 1, .. }), "{error}");
    assert_eq!(*started.lock().unwrap(), 0);
}

#[test]
fn a_task_that_holds_the_loop_is_named() {
    let stats = on_uring(|| async {
        spawn(Lane::Network, "hog", async {
            std::thread::sleep(Duration::from_millis(60));
        })
        .await;
        executor::stalls()
    });
    assert_eq!((stats.stalls, stats.longest_task), (1, "hog"));
    assert!(stats.longest >= Duration::from_millis(60));
    assert!(stats.busy >= stats.longest && stats.stalled >= stats.longest);
}

#[test]
fn a_task_that_holds_the_loop_is_named_in_one_warning() {
    let log = on_uring(|| async {
        let log = LogLines::default();
        let to_log = log.clone();
        let subscriber = tracing_subscriber::fmt()
            .json()
            .with_writer(move || to_log.clone())
            .finish();
        // Beside a single subscriber, tracing asks only that of the thread which comes first to a
        // callsite: another test's thread, without one, would switch the warning off for all.
        let _second = tracing::Dispatch::new(tracing_subscriber::registry());
        let _logging = tracing::subscriber::set_default(subscriber);
        spawn(Lane::Network, "hog", async {
            std::thread::sleep(Duration::from_millis(60));
        })
        .await;
        log.text()
    });
    // The machine may hold up any other task as well; this one is always late.
    let about_it: Vec<serde_json::Value> = log
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .filter(|line: &serde_json::Value| line["fields"]["task"] == "hog")
        .collect();
    assert_eq!(about_it.len(), 1, "{log}");
    let (level, fields) = (&about_it[0]["level"], &about_it[0]["fields"]);
    assert_eq!(level, "WARN", "{log}");
    assert_eq!(fields["message"], "a task held the shard's loop", "{log}");
    assert_eq!(fields["shard"], 0, "{log}");
    assert!(fields["held_ms"].as_u64().unwrap() >= 60, "{log}");
}

/// Takes log lines and gives them back.
#[derive(Clone, Default)]
struct LogLines(Arc<Mutex<Vec<u8>>>);

impl LogLines {
    fn text(&self) -> String {
        String::from_utf8(self.0.lock().unwrap().clone()).unwrap()
    }
}

impl Write for LogLines {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[test]
fn an_idle_shard_uses_no_cpu() {
    let spent = on_uring(|| async {
        sleep(Duration::from_millis(50)).await;
        let before = thread_cpu();
        sleep(Duration::from_millis(500)).await;
        thread_cpu().saturating_sub(before)
    });
    assert!(
        spent < Duration::from_millis(50),
        "spent {spent:?} in 500 ms of idling"
    );
}

/// CPU time of this thread, from `/proc/thread-self/schedstat` (nanoseconds on the CPU come first).
fn thread_cpu() -> Duration {
    let text = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap();
    Duration::from_nanos(text.split(' ').next().unwrap().parse().unwrap())
}

/// Each end of the queues is taken by the shard that it is for.
type Ends<T> = Arc<Mutex<Option<T>>>;

fn end<T>(end: T) -> Ends<T> {
    Arc::new(Mutex::new(Some(end)))
}

#[test]
fn values_cross_between_shards_in_order() {
    const COUNT: u64 = 100_000;
    let (sender, receiver) = cross::channel::<Box<u64>>(64);
    let (sender, receiver) = (end(sender), end(receiver));
    run_on_cores(vec![ShardSpec::default(); 2], move |index| {
        let (sender, receiver) = (Arc::clone(&sender), Arc::clone(&receiver));
        async move {
            if index == 0 {
                let mut sender = sender.lock().unwrap().take().unwrap();
                for value in 0..COUNT {
                    sender.send(Box::new(value)).await.unwrap();
                }
            } else {
                let mut receiver = receiver.lock().unwrap().take().unwrap();
                for value in 0..COUNT {
                    assert_eq!(receiver.recv().await, Some(Box::new(value)));
                }
                assert_eq!(receiver.recv().await, None, "the sender is gone");
            }
        }
    })
    .unwrap();
}

#[test]
fn a_parked_shard_is_woken_by_a_value() {
    let (sender, receiver) = cross::channel::<u64>(1);
    let (sender, receiver) = (end(sender), end(receiver));
    let waits = run_on_cores(vec![ShardSpec::default(); 2], move |index| {
        let (sender, receiver) = (Arc::clone(&sender), Arc::clone(&receiver));
        async move {
            let mut worst = Duration::ZERO;
            if index == 0 {
                let mut sender = sender.lock().unwrap().take().unwrap();
                for _ in 0..20 {
                    sleep(Duration::from_millis(10)).await;
                    sender.send(now().as_nanos()).await.unwrap();
                }
            } else {
                let mut receiver = receiver.lock().unwrap().take().unwrap();
                while let Some(sent) = receiver.recv().await {
                    worst = worst.max(Duration::from_nanos(now().as_nanos() - sent));
                }
            }
            worst
        }
    });
    let worst = waits.unwrap()[1];
    assert!(worst < Duration::from_millis(500), "woken after {worst:?}");
}

#[test]
fn a_dropped_receiver_fails_the_sender_and_a_full_queue_makes_it_wait() {
    on_both(|_| async move {
        let (mut sender, mut receiver) = cross::channel(1);
        assert_eq!(sender.try_send(1), Ok(()));
        assert_eq!(sender.try_send(2), Err(cross::TrySendError::Full(2)));
        let sending = spawn(Lane::Network, "sender", async move {
            sender.send(2).await.unwrap();
            sender.send(3).await
        });
        assert_eq!(receiver.recv().await, Some(1));
        assert_eq!(receiver.recv().await, Some(2));
        drop(receiver);
        let ended = sending.await;
        // 3 was sent just before the receiver went, or came back.
        assert!(matches!(ended, Ok(()) | Err(3)));
    });
}
