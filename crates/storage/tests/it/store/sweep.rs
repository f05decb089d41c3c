//! Litter in an object store: removed when it has been there for long enough, by who may, and nothing else.

use std::collections::BTreeSet;
use std::sync::atomic::Ordering;
use std::time::Duration;

use runtime::io::simulated::DiskFaults;
use runtime::{clock, executor};
use storage::bucket::{Bucket, Fault, Numbered, Sweep, Swept, Writer};
use storage::limits::{LITTER_AGE_MIN, LITTER_AT_ONCE};

use super::remote::faulty;
use super::simulated;
use crate::bucket::faulty::Rates;

const FAULTS: Rates = Rates { refused: 10, reply_lost: 10, stalled: 3 };

fn is_litter(name: &str) -> bool {
    name.starts_with("things/litter")
}

async fn put(bucket: &Bucket, names: &[&str]) {
    for name in names {
        bucket.put(name, name.as_bytes().to_vec()).await.expect("put");
    }
}

async fn names(bucket: &Bucket) -> Vec<String> {
    let listed = bucket.list("things").await.expect("a list");
    listed.into_iter().map(|object| object.name).collect()
}

async fn look(sweep: &mut Sweep, bucket: &Bucket) -> Swept {
    sweep.look(bucket.list("things").await.expect("a list"), is_litter)
}

/// Removes all that is due; how many objects that were.
async fn remove(sweep: &mut Sweep, writer: &Writer) -> u64 {
    let mut objects = 0;
    while sweep.has_due() {
        objects += sweep.remove(writer).await.expect("nobody else writes").objects;
    }
    objects
}

async fn claim(bucket: &Bucket) -> Writer {
    Numbered::new(bucket, "manifest").claim(b"").await.expect("a claim").0
}

#[test]
fn litter_goes_when_it_was_found_twice_and_long_apart() {
    for seed in 1..=8 {
        simulated(seed, DiskFaults::default(), async move {
            let (bucket, faults, _memory) = faulty(seed, FAULTS);
            let writer = claim(&bucket).await;
            let mut sweep = Sweep::new(&bucket);
            put(&bucket, &["things/litter-1", "things/named", "things/else", "other/litter"]).await;
            assert!(sweep.wants_look());
            let found = look(&mut sweep, &bucket).await;
            assert_eq!(found, Swept { objects: 1, bytes: 15 });
            assert!(!sweep.has_due() && !sweep.wants_look(), "it may be on its way to a name");
            clock::sleep(LITTER_AGE_MIN / 2).await;
            put(&bucket, &["things/litter-2"]).await;
            assert_eq!(look(&mut sweep, &bucket).await.objects, 2);
            assert!(!sweep.has_due(), "half the time has passed");
            clock::sleep(LITTER_AGE_MIN / 2).await;
            assert!(sweep.wants_look());
            look(&mut sweep, &bucket).await;
            assert_eq!(remove(&mut sweep, &writer).await, 1);
            assert_eq!(names(&bucket).await, ["things/else", "things/litter-2", "things/named"]);
            clock::sleep(LITTER_AGE_MIN).await;
            look(&mut sweep, &bucket).await;
            assert_eq!(remove(&mut sweep, &writer).await, 1);
            clock::sleep(LITTER_AGE_MIN).await;
            assert_eq!(look(&mut sweep, &bucket).await, Swept::default());
            assert!(!sweep.has_due());
            assert_eq!(names(&bucket).await, ["things/else", "things/named"]);
            assert_eq!(bucket.list("other").await.expect("a list").len(), 1);
            assert!(faults.met.load(Ordering::Relaxed) > 0, "seed {seed} met no fault");
        });
    }
}

#[test]
fn what_has_been_named_since_stays() {
    simulated(1, DiskFaults::default(), async {
        let (bucket, _faults, _memory) = faulty(1, Rates::default());
        let writer = claim(&bucket).await;
        let mut sweep = Sweep::new(&bucket);
        put(&bucket, &["things/litter-1", "things/litter-2"]).await;
        look(&mut sweep, &bucket).await;
        clock::sleep(LITTER_AGE_MIN).await;
        let named = BTreeSet::from(["things/litter-1"]);
        let listed = bucket.list("things").await.expect("a list");
        sweep.look(listed, |name| is_litter(name) && !named.contains(name));
        assert_eq!(remove(&mut sweep, &writer).await, 1);
        assert_eq!(names(&bucket).await, ["things/litter-1"]);
    });
}

#[test]
fn a_writer_that_was_replaced_removes_nothing() {
    simulated(1, DiskFaults::default(), async {
        let (bucket, _faults, _memory) = faulty(1, Rates::default());
        let stale = claim(&bucket).await;
        let mut sweep = Sweep::new(&bucket);
        put(&bucket, &["things/litter-1", "things/litter-2"]).await;
        look(&mut sweep, &bucket).await;
        clock::sleep(LITTER_AGE_MIN).await;
        look(&mut sweep, &bucket).await;
        let _newer = claim(&bucket).await;
        let refused = sweep.remove(&stale).await.expect_err("it was replaced");
        assert_eq!(refused.fault, Fault::Stale { generation: 2 });
        assert_eq!(names(&bucket).await.len(), 2);
    });
}

#[test]
fn a_writer_that_is_replaced_in_the_middle_of_a_batch_removes_no_more_than_what_is_under_way() {
    simulated(1, DiskFaults::default(), async {
        let (bucket, _faults, _memory) = faulty(1, Rates::default());
        let stale = claim(&bucket).await;
        let mut sweep = Sweep::new(&bucket);
        for number in 0..LITTER_AT_ONCE {
            put(&bucket, &[&format!("things/litter-{number:04}")]).await;
        }
        look(&mut sweep, &bucket).await;
        clock::sleep(LITTER_AGE_MIN).await;
        look(&mut sweep, &bucket).await;
        let removing = executor::spawn(async move { sweep.remove(&stale).await });
        let _newer = claim(&bucket).await;
        let left = names(&bucket).await.len();
        let refused = removing.await.expect("not aborted").expect_err("it was replaced");
        assert_eq!(refused.fault, Fault::Stale { generation: 2 });
        let stayed = names(&bucket).await.len();
        assert!(stayed > 1 && stayed + 1 >= left, "{left} were left, {stayed} stayed");
    });
}

#[test]
fn much_goes_in_batches_and_a_store_that_is_down_ends_one() {
    simulated(1, DiskFaults::default(), async {
        let (bucket, faults, _memory) = faulty(1, Rates::default());
        let writer = claim(&bucket).await;
        let mut sweep = Sweep::new(&bucket);
        for number in 0..LITTER_AT_ONCE + 10 {
            put(&bucket, &[&format!("things/litter-{number:04}")]).await;
        }
        look(&mut sweep, &bucket).await;
        clock::sleep(LITTER_AGE_MIN).await;
        look(&mut sweep, &bucket).await;
        let removed = sweep.remove(&writer).await.expect("nobody else writes");
        assert_eq!(removed.objects, LITTER_AT_ONCE as u64);
        faults.set_down(true);
        sweep.remove(&writer).await.expect_err("it is down");
        faults.set_down(false);
        sweep.put_off();
        assert!(!sweep.has_due() && !sweep.wants_look());
        assert_eq!(names(&bucket).await.len(), 10);
        clock::sleep(LITTER_AGE_MIN + Duration::from_secs(1)).await;
        look(&mut sweep, &bucket).await;
        assert_eq!(remove(&mut sweep, &writer).await, 10);
    });
}
