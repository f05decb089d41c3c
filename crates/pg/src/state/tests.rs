//! What each change touches, and what it makes of the values.

use super::*;
use crate::datadir::slru::{self, MEMBERS_PER_PAGE, XIDS_PER_PAGE, XidStatus};
use crate::lsn::Lsn;
use crate::redo::effects::{Checkpoint, Origin, Parameters, TransactionEnd};

fn counters(track_commit_timestamp: bool) -> Counters {
    let checkpoint = Checkpoint::parse(&[0; Checkpoint::BYTES], false).expect("88 bytes are one");
    let parameters = Parameters {
        max_connections: 100,
        max_worker_processes: 8,
        max_wal_senders: 10,
        max_prepared_transactions: 2,
        max_locks_per_transaction: 64,
        wal_level: 1,
        wal_log_hints: false,
        track_commit_timestamp,
    };
    let mut counters = Counters { checkpoint, parameters };
    counters.checkpoint.next_xid = (7 << 32) + 1000;
    counters.checkpoint.next_multi = 1;
    counters
}

fn commit(xid: u32, subxids: &[u32]) -> TransactionEnd<'static> {
    TransactionEnd {
        committed: true,
        xid,
        subxids: subxids.to_vec(),
        time: 77,
        database: None,
        prepared: false,
        gid: None,
        origin: None,
    }
}

/// The values after a change, of none.
fn value(key: Key, changes: &[Change<'_>]) -> Vec<u8> {
    let mut value = Vec::new();
    changes.iter().for_each(|change| redo(key, &mut value, change).expect("the value fits"));
    value
}

#[test]
fn a_commit_over_two_pages_touches_both_logs_on_both_pages() {
    let end =
        Change::TransactionEnded(commit(XIDS_PER_PAGE - 1, &[XIDS_PER_PAGE, XIDS_PER_PAGE + 1]));
    let clog = |page| Touch::Redo(Key::Slru(Slru::Clog, page));
    let times = |page| Touch::Redo(Key::Slru(Slru::CommitTimestamps, page));
    assert_eq!(touches(&end, &counters(false)), [clog(0), clog(1)]);
    assert_eq!(touches(&end, &counters(true)), [clog(0), clog(1), times(40)]);
    let page = value(Key::Slru(Slru::Clog, 1), &[end]);
    let page = page.as_slice().try_into().expect("a page");
    assert_eq!(slru::xid_status(page, XIDS_PER_PAGE + 1), XidStatus::Committed);
    assert_eq!(slru::xid_status(page, XIDS_PER_PAGE - 1), XidStatus::InProgress);
}

#[test]
fn members_that_wrap_around_touch_the_last_and_the_first_page() {
    let members = vec![(5, 1), (6, 2)];
    let created = Change::MultiXactCreated { multi: u32::MAX, offset: u32::MAX, members };
    let last = u32::MAX / MEMBERS_PER_PAGE;
    let keys = [
        Key::Slru(Slru::MultiXactOffsets, u32::MAX / 2048),
        Key::Slru(Slru::MultiXactOffsets, 0),
        Key::Slru(Slru::MultiXactMembers, last),
        Key::Slru(Slru::MultiXactMembers, 0),
    ];
    assert_eq!(touches(&created, &counters(false)), keys.map(Touch::Redo));
    let first = value(Key::Slru(Slru::MultiXactMembers, 0), std::slice::from_ref(&created));
    assert_eq!(first.get(..8), Some(&[2, 0, 0, 0, 6, 0, 0, 0][..]));
}

#[test]
fn an_offset_written_before_its_page_was_zeroed_stays() {
    let members = vec![(5, 1), (6, 2)];
    let created = Change::MultiXactCreated { multi: 2047, offset: 10, members };
    let zeroed = Change::MultiXactOffsetsPageZeroed(1);
    let key = Key::Slru(Slru::MultiXactOffsets, 1);
    let page = value(key, &[created, zeroed.clone()]);
    assert_eq!(page.get(..8), Some(&[12, 0, 0, 0, 0, 0, 0, 0][..]));
    let mut page = vec![1; 8192];
    redo(key, &mut page, &zeroed).expect("a page");
    assert!(page.iter().all(|&byte| byte == 0), "an old page is zeroed whole");
}

#[test]
fn whole_segments_before_a_page_go_also_around_the_end() {
    let before = |cutoff, page| Removal::Before(cutoff).removes(Slru::Clog, page);
    assert!(before(32, 0) && before(32, 31) && !before(32, 32) && !before(31, 0));
    let pages = (1_u32 << 17) - 1;
    assert!(before(32, pages) && !before(pages, 0), "page numbers count in a circle");
    let members = Removal::Segments { from: 0x14077, until: 1 };
    let removes = |segment: u32| members.removes(Slru::MultiXactMembers, segment * 32);
    assert!(removes(0x14078) && removes(0) && !removes(1) && !removes(0x14076));
}

#[test]
fn the_next_id_is_behind_every_id_in_use() {
    let mut counters = counters(false);
    counters.note_xid(999);
    assert_eq!(counters.checkpoint.next_xid, (7 << 32) + 1000);
    counters.note_xid(1000);
    assert_eq!(counters.checkpoint.next_xid, (7 << 32) + 1001);
    counters.checkpoint.next_xid = (8 << 32) - 1;
    counters.note_xid(u32::MAX);
    assert_eq!(counters.checkpoint.next_xid, (8 << 32) + 3, "0, 1 and 2 are nobody's");
    counters.note_xid(u32::MAX);
    assert_eq!(counters.checkpoint.next_xid, (8 << 32) + 3);
}

#[test]
fn counters_come_back_from_their_bytes() {
    let mut counters = counters(true);
    counters.apply(&Change::TransactionEnded(commit(1500, &[1501])));
    assert_eq!(counters.checkpoint.newest_commit_timestamp_xid, 1501);
    let bytes = counters.to_bytes();
    assert_eq!(Counters::from_bytes(&bytes), Some(counters));
    for length in 0..bytes.len() {
        assert_eq!(bytes.get(..length).and_then(Counters::from_bytes), None);
    }
}

#[test]
fn commit_timestamps_begin_and_end_with_the_setting() {
    let (off, on) = (counters(false), counters(true));
    let change = |to: &Counters| Change::ParametersChanged(to.parameters);
    let page = Touch::Redo(Key::Slru(Slru::CommitTimestamps, 1));
    assert_eq!(touches(&change(&on), &off), [page]);
    assert_eq!(touches(&change(&on), &on), []);
    let gone = Touch::RemovePages(Slru::CommitTimestamps, Removal::All);
    assert_eq!(touches(&change(&off), &on), [gone]);
    let mut counters = off;
    counters.apply(&change(&on));
    assert_eq!(counters.checkpoint.oldest_commit_timestamp_xid, 1000);
    counters.apply(&change(&off));
    assert_eq!(counters.checkpoint.oldest_commit_timestamp_xid, 0);
}

#[test]
fn origins_take_the_first_free_slot_and_make_a_file() {
    let set = |origin, lsn| Change::OriginSet { origin, remote_lsn: Lsn(lsn) };
    let origin = Some(Origin { number: 3, lsn: Lsn(50), time: 1 });
    let replicated = Change::TransactionEnded(TransactionEnd { origin, ..commit(9, &[]) });
    let changes = [set(1, 10), set(2, 20), Change::OriginDropped(1), replicated, set(2, 5)];
    let slots = value(Key::Origins, &changes);
    let numbers: Vec<u8> = slots.iter().step_by(8).copied().collect();
    assert_eq!(numbers, [3, 50, 2, 5]);
    let file = origins_file(&slots);
    assert_eq!(origins_of_file(&file), Some(slots));
    assert_eq!(origins_of_file(file.get(..file.len() - 1).expect("it is longer")), None);
}

#[test]
fn a_value_that_is_none_of_its_key_is_refused() {
    let key = Key::Slru(Slru::Clog, 0);
    let error = redo(key, &mut vec![1; 100], &Change::ClogPageZeroed(0)).expect_err("too short");
    assert_eq!(error.to_string(), "invalid state of pg_xact page 0: a page of another length");
    assert!(redo(Key::Origins, &mut vec![0; 17], &Change::OriginDropped(1)).is_err());
}
