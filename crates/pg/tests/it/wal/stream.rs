//! The stream decoder: any pieces, any start, torn ends, lost and damaged bytes.

use pg::lsn::Lsn;
use pg::wal::error::{WalError, WalErrorKind};
use pg::wal::reader::StreamDecoder;
use pg::wal::record::RawRecord;
use pg::wal::segment::WalVersion;
use proptest::prelude::*;

use super::writer::{SEGMENT, SYSTEM, Writer};

const START: u64 = 3 * SEGMENT as u64;
const XLOG: u8 = 0;
const HEAP: u8 = 10;

/// Small records, and some that fill pages.
fn sample() -> Writer {
    let mut writer = Writer::new(START);
    for number in 0..400_usize {
        let length = match number % 50 {
            49 => 30_000,
            other => other * 7,
        };
        writer.record(HEAP, 0, &vec![number.to_le_bytes()[0]; length]);
    }
    writer
}

/// What comes of feeding these bytes in pieces: starts of records, and why it ended.
fn decode(decoder: &mut StreamDecoder, bytes: &[u8], piece: usize) -> (Vec<u64>, Option<WalError>) {
    let mut starts = Vec::new();
    for mut input in bytes.chunks(piece) {
        loop {
            match decoder.next(&mut input) {
                Ok(Some(record)) => {
                    check(&record);
                    starts.push(record.lsn.0);
                }
                Ok(None) => break,
                Err(error) => return (starts, Some(error)),
            }
        }
    }
    (starts, None)
}

fn check(record: &RawRecord<'_>) {
    assert!(record.end_lsn > record.lsn);
    record.decode().unwrap();
}

fn starts(writer: &Writer) -> Vec<u64> {
    writer.records.iter().map(|record| record.0).collect()
}

#[test]
fn gives_the_same_records_for_any_pieces() {
    let writer = sample();
    for piece in [1, 3, 24, 8191, 8192, 8193, 100_000, usize::MAX] {
        let mut decoder = StreamDecoder::at_record(Lsn(START), SEGMENT).expect_system(SYSTEM);
        let (found, error) = decode(&mut decoder, &writer.bytes, piece);
        assert_eq!((found, error), (starts(&writer), None), "{piece}");
        assert_eq!(decoder.position(), Lsn(writer.position()));
        assert_eq!((decoder.timeline(), decoder.version()), (Some(1), Some(WalVersion::V15)));
    }
}

#[test]
fn gives_the_bytes_of_each_record() {
    let writer = sample();
    let mut decoder = StreamDecoder::at_record(Lsn(START), SEGMENT);
    let mut input = &writer.bytes[..];
    for (start, bytes) in &writer.records {
        let record = decoder.next(&mut input).unwrap().unwrap();
        assert_eq!((record.lsn.0, record.bytes), (*start, &bytes[..]));
    }
}

#[test]
fn finds_the_first_record_behind_any_place() {
    let writer = sample();
    let whole = starts(&writer);
    for offset in (0..writer.bytes.len()).step_by(997) {
        let from = START + u64::try_from(offset).unwrap();
        let mut decoder = StreamDecoder::resync(Lsn(from), SEGMENT);
        let (found, error) = decode(&mut decoder, &writer.bytes[offset..], 5000);
        assert_eq!(error, None);
        let skipped = whole.len() - found.len();
        assert_eq!(found, whole[skipped..], "{offset}");
        // At most what begins on this page and a record over the pages after it is passed over.
        assert!(found.first().is_none_or(|&first| first < from + 48_000), "{offset}");
    }
}

#[test]
fn begins_at_a_record_inside_a_page() {
    let writer = sample();
    let (start, _) = writer.records[20];
    let offset = usize::try_from(start - START).unwrap();
    let decoder = StreamDecoder::at_record(Lsn(start), SEGMENT);
    let mut decoder = decoder.assume_version(WalVersion::V15);
    let (found, error) = decode(&mut decoder, &writer.bytes[offset..], 5000);
    assert_eq!((found, error), (starts(&writer)[20..].to_vec(), None));
}

#[test]
fn stops_at_a_torn_record() {
    let writer = sample();
    let (start, record) = &writer.records[300];
    let offset = usize::try_from(start - START).unwrap();
    for (name, cut, kind) in [
        ("zeros", 0, WalErrorKind::RecordLength(0)),
        ("header torn", 8, WalErrorKind::PreviousRecord(Lsn(0))),
    ] {
        let mut bytes = writer.bytes[..offset + cut].to_vec();
        bytes.resize(writer.bytes.len(), 0);
        let mut decoder = StreamDecoder::at_record(Lsn(START), SEGMENT);
        let (found, error) = decode(&mut decoder, &bytes, 5000);
        assert_eq!(found, starts(&writer)[..300], "{name}");
        assert_eq!(error, Some(WalError { lsn: Lsn(*start), kind }), "{name}");
        assert!(error.unwrap().is_end_of_wal());
        assert!(decoder.end().0 <= *start);
        // It stays there.
        assert_eq!(decoder.next(&mut &bytes[..]).err(), error);
    }
    let mut bytes = writer.bytes.clone();
    bytes[offset + record.len() - 1] ^= 1;
    let mut decoder = StreamDecoder::at_record(Lsn(START), SEGMENT);
    let (found, error) = decode(&mut decoder, &bytes, 5000);
    assert_eq!(found.len(), 300);
    assert!(matches!(error.unwrap().kind, WalErrorKind::Checksum { .. }));
}

#[test]
fn stops_where_an_older_use_of_the_segment_begins() {
    let writer = sample();
    let mut bytes = writer.bytes;
    let page = 8192 * 5;
    let older = START - u64::from(SEGMENT) + 8192 * 5;
    bytes[page + 8..page + 16].copy_from_slice(&older.to_le_bytes());
    let mut decoder = StreamDecoder::at_record(Lsn(START), SEGMENT);
    let (_, error) = decode(&mut decoder, &bytes, 5000);
    assert_eq!(error.unwrap().kind, WalErrorKind::PageAddress(Lsn(older)));
}

#[test]
fn refuses_other_clusters_and_versions() {
    let writer = sample();
    let mut decoder = StreamDecoder::at_record(Lsn(START), SEGMENT).expect_system(1);
    let (_, error) = decode(&mut decoder, &writer.bytes, 5000);
    assert_eq!(error.unwrap().kind, WalErrorKind::SystemIdentifier(SYSTEM));
    let mut decoder = StreamDecoder::at_record(Lsn(START), SEGMENT * 2);
    let (_, error) = decode(&mut decoder, &writer.bytes, 5000);
    assert_eq!(error.unwrap().kind, WalErrorKind::SegmentBytes(SEGMENT));
    let mut bytes = writer.bytes.clone();
    bytes[0] = 0x01;
    let mut decoder = StreamDecoder::at_record(Lsn(START), SEGMENT);
    let (_, error) = decode(&mut decoder, &bytes, 5000);
    let error = error.unwrap();
    assert_eq!(error.kind, WalErrorKind::Magic(0xD101));
    assert_eq!(error.to_string(), "invalid or unsupported WAL page magic number D101 at 0/300000");
}

#[test]
fn passes_over_a_record_whose_rest_was_never_written() {
    let mut writer = Writer::new(START);
    writer.record(HEAP, 0, &[1; 100]);
    let lost = writer.lost_record(&vec![2; 20_000]);
    let mut overwrite = lost.to_le_bytes().to_vec();
    overwrite.extend([0; 8]);
    writer.record(XLOG, 0xD0, &overwrite);
    writer.record(HEAP, 0, &[3; 100]);
    for piece in [1, 5000] {
        let mut decoder = StreamDecoder::at_record(Lsn(START), SEGMENT);
        let found = decode(&mut decoder, &writer.bytes, piece);
        assert_eq!(found, (starts(&writer), None));
    }
    // A record that claims to replace another one is refused.
    let mut wrong = Writer::new(START);
    wrong.record(HEAP, 0, &[1; 100]);
    wrong.lost_record(&vec![2; 20_000]);
    wrong.record(XLOG, 0xD0, &[7; 16]);
    let mut decoder = StreamDecoder::at_record(Lsn(START), SEGMENT);
    let (found, error) = decode(&mut decoder, &wrong.bytes, 5000);
    assert_eq!(found.len(), 1);
    assert!(matches!(error.unwrap().kind, WalErrorKind::OverwrittenContrecord(_)));
}

#[test]
fn refuses_a_page_that_does_not_continue_the_record() {
    let mut writer = Writer::new(START);
    writer.record(HEAP, 0, &[1; 9000]);
    let mut bytes = writer.bytes.clone();
    bytes[8192 + 16] ^= 8; // rem_len
    let mut decoder = StreamDecoder::at_record(Lsn(START), SEGMENT);
    let (_, error) = decode(&mut decoder, &bytes, 5000);
    assert!(matches!(error.unwrap().kind, WalErrorKind::ContrecordLength { .. }));
    let mut bytes = writer.bytes;
    bytes[8192 + 2] = 0;
    let mut decoder = StreamDecoder::at_record(Lsn(START), SEGMENT);
    let (_, error) = decode(&mut decoder, &bytes, 5000);
    assert_eq!(error.unwrap().kind, WalErrorKind::MissingContrecord);
}

#[test]
fn goes_on_in_the_next_segment_after_a_switch() {
    let mut writer = Writer::new(START);
    writer.record(HEAP, 0, &[1; 100]);
    writer.record(XLOG, 0x40, &[]);
    writer.pad_segment();
    writer.record(HEAP, 0, &[2; 100]);
    let mut decoder = StreamDecoder::at_record(Lsn(START), SEGMENT);
    let (found, error) = decode(&mut decoder, &writer.bytes, 5000);
    assert_eq!((found, error), (starts(&writer), None));
    assert_eq!(writer.records[2].0, START + u64::from(SEGMENT) + 40);
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(256) })]

    #[test]
    fn damage_gives_an_error_or_fewer_records_and_never_a_wrong_one(
        place in 0_usize..100_000,
        bits in 1_u8..=255,
        piece in 1_usize..20_000,
    ) {
        let writer = sample();
        let mut bytes = writer.bytes[..100_000].to_vec();
        bytes[place] ^= bits;
        let mut decoder = StreamDecoder::at_record(Lsn(START), SEGMENT);
        let mut index = 0;
        'pieces: for mut input in bytes.chunks(piece) {
            loop {
                match decoder.next(&mut input) {
                    Ok(Some(record)) => {
                        let (start, whole) = &writer.records[index];
                        prop_assert_eq!((record.lsn.0, record.bytes), (*start, &whole[..]));
                        index += 1;
                    }
                    Ok(None) => break,
                    Err(_damage) => break 'pieces,
                }
            }
        }
    }

    #[test]
    fn garbage_inside_a_record_is_an_error(body in prop::collection::vec(any::<u8>(), 0..300)) {
        let mut bytes = vec![0; 24];
        bytes.extend(&body);
        let length = u32::try_from(bytes.len()).unwrap();
        bytes[..4].copy_from_slice(&length.to_le_bytes());
        let raw = RawRecord::new(&bytes, Lsn(40), Lsn(400), WalVersion::V15).unwrap();
        let listed = raw.block_refs().collect::<Result<Vec<_>, _>>();
        if let Ok(record) = raw.decode() {
            let decoded: Vec<_> = record.blocks.iter().map(|block| block.block_ref()).collect();
            prop_assert_eq!(listed, Ok(decoded));
            let _any = pg::redo::effects::effects(&record);
        }
    }

    #[test]
    fn any_main_data_gives_effects_or_an_error(
        rmgr in 0_u8..22,
        info in any::<u8>(),
        main in prop::collection::vec(any::<u8>(), 0..120),
    ) {
        let mut writer = Writer::new(START);
        writer.record(rmgr, info, &main);
        let (start, bytes) = &writer.records[0];
        let raw = RawRecord::new(bytes, Lsn(*start), Lsn(start + 400), WalVersion::V15).unwrap();
        let _any = pg::redo::effects::effects(&raw.decode().unwrap());
    }
}
