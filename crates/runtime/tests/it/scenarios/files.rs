//! Files through the driver.
#![expect(clippy::cast_possible_truncation, reason = "small numbers of a test")]

use std::io::ErrorKind;

use runtime::executor::spawn;
use runtime::fs::{self, File, OpenOptions};

use super::{fresh_path, on_every_driver, pattern};

on_every_driver!(
    files_are_written_synced_and_read_back,
    what_is_written_durably_is_read_back,
    more_durable_writes_run_than_are_submitted_at_once,
    many_operations_run_at_once,
    folders_list_what_is_in_them,
    what_is_not_there_is_an_error,
);

async fn files_are_written_synced_and_read_back() {
    let folder = fresh_path("files");
    fs::create_dir_all(&folder).await.expect("made");
    let file = File::create(folder.join("f")).await.expect("made");
    file.write_all_at(pattern(1, 100_000), 5_000).await.0.expect("written");
    file.sync_data().await.expect("durable");
    assert_eq!(file.len().await.expect("open"), 105_000);
    let (count, bytes) = file.read_at(vec![7; 10_000], 0).await;
    assert_eq!(count.expect("read"), 10_000);
    assert!(bytes[..5_000].iter().all(|byte| *byte == 0), "a hole reads as zeros");
    assert!(bytes[5_000..] == pattern(1, 5_000));
    let (count, _) = file.read_at(vec![0; 100], 104_990).await;
    assert_eq!(count.expect("read"), 10, "short at the end");
    file.set_len(10).await.expect("cut");
    file.sync_all().await.expect("durable");
    assert_eq!(fs::read(folder.join("f")).await.expect("there"), [0; 10]);
    fs::remove_dir_all(&folder).await.expect("removed");
}

async fn what_is_written_durably_is_read_back() {
    let folder = fresh_path("durably");
    fs::create_dir_all(&folder).await.expect("made");
    let file = File::create(folder.join("f")).await.expect("made");
    file.write_all_at(pattern(1, 100_000), 0).await.0.expect("written");
    let (written, buffer) = file.write_all_at_durably(pattern(2, 70_000), 50_000).await;
    written.expect("durable");
    assert!(buffer == pattern(2, 70_000), "the buffer comes back");
    let bytes = fs::read(folder.join("f")).await.expect("there");
    assert_eq!(bytes.len(), 120_000);
    assert!(bytes[..50_000] == pattern(1, 100_000)[..50_000] && bytes[50_000..] == buffer);
    fs::remove_dir_all(&folder).await.expect("removed");
}

async fn more_durable_writes_run_than_are_submitted_at_once() {
    let folder = fresh_path("many-durable");
    fs::create_dir_all(&folder).await.expect("made");
    let file = File::create(folder.join("f")).await.expect("made");
    let writers: Vec<_> = (0..600u64)
        .map(|n| {
            let file = file.clone();
            spawn(async move { file.write_all_at_durably(vec![n as u8; 64], n * 64).await.0 })
        })
        .collect();
    for writer in writers {
        writer.await.expect("writers end").expect("durable");
    }
    let bytes = fs::read(folder.join("f")).await.expect("there");
    let expected: Vec<u8> = (0..600u64).flat_map(|n| [n as u8; 64]).collect();
    assert!(bytes == expected);
    fs::remove_dir_all(&folder).await.expect("removed");
}

async fn many_operations_run_at_once() {
    let folder = fresh_path("many");
    fs::create_dir_all(&folder).await.expect("made");
    let file = File::create(folder.join("f")).await.expect("made");
    let writers: Vec<_> = (0..200u64)
        .map(|n| {
            let file = file.clone();
            spawn(async move { file.write_all_at(vec![n as u8; 4096], n * 4096).await.0 })
        })
        .collect();
    for writer in writers {
        writer.await.expect("writers end").expect("written");
    }
    let bytes = fs::read(folder.join("f")).await.expect("there");
    assert_eq!(bytes.len(), 200 * 4096);
    let whole = bytes.chunks(4096).enumerate();
    assert!(whole.into_iter().all(|(n, block)| block.iter().all(|byte| *byte == n as u8)));
    fs::remove_dir_all(&folder).await.expect("removed");
}

async fn folders_list_what_is_in_them() {
    let folder = fresh_path("list");
    fs::create_dir_all(folder.join("below")).await.expect("made");
    fs::write_atomic(folder.join("b"), b"12345".to_vec()).await.expect("written");
    fs::write_atomic(folder.join("a"), Vec::new()).await.expect("written");
    fs::rename(folder.join("a"), folder.join("c")).await.expect("renamed");
    fs::sync_dir(&folder).await.expect("durable");
    let listed = fs::read_dir(&folder).await.expect("there");
    let names: Vec<_> = listed
        .iter()
        .map(|entry| (entry.name.to_str().expect("utf-8"), entry.is_dir, entry.len))
        .map(|(name, is_dir, len)| (name, is_dir, if is_dir { 0 } else { len }))
        .collect();
    assert_eq!(names, [("b", false, 5), ("below", true, 0), ("c", false, 0)]);
    fs::remove_file(folder.join("b")).await.expect("removed");
    assert_eq!(fs::read_dir(&folder).await.expect("there").len(), 2);
    fs::remove_dir_all(&folder).await.expect("removed");
    fs::read_dir(&folder).await.expect_err("gone");
}

async fn what_is_not_there_is_an_error() {
    let path = fresh_path("missing").join("f");
    let kind = |error: std::io::Error| error.kind();
    assert_eq!(fs::read(&path).await.map_err(kind), Err(ErrorKind::NotFound));
    assert_eq!(fs::remove_file(&path).await.map_err(kind), Err(ErrorKind::NotFound));
    let created = File::create(&path).await.map(drop).map_err(kind);
    assert_eq!(created, Err(ErrorKind::NotFound), "its folder is missing");
    let opened = File::open(&path, OpenOptions::default()).await.map(drop).map_err(kind);
    assert_eq!(opened, Err(ErrorKind::NotFound));
}
