//! The splitter: the same messages wherever the stream is cut.

use pg::wire::stream::{BACKEND, FRONTEND, KindLimits, SplitError, Splitter};

/// Kind and length of each message begun, the bytes forwarded, and the error at the end.
type Outcome = (Vec<(u8, u32)>, Vec<u8>, Option<SplitError>);

fn split(reads: &[&[u8]], limits: &KindLimits) -> Outcome {
    let mut splitter = Splitter::new();
    let (mut messages, mut forwarded) = (Vec::new(), Vec::new());
    for read in reads {
        for piece in splitter.split(read, limits) {
            match piece {
                Err(error) => return (messages, forwarded, Some(error)),
                Ok(piece) => {
                    piece.write_carried(&mut forwarded);
                    forwarded.extend_from_slice(piece.raw);
                    if piece.begins() {
                        messages.push((piece.kind, piece.body_bytes));
                    }
                }
            }
        }
    }
    (messages, forwarded, None)
}

/// Takes one input.
pub fn run(data: &[u8]) {
    let Some((cut, stream)) = data.split_first() else { return };
    for limits in [&FRONTEND, &BACKEND] {
        let whole = split(&[stream], limits);
        let (first, second) = stream.split_at(usize::from(*cut).min(stream.len()));
        assert_eq!(split(&[first, second], limits), whole);
        let bytes: Vec<_> = stream.chunks(1).collect();
        assert_eq!(split(&bytes, limits), whole);
        assert!(stream.starts_with(&whole.1));
    }
}
