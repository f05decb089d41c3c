//! Files on every back end this machine has.

use std::path::PathBuf;

use super::*;
use crate::executor::block_on;
use crate::io::{Backend, Options};

/// A folder of its own, gone afterwards.
struct Folder(PathBuf);

impl Folder {
    fn new() -> Self {
        Self::below(std::env::temp_dir())
    }

    fn below(folder: PathBuf) -> Self {
        let unique = crate::random::Rng::from_os().next_u64();
        let path = folder.join(format!("runtime-fs-{unique:x}"));
        blocking::create_dir_all(&path).expect("made");
        Self(path)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        blocking::remove_dir_all(&self.0).expect("removed");
    }
}

fn everywhere<F: Future<Output = ()>>(scenario: impl Fn(PathBuf) -> F) {
    for backend in [Backend::Epoll, Backend::IoUring] {
        let folder = Folder::new();
        block_on(&Options::on(backend), scenario(folder.0.clone())).expect("the loop runs");
    }
}

#[test]
fn reads_back_what_it_wrote_and_stops_at_the_end() {
    everywhere(|folder| async move {
        let file = File::create(folder.join("f")).await.expect("made");
        let bytes = (0..100_000u32).flat_map(u32::to_le_bytes).collect::<Vec<_>>();
        let (result, bytes) = file.write_all_at(bytes, 10).await;
        result.expect("written");
        file.sync_data().await.expect("synced");
        file.sync_all().await.expect("synced");
        assert_eq!(file.len().await.expect("a length"), 400_010);
        let (result, back) = file.read_at(vec![1; 400_000], 10).await;
        assert_eq!(result.expect("read"), 400_000);
        assert!(back == bytes);
        let (result, _) = file.read_at(vec![1; 100], 400_000).await;
        assert_eq!(result.expect("read"), 10);
        let (result, _) = file.read_at(vec![1; 100], 500_000).await;
        assert_eq!(result.expect("read"), 0);
        file.set_len(5).await.expect("cut");
        assert_eq!(read(folder.join("f")).await.expect("read"), [0; 5]);
    });
}

#[test]
fn a_durable_write_that_cannot_be_is_an_error() {
    everywhere(|folder| async move {
        File::create(folder.join("f")).await.expect("made");
        let file = File::open(folder.join("f"), OpenOptions::default()).await.expect("open");
        let (written, bytes) = file.write_all_at_durably(vec![1; 100], 0).await;
        written.expect_err("it was opened for reading");
        assert_eq!(bytes, [1; 100], "the buffer comes back");
        assert_eq!(file.len().await.expect("a length"), 0);
        let file = File::create(folder.join("g")).await.expect("the next operations go on");
        file.write_all_at_durably(bytes, 0).await.0.expect("written");
        assert_eq!(read(folder.join("g")).await.expect("read"), [1; 100]);
    });
}

#[test]
fn a_durable_write_is_whole_where_it_takes_a_sync_of_its_own() {
    // Of a tmpfs nothing is known; where there is none, of the usual place.
    let memory = Some(PathBuf::from("/dev/shm")).filter(|path| blocking::exists(path));
    let folder = memory.map_or_else(Folder::new, Folder::below);
    for backend in [Backend::Epoll, Backend::IoUring] {
        block_on(&Options::on(backend), async {
            let file = File::create(folder.0.join("f")).await.expect("made");
            let (written, bytes) = file.write_all_at_durably(vec![7; 100_000], 10).await;
            written.expect("written and synced");
            assert_eq!(read(folder.0.join("f")).await.expect("read")[10..], bytes);
        })
        .expect("the loop runs");
    }
}

#[test]
fn replaces_a_file_whole_and_leaves_nothing_beside_it() {
    everywhere(|folder| async move {
        let path = folder.join("state");
        for contents in ["old", "newer"] {
            write_atomic(&path, contents.into()).await.expect("written");
            assert_eq!(read(&path).await.expect("read"), contents.as_bytes());
        }
        let names = read_dir(&folder).await.expect("listed");
        assert_eq!(names, [DirEntry { name: "state".into(), is_dir: false, len: 5 }]);
    });
}

#[test]
fn folders_and_names_follow_the_calls() {
    everywhere(|folder| async move {
        create_dir_all(folder.join("a/b")).await.expect("made");
        write_atomic(folder.join("a/b/x"), b"1".to_vec()).await.expect("written");
        rename(folder.join("a/b/x"), folder.join("a/y")).await.expect("renamed");
        sync_dir(folder.join("a")).await.expect("synced");
        remove_file(folder.join("a/y")).await.expect("removed");
        let error = read(folder.join("a/y")).await.expect_err("gone");
        assert_eq!(error.kind(), io::ErrorKind::NotFound);
        remove_dir_all(folder.join("a")).await.expect("removed");
        assert_eq!(read_dir(&folder).await.expect("listed"), []);
    });
}

#[test]
fn an_operation_dropped_while_it_runs_keeps_its_memory_until_it_is_done() {
    everywhere(|folder| async move {
        let file = File::create(folder.join("f")).await.expect("made");
        for _ in 0..100 {
            let mut write = Box::pin(file.write_all_at(vec![7; 100_000], 0));
            poll_fn(|cx| {
                let _pending = write.as_mut().poll(cx).is_pending();
                std::task::Poll::Ready(())
            })
            .await;
            drop(write);
        }
        let (result, _) = file.write_all_at(vec![8; 10], 0).await;
        result.expect("written");
    });
}
