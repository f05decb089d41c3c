//! What a server would report of a parameter's value that a client asks for at its start.
//!
//! A client that asks for what the server has anyway, in words of its own, then needs nothing set, and is told what a server
//! tells. And a DateStyle that leaves something open means the server's own setting, not what the last client has left.

/// `wanted` as the server reports it whose own value is `own`; `None` where only a server can tell, or refuses it.
pub(crate) fn reported(name: &str, wanted: &str, own: &str) -> Option<String> {
    match name {
        // Letters and digits alone count, without regard to case (`clean_encoding_name` in `encnames.c`).
        "client_encoding" => cleaned(wanted).eq(cleaned(own)).then(|| own.to_owned()),
        // The case does not count (`pg_tzset` in `pgtz.c`).
        "TimeZone" => wanted.eq_ignore_ascii_case(own).then(|| own.to_owned()),
        "DateStyle" => date_style(wanted, own),
        _ => None,
    }
}

fn cleaned(encoding: &str) -> impl Iterator<Item = char> {
    let counted = encoding.chars().filter(char::is_ascii_alphanumeric);
    counted.map(|character| character.to_ascii_lowercase())
}

/// As `check_datestyle` in `variable.c` has it: words for style and order in any number, each of one meaning only.
fn date_style(wanted: &str, own: &str) -> Option<String> {
    let (mut style, mut order) = (None, None);
    for word in wanted.split(',') {
        let word = word.trim().to_ascii_lowercase();
        match word.as_str() {
            "iso" => agree(&mut style, "ISO")?,
            "sql" => agree(&mut style, "SQL")?,
            "german" => agree(&mut style, "German")?,
            "ymd" => agree(&mut order, "YMD")?,
            "dmy" => agree(&mut order, "DMY")?,
            "mdy" | "us" => agree(&mut order, "MDY")?,
            _ if word.contains(|letter: char| !letter.is_ascii_alphabetic()) => return None,
            _ if word.starts_with("postgres") => agree(&mut style, "Postgres")?,
            _ if word.starts_with("euro") => agree(&mut order, "DMY")?,
            _ if word.starts_with("noneuro") => agree(&mut order, "MDY")?,
            _ => return None,
        }
    }
    let (own_style, own_order) = own.split_once(", ")?;
    let german = (style == Some("German")).then_some("DMY");
    Some(format!("{}, {}", style.unwrap_or(own_style), order.or(german).unwrap_or(own_order)))
}

/// Two words that contradict each other are an error of the client's.
fn agree(known: &mut Option<&'static str>, said: &'static str) -> Option<()> {
    (*known.get_or_insert(said) == said).then_some(())
}

#[cfg(test)]
mod tests {
    use super::reported;

    #[test]
    fn what_the_server_has_is_spelled_as_it_does() {
        let same = |name, wanted, own: &str| {
            assert_eq!(reported(name, wanted, own).as_deref(), Some(own), "{wanted}");
        };
        same("client_encoding", "'utf-8'", "UTF8");
        same("client_encoding", "sql_ascii", "SQL_ASCII");
        same("TimeZone", "europe/lisbon", "Europe/Lisbon");
        same("DateStyle", "iso", "ISO, DMY");
        assert_eq!(reported("client_encoding", "latin1", "UTF8"), None);
        assert_eq!(reported("TimeZone", "UTC", "Etc/UTC"), None);
        assert_eq!(reported("application_name", "a", "A"), None);
    }

    #[test]
    fn a_date_style_is_completed_by_the_servers_own() {
        let style = |wanted| reported("DateStyle", wanted, "ISO, MDY");
        assert_eq!(style("SQL").as_deref(), Some("SQL, MDY"));
        assert_eq!(style(" european ").as_deref(), Some("ISO, DMY"));
        assert_eq!(style("german").as_deref(), Some("German, DMY"));
        assert_eq!(style("us, German").as_deref(), Some("German, MDY"));
        assert_eq!(style("YMD,PostgreSQL,ymd").as_deref(), Some("Postgres, YMD"));
        assert_eq!(style("iso, sql"), None, "a contradiction");
        assert_eq!(style("dmy, us"), None);
        assert_eq!(style("default"), None);
        assert_eq!(style("postgres mdy"), None);
        assert_eq!(style(""), None);
    }
}
