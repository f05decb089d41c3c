//! What concerns the whole pooler: new rules for all cores, and the ways to stop.

use std::rc::Rc;
use std::sync::Arc;

use runtime::app::Stop;
use runtime::executor;
use runtime::nodepool::Control;
use rustls::crypto::CryptoProvider;

use crate::command::Command;
use crate::console::Shutdown;
use crate::orders;
use crate::resolver::Resolver;
use crate::router::Router;
use crate::rules::Rules;
use crate::settings::Settings;
use crate::settings::file::SettingsError;

/// Makes rules of this version: of these settings or, without, of those in the configuration file,
/// read again. It may block: it runs on a thread of its own.
pub type Load =
    dyn Fn(u64, Option<Settings>) -> Result<Rules, Vec<SettingsError>> + Send + Sync + 'static;

/// What the pooler is given by the process around it.
#[derive(Clone)]
pub struct PoolerOptions {
    /// Those to begin with.
    pub rules: Arc<Rules>,
    /// Where those of a reload come from.
    pub load: Arc<Load>,
    /// Knows where targets are; without one an `@` in a name means nothing.
    pub resolver: Option<Arc<Resolver>>,
    /// The target behind plain names: where the server of a database is whose entry names no host. `None`: such an
    /// entry means the unix socket on this machine, as it does for libpq.
    pub default_target: Option<String>,
    /// The cryptography of TLS.
    pub provider: Arc<CryptoProvider>,
}

/// Reads the rules again, or makes them of `settings`, and gives them to all cores.
pub(crate) async fn reload(
    router: &Rc<Router>,
    settings: Option<Settings>,
) -> Result<(), Vec<SettingsError>> {
    let load = Arc::clone(&router.options.load);
    let version = router.links.next_version(router.rules().version);
    let loaded = runtime::bridge::blocking(move || load(version, settings)).await;
    let failed = |message: String| {
        vec![SettingsError { file: "settings".to_owned(), line: None, key: None, message }]
    };
    let rules = loaded.map_err(|_gone| failed("the reload was broken off".to_owned()))??;
    crate::tls::TlsConfigs::load(&rules.settings, &router.options.provider)
        .map_err(|error| failed(error.to_string()))?;
    let command = Command::Reload { rules: Arc::new(rules) };
    orders::ask_all(router, &command).await;
    tracing::info!(version, "new settings are in force");
    Ok(())
}

/// The console's SHUTDOWN.
pub(crate) fn shutdown(router: &Rc<Router>, how: Shutdown) {
    let Some(control): Option<Control> = router.control.clone() else { return };
    match how {
        Shutdown::Immediate => control.stop(Stop::Now),
        Shutdown::After(what) => {
            let router = Rc::clone(router);
            executor::spawn_detached(async move {
                orders::ask_all(&router, &Command::Finish(what)).await;
                control.stop(Stop::Now);
            });
        }
    }
}
