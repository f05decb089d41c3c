//! Words of the replication grammar, as `repl_scanner.l` cuts them.

use super::command::CommandError;
use crate::lsn::Lsn;

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Token {
    /// A bare word, in lower case: a keyword or a name.
    Word(String),
    /// `"quoted"`, as it stands.
    Quoted(String),
    /// `'literal'`.
    Literal(String),
    /// Decimal digits.
    Number(String),
    Lsn(Lsn),
    Punctuation(char),
    End,
}

/// Looks one token ahead; never further.
#[derive(Clone, Debug)]
pub(super) struct Scanner<'a> {
    rest: &'a str,
}

impl<'a> Scanner<'a> {
    pub(super) const fn new(text: &'a str) -> Scanner<'a> {
        Scanner { rest: text }
    }

    pub(super) fn next(&mut self) -> Result<Token, CommandError> {
        self.rest = self.rest.trim_start_matches([' ', '\t', '\n', '\r', '\u{c}', '\u{b}']);
        let Some(first) = self.rest.chars().next() else {
            return Ok(Token::End);
        };
        if let Some(lsn) = self.take_lsn() {
            return Ok(Token::Lsn(lsn));
        }
        match first {
            '(' | ')' | ',' | ';' | '.' => {
                self.take(first.len_utf8());
                Ok(Token::Punctuation(first))
            }
            '"' => self.take_quoted('"').map(Token::Quoted),
            '\'' => self.take_quoted('\'').map(Token::Literal),
            '0'..='9' => Ok(Token::Number(self.take_while(|c| c.is_ascii_digit()).to_owned())),
            c if is_word_start(c) => {
                let word = self.take_while(|c| is_word_start(c) || c.is_ascii_digit() || c == '$');
                Ok(Token::Word(word.to_ascii_lowercase()))
            }
            other => Err(CommandError { near: other.to_string() }),
        }
    }

    /// A name: a bare word or a quoted one.
    pub(super) fn name(&mut self) -> Result<String, CommandError> {
        match self.next()? {
            Token::Word(name) | Token::Quoted(name) => Ok(name),
            other => Err(unexpected(other)),
        }
    }

    pub(super) fn number(&mut self) -> Result<String, CommandError> {
        match self.next()? {
            Token::Number(number) => Ok(number),
            other => Err(unexpected(other)),
        }
    }

    pub(super) fn lsn(&mut self) -> Result<Lsn, CommandError> {
        match self.next()? {
            Token::Lsn(lsn) => Ok(lsn),
            other => Err(unexpected(other)),
        }
    }

    pub(super) fn expect_word(&mut self, word: &str) -> Result<(), CommandError> {
        match self.next()? {
            Token::Word(other) if other == word => Ok(()),
            other => Err(unexpected(other)),
        }
    }

    pub(super) fn expect_punctuation(&mut self, wanted: char) -> Result<(), CommandError> {
        match self.next()? {
            Token::Punctuation(other) if other == wanted => Ok(()),
            other => Err(unexpected(other)),
        }
    }

    pub(super) fn end(&mut self) -> Result<(), CommandError> {
        match self.next()? {
            Token::End => Ok(()),
            other => Err(unexpected(other)),
        }
    }

    /// Takes the word if it is next.
    pub(super) fn eat_word(&mut self, word: &str) -> Result<bool, CommandError> {
        self.eat(|token| matches!(token, Token::Word(other) if other == word))
            .map(|token| token.is_some())
    }

    /// Takes a bare word if one is next.
    pub(super) fn eat_any_word(&mut self) -> Result<Option<String>, CommandError> {
        let token = self.eat(|token| matches!(token, Token::Word(_)))?;
        Ok(token.map(text))
    }

    pub(super) fn eat_punctuation(&mut self, wanted: char) -> Result<bool, CommandError> {
        self.eat(|token| *token == Token::Punctuation(wanted)).map(|token| token.is_some())
    }

    /// Takes an option's value if one is next: a literal, a number or a name.
    pub(super) fn eat_value(&mut self) -> Result<Option<String>, CommandError> {
        let token = self.eat(|token| {
            matches!(
                token,
                Token::Literal(_) | Token::Number(_) | Token::Word(_) | Token::Quoted(_)
            )
        })?;
        Ok(token.map(text))
    }

    fn eat(&mut self, wanted: impl Fn(&Token) -> bool) -> Result<Option<Token>, CommandError> {
        let before = self.clone();
        let token = self.next()?;
        if wanted(&token) {
            return Ok(Some(token));
        }
        *self = before;
        Ok(None)
    }

    fn take(&mut self, bytes: usize) -> &'a str {
        let (taken, rest) = self.rest.split_at_checked(bytes).unwrap_or((self.rest, ""));
        self.rest = rest;
        taken
    }

    fn take_while(&mut self, wanted: impl Fn(char) -> bool) -> &'a str {
        let end = self.rest.find(|c| !wanted(c)).unwrap_or(self.rest.len());
        self.take(end)
    }

    /// Hexadecimal digits, a slash, hexadecimal digits.
    fn take_lsn(&mut self) -> Option<Lsn> {
        let (high, rest) = self.rest.split_once('/')?;
        let low = rest.find(|c: char| !c.is_ascii_hexdigit()).unwrap_or(rest.len());
        let bytes = high.len() + 1 + low;
        let lsn = self.rest.get(..bytes)?.parse().ok()?;
        self.take(bytes);
        Some(lsn)
    }

    fn take_quoted(&mut self, quote: char) -> Result<String, CommandError> {
        let start = self.rest;
        let mut content = String::new();
        self.take(1);
        loop {
            content.push_str(self.take_while(|c| c != quote));
            if self.take(1).is_empty() {
                return Err(CommandError { near: start.to_owned() });
            }
            if !self.rest.starts_with(quote) {
                return Ok(content);
            }
            content.push_str(self.take(1));
        }
    }
}

fn is_word_start(c: char) -> bool {
    c.is_ascii_alphabetic() || c == '_' || !c.is_ascii()
}

fn unexpected(token: Token) -> CommandError {
    CommandError { near: text(token) }
}

fn text(token: Token) -> String {
    match token {
        Token::Word(text) | Token::Quoted(text) | Token::Literal(text) | Token::Number(text) => {
            text
        }
        Token::Lsn(lsn) => lsn.to_string(),
        Token::Punctuation(c) => c.to_string(),
        Token::End => String::new(),
    }
}
