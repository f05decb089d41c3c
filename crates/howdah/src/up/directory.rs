//! The folder of one Howdah: where it is, whose it is, and that nobody else uses it.

use std::path::{Path, PathBuf};

use runtime::fs::blocking as fs;
use runtime::identity::{User, is_root};

use crate::computes::mounted::availability;
use crate::computes::starter;
use crate::config::Config;
use crate::config::environment::Environment;
use crate::error::{Error, Result, While};
use crate::output;

/// Where root's Howdah lives unless it is told otherwise.
const OF_ROOT: &str = "/var/lib/howdah";
/// The account that it becomes then: PostgreSQL refuses to run as root.
const ACCOUNT: &str = "postgres";
/// Its configuration file, if it has one.
const CONFIG: &str = "howdah.toml";
const LOCK: &str = "howdah.lock";

/// The settings, what the file said, and which file that is.
type Configuration = (Config, toml::Table, Option<PathBuf>);

pub(super) struct Directory {
    path: PathBuf,
}

impl Directory {
    pub(super) fn choose(option: Option<&Path>, environment: &Environment) -> Result<Self> {
        let path = match (option, &environment.data_home) {
            (Some(path), _) => path.to_owned(),
            (None, _) if is_root() => PathBuf::from(OF_ROOT),
            (None, Some(home)) => home.join("howdah"),
            (None, None) => {
                return Err(Error::new("there is no home folder").hint("name a folder by --dir"));
            }
        };
        let path = std::path::absolute(&path).or_fail(format_args!("\"{}\"", path.display()))?;
        Ok(Self { path })
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Where computes are, unless the configuration says otherwise.
    pub(super) fn computes(&self) -> PathBuf {
        self.path.join("computes")
    }

    /// Makes the folder; as root hands it to the account, and becomes it. Leaves a process that stays root behind if that
    /// can mount: the path of its socket, or why there is none.
    pub(super) fn settle(&self, program: &Path) -> Result<std::result::Result<PathBuf, String>> {
        let shown = self.path.display();
        let missing: Vec<&Path> =
            self.path.ancestors().take_while(|path| !fs::exists(path)).collect();
        let hint = "choose another folder by --dir";
        let made = fs::create_dir_all(&self.path)
            .or_fail(format_args!("could not make folder \"{shown}\""));
        made.map_err(|error| error.hint(hint))?;
        if !is_root() {
            return Ok(Err("howdah up was not started as root".to_owned()));
        }
        let found = User::named(ACCOUNT).or_fail("could not read the accounts")?;
        let account = found.ok_or_else(|| {
            Error::new(format!("there is no user \"{ACCOUNT}\""))
                .detail("PostgreSQL does not run as root")
                .hint("install PostgreSQL (it makes the user), or start howdah as an ordinary user")
        })?;
        for path in missing.into_iter().chain([self.path.as_path()]) {
            let doing = format!("could not give \"{}\" to user {ACCOUNT}", path.display());
            fs::set_owner(path, account.uid, account.gid).or_fail(doing)?;
        }
        let starter = match availability() {
            Ok(()) => Ok(starter::launch(program, account.uid, &self.computes())?),
            Err(why) => Err(why),
        };
        account.assume().or_fail(format_args!("could not become user {ACCOUNT}"))?;
        output::note(format!("running as user {ACCOUNT}: PostgreSQL does not run as root"));
        Ok(starter)
    }

    /// The configuration, and its text: the named file; else the folder's own if there is one; else defaults.
    pub(super) fn configuration(&self, option: Option<&Path>) -> Result<Configuration> {
        let own = self.path.join(CONFIG);
        let path = match option {
            Some(path) => path.to_owned(),
            None if fs::exists(&own) => own,
            None => return Ok((Config::default(), toml::Table::new(), None)),
        };
        let config = Config::read(&path)?;
        let text = fs::read_to_string(&path)
            .or_fail(format_args!("could not read \"{}\"", path.display()))?;
        let said = text.parse().or_fail(format_args!("could not read \"{}\"", path.display()))?;
        Ok((config, said, Some(path)))
    }

    /// Refuses to run beside another Howdah on the same folder.
    pub(super) fn lock(&self) -> Result<fs::Lock> {
        let path = self.path.join(LOCK);
        let hint = "the folder must be writable; choose another by --dir";
        let taken =
            fs::Lock::take(&path).or_fail(format_args!("could not write \"{}\"", path.display()));
        let Some(lock) = taken.map_err(|error| error.hint(hint))? else {
            let pid = fs::read_to_string(&path).unwrap_or_default();
            return Err(Error::new(format!("another howdah runs on \"{}\"", self.path.display()))
                .detail(format!("its process id is {}", pid.trim()))
                .hint("stop it first, or choose another folder by --dir"));
        };
        lock.write(&format!("{}\n", std::process::id()))
            .or_fail(format_args!("could not write \"{}\"", path.display()))?;
        Ok(lock)
    }

    /// The folder of the unix socket: whoever may enter it may log in, so only we may (mode 0700).
    pub(super) fn make_run_folder(&self, run: &Path) -> Result<()> {
        fs::create_dir_all(run).or_fail(format_args!("could not make folder \"{}\"", run.display()))
    }
}
