//! Debian packages beside the installed ones: fetched with apt's own state in a folder of ours, unpacked, and
//! started by their own dynamic loader. Nothing of the machine changes and no root is needed.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use crate::bench::process;

/// `dpkg-deb -x` would put folders in place of our links.
const EXTRACT: &str = r#"dpkg-deb --fsys-tarfile "$1" | tar -x --keep-directory-symlink -C "$2""#;

/// apt with its state in a folder, for one suite.
pub(crate) struct Apt {
    folder: PathBuf,
}

impl Apt {
    /// Writes apt's configuration and fetches the suite's list of packages.
    pub(crate) fn update(folder: &Path, suite: &str) -> Result<Apt, String> {
        for below in ["sources", "state/lists/partial", "cache/archives/partial"] {
            fs::create_dir_all(folder.join(below)).map_err(|error| error.to_string())?;
        }
        let write = |name: &str, text: String| {
            fs::write(folder.join(name), text).map_err(|error| format!("{name}: {error}"))
        };
        let (mirror, keyring) = mirror()?;
        // An empty status file makes apt name every library, also those that are installed here.
        write("status", String::new())?;
        let source = format!("deb [signed-by={}] {mirror} {suite} main\n", keyring.display());
        write("sources.list", source)?;
        let at = folder.display();
        write(
            "apt.conf",
            format!(
                "Dir::State \"{at}/state\";\nDir::State::status \"{at}/status\";\n\
                 Dir::Cache \"{at}/cache\";\nDir::Etc::sourcelist \"{at}/sources.list\";\n\
                 Dir::Etc::sourceparts \"{at}/sources\";\nAPT::Sandbox::User \"root\";\n\
                 Acquire::Languages \"none\";\n"
            ),
        )?;
        let apt = Apt { folder: folder.to_path_buf() };
        apt.get(&["update"])?;
        Ok(apt)
    }

    /// Names of the packages and of all that they need.
    pub(crate) fn closure(&self, packages: &[&str]) -> Result<Vec<String>, String> {
        let mut arguments = vec!["-y", "--no-install-recommends", "--print-uris", "install"];
        arguments.extend(packages);
        // Lines of: quoted address, file name (package_version_architecture.deb), size, hash.
        let lines = self.get(&arguments)?;
        let names = lines.lines().filter_map(|line| {
            let (name, _version) = line.split_whitespace().nth(1)?.split_once('_')?;
            Some(name.to_owned())
        });
        Ok(names.collect())
    }

    /// Fetches these packages alone and unpacks them into `tree`.
    pub(crate) fn unpack(&self, packages: &[String], tree: &Path) -> Result<(), String> {
        let archives = self.folder.join("cache/archives");
        let mut arguments = vec!["download"];
        arguments.extend(packages.iter().map(String::as_str));
        self.get(&arguments)?;
        // Older packages put files into /lib, newer ones into /usr/lib: one folder, as on a system.
        for folder in ["bin", "sbin", "lib", "lib64"] {
            let inside = tree.join("usr").join(folder);
            fs::create_dir_all(&inside).map_err(|error| error.to_string())?;
            symlink(format!("usr/{folder}"), tree.join(folder))
                .map_err(|error| error.to_string())?;
        }
        let entries = fs::read_dir(&archives).map_err(|error| error.to_string())?;
        for entry in entries.flatten() {
            if entry.path().extension().is_some_and(|extension| extension == "deb") {
                let (archive, tree) = (entry.path().display().to_string(), tree.display());
                process::output(&["sh", "-c", EXTRACT, "sh", &archive, &tree.to_string()], None)?;
            }
        }
        Ok(())
    }

    /// Runs apt-get in the folder of the archives.
    fn get(&self, arguments: &[&str]) -> Result<String, String> {
        let archives = self.folder.join("cache/archives").display().to_string();
        let config = format!("APT_CONFIG={}/apt.conf", self.folder.display());
        let mut command = vec!["env", "-C", &archives, &config, "apt-get", "-qq"];
        command.extend(arguments);
        process::output(&command, None)
    }
}

/// Fetches a source package of a suite and unpacks its upstream archive into `into`; `folder` is for apt's state.
pub(crate) fn source(folder: &Path, suite: &str, package: &str, into: &Path) -> Result<(), String> {
    let state = folder.join("apt");
    let apt = Apt::update(&state, suite)?;
    let (mirror, keyring) = mirror()?;
    let list = format!("deb-src [signed-by={}] {mirror} {suite} main\n", keyring.display());
    fs::write(state.join("sources.list"), list).map_err(|error| error.to_string())?;
    apt.get(&["update"])?;
    apt.get(&["source", "--download-only", package])?;
    let archives = state.join("cache/archives");
    let entries = fs::read_dir(&archives).map_err(|error| error.to_string())?;
    let original = entries.flatten().map(|entry| entry.path()).find(|path| {
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        name.contains(".orig.tar.") && !name.ends_with(".asc")
    });
    let original = original.ok_or("no upstream archive arrived")?.display().to_string();
    fs::create_dir_all(into).map_err(|error| error.to_string())?;
    let into = into.display().to_string();
    process::output(&["tar", "-xf", &original, "-C", &into, "--strip-components=1"], None)?;
    fs::remove_dir_all(state).map_err(|error| error.to_string())
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

/// The tree's dynamic loader and its folder of libraries.
pub(crate) fn loader(tree: &Path) -> Result<(PathBuf, PathBuf), String> {
    let pairs = [
        ("usr/lib/x86_64-linux-gnu/ld-linux-x86-64.so.2", "usr/lib/x86_64-linux-gnu"),
        ("usr/lib/aarch64-linux-gnu/ld-linux-aarch64.so.1", "usr/lib/aarch64-linux-gnu"),
    ];
    let found = pairs.into_iter().find(|(loader, _)| tree.join(loader).is_file());
    found
        .map(|(loader, libraries)| (tree.join(loader), tree.join(libraries)))
        .ok_or("no loader in it".to_owned())
}

/// Replaces every program of `folder` by a script that starts it with the tree's loader.
///
/// The programs move to `hidden`, a folder beside it; they learn the script's path as their own name, by which
/// Postgres' programs find each other and their files. `at` is where `tree` will stand when it is used.
pub(crate) fn wrap(tree: &Path, at: &Path, folder: &str, hidden: &str) -> Result<(), String> {
    let (loader, libraries) = loader(tree)?;
    let moved = |path: &Path| {
        let relative = path.strip_prefix(tree).expect("the loader lies in the tree");
        at.join(relative).display().to_string()
    };
    let (loader, libraries) = (moved(&loader), moved(&libraries));
    let (programs, aside) = (tree.join(folder), tree.join(hidden));
    fs::create_dir_all(&aside).map_err(|error| error.to_string())?;
    let entries = fs::read_dir(&programs).map_err(|error| format!("{folder}: {error}"))?;
    for entry in entries.flatten() {
        let (path, name) = (entry.path(), entry.file_name().to_string_lossy().into_owned());
        let executable = entry.metadata().is_ok_and(|data| data.permissions().mode() & 0o111 != 0);
        let start = fs::read(&path).unwrap_or_default();
        if !executable || !start.starts_with(b"\x7FELF") {
            continue;
        }
        fs::rename(&path, aside.join(&name)).map_err(|error| error.to_string())?;
        let (shown, real) = (at.join(folder).join(&name), at.join(hidden).join(&name));
        let script = format!(
            "#!/bin/sh\nexec '{loader}' --library-path '{libraries}' --argv0 '{}' '{}' \"$@\"\n",
            shown.display(),
            real.display(),
        );
        fs::write(&path, script).map_err(|error| error.to_string())?;
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755))
            .map_err(|error| error.to_string())?;
    }
    Ok(())
}
