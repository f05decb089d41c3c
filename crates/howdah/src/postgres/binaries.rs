//! Where PostgreSQL's programs are, and whether they are of a version that we know.

use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};

use crate::config::environment::Environment;
use crate::error::{Error, Result};

/// The major versions that Howdah knows.
const MAJORS: RangeInclusive<u32> = 15..=18;

/// Programs that `howdah up` needs.
const NEEDED: [&str; 2] = ["postgres", "initdb"];

/// Places where packages put them, besides PATH.
const USUAL_PLACES: [&str; 4] = [
    "/usr/lib/postgresql/15/bin",
    "/usr/pgsql-15/bin",
    "/usr/local/pgsql/bin",
    "/opt/homebrew/opt/postgresql@15/bin",
];

/// A folder with the programs of one installation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Binaries {
    folder: PathBuf,
}

impl Binaries {
    /// The configured folder; else the one of the environment; else the first of the usual places that has them.
    pub fn find(configured: &Path, environment: &Environment) -> Result<Self> {
        let named = if configured.as_os_str().is_empty() {
            environment.pg_bin.clone()
        } else {
            Some(configured.to_owned())
        };
        if let Some(folder) = named {
            let missing = NEEDED.iter().find(|name| !folder.join(name).is_file());
            return match missing {
                None => Ok(Self { folder }),
                Some(name) => Err(Error::new(format!("there is no program \"{name}\" in \"{}\"", folder.display()))
                    .hint("postgres.bin_dir or HOWDAH_PG_BIN must name the folder with PostgreSQL's programs")),
            };
        }
        let usual = USUAL_PLACES.iter().map(PathBuf::from);
        let mut places = usual.chain(environment.path.iter().cloned());
        let found = places.find(|folder| NEEDED.iter().all(|name| folder.join(name).is_file()));
        found.map(|folder| Self { folder }).ok_or_else(|| {
            Error::new("could not find PostgreSQL 15")
                .detail(format!("looked in {} and in PATH", USUAL_PLACES.join(", ")))
                .hint("install it (Debian: apt-get install postgresql-15), or name its folder by HOWDAH_PG_BIN")
        })
    }

    #[must_use]
    pub fn program(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    #[must_use]
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Checks what `postgres -V` printed, and returns the version: `15.18`.
    pub fn check_version(&self, printed: &str) -> Result<String> {
        let wrong = |found: &str| {
            Error::new(format!(
                "PostgreSQL {found} in \"{}\" is not supported",
                self.folder.display()
            ))
            .hint(
                "Howdah needs PostgreSQL 15 to 18; name its folder by postgres.bin_dir or HOWDAH_PG_BIN",
            )
        };
        let version = version_in(printed).ok_or_else(|| wrong(printed.trim()))?;
        let known = major_of(version).parse().is_ok_and(|major| MAJORS.contains(&major));
        if known { Ok(version.to_owned()) } else { Err(wrong(version)) }
    }
}

/// `15` of `15.18`.
pub fn major_of(version: &str) -> &str {
    version.split('.').next().unwrap_or_default()
}

/// `15.18` in `postgres (PostgreSQL) 15.18 (Debian 15.18-0+deb12u1)`.
fn version_in(printed: &str) -> Option<&str> {
    let rest = printed.split_once("(PostgreSQL) ")?.1;
    rest.split_whitespace().next()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(printed: &str) -> Result<String> {
        Binaries { folder: PathBuf::from("/somewhere") }.check_version(printed)
    }

    #[test]
    fn only_known_major_versions_are_accepted() {
        let debian = "postgres (PostgreSQL) 15.18 (Debian 15.18-0+deb12u1)\n";
        assert_eq!(check(debian), Ok("15.18".to_owned()));
        assert_eq!(check("postgres (PostgreSQL) 17.11\n"), Ok("17.11".to_owned()));
        for unknown in ["14.23", "19rc1", "160.2"] {
            let error = check(&format!("postgres (PostgreSQL) {unknown}\n")).expect_err(unknown);
            assert!(error.message.contains(unknown) && error.hint.is_some());
        }
        assert!(check("something else").is_err());
    }

    #[test]
    fn a_configured_folder_without_programs_is_named() {
        let error = Binaries::find(Path::new("/nowhere/at/all"), &Environment::default())
            .expect_err("nothing there");
        assert!(error.message.contains("/nowhere/at/all"));
    }
}
