//! Files, names and buffers, on both runtimes.

use std::io;
use std::path::PathBuf;
use std::time::Duration;

use futures_util::future::join_all;

use super::file::{ALIGNMENT, File, OpenOptions};
use super::testing::{on_both, on_uring};
use super::{IoBuf, SharedFile, fs, io_buf, timeout};

const BLOCK: u64 = 4096;

async fn filled(byte: u8, len: usize) -> IoBuf {
    let mut buf = IoBuf::alloc(len).await;
    buf.fill(byte);
    buf
}

#[test]
fn what_is_written_is_read_back_and_the_buffer_comes_back() {
    on_both(|dir| async move {
        let file = File::open(dir.join("f"), &OpenOptions::direct().create())
            .await
            .unwrap();
        let buf = filled(7, 4 * ALIGNMENT).await;
        let back = file.write_at(buf, 2 * ALIGNMENT, BLOCK).await.unwrap();
        assert_eq!(back.len(), 2 * ALIGNMENT, "cut to what was written");
        assert!(back.iter().all(|byte| *byte == 7));
        file.fdatasync().await.unwrap();
        assert_eq!(file.len().await.unwrap(), 3 * BLOCK);
        let read = file.read_at(0, 8 * ALIGNMENT).await.unwrap();
        assert_eq!(read.len(), 3 * ALIGNMENT, "short at the end");
        assert!(read[..ALIGNMENT].iter().all(|byte| *byte == 0));
        assert!(read[ALIGNMENT..].iter().all(|byte| *byte == 7));
        assert_eq!(file.read_at(3 * BLOCK, ALIGNMENT).await.unwrap().len(), 0);
        file.close().await.unwrap();
    });
}

#[test]
fn a_buffer_that_was_read_can_be_changed_and_written() {
    on_both(|dir| async move {
        let file = File::open(dir.join("f"), &OpenOptions::direct().create())
            .await
            .unwrap();
        let buf = filled(1, ALIGNMENT).await;
        file.write_at(buf, ALIGNMENT, 0).await.unwrap();
        let mut read = file.read_at(0, ALIGNMENT).await.unwrap();
        read[5] = 9;
        file.write_at(read, ALIGNMENT, 0).await.unwrap();
        let read = file.read_at(0, ALIGNMENT).await.unwrap();
        assert_eq!((read[4], read[5], read[6]), (1, 9, 1));
    });
}

#[test]
fn many_writes_are_in_flight_on_one_durable_file() {
    on_both(|dir| async move {
        let options = OpenOptions::direct().create_new().dsync();
        let file = File::open(dir.join("wal"), &options).await.unwrap();
        let writes = (0..16_u8).map(|index| {
            let file = file.clone();
            async move {
                let buf = filled(index, 16 * ALIGNMENT).await;
                file.write_at(buf, 16 * ALIGNMENT, u64::from(index) * 16 * BLOCK)
                    .await
                    .unwrap();
            }
        });
        join_all(writes).await;
        for index in 0..16_u8 {
            let pos = u64::from(index) * 16 * BLOCK;
            let read = file.read_at(pos, 16 * ALIGNMENT).await.unwrap();
            assert!(read.iter().all(|byte| *byte == index), "block {index}");
        }
    });
}

#[test]
fn unaligned_direct_access_is_refused() {
    on_both(|dir| async move {
        let file = File::open(dir.join("f"), &OpenOptions::direct().create())
            .await
            .unwrap();
        let buf = filled(1, ALIGNMENT).await;
        let error = file.write_at(buf, ALIGNMENT, 512).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::InvalidInput);
        let error = file.read_at(0, 100).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::InvalidInput);
        assert!(error.to_string().contains("read 100 bytes at 0"), "{error}");
    });
}

#[test]
fn buffered_files_take_any_position() {
    on_both(|dir| async move {
        let options = OpenOptions {
            read: true,
            write: true,
            create: true,
            ..OpenOptions::default()
        };
        let file = File::open(dir.join("index"), &options).await.unwrap();
        let mut buf = IoBuf::alloc(10).await;
        buf[..10].copy_from_slice(b"0123456789");
        file.write_at(buf, 10, 3).await.unwrap();
        file.fdatasync().await.unwrap();
        let read = file.read_at(4, 100).await.unwrap();
        assert_eq!(&read[..], b"123456789");
        assert_eq!(file.len().await.unwrap(), 13);
    });
}

#[test]
fn opening_says_what_is_wrong_and_where() {
    on_both(|dir| async move {
        let path = dir.join("missing");
        let error = File::open(&path, &OpenOptions::direct()).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::NotFound);
        assert!(
            error.to_string().contains(path.to_str().unwrap()),
            "{error}"
        );
        File::open(&path, &OpenOptions::direct().create_new())
            .await
            .unwrap();
        let again = File::open(&path, &OpenOptions::direct().create_new())
            .await
            .unwrap_err();
        assert_eq!(again.kind(), io::ErrorKind::AlreadyExists);
    });
}

#[test]
fn an_open_file_outlives_its_name() {
    on_both(|dir| async move {
        let path = dir.join("f");
        let file = File::open(&path, &OpenOptions::direct().create())
            .await
            .unwrap();
        fs::remove_file(&path).await.unwrap();
        let buf = filled(3, ALIGNMENT).await;
        file.write_at(buf, ALIGNMENT, 0).await.unwrap();
        assert_eq!(file.read_at(0, ALIGNMENT).await.unwrap()[0], 3);
    });
}

#[test]
fn length_and_space_are_set_apart() {
    on_both(|dir| async move {
        let file = File::open(dir.join("f"), &OpenOptions::direct().create())
            .await
            .unwrap();
        file.allocate(0, 64 * BLOCK).await.unwrap();
        assert_eq!(file.len().await.unwrap(), 0, "allocation keeps the length");
        let buf = filled(5, 2 * ALIGNMENT).await;
        file.write_at(buf, 2 * ALIGNMENT, 0).await.unwrap();
        file.truncate(5000).await.unwrap();
        assert_eq!(file.len().await.unwrap(), 5000);
        assert_eq!(file.read_at(0, 2 * ALIGNMENT).await.unwrap().len(), 5000);
    });
}

#[test]
fn what_was_zeroed_reads_as_zeros_and_keeps_its_length() {
    on_both(|dir| async move {
        let file = File::open(dir.join("f"), &OpenOptions::direct().create())
            .await
            .unwrap();
        let buf = filled(5, 3 * ALIGNMENT).await;
        file.write_at(buf, 3 * ALIGNMENT, 0).await.unwrap();
        file.truncate(2 * BLOCK + 1000).await.unwrap();
        file.zero(BLOCK, 8 * BLOCK).await.unwrap();
        assert_eq!(file.len().await.unwrap(), 2 * BLOCK + 1000);
        let found = file.read_at(0, 3 * ALIGNMENT).await.unwrap();
        assert!(found[..ALIGNMENT].iter().all(|byte| *byte == 5));
        assert!(found[ALIGNMENT..].iter().all(|byte| *byte == 0));
        let buf = filled(6, ALIGNMENT).await;
        file.write_at(buf, ALIGNMENT, BLOCK).await.unwrap();
        assert_eq!(file.read_at(BLOCK, ALIGNMENT).await.unwrap()[0], 6);
    });
}

#[test]
fn a_dropped_write_leaves_the_file_usable() {
    on_both(|dir| async move {
        let file = File::open(dir.join("f"), &OpenOptions::direct().create())
            .await
            .unwrap();
        for round in 0..20_u8 {
            let buf = filled(round, 64 * ALIGNMENT).await;
            let write = file.write_at(buf, 64 * ALIGNMENT, 0);
            let _given_up = timeout(Duration::from_micros(u64::from(round) * 20), write).await;
        }
        let buf = filled(200, 64 * ALIGNMENT).await;
        file.write_at(buf, 64 * ALIGNMENT, 64 * BLOCK)
            .await
            .unwrap();
        let read = file.read_at(64 * BLOCK, 64 * ALIGNMENT).await.unwrap();
        assert!(read.iter().all(|byte| *byte == 200));
    });
}

#[test]
fn buffers_are_waited_for_and_come_back() {
    on_both(|_| async move {
        let all = io_buf::available();
        let held = IoBuf::alloc(all).await;
        assert!(IoBuf::try_alloc(1).is_none());
        assert!(
            timeout(Duration::from_millis(1), IoBuf::alloc(1))
                .await
                .is_none()
        );
        drop(held);
        assert_eq!(IoBuf::alloc(1).await.len(), ALIGNMENT, "rounded up");
        assert_eq!(io_buf::available(), all);
        let more_than_all = IoBuf::alloc(all + ALIGNMENT).await;
        assert_eq!(more_than_all.len(), all + ALIGNMENT);
    });
}

#[test]
fn names_and_small_files() {
    on_both(|dir| async move {
        let deep = dir.join("a/b/c");
        fs::create_dir_all(&deep).await.unwrap();
        fs::write_new(deep.join("one"), b"1".to_vec())
            .await
            .unwrap();
        let error = fs::write_new(deep.join("one"), b"1".to_vec())
            .await
            .unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::AlreadyExists);
        fs::write_atomic(deep.join("two"), b"2".to_vec())
            .await
            .unwrap();
        fs::write_atomic(deep.join("two"), b"twenty-two".to_vec())
            .await
            .unwrap();
        fs::write_atomic(deep.join("two"), b"22".to_vec())
            .await
            .unwrap();
        assert_eq!(fs::read(deep.join("two")).await.unwrap(), b"22");
        fs::rename(deep.join("one"), deep.join("three"))
            .await
            .unwrap();
        fs::sync_dir(&deep).await.unwrap();
        fs::sync_filesystem(&dir).await.unwrap();
        let entries = fs::read_dir(&deep).await.unwrap();
        let entries: Vec<_> = entries
            .iter()
            .map(|entry| (entry.name.to_str().unwrap(), entry.len))
            .collect();
        assert_eq!(entries, [("three", 1), ("two", 2)]);
        assert!(fs::read_dir(dir.join("a")).await.unwrap()[0].is_dir);
        assert_eq!(fs::file_len(deep.join("two")).await.unwrap(), 2);
        assert!(fs::free_space(&dir).await.unwrap() > 0);
        assert!(fs::exists(&deep).await.unwrap());
        fs::remove_file(deep.join("two")).await.unwrap();
        fs::remove_dir_all(dir.join("a")).await.unwrap();
        assert!(!fs::exists(dir.join("a")).await.unwrap());
        let error = fs::read(deep.join("two")).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::NotFound);
    });
}

#[test]
fn a_shared_file_is_read_by_position() {
    on_both(|dir| async move {
        fs::write_new(dir.join("sealed"), vec![8; 10_000])
            .await
            .unwrap();
        let file = SharedFile::open(dir.join("sealed")).await.unwrap();
        fs::remove_file(dir.join("sealed")).await.unwrap();
        assert_eq!(
            file.clone().read_at(9_000, 5_000).await.unwrap(),
            vec![8; 1_000]
        );
        assert!(file.read_at(10_000, 1).await.unwrap().is_empty());
    });
}

#[test]
fn a_journal_file_is_open_for_direct_and_durable_writes() {
    use std::os::linux::fs::MetadataExt;
    let dir = super::testing::dir();
    let path: PathBuf = dir.path().join("wal");
    on_uring(move || {
        let path = path.clone();
        async move {
            let options = OpenOptions::direct().create().dsync();
            let file = File::open(&path, &options).await.unwrap();
            let inode = std::fs::metadata(&path).unwrap().st_ino();
            let mut found = 0;
            for entry in std::fs::read_dir("/proc/self/fd").unwrap() {
                let fd = entry.unwrap();
                if std::fs::metadata(fd.path()).is_ok_and(|metadata| metadata.st_ino() == inode) {
                    let info = format!("/proc/self/fdinfo/{}", fd.file_name().to_str().unwrap());
                    let info = std::fs::read_to_string(info).unwrap();
                    let flags = info
                        .lines()
                        .find_map(|line| line.strip_prefix("flags:"))
                        .unwrap();
                    let flags = i32::from_str_radix(flags.trim(), 8).unwrap();
                    assert_eq!(flags & libc::O_DIRECT, libc::O_DIRECT);
                    assert_eq!(flags & libc::O_DSYNC, libc::O_DSYNC);
                    found += 1;
                }
            }
            assert_eq!(found, 1, "one descriptor per open file");
            file.close().await.unwrap();
        }
    });
}
