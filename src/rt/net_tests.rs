//! Ports and streams, over the loopback, and over the simulated network where it has them too.

use std::io;
use std::net::{Shutdown, SocketAddr};
use std::time::Duration;

use bytes::{Bytes, BytesMut};

use super::executor::ShardSpec;
use super::net::{PortClaim, TcpListener, TcpStream};
use super::testing::{dir, on_both, on_uring, run_on_cores};
use super::{Lane, SharedFile, sleep, spawn, timeout};

fn any() -> SocketAddr {
    "127.0.0.1:0".parse().unwrap()
}

async fn pair() -> (TcpStream, TcpStream) {
    let listener = PortClaim::new(any()).unwrap().into_listener().unwrap();
    let addr = listener.local_addr();
    let accepting = spawn(
        Lane::Network,
        "accept",
        async move { listener.accept().await },
    );
    let client = TcpStream::connect(addr).await.unwrap();
    (client, accepting.await.unwrap())
}

#[test]
fn a_port_that_is_given_up_a_moment_later_is_waited_for() {
    let held = PortClaim::new(any()).unwrap();
    let addr = held.local_addr();
    let holder = std::thread::spawn(move || {
        std::thread::sleep(std::time::Duration::from_millis(200));
        drop(held);
    });
    assert!(PortClaim::try_new(addr).is_err());
    assert_eq!(PortClaim::new(addr).unwrap().local_addr(), addr);
    holder.join().unwrap();
}

#[test]
fn a_port_is_claimed_once_and_shared_by_our_own_shards() {
    on_uring(|| async {
        for ip in ["127.0.0.1", "::1", "0.0.0.0", "::"] {
            let addr = SocketAddr::new(ip.parse().unwrap(), 0);
            let claim = PortClaim::new(addr).unwrap();
            let addr = claim.local_addr();
            assert_ne!(addr.port(), 0);
            let taken = PortClaim::try_new(addr).unwrap_err();
            assert_eq!(
                taken.kind(),
                io::ErrorKind::AddrInUse,
                "{addr}: a second broker"
            );
            let second = TcpListener::bind(addr).unwrap();
            let taken = PortClaim::try_new(addr).unwrap_err();
            assert_eq!(
                taken.kind(),
                io::ErrorKind::AddrInUse,
                "{addr}: after the shards joined"
            );
            let first = claim.into_listener().unwrap();
            assert_eq!(first.local_addr(), second.local_addr());
            drop(first);
            let taken = PortClaim::try_new(addr).unwrap_err();
            assert_eq!(
                taken.kind(),
                io::ErrorKind::AddrInUse,
                "{addr}: one shard still listens"
            );
            drop(second);
            PortClaim::new(addr).unwrap();
        }
    });
}

#[test]
fn a_port_that_a_plain_listener_holds_cannot_be_claimed() {
    let other = std::net::TcpListener::bind(any()).unwrap();
    let error = PortClaim::new(other.local_addr().unwrap()).unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::AddrInUse);
}

#[test]
fn connections_spread_over_the_shards_that_listen() {
    let claim = PortClaim::new(any()).unwrap();
    let addr = claim.local_addr();
    let claim = std::sync::Arc::new(std::sync::Mutex::new(Some(claim)));
    let clients = std::thread::spawn(move || {
        std::thread::sleep(Duration::from_millis(300));
        let connect = |_| std::net::TcpStream::connect(addr).unwrap();
        let streams: Vec<_> = (0..64).map(connect).collect();
        std::thread::sleep(Duration::from_millis(300));
        drop(streams);
    });
    let accepted = run_on_cores(vec![ShardSpec::default(); 2], move |index| {
        let claim = (index == 0).then(|| claim.lock().unwrap().take().unwrap());
        async move {
            let listener = match claim {
                Some(claim) => claim.into_listener().unwrap(),
                None => TcpListener::bind(addr).unwrap(),
            };
            let mut count = 0;
            while let Some(stream) = timeout(Duration::from_millis(900), listener.accept()).await {
                stream.unwrap();
                count += 1;
            }
            count
        }
    })
    .unwrap();
    clients.join().unwrap();
    assert_eq!(accepted.iter().sum::<i32>(), 64, "{accepted:?}");
    assert!(accepted.iter().all(|count| *count > 5), "{accepted:?}");
}

#[test]
fn both_directions_are_used_at_once_by_two_tasks() {
    const SIZE: usize = 8 << 20;
    on_both(|_| async {
        let (client, server) = pair().await;
        assert_eq!(client.peer_addr(), server.local_addr());
        let echo = spawn(Lane::Network, "echo", async move {
            let mut buf = BytesMut::new();
            while server.read_some(&mut buf).await.unwrap() > 0 {
                server
                    .write_all_vectored(&mut [buf.split().freeze()])
                    .await
                    .unwrap();
            }
            server.shutdown(Shutdown::Both).unwrap();
        });
        let writer = client.clone();
        let write = spawn(Lane::Network, "write", async move {
            // Many uneven slices: several system calls, cut anywhere.
            let mut left = SIZE;
            let mut slices = Vec::new();
            let mut number = 0_u32;
            while left > 0 {
                let len = left.min(1 + usize::try_from(number % 7000).unwrap());
                slices.push(Bytes::from(vec![u8::try_from(number % 251).unwrap(); len]));
                number += 1;
                left -= len;
            }
            writer.write_all_vectored(&mut slices).await.unwrap();
            assert!(slices.iter().all(Bytes::is_empty));
            writer.shutdown(Shutdown::Write).unwrap();
        });
        let mut got = BytesMut::new();
        client.read_exact(&mut got, SIZE).await.unwrap();
        write.await;
        echo.await;
        let mut at = 0;
        let mut number = 0_u32;
        while at < SIZE {
            let len = (SIZE - at).min(1 + usize::try_from(number % 7000).unwrap());
            let want = u8::try_from(number % 251).unwrap();
            assert!(
                got[at..at + len].iter().all(|byte| *byte == want),
                "slice {number}"
            );
            at += len;
            number += 1;
        }
        assert_eq!(client.read_some(&mut got).await.unwrap(), 0, "the end");
        let error = client.read_exact(&mut got, 1).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof);
    });
}

#[test]
fn a_file_is_sent_from_any_position_to_a_slow_reader() {
    let dir = dir();
    let path = dir.path().join("sealed");
    let content: Vec<u8> = (0..6_000_000_u32)
        .map(|index| (index % 253).to_le_bytes()[0])
        .collect();
    std::fs::write(&path, &content).unwrap();
    on_uring(move || {
        let (path, content) = (path.clone(), content.clone());
        async move {
            let (client, server) = pair().await;
            let file = SharedFile::open(&path).await.unwrap();
            let send = spawn(Lane::Read, "send", async move {
                let header = Bytes::from_static(b"header");
                server.write_all_vectored(&mut [header]).await.unwrap();
                server.send_file(&file, 1001, 5_000_000).await.unwrap();
                server.send_file(&file, 5_999_000, 2_000).await
            });
            sleep(Duration::from_millis(20)).await;
            let mut got = BytesMut::new();
            client.read_exact(&mut got, 6).await.unwrap();
            assert_eq!(got.split(), b"header"[..]);
            client.read_exact(&mut got, 5_000_000).await.unwrap();
            assert!(got.split() == content[1001..5_001_001]);
            let error = send.await.unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof);
        }
    });
}

#[test]
fn a_waiting_reader_is_woken_by_a_shutdown() {
    on_both(|_| async {
        let (client, server) = pair().await;
        let reader = server.clone();
        let read = spawn(Lane::Network, "read", async move {
            reader.read_some(&mut BytesMut::new()).await
        });
        sleep(Duration::from_millis(5)).await;
        server.shutdown(Shutdown::Both).unwrap();
        assert_eq!(read.await.unwrap(), 0);
        drop(client);
    });
}

#[test]
fn a_read_that_was_given_up_loses_nothing() {
    on_both(|_| async {
        let (client, server) = pair().await;
        let mut buf = BytesMut::new();
        for _ in 0..50 {
            let read = timeout(Duration::from_micros(50), server.read_some(&mut buf)).await;
            assert!(read.is_none());
        }
        client
            .write_all_vectored(&mut [Bytes::from_static(b"late")])
            .await
            .unwrap();
        server.read_exact(&mut buf, 4).await.unwrap();
        assert_eq!(buf, b"late"[..]);
    });
}

#[test]
fn connecting_to_nobody_is_refused() {
    on_both(|_| async {
        let claim = PortClaim::new(any()).unwrap();
        let addr = claim.local_addr();
        drop(claim);
        let error = TcpStream::connect(addr).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::ConnectionRefused);
    });
}
