//! Tests of the configuration: the commented file against the code, and errors that name line and key.

use serde::de::value::Error as Stop;
use serde::de::{Deserialize, Deserializer, Error as _, Visitor};
use serde::forward_to_deserialize_any;

use super::*;

const FILE: &str = include_str!("../../../../howdah.toml");

/// A commented default is `#key = value`, without a space; prose and examples are `# text`.
fn uncommented() -> String {
    let lines = FILE.lines().map(|line| match line.strip_prefix('#') {
        Some(rest) if rest.starts_with(|c: char| c.is_ascii_alphabetic() || c == '"') => rest,
        _ => line,
    });
    lines.collect::<Vec<_>>().join("\n")
}

#[test]
fn the_commented_file_shows_the_defaults() {
    let shown = Config::parse("howdah.toml", &uncommented()).expect("the defaults are valid");
    assert_eq!(shown, Config::default());
    let as_shipped = Config::parse("howdah.toml", FILE).expect("the file is valid");
    assert_eq!(as_shipped, Config::default());
}

#[test]
fn the_commented_file_names_every_key() {
    let sections = [
        ("node", keys::<Node>()),
        ("log", keys::<Log>()),
        ("api", keys::<Api>()),
        ("postgres", keys::<Postgres>()),
        ("pooler", keys::<pooler::settings::Settings>()),
        ("pageserver", keys::<pageserver::settings::Settings>()),
        ("compute", keys::<computes::settings::Settings>()),
    ];
    for (section, keys) in sections {
        let body = section_text(section);
        assert!(keys.len() > 1, "{section}");
        for key in keys {
            let named = body.lines().any(|line| {
                let line = line.trim_start_matches(['#', ' ']);
                line.strip_prefix(key).is_some_and(|rest| rest.starts_with([' ', '=', '.']))
                    || line.starts_with(&format!("[{section}.{key}"))
                    || line.starts_with(&format!("[[{section}.{key}"))
            });
            assert!(named, "howdah.toml does not show {section}.{key}");
        }
    }
}

/// The lines from `[section]` to the next section.
fn section_text(section: &str) -> String {
    let head = format!("[{section}]");
    let rest = FILE.split_once(&head).unwrap_or_else(|| panic!("no {head}")).1;
    let mut lines = Vec::new();
    for line in rest.lines() {
        let next = line.starts_with('[') && !line.starts_with(&format!("[{section}."));
        if next {
            break;
        }
        lines.push(line);
    }
    lines.join("\n")
}

/// The names of a structure's fields, as serde knows them.
fn keys<'de, T: Deserialize<'de>>() -> &'static [&'static str] {
    let mut found: &'static [&'static str] = &[];
    let stopped = T::deserialize(FieldNames(&mut found));
    assert!(stopped.is_err());
    found
}

/// A deserializer that only listens to what it is asked for.
struct FieldNames<'a>(&'a mut &'static [&'static str]);

impl<'de> Deserializer<'de> for FieldNames<'_> {
    type Error = Stop;

    fn deserialize_any<V: Visitor<'de>>(self, _visitor: V) -> std::result::Result<V::Value, Stop> {
        Err(Stop::custom("not a structure"))
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _name: &'static str,
        fields: &'static [&'static str],
        _visitor: V,
    ) -> std::result::Result<V::Value, Stop> {
        *self.0 = fields;
        Err(Stop::custom("enough"))
    }

    forward_to_deserialize_any! {
        bool i8 i16 i32 i64 u8 u16 u32 u64 f32 f64 char str string bytes byte_buf option unit unit_struct
        newtype_struct seq tuple tuple_struct map enum identifier ignored_any
    }
}

fn message(text: &str) -> String {
    Config::parse("x.toml", text).expect_err("it is wrong").message
}

#[test]
fn an_unknown_key_is_named_with_its_line() {
    let message = message("[node]\npin = true\npinn = true\n");
    assert!(message.starts_with("x.toml:3: node.pinn"), "{message}");
}

#[test]
fn a_wrong_value_is_named_with_its_line_and_key() {
    let message = message("[log]\n\n[node]\nev_backend = \"quick\"\n");
    assert!(message.starts_with("x.toml:4: node.ev_backend"), "{message}");
}

#[test]
fn a_section_that_contradicts_itself_is_refused() {
    let api = message("[api]\nlisten = \"0.0.0.0:6480\"\n");
    assert!(api.starts_with("x.toml:2: api.listen"), "{api}");
    let pageserver = message("[pageserver]\nslot = \"A\"\n");
    assert!(pageserver.starts_with("x.toml:2: pageserver.slot"), "{pageserver}");
}

#[test]
fn cores_are_a_word_a_count_or_a_list() {
    let read = |text: &str| {
        Config::parse("x.toml", &format!("[node]\ncores = {text}\n"))
            .map(|config| config.node.cores)
    };
    assert_eq!(read("\"auto\""), Ok(Cores::Auto));
    assert_eq!(read("2"), Ok(Cores::Count(2)));
    assert_eq!(read("\"0,2-3\""), Ok(Cores::List(vec![0, 2, 3])));
    assert_eq!(read("[1]"), Ok(Cores::List(vec![1])));
    assert!(read("[]").is_err() && read("0").is_err() && read("\"x\"").is_err());
}

#[test]
fn several_mistakes_are_told_together() {
    let text = "[api]\nlisten = \"0.0.0.0:1\"\n[pageserver]\nslot = \"A\"\n";
    let error = Config::parse("x.toml", text).expect_err("two mistakes");
    assert!(error.detail.is_some_and(|detail| detail.contains("x.toml:2")));
}

#[test]
fn a_section_or_file_may_be_empty() {
    assert_eq!(Config::parse("x.toml", "").expect("empty"), Config::default());
    assert_eq!(Config::parse("x.toml", "[node]\n").expect("empty"), Config::default());
}
