//! What the command line says, and what it takes to do that.

use std::path::{Path, PathBuf};
use std::time::Duration;

use super::check::remove;
use super::server::Programs;
use super::store::Store;
use crate::bench::process;
use crate::ceph::Ceph;
use crate::suites::{self, Places};
use crate::{postgres, servers};

const USAGE: &str = "usage: cargo xtask accept [--short] [--lsns N] [--major 15|17] [--s3 | --ceph | --store URL --endpoint URL]
                          [--optional] [--write] [--keep] [--howdah FILE]

Follows a primary under PostgreSQL's regression suite and pgbench, and compares what the page service gives as of N
moments (10) with the primary's own recovery; then the same after everything but the object store is lost.
--short:    pgbench and some DDL instead of the suite, two moments
--s3:       the object store is an S3 server (tests/s3) instead of a directory
--ceph:     it is Ceph's object gateway with three OSDs on loopback, one of them killed on the way
--store:    it is this bucket (s3://...), at this endpoint, with the environment's credentials
--optional: where servers, suite or S3 server cannot be had, say so and succeed
--write:    the result into docs/acceptance.md
--keep:     leave everything in target/accept
--howdah:   this program instead of one built now";

/// Debian's place of PostgreSQL's programs.
const INSTALLED: &str = "/usr/lib/postgresql";

pub(crate) struct Options {
    pub(crate) short: bool,
    pub(crate) lsns: usize,
    pub(crate) major: String,
    s3: bool,
    ceph: bool,
    url: Option<String>,
    endpoint: Option<String>,
    pub(crate) optional: bool,
    pub(crate) write: bool,
    pub(crate) keep: bool,
    pub(crate) howdah: Option<PathBuf>,
    /// As it was given, for the report.
    pub(crate) command: String,
}

impl Options {
    pub(crate) fn parse(arguments: &[String]) -> Result<Options, String> {
        let mut options = Options {
            short: false,
            lsns: 0,
            major: "15".to_owned(),
            s3: false,
            ceph: false,
            url: None,
            endpoint: None,
            optional: false,
            write: false,
            keep: false,
            howdah: None,
            command: String::new(),
        };
        let mut words = arguments.iter();
        while let Some(word) = words.next() {
            let mut value = || words.next().cloned().ok_or(USAGE);
            match word.as_str() {
                "--short" => options.short = true,
                "--lsns" => options.lsns = value()?.parse().map_err(|_invalid| USAGE)?,
                "--major" => options.major = value()?,
                "--s3" => options.s3 = true,
                "--ceph" => options.ceph = true,
                "--store" => options.url = Some(value()?),
                "--endpoint" => options.endpoint = Some(value()?),
                "--optional" => options.optional = true,
                "--write" => options.write = true,
                "--keep" => options.keep = true,
                "--howdah" => options.howdah = Some(std::path::absolute(value()?).map_err(text)?),
                _ => return Err(USAGE.to_owned()),
            }
        }
        let is_wrong = options.url.is_some() != options.endpoint.is_some()
            || [options.url.is_some(), options.s3, options.ceph].iter().filter(|&&is| is).count()
                > 1
            || !["15", "17"].contains(&options.major.as_str());
        if is_wrong {
            return Err(USAGE.to_owned());
        }
        if options.lsns == 0 {
            options.lsns = if options.short { 2 } else { 10 };
        }
        let is_told = |word: &&String| {
            let howdah = options.howdah.as_ref().is_some_and(|path| path.ends_with(word));
            !howdah && !["--write", "--keep", "--howdah"].contains(&word.as_str())
        };
        let told: Vec<&str> = arguments.iter().filter(is_told).map(String::as_str).collect();
        options.command = format!("cargo xtask accept {}", told.join(" ")).trim_end().to_owned();
        Ok(options)
    }

    /// Programs, the suite if it is to run, and an empty folder.
    pub(crate) fn obtain(&self, run: &Path) -> Result<(Option<Places>, Programs), String> {
        let user = process::unprivileged()?;
        remove(run)?;
        if !self.short {
            let folder = servers::folder("suites")?.join(&self.major);
            std::fs::create_dir_all(&folder).map_err(text)?;
            let places = suites::obtain(&self.major, &folder, run)?;
            let programs = Programs { bin: places.bin.clone(), user };
            return Ok((Some(places), programs));
        }
        let named = std::env::var_os("HOWDAH_PG_BIN").map(PathBuf::from);
        let installed = Path::new(INSTALLED).join(&self.major).join("bin");
        let bin = match named.filter(|_| self.major == "15").unwrap_or(installed) {
            bin if bin.join("postgres").exists() => bin,
            _ => {
                postgres::run(std::slice::from_ref(&self.major))?;
                servers::folder("postgres")?.join(&self.major).join("bin")
            }
        };
        let programs = Programs { bin, user };
        programs.make_folder(run)?;
        Ok((None, programs))
    }

    /// A name for runs of this kind.
    pub(crate) fn kind(&self) -> String {
        let length = if self.short { "short" } else { "full" };
        let store = match (self.s3, self.ceph, &self.url) {
            (true, _, _) => "s3",
            (_, true, _) => "ceph",
            (_, _, Some(_)) => "store",
            (_, _, None) => "directory",
        };
        format!("{length}-{store}-{}", self.major)
    }

    pub(crate) fn store(&self, folder: &Path) -> Result<Store, String> {
        match (&self.url, &self.endpoint) {
            (Some(url), Some(endpoint)) => {
                Ok(Store::Elsewhere { url: url.clone(), endpoint: endpoint.clone() })
            }
            _ if self.ceph => Ceph::start(&folder.with_extension("ceph")).map(Store::Ceph),
            _ if self.s3 => match Store::s3() {
                Err(reason) if self.optional => {
                    println!("{reason}: the object store is a directory instead");
                    Ok(Store::directory(folder))
                }
                made => made,
            },
            _ => Ok(Store::directory(folder)),
        }
    }

    /// Between two base backups under load.
    pub(crate) fn interval(&self) -> Duration {
        Duration::from_secs(if self.short { 4 } else { 20 })
    }

    /// So many of the moments are looked at again after the recovery.
    pub(crate) fn recovered_lsns(&self) -> usize {
        self.lsns.div_ceil(2)
    }
}

fn text(error: std::io::Error) -> String {
    error.to_string()
}
