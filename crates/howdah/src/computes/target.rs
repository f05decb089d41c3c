//! What stands behind the `@` of a database's name, or in `howdah compute start`: a branch, a moment of one, and
//! whether it is to be written and thrown away.

use pg::lsn::Lsn;

use super::refusal::Refusal;

/// The branch that is meant where none is named.
const MAIN: &str = "main";
const EPHEMERAL: &str = "ephemeral";
const REPLICA: &str = "replica";

/// A place in history, as it was asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Target {
    pub(super) branch: String,
    /// An LSN, a time or the name of a restore point; `None`: the end.
    pub(super) at: Option<String>,
    /// A copy to write to, which is thrown away at its end.
    pub(super) is_ephemeral: bool,
    /// It follows the branch, and is read.
    pub(super) is_replica: bool,
}

impl Target {
    /// Reads `feature`, `0/16B3748`, `2026-11-19T10:00:00Z`, `feature@0/16B3748`, each with or without
    /// `?ephemeral`, and branches with `?replica`.
    pub(super) fn parse(text: &str) -> Result<Self, Refusal> {
        let (place, option) = match text.split_once('?') {
            Some((place, option)) => (place, Some(option)),
            None => (text, None),
        };
        if let Some(option) = option.filter(|option| ![EPHEMERAL, REPLICA].contains(option)) {
            return Err(Refusal::unknown(format!("\"?{option}\" is not an option of a branch"))
                .hint(
                    "There are \"?ephemeral\", a copy to write to which is thrown away, and \"?replica\", a copy to read which follows the branch.",
                ));
        }
        let (branch, at) = match place.split_once('@') {
            Some((branch, at)) => (branch, Some(at)),
            None if is_moment(place) => (MAIN, Some(place)),
            None => (place, None),
        };
        if branch.is_empty() || at.is_some_and(str::is_empty) {
            return Err(Refusal::unknown(format!("\"{text}\" names no branch and no moment"))
                .hint("Write a branch, an LSN, a time (RFC 3339), or BRANCH@LSN."));
        }
        let is_replica = option == Some(REPLICA);
        if is_replica && at.is_some() {
            return Err(Refusal::unknown("a replica follows a branch: it is as of no moment")
                .hint(format!("Write \"{branch}?{REPLICA}\".")));
        }
        let (branch, at) = (branch.to_owned(), at.map(str::to_owned));
        Ok(Self { branch, at, is_ephemeral: option == Some(EPHEMERAL), is_replica })
    }

    /// The name of its compute: the same for all ways to write the same.
    pub(super) fn name(&self, lsn: Option<&str>) -> String {
        let at =
            lsn.filter(|_| self.at.is_some()).map_or_else(String::new, |lsn| format!("@{lsn}"));
        let option = match (self.is_ephemeral, self.is_replica) {
            (true, _) => "?ephemeral",
            (_, true) => "?replica",
            _ => "",
        };
        format!("{}{at}{option}", self.branch)
    }
}

/// Branches have neither a slash nor a colon in their names; LSNs and times have.
fn is_moment(text: &str) -> bool {
    text.parse::<Lsn>().is_ok() || text.contains(':')
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> (String, Option<String>, bool) {
        let target = Target::parse(text).expect("a target");
        (target.branch, target.at, target.is_ephemeral)
    }

    #[test]
    fn branches_and_moments_are_told_apart() {
        let at = |text: &str| Some(text.to_owned());
        assert_eq!(read("feature"), ("feature".to_owned(), None, false));
        assert_eq!(read("2026-11-19"), ("2026-11-19".to_owned(), None, false));
        assert_eq!(read("0/16B3748"), ("main".to_owned(), at("0/16B3748"), false));
        let time = "2026-11-19T10:00:00Z";
        assert_eq!(read(time), ("main".to_owned(), at(time), false));
        assert_eq!(read("a@b c?ephemeral"), ("a".to_owned(), at("b c"), true));
        assert_eq!(read("feature?ephemeral"), ("feature".to_owned(), None, true));
    }

    #[test]
    fn what_names_nothing_is_refused() {
        for text in [
            "0/16B3748?replica",
            "a@0/1?replica",
            "",
            "@0/1",
            "feature@",
            "feature?",
            "feature?ephemera",
            "?ephemeral",
        ] {
            let refusal = Target::parse(text).expect_err(text);
            assert_eq!(refusal.sqlstate.as_str(), "3D000", "{text}");
            assert!(refusal.error.hint.is_some(), "{text}");
        }
    }

    #[test]
    fn a_moment_has_one_name_however_it_is_written() {
        let name = |text: &str| Target::parse(text).expect("a target").name(Some("0/16B3748"));
        assert_eq!(name("0/16b3748"), "main@0/16B3748");
        assert_eq!(name("main@2026-11-19T10:00:00Z"), "main@0/16B3748");
        assert_eq!(name("feature?ephemeral"), "feature?ephemeral");
        assert_eq!(name("main?replica"), "main?replica");
        assert_eq!(name("0/16B3748?ephemeral"), "main@0/16B3748?ephemeral");
    }
}
