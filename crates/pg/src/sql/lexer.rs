//! Cuts SQL into tokens as `scan.l` of PostgreSQL does: nested comments, the four kinds of
//! quotes, escapes.
//!
//! Works on bytes, for every encoding a server can have. (Of the encodings that only a client can
//! have, those in which a later byte of a character may be ASCII, such as SJIS, can mislead it;
//! so nothing that matters for security may hang on it.)

use std::borrow::Cow;

/// One token, with the bytes it was made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Token<'a> {
    /// A bare word: a keyword or an identifier, as written.
    Word(&'a [u8]),
    /// `"…"` or `U&"…"`: what is between the quotes, doubled quotes still doubled.
    Quoted(&'a [u8]),
    /// A string: what is between the quotes.
    String(&'a [u8], Escapes),
    /// A number as written, without sign.
    Number(&'a [u8]),
    /// `$1`: the digits.
    Parameter(&'a [u8]),
    /// One byte of an operator or of punctuation.
    Symbol(u8),
    /// A quote or a comment that nothing closes: the rest of the text.
    Unterminated(&'a [u8]),
}

/// What stands for special characters within a string.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Escapes {
    /// `'…'`, `B'…'`, `X'…'`, `N'…'`, `U&'…'`: only the doubled quote.
    Quotes,
    /// `E'…'`: backslashes, too.
    Backslashes,
    /// `$$…$$`: nothing.
    None,
}

impl<'a> Token<'a> {
    /// Whether this is that keyword, given in lower case.
    pub fn is(&self, keyword: &str) -> bool {
        matches!(self, Token::Word(word) if word.eq_ignore_ascii_case(keyword.as_bytes()))
    }

    pub fn is_symbol(&self, symbol: u8) -> bool {
        *self == Token::Symbol(symbol)
    }

    /// An identifier as Postgres understands it: a bare word in lower case, a quoted one as it
    /// stands. Not cut to 63 bytes.
    pub fn name(&self) -> Option<Cow<'a, [u8]>> {
        match self {
            Token::Word(word) if word.iter().any(u8::is_ascii_uppercase) => {
                Some(Cow::Owned(word.to_ascii_lowercase()))
            }
            Token::Word(word) => Some(Cow::Borrowed(word)),
            Token::Quoted(inside) => Some(undouble(inside, b'"')),
            _ => None,
        }
    }

    /// A string's content, with escapes replaced.
    pub fn text(&self) -> Option<Cow<'a, [u8]>> {
        match self {
            Token::String(inside, Escapes::None) => Some(Cow::Borrowed(inside)),
            Token::String(inside, Escapes::Quotes) => Some(undouble(inside, b'\'')),
            Token::String(inside, Escapes::Backslashes) => Some(unescape(inside)),
            _ => None,
        }
    }

    /// What a console command's argument may be: a name, a string or a number.
    pub fn argument(&self) -> Option<Cow<'a, [u8]>> {
        match self {
            Token::Number(digits) => Some(Cow::Borrowed(digits)),
            other => other.name().or_else(|| other.text()),
        }
    }
}

/// Iterator over the tokens of a text. Comments and white space are skipped.
#[derive(Clone, Copy, Debug)]
pub struct Lexer<'a> {
    rest: &'a [u8],
    plain_backslashes: bool,
}

impl<'a> Lexer<'a> {
    /// For a session with `standard_conforming_strings` on, which is the default.
    pub const fn new(sql: &'a [u8]) -> Lexer<'a> {
        Lexer { rest: sql, plain_backslashes: true }
    }

    /// For a session with `standard_conforming_strings` off, whose plain strings know backslashes.
    pub const fn with_backslash_strings(sql: &'a [u8]) -> Lexer<'a> {
        Lexer { rest: sql, plain_backslashes: false }
    }

    /// What has not been cut yet.
    pub const fn rest(&self) -> &'a [u8] {
        self.rest
    }

    fn take(&mut self, count: usize) -> &'a [u8] {
        let (taken, rest) = self.rest.split_at_checked(count).unwrap_or((self.rest, &[]));
        self.rest = rest;
        taken
    }

    fn take_while(&mut self, wanted: impl Fn(u8) -> bool) -> &'a [u8] {
        let end = self.rest.iter().position(|b| !wanted(*b)).unwrap_or(self.rest.len());
        self.take(end)
    }

    /// Skips white space and comments; an open comment is given back as a token.
    fn skip_blanks(&mut self) -> Option<Token<'a>> {
        loop {
            self.take_while(is_space);
            if self.rest.starts_with(b"--") {
                self.take_while(|b| b != b'\n' && b != b'\r');
            } else if self.rest.starts_with(b"/*") {
                let whole = self.rest;
                if !self.skip_comment() {
                    return Some(Token::Unterminated(whole));
                }
            } else {
                return None;
            }
        }
    }

    /// Comments nest. False if the text ends first.
    fn skip_comment(&mut self) -> bool {
        let mut depth = 0_usize;
        loop {
            self.take_while(|b| b != b'/' && b != b'*');
            match self.rest {
                [b'/', b'*', ..] => {
                    self.take(2);
                    depth += 1;
                }
                [b'*', b'/', ..] => {
                    self.take(2);
                    depth -= 1;
                    if depth == 0 {
                        return true;
                    }
                }
                [] => return false,
                _ => {
                    self.take(1);
                }
            }
        }
    }

    /// The rest begins with this many bytes of prefix and a quote.
    fn quoted(&mut self, prefix: usize, escapes: Escapes) -> Token<'a> {
        let whole = self.rest;
        self.take(prefix);
        let quote = self.take(1).first().copied().unwrap_or(b'\'');
        let inside = self.rest;
        loop {
            self.take_while(|b| b != quote && (b != b'\\' || escapes != Escapes::Backslashes));
            match self.rest {
                [] => return Token::Unterminated(whole),
                [b'\\', ..] => {
                    self.take(2);
                }
                [first, second, ..] if first == second => {
                    self.take(2);
                }
                _ => break,
            }
        }
        let inside = inside.get(..inside.len() - self.rest.len()).unwrap_or_default();
        self.take(1);
        if quote == b'"' { Token::Quoted(inside) } else { Token::String(inside, escapes) }
    }

    /// `$1`, `$$…$$`, `$tag$…$tag$` or a lone dollar.
    fn dollar(&mut self) -> Token<'a> {
        let whole = self.rest;
        if whole.get(1).is_some_and(u8::is_ascii_digit) {
            self.take(1);
            return Token::Parameter(self.take_while(|b| b.is_ascii_digit()));
        }
        let tag = whole.iter().skip(1).take_while(|b| is_word_start(**b) || b.is_ascii_digit());
        let tag = tag.count() + 2;
        let Some(tag) = whole.get(..tag).filter(|tag| tag.ends_with(b"$")) else {
            self.take(1);
            return Token::Symbol(b'$');
        };
        self.take(tag.len());
        let inside = self.rest;
        while !self.rest.is_empty() {
            self.take_while(|b| b != b'$');
            if self.rest.starts_with(tag) {
                let inside = inside.get(..inside.len() - self.rest.len()).unwrap_or_default();
                self.take(tag.len());
                return Token::String(inside, Escapes::None);
            }
            self.take(1);
        }
        Token::Unterminated(whole)
    }

    /// Close enough to Postgres' numbers: digits, letters, underscores and dots, and a sign after
    /// an exponent.
    fn number(&mut self) -> Token<'a> {
        let whole = self.rest;
        loop {
            let part = self.take_while(|b| b.is_ascii_alphanumeric() || b == b'.' || b == b'_');
            let exponent = part.ends_with(b"e") || part.ends_with(b"E");
            match self.rest {
                [b'+' | b'-', b'0'..=b'9', ..] if exponent && !is_hexadecimal(whole) => {
                    self.take(1);
                }
                _ => break,
            }
        }
        Token::Number(whole.get(..whole.len() - self.rest.len()).unwrap_or_default())
    }
}

impl<'a> Iterator for Lexer<'a> {
    type Item = Token<'a>;

    fn next(&mut self) -> Option<Token<'a>> {
        if let Some(open) = self.skip_blanks() {
            return Some(open);
        }
        let plain = if self.plain_backslashes { Escapes::Quotes } else { Escapes::Backslashes };
        Some(match self.rest {
            [] => return None,
            [b'\'', ..] => self.quoted(0, plain),
            [b'"', ..] => self.quoted(0, Escapes::Quotes),
            [b'e' | b'E', b'\'', ..] => self.quoted(1, Escapes::Backslashes),
            [b'b' | b'B' | b'x' | b'X', b'\'', ..] => self.quoted(1, Escapes::Quotes),
            [b'n' | b'N', b'\'', ..] => self.quoted(1, plain),
            [b'u' | b'U', b'&', b'\'' | b'"', ..] => self.quoted(2, Escapes::Quotes),
            [b'$', ..] => self.dollar(),
            [b'0'..=b'9', ..] | [b'.', b'0'..=b'9', ..] => self.number(),
            [first, ..] if is_word_start(*first) => Token::Word(
                self.take_while(|b| is_word_start(b) || b.is_ascii_digit() || b == b'$'),
            ),
            [first, ..] => {
                self.take(1);
                Token::Symbol(*first)
            }
        })
    }
}

const fn is_space(byte: u8) -> bool {
    matches!(byte, b' ' | b'\t' | b'\n' | b'\r' | 0x0B | 0x0C)
}

const fn is_word_start(byte: u8) -> bool {
    byte.is_ascii_alphabetic() || byte == b'_' || byte >= 0x80
}

fn is_hexadecimal(number: &[u8]) -> bool {
    matches!(number, [b'0', b'x' | b'X', ..])
}

/// Replaces doubled quotes by single ones.
fn undouble(inside: &[u8], quote: u8) -> Cow<'_, [u8]> {
    if !inside.contains(&quote) {
        return Cow::Borrowed(inside);
    }
    let mut text = Vec::with_capacity(inside.len());
    let mut rest = inside.iter();
    while let Some(byte) = rest.next() {
        text.push(*byte);
        if *byte == quote {
            rest.next();
        }
    }
    Cow::Owned(text)
}

/// Replaces doubled quotes and backslash escapes (the manual, "String Constants with C-Style
/// Escapes").
fn unescape(inside: &[u8]) -> Cow<'_, [u8]> {
    if !inside.iter().any(|b| matches!(b, b'\\' | b'\'')) {
        return Cow::Borrowed(inside);
    }
    let mut text = Vec::with_capacity(inside.len());
    let mut rest = inside;
    while let Some((first, after)) = rest.split_first() {
        rest = match first {
            b'\\' => unescape_one(&mut text, after),
            b'\'' => {
                text.push(b'\'');
                after.get(1..).unwrap_or_default()
            }
            _ => {
                text.push(*first);
                after
            }
        };
    }
    Cow::Owned(text)
}

/// Appends what the escape after a backslash stands for; gives what follows it.
fn unescape_one<'a>(text: &mut Vec<u8>, after: &'a [u8]) -> &'a [u8] {
    let Some((kind, rest)) = after.split_first() else {
        return after;
    };
    let (digits_max, radix, digits) = match kind {
        b'0'..=b'7' => (3, 8, after),
        b'x' => (2, 16, rest),
        b'u' => (4, 16, rest),
        b'U' => (8, 16, rest),
        _ => {
            text.push(match kind {
                b'b' => 0x08,
                b'f' => 0x0C,
                b'n' => b'\n',
                b'r' => b'\r',
                b't' => b'\t',
                b'v' => 0x0B,
                other => *other,
            });
            return rest;
        }
    };
    let count = digits.iter().take(digits_max);
    let count = count.take_while(|b| char::from(**b).is_digit(radix)).count();
    let (number, following) = digits.split_at_checked(count).unwrap_or((digits, &[]));
    let number = number.iter().fold(0, |number: u32, digit| {
        let digit = char::from(*digit).to_digit(radix).unwrap_or(0);
        number.wrapping_mul(radix).wrapping_add(digit)
    });
    if count == 0 {
        text.push(*kind);
        return rest;
    }
    match char::from_u32(number).filter(|_| matches!(kind, b'u' | b'U')) {
        Some(character) => {
            text.extend_from_slice(character.encode_utf8(&mut [0; 4]).as_bytes());
        }
        // Octal and hexadecimal escapes are one byte: its low eight bits.
        None => text.push(number.to_le_bytes()[0]),
    }
    following
}

#[cfg(test)]
mod tests {
    use super::Token::*;
    use super::*;

    fn check(sql: &str, tokens: &[Token<'_>]) {
        assert_eq!(Lexer::new(sql.as_bytes()).collect::<Vec<_>>(), tokens, "{sql}");
    }

    #[test]
    fn cuts_words_numbers_and_symbols() {
        check("SELECT 1", &[Word(b"SELECT"), Number(b"1")]);
        check(
            "a.b::c",
            &[Word(b"a"), Symbol(b'.'), Word(b"b"), Symbol(b':'), Symbol(b':'), Word(b"c")],
        );
        check("tab$1_é", &[Word("tab$1_é".as_bytes())]);
        check("$1+$22", &[Parameter(b"1"), Symbol(b'+'), Parameter(b"22")]);
        check(
            "1e-5 0x1e-5 .5 1_000",
            &[
                Number(b"1e-5"),
                Number(b"0x1e"),
                Symbol(b'-'),
                Number(b"5"),
                Number(b".5"),
                Number(b"1_000"),
            ],
        );
        check("", &[]);
    }

    #[test]
    fn skips_comments_even_nested_ones() {
        check("-- a\n/* b /* c */ -- */ d -- e", &[Word(b"d")]);
        check("a/**/b--\rc", &[Word(b"a"), Word(b"b"), Word(b"c")]);
        check(
            "a - - b / * c",
            &[
                Word(b"a"),
                Symbol(b'-'),
                Symbol(b'-'),
                Word(b"b"),
                Symbol(b'/'),
                Symbol(b'*'),
                Word(b"c"),
            ],
        );
        check("a /* b /* c */", &[Word(b"a"), Unterminated(b"/* b /* c */")]);
    }

    #[test]
    fn keeps_quotes_together() {
        check("'a''b' x", &[String(b"a''b", Escapes::Quotes), Word(b"x")]);
        check(r"'a\' x", &[String(br"a\", Escapes::Quotes), Word(b"x")]);
        check(r"E'a\'b''c\\' x", &[String(br"a\'b''c\\", Escapes::Backslashes), Word(b"x")]);
        check("\"a\"\"b\"", &[Quoted(b"a\"\"b")]);
        check(
            "U&\"a\" u&'b' X'1f' n'c'",
            &[
                Quoted(b"a"),
                String(b"b", Escapes::Quotes),
                String(b"1f", Escapes::Quotes),
                String(b"c", Escapes::Quotes),
            ],
        );
        check(
            "$$a'b$$ $x$ $$ $x$ $",
            &[String(b"a'b", Escapes::None), String(b" $$ ", Escapes::None), Symbol(b'$')],
        );
        check("'a", &[Unterminated(b"'a")]);
        check("E'a\\", &[Unterminated(b"E'a\\")]);
        check("$a$ $b$", &[Unterminated(b"$a$ $b$")]);
        check("\"", &[Unterminated(b"\"")]);
    }

    #[test]
    fn follows_the_session_about_backslashes_in_plain_strings() {
        let mut lexer = Lexer::with_backslash_strings(br"'a\'b' c");
        assert_eq!(lexer.next(), Some(String(br"a\'b", Escapes::Backslashes)));
    }

    #[test]
    fn reads_names_and_texts() {
        let first = |sql: &'static str| Lexer::new(sql.as_bytes()).next().unwrap();
        let name = |sql| first(sql).name().map(Cow::into_owned);
        let text = |sql| first(sql).text().map(Cow::into_owned);
        assert_eq!(name("MyDb"), Some(b"mydb".to_vec()));
        assert_eq!(name("\"My\"\"Db\""), Some(b"My\"Db".to_vec()));
        assert_eq!(name("'x'"), None);
        assert_eq!(text("'it''s'"), Some(b"it's".to_vec()));
        assert_eq!(text("$q$it''s$q$"), Some(b"it''s".to_vec()));
        assert_eq!(
            text(r"E'\t\\\'''\x41\101\u00e9\U0001F600\q\x'"),
            Some("\t\\''AAé😀qx".as_bytes().to_vec())
        );
        assert_eq!(first("42").argument().map(Cow::into_owned), Some(b"42".to_vec()));
    }
}
