//! Commands of a replication connection, as text: built by us as a client, parsed by us as the
//! page service. The grammar is that of `repl_gram.y` since PostgreSQL 15 (options in brackets).

use std::fmt;

use super::command_scanner::{Scanner, Token};
use crate::lsn::Lsn;

/// A command of the replication grammar.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Command {
    IdentifySystem,
    Show(String),
    CreateSlot(CreateSlot),
    ReadSlot(String),
    DropSlot {
        name: String,
        wait: bool,
    },
    StartPhysical {
        slot: Option<String>,
        start: Lsn,
        timeline: Option<u32>,
    },
    StartLogical {
        slot: String,
        start: Lsn,
        options: Options,
    },
    TimelineHistory(u32),
    BaseBackup(Options),
    /// Howdah's own: see [`crate::wire::pagestream`].
    PageStream(Options),
}

/// CREATE_REPLICATION_SLOT.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CreateSlot {
    pub name: String,
    pub temporary: bool,
    /// The output plugin of a logical slot; `None` for a physical one.
    pub plugin: Option<String>,
    /// `RESERVE_WAL`, `TWO_PHASE`, `SNAPSHOT`, `FAILOVER`.
    pub options: Options,
}

/// `(NAME value, …)`. Names compare without regard to case; they are kept in lower case.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Options(pub Vec<CommandOption>);

/// One option; a name without a value means true.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CommandOption {
    pub name: String,
    pub value: Option<String>,
}

impl Options {
    pub const fn new() -> Options {
        Options(Vec::new())
    }

    /// The same with one more option, without a value: a boolean that is true.
    #[must_use]
    pub fn flag(mut self, name: &str) -> Options {
        self.0.push(CommandOption { name: name.to_ascii_lowercase(), value: None });
        self
    }

    /// The same with one more option.
    #[must_use]
    pub fn with(mut self, name: &str, value: impl Into<String>) -> Options {
        self.0.push(CommandOption { name: name.to_ascii_lowercase(), value: Some(value.into()) });
        self
    }

    /// The option's value: `Some("true")` if it stands without one, `None` if it is not there.
    pub fn get(&self, name: &str) -> Option<&str> {
        let option = self.0.iter().find(|option| option.name.eq_ignore_ascii_case(name))?;
        Some(option.value.as_deref().unwrap_or("true"))
    }

    /// A boolean option: `Some(None)` if its value is not a boolean.
    pub fn boolean(&self, name: &str) -> Option<Option<bool>> {
        self.get(name).map(|value| crate::wire::startup::boolean(value.as_bytes()))
    }
}

/// Nothing at all if there are no options.
impl fmt::Display for Options {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (number, option) in self.0.iter().enumerate() {
            f.write_str(if number == 0 { " (" } else { ", " })?;
            // Names that are plain words stand bare, as in Postgres' own clients.
            if is_plain_word(&option.name) {
                f.write_str(&option.name.to_ascii_uppercase())?;
            } else {
                quote_identifier(f, &option.name)?;
            }
            if let Some(value) = &option.value {
                f.write_str(" ")?;
                quote_literal(f, value)?;
            }
        }
        if self.0.is_empty() { Ok(()) } else { f.write_str(")") }
    }
}

/// The command's text, with every name and value quoted.
impl fmt::Display for Command {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Command::IdentifySystem => f.write_str("IDENTIFY_SYSTEM"),
            Command::Show(name) => {
                f.write_str("SHOW ")?;
                quote_identifier(f, name)
            }
            Command::CreateSlot(create) => fmt::Display::fmt(create, f),
            Command::ReadSlot(name) => {
                f.write_str("READ_REPLICATION_SLOT ")?;
                quote_identifier(f, name)
            }
            Command::DropSlot { name, wait } => {
                f.write_str("DROP_REPLICATION_SLOT ")?;
                quote_identifier(f, name)?;
                f.write_str(if *wait { " WAIT" } else { "" })
            }
            Command::StartPhysical { slot, start, timeline } => {
                f.write_str("START_REPLICATION")?;
                if let Some(slot) = slot {
                    f.write_str(" SLOT ")?;
                    quote_identifier(f, slot)?;
                }
                write!(f, " PHYSICAL {start}")?;
                timeline.map_or(Ok(()), |timeline| write!(f, " TIMELINE {timeline}"))
            }
            Command::StartLogical { slot, start, options } => {
                f.write_str("START_REPLICATION SLOT ")?;
                quote_identifier(f, slot)?;
                write!(f, " LOGICAL {start}")?;
                // Plugins know their options by exact name, so these are always quoted.
                for (number, option) in options.0.iter().enumerate() {
                    f.write_str(if number == 0 { " (" } else { ", " })?;
                    quote_identifier(f, &option.name)?;
                    if let Some(value) = &option.value {
                        f.write_str(" ")?;
                        quote_literal(f, value)?;
                    }
                }
                f.write_str(if options.0.is_empty() { "" } else { ")" })
            }
            Command::TimelineHistory(timeline) => write!(f, "TIMELINE_HISTORY {timeline}"),
            Command::BaseBackup(options) => write!(f, "BASE_BACKUP{options}"),
            Command::PageStream(options) => write!(f, "PAGESTREAM{options}"),
        }
    }
}

impl fmt::Display for CreateSlot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("CREATE_REPLICATION_SLOT ")?;
        quote_identifier(f, &self.name)?;
        f.write_str(if self.temporary { " TEMPORARY" } else { "" })?;
        match &self.plugin {
            None => f.write_str(" PHYSICAL")?,
            Some(plugin) => {
                f.write_str(" LOGICAL ")?;
                quote_identifier(f, plugin)?;
            }
        }
        fmt::Display::fmt(&self.options, f)
    }
}

fn is_plain_word(word: &str) -> bool {
    word.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_')
        && word.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_')
}

fn quote_identifier(f: &mut fmt::Formatter<'_>, name: &str) -> fmt::Result {
    write!(f, "\"{}\"", name.replace('"', "\"\""))
}

/// The replication grammar knows no escapes but the doubled quote.
fn quote_literal(f: &mut fmt::Formatter<'_>, text: &str) -> fmt::Result {
    write!(f, "'{}'", text.replace('\'', "''"))
}

/// The text begins like a replication command but does not go on like one: 42601.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CommandError {
    /// The word at which it goes wrong; empty at the end of the text.
    pub near: String,
}

impl fmt::Display for CommandError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.near.as_str() {
            "" => f.write_str("syntax error at end of input"),
            near => write!(f, "syntax error at or near \"{near}\""),
        }
    }
}

impl std::error::Error for CommandError {}

/// Parses a query of a replication connection. `None` if its first word is not that of a
/// replication command: then it is plain SQL.
pub fn parse(sql: &str) -> Result<Option<Command>, CommandError> {
    let mut scanner = Scanner::new(sql);
    let Ok(Token::Word(first)) = scanner.next() else {
        return Ok(None);
    };
    let command = match first.as_str() {
        "identify_system" => Command::IdentifySystem,
        "show" => Command::Show(dotted_name(&mut scanner)?),
        "create_replication_slot" => create_slot(&mut scanner)?,
        "read_replication_slot" => Command::ReadSlot(scanner.name()?),
        "drop_replication_slot" => {
            Command::DropSlot { name: scanner.name()?, wait: scanner.eat_word("wait")? }
        }
        "start_replication" => start_replication(&mut scanner)?,
        "timeline_history" => Command::TimelineHistory(timeline(&mut scanner)?),
        "base_backup" => Command::BaseBackup(options(&mut scanner)?),
        "pagestream" => Command::PageStream(options(&mut scanner)?),
        _ => return Ok(None),
    };
    scanner.eat_punctuation(';')?;
    scanner.end()?;
    Ok(Some(command))
}

fn dotted_name(scanner: &mut Scanner<'_>) -> Result<String, CommandError> {
    let mut name = scanner.name()?;
    while scanner.eat_punctuation('.')? {
        name.push('.');
        name.push_str(&scanner.name()?);
    }
    Ok(name)
}

fn create_slot(scanner: &mut Scanner<'_>) -> Result<Command, CommandError> {
    let name = scanner.name()?;
    let temporary = scanner.eat_word("temporary")?;
    let plugin = if scanner.eat_word("physical")? {
        None
    } else {
        scanner.expect_word("logical")?;
        Some(scanner.name()?)
    };
    let mut given = options(scanner)?;
    // The spelling before PostgreSQL 15: words without brackets.
    while let Some(word) = scanner.eat_any_word()? {
        given = match (word.as_str(), plugin.is_some()) {
            ("reserve_wal", false) => given.flag("reserve_wal"),
            ("two_phase", true) => given.flag("two_phase"),
            ("export_snapshot", true) => given.with("snapshot", "export"),
            ("noexport_snapshot", true) => given.with("snapshot", "nothing"),
            ("use_snapshot", true) => given.with("snapshot", "use"),
            _ => return Err(CommandError { near: word }),
        };
    }
    Ok(Command::CreateSlot(CreateSlot { name, temporary, plugin, options: given }))
}

fn start_replication(scanner: &mut Scanner<'_>) -> Result<Command, CommandError> {
    let slot = if scanner.eat_word("slot")? { Some(scanner.name()?) } else { None };
    if scanner.eat_word("logical")? {
        let slot = slot.ok_or(CommandError { near: "LOGICAL".to_owned() })?;
        let start = scanner.lsn()?;
        return Ok(Command::StartLogical { slot, start, options: options(scanner)? });
    }
    scanner.eat_word("physical")?;
    let start = scanner.lsn()?;
    let timeline = if scanner.eat_word("timeline")? { Some(timeline(scanner)?) } else { None };
    Ok(Command::StartPhysical { slot, start, timeline })
}

fn timeline(scanner: &mut Scanner<'_>) -> Result<u32, CommandError> {
    let number = scanner.number()?;
    match number.parse() {
        Ok(timeline) if timeline > 0 => Ok(timeline),
        _ => Err(CommandError { near: number }),
    }
}

fn options(scanner: &mut Scanner<'_>) -> Result<Options, CommandError> {
    let mut options = Options::new();
    if !scanner.eat_punctuation('(')? {
        return Ok(options);
    }
    loop {
        let name = scanner.name()?;
        let value = scanner.eat_value()?;
        options.0.push(CommandOption { name, value });
        if scanner.eat_punctuation(')')? {
            return Ok(options);
        }
        scanner.expect_punctuation(',')?;
    }
}
