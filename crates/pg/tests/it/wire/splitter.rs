//! The splitter: however a stream is cut into reads, the same messages come out.

use pg::wire::stream::{
    BACKEND, FRONTEND, FRONTEND_AUTHENTICATION, KindLimits, Part, SplitError, Splitter,
};
use proptest::prelude::*;

use super::config;
use super::corpus::{backend_messages, frontend_messages};

/// Puts the messages of a stream together again, and checks that each piece says the truth.
struct Collector {
    splitter: Splitter,
    messages: Vec<(u8, Vec<u8>)>,
    open: Option<(u8, u32, Vec<u8>)>,
    /// What a proxy would have sent.
    forwarded: Vec<u8>,
}

impl Collector {
    fn new() -> Collector {
        let (messages, forwarded) = (Vec::new(), Vec::new());
        Collector { splitter: Splitter::new(), messages, open: None, forwarded }
    }

    fn read(&mut self, bytes: &[u8], limits: &KindLimits) -> Result<(), SplitError> {
        for (number, piece) in self.splitter.split(bytes, limits).enumerate() {
            let piece = piece?;
            assert!(number == 0 || piece.carried == 0, "only the first piece carries");
            piece.write_carried(&mut self.forwarded);
            self.forwarded.extend_from_slice(piece.raw);
            if piece.begins() {
                assert!(self.open.is_none());
                self.open = Some((piece.kind, piece.body_bytes, Vec::new()));
            }
            let open = self.open.as_mut().expect("a message has begun");
            assert_eq!((open.0, open.1), (piece.kind, piece.body_bytes));
            open.2.extend_from_slice(piece.bytes());
            if piece.ends() {
                let (kind, length, body) = self.open.take().expect("a message has begun");
                assert_eq!(body.len(), usize::try_from(length).expect("it fits"));
                assert!(!matches!(piece.part, Part::End(b"")));
                self.messages.push((kind, body));
            }
        }
        Ok(())
    }
}

fn messages(stream: &[u8], limits: &KindLimits) -> Vec<(u8, Vec<u8>)> {
    let mut collector = Collector::new();
    collector.read(stream, limits).expect("a stream in order");
    assert!(collector.splitter.is_between_messages());
    collector.messages
}

#[test]
fn cut_at_any_one_place_the_messages_stay() {
    for (stream, limits) in
        [(frontend_messages().concat(), &FRONTEND), (backend_messages().concat(), &BACKEND)]
    {
        let whole = messages(&stream, limits);
        for cut in 0..=stream.len() {
            let mut collector = Collector::new();
            collector.read(&stream[..cut], limits).unwrap();
            collector.read(&stream[cut..], limits).unwrap();
            assert_eq!(collector.messages, whole, "{cut}");
            assert_eq!(collector.forwarded, stream, "{cut}");
        }
    }
}

#[test]
fn fed_byte_by_byte_the_messages_stay() {
    let stream = backend_messages().concat();
    let mut collector = Collector::new();
    for byte in &stream {
        collector.read(&[*byte], &BACKEND).unwrap();
        collector.read(&[], &BACKEND).unwrap();
    }
    assert_eq!(collector.messages, messages(&stream, &BACKEND));
    assert_eq!(collector.forwarded, stream);
}

#[test]
fn a_message_longer_than_its_reads_comes_in_parts() {
    let mut splitter = Splitter::new();
    let mut parts = Vec::new();
    for bytes in [&b"d\0\0\0"[..], b"\x0Eabc", b"defg", b"hijX\0\0\0\x04"] {
        for piece in splitter.split(bytes, &FRONTEND) {
            let piece = piece.unwrap();
            parts.push((piece.kind, piece.part, piece.carried));
        }
    }
    assert_eq!(
        parts,
        [
            (b'd', Part::Start(b"abc"), 4),
            (b'd', Part::Middle(b"defg"), 0),
            (b'd', Part::End(b"hij"), 0),
            (b'X', Part::Whole(b""), 0),
        ]
    );
}

#[test]
fn a_message_of_a_gigabyte_needs_no_memory() {
    let mut splitter = Splitter::new();
    let header = [b'd', 0x3F, 0xFF, 0xFF, 0xFF];
    let start = splitter.split(&header, &FRONTEND).next().unwrap().unwrap();
    assert_eq!((start.part, start.body_bytes), (Part::Start(b""), 0x3FFF_FFFB));
    assert_eq!(start.header(), header);
}

#[test]
fn lengths_out_of_bounds_and_unknown_kinds_are_refused_for_good() {
    let length = |kind, length: u32| [&[kind], &length.to_be_bytes()[..]].concat();
    for (header, error) in [
        (length(b'Q', 3), SplitError::Length { kind: b'Q', length: 3 }),
        (length(b'Q', 0), SplitError::Length { kind: b'Q', length: 0 }),
        (length(b'Q', 0x7FFF_FFFF), SplitError::Length { kind: b'Q', length: 0x7FFF_FFFF }),
        (length(b'Q', u32::MAX), SplitError::Length { kind: b'Q', length: u32::MAX }),
        (length(b'S', 10_005), SplitError::Length { kind: b'S', length: 10_005 }),
        (length(b'Z', 5), SplitError::Kind(b'Z')),
        (length(0, 4), SplitError::Kind(0)),
    ] {
        // In one read, and byte by byte; and each further read says the same.
        let mut splitter = Splitter::new();
        let mut pieces = splitter.split(&header, &FRONTEND);
        assert_eq!(pieces.next(), Some(Err(error)));
        assert_eq!(pieces.next(), Some(Err(error)));

        let mut splitter = Splitter::new();
        for byte in &header[..4] {
            assert_eq!(splitter.split(&[*byte], &FRONTEND).next(), None);
        }
        for _ in 0..2 {
            assert_eq!(splitter.split(&header[4..], &FRONTEND).next(), Some(Err(error)));
        }
        assert_eq!(error.sqlstate().as_str(), "08P01");
    }
}

#[test]
fn before_authentication_only_passwords_come_through() {
    let allowed = |message: &[u8]| {
        Splitter::new().split(message, &FRONTEND_AUTHENTICATION).next().is_some_and(|p| p.is_ok())
    };
    for message in frontend_messages() {
        assert_eq!(allowed(&message), matches!(message[0], b'p' | b'X'), "{message:?}");
    }
    assert!(!allowed(&[b'p', 0, 1, 0, 4]), "65,536 bytes are too many");
}

proptest! {
    #![proptest_config(config())]

    #[test]
    fn cut_anywhere_the_messages_stay(
        picks in prop::collection::vec(any::<prop::sample::Index>(), 1..12),
        cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..12),
    ) {
        let samples = backend_messages();
        let stream: Vec<u8> =
            picks.iter().flat_map(|pick| samples[pick.index(samples.len())].clone()).collect();
        let mut cuts: Vec<_> = cuts.iter().map(|cut| cut.index(stream.len() + 1)).collect();
        cuts.extend([0, stream.len()]);
        cuts.sort_unstable();
        let mut collector = Collector::new();
        for window in cuts.windows(2) {
            collector.read(&stream[window[0]..window[1]], &BACKEND).unwrap();
        }
        prop_assert_eq!(&collector.forwarded, &stream);
        prop_assert_eq!(collector.messages, messages(&stream, &BACKEND));
    }

    #[test]
    fn any_bytes_end_the_same_however_they_are_cut(
        bytes in prop::collection::vec(prop::sample::select(b"\0\0\0\0\x04\x05\x09QSPBd\xFF".to_vec()), 0..60),
        cut in any::<prop::sample::Index>(),
    ) {
        let mut whole = Collector::new();
        let outcome = whole.read(&bytes, &FRONTEND);
        let mut parts = Collector::new();
        let (first, second) = bytes.split_at(cut.index(bytes.len() + 1));
        let parts_outcome = parts.read(first, &FRONTEND).and_then(|()| parts.read(second, &FRONTEND));
        prop_assert_eq!(outcome, parts_outcome);
        prop_assert_eq!(whole.messages, parts.messages);
    }
}
