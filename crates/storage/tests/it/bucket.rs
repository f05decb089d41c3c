//! Buckets in a directory, in memory behind faults, and on an S3 server.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use object_store::memory::InMemory;
use object_store::path::Path as ObjectPath;
use object_store::{ObjectStore, ObjectStoreExt, PutMode, PutOptions};
use runtime::bridge::Bridge;
use runtime::{executor, fs, io};
use storage::bucket::{Address, Bucket, Creation, Fault, Numbered, Patience};

use faulty::{Faults, Faulty, Rates};
use racy::Racy;

pub(crate) mod faulty;
mod racy;
mod s3;

/// More than one part, so that the upload is of several.
const LARGE_BYTES: usize = (20 << 20) + 12_345;

fn on_a_core<F: Future>(test: F) -> F::Output {
    executor::block_on(&io::Options::default(), test).expect("a core")
}

fn bridge() -> Bridge {
    Bridge::start().expect("a side thread")
}

/// Short, for stores that stall on purpose.
fn patience() -> Patience {
    Patience { attempt: Duration::from_millis(300), request: Duration::from_secs(60) }
}

fn faulty(seed: u64, rates: Rates) -> (Bucket, Arc<Faults>, Arc<dyn ObjectStore>) {
    let memory: Arc<dyn ObjectStore> = Arc::new(InMemory::new());
    let (store, faults) = Faulty::new(Arc::clone(&memory), seed, rates);
    let bucket = Bucket::over(Arc::new(store), ObjectPath::from("base"), bridge(), patience());
    (bucket, faults, memory)
}

/// A new folder that goes away with the value.
struct Folder(PathBuf);

impl Folder {
    fn new(name: &str) -> Folder {
        let mut nonce = [0; 8];
        runtime::random::fill(&mut nonce);
        let unique = format!("howdah-bucket-{name}-{:016x}", u64::from_le_bytes(nonce));
        let path = std::env::temp_dir().join(unique);
        fs::blocking::create_dir_all(&path).expect("a temporary folder");
        Folder(path)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        std::fs::remove_dir_all(&self.0).ok();
    }
}

fn pattern(bytes: usize) -> Vec<u8> {
    (0..bytes).map(|at| u8::try_from(at * 31 % 251).expect("below 251")).collect()
}

/// What every store must do.
async fn check_bucket(bucket: &Bucket, folder: &Folder) {
    bucket.probe().await.expect("conditional writes are atomic");
    assert_eq!(bucket.list("probe").await.expect("a list"), [], "the probe left something behind");

    assert_eq!(bucket.get("a/1", 100).await, Ok(None));
    assert_eq!(bucket.create("a/1", b"one".to_vec()).await, Ok(Creation::Created));
    assert_eq!(bucket.create("a/1", b"two".to_vec()).await, Ok(Creation::Exists));
    assert_eq!(bucket.get("a/1", 100).await, Ok(Some(b"one".to_vec())));
    let too_large = bucket.get("a/1", 2).await.expect_err("three bytes are more than two");
    assert_eq!(too_large.fault, Fault::TooLarge);

    bucket.put("a/2", b"second".to_vec()).await.expect("put");
    bucket.put("ab/3", b"elsewhere".to_vec()).await.expect("put");
    let names = |listed: Vec<storage::bucket::Listed>| {
        listed.into_iter().map(|object| (object.name, object.bytes)).collect::<Vec<_>>()
    };
    let all = names(bucket.list("a").await.expect("a list"));
    assert_eq!(all, [("a/1".to_owned(), 3), ("a/2".to_owned(), 6)]);
    let rest = names(bucket.list_after("a", Some("a/1")).await.expect("a list"));
    assert_eq!(rest, [("a/2".to_owned(), 6)]);
    bucket.delete("a/1").await.expect("delete");
    bucket.delete("a/1").await.expect("deleting again is no error");
    assert_eq!(bucket.get("a/1", 100).await, Ok(None));

    for bytes in [0, 1000, LARGE_BYTES] {
        let (source, copy) = (folder.0.join("source"), folder.0.join("copy"));
        let content = pattern(bytes);
        fs::write_atomic(&source, content.clone()).await.expect("write");
        let (mut sent, mut received) = (0, 0);
        let name = format!("layers/{bytes}");
        let uploaded = bucket.upload(&source, &name, |part| sent += part).await;
        let downloaded = bucket.download(&name, &copy, |part| received += part).await;
        assert_eq!((uploaded, downloaded), (Ok(bytes as u64), Ok(bytes as u64)));
        assert!(sent >= bytes as u64 && received >= bytes as u64, "progress: {sent}, {received}");
        assert!(fs::read(&copy).await.expect("read") == content, "{bytes} bytes came back changed");
    }
    let missing = bucket.download("layers/none", &folder.0.join("none"), |_| ()).await;
    assert_eq!(missing.expect_err("there is none").fault, Fault::Missing);
    assert!(!folder.0.join("none").exists(), "a file appeared for an object that is missing");
}

#[test]
fn a_directory_is_a_bucket() {
    on_a_core(async {
        let (folder, files) = (Folder::new("directory"), Folder::new("files"));
        let address = Address::Directory(folder.0.join("new/below"));
        let bucket = Bucket::open(&address, bridge()).expect("it opens");
        check_bucket(&bucket, &files).await;
    });
}

#[test]
fn requests_outlast_faults() {
    let rates = Rates { refused: 10, reply_lost: 10, stalled: 3 };
    for seed in 1..=4 {
        on_a_core(async {
            let (bucket, faults, _memory) = faulty(seed, rates);
            check_bucket(&bucket, &Folder::new("faulty")).await;
            assert!(faults.met.load(Ordering::Relaxed) > 5, "seed {seed} met hardly a fault");
        });
    }
}

#[test]
fn a_store_that_is_down_is_an_error_in_bounded_time_and_no_more_than_that() {
    on_a_core(async {
        let (memory, rates) = (Arc::new(InMemory::new()), Rates::default());
        let (store, faults) = Faulty::new(memory, 1, rates);
        let patience =
            Patience { attempt: Duration::from_secs(1), request: Duration::from_secs(1) };
        let bucket = Bucket::over(Arc::new(store), ObjectPath::default(), bridge(), patience);
        bucket.put("a", b"before".to_vec()).await.expect("put");
        faults.set_down(true);
        let error = bucket.get("a", 100).await.expect_err("it is down");
        assert!(error.is_transient() && error.hint().is_some(), "{error}");
        assert_eq!(error.to_string(), "could not read \"a\": Generic faulty error: 503 slow down");
        faults.set_down(false);
        assert_eq!(bucket.get("a", 100).await, Ok(Some(b"before".to_vec())));
    });
}

#[test]
fn a_store_that_looks_before_it_writes_is_refused() {
    on_a_core(async {
        let base = ObjectPath::default();
        let bucket = Bucket::over(Arc::new(Racy::default()), base, bridge(), patience());
        // In sequence it does all that one asks.
        assert_eq!(bucket.create("a", b"one".to_vec()).await, Ok(Creation::Created));
        assert_eq!(bucket.create("a", b"two".to_vec()).await, Ok(Creation::Exists));
        let error = bucket.probe().await.expect_err("its conditional write is not atomic");
        assert!(matches!(error.fault, Fault::Unsafe { .. }), "{error}");
        assert!(error.to_string().contains("is not safe to use"), "{error}");
    });
}

#[test]
fn versions_follow_each_other_and_a_claim_ends_the_earlier_writer() {
    let rates = Rates { refused: 10, reply_lost: 15, stalled: 2 };
    for seed in 1..=4 {
        on_a_core(async {
            let (bucket, _faults, _memory) = faulty(seed, rates);
            let document = Numbered::new(&bucket, "main/manifest");
            assert_eq!(document.newest().await, Ok(None));
            let (mut first, begun) = document.claim(b"empty").await.expect("a claim");
            assert_eq!((begun.generation, begun.body.as_slice()), (1, &b"empty"[..]));
            for version in 0..5 {
                let body = format!("first's {version}").into_bytes();
                first.publish(&body).await.expect("nobody else writes");
            }
            let (mut second, taken) = document.claim(b"empty").await.expect("a claim");
            assert_eq!((taken.generation, taken.body.as_slice()), (2, &b"first's 4"[..]));
            let stale = first.publish(b"too late").await.expect_err("it was replaced");
            assert_eq!(stale.fault, Fault::Stale { generation: 2 });
            second.publish(b"second's").await.expect("nobody else writes");
            let newest = document.newest().await.expect("it can be read").expect("there is one");
            assert_eq!((newest.generation, newest.body.as_slice()), (2, &b"second's"[..]));
            assert_eq!(newest.number, second.number());
        });
    }
}

#[test]
fn a_writer_that_slept_past_the_removal_of_its_number_is_still_refused() {
    on_a_core(async {
        let (bucket, _faults, memory) = faulty(1, Rates::default());
        let document = Numbered::new(&bucket, "manifest");
        let (mut sleeper, _) = document.claim(b"").await.expect("a claim");
        let (mut writer, _) = document.claim(b"").await.expect("a claim");
        for version in 0..300_u32 {
            writer.publish(&version.to_le_bytes()).await.expect("nobody else writes");
        }
        let next = format!("base/manifest/{:020}", sleeper.number() + 1);
        let gone = memory.head(&ObjectPath::from(next)).await;
        assert!(gone.is_err(), "the sleeper's next number is still taken: this tests nothing");
        let stale = sleeper.publish(b"I am back").await.expect_err("it was replaced");
        assert_eq!(stale.fault, Fault::Stale { generation: 2 });
        let newest = document.newest().await.expect("it can be read").expect("there is one");
        assert_eq!(newest.body, 299_u32.to_le_bytes());
    });
}

#[test]
fn of_many_claims_at_once_one_holds_in_the_end() {
    on_a_core(async {
        let (bucket, _faults, _memory) = faulty(1, Rates::default());
        let document = Numbered::new(&bucket, "manifest");
        let claims: Vec<_> = (0..4)
            .map(|_| {
                let document = document.clone();
                executor::spawn(async move { document.claim(b"").await })
            })
            .collect();
        let mut writers = Vec::new();
        for claim in claims {
            let (writer, _) = claim.await.expect("not aborted").expect("a claim");
            writers.push(writer);
        }
        let mut published = 0;
        for writer in &mut writers {
            published += usize::from(writer.publish(b"mine").await.is_ok());
        }
        assert_eq!(published, 1, "one writer is the last to have claimed");
    });
}

#[test]
fn a_damaged_version_is_an_error_that_names_it() {
    on_a_core(async {
        let (bucket, _faults, memory) = faulty(1, Rates::default());
        let document = Numbered::new(&bucket, "manifest");
        let (writer, _) = document.claim(b"layers").await.expect("a claim");
        let path = ObjectPath::from(format!("base/manifest/{:020}", writer.number()));
        let whole = memory.get(&path).await.expect("it is there").bytes().await.expect("bytes");
        let mut damaged = whole.to_vec();
        *damaged.last_mut().expect("a body") ^= 1;
        let options = PutOptions::from(PutMode::Overwrite);
        memory.put_opts(&path, damaged.into(), options).await.expect("put");
        let error = document.newest().await.expect_err("its checksum is wrong");
        let expected = format!(
            "could not read \"manifest/{:020}\": it is damaged: its checksum is wrong",
            writer.number()
        );
        assert_eq!(error.to_string(), expected);
    });
}
