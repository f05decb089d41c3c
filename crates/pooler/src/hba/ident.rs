//! `pg_ident.conf`: which system user or certificate name may log in as which database user.
//!
//! Format: PostgreSQL documentation, section 21.2. Regular expressions and roles (`/…`, `+…`) are
//! refused rather than taken for names.

use std::collections::BTreeMap;

use super::tokens;
use crate::settings::file::SettingsError;

/// The maps of one file by name.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct IdentMaps(BTreeMap<String, IdentMap>);

/// Pairs of a system user and the database user it may be.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct IdentMap(Vec<(String, DatabaseUser)>);

#[derive(Clone, Debug, PartialEq)]
enum DatabaseUser {
    All,
    Name(String),
}

impl IdentMaps {
    /// Reads a file.
    ///
    /// # Errors
    /// The first line that cannot be read.
    pub fn parse(file: &str, text: &str) -> Result<Self, SettingsError> {
        let error = |line: usize, message: String| SettingsError {
            file: file.to_owned(),
            line: Some(line),
            key: None,
            message,
        };
        let lines = tokens::lines(text).map_err(|(line, message)| error(line, message))?;
        let mut maps = Self::default();
        for line in lines {
            maps.add(&line).map_err(|message| error(line.number, message))?;
        }
        Ok(maps)
    }

    /// The map of that name.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&IdentMap> {
        self.0.get(name)
    }

    fn add(&mut self, line: &tokens::Line) -> Result<(), String> {
        let mut words = Vec::new();
        for field in &line.fields {
            match field.as_slice() {
                [word] => words.push(word),
                _ => return Err("a user map has no lists".to_owned()),
            }
        }
        let [map, system_user, database_user] = words.as_slice() else {
            return Err("expected a map, a system user and a database user".to_owned());
        };
        for word in [system_user, database_user] {
            if !word.quoted && word.text.starts_with('/') {
                return Err("regular expressions are not supported".to_owned());
            }
        }
        if !database_user.quoted && database_user.text.starts_with('+') {
            return Err("role membership (\"+\") is not supported".to_owned());
        }
        let database_user = if database_user.is("all") {
            DatabaseUser::All
        } else {
            DatabaseUser::Name(database_user.text.clone())
        };
        let pairs = &mut self.0.entry(map.text.clone()).or_default().0;
        pairs.push((system_user.text.clone(), database_user));
        Ok(())
    }
}

impl IdentMap {
    /// Whether this system user may log in as that database user.
    #[must_use]
    pub fn permits(&self, system_user: &str, database_user: &str) -> bool {
        self.0.iter().any(|(system, database)| {
            system == system_user
                && match database {
                    DatabaseUser::All => true,
                    DatabaseUser::Name(name) => name == database_user,
                }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_map_permits_what_it_lists() {
        let maps = IdentMaps::parse(
            "ident.conf",
            "# map system database\nadmins root postgres\nadmins \"joe doe\" joe\nops root all\n",
        )
        .expect("the file is good");
        let admins = maps.get("admins").expect("it is there");
        assert!(admins.permits("root", "postgres"));
        assert!(admins.permits("joe doe", "joe"));
        assert!(!admins.permits("root", "joe"));
        assert!(!admins.permits("postgres", "postgres"));
        assert!(maps.get("ops").expect("it is there").permits("root", "anyone"));
        assert!(maps.get("none").is_none());
    }

    fn check_bad(text: &str, expected: &str) {
        let error = IdentMaps::parse("ident.conf", text).expect_err("the file is bad");
        assert_eq!(error.to_string(), expected);
    }

    #[test]
    fn what_is_not_understood_is_refused() {
        check_bad("a b", "ident.conf:1: expected a map, a system user and a database user");
        check_bad("\na b c d", "ident.conf:2: expected a map, a system user and a database user");
        check_bad("a /^(.*)$ \\1", "ident.conf:1: regular expressions are not supported");
        check_bad("a b +staff", "ident.conf:1: role membership (\"+\") is not supported");
        check_bad("a b,c d", "ident.conf:1: a user map has no lists");
    }
}
