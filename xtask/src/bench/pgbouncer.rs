//! Finds a PgBouncer to compare with: a recent one from Debian sid, else the machine's own package.
//!
//! The recent one is unpacked, not installed: its packages go into `target/bench/pgbouncer-sid` and it is
//! started by its own dynamic loader with its own libraries, so nothing of the machine changes and no root is needed.

use std::fs;
use std::path::{Path, PathBuf};

use super::process;
use crate::root;

/// How to start it, and what it calls itself.
#[derive(Clone, Debug)]
pub(crate) struct Program {
    pub(crate) command: Vec<String>,
    pub(crate) version: String,
}

/// The newest that can be had here; says on standard error why if that is only the machine's own.
pub(crate) fn newest() -> Result<Program, String> {
    match from_sid() {
        Ok(program) => Ok(program),
        Err(reason) => {
            eprintln!("no PgBouncer from Debian sid: {reason}");
            installed()
        }
    }
}

/// The machine's own package.
pub(crate) fn installed() -> Result<Program, String> {
    let paths = ["/usr/sbin/pgbouncer", "/usr/bin/pgbouncer", "/usr/local/bin/pgbouncer"];
    let path = paths.into_iter().find(|path| Path::new(path).is_file());
    let path = path.ok_or("no PgBouncer here; apt-get install pgbouncer (and stop its service)")?;
    described(vec![path.to_owned()], "installed package")
}

fn described(command: Vec<String>, origin: &str) -> Result<Program, String> {
    let mut line: Vec<&str> = command.iter().map(String::as_str).collect();
    line.push("--version");
    let said = process::output(&line, None)?;
    let version = said.lines().next().unwrap_or_default().trim();
    Ok(Program { version: format!("{version} ({origin})"), command })
}

fn from_sid() -> Result<Program, String> {
    let cache = root().join("target/bench/pgbouncer-sid");
    let tree = cache.join("root");
    let binary = tree.join("usr/sbin/pgbouncer");
    if !binary.is_file() {
        eprintln!("fetching PgBouncer from Debian sid into {}", cache.display());
        let _stale = fs::remove_dir_all(&cache);
        download(&cache)?;
        unpack(&cache, &tree)?;
    }
    let (loader, libraries) = loader(&tree)?;
    let command = vec![
        loader.display().to_string(),
        "--library-path".to_owned(),
        libraries.display().to_string(),
        binary.display().to_string(),
    ];
    described(command, "Debian sid")
}

/// Fetches the package and everything below it, with apt's own state in a folder of ours.
fn download(cache: &Path) -> Result<(), String> {
    for folder in ["sources", "state/lists/partial", "cache/archives/partial"] {
        fs::create_dir_all(cache.join(folder)).map_err(|error| error.to_string())?;
    }
    let write = |name: &str, text: String| {
        fs::write(cache.join(name), text).map_err(|error| format!("{name}: {error}"))
    };
    let (mirror, keyring) = mirror()?;
    // An empty status file makes apt fetch every library, also those that are installed here.
    write("status", String::new())?;
    write("sources.list", format!("deb [signed-by={}] {mirror} sid main\n", keyring.display()))?;
    let at = cache.display();
    write(
        "apt.conf",
        format!(
            "Dir::State \"{at}/state\";\nDir::State::status \"{at}/status\";\nDir::Cache \"{at}/cache\";\n\
             Dir::Etc::sourcelist \"{at}/sources.list\";\nDir::Etc::sourceparts \"{at}/sources\";\n\
             APT::Sandbox::User \"root\";\nAcquire::Languages \"none\";\n"
        ),
    )?;
    let config = format!("APT_CONFIG={at}/apt.conf");
    process::output(&["env", &config, "apt-get", "-qq", "update"], None)?;
    let install = [
        "env",
        &config,
        "apt-get",
        "-qq",
        "-y",
        "--no-install-recommends",
        "--download-only",
        "install",
        "pgbouncer",
    ];
    process::output(&install, None)?;
    Ok(())
}

/// The mirror and key that this machine already uses for Debian.
fn mirror() -> Result<(String, PathBuf), String> {
    let keyring = PathBuf::from("/usr/share/keyrings/debian-archive-keyring.gpg");
    if !keyring.is_file() {
        return Err("this is not a Debian system (no archive keyring)".to_owned());
    }
    let mut files = vec![PathBuf::from("/etc/apt/sources.list")];
    if let Ok(entries) = fs::read_dir("/etc/apt/sources.list.d") {
        files.extend(entries.flatten().map(|entry| entry.path()));
    }
    files.sort();
    for file in files {
        let text = fs::read_to_string(file).unwrap_or_default();
        let found = text.split_whitespace().find(|word| {
            word.starts_with("http") && word.trim_end_matches('/').ends_with("/debian")
        });
        if let Some(mirror) = found {
            return Ok((mirror.to_owned(), keyring));
        }
    }
    Err("apt knows no Debian mirror".to_owned())
}

/// Unpacks the program and the libraries; the rest of the closure (Perl, for one) is not needed to run it.
fn unpack(cache: &Path, tree: &Path) -> Result<(), String> {
    for folder in ["bin", "sbin", "lib", "lib64"] {
        let inside = tree.join("usr").join(folder);
        fs::create_dir_all(&inside).map_err(|error| error.to_string())?;
        std::os::unix::fs::symlink(format!("usr/{folder}"), tree.join(folder))
            .map_err(|error| error.to_string())?;
    }
    let archives = fs::read_dir(cache.join("cache/archives")).map_err(|error| error.to_string())?;
    let wanted = ["lib", "zlib", "pgbouncer_"];
    let unwanted = ["libperl", "libsystemd-shared"];
    for entry in archives.flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        let starts = |list: &[&str]| list.iter().any(|prefix| name.starts_with(prefix));
        if name.ends_with(".deb") && starts(&wanted) && !starts(&unwanted) {
            let (archive, tree) = (entry.path().display().to_string(), tree.display().to_string());
            process::output(&["dpkg-deb", "-x", &archive, &tree], None)?;
        }
    }
    Ok(())
}

fn loader(tree: &Path) -> Result<(PathBuf, PathBuf), String> {
    let pairs = [
        ("usr/lib64/ld-linux-x86-64.so.2", "usr/lib/x86_64-linux-gnu"),
        ("usr/lib/ld-linux-aarch64.so.1", "usr/lib/aarch64-linux-gnu"),
    ];
    let found = pairs.into_iter().find(|(loader, _)| tree.join(loader).exists());
    found
        .map(|(loader, libraries)| (tree.join(loader), tree.join(libraries)))
        .ok_or("no loader in it".to_owned())
}
