//! The page stream: every byte of a request and a reply.

use pg::datadir::relation::{Fork, RelNode};
use pg::datadir::slru::Slru;
use pg::limits::PAGESTREAM_BLOCKS_MAX;
use pg::lsn::Lsn;
use pg::oid::Oid;
use pg::sqlstate::SqlState;
use pg::wire::pagestream::{Answer, Blocks, LATEST, PAGE_BYTES, Question, Reply, Request};
use proptest::prelude::*;

use super::config;

const NODE: RelNode = RelNode::new(1663, 5, 16384);

fn written(request: Request<'_>) -> Vec<u8> {
    let mut bytes = Vec::new();
    request.write(&mut bytes);
    bytes
}

#[test]
fn a_request_has_the_documented_bytes() {
    let question = Question::Pages(NODE.fork(Fork::Vm), Blocks::List(&[0, 258]));
    let bytes = written(Request { id: 7, lsn: LATEST, not_modified_since: Lsn(9), question });
    assert_eq!(
        bytes,
        [
            &b"g"[..],
            b"\0\0\0\0\0\0\0\x07",
            b"\xFF\xFF\xFF\xFF\xFF\xFF\xFF\xFF",
            b"\0\0\0\0\0\0\0\x09",
            b"\0\0\x06\x7F\0\0\0\x05\0\0\x40\0\x02",
            b"\0\x02",
            b"\0\0\0\0\0\0\x01\x02",
        ]
        .concat()
    );
    let Question::Pages(relation, blocks) = Request::read(&bytes).unwrap().question else {
        panic!("pages")
    };
    assert_eq!(relation, NODE.fork(Fork::Vm));
    assert_eq!((blocks.len(), blocks.iter().collect::<Vec<_>>()), (2, vec![0, 258]));
}

#[test]
fn every_question_reads_back() {
    let (id, lsn, not_modified_since) = (1, Lsn(2), Lsn(3));
    let (tablespace, database) = (Oid(1663), Oid(5));
    for question in [
        Question::Exists(NODE.fork(Fork::Main)),
        Question::Blocks(NODE.fork(Fork::Fsm)),
        Question::DatabaseBytes { tablespace, database },
        Question::LogSegment { log: Slru::CommitTimestamps, segment: 70_000 },
    ] {
        let request = Request { id, lsn, not_modified_since, question };
        assert_eq!(Request::read(&written(request)), Ok(request));
    }
}

#[test]
fn every_answer_reads_back() {
    let pages = vec![7; 2 * PAGE_BYTES];
    for answer in [
        Answer::Exists(true),
        Answer::Exists(false),
        Answer::Blocks(12),
        Answer::DatabaseBytes(1 << 40),
        Answer::Pages(&pages),
        Answer::LogSegment(&pages),
        Answer::LogSegment(&[]),
        Answer::Error { sqlstate: SqlState::UNDEFINED_FILE, message: b"gone", detail: b"" },
    ] {
        let reply = Reply { id: 1, lsn: Lsn(2), answer };
        let mut bytes = Vec::new();
        reply.write(&mut bytes);
        assert_eq!(Reply::read(&bytes), Ok(reply));
        assert!(Reply::read(&bytes[..bytes.len() - 1]).is_err(), "{}", bytes[0]);
    }
}

#[test]
fn refuses_counts_and_forks_out_of_bounds() {
    let blocks = vec![0; usize::from(PAGESTREAM_BLOCKS_MAX) + 1];
    for count in [0, blocks.len()] {
        let question = Question::Pages(NODE.fork(Fork::Main), Blocks::List(&blocks[..count]));
        let request = Request { id: 1, lsn: Lsn(2), not_modified_since: Lsn(3), question };
        assert!(Request::read(&written(request)).is_err(), "{count}");
    }
    let question = Question::Exists(NODE.fork(Fork::Init));
    let mut bytes = written(Request { id: 1, lsn: Lsn(2), not_modified_since: Lsn(3), question });
    *bytes.last_mut().unwrap() = 4;
    assert!(Request::read(&bytes).is_err());
}

proptest! {
    #![proptest_config(config())]

    #[test]
    fn any_bytes_give_an_answer(kind in prop::sample::select(b"enzgx".to_vec()), rest in prop::collection::vec(any::<u8>(), 0..80)) {
        let bytes = [&[kind], &rest[..]].concat();
        prop_assert_eq!(Request::read(&bytes), Request::read(&bytes));
        prop_assert_eq!(Reply::read(&bytes), Reply::read(&bytes));
        if let Ok(request) = Request::read(&bytes) {
            prop_assert_eq!(written(request), bytes);
        }
    }
}
