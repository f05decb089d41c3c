//! What an administrator typed: from text to [`Statement`].
//!
//! The language is PgBouncer's (`usage.md`, "Admin console"): one command to a query, at most one
//! argument, keywords in any case, names in double quotes if they are not plain words. Added are the
//! few statements that drivers send by themselves.

use pg::sqlstate::SqlState;
use pg::wire::error::Report;

use crate::command::{Finish, Order};

/// One command.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Statement {
    Empty,
    Show(Show),
    /// SHOW of a parameter that drivers ask for: its name and value.
    Parameter(&'static str, &'static str),
    /// `SELECT 1`.
    Number(i64),
    /// `SELECT current_database()` and the like: the column and its text.
    Text(&'static str, String),
    Reload,
    Order(Order),
    Shutdown(Shutdown),
    Set {
        key: String,
        value: String,
    },
    /// What drivers send and a console need not do: the tag to answer with.
    Nothing(&'static str),
    Begin,
    /// COMMIT or ROLLBACK, with its tag.
    End(&'static str),
}

/// When the pooler stops.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Shutdown {
    /// Now; clients are cut off.
    Immediate,
    After(Finish),
}

/// What SHOW shows.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Show {
    Clients,
    Config,
    Databases,
    DnsHosts,
    DnsZones,
    Help,
    Lists,
    Mem,
    PeerPools,
    Peers,
    Pools,
    Servers,
    Sockets,
    State,
    Stats,
    StatsAverages,
    StatsTotals,
    Totals,
    Users,
    Version,
}

/// SHOW's names, in the order of the manual.
pub(super) const SHOWS: [(&str, Show); 21] = [
    ("active_sockets", Show::Sockets),
    ("clients", Show::Clients),
    ("config", Show::Config),
    ("databases", Show::Databases),
    ("dns_hosts", Show::DnsHosts),
    ("dns_zones", Show::DnsZones),
    ("help", Show::Help),
    ("lists", Show::Lists),
    ("mem", Show::Mem),
    ("peer_pools", Show::PeerPools),
    ("peers", Show::Peers),
    ("pools", Show::Pools),
    ("servers", Show::Servers),
    ("sockets", Show::Sockets),
    ("state", Show::State),
    ("stats", Show::Stats),
    ("stats_averages", Show::StatsAverages),
    ("stats_totals", Show::StatsTotals),
    ("totals", Show::Totals),
    ("users", Show::Users),
    ("version", Show::Version),
];

/// Parameters whose values drivers ask for or set without need. SET of them is ignored.
pub(super) const PARAMETERS: [(&str, &str); 12] = [
    ("application_name", ""),
    ("client_encoding", "UTF8"),
    ("client_min_messages", "notice"),
    ("datestyle", "ISO"),
    ("default_transaction_isolation", "read committed"),
    ("default_transaction_read_only", "off"),
    ("extra_float_digits", "1"),
    ("intervalstyle", "postgres"),
    ("server_version", super::SERVER_VERSION),
    ("standard_conforming_strings", "on"),
    ("statement_timeout", "0"),
    ("timezone", "GMT"),
];

impl Statement {
    /// Whether the statistics right is enough.
    pub(crate) fn only_reads(&self) -> bool {
        matches!(
            self,
            Self::Empty
                | Self::Show(_)
                | Self::Parameter(..)
                | Self::Number(_)
                | Self::Text(..)
                | Self::Nothing(_)
                | Self::Begin
                | Self::End(_)
        )
    }
}

/// Reads one command.
///
/// # Errors
/// 42601 for what is no command, 0A000 for one that PgBouncer has and we do not.
pub(crate) fn parse(text: &str) -> Result<Statement, Report> {
    let words = words(text).ok_or_else(|| invalid(text))?;
    let bare: Vec<&str> = words.iter().map(Word::keyword).collect();
    let argument = words.get(1);
    let database = || argument.map(|word| word.text.clone());
    let named = || database().ok_or_else(|| invalid(text));
    let order = |order| Ok(Statement::Order(order));
    match bare.as_slice() {
        [] => Ok(Statement::Empty),
        ["show" | "select", ..] => show(text, &words),
        ["set", ..] => set(text, &words),
        ["reload"] => Ok(Statement::Reload),
        ["pause"] | ["pause", _] => order(Order::Pause { database: database() }),
        ["resume"] | ["resume", _] => order(Order::Resume { database: database() }),
        ["disable", _] => order(Order::Disable { database: named()? }),
        ["enable", _] => order(Order::Enable { database: named()? }),
        ["disable"] | ["enable"] => Err(syntax("a database is required".to_owned())),
        ["reconnect"] | ["reconnect", _] => order(Order::Reconnect { database: database() }),
        ["kill"] | ["kill", _] => order(Order::Kill { database: database() }),
        ["kill_client", _] => {
            let id = argument.and_then(|word| word.text.parse().ok());
            let id = id.ok_or_else(|| syntax("invalid client id supplied".to_owned()))?;
            order(Order::KillClient { id })
        }
        ["suspend"] => order(Order::Suspend),
        ["wait_close"] | ["wait_close", _] => order(Order::WaitClose { database: database() }),
        ["shutdown"] => Ok(Statement::Shutdown(Shutdown::Immediate)),
        ["shutdown", "wait_for_servers"] => {
            Ok(Statement::Shutdown(Shutdown::After(Finish::Servers)))
        }
        ["shutdown", "wait_for_clients"] => {
            Ok(Statement::Shutdown(Shutdown::After(Finish::Clients)))
        }
        ["begin", ..] | ["start", "transaction", ..] => Ok(Statement::Begin),
        ["commit" | "end", ..] => Ok(Statement::End("COMMIT")),
        ["rollback" | "abort", ..] => Ok(Statement::End("ROLLBACK")),
        ["discard", "all"] => Ok(Statement::Nothing("DISCARD ALL")),
        ["reset", "all"] => Ok(Statement::Nothing("RESET")),
        ["deallocate", ..] => Ok(Statement::Nothing("DEALLOCATE")),
        ["close", "all"] => Ok(Statement::Nothing("CLOSE CURSOR ALL")),
        ["unlisten", "*"] => Ok(Statement::Nothing("UNLISTEN")),
        _ => Err(invalid(text)),
    }
}

/// SELECT is SHOW, as in PgBouncer, except for what drivers ask to see whether anybody is there.
fn show(text: &str, words: &[Word]) -> Result<Statement, Report> {
    let keywords: Vec<String> =
        words.iter().skip(1).map(|word| word.text.to_ascii_lowercase()).collect();
    let keywords: Vec<&str> = keywords.iter().map(String::as_str).collect();
    match keywords.as_slice() {
        ["fds"] => Err(Report::error(
            SqlState::FEATURE_NOT_SUPPORTED,
            "SHOW FDS is not supported: connections are not handed over by descriptor",
        )),
        [name] => {
            if let Some((_name, show)) = SHOWS.iter().find(|(known, _show)| known == name) {
                return Ok(Statement::Show(*show));
            }
            if let Some(&(name, value)) = PARAMETERS.iter().find(|(known, _value)| known == name) {
                return Ok(Statement::Parameter(name, value));
            }
            name.parse().map(Statement::Number).map_err(|_error| invalid(text))
        }
        ["transaction", "isolation", "level"] => {
            Ok(Statement::Parameter("transaction_isolation", "read committed"))
        }
        ["version", "(", ")"] | ["pg_catalog.version", "(", ")"] => {
            Ok(Statement::Text("version", super::version()))
        }
        ["current_database", "(", ")"] => {
            Ok(Statement::Text("current_database", super::CONSOLE_DATABASES[0].to_owned()))
        }
        _ => Err(invalid(text)),
    }
}

/// `SET key = value`, `SET key TO value`; SESSION and the like are for parameters only.
fn set(text: &str, words: &[Word]) -> Result<Statement, Report> {
    let keywords: Vec<&str> = words.iter().map(Word::keyword).collect();
    match keywords.as_slice() {
        ["set", "session", "characteristics", ..] | ["set", "transaction", ..] => {
            Ok(Statement::Nothing("SET"))
        }
        ["set", "time", "zone", ..] => Ok(Statement::Nothing("SET")),
        ["set", "session" | "local", rest @ ..] if rest.len() > 2 => set(text, &without(words, 1)),
        ["set", _, "=" | "to", _, ..] => {
            let key = words.get(1).map(|word| word.text.to_ascii_lowercase()).unwrap_or_default();
            if PARAMETERS.iter().any(|(name, _value)| *name == key) {
                return Ok(Statement::Nothing("SET"));
            }
            let [_set, _key, _equals, value] = words else { return Err(invalid(text)) };
            Ok(Statement::Set { key, value: value.text.clone() })
        }
        _ => Err(invalid(text)),
    }
}

fn without(words: &[Word], index: usize) -> Vec<Word> {
    words.iter().enumerate().filter(|(at, _word)| *at != index).map(|(_at, w)| w.clone()).collect()
}

#[derive(Clone, Debug)]
struct Word {
    text: String,
    /// Lower case, empty if it was quoted: a quoted word is never a keyword.
    folded: String,
}

impl Word {
    fn keyword(&self) -> &str {
        &self.folded
    }
}

/// Words up to the closing semicolon; `None` if a quote is open or something follows the semicolon.
fn words(text: &str) -> Option<Vec<Word>> {
    let mut found = Vec::new();
    let mut rest = text.trim_start();
    while let Some(first) = rest.chars().next() {
        if first == ';' {
            let after = rest.trim_start_matches(|c: char| c == ';' || c.is_whitespace());
            return after.is_empty().then_some(found);
        }
        if let Some(after) = rest.strip_prefix("--") {
            rest = after.split_once('\n').map_or("", |(_comment, next)| next).trim_start();
            continue;
        }
        let after = match first {
            '"' | '\'' => {
                let (text, after) = unquote(rest.strip_prefix(first)?, first)?;
                found.push(Word { text, folded: String::new() });
                after
            }
            '=' | '(' | ')' | ',' => {
                found.push(Word { text: first.to_string(), folded: first.to_string() });
                rest.strip_prefix(first)?
            }
            _ => {
                let end = rest
                    .find(|c: char| c.is_whitespace() || "\"'=(),;".contains(c))
                    .unwrap_or(rest.len());
                let (word, after) = rest.split_at(end);
                found.push(Word { text: word.to_owned(), folded: word.to_ascii_lowercase() });
                after
            }
        };
        rest = after.trim_start();
    }
    Some(found)
}

fn unquote(text: &str, quote: char) -> Option<(String, &str)> {
    let mut value = String::new();
    let mut rest = text;
    loop {
        let (before, after) = rest.split_once(quote)?;
        value.push_str(before);
        let Some(after_pair) = after.strip_prefix(quote) else { return Some((value, after)) };
        value.push(quote);
        rest = after_pair;
    }
}

fn invalid(text: &str) -> Report {
    const SHOWN_CHARACTERS_MAX: usize = 100;
    let shown: String = text.chars().take(SHOWN_CHARACTERS_MAX).collect();
    syntax(format!("invalid command '{}', use SHOW HELP;", shown.trim()))
}

fn syntax(message: String) -> Report {
    Report::error(SqlState::SYNTAX_ERROR, message)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str, expected: Statement) {
        assert_eq!(parse(text).expect("it is a command"), expected, "{text}");
    }

    fn check_bad(text: &str, sqlstate: &str, message: &str) {
        let report = parse(text).expect_err("it is no command");
        assert_eq!((report.sqlstate.as_str(), &*report.message), (sqlstate, message), "{text}");
    }

    fn named(name: &str) -> Option<String> {
        Some(name.to_owned())
    }

    #[test]
    fn commands_are_read_in_any_case() {
        check("", Statement::Empty);
        check(" ; ", Statement::Empty);
        check("show pools", Statement::Show(Show::Pools));
        check("SHOW  Pools ;", Statement::Show(Show::Pools));
        check("SELECT pools", Statement::Show(Show::Pools));
        check("-- hello\nRELOAD", Statement::Reload);
        check("PAUSE", Statement::Order(Order::Pause { database: None }));
        check("PAUSE shop;", Statement::Order(Order::Pause { database: named("shop") }));
        check(
            "pause \"Shop \"\"1\"\"\"",
            Statement::Order(Order::Pause { database: named("Shop \"1\"") }),
        );
        check("RESUME Shop", Statement::Order(Order::Resume { database: named("Shop") }));
        check("kill_client 17", Statement::Order(Order::KillClient { id: 17 }));
        check("SHUTDOWN WAIT_FOR_CLIENTS", Statement::Shutdown(Shutdown::After(Finish::Clients)));
        check("SHUTDOWN", Statement::Shutdown(Shutdown::Immediate));
        check("WAIT_CLOSE", Statement::Order(Order::WaitClose { database: None }));
    }

    #[test]
    fn every_show_has_its_name() {
        for (name, show) in SHOWS {
            check(&format!("SHOW {}", name.to_uppercase()), Statement::Show(show));
        }
    }

    #[test]
    fn set_takes_equals_and_to_and_quotes() {
        let set = |key: &str, value: &str| Statement::Set { key: key.into(), value: value.into() };
        check("SET default_pool_size = 5", set("default_pool_size", "5"));
        check("set Default_Pool_Size to '5'", set("default_pool_size", "5"));
        check("set admin_users='a, b'", set("admin_users", "a, b"));
        check("set server_check_query = 'it''s'", set("server_check_query", "it's"));
    }

    #[test]
    fn what_drivers_send_is_answered() {
        check("select 1", Statement::Number(1));
        check("SELECT 42;", Statement::Number(42));
        check("SHOW server_version", Statement::Parameter("server_version", "1.26.0/bouncer"));
        check(
            "SHOW TRANSACTION ISOLATION LEVEL",
            Statement::Parameter("transaction_isolation", "read committed"),
        );
        check("SET client_encoding TO 'UTF8'", Statement::Nothing("SET"));
        check("SET DateStyle = 'ISO', 'MDY'", Statement::Nothing("SET"));
        check("SET SESSION statement_timeout = 5", Statement::Nothing("SET"));
        check("SET SESSION CHARACTERISTICS AS TRANSACTION READ ONLY", Statement::Nothing("SET"));
        check("BEGIN", Statement::Begin);
        check("START TRANSACTION READ ONLY", Statement::Begin);
        check("COMMIT", Statement::End("COMMIT"));
        check("ROLLBACK", Statement::End("ROLLBACK"));
        check("DISCARD ALL", Statement::Nothing("DISCARD ALL"));
        check("select current_database()", Statement::Text("current_database", "howdah".into()));
    }

    #[test]
    fn nonsense_is_refused_in_the_words_of_pgbouncer() {
        for text in [
            "hello",
            "show",
            "show nothing",
            "show pools clients",
            "pause a b",
            "reload now",
            "shutdown later",
            "set a",
            "set a = b c",
            "set default_pool_size = 1, 2",
            "show \"pools",
            "reload; reload",
            "\"reload\"",
            "select * from pg_class",
        ] {
            check_bad(text, "42601", &format!("invalid command '{text}', use SHOW HELP;"));
        }
        check_bad("kill_client x", "42601", "invalid client id supplied");
        check_bad("kill_client -1", "42601", "invalid client id supplied");
        check_bad(
            "SHOW FDS",
            "0A000",
            "SHOW FDS is not supported: connections are not handed over by descriptor",
        );
    }

    #[test]
    fn a_long_command_is_quoted_in_part() {
        let report = parse(&"é".repeat(10_000)).expect_err("it is no command");
        assert!(report.message.len() < 300);
    }

    #[test]
    fn only_what_reads_is_for_everybody() {
        let reads = |text: &str| parse(text).expect("it is a command").only_reads();
        for text in
            ["SHOW POOLS", "select 1", "begin", "", "SET timezone = 'UTC'", "show datestyle"]
        {
            assert!(reads(text), "{text}");
        }
        for text in [
            "RELOAD",
            "PAUSE",
            "RESUME",
            "DISABLE a",
            "ENABLE a",
            "RECONNECT",
            "KILL",
            "KILL_CLIENT 1",
            "SUSPEND",
            "WAIT_CLOSE",
            "SHUTDOWN",
            "SET log_stats = 1",
        ] {
            assert!(!reads(text), "{text}");
        }
    }
}
