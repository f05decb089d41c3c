//! PgBouncer's `auth_file`: one `"user" "secret"` to a line.
//!
//! Format: PgBouncer's `config.md`, "Authentication file format". Unlike PgBouncer, which keeps what
//! it read before a broken line, a broken file is refused whole: half a user list is a surprise.

use std::collections::BTreeMap;

use crate::limits::{USERLIST_NAME_BYTES_MAX, USERLIST_SECRET_BYTES_MAX};
use crate::settings::Secret;
use crate::settings::file::SettingsError;

/// Reads the users and their secrets (plain text, `md5…`, `SCRAM-SHA-256$…`, or empty).
/// A name that comes twice has its last secret.
///
/// # Errors
/// The first line that cannot be read. No message quotes a line.
pub fn parse(file: &str, text: &str) -> Result<BTreeMap<String, Secret>, SettingsError> {
    let mut users = BTreeMap::new();
    for (index, line) in text.lines().enumerate() {
        let line = line.trim();
        if line.is_empty() || line.starts_with(';') {
            continue;
        }
        let (name, secret) = parse_line(line).map_err(|message| SettingsError {
            file: file.to_owned(),
            line: Some(index + 1),
            key: None,
            message,
        })?;
        users.insert(name, secret);
    }
    Ok(users)
}

/// What follows the second text is ignored, as PgBouncer does (old files have a third).
fn parse_line(line: &str) -> Result<(String, Secret), String> {
    let (name, rest) = quoted(line, "a user name in double quotes")?;
    let (secret, _rest) = quoted(rest.trim_start(), "a secret in double quotes")?;
    if name.is_empty() {
        return Err("the user name is empty".to_owned());
    }
    if name.len() > USERLIST_NAME_BYTES_MAX {
        return Err(format!("the user name is longer than {USERLIST_NAME_BYTES_MAX} bytes"));
    }
    if secret.len() > USERLIST_SECRET_BYTES_MAX {
        return Err(format!("the secret is longer than {USERLIST_SECRET_BYTES_MAX} bytes"));
    }
    Ok((name, Secret::new(secret)))
}

/// One text in double quotes, a quote inside it doubled, and what follows.
fn quoted<'a>(text: &'a str, what: &str) -> Result<(String, &'a str), String> {
    let mut rest = text.strip_prefix('"').ok_or_else(|| format!("expected {what}"))?;
    let mut value = String::new();
    loop {
        let (before, after) = rest.split_once('"').ok_or("a double quote is not closed")?;
        value.push_str(before);
        let Some(after_pair) = after.strip_prefix('"') else {
            return Ok((value, after));
        };
        value.push('"');
        rest = after_pair;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str, expected: &[(&str, &str)]) {
        let users = parse("userlist.txt", text).expect("the file is good");
        let found: Vec<(&str, &str)> =
            users.iter().map(|(name, secret)| (name.as_str(), secret.expose())).collect();
        assert_eq!(found, expected);
    }

    fn check_bad(text: &str, expected: &str) {
        let error = parse("userlist.txt", text).expect_err("the file is bad");
        assert_eq!(error.to_string(), expected);
    }

    #[test]
    fn reads_every_kind_of_secret() {
        check(
            "; comment\n\
             \"plain\" \"a secret\"\n\
             \n\
             \"md5\" \"md5abcdef0123456789abcdef0123456789\"\n\
             \x20 \"scram\"\t\"SCRAM-SHA-256$4096:c2FsdA==$a:b\"  \r\n\
             \"none\" \"\" \"third\" 4\n",
            &[
                ("md5", "md5abcdef0123456789abcdef0123456789"),
                ("none", ""),
                ("plain", "a secret"),
                ("scram", "SCRAM-SHA-256$4096:c2FsdA==$a:b"),
            ],
        );
    }

    #[test]
    fn a_doubled_quote_is_a_quote() {
        check("\"a\"\"b\" \"\"\"\"", &[("a\"b", "\"")]);
    }

    #[test]
    fn the_last_of_two_equal_names_wins() {
        check("\"a\" \"1\"\n\"a\" \"2\"", &[("a", "2")]);
    }

    #[test]
    fn a_broken_line_is_named_and_not_quoted() {
        check_bad(
            "\"a\" \"x\"\nbob s3cret",
            "userlist.txt:2: expected a user name in double quotes",
        );
        check_bad("\"a\" s3cret", "userlist.txt:1: expected a secret in double quotes");
        check_bad("\"a\"", "userlist.txt:1: expected a secret in double quotes");
        check_bad("\"a\" \"s3cret", "userlist.txt:1: a double quote is not closed");
        check_bad("\"\" \"x\"", "userlist.txt:1: the user name is empty");
        check_bad(
            "# no comment of this format",
            "userlist.txt:1: expected a user name in double quotes",
        );
        check_bad(
            &format!("\"{}\" \"\"", "x".repeat(USERLIST_NAME_BYTES_MAX + 1)),
            "userlist.txt:1: the user name is longer than 256 bytes",
        );
        check_bad(
            &format!("\"x\" \"{}\"", "x".repeat(USERLIST_SECRET_BYTES_MAX + 1)),
            "userlist.txt:1: the secret is longer than 4096 bytes",
        );
    }

    #[test]
    fn an_empty_file_has_no_users() {
        check("", &[]);
    }
}
