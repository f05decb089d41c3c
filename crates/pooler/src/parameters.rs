//! Session parameters that follow a client from server to server.
//!
//! A [`ParameterSet`] is an immutable list of names and values, shared by everyone who has the same
//! one: the usual question, whether a server is set as its next client wants, is a comparison of
//! pointers. What servers report by ParameterStatus keeps both sides' sets current.

use std::cell::{Cell, RefCell};
use std::rc::{Rc, Weak};

use crate::limits::PARAMETER_BYTES_MAX;
use crate::settings::Settings;

/// Reported by every server and tracked always, as in PgBouncer.
const ALWAYS_TRACKED: [&str; 5] =
    ["client_encoding", "DateStyle", "TimeZone", "standard_conforming_strings", "application_name"];

/// Which parameters follow a client.
#[derive(Clone, Debug)]
pub(crate) struct Tracked {
    names: Rc<[Rc<str>]>,
}

impl Tracked {
    pub(crate) fn new(settings: &Settings) -> Tracked {
        let extra = settings.track_extra_parameters.iter().map(String::as_str);
        let mut names: Vec<Rc<str>> = Vec::new();
        for name in ALWAYS_TRACKED.into_iter().chain(extra) {
            if !names.iter().any(|known| known.eq_ignore_ascii_case(name)) {
                names.push(name.into());
            }
        }
        Tracked { names: names.into() }
    }

    /// The name as the server spells it, if it is tracked.
    pub(crate) fn name(&self, name: &str) -> Option<&Rc<str>> {
        self.names.iter().find(|known| known.eq_ignore_ascii_case(name))
    }
}

/// Names and values, sorted by name without regard to case.
#[derive(Debug)]
pub(crate) struct ParameterSet {
    values: Box<[(Rc<str>, Rc<str>)]>,
    /// Whether a server has accepted exactly these values before. What a client asked for at
    /// start-up is not known to be valid until then.
    pub(crate) accepted: Cell<bool>,
}

impl ParameterSet {
    pub(crate) fn get(&self, name: &str) -> Option<&Rc<str>> {
        self.find(name).ok().and_then(|at| self.values.get(at)).map(|(_, value)| value)
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.values.iter().map(|(name, value)| (&**name, &**value))
    }

    pub(crate) fn len(&self) -> usize {
        self.values.len()
    }

    fn find(&self, name: &str) -> Result<usize, usize> {
        self.values.binary_search_by(|(known, _)| compare(known, name))
    }
}

fn compare(one: &str, other: &str) -> std::cmp::Ordering {
    let lower = |byte: u8| byte.to_ascii_lowercase();
    one.bytes().map(lower).cmp(other.bytes().map(lower))
}

/// All sets of one core that somebody holds.
pub(crate) struct ParameterSets {
    known: RefCell<Vec<Weak<ParameterSet>>>,
    empty: Rc<ParameterSet>,
}

impl ParameterSets {
    pub(crate) fn new() -> ParameterSets {
        let empty = Rc::new(ParameterSet { values: Box::default(), accepted: Cell::new(true) });
        ParameterSets { known: RefCell::default(), empty }
    }

    pub(crate) fn empty(&self) -> Rc<ParameterSet> {
        Rc::clone(&self.empty)
    }

    /// The set that differs from `set` in one value; `None` removes it.
    pub(crate) fn with(
        &self,
        set: &Rc<ParameterSet>,
        name: &Rc<str>,
        value: Option<&str>,
    ) -> Rc<ParameterSet> {
        let mut values = set.values.to_vec();
        match (set.find(name), value) {
            (Ok(at), Some(value)) if *values[at].1 == *value => return Rc::clone(set),
            (Ok(at), Some(value)) => values[at].1 = value.into(),
            (Ok(at), None) => drop(values.remove(at)),
            (Err(at), Some(value)) => values.insert(at, (Rc::clone(name), value.into())),
            (Err(_), None) => return Rc::clone(set),
        }
        self.intern(values)
    }

    /// What of `set` has a name that is in `names`.
    pub(crate) fn only(&self, set: &Rc<ParameterSet>, names: &ParameterSet) -> Rc<ParameterSet> {
        if set.iter().all(|(name, _)| names.get(name).is_some()) {
            return Rc::clone(set);
        }
        let mut values = set.values.to_vec();
        values.retain(|(name, _)| names.get(name).is_some());
        self.intern(values)
    }

    fn intern(&self, values: Vec<(Rc<str>, Rc<str>)>) -> Rc<ParameterSet> {
        if values.is_empty() {
            return self.empty();
        }
        let mut known = self.known.borrow_mut();
        known.retain(|set| set.strong_count() > 0);
        let same = known.iter().filter_map(Weak::upgrade).find(|set| *set.values == *values);
        same.unwrap_or_else(|| {
            let set = Rc::new(ParameterSet { values: values.into(), accepted: Cell::new(false) });
            known.push(Rc::downgrade(&set));
            set
        })
    }
}

/// The SQL that turns a server set as `current` into one set as `wanted`; `None` if nothing differs.
/// One query, no user-written SQL in it: names are checked identifiers, values are quoted so that
/// neither `standard_conforming_strings` nor the encoding matters.
pub(crate) fn difference(current: &ParameterSet, wanted: &ParameterSet) -> Option<Vec<u8>> {
    let mut sets = String::new();
    for (name, value) in wanted.iter() {
        if current.get(name).is_none_or(|now| **now != *value) {
            sets.push_str(if sets.is_empty() { "SELECT " } else { ", " });
            // set_config reads lists as the start-up packet does; SET would take one for a name.
            sets.push_str("pg_catalog.set_config('");
            sets.push_str(name);
            sets.push_str("', E'");
            quote(value, &mut sets);
            sets.push_str("', false)");
        }
    }
    for (name, _) in current.iter().filter(|(name, _)| wanted.get(name).is_none()) {
        if !sets.is_empty() {
            sets.push(';');
        }
        sets.push_str("RESET ");
        sets.push_str(name);
    }
    (!sets.is_empty()).then(|| sets.into_bytes())
}

fn quote(value: &str, out: &mut String) {
    for character in value.chars() {
        match character {
            '\'' => out.push_str("''"),
            '\\' => out.push_str("\\\\"),
            other => out.push(other),
        }
    }
}

/// Whether `name` can be the name of a parameter: an identifier, perhaps with a class before a dot.
pub(crate) fn is_parameter_name(name: &str) -> bool {
    let part = |part: &str| {
        part.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_')
            && part.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_' || b == b'$')
    };
    !name.is_empty() && name.len() <= pg::limits::IDENTIFIER_BYTES_MAX && name.split('.').all(part)
}

/// A value that can be carried safely: printable ASCII of bounded length. Postgres itself replaces
/// other bytes of `application_name` with question marks; so do we, for every parameter, since
/// the encoding of a server that the value meets later is not known now.
pub(crate) fn clean_value(value: &[u8]) -> Option<String> {
    let clean = |byte: &u8| if matches!(byte, b' '..=b'~') { char::from(*byte) } else { '?' };
    (value.len() <= PARAMETER_BYTES_MAX).then(|| value.iter().map(clean).collect())
}

/// Reads the `options` of a start-up packet: `-c name=value` and `--name=value`, with backslashes
/// before spaces that belong to a value (`process_postgres_switches`, `pg_split_opts`).
/// `None` for anything else.
pub(crate) fn parse_options(text: &str) -> Option<Vec<(String, String)>> {
    let mut found = Vec::new();
    let mut words = split_options(text).into_iter();
    while let Some(word) = words.next() {
        let setting = if word == "-c" {
            words.next()?
        } else if let Some(setting) = word.strip_prefix("-c").or_else(|| word.strip_prefix("--")) {
            setting.to_owned()
        } else {
            return None;
        };
        let (name, value) = setting.split_once('=')?;
        found.push((name.replace('-', "_"), value.to_owned()));
    }
    Some(found)
}

fn split_options(text: &str) -> Vec<String> {
    let mut words = Vec::new();
    let mut word: Option<String> = None;
    let mut characters = text.chars();
    while let Some(character) = characters.next() {
        if character.is_ascii_whitespace() {
            words.extend(word.take());
        } else if character == '\\' {
            word.get_or_insert_default().extend(characters.next());
        } else {
            word.get_or_insert_default().push(character);
        }
    }
    words.extend(word);
    words
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(sets: &ParameterSets, values: &[(&str, &str)]) -> Rc<ParameterSet> {
        values
            .iter()
            .fold(sets.empty(), |set, (name, value)| sets.with(&set, &Rc::from(*name), Some(value)))
    }

    #[test]
    fn equal_sets_are_one_whatever_the_order() {
        let sets = ParameterSets::new();
        let one = set(&sets, &[("TimeZone", "UTC"), ("DateStyle", "ISO")]);
        let other = set(&sets, &[("DateStyle", "ISO"), ("TimeZone", "UTC")]);
        assert!(Rc::ptr_eq(&one, &other));
        let changed = sets.with(&one, &"timezone".into(), Some("CET"));
        assert_eq!(changed.get("TimeZone").map(|value| &**value), Some("CET"));
        assert!(!Rc::ptr_eq(&one, &changed));
        assert!(Rc::ptr_eq(&one, &sets.with(&changed, &"TimeZone".into(), Some("UTC"))));
    }

    #[test]
    fn sets_that_nobody_holds_are_dropped() {
        let sets = ParameterSets::new();
        for number in 0..100 {
            drop(set(&sets, &[("application_name", &number.to_string())]));
        }
        assert!(sets.known.borrow().len() <= 1);
    }

    #[test]
    fn the_difference_sets_what_differs_and_resets_what_is_not_wanted() {
        let sets = ParameterSets::new();
        let current =
            set(&sets, &[("DateStyle", "ISO"), ("search_path", "a"), ("TimeZone", "UTC")]);
        let wanted = set(&sets, &[("DateStyle", "ISO"), ("TimeZone", "it's \\ here")]);
        let sql = difference(&current, &wanted).expect("they differ");
        assert_eq!(
            String::from_utf8(sql).expect("SQL is text"),
            "SELECT pg_catalog.set_config('TimeZone', E'it''s \\\\ here', false);RESET search_path"
        );
        assert_eq!(difference(&current, &current), None);
    }

    #[test]
    fn names_that_are_not_identifiers_are_refused() {
        for name in ["search_path", "my.setting", "_x$1"] {
            assert!(is_parameter_name(name), "{name}");
        }
        for name in ["", "a b", "a;b", "a'b", "1a", ".a", "a."] {
            assert!(!is_parameter_name(name), "{name}");
        }
    }

    #[test]
    fn options_are_split_as_postgres_does() {
        let parsed = parse_options("-c search_path=a,b --work-mem=4MB -cTimeZone=x\\ y");
        let expected = [("search_path", "a,b"), ("work_mem", "4MB"), ("TimeZone", "x y")]
            .map(|(name, value)| (name.to_owned(), value.to_owned()));
        assert_eq!(parsed, Some(expected.to_vec()));
        assert_eq!(parse_options(""), Some(Vec::new()));
        for text in ["-c", "-c a", "-d 5", "postgres"] {
            assert_eq!(parse_options(text), None, "{text}");
        }
    }
}
