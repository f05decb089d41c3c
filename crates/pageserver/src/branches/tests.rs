//! Tests of `branches`: names and moments, and changes of the list that meet each other, on a simulated disk.

use std::time::Duration;

use runtime::executor::{self, block_on};
use runtime::io::simulated::{Simulation, cut_power};
use runtime::io::{Backend, Options};
use storage::store::Commit;
use storage::store::gc::Keep;
use storage::version::Version;

use super::*;
use crate::catalog::Catalog;
use crate::manifest::Manifest;
use crate::wal_store::writer::WalWriter;

#[test]
fn a_moment_is_an_lsn_a_time_or_a_restore_point() {
    for (text, at) in [
        ("", At::Latest),
        ("now", At::Latest),
        ("0/16B3748", At::Lsn(Lsn(0x16B_3748))),
        ("2000-01-01T00:00:01Z", At::Time(1_000_000)),
        ("before the change", At::RestorePoint("before the change".to_owned())),
    ] {
        assert_eq!(At::parse(text), at, "{text}");
    }
}

#[test]
fn names_are_folders_and_databases() {
    for name in ["feature", "a", "2026-11", "x_y.z"] {
        assert!(is_name(name), "{name}");
    }
    for name in ["", ".", "..", "-x", "a/b", "a b", "ä", "a@b", &"x".repeat(61)] {
        assert!(!is_name(name), "{name}");
    }
}

#[test]
fn a_list_with_any_byte_changed_is_refused() {
    let bytes = to_bytes(&BTreeMap::new());
    assert_eq!(sealed::open::<Vec<Point>>(TITLE, &bytes), Some(Vec::new()));
    for place in 0..bytes.len() {
        let mut changed = bytes.clone();
        changed[place] ^= 1;
        assert_eq!(sealed::open::<Vec<Point>>(TITLE, &changed), None, "byte {place}");
    }
}

/// Where pages begin, where branches leave, and where `main` ends.
const BEGIN: Lsn = Lsn(0x100_0000);
const LEFT: Lsn = Lsn(0x180_0000);
const END: Lsn = Lsn(0x200_0000);

fn in_a_world_of_its_own<F: Future<Output = ()>>(seed: u64, scenario: F) {
    let simulation = Simulation { seed, ..Simulation::default() };
    let options = Options { simulation, ..Options::on(Backend::Simulated) };
    block_on(&options, scenario).expect("the world goes on");
}

/// A page server's directory with nothing in it but `main`, which has everything in layers.
async fn found(directory: &Path) {
    let main = directory.join(timeline::FOLDER).join(MAIN);
    fs::create_dir_all(&main).await.expect("made");
    let store = TimelineStore::create(&main).await.expect("created");
    let catalog = Some(Catalog::default().to_bytes(Lsn::MAX));
    let flushed_through = Some(Version(END.0));
    store.commit(Commit { layers: Vec::new(), flushed_through, catalog }).await.expect("written");
    for folder in [directory.join(timeline::FOLDER), directory.to_owned(), PathBuf::new()] {
        fs::sync_dir(folder).await.expect("durable");
    }
}

async fn open(directory: &Path) -> Result<Rc<Branches>, Error> {
    let manifest = Manifest {
        system_identifier: 1,
        timeline: 1,
        start: BEGIN,
        end: BEGIN,
        wal_segment_bytes: 16 << 20,
        server_version: 150_000,
        data_checksums: false,
        tablespaces: Vec::new(),
    };
    let settings = Settings::default();
    let main = Rc::new(Timeline::open_main(directory, manifest, &settings).await?);
    Branches::open(directory, &settings, main).await.map(Rc::new)
}

async fn make(branches: &Branches, name: &str, from: &str) -> Result<(), BranchError> {
    branches.create(name, from, At::Lsn(LEFT)).await.map(drop)
}

#[test]
fn a_branch_made_anew_is_not_touched_by_work_on_its_namesake() {
    in_a_world_of_its_own(1, async {
        let directory = Path::new("pageserver");
        found(directory).await;
        let branches = open(directory).await.expect("opened");
        make(&branches, "dev", MAIN).await.expect("made");
        let before = branches.get("dev").expect("it is there");
        for number in 1..5 {
            let flushed_through = Some(Version(LEFT.0 + number));
            let commit = Commit { flushed_through, ..Commit::default() };
            before.store.commit(commit).await.expect("written");
        }
        branches.delete("dev").await.expect("deleted");
        make(&branches, "dev", MAIN).await.expect("made anew");
        // Maintenance, an upload or a flush may have been on its way.
        let keep = Keep { cutoff: Version(END.0), pins: Vec::new() };
        before.store.gc(&keep).await.expect_err("it is deleted");
        before.store.commit(Commit::default()).await.expect_err("it is deleted");
        assert!(before.store.begin_layer().await.is_err(), "it is deleted");
        let reopened = open(directory).await.expect("all that is there belongs together");
        let dev = reopened.get("dev").expect("it is there");
        assert_eq!((dev.store.kept_from(), dev.flushed()), (Version(0), LEFT));
    });
}

#[test]
fn of_two_that_make_a_branch_of_one_name_one_is_refused() {
    let mut late = 0;
    for step in 0..300_u64 {
        in_a_world_of_its_own(step, async {
            let directory = Path::new("pageserver");
            found(directory).await;
            let branches = open(directory).await.expect("opened");
            let first = Rc::clone(&branches);
            let first = executor::spawn(async move { make(&first, "dev", MAIN).await });
            clock::sleep(Duration::from_micros(step * 40)).await;
            let second = make(&branches, "dev", MAIN).await;
            let first = first.await.expect("it ends");
            assert!(first.is_ok() != second.is_ok(), "{first:?}, {second:?} after {step}");
            if let Err(BranchError::Refused(message, _)) = second {
                late += u32::from(message.contains("already"));
            }
        });
    }
    assert!(late > 0, "some come when the other is done");
}

#[test]
fn a_branch_is_not_made_of_one_that_is_being_deleted() {
    let (mut made, mut refused) = (0, 0);
    for step in 0..300_u64 {
        in_a_world_of_its_own(step, async {
            let directory = Path::new("pageserver");
            found(directory).await;
            let branches = open(directory).await.expect("opened");
            make(&branches, "dev", MAIN).await.expect("made");
            let deleting = Rc::clone(&branches);
            let deleting = executor::spawn(async move { deleting.delete("dev").await });
            clock::sleep(Duration::from_micros(step * 40)).await;
            match make(&branches, "child", "dev").await {
                Ok(()) => made += 1,
                Err(_) => refused += 1,
            }
            let _deleted = deleting.await.expect("it ends");
            let reopened = open(directory).await.expect("each branch comes from another");
            assert_eq!(reopened.all().len(), branches.all().len());
        });
    }
    assert!(refused > 0, "{made} made, {refused} refused");
}

#[test]
fn a_branch_and_the_first_wal_survive_a_power_cut() {
    for seed in 0..40 {
        in_a_world_of_its_own(seed, async {
            let directory = Path::new("pageserver");
            found(directory).await;
            let branches = open(directory).await.expect("opened");
            make(&branches, "dev", MAIN).await.expect("made");
            let layout = branches.get(MAIN).expect("it is there").wal_layout.clone();
            let mut writer = WalWriter::new(layout.clone());
            writer.append(END, vec![7; 100]).await.0.expect("written");
            cut_power();
            clock::sleep(Duration::from_secs(1)).await;
            let reopened = open(directory).await.expect("all that is there belongs together");
            assert!(reopened.get("dev").is_some(), "it was made, seed {seed}");
            let segments = layout.segments().await.expect("listed");
            assert_eq!(segments, [(2, 100)], "it was acknowledged, seed {seed}");
            branches.delete("dev").await.expect("deleted");
        });
    }
}
