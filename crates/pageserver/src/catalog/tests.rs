//! Tests of the catalog: what is said of forks, times and restore points, on branches too.

use super::*;

const TAG: RelTag = RelNode::new(1663, 5, 16384).fork(Fork::Main);
const OTHER: RelTag = RelNode::new(1663, 5, 16385).fork(Fork::Main);

fn mark(lsn: u64, seconds: i64) -> Mark {
    Mark { lsn: Lsn(lsn), time: seconds * 1_000_000 }
}

fn sample() -> Catalog {
    let mut catalog = Catalog::default();
    catalog.add_base(TAG, 3);
    catalog.change(OTHER, |history| history.create(Lsn(100)));
    catalog.change(OTHER, |history| history.extend(Lsn(200), 7));
    catalog.change(TAG, |history| history.drop(Lsn(300)));
    catalog.note_hints_logged(Lsn::INVALID, false);
    catalog.note_hints_logged(Lsn(250), true);
    catalog.note_time(mark(150, 10));
    catalog.note_time(mark(250, 20));
    catalog.note_restore_point(mark(260, 21), b"before the change");
    catalog.note_time(mark(350, 30));
    catalog
}

#[test]
fn comes_back_from_its_bytes_as_of_then() {
    for at in [0, 100, 150, 250, 260, 300, 350, u64::MAX] {
        let catalog = sample();
        let bytes = catalog.to_bytes(Lsn(at));
        let then = Catalog::from_bytes(&bytes, None).expect("our own bytes are valid");
        assert_eq!(then.to_bytes(Lsn::MAX), bytes);
        for lsn in (0..400).step_by(50).map(Lsn).map(|lsn| lsn.min(Lsn(at))) {
            assert_eq!(then.forks_at(lsn), catalog.forks_at(lsn), "{lsn}");
            assert_eq!(then.hints_logged(lsn), catalog.hints_logged(lsn), "{lsn}");
            assert_eq!(then.time_at(lsn), catalog.time_at(lsn), "{lsn}");
        }
        for end in 0..bytes.len() {
            assert!(Catalog::from_bytes(&bytes[..end], None).is_none(), "cut at {end}");
        }
    }
}

#[test]
fn finds_the_forks_of_one_database() {
    let mut catalog = sample();
    catalog.add_base(RelNode::new(1663, 6, 1).fork(Fork::Main), 1);
    catalog.add_base(RelNode::new(1700, 5, 1).fork(Fork::Vm), 2);
    let found: Vec<_> = catalog.forks_of(Oid(1663), Oid(5)).into_iter().collect();
    assert_eq!(found, [(OTHER, 7)], "the other one was dropped");
}

#[test]
fn a_branch_begins_as_its_ancestor_was_and_goes_its_own_way() {
    let main = Rc::new(RefCell::new(sample()));
    let mut branch = Catalog::of_branch(Rc::clone(&main), Lsn(220));
    assert_eq!(branch.blocks(TAG), Some(3), "the drop came after the branch point");
    assert_eq!(branch.blocks_at(OTHER, Lsn(150)), Some(0));
    branch.change(OTHER, |history| history.extend(Lsn(230), 9));
    main.borrow_mut().change(OTHER, |history| history.extend(Lsn(400), 20));
    assert_eq!((branch.blocks(OTHER), main.borrow().blocks(OTHER)), (Some(9), Some(20)));
    assert_eq!(branch.blocks_at(OTHER, Lsn(220)), Some(7));
    assert_eq!(branch.origin(TAG, 1, Lsn::MAX), Origin::Base { blocks: 3 });
    assert_eq!(branch.forks_at(Lsn(230)).into_iter().collect::<Vec<_>>(), [(TAG, 3), (OTHER, 9)]);
    branch.change(TAG, |history| history.drop(Lsn(240)));
    assert_eq!(branch.forks_at(Lsn(240)).into_iter().collect::<Vec<_>>(), [(OTHER, 9)]);
    assert_eq!(branch.time_at(Lsn(400)), Some(10_000_000));
    assert_eq!(branch.restore_point("before the change", Lsn::MAX), None);
    assert!(!branch.hints_logged(Lsn(260)));
    let bytes = branch.to_bytes(Lsn::MAX);
    let again = Catalog::from_bytes(&bytes, Some((main, Lsn(220)))).expect("our own bytes");
    assert_eq!(again.forks_at(Lsn(230)), branch.forks_at(Lsn(230)));
}

#[test]
fn a_time_is_the_last_mark_not_after_it() {
    let catalog = sample();
    let at = |seconds: i64| catalog.mark_at(seconds * 1_000_000, Lsn::MAX).map(|mark| mark.lsn);
    assert_eq!(at(9), None);
    assert_eq!(at(10), Some(Lsn(150)));
    assert_eq!(at(29), Some(Lsn(250)));
    assert_eq!(at(99), Some(Lsn(350)));
    assert_eq!(catalog.mark_at(99_000_000, Lsn(260)).map(|mark| mark.lsn), Some(Lsn(250)));
}

#[test]
fn commits_of_the_same_moment_are_one_mark() {
    let mut catalog = Catalog::default();
    for commit in 0..1000 {
        catalog.note_time(Mark { lsn: Lsn(commit), time: commit.cast_signed() });
    }
    assert_eq!(catalog.marks.len(), 1);
}

#[test]
fn a_clock_that_was_set_back_counts_from_then_on() {
    let mut catalog = Catalog::default();
    for (lsn, seconds) in [(100, 0), (200, 3600), (300, 60), (310, 61), (400, 120)] {
        catalog.note_time(mark(lsn, seconds));
    }
    // One that was merely slow to write its commit.
    catalog.note_time(mark(500, 118));
    let at = |seconds: i64| catalog.mark_at(seconds * 1_000_000, Lsn::MAX).map(|mark| mark.lsn);
    assert_eq!([0, 60, 90, 150].map(at), [100, 300, 310, 400].map(|lsn| Some(Lsn(lsn))));
    assert_eq!(catalog.time_at(Lsn(305)), Some(60_000_000));
    assert_eq!(catalog.time_at(Lsn(500)), Some(120_000_000));
}

#[test]
fn a_clock_that_was_wrong_neither_lets_go_too_much_nor_for_ever_too_little() {
    let (day, week) = (24 * 3600, 7 * 24 * 3600);
    let mut catalog = Catalog::default();
    let far = 50 * 365 * day;
    // A server that begins in 2000, one that is far ahead of its time; both are put right.
    let marks = [(100, day), (200, 2 * day), (300, 5), (400, 3 * day), (500, far), (600, 4 * day)];
    for (lsn, seconds) in marks {
        catalog.note_time(mark(lsn, seconds));
    }
    let horizon = |now: i64| {
        let (since, now) = ((now - week) * 1_000_000, now * 1_000_000);
        catalog.last_before(since, now, Lsn::MAX).map(|mark| mark.lsn)
    };
    assert_eq!(horizon(4 * day + 1), None, "all of it is of this week");
    assert_eq!(horizon(week + day + 1), Some(Lsn(100)));
    assert_eq!(horizon(week + 2 * day + 1), Some(Lsn(300)));
    assert_eq!(horizon(week + 3 * day + 1), Some(Lsn(400)));
    assert_eq!(horizon(week + 4 * day + 1), Some(Lsn(600)));
}

#[test]
fn what_lies_before_the_cutoff_is_forgotten_and_no_more() {
    let (before, mut after) = (sample(), sample());
    after.forget_before(Lsn(260), &[]);
    for lsn in (260..400).step_by(10).map(Lsn) {
        assert_eq!(after.forks_at(lsn), before.forks_at(lsn), "{lsn}");
        assert_eq!(after.time_at(lsn), before.time_at(lsn), "{lsn}");
    }
    assert_eq!(after.marks.len(), 2);
    assert!(after.restore_point("before the change", Lsn::MAX).is_some());
    assert!(after.memory() <= before.memory());
}

#[test]
fn a_fork_that_nobody_can_see_is_forgotten_and_its_name_begins_anew() {
    let mut catalog = sample();
    catalog.forget_before(Lsn(300), &[Lsn(299)]);
    assert_eq!((catalog.forks(), catalog.blocks_at(TAG, Lsn(299))), (2, Some(3)));
    catalog.forget_before(Lsn(300), &[]);
    assert_eq!((catalog.forks(), catalog.blocks_at(TAG, Lsn(310))), (1, None));
    let bytes = catalog.to_bytes(Lsn::MAX);
    let mut again = Catalog::from_bytes(&bytes, None).expect("our own bytes");
    again.change(TAG, |history| history.extend(Lsn(400), 2));
    assert_eq!(again.origin(TAG, 1, Lsn(400)), Origin::Zero(Lsn(300)), "not what was there before");
}

#[test]
fn a_branch_still_sees_what_its_ancestor_forgets_after_the_branch_point() {
    let main = Rc::new(RefCell::new(sample()));
    let mut branch = Catalog::of_branch(Rc::clone(&main), Lsn(220));
    main.borrow_mut().forget_before(Lsn(350), &[Lsn(220)]);
    assert_eq!(branch.blocks(TAG), Some(3));
    branch.change(TAG, |history| history.drop(Lsn(230)));
    branch.forget_before(Lsn(240), &[]);
    assert_eq!(branch.blocks(TAG), None, "its ancestor's must not come back");
    assert_eq!(branch.blocks_at(TAG, Lsn(220)), Some(3), "but it is there at the branch point");
    assert_eq!(main.borrow().blocks_at(TAG, Lsn(220)), Some(3));
}

#[test]
fn a_branch_of_a_branch_may_leave_before_that_one_did() {
    let main = Rc::new(RefCell::new(Catalog::default()));
    main.borrow_mut().add_base(TAG, 3);
    main.borrow_mut().change(TAG, |history| history.extend(Lsn(100), 10));
    main.borrow_mut().change(TAG, |history| history.extend(Lsn(300), 20));
    let branch = Rc::new(RefCell::new(Catalog::of_branch(Rc::clone(&main), Lsn(400))));
    branch.borrow_mut().change(TAG, |history| history.extend(Lsn(410), 30));
    let mut child = Catalog::of_branch(Rc::clone(&branch), Lsn(200));
    assert_eq!(child.blocks(TAG), Some(10));
    child.change(TAG, |history| history.extend(Lsn(210), 5));
    assert_eq!(child.blocks(TAG), Some(10), "it has what was there at its own branch point");
    child.change(TAG, |history| history.extend(Lsn(220), 11));
    assert_eq!(child.blocks(TAG), Some(11));
    assert_eq!(branch.borrow().blocks(TAG), Some(30));
}

#[test]
fn copies_are_read_where_they_were_made() {
    let mut catalog = sample();
    let fork = |number| RelNode::new(1663, 7, number).fork(Fork::Main);
    catalog.change(fork(1), |history| history.copy_from(Lsn(210), TAG, 3));
    catalog.change(fork(2), |history| history.copy_from(Lsn(220), fork(1), 3));
    catalog.change(fork(1), |history| history.drop(Lsn(230)));
    catalog.change(fork(3), |history| history.copy_from(Lsn(240), OTHER, 3));
    catalog.change(fork(3), |history| history.drop(Lsn(250)));
    // The second copies the first as of before its end.
    assert_eq!(catalog.copy_sources(Lsn(300), &[]), [Lsn(220), Lsn(210)]);
    assert_eq!(catalog.copy_sources(Lsn(300), &[Lsn(245)]), [Lsn(240), Lsn(220), Lsn(210)]);
    catalog.change(fork(2), |history| history.drop(Lsn(260)));
    assert_eq!(catalog.copy_sources(Lsn(300), &[]), []);
    assert_eq!(catalog.copy_sources(Lsn(259), &[]), [Lsn(220), Lsn(210)]);
}
