//! The pooler as `howdah` runs it: from which file its rules come at start and on reload, and where it listens.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::{Arc, OnceLock};

use pooler::console::snapshot::Snapshot;
use pooler::resolver::Resolver;
use pooler::rules::Rules;
use pooler::settings::Settings;
use pooler::settings::file::SettingsError;
use pooler::{Links, Pooler, PoolerOptions};
use runtime::app::{App, Applet, Error as AppError, LocalFuture, Node, Stop};
use runtime::executor::{self, JoinHandle};
use runtime::fs::blocking as fs;
use runtime::mailbox::{self, Reply, Sender};

use crate::error::{Error, Result};
use crate::limits::POOLER_QUEUE_MAX;

/// Reads the pooler's settings again, for a reload; what `howdah up` fills in is filled in again.
pub type Reread = Arc<dyn Fn() -> std::result::Result<Settings, Vec<SettingsError>> + Send + Sync>;

/// Asks the pooler from anywhere in the process.
#[derive(Clone, Default)]
pub struct Handle {
    /// Set when it listens.
    addresses: Arc<OnceLock<Vec<String>>>,
    questions: Arc<OnceLock<Sender<Question>>>,
}

/// What the pooler can be asked and told.
enum Question {
    Snapshots(Reply<Vec<Snapshot>>),
    Targets(Reply<BTreeMap<String, u32>>),
    TargetLost(String, Reply<()>),
    ReleaseTarget(String, Reply<bool>),
}

impl Handle {
    /// The first address that it listens on, a TCP one if there is one; `None` before it has started.
    #[must_use]
    pub fn address(&self) -> Option<String> {
        self.addresses.get()?.first().cloned()
    }

    /// All of them.
    #[must_use]
    pub fn addresses(&self) -> Vec<String> {
        self.addresses.get().cloned().unwrap_or_default()
    }

    /// What all cores know of their pools; `None` if there is no pooler (yet).
    pub async fn snapshots(&self) -> Option<Vec<Snapshot>> {
        self.ask(Question::Snapshots).await
    }

    /// Targets (what is behind the `@`) that clients have asked for, each with how many clients it has; `None` if there
    /// is no pooler (yet).
    pub async fn targets(&self) -> Option<BTreeMap<String, u32>> {
        self.ask(Question::Targets).await
    }

    /// The server of this target is gone: clients wait for the next.
    pub async fn target_lost(&self, target: String) {
        // Without a pooler nobody has to know.
        let _told = self.ask(|reply| Question::TargetLost(target, reply)).await;
    }

    /// The server of this target is to be stopped; false if it has clients and must not.
    pub async fn release_target(&self, target: String) -> bool {
        self.ask(|reply| Question::ReleaseTarget(target, reply)).await.unwrap_or(true)
    }

    async fn ask<T: Send>(&self, question: impl FnOnce(Reply<T>) -> Question) -> Option<T> {
        let (reply, pending) = mailbox::oneshot();
        self.questions.get()?.try_send(question(reply)).ok()?;
        pending.await.ok()
    }
}

/// The cryptography of TLS: the library's choices, with AES-128 and SHA-256 first, which the server's order decides.
/// Most processors have instructions for SHA-256 and none for SHA-384, which is a tenth of a handshake.
fn cryptography() -> rustls::crypto::CryptoProvider {
    let mut provider = rustls::crypto::aws_lc_rs::default_provider();
    let first = rustls::CipherSuite::TLS13_AES_128_GCM_SHA256;
    provider.cipher_suites.sort_by_key(|suite| suite.suite() != first);
    provider
}

/// What leads the pooler to computes.
#[derive(Clone, Default)]
pub struct Targets {
    /// Knows where `shop@feature` is.
    pub resolver: Option<Arc<Resolver>>,
    /// What is meant by `shop`, if it is a compute, too.
    pub default: Option<String>,
}

/// The app, for `handle`; its settings and the files that they name are checked here.
pub fn app(settings: Settings, reread: Reread, targets: Targets, handle: &Handle) -> Result<App> {
    let rules = Rules::load(1, settings, &read).map_err(|errors| refused(&errors))?;
    let load = move |version: u64, replaced: Option<Settings>| {
        let settings = match replaced {
            Some(settings) => settings,
            None => reread()?,
        };
        Rules::load(version, settings, &read)
    };
    let options = PoolerOptions {
        rules: Arc::new(rules),
        load: Arc::new(load),
        resolver: targets.resolver,
        default_target: targets.default,
        provider: Arc::new(cryptography()),
    };
    let links = Links::new();
    let shared = handle.clone();
    let make = move |_node: &Node| Reachable {
        pooler: Rc::new(Pooler::new(options.clone(), Arc::clone(&links))),
        handle: shared.clone(),
        answering: RefCell::default(),
    };
    Ok(App::new("pooler", make))
}

/// The complaints of a configuration as one error.
#[must_use]
pub fn refused(errors: &[SettingsError]) -> Error {
    let mut errors = errors.iter().map(ToString::to_string);
    let first = errors.next().unwrap_or_else(|| "the settings are not valid".to_owned());
    let rest: Vec<String> = errors.collect();
    let error = Error::new(first);
    if rest.is_empty() { error } else { error.detail(format!("and {}", rest.join("; "))) }
}

fn read(path: &Path) -> std::io::Result<String> {
    fs::read_to_string(path)
}

/// A reader for settings that come from no file.
#[must_use]
pub fn always(settings: Settings) -> Reread {
    Arc::new(move || Ok(settings.clone()))
}

/// A reader of `[pooler]` in a `howdah.toml`, with what `fill` adds.
#[must_use]
pub fn from_toml(path: PathBuf, fill: impl Fn(&mut Settings) + Send + Sync + 'static) -> Reread {
    Arc::new(move || {
        let name = path.display().to_string();
        let text = read(&path).map_err(|error| vec![unreadable(&name, &error)])?;
        // The whole file must be valid, or the operator would learn of a mistake only at the next start.
        let _whole: crate::config::Config =
            pooler::settings::file::read_toml(&name, &text).map_err(|error| vec![error])?;
        let mut settings = pooler::settings::file::read_pooler(&name, &text)?;
        fill(&mut settings);
        Ok(settings)
    })
}

/// A reader of a `pgbouncer.ini`.
#[must_use]
pub fn from_ini(path: PathBuf) -> Reread {
    Arc::new(move || {
        let name = path.display().to_string();
        let text = read(&path).map_err(|error| vec![unreadable(&name, &error)])?;
        let ini = pooler::pgbouncer_ini::parse(&name, &text, &read)?;
        for warning in ini.warnings {
            tracing::warn!(target: "pooler", "{warning}");
        }
        Ok(ini.settings)
    })
}

fn unreadable(file: &str, error: &std::io::Error) -> SettingsError {
    SettingsError {
        file: file.to_owned(),
        line: None,
        key: None,
        message: format!("could not read: {error}"),
    }
}

/// A pooler that tells where it listens, and how it does.
struct Reachable {
    pooler: Rc<Pooler>,
    handle: Handle,
    answering: RefCell<Option<JoinHandle<()>>>,
}

impl Reachable {
    /// On the first core, once.
    fn answer(&self) {
        let addresses = self.pooler.addresses().iter().map(ToString::to_string).collect();
        let (sender, mut questions) = mailbox::channel(POOLER_QUEUE_MAX);
        if self.handle.addresses.set(addresses).is_err()
            || self.handle.questions.set(sender).is_err()
        {
            return;
        }
        let pooler = Rc::clone(&self.pooler);
        let answering = executor::spawn(async move {
            while let Some(question) = questions.recv().await {
                // Who asked may have gone away meanwhile.
                match question {
                    Question::Snapshots(reply) => drop(reply.send(pooler.snapshots().await)),
                    Question::Targets(reply) => drop(reply.send(pooler.targets().await)),
                    Question::TargetLost(target, reply) => {
                        pooler.target_lost(&target).await;
                        drop(reply.send(()));
                    }
                    Question::ReleaseTarget(target, reply) => {
                        drop(reply.send(pooler.release_target(&target).await));
                    }
                }
            }
        });
        *self.answering.borrow_mut() = Some(answering);
    }
}

impl Applet for Reachable {
    fn name(&self) -> &'static str {
        self.pooler.name()
    }

    fn start<'a>(&'a self, node: &'a Node) -> LocalFuture<'a, std::result::Result<(), AppError>> {
        Box::pin(async {
            self.pooler.start(node).await?;
            if node.index == 0 {
                self.answer();
            }
            Ok(())
        })
    }

    fn stop<'a>(&'a self, how: Stop) -> LocalFuture<'a, ()> {
        Box::pin(async move {
            if let Some(answering) = self.answering.take() {
                answering.abort();
            }
            self.pooler.stop(how).await;
        })
    }
}
