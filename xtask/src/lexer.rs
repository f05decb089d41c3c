//! As much of Rust's lexical grammar as tidy needs: tells code from comments and literals.

/// The source with the insides of comments, strings and character literals replaced by spaces.
/// Line breaks stay, so line numbers and counts are those of the source.
pub(crate) fn code(source: &str) -> String {
    let bytes = source.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while at < bytes.len() {
        let end = literal_end(bytes, at);
        if end > at {
            out.extend(bytes[at..end].iter().map(|byte| if *byte == b'\n' { b'\n' } else { b' ' }));
            at = end;
        } else {
            out.push(bytes[at]);
            at += 1;
        }
    }
    String::from_utf8_lossy(&out).into_owned()
}

/// Where the comment or literal that starts at `at` ends; `at` itself if none starts there.
fn literal_end(bytes: &[u8], at: usize) -> usize {
    let rest = &bytes[at..];
    let previous = at.checked_sub(1).map_or(b' ', |before| bytes[before]);
    let in_name = previous.is_ascii_alphanumeric() || previous == b'_';
    if rest.starts_with(b"//") {
        return find(bytes, at, b"\n");
    }
    if rest.starts_with(b"/*") {
        return block_comment_end(bytes, at);
    }
    if !in_name && let Some(end) = raw_string_end(bytes, at) {
        return end;
    }
    match rest[0] {
        b'"' => quoted_end(bytes, at + 1),
        b'\'' => character_end(bytes, at),
        _ => at,
    }
}

fn find(bytes: &[u8], from: usize, what: &[u8]) -> usize {
    let found = bytes[from..].windows(what.len()).position(|window| window == what);
    found.map_or(bytes.len(), |offset| from + offset)
}

fn block_comment_end(bytes: &[u8], at: usize) -> usize {
    let (mut depth, mut here) = (0_usize, at);
    while here < bytes.len() {
        if bytes[here..].starts_with(b"/*") {
            depth += 1;
            here += 2;
        } else if bytes[here..].starts_with(b"*/") {
            depth -= 1;
            here += 2;
            if depth == 0 {
                return here;
            }
        } else {
            here += 1;
        }
    }
    here
}

fn raw_string_end(bytes: &[u8], at: usize) -> Option<usize> {
    let mut here = at;
    if matches!(bytes[here], b'b' | b'c') {
        here += 1;
    }
    if bytes.get(here) != Some(&b'r') {
        return None;
    }
    here += 1;
    let hashes = bytes[here..].iter().take_while(|byte| **byte == b'#').count();
    here += hashes;
    if bytes.get(here) != Some(&b'"') {
        return None;
    }
    let close = [&b"\""[..], &b"#".repeat(hashes)].concat();
    Some((find(bytes, here + 1, &close) + close.len()).min(bytes.len()))
}

fn quoted_end(bytes: &[u8], mut here: usize) -> usize {
    while here < bytes.len() {
        match bytes[here] {
            b'\\' => here += 2,
            b'"' => return here + 1,
            _ => here += 1,
        }
    }
    bytes.len()
}

/// A character literal; a lifetime or label is left alone.
fn character_end(bytes: &[u8], at: usize) -> usize {
    if bytes.get(at + 1) == Some(&b'\\') {
        return (find(bytes, at + 3, b"'") + 1).min(bytes.len());
    }
    // One character of up to four bytes, then the closing quote.
    (2..=5).find(|width| bytes.get(at + width) == Some(&b'\'')).map_or(at, |width| {
        let inside = &bytes[at + 1..at + width];
        if width == 2 || !inside.is_ascii() { at + width + 1 } else { at }
    })
}

#[cfg(test)]
mod tests {
    use super::code;

    fn check(source: &str, expected: &str) {
        assert_eq!(code(source), expected);
    }

    #[test]
    fn comments_and_strings_become_spaces() {
        check("a // unsafe\nb", &format!("a {}\nb", " ".repeat(9)));
        check("a /* x /* y */ z */ b", &format!("a {} b", " ".repeat(17)));
        check(r#"f("un\"safe") + 1"#, &format!("f({}) + 1", " ".repeat(10)));
        check("r#\"a\" b\"# c", &format!("{} c", " ".repeat(9)));
    }

    #[test]
    fn lifetimes_and_names_stay() {
        check("fn f<'a>(x: &'a str) {}", "fn f<'a>(x: &'a str) {}");
        check(
            "let c = 'x'; let q = '\\''; let e = 'é';",
            "let c =    ; let q =     ; let e =     ;",
        );
        check("bar\"x\"", "bar   ");
    }
}
