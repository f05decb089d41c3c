//! Where clients come in.
//!
//! Every core listens on every TCP address, and the kernel spreads connections over the cores. A unix
//! socket cannot be shared that way: core 0 accepts and deals connections out in turn.

use std::cell::Cell;
use std::rc::Rc;

use runtime::clock;
use runtime::executor::{self, JoinHandle};
use runtime::net::{Address, Detached, Keepalive, ListenOptions, Listener, Stream};

use crate::frontend;
use crate::limits::{LOGINS_FULL_PAUSE, LOGINS_MAX};
use crate::router::Router;
use crate::router::links::Message;
use crate::rules::Rules;
use crate::settings::listen::ListenAddress;

/// Listening sockets of one core; they close when this is dropped.
#[derive(Default)]
pub(crate) struct Listeners {
    tcp: Vec<JoinHandle<()>>,
    unix: Vec<JoinHandle<()>>,
    pub(crate) addresses: Vec<Address>,
}

impl Listeners {
    /// Opens this core's listeners.
    pub(crate) fn open(
        router: &Rc<Router>,
        addresses: &[ListenAddress],
    ) -> Result<Self, ListenError> {
        let settings = &router.rules().settings;
        let mut listeners = Listeners::default();
        for address in addresses {
            let (address, optional) = match address {
                ListenAddress::Tcp(address) => (Address::Tcp(*address), false),
                ListenAddress::TcpOptional(address) => (Address::Tcp(*address), true),
                ListenAddress::Unix(_) if router.core != 0 => continue,
                ListenAddress::Unix(path) => (Address::Unix(path.clone()), false),
            };
            let unix = matches!(address, Address::Unix(_));
            let options = ListenOptions {
                backlog: settings.listen_backlog,
                reuse_port: !unix && router.cores() > 1,
                unix_mode: unix.then_some(settings.unix_socket_mode),
                // Of our protocol's two sides the client speaks first.
                deferred: true,
            };
            match Listener::bind(&address, &options) {
                Ok(listener) => {
                    give_to_group(&address, settings.unix_socket_group.as_deref())
                        .map_err(|error| ListenError { address: address.clone(), error })?;
                    listeners.addresses.push(listener.local_address());
                    let router = Rc::clone(router);
                    let tasks = if unix { &mut listeners.unix } else { &mut listeners.tcp };
                    tasks.push(executor::spawn(accept(router, listener, unix)));
                }
                Err(error) if optional => {
                    tracing::debug!(%address, %error, "not listening");
                }
                Err(error) => return Err(ListenError { address, error }),
            }
        }
        Ok(listeners)
    }

    /// Takes no more connections.
    pub(crate) fn close(&mut self) {
        self.close_tcp();
        self.unix.drain(..).for_each(|task| task.abort());
    }

    /// The same, but for those of the unix socket: administrators still come in by it.
    pub(crate) fn close_tcp(&mut self) {
        self.tcp.drain(..).for_each(|task| task.abort());
    }
}

/// Gives a unix socket to `unix_socket_group`.
fn give_to_group(address: &Address, group: Option<&str>) -> std::io::Result<()> {
    let (Address::Unix(path), Some(group)) = (address, group) else { return Ok(()) };
    // In the abstract namespace nobody owns anything.
    if path.to_string_lossy().starts_with(['@', '\0']) {
        return Ok(());
    }
    let groups = runtime::fs::blocking::read_to_string("/etc/group").unwrap_or_default();
    let id = group_id(group, &groups).ok_or_else(|| {
        std::io::Error::other(format!("unix_socket_group: there is no group \"{group}\""))
    })?;
    runtime::fs::blocking::set_owner(path, runtime::identity::effective_uid(), id)
}

/// By number, or by name as `/etc/group` has it.
fn group_id(group: &str, groups: &str) -> Option<u32> {
    if let Ok(id) = group.parse() {
        return Some(id);
    }
    let mut lines = groups.lines().map(|line| line.split(':').collect::<Vec<_>>());
    lines.find(|fields| fields.first() == Some(&group))?.get(2)?.parse().ok()
}

impl Drop for Listeners {
    fn drop(&mut self) {
        self.close();
    }
}

/// An address that cannot be listened on.
#[derive(Debug)]
pub(crate) struct ListenError {
    address: Address,
    error: std::io::Error,
}

impl std::fmt::Display for ListenError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "could not listen on {}: {}", self.address, self.error)
    }
}

impl std::error::Error for ListenError {}

async fn accept(router: Rc<Router>, listener: Listener, spread: bool) {
    let turn = Cell::new(0_usize);
    let mut rules = router.rules();
    // A connection without probes still works; those accepted inherit them.
    let _refused = listener.set_keepalive(probes(&rules).as_ref());
    loop {
        let (stream, address) = match listener.accept().await {
            Ok(accepted) => accepted,
            Err(error) => {
                tracing::error!(%error, "listener is broken");
                return;
            }
        };
        router.until(|router| !router.is_suspended()).await;
        if router.rules().version != rules.version {
            rules = router.rules();
            let _refused = listener.set_keepalive(probes(&rules).as_ref());
            let _refused = stream.set_keepalive(probes(&rules).as_ref());
        }
        let core = if spread { turn.replace(turn.get() + 1) % router.cores() } else { router.core };
        if core == router.core {
            serve(&router, stream, address);
        } else if let Ok(detached) = stream.detach() {
            router.post(core, Message::Connection(detached, address));
        }
        while router.logins.get() >= LOGINS_MAX {
            clock::sleep(LOGINS_FULL_PAUSE).await;
        }
    }
}

/// How clients' connections are probed.
fn probes(rules: &Rules) -> Option<Keepalive> {
    let settings = &rules.settings;
    settings.tcp_keepalive.then(|| crate::backend::keepalive(settings))
}

/// Takes a connection that another core accepted.
pub(crate) fn attach(router: &Rc<Router>, detached: Detached, address: Address) {
    if let Ok(stream) = Stream::attach(detached) {
        serve(router, stream, address);
    }
}

fn serve(router: &Rc<Router>, stream: Stream, address: Address) {
    executor::spawn_detached(frontend::serve(Rc::clone(router), stream, address));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_group_is_known_by_name_or_number() {
        let groups = "root:x:0:\nweb:x:33:ann,bob\nbroken\n";
        assert_eq!(group_id("web", groups), Some(33));
        assert_eq!(group_id("1234", groups), Some(1234));
        assert_eq!(group_id("we", groups), None);
        assert_eq!(group_id("broken", groups), None);
    }
}
