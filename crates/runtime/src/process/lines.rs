//! Bytes of a pipe cut into lines, and the end of an output kept.

use std::collections::VecDeque;

use crate::limits::CHILD_LINE_BYTES_MAX;

/// Cuts at line ends, and where a line is longer than [`CHILD_LINE_BYTES_MAX`].
#[derive(Debug, Default)]
pub(super) struct Lines {
    begun: Vec<u8>,
}

impl Lines {
    pub(super) fn push(&mut self, bytes: &[u8], each: &mut dyn FnMut(&str)) {
        for part in bytes.split_inclusive(|byte| *byte == b'\n') {
            let (line, complete) = match part.split_last() {
                Some((b'\n', line)) => (line, true),
                _ => (part, false),
            };
            let mut rest = line;
            while self.begun.len() + rest.len() > CHILD_LINE_BYTES_MAX {
                let room = CHILD_LINE_BYTES_MAX - self.begun.len();
                let (now, later) = rest.split_at(room);
                self.begun.extend_from_slice(now);
                self.hand_over(each);
                rest = later;
            }
            self.begun.extend_from_slice(rest);
            if complete {
                self.hand_over(each);
            }
        }
    }

    /// Hands over a last line without an end.
    pub(super) fn end(&mut self, each: &mut dyn FnMut(&str)) {
        if !self.begun.is_empty() {
            self.hand_over(each);
        }
    }

    fn hand_over(&mut self, each: &mut dyn FnMut(&str)) {
        let line = self.begun.strip_suffix(b"\r").unwrap_or(&self.begun);
        each(&String::from_utf8_lossy(line));
        self.begun.clear();
    }
}

/// The last bytes of a text.
#[derive(Debug, Default)]
pub(super) struct LastBytes {
    bytes: VecDeque<u8>,
    most: usize,
}

impl LastBytes {
    pub(super) fn new(most: usize) -> Self {
        Self { bytes: VecDeque::new(), most }
    }

    pub(super) fn push_line(&mut self, line: &str) {
        self.bytes.extend(line.as_bytes());
        self.bytes.push_back(b'\n');
        let surplus = self.bytes.len().saturating_sub(self.most);
        self.bytes.drain(..surplus);
    }

    pub(super) fn into_text(self) -> String {
        String::from_utf8_lossy(&Vec::from(self.bytes)).into_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cut(pieces: &[&[u8]]) -> Vec<String> {
        let mut lines = Vec::new();
        let mut each = |line: &str| lines.push(line.to_owned());
        let mut cutter = Lines::default();
        for piece in pieces {
            cutter.push(piece, &mut each);
        }
        cutter.end(&mut each);
        lines
    }

    #[test]
    fn lines_come_whole_however_they_were_read() {
        assert_eq!(cut(&[b"one\ntw", b"", b"o\r\n\nthree"]), ["one", "two", "", "three"]);
        assert_eq!(cut(&[b""]), [""; 0]);
        assert_eq!(cut(&[b"\xff\n"]), ["\u{fffd}"]);
    }

    #[test]
    fn a_line_too_long_is_cut() {
        let long = vec![b'x'; CHILD_LINE_BYTES_MAX * 2 + 5];
        let lengths: Vec<usize> = cut(&[&long, b"\n"]).iter().map(String::len).collect();
        assert_eq!(lengths, [CHILD_LINE_BYTES_MAX, CHILD_LINE_BYTES_MAX, 5]);
        let exact = vec![b'x'; CHILD_LINE_BYTES_MAX];
        assert_eq!(cut(&[&exact, b"\nnext\n"]).len(), 2);
    }

    #[test]
    fn the_end_of_an_output_is_kept() {
        let mut kept = LastBytes::new(9);
        kept.push_line("first");
        kept.push_line("last");
        assert_eq!(kept.into_text(), "rst\nlast\n");
    }
}
