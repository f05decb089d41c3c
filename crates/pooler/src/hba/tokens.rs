//! The words of `pg_hba.conf` and `pg_ident.conf`: lines, quotes, comments, lists.
//!
//! Format: PostgreSQL documentation, section 21.1.

/// One word; a quoted one is never a keyword.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct Token {
    pub(super) text: String,
    pub(super) quoted: bool,
}

impl Token {
    /// Whether it is this keyword.
    pub(super) fn is(&self, keyword: &str) -> bool {
        !self.quoted && self.text == keyword
    }
}

/// A field: words with commas between them.
pub(super) type Field = Vec<Token>;

/// A line that says something: its number (of its first part) and its fields.
#[derive(Debug)]
pub(super) struct Line {
    pub(super) number: usize,
    pub(super) fields: Vec<Field>,
}

/// Splits a file into lines and fields. A backslash at the end of a line joins the next one.
///
/// # Errors
/// The number of the line and what is wrong with it.
pub(super) fn lines(text: &str) -> Result<Vec<Line>, (usize, String)> {
    let mut found = Vec::new();
    let mut joined = String::new();
    let mut first = 1;
    for (index, line) in text.lines().enumerate() {
        if joined.is_empty() {
            first = index + 1;
        }
        if let Some(part) = line.strip_suffix('\\') {
            joined.push_str(part);
            joined.push(' ');
            continue;
        }
        joined.push_str(line);
        let fields = fields(&joined).map_err(|message| (first, message))?;
        if !fields.is_empty() {
            found.push(Line { number: first, fields });
        }
        joined.clear();
    }
    let fields = fields(&joined).map_err(|message| (first, message))?;
    if !fields.is_empty() {
        found.push(Line { number: first, fields });
    }
    Ok(found)
}

fn fields(line: &str) -> Result<Vec<Field>, String> {
    let mut fields: Vec<Field> = Vec::new();
    let mut rest = line.trim_start();
    // After a comma the next word belongs to the same field, whatever spaces are between.
    let mut same_field = false;
    while !rest.is_empty() && !rest.starts_with('#') {
        if let Some(after) = rest.strip_prefix(',') {
            if fields.is_empty() {
                return Err("a line cannot begin with a comma".to_owned());
            }
            same_field = true;
            rest = after.trim_start();
            continue;
        }
        let (token, after) = token(rest)?;
        match fields.last_mut() {
            Some(field) if same_field => field.push(token),
            _ => fields.push(vec![token]),
        }
        same_field = false;
        rest = after.trim_start();
    }
    if same_field {
        return Err("a list ends with a comma".to_owned());
    }
    Ok(fields)
}

/// One word up to a space, comma or comment; quotes may begin anywhere in it (`map="a b"`).
fn token(text: &str) -> Result<(Token, &str), String> {
    let mut value = String::new();
    let quoted = text.starts_with('"');
    let mut in_quotes = false;
    let mut characters = text.char_indices().peekable();
    while let Some((at, character)) = characters.next() {
        match character {
            '"' if in_quotes && characters.peek().is_some_and(|&(_, next)| next == '"') => {
                value.push('"');
                characters.next();
            }
            '"' => in_quotes = !in_quotes,
            ',' | '#' if !in_quotes => return Ok((Token { text: value, quoted }, tail(text, at))),
            _ if !in_quotes && character.is_whitespace() => {
                return Ok((Token { text: value, quoted }, tail(text, at)));
            }
            _ => value.push(character),
        }
    }
    if in_quotes {
        return Err("a double quote is not closed".to_owned());
    }
    Ok((Token { text: value, quoted }, ""))
}

fn tail(text: &str, at: usize) -> &str {
    text.get(at..).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str, expected: &[&[&[&str]]]) {
        let found: Vec<Vec<Vec<String>>> = lines(text)
            .expect("the text is good")
            .into_iter()
            .map(|line| {
                line.fields
                    .into_iter()
                    .map(|field| field.into_iter().map(|token| token.text).collect())
                    .collect()
            })
            .collect();
        assert_eq!(found, expected);
    }

    #[test]
    fn words_lists_quotes_and_comments() {
        check(
            "# nothing\n\nlocal all,\"a b\" , c  trust # why\n\"x\"\"y\" map=\"m n\"",
            &[&[&["local"], &["all", "a b", "c"], &["trust"]], &[&["x\"y"], &["map=m n"]]],
        );
    }

    #[test]
    fn a_backslash_joins_lines() {
        let found = lines("a \\\nb\nc\\").expect("the text is good");
        assert_eq!(found.len(), 2);
        assert_eq!((found[0].number, found[0].fields.len()), (1, 2));
        assert_eq!((found[1].number, found[1].fields.len()), (3, 1));
    }

    #[test]
    fn a_quoted_word_is_no_keyword() {
        let found = lines("\"all\" all").expect("the text is good");
        assert!(!found[0].fields[0][0].is("all"));
        assert!(found[0].fields[1][0].is("all"));
    }

    #[test]
    fn mistakes_are_located() {
        let bad = |text: &str| lines(text).expect_err("the text is bad");
        assert_eq!(bad("a\nb \"c"), (2, "a double quote is not closed".to_owned()));
        assert_eq!(bad("a,"), (1, "a list ends with a comma".to_owned()));
        assert_eq!(bad(",a"), (1, "a line cannot begin with a comma".to_owned()));
    }
}
