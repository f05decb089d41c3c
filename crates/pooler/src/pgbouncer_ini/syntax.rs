//! The syntax of `pgbouncer.ini`: sections, `key = value`, comments, quotes, connection strings.
//!
//! Rules: PgBouncer's `config.md`, "Description", "Include directive" and "Section [databases]".

/// One line that says something.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) enum Statement<'a> {
    Section(&'a str),
    Include(&'a str),
    Value { key: String, value: &'a str },
}

/// Reads one line; `None` for an empty line or a comment.
///
/// # Errors
/// A sentence. It quotes no value, which may hold a password.
pub(super) fn statement(line: &str) -> Result<Option<Statement<'_>>, String> {
    let line = line.trim();
    if line.is_empty() || line.starts_with([';', '#']) {
        return Ok(None);
    }
    if let Some(rest) = line.strip_prefix("%include") {
        let path = rest.trim();
        if path.is_empty() || !rest.starts_with([' ', '\t']) {
            return Err("%include needs a file name".to_owned());
        }
        return Ok(Some(Statement::Include(path)));
    }
    if let Some(rest) = line.strip_prefix('[') {
        let (name, after) = rest.split_once(']').ok_or("a section name ends with \"]\"")?;
        if !after.trim().is_empty() {
            return Err("unexpected text after a section name".to_owned());
        }
        return Ok(Some(Statement::Section(name)));
    }
    let (key, rest) = key(line)?;
    let value = rest.trim_start().strip_prefix('=').ok_or("expected \"key = value\"")?;
    Ok(Some(Statement::Value { key, value: value.trim() }))
}

/// A bare key (letters, digits, `_ . - *`) or one in single or double quotes.
fn key(line: &str) -> Result<(String, &str), String> {
    for quote in ['\'', '"'] {
        let Some(inside) = line.strip_prefix(quote) else { continue };
        let (key, rest) = unquote(inside, quote).ok_or("a quote is not closed")?;
        if key.is_empty() {
            return Err("a quoted name is empty".to_owned());
        }
        return Ok((key, rest));
    }
    let end = line
        .find(|c: char| !(c.is_alphanumeric() || matches!(c, '_' | '.' | '-' | '*')))
        .unwrap_or(line.len());
    let (key, rest) = line.split_at(end);
    if key.is_empty() {
        return Err("expected \"key = value\"".to_owned());
    }
    Ok((key.to_owned(), rest))
}

/// Splits `host=h port=5 password='it''s'` into pairs.
///
/// # Errors
/// A sentence that quotes no value.
pub(super) fn pairs(text: &str) -> Result<Vec<(&str, String)>, String> {
    let mut found = Vec::new();
    let mut rest = text.trim_start();
    while !rest.is_empty() {
        let end = rest.find(|c: char| c == '=' || c.is_whitespace()).unwrap_or(rest.len());
        let (key, after) = rest.split_at(end);
        let after = after.trim_start().strip_prefix('=');
        let (Some(after), false) = (after, key.is_empty()) else {
            return Err("syntax error in connection string: expected \"key=value\"".to_owned());
        };
        let (value, after) = value(after.trim_start()).ok_or_else(|| {
            format!("syntax error in connection string: the quote after \"{key}=\" is not closed")
        })?;
        if value.is_empty() {
            return Err(format!("syntax error in connection string: \"{key}\" has no value"));
        }
        found.push((key, value));
        rest = after.trim_start();
    }
    Ok(found)
}

fn value(text: &str) -> Option<(String, &str)> {
    if let Some(inside) = text.strip_prefix('\'') {
        return unquote(inside, '\'');
    }
    let end = text.find(char::is_whitespace).unwrap_or(text.len());
    let (value, rest) = text.split_at(end);
    Some((value.to_owned(), rest))
}

/// Reads up to the closing quote; a doubled quote stands for one.
fn unquote(text: &str, quote: char) -> Option<(String, &str)> {
    let mut value = String::new();
    let mut rest = text;
    loop {
        let (before, after) = rest.split_once(quote)?;
        value.push_str(before);
        let Some(after_pair) = after.strip_prefix(quote) else {
            return Some((value, after));
        };
        value.push(quote);
        rest = after_pair;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(line: &str, expected: Option<Statement<'_>>) {
        assert_eq!(statement(line), Ok(expected), "{line}");
    }

    fn value_of<'a>(key: &str, value: &'a str) -> Option<Statement<'a>> {
        Some(Statement::Value { key: key.to_owned(), value })
    }

    #[test]
    fn lines_are_told_apart() {
        check("", None);
        check("  ; comment = x", None);
        check("# comment", None);
        check("\t[pgbouncer]\r", Some(Statement::Section("pgbouncer")));
        check("%include  /etc/a b.ini ", Some(Statement::Include("/etc/a b.ini")));
        check(" listen_port\t=\t6432 \r", value_of("listen_port", "6432"));
        check("* = host=h", value_of("*", "host=h"));
        check("log = a ; not a comment", value_of("log", "a ; not a comment"));
        check("auth_file =", value_of("auth_file", ""));
        check("'my db' = host=h", value_of("my db", "host=h"));
        check("\"my \"\"db\" = host=h", value_of("my \"db", "host=h"));
    }

    #[test]
    fn broken_lines_are_explained() {
        for (line, message) in [
            ("listen_port 6432", "expected \"key = value\""),
            ("= 6432", "expected \"key = value\""),
            ("my db = host=h", "expected \"key = value\""),
            ("[pgbouncer", "a section name ends with \"]\""),
            ("[pgbouncer] x", "unexpected text after a section name"),
            ("%include", "%include needs a file name"),
            ("'my db = x", "a quote is not closed"),
            ("'' = x", "a quoted name is empty"),
        ] {
            assert_eq!(statement(line), Err(message.to_owned()), "{line}");
        }
    }

    #[test]
    fn connection_strings_have_quotes_and_spaces() {
        assert_eq!(
            pairs(" host = h  port=5 password='it''s a = b' user=u "),
            Ok(vec![
                ("host", "h".to_owned()),
                ("port", "5".to_owned()),
                ("password", "it's a = b".to_owned()),
                ("user", "u".to_owned()),
            ])
        );
        assert_eq!(pairs(""), Ok(vec![]));
    }

    #[test]
    fn a_broken_connection_string_does_not_show_its_values() {
        for (text, message) in [
            ("secret", "expected \"key=value\""),
            ("=secret", "expected \"key=value\""),
            ("password='secret", "the quote after \"password=\" is not closed"),
            ("password= user=u secret", "expected \"key=value\""),
            ("password=''", "\"password\" has no value"),
        ] {
            let error = pairs(text).expect_err("it is broken");
            assert_eq!(error, format!("syntax error in connection string: {message}"), "{text}");
        }
    }
}
