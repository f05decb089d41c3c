//! Recognises the few statements that change what a pooler knows about a server connection.

use std::borrow::Cow;

use super::lexer::{Lexer, Token};

/// The statements of a query string, cut at semicolons outside quotes. Empty ones are left out.
///
/// A semicolon within a function body that is not quoted (`BEGIN ATOMIC …; END`) cuts, too.
pub fn statements(sql: &[u8]) -> impl Iterator<Item = &[u8]> {
    let mut lexer = Lexer::new(sql);
    std::iter::from_fn(move || {
        loop {
            let start = lexer.rest();
            let mut empty = true;
            let mut end = None;
            while end.is_none() {
                let before = lexer.rest().len();
                match lexer.next() {
                    Some(Token::Symbol(b';')) => end = Some(lexer.rest().len() + 1),
                    Some(_) => empty = false,
                    None if empty => return None,
                    None => end = Some(before.min(lexer.rest().len())),
                }
            }
            if !empty {
                return start.get(..start.len() - end.unwrap_or(0));
            }
        }
    })
}

/// What a statement does to a session, as far as its first words tell.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Effect<'a> {
    /// `DISCARD ALL`: everything, prepared statements included.
    DiscardAll,
    /// `DEALLOCATE ALL`, `DISCARD PLANS` has no such effect.
    DeallocateAll,
    /// `DEALLOCATE name`.
    Deallocate(Cow<'a, [u8]>),
    /// `PREPARE name`: a statement outside the protocol's own.
    Prepare(Cow<'a, [u8]>),
    /// `LISTEN channel`.
    Listen(Cow<'a, [u8]>),
    /// `UNLISTEN channel`; `None` for `UNLISTEN *`.
    Unlisten(Option<Cow<'a, [u8]>>),
    /// `SET`, `RESET` and friends, outside `SET LOCAL`, `SET TRANSACTION` and `SET CONSTRAINTS`,
    /// which end with the transaction.
    Settings,
    /// `CREATE TEMP TABLE …`, `DECLARE … WITH HOLD`, `LOAD`: leaves something in the session.
    Leaves,
    /// Nothing that lasts beyond the transaction, or nothing we recognise.
    Other,
}

/// Looks at the first words of one statement.
pub fn effect(statement: &[u8]) -> Effect<'_> {
    let mut words = Lexer::new(statement);
    let Some(Token::Word(first)) = words.next() else {
        return Effect::Other;
    };
    let is = |keyword: &str| first.eq_ignore_ascii_case(keyword.as_bytes());
    if is("discard") {
        return match words.next() {
            Some(word) if word.is("all") => Effect::DiscardAll,
            _ => Effect::Other,
        };
    }
    if is("deallocate") {
        return deallocate(words);
    }
    if is("prepare") {
        // PREPARE TRANSACTION is two-phase commit.
        return match words.next() {
            Some(word) if word.is("transaction") => Effect::Other,
            word => word.and_then(|word| word.name()).map_or(Effect::Other, Effect::Prepare),
        };
    }
    if is("listen") {
        let channel = words.next().and_then(|word| word.name());
        return channel.map_or(Effect::Other, Effect::Listen);
    }
    if is("unlisten") {
        return match words.next() {
            Some(Token::Symbol(b'*')) => Effect::Unlisten(None),
            word => word
                .and_then(|word| word.name())
                .map_or(Effect::Other, |channel| Effect::Unlisten(Some(channel))),
        };
    }
    if is("reset") {
        return Effect::Settings;
    }
    if is("set") {
        return match words.next() {
            Some(word) if ["local", "transaction", "constraints"].iter().any(|w| word.is(w)) => {
                Effect::Other
            }
            _ => Effect::Settings,
        };
    }
    if is("load") || is("create") && creates_temporary(words) || is("declare") && holds(words) {
        return Effect::Leaves;
    }
    Effect::Other
}

fn deallocate(mut words: Lexer<'_>) -> Effect<'_> {
    let mut word = words.next();
    // The noise word, unless it is the name itself.
    if word.is_some_and(|word| word.is("prepare")) {
        let after = words.next();
        if after.is_some_and(|after| !after.is_symbol(b';')) {
            word = after;
        }
    }
    match word {
        Some(word) if word.is("all") => Effect::DeallocateAll,
        word => word.and_then(|word| word.name()).map_or(Effect::Other, Effect::Deallocate),
    }
}

/// `CREATE [GLOBAL | LOCAL] {TEMP | TEMPORARY} …`, `CREATE OR REPLACE TEMP VIEW …`.
fn creates_temporary(words: Lexer<'_>) -> bool {
    let mut before = words.take(4).take_while(|word| {
        ["global", "local", "or", "replace", "temp", "temporary"].iter().any(|w| word.is(w))
    });
    before.any(|word| word.is("temp") || word.is("temporary"))
}

/// `DECLARE name … CURSOR WITH HOLD …`.
fn holds(words: Lexer<'_>) -> bool {
    let mut after = words.skip_while(|word| !word.is("cursor")).skip(1);
    matches!((after.next(), after.next()), (Some(with), Some(hold)) if with.is("with") && hold.is("hold"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cuts_statements_at_semicolons_outside_quotes() {
        for (sql, parts) in [
            ("", &[][..]),
            (" ;; -- x\n;", &[]),
            ("select 1", &["select 1"]),
            ("select ';'; select $$;$$ ;\n", &["select ';'", " select $$;$$ "]),
            ("a/*;*/b;c -- ;", &["a/*;*/b", "c -- ;"]),
            ("a; 'open ; b", &["a", " 'open ; b"]),
        ] {
            let found: Vec<_> = statements(sql.as_bytes()).map(String::from_utf8_lossy).collect();
            assert_eq!(found, parts, "{sql:?}");
        }
    }

    #[test]
    fn recognises_what_a_statement_does_to_the_session() {
        use Effect::*;
        let name = |name: &'static str| Cow::Borrowed(name.as_bytes());
        for (sql, wanted) in [
            ("DISCARD ALL", DiscardAll),
            ("/* x */ discard\nall;", DiscardAll),
            ("DISCARD PLANS", Other),
            ("\"discard\" all", Other),
            ("DEALLOCATE ALL", DeallocateAll),
            ("deallocate prepare all", DeallocateAll),
            ("DEALLOCATE S1", Deallocate(name("s1"))),
            ("DEALLOCATE PREPARE \"S1\"", Deallocate(name("S1"))),
            ("DEALLOCATE prepare", Deallocate(name("prepare"))),
            ("DEALLOCATE prepare;", Deallocate(name("prepare"))),
            ("DEALLOCATE", Other),
            ("PREPARE p AS SELECT 1", Prepare(name("p"))),
            ("PREPARE TRANSACTION 'x'", Other),
            ("LISTEN c", Listen(name("c"))),
            ("UNLISTEN *", Unlisten(None)),
            ("UNLISTEN c", Unlisten(Some(name("c")))),
            ("SET search_path = x", Settings),
            ("SET SESSION x = 1", Settings),
            ("SET LOCAL x = 1", Other),
            ("set transaction isolation level serializable", Other),
            ("RESET ALL", Settings),
            ("CREATE TEMP TABLE t()", Leaves),
            ("create or replace local temporary view v as select", Leaves),
            ("CREATE TABLE temp()", Other),
            ("DECLARE c NO SCROLL CURSOR WITH HOLD FOR SELECT 1", Leaves),
            ("DECLARE c CURSOR FOR SELECT 1", Other),
            ("SELECT 1", Other),
            ("", Other),
            ("('x')", Other),
        ] {
            assert_eq!(effect(sql.as_bytes()), wanted, "{sql}");
        }
    }
}
